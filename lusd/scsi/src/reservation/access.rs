//! What a reservation leaves to the others: SPC-4 tables 65 and 66, SBC-3 table 13, SPC-2 table 9.

use std::fmt;

use crate::BlockOp;

/// What reservations leave to a nexus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Access {
    /// All.
    Free = 0,
    /// What a Write Exclusive persistent reservation of others leaves.
    WriteExclusive = 1,
    /// What an Exclusive Access persistent reservation of others leaves.
    ExclusiveAccess = 2,
    /// What a RESERVE (6) or (10) of another nexus leaves.
    ReservedBySpc2 = 3,
}

impl Access {
    pub(crate) const fn from_discriminant(discriminant: u8) -> Access {
        match discriminant {
            0 => Access::Free,
            1 => Access::WriteExclusive,
            2 => Access::ExclusiveAccess,
            _ => Access::ReservedBySpc2,
        }
    }
}

/// Under which reservations of others a command is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reserved {
    /// Under none.
    Conflict,
    /// Under Write Exclusive: it changes nothing.
    WriteExclusive,
    /// Under any persistent reservation.
    Persistent,
    /// Under RESERVE as well; or the command decides itself.
    Always,
}

impl fmt::Display for Reserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reserved::Conflict => "conflict",
            Reserved::WriteExclusive => "write exclusive",
            Reserved::Persistent => "persistent",
            Reserved::Always => "always",
        })
    }
}

impl Reserved {
    /// Whether a nexus with `access` may send the command.
    #[inline]
    pub fn is_allowed(self, access: Access) -> bool {
        match access {
            Access::Free => true,
            Access::WriteExclusive => self >= Reserved::WriteExclusive,
            Access::ExclusiveAccess => self >= Reserved::Persistent,
            Access::ReservedBySpc2 => self >= Reserved::Always,
        }
    }

    /// That of a command which does `op`. A flush is SYNCHRONIZE CACHE, or a stop.
    pub(crate) fn of(op: &BlockOp) -> Reserved {
        if op.modifies() || matches!(op, BlockOp::Flush) {
            Reserved::Conflict
        } else {
            Reserved::WriteExclusive
        }
    }
}
