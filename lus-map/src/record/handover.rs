//! Who may take a unit when: the rule between the map, which says who should own it, and the record, which says who holds
//! it.

use std::time::Duration;

use super::{Holder, LuRecord, LuState};
use crate::map::LusMap;

/// How long the wanted owner waits for a holder that lives to let go: a drain, a release, and what a slow OSD takes. Then
/// the holder is fenced.
pub const MOVE_PATIENCE: Duration = Duration::from_secs(30);

/// What the wanted owner of a unit has to do with its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handover {
    /// Nobody holds it: [`claim`](LuRecord::claim).
    Claim,
    /// I hold it, through this very client; where it is moving away, [`cancel_move`](LuRecord::cancel_move).
    Ours,
    /// A daemon that is up holds it and has to let go first.
    WaitForRelease {
        /// Which.
        holder: Holder,
    },
    /// Its holder is over, or had its time: fence that client, then [`take_over`](LuRecord::take_over).
    FenceAndTake {
        /// Which.
        holder: Holder,
    },
}

/// What `me`, whom the map wants to own the unit, has to do with its record, after it has waited for `waited` for this
/// holder. A holder is waited for if its start is up in the map; one that is down, ended, superseded or gone from the map
/// is fenced, and so is one that says itself that it lost the unit, an older client of my own, and one that does not let
/// go within [`MOVE_PATIENCE`].
pub fn handover(record: &LuRecord, map: &LusMap, me: &Holder, waited: Duration) -> Handover {
    let Some(holder) = record.state.holder() else { return Handover::Claim };
    let lost = matches!(record.state, LuState::Lost { .. });
    if holder == me && !lost {
        return Handover::Ours;
    }
    let mine = holder.daemon == me.daemon && holder.up_from == me.up_from;
    let up = map.instance(&holder.daemon, holder.up_from).is_some_and(|daemon| daemon.state.is_up());
    let holder = holder.clone();
    if up && !mine && !lost && waited < MOVE_PATIENCE {
        Handover::WaitForRelease { holder }
    } else {
        Handover::FenceAndTake { holder }
    }
}

#[cfg(test)]
mod tests;
