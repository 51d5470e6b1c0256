//! Error numbers as librados and librbd return them.

use std::fmt;

/// A positive Linux error number. Ceph's calls return it negated.
///
/// What the numbers mean here is not always what the C library's text says:
///
/// * [`Errno::ESHUTDOWN`] (108): this client is on the blocklist. Nothing works on its [`Cluster`](crate::Cluster) any more.
/// * [`Errno::EROFS`] (30): this handle does not hold the exclusive lock (or was opened read-only).
/// * [`Errno::ETIMEDOUT`] (110) from a read, write or object operation: the outcome is **unknown**. The operation may
///   still take effect later; it has not failed. From a notify: somebody did not acknowledge.
/// * [`Errno::ECANCELED`] (125) from an object operation: a comparison did not hold, nothing was changed.
/// * [`Errno::ERANGE`] (34) from `assert_version`: the object is newer; [`Errno::EOVERFLOW`] (75): it is older or missing.
/// * [`Errno::ENOTCONN`] (107) from a watch: the watch is lost.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Errno(i32);

macro_rules! errnos {
    ($($name:ident)*) => {
        #[allow(missing_docs)]
        impl Errno {
            $(pub const $name: Errno = Errno(libc::$name);)*

            /// The symbol (`"ENOENT"`), or None for a number that has none here.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $(libc::$name => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

errnos! {
    EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT EBUSY EEXIST EXDEV ENODEV ENOTDIR EISDIR
    EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS
    ENOTEMPTY ELOOP ENOMSG EIDRM ENODATA ETIME ENOLINK EPROTO EBADMSG EOVERFLOW EILSEQ EUSERS ENOTSOCK EDESTADDRREQ EMSGSIZE
    EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT ENOTSUP EAFNOSUPPORT EADDRINUSE EADDRNOTAVAIL ENETDOWN ENETUNREACH ENETRESET
    ECONNABORTED ECONNRESET ENOBUFS EISCONN ENOTCONN ESHUTDOWN ETIMEDOUT ECONNREFUSED EHOSTDOWN EHOSTUNREACH EALREADY EINPROGRESS
    ESTALE EREMOTEIO EDQUOT ENOMEDIUM EMEDIUMTYPE ECANCELED ENOKEY EKEYEXPIRED EKEYREVOKED EKEYREJECTED EOWNERDEAD ENOTRECOVERABLE
}

impl Errno {
    /// From a number of either sign. Zero, which is no error, becomes EIO.
    pub const fn from_raw(raw: i32) -> Errno {
        match raw {
            0 => Errno::EIO,
            i32::MIN => Errno::EIO,
            n if n < 0 => Errno(-n),
            n => Errno(n),
        }
    }

    /// The positive number.
    pub const fn raw(self) -> i32 {
        self.0
    }

    /// This client is blocklisted: what it has in flight will not take effect, and it must be replaced by a new one.
    pub const fn is_fenced(self) -> bool {
        self.0 == libc::ESHUTDOWN
    }

    /// The handle may not write: the exclusive lock is not (or no longer) held here.
    pub const fn is_not_lock_owner(self) -> bool {
        self.0 == libc::EROFS
    }

    /// Whether the operation took effect is not known.
    pub const fn is_unknown_outcome(self) -> bool {
        self.0 == libc::ETIMEDOUT
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // "No such file or directory (os error 2)": the part in parentheses says less than ours.
        let text = std::io::Error::from_raw_os_error(self.0).to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        match self.name() {
            Some(name) => write!(f, "({}) {text} [{name}]", self.0),
            None => write!(f, "({}) {text}", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "Errno({})", self.0),
        }
    }
}

/// The outcome of a call that returns zero or more on success, else a negated error number.
pub(crate) fn checked(rc: i32) -> Result<u32, Errno> {
    u32::try_from(rc).map_err(|_| Errno::from_raw(rc))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_signs() {
        assert_eq!(Errno::from_raw(-108), Errno::ESHUTDOWN);
        assert_eq!(Errno::from_raw(108), Errno::ESHUTDOWN);
        assert_eq!(Errno::from_raw(0), Errno::EIO);
        assert_eq!(Errno::from_raw(i32::MIN), Errno::EIO);
        assert!(Errno::ESHUTDOWN.is_fenced() && !Errno::EIO.is_fenced());
        assert!(Errno::EROFS.is_not_lock_owner());
        assert!(Errno::ETIMEDOUT.is_unknown_outcome());
        assert_eq!(Errno::ENOENT.to_string(), "(2) No such file or directory [ENOENT]");
        assert_eq!(format!("{:?}", Errno::ECANCELED), "ECANCELED");
        for (raw, name) in
            [(112, "EHOSTDOWN"), (122, "EDQUOT"), (95, "ENOTSUP"), (129, "EKEYREJECTED"), (90, "EMSGSIZE")]
        {
            assert_eq!(Errno::from_raw(-raw).name(), Some(name));
        }
        assert_eq!(Errno::from_raw(4095).name(), None);
        assert_eq!(format!("{:?}", Errno::from_raw(4095)), "Errno(4095)");
    }

    #[test]
    fn results() {
        assert_eq!(checked(0), Ok(0));
        assert_eq!(checked(36), Ok(36));
        assert_eq!(checked(-2), Err(Errno::ENOENT));
    }
}
