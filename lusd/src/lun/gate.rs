//! The LUN gate: every block operation passes it twice, before it is submitted and before its status is sent.
//!
//! ```text
//!            open(epoch)                 shut()
//!   Shut ───────────────► Open ───────────────────► Shut(draining)  ──drained()──► nothing is in flight
//!                          │  ▲                        │
//!                 barrier()│  │drop(Barrier)           │ revoke(): what is still in flight must not be answered
//!                          ▼  │                        ▼
//!                         Held (entrants wait)        Shut(revoked)
//! ```
//!
//! Invariants
//! * An operation enters under exactly one LU epoch and leaves once. [`Gate::leave`] says whether its status may be sent: only
//!   while that epoch has not been revoked.
//! * After [`Gate::drained`] returned for a gate that is not open, no operation is between `enter` and `leave`, on any shard.
//! * While an operation has a range for itself ([`Gate::enter_alone`], then [`Gate::alone`]), no other that overlaps is inside.
//! * The path of a read or a write takes no lock: one atomic increment on the shard's own cache line and a few loads each way. Only while
//!   some range is claimed is a table of the claims looked at.
//!
//! The counter is raised *before* the state is read, and the state is changed *before* the counters are read, all with sequential
//! consistency: so either the entrant sees the gate closed, or the closer sees the entrant (Dekker's argument; checked by
//! exhaustive interleaving in the tests).

#[cfg(test)]
mod alone;
mod claims;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use lusd_scsi::Range;
use tokio::sync::Notify;

use self::claims::{ClaimId, Claims};

/// The epoch of one logical unit: raised with each change of its owner. See `lu.<id>` in doc/map.md.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct LuEpoch(pub u64);

/// Largest LU epoch that the gate can hold: two bits of the word are the mode.
const EPOCH_MAX: u64 = u64::MAX >> 2;

const MODE_SHUT: u64 = 0;
const MODE_OPEN: u64 = 1;
/// A rare command runs alone; entrants wait for the gate to open again, under the same epoch.
const MODE_HELD: u64 = 2;
/// Shut, and what was in flight under this epoch must not be answered any more.
const MODE_REVOKED: u64 = 3;

/// The lane of those that have a range for themselves; the two before it are for all others (see `claims`).
const LANE_ALONE: usize = 2;
const LANES: usize = 3;

/// One shard's counts of operations inside, on a cache line of their own.
#[repr(align(128))]
#[derive(Default)]
struct Inside([AtomicU64; LANES]);

/// Why an operation may not be submitted now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// A barrier is held for a moment, or another operation has the range for itself: park the command and try again when woken.
    Held,
    /// This daemon does not serve the LU (now).
    Shut,
}

/// What [`Gate::leave`] says of an operation that has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The epoch still stands: its status may be sent.
    Answer,
    /// The LU was lost while the operation was inside: its outcome is not ours to tell. The session is to be reset.
    Revoked,
}

/// The right to have one operation in flight. It must be given back by [`Gate::leave`].
#[must_use = "an operation that entered the gate must leave it"]
#[derive(Debug)]
pub struct Permit {
    epoch: LuEpoch,
    claim: Option<ClaimId>,
    shard: u32,
    lane: u8,
    spent: bool,
}

impl Permit {
    /// The LU epoch under which the operation entered.
    pub fn epoch(&self) -> LuEpoch {
        self.epoch
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        assert!(self.spent || std::thread::panicking(), "a gate permit was dropped without leaving the gate");
    }
}

/// See the module's text.
pub struct Gate {
    /// `epoch << 2 | mode`.
    state: AtomicU64,
    inside: Box<[Inside]>,
    claims: Claims,
    /// Woken by the last operation that leaves a gate that is not open, and by each change of mode.
    changed: Notify,
    /// One barrier at a time.
    barrier: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (epoch, mode) = split(self.state.load(SeqCst));
        let mode = ["shut", "open", "held", "revoked"][mode as usize];
        write!(f, "Gate({mode}, e{}, {} inside)", epoch.0, self.inside())
    }
}

fn join(epoch: LuEpoch, mode: u64) -> u64 {
    assert!(epoch.0 <= EPOCH_MAX, "LU epoch out of range");
    epoch.0 << 2 | mode
}

fn split(word: u64) -> (LuEpoch, u64) {
    (LuEpoch(word >> 2), word & 3)
}

impl Gate {
    /// A shut gate for `shards` shards.
    pub fn new(shards: usize) -> Self {
        assert!(shards > 0);
        Self {
            state: AtomicU64::new(join(LuEpoch(0), MODE_SHUT)),
            inside: (0..shards).map(|_| Inside::default()).collect(),
            claims: Claims::default(),
            changed: Notify::new(),
            barrier: tokio::sync::Mutex::new(()),
        }
    }

    /// First passage, on shard `shard`, of what touches no blocks.
    #[inline]
    pub fn enter(&self, shard: usize) -> Result<Permit, Refused> {
        self.enter_lane(shard, self.claims.lane())
    }

    /// First passage, on shard `shard`, before an operation on `ranges` is submitted. When it is held off because another has one of
    /// them for itself, `waker` is woken when that ends.
    #[inline(always)]
    pub fn enter_on(&self, shard: usize, ranges: &[Range], waker: &Arc<Notify>) -> Result<Permit, Refused> {
        let permit = self.enter(shard)?;
        if self.claims.any() && self.claims.hold_off(ranges, waker) {
            self.leave(permit);
            return Err(Refused::Held);
        }
        Ok(permit)
    }

    /// First passage of what is to have `range` for itself until it leaves. It may begin only after [`Gate::alone`] has returned.
    pub fn enter_alone(&self, shard: usize, range: Range, waker: &Arc<Notify>) -> Result<Permit, Refused> {
        let mut permit = self.enter_lane(shard, LANE_ALONE)?;
        permit.claim = self.claims.claim(range, waker);
        if permit.claim.is_none() {
            self.leave(permit);
            return Err(Refused::Held);
        }
        Ok(permit)
    }

    /// Returns when nothing that overlaps the range of `permit` is inside: what entered before it has left. The unit's other operations go
    /// on.
    pub async fn alone(&self, permit: &Permit) {
        assert!(permit.claim.is_some(), "has no range for itself");
        self.claims.settled(|lane| self.emptied(move |inside| inside.0[lane].load(SeqCst))).await;
    }

    #[inline(always)]
    fn enter_lane(&self, shard: usize, lane: usize) -> Result<Permit, Refused> {
        self.inside[shard].0[lane].fetch_add(1, SeqCst);
        let (epoch, mode) = split(self.state.load(SeqCst));
        if mode == MODE_OPEN {
            return Ok(Permit { epoch, claim: None, shard: shard as u32, lane: lane as u8, spent: false });
        }
        self.out(shard, lane);
        Err(if mode == MODE_HELD { Refused::Held } else { Refused::Shut })
    }

    /// Second passage, when the operation has ended and before its status is sent. May be called on any thread.
    #[inline(always)]
    pub fn leave(&self, mut permit: Permit) -> Verdict {
        permit.spent = true;
        let (epoch, mode) = split(self.state.load(SeqCst));
        let verdict =
            if epoch == permit.epoch && mode != MODE_REVOKED { Verdict::Answer } else { Verdict::Revoked };
        if let Some(claim) = permit.claim.take() {
            self.claims.end(claim);
        }
        self.out(permit.shard as usize, usize::from(permit.lane));
        verdict
    }

    #[inline]
    fn out(&self, shard: usize, lane: usize) {
        let before = self.inside[shard].0[lane].fetch_sub(1, SeqCst);
        assert!(before > 0, "more operations left the gate than entered it");
        if split(self.state.load(SeqCst)).1 != MODE_OPEN || self.claims.any() {
            self.changed.notify_waiters();
        }
    }

    /// Opens the gate under `epoch`. The caller holds the LU: fenced, lock acquired and checked.
    ///
    /// # Panics
    /// When an operation of an earlier epoch is still inside: the caller must have drained.
    pub fn open(&self, epoch: LuEpoch) {
        let (old, mode) = split(self.state.load(SeqCst));
        assert!(mode == MODE_SHUT || mode == MODE_REVOKED, "opened a gate that is not shut");
        assert!(epoch > old, "an LU epoch never goes back: {} after {}", epoch.0, old.0);
        self.state.store(join(epoch, MODE_OPEN), SeqCst);
        self.changed.notify_waiters();
    }

    /// Shuts the gate; what is inside may still end and be answered. Follow with [`Gate::drained`].
    pub fn shut(&self) {
        self.set_mode(MODE_SHUT);
    }

    /// Shuts the gate because the LU was lost: nothing that is inside may be answered.
    pub fn revoke(&self) {
        self.set_mode(MODE_REVOKED);
    }

    fn set_mode(&self, mode: u64) {
        let _ = self.state.fetch_update(SeqCst, SeqCst, |word| {
            let (epoch, old) = split(word);
            // Once revoked, an epoch stays revoked.
            Some(join(epoch, if old == MODE_REVOKED { MODE_REVOKED } else { mode }))
        });
        self.changed.notify_waiters();
    }

    /// True while operations may enter, or wait for a barrier to end.
    pub fn is_serving(&self) -> bool {
        matches!(split(self.state.load(SeqCst)).1, MODE_OPEN | MODE_HELD)
    }

    /// The epoch under which the gate was last opened.
    pub fn epoch(&self) -> LuEpoch {
        split(self.state.load(SeqCst)).0
    }

    /// Operations inside, over all shards.
    pub fn inside(&self) -> u64 {
        self.inside.iter().map(Inside::all).sum()
    }

    /// Returns when nothing is inside. Only meaningful while the gate is not open.
    pub async fn drained(&self) {
        // Each counter is read once the state is no longer open, so a later entrant can only come and go.
        self.emptied(Inside::all).await;
    }

    /// Waits until the count has been seen as 0 on every shard.
    async fn emptied(&self, count: impl Fn(&Inside) -> u64) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.inside.iter().all(|inside| count(inside) == 0) {
                return;
            }
            changed.await;
        }
    }

    /// Holds entrants off, waits until nothing is inside, and keeps it so until the returned value is dropped: for rare commands
    /// that must run alone (LOGICAL UNIT RESET, changes of reservations, resize).
    ///
    /// `None` when the gate is shut, or is shut while waiting.
    pub async fn barrier(&self) -> Option<Barrier<'_>> {
        let turn = self.barrier.lock().await;
        let held = self.state.fetch_update(SeqCst, SeqCst, |word| {
            let (epoch, mode) = split(word);
            (mode == MODE_OPEN).then(|| join(epoch, MODE_HELD))
        });
        held.ok()?;
        // From here on the guard's drop opens the gate again, also when this future is dropped while it waits.
        let barrier = Barrier { gate: self, _turn: turn };
        self.drained().await;
        (split(self.state.load(SeqCst)).1 == MODE_HELD).then_some(barrier)
    }
}

impl Inside {
    fn all(&self) -> u64 {
        self.0.iter().map(|lane| lane.load(SeqCst)).sum()
    }
}

/// While it lives, nothing enters the gate. See [`Gate::barrier`].
pub struct Barrier<'a> {
    gate: &'a Gate,
    _turn: tokio::sync::MutexGuard<'a, ()>,
}

impl Drop for Barrier<'_> {
    fn drop(&mut self) {
        let _ = self.gate.state.fetch_update(SeqCst, SeqCst, |word| {
            let (epoch, mode) = split(word);
            (mode == MODE_HELD).then(|| join(epoch, MODE_OPEN))
        });
        self.gate.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(epoch: u64) -> Gate {
        let gate = Gate::new(2);
        gate.open(LuEpoch(epoch));
        gate
    }

    #[test]
    fn refuses_until_opened() {
        let gate = Gate::new(1);
        assert_eq!(gate.enter(0).unwrap_err(), Refused::Shut);
        gate.open(LuEpoch(3));
        let permit = gate.enter(0).unwrap();
        assert_eq!(permit.epoch(), LuEpoch(3));
        assert_eq!(gate.leave(permit), Verdict::Answer);
        assert_eq!(gate.inside(), 0);
    }

    #[test]
    fn an_operation_inside_a_clean_shut_is_answered() {
        let gate = opened(1);
        let permit = gate.enter(1).unwrap();
        gate.shut();
        assert_eq!(gate.enter(0).unwrap_err(), Refused::Shut);
        assert_eq!(gate.leave(permit), Verdict::Answer);
    }

    #[test]
    fn an_operation_inside_a_lost_epoch_is_not_answered() {
        let gate = opened(1);
        let permit = gate.enter(0).unwrap();
        gate.revoke();
        gate.shut();
        assert_eq!(gate.leave(permit), Verdict::Revoked);
        let gate = opened(1);
        let permit = gate.enter(0).unwrap();
        gate.shut();
        gate.open(LuEpoch(2));
        assert_eq!(gate.leave(permit), Verdict::Revoked);
    }

    #[test]
    #[should_panic(expected = "never goes back")]
    fn an_epoch_never_goes_back() {
        let gate = opened(5);
        gate.shut();
        gate.open(LuEpoch(5));
    }

    #[test]
    #[should_panic(expected = "without leaving")]
    fn a_permit_is_an_obligation() {
        let gate = opened(1);
        drop(gate.enter(0).unwrap());
    }

    #[tokio::test]
    async fn drained_waits_for_every_shard() {
        let gate = opened(1);
        let (a, b) = (gate.enter(0).unwrap(), gate.enter(1).unwrap());
        gate.shut();
        let mut drained = tokio_test_poll(gate.drained());
        assert!(!drained.ready());
        gate.leave(a);
        assert!(!drained.ready());
        gate.leave(b);
        assert!(drained.ready());
    }

    #[tokio::test]
    async fn a_barrier_holds_entrants_and_lets_go() {
        let gate = opened(1);
        let inside = gate.enter(0).unwrap();
        let mut waiting = tokio_test_poll(gate.barrier());
        assert!(!waiting.ready());
        assert_eq!(gate.enter(0).unwrap_err(), Refused::Held);
        assert_eq!(gate.leave(inside), Verdict::Answer);
        let barrier = waiting.take().expect("the barrier stands when the last one left").expect("still open");
        assert_eq!(gate.enter(1).unwrap_err(), Refused::Held);
        drop(barrier);
        let permit = gate.enter(1).unwrap();
        gate.leave(permit);
    }

    #[tokio::test]
    async fn a_barrier_that_is_given_up_opens_the_gate() {
        let gate = opened(1);
        let inside = gate.enter(0).unwrap();
        let mut waiting = tokio_test_poll(gate.barrier());
        assert!(!waiting.ready());
        drop(waiting);
        let again = gate.enter(0).unwrap();
        gate.leave(again);
        gate.leave(inside);
    }

    #[tokio::test]
    async fn a_barrier_on_a_gate_that_shuts_is_none() {
        let gate = opened(1);
        let inside = gate.enter(0).unwrap();
        let mut waiting = tokio_test_poll(gate.barrier());
        assert!(!waiting.ready());
        gate.revoke();
        gate.leave(inside);
        assert!(waiting.take().expect("ends").is_none());
        assert_eq!(gate.enter(0).unwrap_err(), Refused::Shut);
    }

    /// Every interleaving of one entrant (count up, read the state, count down when refused) with one closer (change the state, read
    /// the count): never both "entered" and "drained".
    #[test]
    fn every_interleaving_of_enter_and_drain() {
        for order in 0u32..16 {
            // Two steps each; a set bit lets the entrant step next.
            let (mut count, mut open) = (0i32, true);
            let (mut entrant, mut closer) = (0, 0);
            let (mut entered, mut saw_empty) = (false, false);
            for step in 0..4 {
                let entrant_moves = order >> step & 1 == 1;
                if (entrant_moves && entrant < 2) || closer == 2 {
                    match entrant {
                        0 => count += 1,
                        _ => entered = open,
                    }
                    entrant += 1;
                } else {
                    match closer {
                        0 => open = false,
                        _ => saw_empty = count == 0,
                    }
                    closer += 1;
                }
            }
            assert!(!(entered && saw_empty), "order {order:04b}");
        }
    }

    #[test]
    fn threads_never_are_inside_a_drained_gate() {
        use std::sync::Arc;
        use std::sync::atomic::AtomicBool;
        let gate = Arc::new(opened(1));
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        let workers: Vec<_> = (0..2)
            .map(|shard| {
                let (gate, stop, done) = (gate.clone(), stop.clone(), done.clone());
                std::thread::spawn(move || {
                    while !stop.load(SeqCst) {
                        if let Ok(permit) = gate.enter(shard) {
                            assert!(gate.inside() > 0);
                            gate.leave(permit);
                            done.fetch_add(1, SeqCst);
                        }
                    }
                })
            })
            .collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for epoch in 2..200 {
            // The epoch is one in which somebody was inside.
            let before = done.load(SeqCst);
            while done.load(SeqCst) == before {
                std::thread::yield_now();
            }
            runtime.block_on(async {
                let barrier = gate.barrier().await.unwrap();
                // An entrant may have counted up and be about to be refused; nobody may be let in.
                assert!(gate.enter(0).is_err());
                drop(barrier);
                gate.shut();
                gate.drained().await;
                gate.open(LuEpoch(epoch));
            });
        }
        stop.store(true, SeqCst);
        for worker in workers {
            worker.join().unwrap();
        }
    }

    /// A future that is polled by hand.
    struct Polled<F: Future>(Option<std::pin::Pin<Box<F>>>, Option<F::Output>);

    fn tokio_test_poll<F: Future>(future: F) -> Polled<F> {
        Polled(Some(Box::pin(future)), None)
    }

    impl<F: Future> Polled<F> {
        fn ready(&mut self) -> bool {
            let Some(future) = self.0.as_mut() else { return true };
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            match future.as_mut().poll(&mut cx) {
                std::task::Poll::Ready(out) => {
                    self.1 = Some(out);
                    self.0 = None;
                    true
                }
                std::task::Poll::Pending => false,
            }
        }

        fn take(&mut self) -> Option<F::Output> {
            self.ready();
            self.1.take()
        }
    }
}
