//! What holds a logical unit's blocks: `rbd:` (the product), `ram:` and `null:` (to measure and test the target itself).

use bytes::{Bytes, BytesMut};
use lusd_ceph::{CompletionQueue, Errno, Image};
use smallvec::{SmallVec, smallvec};
use std::sync::Arc;

use super::errnos;
use super::ram::RamStore;

/// One primitive operation on a backend. Offsets and lengths in bytes, whole blocks, inside the capacity.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the variants say what their fields are")]
pub enum Primitive {
    /// Read `len` bytes.
    Read { offset: u64, len: usize },
    /// Write all of `data`.
    Write { offset: u64, data: Bytes },
    /// Make what was written before durable.
    Flush,
    /// `len` bytes read as zeros afterwards; their space is given back only if `may_unmap`.
    WriteZeroes { offset: u64, len: u64, may_unmap: bool },
    /// Repeat `pattern` over `len` bytes, a multiple of its length.
    WriteSame { offset: u64, len: u64, pattern: Bytes },
}

/// Why a backend did not do an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackendError {
    /// This daemon's RADOS client is fenced, or the lock is gone: the LU is lost, and the outcome is not ours to tell.
    Lost,
    /// The outcome is not known (-110): never reported as failed.
    Unknown,
    /// The pool is full or over its quota.
    NoSpace,
    /// Not now. The host sends the command again, whole: whatever of it was done is done once more.
    Busy,
    /// The range is past the end of the image as it is now.
    OutOfRange,
    /// The image is gone, or this client may not touch it.
    Refused,
    /// Anything else that RADOS reports: the medium could not be read or written.
    Medium,
}

impl BackendError {
    /// By the table of [`errnos`].
    pub fn from_errno(errno: Errno) -> Self {
        errnos::meaning(errno)
    }
}

impl Primitive {
    /// Bytes that a read delivers; 0 for anything else.
    pub fn read_len(&self) -> usize {
        if let Self::Read { len, .. } = self { *len } else { 0 }
    }
}

/// What a submit came to.
pub enum Submitted {
    /// It has ended; for a read with the data.
    Done(Result<Bytes, BackendError>),
    /// It ends on the shard's completion queue, under the token that was given.
    Pending,
}

/// A backend that is ready to serve.
pub enum Backend {
    /// An RBD image, opened read-write, its exclusive lock held.
    Rbd(Image),
    /// Memory.
    Ram(RamStore),
    /// Reads are zeros, writes are dropped.
    Null,
}

/// The longest read that is answered from [`ZEROS`] without a buffer: the longest transfer of one command.
const ZEROS_LEN: usize = lusd_scsi::MAX_TRANSFER_BYTES as usize;
static ZEROS: [u8; ZEROS_LEN] = [0; ZEROS_LEN];

impl Backend {
    /// True where a read needs a buffer, which is to be charged before.
    pub fn read_needs_buffer(&self) -> bool {
        !matches!(self, Self::Null)
    }

    /// Starts `op`. `Pending` promises exactly one completion under `token` on `queue`.
    pub fn submit(&self, queue: &Arc<CompletionQueue>, op: Primitive, token: u64) -> Submitted {
        match self {
            Self::Rbd(image) => submit_rbd(image, queue, op, token),
            Self::Ram(store) => Submitted::Done(Ok(submit_ram(store, op))),
            Self::Null => Submitted::Done(Ok(match op {
                Primitive::Read { len, .. } => Bytes::from_static(&ZEROS[..len]),
                _ => Bytes::new(),
            })),
        }
    }
}

fn submit_rbd(image: &Image, queue: &Arc<CompletionQueue>, op: Primitive, token: u64) -> Submitted {
    let result = match op {
        Primitive::Read { offset, len } => {
            image.read(queue, token, offset, BytesMut::with_capacity(len), len)
        }
        Primitive::Write { offset, data } => {
            let buffers: SmallVec<[Bytes; 2]> = smallvec![data];
            image.write(queue, token, offset, buffers)
        }
        Primitive::Flush => image.flush(queue, token),
        Primitive::WriteZeroes { offset, len, may_unmap } => {
            image.write_zeroes(queue, token, offset, len, !may_unmap)
        }
        Primitive::WriteSame { offset, len, pattern } => image.write_same(queue, token, offset, len, pattern),
    };
    match result {
        Ok(()) => Submitted::Pending,
        Err(refused) => Submitted::Done(Err(BackendError::from_errno(refused.errno))),
    }
}

fn submit_ram(store: &RamStore, op: Primitive) -> Bytes {
    match op {
        Primitive::Read { offset, len } => {
            let mut data = BytesMut::with_capacity(len);
            store.read(offset, len as u64, &mut data);
            return data.freeze();
        }
        Primitive::Write { offset, data } => store.write(offset, &data),
        Primitive::Flush => {}
        Primitive::WriteZeroes { offset, len, .. } => store.zero(offset, len),
        Primitive::WriteSame { offset, len, pattern } => {
            let mut done = 0;
            while done < len {
                store.write(offset + done, &pattern);
                done += pattern.len() as u64;
            }
        }
    }
    Bytes::new()
}
