//! From one epoch to the next and back: pure, and as costly as what changed.

use std::sync::Arc;

use crate::id::Epoch;
use crate::increment::Increment;
use crate::key::Key;
use crate::map::LusMap;
use crate::model::InstanceState;
use crate::time::Timestamp;
use crate::wire::{Corrupt, LoadError, stored};

/// Why an increment does not belong on a map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// It is of another epoch.
    #[error("the increment of epoch {increment} does not follow on epoch {map}")]
    WrongEpoch {
        /// The map's epoch.
        map: Epoch,
        /// The increment's.
        increment: Epoch,
    },
    /// It says that a key was something that it was not.
    #[error("the increment of epoch {epoch} expects other bytes under key '{key}'")]
    OtherBytes {
        /// The increment's epoch.
        epoch: Epoch,
        /// The key.
        key: Key,
    },
    /// A leader that has been followed by another wrote it.
    #[error("the increment of epoch {epoch} is of leader term {term}, the map's is {current}")]
    LowerTerm {
        /// The increment's epoch.
        epoch: Epoch,
        /// The increment's term.
        term: u64,
        /// The map's.
        current: u64,
    },
    /// A leader of a quorum that was reset wrote it.
    #[error("the increment of epoch {epoch} is of raft incarnation {incarnation}, the map's is {current}")]
    OtherIncarnation {
        /// The increment's epoch.
        epoch: Epoch,
        /// The increment's incarnation.
        incarnation: u64,
        /// The map's.
        current: u64,
    },
    /// It does what only a leader may do, and says no term.
    #[error("the increment of epoch {epoch} does under key '{key}' what only a leader may do")]
    LeaderOnly {
        /// The increment's epoch.
        epoch: Epoch,
        /// The first such key.
        key: Key,
    },
    /// What it brings cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl From<Corrupt> for ApplyError {
    fn from(corrupt: Corrupt) -> Self {
        Self::Load(corrupt.into())
    }
}

impl LusMap {
    /// The first map, out of the increment of epoch 1.
    ///
    /// # Errors
    /// [`ApplyError`] if it is not of epoch 1, brings no `meta`, or brings something that cannot be read.
    pub fn create(increment: &Increment) -> Result<Self, ApplyError> {
        if increment.epoch != Epoch(1) {
            return Err(ApplyError::WrongEpoch { map: Epoch(0), increment: increment.epoch });
        }
        let meta = increment.changes.iter().find(|change| change.key == Key::Meta);
        let raw = meta.and_then(|change| change.new.as_deref()).ok_or(Corrupt::MissingMeta)?;
        let meta = Arc::new(stored(&Key::Meta, raw)?);
        let mut map = Self::bare(increment.epoch, increment.origin.when, meta);
        map.require_features()?;
        for change in increment.changes.iter().filter(|change| change.key != Key::Meta) {
            map.set(&change.key, change.new.as_deref())?;
        }
        Ok(map)
    }

    /// The map that `increment` makes of this one.
    ///
    /// # Errors
    /// [`ApplyError`] if it does not follow on this epoch, was made on other bytes, comes from a leader of a lower term
    /// or another incarnation, or brings something that cannot be read. This map stays as it is.
    pub fn apply(&self, increment: &Increment) -> Result<Self, ApplyError> {
        let epoch = increment.epoch;
        if self.epoch.0.checked_add(1) != Some(epoch.0) {
            return Err(ApplyError::WrongEpoch { map: self.epoch, increment: epoch });
        }
        if let Some(term) = increment.origin.leader_term
            && term < self.meta.leader_term
        {
            return Err(ApplyError::LowerTerm { epoch, term, current: self.meta.leader_term });
        }
        if let Some(incarnation) = increment.origin.raft_incarnation
            && incarnation != self.meta.raft_incarnation
        {
            let current = self.meta.raft_incarnation;
            return Err(ApplyError::OtherIncarnation { epoch, incarnation, current });
        }
        let mut next = self.clone();
        for change in &increment.changes {
            if self.raw(&change.key) != change.old.as_deref() {
                return Err(ApplyError::OtherBytes { epoch, key: change.key.clone() });
            }
            next.set(&change.key, change.new.as_deref())?;
        }
        let (term, current) = (next.meta.leader_term, self.meta.leader_term);
        // A term has one leader, and terms do not come back.
        let leader_in_old_term =
            term == current && next.leader().is_some_and(|new| Some(new) != self.leader());
        if term < current || leader_in_old_term {
            return Err(ApplyError::LowerTerm { epoch, term, current });
        }
        if increment.origin.leader_term.is_none()
            && let Some(change) =
                increment.changes.iter().find(|change| self.is_leaders_act(&next, &change.key))
        {
            return Err(ApplyError::LeaderOnly { epoch, key: change.key.clone() });
        }
        next.epoch = epoch;
        next.modified = increment.origin.when;
        next.require_features()?;
        Ok(next)
    }

    /// Whether the step to `next` does under `key` what only a leader may do: declare a daemon down, or move a unit by
    /// itself. In a map that never had a leader nothing is; a program of the first version wrote that.
    fn is_leaders_act(&self, next: &Self, key: &Key) -> bool {
        if self.meta.leader_term == 0 {
            return false;
        }
        match key {
            Key::Daemon(key) => match (self.daemons.get(key), next.daemons.get(key)) {
                (Some(old), Some(new)) => {
                    old.state.is_up() && matches!(new.state, InstanceState::Down { .. })
                }
                _ => false,
            },
            Key::Place(lu) => match (self.placements.get(lu), next.placements.get(lu)) {
                (Some(old), Some(new)) => old.owner != new.owner && new.reason.is_leaders(),
                _ => false,
            },
            _ => false,
        }
    }

    /// The map that `increment` made this one of. `modified` is when the increment before it was written, which this map
    /// no longer knows.
    ///
    /// # Errors
    /// [`ApplyError`] if it did not make this epoch or these bytes.
    pub fn take_back(&self, increment: &Increment, modified: Timestamp) -> Result<Self, ApplyError> {
        let epoch = increment.epoch;
        if self.epoch != epoch || epoch.0 <= 1 {
            return Err(ApplyError::WrongEpoch { map: self.epoch, increment: epoch });
        }
        let mut past = self.clone();
        for change in &increment.changes {
            if self.raw(&change.key) != change.new.as_deref() {
                return Err(ApplyError::OtherBytes { epoch, key: change.key.clone() });
            }
            past.set(&change.key, change.old.as_deref())?;
        }
        past.epoch = Epoch(epoch.0 - 1);
        past.modified = modified;
        Ok(past)
    }
}
