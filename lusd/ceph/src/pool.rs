//! A pool (and namespace) of a cluster, and its objects.

use std::{
    collections::BTreeMap,
    ffi::{CStr, c_char, c_int},
    fmt, ptr,
    sync::Arc,
};

use bytes::Bytes;
use lusd_ceph_sys as sys;

use crate::{
    ClientAddr, Cluster, Errno, Error, ReadOp, ReadReply, Result, Snapshot, WriteOp, aio,
    cluster::nul_separated,
    error::{blocking, check, cstring, name_cstring},
    raw_operation::{RawRead, RawWrite},
};

/// Most omap pairs asked for at once; an OSD gives no more (`osd_max_omap_entries_per_request`).
const OMAP_PAGE_PAIRS: u64 = 1024;
/// How often a snapshot is started again when the object changes under it.
const SNAPSHOT_ATTEMPTS: u32 = 16;
/// Most bytes of attributes, keys and values in a snapshot.
const SNAPSHOT_MAX_BYTES: usize = 1 << 30;
/// Most bytes that one read step may ask for: an object of an image has 4 MiB by default, 32 MiB at most.
pub const READ_MAX_BYTES: usize = 128 << 20;
/// Longest text of each kind (clients, cookies, addresses) in a list of lockers.
const LOCKERS_MAX_BYTES: usize = 1 << 20;

/// A pool, optionally one namespace of it. Cheap to clone.
#[derive(Clone)]
pub struct Pool {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    io: sys::rados_ioctx_t,
    id: i64,
    name: String,
    namespace: String,
    cluster: Cluster,
}

// SAFETY: librados locks inside; an ioctx may be used from any thread, several at a time, as long as its namespace is not changed, which we do only before sharing it.
unsafe impl Send for Inner {}
// SAFETY: as above. (rados_get_last_version, which is per ioctx, is not used: completions carry their own.)
unsafe impl Sync for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: the last user is gone. Gives up a reference and waits for nothing, so any thread will do.
        unsafe { sys::rados_ioctx_destroy(self.io) }
    }
}

impl Inner {
    pub(crate) fn raw(&self) -> sys::rados_ioctx_t {
        self.io
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }
}

/// Who holds a lock on an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locker {
    /// `client.4711`: the number is [`Cluster::instance_id`].
    pub client: String,
    /// What distinguishes the locks of one client: `auto 139706964731536` for an image.
    pub cookie: String,
    /// The address to fence; None if it is in no form that we know.
    pub addr: Option<ClientAddr>,
}

impl Pool {
    pub(crate) async fn open(cluster: Cluster, name: String, namespace: Option<String>) -> Result<Pool> {
        let c_name = name_cstring("pool name", &name)?;
        let namespace = namespace.unwrap_or_default();
        let c_namespace = cstring("namespace", &namespace)?;
        blocking("rados_ioctx_create", move || {
            let mut io: sys::rados_ioctx_t = ptr::null_mut();
            // SAFETY: live, connected handle, terminated name, a place for the ioctx.
            let rc = unsafe { sys::rados_ioctx_create(cluster.inner.raw(), c_name.as_ptr(), &mut io) };
            check("rados_ioctx_create", &name, rc)?;
            // SAFETY: a live ioctx that nobody else has yet.
            let id = unsafe {
                sys::rados_ioctx_set_namespace(io, c_namespace.as_ptr());
                if cluster.inner.for_images() {
                    // In a full pool what needs more space fails with ENOSPC or EDQUOT. Otherwise librados would hold all that
                    // writes until there is space, without a word.
                    sys::rados_set_pool_full_try(io);
                }
                sys::rados_ioctx_get_id(io)
            };
            Ok(Pool { inner: Arc::new(Inner { io, id, name, namespace, cluster }) })
        })
        .await
    }

    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The namespace, empty for the default one.
    pub fn namespace(&self) -> &str {
        &self.inner.namespace
    }

    /// The pool's number.
    pub fn id(&self) -> i64 {
        self.inner.id
    }

    /// The client through which this pool is used.
    pub fn cluster(&self) -> &Cluster {
        &self.inner.cluster
    }

    /// Runs a write operation; returns the object's new version. Once started it runs to its end, even if the future is dropped.
    ///
    /// # Errors
    /// What its steps say (see [`WriteOp`]) and what the cluster says; [`Errno::ETIMEDOUT`] means that the outcome is not known.
    pub async fn write(&self, oid: &str, op: WriteOp) -> Result<u64> {
        let receiver = self.start_write(oid, op)?;
        let done = receiver.await.map_err(|_| Error::Shutdown { op: "rados_write_op_operate" })?;
        check("rados_write_op_operate", oid, done.rc)?;
        Ok(done.version)
    }

    fn start_write(
        &self,
        oid: &str,
        op: WriteOp,
    ) -> Result<tokio::sync::oneshot::Receiver<aio::Done<RawWrite>>> {
        let raw = RawWrite::build(self.inner.clone(), oid, &op)?;
        let (op, io, oid_ptr) = (raw.op, self.inner.io, raw.oid.as_ptr());
        aio::start(raw, |completion| {
            // SAFETY: operation, ioctx and name live in the state until the completion; a null time means now.
            unsafe { sys::rados_aio_write_op_operate(op, io, completion, oid_ptr, ptr::null_mut(), 0) }
        })
        .map_err(|rc| Error::Os {
            op: "rados_write_op_operate",
            object: oid.into(),
            errno: Errno::from_raw(rc),
        })
    }

    /// Runs a read operation.
    ///
    /// # Errors
    /// What its steps say (see [`ReadOp`]): ENOENT for a missing object; what the cluster says; [`Error::Malformed`] for keys that are not UTF-8.
    pub async fn read(&self, oid: &str, op: ReadOp) -> Result<ReadReply> {
        let receiver = self.start_read(oid, op)?;
        let done = receiver.await.map_err(|_| Error::Shutdown { op: "rados_read_op_operate" })?;
        check("rados_read_op_operate", oid, done.rc)?;
        done.state.reply(oid, done.version)
    }

    fn start_read(
        &self,
        oid: &str,
        op: ReadOp,
    ) -> Result<tokio::sync::oneshot::Receiver<aio::Done<RawRead>>> {
        let raw = RawRead::build(self.inner.clone(), oid, &op)?;
        let (op, io, oid_ptr) = (raw.op, self.inner.io, raw.oid.as_ptr());
        aio::start(raw, |completion| {
            // SAFETY: operation, ioctx, name and the places for results live in the state (the latter in its heap) until the completion.
            unsafe { sys::rados_aio_read_op_operate(op, io, completion, oid_ptr, 0) }
        })
        .map_err(|rc| Error::Os {
            op: "rados_read_op_operate",
            object: oid.into(),
            errno: Errno::from_raw(rc),
        })
    }

    /// All attributes, and all omap pairs whose keys begin with `prefix`, at one version of the object, however many pages that takes.
    ///
    /// # Errors
    /// As [`Pool::read`]; [`Error::Unstable`] if the object changes each time before the last page.
    pub async fn snapshot(&self, oid: &str, prefix: &str) -> Result<Snapshot> {
        for _ in 0..SNAPSHOT_ATTEMPTS {
            match self.try_snapshot(oid, prefix).await {
                Err(error) if error.is_version_mismatch() => continue,
                result => return result,
            }
        }
        Err(Error::Unstable { object: oid.into(), attempts: SNAPSHOT_ATTEMPTS })
    }

    async fn try_snapshot(&self, oid: &str, prefix: &str) -> Result<Snapshot> {
        let first = self.read(oid, ReadOp::new().xattrs().omap_vals("", prefix, OMAP_PAGE_PAIRS)).await?;
        let mut more = first.more;
        let mut snapshot = Snapshot { version: first.version, xattrs: first.xattrs, omap: first.omap };
        let mut bytes = map_bytes(&snapshot.xattrs) + map_bytes(&snapshot.omap);
        while more {
            let Some((last, _)) = snapshot.omap.last_key_value() else { break };
            let op = ReadOp::new().assert_version(snapshot.version).omap_vals(
                last.clone(),
                prefix,
                OMAP_PAGE_PAIRS,
            );
            let page = self.read(oid, op).await?;
            bytes += map_bytes(&page.omap);
            if bytes > SNAPSHOT_MAX_BYTES {
                return Err(Error::Os { op: "snapshot", object: oid.into(), errno: Errno::E2BIG });
            }
            // A page without pairs cannot have more behind it; without this a broken answer would loop for ever.
            more = page.more && !page.omap.is_empty();
            snapshot.omap.extend(page.omap);
        }
        Ok(snapshot)
    }

    /// Names of at most `max` objects of this namespace, in no order. Walks the whole pool: for tools and tests.
    ///
    /// # Errors
    /// What librados returns.
    pub async fn list_objects(&self, max: usize) -> Result<Vec<String>> {
        let inner = self.inner.clone();
        blocking("rados_nobjects_list_open", move || list_objects(&inner, max)).await
    }

    /// Who holds the lock `name` on an object; `rbd_lock` on an image's header object is the exclusive lock. An image that nobody holds gives an empty list.
    ///
    /// # Errors
    /// ENOENT if there is no such object, and what else librados returns.
    pub async fn list_lockers(&self, oid: &str, name: &str) -> Result<Vec<Locker>> {
        let inner = self.inner.clone();
        let (c_oid, c_name) = (name_cstring("object name", oid)?, name_cstring("lock name", name)?);
        blocking("rados_list_lockers", move || list_lockers(&inner, &c_oid, &c_name)).await
    }

    /// The addresses of the clients that watch an object, as librados writes them. One that is silent stays on the list until its watch
    /// times out; one that is blocklisted leaves it at once.
    ///
    /// # Errors
    /// ENOENT if there is no such object, and what else librados returns.
    pub async fn list_watchers(&self, oid: &str) -> Result<Vec<String>> {
        let inner = self.inner.clone();
        let c_oid = name_cstring("object name", oid)?;
        blocking("list_watchers", move || list_watchers(&inner, &c_oid)).await
    }

    /// Removes a holder of a lock, without fencing it: blocklist its address first.
    ///
    /// # Errors
    /// ENOENT if that holder does not hold the lock (any more), EINVAL for a malformed client.
    pub async fn break_lock(&self, oid: &str, name: &str, client: &str, cookie: &str) -> Result<()> {
        let inner = self.inner.clone();
        let (c_oid, c_name) = (name_cstring("object name", oid)?, name_cstring("lock name", name)?);
        let (c_client, c_cookie) = (name_cstring("client", client)?, cstring("cookie", cookie)?);
        blocking("rados_break_lock", move || {
            // SAFETY: live ioctx, terminated strings.
            let rc = unsafe {
                sys::rados_break_lock(
                    inner.io,
                    c_oid.as_ptr(),
                    c_name.as_ptr(),
                    c_client.as_ptr(),
                    c_cookie.as_ptr(),
                )
            };
            check("rados_break_lock", &c_oid.to_string_lossy(), rc).map(drop)
        })
        .await
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({}/{})", self.inner.name, self.inner.namespace)
    }
}

fn map_bytes(map: &BTreeMap<String, Bytes>) -> usize {
    map.iter().map(|(k, v)| k.len() + v.len()).sum()
}

fn list_objects(inner: &Inner, max: usize) -> Result<Vec<String>> {
    let mut context: sys::rados_list_ctx_t = ptr::null_mut();
    // SAFETY: live ioctx and a place for the context.
    check("rados_nobjects_list_open", &inner.name, unsafe {
        sys::rados_nobjects_list_open(inner.io, &mut context)
    })?;
    let mut names = Vec::new();
    let mut rc = 0;
    while names.len() < max {
        let mut name: *const c_char = ptr::null();
        // SAFETY: live context and a place for the name; locator and namespace are not wanted.
        rc = unsafe { sys::rados_nobjects_list_next(context, &mut name, ptr::null_mut(), ptr::null_mut()) };
        if rc != 0 {
            break;
        }
        // SAFETY: on success a terminated string, valid until the next call.
        names.push(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned());
    }
    // SAFETY: live context, closed once.
    unsafe { sys::rados_nobjects_list_close(context) };
    if rc == -libc::ENOENT {
        Ok(names)
    } else {
        check("rados_nobjects_list_next", &inner.name, rc).map(|_| names)
    }
}

fn list_watchers(inner: &Inner, oid: &CStr) -> Result<Vec<String>> {
    let (mut addresses, mut len) = (ptr::null_mut(), 0);
    // SAFETY: live ioctx, terminated name, places for the buffer and its length.
    let rc = unsafe { sys::lus_list_watchers(inner.io, oid.as_ptr(), &mut addresses, &mut len) };
    check("list_watchers", &oid.to_string_lossy(), rc)?;
    // SAFETY: it succeeded, so the buffer has that many bytes; it is read here, and freed once, below.
    let text = unsafe { std::slice::from_raw_parts(addresses.cast::<u8>(), len) };
    let watchers = nul_separated(text).collect();
    // SAFETY: as above.
    unsafe { sys::lus_buffer_free(addresses) };
    Ok(watchers)
}

fn list_lockers(inner: &Inner, oid: &CStr, name: &CStr) -> Result<Vec<Locker>> {
    let mut sizes = [256usize; 4];
    loop {
        let [mut tag, mut clients, mut cookies, mut addrs] = sizes.map(|size| vec![0u8; size]);
        let [mut tag_len, mut clients_len, mut cookies_len, mut addrs_len] = sizes;
        let mut exclusive = 0;
        // SAFETY: live ioctx, terminated names, four buffers with their lengths.
        let rc = unsafe {
            sys::rados_list_lockers(
                inner.io,
                oid.as_ptr(),
                name.as_ptr(),
                &mut exclusive,
                tag.as_mut_ptr().cast(),
                &mut tag_len,
                clients.as_mut_ptr().cast(),
                &mut clients_len,
                cookies.as_mut_ptr().cast(),
                &mut cookies_len,
                addrs.as_mut_ptr().cast(),
                &mut addrs_len,
            )
        };
        let needed = [tag_len, clients_len, cookies_len, addrs_len];
        if rc == -(libc::ERANGE as isize) && needed.iter().all(|&n| n <= LOCKERS_MAX_BYTES) {
            for (size, need) in sizes.iter_mut().zip(needed) {
                *size = need.max(*size) + 1;
            }
            continue;
        }
        let count =
            check("rados_list_lockers", &oid.to_string_lossy(), c_int::try_from(rc).unwrap_or(c_int::MIN))?;
        let lockers = nul_separated(&clients)
            .zip(nul_separated(&cookies))
            .zip(nul_separated(&addrs))
            .map(|((client, cookie), addr)| Locker { client, cookie, addr: addr.parse().ok() })
            .collect::<Vec<_>>();
        return if lockers.len() == count as usize {
            Ok(lockers)
        } else {
            Err(Error::Malformed { object: oid.to_string_lossy().into_owned(), what: "list of lockers" })
        };
    }
}
