//! An I_T nexus of a logical unit: what it has not been told, and what reservations leave to it.

use std::sync::Arc;

use crate::attention::{AttentionLog, Told, UnitAttention};
use crate::block::BlockOp;
use crate::reservation::{Access, Book, Member, Nexus, NexusHandle, Reserved};
use crate::sense::{CheckCondition, SenseCode};
use crate::spc::CopyResults;

/// One I_T nexus and one logical unit; lives as long as the session has the logical unit.
#[derive(Debug)]
pub struct NexusLu {
    member: Arc<Member>,
    book: Arc<Book>,
    copies: CopyResults,
}

impl NexusLu {
    /// A nexus that starts with `first` pending (a new session: [`UnitAttention::PowerOn`]; one that reinstates an
    /// older session: [`UnitAttention::NexusLoss`]) and hears of what happens to the logical unit from now on.
    pub fn new(lu: &crate::LogicalUnit, nexus: Nexus, first: Option<UnitAttention>) -> NexusLu {
        let book = lu.book.clone();
        let member = book.join(nexus, Told::new(&lu.attentions, first));
        NexusLu { member, book, copies: CopyResults::default() }
    }

    /// What it has copied.
    pub(crate) fn copies(&self) -> &CopyResults {
        &self.copies
    }

    /// Makes a unit attention pending for this nexus alone.
    pub fn establish(&self, attention: UnitAttention) {
        self.member.told.establish(attention);
    }

    /// It is lost, and goes on as if it had just begun (I_T NEXUS RESET, SAM-5 6.3.4): what it held by RESERVE is free; registrations and
    /// persistent reservations stay.
    pub fn reset(&self) {
        self.book.reset(&self.member);
        self.establish(UnitAttention::NexusLoss);
    }

    /// The unit attention that would be reported next; it stays pending (QUERY ASYNCHRONOUS EVENT, SAM-5 7.9).
    pub fn pending(&self, lu: &crate::LogicalUnit) -> Option<SenseCode> {
        self.member.told.pending(&lu.attentions)
    }

    /// Forgets REPORTED LUNS DATA HAS CHANGED: REPORT LUNS to any logical unit tells of it (SPC-4). It is never in
    /// the log, only in the queue.
    pub fn clear_reported_luns(&self) {
        self.member.told.forget(UnitAttention::ReportedLunsDataHasChanged);
    }

    /// What reservations leave to it now.
    #[inline]
    pub fn access(&self) -> Access {
        self.member.access()
    }

    /// Whether reservations let it do `op`: one load.
    #[inline]
    pub fn may(&self, op: &BlockOp) -> bool {
        let access = self.access();
        access == Access::Free || Reserved::of(op).is_allowed(access)
    }

    /// How often its tasks were aborted by PREEMPT AND ABORT or I_T NEXUS RESET: a task that came under another number than this is not to be begun.
    #[inline]
    pub fn aborts(&self) -> u64 {
        self.member.aborts()
    }

    /// The same nexus for whoever carries its requests out.
    pub fn handle(&self) -> NexusHandle {
        NexusHandle(self.member.clone())
    }

    /// Takes the unit attention that is to be reported next; without one this costs two loads.
    #[inline]
    pub(crate) fn take(&self, log: &AttentionLog) -> Option<CheckCondition> {
        self.member.told.take(log)
    }

    /// Takes this unit attention, if it is pending, past whatever is to be reported before it.
    pub(crate) fn take_only(&self, log: &AttentionLog, attention: UnitAttention) -> Option<CheckCondition> {
        self.member.told.take_only(log, attention)
    }

    pub(crate) fn told(&self) -> &Told {
        &self.member.told
    }
}

impl Drop for NexusLu {
    fn drop(&mut self) {
        self.book.leave(&self.member);
    }
}
