//! Unit attentions (SAM-5 5.14): what an I_T nexus must be told before its next command runs.
//!
//! ```text
//! LogicalUnit.attentions: AttentionLog            Told, one per (I_T nexus, logical unit)
//!   generation: counts events of all kinds          quiet_at: the generation up to which nothing is pending
//!   latest[kind]: generation of the last one        pending: set of kinds
//! ```
//!
//! Invariants:
//! - A command finds out that nothing is pending by comparing two atomics; no lock is taken.
//! - The queue of a nexus is a set over the kinds: bounded and without duplicates by construction. It is read in
//!   the order of [`UnitAttention::ORDER`].
//! - Lock order: the log's, then a nexus's.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::sense::{CheckCondition, SenseCode, SenseKey};
use crate::spc::THRESHOLD_DESCRIPTOR_AT;

/// A unit attention condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum UnitAttention {
    /// POWER ON, RESET, OR BUS DEVICE RESET OCCURRED: the first use of a nexus.
    PowerOn,
    /// SCSI BUS RESET OCCURRED: a target reset.
    BusReset,
    /// BUS DEVICE RESET FUNCTION OCCURRED: a logical unit reset.
    DeviceReset,
    /// I_T NEXUS LOSS OCCURRED.
    NexusLoss,
    /// RESERVATIONS PREEMPTED: all registrations were cleared.
    ReservationsPreempted,
    /// RESERVATIONS RELEASED.
    ReservationsReleased,
    /// REGISTRATIONS PREEMPTED: this nexus's was removed by another one.
    RegistrationsPreempted,
    /// REPORTED LUNS DATA HAS CHANGED.
    ReportedLunsDataHasChanged,
    /// INQUIRY DATA HAS CHANGED.
    InquiryDataHasChanged,
    /// CAPACITY DATA HAS CHANGED.
    CapacityDataHasChanged,
    /// MODE PARAMETERS CHANGED.
    ModeParametersChanged,
    /// ASYMMETRIC ACCESS STATE CHANGED: of some target port group of the logical unit.
    AsymmetricAccessStateChanged,
    /// THIN PROVISIONING SOFT THRESHOLD REACHED: little room is left below the logical unit.
    ThinProvisioningSoftThresholdReached,
}

/// Number of kinds.
const KINDS: usize = UnitAttention::ORDER.len();

impl UnitAttention {
    /// All kinds, the one to be reported first in front (SAM-5; beyond the resets the order is ours).
    pub const ORDER: [UnitAttention; 13] = [
        UnitAttention::PowerOn,
        UnitAttention::BusReset,
        UnitAttention::DeviceReset,
        UnitAttention::NexusLoss,
        UnitAttention::ReservationsPreempted,
        UnitAttention::ReservationsReleased,
        UnitAttention::RegistrationsPreempted,
        UnitAttention::ReportedLunsDataHasChanged,
        UnitAttention::InquiryDataHasChanged,
        UnitAttention::CapacityDataHasChanged,
        UnitAttention::ModeParametersChanged,
        UnitAttention::AsymmetricAccessStateChanged,
        UnitAttention::ThinProvisioningSoftThresholdReached,
    ];

    /// The sense of each kind.
    pub const fn code(self) -> SenseCode {
        let (asc, ascq) = match self {
            UnitAttention::PowerOn => (0x29, 0x00),
            UnitAttention::BusReset => (0x29, 0x02),
            UnitAttention::DeviceReset => (0x29, 0x03),
            UnitAttention::NexusLoss => (0x29, 0x07),
            UnitAttention::ReservationsPreempted => (0x2a, 0x03),
            UnitAttention::ReservationsReleased => (0x2a, 0x04),
            UnitAttention::RegistrationsPreempted => (0x2a, 0x05),
            UnitAttention::ReportedLunsDataHasChanged => (0x3f, 0x0e),
            UnitAttention::InquiryDataHasChanged => (0x3f, 0x03),
            UnitAttention::CapacityDataHasChanged => (0x2a, 0x09),
            UnitAttention::ModeParametersChanged => (0x2a, 0x01),
            UnitAttention::AsymmetricAccessStateChanged => (0x2a, 0x06),
            UnitAttention::ThinProvisioningSoftThresholdReached => (0x38, 0x07),
        };
        SenseCode::new(SenseKey::UnitAttention, asc, ascq)
    }

    /// What a command is told. Of a threshold INFORMATION says which: the offset of its descriptor in the Logical Block Provisioning mode
    /// page (SBC-4).
    fn check(self) -> CheckCondition {
        let check = CheckCondition::new(self.code());
        match self {
            UnitAttention::ThinProvisioningSoftThresholdReached => {
                check.with_information(THRESHOLD_DESCRIPTOR_AT)
            }
            _ => check,
        }
    }

    /// The resets imply one another downwards: only the highest pending one is reported.
    const fn is_reset(self) -> bool {
        matches!(
            self,
            UnitAttention::PowerOn
                | UnitAttention::BusReset
                | UnitAttention::DeviceReset
                | UnitAttention::NexusLoss
        )
    }
}

/// A set of kinds, lowest bit first to be reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pending(u16);

impl Pending {
    const RESETS: u16 = (1 << (UnitAttention::NexusLoss as u16 + 1)) - 1;

    fn add(&mut self, attention: UnitAttention) {
        let bit = 1u16 << attention as u16;
        if attention.is_reset() {
            let resets = self.0 & Pending::RESETS | bit;
            let highest = resets & resets.wrapping_neg();
            self.0 = self.0 & !Pending::RESETS | highest;
        } else {
            self.0 |= bit;
        }
        // To a nexus that has not been told of its own beginning no state was reported that could have changed.
        if self.has(UnitAttention::PowerOn) {
            self.remove(UnitAttention::AsymmetricAccessStateChanged);
        }
    }

    fn has(self, attention: UnitAttention) -> bool {
        self.0 & 1 << attention as u16 != 0
    }

    fn remove(&mut self, attention: UnitAttention) {
        self.0 &= !(1 << attention as u16);
    }

    fn first(self) -> Option<UnitAttention> {
        UnitAttention::ORDER.into_iter().find(|attention| self.has(*attention))
    }
}

/// The events of one logical unit that concern all of its nexuses.
#[derive(Debug, Default)]
pub(crate) struct AttentionLog {
    generation: AtomicU64,
    latest: Mutex<[u64; KINDS]>,
}

impl AttentionLog {
    /// Tells every nexus but `except`.
    pub(crate) fn raise(&self, attention: UnitAttention, except: Option<&Told>) {
        let mut latest = lock(&self.latest);
        let next = self.generation.load(Ordering::Relaxed) + 1;
        if let Some(told) = except {
            // What others did before still has to be told; this event counts as seen.
            let mut queue = lock(&told.queue);
            queue.absorb(&latest, next);
            told.publish(&queue);
        }
        latest[attention as usize] = next;
        self.generation.store(next, Ordering::Release);
    }
}

/// What one I_T nexus has not yet been told about one logical unit.
#[derive(Debug)]
pub(crate) struct Told {
    /// Equal to the log's generation: nothing is pending. `NEVER_QUIET` while the queue is not empty.
    quiet_at: AtomicU64,
    queue: Mutex<Queue>,
}

/// No generation is ever this high: it counts events.
const NEVER_QUIET: u64 = u64::MAX;

#[derive(Debug)]
struct Queue {
    absorbed: u64,
    pending: Pending,
}

impl Queue {
    /// Takes over the log's events after `self.absorbed`, and counts everything up to `now` as seen.
    fn absorb(&mut self, latest: &[u64; KINDS], now: u64) {
        for attention in UnitAttention::ORDER {
            if latest[attention as usize] > self.absorbed {
                self.pending.add(attention);
            }
        }
        self.absorbed = now;
    }
}

impl Told {
    pub(crate) fn new(log: &AttentionLog, first: Option<UnitAttention>) -> Told {
        let mut pending = Pending::default();
        if let Some(first) = first {
            pending.add(first);
        }
        let queue = Queue { absorbed: log.generation.load(Ordering::Acquire), pending };
        let told = Told { quiet_at: AtomicU64::new(NEVER_QUIET), queue: Mutex::new(queue) };
        told.publish(&lock(&told.queue));
        told
    }

    /// Makes a unit attention pending for this nexus alone.
    pub(crate) fn establish(&self, attention: UnitAttention) {
        let mut queue = lock(&self.queue);
        queue.pending.add(attention);
        self.publish(&queue);
    }

    /// The unit attention that would be reported next; it stays pending.
    pub(crate) fn pending(&self, log: &AttentionLog) -> Option<SenseCode> {
        let latest = lock(&log.latest);
        let mut queue = lock(&self.queue);
        queue.absorb(&latest, log.generation.load(Ordering::Acquire));
        self.publish(&queue);
        queue.pending.first().map(UnitAttention::code)
    }

    /// Forgets one that is never in the log, only in the queue.
    pub(crate) fn forget(&self, attention: UnitAttention) {
        let mut queue = lock(&self.queue);
        queue.pending.remove(attention);
        self.publish(&queue);
    }

    /// Takes the unit attention that is to be reported next; without one this costs two loads.
    #[inline]
    pub(crate) fn take(&self, log: &AttentionLog) -> Option<CheckCondition> {
        if self.quiet_at.load(Ordering::Acquire) == log.generation.load(Ordering::Acquire) {
            return None;
        }
        self.take_pending(log)
    }

    #[cold]
    fn take_pending(&self, log: &AttentionLog) -> Option<CheckCondition> {
        self.take_one(log, Pending::first)
    }

    /// Takes this unit attention, if it is pending, past whatever is to be reported before it.
    pub(crate) fn take_only(&self, log: &AttentionLog, attention: UnitAttention) -> Option<CheckCondition> {
        self.take_one(log, |pending| pending.has(attention).then_some(attention))
    }

    fn take_one(
        &self,
        log: &AttentionLog,
        choose: impl FnOnce(Pending) -> Option<UnitAttention>,
    ) -> Option<CheckCondition> {
        let latest = lock(&log.latest);
        let mut queue = lock(&self.queue);
        queue.absorb(&latest, log.generation.load(Ordering::Acquire));
        let attention = choose(queue.pending);
        if let Some(attention) = attention {
            queue.pending.remove(attention);
        }
        self.publish(&queue);
        attention.map(UnitAttention::check)
    }

    fn publish(&self, queue: &Queue) {
        let quiet_at = if queue.pending == Pending::default() { queue.absorbed } else { NEVER_QUIET };
        self.quiet_at.store(quiet_at, Ordering::Release);
    }
}

/// A holder that panicked leaves these small sets whole: going on is right.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
