//! The Logical Unit Server: RBD images of a Ceph cluster, served as iSCSI disks.
//!
//! ```text
//!   data:     socket ─ net ─ lusd-iscsi ─ target ─ lusd-scsi ─ lun (gate, backend) ─ lusd-ceph ─ librbd
//!   control:  LUS map ─ map (register, reconcile, view) ─ lun::owner (fence, open, lock, serve) ─ service
//! ```
//!
//! What a connection needs stands in [`service::Service`]; the control side puts it there and takes it away. Nothing on the path of
//! a read or a write waits for the control side.
#![forbid(unsafe_code)]

pub mod app;
pub mod config;
pub mod listener;
pub mod lun;
pub mod map;
pub mod net;
pub mod observe;
pub mod process;
pub mod service;
pub mod target;
