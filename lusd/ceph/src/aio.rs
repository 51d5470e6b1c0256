//! librados completions as futures.
//!
//! What librados reads and writes during an operation lives in a state that belongs to the operation: it is boxed when the operation starts and comes back with its
//! completion. A dropped future only drops the receiver; the state then goes when the operation has ended.

use std::{
    ffi::{c_int, c_void},
    ptr,
};

use lusd_ceph_sys as sys;
use tokio::sync::oneshot;

/// An operation that has ended, with its state.
pub(crate) struct Done<S> {
    /// Zero or more, or a negated error number.
    pub(crate) rc: c_int,
    /// Version of the object after (write) or at (read) the operation; meaningless if it failed.
    pub(crate) version: u64,
    pub(crate) state: S,
}

struct Pending<S> {
    state: S,
    sender: oneshot::Sender<Done<S>>,
}

/// Starts an operation. `submit` gets the completion, hands it to librados and returns librados's answer; not zero means that nothing was
/// started and nothing will complete. Pointers that it passes on must stay valid as long as `state` lives, wherever that is moved (so: into its heap).
pub(crate) fn start<S: Send + 'static>(
    state: S,
    submit: impl FnOnce(sys::rados_completion_t) -> c_int,
) -> Result<oneshot::Receiver<Done<S>>, c_int> {
    let (sender, receiver) = oneshot::channel();
    let pending = Box::into_raw(Box::new(Pending { state, sender }));
    let mut completion: sys::rados_completion_t = ptr::null_mut();
    // SAFETY: the callback matches the type behind `pending`, which it takes over when called, once.
    let rc =
        unsafe { sys::rados_aio_create_completion2(pending.cast(), Some(finished::<S>), &mut completion) };
    if rc != 0 {
        // SAFETY: no completion exists, so `pending` is still ours alone.
        drop(unsafe { Box::from_raw(pending) });
        return Err(rc);
    }
    let rc = submit(completion);
    if rc != 0 {
        // SAFETY: librados did not take the completion: it never calls back, both are still ours.
        unsafe {
            sys::rados_aio_release(completion);
            drop(Box::from_raw(pending));
        }
        return Err(rc);
    }
    Ok(receiver)
}

/// Called by librados on one of its threads, once for each operation that was started. Does not block: a state that nobody waits for any more hands
/// its closing to the reaper. (A panic in an `extern "C"` function ends the process, it does not unwind into C++.)
extern "C" fn finished<S: Send>(completion: sys::rados_completion_t, arg: *mut c_void) {
    // SAFETY: `completion` is live during its callback, and its result is set; released exactly once, here.
    let (rc, version) = unsafe {
        let rc = sys::rados_aio_get_return_value(completion);
        let version = sys::rados_aio_get_version(completion);
        sys::rados_aio_release(completion);
        (rc, version)
    };
    // SAFETY: `arg` is the box that `start` leaked for this completion.
    let Pending { state, sender } = *unsafe { Box::from_raw(arg.cast::<Pending<S>>()) };
    // An error means that the future is gone: then the state is dropped here.
    let _ = sender.send(Done { rc, version, state });
}
