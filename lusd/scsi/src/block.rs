//! What a command asks of the medium, and what may come back.

use bytes::Bytes;
use smallvec::SmallVec;

use crate::sense::{CheckCondition, Fault};
use crate::status::Status;
use crate::{AccessState, BlockSize};

/// A part of the medium, in bytes; whole blocks, within the capacity when it was planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Range {
    /// First byte.
    pub offset: u64,
    /// Length in bytes, never zero.
    pub len: u64,
}

impl Range {
    /// One past the last byte. Cannot wrap: the range was checked against a capacity.
    pub const fn end(&self) -> u64 {
        self.offset + self.len
    }

    /// Whether both have a byte in common.
    #[inline]
    pub const fn overlaps(&self, other: &Range) -> bool {
        self.offset < other.end() && other.offset < self.end()
    }
}

/// What is compared with the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Comparand {
    /// Data-out holds every block (BYTCHK 01b).
    Blocks,
    /// Data-out holds one block that each block must equal (BYTCHK 11b).
    OneBlock,
}

/// An operation of the backend. Offsets and lengths are bytes, whole blocks, checked against the capacity; data-out
/// is what [`crate::Plan::transfer_out`] asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockOp {
    /// Read `range` into data-in.
    Read(Range),
    /// Write data-out to `range`.
    Write {
        /// Where.
        range: Range,
        /// FUA: durable before the status, also where a write cache lies below.
        fua: bool,
    },
    /// WRITE AND VERIFY: write data-out, make it durable, then read it back.
    WriteVerify {
        /// Where.
        range: Range,
        /// BYTCHK 01b: what is read back must equal data-out ([`BackendError::Miscompare`] else); otherwise it
        /// must be readable.
        compare: bool,
    },
    /// Make every write that has been answered durable. IMMED is not offered to the backend: an answer is given
    /// when its effect is certain.
    Flush,
    /// Each range reads as zeroes afterwards; its space is given back. May not touch anything else.
    Unmap(SmallVec<[Range; 1]>),
    /// `range` reads as zeroes afterwards. Data-out, if any, is zeroes and can be ignored.
    WriteZeroes {
        /// Where.
        range: Range,
        /// The space may be given back; if not, the blocks stay allocated.
        may_unmap: bool,
    },
    /// Write data-out, one block that is not all zeroes, to each block of `range`.
    WriteSame(Range),
    /// VERIFY with BYTCHK 00b: `range` must be readable; nothing is transferred.
    VerifyMedium(Range),
    /// VERIFY with BYTCHK: data-out must equal `range` ([`BackendError::Miscompare`] else).
    Compare {
        /// Where.
        range: Range,
        /// What data-out holds.
        comparand: Comparand,
    },
    /// COMPARE AND WRITE: data-out is twice as long as `range`. Where its first half equals the medium its second half is
    /// written, else nothing is ([`BackendError::Miscompare`]). Alone on `range`: see [`BlockOp::alone`].
    CompareAndWrite(Range),
    /// ORWRITE: the medium becomes what it is OR data-out. Alone on `range`.
    OrWrite(Range),
    /// GET LBA STATUS: which parts of `range` hold data; [`crate::lba_status`] makes data-in of it.
    LbaStatus {
        /// Where to look.
        range: Range,
        /// Most bytes of data-in.
        allocation_length: u32,
    },
    /// SANITIZE or FORMAT UNIT: the whole medium.
    Erase(Box<Erasure>),
    /// WRITE ATOMIC: data-out is written wholly or not at all, whatever fails; `range` lies in one object. Alone on `range`.
    WriteAtomic(Range),
}

/// What SANITIZE and FORMAT UNIT do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Erasure {
    /// Which of them it is.
    pub kind: EraseKind,
    /// IMMED: the status is sent once it is certain that nobody takes the medium for erased before it is.
    pub immediate: bool,
    /// What is written; without, all blocks read as zeroes and give their space back.
    pub overwrite: Option<Overwrite>,
}

/// Why the medium is erased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EraseKind {
    /// SANITIZE.
    Sanitize {
        /// AUSE: when it fails, EXIT FAILURE MODE is allowed.
        may_exit: bool,
    },
    /// SANITIZE, EXIT FAILURE MODE: nothing is erased, and the failure forgotten.
    ExitFailureMode,
    /// FORMAT UNIT.
    Format,
}

/// Passes of SANITIZE OVERWRITE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overwrite {
    /// The pattern, repeated to one block.
    pub block: Bytes,
    /// Passes, 1 to 31.
    pub count: u8,
    /// Every other pass writes the inverted pattern.
    pub invert: bool,
}

impl BlockOp {
    /// Whether the medium is changed.
    #[inline]
    pub fn modifies(&self) -> bool {
        match self {
            BlockOp::Write { .. }
            | BlockOp::WriteVerify { .. }
            | BlockOp::Unmap(_)
            | BlockOp::WriteZeroes { .. }
            | BlockOp::WriteSame(_)
            | BlockOp::CompareAndWrite(_)
            | BlockOp::OrWrite(_)
            | BlockOp::Erase(_)
            | BlockOp::WriteAtomic(_) => true,
            BlockOp::Read(_)
            | BlockOp::Flush
            | BlockOp::VerifyMedium(_)
            | BlockOp::Compare { .. }
            | BlockOp::LbaStatus { .. } => false,
        }
    }

    /// Ranges of the medium that are touched; none for what is about all of it.
    #[inline]
    pub fn ranges(&self) -> &[Range] {
        match self {
            BlockOp::Read(range)
            | BlockOp::Write { range, .. }
            | BlockOp::WriteVerify { range, .. }
            | BlockOp::WriteZeroes { range, .. }
            | BlockOp::WriteSame(range)
            | BlockOp::VerifyMedium(range)
            | BlockOp::Compare { range, .. }
            | BlockOp::LbaStatus { range, .. }
            | BlockOp::CompareAndWrite(range)
            | BlockOp::OrWrite(range)
            | BlockOp::WriteAtomic(range) => std::slice::from_ref(range),
            BlockOp::Unmap(ranges) => ranges,
            BlockOp::Flush | BlockOp::Erase(_) => &[],
        }
    }

    /// The range on which nothing else may be under way from the first step of the operation to its last.
    #[inline]
    pub fn alone(&self) -> Option<Range> {
        match self {
            BlockOp::CompareAndWrite(range) | BlockOp::OrWrite(range) | BlockOp::WriteAtomic(range) => {
                Some(*range)
            }
            _ => None,
        }
    }

    /// One past the last byte that is touched; zero for what is about all of the medium.
    #[inline]
    pub fn end(&self) -> u64 {
        self.ranges().iter().map(Range::end).max().unwrap_or(0)
    }

    /// The range, where it has the length of the data that is transferred.
    pub(crate) fn transferred_range_mut(&mut self) -> Option<&mut Range> {
        match self {
            BlockOp::Read(range)
            | BlockOp::Write { range, .. }
            | BlockOp::WriteVerify { range, .. }
            | BlockOp::Compare { range, comparand: Comparand::Blocks } => Some(range),
            // These take all of their data or none: see `Plan::exact_at`.
            _ => None,
        }
    }
}

/// How a backend operation failed, in terms of what the host is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// The blocks cannot be read.
    #[error("unrecovered read error")]
    MediumRead,
    /// The blocks cannot be written.
    #[error("write error")]
    MediumWrite,
    /// No space is left for the blocks (pool or quota full).
    #[error("no space left")]
    NoSpace,
    /// The image became read-only.
    #[error("write protected")]
    WriteProtected,
    /// Another daemon owns the logical unit, or will; nothing was done.
    #[error("not the owner")]
    NotOwner,
    /// Ownership is moving; nothing was done.
    #[error("ownership is moving")]
    Transitioning,
    /// Not now; nothing was done, the host tries again.
    #[error("busy")]
    Busy,
    /// Too many commands are under way; nothing was done, the host tries again.
    #[error("too many commands")]
    TaskSetFull,
    /// A comparison failed, first at this byte of data-out.
    #[error("miscompare at byte {0}")]
    Miscompare(u64),
    /// The range is past the end of the image as it is now; nothing was done.
    #[error("past the end")]
    OutOfRange,
    /// The operation was given up; whether it took effect is not known.
    #[error("aborted")]
    Aborted,
    /// Anything else.
    #[error("internal target failure")]
    Internal,
}

impl BackendError {
    /// The status, and for CHECK CONDITION its sense: the one place where backend errors meet the wire. `at` is the
    /// operation's first byte, for INFORMATION.
    pub fn answer(self, block_size: BlockSize, at: u64) -> (Status, Option<CheckCondition>) {
        let lba = at >> block_size.shift();
        let check: CheckCondition = match self {
            BackendError::Busy => return (Status::Busy, None),
            BackendError::TaskSetFull => return (Status::TaskSetFull, None),
            BackendError::NotOwner => return not_ready(AccessState::Standby),
            BackendError::Transitioning => return not_ready(AccessState::Transitioning),
            BackendError::MediumRead => CheckCondition::from(Fault::UnrecoveredRead).with_information(lba),
            BackendError::MediumWrite => CheckCondition::from(Fault::Write).with_information(lba),
            BackendError::NoSpace => Fault::SpaceAllocationFailed.into(),
            BackendError::WriteProtected => Fault::WriteProtected.into(),
            BackendError::Miscompare(byte) => CheckCondition::from(Fault::Miscompare).with_information(byte),
            BackendError::OutOfRange => CheckCondition::lba_out_of_range(lba),
            BackendError::Aborted => Fault::Aborted.into(),
            BackendError::Internal => Fault::InternalTargetFailure.into(),
        };
        (Status::CheckCondition, Some(check))
    }
}

fn not_ready(state: AccessState) -> (Status, Option<CheckCondition>) {
    (Status::CheckCondition, state.code().map(CheckCondition::new))
}
