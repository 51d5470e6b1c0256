//! Placements: of units that have none, of units whose daemon is not up, and of units that are not where they belong.
//!
//! | act | who | which units | how many at once |
//! |---|---|---|---|
//! | [`place_unplaced`] | anybody | those without a placement | [`PLACED_PER_STEP_MAX`] |
//! | [`failover`] | the leader | those of daemons that are not up | [`PLACED_PER_STEP_MAX`] |
//! | [`rebalance`] | the leader | those that belong elsewhere, damped | [`REBALANCED_PER_STEP_MAX`] |

use std::time::Duration;

use super::leader::leads;
use super::{Change, Draft, Refusal};
use crate::flag::Flag;
use crate::id::{DaemonId, LuId};
use crate::increment::Origin;
use crate::map::LusMap;
use crate::model::{BASE_WRITER, Backend, DaemonInstance, Placement, PlacementReason};
use crate::placement::Takers;

/// Placements written in one step at most: with the other keys of a registration they stay below
/// [`CHANGES_MAX`](crate::increment::CHANGES_MAX). What is left takes another step.
pub const PLACED_PER_STEP_MAX: usize = 2048;
/// Units that are brought to where they belong in one step.
pub const REBALANCED_PER_STEP_MAX: usize = 8;
/// How long after such a step the next one may be made.
pub const REBALANCE_PAUSE: Duration = Duration::from_secs(5);
/// How long a daemon must be up before units come to it by themselves.
pub const FAILBACK_UP: Duration = Duration::from_secs(60);

pub(super) fn place(draft: &mut Draft<'_>, lu: LuId, owner: &DaemonId, reason: PlacementReason) {
    let (since, moved) = (draft.epoch(), draft.when());
    let owner = owner.clone();
    draft.put(&Placement {
        min_writer: BASE_WRITER,
        lu,
        owner,
        since,
        reason,
        pinned: false,
        pin: None,
        moved,
    });
}

/// Gives a unit another owner; its pin stays.
pub(super) fn replace(draft: &mut Draft<'_>, from: &Placement, to: &DaemonId, reason: PlacementReason) {
    let (since, moved) = (draft.epoch(), draft.when());
    draft.put(&Placement { owner: to.clone(), since, reason, moved, ..from.clone() });
}

/// Places up to [`PLACED_PER_STEP_MAX`] units that have no placement on daemons that are up and in; repeat it until
/// [`LusMap::unplaced`] is empty.
///
/// # Errors
/// [`Refusal::TooOld`] for a map of a newer program.
pub fn place_unplaced(map: &LusMap, origin: &Origin) -> Result<Change, Refusal> {
    let mut draft = Draft::new(map, origin);
    for lu in map.unplaced().take(PLACED_PER_STEP_MAX) {
        let Some(owner) = map.choose_owner(lu) else { break };
        place(&mut draft, *lu, owner, PlacementReason::Registered);
    }
    match draft.len() {
        0 => Ok(Change::Already { said: "nothing to place".to_owned() }),
        units => {
            let units = super::units(units);
            draft.finish(format!("place {units}"), format!("placed {units}"))
        }
    }
}

/// Moves the units of `from` that `takers` can have, up to [`PLACED_PER_STEP_MAX`]; how many.
pub(super) fn evacuate(
    map: &LusMap,
    draft: &mut Draft<'_>,
    from: impl Fn(&DaemonId) -> bool,
    takers: &Takers<'_>,
    reason: PlacementReason,
) -> usize {
    let units = map.placements().filter(|placement| from(&placement.owner)).take(PLACED_PER_STEP_MAX);
    let mut moved = 0;
    for placement in units {
        let Some(owner) = takers.wanted(&placement.lu, placement.pin.as_ref()) else { break };
        replace(draft, placement, owner, reason);
        moved += 1;
    }
    moved
}

/// The leader's: gives units whose daemon is not up to daemons that are up and in, [`PLACED_PER_STEP_MAX`] at most;
/// repeat it until there is nothing to do. What [`declare_down`](super::daemon::declare_down) left, what a daemon
/// that ended left, and what waited for the first daemon to come. Nothing under `nofailover`.
///
/// # Errors
/// [`Refusal::NotLeader`].
pub fn failover(map: &LusMap, origin: &Origin) -> Result<Change, Refusal> {
    leads(map, origin)?;
    if map.is_set(Flag::NoFailover) {
        return Ok(Change::Already { said: "nofailover is set".to_owned() });
    }
    let mut draft = Draft::new(map, origin);
    let not_up = |id: &DaemonId| !map.daemon(id).is_some_and(|daemon| daemon.state.is_up());
    match evacuate(map, &mut draft, not_up, &Takers::of(map), PlacementReason::Failover) {
        0 => Ok(Change::Already { said: "nothing to fail over".to_owned() }),
        units => {
            let units = super::units(units);
            draft.finish(format!("failover of {units}"), format!("failover of {units}"))
        }
    }
}

/// The leader's: brings up to [`REBALANCED_PER_STEP_MAX`] units to where they belong, their pin or the choice of the map,
/// by `origin.when`. Damped: not within [`REBALANCE_PAUSE`] of the last ones, not to a daemon that is up for less than
/// [`FAILBACK_UP`] or flaps, nothing under `nomove`. What an administrator moved stays while its owner may have units; and a unit of
/// nothing but its owner's memory stays while that is up, wherever it belongs.
///
/// # Errors
/// [`Refusal::NotLeader`].
pub fn rebalance(map: &LusMap, origin: &Origin) -> Result<Change, Refusal> {
    leads(map, origin)?;
    if map.is_set(Flag::NoMove) {
        return Ok(Change::Already { said: "nomove is set".to_owned() });
    }
    let recent = |placement: &Placement| {
        placement.reason == PlacementReason::Rebalanced
            && placement.moved.distance(origin.when) < REBALANCE_PAUSE
    };
    if map.placements().any(recent) {
        return Ok(Change::Already { said: "logical units were moved a moment ago".to_owned() });
    }
    let takers = Takers::of(map);
    let settled = |id: &DaemonId| map.daemon(id).is_some_and(|daemon| is_settled(map, daemon, origin));
    let moves = map.placements().filter_map(|placement| {
        let wanted = misplaced(map, placement, &takers)?;
        settled(wanted).then_some((placement, wanted))
    });
    let mut draft = Draft::new(map, origin);
    for (placement, wanted) in moves.take(REBALANCED_PER_STEP_MAX) {
        replace(&mut draft, placement, wanted, PlacementReason::Rebalanced);
    }
    match draft.len() {
        0 => Ok(Change::Already { said: "nothing to move".to_owned() }),
        units => {
            let units = super::units(units);
            draft.finish(format!("rebalance {units}"), format!("rebalance of {units}"))
        }
    }
}

/// Where a unit belongs, if it is elsewhere on a daemon that is up.
fn misplaced<'a>(map: &LusMap, placement: &'a Placement, takers: &Takers<'a>) -> Option<&'a DaemonId> {
    let owner = map.daemon(&placement.owner).filter(|owner| owner.state.is_up())?;
    if matches!(map.lu(&placement.lu)?.backend, Backend::Ram { .. }) {
        return None;
    }
    let stays = placement.reason == PlacementReason::Moved && placement.pin.is_none() && owner.takes_units();
    if stays {
        return None;
    }
    takers.wanted(&placement.lu, placement.pin.as_ref()).filter(|wanted| **wanted != placement.owner)
}

/// Whether units may come to a daemon by themselves.
fn is_settled(map: &LusMap, daemon: &DaemonInstance, origin: &Origin) -> bool {
    let up_long = daemon.registered.distance(origin.when) >= FAILBACK_UP;
    let held_back = daemon.is_flapping(origin.when) && !map.is_set(Flag::NoOut);
    up_long && !held_back
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::change::daemon;
    use crate::increment::CHANGES_MAX;
    use crate::testing::{START, id, led_by, map_of, origin, start, then, with_units};
    use crate::time::Timestamp;

    fn counts(map: &LusMap) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        map.placements().for_each(|p| *counts.entry(p.owner.as_str()).or_insert(0) += 1);
        counts
    }

    /// As the leader, at some milliseconds; the number of units that moved.
    fn balance(map: &mut LusMap, ms: u64) -> usize {
        let origin =
            origin(map.epoch().next(), Timestamp(START.0 + ms * 1000)).leading(map.meta().leader_term);
        match rebalance(map, &origin).unwrap() {
            Change::Already { .. } => 0,
            Change::Make { increment, .. } => {
                *map = map.apply(&increment).unwrap();
                increment.changes.len()
            }
        }
    }

    #[test]
    fn units_go_back_a_few_at_a_time() {
        let mut map = with_units(&led_by(&map_of(&["a"]), "a"), 60);
        map = crate::testing::registered(&map, "b", crate::testing::addr("b"));
        assert_eq!(balance(&mut map, 59_999), 0, "not up for long enough");
        let mut steps = Vec::new();
        for ms in (60_000..120_000).step_by(500) {
            let moved = balance(&mut map, ms);
            if moved > 0 {
                steps.push((ms, moved));
            }
        }
        assert!(
            steps[..steps.len() - 1].iter().all(|(_, moved)| *moved == REBALANCED_PER_STEP_MAX),
            "{steps:?}"
        );
        assert!(steps.windows(2).all(|pair| pair[1].0 - pair[0].0 == 5_000), "{steps:?}");
        let wanted = |p: &Placement| *map.wanted_owner(p).unwrap() == p.owner;
        assert!(map.placements().all(wanted), "each is where it belongs");
        assert!((20..40).contains(&counts(&map)["b"]), "{:?}", counts(&map));
    }

    #[test]
    fn a_failover_takes_as_many_steps_as_it_needs() {
        // More units than go into one step, on the daemon that dies.
        let map = led_by(&map_of(&["a", "b", "c"]), "a");
        let mut raw: Vec<(String, Vec<u8>)> =
            map.raw_entries().map(|(key, raw)| (key.to_string(), raw.to_vec())).collect();
        let one = with_units(&map, 1);
        let (lu, place) = (one.lus().next().unwrap(), one.placements().next().unwrap());
        let count = PLACED_PER_STEP_MAX * 2 + 10;
        for n in 0..count as u128 {
            use crate::wire::Entity;
            let name = format!("v{n}").parse().unwrap();
            let mut lu = lu.clone();
            (lu.id, lu.serial) = (LuId(uuid::Uuid::from_u128(n)), n.to_string());
            lu.backend = Backend::Null { name, size_bytes: 4096 };
            let place = Placement { lu: lu.id, owner: id("b"), since: map.epoch(), ..place.clone() };
            raw.push((lu.omap_key().to_string(), lu.to_bytes()));
            raw.push((place.omap_key().to_string(), place.to_bytes()));
        }
        let entries = raw.iter().map(|(key, raw)| (key.as_str(), &raw[..]));
        let map = LusMap::decode(map.epoch(), map.modified(), entries).unwrap();
        let map = crate::testing::without(&map, "b");
        assert_eq!(counts(&map)["b"], count - PLACED_PER_STEP_MAX);
        const { assert!(PLACED_PER_STEP_MAX + 256 < CHANGES_MAX) };
        let map = then(&map, 0, failover);
        let map = then(&map, 0, failover);
        assert_eq!(counts(&map).get("b"), None);
        assert!(counts(&map).values().all(|units| *units > count / 3), "{:?}", counts(&map));
        // A drain as well.
        let mut map = map;
        let mut steps = 0;
        while counts(&map).contains_key("c") {
            map = then(&map, 0, |map, origin| daemon::drain(map, origin, &id("c")));
            steps += 1;
        }
        assert_eq!(steps, 2);
        let start = start(&map, "a");
        let left = then(&map, 0, |map, origin| daemon::leave(map, origin, (&start.id, start.up_from)));
        assert_eq!(counts(&left)["a"], count, "nobody else may have them");
    }
}
