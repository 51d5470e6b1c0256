//! Ranges that one operation has for itself, and who waits for them.
//!
//! An operation that must be alone (COMPARE AND WRITE) claims its range, then waits until all that entered the gate before has left it; what
//! comes later and overlaps is turned away until the claim ends. The rest of the logical unit goes on all the while.
//!
//! "All that entered before has left" is found without a list of what is inside: entrants are counted in one of two lanes. The lane is
//! changed, and the lane that nobody enters any more runs empty (as in sleepable RCU). An entrant that read the lane before it was
//! changed, and counts itself later, may be in the other lane; but it counts itself before it looks for claims, as a closer of the gate
//! relies on too, so it sees every claim that did not see it.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};

use lusd_scsi::Range;
use tokio::sync::Notify;

/// Which claim; never reused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ClaimId(NonZeroU64);

#[derive(Default)]
struct Table {
    last: u64,
    ranges: Vec<(ClaimId, Range)>,
    /// Each at most once: no more than there are connections.
    waiting: Vec<Arc<Notify>>,
}

/// The claims on one logical unit.
#[derive(Default)]
pub(super) struct Claims {
    active: AtomicUsize,
    table: Mutex<Table>,
    /// The lane that entrants take, 0 or 1.
    lane: AtomicUsize,
    /// Times that the lanes were begun to be emptied, and the last one that ended.
    begun: AtomicU64,
    ended: AtomicU64,
    turn: tokio::sync::Mutex<()>,
}

impl Claims {
    /// The lane that an entrant is to count itself in.
    #[inline]
    pub(super) fn lane(&self) -> usize {
        self.lane.load(SeqCst)
    }

    /// Whether there is any claim: one load. To be called once the entrant has counted itself.
    #[inline]
    pub(super) fn any(&self) -> bool {
        self.active.load(SeqCst) > 0
    }

    /// Whether one of `ranges` is claimed; then `waker` is woken when a claim ends.
    #[cold]
    pub(super) fn hold_off(&self, ranges: &[Range], waker: &Arc<Notify>) -> bool {
        self.table().hold_off(ranges, waker)
    }

    /// Claims `range`, if no other claim overlaps; else `waker` is woken when one ends.
    pub(super) fn claim(&self, range: Range, waker: &Arc<Notify>) -> Option<ClaimId> {
        let mut table = self.table();
        if table.hold_off(&[range], waker) {
            return None;
        }
        table.last += 1;
        let id = ClaimId(NonZeroU64::new(table.last).expect("counted from 1"));
        table.ranges.push((id, range));
        self.active.store(table.ranges.len(), SeqCst);
        Some(id)
    }

    /// Ends a claim and wakes those that were held off.
    pub(super) fn end(&self, id: ClaimId) {
        let waiting = {
            let mut table = self.table();
            let at = table.ranges.iter().position(|(held, _)| *held == id).expect("a claim ended twice");
            table.ranges.swap_remove(at);
            self.active.store(table.ranges.len(), SeqCst);
            std::mem::take(&mut table.waiting)
        };
        waiting.iter().for_each(|waker| waker.notify_one());
    }

    /// Returns when all that was counted in a lane before this call has left it. `emptied` waits until a lane has been empty.
    pub(super) async fn settled<F: Future<Output = ()>>(&self, emptied: impl Fn(usize) -> F) {
        let before = self.begun.load(SeqCst);
        let _turn = self.turn.lock().await;
        if self.ended.load(SeqCst) > before {
            return; // what another began after this call has ended
        }
        let number = self.begun.fetch_add(1, SeqCst) + 1;
        let lane = self.lane();
        emptied(1 - lane).await; // who was late when the lane was changed last
        self.lane.store(1 - lane, SeqCst);
        emptied(lane).await;
        self.ended.store(number, SeqCst);
    }

    /// A holder that panicked leaves the table whole.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Table {
    fn hold_off(&mut self, ranges: &[Range], waker: &Arc<Notify>) -> bool {
        let held = self.ranges.iter().any(|(_, claimed)| ranges.iter().any(|range| range.overlaps(claimed)));
        if held && !self.waiting.iter().any(|waiting| Arc::ptr_eq(waiting, waker)) {
            self.waiting.push(waker.clone());
        }
        held
    }
}
