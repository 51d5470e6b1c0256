//! Who has units and who has not: verdicts of the leader, and `lus daemon in|out|drain|rm`.

use std::collections::BTreeSet;

use super::current_up;
use crate::change::leader::{leads, withdraw};
use crate::change::placement::{PLACED_PER_STEP_MAX, evacuate};
use crate::change::{Change, Draft, Refusal, units};
use crate::flag::Flag;
use crate::id::{DaemonId, Epoch};
use crate::increment::Origin;
use crate::judge::Verdict;
use crate::key::Key;
use crate::map::LusMap;
use crate::model::{DaemonInstance, InstanceState, PlacementReason};
use crate::placement::Takers;

/// The leader's: declares starts down, and gives their units to daemons that are up and in, if there are any,
/// [`PLACED_PER_STEP_MAX`] in this step; [`failover`](crate::change::placement::failover) has the rest. Their clients stay
/// on record until they are fenced. A verdict on a start that is gone or not up says nothing new, and none on the leader
/// itself counts: so one daemon is left, whatever is judged.
///
/// # Errors
/// [`Refusal::NotLeader`]; [`Refusal::FlagSet`] under `nofailover`.
pub fn declare_down(map: &LusMap, origin: &Origin, verdicts: &[Verdict]) -> Result<Change, Refusal> {
    let leader = leads(map, origin)?.instance();
    if map.is_set(Flag::NoFailover) {
        return Err(Refusal::FlagSet(Flag::NoFailover));
    }
    let judged: Vec<(&DaemonInstance, &Verdict)> = verdicts
        .iter()
        .filter_map(|verdict| Some((map.instance(&verdict.daemon, verdict.up_from)?, verdict)))
        .filter(|(instance, _)| instance.state.is_up() && instance.key() != leader)
        .collect();
    if judged.is_empty() {
        return Ok(Change::Already { said: "nobody who is up is declared down".to_owned() });
    }
    let down: BTreeSet<&DaemonId> = judged.iter().map(|(instance, _)| &instance.id).collect();
    let mut draft = Draft::new(map, origin);
    for (instance, _) in &judged {
        let mut instance = (*instance).clone();
        instance.state = InstanceState::Down { down_at: draft.epoch() };
        instance.note_down(origin.when);
        draft.put(&instance);
    }
    let takers = Takers::of_others(map, |id| down.contains(id));
    let moved = evacuate(map, &mut draft, |id| down.contains(id), &takers, PlacementReason::Failover);
    let words: Vec<String> = judged.iter().map(|(_, verdict)| verdict.to_string()).collect();
    let names: Vec<String> = down.iter().map(|id| format!("lus.{id}")).collect();
    draft.finish(
        format!("down {}", words.join("; ")),
        format!("{} down, failover of {}", names.join(" "), units(moved)),
    )
}

/// Declares a start down, and leaves its units with it: in a map that has no leader.
///
/// # Errors
/// [`Refusal::TooOld`] for a map of a newer program.
pub fn mark_down(
    map: &LusMap,
    origin: &Origin,
    (id, up_from): (&DaemonId, Epoch),
    reason: &str,
) -> Result<Change, Refusal> {
    let said = format!("lus.{id} up_from {up_from} is down");
    let Some(instance) = map.instance(id, up_from).filter(|instance| instance.state.is_up()) else {
        return Ok(Change::Already { said });
    };
    let mut instance = instance.clone();
    let mut draft = Draft::new(map, origin);
    instance.state = InstanceState::Down { down_at: draft.epoch() };
    instance.note_down(origin.when);
    draft.put(&instance);
    draft.finish(format!("down lus.{id} up_from {up_from}: {reason}"), said)
}

fn known<'a>(map: &'a LusMap, id: &DaemonId) -> Result<&'a DaemonInstance, Refusal> {
    map.daemon(id).ok_or_else(|| Refusal::NoSuchDaemon(id.clone()))
}

fn put_out(map: &LusMap, draft: &mut Draft<'_>, id: &DaemonId, out: bool) -> Result<(), Refusal> {
    let mut instance = known(map, id)?.clone();
    instance.out = out;
    draft.put(&instance);
    Ok(())
}

/// Lets a daemon have units; they come by and by.
///
/// # Errors
/// [`Refusal::NoSuchDaemon`].
pub fn set_in(map: &LusMap, origin: &Origin, id: &DaemonId) -> Result<Change, Refusal> {
    let mut draft = Draft::new(map, origin);
    put_out(map, &mut draft, id, false)?;
    draft.finish(format!("daemon in lus.{id}"), format!("lus.{id} is in"))
}

/// Keeps a daemon from getting units; those that it has leave it by and by.
///
/// # Errors
/// [`Refusal::NoSuchDaemon`].
pub fn set_out(map: &LusMap, origin: &Origin, id: &DaemonId) -> Result<Change, Refusal> {
    let mut draft = Draft::new(map, origin);
    put_out(map, &mut draft, id, true)?;
    draft.finish(format!("daemon out lus.{id}"), format!("lus.{id} is out"))
}

/// Puts a daemon out, and gives all its units to others at once, [`PLACED_PER_STEP_MAX`] in a step: repeat it until there
/// is nothing to do.
///
/// # Errors
/// [`Refusal::NoSuchDaemon`], [`Refusal::NoOtherDaemon`] if it has units and no other daemon is up and in.
pub fn drain(map: &LusMap, origin: &Origin, id: &DaemonId) -> Result<Change, Refusal> {
    let mut draft = Draft::new(map, origin);
    put_out(map, &mut draft, id, true)?;
    let moved = send_away(map, &mut draft, id)?;
    draft.finish(format!("daemon drain lus.{id}"), drained(id, moved))
}

/// A daemon's own: it is about to end. It gets no more units, and those that it has go to others at once,
/// [`PLACED_PER_STEP_MAX`] in a step: repeat it until there is nothing to do. If no other daemon is up and in they stay,
/// for its next start. Its next start is in again.
///
/// # Errors
/// [`Refusal::Superseded`], [`Refusal::NotUp`].
pub fn leave(map: &LusMap, origin: &Origin, (id, up_from): (&DaemonId, Epoch)) -> Result<Change, Refusal> {
    let mut instance = current_up(map, id, up_from)?.clone();
    instance.leaving = true;
    let mut draft = Draft::new(map, origin);
    draft.put(&instance);
    let moved = match send_away(map, &mut draft, id) {
        Err(Refusal::NoOtherDaemon { .. }) => 0,
        moved => moved?,
    };
    draft.finish(format!("lus.{id} leaves"), drained(id, moved))
}

fn send_away(map: &LusMap, draft: &mut Draft<'_>, id: &DaemonId) -> Result<usize, Refusal> {
    let takers = Takers::of_others(map, |other| other == id);
    let moved = evacuate(map, draft, |owner| owner == id, &takers, PlacementReason::Drained);
    let units = map.placements().filter(|placement| placement.owner == *id).count();
    if moved == 0 && units > 0 {
        return Err(Refusal::NoOtherDaemon { id: id.clone(), units });
    }
    Ok(moved)
}

fn drained(id: &DaemonId, moved: usize) -> String {
    match moved {
        0 => format!("lus.{id} is to have no logical units"),
        moved => format!("lus.{id} hands {} over", units(moved)),
    }
}

/// Forgets a daemon that is not up: its tag, its weight, its pins. Units that it has go to others, or wait without
/// a placement for the next daemon. With `force`, also one whose clients are not known to be fenced: records of units may
/// name them, and whoever takes such a unit fences them then.
///
/// # Errors
/// [`Refusal::NoSuchDaemon`], [`Refusal::DaemonUp`], [`Refusal::Unfenced`] without `force`, [`Refusal::TooMany`] if
/// more units are placed on or pinned to it than one step can move.
pub fn rm(map: &LusMap, origin: &Origin, id: &DaemonId, force: bool) -> Result<Change, Refusal> {
    let daemon = known(map, id)?;
    if daemon.state.is_up() {
        return Err(Refusal::DaemonUp(id.clone()));
    }
    let clients = map.instances(id).map(|instance| instance.unfenced().count()).sum();
    if clients > 0 && !force {
        return Err(Refusal::Unfenced { id: id.clone(), clients });
    }
    let takers = Takers::of_others(map, |other| other == id);
    let mut draft = Draft::new(map, origin);
    for instance in map.instances(id) {
        draft.remove(Key::Daemon(instance.key()));
        withdraw(map, &mut draft, &instance.key());
    }
    let concerned = map.placements().filter(|p| p.owner == *id || p.pin.as_ref() == Some(id));
    for (n, placement) in concerned.enumerate() {
        if n >= PLACED_PER_STEP_MAX {
            return Err(Refusal::TooMany { what: "logical units on one daemon", limit: PLACED_PER_STEP_MAX });
        }
        let mut next = placement.clone();
        next.pin.take_if(|pin| pin == id);
        next.pinned = next.pin.is_some();
        if placement.owner == *id {
            let Some(owner) = takers.wanted(&placement.lu, next.pin.as_ref()) else {
                draft.remove(Key::Place(placement.lu));
                continue;
            };
            next = crate::model::Placement {
                owner: owner.clone(),
                since: draft.epoch(),
                reason: PlacementReason::Drained,
                moved: origin.when,
                ..next
            };
        }
        draft.put(&next);
    }
    draft.finish(format!("daemon rm lus.{id}"), format!("lus.{id} removed"))
}
