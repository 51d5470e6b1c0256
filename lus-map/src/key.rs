//! The omap keys of the object `lus_map`, one per entity.
//!
//! | key | entity |
//! |---|---|
//! | `meta` | [`Meta`](crate::Meta) |
//! | `leader` | [`Leader`](crate::Leader) |
//! | `daemon.<id>.<up_from>` | [`DaemonInstance`](crate::DaemonInstance) |
//! | `target.<iqn>` | [`Target`](crate::Target) |
//! | `host.<target>/<initiator>` | [`Host`](crate::Host) |
//! | `lun.<target>/<lun>` and `lun.<target>/<lun>/<initiator>` | [`LunMapping`](crate::LunMapping) |
//! | `lu.<id>` | [`Lu`](crate::Lu) |
//! | `place.<id>` | [`Placement`](crate::Placement) |
//! | `inc.<epoch>` | [`Increment`](crate::Increment): not an entity, the log |
//!
//! Epochs have 20 digits and LUNs 5, so that the order of the keys is that of the numbers. A kind that is not in this
//! table is a newer program's: such a key is kept as it is and never touched.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::id::{DaemonId, Epoch, Iqn, LuId, Lun};

/// The name of the map's object in the pool.
pub const MAP_OBJECT: &str = "lus_map";
/// The xattr of [`MAP_OBJECT`] that holds the epoch in decimal digits.
pub const EPOCH_XATTR: &str = "epoch";
/// What the keys of increments begin with.
pub const INCREMENT_PREFIX: &str = "inc.";
/// Longest key in bytes: two iSCSI names of 223 bytes and what stands between them, rounded up.
pub const KEY_BYTES_MAX: usize = 512;
/// Digits of an epoch in a key: those of 2^64 - 1.
const EPOCH_DIGITS: usize = 20;
/// Digits of a LUN in a key: those of 2^16 - 1.
const LUN_DIGITS: usize = 5;

/// The key of one start of a daemon.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceKey {
    /// The daemon.
    pub id: DaemonId,
    /// The epoch that the registration made.
    pub up_from: Epoch,
}

impl fmt::Display for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lus.{} up_from {}", self.id, self.up_from)
    }
}

/// The key of an initiator that a target names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostKey {
    /// The target.
    pub target: Iqn,
    /// The initiator.
    pub initiator: Iqn,
}

/// The key of a LUN: of every host of the target, or of one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LunKey {
    /// The target.
    pub target: Iqn,
    /// The number.
    pub lun: Lun,
    /// The one host that sees it; none: all that may log in.
    pub host: Option<Iqn>,
}

/// The key of an entity of the map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// What concerns the map as a whole.
    Meta,
    /// A start of a daemon.
    Daemon(InstanceKey),
    /// A target.
    Target(Iqn),
    /// An initiator that a target names.
    Host(HostKey),
    /// A logical unit under a number.
    Lun(LunKey),
    /// A logical unit.
    Lu(LuId),
    /// Who should own a logical unit.
    Place(LuId),
    /// Who leads. Behind the kinds of the first version: there it is of a kind not known, and those come last.
    Leader,
    /// Of a kind that this program does not know.
    Other(Arc<str>),
}

/// Why a key is not one: a known kind and a rest that is out of form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key '{key}' is malformed: {why}")]
pub struct BadKey {
    /// The key as found.
    pub key: String,
    /// What is wrong with it.
    pub why: String,
}

impl FromStr for Key {
    type Err = BadKey;

    fn from_str(key: &str) -> Result<Self, BadKey> {
        let parsed = match key.split_once('.') {
            _ if key.len() > KEY_BYTES_MAX => Err("it is longer than 512 bytes".to_owned()),
            None if key == "meta" => Ok(Self::Meta),
            None if key == "leader" => Ok(Self::Leader),
            Some(("daemon", rest)) => instance(rest).map(Self::Daemon),
            Some(("target", rest)) => iqn(rest).map(Self::Target),
            Some(("host", rest)) => host(rest).map(Self::Host),
            Some(("lun", rest)) => lun(rest).map(Self::Lun),
            Some(("lu", rest)) => lu(rest).map(Self::Lu),
            Some(("place", rest)) => lu(rest).map(Self::Place),
            Some(("inc", _)) => Err("increments are no entities".to_owned()),
            _ => Ok(Self::Other(key.into())),
        };
        parsed.map_err(|why| BadKey { key: key.to_owned(), why })
    }
}

fn lu(rest: &str) -> Result<LuId, String> {
    rest.parse().map_err(|error| format!("{error}"))
}

/// A name in its canonical spelling only: one entity, one key.
fn iqn(rest: &str) -> Result<Iqn, String> {
    let name: Iqn = rest.parse().map_err(|error| format!("{error}"))?;
    if name.as_str() == rest { Ok(name) } else { Err("the name is not in lower case".to_owned()) }
}

fn instance(rest: &str) -> Result<InstanceKey, String> {
    let (id, up_from) = rest.rsplit_once('.').ok_or("the form is daemon.ID.UP_FROM")?;
    Ok(InstanceKey {
        id: id.parse().map_err(|error| format!("{error}"))?,
        up_from: digits(up_from, EPOCH_DIGITS).map(Epoch).ok_or("20 digits of an epoch are wanted")?,
    })
}

fn host(rest: &str) -> Result<HostKey, String> {
    let (target, initiator) = rest.split_once('/').ok_or("the form is host.TARGET/INITIATOR")?;
    Ok(HostKey { target: iqn(target)?, initiator: iqn(initiator)? })
}

fn lun(rest: &str) -> Result<LunKey, String> {
    let (target, rest) = rest.split_once('/').ok_or("the form is lun.TARGET/LUN[/INITIATOR]")?;
    let (number, host) = match rest.split_once('/') {
        Some((number, host)) => (number, Some(iqn(host)?)),
        None => (rest, None),
    };
    let number = digits(number, LUN_DIGITS).and_then(|number| Lun::new(u16::try_from(number).ok()?));
    Ok(LunKey { target: iqn(target)?, lun: number.ok_or("5 digits of a LUN up to 16383 are wanted")?, host })
}

fn digits(text: &str, len: usize) -> Option<u64> {
    if text.len() != len || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Meta => f.write_str("meta"),
            Self::Daemon(key) => write!(f, "daemon.{}.{:0EPOCH_DIGITS$}", key.id, key.up_from),
            Self::Target(iqn) => write!(f, "target.{iqn}"),
            Self::Host(key) => write!(f, "host.{}/{}", key.target, key.initiator),
            Self::Lun(LunKey { target, lun, host: None }) => write!(f, "lun.{target}/{lun:0LUN_DIGITS$}"),
            Self::Lun(LunKey { target, lun, host: Some(host) }) => {
                write!(f, "lun.{target}/{lun:0LUN_DIGITS$}/{host}")
            }
            Self::Lu(id) => write!(f, "lu.{id}"),
            Self::Place(id) => write!(f, "place.{id}"),
            Self::Leader => f.write_str("leader"),
            Self::Other(key) => f.write_str(key),
        }
    }
}

/// The key of the increment that made `epoch`.
pub fn increment_key(epoch: Epoch) -> String {
    format!("{INCREMENT_PREFIX}{epoch:0EPOCH_DIGITS$}")
}

/// The epoch that an increment's key names, or none if it is not in that form.
pub fn increment_epoch(key: &str) -> Option<Epoch> {
    digits(key.strip_prefix(INCREMENT_PREFIX)?, EPOCH_DIGITS).map(Epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back() {
        for text in [
            "meta",
            "leader",
            "daemon.a.b.00000000000000000007",
            "target.iqn.2026-11.io.lus:a",
            "host.iqn.2026-11.io.lus:a/iqn.1993-08.org.debian:01:x",
            "lun.iqn.2026-11.io.lus:a/00003",
            "lun.iqn.2026-11.io.lus:a/16383/iqn.1993-08.org.debian:01:x",
            "lu.8ec8f1b2-9e43-4a5f-8b61-6d0c6d2cbd5a",
            "place.8ec8f1b2-9e43-4a5f-8b61-6d0c6d2cbd5a",
            "group.something-newer",
            "metadata",
        ] {
            assert_eq!(text.parse::<Key>().map(|key| key.to_string()).as_deref(), Ok(text));
        }
        for text in [
            "daemon.a",
            "daemon.a.7",
            "target.x",
            "target.IQN.2026-11.io.lus:a",
            "host.iqn.2026-11.io.lus:a",
            "lun.iqn.2026-11.io.lus:a/3",
            "lun.iqn.2026-11.io.lus:a/16384",
            "lun.iqn.2026-11.io.lus:a/00003/",
            "lu.1",
            "place.",
            "inc.00000000000000000001",
        ] {
            assert!(text.parse::<Key>().is_err(), "{text}");
        }
    }

    #[test]
    fn increments_sort_by_epoch() {
        assert_eq!(increment_key(Epoch(17)), "inc.00000000000000000017");
        assert_eq!(increment_epoch("inc.00000000000000000017"), Some(Epoch(17)));
        assert_eq!(increment_epoch("inc.18446744073709551615"), Some(Epoch(u64::MAX)));
        assert_eq!(increment_epoch("inc.18446744073709551616"), None);
        assert_eq!(increment_epoch("inc.17"), None);
        assert!(increment_key(Epoch(9)) < increment_key(Epoch(10)));
    }

    #[test]
    fn the_longest_key_fits() {
        let name = |c: &str| format!("iqn.2026-11.io.lus:{}", c.repeat(204)).parse::<Iqn>().unwrap();
        let key = LunKey { target: name("a"), lun: Lun::new(16383).unwrap(), host: Some(name("b")) };
        assert!(Key::Lun(key).to_string().len() <= KEY_BYTES_MAX);
    }
}
