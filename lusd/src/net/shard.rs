//! A shard: one thread with its own single-threaded runtime, and all that lives on it: connections, their tasks, and the
//! completion queue that librbd's callbacks push to.
//!
//! ```text
//!   accept ──Accepted──► shard thread ──spawn_local──► connection task ◄──Outcome── reactor ◄──eventfd── CompletionQueue ◄── librbd
//! ```
//!
//! Nothing here is shared with another shard but the logical units (atomics) and the session registry (rare).

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::TcpStream as StdTcpStream;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use lusd_ceph::{Completed, CompletionQueue, OpBuffers, QueueWaiter};
use lusd_iscsi::TaskTag;
use lusd_scsi::{BlockOp, CheckCondition, Erasure, ExtendedCopy, Fault, Operation, Range, lba_status};
use slab::Slab;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tracing::{debug, error, warn};

use super::connection;
use super::memory::Charge;
use crate::lun::backend::{BackendError, Submitted};
use crate::lun::copy::{Copying, Place};
use crate::lun::erase::{self, Erasing, Stage};
use crate::lun::gate::{LuEpoch, Permit, Refused};
use crate::lun::job::{self, Entry, Failure, Job, Steps};
use crate::lun::reserve::Reply;
use crate::lun::unit::Unit;
use crate::lun::work::{Next, Parts, Request, Then, Work};
use crate::service::Service;
use crate::target::group::Group;

/// Connections that wait to be taken over by one shard; beyond it the accept loop waits.
const ACCEPT_QUEUE: usize = 256;

/// How often an idle shard notes that it runs.
const CLOCK_TICK: Duration = Duration::from_millis(500);

/// How often who waits for an erasure looks whether it is still to wait.
const ERASURE_LOOK: Duration = Duration::from_millis(50);

/// A connection for a shard.
#[derive(Debug)]
pub struct Accepted {
    /// The socket.
    pub stream: StdTcpStream,
    /// What another shard did with it before it was known that its session lives here.
    pub begun: Option<Begun>,
}

/// A login that was begun on another shard. The protocol gives the same answers to the same bytes, so it is begun anew with these.
#[derive(Debug)]
pub struct Begun {
    /// First StatSN.
    pub seed: u32,
    /// What was read.
    pub received: Vec<u8>,
    /// How much of the answers was sent, bytes.
    pub sent: usize,
}

/// What the rest of the daemon holds of a shard.
pub struct ShardHandle {
    accepted: mpsc::Sender<Accepted>,
    pings: Pinger,
    thread: Option<JoinHandle<()>>,
}

impl ShardHandle {
    /// Starts shard `index`. It ends when the handle is dropped and its connections have ended.
    pub fn start(index: usize, service: Arc<Service>) -> anyhow::Result<Self> {
        let queue = CompletionQueue::new().context("cannot create a completion queue (eventfd)")?;
        let (accepted, incoming) = mpsc::channel(ACCEPT_QUEUE);
        service.open_door(index, &accepted);
        let (pings, pinged) = mpsc::channel(1);
        let thread = std::thread::Builder::new()
            .name(format!("lus-shard-{index}"))
            .spawn(move || run(index, service, queue, incoming, pinged))
            .context("cannot start a shard thread")?;
        Ok(Self { accepted, pings: Pinger(pings), thread: Some(thread) })
    }

    /// Hands a connection over.
    pub async fn accept(&self, stream: StdTcpStream) {
        if self.accepted.send(Accepted { stream, begun: None }).await.is_err() {
            error!("a shard has ended; its connection is dropped");
        }
    }

    /// What asks the shard whether it runs.
    pub fn pinger(&self) -> Pinger {
        self.pings.clone()
    }

    /// Tells the shard that no more connections come and waits, on the calling thread, until those it has are gone.
    pub fn join(mut self) {
        let thread = self.thread.take();
        drop(self);
        if thread.is_some_and(|thread| thread.join().is_err()) {
            error!("a shard thread panicked");
        }
    }
}

/// Asks a shard whether it runs. See [`ShardHandle::pinger`].
#[derive(Clone, Debug)]
pub struct Pinger(mpsc::Sender<oneshot::Sender<()>>);

impl Pinger {
    /// Resolves when the shard has answered; never, once it has ended.
    pub async fn ping(self) {
        let (answer, answered) = oneshot::channel();
        if self.0.send(answer).await.is_err() || answered.await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn run(
    index: usize,
    service: Arc<Service>,
    queue: Arc<CompletionQueue>,
    mut incoming: mpsc::Receiver<Accepted>,
    mut pinged: mpsc::Receiver<oneshot::Sender<()>>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(err) => return error!(%err, "cannot start a shard's runtime"),
    };
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        let shard = Shard::new(index, service, queue);
        let reactor = tokio::task::spawn_local(reactor(shard.clone()));
        let pings = tokio::task::spawn_local(async move {
            while let Some(answer) = pinged.recv().await {
                // Nobody waits any more: not our business.
                let _ = answer.send(());
            }
        });
        let clock = tokio::task::spawn_local(clock(shard.clone()));
        while let Some(accepted) = incoming.recv().await {
            shard.connections.set(shard.connections.get() + 1);
            let shard = shard.clone();
            tokio::task::spawn_local(async move {
                connection::serve(&shard, accepted).await;
                shard.connections.set(shard.connections.get() - 1);
                shard.idle.notify_one();
            });
            // Who is here goes first: in a flood of logins those that are to go are gone as fast as others come.
            tokio::task::yield_now().await;
        }
        while shard.connections.get() > 0 {
            shard.idle.notified().await;
        }
        reactor.abort();
        pings.abort();
        clock.abort();
    });
}

/// Notes that the shard runs, while nothing else happens.
async fn clock(shard: Rc<Shard>) {
    let mut tick = tokio::time::interval(CLOCK_TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        shard.note_running(Instant::now());
    }
}

/// Sleeps on the queue's eventfd and hands completions to the connections that wait for them.
async fn reactor(shard: Rc<Shard>) {
    let waiter = match QueueWaiter::new(shard.queue.clone()) {
        Ok(waiter) => waiter,
        Err(err) => return error!(%err, "cannot watch a completion queue"),
    };
    loop {
        if shard.queue.drain(|completed| shard.complete(completed)) > 0 {
            shard.service.note_completions(shard.index);
        }
        if let Err(err) = waiter.wait().await {
            return error!(%err, "cannot wait for a completion queue");
        }
    }
}

/// How an operation ended.
#[derive(Debug)]
pub enum Outcome {
    /// For a read with its data.
    Done(Result<Bytes, BackendError>),
    /// A comparison found a difference, first at this byte.
    Miscompare(u64),
    /// The LU was lost meanwhile: no answer; the session is to be reset.
    Revoked,
    /// A task management function of another nexus ended the task: no answer, or TASK ABORTED.
    Aborted,
    /// Nothing was changed, and it is too old to be: BUSY.
    Late,
    /// CHECK CONDITION.
    Check(CheckCondition),
    /// GOOD, with data whose length nobody knew before.
    Data(Bytes),
    /// Reservations do not allow it (any more); nothing was done.
    Conflict,
    /// What became of a request to change reservations.
    Reserved(Reply),
}

/// An operation between the two passages of the gate.
struct Op {
    unit: Arc<Unit>,
    /// Until it leaves the gate.
    permit: Option<Permit>,
    reset_generation: u64,
    inbox: Rc<Inbox>,
    tag: TaskTag,
    charge: Option<Charge>,
    /// Primitives that have not ended.
    left: u32,
    /// Bytes that the read under way must deliver.
    read_len: usize,
    error: Option<BackendError>,
    then: Then,
}

impl Op {
    /// All primitives under way have ended: more of them, or the end, with the byte of a difference.
    #[inline]
    fn next(&mut self, data: &Bytes) -> Result<Parts, Option<u64>> {
        if self.error.is_some() || matches!(self.then, Then::Answer) {
            return Err(None);
        }
        match std::mem::replace(&mut self.then, Then::Answer).next(data) {
            Next::Submit(parts, then) => {
                self.then = then;
                Ok(parts)
            }
            Next::Done => Err(None),
            Next::Miscompare(byte) => Err(Some(byte)),
        }
    }

    /// Second passage of the gate.
    #[inline]
    fn finish(&mut self, data: Bytes, miscompare: Option<u64>) -> Outcome {
        let permit = self.permit.take().expect("an operation ends once");
        if let Some(outcome) = leave(&self.unit, permit, self.reset_generation, self.error) {
            return outcome;
        }
        match (self.error, miscompare) {
            (Some(err), _) => Outcome::Done(Err(err)),
            (None, Some(byte)) => Outcome::Miscompare(byte),
            // What was read gives its memory back when it has been sent.
            (None, None) => Outcome::Done(Ok(match self.charge.take() {
                Some(charge) if !data.is_empty() => charge.attach(data),
                _ => data,
            })),
        }
    }
}

/// What became of [`Shard::advance`].
enum Advanced {
    /// All has ended.
    Ended(Outcome),
    /// Primitives are under way under this token.
    Pending(usize),
}

/// What became of [`Shard::start`].
pub enum Started {
    /// Ended at once.
    Done(Outcome),
    /// The outcome comes by the inbox.
    Pending,
    /// As `Pending`; setting this ends it, or the wait for it, soon.
    Stoppable(Rc<Cell<bool>>),
    /// A barrier is held, or another has the range for itself: try again when woken. Nothing of the request was taken.
    Held,
    /// The LU is not served here (any more).
    Shut,
}

/// Where a connection finds the outcomes of its operations. It outlives the connection while operations are in flight.
pub struct Inbox {
    outcomes: RefCell<VecDeque<(TaskTag, Outcome)>>,
    /// Woken for outcomes, and by whoever else wants the connection's attention.
    pub notify: Arc<Notify>,
    in_flight: Cell<usize>,
    closed: Cell<bool>,
    revoked: Cell<bool>,
}

impl Inbox {
    /// An inbox whose owner sleeps on `notify`.
    pub fn new(notify: Arc<Notify>) -> Rc<Self> {
        Rc::new(Self {
            outcomes: RefCell::new(VecDeque::new()),
            notify,
            in_flight: Cell::new(0),
            closed: Cell::new(false),
            revoked: Cell::new(false),
        })
    }

    /// The next outcome: the task's tag and how it ended.
    pub fn pop(&self) -> Option<(TaskTag, Outcome)> {
        self.outcomes.borrow_mut().pop_front()
    }

    /// Operations that have not ended.
    pub fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    /// An operation was revoked before it was ever pending: the session is to be reset.
    pub fn revoke(&self) {
        self.revoked.set(true);
        self.notify.notify_one();
    }

    /// True after [`Inbox::revoke`].
    pub fn is_revoked(&self) -> bool {
        self.revoked.get()
    }

    /// From now on outcomes are dropped as they come.
    pub fn close(&self) {
        self.closed.set(true);
        self.outcomes.borrow_mut().clear();
    }

    /// The outcome of a task that something else than the backend works on; until then it counts as in flight.
    pub fn expect(self: &Rc<Self>, tag: TaskTag, outcome: impl Future<Output = Outcome> + 'static) {
        self.in_flight.set(self.in_flight.get() + 1);
        let inbox = self.clone();
        tokio::task::spawn_local(async move { inbox.push(tag, outcome.await) });
    }

    fn push(&self, tag: TaskTag, outcome: Outcome) {
        self.in_flight.set(self.in_flight.get() - 1);
        if self.closed.get() {
            if self.in_flight.get() == 0 {
                self.notify.notify_one();
            }
            return;
        }
        self.outcomes.borrow_mut().push_back((tag, outcome));
        self.notify.notify_one();
    }
}

/// What lives on one shard's thread.
pub struct Shard {
    /// From 0; the gate's counters are indexed by it.
    pub index: usize,
    /// The daemon.
    pub service: Arc<Service>,
    queue: Arc<CompletionQueue>,
    ops: RefCell<Slab<Op>>,
    steps: Steps,
    me: Weak<Self>,
    connections: Cell<usize>,
    /// The sessions that live here, by TSIH.
    groups: RefCell<HashMap<u16, Rc<Group>>>,
    idle: Notify,
    /// When it was last seen to run, and how often it was found to have stood still for too long.
    ran: Cell<Instant>,
    stalls: Cell<u64>,
}

impl Shard {
    /// What a shard's thread starts with. Operations complete on `queue`; [`ShardHandle::start`] has one drained, a bench that drives
    /// sessions without a socket need not.
    pub fn new(index: usize, service: Arc<Service>, queue: Arc<CompletionQueue>) -> Rc<Self> {
        Rc::new_cyclic(|me| Self {
            index,
            service,
            steps: Steps::new(queue.clone()),
            me: me.clone(),
            queue,
            ops: RefCell::new(Slab::new()),
            connections: Cell::new(0),
            groups: RefCell::default(),
            idle: Notify::new(),
            ran: Cell::new(Instant::now()),
            stalls: Cell::new(0),
        })
    }

    /// The session with this TSIH, if it lives here.
    pub fn group(&self, tsih: u16) -> Option<Rc<Group>> {
        self.groups.borrow().get(&tsih).cloned()
    }

    /// A session has logged in.
    pub fn add_group(&self, group: &Rc<Group>) {
        self.groups.borrow_mut().insert(group.session.tsih(), group.clone());
    }

    /// Its last connection has ended.
    pub fn remove_group(&self, group: &Rc<Group>) {
        let mut groups = self.groups.borrow_mut();
        if groups.get(&group.session.tsih()).is_some_and(|held| Rc::ptr_eq(held, group)) {
            groups.remove(&group.session.tsih());
        }
    }

    /// The shard runs; returns how often it has stood still for longer than the stall bound. Connections of before such a time hold
    /// commands that their initiators may have given up, and repeated elsewhere: they are reset before they are read again.
    pub fn note_running(&self, now: Instant) -> u64 {
        let bound = self.service.limits.stall_bound;
        if now.saturating_duration_since(self.ran.replace(now)) > bound {
            self.stalls.set(self.stalls.get() + 1);
            warn!(
                shard = self.index,
                bound_s = bound.as_secs(),
                "stood still for too long: its connections are reset"
            );
        }
        self.stalls.get()
    }

    /// First passage of the gate.
    ///
    /// The reset generation of the request is looked at again inside: a reset raises the unit's before it takes its barrier, so either
    /// the barrier waits for the operation, or the operation sees that its task has ended. In the same way `look` is asked there whether
    /// the task may still begin (reservations change while a barrier is held), and whether the medium is being erased.
    #[inline(always)]
    fn enter(
        &self,
        unit: &Unit,
        Request { work, entry, .. }: &Request,
        waker: &Arc<Notify>,
        look: impl FnOnce(&BlockOp) -> Option<Outcome>,
    ) -> Result<Permit, Started> {
        let entered = match work.op.alone() {
            None => unit.gate.enter_on(self.index, work.op.ranges(), waker),
            Some(range) => unit.gate.enter_alone(self.index, range, waker),
        };
        let permit = match entered {
            Ok(permit) => permit,
            Err(Refused::Held) => return Err(Started::Held),
            Err(Refused::Shut) => return Err(Started::Shut),
        };
        let refusal = if entry.is_ended(unit) {
            Some(Outcome::Aborted)
        } else if let Some(outcome) = look(&work.op) {
            Some(outcome)
        } else if unit.scsi.operation() != Operation::None {
            unit.scsi.admit(&work.op).err().map(Outcome::Check)
        } else {
            None
        };
        let Some(outcome) = refusal else { return Ok(permit) };
        // Nothing was submitted, so there is no outcome that the verdict could be about.
        let _ = unit.gate.leave(permit);
        Err(Started::Done(outcome))
    }

    /// First passage of the gate, then submit. An outcome that comes at once has passed the gate twice.
    pub fn start(
        &self,
        unit: &Arc<Unit>,
        request: &mut Request,
        inbox: &Rc<Inbox>,
        tag: TaskTag,
        look: impl FnOnce(&BlockOp) -> Option<Outcome>,
    ) -> Started {
        if self.service.is_isolated() {
            return Started::Held;
        }
        let permit = match self.enter(unit, request, &inbox.notify, look) {
            Ok(permit) => permit,
            Err(started) => return started,
        };
        let Request { work, charge, entry } = request;
        if let BlockOp::LbaStatus { range, allocation_length } = work.op {
            self.spawn_look(unit, permit, (range, allocation_length), inbox, tag, *entry);
            return Started::Pending;
        }
        if work.op.alone().is_some() {
            self.spawn_alone(unit, permit, request, inbox, tag);
            return Started::Pending;
        }
        if let BlockOp::Erase(erasure) = &work.op {
            let started = self.start_erasure(unit, permit.epoch(), (**erasure).clone(), inbox, tag, *entry);
            // It was inside until it had begun: resets and reservations come before that or after it.
            let _ = unit.gate.leave(permit);
            return started;
        }
        let (parts, then) = work.first();
        let mut op = Op {
            unit: unit.clone(),
            permit: Some(permit),
            reset_generation: entry.reset_generation,
            inbox: inbox.clone(),
            tag,
            charge: charge.take(),
            left: 0,
            read_len: 0,
            error: None,
            then,
        };
        match self.advance(&mut op, parts) {
            Advanced::Ended(outcome) => Started::Done(outcome),
            Advanced::Pending(token) => {
                self.keep(op, token);
                inbox.in_flight.set(inbox.in_flight.get() + 1);
                Started::Pending
            }
        }
    }

    /// Does `work` once it has its range for itself.
    #[cold]
    fn spawn_alone(
        &self,
        unit: &Arc<Unit>,
        permit: Permit,
        request: &mut Request,
        inbox: &Rc<Inbox>,
        tag: TaskTag,
    ) {
        let work = Work { op: request.work.op.clone(), data: std::mem::take(&mut request.work.data) };
        let (charge, entry) = (request.charge.take(), request.entry);
        let shard = self.me.upgrade().expect("lives while it is used");
        let (unit, inbox) = (unit.clone(), inbox.clone());
        inbox.in_flight.set(inbox.in_flight.get() + 1);
        tokio::task::spawn_local(async move {
            unit.gate.alone(&permit).await;
            let stall_bound = shard.service.limits.stall_bound;
            let job = Job { steps: &shard.steps, unit: &unit, entry, stall_bound };
            let result = job.alone(work).await;
            let error = if let Err(Failure::Backend(error)) = result { Some(error) } else { None };
            let refused = leave(&unit, permit, entry.reset_generation, error);
            let outcome = refused.unwrap_or_else(|| match result {
                Ok(_) => Outcome::Done(Ok(Bytes::new())),
                Err(failure) => failure.into(),
            });
            drop(charge);
            inbox.push(tag, outcome);
        });
    }

    /// Looks which parts of a range hold data.
    #[cold]
    fn spawn_look(
        &self,
        unit: &Arc<Unit>,
        permit: Permit,
        (range, allocation_length): (Range, u32),
        inbox: &Rc<Inbox>,
        tag: TaskTag,
        entry: Entry,
    ) {
        let (unit, inbox) = (unit.clone(), inbox.clone());
        inbox.in_flight.set(inbox.in_flight.get() + 1);
        tokio::task::spawn_local(async move {
            let result = job::mapped(&unit, range).await;
            let refused = leave(&unit, permit, entry.reset_generation, result.as_ref().err().copied());
            let block_size = unit.scsi.block_size();
            let outcome = refused.unwrap_or_else(|| match result {
                Ok(mapped) => Outcome::Data(lba_status(block_size, range, &mapped, allocation_length)),
                Err(error) => Outcome::Done(Err(error)),
            });
            inbox.push(tag, outcome);
        });
    }

    /// Begins an erasure, which goes on by itself, and waits for its mark or its end.
    #[cold]
    fn start_erasure(
        &self,
        unit: &Arc<Unit>,
        epoch: LuEpoch,
        erasure: Erasure,
        inbox: &Rc<Inbox>,
        tag: TaskTag,
        entry: Entry,
    ) -> Started {
        let before = match erase::begin(unit, erasure.kind) {
            Ok(Some(before)) => before,
            Ok(None) => return Started::Done(Outcome::Done(Ok(Bytes::new()))),
            Err(check) => return Started::Done(Outcome::Check(check)),
        };
        let shard = self.me.upgrade().expect("lives while it is used");
        let (immediate, stage) = (erasure.immediate, watch::Sender::new(Stage::Beginning));
        let mut seen = stage.subscribe();
        // The shard lives on for it as for a connection.
        self.connections.set(self.connections.get() + 1);
        let erased = unit.clone();
        tokio::task::spawn_local(async move {
            let isolated = || shard.service.is_isolated();
            let (steps, index) = (&shard.steps, shard.index);
            let erasing = Erasing { steps, shard: index, unit: &erased, epoch, before, isolated: &isolated };
            erasing.run(&erasure, &stage).await;
            shard.connections.set(shard.connections.get() - 1);
            shard.idle.notify_one();
        });
        let (unit, inbox, stop) = (unit.clone(), inbox.clone(), Rc::new(Cell::new(false)));
        let stopped = stop.clone();
        inbox.in_flight.set(inbox.in_flight.get() + 1);
        tokio::task::spawn_local(async move {
            let outcome = loop {
                let stage = *seen.borrow_and_update();
                match stage {
                    Stage::Marked if immediate => break Outcome::Done(Ok(Bytes::new())),
                    Stage::Ended(Ok(())) => break Outcome::Done(Ok(Bytes::new())),
                    // Not served here any more, with nobody's fault.
                    Stage::Ended(Err(Failure::Aborted)) => break Outcome::Check(unit.scsi.displaced(None)),
                    Stage::Ended(Err(Failure::Backend(error))) => match unit.scsi.operation().check() {
                        Some(check) => break Outcome::Check(check),
                        None => break Outcome::Done(Err(error)),
                    },
                    Stage::Ended(Err(failure)) => break failure.into(),
                    _ if inbox.closed.get() || stopped.get() || entry.is_ended(&unit) => {
                        break Outcome::Aborted;
                    }
                    Stage::Beginning | Stage::Marked => {
                        // Woken, or not: it is looked at again.
                        let _ = tokio::time::timeout(ERASURE_LOOK, seen.changed()).await;
                    }
                }
            };
            inbox.push(tag, outcome);
        });
        Started::Stoppable(stop)
    }

    /// Carries out a copy; its outcome comes by the inbox. Setting what is returned ends it before its next piece.
    pub fn spawn_copy(
        &self,
        unit: &Arc<Unit>,
        (copy, units): (Box<ExtendedCopy>, Vec<Option<Place>>),
        charge: Charge,
        inbox: &Rc<Inbox>,
        tag: TaskTag,
        entry: Entry,
    ) -> Rc<Cell<bool>> {
        let shard = self.me.upgrade().expect("lives while it is used");
        let (unit, inbox, stop) = (unit.clone(), inbox.clone(), Rc::new(Cell::new(false)));
        let stopped = stop.clone();
        inbox.in_flight.set(inbox.in_flight.get() + 1);
        let stalls = self.note_running(Instant::now());
        tokio::task::spawn_local(async move {
            let going = || {
                let gone = inbox.closed.get() || stopped.get() || shard.service.is_isolated();
                let stood_still = shard.note_running(Instant::now()) != stalls;
                if gone || stood_still { Err(Failure::Aborted) } else { Ok(()) }
            };
            let copying =
                Copying { steps: &shard.steps, shard: shard.index, unit: &unit, entry, going: &going };
            let result = copying.run(&copy, &units).await;
            copy.record.end(match result {
                Ok(()) => Ok(()),
                Err(Failure::Check(check)) => Err(check),
                Err(_) => Err(Fault::CopyAborted.into()),
            });
            drop(charge);
            let outcome = result.map_or_else(Outcome::from, |()| Outcome::Done(Ok(Bytes::new())));
            inbox.push(tag, outcome);
        });
        stop
    }

    /// Submits `parts` of `op`, and what follows from them.
    #[inline(always)]
    fn advance(&self, op: &mut Op, mut parts: Parts) -> Advanced {
        loop {
            // The slot is reserved first: a completion may be pushed before submit returns (it is drained later, on this thread).
            let token = self.ops.borrow().vacant_key();
            let data = self.submit(op, parts, token as u64);
            if op.left > 0 {
                return Advanced::Pending(token);
            }
            match op.next(&data) {
                Ok(more) => parts = more,
                Err(miscompare) => return Advanced::Ended(op.finish(data, miscompare)),
            }
        }
    }

    /// Primitives of `op` end under `token`.
    fn keep(&self, op: Op, token: usize) {
        let slot = self.ops.borrow_mut().insert(op);
        assert_eq!(slot, token, "the slot changed while an operation was submitted");
    }

    /// What has ended at once is in `op`; what was read is returned.
    #[inline]
    fn submit(&self, op: &mut Op, mut parts: Parts, token: u64) -> Bytes {
        let backend = op.unit.backend();
        let mut data = Bytes::new();
        let Some(backend) = backend.as_ref() else {
            op.error = Some(BackendError::Lost);
            return data;
        };
        // In whatever order: only an UNMAP has several.
        while let Some(part) = parts.pop() {
            op.read_len = part.read_len();
            match backend.submit(&self.queue, part, token) {
                Submitted::Pending => op.left += 1,
                Submitted::Done(Ok(bytes)) => data = bytes,
                Submitted::Done(Err(err)) => op.error = worse(op.error, err),
            }
        }
        data
    }

    fn complete(&self, completed: Completed) {
        if Steps::is_step(completed.token) {
            return self.steps.complete(completed);
        }
        let token = completed.token as usize;
        let mut ops = self.ops.borrow_mut();
        let op = ops.get_mut(token).expect("librbd completed an operation that was never submitted");
        op.left -= 1;
        if let Err(errno) = completed.result {
            debug!(unit = %op.unit.name, %errno, "librbd reports an error");
            op.error = worse(op.error, BackendError::from_errno(errno));
        }
        let data = match completed.buffers {
            OpBuffers::Read(data) => data.freeze(),
            _ => Bytes::new(),
        };
        if completed.result.is_ok() && data.len() < op.read_len {
            // The image shrank under the read: what is past its end is not there, and is not made up.
            op.error = worse(op.error, BackendError::OutOfRange);
        }
        if op.left > 0 {
            return;
        }
        let mut op = ops.remove(token);
        drop(ops);
        let (inbox, tag) = (op.inbox.clone(), op.tag);
        let advanced = match op.next(&data) {
            Ok(more) => self.advance(&mut op, more),
            Err(miscompare) => Advanced::Ended(op.finish(data, miscompare)),
        };
        match advanced {
            Advanced::Ended(outcome) => inbox.push(tag, outcome),
            Advanced::Pending(token) => self.keep(op, token),
        }
    }
}

/// Second passage of the gate, for what has ended with `error`. An outcome where it may not be answered as it ended.
fn leave(unit: &Unit, permit: Permit, reset_generation: u64, error: Option<BackendError>) -> Option<Outcome> {
    let reset = unit.reset_generation() != reset_generation;
    match job::leave(unit, permit, error) {
        Err(failure) => Some(failure.into()),
        Ok(()) if reset => Some(Outcome::Aborted),
        Ok(()) => None,
    }
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Backend(error) => Self::Done(Err(error)),
            Failure::Miscompare(byte) => Self::Miscompare(byte),
            Failure::Late => Self::Late,
            Failure::Aborted => Self::Aborted,
            Failure::Revoked => Self::Revoked,
            Failure::Check(check) => Self::Check(check),
        }
    }
}

/// Of two errors, the one that forbids more.
fn worse(a: Option<BackendError>, b: BackendError) -> Option<BackendError> {
    let rank = |err: BackendError| match err {
        BackendError::Lost => 6,
        BackendError::Unknown => 5,
        BackendError::Medium => 4,
        BackendError::NoSpace => 3,
        BackendError::OutOfRange => 2,
        BackendError::Refused => 1,
        BackendError::Busy => 0,
    };
    Some(match a {
        Some(a) if rank(a) >= rank(b) => a,
        _ => b,
    })
}

#[cfg(test)]
mod tests {
    use lusd_scsi::{AccessState, Identity, LogicalUnit, LogicalUnitConfig};

    use super::*;
    use crate::lun::backend::Backend;
    use crate::lun::ram::RamStore;
    use crate::service::Limits;

    /// A write was admitted; before it enters the gate somebody begins to erase, finds nothing inside, and goes on.
    #[test]
    fn what_enters_after_an_erasure_has_begun_does_not_begin() {
        const CAPACITY: u64 = 1 << 20;
        let config = LogicalUnitConfig::new(Identity::new([7; 16]), CAPACITY);
        let scsi = LogicalUnit::new(config, AccessState::BecomingReady).unwrap();
        let unit = Unit::new(lus_map::LuId(uuid::Uuid::from_u128(7)), "ram:x".to_owned(), scsi, 1);
        unit.serve(LuEpoch(1), Arc::new(Backend::Ram(RamStore::new(CAPACITY))));
        let service = Service::new(Limits::default(), 1);
        let shard = Shard::new(0, service, CompletionQueue::new().unwrap());
        let op = BlockOp::Write { range: Range { offset: 0, len: 512 }, fua: false };
        assert_eq!(unit.scsi.admit(&op), Ok(()));
        let entry = Entry { reset_generation: 0, aborts: 0, alive: Instant::now() };
        let work = Work { op, data: Bytes::from_static(&[7; 512]) };
        let request = Request { work, charge: None, entry };
        let enter = || shard.enter(&unit, &request, &Arc::default(), |_| None);
        unit.scsi.begin_operation(Operation::Sanitizing(0)).unwrap();
        match enter() {
            Err(Started::Done(Outcome::Check(check))) => {
                assert_eq!((check.code.asc, check.code.ascq), (4, 0x1b));
            }
            Err(_) => panic!("refused for something else"),
            Ok(permit) => panic!("let into what is being erased: {permit:?}"),
        }
        assert_eq!(unit.gate.inside(), 0);
        unit.scsi.set_operation(Operation::None);
        let permit = enter().unwrap_or_else(|_| panic!("nothing is in its way"));
        let _ = unit.gate.leave(permit);
    }

    #[test]
    fn a_shard_that_stood_still_is_found_by_whoever_runs_first() {
        let service = Service::new(Limits::default(), 1);
        let shard = Shard::new(0, service, CompletionQueue::new().unwrap());
        let begun = Instant::now();
        let mut stalls = Vec::new();
        for seconds in [0, 1, 3, 6, 9, 13, 14, 29] {
            stalls.push(shard.note_running(begun + Duration::from_secs(seconds)));
        }
        assert_eq!(stalls, [0, 0, 0, 0, 0, 1, 1, 2], "3 s are allowed, 4 are not");
    }
}
