//! Fences that no daemon's record shows: they are told by the increment alone.

use crate::change::{Change, Refusal, truncate};
use crate::id::ClientAddr;
use crate::increment::{Increment, Origin};
use crate::map::LusMap;

const WORD: &str = "fence ";

/// Notes in the history that a RADOS client is on the blocklist, and why. Nothing of the map changes but its epoch.
///
/// # Errors
/// None today; an intent gives a [`Refusal`].
pub fn note(map: &LusMap, origin: &Origin, addr: &ClientAddr, reason: &str) -> Result<Change, Refusal> {
    let mut why = format!("{WORD}{addr}: {reason}");
    truncate(&mut why);
    let mut origin = origin.clone();
    truncate(&mut origin.who);
    let increment = Increment { epoch: map.epoch().next(), why, origin, changes: Vec::new() };
    Ok(Change::Make { increment, said: format!("noted that {addr} is fenced") })
}

/// The client and the reason that an increment notes.
pub(crate) fn noted(increment: &Increment) -> Option<(ClientAddr, String)> {
    if !increment.changes.is_empty() {
        return None;
    }
    let (addr, reason) = increment.why.strip_prefix(WORD)?.split_once(": ")?;
    Some((addr.parse().ok()?, reason.to_owned()))
}
