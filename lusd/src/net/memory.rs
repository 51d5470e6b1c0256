//! The bound on data memory: what commands hold in buffers, per connection and for the whole daemon.
//!
//! A command's buffer is charged in one piece before any of its data is received or read, and given back when the last byte of it was
//! sent or written: so a command that has its buffer never waits for memory again, and there is no deadlock between half-received writes.
//! Who gets nothing stops reading from its socket (TCP pushes back) and is woken when memory is given back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use tokio::sync::Notify;

/// Data memory of the daemon. Sizes in bytes.
#[derive(Debug)]
pub struct DataMemory {
    limit: usize,
    used: AtomicUsize,
    waiting: AtomicUsize,
    freed: Notify,
}

impl DataMemory {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            freed: Notify::new(),
        })
    }

    /// Bytes that commands hold now.
    pub fn used(&self) -> usize {
        self.used.load(SeqCst)
    }

    /// True while so much is used that command windows should close: above three quarters.
    #[inline]
    pub fn is_tight(&self) -> bool {
        self.used() > self.limit / 4 * 3
    }

    fn take(counter: &AtomicUsize, limit: usize, bytes: usize) -> bool {
        let before = counter.fetch_add(bytes, SeqCst);
        if before.checked_add(bytes).is_some_and(|sum| sum <= limit) {
            return true;
        }
        counter.fetch_sub(bytes, SeqCst);
        false
    }

    /// Waits until memory was given back since `try_charge` last failed (or shortly: the caller tries again).
    pub async fn freed(&self) {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, SeqCst);
            }
        }
        /// Should a release slip in between the failed attempt and this call, this much later it is noticed all the same.
        const RETRY: std::time::Duration = std::time::Duration::from_millis(20);
        self.waiting.fetch_add(1, SeqCst);
        let _waiting = Waiting(&self.waiting);
        let _ = tokio::time::timeout(RETRY, self.freed.notified()).await;
    }
}

/// One connection's share.
#[derive(Debug)]
pub struct ConnectionMemory {
    daemon: Arc<DataMemory>,
    limit: usize,
    used: AtomicUsize,
}

impl ConnectionMemory {
    /// A share of at most `limit` bytes of `daemon`.
    pub fn new(daemon: Arc<DataMemory>, limit: usize) -> Arc<Self> {
        Arc::new(Self { daemon, limit, used: AtomicUsize::new(0) })
    }

    /// The daemon's whole budget.
    pub fn daemon(&self) -> &Arc<DataMemory> {
        &self.daemon
    }

    /// Takes `bytes`, or nothing when that would pass one of the bounds.
    pub fn try_charge(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        if !DataMemory::take(&self.used, self.limit, bytes) {
            return None;
        }
        if !DataMemory::take(&self.daemon.used, self.daemon.limit, bytes) {
            self.used.fetch_sub(bytes, SeqCst);
            return None;
        }
        Some(Charge { memory: self.clone(), bytes })
    }
}

/// Memory taken; dropping it gives it back.
#[derive(Debug)]
pub struct Charge {
    memory: Arc<ConnectionMemory>,
    bytes: usize,
}

impl Charge {
    /// `data`, which gives the charge back when its last reference is gone.
    pub fn attach(self, data: Bytes) -> Bytes {
        Bytes::from_owner(Charged { data, _charge: self })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.bytes, SeqCst);
        let daemon = &self.memory.daemon;
        daemon.used.fetch_sub(self.bytes, SeqCst);
        if daemon.waiting.load(SeqCst) > 0 {
            daemon.freed.notify_waiters();
        }
    }
}

struct Charged {
    data: Bytes,
    _charge: Charge,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_bounds_hold_and_everything_comes_back() {
        let daemon = DataMemory::new(100);
        let a = ConnectionMemory::new(daemon.clone(), 80);
        let b = ConnectionMemory::new(daemon.clone(), 80);
        let first = a.try_charge(60).unwrap();
        assert!(a.try_charge(21).is_none(), "the connection's bound");
        assert!(b.try_charge(41).is_none(), "the daemon's bound");
        assert!(a.try_charge(usize::MAX).is_none(), "no overflow");
        let second = b.try_charge(40).unwrap();
        assert!(daemon.is_tight());
        let data = first.attach(Bytes::from_static(b"abc"));
        let part = data.slice(1..2);
        drop(data);
        assert_eq!(daemon.used(), 100, "a slice still holds it");
        drop(part);
        drop(second);
        assert_eq!((daemon.used(), a.used.load(SeqCst), b.used.load(SeqCst)), (0, 0, 0));
    }

    #[tokio::test]
    async fn who_waits_is_woken() {
        let daemon = DataMemory::new(10);
        let a = ConnectionMemory::new(daemon.clone(), 10);
        let held = a.try_charge(10).unwrap();
        let waiter = tokio::spawn({
            let a = a.clone();
            async move {
                loop {
                    if let Some(charge) = a.try_charge(10) {
                        return charge;
                    }
                    a.daemon().freed().await;
                }
            }
        });
        tokio::task::yield_now().await;
        drop(held);
        drop(waiter.await.unwrap());
        assert_eq!(daemon.used(), 0);
    }
}
