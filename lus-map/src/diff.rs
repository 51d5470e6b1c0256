//! What changed between two maps, for whoever makes the daemon follow the map.

use std::sync::Arc;

use crate::id::{Epoch, Iqn, LuId};
use crate::key::{HostKey, InstanceKey, LunKey};
use crate::map::LusMap;
use crate::model::{DaemonInstance, Host, Lu, LunMapping, Placement, Target};
use crate::table::Table;
use crate::wire::Stored;

/// An entity as the maps share it; it derefs to the value.
pub type Shared<T> = Arc<Stored<T>>;

/// What changed of one kind of entity, each list in the order of its keys.
#[derive(Debug, Clone)]
pub struct Delta<K, T> {
    /// New ones.
    pub added: Vec<(K, Shared<T>)>,
    /// Those that are gone, as they were.
    pub removed: Vec<(K, Shared<T>)>,
    /// Those that are other than before: as they were, as they are.
    pub changed: Vec<(K, Shared<T>, Shared<T>)>,
}

impl<K, T> Delta<K, T> {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

impl<K: Ord + Clone, T> Delta<K, T> {
    /// Every key that has a change.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        let changed = self.changed.iter().map(|(key, _, _)| key);
        self.added.iter().chain(&self.removed).map(|(key, _)| key).chain(changed)
    }

    fn between(old: &Table<K, Stored<T>>, new: &Table<K, Stored<T>>) -> Self {
        let mut delta = Self { added: Vec::new(), removed: Vec::new(), changed: Vec::new() };
        for (key, before, after) in old.steps(new) {
            match (before, after) {
                (None, Some(after)) => delta.added.push((key.clone(), Arc::clone(after))),
                (Some(before), None) => delta.removed.push((key.clone(), Arc::clone(before))),
                (Some(before), Some(after)) if before.raw() != after.raw() => {
                    delta.changed.push((key.clone(), Arc::clone(before), Arc::clone(after)));
                }
                _ => {}
            }
        }
        delta
    }
}

/// What changed between two maps.
#[derive(Debug, Clone)]
pub struct MapDiff {
    /// The epoch of the older map; 0 where there was none.
    pub from: Epoch,
    /// The epoch of the newer one.
    pub to: Epoch,
    /// Whether what concerns the map as a whole changed: flags, leader term, raft incarnation ...
    pub meta: bool,
    /// Whether another one leads, or nobody any more.
    pub leader: bool,
    /// Instances of daemons.
    pub daemons: Delta<InstanceKey, DaemonInstance>,
    /// Targets.
    pub targets: Delta<Iqn, Target>,
    /// Initiators that targets name.
    pub hosts: Delta<HostKey, Host>,
    /// LUNs.
    pub luns: Delta<LunKey, LunMapping>,
    /// Logical units.
    pub lus: Delta<LuId, Lu>,
    /// Placements.
    pub placements: Delta<LuId, Placement>,
}

impl MapDiff {
    /// Whether nothing changed that this program knows.
    pub fn is_empty(&self) -> bool {
        !self.meta
            && !self.leader
            && self.daemons.is_empty()
            && self.targets.is_empty()
            && self.hosts.is_empty()
            && self.luns.is_empty()
            && self.lus.is_empty()
            && self.placements.is_empty()
    }
}

impl LusMap {
    /// What changed from this map to `newer`, whatever epochs lie between. Costs what changed where the two share the
    /// rest, and one comparison per entity where they were loaded apart.
    pub fn diff(&self, newer: &Self) -> MapDiff {
        MapDiff {
            from: self.epoch(),
            to: newer.epoch(),
            meta: self.meta.raw() != newer.meta.raw(),
            leader: self.leader() != newer.leader(),
            daemons: Delta::between(&self.daemons, &newer.daemons),
            targets: Delta::between(&self.targets, &newer.targets),
            hosts: Delta::between(&self.hosts, &newer.hosts),
            luns: Delta::between(&self.luns, &newer.luns),
            lus: Delta::between(&self.lus, &newer.lus),
            placements: Delta::between(&self.placements, &newer.placements),
        }
    }

    /// What this map holds as the difference from one of no entities: for a daemon's first look.
    pub fn diff_from_nothing(&self) -> MapDiff {
        let mut diff = Self::bare(Epoch(0), self.modified, Arc::clone(&self.meta)).diff(self);
        diff.meta = true;
        diff
    }
}
