//! Where an administrator wants a unit: `lus lu move|pin|unpin`.

use crate::change::placement::{place, replace};
use crate::change::{Change, Draft, Refusal};
use crate::id::{DaemonId, LuName};
use crate::increment::Origin;
use crate::map::LusMap;
use crate::model::{DaemonInstance, Lu, Placement, PlacementReason};

fn unit<'a>(map: &'a LusMap, name: &LuName) -> Result<&'a Lu, Refusal> {
    map.lu_named(name).ok_or_else(|| Refusal::NoSuchLu(name.clone()))
}

fn daemon<'a>(map: &'a LusMap, id: &DaemonId) -> Result<&'a DaemonInstance, Refusal> {
    map.daemon(id).ok_or_else(|| Refusal::NoSuchDaemon(id.clone()))
}

/// Gives a unit to `to`, where it stays while that daemon may have units.
///
/// # Errors
/// [`Refusal::NoSuchLu`], [`Refusal::NoSuchDaemon`], [`Refusal::DaemonNotUp`], [`Refusal::DaemonOut`],
/// [`Refusal::Pinned`] if it is pinned elsewhere.
pub fn move_to(map: &LusMap, origin: &Origin, name: &LuName, to: &DaemonId) -> Result<Change, Refusal> {
    let lu = unit(map, name)?;
    let target = daemon(map, to)?;
    if !target.state.is_up() {
        return Err(Refusal::DaemonNotUp(to.clone()));
    }
    if !target.takes_units() {
        return Err(Refusal::DaemonOut(to.clone()));
    }
    let mut draft = Draft::new(map, origin);
    match map.placement(&lu.id) {
        None => place(&mut draft, lu.id, to, PlacementReason::Moved),
        Some(Placement { pin: Some(pin), .. }) if pin != to => {
            return Err(Refusal::Pinned { lu: name.clone(), pin: pin.clone() });
        }
        // What would leave by itself is told to stay.
        Some(at) if at.owner == *to => {
            let reason = if at.pin.is_some() { at.reason } else { PlacementReason::Moved };
            draft.put(&Placement { reason, ..at.clone() });
        }
        Some(at) => replace(&mut draft, at, to, PlacementReason::Moved),
    }
    draft.finish(format!("lu move {name} lus.{to}"), format!("logical unit '{name}' goes to lus.{to}"))
}

/// Pins a unit to `to`, or to where it is: it goes there at once if that daemon may have units, and by itself whenever it
/// may again.
///
/// # Errors
/// [`Refusal::NoSuchLu`], [`Refusal::NoSuchDaemon`]; [`Refusal::NotPlaced`] if no daemon is named and it has none.
pub fn pin(map: &LusMap, origin: &Origin, name: &LuName, to: Option<&DaemonId>) -> Result<Change, Refusal> {
    let lu = unit(map, name)?;
    let at = map.placement(&lu.id);
    let to = to.or(at.map(|at| &at.owner)).ok_or_else(|| Refusal::NotPlaced(name.clone()))?;
    let takes = daemon(map, to)?.takes_units();
    let mut draft = Draft::new(map, origin);
    let (since, moved) = (draft.epoch(), origin.when);
    let (pin, pinned) = (Some(to.clone()), true);
    let reason = PlacementReason::Pinned;
    draft.put(&match at {
        Some(at) if at.owner == *to || !takes => Placement { pin, pinned, ..at.clone() },
        Some(at) => Placement { owner: to.clone(), since, reason, moved, pin, pinned, ..at.clone() },
        None => {
            let min_writer = crate::model::WRITER;
            Placement { min_writer, lu: lu.id, owner: to.clone(), since, reason, pinned, pin, moved }
        }
    });
    draft.finish(format!("lu pin {name} lus.{to}"), format!("logical unit '{name}' is pinned to lus.{to}"))
}

/// Takes a unit's pin away; it stays until it belongs elsewhere.
///
/// # Errors
/// [`Refusal::NoSuchLu`].
pub fn unpin(map: &LusMap, origin: &Origin, name: &LuName) -> Result<Change, Refusal> {
    let lu = unit(map, name)?;
    let mut draft = Draft::new(map, origin);
    if let Some(at) = map.placement(&lu.id) {
        draft.put(&Placement { pin: None, pinned: false, ..at.clone() });
    }
    draft.finish(format!("lu unpin {name}"), format!("logical unit '{name}' is not pinned"))
}
