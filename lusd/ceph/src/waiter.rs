//! Waiting for a [`CompletionQueue`] in a tokio task.

use std::{io, sync::Arc};

use tokio::io::{Interest, unix::AsyncFd};

use crate::CompletionQueue;

/// Ties a queue to the tokio runtime of its shard.
///
/// ```no_run
/// # async fn shard(queue: std::sync::Arc<lusd_ceph::CompletionQueue>) -> std::io::Result<()> {
/// let waiter = lusd_ceph::QueueWaiter::new(queue.clone())?;
/// loop {
///     waiter.wait().await?; // or as one branch of a select
///     queue.drain(|completed| println!("{completed:?}"));
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct QueueWaiter {
    fd: AsyncFd<Arc<CompletionQueue>>,
}

impl QueueWaiter {
    /// For the runtime that this is called in; its I/O driver must be enabled.
    ///
    /// # Errors
    /// No room in epoll.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(queue: Arc<CompletionQueue>) -> io::Result<QueueWaiter> {
        // SAFETY: the queue owns its eventfd and never replaces it; the `Arc` in the AsyncFd keeps it open longer than it is registered.
        let fd = unsafe { AsyncFd::register_with_interest(queue, Interest::READABLE) }?;
        Ok(QueueWaiter { fd })
    }

    /// Returns when there is something to drain, at once if there is already; perhaps once in a while without. May be dropped while it waits: nothing is lost.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub async fn wait(&self) -> io::Result<()> {
        while self.fd.get_ref().prepare_sleep() {
            // The event is not read back: epoll is told of each write by an edge, and two system calls a wake are saved.
            self.fd.readable().await?.clear_ready();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU64, Ordering},
        thread,
        time::Duration,
    };

    use super::*;
    use crate::completion::tests::{Fixture, THREADS};

    /// Pushes from four threads while a task sleeps and drains, and is interrupted by a timer: no wake is lost.
    #[tokio::test]
    async fn no_wake_is_lost() {
        const EACH: u64 = 20_000;
        let fixture = Fixture::new();
        let waiter = QueueWaiter::new(fixture.queue.clone()).unwrap();
        let in_flight = Arc::new(AtomicU64::new(0));
        let pushers: Vec<_> = (0..THREADS)
            .map(|_| {
                let (fixture, in_flight) = (fixture.clone(), in_flight.clone());
                thread::spawn(move || {
                    for i in 0..EACH {
                        while in_flight.load(Ordering::Relaxed) > 8 {
                            thread::yield_now();
                        }
                        in_flight.fetch_add(1, Ordering::Relaxed);
                        fixture.complete(i, 0);
                    }
                })
            })
            .collect();
        let mut seen = 0;
        while seen < THREADS * EACH {
            tokio::select! {
                biased;
                () = tokio::time::sleep(Duration::from_micros(200)), if seen % 3 == 0 => {}
                result = tokio::time::timeout(Duration::from_secs(20), waiter.wait()) => {
                    result.unwrap_or_else(|_| panic!("lost wake after {seen}")).unwrap();
                }
            }
            let count = fixture.queue.drain(|_| ()) as u64;
            in_flight.fetch_sub(count, Ordering::Relaxed);
            seen += count;
        }
        pushers.into_iter().for_each(|p| p.join().unwrap());
    }
}
