//! Work of several steps that follow from each other: a future on the shard that asks the backend for one step at a time.
//!
//! ```text
//!   Shard::start ─ gate ─ spawn_local ─► job ─ Steps::perform ─► backend ─► librbd
//!                                         ▲                                   │
//!                                         └── Steps::complete ◄── completion queue
//! ```
//!
//! What reads or writes once does without: its steps are states (`work`), for it is on the hot path.
//!
//! Invariants
//! * A job holds its permit of the gate for as long as it must be alone, and passes the gate anew for each part where it need not.
//! * Each step that changes data looks first whether it may still be begun ([`Job::check`]): its task was not ended, and its initiator is
//!   known to have waited for it within the stall bound.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use lusd_ceph::{Completed, CompletionQueue, OpBuffers};
use lusd_scsi::{BlockOp, CheckCondition, Fault, Range};
use slab::Slab;
use tokio::sync::oneshot;

use super::backend::{Backend, BackendError, Primitive, Submitted};
use super::gate::{Permit, Verdict};
use super::unit::Unit;
use super::work::{Work, difference};

/// Set in the token of each step, and of nothing else: slots are counted from 0.
const STEP: u64 = 1 << 63;

/// Steps of jobs that one shard has under way.
pub struct Steps {
    queue: Arc<CompletionQueue>,
    waiting: RefCell<Slab<Step>>,
}

struct Step {
    /// Bytes that it must deliver.
    read_len: usize,
    ended: oneshot::Sender<Result<Bytes, BackendError>>,
}

impl Steps {
    /// Steps that end on `queue`.
    pub fn new(queue: Arc<CompletionQueue>) -> Self {
        Self { queue, waiting: RefCell::new(Slab::new()) }
    }

    /// Whether a completion is one of a step.
    #[inline]
    pub fn is_step(token: u64) -> bool {
        token & STEP != 0
    }

    /// Does one step and waits for its end. The caller is inside the gate of `unit`.
    ///
    /// # Errors
    /// What the backend says; [`BackendError::OutOfRange`] for a read of what is not there any more.
    pub async fn perform(&self, unit: &Unit, op: Primitive) -> Result<Bytes, BackendError> {
        let end = {
            let backend = unit.backend();
            let Some(backend) = backend.as_ref() else { return Err(BackendError::Lost) };
            let (ended, end) = oneshot::channel();
            let slot = self.waiting.borrow_mut().insert(Step { read_len: op.read_len(), ended });
            match backend.submit(&self.queue, op, STEP | slot as u64) {
                Submitted::Pending => end,
                Submitted::Done(result) => {
                    self.waiting.borrow_mut().remove(slot);
                    return result;
                }
            }
        };
        // A queue that is not drained any more belongs to a shard that is gone.
        end.await.unwrap_or(Err(BackendError::Unknown))
    }

    /// A step has ended.
    pub fn complete(&self, completed: Completed) {
        let step = self.waiting.borrow_mut().remove((completed.token & !STEP) as usize);
        let data = match completed.buffers {
            OpBuffers::Read(data) => data.freeze(),
            _ => Bytes::new(),
        };
        let result = match completed.result {
            Err(errno) => Err(BackendError::from_errno(errno)),
            Ok(_) if data.len() < step.read_len => Err(BackendError::OutOfRange),
            Ok(_) => Ok(data),
        };
        // Nobody waits any more: not our business.
        let _ = step.ended.send(result);
    }
}

/// When and under what a task came.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The unit's, then.
    pub reset_generation: u64,
    /// The nexus's, then: another one now means that PREEMPT AND ABORT ended the task.
    pub aborts: u64,
    /// The initiator has not given it up before this. Later than the command where data came that was asked for, or comes as it is sent.
    pub alive: Instant,
}

impl Entry {
    /// Whether tasks of the unit were ended since.
    pub fn is_ended(&self, unit: &Unit) -> bool {
        unit.reset_generation() != self.reset_generation
    }
}

/// Why a job ends otherwise than well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The backend did not do a step.
    Backend(BackendError),
    /// A comparison found a difference, first at this byte.
    Miscompare(u64),
    /// Nothing was changed, and nothing will be: the initiator may have given the task up by now.
    Late,
    /// A task management function ended the task; or the unit is not served here any more, and nothing was begun.
    Aborted,
    /// The unit was lost meanwhile: the outcome is not ours to tell.
    Revoked,
    /// To be told as it is.
    Check(CheckCondition),
}

impl From<BackendError> for Failure {
    fn from(error: BackendError) -> Self {
        Self::Backend(error)
    }
}

/// Second passage of the gate, for what has ended with `error`.
///
/// # Errors
/// [`Failure::Revoked`], where it may not be answered.
pub fn leave(unit: &Unit, permit: Permit, error: Option<BackendError>) -> Result<(), Failure> {
    let lost = matches!(error, Some(BackendError::Lost | BackendError::Unknown));
    if lost {
        // Before anyone is told: what else is inside must not be answered either.
        unit.lost(permit.epoch(), error == Some(BackendError::Unknown));
    }
    match unit.gate.leave(permit) {
        Verdict::Answer if !lost => Ok(()),
        Verdict::Answer | Verdict::Revoked => Err(Failure::Revoked),
    }
}

/// Which parts of `range` hold data, in order. The caller is inside the gate of `unit`.
///
/// # Errors
/// What the backend says.
pub async fn mapped(unit: &Unit, range: Range) -> Result<Vec<Range>, BackendError> {
    let Range { offset, len } = range;
    let image = match unit.backend().as_deref() {
        Some(Backend::Rbd(image)) => Ok(image.clone()),
        Some(Backend::Ram(store)) => Err(store.extents(offset, len)),
        Some(Backend::Null) => Err(vec![(offset, len)]),
        None => return Err(BackendError::Lost),
    };
    let extents = match image {
        Ok(image) => {
            image.extents(offset, len).await.map_err(|error| BackendError::from_errno(error.errno()))?
        }
        Err(extents) => extents,
    };
    Ok(extents.into_iter().map(|(offset, len)| Range { offset, len }).collect())
}

/// The blocks from `lba` on could not be read, so nothing is written: that is not told as an error of writing.
fn unread(error: BackendError, lba: u64) -> Failure {
    match error {
        BackendError::Medium => {
            Failure::Check(CheckCondition::from(Fault::UnrecoveredRead).with_information(lba))
        }
        error => Failure::Backend(error),
    }
}

/// A job on one unit.
pub struct Job<'a> {
    /// Where its steps are done.
    pub steps: &'a Steps,
    /// What it is about.
    pub unit: &'a Unit,
    /// How its task came.
    pub entry: Entry,
    /// How old it may be when data is changed.
    pub stall_bound: Duration,
}

impl Job<'_> {
    /// Whether a step that changes data may be begun.
    ///
    /// # Errors
    /// [`Failure::Aborted`], [`Failure::Late`].
    pub fn check(&self) -> Result<(), Failure> {
        if self.entry.is_ended(self.unit) {
            return Err(Failure::Aborted);
        }
        if self.entry.alive.elapsed() > self.stall_bound {
            return Err(Failure::Late);
        }
        Ok(())
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Bytes, Failure> {
        let read = self.steps.perform(self.unit, Primitive::Read { offset, len }).await;
        read.map_err(|error| unread(error, offset >> self.unit.scsi.block_size().shift()))
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<Bytes, Failure> {
        self.check()?;
        Ok(self.steps.perform(self.unit, Primitive::Write { offset, data }).await?)
    }

    /// Does what [`BlockOp::alone`] says of: the caller has the range for itself.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn alone(&self, work: Work) -> Result<Bytes, Failure> {
        let Work { op, mut data } = work;
        match op {
            BlockOp::CompareAndWrite(range) => {
                let fresh = data.split_off(data.len() / 2);
                let found = self.read(range.offset, range.len as usize).await?;
                if let Some(at) = difference(&data, &found) {
                    return Err(Failure::Miscompare(at));
                }
                drop((found, data));
                self.write(range.offset, fresh).await
            }
            BlockOp::OrWrite(range) => {
                let found = self.read(range.offset, range.len as usize).await?;
                // Nobody else has what was just read, but for what a backend has as a constant.
                let mut merged = found.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
                merged.iter_mut().zip(&data).for_each(|(old, new)| *old |= new);
                drop(data);
                self.write(range.offset, merged.freeze()).await
            }
            BlockOp::WriteAtomic(range) => self.write(range.offset, data).await,
            _ => unreachable!("not to be done alone: {op:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use lusd_scsi::{AccessState, Identity, LogicalUnit, LogicalUnitConfig};

    use super::super::gate::LuEpoch;
    use super::super::ram::RamStore;
    use super::*;

    const CAPACITY: u64 = 1 << 20;

    fn unit() -> Arc<Unit> {
        let config = LogicalUnitConfig::new(Identity::new([7; 16]), CAPACITY);
        let scsi = LogicalUnit::new(config, AccessState::BecomingReady).unwrap();
        let unit = Unit::new(lus_map::LuId(uuid::Uuid::from_u128(7)), "ram:x".to_owned(), scsi, 1);
        unit.serve(LuEpoch(1), Arc::new(Backend::Ram(RamStore::new(CAPACITY))));
        unit
    }

    fn run(unit: &Unit, entry: Entry, op: BlockOp, data: &[u8]) -> Result<Bytes, Failure> {
        let steps = Steps::new(CompletionQueue::new().unwrap());
        let job = Job { steps: &steps, unit, entry, stall_bound: Duration::from_secs(3) };
        let work = Work { op, data: Bytes::copy_from_slice(data) };
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(job.alone(work))
    }

    fn now() -> Entry {
        Entry { reset_generation: 0, aborts: 0, alive: Instant::now() }
    }

    fn medium(unit: &Unit) -> Bytes {
        let steps = Steps::new(CompletionQueue::new().unwrap());
        let read = steps.perform(unit, Primitive::Read { offset: 0, len: 4 });
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(read).unwrap()
    }

    const AT: Range = Range { offset: 0, len: 4 };

    #[test]
    fn what_differs_is_not_written() {
        let unit = unit();
        let caw = || BlockOp::CompareAndWrite(AT);
        assert_eq!(run(&unit, now(), caw(), b"\0\0\0\0abcd"), Ok(Bytes::new()));
        assert_eq!(run(&unit, now(), caw(), b"abxdefgh"), Err(Failure::Miscompare(2)));
        assert_eq!(&medium(&unit)[..], b"abcd");
        assert_eq!(run(&unit, now(), caw(), b"abcdefgh"), Ok(Bytes::new()));
        assert_eq!(&medium(&unit)[..], b"efgh");
    }

    #[test]
    fn bits_are_set_and_none_is_cleared() {
        let unit = unit();
        assert_eq!(run(&unit, now(), BlockOp::WriteAtomic(AT), &[1, 2, 4, 8]), Ok(Bytes::new()));
        assert_eq!(run(&unit, now(), BlockOp::OrWrite(AT), &[0x10, 2, 0, 7]), Ok(Bytes::new()));
        assert_eq!(medium(&unit)[..], [0x11, 2, 4, 15]);
    }

    #[test]
    fn what_came_too_long_ago_or_was_ended_changes_nothing() {
        let unit = unit();
        let late = Entry { alive: Instant::now() - Duration::from_secs(4), ..now() };
        let ended = Entry { reset_generation: 1, ..now() };
        for (entry, failure) in [(late, Failure::Late), (ended, Failure::Aborted)] {
            for op in [BlockOp::CompareAndWrite(AT), BlockOp::OrWrite(AT), BlockOp::WriteAtomic(AT)] {
                let data: &[u8] =
                    if let BlockOp::CompareAndWrite(_) = op { b"\0\0\0\0abcd" } else { b"abcd" };
                assert_eq!(run(&unit, entry, op, data), Err(failure));
            }
        }
        assert_eq!(medium(&unit)[..], [0; 4]);
    }

    #[test]
    fn what_cannot_be_read_is_no_error_of_writing() {
        match unread(BackendError::Medium, 7) {
            Failure::Check(check) => {
                assert_eq!((check.code, check.information), (Fault::UnrecoveredRead.code(), Some(7)));
            }
            other => panic!("{other:?}"),
        }
        // What says that the unit is lost must stay visible to the gate.
        for error in [BackendError::Lost, BackendError::Unknown, BackendError::Busy] {
            assert_eq!(unread(error, 7), Failure::Backend(error));
        }
    }

    #[test]
    fn a_unit_that_is_gone_is_lost() {
        let unit = unit();
        drop(unit.retire_backend());
        let lost = Err(Failure::Backend(BackendError::Lost));
        assert_eq!(run(&unit, now(), BlockOp::CompareAndWrite(AT), b"\0\0\0\0abcd"), lost);
    }
}
