//! A SCSI device server without I/O: SPC-4 and SBC-3 for disks.
//!
//! ```text
//!            cdb, Context, Unit                          data-out
//!                   |                                       |
//!   table (one row a command) -> plan() -> Plan { Step::Parameters -> finish() -> After }
//!                   |                           { Step::Block(BlockOp) -------------> backend }
//!            Err(CheckCondition)                { Step::Reply(Bytes)                          }
//!                   |
//!              Sense bytes
//! ```
//!
//! The daemon finds the [`LogicalUnit`] behind a LUN and calls [`plan`]; it gathers the data-out that the plan wants,
//! hands the [`BlockOp`] to the backend, and sends status, data and sense. Nothing here waits, reads a clock, or
//! knows what carried the command or what stores the blocks.
//!
//! Invariants:
//! - A [`BlockOp`] is whole blocks inside the capacity at the time of the plan; [`LogicalUnit::admit`] checks again.
//! - READ and WRITE take no lock and do not allocate.
//! - What INQUIRY, the mode pages and REPORT SUPPORTED OPERATION CODES announce is what [`plan`] accepts: they read
//!   the same tables and limits.
//! - Deliberately absent: ACA (NORMACA=0), protection information, linked commands, medium removal.
#![forbid(unsafe_code)]

mod alua;
mod attention;
mod block;
mod cdb;
mod lu;
mod lun;
mod nexus;
mod plan;
mod port;
mod reservation;
mod sbc;
mod sense;
mod spc;
mod status;
mod table;
mod vpd;

pub use crate::alua::{PortGroup, PortGroupState, PortGroups};
pub use crate::attention::UnitAttention;
pub use crate::block::{BackendError, BlockOp, Comparand, EraseKind, Erasure, Overwrite, Range};
pub use crate::lu::{
    AccessState, BlockSize, Identity, IdentityError, Limits, LogicalUnit, LogicalUnitConfig,
    LogicalUnitError, MAX_TRANSFER_BYTES, Naa, Operation, Room, SERIAL_BYTES_MAX,
};
pub use crate::lun::Lun;
pub use crate::nexus::NexusLu;
pub use crate::plan::{After, Context, Parameters, Plan, SessionView, Step, Unit, plan};
pub use crate::port::{TARGET_NAME_BYTES_MAX, TargetPort, TaskManagementFunctions};
pub use crate::reservation::{
    Access, Action, Change, Decision, InitiatorPort, Nexus, NexusHandle, REGISTRATIONS_MAX, Refusal,
    Registration, ReservationType, Reservations, ReserveRequest, Reserved, Specified,
};
pub use crate::sbc::lba_status;
pub use crate::sense::{
    CheckCondition, Fault, KeySpecific, SENSE_BYTES_MAX, Sense, SenseCode, SenseFormat, SenseKey,
};
pub use crate::spc::{CopyRecord, CopyStep, ExtendedCopy, Target};
pub use crate::status::Status;
pub use crate::table::{Flags, Row, commands};

/// Page codes of the VPD pages that INQUIRY serves.
pub fn vpd_pages() -> impl Iterator<Item = u8> {
    vpd::pages()
}

/// Page and subpage codes of the mode pages; not every logical unit has all of them.
pub fn mode_pages() -> impl Iterator<Item = (u8, u8)> {
    spc::mode_pages()
}

/// The same of the log pages.
pub fn log_pages() -> impl Iterator<Item = (u8, u8)> {
    spc::log_pages()
}
