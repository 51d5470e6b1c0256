//! Targets: `lus target create|rm`.

use super::{Change, Draft, Refusal};
use crate::id::Iqn;
use crate::increment::Origin;
use crate::key::Key;
use crate::map::LusMap;
use crate::model::{BASE_WRITER, Target};

/// Targets at most: each is a line in a SendTargets answer of an initiator that may see all.
pub const TARGETS_MAX: usize = 4096;

/// Creates a target. With `open`, any initiator may log in, without authentication.
///
/// # Errors
/// [`Refusal::TargetDiffers`] if it exists and `open` is other, [`Refusal::TooMany`].
pub fn create(map: &LusMap, origin: &Origin, iqn: &Iqn, open: bool) -> Result<Change, Refusal> {
    if let Some(target) = map.target(iqn) {
        if target.open != open {
            return Err(Refusal::TargetDiffers { target: iqn.clone(), open: target.open });
        }
        return Ok(Change::Already { said: format!("target '{iqn}' already exists") });
    }
    if map.targets.len() >= TARGETS_MAX {
        return Err(Refusal::TooMany { what: "targets", limit: TARGETS_MAX });
    }
    let mut draft = Draft::new(map, origin);
    draft.put(&Target { min_writer: BASE_WRITER, iqn: iqn.clone(), open, created: origin.when });
    let why = format!("target create {iqn}{}", if open { " --open" } else { "" });
    draft.finish(why, format!("target '{iqn}' created"))
}

/// Removes a target; with `force`, its hosts and LUNs too.
///
/// # Errors
/// [`Refusal::NoSuchTarget`]; without `force`, [`Refusal::TargetInUse`].
pub fn remove(map: &LusMap, origin: &Origin, iqn: &Iqn, force: bool) -> Result<Change, Refusal> {
    if map.target(iqn).is_none() {
        return Err(Refusal::NoSuchTarget(iqn.clone()));
    }
    let (hosts, luns) = (map.hosts(iqn).count(), map.luns(iqn).count());
    if !force && hosts + luns > 0 {
        return Err(Refusal::TargetInUse { target: iqn.clone(), hosts, luns });
    }
    let mut draft = Draft::new(map, origin);
    draft.remove(Key::Target(iqn.clone()));
    map.hosts(iqn).for_each(|host| draft.remove(Key::Host(host.key())));
    map.luns(iqn).for_each(|mapping| draft.remove(Key::Lun(mapping.key())));
    draft.finish(format!("target rm {iqn}"), format!("target '{iqn}' removed"))
}
