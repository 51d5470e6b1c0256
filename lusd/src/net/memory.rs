//! The bound on data memory: what commands hold in buffers, per connection and for the whole daemon.
//!
//! Memory is charged before data is received or read, and given back when the last byte of it was written or sent. What comes to nobody's
//! asking (immediate and unsolicited data) must be charged when its command arrives, and may use all there is; what is asked for by R2T,
//! and what is read, can wait, and leaves a quarter free.
//!
//! Why nothing waits for ever: a connection stops reading only while none of its commands waits for data that would come behind; and when
//! all memory is held by commands that wait for more of it, the reserve, of which there is one in the daemon, lets one after the other end.
//! A command for whose data there is no memory for two thirds of the stall bound is BUSY, and its data is dropped: what stands behind it is
//! read before it is too old.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use tokio::sync::Notify;

/// The reserve, bytes: what one command needs at most, which is its data and, to verify it, the same again.
pub const RESERVE_BYTES: usize = 2 * lusd_scsi::MAX_TRANSFER_BYTES as usize;

/// What of `limit` may be used by what can wait.
const fn spare(limit: usize) -> usize {
    limit / 4 * 3
}

/// Data memory of the daemon. Sizes in bytes.
#[derive(Debug)]
pub struct DataMemory {
    limit: usize,
    used: AtomicUsize,
    waiting: AtomicUsize,
    freed: Notify,
    reserve_taken: AtomicBool,
}

impl DataMemory {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            freed: Notify::new(),
            reserve_taken: AtomicBool::new(false),
        })
    }

    /// Bytes that commands hold now.
    pub fn used(&self) -> usize {
        self.used.load(SeqCst)
    }

    /// True while so much is used that command windows should close: above three quarters.
    #[inline]
    pub fn is_tight(&self) -> bool {
        self.used() > spare(self.limit)
    }

    fn take(counter: &AtomicUsize, limit: usize, bytes: usize) -> bool {
        // Nobody may see what was not granted: it would keep others from what there is, and close their windows.
        counter
            .fetch_update(SeqCst, SeqCst, |used| used.checked_add(bytes).filter(|sum| *sum <= limit))
            .is_ok()
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

    /// Takes `bytes` for what cannot wait, or nothing when that would pass one of the bounds.
    pub fn try_charge(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        self.try_charge_to(bytes, self.limit, self.daemon.limit)
    }

    /// Takes `bytes` for what can wait, or nothing when that would leave less than a quarter free.
    pub fn try_charge_spare(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        self.try_charge_to(bytes, spare(self.limit), spare(self.daemon.limit))
    }

    fn try_charge_to(self: &Arc<Self>, bytes: usize, limit: usize, daemon_limit: usize) -> Option<Charge> {
        if !DataMemory::take(&self.used, limit, bytes) {
            return None;
        }
        if !DataMemory::take(&self.daemon.used, daemon_limit, bytes) {
            self.used.fetch_sub(bytes, SeqCst);
            return None;
        }
        Some(Charge { memory: self.clone(), bytes, reserve: false })
    }

    /// Takes `bytes` of the reserve, past both bounds: for one command at a time in the whole daemon, at most [`RESERVE_BYTES`].
    pub fn try_reserve(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        assert!(bytes <= RESERVE_BYTES, "more than the reserve");
        if self.daemon.reserve_taken.swap(true, SeqCst) {
            return None;
        }
        self.used.fetch_add(bytes, SeqCst);
        self.daemon.used.fetch_add(bytes, SeqCst);
        Some(Charge { memory: self.clone(), bytes, reserve: true })
    }

    /// True while a quarter of the share is used, or the daemon's memory is tight: what can wait is to wait until all that is there has
    /// been read.
    pub fn is_scarce(&self) -> bool {
        self.used.load(SeqCst) > self.limit / 4 || self.daemon.is_tight()
    }
}

/// Memory taken; dropping it gives it back.
#[derive(Debug)]
pub struct Charge {
    memory: Arc<ConnectionMemory>,
    bytes: usize,
    reserve: bool,
}

impl Charge {
    /// Both as one.
    pub fn join(mut self, mut other: Self) -> Self {
        assert!(Arc::ptr_eq(&self.memory, &other.memory), "charges of two connections");
        self.bytes += std::mem::take(&mut other.bytes);
        self.reserve |= std::mem::take(&mut other.reserve);
        self
    }

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
        if self.reserve {
            daemon.reserve_taken.store(false, SeqCst);
        }
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

    #[test]
    fn the_reserve_is_for_one_at_a_time() {
        let daemon = DataMemory::new(100);
        let (a, b) = (ConnectionMemory::new(daemon.clone(), 50), ConnectionMemory::new(daemon.clone(), 50));
        let (held, _b) = (a.try_charge(50).unwrap(), b.try_charge(50).unwrap());
        let held = held.join(a.try_reserve(30).unwrap());
        assert!(b.try_reserve(30).is_none());
        assert_eq!(daemon.used(), 130);
        drop(held);
        drop(b.try_reserve(30).unwrap());
        assert_eq!(daemon.used(), 50);
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
