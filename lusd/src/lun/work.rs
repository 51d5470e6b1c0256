//! From a SCSI block operation to the primitives of a backend, and what follows when they have ended.

use bytes::Bytes;
use lusd_scsi::{BlockOp, Comparand};
use smallvec::{SmallVec, smallvec};

use super::backend::Primitive;
use super::job::Entry;
use crate::net::memory::Charge;

/// Bytes that one step of a VERIFY without data reads; the next step starts when it has ended.
const VERIFY_STEP: u64 = 1 << 20;

/// A planned operation with its data-out.
#[derive(Debug)]
pub struct Work {
    /// What SCSI asks for.
    pub op: BlockOp,
    /// Data-out, as long as the operation says.
    pub data: Bytes,
}

/// What a task asks of its unit, and in what circumstances.
#[derive(Debug)]
pub struct Request {
    /// What is to be done.
    pub work: Work,
    /// The memory that it takes.
    pub charge: Option<Charge>,
    /// When and under what the task came.
    pub entry: Entry,
}

/// Primitives that are submitted together.
pub type Parts = SmallVec<[Primitive; 1]>;

/// What follows when all primitives under way have ended well.
#[derive(Debug)]
#[expect(missing_docs, reason = "the variants say what their fields are")]
pub enum Then {
    /// Answer; for a read with what was read.
    Answer,
    /// Compare what was read with `expected`, over and over where that is shorter.
    Compare { expected: Bytes },
    /// Read the range back, then compare if `expected` is there.
    ReadBack { offset: u64, len: u64, expected: Option<Bytes> },
    /// Read the next part of a medium verification.
    Verify { offset: u64, end: u64 },
}

/// What [`Then::next`] came to.
pub enum Next {
    /// More to submit.
    Submit(Parts, Then),
    /// All done; for a read with what was read.
    Done,
    /// A difference, at this byte of the comparison.
    Miscompare(u64),
}

impl Work {
    /// Bytes of buffer that are read into, beside the data that came with the command.
    pub fn read_bytes_of(op: &BlockOp) -> usize {
        let bytes = match op {
            BlockOp::Read(range) | BlockOp::Compare { range, .. } | BlockOp::WriteVerify { range, .. } => {
                range.len
            }
            BlockOp::CompareAndWrite(range) | BlockOp::OrWrite(range) => range.len,
            BlockOp::VerifyMedium(range) => range.len.min(VERIFY_STEP),
            _ => 0,
        };
        bytes as usize
    }

    /// The first primitives and what follows; takes the data.
    #[inline]
    pub fn first(&mut self) -> (Parts, Then) {
        match &self.op {
            BlockOp::Read(range) => (smallvec![read(range.offset, range.len)], Then::Answer),
            BlockOp::Write { range, .. } => {
                let data = std::mem::take(&mut self.data);
                (smallvec![Primitive::Write { offset: range.offset, data }], Then::Answer)
            }
            _ => self.first_of_rare(),
        }
    }

    fn first_of_rare(&mut self) -> (Parts, Then) {
        let data = std::mem::take(&mut self.data);
        match self.op {
            BlockOp::WriteVerify { range, compare } => {
                let expected = compare.then(|| data.clone());
                let then = Then::ReadBack { offset: range.offset, len: range.len, expected };
                (smallvec![Primitive::Write { offset: range.offset, data }], then)
            }
            BlockOp::Flush => (smallvec![Primitive::Flush], Then::Answer),
            BlockOp::Unmap(ref ranges) => {
                let parts = ranges.iter().map(|range| zero(range.offset, range.len, true)).collect();
                (parts, Then::Answer)
            }
            BlockOp::WriteZeroes { range, may_unmap } => {
                (smallvec![zero(range.offset, range.len, may_unmap)], Then::Answer)
            }
            BlockOp::WriteSame(range) => {
                let same = Primitive::WriteSame { offset: range.offset, len: range.len, pattern: data };
                (smallvec![same], Then::Answer)
            }
            BlockOp::VerifyMedium(range) => verify(range.offset, range.end()),
            BlockOp::Compare { range, comparand } => {
                debug_assert!(comparand == Comparand::OneBlock || data.len() as u64 == range.len);
                (smallvec![read(range.offset, range.len)], Then::Compare { expected: data })
            }
            BlockOp::Read(_) | BlockOp::Write { .. } => unreachable!("not rare"),
            BlockOp::CompareAndWrite(_)
            | BlockOp::OrWrite(_)
            | BlockOp::WriteAtomic(_)
            | BlockOp::LbaStatus { .. }
            | BlockOp::Erase(_) => {
                unreachable!("done by a job")
            }
        }
    }
}

impl Then {
    /// Goes on after the primitives under way have ended well; `read` is what the last of them read.
    pub fn next(self, read_back: &Bytes) -> Next {
        match self {
            Self::Answer => Next::Done,
            Self::Compare { expected } => match difference(&expected, read_back) {
                Some(byte) => Next::Miscompare(byte),
                None => Next::Done,
            },
            Self::ReadBack { offset, len, expected } => {
                let then = expected.map_or(Self::Answer, |expected| Self::Compare { expected });
                Next::Submit(smallvec![read(offset, len)], then)
            }
            Self::Verify { offset, end } if offset < end => {
                let (parts, then) = verify(offset, end);
                Next::Submit(parts, then)
            }
            Self::Verify { .. } => Next::Done,
        }
    }
}

fn verify(offset: u64, end: u64) -> (Parts, Then) {
    let len = (end - offset).min(VERIFY_STEP);
    (smallvec![read(offset, len)], Then::Verify { offset: offset + len, end })
}

fn read(offset: u64, len: u64) -> Primitive {
    Primitive::Read { offset, len: len as usize }
}

fn zero(offset: u64, len: u64, may_unmap: bool) -> Primitive {
    Primitive::WriteZeroes { offset, len, may_unmap }
}

/// First byte at which `found` differs from `expected`, which repeats.
pub(super) fn difference(expected: &[u8], found: &[u8]) -> Option<u64> {
    if expected.is_empty() {
        return None;
    }
    found.chunks(expected.len()).enumerate().find(|(_, chunk)| **chunk != expected[..chunk.len()]).and_then(
        |(i, chunk)| {
            let at = chunk.iter().zip(expected).position(|(a, b)| a != b)?;
            Some((i * expected.len() + at) as u64)
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use lusd_scsi::Range;

    fn steps(mut work: Work, read: &[u8]) -> (Vec<Primitive>, Option<u64>) {
        let (mut parts, mut then) = work.first();
        let mut all = Vec::new();
        loop {
            all.extend(parts);
            match then.next(&Bytes::copy_from_slice(read)) {
                Next::Submit(more, after) => (parts, then) = (more, after),
                Next::Done => return (all, None),
                Next::Miscompare(byte) => return (all, Some(byte)),
            }
        }
    }

    #[test]
    fn a_medium_verification_goes_step_by_step() {
        let range = Range { offset: 4096, len: 2 * VERIFY_STEP + 512 };
        let (parts, difference) = steps(Work { op: BlockOp::VerifyMedium(range), data: Bytes::new() }, b"");
        assert_eq!((parts.len(), difference), (3, None));
        assert!(matches!(parts[2], Primitive::Read { offset, len: 512 } if offset == 4096 + 2 * VERIFY_STEP));
    }

    #[test]
    fn write_and_verify_reads_back_and_compares() {
        let range = Range { offset: 0, len: 4 };
        let work =
            |compare| Work { op: BlockOp::WriteVerify { range, compare }, data: Bytes::from_static(b"abcd") };
        assert_eq!(steps(work(true), b"abcd").1, None);
        assert_eq!(steps(work(true), b"abxd").1, Some(2));
        let (parts, difference) = steps(work(false), b"abxd");
        assert_eq!((parts.len(), difference), (2, None));
    }

    #[test]
    fn one_block_is_compared_with_each() {
        let op = BlockOp::Compare { range: Range { offset: 0, len: 6 }, comparand: Comparand::OneBlock };
        let work = || Work { op: op.clone(), data: Bytes::from_static(b"ab") };
        assert_eq!(steps(work(), b"ababab").1, None);
        assert_eq!(steps(work(), b"abaxab").1, Some(3));
    }
}
