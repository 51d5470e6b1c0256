//! Watch and notify on an object.

use std::{
    ffi::{CString, c_int, c_void},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use lusd_ceph_sys as sys;
use tokio::sync::{mpsc, oneshot};

use crate::{
    Errno, Error, Pool, Result, aio, cluster,
    error::{blocking, check, name_cstring},
    pool, reaper,
};

/// Events that wait to be read. What comes when it is full is acknowledged, dropped and counted: [`WatchEvent::Lost`].
const EVENTS_MAX: usize = 64;
/// Most bytes in a notify or an acknowledgement; they are copied into one message each.
pub const NOTIFY_MAX_BYTES: usize = 1 << 20;

/// A watch on one object. Ends with [`Watch::close`], or in the background when dropped.
///
/// librados keeps it up over lost connections. It does not bring back one that the OSD gave up (after the timeout, or when the client is fenced): that is a
/// [`WatchEvent::Error`], and needs a new watch and a re-read.
pub struct Watch {
    events: mpsc::Receiver<WatchEvent>,
    shared: Arc<Shared>,
    registration: Option<Registration>,
}

/// What a watch has seen.
#[derive(Debug)]
pub enum WatchEvent {
    /// Somebody notified the object, perhaps this very client.
    Notify(Notify),
    /// So many notifies came while nobody read, and are gone (but acknowledged).
    Lost(u64),
    /// The watch is broken, [`Errno::ENOTCONN`] mostly: close it, watch again, and re-read the object.
    Error(Errno),
}

/// A notify that waits for its acknowledgement; dropping it sends an empty one.
pub struct Notify {
    notify_id: u64,
    cookie: u64,
    notifier: u64,
    payload: Bytes,
    shared: Option<Arc<Shared>>,
}

struct Shared {
    pool: Arc<pool::Inner>,
    oid: CString,
    events: mpsc::Sender<WatchEvent>,
    lost: AtomicU64,
}

/// A watch that librados knows, with the reference to `Shared` that its callbacks use.
struct Registration {
    cookie: u64,
    arg: *const Shared,
}

// SAFETY: `arg` is an `Arc<Shared>` in raw form; Shared is Sync.
unsafe impl Send for Registration {}
// SAFETY: nothing can be done through a shared reference.
unsafe impl Sync for Registration {}

impl Registration {
    /// Blocks until the OSD has answered and no callback runs any more.
    fn end(self) -> c_int {
        // SAFETY: the reference given to librados, which is counted; used below before it is given up.
        let shared = unsafe { Arc::from_raw(self.arg) };
        // SAFETY: a live ioctx and a cookie that it gave out and that was not unwatched yet; then no callback is queued or running behind the flush, and `arg` may go.
        unsafe {
            let rc = sys::rados_unwatch2(shared.pool.raw(), self.cookie);
            sys::rados_watch_flush(shared.pool.cluster().inner.raw());
            rc
        }
    }
}

impl Watch {
    /// The next event, in order; pends while there is none. Safe to drop while pending.
    pub async fn next(&mut self) -> WatchEvent {
        let lost = self.shared.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            return WatchEvent::Lost(lost);
        }
        // The sender lives in `shared`, so this never ends.
        self.events.recv().await.unwrap_or(WatchEvent::Error(Errno::ENOTCONN))
    }

    /// How long ago the OSD last confirmed the watch.
    ///
    /// # Errors
    /// [`Errno::ENOTCONN`] when the watch is broken.
    pub fn check(&self) -> Result<Duration> {
        let Some(registration) = &self.registration else {
            return Err(self.error(Errno::ENOTCONN));
        };
        // SAFETY: a live ioctx and a cookie that it gave out and that was not unwatched yet (librados does not check it). Local, does not block.
        let rc = unsafe { sys::rados_watch_check(self.shared.pool.raw(), registration.cookie) };
        let age_ms = check("rados_watch_check", &self.shared.oid.to_string_lossy(), rc)?;
        Ok(Duration::from_millis(age_ms.into()))
    }

    /// Ends the watch; returns when the OSD knows and no callback runs any more.
    ///
    /// # Errors
    /// What librados returns, such as ENOTCONN for a broken watch; it is gone in any case.
    pub async fn close(mut self) -> Result<()> {
        let Some(registration) = self.registration.take() else { return Ok(()) };
        let shared = self.shared.clone();
        blocking("rados_unwatch2", move || {
            let rc = registration.end();
            check("rados_unwatch2", &shared.oid.to_string_lossy(), rc).map(drop)
        })
        .await
    }

    fn error(&self, errno: Errno) -> Error {
        Error::Os { op: "rados_watch_check", object: self.shared.oid.to_string_lossy().into_owned(), errno }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(registration) = self.registration.take() {
            reaper::run(move || {
                registration.end();
            });
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watch({:?})", self.shared.oid)
    }
}

impl Notify {
    /// Number of the notify, the same for all its watchers.
    pub fn notify_id(&self) -> u64 {
        self.notify_id
    }

    /// Global id of the client that sent it ([`Cluster::instance_id`](crate::Cluster::instance_id)).
    pub fn notifier(&self) -> u64 {
        self.notifier
    }

    /// What it sent.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Acknowledges with a payload of at most [`NOTIFY_MAX_BYTES`] for the notifier. Does not block or wait.
    ///
    /// # Errors
    /// What librados returns; E2BIG for more than that (then an empty one is sent).
    pub fn ack(mut self, payload: &[u8]) -> Result<()> {
        self.send_ack(payload)
    }

    fn send_ack(&mut self, payload: &[u8]) -> Result<()> {
        let Some(shared) = self.shared.take() else { return Ok(()) };
        let len = if payload.len() <= NOTIFY_MAX_BYTES { payload.len() } else { 0 };
        // SAFETY: live ioctx, terminated name, that many readable bytes, which librados copies.
        let rc = unsafe {
            sys::rados_notify_ack(
                shared.pool.raw(),
                shared.oid.as_ptr(),
                self.notify_id,
                self.cookie,
                payload.as_ptr().cast(),
                len as c_int,
            )
        };
        let object = shared.oid.to_string_lossy();
        check("rados_notify_ack", &object, rc)?;
        if len == payload.len() {
            Ok(())
        } else {
            Err(Error::Os { op: "rados_notify_ack", object: object.into_owned(), errno: Errno::E2BIG })
        }
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        if let Err(error) = self.send_ack(&[]) {
            tracing::debug!(%error, "cannot acknowledge a notify");
        }
    }
}

impl fmt::Debug for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Notify({} from client.{}, {} bytes)", self.notify_id, self.notifier, self.payload.len())
    }
}

impl Shared {
    fn deliver(&self, event: WatchEvent) {
        if let Err(error) = self.events.try_send(event) {
            match error.into_inner() {
                WatchEvent::Notify(_) => {
                    self.lost.fetch_add(1, Ordering::Relaxed);
                }
                // A full channel tells its reader to re-read as well; `check` shows the error.
                other => tracing::debug!(?other, "watch event dropped"),
            }
        }
    }
}

/// Called by librados for a notify, on its finisher thread: must not block.
extern "C" fn on_notify(
    arg: *mut c_void,
    notify_id: u64,
    cookie: u64,
    notifier: u64,
    data: *mut c_void,
    data_len: usize,
) {
    let arg = arg.cast::<Shared>().cast_const();
    // SAFETY: `arg` is the reference given with the watch, which is held until its callbacks are over; here it is borrowed and counted once more.
    let shared = unsafe {
        Arc::increment_strong_count(arg);
        Arc::from_raw(arg)
    };
    let payload = if data.is_null() || data_len == 0 {
        Bytes::new()
    } else {
        // SAFETY: librados gives that many readable bytes for the time of the callback.
        Bytes::copy_from_slice(unsafe { std::slice::from_raw_parts(data.cast(), data_len) })
    };
    let notify = Notify { notify_id, cookie, notifier, payload, shared: Some(shared.clone()) };
    shared.deliver(WatchEvent::Notify(notify));
}

/// Called by librados when the watch is lost, on its finisher thread: must not block.
extern "C" fn on_error(arg: *mut c_void, _cookie: u64, error: c_int) {
    // SAFETY: as in `on_notify`; borrowed for the time of the callback.
    let shared = unsafe { &*arg.cast::<Shared>().cast_const() };
    shared.deliver(WatchEvent::Error(Errno::from_raw(error)));
}

/// What a notify brought back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NotifyReply {
    /// Those who acknowledged in time.
    pub acks: Vec<NotifyAck>,
    /// Those who did not.
    pub timeouts: Vec<WatcherId>,
    /// Some watcher did not acknowledge in time (librados: ETIMEDOUT).
    pub timed_out: bool,
}

/// One watch: a client may have several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WatcherId {
    /// Global id of the watching client.
    pub client: u64,
    /// Its watch.
    pub cookie: u64,
}

/// An acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotifyAck {
    /// Who acknowledged.
    pub watcher: WatcherId,
    /// What it said.
    pub payload: Bytes,
}

impl NotifyReply {
    /// From the encoding that librados documents at `rados_notify2`: le32 count, then (le64 client, le64 cookie, le32 length, payload) each; le32 count, then (le64 client, le64 cookie) each.
    fn decode(mut bytes: &[u8]) -> Option<NotifyReply> {
        let mut reply = NotifyReply::default();
        for _ in 0..take_u32(&mut bytes)? {
            let watcher = WatcherId { client: take_u64(&mut bytes)?, cookie: take_u64(&mut bytes)? };
            let len = usize::try_from(take_u32(&mut bytes)?).ok()?;
            let (payload, rest) = bytes.split_at_checked(len)?;
            bytes = rest;
            reply.acks.push(NotifyAck { watcher, payload: Bytes::copy_from_slice(payload) });
        }
        for _ in 0..take_u32(&mut bytes)? {
            reply.timeouts.push(WatcherId { client: take_u64(&mut bytes)?, cookie: take_u64(&mut bytes)? });
        }
        Some(reply)
    }
}

fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    let (head, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*head))
}

fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    let (head, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*head))
}

/// What librados reads and writes during a notify.
struct NotifyState {
    oid: CString,
    payload: Bytes,
    /// One element, on the heap so that it stays in place.
    reply: Vec<RawReply>,
    _pool: Arc<pool::Inner>,
}

struct RawReply {
    data: *mut std::ffi::c_char,
    len: usize,
}

// SAFETY: a plain buffer from malloc, used by one thread at a time.
unsafe impl Send for RawReply {}

impl RawReply {
    fn take(&mut self) -> Vec<u8> {
        let data = std::mem::replace(&mut self.data, std::ptr::null_mut());
        // SAFETY: as librados left it: null, or `len` bytes from malloc; taken once.
        unsafe { cluster::take_bytes(data, self.len) }
    }
}

impl Drop for RawReply {
    fn drop(&mut self) {
        drop(self.take());
    }
}

impl Pool {
    /// Watches an object, which must exist. `timeout` (whole seconds, at least 1) is how long the OSD keeps a watch whose client is silent: so long does a notify wait
    /// for a dead watcher at most.
    ///
    /// # Errors
    /// ENOENT for a missing object, and what else librados returns.
    pub async fn watch(&self, oid: &str, timeout: Duration) -> Result<Watch> {
        let pool = self.inner.clone();
        let oid = name_cstring("object name", oid)?;
        let timeout_s = u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX).max(1);
        blocking("rados_watch3", move || {
            let (sender, events) = mpsc::channel(EVENTS_MAX);
            let shared = Arc::new(Shared { pool, oid, events: sender, lost: AtomicU64::new(0) });
            let arg = Arc::into_raw(shared.clone());
            let mut cookie = 0;
            // SAFETY: live ioctx, terminated name, callbacks that take `arg` for what it is.
            let rc = unsafe {
                sys::rados_watch3(
                    shared.pool.raw(),
                    shared.oid.as_ptr(),
                    &mut cookie,
                    Some(on_notify),
                    Some(on_error),
                    timeout_s,
                    arg.cast_mut().cast(),
                )
            };
            if rc != 0 {
                // librados has cancelled it, but a callback may have been queued already.
                // SAFETY: live handle; behind the flush no callback uses the reference, which is given up once.
                unsafe {
                    sys::rados_watch_flush(shared.pool.cluster().inner.raw());
                    drop(Arc::from_raw(arg));
                }
                check("rados_watch3", &shared.oid.to_string_lossy(), rc)?;
            }
            Ok(Watch { events, shared, registration: Some(Registration { cookie, arg }) })
        })
        .await
    }

    /// Notifies all watchers of an object and waits until each has acknowledged or `timeout` (made whole seconds, at least 1) is over. A watcher that did not
    /// acknowledge is no error, but told in the reply.
    ///
    /// # Errors
    /// ENOENT for a missing object, and what else librados returns.
    pub async fn notify(
        &self,
        oid: &str,
        payload: impl Into<Bytes>,
        timeout: Duration,
    ) -> Result<NotifyReply> {
        const OP: &str = "rados_aio_notify";
        let receiver = self.start_notify(oid, payload.into(), timeout)?;
        let mut done = receiver.await.map_err(|_| Error::Shutdown { op: OP })?;
        let bytes = done.state.reply.first_mut().map(RawReply::take).unwrap_or_default();
        if done.rc != -libc::ETIMEDOUT {
            check(OP, oid, done.rc)?;
        } else if bytes.is_empty() {
            return Err(Error::Os { op: OP, object: oid.into(), errno: Errno::ETIMEDOUT });
        }
        let mut reply = NotifyReply::decode(&bytes)
            .ok_or_else(|| Error::Malformed { object: oid.into(), what: "notify reply" })?;
        reply.timed_out = done.rc == -libc::ETIMEDOUT;
        Ok(reply)
    }

    fn start_notify(
        &self,
        oid: &str,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<oneshot::Receiver<aio::Done<NotifyState>>> {
        if payload.len() > NOTIFY_MAX_BYTES {
            return Err(Error::InvalidArgument { what: "notify payload" });
        }
        // librados cuts it to whole seconds, and takes 0 for the OSD's default of 30.
        let timeout_s = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
        let timeout_ms = timeout_s.clamp(1, u64::from(u32::MAX)) * 1000;
        let mut state = NotifyState {
            oid: name_cstring("object name", oid)?,
            payload,
            reply: vec![RawReply { data: std::ptr::null_mut(), len: 0 }],
            _pool: self.inner.clone(),
        };
        let (io, c_oid) = (self.inner.raw(), state.oid.as_ptr());
        let (data, len) = (state.payload.as_ptr(), state.payload.len() as c_int);
        let reply = state.reply.as_mut_ptr();
        aio::start(state, |completion| {
            // SAFETY: ioctx, name, payload and the two places for the reply live in the state's heap until the completion.
            unsafe {
                sys::rados_aio_notify(
                    io,
                    c_oid,
                    completion,
                    data.cast(),
                    len,
                    timeout_ms,
                    &raw mut (*reply).data,
                    &raw mut (*reply).len,
                )
            }
        })
        .map_err(|rc| Error::Os {
            op: "rados_aio_notify",
            object: oid.into(),
            errno: Errno::from_raw(rc),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded() -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(2u32.to_le_bytes());
        for (client, cookie, payload) in [(4711u64, 94u64, &b"ack-0"[..]), (4712, 95, b"")] {
            bytes.extend(client.to_le_bytes());
            bytes.extend(cookie.to_le_bytes());
            bytes.extend(u32::try_from(payload.len()).unwrap().to_le_bytes());
            bytes.extend(payload);
        }
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(4713u64.to_le_bytes());
        bytes.extend(96u64.to_le_bytes());
        bytes
    }

    #[test]
    fn reply() {
        let reply = NotifyReply::decode(&encoded()).unwrap();
        assert_eq!(reply.acks.len(), 2);
        assert_eq!(reply.acks[0].watcher, WatcherId { client: 4711, cookie: 94 });
        assert_eq!(&reply.acks[0].payload[..], b"ack-0");
        assert!(reply.acks[1].payload.is_empty());
        assert_eq!(reply.timeouts, [WatcherId { client: 4713, cookie: 96 }]);
    }

    #[test]
    fn truncated_reply() {
        let bytes = encoded();
        for len in 0..bytes.len() {
            assert_eq!(NotifyReply::decode(&bytes[..len]), None, "{len}");
        }
        // A count that promises more than there is must not allocate for it.
        assert_eq!(NotifyReply::decode(&u32::MAX.to_le_bytes()), None);
    }
}
