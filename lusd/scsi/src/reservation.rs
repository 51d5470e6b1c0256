//! Reservations (SPC-4 5.13, 6.15, 6.16; RESERVE and RELEASE of SPC-2): who may do what, without I/O.
//!
//! ```text
//!   PERSISTENT RESERVE OUT ─ parse ─► ReserveRequest ─┐
//!   RESERVE, RELEASE ───────────────► ReserveRequest ─┴─► LogicalUnit::decide ─► Decision ─┬─ answer
//!                                                                                          └─ Change: the daemon makes it
//!                                              plan(), LogicalUnit::publish  ◄─────────────── durable, then publishes it
//!                                                 ▲ NexusLu's access: one load
//! ```
//!
//! [`Reservations`] is the state that outlives a daemon; all of it is a value, and each service action a pure function from one
//! to the next. What a nexus may do follows from it, and is kept beside the nexus, so that a command finds it with one load.
//!
//! An I_T nexus is an initiator port (iSCSI name and ISID) and a target port (its RELATIVE TARGET PORT IDENTIFIER). The name of the
//! target does not count: a logical unit is one device on whatever target it is mapped.
//!
//! Invariants:
//! - At most one persistent reservation. One of a type for all registrants has no holder of its own and at least one registration; any
//!   other has exactly one holder, which is registered.
//! - A nexus has at most one registration. No key is zero.
//! - PRgeneration rises by one with each REGISTER, REGISTER AND IGNORE EXISTING KEY, REGISTER AND MOVE, CLEAR, PREEMPT and PREEMPT AND ABORT that
//!   did something, and with nothing else.
//! - While there is a registration no SPC-2 reservation is made, and the other way round.

mod access;
mod action;
mod book;
mod command;
mod preempt;
mod report;
mod transport_id;

pub use self::access::{Access, Reserved};
pub use self::action::{Action, Change, Refusal, Specified};
pub(crate) use self::book::{Book, Member};
pub use self::book::{Decision, NexusHandle, ReserveRequest};
pub(crate) use self::command::{
    PrOut, clear, preempt, preempt_and_abort, register, register_and_ignore_existing_key, register_and_move,
    release, release_6, release_10, reserve, reserve_6, reserve_10,
};
pub(crate) use self::report::{read_full_status, read_keys, read_reservation, report_capabilities};

/// Registrations of one logical unit: enough for 64 hosts on 8 paths. One more is INSUFFICIENT REGISTRATION RESOURCES.
pub const REGISTRATIONS_MAX: usize = 512;

/// A SCSI initiator port of iSCSI (RFC 7143 4.4.1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InitiatorPort {
    /// InitiatorName, in lower case, at most 223 bytes.
    pub name: String,
    /// Initiator part of the session id.
    pub isid: [u8; 6],
}

/// An I_T nexus.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nexus {
    /// From which initiator port.
    pub initiator: InitiatorPort,
    /// RELATIVE TARGET PORT IDENTIFIER.
    pub target_port: u16,
}

/// TYPE of a persistent reservation (SPC-4 6.15.3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ReservationType {
    /// Write Exclusive.
    WriteExclusive = 1,
    /// Exclusive Access.
    ExclusiveAccess = 3,
    /// Write Exclusive - Registrants Only.
    WriteExclusiveRegistrantsOnly = 5,
    /// Exclusive Access - Registrants Only.
    ExclusiveAccessRegistrantsOnly = 6,
    /// Write Exclusive - All Registrants.
    WriteExclusiveAllRegistrants = 7,
    /// Exclusive Access - All Registrants.
    ExclusiveAccessAllRegistrants = 8,
}

impl ReservationType {
    /// All types.
    pub const ALL: [ReservationType; 6] = [
        ReservationType::WriteExclusive,
        ReservationType::ExclusiveAccess,
        ReservationType::WriteExclusiveRegistrantsOnly,
        ReservationType::ExclusiveAccessRegistrantsOnly,
        ReservationType::WriteExclusiveAllRegistrants,
        ReservationType::ExclusiveAccessAllRegistrants,
    ];

    /// `None` for a code that is reserved or obsolete.
    pub fn from_code(code: u8) -> Option<ReservationType> {
        ReservationType::ALL.into_iter().find(|kind| *kind as u8 == code)
    }

    /// The code on the wire.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Whether every registered nexus holds it.
    pub const fn is_all_registrants(self) -> bool {
        matches!(
            self,
            ReservationType::WriteExclusiveAllRegistrants | ReservationType::ExclusiveAccessAllRegistrants
        )
    }

    /// Whether registered nexuses that do not hold it are not restricted.
    pub const fn admits_registrants(self) -> bool {
        self.is_all_registrants() || self.is_registrants_only()
    }

    pub(crate) const fn is_registrants_only(self) -> bool {
        matches!(
            self,
            ReservationType::WriteExclusiveRegistrantsOnly | ReservationType::ExclusiveAccessRegistrantsOnly
        )
    }

    /// What is left to a nexus that it restricts.
    pub(crate) const fn restricts_to(self) -> Access {
        match self {
            ReservationType::WriteExclusive
            | ReservationType::WriteExclusiveRegistrantsOnly
            | ReservationType::WriteExclusiveAllRegistrants => Access::WriteExclusive,
            ReservationType::ExclusiveAccess
            | ReservationType::ExclusiveAccessRegistrantsOnly
            | ReservationType::ExclusiveAccessAllRegistrants => Access::ExclusiveAccess,
        }
    }
}

/// A registration: of one nexus, or of an initiator port with all target ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The initiator port.
    pub initiator: InitiatorPort,
    /// The target port; `None`: all, also those that come later (ALL_TG_PT).
    pub target_port: Option<u16>,
    /// RESERVATION KEY, not zero.
    pub key: u64,
    /// It alone holds the reservation; never under a type for all registrants.
    pub holder: bool,
}

impl Registration {
    /// Whether it is the registration of `nexus`.
    pub fn is_of(&self, nexus: &Nexus) -> bool {
        self.target_port.is_none_or(|port| port == nexus.target_port) && self.initiator == nexus.initiator
    }

    /// Whether both are of the same nexus or nexuses.
    pub(crate) fn is_same_as(&self, other: &Registration) -> bool {
        self.initiator == other.initiator && self.target_port == other.target_port
    }
}

/// The persistent reservation of a logical unit and all registrations. [`Reservations::default`] has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reservations {
    /// PRGENERATION; wraps.
    pub generation: u32,
    /// The last APTPL that was received.
    pub aptpl: bool,
    /// The reservation, if there is one; its scope is the logical unit.
    pub kind: Option<ReservationType>,
    /// In the order in which they were made.
    pub registrations: Vec<Registration>,
}

impl Reservations {
    /// Whether the invariants of the module hold; what was read from somewhere is to be checked.
    pub fn is_sound(&self) -> bool {
        let holders = self.registrations.iter().filter(|registration| registration.holder).count();
        let held = match self.kind {
            None => holders == 0,
            Some(kind) if kind.is_all_registrants() => holders == 0 && !self.registrations.is_empty(),
            Some(_) => holders == 1,
        };
        let overlaps = |a: &Registration, b: &Registration| {
            a.initiator == b.initiator
                && (a.target_port.is_none() || b.target_port.is_none() || a.target_port == b.target_port)
        };
        held && self.registrations.len() <= REGISTRATIONS_MAX
            && self.registrations.iter().enumerate().all(|(at, registration)| {
                registration.key != 0
                    && !self.registrations[..at].iter().any(|other| overlaps(registration, other))
            })
    }

    /// The registration of `nexus`.
    pub fn registration(&self, nexus: &Nexus) -> Option<&Registration> {
        self.registrations.iter().find(|registration| registration.is_of(nexus))
    }

    /// Whether a registration holds the reservation.
    pub fn holds(&self, registration: &Registration) -> bool {
        registration.holder || self.kind.is_some_and(ReservationType::is_all_registrants)
    }

    /// What the reservation leaves to `nexus`.
    pub(crate) fn access_of(&self, nexus: &Nexus) -> Access {
        let Some(kind) = self.kind else { return Access::Free };
        match self.registration(nexus) {
            Some(registration) if registration.holder || kind.admits_registrants() => Access::Free,
            _ => kind.restricts_to(),
        }
    }
}

#[cfg(test)]
mod tests;
