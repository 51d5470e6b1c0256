//! Between entities and their stored bytes: `proto/lus_map.proto` says what the bytes are and who may write them.
//!
//! [`Stored`] keeps the very bytes that were read beside the decoded value. What is written again without a change is
//! those bytes, so fields of a newer program survive in every entity that was not changed.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::ops::Deref;
use std::str::FromStr;

use prost::Message;
use serde::{Serialize, Serializer};
use uuid::Uuid;

use crate::id::{ClientAddr, DaemonId, Epoch, ImageSpec, Iqn, LuId, Lun, VolatileName};
use crate::key::{BadKey, Key, MAP_OBJECT};
use crate::model::{
    ADDRESSES_MAX, Backend, BlockSize, DOWNS_MAX, DaemonInstance, FENCED_MAX, Fenced, Host, InstanceState,
    Leader, Lu, LunMapping, Meta, PORTALS_MAX, PRODUCT_BYTES_MAX, PhysicalBlockSize, Placement,
    PlacementReason, SERIAL_BYTES_MAX, Target, VENDOR_BYTES_MAX, WEIGHT_DEFAULT, WEIGHT_MAX, is_line_text,
    is_scsi_text,
};
use crate::time::Timestamp;

/// The generated types. Nothing outside of the wire modules sees them.
pub(crate) mod pb {
    #![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
    include!(concat!(env!("OUT_DIR"), "/lus.map.v1.rs"));
}

/// Largest stored entity in bytes. The largest one, a daemon with all its addresses, has about 100 KiB.
pub const ENTITY_BYTES_MAX: usize = 256 * 1024;
/// Longest text of a feature or flag in bytes.
const WORD_BYTES_MAX: usize = 64;
/// Features or flags at most.
const WORDS_MAX: usize = 256;
/// Longest image id of librbd in bytes; it makes them of 12 to 24 hex digits.
const IMAGE_ID_BYTES_MAX: usize = 64;

/// Why stored bytes are not a map. Each names the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Corrupt {
    /// The object has no epoch.
    #[error("xattr 'epoch' is missing")]
    MissingEpoch,
    /// The epoch is not one.
    #[error("xattr 'epoch' is not a decimal number above 0: '{0}'")]
    BadEpoch(String),
    /// The entity of the map as a whole is not there.
    #[error("key 'meta' is missing")]
    MissingMeta,
    /// A key of a known kind in no form of that kind.
    #[error(transparent)]
    BadKey(#[from] BadKey),
    /// A value that is no entity.
    #[error("key '{key}' cannot be decoded: {why}")]
    Undecodable {
        /// The key.
        key: String,
        /// The first thing that is wrong.
        why: String,
    },
    /// A value that belongs to another key.
    #[error("key '{key}' holds what belongs to key '{holds}'")]
    WrongKey {
        /// The key.
        key: String,
        /// The key that the value names.
        holds: String,
    },
    /// An increment that must be there is not.
    #[error("key '{key}' is missing although the map's epoch is {epoch}")]
    IncrementGap {
        /// The key.
        key: String,
        /// The epoch of the map.
        epoch: Epoch,
    },
}

/// Why a map was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The stored bytes are not a map.
    #[error("object '{MAP_OBJECT}' is corrupt: {0}")]
    Corrupt(#[from] Corrupt),
    /// The map asks for what this program does not know.
    #[error("object '{MAP_OBJECT}' requires features that this version does not have: {}", .0.join(", "))]
    UnknownFeatures(Vec<String>),
}

/// A kind of entity: a value with a key of its own and a stored form.
pub(crate) trait Entity: Sized {
    /// The key that the value itself names.
    fn omap_key(&self) -> Key;
    /// The stored form.
    fn to_bytes(&self) -> Vec<u8>;
    /// The value of a stored form, or what is wrong with it.
    fn from_bytes(raw: &[u8]) -> Result<Self, String>;
}

/// An entity with the bytes that it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored<T> {
    value: T,
    raw: Box<[u8]>,
}

impl<T> Stored<T> {
    /// The bytes as they are in RADOS.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }
}

impl<T> Deref for Stored<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Serialize> Serialize for Stored<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

/// Decodes what is stored under `key`.
pub(crate) fn stored<T: Entity>(key: &Key, raw: &[u8]) -> Result<Stored<T>, Corrupt> {
    let undecodable = |why| Corrupt::Undecodable { key: key.to_string(), why };
    if raw.len() > ENTITY_BYTES_MAX {
        return Err(undecodable(format!("{} bytes are more than {ENTITY_BYTES_MAX}", raw.len())));
    }
    let value = T::from_bytes(raw).map_err(undecodable)?;
    let holds = value.omap_key();
    if holds != *key {
        return Err(Corrupt::WrongKey { key: key.to_string(), holds: holds.to_string() });
    }
    Ok(Stored { value, raw: raw.into() })
}

/// Decodes protobuf, with the reason as text.
pub(crate) fn message<M: Message + Default>(raw: &[u8]) -> Result<M, String> {
    M::decode(raw).map_err(|error| error.to_string())
}

/// A checked name out of a stored text, in its canonical spelling only.
pub(crate) fn name<T: FromStr<Err = crate::BadName> + ToString>(text: &str) -> Result<T, String> {
    let name: T = text.parse().map_err(|error: crate::BadName| error.to_string())?;
    if name.to_string() == text { Ok(name) } else { Err(format!("'{text}' is not in its canonical form")) }
}

/// An id of 16 bytes.
pub(crate) fn uuid(bytes: &[u8]) -> Result<Uuid, String> {
    Uuid::from_slice(bytes).map_err(|_| format!("an id of {} bytes, 16 are wanted", bytes.len()))
}

fn words(words: Vec<String>) -> Result<BTreeSet<String>, String> {
    if words.len() > WORDS_MAX || words.iter().any(|word| word.len() > WORD_BYTES_MAX || !is_line_text(word))
    {
        return Err("too many or too long features or flags".to_owned());
    }
    Ok(words.into_iter().collect())
}

fn addrs(texts: &[String]) -> Result<Vec<ClientAddr>, String> {
    texts.iter().map(|text| name(text)).collect()
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(T::to_string).collect()
}

fn bounded(what: &str, len: usize, max: usize) -> Result<(), String> {
    if len > max { Err(format!("{len} {what} are more than {max}")) } else { Ok(()) }
}

impl Entity for Meta {
    fn omap_key(&self) -> Key {
        Key::Meta
    }

    fn to_bytes(&self) -> Vec<u8> {
        pb::Meta {
            min_writer: self.min_writer,
            fsid: self.fsid.as_bytes().to_vec(),
            created_us: self.created.0,
            required_features: self.required_features.iter().cloned().collect(),
            leader_term: self.leader_term,
            raft_incarnation: self.raft_incarnation,
            flags: self.flags.iter().cloned().collect(),
        }
        .encode_to_vec()
    }

    fn from_bytes(raw: &[u8]) -> Result<Self, String> {
        let meta: pb::Meta = message(raw)?;
        Ok(Self {
            min_writer: meta.min_writer,
            fsid: uuid(&meta.fsid)?,
            created: Timestamp(meta.created_us),
            required_features: words(meta.required_features)?,
            leader_term: meta.leader_term,
            raft_incarnation: meta.raft_incarnation,
            flags: words(meta.flags)?,
        })
    }
}

impl Entity for Leader {
    fn omap_key(&self) -> Key {
        Key::Leader
    }

    fn to_bytes(&self) -> Vec<u8> {
        pb::Leader {
            min_writer: self.min_writer,
            daemon: self.daemon.to_string(),
            up_from: self.up_from.0,
            term: self.term,
            taken_us: self.taken.0,
        }
        .encode_to_vec()
    }

    fn from_bytes(raw: &[u8]) -> Result<Self, String> {
        let leader: pb::Leader = message(raw)?;
        Ok(Self {
            min_writer: leader.min_writer,
            daemon: name(&leader.daemon)?,
            up_from: Epoch(leader.up_from),
            term: leader.term,
            taken: Timestamp(leader.taken_us),
        })
    }
}

impl Entity for DaemonInstance {
    fn omap_key(&self) -> Key {
        Key::Daemon(self.key())
    }

    fn to_bytes(&self) -> Vec<u8> {
        let state = match self.state {
            InstanceState::Up => pb::daemon_instance::State::Up,
            InstanceState::Retired { .. } => pb::daemon_instance::State::Retired,
            InstanceState::Down { .. } => pb::daemon_instance::State::Down,
        };
        let fenced = |f: &Fenced| pb::Fenced { addr: f.addr.to_string(), osd_epoch: f.osd_epoch };
        pb::DaemonInstance {
            min_writer: self.min_writer,
            id: self.id.to_string(),
            up_from: self.up_from.0,
            state: state.into(),
            down_at: self.state.down_at().unwrap_or_default().0,
            portal_group_tag: u32::from(self.portal_group_tag.get()),
            portals: texts(&self.portals),
            hostname: self.hostname.clone(),
            version: self.version.clone(),
            registered_us: self.registered.0,
            control_addr: self.control_addr.as_ref().map(ClientAddr::to_string).unwrap_or_default(),
            data_addrs: texts(&self.data_addrs),
            to_fence: texts(&self.to_fence),
            fenced: self.fenced.iter().map(fenced).collect(),
            weight: (self.weight != WEIGHT_DEFAULT).then_some(self.weight),
            out: self.out,
            downs_us: self.downs.iter().map(|at| at.0).collect(),
            leaving: self.leaving,
        }
        .encode_to_vec()
    }

    fn from_bytes(raw: &[u8]) -> Result<Self, String> {
        let daemon: pb::DaemonInstance = message(raw)?;
        let down_at = Epoch(daemon.down_at);
        let state = match (daemon.state(), daemon.down_at) {
            (pb::daemon_instance::State::Up, 0) => InstanceState::Up,
            (pb::daemon_instance::State::Retired, 1..) => InstanceState::Retired { down_at },
            (pb::daemon_instance::State::Down, 1..) => InstanceState::Down { down_at },
            (state, at) => return Err(format!("state {} ({state:?}) with down_at {at}", daemon.state)),
        };
        bounded("portals", daemon.portals.len(), PORTALS_MAX)?;
        bounded("downs", daemon.downs_us.len(), DOWNS_MAX)?;
        bounded("fenced clients", daemon.fenced.len(), FENCED_MAX)?;
        bounded("client addresses", 1 + daemon.data_addrs.len() + daemon.to_fence.len(), ADDRESSES_MAX)?;
        if !is_line_text(&daemon.hostname) || !is_line_text(&daemon.version) {
            return Err("host name or version is too long or unprintable".to_owned());
        }
        let tag = u16::try_from(daemon.portal_group_tag).ok().and_then(NonZeroU16::new);
        let fenced = |f: &pb::Fenced| Ok(Fenced { addr: name(&f.addr)?, osd_epoch: f.osd_epoch });
        let control = Some(daemon.control_addr.as_str()).filter(|text| !text.is_empty());
        Ok(Self {
            min_writer: daemon.min_writer,
            id: name(&daemon.id)?,
            up_from: Epoch(daemon.up_from),
            state,
            portal_group_tag: tag.ok_or("the portal group tag is not one of 1 to 65535")?,
            portals: daemon.portals.iter().map(|text| portal(text)).collect::<Result<_, _>>()?,
            hostname: daemon.hostname,
            version: daemon.version,
            registered: Timestamp(daemon.registered_us),
            control_addr: control.map(name).transpose()?,
            data_addrs: addrs(&daemon.data_addrs)?,
            to_fence: addrs(&daemon.to_fence)?,
            fenced: daemon.fenced.iter().map(fenced).collect::<Result<_, String>>()?,
            weight: Some(daemon.weight.unwrap_or(WEIGHT_DEFAULT))
                .filter(|weight| *weight <= WEIGHT_MAX)
                .ok_or("the weight is above 1000000")?,
            out: daemon.out,
            downs: daemon.downs_us.into_iter().map(Timestamp).collect(),
            leaving: daemon.leaving,
        })
    }
}

fn portal(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("'{text}' is no portal"))
}

impl Entity for Target {
    fn omap_key(&self) -> Key {
        Key::Target(self.iqn.clone())
    }

    fn to_bytes(&self) -> Vec<u8> {
        pb::Target {
            min_writer: self.min_writer,
            iqn: self.iqn.to_string(),
            open: self.open,
            created_us: self.created.0,
        }
        .encode_to_vec()
    }

    fn from_bytes(raw: &[u8]) -> Result<Self, String> {
        let target: pb::Target = message(raw)?;
        Ok(Self {
            min_writer: target.min_writer,
            iqn: name(&target.iqn)?,
            open: target.open,
            created: Timestamp(target.created_us),
        })
    }
}

impl Entity for Host {
    fn omap_key(&self) -> Key {
        Key::Host(self.key())
    }

    fn to_bytes(&self) -> Vec<u8> {
        pb::Host {
            min_writer: self.min_writer,
            target: self.target.to_string(),
            initiator: self.initiator.to_string(),
            created_us: self.created.0,
        }
        .encode_to_vec()
    }

    fn from_bytes(raw: &[u8]) -> Result<Self, String> {
        let host: pb::Host = message(raw)?;
        Ok(Self {
            min_writer: host.min_writer,
            target: name(&host.target)?,
            initiator: name(&host.initiator)?,
            created: Timestamp(host.created_us),
        })
    }
}

impl Entity for LunMapping {
    fn omap_key(&self) -> Key {
        Key::Lun(self.key())
    }

    fn to_bytes(&self) -> Vec<u8> {
        pb::LunMapping {
            min_writer: self.min_writer,
            target: self.target.to_string(),
            lun: u32::from(self.lun.number()),
            host: self.host.as_ref().map(Iqn::to_string).unwrap_or_default(),
            lu: self.lu.0.as_bytes().to_vec(),
            created_us: self.created.0,
        }
        .encode_to_vec()
    }

    fn from_bytes(raw: &[u8]) -> Result<Self, String> {
        let mapping: pb::LunMapping = message(raw)?;
        let lun = u16::try_from(mapping.lun).ok().and_then(Lun::new);
        let host = Some(mapping.host.as_str()).filter(|text| !text.is_empty());
        Ok(Self {
            min_writer: mapping.min_writer,
            target: name(&mapping.target)?,
            lun: lun.ok_or("the LUN is above 16383")?,
            host: host.map(name).transpose()?,
            lu: LuId(uuid(&mapping.lu)?),
            created: Timestamp(mapping.created_us),
        })
    }
}

impl Entity for Lu {
    fn omap_key(&self) -> Key {
        Key::Lu(self.id)
    }

    fn to_bytes(&self) -> Vec<u8> {
        let volatile =
            |name: &VolatileName, size_bytes| pb::lu::Volatile { name: name.to_string(), size_bytes };
        let backend = match &self.backend {
            Backend::Rbd { image, image_id } => pb::lu::Backend::Rbd(pb::lu::Rbd {
                pool: image.pool().to_owned(),
                namespace: image.namespace().to_owned(),
                image: image.image().to_owned(),
                image_id: image_id.clone(),
            }),
            Backend::Ram { name, size_bytes } => pb::lu::Backend::Ram(volatile(name, *size_bytes)),
            Backend::Null { name, size_bytes } => pb::lu::Backend::Null(volatile(name, *size_bytes)),
        };
        pb::Lu {
            min_writer: self.min_writer,
            id: self.id.0.as_bytes().to_vec(),
            backend: Some(backend),
            block_size: self.block_size.bytes(),
            physical_block_size: physical_block_bytes(self.physical_block_size),
            wwn: self.wwn.as_ref().map(ToString::to_string).unwrap_or_default(),
            serial: self.serial.clone(),
            vendor: self.vendor.clone(),
            product: self.product.clone(),
            read_only: self.read_only,
            created_us: self.created.0,
        }
        .encode_to_vec()
    }

    fn from_bytes(raw: &[u8]) -> Result<Self, String> {
        let lu: pb::Lu = message(raw)?;
        let wwn = Some(lu.wwn.as_str()).filter(|text| !text.is_empty());
        if !is_scsi_text(&lu.serial, SERIAL_BYTES_MAX)
            || !is_scsi_text(&lu.vendor, VENDOR_BYTES_MAX)
            || !is_scsi_text(&lu.product, PRODUCT_BYTES_MAX)
        {
            return Err("serial, vendor or product is empty, too long or unprintable".to_owned());
        }
        let block_size = BlockSize::new(lu.block_size).ok_or("the block size is neither 512 nor 4096")?;
        let physical_block_size = match lu.physical_block_size {
            0 => PhysicalBlockSize::default(),
            bytes => PhysicalBlockSize::new(bytes)
                .filter(|size| size.exponent(block_size).is_some())
                .ok_or("the physical block size is no power of two, or out of bounds")?,
        };
        Ok(Self {
            min_writer: lu.min_writer,
            id: LuId(uuid(&lu.id)?),
            backend: backend(lu.backend.ok_or("it has no backend that this version knows")?)?,
            block_size,
            physical_block_size,
            wwn: wwn.map(name).transpose()?,
            serial: lu.serial,
            vendor: lu.vendor,
            product: lu.product,
            read_only: lu.read_only,
            created: Timestamp(lu.created_us),
        })
    }
}

/// As it is stored: 0 for what it is where nothing else was asked for.
fn physical_block_bytes(size: PhysicalBlockSize) -> u32 {
    if size == PhysicalBlockSize::default() { 0 } else { size.bytes() }
}

fn backend(backend: pb::lu::Backend) -> Result<Backend, String> {
    match backend {
        pb::lu::Backend::Rbd(rbd) => {
            if rbd.image_id.is_empty()
                || rbd.image_id.len() > IMAGE_ID_BYTES_MAX
                || !is_line_text(&rbd.image_id)
            {
                return Err("the image id is empty, too long or unprintable".to_owned());
            }
            let image =
                ImageSpec::new(&rbd.pool, &rbd.namespace, &rbd.image).map_err(|error| error.to_string())?;
            Ok(Backend::Rbd { image, image_id: rbd.image_id })
        }
        pb::lu::Backend::Ram(ram) => Ok(Backend::Ram { name: name(&ram.name)?, size_bytes: ram.size_bytes }),
        pb::lu::Backend::Null(null) => {
            Ok(Backend::Null { name: name(&null.name)?, size_bytes: null.size_bytes })
        }
    }
}

impl Entity for Placement {
    fn omap_key(&self) -> Key {
        Key::Place(self.lu)
    }

    fn to_bytes(&self) -> Vec<u8> {
        let reason = match self.reason {
            PlacementReason::Created => pb::placement::Reason::Created.into(),
            PlacementReason::Registered => pb::placement::Reason::Registered.into(),
            PlacementReason::Moved => pb::placement::Reason::Moved.into(),
            PlacementReason::Pinned => pb::placement::Reason::Pinned.into(),
            PlacementReason::Drained => pb::placement::Reason::Drained.into(),
            PlacementReason::Failover => pb::placement::Reason::Failover.into(),
            PlacementReason::Rebalanced => pb::placement::Reason::Rebalanced.into(),
            PlacementReason::Other(number) => number,
        };
        pb::Placement {
            min_writer: self.min_writer,
            lu: self.lu.0.as_bytes().to_vec(),
            owner: self.owner.to_string(),
            since: self.since.0,
            reason,
            pinned: self.pin.is_some(),
            pin: self.pin.as_ref().map(ToString::to_string).unwrap_or_default(),
            moved_us: self.moved.0,
        }
        .encode_to_vec()
    }

    fn from_bytes(raw: &[u8]) -> Result<Self, String> {
        let placement: pb::Placement = message(raw)?;
        // It is for people to read; one that is not known stands in nobody's way.
        let reason = match pb::placement::Reason::try_from(placement.reason) {
            Ok(pb::placement::Reason::Created) => PlacementReason::Created,
            Ok(pb::placement::Reason::Registered) => PlacementReason::Registered,
            Ok(pb::placement::Reason::Moved) => PlacementReason::Moved,
            Ok(pb::placement::Reason::Pinned) => PlacementReason::Pinned,
            Ok(pb::placement::Reason::Drained) => PlacementReason::Drained,
            Ok(pb::placement::Reason::Failover) => PlacementReason::Failover,
            Ok(pb::placement::Reason::Rebalanced) => PlacementReason::Rebalanced,
            Ok(pb::placement::Reason::Unspecified) | Err(_) => PlacementReason::Other(placement.reason),
        };
        let owner: DaemonId = name(&placement.owner)?;
        let pin = match placement.pin.as_str() {
            // The first version could say that there is a pin, not where to, and never did.
            "" => placement.pinned.then(|| owner.clone()),
            pin => Some(name(pin)?),
        };
        Ok(Self {
            min_writer: placement.min_writer,
            lu: LuId(uuid(&placement.lu)?),
            owner,
            since: Epoch(placement.since),
            reason,
            pinned: pin.is_some(),
            pin,
            moved: Timestamp(placement.moved_us),
        })
    }
}
