//! The data path's way back: from librbd's threads to the shard that submitted.
//!
//! ```text
//! librbd's threads:  push, push, push ──► head ─► op ─► op ─► op      (one compare-and-swap each)
//!                                          │
//! shard:   drain: take the whole list, oldest first; nothing left: prepare_sleep: head = SLEEPING
//!                                          │
//!          the push that finds SLEEPING writes the eventfd; those behind it find a list and do not
//! ```
//!
//! One word, `head`, holds the list and the shard's state, so there is no second flag to race with: null is empty with the shard awake, `SLEEPING` is empty with the
//! shard asleep. As nodes are only ever taken all at once, a push needs no guard against reuse of an address.
//!
//! Invariants: an operation is in librbd, in a queue, or with the shard, and nowhere twice; it owns its buffers and a reference to its image until the shard has it;
//! nothing but `complete` runs on librbd's threads.

use std::{
    ffi::c_void,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr,
    sync::{
        Arc,
        atomic::{AtomicPtr, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use lusd_ceph_sys as sys;
use rustix::event::{EventfdFlags, eventfd};
use smallvec::SmallVec;

use crate::{Errno, image};

/// The buffers of an operation, on loan to librbd until it completes.
#[derive(Debug, Default)]
pub enum OpBuffers {
    /// It has none.
    #[default]
    None,
    /// Filled by a read: the bytes read are behind those that were in it before.
    Read(BytesMut),
    /// What was written.
    Write(SmallVec<[Bytes; 2]>),
}

/// An operation that has ended.
#[derive(Debug)]
pub struct Completed {
    /// As given when it was submitted.
    pub token: u64,
    /// Bytes read for a read (fewer than asked for only if the image shrank meanwhile), else 0.
    ///
    /// [`Errno::ESHUTDOWN`]: this client is fenced, the operation will not take effect. [`Errno::EROFS`]: the lock is not held. [`Errno::ETIMEDOUT`]: the outcome is
    /// **unknown**, a write may still land later.
    pub result: Result<u64, Errno>,
    /// Its buffers.
    pub buffers: OpBuffers,
}

/// A queue of completed operations, one per shard. Any number of images may complete into it, from any thread.
///
/// A tokio task waits with a [`QueueWaiter`](crate::QueueWaiter). By hand: [`prepare_sleep`](CompletionQueue::prepare_sleep), wait until the file descriptor
/// ([`AsFd`]) is readable, [`woken`](CompletionQueue::woken), [`drain`](CompletionQueue::drain).
pub struct CompletionQueue {
    head: AtomicPtr<Op>,
    eventfd: OwnedFd,
}

/// One operation: made when submitted, freed when drained.
pub(crate) struct Op {
    next: *mut Op,
    /// The queue it completes into, a counted reference; null once it has been pushed.
    queue: *const CompletionQueue,
    token: u64,
    result: isize,
    /// Most bytes a read may deliver.
    read_len: usize,
    buffers: OpBuffers,
    /// Keeps the image open.
    _image: Arc<image::Inner>,
}

/// `head` of an empty queue whose shard sleeps. Never an operation's address: those are aligned.
const SLEEPING: *mut Op = ptr::without_provenance_mut(1);

// SAFETY: the operations behind `head` are owned by the queue and are Send (buffers and an image).
unsafe impl Send for CompletionQueue {}
// SAFETY: `head` is only used through atomic operations that move whole ownership.
unsafe impl Sync for CompletionQueue {}

impl CompletionQueue {
    /// A queue without operations, its shard awake.
    ///
    /// # Errors
    /// No file descriptor left.
    pub fn new() -> io::Result<Arc<CompletionQueue>> {
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(CompletionQueue { head: AtomicPtr::new(ptr::null_mut()), eventfd }))
    }

    /// Hands over all operations that have completed, oldest first, and counts them. The shard counts as awake afterwards. Operations that complete meanwhile wait for the next
    /// call; `each` may submit new ones.
    pub fn drain(&self, mut each: impl FnMut(Completed)) -> usize {
        let batch = Batch(reverse(self.take_all()));
        let mut count = 0;
        for op in batch {
            each(op.into_completed());
            count += 1;
        }
        count
    }

    /// To be called before waiting for the eventfd. False: something completed meanwhile, drain again instead of waiting.
    #[must_use]
    pub fn prepare_sleep(&self) -> bool {
        match self.head.compare_exchange(ptr::null_mut(), SLEEPING, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => true,
            Err(head) => head == SLEEPING,
        }
    }

    /// To be called after waiting: takes the event back, so that the file descriptor is not readable until the next one. Not needed where only
    /// edges count.
    pub fn woken(&self) {
        // WouldBlock: it was not this descriptor that woke us. Nothing else can fail.
        let _ = rustix::io::read(&self.eventfd, &mut [0; 8]);
    }

    fn take_all(&self) -> *mut Op {
        // Acquire: what the pushing threads wrote is visible. Each push continues the release sequence of those before it.
        let head = self.head.swap(ptr::null_mut(), Ordering::Acquire);
        if head == SLEEPING { ptr::null_mut() } else { head }
    }

    /// # Safety
    /// `op` is a leaked box that belongs to the caller.
    unsafe fn push(&self, op: *mut Op) {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // SAFETY: not published yet, so still ours.
            unsafe { (*op).next = if head == SLEEPING { ptr::null_mut() } else { head } };
            match self.head.compare_exchange_weak(head, op, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => head = now,
            }
        }
        if head == SLEEPING {
            // WouldBlock: the counter is full, so the descriptor is readable anyway. Nothing else can fail.
            let _ = rustix::io::write(&self.eventfd, &1u64.to_ne_bytes());
        }
    }
}

impl AsFd for CompletionQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}

impl std::os::fd::AsRawFd for CompletionQueue {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.eventfd.as_raw_fd()
    }
}

impl std::fmt::Debug for CompletionQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompletionQueue").field("eventfd", &self.eventfd).finish_non_exhaustive()
    }
}

impl Drop for CompletionQueue {
    /// The shard is gone and so is the last operation in flight: what nobody drained is dropped. This may be a thread of librbd; images close on the reaper.
    fn drop(&mut self) {
        drop(Batch(self.take_all()));
    }
}

/// A list of completed operations that are ours; frees what is not taken out.
struct Batch(*mut Op);

impl Iterator for Batch {
    type Item = Box<Op>;

    fn next(&mut self) -> Option<Box<Op>> {
        if self.0.is_null() {
            return None;
        }
        // SAFETY: a leaked box in a list that belongs to this batch alone.
        let op = unsafe { Box::from_raw(self.0) };
        self.0 = op.next;
        Some(op)
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.for_each(drop);
    }
}

/// The list is newest first; the shard wants the oldest first.
fn reverse(mut list: *mut Op) -> *mut Op {
    let mut reversed = ptr::null_mut();
    while !list.is_null() {
        // SAFETY: the caller owns the list.
        unsafe {
            let next = (*list).next;
            (*list).next = reversed;
            reversed = list;
            list = next;
        }
    }
    reversed
}

impl Op {
    pub(crate) fn new(
        queue: &Arc<CompletionQueue>,
        token: u64,
        image: Arc<image::Inner>,
        buffers: OpBuffers,
        read_len: usize,
    ) -> Box<Op> {
        let queue = Arc::into_raw(queue.clone());
        Box::new(Op { next: ptr::null_mut(), queue, token, result: 0, read_len, buffers, _image: image })
    }

    /// Where a read goes: behind what is in the buffer. Stays valid wherever the operation is moved.
    pub(crate) fn read_ptr(&mut self) -> *mut u8 {
        match &mut self.buffers {
            OpBuffers::Read(buf) => buf.spare_capacity_mut().as_mut_ptr().cast(),
            _ => ptr::null_mut(),
        }
    }

    /// Takes back the buffers of an operation that was not submitted.
    pub(crate) fn into_buffers(mut self) -> OpBuffers {
        std::mem::take(&mut self.buffers)
    }

    fn into_completed(mut self) -> Completed {
        let mut buffers = std::mem::take(&mut self.buffers);
        let mut result = match u64::try_from(self.result) {
            Ok(count) => Ok(count),
            Err(_) => Err(Errno::from_raw(i32::try_from(self.result).unwrap_or(i32::MIN))),
        };
        if let OpBuffers::Read(buf) = &mut buffers
            && let Ok(count) = result
        {
            if count <= self.read_len as u64 {
                // SAFETY: `read_len` bytes behind the buffer's length were lent to librbd, which filled the first `count`.
                unsafe { buf.set_len(buf.len() + count as usize) };
            } else {
                result = Err(Errno::EIO); // more than there was room for: nothing of it can be believed
            }
        }
        Completed { token: self.token, result, buffers }
    }
}

impl Drop for Op {
    fn drop(&mut self) {
        if !self.queue.is_null() {
            // SAFETY: a reference counted in `new` and not given up in `complete`.
            drop(unsafe { Arc::from_raw(self.queue) });
        }
    }
}

/// librbd's callback, on one of its threads, once for each operation that was submitted. (A panic in an `extern "C"` function ends the process, it does not unwind into C++;
/// there is none in here.)
pub(crate) extern "C" fn complete(completion: sys::rbd_completion_t, arg: *mut c_void) {
    // SAFETY: `completion` is live during its callback; released exactly once, here.
    let result = unsafe {
        let result = sys::rbd_aio_get_return_value(completion);
        sys::rbd_aio_release(completion);
        result
    };
    // SAFETY: `arg` is the operation that was leaked for this completion.
    unsafe { finish(arg.cast(), result) }
}

/// # Safety
/// `op` is a leaked box that belongs to the caller and has its queue.
unsafe fn finish(op: *mut Op, result: isize) {
    // SAFETY: by contract; the operation is not touched after it is pushed, and the queue lives at least until then by the reference taken out of it.
    unsafe {
        (*op).result = result;
        let queue = Arc::from_raw(ptr::replace(&raw mut (*op).queue, ptr::null()));
        queue.push(op);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{sync::atomic::AtomicUsize, thread};

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    pub(crate) const THREADS: u64 = 4;

    /// A queue, and operations without librbd behind them.
    #[derive(Clone)]
    pub(crate) struct Fixture {
        pub(crate) queue: Arc<CompletionQueue>,
        image: Arc<image::Inner>,
    }

    impl Fixture {
        pub(crate) fn new() -> Fixture {
            Fixture { queue: CompletionQueue::new().unwrap(), image: image::Inner::for_tests() }
        }

        /// An operation that completes at once.
        pub(crate) fn complete(&self, token: u64, result: isize) {
            // SAFETY: a fresh operation, finished once.
            unsafe { finish(op(&self.queue, &self.image, token), result) };
        }
    }

    fn op(queue: &Arc<CompletionQueue>, image: &Arc<image::Inner>, token: u64) -> *mut Op {
        Box::into_raw(Op::new(queue, token, image.clone(), OpBuffers::None, 0))
    }

    fn readable(queue: &CompletionQueue, timeout_ms: i64) -> bool {
        let timeout = Timespec { tv_sec: timeout_ms / 1000, tv_nsec: timeout_ms % 1000 * 1_000_000 };
        let mut fds = [PollFd::new(queue, PollFlags::IN)];
        poll(&mut fds, Some(&timeout)).unwrap() == 1
    }

    fn drained(queue: &CompletionQueue) -> Vec<(u64, Result<u64, Errno>)> {
        let mut all = Vec::new();
        queue.drain(|c| all.push((c.token, c.result)));
        all
    }

    #[test]
    fn oldest_first_and_results() {
        let (queue, image) = (CompletionQueue::new().unwrap(), image::Inner::for_tests());
        for (token, result) in [(1, 0), (2, -108), (3, 7)] {
            // SAFETY: a fresh operation.
            unsafe { finish(op(&queue, &image, token), result) };
        }
        assert_eq!(drained(&queue), [(1, Ok(0)), (2, Err(Errno::ESHUTDOWN)), (3, Ok(7))]);
        assert_eq!(drained(&queue), []);
        assert_eq!(Arc::strong_count(&image), 1);
        assert_eq!(Arc::strong_count(&queue), 1);
    }

    #[test]
    fn one_wake_for_many() {
        let (queue, image) = (CompletionQueue::new().unwrap(), image::Inner::for_tests());
        // SAFETY: fresh operations, here and below.
        unsafe { finish(op(&queue, &image, 1), 0) };
        assert!(!readable(&queue, 0), "awake: no event");
        assert!(!queue.prepare_sleep(), "not empty");
        assert_eq!(drained(&queue).len(), 1);
        assert!(queue.prepare_sleep());
        assert!(queue.prepare_sleep(), "twice is the same");
        assert!(!readable(&queue, 0));
        for token in 0..3 {
            // SAFETY: as above.
            unsafe { finish(op(&queue, &image, token), 0) };
        }
        assert!(readable(&queue, 0));
        let mut count = [0; 8];
        rustix::io::read(queue.as_fd(), &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 1, "one event for three");
        assert_eq!(drained(&queue).len(), 3);
        queue.woken(); // nothing to take back: must not block
        assert!(queue.prepare_sleep());
        assert_eq!(drained(&queue), []); // woken by something else: awake again
        // SAFETY: as above.
        unsafe { finish(op(&queue, &image, 9), 0) };
        assert!(!readable(&queue, 0));
    }

    #[test]
    fn read_lengths() {
        let (queue, image) = (CompletionQueue::new().unwrap(), image::Inner::for_tests());
        let results = [(5isize, Ok(5), 7), (0, Ok(0), 2), (-5, Err(Errno::EIO), 2), (9, Err(Errno::EIO), 2)];
        for (result, expected, len) in results {
            let mut buf = BytesMut::with_capacity(16);
            buf.extend_from_slice(b"ab");
            // As librbd would, before it reports the bytes as read.
            buf.spare_capacity_mut()[..8].fill(std::mem::MaybeUninit::new(b'x'));
            let op = Box::into_raw(Op::new(&queue, 1, image.clone(), OpBuffers::Read(buf), 8));
            // SAFETY: a fresh operation.
            unsafe { finish(op, result) };
            queue.drain(|completed| {
                assert_eq!(completed.result, expected);
                let OpBuffers::Read(buf) = completed.buffers else { panic!("buffers of a read") };
                assert_eq!(buf.len(), len);
            });
        }
    }

    #[test]
    fn undrained_operations_go_with_the_queue() {
        let (queue, image) = (CompletionQueue::new().unwrap(), image::Inner::for_tests());
        let first = op(&queue, &image, 1);
        let second = op(&queue, &image, 2);
        drop(queue); // the shard is gone, both in flight
        assert_eq!(Arc::strong_count(&image), 3);
        // SAFETY: operations in flight, each finished once.
        unsafe { finish(first, 0) };
        assert_eq!(Arc::strong_count(&image), 3, "waits in the queue, which the second keeps alive");
        // SAFETY: as above.
        unsafe { finish(second, 0) };
        assert_eq!(Arc::strong_count(&image), 1);
    }

    #[test]
    fn panic_in_drain_loses_no_memory() {
        let (queue, image) = (CompletionQueue::new().unwrap(), image::Inner::for_tests());
        for token in 0..3 {
            // SAFETY: fresh operations.
            unsafe { finish(op(&queue, &image, token), 0) };
        }
        let result =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| queue.drain(|_| panic!("planted"))));
        assert!(result.is_err());
        assert_eq!(Arc::strong_count(&image), 1);
    }

    /// Four threads push, one sleeps and drains, with a plain poll: every operation arrives exactly once, no wake is lost.
    #[test]
    fn many_threads() {
        const EACH: u64 = 50_000;
        let (queue, image) = (CompletionQueue::new().unwrap(), image::Inner::for_tests());
        let in_flight = Arc::new(AtomicUsize::new(0));
        let pushers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (queue, image, in_flight) = (queue.clone(), image.clone(), in_flight.clone());
                thread::spawn(move || {
                    for i in 0..EACH {
                        while in_flight.load(Ordering::Relaxed) > 64 {
                            thread::yield_now(); // lets the consumer fall asleep now and then
                        }
                        in_flight.fetch_add(1, Ordering::Relaxed);
                        // SAFETY: a fresh operation.
                        unsafe { finish(op(&queue, &image, thread * EACH + i), 0) };
                    }
                })
            })
            .collect();
        let mut last = [None; THREADS as usize];
        let mut seen = 0;
        let mut sleeps = 0;
        while seen < THREADS * EACH {
            let count = queue.drain(|completed| {
                let (thread, i) = (completed.token / EACH, completed.token % EACH);
                let last = &mut last[thread as usize];
                assert_eq!(i, last.map_or(0, |l: u64| l + 1), "in order and once");
                *last = Some(i);
                seen += 1;
            });
            in_flight.fetch_sub(count, Ordering::Relaxed);
            if seen < THREADS * EACH && queue.prepare_sleep() {
                assert!(readable(&queue, 20_000), "lost wake after {seen}");
                queue.woken();
                sleeps += 1;
            }
        }
        pushers.into_iter().for_each(|p| p.join().unwrap());
        assert!(sleeps > 0);
        assert_eq!(Arc::strong_count(&image), 1);
    }
}
