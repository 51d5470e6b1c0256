//! Threads on which handles are closed.
//!
//! The last reference to an image or a client may go away anywhere: in an async task, which must not block, or in a callback on a thread
//! of librados or librbd, where `rbd_close` and `rados_shutdown` would wait for that very thread. So whoever drops the last reference only hands over
//! the work. tokio's blocking threads would not do: a callback's thread knows no runtime, and the runtime may be gone.
//!
//! One thread runs from the first connect to the end of the process; more come while jobs hang (a close waits for its placement group) and
//! go when idle. The end of the process waits a little for what is queued: otherwise these threads would meet the destructors of librados's static
//! objects, which end in an abort. A program that wants to be sure awaits `Cluster::shutdown`.

use std::{
    collections::VecDeque,
    io,
    sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::Duration,
};

/// Most threads at once. A job hangs only while its pool hangs; past this many the others wait.
const THREADS_MAX: usize = 512;
/// A thread beyond the first ends after being idle for this long.
const IDLE: Duration = Duration::from_secs(10);
/// Longest time that the end of the process waits for handles that are being closed.
const EXIT_WAIT: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce() + Send>;

/// Every handle is queued at most once for its closing and at most once for a refresh, so the number of handles is the bound of `jobs`.
#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    /// Jobs that run now.
    running: usize,
}

struct Reaper {
    state: Mutex<State>,
    /// There is a job.
    wake: Condvar,
    /// A job has ended.
    done: Condvar,
}

static REAPER: OnceLock<Reaper> = OnceLock::new();

fn reaper() -> &'static Reaper {
    REAPER.get_or_init(|| Reaper { state: Mutex::default(), wake: Condvar::new(), done: Condvar::new() })
}

/// Makes sure that there is a thread, so that [`run`] cannot fail later.
pub(crate) fn start() -> io::Result<()> {
    let reaper = reaper();
    let mut state = reaper.lock();
    if state.threads > 0 {
        return Ok(());
    }
    reaper.spawn(&mut state)?;
    // SAFETY: a function without arguments that does not unwind. The handlers run in reverse order, so this one before the destructors that were registered when librados was loaded.
    // An error (out of memory) only means that nobody waits.
    unsafe { libc::atexit(wait_at_exit) };
    Ok(())
}

extern "C" fn wait_at_exit() {
    let reaper = reaper();
    let busy = |state: &mut State| state.running > 0 || !state.jobs.is_empty();
    drop(reaper.done.wait_timeout_while(reaper.lock(), EXIT_WAIT, busy));
}

/// Runs `job` on a thread of its own. Never blocks for long and never fails: without a free thread the job waits for one.
pub(crate) fn run(job: impl FnOnce() + Send + 'static) {
    let reaper = reaper();
    let mut state = reaper.lock();
    state.jobs.push_back(Box::new(job));
    if state.jobs.len() > state.idle
        && state.threads < THREADS_MAX
        && let Err(error) = reaper.spawn(&mut state)
    {
        tracing::warn!(%error, threads = state.threads, "no further thread to close RADOS handles: they close later");
    }
    drop(state);
    reaper.wake.notify_one();
}

impl Reaper {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&'static self, state: &mut State) -> io::Result<()> {
        thread::Builder::new().name("ceph-reaper".into()).spawn(move || self.work())?;
        state.threads += 1;
        Ok(())
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                state.running += 1;
                drop(state);
                // A panicking job must not take the thread with it, on which others rely.
                if std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).is_err() {
                    tracing::error!("closing a RADOS handle panicked");
                }
                state = self.lock();
                state.running -= 1;
                self.done.notify_all();
                continue;
            }
            state.idle += 1;
            let (guard, timeout) =
                self.wake.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = guard;
            state.idle -= 1;
            if timeout.timed_out() && state.jobs.is_empty() && state.threads > 1 {
                state.threads -= 1;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier, mpsc};

    use super::*;

    #[test]
    fn hanging_jobs_do_not_hold_up_others() {
        start().unwrap();
        let barrier = Arc::new(Barrier::new(9));
        for _ in 0..8 {
            let barrier = barrier.clone();
            run(move || {
                barrier.wait();
            });
        }
        run(|| panic!("planted"));
        let (sender, receiver) = mpsc::sync_channel(1);
        run(move || sender.send(()).unwrap());
        receiver.recv_timeout(Duration::from_secs(10)).expect("the last job ran beside the hanging ones");
        barrier.wait();
    }
}
