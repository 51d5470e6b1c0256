//! librados and librbd, safe and asynchronous. The only place with `unsafe` in the workspace (with the declarations in `lusd-ceph-sys`).
//!
//! ```text
//!  Cluster ── one RADOS client, one address that a fence can name
//!    └─ Pool ── objects: ReadOp, WriteOp (compare and set), watch, notify, locks
//!         ├─ Watch ── events by a bounded channel
//!         └─ Image ── control: async calls          data: read, write, ... ──► librbd
//!                                                          CompletionQueue ◄── its callback
//! ```
//!
//! Control calls are `async fn` on tokio: by librados's own asynchronous form where it has one, else on tokio's blocking threads. The data path uses neither tokio nor a lock: a submit is one
//! allocation and one call of librbd; a completion is one push onto the submitting shard's [`CompletionQueue`].
//!
//! Invariants:
//! * What librados or librbd may still touch belongs to the operation, never to a future: dropping a future frees nothing that is in flight.
//! * Handles close when their last user is gone, on threads of their own (`reaper`): never in async code, never on a thread of librados or librbd. An image outlives its operations, a
//!   pool its images and watches, a client its pools.
//! * Callbacks only hand over: no blocking, no call back into the library but releasing and acknowledging, no panic into C++ (an `extern "C"` function aborts).
//! * Images are opened for writing only with the options on which the safety of takeovers rests.
//!
//! Ceph 16.2 and newer. What librbd does unexpectedly is said at the functions that meet it.

mod address;
mod admin;
mod aio;
mod cluster;
mod completion;
mod errno;
mod error;
mod extents;
mod image;
mod io;
mod operation;
mod options;
mod pool;
mod raw_operation;
mod reaper;
mod usage;
mod waiter;
mod watch;

pub use address::{ClientAddr, ParseAddrError};
pub use admin::{CreateOptions, Features, ImageSpec, MirrorState};
pub use cluster::Cluster;
pub use completion::{Completed, CompletionQueue, OpBuffers};
pub use errno::Errno;
pub use error::{Error, Result};
pub use image::{Image, ImageUpdates, Layout, OpenMode};
pub use io::{IO_MAX_BYTES, RANGE_MAX_BYTES, SubmitError, WRITE_MAX_BUFFERS};
pub use operation::{ReadOp, ReadReply, Snapshot, Stat, WriteOp};
pub use options::ClusterOptions;
pub use pool::{Locker, Pool, READ_MAX_BYTES};
pub use usage::PoolUsage;
pub use waiter::QueueWaiter;
pub use watch::{NOTIFY_MAX_BYTES, Notify, NotifyAck, NotifyReply, Watch, WatchEvent, WatcherId};
