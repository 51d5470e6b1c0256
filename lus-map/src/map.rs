//! The whole map at one epoch, to be shared as `Arc<LusMap>`.

use std::sync::Arc;

use serde::ser::{Serialize, SerializeStruct, Serializer};
use uuid::Uuid;

use crate::id::{DaemonId, Epoch, Iqn, LuId, LuName, Lun};
use crate::key::{HostKey, InstanceKey, Key, LunKey};
use crate::model::{DaemonInstance, Host, Leader, Lu, LunMapping, Meta, Placement, Target, WRITER};
use crate::table::Table;
use crate::time::Timestamp;
use crate::wire::{Corrupt, ENTITY_BYTES_MAX, Entity, LoadError, Stored, stored};

/// The cluster's state at one epoch. A value: it never changes, [`apply`](LusMap::apply) makes the next one, which
/// shares with this one whatever did not change.
#[derive(Debug, Clone)]
pub struct LusMap {
    pub(crate) epoch: Epoch,
    pub(crate) modified: Timestamp,
    pub(crate) meta: Arc<Stored<Meta>>,
    pub(crate) daemons: Table<InstanceKey, Stored<DaemonInstance>>,
    pub(crate) targets: Table<Iqn, Stored<Target>>,
    pub(crate) hosts: Table<HostKey, Stored<Host>>,
    pub(crate) luns: Table<LunKey, Stored<LunMapping>>,
    pub(crate) lus: Table<LuId, Stored<Lu>>,
    pub(crate) placements: Table<LuId, Stored<Placement>>,
    pub(crate) leader: Option<Arc<Stored<Leader>>>,
    /// Kinds of a newer program, as they are.
    pub(crate) others: Table<Arc<str>, Vec<u8>>,
}

impl LusMap {
    /// Decodes a map of `epoch` out of its omap keys and values; keys of increments must not be among them.
    /// `modified` is when the increment that made `epoch` was written.
    ///
    /// # Errors
    /// [`LoadError::Corrupt`] with the first key that is wrong, [`LoadError::UnknownFeatures`] with the names.
    pub fn decode<'a>(
        epoch: Epoch,
        modified: Timestamp,
        entries: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Self, LoadError> {
        let mut meta = None;
        let mut rest = Vec::new();
        for (text, raw) in entries {
            match text.parse::<Key>().map_err(Corrupt::from)? {
                Key::Meta => meta = Some(stored(&Key::Meta, raw)?),
                key => rest.push((key, raw)),
            }
        }
        let mut map = Self::bare(epoch, modified, Arc::new(meta.ok_or(Corrupt::MissingMeta)?));
        map.require_features()?;
        for (key, raw) in rest {
            map.set(&key, Some(raw))?;
        }
        Ok(map)
    }

    /// A map of nothing but `meta`.
    pub(crate) fn bare(epoch: Epoch, modified: Timestamp, meta: Arc<Stored<Meta>>) -> Self {
        Self {
            epoch,
            modified,
            meta,
            daemons: Table::default(),
            targets: Table::default(),
            hosts: Table::default(),
            luns: Table::default(),
            lus: Table::default(),
            placements: Table::default(),
            leader: None,
            others: Table::default(),
        }
    }

    pub(crate) fn require_features(&self) -> Result<(), LoadError> {
        match self.meta.unknown_features() {
            unknown if unknown.is_empty() => Ok(()),
            unknown => Err(LoadError::UnknownFeatures(unknown)),
        }
    }

    /// The epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// When the change that made this epoch was written.
    pub fn modified(&self) -> Timestamp {
        self.modified
    }

    /// What concerns the map as a whole.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The Ceph cluster that the map belongs to.
    pub fn fsid(&self) -> Uuid {
        self.meta.fsid
    }

    /// Who leads, or led last and did not resign; none: nobody.
    pub fn leader(&self) -> Option<&Leader> {
        self.leader.as_ref().map(|leader| &***leader)
    }

    /// Every instance of every daemon, by id.
    pub fn daemons(&self) -> impl Iterator<Item = &DaemonInstance> {
        self.daemons.iter().map(|(_, daemon)| &***daemon)
    }

    /// The latest instance of daemon `id`.
    pub fn daemon(&self, id: &DaemonId) -> Option<&DaemonInstance> {
        self.instances(id).last()
    }

    /// The instances of daemon `id`, oldest first. Registration keeps them to one.
    pub fn instances<'a, 'k>(
        &'a self,
        id: &'k DaemonId,
    ) -> impl Iterator<Item = &'a DaemonInstance> + use<'a, 'k> {
        self.daemons
            .iter_from(move |key| key.id < *id)
            .take_while(move |(key, _)| key.id == *id)
            .map(|(_, daemon)| &***daemon)
    }

    /// The instance of daemon `id` that registered at `up_from`. None: another one took its place, and whoever is that
    /// instance has to end.
    pub fn instance(&self, id: &DaemonId, up_from: Epoch) -> Option<&DaemonInstance> {
        self.daemons.get(&InstanceKey { id: id.clone(), up_from }).map(|daemon| &***daemon)
    }

    /// Every target, by name.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        self.targets.iter().map(|(_, target)| &***target)
    }

    /// A target.
    pub fn target(&self, iqn: &Iqn) -> Option<&Target> {
        self.targets.get(iqn).map(|target| &***target)
    }

    /// Every initiator that any target names.
    pub fn all_hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter().map(|(_, host)| &***host)
    }

    /// The initiators that `target` names.
    pub fn hosts<'a, 'k>(&'a self, target: &'k Iqn) -> impl Iterator<Item = &'a Host> + use<'a, 'k> {
        self.hosts
            .iter_from(move |key| key.target < *target)
            .take_while(move |(key, _)| key.target == *target)
            .map(|(_, host)| &***host)
    }

    /// An initiator that `target` names.
    pub fn host(&self, target: &Iqn, initiator: &Iqn) -> Option<&Host> {
        let key = HostKey { target: target.clone(), initiator: initiator.clone() };
        self.hosts.get(&key).map(|host| &***host)
    }

    /// Every LUN of every target.
    pub fn all_luns(&self) -> impl Iterator<Item = &LunMapping> {
        self.luns.iter().map(|(_, mapping)| &***mapping)
    }

    /// The LUNs of `target`, of all hosts and of single ones, by number.
    pub fn luns<'a, 'k>(&'a self, target: &'k Iqn) -> impl Iterator<Item = &'a LunMapping> + use<'a, 'k> {
        self.luns
            .iter_from(move |key| key.target < *target)
            .take_while(move |(key, _)| key.target == *target)
            .map(|(_, mapping)| &***mapping)
    }

    /// What `initiator` sees of `target`, by number: the LUNs of all hosts and its own. Whether it may log in at all is
    /// [`admits`](Self::admits)'s to say.
    pub fn view<'a, 'k>(
        &'a self,
        target: &'k Iqn,
        initiator: &'k Iqn,
    ) -> impl Iterator<Item = (Lun, &'a Lu)> + use<'a, 'k> {
        self.luns(target)
            .filter(move |mapping| mapping.host.as_ref().is_none_or(|host| host == initiator))
            .filter_map(|mapping| Some((mapping.lun, self.lu(&mapping.lu)?)))
    }

    /// Whether `initiator` may log in to `target`: it is open, or names it.
    pub fn admits(&self, target: &Iqn, initiator: &Iqn) -> bool {
        self.target(target).is_some_and(|t| t.open || self.host(target, initiator).is_some())
    }

    /// Every logical unit, by id.
    pub fn lus(&self) -> impl Iterator<Item = &Lu> {
        self.lus.iter().map(|(_, lu)| &***lu)
    }

    /// A logical unit.
    pub fn lu(&self, id: &LuId) -> Option<&Lu> {
        self.lus.get(id).map(|lu| &***lu)
    }

    /// The logical unit that an administrator calls `name`. Looks at each.
    pub fn lu_named(&self, name: &LuName) -> Option<&Lu> {
        self.lus().find(|lu| lu.backend.is_named(name))
    }

    /// Every placement, by logical unit.
    pub fn placements(&self) -> impl Iterator<Item = &Placement> {
        self.placements.iter().map(|(_, placement)| &***placement)
    }

    /// Who should own a logical unit; none: nobody has been there to be chosen.
    pub fn placement(&self, lu: &LuId) -> Option<&Placement> {
        self.placements.get(lu).map(|placement| &***placement)
    }

    /// How many entities there are, those of a newer program among them.
    pub fn entities(&self) -> usize {
        1 + self.daemons.len()
            + self.targets.len()
            + self.hosts.len()
            + self.luns.len()
            + self.lus.len()
            + self.placements.len()
            + usize::from(self.leader.is_some())
            + self.others.len()
    }

    /// Every key and its bytes, exactly as stored; ordered within each kind.
    pub fn raw_entries(&self) -> impl Iterator<Item = (Key, &[u8])> {
        fn of<'a, K: Ord + Clone + 'a, T: 'a>(
            table: &'a Table<K, Stored<T>>,
            key: fn(K) -> Key,
        ) -> impl Iterator<Item = (Key, &'a [u8])> {
            table.iter().map(move |(k, entity)| (key(k.clone()), entity.raw()))
        }
        std::iter::once((Key::Meta, self.meta.raw()))
            .chain(of(&self.daemons, Key::Daemon))
            .chain(of(&self.targets, Key::Target))
            .chain(of(&self.hosts, Key::Host))
            .chain(of(&self.luns, Key::Lun))
            .chain(of(&self.lus, Key::Lu))
            .chain(of(&self.placements, Key::Place))
            .chain(self.leader.iter().map(|leader| (Key::Leader, leader.raw())))
            .chain(self.others.iter().map(|(k, raw)| (Key::Other(k.clone()), raw.as_slice())))
    }

    /// The bytes under `key`, exactly as stored.
    pub fn raw(&self, key: &Key) -> Option<&[u8]> {
        match key {
            Key::Meta => Some(self.meta.raw()),
            Key::Daemon(key) => self.daemons.get(key).map(|entity| entity.raw()),
            Key::Target(key) => self.targets.get(key).map(|entity| entity.raw()),
            Key::Host(key) => self.hosts.get(key).map(|entity| entity.raw()),
            Key::Lun(key) => self.luns.get(key).map(|entity| entity.raw()),
            Key::Lu(key) => self.lus.get(key).map(|entity| entity.raw()),
            Key::Place(key) => self.placements.get(key).map(|entity| entity.raw()),
            Key::Leader => self.leader.as_ref().map(|entity| entity.raw()),
            Key::Other(key) => self.others.get(key).map(|raw| raw.as_slice()),
        }
    }

    /// The writer level that a change of `key` needs: that of the entity as it is, and that of the map.
    pub fn min_writer(&self, key: &Key) -> u32 {
        let of_entity = match key {
            Key::Meta => 0,
            Key::Daemon(key) => self.daemons.get(key).map_or(0, |entity| entity.min_writer),
            Key::Target(key) => self.targets.get(key).map_or(0, |entity| entity.min_writer),
            Key::Host(key) => self.hosts.get(key).map_or(0, |entity| entity.min_writer),
            Key::Lun(key) => self.luns.get(key).map_or(0, |entity| entity.min_writer),
            Key::Lu(key) => self.lus.get(key).map_or(0, |entity| entity.min_writer),
            Key::Place(key) => self.placements.get(key).map_or(0, |entity| entity.min_writer),
            Key::Leader => self.leader.as_ref().map_or(0, |entity| entity.min_writer),
            // Whoever made the kind knows it, and is newer.
            Key::Other(_) => WRITER + 1,
        };
        of_entity.max(self.meta.min_writer)
    }

    /// Puts `raw` under `key`, or removes the key.
    pub(crate) fn set(&mut self, key: &Key, raw: Option<&[u8]>) -> Result<(), Corrupt> {
        match key {
            Key::Meta => self.meta = Arc::new(stored(key, raw.ok_or(Corrupt::MissingMeta)?)?),
            Key::Daemon(k) => put(&mut self.daemons, key, k, raw)?,
            Key::Target(k) => put(&mut self.targets, key, k, raw)?,
            Key::Host(k) => put(&mut self.hosts, key, k, raw)?,
            Key::Lun(k) => put(&mut self.luns, key, k, raw)?,
            Key::Lu(k) => put(&mut self.lus, key, k, raw)?,
            Key::Place(k) => put(&mut self.placements, key, k, raw)?,
            Key::Leader => self.leader = raw.map(|raw| stored(key, raw)).transpose()?.map(Arc::new),
            Key::Other(k) => match raw {
                Some(raw) if raw.len() > ENTITY_BYTES_MAX => {
                    let why = format!("{} bytes are more than {ENTITY_BYTES_MAX}", raw.len());
                    return Err(Corrupt::Undecodable { key: key.to_string(), why });
                }
                Some(raw) => drop(self.others.insert(k.clone(), Arc::new(raw.to_vec()))),
                None => drop(self.others.remove(k)),
            },
        }
        Ok(())
    }
}

fn put<K: Ord + Clone, T: Entity>(
    table: &mut Table<K, Stored<T>>,
    key: &Key,
    k: &K,
    raw: Option<&[u8]>,
) -> Result<(), Corrupt> {
    match raw {
        Some(raw) => drop(table.insert(k.clone(), Arc::new(stored(key, raw)?))),
        None => drop(table.remove(k)),
    }
    Ok(())
}

/// Two maps are equal if their epochs, times and every stored byte are.
impl PartialEq for LusMap {
    fn eq(&self, other: &Self) -> bool {
        self.epoch == other.epoch
            && self.modified == other.modified
            && self.entities() == other.entities()
            && self.raw_entries().eq(other.raw_entries())
    }
}

impl Eq for LusMap {}

/// The values of a table as a JSON array.
struct Values<'a, K, V>(&'a Table<K, V>);

impl<K: Ord + Clone, V: Serialize> Serialize for Values<'_, K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|(_, value)| &**value))
    }
}

/// The view for `-f json`: epoch, fsid, created, modified, flags ..., then an array for each kind.
impl Serialize for LusMap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut view = serializer.serialize_struct("LusMap", 16)?;
        view.serialize_field("epoch", &self.epoch)?;
        view.serialize_field("fsid", &self.meta.fsid)?;
        view.serialize_field("created", &self.meta.created)?;
        view.serialize_field("modified", &self.modified)?;
        view.serialize_field("min_writer", &self.meta.min_writer)?;
        view.serialize_field("required_features", &self.meta.required_features)?;
        view.serialize_field("leader_term", &self.meta.leader_term)?;
        view.serialize_field("raft_incarnation", &self.meta.raft_incarnation)?;
        view.serialize_field("flags", &self.meta.flags)?;
        view.serialize_field("leader", &self.leader())?;
        view.serialize_field("daemons", &Values(&self.daemons))?;
        view.serialize_field("targets", &Values(&self.targets))?;
        view.serialize_field("hosts", &Values(&self.hosts))?;
        view.serialize_field("luns", &Values(&self.luns))?;
        view.serialize_field("lus", &Values(&self.lus))?;
        view.serialize_field("placements", &Values(&self.placements))?;
        view.end()
    }
}
