//! The LUS map, the records of its logical units and the CHAP secrets as RADOS objects.
//!
//! ```text
//!                    ┌─ MapStore ── load, refresh, update (compare-and-set), past ──┐
//!   lusd, lus, ... ──┼─ MapWatch ── watch, notify, slow poll ──► Arc<LusMap>        ├── Objects ── RADOS pool
//!                    ├─ RecordStore ── read, compare-and-set of `lu.<id>` ──────────┤       (or memory, for tests)
//!                    └─ SecretStore ── the same of the secrets; SecretWatch ────────┘
//! ```
//!
//! Invariants:
//! - The map changes only by compare-and-set of the next epoch: one operation compares the xattr `epoch`, sets the changed
//!   keys, the increment, and the epoch. A loser reads again.
//! - A result that is unknown (-110) is never taken for a failure: the object is looked at until it is known.
//! - A lost notify costs time, not safety: readers poll, and every writer compares.
//! - Nothing here is on the path of a read or write of a host.
#![forbid(unsafe_code)]

mod commit;
mod error;
mod lease;
#[cfg(any(test, feature = "memory"))]
pub mod memory;
mod objects;
mod rados;
mod record;
mod secrets;
mod store;
mod watch;

pub use commit::{Commit, Committed, Notified, NotifyOutcome, Updated};
pub use error::StoreError;
pub use lease::{Looked, Renewal, Take};
pub use objects::{
    Acknowledge, Boxed, NotifyReply, ObjectEvent, ObjectWatch, Objects, OmapRange, Read, ReadReply, Write,
};
pub use rados::RadosObjects;
pub use record::{RecordStore, RecordWrite, TransitionError};
pub use secrets::{SecretStore, SecretWatch, SecretsError};
pub use store::MapStore;
#[cfg(any(test, feature = "memory"))]
pub use store::Stamps;
pub use watch::{AckWhen, MapWatch, WatchHealth, WatchOptions};
