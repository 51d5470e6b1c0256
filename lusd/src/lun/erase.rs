//! SANITIZE and FORMAT UNIT: a job of the unit, which goes on whatever becomes of the session that began it (SBC-3 4.11, 4.34).
//!
//! ```text
//!   begin_operation (no other command is planned or admitted) ─► barrier (what is inside ends) ─► mark on the image
//!     ─► piece after piece through the gate, with progress ─► flush ─► mark taken off ─► Operation::None
//! ```
//!
//! The mark is metadata of the image. Whoever serves the unit next, after a crash or a move in the middle, finds it: the unit then answers
//! SANITIZE (FORMAT) COMMAND FAILED until the command is repeated, or EXIT FAILURE MODE where that was allowed. So what is half erased never
//! looks erased, and nobody goes on with it unasked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lusd_ceph::Image;
use lusd_scsi::{CheckCondition, EraseKind, Erasure, Operation, Range};
use tokio::sync::{Notify, watch};
use tracing::{error, info, warn};

use super::backend::{Backend, BackendError, Primitive};
use super::gate::{LuEpoch, Permit, Refused};
use super::job::{Failure, Steps, leave};
use super::unit::Unit;

/// Bytes of one piece: a few objects at a time, so that others on the same OSDs get their turn.
const PIECE_BYTES: u64 = 16 << 20;

/// The fastest that a medium is overwritten, bytes a second: an erasure is in no hurry, and the pool serves others too. (Giving space back is
/// not held to it: that writes nothing.)
const OVERWRITE_RATE: u64 = 128 << 20;

/// A gate that is held is tried again this often.
const HELD_RETRY: Duration = Duration::from_millis(20);

/// Key of the mark in the image's metadata.
const MARK: &str = "lus_erasing";

/// How far it has come, for who waits for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// The mark is not there yet.
    Beginning,
    /// It goes on, and nobody will take the medium for erased before it is.
    Marked,
    /// It has ended; `Err` where it failed, or where the unit is not served here any more.
    Ended(Result<(), Failure>),
}

fn mark_of(kind: EraseKind) -> &'static str {
    match kind {
        EraseKind::Sanitize { may_exit: true } => "sanitize ause",
        EraseKind::Format => "format",
        EraseKind::Sanitize { may_exit: false } | EraseKind::ExitFailureMode => "sanitize",
    }
}

/// What a unit has not come through, by the mark on its image.
pub async fn left_over(image: &Image) -> Operation {
    match image.metadata(MARK).await {
        Ok(None) => Operation::None,
        Ok(Some(mark)) => {
            warn!(image = image.name(), %mark, "was being erased when it was last served: it answers that this has failed");
            match mark.as_str() {
                "format" => Operation::FormatFailed,
                mark => Operation::SanitizeFailed { may_exit: mark == "sanitize ause" },
            }
        }
        Err(error) => {
            error!(image = image.name(), %error, "cannot see whether it was being erased: taken for half erased");
            Operation::SanitizeFailed { may_exit: false }
        }
    }
}

fn under_way(kind: EraseKind, done: u16) -> Operation {
    if kind == EraseKind::Format { Operation::Formatting(done) } else { Operation::Sanitizing(done) }
}

fn failed(kind: EraseKind) -> Operation {
    match kind {
        EraseKind::Sanitize { may_exit } => Operation::SanitizeFailed { may_exit },
        EraseKind::ExitFailureMode => Operation::SanitizeFailed { may_exit: true },
        EraseKind::Format => Operation::FormatFailed,
    }
}

/// Begins the operation; what the unit was busy with before, or had not come through. `None`: there is nothing to be done. The caller is
/// inside the gate, so that no erasure that begins meanwhile can end.
///
/// # Errors
/// Another one is under way, or EXIT FAILURE MODE is not allowed: what the command is told.
pub fn begin(unit: &Unit, kind: EraseKind) -> Result<Option<Operation>, CheckCondition> {
    const SERVICE_ACTION_AT: (u16, Option<u8>) = (1, Some(4));
    let before = unit.scsi.operation();
    let operation = match (kind, before) {
        (EraseKind::ExitFailureMode, Operation::None | Operation::FormatFailed) => return Ok(None),
        (EraseKind::ExitFailureMode, Operation::SanitizeFailed { may_exit: false }) => {
            let (byte, bit) = SERVICE_ACTION_AT;
            return Err(CheckCondition::invalid_field(byte, bit));
        }
        // Also to leave the failure behind is one that has the unit for itself: the mark is not to be taken off that another has just put on.
        (EraseKind::ExitFailureMode | EraseKind::Sanitize { .. }, _) => Operation::Sanitizing(0),
        (EraseKind::Format, _) => Operation::Formatting(0),
    };
    unit.scsi.begin_operation(operation).map(|()| Some(before))
}

/// What the unit is told to be like when an erasure of `kind` has ended; `None` where that is another's to tell. Before its mark was on the
/// image nothing was erased: all is as it was `before`.
fn left(result: Result<(), Failure>, kind: EraseKind, marked: bool, before: Operation) -> Option<Operation> {
    match result {
        Ok(()) => Some(Operation::None),
        // Who serves it next sees the mark.
        Err(Failure::Revoked | Failure::Aborted) => None,
        Err(_) if marked => Some(failed(kind)),
        Err(_) => Some(before),
    }
}

/// An erasure that is carried out.
pub struct Erasing<'a> {
    /// Where its steps are done.
    pub steps: &'a Steps,
    /// The shard, as gates count.
    pub shard: usize,
    /// The unit.
    pub unit: &'a Arc<Unit>,
    /// Under which it began: it goes on under no other.
    pub epoch: LuEpoch,
    /// What [`begin`] says.
    pub before: Operation,
    /// True while nothing may be submitted.
    pub isolated: &'a dyn Fn() -> bool,
}

impl Erasing<'_> {
    /// Carries it out; the caller has begun the operation. `stage` is told.
    pub async fn run(&self, erasure: &Erasure, stage: &watch::Sender<Stage>) {
        let kind = erasure.kind;
        info!(lu = %self.unit.name, ?kind, "erasing begins");
        let result = self.carry_out(erasure, stage).await;
        let marked = *stage.borrow() != Stage::Beginning;
        if let Some(operation) = left(result, kind, marked, self.before) {
            self.unit.scsi.set_operation(operation);
        }
        info!(lu = %self.unit.name, ?kind, ?result, "erasing ended");
        stage.send_replace(Stage::Ended(result));
    }

    async fn carry_out(&self, erasure: &Erasure, stage: &watch::Sender<Stage>) -> Result<(), Failure> {
        // What was admitted before the operation began ends first; what comes later is refused.
        drop(self.unit.gate.barrier().await.ok_or(Failure::Aborted)?);
        if erasure.kind != EraseKind::ExitFailureMode {
            self.mark(Some(mark_of(erasure.kind))).await?;
            stage.send_replace(Stage::Marked);
            self.erase(erasure).await?;
            self.step(&[], Primitive::Flush).await?;
        }
        self.mark(None).await
    }

    async fn erase(&self, erasure: &Erasure) -> Result<(), Failure> {
        let capacity = self.unit.scsi.capacity_bytes();
        let passes = u64::from(erasure.overwrite.as_ref().map_or(1, |overwrite| overwrite.count));
        let mut done = 0;
        for pass in 0..passes {
            let pattern = erasure.overwrite.as_ref().map(|overwrite| {
                let inverted = overwrite.invert && pass % 2 == 1;
                overwrite.block.iter().map(|byte| if inverted { !byte } else { *byte }).collect::<Bytes>()
            });
            for offset in (0..capacity).step_by(PIECE_BYTES as usize) {
                let range = Range { offset, len: PIECE_BYTES.min(capacity - offset) };
                let begun = Instant::now();
                self.step(&[range], piece(range, pattern.as_ref(), self.unit.scsi.is_thin())).await?;
                done += range.len;
                let progress = u128::from(done) * 65_536 / (u128::from(capacity) * u128::from(passes));
                let progress = u16::try_from(progress).unwrap_or(u16::MAX);
                self.unit.scsi.set_operation(under_way(erasure.kind, progress));
                let least = Duration::from_millis(range.len * 1000 / OVERWRITE_RATE);
                match pattern {
                    Some(_) => tokio::time::sleep(least.saturating_sub(begun.elapsed())).await,
                    None => tokio::task::yield_now().await,
                }
            }
        }
        Ok(())
    }

    async fn enter(&self, ranges: &[Range]) -> Result<Permit, Failure> {
        let waker = Arc::<Notify>::default();
        loop {
            if !(self.isolated)() {
                match self.unit.gate.enter_on(self.shard, ranges, &waker) {
                    Ok(permit) if permit.epoch() == self.epoch => return Ok(permit),
                    Ok(permit) => {
                        leave(self.unit, permit, None)?;
                        return Err(Failure::Aborted);
                    }
                    Err(Refused::Shut) => return Err(Failure::Aborted),
                    Err(Refused::Held) => {}
                }
            }
            // Woken, or not: it is looked at again.
            let _ = tokio::time::timeout(HELD_RETRY, waker.notified()).await;
        }
    }

    /// One step inside the gate.
    async fn step(&self, ranges: &[Range], op: Primitive) -> Result<(), Failure> {
        let permit = self.enter(ranges).await?;
        let result = self.steps.perform(self.unit, op).await;
        leave(self.unit, permit, result.as_ref().err().copied())?;
        Ok(result.map(drop)?)
    }

    /// Puts the mark on the image, or takes it off. A volatile unit has none: it is gone with the daemon.
    async fn mark(&self, mark: Option<&str>) -> Result<(), Failure> {
        let permit = self.enter(&[]).await?;
        let image = match self.unit.backend().as_deref() {
            Some(Backend::Rbd(image)) => Some(image.clone()),
            _ => None,
        };
        let noted = match image {
            Some(image) => image.set_metadata(MARK, mark).await,
            None => Ok(()),
        };
        let error = noted.err().map(|error| {
            error!(lu = %self.unit.name, %error, "cannot note on the image that it is being erased");
            BackendError::from_errno(error.errno())
        });
        leave(self.unit, permit, error)?;
        error.map_or(Ok(()), |error| Err(Failure::Backend(error)))
    }
}

/// A pattern of zeroes is written as any other: who overwrites does not want the space given back.
fn piece(range: Range, pattern: Option<&Bytes>, thin: bool) -> Primitive {
    let Range { offset, len } = range;
    match pattern {
        None => Primitive::WriteZeroes { offset, len, may_unmap: thin },
        Some(pattern) if pattern.iter().all(|byte| *byte == 0) => {
            Primitive::WriteZeroes { offset, len, may_unmap: false }
        }
        Some(pattern) => Primitive::WriteSame { offset, len, pattern: pattern.clone() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SANITIZE: EraseKind = EraseKind::Sanitize { may_exit: false };

    #[test]
    fn what_was_not_begun_changes_nothing() {
        let full = || Err(Failure::Backend(BackendError::NoSpace));
        let failed = Operation::SanitizeFailed { may_exit: true };
        for before in [Operation::None, failed, Operation::FormatFailed] {
            assert_eq!(left(full(), SANITIZE, false, before), Some(before));
            let after = Operation::SanitizeFailed { may_exit: false };
            assert_eq!(left(full(), SANITIZE, true, before), Some(after));
            assert_eq!(left(full(), EraseKind::Format, true, before), Some(Operation::FormatFailed));
            assert_eq!(left(Ok(()), SANITIZE, true, before), Some(Operation::None));
            for failure in [Failure::Revoked, Failure::Aborted] {
                assert_eq!(left(Err(failure), SANITIZE, true, before), None);
            }
        }
        assert_eq!(left(full(), EraseKind::ExitFailureMode, false, failed), Some(failed));
    }
}
