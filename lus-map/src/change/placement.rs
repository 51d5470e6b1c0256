//! Placements of units that have none. Nothing here moves a unit that has one.

use super::{Change, Draft, Refusal};
use crate::id::{DaemonId, LuId};
use crate::increment::Origin;
use crate::map::LusMap;
use crate::model::{Placement, PlacementReason, WRITER};

/// Placements written in one step at most: with the other keys of a registration they stay below
/// [`CHANGES_MAX`](crate::increment::CHANGES_MAX). What is left takes another step.
pub const PLACED_PER_STEP_MAX: usize = 2048;

pub(super) fn place(draft: &mut Draft<'_>, lu: LuId, owner: &DaemonId, reason: PlacementReason) {
    let since = draft.epoch();
    draft.put(&Placement { min_writer: WRITER, lu, owner: owner.clone(), since, reason, pinned: false });
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
            draft.finish(format!("place {units} logical units"), format!("placed {units} logical units"))
        }
    }
}
