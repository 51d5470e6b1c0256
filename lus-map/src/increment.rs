//! One step of the map, from epoch n - 1 to epoch n, on exact bytes.
//!
//! An increment holds for each changed key what it was and what it is. So it can be applied, taken back, and read as
//! a log of who did what.

use prost::Message;
use serde::ser::{Serialize, SerializeStruct, Serializer};
use uuid::Uuid;

use crate::id::Epoch;
use crate::key::{Key, increment_key};
use crate::time::Timestamp;
use crate::wire::{Corrupt, pb};

/// Increments that are kept in the object; older ones go with the change that makes the next.
pub const INCREMENTS_KEPT: u64 = 500;
/// Changed keys in one increment at most: with entities of common size about 1 MiB, far below what an OSD takes in one
/// operation (90 MB).
pub const CHANGES_MAX: usize = 4096;
/// Largest stored increment in bytes.
pub const INCREMENT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Longest text of who or why in bytes.
pub const ORIGIN_TEXT_BYTES_MAX: usize = 1024;

/// Who changes the map, when, and for whom: what the caller knows and this crate cannot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// A fresh random id (RFC 9562, version 4): after an unknown result it tells this change from any other.
    pub id: Uuid,
    /// Now, by the caller's clock.
    pub when: Timestamp,
    /// The cephx entity, and the daemon's start or the RADOS client where known: `client.admin`, `lus.a up_from 7`.
    pub who: String,
    /// The term of the leader that acts; none for everybody else.
    pub leader_term: Option<u64>,
    /// The raft incarnation that the leader knows.
    pub raft_incarnation: Option<u64>,
}

impl Origin {
    /// An origin that is not a leader.
    pub fn new(id: Uuid, when: Timestamp, who: impl Into<String>) -> Self {
        Self { id, when, who: who.into(), leader_term: None, raft_incarnation: None }
    }

    /// The same as the act of the leader of `term`.
    pub fn leading(self, term: u64) -> Self {
        Self { leader_term: Some(term), ..self }
    }
}

/// What one key was and is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyChange {
    /// The key.
    pub key: Key,
    /// The stored bytes before; none: it did not exist.
    pub old: Option<Vec<u8>>,
    /// The stored bytes after; none: it is removed.
    pub new: Option<Vec<u8>>,
}

/// The step from `epoch - 1` to `epoch`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Increment {
    /// The epoch that it makes.
    pub epoch: Epoch,
    /// What it does, in words: `target create iqn...`.
    pub why: String,
    /// Who, when.
    pub origin: Origin,
    /// The changed keys, each once, ascending.
    pub changes: Vec<KeyChange>,
}

impl Increment {
    /// The omap key that it is stored under.
    pub fn omap_key(&self) -> String {
        increment_key(self.epoch)
    }

    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let change = |change: &KeyChange| pb::increment::Change {
            key: change.key.to_string(),
            old: change.old.clone(),
            new: change.new.clone(),
        };
        pb::Increment {
            epoch: self.epoch.0,
            id: self.origin.id.as_bytes().to_vec(),
            when_us: self.origin.when.0,
            who: self.origin.who.clone(),
            why: self.why.clone(),
            changes: self.changes.iter().map(change).collect(),
            leader_term: self.origin.leader_term,
            raft_incarnation: self.origin.raft_incarnation,
        }
        .encode_to_vec()
    }

    /// The increment of `epoch` out of its stored form.
    ///
    /// # Errors
    /// [`Corrupt`], naming the key, for what is too large, undecodable, of another epoch, or has keys out of order.
    pub fn decode(epoch: Epoch, raw: &[u8]) -> Result<Self, Corrupt> {
        let key = increment_key(epoch);
        let undecodable = |why: String| Corrupt::Undecodable { key: key.clone(), why };
        if raw.len() > INCREMENT_BYTES_MAX {
            return Err(undecodable(format!("{} bytes are more than {INCREMENT_BYTES_MAX}", raw.len())));
        }
        let stored: pb::Increment = crate::wire::message(raw).map_err(undecodable)?;
        if stored.epoch != epoch.0 {
            return Err(Corrupt::WrongKey { key, holds: increment_key(Epoch(stored.epoch)) });
        }
        let mut changes: Vec<KeyChange> = Vec::with_capacity(stored.changes.len());
        for change in stored.changes {
            let changed: Key = change.key.parse().map_err(|error| undecodable(format!("{error}")))?;
            if changes.last().is_some_and(|last| last.key >= changed) {
                return Err(undecodable(format!("key '{changed}' is out of order")));
            }
            changes.push(KeyChange { key: changed, old: change.old, new: change.new });
        }
        let origin = Origin {
            id: crate::wire::uuid(&stored.id).map_err(undecodable)?,
            when: Timestamp(stored.when_us),
            who: stored.who,
            leader_term: stored.leader_term,
            raft_incarnation: stored.raft_incarnation,
        };
        Ok(Self { epoch, why: stored.why, origin, changes })
    }
}

/// The view for `-f json`: who did what, and which keys changed.
impl Serialize for Increment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut view = serializer.serialize_struct("Increment", 5)?;
        view.serialize_field("epoch", &self.epoch)?;
        view.serialize_field("when", &self.origin.when)?;
        view.serialize_field("who", &self.origin.who)?;
        view.serialize_field("why", &self.why)?;
        let keys: Vec<String> = self.changes.iter().map(|change| change.key.to_string()).collect();
        view.serialize_field("keys", &keys)?;
        view.end()
    }
}
