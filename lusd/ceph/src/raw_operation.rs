//! Read and write operations as librados has them: built step by step, run once, freed when they have ended.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_uchar},
    ptr,
    sync::Arc,
};

use bytes::Bytes;
use lusd_ceph_sys as sys;

use crate::{
    Error, ReadOp, ReadReply, Result, Stat, WriteOp,
    error::{check, cstring, name_cstring},
    operation::{ReadStep, WriteStep},
    pool,
};

const EQ: u8 = sys::LIBRADOS_CMPXATTR_OP_EQ as u8;

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
pub(crate) struct RawWrite {
    pub(crate) op: sys::rados_write_op_t,
    pub(crate) oid: CString,
    _pool: Arc<pool::Inner>,
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
    pub(crate) fn build(pool: Arc<pool::Inner>, oid: &str, op: &WriteOp) -> Result<RawWrite> {
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

/// Where librados puts the results of one step of a read operation.
enum Slot {
    Stat { size: u64, mtime: libc::time_t, rc: c_int },
    Xattrs { iter: sys::rados_xattrs_iter_t, rc: c_int },
    Read { buf: Vec<u8>, len: usize, rc: c_int },
    Omap { iter: sys::rados_omap_iter_t, more: c_uchar, rc: c_int },
}

/// A read operation as librados has it, with the places for its results. Those are in a `Vec` that is complete before the first pointer into it is taken.
pub(crate) struct RawRead {
    pub(crate) op: sys::rados_read_op_t,
    slots: Vec<Slot>,
    pub(crate) oid: CString,
    _pool: Arc<pool::Inner>,
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
    pub(crate) fn build(pool: Arc<pool::Inner>, oid: &str, op: &ReadOp) -> Result<RawRead> {
        let oid = name_cstring("object name", oid)?;
        let mut slots = Vec::new();
        for step in &op.steps {
            match step {
                ReadStep::Stat => slots.push(Slot::Stat { size: 0, mtime: 0, rc: 0 }),
                ReadStep::Xattrs => slots.push(Slot::Xattrs { iter: ptr::null_mut(), rc: 0 }),
                ReadStep::Read { len, .. } if *len > pool::READ_MAX_BYTES => {
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

    pub(crate) fn reply(mut self, oid: &str, version: u64) -> Result<ReadReply> {
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
