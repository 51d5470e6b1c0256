//! The LUS map: the state of a cluster of `lusd` daemons at an epoch, and the steps from one epoch to the next.
//!
//! Pure: no I/O, no clock, no random numbers, no threads; times and ids are arguments. Where the map is kept is the
//! business of the crate `lus-map-store`.
//!
//! ```text
//!   an intent, a map ──change::*──► Increment ──LusMap::apply──► the next map ──LusMap::diff──► what a daemon has to do
//!                        │                      LusMap::take_back ◄── (a past map)
//!                        └─► Refusal (errno, sentence)
//! ```
//!
//! Invariants:
//! - A map is a value. `apply` is a function of a map and an increment, and replaying all increments gives the map that
//!   is read whole, byte for byte.
//! - What this program does not change it writes never again: each entity keeps the bytes it was read from.
//! - What a newer program wrote with a higher `min_writer` is read, and never written.
//! - [`LusMap::check`] holds before and after every change that [`change`] makes.
//! - What changed costs; what did not is shared between one epoch and the next.
//! - A secret is in no map, no record, no increment, and in nothing that `Debug` or `Serialize` shows.
#![forbid(unsafe_code)]

mod apply;
pub mod candidate;
pub mod change;
mod check;
mod diff;
mod dump;
pub mod events;
mod flag;
pub mod health;
mod id;
pub mod increment;
pub mod judge;
mod key;
pub mod lease;
mod map;
mod model;
mod placement;
pub mod record;
pub mod secrets;
mod table;
#[cfg(test)]
mod testing;
mod time;
mod wire;

pub use apply::ApplyError;
pub use candidate::Candidate;
pub use change::{Change, Refusal};
pub use check::{Invariant, VIOLATIONS_MAX, Violation};
pub use diff::{Delta, MapDiff, Shared};
pub use events::{Event, EventKind};
pub use flag::Flag;
pub use health::{HealthCheck, Severity};
pub use id::{
    BadName, ClientAddr, DAEMON_ID_BYTES_MAX, DaemonId, Epoch, ISCSI_NAME_BYTES_MAX, ImageSpec, Iqn, LUN_MAX,
    LuId, LuName, Lun, VolatileName, Wwn,
};
pub use increment::{INCREMENTS_KEPT, Increment, KeyChange, Origin};
pub use judge::{Judge, Verdict};
pub use key::{
    BadKey, EPOCH_XATTR, HostKey, INCREMENT_PREFIX, InstanceKey, KEY_BYTES_MAX, Key, LunKey, MAP_OBJECT,
    increment_epoch, increment_key,
};
pub use lease::{LEASE_XATTR, Lease};
pub use map::LusMap;
pub use model::{
    ADDRESSES_MAX, Backend, BlockSize, DOWNS_MAX, DaemonInstance, FEATURES, FENCED_MAX, FLAPPING_DOWNS,
    FLAPPING_WINDOW, Fenced, Host, InstanceState, Leader, Lu, LunMapping, Meta, PORTALS_MAX,
    PRODUCT_BYTES_MAX, PRODUCT_DEFAULT, PhysicalBlockSize, Placement, PlacementReason, SERIAL_BYTES_MAX,
    Target, VENDOR_BYTES_MAX, VENDOR_DEFAULT, WEIGHT_DEFAULT, WEIGHT_MAX, WRITER,
};
pub use placement::choose;
pub use record::{Handover, Holder, LuRecord, LuState, RecordError};
pub use secrets::{Chap, Credentials, Secret, Secrets, SecretsRefusal, Subject};
pub use time::Timestamp;
pub use wire::{Corrupt, ENTITY_BYTES_MAX, LoadError, Stored};
