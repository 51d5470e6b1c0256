//! EXTENDED COPY: blocks from one unit of this daemon to another, or within one, a piece at a time.
//!
//! Each piece passes the gate of the unit that it is read from, then that of the unit that it is written to, never both at once. So a copy
//! holds nobody up, and is held up as any other command is. It takes long, so it goes on only while its initiator can be there: see
//! [`Copying::going`].

use std::sync::Arc;

use bytes::Bytes;
use lusd_scsi::{
    BlockOp, CheckCondition, CopyStep, ExtendedCopy, Fault, LogicalUnit, NexusHandle, Range, Reserved,
};
use tokio::sync::Notify;

use super::backend::{BackendError, Primitive};
use super::gate::{Gate, Permit, Refused};
use super::job::{Entry, Failure, Steps, leave};
use super::unit::Unit;

/// Bytes that are copied at once: the memory of a copy.
pub const PIECE_BYTES: usize = 1 << 20;

/// A gate that is held is tried again this often, where nobody wakes us.
const HELD_RETRY: std::time::Duration = std::time::Duration::from_millis(20);

/// A unit that a copy reads or writes.
#[derive(Clone, Debug)]
pub struct Place {
    /// The unit.
    pub unit: Arc<Unit>,
    /// For whom: reservations of that unit count too.
    pub nexus: NexusHandle,
    /// Its aborts when the copy began.
    pub aborts: u64,
}

/// A copy that is carried out.
pub struct Copying<'a> {
    /// Where its steps are done.
    pub steps: &'a Steps,
    /// The shard, as gates count.
    pub shard: usize,
    /// The unit to which the command was sent.
    pub unit: &'a Unit,
    /// How the command came.
    pub entry: Entry,
    /// Looked at before each piece: an error ends the copy. It must be one when the initiator cannot be there any more, and when the shard
    /// has stood still.
    pub going: &'a dyn Fn() -> Result<(), Failure>,
}

impl Copying<'_> {
    /// Copies all segments between `units`, which stand in the order of the targets.
    ///
    /// # Errors
    /// [`Failure::Check`] with COPY ABORTED, or that it was ended or lost.
    pub async fn run(&self, copy: &ExtendedCopy, units: &[Option<Place>]) -> Result<(), Failure> {
        let logical: Vec<Option<&LogicalUnit>> =
            units.iter().map(|place| place.as_ref().map(|place| &place.unit.scsi)).collect();
        for at in 0..copy.segments() {
            if let Some(step) = copy.segment(at, &logical).map_err(Failure::Check)? {
                let (Some(source), Some(destination)) = (&units[step.source], &units[step.destination])
                else {
                    unreachable!("a segment with a unit that cannot be reached")
                };
                self.segment(copy, &step, source, destination).await?;
            }
            copy.record.segment_done();
        }
        Ok(())
    }

    async fn segment(
        &self,
        copy: &ExtendedCopy,
        step: &CopyStep,
        source: &Place,
        destination: &Place,
    ) -> Result<(), Failure> {
        let backward = Arc::ptr_eq(&source.unit, &destination.unit) && step.to.offset > step.from.offset;
        for at in pieces(step.from.len, backward) {
            let len = (step.from.len - at).min(PIECE_BYTES as u64);
            let from = Range { offset: step.from.offset + at, len };
            let read = Primitive::Read { offset: from.offset, len: len as usize };
            let data = self.step(source, from, read, Reserved::WriteExclusive).await?;
            let to = Range { offset: step.to.offset + at, len };
            let write = if destination.unit.scsi.is_thin() && data.iter().all(|byte| *byte == 0) {
                // What is thin stays thin.
                Primitive::WriteZeroes { offset: to.offset, len, may_unmap: true }
            } else {
                Primitive::Write { offset: to.offset, data }
            };
            self.step(destination, to, write, Reserved::Conflict).await?;
            copy.record.moved(len);
        }
        Ok(())
    }

    /// One step inside the gate of its unit, where reservations do not change.
    async fn step(
        &self,
        place: &Place,
        range: Range,
        op: Primitive,
        reserved: Reserved,
    ) -> Result<Bytes, Failure> {
        let unit = &place.unit;
        let permit = self.enter(&unit.gate, range).await?;
        let admitted = match op {
            Primitive::Read { .. } => BlockOp::Read(range),
            _ => BlockOp::WriteAtomic(range),
        };
        let refusal = if place.nexus.has_left() {
            // The session does not see it any more.
            Some(Failure::Check(Fault::CopyTargetNotReachable.into()))
        } else if unit.scsi.admit(&admitted).is_err() {
            // Protected, or erased, since the segment began; whoever erases waits for what is inside, so this is seen.
            Some(Failure::Check(Fault::ThirdPartyDeviceFailure.into()))
        } else if place.nexus.aborts() != place.aborts {
            Some(Failure::Aborted)
        } else if !place.nexus.may(reserved) {
            Some(Failure::Check(Fault::ThirdPartyDeviceFailure.into()))
        } else {
            None
        };
        if let Some(refusal) = refusal {
            leave(unit, permit, None)?;
            return Err(refusal);
        }
        let result = self.steps.perform(unit, op).await;
        leave(unit, permit, result.as_ref().err().copied())?;
        result.map_err(|error| Failure::Check(aborted(error)))
    }

    async fn enter(&self, gate: &Gate, range: Range) -> Result<Permit, Failure> {
        let waker = Arc::<Notify>::default();
        loop {
            (self.going)()?;
            if self.entry.is_ended(self.unit) {
                return Err(Failure::Aborted);
            }
            match gate.enter_on(self.shard, &[range], &waker) {
                Ok(permit) => return Ok(permit),
                Err(Refused::Shut) => return Err(Failure::Check(Fault::CopyTargetNotReachable.into())),
                Err(Refused::Held) => {
                    // Woken, or not: it is looked at again.
                    let _ = tokio::time::timeout(HELD_RETRY, waker.notified()).await;
                }
            }
        }
    }
}

/// Where the pieces of `len` bytes begin, in the order in which an overlapping copy reads each before it is written over.
fn pieces(len: u64, backward: bool) -> impl Iterator<Item = u64> {
    let count = len.div_ceil(PIECE_BYTES as u64);
    (0..count).map(move |i| if backward { count - 1 - i } else { i } * PIECE_BYTES as u64)
}

fn aborted(error: BackendError) -> CheckCondition {
    match error {
        BackendError::OutOfRange => Fault::CopyAborted.into(),
        _ => Fault::ThirdPartyDeviceFailure.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_everything_in_either_direction() {
        const PIECE: u64 = PIECE_BYTES as u64;
        for (len, expected) in [
            (1, vec![0]),
            (PIECE, vec![0]),
            (PIECE + 1, vec![0, PIECE]),
            (3 * PIECE, vec![0, PIECE, 2 * PIECE]),
        ] {
            assert!(pieces(len, false).eq(expected.iter().copied()));
            assert!(pieces(len, true).eq(expected.iter().rev().copied()));
        }
    }
}
