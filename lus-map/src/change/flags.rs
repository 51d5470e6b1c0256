//! Flags: `lus set|unset`.

use super::{Change, Draft, Refusal};
use crate::flag::Flag;
use crate::increment::Origin;
use crate::map::LusMap;

/// Sets a flag.
///
/// # Errors
/// [`Refusal::TooOld`] for a map of a newer program.
pub fn set(map: &LusMap, origin: &Origin, flag: Flag) -> Result<Change, Refusal> {
    change(map, origin, flag, true)
}

/// Unsets a flag.
///
/// # Errors
/// [`Refusal::TooOld`] for a map of a newer program.
pub fn unset(map: &LusMap, origin: &Origin, flag: Flag) -> Result<Change, Refusal> {
    change(map, origin, flag, false)
}

fn change(map: &LusMap, origin: &Origin, flag: Flag, set: bool) -> Result<Change, Refusal> {
    let mut meta = map.meta().clone();
    let word = if set { "set" } else { "unset" };
    let changes = if set { meta.flags.insert(flag.to_string()) } else { meta.flags.remove(flag.as_str()) };
    if !changes {
        return Ok(Change::Already { said: format!("{flag} is {word}") });
    }
    let mut draft = Draft::new(map, origin);
    draft.put(&meta);
    draft.finish(format!("{word} {flag}"), format!("{flag} is {word}"))
}
