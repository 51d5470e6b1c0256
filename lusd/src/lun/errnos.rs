//! What librbd's error numbers mean: one row each. `target/answer` and `lusd_scsi::BackendError::answer` make status and sense of
//! the meanings.

use lusd_ceph::Errno;

use super::backend::BackendError::{self, Busy, Lost, Medium, NoSpace, OutOfRange, Refused, Unknown};

/// A number that an operation on an image ends with.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The number.
    pub errno: Errno,
    /// What it means.
    pub meaning: BackendError,
    /// When it comes.
    pub when: &'static str,
}

const fn row(errno: Errno, meaning: BackendError, when: &'static str) -> Row {
    Row { errno, meaning, when }
}

/// All numbers with a meaning of their own; any other is [`BackendError::Medium`].
pub static ROWS: [Row; 26] = [
    row(Errno::ESHUTDOWN, Lost, "this RADOS client is on the blocklist"),
    row(Errno::EROFS, Lost, "the exclusive lock is gone"),
    row(Errno::ENOTCONN, Lost, "the watch on the image's header is gone"),
    row(Errno::ETIMEDOUT, Unknown, "given up; it may take effect yet"),
    row(Errno::ECANCELED, Unknown, "cut off when its client was shut down; it may have taken effect"),
    row(Errno::ENOSPC, NoSpace, "the pool is full"),
    row(Errno::EDQUOT, NoSpace, "the pool's quota is used up"),
    row(Errno::EAGAIN, Busy, "not now"),
    row(Errno::EBUSY, Busy, "something else is going on with the image"),
    row(Errno::EINTR, Busy, "interrupted"),
    row(Errno::ENOMEM, Busy, "no memory, here or at an OSD"),
    row(Errno::ENOBUFS, Busy, "no memory, here or at an OSD"),
    row(Errno::EINVAL, OutOfRange, "past the image's end as it is now"),
    row(Errno::ERANGE, OutOfRange, "past the image's end as it is now"),
    row(Errno::EFBIG, OutOfRange, "past the end of an object"),
    row(Errno::ENOENT, Refused, "the image, or its pool, is gone"),
    row(Errno::ENXIO, Refused, "the image, or its pool, is gone"),
    row(Errno::ENODEV, Refused, "the image, or its pool, is gone"),
    row(Errno::ESTALE, Refused, "the image, or its pool, is gone"),
    row(Errno::EPERM, Refused, "this client may not touch the image"),
    row(Errno::EACCES, Refused, "this client may not touch the image"),
    row(Errno::ENOTSUP, Refused, "an OSD does not know the operation"),
    row(Errno::ENOSYS, Refused, "an OSD does not know the operation"),
    row(Errno::EDOM, Refused, "a feature of the image forbids it"),
    row(Errno::EIO, Medium, "an object cannot be read or written"),
    row(Errno::EBADMSG, Medium, "an object's checksum is wrong"),
];

/// The meaning of a number.
pub fn meaning(errno: Errno) -> BackendError {
    ROWS.iter().find(|row| row.errno == errno).map_or(Medium, |row| row.meaning)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_has_one_row() {
        for (at, row) in ROWS.iter().enumerate() {
            assert!(ROWS[..at].iter().all(|other| other.errno != row.errno), "{:?}", row.errno);
            assert_eq!(meaning(row.errno), row.meaning, "{}", row.when);
        }
    }

    /// Whatever is not in the table failed: an outcome that may not be told must have a row.
    #[test]
    fn what_must_not_be_told_as_failed_has_a_row() {
        for raw in 1..134 {
            let errno = Errno::from_raw(raw);
            assert_eq!(errno.is_unknown_outcome() || raw == 125, meaning(errno) == Unknown, "{errno:?}");
            let lost = errno.is_fenced() || errno.is_not_lock_owner() || raw == 107;
            assert_eq!(lost, meaning(errno) == Lost, "{errno:?}");
        }
    }
}
