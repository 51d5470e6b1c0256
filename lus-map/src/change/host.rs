//! Hosts, the initiators that a target names: `lus host add|rm`.

use super::{Change, Draft, Refusal};
use crate::id::Iqn;
use crate::increment::Origin;
use crate::key::Key;
use crate::map::LusMap;
use crate::model::{BASE_WRITER, Host};

/// Hosts of all targets at most.
pub const HOSTS_MAX: usize = 65_536;

/// Lets `initiator` log in to `target`.
///
/// # Errors
/// [`Refusal::NoSuchTarget`], [`Refusal::TooMany`].
pub fn add(map: &LusMap, origin: &Origin, target: &Iqn, initiator: &Iqn) -> Result<Change, Refusal> {
    if map.target(target).is_none() {
        return Err(Refusal::NoSuchTarget(target.clone()));
    }
    if map.host(target, initiator).is_some() {
        return Ok(Change::Already {
            said: format!("host '{initiator}' already exists in target '{target}'"),
        });
    }
    if map.hosts.len() >= HOSTS_MAX {
        return Err(Refusal::TooMany { what: "hosts", limit: HOSTS_MAX });
    }
    let mut draft = Draft::new(map, origin);
    draft.put(&Host {
        min_writer: BASE_WRITER,
        target: target.clone(),
        initiator: initiator.clone(),
        created: origin.when,
    });
    draft.finish(
        format!("host add {target} {initiator}"),
        format!("host '{initiator}' added to target '{target}'"),
    )
}

/// Takes `initiator` off `target`; with `force`, the LUNs that are its own too.
///
/// # Errors
/// [`Refusal::NoSuchTarget`], [`Refusal::NoSuchHost`]; without `force`, [`Refusal::HostInUse`].
pub fn remove(
    map: &LusMap,
    origin: &Origin,
    target: &Iqn,
    initiator: &Iqn,
    force: bool,
) -> Result<Change, Refusal> {
    if map.target(target).is_none() {
        return Err(Refusal::NoSuchTarget(target.clone()));
    }
    let Some(host) = map.host(target, initiator) else {
        return Err(Refusal::NoSuchHost { target: target.clone(), initiator: initiator.clone() });
    };
    let mut draft = Draft::new(map, origin);
    draft.remove(Key::Host(host.key()));
    for mapping in map.luns(target).filter(|mapping| mapping.host.as_ref() == Some(initiator)) {
        draft.remove(Key::Lun(mapping.key()));
    }
    let luns = draft.len() - 1;
    if !force && luns > 0 {
        return Err(Refusal::HostInUse { target: target.clone(), initiator: initiator.clone(), luns });
    }
    draft.finish(
        format!("host rm {target} {initiator}"),
        format!("host '{initiator}' removed from target '{target}'"),
    )
}
