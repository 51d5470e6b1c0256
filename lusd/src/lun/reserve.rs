//! Changes of reservations: one at a time, durable before they count, and answered after that.
//!
//! ```text
//!   sessions ─ Ask ─► Desk ─► carry_out: decide ─► gate held, drained ─► Keeper writes ─► publish ─► gate open ─► answer
//!                                          └─ nothing changes ─────────────────────────────────────────────────► answer
//! ```
//!
//! The gate is held only where some nexus may do less afterwards: what was under way ends first, and what waits is looked at again
//! under the new reservation. Whoever serves the LU takes asks from its desk: the owner's task, whose keeper is the LU's record.
//! Where nothing is kept beyond the process, [`serve_volatile`] does.
//!
//! Invariants: an ask is answered exactly once, or its session is reset; nothing of an ask whose session has ended, or whose initiator may
//! have given it up, is begun, and what waits for the gate when its command or session ends is not made; while it is not known whether a
//! narrowing change was written, the gate stays shut.

pub mod record;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use lusd_scsi::{Change, Decision, NexusHandle, Refusal, Reservations, ReserveRequest};
use tokio::sync::{Notify, oneshot};
use tracing::info;

use super::unit::Unit;
use crate::service::Service;

/// Asks that wait at one LU; one more is BUSY.
const WAITING_MAX: usize = 1024;

/// A request of a session.
#[derive(Debug)]
pub struct Ask {
    /// What is wanted.
    pub request: ReserveRequest,
    /// By whom.
    pub nexus: NexusHandle,
    /// The unit's, when the command came.
    pub reset_generation: u64,
    /// The nexus's, then: another one now means that PREEMPT AND ABORT, or I_T NEXUS RESET, ended the command.
    pub aborts: u64,
    /// Its initiator has not given it up before this.
    pub before: Instant,
    /// Where the answer goes. Dropped without one, what became of it is not known.
    pub answer: oneshot::Sender<Reply>,
}

/// The answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// By the rules.
    Answer(Result<(), Refusal>),
    /// Nothing was done; to be sent again.
    Busy,
    /// Nothing was done: the LU is not served here.
    Displaced,
    /// Nothing was done: the command was aborted meanwhile.
    Aborted,
}

/// Where the asks of one LU wait.
#[derive(Debug, Default)]
pub struct Desk {
    asks: Mutex<Asks>,
    come: Notify,
}

#[derive(Debug, Default)]
struct Asks {
    open: bool,
    waiting: VecDeque<Ask>,
}

impl Desk {
    fn asks(&self) -> MutexGuard<'_, Asks> {
        self.asks.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes an ask, or answers it at once.
    pub fn put(&self, ask: Ask) {
        let mut asks = self.asks();
        let refusal = match () {
            () if !asks.open => Reply::Displaced,
            () if asks.waiting.len() >= WAITING_MAX => Reply::Busy,
            () => {
                asks.waiting.push_back(ask);
                return self.come.notify_one();
            }
        };
        drop(asks);
        ask.reply(refusal);
    }

    /// The next ask. Safe to drop while pending.
    pub async fn next(&self) -> Ask {
        loop {
            if let Some(ask) = self.asks().waiting.pop_front() {
                return ask;
            }
            self.come.notified().await;
        }
    }

    /// The LU is served from now on.
    pub fn open(&self) {
        self.asks().open = true;
    }

    /// The LU is not served any more: what waits is told so.
    pub fn shut(&self) {
        let waiting = {
            let mut asks = self.asks();
            asks.open = false;
            std::mem::take(&mut asks.waiting)
        };
        for ask in waiting {
            ask.reply(Reply::Displaced);
        }
    }
}

impl Ask {
    fn reply(self, reply: Reply) {
        // Nobody waits for it any more: its connection is gone.
        let _ = self.answer.send(reply);
    }

    /// Whether its command was ended, or its session has.
    fn is_ended(&self, unit: &Unit) -> bool {
        self.reset_generation != unit.reset_generation()
            || self.aborts != self.nexus.aborts()
            || self.nexus.has_left()
    }

    /// Why it is not to be begun.
    fn is_over(&self, unit: &Unit) -> Option<Reply> {
        if self.is_ended(unit) {
            Some(Reply::Aborted)
        } else if Instant::now() > self.before {
            Some(Reply::Busy)
        } else {
            None
        }
    }
}

/// What became of a write.
#[derive(Debug, PartialEq, Eq)]
pub enum Written {
    /// It stands.
    Done,
    /// It does not: somebody else has changed what is kept to this.
    Other(Reservations),
    /// It does not, for a reason that may pass.
    NotDone,
    /// The LU is another one's.
    Lost,
}

/// A future without a name: this is rare.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where reservations are kept. Returns when the outcome is known.
pub trait Keeper: Send {
    /// Writes the next state.
    fn write<'a>(&'a mut self, next: &'a Reservations) -> Boxed<'a, Written>;
}

/// Keeps nothing.
#[derive(Debug)]
pub struct Volatile;

impl Keeper for Volatile {
    fn write<'a>(&'a mut self, _: &'a Reservations) -> Boxed<'a, Written> {
        Box::pin(std::future::ready(Written::Done))
    }
}

/// Carries asks out for as long as it is polled, and keeps nothing: for a unit without an owner.
pub async fn serve_volatile(unit: Arc<Unit>, service: Arc<Service>) {
    loop {
        let ask = unit.desk.next().await;
        carry_out(&unit, &service, ask, &mut Volatile).await;
    }
}

/// Carries one ask out. No other is carried out at the same time.
pub async fn carry_out(unit: &Unit, service: &Service, ask: Ask, keeper: &mut dyn Keeper) {
    let reply = loop {
        if let Some(reply) = ask.is_over(unit) {
            break reply;
        }
        match unit.scsi.decide(&ask.nexus, &ask.request) {
            Decision::Answer(answer) => break Reply::Answer(answer),
            Decision::LetGo => {
                unit.scsi.let_go(&ask.nexus);
                break Reply::Answer(Ok(()));
            }
            Decision::Hold => {
                let Some(barrier) = unit.gate.barrier().await else { break Reply::Displaced };
                let holds = !ask.is_ended(unit) && unit.scsi.hold(&ask.nexus, ask.aborts);
                drop(barrier);
                break if holds { Reply::Answer(Ok(())) } else { Reply::Aborted };
            }
            Decision::Persist(change) => match make(unit, &ask, change, keeper).await {
                Made::Stands => break Reply::Answer(Ok(())),
                Made::Not(reply) => break reply,
                Made::Otherwise => {}
                // The ask is dropped with its answer: its session is reset.
                Made::Lost => return,
            },
        }
    };
    ask.reply(reply);
    // What the gate held off, and what was aborted.
    service.sessions.wake_all();
}

enum Made {
    Stands,
    /// Others have changed the state: to be decided again.
    Otherwise,
    Not(Reply),
    Lost,
}

async fn make(unit: &Unit, ask: &Ask, change: Change, keeper: &mut dyn Keeper) -> Made {
    let barrier = if change.narrows {
        let Some(barrier) = unit.gate.barrier().await else { return Made::Not(Reply::Displaced) };
        // What was under way may have taken long to end. How long is no reason to give up: where all commands take long nobody could be
        // shut out.
        if ask.is_ended(unit) {
            return Made::Not(Reply::Aborted);
        }
        Some(barrier)
    } else {
        None
    };
    match keeper.write(&change.next).await {
        Written::Done => {
            info!(lu = %unit.name, generation = change.next.generation, kind = ?change.next.kind,
                registrations = change.next.registrations.len(), "reservations changed");
            if !change.abort.is_empty() {
                unit.note_end_of_tasks();
            }
            unit.scsi.publish(change);
            drop(barrier);
            Made::Stands
        }
        Written::Other(found) => {
            drop(barrier);
            if adopt(unit, found).await { Made::Otherwise } else { Made::Not(Reply::Displaced) }
        }
        Written::NotDone => Made::Not(Reply::Busy),
        Written::Lost => {
            // Before the barrier opens the gate.
            unit.lost(unit.gate.epoch(), false);
            Made::Lost
        }
    }
}

/// Takes over what somebody else has made of the reservations, while nothing is under way. False: the LU is not served any more.
pub async fn adopt(unit: &Unit, found: Reservations) -> bool {
    let Some(_barrier) = unit.gate.barrier().await else { return false };
    info!(lu = %unit.name, registrations = found.registrations.len(), "reservations were changed from outside");
    unit.scsi.adopt(found);
    true
}

#[cfg(test)]
mod tests;
