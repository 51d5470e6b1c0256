//! What can go wrong in a control call. The data path has its own, smaller types: [`SubmitError`](crate::SubmitError) and [`Errno`].

use crate::Errno;

/// Result of a control call.
pub type Result<T> = std::result::Result<T, Error>;

/// A control call failed. [`Error::errno`] maps each to one number, as an exit code or a decision needs it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// librados or librbd refused, or the cluster did.
    #[error("{op} {object}: {errno}")]
    Os {
        /// The C function.
        op: &'static str,
        /// What it was called for: an object, an image, a pool, an option.
        object: String,
        /// What it returned.
        errno: Errno,
    },
    /// A monitor refused a command; `status` is its own explanation.
    #[error("mon command {command}: {status} {errno}")]
    MonCommand {
        /// The command as sent.
        command: String,
        /// The monitor's text, often empty.
        status: String,
        /// What it returned.
        errno: Errno,
    },
    /// Arguments that neither librados nor we know.
    #[error("unknown option {0}")]
    UnknownArgument(String),
    /// An option that the safety of images depends on does not have its value.
    #[error("option {option} is {found:?}, not {wanted:?}, as set in {level}: images would not be safe")]
    UnsafeOption {
        /// Name of the option.
        option: String,
        /// Its value in effect.
        found: String,
        /// The only value that is safe.
        wanted: &'static str,
        /// Where it is set: `client`, `pool` or `image`.
        level: &'static str,
    },
    /// A name or value with a NUL inside, an empty name, or another argument that cannot be passed on.
    #[error("{what}: invalid argument")]
    InvalidArgument {
        /// Which argument.
        what: &'static str,
    },
    /// librados returned bytes that are not what they should be (names that are not UTF-8, a broken notify reply).
    #[error("{object}: malformed {what}")]
    Malformed {
        /// Where it was read.
        object: String,
        /// What was expected.
        what: &'static str,
    },
    /// An object changed under a read of many pages, again and again.
    #[error("{object}: changed during each of {attempts} attempts to read it")]
    Unstable {
        /// The object.
        object: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// The blocking task ended without a result: the runtime is being shut down.
    #[error("{op}: the runtime is shutting down")]
    Shutdown {
        /// The call that was not made or not finished.
        op: &'static str,
    },
}

impl Error {
    /// The error number that says most about it.
    pub fn errno(&self) -> Errno {
        match self {
            Error::Os { errno, .. } | Error::MonCommand { errno, .. } => *errno,
            Error::UnknownArgument(_) | Error::InvalidArgument { .. } => Errno::EINVAL,
            Error::UnsafeOption { .. } => Errno::EPERM,
            Error::Malformed { .. } => Errno::EIO,
            Error::Unstable { .. } => Errno::EAGAIN,
            Error::Shutdown { .. } => Errno::ECANCELED,
        }
    }

    /// The object, image, pool or option does not exist.
    pub fn is_not_found(&self) -> bool {
        self.os() == Some(Errno::ENOENT)
    }

    /// It exists already.
    pub fn is_exists(&self) -> bool {
        self.os() == Some(Errno::EEXIST)
    }

    /// A comparison in the operation did not hold (ECANCELED); nothing was changed.
    pub fn is_compare_mismatch(&self) -> bool {
        self.os() == Some(Errno::ECANCELED)
    }

    /// `assert_version` did not hold: the object is newer (ERANGE), or older or missing (EOVERFLOW).
    pub fn is_version_mismatch(&self) -> bool {
        matches!(self.os(), Some(Errno::ERANGE | Errno::EOVERFLOW))
    }

    /// This client is blocklisted.
    pub fn is_fenced(&self) -> bool {
        self.errno().is_fenced()
    }

    /// cephx or the image's state forbids it (EPERM, EACCES).
    pub fn is_permission_denied(&self) -> bool {
        matches!(self.errno(), Errno::EPERM | Errno::EACCES)
    }

    /// Whether the change took effect is not known; re-read before the next step.
    pub fn is_unknown_outcome(&self) -> bool {
        self.errno().is_unknown_outcome()
    }

    fn os(&self) -> Option<Errno> {
        match self {
            Error::Os { errno, .. } | Error::MonCommand { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}

/// Turns the return code of `op` into a result.
pub(crate) fn check(op: &'static str, object: &str, rc: i32) -> Result<u32> {
    crate::errno::checked(rc).map_err(|errno| Error::Os { op, object: object.to_owned(), errno })
}

/// Runs a blocking call on tokio's blocking threads. It runs to its end even if the future is dropped.
///
/// # Panics
/// Outside a tokio runtime.
pub(crate) async fn blocking<T: Send + 'static>(
    op: &'static str,
    call: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(call).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Error::Shutdown { op }),
    }
}

/// A C string for a name or value.
pub(crate) fn cstring(what: &'static str, text: &str) -> Result<std::ffi::CString> {
    std::ffi::CString::new(text).map_err(|_| Error::InvalidArgument { what })
}

/// As [`cstring`], for names that must not be empty either.
pub(crate) fn name_cstring(what: &'static str, text: &str) -> Result<std::ffi::CString> {
    if text.is_empty() { Err(Error::InvalidArgument { what }) } else { cstring(what, text) }
}
