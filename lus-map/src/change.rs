//! What an administrator or a daemon wants, made into the increment that does it.
//!
//! Every function here is pure: a map and an intent give either a [`Change`] or a [`Refusal`]. The store commits the
//! increment by compare-and-set; where another change came first, the same intent is asked again of the newer map.

pub mod daemon;
pub mod fence;
pub mod flags;
pub mod host;
pub mod leader;
pub mod lu;
pub mod lun;
pub mod placement;
mod refusal;
pub mod target;

use std::collections::BTreeMap;

pub use refusal::Refusal;
use uuid::Uuid;

use crate::id::Epoch;
use crate::increment::{CHANGES_MAX, Increment, KeyChange, ORIGIN_TEXT_BYTES_MAX, Origin};
use crate::key::Key;
use crate::map::LusMap;
use crate::model::{BASE_WRITER, Meta, WRITER};
use crate::time::Timestamp;
use crate::wire::Entity;

/// What became of an intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// There is something to do.
    Make {
        /// What to commit.
        increment: Increment,
        /// What to tell the user once it is committed: `target 'iqn...' created`.
        said: String,
    },
    /// It is so already; no error.
    Already {
        /// What to tell the user: `target 'iqn...' already exists`.
        said: String,
    },
}

impl Change {
    /// What to tell the user.
    pub fn said(&self) -> &str {
        match self {
            Self::Make { said, .. } | Self::Already { said } => said,
        }
    }
}

/// The increment of epoch 1 of a new map.
pub fn create(fsid: Uuid, origin: &Origin) -> Increment {
    let meta = Meta {
        min_writer: BASE_WRITER,
        fsid,
        created: origin.when,
        required_features: Default::default(),
        leader_term: 0,
        raft_incarnation: 0,
        flags: Default::default(),
    };
    let change = KeyChange { key: Key::Meta, old: None, new: Some(meta.to_bytes()) };
    Increment { epoch: Epoch(1), why: "create".to_owned(), origin: origin.clone(), changes: vec![change] }
}

/// A change being put together on one map.
pub(crate) struct Draft<'a> {
    map: &'a LusMap,
    origin: &'a Origin,
    changes: BTreeMap<Key, Option<Vec<u8>>>,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(map: &'a LusMap, origin: &'a Origin) -> Self {
        Self { map, origin, changes: BTreeMap::new() }
    }

    /// The epoch that the change will make.
    pub(crate) fn epoch(&self) -> Epoch {
        self.map.epoch().next()
    }

    /// When the change is made.
    pub(crate) fn when(&self) -> Timestamp {
        self.origin.when
    }

    pub(crate) fn put<T: Entity>(&mut self, entity: &T) {
        self.changes.insert(entity.omap_key(), Some(entity.to_bytes()));
    }

    pub(crate) fn remove(&mut self, key: Key) {
        self.changes.insert(key, None);
    }

    /// How many keys it changes so far.
    pub(crate) fn len(&self) -> usize {
        self.changes.len()
    }

    /// The finished change: `why` for the log, `said` for the user. What is set to what it was is left out.
    pub(crate) fn finish(self, why: String, said: String) -> Result<Change, Refusal> {
        let mut changes = Vec::with_capacity(self.changes.len());
        for (key, new) in self.changes {
            let old = self.map.raw(&key).map(<[u8]>::to_vec);
            if old == new {
                continue;
            }
            changes.push(KeyChange { key, old, new });
        }
        if changes.is_empty() {
            return Ok(Change::Already { said });
        }
        if changes.len() > CHANGES_MAX {
            return Err(Refusal::TooMany { what: "changes in one step", limit: CHANGES_MAX });
        }
        let mut why = why;
        truncate(&mut why);
        let mut origin = self.origin.clone();
        truncate(&mut origin.who);
        let increment = Increment { epoch: self.map.epoch().next(), why, origin, changes };
        writable(self.map, &increment)?;
        Ok(Change::Make { increment, said })
    }
}

/// `1 logical unit`, `2 logical units`.
fn units(count: usize) -> String {
    if count == 1 { "1 logical unit".to_owned() } else { format!("{count} logical units") }
}

/// Cuts a text for the log at its bound, between characters.
fn truncate(text: &mut String) {
    let mut end = text.len().min(ORIGIN_TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}

/// Whether this program may make the change: everything that it touches asks for no newer writer.
///
/// # Errors
/// [`Refusal::TooOld`] with the key.
pub fn writable(map: &LusMap, increment: &Increment) -> Result<(), Refusal> {
    for change in &increment.changes {
        let min_writer = map.min_writer(&change.key);
        if min_writer > WRITER {
            let key = if map.meta().min_writer > WRITER { Key::Meta } else { change.key.clone() };
            return Err(Refusal::TooOld { key, min_writer });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_texts_are_cut_between_characters() {
        let mut text = format!("a{}", "\u{e9}".repeat(ORIGIN_TEXT_BYTES_MAX));
        truncate(&mut text);
        assert_eq!(text.len(), ORIGIN_TEXT_BYTES_MAX - 1);
    }
}
