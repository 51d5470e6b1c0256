//! LUNs: `lus lun map|unmap`.
//!
//! A host sees the LUNs of all hosts and its own. So a number, and a unit, that all hosts see must not be seen otherwise
//! by one.

use super::{Change, Draft, Refusal};
use crate::id::{Iqn, LUN_MAX, LuName, Lun};
use crate::increment::Origin;
use crate::key::Key;
use crate::map::LusMap;
use crate::model::{BASE_WRITER, Lu, LunMapping};

/// LUNs of all targets at most.
pub const LUNS_MAX: usize = 262_144;

/// What `lus lun map` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapLun {
    /// The target.
    pub target: Iqn,
    /// The logical unit.
    pub lu: LuName,
    /// The number; none: the lowest free one.
    pub lun: Option<Lun>,
    /// The one host that is to see it; none: all that may log in.
    pub host: Option<Iqn>,
}

/// Whether some host sees both what is mapped for `a` and what is mapped for `b`.
fn overlap(a: Option<&Iqn>, b: Option<&Iqn>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    }
}

/// The target and the unit of a request, both there.
fn find<'a>(map: &'a LusMap, target: &Iqn, host: Option<&Iqn>, lu: &LuName) -> Result<&'a Lu, Refusal> {
    if map.target(target).is_none() {
        return Err(Refusal::NoSuchTarget(target.clone()));
    }
    if let Some(initiator) = host
        && map.host(target, initiator).is_none()
    {
        return Err(Refusal::NoSuchHost { target: target.clone(), initiator: initiator.clone() });
    }
    map.lu_named(lu).ok_or_else(|| Refusal::NoSuchLu(lu.clone()))
}

/// Gives a logical unit a number in a target.
///
/// # Errors
/// [`Refusal::NoSuchTarget`], [`Refusal::NoSuchHost`], [`Refusal::NoSuchLu`], [`Refusal::AlreadyMapped`] under
/// another number or for other hosts, [`Refusal::LunTaken`], [`Refusal::NoFreeLun`], [`Refusal::TooMany`].
pub fn map(map: &LusMap, origin: &Origin, ask: &MapLun) -> Result<Change, Refusal> {
    let lu = find(map, &ask.target, ask.host.as_ref(), &ask.lu)?;
    let seen = || map.luns(&ask.target).filter(|m| overlap(m.host.as_ref(), ask.host.as_ref()));
    if let Some(mapping) = seen().find(|mapping| mapping.lu == lu.id) {
        if mapping.host == ask.host && ask.lun.is_none_or(|lun| lun == mapping.lun) {
            let said = format!("logical unit '{}' already mapped as LUN {}", ask.lu, mapping.lun);
            return Ok(Change::Already { said });
        }
        return Err(Refusal::AlreadyMapped {
            lu: ask.lu.clone(),
            target: ask.target.clone(),
            lun: mapping.lun,
            host: mapping.host.clone(),
        });
    }
    let lun = match ask.lun {
        Some(lun) => match seen().find(|mapping| mapping.lun == lun) {
            Some(taken) => return Err(lun_taken(map, taken)),
            None => lun,
        },
        None => lowest_free(seen().map(|mapping| mapping.lun))
            .ok_or_else(|| Refusal::NoFreeLun(ask.target.clone()))?,
    };
    if map.luns.len() >= LUNS_MAX {
        return Err(Refusal::TooMany { what: "LUNs", limit: LUNS_MAX });
    }
    let mut draft = Draft::new(map, origin);
    draft.put(&LunMapping {
        min_writer: BASE_WRITER,
        target: ask.target.clone(),
        lun,
        host: ask.host.clone(),
        lu: lu.id,
        created: origin.when,
    });
    let host = ask.host.as_ref().map(|host| format!(" --host {host}")).unwrap_or_default();
    draft.finish(
        format!("lun map {} {} --lun {lun}{host}", ask.target, ask.lu),
        format!("logical unit '{}' mapped as LUN {lun} of target '{}'", ask.lu, ask.target),
    )
}

fn lun_taken(map: &LusMap, mapping: &LunMapping) -> Refusal {
    match map.lu(&mapping.lu) {
        Some(holder) => Refusal::LunTaken {
            target: mapping.target.clone(),
            lun: mapping.lun,
            holder: holder.name(),
            host: mapping.host.clone(),
        },
        None => Refusal::NoSuchLuId(mapping.lu),
    }
}

/// The lowest number that is not among `taken`, which ascend and may repeat.
fn lowest_free(taken: impl Iterator<Item = Lun>) -> Option<Lun> {
    let mut free = 0;
    for lun in taken {
        if lun.number() == free {
            free += 1;
        } else if lun.number() > free {
            break;
        }
    }
    debug_assert!(free <= LUN_MAX + 1);
    Lun::new(free)
}

/// What `lus lun unmap` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnmapLun {
    /// The target.
    pub target: Iqn,
    /// The logical unit.
    pub lu: LuName,
    /// The number that it must have; none: whatever it has.
    pub lun: Option<Lun>,
    /// The one host whose own LUN it is; none: that of all hosts.
    pub host: Option<Iqn>,
}

/// Takes a logical unit's number in a target away.
///
/// # Errors
/// [`Refusal::NoSuchTarget`], [`Refusal::NoSuchHost`], [`Refusal::NoSuchLu`], [`Refusal::NotMapped`], and
/// [`Refusal::MappedOtherwise`] where it is mapped, but for others or under another number.
pub fn unmap(map: &LusMap, origin: &Origin, ask: &UnmapLun) -> Result<Change, Refusal> {
    let lu = find(map, &ask.target, ask.host.as_ref(), &ask.lu)?;
    let of_unit = || map.luns(&ask.target).filter(|mapping| mapping.lu == lu.id);
    let wanted = of_unit().find(|m| m.host == ask.host && ask.lun.is_none_or(|lun| lun == m.lun));
    let Some(mapping) = wanted else {
        return Err(match of_unit().next() {
            Some(other) => Refusal::MappedOtherwise {
                lu: ask.lu.clone(),
                target: ask.target.clone(),
                lun: other.lun,
                host: other.host.clone(),
            },
            None => {
                Refusal::NotMapped { lu: ask.lu.clone(), target: ask.target.clone(), host: ask.host.clone() }
            }
        });
    };
    let mut draft = Draft::new(map, origin);
    draft.remove(Key::Lun(mapping.key()));
    let host = ask.host.as_ref().map(|host| format!(" --host {host}")).unwrap_or_default();
    draft.finish(
        format!("lun unmap {} {} --lun {}{host}", ask.target, ask.lu, mapping.lun),
        format!("logical unit '{}' unmapped from LUN {} of target '{}'", ask.lu, mapping.lun, ask.target),
    )
}
