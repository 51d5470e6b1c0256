//! The entities of the map as values. What is in here is checked; how it is stored is in [`wire`](crate::wire).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use serde::Serialize;
use serde::ser::SerializeStruct;
use uuid::Uuid;

use crate::id::{ClientAddr, DaemonId, Epoch, ImageSpec, Iqn, LuId, LuName, Lun, VolatileName, Wwn};
use crate::key::{HostKey, InstanceKey, LunKey};
use crate::time::Timestamp;

/// The writer level of this program: it may write what asks for no more (`min_writer`).
pub const WRITER: u32 = 2;
/// What entities ask for that hold nothing which older programs would lose.
pub(crate) const BASE_WRITER: u32 = 1;
/// The required features that this program knows.
pub const FEATURES: &[&str] = &[];
/// Portals that a daemon announces at most; each is a line in every SendTargets answer.
pub const PORTALS_MAX: usize = 64;
/// RADOS clients of a daemon on record at most, fenced ones apart: some per start, of as many starts as went unfenced.
pub const ADDRESSES_MAX: usize = 1024;
/// Fenced clients remembered per daemon; the oldest ones are forgotten, fencing them again does no harm.
pub const FENCED_MAX: usize = 64;
/// Longest host name or version text of a daemon in bytes.
pub(crate) const TEXT_BYTES_MAX: usize = 255;
/// A daemon that goes down so often within [`FLAPPING_WINDOW`] is flapping.
pub const FLAPPING_DOWNS: usize = 3;
/// See [`FLAPPING_DOWNS`].
pub const FLAPPING_WINDOW: Duration = Duration::from_secs(600);
/// Downs remembered per daemon: more than make it a flapping one.
pub const DOWNS_MAX: usize = 8;
/// The weight of a daemon that has none set, in thousandths.
pub const WEIGHT_DEFAULT: u32 = 1000;
/// The highest weight in thousandths.
pub const WEIGHT_MAX: u32 = 1_000_000;
/// VPD 80h serial in bytes at most: what common hosts keep of it.
pub const SERIAL_BYTES_MAX: usize = 64;
/// T10 vendor identification in bytes at most (SPC-4 6.6.2).
pub const VENDOR_BYTES_MAX: usize = 8;
/// Product identification in bytes at most (SPC-4 6.6.2).
pub const PRODUCT_BYTES_MAX: usize = 16;
/// The vendor of a logical unit that has none set.
pub const VENDOR_DEFAULT: &str = "CEPH";
/// The product of a logical unit that has none set.
pub const PRODUCT_DEFAULT: &str = "LUS";

/// What concerns the map as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Meta {
    /// Who has less than this writer level must not change anything in the map.
    pub min_writer: u32,
    /// The Ceph cluster that the map belongs to.
    pub fsid: Uuid,
    /// When the map was created.
    pub created: Timestamp,
    /// What a program must know to read this map at all.
    pub required_features: BTreeSet<String>,
    /// The term of the latest leader; 0 before the first.
    pub leader_term: u64,
    /// Raised by each reset of the quorum.
    pub raft_incarnation: u64,
    /// What an administrator has set: `noout`, `nomove`, `nofailover`.
    pub flags: BTreeSet<String>,
}

impl Meta {
    /// The required features that this program does not know.
    pub fn unknown_features(&self) -> Vec<String> {
        self.required_features.iter().filter(|name| !FEATURES.contains(&name.as_str())).cloned().collect()
    }
}

/// Who leads: places what failed, balances, declares down. One in each term.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Leader {
    /// See [`WRITER`].
    #[serde(skip)]
    pub min_writer: u32,
    /// The daemon.
    pub daemon: DaemonId,
    /// Its start.
    pub up_from: Epoch,
    /// The term: that of [`Meta::leader_term`].
    pub term: u64,
    /// When it took the leadership.
    pub taken: Timestamp,
}

impl Leader {
    /// The key of the start that leads.
    pub fn instance(&self) -> InstanceKey {
        InstanceKey { id: self.daemon.clone(), up_from: self.up_from }
    }
}

/// Whether a start of a daemon still counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum InstanceState {
    /// It registered, and nothing else is known.
    Up,
    /// It ended with nothing in flight; none of its own clients is left.
    Retired {
        /// The epoch that says so.
        down_at: Epoch,
    },
    /// It was declared down; its clients may still have something in flight.
    Down {
        /// The epoch that says so.
        down_at: Epoch,
    },
}

impl InstanceState {
    /// Whether it is [`Up`](Self::Up).
    pub fn is_up(self) -> bool {
        self == Self::Up
    }

    /// The epoch since which it is not up.
    pub fn down_at(self) -> Option<Epoch> {
        match self {
            Self::Up => None,
            Self::Retired { down_at } | Self::Down { down_at } => Some(down_at),
        }
    }
}

/// A RADOS client on the OSD blocklist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fenced {
    /// The client.
    pub addr: ClientAddr,
    /// An OSD map epoch that has the entry.
    pub osd_epoch: u64,
}

/// One start of a daemon. A later start of the same daemon is another instance and takes this one's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DaemonInstance {
    /// See [`WRITER`].
    #[serde(skip)]
    pub min_writer: u32,
    /// The daemon.
    pub id: DaemonId,
    /// The epoch that the registration made.
    pub up_from: Epoch,
    /// Whether it still counts.
    #[serde(flatten)]
    pub state: InstanceState,
    /// The daemon's target portal group tag (RFC 7143 3.4.1) and relative target port id: the same at every start.
    pub portal_group_tag: NonZeroU16,
    /// Where it accepts iSCSI.
    pub portals: Vec<SocketAddr>,
    /// The name of its machine.
    pub hostname: String,
    /// The version of its program.
    pub version: String,
    /// When it registered.
    pub registered: Timestamp,
    /// Its RADOS client for map and records; none once that is fenced or ended.
    pub control_addr: Option<ClientAddr>,
    /// Its RADOS clients for images, on record before their first read-write open.
    pub data_addrs: Vec<ClientAddr>,
    /// Clients of older instances that are not known to be fenced.
    pub to_fence: Vec<ClientAddr>,
    /// Clients that are fenced, oldest first, at most [`FENCED_MAX`].
    pub fenced: Vec<Fenced>,
    /// Its share of the logical units, in thousandths of the common one.
    pub weight: u32,
    /// Whether it is kept from getting logical units.
    pub out: bool,
    /// When starts of this daemon went down without an end in order, oldest first, at most [`DOWNS_MAX`].
    pub downs: Vec<Timestamp>,
    /// Whether this start hands over its units, to end.
    pub leaving: bool,
}

impl DaemonInstance {
    /// Its key.
    pub fn key(&self) -> InstanceKey {
        InstanceKey { id: self.id.clone(), up_from: self.up_from }
    }

    /// The clients on record that are not known to be fenced: its own and the inherited ones.
    pub fn unfenced(&self) -> impl Iterator<Item = &ClientAddr> {
        self.control_addr.iter().chain(&self.data_addrs).chain(&self.to_fence)
    }

    /// Whether it may get logical units: up, not about to end, in, and of some weight.
    pub fn takes_units(&self) -> bool {
        self.state.is_up() && !self.leaving && !self.out && self.weight > 0
    }

    /// Whether it goes down so often that units do not come to it by themselves: [`FLAPPING_DOWNS`] times within
    /// [`FLAPPING_WINDOW`], and for as long since the last time.
    pub fn is_flapping(&self, now: Timestamp) -> bool {
        let Some(first) = self.downs.len().checked_sub(FLAPPING_DOWNS).map(|at| self.downs[at]) else {
            return false;
        };
        let last = self.downs[self.downs.len() - 1];
        last.distance(first) <= FLAPPING_WINDOW && now.distance(last) < FLAPPING_WINDOW
    }

    /// Remembers that a start went down without an end in order.
    pub(crate) fn note_down(&mut self, at: Timestamp) {
        self.downs.push(at);
        let excess = self.downs.len().saturating_sub(DOWNS_MAX);
        self.downs.drain(..excess);
    }
}

/// An iSCSI target: a node name that every daemon answers to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Target {
    /// See [`WRITER`].
    #[serde(skip)]
    pub min_writer: u32,
    /// The node name.
    pub iqn: Iqn,
    /// Whether any initiator may log in, without authentication.
    pub open: bool,
    /// When it was created.
    pub created: Timestamp,
}

/// An initiator that a target names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Host {
    /// See [`WRITER`].
    #[serde(skip)]
    pub min_writer: u32,
    /// The target.
    pub target: Iqn,
    /// The initiator.
    pub initiator: Iqn,
    /// When it was added.
    pub created: Timestamp,
}

impl Host {
    /// Its key.
    pub fn key(&self) -> HostKey {
        HostKey { target: self.target.clone(), initiator: self.initiator.clone() }
    }
}

/// A logical unit under a number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LunMapping {
    /// See [`WRITER`].
    #[serde(skip)]
    pub min_writer: u32,
    /// The target.
    pub target: Iqn,
    /// The number.
    pub lun: Lun,
    /// The one host that sees it; none: all that may log in.
    pub host: Option<Iqn>,
    /// The logical unit.
    pub lu: LuId,
    /// When it was mapped.
    pub created: Timestamp,
}

impl LunMapping {
    /// Its key.
    pub fn key(&self) -> LunKey {
        LunKey { target: self.target.clone(), lun: self.lun, host: self.host.clone() }
    }
}

/// What holds the blocks of a logical unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// An RBD image.
    Rbd {
        /// Where it is found.
        image: ImageSpec,
        /// librbd's id of it: another image of the same name has another.
        image_id: String,
    },
    /// Memory of the daemon; lost with it.
    Ram {
        /// The part of the name after `ram:`.
        name: VolatileName,
        /// Size in bytes.
        size_bytes: u64,
    },
    /// Nothing: reads give zeroes.
    Null {
        /// The part of the name after `null:`.
        name: VolatileName,
        /// Size in bytes.
        size_bytes: u64,
    },
}

impl Backend {
    /// What an administrator calls the unit.
    pub fn name(&self) -> LuName {
        match self {
            Self::Rbd { image, .. } => LuName::Rbd(image.clone()),
            Self::Ram { name, .. } => LuName::Ram(name.clone()),
            Self::Null { name, .. } => LuName::Null(name.clone()),
        }
    }

    /// Whether this backend's unit is called `name`; [`name`](Self::name) without making one.
    pub fn is_named(&self, name: &LuName) -> bool {
        match (self, name) {
            (Self::Rbd { image, .. }, LuName::Rbd(wanted)) => image == wanted,
            (Self::Ram { name, .. }, LuName::Ram(wanted)) => name == wanted,
            (Self::Null { name, .. }, LuName::Null(wanted)) => name == wanted,
            _ => false,
        }
    }

    /// Size in bytes where the map holds it: volatile units only, an image knows its own.
    pub fn size_bytes(&self) -> Option<u64> {
        match self {
            Self::Rbd { .. } => None,
            Self::Ram { size_bytes, .. } | Self::Null { size_bytes, .. } => Some(*size_bytes),
        }
    }
}

impl Serialize for Backend {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (kind, image_id) = match self {
            Self::Rbd { image_id, .. } => ("rbd", Some(image_id)),
            Self::Ram { .. } => ("ram", None),
            Self::Null { .. } => ("null", None),
        };
        let mut view = serializer.serialize_struct("Backend", 3)?;
        view.serialize_field("name", &self.name())?;
        view.serialize_field("backend", kind)?;
        match image_id {
            Some(image_id) => view.serialize_field("image_id", image_id)?,
            None => view.serialize_field("size_bytes", &self.size_bytes())?,
        }
        view.end()
    }
}

/// The size of a logical block (SBC-3 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockSize {
    /// 512 bytes.
    B512,
    /// 4096 bytes.
    B4096,
}

impl BlockSize {
    /// The size of `bytes`, if it is one of the two.
    pub fn new(bytes: u32) -> Option<Self> {
        match bytes {
            512 => Some(Self::B512),
            4096 => Some(Self::B4096),
            _ => None,
        }
    }

    /// In bytes.
    pub fn bytes(self) -> u32 {
        match self {
            Self::B512 => 512,
            Self::B4096 => 4096,
        }
    }
}

impl Serialize for BlockSize {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.bytes())
    }
}

/// The size of a physical block (SBC-3 4.6): what hosts align to. A power of two of bytes, a logical block at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct PhysicalBlockSize(u32);

impl PhysicalBlockSize {
    /// The smallest one, in bytes.
    pub const MIN: u32 = 512;
    /// The greatest one, in bytes: BlueStore's largest allocation unit in the field.
    pub const MAX: u32 = 65536;

    /// The size of `bytes`, if it is a power of two within the bounds.
    pub fn new(bytes: u32) -> Option<Self> {
        (bytes.is_power_of_two() && (Self::MIN..=Self::MAX).contains(&bytes)).then_some(Self(bytes))
    }

    /// In bytes.
    pub fn bytes(self) -> u32 {
        self.0
    }

    /// Base 2 logarithm of how many logical blocks it has; `None` if it is less than one.
    pub fn exponent(self, block_size: BlockSize) -> Option<u8> {
        let blocks = self.0 / block_size.bytes();
        blocks.checked_ilog2().map(|exponent| exponent as u8)
    }
}

impl Default for PhysicalBlockSize {
    /// 4096 bytes: BlueStore's allocation unit.
    fn default() -> Self {
        Self(4096)
    }
}

/// What an entity asks for that has a physical block size of its own: older programs would lose it.
pub(crate) const PHYSICAL_BLOCK_WRITER: u32 = 2;

/// A logical unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lu {
    /// See [`WRITER`].
    #[serde(skip)]
    pub min_writer: u32,
    /// Its id, for its whole life.
    pub id: LuId,
    /// What holds its blocks; also gives the name.
    #[serde(flatten)]
    pub backend: Backend,
    /// The size of its blocks.
    pub block_size: BlockSize,
    /// The size of its physical blocks.
    pub physical_block_size: PhysicalBlockSize,
    /// A given world wide name; none: one of NAA type 3 is made from the id.
    pub wwn: Option<Wwn>,
    /// The unit serial number (VPD 80h).
    pub serial: String,
    /// T10 vendor identification.
    pub vendor: String,
    /// Product identification.
    pub product: String,
    /// Whether writes are refused.
    pub read_only: bool,
    /// When it was added.
    pub created: Timestamp,
}

impl Lu {
    /// What an administrator calls it.
    pub fn name(&self) -> LuName {
        self.backend.name()
    }
}

/// Why a placement is as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlacementReason {
    /// Chosen by whoever added the unit.
    Created,
    /// Chosen by a daemon that found the unit without an owner.
    Registered,
    /// An administrator said so; it stays as long as the owner may have units.
    Moved,
    /// An administrator pinned it there.
    Pinned,
    /// It had to leave a daemon that is to have none.
    Drained,
    /// Chosen by the leader, as the owner before was not up.
    Failover,
    /// Brought by the leader to where it belongs.
    Rebalanced,
    /// One of a newer program, by its number.
    Other(i32),
}

impl PlacementReason {
    /// Whether only a leader moves a unit that has an owner for this reason. One of a newer program is its business.
    pub(crate) fn is_leaders(self) -> bool {
        match self {
            Self::Created | Self::Registered | Self::Failover | Self::Rebalanced => true,
            Self::Moved | Self::Pinned | Self::Drained | Self::Other(_) => false,
        }
    }
}

impl Serialize for PlacementReason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Which daemon should own a logical unit. The lock makes it true.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Placement {
    /// See [`WRITER`].
    #[serde(skip)]
    pub min_writer: u32,
    /// The logical unit.
    pub lu: LuId,
    /// The daemon.
    pub owner: DaemonId,
    /// The epoch that placed it.
    pub since: Epoch,
    /// Why there.
    pub reason: PlacementReason,
    /// Whether there is a [`pin`](Self::pin).
    pub pinned: bool,
    /// The daemon where an administrator wants it whenever that daemon may have units.
    pub pin: Option<DaemonId>,
    /// When it came to its owner; 0: not known.
    pub moved: Timestamp,
}

/// Whether `text` is printable ASCII of at most `bytes_max` bytes and at least one: what a SCSI text field takes.
pub(crate) fn is_scsi_text(text: &str, bytes_max: usize) -> bool {
    !text.is_empty() && text.len() <= bytes_max && text.bytes().all(|b| (0x20..=0x7e).contains(&b))
}

/// Whether `text` is short and free of control characters: what a line of a dump takes.
pub(crate) fn is_line_text(text: &str) -> bool {
    text.len() <= TEXT_BYTES_MAX && !text.chars().any(char::is_control)
}
