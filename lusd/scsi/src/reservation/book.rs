//! The reservations of a logical unit as they stand, and what follows from them for each nexus that is there.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::action::{Action, Change, Known, Refusal};
use super::{Access, InitiatorPort, Nexus, Registration, Reservations, Reserved};
use crate::attention::{Told, UnitAttention};

/// What a command asks of the reservations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReserveRequest {
    /// PERSISTENT RESERVE OUT.
    Persistent(Action),
    /// RESERVE (6) and (10).
    Reserve,
    /// RELEASE (6) and (10).
    Release,
}

/// What comes of a [`ReserveRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing changes; this is the answer.
    Answer(Result<(), Refusal>),
    /// To be made durable, and then published.
    Persist(Change),
    /// [`crate::LogicalUnit::hold`], while nothing is under way.
    Hold,
    /// [`crate::LogicalUnit::let_go`].
    LetGo,
}

/// A nexus as the reservations know it.
#[derive(Debug)]
pub(crate) struct Member {
    /// Unique in the logical unit's life: another session of the same nexus is another member.
    id: u64,
    pub(crate) nexus: Nexus,
    access: AtomicU8,
    /// Raised when the nexus's tasks are aborted by PREEMPT AND ABORT or I_T NEXUS RESET. Written under the book's lock.
    aborts: AtomicU64,
    /// Its session has ended. Written under the book's lock.
    left: AtomicBool,
    pub(crate) told: Told,
}

impl Member {
    #[inline]
    pub(crate) fn access(&self) -> Access {
        Access::from_discriminant(self.access.load(Ordering::Acquire))
    }

    #[inline]
    pub(crate) fn aborts(&self) -> u64 {
        self.aborts.load(Ordering::Acquire)
    }
}

/// A nexus for whoever carries its requests out, while it lives and after.
#[derive(Clone, Debug)]
pub struct NexusHandle(pub(crate) Arc<Member>);

impl NexusHandle {
    /// Whether reservations let the nexus do what is allowed so far.
    pub fn may(&self, what: Reserved) -> bool {
        what.is_allowed(self.0.access())
    }

    /// As [`crate::NexusLu::aborts`].
    pub fn aborts(&self) -> u64 {
        self.0.aborts()
    }

    /// Whether its session has ended, or has the logical unit no more.
    pub fn has_left(&self) -> bool {
        self.0.left.load(Ordering::Acquire)
    }
}

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Book(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    persistent: Arc<Reservations>,
    /// The member that holds the logical unit by RESERVE.
    spc2: Option<u64>,
    members: Vec<Weak<Member>>,
    joined: u64,
}

impl State {
    fn members(&self) -> impl Iterator<Item = Arc<Member>> {
        self.members.iter().filter_map(Weak::upgrade)
    }

    fn access_of(&self, id: u64, nexus: &Nexus) -> Access {
        match self.spc2 {
            Some(holder) if holder != id => Access::ReservedBySpc2,
            _ => self.persistent.access_of(nexus),
        }
    }

    /// Tells every nexus what is left to it.
    fn spread(&self) {
        for member in self.members() {
            let access = self.access_of(member.id, &member.nexus);
            member.access.store(access as u8, Ordering::Release);
        }
    }

    fn tell(&self, registration: &Registration, attention: UnitAttention) {
        for member in self.members().filter(|member| registration.is_of(&member.nexus)) {
            member.told.establish(attention);
        }
    }

    fn let_go(&mut self, member: &Member) {
        if self.spc2 == Some(member.id) {
            self.spc2 = None;
            self.spread();
        }
    }

    /// 5.13.3, and SPC-2 while there is no registration.
    fn decide_spc2(&self, member: &Member, reserves: bool) -> Decision {
        let persistent = &self.persistent;
        if !persistent.registrations.is_empty() {
            let compatible = persistent.registration(&member.nexus).is_some_and(|own| {
                own.holder || persistent.kind.is_some_and(super::ReservationType::admits_registrants)
            });
            return Decision::Answer(if compatible { Ok(()) } else { Err(Refusal::Conflict) });
        }
        match (reserves, self.spc2) {
            (true, None) => Decision::Hold,
            (true, Some(holder)) if holder != member.id => Decision::Answer(Err(Refusal::Conflict)),
            (false, Some(holder)) if holder == member.id => Decision::LetGo,
            _ => Decision::Answer(Ok(())),
        }
    }

    fn decide_persistent(&self, member: &Member, action: &Action, target_ports: &[u16]) -> Decision {
        if self.spc2.is_some() {
            return Decision::Answer(Err(Refusal::Conflict));
        }
        let initiators: Vec<InitiatorPort> =
            self.members().map(|member| member.nexus.initiator.clone()).collect();
        let known = Known { initiators: &initiators, target_ports };
        match self.persistent.apply(&member.nexus, action, known) {
            Ok(Some(change)) => Decision::Persist(change),
            Ok(None) => Decision::Answer(Ok(())),
            Err(refusal) => Decision::Answer(Err(refusal)),
        }
    }
}

impl Book {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment: whoever panicked left it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn join(&self, nexus: Nexus, told: Told) -> Arc<Member> {
        let mut state = self.state();
        state.members.retain(|member| member.strong_count() > 0);
        state.joined += 1;
        let id = state.joined;
        let access = AtomicU8::new(state.access_of(id, &nexus) as u8);
        let (aborts, left) = (AtomicU64::new(0), AtomicBool::new(false));
        let member = Arc::new(Member { id, nexus, access, aborts, left, told });
        state.members.push(Arc::downgrade(&member));
        member
    }

    /// The nexus is lost: what it held by RESERVE is free.
    pub(crate) fn leave(&self, member: &Member) {
        let mut state = self.state();
        member.left.store(true, Ordering::Release);
        state.let_go(member);
    }

    pub(crate) fn reservations(&self) -> Arc<Reservations> {
        self.state().persistent.clone()
    }

    pub(crate) fn is_reserved_by_spc2(&self) -> bool {
        self.state().spc2.is_some()
    }

    pub(crate) fn decide(&self, member: &Member, request: &ReserveRequest, target_ports: &[u16]) -> Decision {
        let state = self.state();
        match request {
            ReserveRequest::Persistent(action) => state.decide_persistent(member, action, target_ports),
            ReserveRequest::Reserve => state.decide_spc2(member, true),
            ReserveRequest::Release => state.decide_spc2(member, false),
        }
    }

    pub(crate) fn publish(&self, change: Change) {
        let mut state = self.state();
        for (registration, attention) in &change.tell {
            state.tell(registration, *attention);
        }
        for registration in &change.abort {
            for member in state.members().filter(|member| registration.is_of(&member.nexus)) {
                member.aborts.fetch_add(1, Ordering::AcqRel);
            }
        }
        state.persistent = Arc::new(change.next);
        state.spread();
    }

    /// Takes over what others have made of the reservations: nexuses that are here are told what they lost.
    pub(crate) fn adopt(&self, next: Reservations) {
        let mut state = self.state();
        let before = std::mem::replace(&mut state.persistent, Arc::new(next));
        for member in state.members() {
            let was = before.registration(&member.nexus).is_some();
            let is = state.persistent.registration(&member.nexus).is_some();
            if was && !is {
                member.told.establish(UnitAttention::RegistrationsPreempted);
            } else if was && before.kind.is_some() && before.kind != state.persistent.kind {
                member.told.establish(UnitAttention::ReservationsReleased);
            }
        }
        state.spread();
    }

    pub(crate) fn hold(&self, member: &Member, aborts: u64) -> bool {
        let mut state = self.state();
        // Its session may have ended meanwhile, or the command.
        let holds = !member.left.load(Ordering::Acquire) && member.aborts() == aborts;
        if holds {
            state.spc2 = Some(member.id);
            state.spread();
        }
        holds
    }

    /// All tasks of the nexus are aborted, and what it held by RESERVE is free.
    pub(crate) fn reset(&self, member: &Member) {
        let mut state = self.state();
        member.aborts.fetch_add(1, Ordering::AcqRel);
        state.let_go(member);
    }

    pub(crate) fn let_go(&self, member: &Member) {
        self.state().let_go(member);
    }

    /// A reset ends it; `told`: the holder hears of it.
    pub(crate) fn end_spc2(&self, told: bool) {
        let mut state = self.state();
        let Some(holder) = state.spc2.take() else { return };
        if told {
            for member in state.members().filter(|member| member.id == holder) {
                member.told.establish(UnitAttention::ReservationsReleased);
            }
        }
        state.spread();
    }
}
