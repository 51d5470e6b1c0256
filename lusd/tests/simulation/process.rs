//! Processes and machines: what is stopped is not polled, what has crashed never again.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::sim::lock;

/// Lets those through that ask while it is open; the others wait.
#[derive(Default)]
pub(crate) struct Valve {
    shut: Mutex<bool>,
    opened: Notify,
}

impl Valve {
    pub(crate) fn is_shut(&self) -> bool {
        *lock(&self.shut)
    }

    pub(crate) fn shut(&self) {
        *lock(&self.shut) = true;
    }

    pub(crate) fn open(&self) {
        *lock(&self.shut) = false;
        self.opened.notify_waiters();
    }

    /// Returns when it is open.
    pub(crate) async fn pass(&self) {
        loop {
            let opened = self.opened.notified();
            if !self.is_shut() {
                return;
            }
            opened.await;
        }
    }
}

/// A machine's link to RADOS, for all processes that ever run there.
#[derive(Default)]
pub(crate) struct Machine {
    /// Shut: nothing gets from there to RADOS or back, until it heals.
    pub(crate) link: Valve,
}

#[derive(Default)]
struct State {
    /// How many have stopped it; it goes on when all of them let it.
    stopped: u32,
    dead: bool,
    wakers: Vec<Waker>,
    tasks: Vec<AbortHandle>,
}

/// A process, or a thread of one.
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) machine: Arc<Machine>,
    state: Mutex<State>,
    goes_on: Notify,
}

impl Process {
    pub(crate) fn new(name: String, machine: Arc<Machine>) -> Arc<Self> {
        Arc::new(Self { name, machine, state: Mutex::default(), goes_on: Notify::new() })
    }

    /// SIGSTOP.
    pub(crate) fn stop(&self) {
        lock(&self.state).stopped += 1;
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) {
        let wakers = {
            let mut state = lock(&self.state);
            state.stopped = state.stopped.saturating_sub(1);
            if state.stopped > 0 {
                return;
            }
            std::mem::take(&mut state.wakers)
        };
        self.goes_on.notify_waiters();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// SIGCONT, whoever stopped it.
    pub(crate) fn resume_for_good(&self) {
        lock(&self.state).stopped = 1;
        self.resume();
    }

    /// SIGKILL: nothing of it runs again. What has left it is on its way.
    pub(crate) fn kill(&self) {
        let tasks = {
            let mut state = lock(&self.state);
            state.dead = true;
            std::mem::take(&mut state.tasks)
        };
        tasks.iter().for_each(AbortHandle::abort);
    }

    pub(crate) fn is_dead(&self) -> bool {
        lock(&self.state).dead
    }

    /// Whether it runs, and RADOS could hear it.
    pub(crate) fn is_heard(&self) -> bool {
        let state = lock(&self.state);
        !state.dead && state.stopped == 0 && !self.machine.link.is_shut()
    }

    /// Returns when it runs; never, for a dead one.
    pub(crate) async fn runs(&self) {
        loop {
            let goes_on = self.goes_on.notified();
            let (stopped, dead) = {
                let state = lock(&self.state);
                (state.stopped > 0, state.dead)
            };
            if dead {
                std::future::pending::<()>().await;
            }
            if !stopped {
                return;
            }
            goes_on.await;
        }
    }

    /// A task of it.
    pub(crate) fn spawn(self: &Arc<Self>, future: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let task = tokio::spawn(Gated { process: self.clone(), future: Box::pin(future) });
        let handle = task.abort_handle();
        let mut state = lock(&self.state);
        if state.dead {
            handle.abort();
        }
        state.tasks.retain(|task| !task.is_finished());
        state.tasks.push(handle.clone());
        handle
    }

    /// A future that is polled only while this, a thread, runs.
    pub(crate) fn gate(self: &Arc<Self>, future: impl Future<Output = ()> + Send + 'static) -> Gated {
        Gated { process: self.clone(), future: Box::pin(future) }
    }
}

/// A future of a process.
pub(crate) struct Gated {
    process: Arc<Process>,
    future: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Future for Gated {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        {
            let mut state = lock(&self.process.state);
            if state.dead {
                return Poll::Pending;
            }
            if state.stopped > 0 {
                state.wakers.push(cx.waker().clone());
                return Poll::Pending;
            }
        }
        self.future.as_mut().poll(cx)
    }
}
