//! The data path's way out: reads and writes of an open image.
//!
//! Every operation is submitted at once, without a lock of ours, and completes exactly once into the queue that it names, unless the call returns a [`SubmitError`]:
//! then nothing was started and nothing will complete. Dropping anything (future, queue, image) never takes a buffer from an operation in flight.
//!
//! **Writes that are in flight together have no order where they overlap**, although one client sends them: with librbd's two threads some two of a hundred overlapping writes landed
//! in the wrong order; with one thread still those that came first to an object that was not there yet (they wait for the object map, later ones did not). Whoever wants order
//! waits for the completion of the first before submitting the second.
//!
//! librbd's traps are closed here: it would clip a write that reaches over the image's end and report success; and of operations that it refuses when they are submitted, none ever completes.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use lusd_ceph_sys as sys;
use smallvec::SmallVec;

use crate::{
    CompletionQueue, Errno, Image,
    completion::{Op, OpBuffers, complete},
};

/// Most bytes of a read or write. (A SCSI command that moves more than a few MiB is refused long before.)
pub const IO_MAX_BYTES: usize = 64 << 20;
/// Most bytes of a discard, write_zeroes or write_same. librbd starts all of an operation's object requests at once: 256 with objects of 4 MiB.
pub const RANGE_MAX_BYTES: u64 = 1 << 30;
/// Most buffers of a write: the system's limit for vectors (IOV_MAX).
pub const WRITE_MAX_BUFFERS: usize = 1024;

/// An operation was not started: it will not complete.
#[derive(Debug, thiserror::Error)]
#[error("not submitted: {errno}")]
pub struct SubmitError {
    /// [`Errno::ERANGE`]: reaches over the end of the image. [`Errno::EINVAL`]: empty, too long, no room in the buffer, or a pattern that does not fit. Else what librbd returned.
    pub errno: Errno,
    /// The buffers, back.
    pub buffers: OpBuffers,
}

impl Image {
    /// Reads `len` bytes at `offset` into the spare room of `buf`, behind what is in it: `capacity() - len()` must be at least `len`.
    ///
    /// # Errors
    /// See [`SubmitError`].
    pub fn read(
        &self,
        queue: &Arc<CompletionQueue>,
        token: u64,
        offset: u64,
        buf: BytesMut,
        len: usize,
    ) -> Result<(), SubmitError> {
        if len > IO_MAX_BYTES || buf.capacity() - buf.len() < len {
            return Err(SubmitError { errno: Errno::EINVAL, buffers: OpBuffers::Read(buf) });
        }
        if let Err(errno) = self.check_range(offset, len as u64) {
            return Err(SubmitError { errno, buffers: OpBuffers::Read(buf) });
        }
        let mut op = Op::new(queue, token, self.inner.clone(), OpBuffers::Read(buf), len);
        let data = op.read_ptr();
        // SAFETY: the operation owns `len` writable bytes at `data` until it completes; the range is inside the image.
        self.submit(op, |image, completion| unsafe {
            sys::rbd_aio_read(image, offset, len, data.cast(), completion)
        })
    }

    /// Writes all of `data`, one part behind the other, at `offset`. librbd copies the data first (see
    /// `rbd_disable_zero_copy_writes` in the options for images).
    ///
    /// # Errors
    /// See [`SubmitError`].
    pub fn write(
        &self,
        queue: &Arc<CompletionQueue>,
        token: u64,
        offset: u64,
        data: SmallVec<[Bytes; 2]>,
    ) -> Result<(), SubmitError> {
        let len: usize = data.iter().map(Bytes::len).sum();
        let errno = if len > IO_MAX_BYTES || data.len() > WRITE_MAX_BUFFERS {
            Err(Errno::EINVAL)
        } else {
            self.check_range(offset, len as u64)
        };
        if let Err(errno) = errno {
            return Err(SubmitError { errno, buffers: OpBuffers::Write(data) });
        }
        if let [part] = &data[..] {
            let part = part.as_ptr();
            let op = Op::new(queue, token, self.inner.clone(), OpBuffers::Write(data), 0);
            // SAFETY: the operation owns `len` bytes at `part` until it completes; the range is inside the image.
            return self.submit(op, |image, completion| unsafe {
                sys::rbd_aio_write(image, offset, len, part.cast(), completion)
            });
        }
        let parts: SmallVec<[libc::iovec; 8]> = data
            .iter()
            .filter(|part| !part.is_empty())
            .map(|part| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() })
            .collect();
        let op = Op::new(queue, token, self.inner.clone(), OpBuffers::Write(data), 0);
        // SAFETY: the vector is read during the call only; the operation owns what it points to until it completes; librbd does not write to it.
        self.submit(op, |image, completion| unsafe {
            sys::rbd_aio_writev(image, parts.as_ptr(), parts.len() as i32, offset, completion)
        })
    }

    /// Completes when all writes submitted before are on the OSDs. (Each is when it completes: there is no cache. It still tells whether the lock is held.)
    ///
    /// # Errors
    /// See [`SubmitError`].
    pub fn flush(&self, queue: &Arc<CompletionQueue>, token: u64) -> Result<(), SubmitError> {
        let op = Op::new(queue, token, self.inner.clone(), OpBuffers::None, 0);
        // SAFETY: live handle.
        self.submit(op, |image, completion| unsafe { sys::rbd_aio_flush(image, completion) })
    }

    /// Gives up the space of a range as far as that is cheap: librbd leaves alone what does not cover whole units of `rbd_discard_granularity_bytes` (64 KiB), so a smaller
    /// discard reports success and **does nothing**. What must read as zeroes afterwards is a job for [`Image::write_zeroes`].
    ///
    /// # Errors
    /// See [`SubmitError`].
    pub fn discard(
        &self,
        queue: &Arc<CompletionQueue>,
        token: u64,
        offset: u64,
        len: u64,
    ) -> Result<(), SubmitError> {
        self.check_long_range(offset, len)?;
        let op = Op::new(queue, token, self.inner.clone(), OpBuffers::None, 0);
        // SAFETY: live handle, a range inside the image.
        self.submit(op, |image, completion| unsafe { sys::rbd_aio_discard(image, offset, len, completion) })
    }

    /// Makes a range read as zeroes, of any length and alignment. Gives up its space where that is possible, or with `thick` allocates it.
    ///
    /// # Errors
    /// See [`SubmitError`].
    pub fn write_zeroes(
        &self,
        queue: &Arc<CompletionQueue>,
        token: u64,
        offset: u64,
        len: u64,
        thick: bool,
    ) -> Result<(), SubmitError> {
        self.check_long_range(offset, len)?;
        let flags = if thick { sys::RBD_WRITE_ZEROES_FLAG_THICK_PROVISION } else { 0 };
        let op = Op::new(queue, token, self.inner.clone(), OpBuffers::None, 0);
        // SAFETY: live handle, a range inside the image.
        self.submit(op, |image, completion| unsafe {
            sys::rbd_aio_write_zeroes(image, offset, len as usize, completion, flags, 0)
        })
    }

    /// Fills a range with a pattern, whose length must divide `len`. A pattern of zeroes becomes a thin [`Image::write_zeroes`].
    ///
    /// # Errors
    /// See [`SubmitError`].
    pub fn write_same(
        &self,
        queue: &Arc<CompletionQueue>,
        token: u64,
        offset: u64,
        len: u64,
        pattern: Bytes,
    ) -> Result<(), SubmitError> {
        let errno = if pattern.is_empty()
            || pattern.len() > IO_MAX_BYTES
            || !len.is_multiple_of(pattern.len() as u64)
        {
            Err(Errno::EINVAL)
        } else {
            self.check_long_range(offset, len).map_err(|error| error.errno)
        };
        let (data, data_len) = (pattern.as_ptr(), pattern.len());
        let buffers = OpBuffers::Write(smallvec::smallvec![pattern]);
        if let Err(errno) = errno {
            return Err(SubmitError { errno, buffers });
        }
        let op = Op::new(queue, token, self.inner.clone(), buffers, 0);
        // SAFETY: the operation owns the pattern until it completes; the range is inside the image.
        self.submit(op, |image, completion| unsafe {
            sys::rbd_aio_writesame(image, offset, len as usize, data.cast(), data_len, completion, 0)
        })
    }

    fn check_range(&self, offset: u64, len: u64) -> Result<(), Errno> {
        if len == 0 {
            return Err(Errno::EINVAL);
        }
        match offset.checked_add(len) {
            Some(end) if end <= self.inner.size() => Ok(()),
            _ => Err(Errno::ERANGE),
        }
    }

    fn check_long_range(&self, offset: u64, len: u64) -> Result<(), SubmitError> {
        let errno = if len > RANGE_MAX_BYTES { Err(Errno::EINVAL) } else { self.check_range(offset, len) };
        errno.map_err(|errno| SubmitError { errno, buffers: OpBuffers::None })
    }

    fn submit(
        &self,
        op: Box<Op>,
        call: impl FnOnce(sys::rbd_image_t, sys::rbd_completion_t) -> i32,
    ) -> Result<(), SubmitError> {
        let op = Box::into_raw(op);
        let mut completion: sys::rbd_completion_t = std::ptr::null_mut();
        // SAFETY: the callback takes the operation over when called, once.
        let rc = unsafe { sys::rbd_aio_create_completion(op.cast(), Some(complete), &mut completion) };
        if rc != 0 {
            // SAFETY: no completion, so the operation is still ours.
            let op = unsafe { Box::from_raw(op) };
            return Err(SubmitError { errno: Errno::from_raw(rc), buffers: op.into_buffers() });
        }
        // `op` may complete and be freed on another thread before this returns: it is not touched after a success.
        let rc = call(self.inner.raw(), completion);
        if rc != 0 {
            // SAFETY: librbd refused, so it never calls back: completion and operation are still ours.
            let op = unsafe {
                sys::rbd_aio_release(completion);
                Box::from_raw(op)
            };
            return Err(SubmitError { errno: Errno::from_raw(rc), buffers: op.into_buffers() });
        }
        Ok(())
    }
}
