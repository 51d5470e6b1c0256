//! A pool (and namespace) of a cluster, and its objects.

use std::{
    collections::BTreeMap,
    ffi::{CStr, CString, c_char, c_int, c_uchar},
    fmt, ptr,
    sync::Arc,
};

use bytes::Bytes;
use lusd_ceph_sys as sys;

use crate::{
    ClientAddr, Cluster, Errno, Error, ReadOp, ReadReply, Result, Snapshot, Stat, WriteOp, aio,
    cluster::{self, nul_separated},
    error::{blocking, check, cstring, name_cstring},
    operation::{ReadStep, WriteStep},
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

/// Pointers and lengths of byte strings, as the `2` calls for omaps take them.
struct Pieces {
    pointers: Vec<*const c_char>,
    lens: Vec<usize>,
}

impl Pieces {
    fn new<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Pieces {
        let (pointers, lens) = pieces.map(|p| (p.as_ptr().cast(), p.len())).unzip();
        Pieces { pointers, lens }
    }
}

/// A write operation as librados has it, with the ioctx and name it runs on.
struct RawWrite {
    op: sys::rados_write_op_t,
    oid: CString,
    _pool: Arc<Inner>,
}

// SAFETY: plain memory of librados, used by one thread at a time.
unsafe impl Send for RawWrite {}

impl Drop for RawWrite {
    fn drop(&mut self) {
        // SAFETY: created in `build`; the operation has ended or was never started.
        unsafe { sys::rados_release_write_op(self.op) }
    }
}

impl RawWrite {
    fn build(pool: Arc<Inner>, oid: &str, op: &WriteOp) -> Result<RawWrite> {
        let oid = name_cstring("object name", oid)?;
        // SAFETY: no preconditions; never null.
        let raw = RawWrite { op: unsafe { sys::rados_create_write_op() }, oid, _pool: pool };
        for step in &op.steps {
            raw.add(step)?;
        }
        Ok(raw)
    }

    /// librados copies all that it is given here.
    fn add(&self, step: &WriteStep) -> Result<()> {
        let op = self.op;
        match step {
            // SAFETY: a live operation, here and below.
            WriteStep::AssertExists => unsafe { sys::rados_write_op_assert_exists(op) },
            // SAFETY: as above.
            WriteStep::AssertVersion(version) => unsafe { sys::rados_write_op_assert_version(op, *version) },
            WriteStep::CmpXattrEq(name, value) => {
                let name = name_cstring("attribute name", name)?;
                // SAFETY: terminated name, value with its length.
                unsafe {
                    sys::rados_write_op_cmpxattr(op, name.as_ptr(), EQ, value.as_ptr().cast(), value.len())
                }
            }
            // SAFETY: key and value with their lengths; no own return value wanted.
            WriteStep::OmapCmpEq(key, value) => unsafe {
                sys::rados_write_op_omap_cmp2(
                    op,
                    key.as_ptr().cast(),
                    EQ,
                    value.as_ptr().cast(),
                    key.len(),
                    value.len(),
                    ptr::null_mut(),
                )
            },
            WriteStep::Create { exclusive } => {
                let mode =
                    if *exclusive { sys::LIBRADOS_CREATE_EXCLUSIVE } else { sys::LIBRADOS_CREATE_IDEMPOTENT };
                // SAFETY: the category is not used any more, null is right.
                unsafe { sys::rados_write_op_create(op, mode, ptr::null()) }
            }
            // SAFETY: data with its length.
            WriteStep::WriteFull(data) => unsafe {
                sys::rados_write_op_write_full(op, data.as_ptr().cast(), data.len())
            },
            // SAFETY: data with its length.
            WriteStep::Write(offset, data) => unsafe {
                sys::rados_write_op_write(op, data.as_ptr().cast(), data.len(), *offset)
            },
            // SAFETY: a live operation.
            WriteStep::Truncate(size) => unsafe { sys::rados_write_op_truncate(op, *size) },
            WriteStep::SetXattr(name, value) => {
                let name = name_cstring("attribute name", name)?;
                // SAFETY: terminated name, value with its length.
                unsafe { sys::rados_write_op_setxattr(op, name.as_ptr(), value.as_ptr().cast(), value.len()) }
            }
            WriteStep::RmXattr(name) => {
                let name = name_cstring("attribute name", name)?;
                // SAFETY: terminated name.
                unsafe { sys::rados_write_op_rmxattr(op, name.as_ptr()) }
            }
            WriteStep::OmapSet(pairs) => {
                let keys = Pieces::new(pairs.iter().map(|(key, _)| key.as_bytes()));
                let values = Pieces::new(pairs.iter().map(|(_, value)| &value[..]));
                // SAFETY: four arrays of the same length, pointers beside their lengths.
                unsafe {
                    sys::rados_write_op_omap_set2(
                        op,
                        keys.pointers.as_ptr(),
                        values.pointers.as_ptr(),
                        keys.lens.as_ptr(),
                        values.lens.as_ptr(),
                        pairs.len(),
                    )
                }
            }
            WriteStep::OmapRmKeys(keys) => {
                let pieces = Pieces::new(keys.iter().map(|key| key.as_bytes()));
                // SAFETY: two arrays of the same length, pointers beside their lengths.
                unsafe {
                    sys::rados_write_op_omap_rm_keys2(
                        op,
                        pieces.pointers.as_ptr(),
                        pieces.lens.as_ptr(),
                        keys.len(),
                    )
                }
            }
            // SAFETY: a live operation.
            WriteStep::OmapClear => unsafe { sys::rados_write_op_omap_clear(op) },
            // SAFETY: a live operation.
            WriteStep::Remove => unsafe { sys::rados_write_op_remove(op) },
        }
        Ok(())
    }
}

const EQ: u8 = sys::LIBRADOS_CMPXATTR_OP_EQ as u8;

/// Where librados puts the results of one step of a read operation.
enum Slot {
    Stat { size: u64, mtime: libc::time_t, rc: c_int },
    Xattrs { iter: sys::rados_xattrs_iter_t, rc: c_int },
    Read { buf: Vec<u8>, len: usize, rc: c_int },
    Omap { iter: sys::rados_omap_iter_t, more: c_uchar, rc: c_int },
}

/// A read operation as librados has it, with the places for its results. Those are in a `Vec` that is complete before the first pointer into it is taken.
struct RawRead {
    op: sys::rados_read_op_t,
    slots: Vec<Slot>,
    oid: CString,
    _pool: Arc<Inner>,
}

// SAFETY: plain memory of librados and ours, used by one thread at a time.
unsafe impl Send for RawRead {}

impl Drop for RawRead {
    fn drop(&mut self) {
        // SAFETY: created in `build`; the operation has ended or was never started. The iterators exist from the moment their step was added and are ended once.
        unsafe {
            sys::rados_release_read_op(self.op);
            for slot in &self.slots {
                match slot {
                    Slot::Xattrs { iter, .. } if !iter.is_null() => sys::rados_getxattrs_end(*iter),
                    Slot::Omap { iter, .. } if !iter.is_null() => sys::rados_omap_get_end(*iter),
                    _ => {}
                }
            }
        }
    }
}

impl RawRead {
    fn build(pool: Arc<Inner>, oid: &str, op: &ReadOp) -> Result<RawRead> {
        let oid = name_cstring("object name", oid)?;
        let mut slots = Vec::new();
        for step in &op.steps {
            match step {
                ReadStep::Stat => slots.push(Slot::Stat { size: 0, mtime: 0, rc: 0 }),
                ReadStep::Xattrs => slots.push(Slot::Xattrs { iter: ptr::null_mut(), rc: 0 }),
                ReadStep::Read { len, .. } if *len > READ_MAX_BYTES => {
                    return Err(Error::InvalidArgument { what: "length of a read" });
                }
                ReadStep::Read { len, .. } => {
                    slots.push(Slot::Read { buf: Vec::with_capacity(*len), len: 0, rc: 0 });
                }
                ReadStep::OmapVals { .. } | ReadStep::OmapValsByKeys(_) => {
                    slots.push(Slot::Omap { iter: ptr::null_mut(), more: 0, rc: 0 });
                }
                _ => {}
            }
        }
        // SAFETY: no preconditions; never null.
        let mut raw = RawRead { op: unsafe { sys::rados_create_read_op() }, slots, oid, _pool: pool };
        let op_raw = raw.op;
        let mut slots = raw.slots.iter_mut();
        for step in &op.steps {
            add_read_step(op_raw, step, &mut slots)?;
        }
        drop(slots);
        Ok(raw)
    }

    fn reply(mut self, oid: &str, version: u64) -> Result<ReadReply> {
        let malformed = |what| Error::Malformed { object: oid.to_owned(), what };
        let mut reply = ReadReply { version, ..ReadReply::default() };
        for slot in &mut self.slots {
            match slot {
                Slot::Stat { size, mtime, rc } => {
                    check("rados_read_op_stat", oid, *rc)?;
                    reply.stat = Some(Stat { size: *size, mtime: *mtime });
                }
                Slot::Xattrs { iter, rc } => {
                    check("rados_read_op_getxattrs", oid, *rc)?;
                    // SAFETY: the operation succeeded, so the iterator is filled.
                    while let Some((name, value)) = unsafe { next_xattr(*iter) } {
                        reply
                            .xattrs
                            .insert(String::from_utf8(name).map_err(|_| malformed("attribute name"))?, value);
                    }
                }
                Slot::Read { buf, len, rc } => {
                    check("rados_read_op_read", oid, *rc)?;
                    if *len > buf.capacity() {
                        return Err(malformed("length of a read"));
                    }
                    let mut buf = std::mem::take(buf);
                    // SAFETY: librados filled `len` bytes, which are not more than there is room for.
                    unsafe { buf.set_len(*len) };
                    reply.data = buf.into();
                }
                Slot::Omap { iter, more, rc } => {
                    check("rados_read_op_omap_get_vals2", oid, *rc)?;
                    reply.more |= *more != 0;
                    // SAFETY: the operation succeeded, so the iterator is filled.
                    while let Some((key, value)) = unsafe { next_omap(*iter) } {
                        reply.omap.insert(String::from_utf8(key).map_err(|_| malformed("omap key"))?, value);
                    }
                }
            }
        }
        Ok(reply)
    }
}

/// Adds one step; librados copies names, keys and values, and keeps pointers into the step's slot.
fn add_read_step(
    op: sys::rados_read_op_t,
    step: &ReadStep,
    slots: &mut std::slice::IterMut<'_, Slot>,
) -> Result<()> {
    match step {
        // SAFETY: a live operation, here and below.
        ReadStep::AssertExists => unsafe { sys::rados_read_op_assert_exists(op) },
        // SAFETY: as above.
        ReadStep::AssertVersion(version) => unsafe { sys::rados_read_op_assert_version(op, *version) },
        ReadStep::CmpXattrEq(name, value) => {
            let name = name_cstring("attribute name", name)?;
            // SAFETY: terminated name, value with its length.
            unsafe { sys::rados_read_op_cmpxattr(op, name.as_ptr(), EQ, value.as_ptr().cast(), value.len()) }
        }
        // SAFETY: key and value with their lengths; no own return value wanted.
        ReadStep::OmapCmpEq(key, value) => unsafe {
            sys::rados_read_op_omap_cmp2(
                op,
                key.as_ptr().cast(),
                EQ,
                value.as_ptr().cast(),
                key.len(),
                value.len(),
                ptr::null_mut(),
            )
        },
        ReadStep::Stat => {
            let Some(Slot::Stat { size, mtime, rc }) = slots.next() else { unreachable!("one slot a step") };
            // SAFETY: the places live until the operation has ended.
            unsafe { sys::rados_read_op_stat(op, size, mtime, rc) }
        }
        ReadStep::Xattrs => {
            let Some(Slot::Xattrs { iter, rc }) = slots.next() else { unreachable!("one slot a step") };
            // SAFETY: as above.
            unsafe { sys::rados_read_op_getxattrs(op, iter, rc) }
        }
        ReadStep::Read { offset, len: want } => {
            let Some(Slot::Read { buf, len, rc }) = slots.next() else { unreachable!("one slot a step") };
            // SAFETY: as above, and the buffer has room for `want` bytes.
            unsafe { sys::rados_read_op_read(op, *offset, *want, buf.as_mut_ptr().cast(), len, rc) }
        }
        ReadStep::OmapVals { start_after, prefix, max } => {
            let Some(Slot::Omap { iter, more, rc }) = slots.next() else { unreachable!("one slot a step") };
            let (start_after, prefix) = (cstring("omap key", start_after)?, cstring("omap prefix", prefix)?);
            // SAFETY: as above, and terminated strings.
            unsafe {
                sys::rados_read_op_omap_get_vals2(
                    op,
                    start_after.as_ptr(),
                    prefix.as_ptr(),
                    *max,
                    iter,
                    more,
                    rc,
                )
            }
        }
        ReadStep::OmapValsByKeys(keys) => {
            let Some(Slot::Omap { iter, rc, .. }) = slots.next() else { unreachable!("one slot a step") };
            let pieces = Pieces::new(keys.iter().map(|key| key.as_bytes()));
            // SAFETY: as above, and two arrays of the same length.
            unsafe {
                sys::rados_read_op_omap_get_vals_by_keys2(
                    op,
                    pieces.pointers.as_ptr(),
                    keys.len(),
                    pieces.lens.as_ptr(),
                    iter,
                    rc,
                )
            }
        }
    }
    Ok(())
}

/// The next attribute, None at the end.
///
/// # Safety
/// A filled iterator.
unsafe fn next_xattr(iter: sys::rados_xattrs_iter_t) -> Option<(Vec<u8>, Bytes)> {
    let (mut name, mut value, mut len) = (ptr::null(), ptr::null(), 0);
    // SAFETY: by contract, and three places for the result; what comes back is valid until the iterator is ended.
    unsafe {
        if sys::rados_getxattrs_next(iter, &mut name, &mut value, &mut len) != 0 || name.is_null() {
            return None;
        }
        Some((CStr::from_ptr(name).to_bytes().to_vec(), copy(value, len)))
    }
}

/// The next omap pair, None at the end.
///
/// # Safety
/// A filled iterator.
unsafe fn next_omap(iter: sys::rados_omap_iter_t) -> Option<(Vec<u8>, Bytes)> {
    let (mut key, mut value, mut key_len, mut value_len) = (ptr::null_mut(), ptr::null_mut(), 0, 0);
    // SAFETY: by contract, and four places for the result; what comes back is valid until the iterator is ended.
    unsafe {
        if sys::rados_omap_get_next2(iter, &mut key, &mut value, &mut key_len, &mut value_len) != 0
            || key.is_null()
        {
            return None;
        }
        Some((copy(key, key_len).to_vec(), copy(value, value_len)))
    }
}

/// # Safety
/// Null, or `len` readable bytes.
unsafe fn copy(data: *const c_char, len: usize) -> Bytes {
    if data.is_null() || len == 0 {
        return Bytes::new();
    }
    // SAFETY: by contract.
    Bytes::copy_from_slice(unsafe { std::slice::from_raw_parts(data.cast(), len) })
}

/// Keeps the pool's client alive for whoever holds only the inner part.
impl Inner {
    pub(crate) fn cluster_inner(&self) -> &Arc<cluster::Inner> {
        &self.cluster.inner
    }
}
