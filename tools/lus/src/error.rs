//! What ends a command early: an error number, which is the exit code, and a sentence.

use std::fmt;

use lus_map::{Refusal, SecretsRefusal};
use lus_map_store::{SecretsError, StoreError};
use lusd_ceph::Errno;

/// The result of a command or a part of one.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Shown as `Error ENOENT: there is no map for epoch 9`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) errno: Errno,
    /// Says what is wrong and, where there is one, the way out.
    pub(crate) message: String,
}

impl Failure {
    /// A failure of the given kind.
    pub(crate) fn new(errno: Errno, message: impl Into<String>) -> Self {
        Self { errno, message: message.into() }
    }

    /// Something that is named does not exist.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Errno::ENOENT, message)
    }

    /// An argument that parses and makes no sense all the same.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Errno::EINVAL, message)
    }

    /// The exit code of the process: error numbers that do not fit become EIO's.
    pub(crate) fn exit_code(&self) -> u8 {
        u8::try_from(self.errno.raw()).unwrap_or(Errno::EIO.raw() as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errno.name() {
            Some(name) => write!(f, "Error {name}: {}", self.message),
            None => write!(f, "Error {}: {}", self.errno.raw(), self.message),
        }
    }
}

impl From<lusd_ceph::Error> for Failure {
    fn from(error: lusd_ceph::Error) -> Self {
        Self::new(error.errno(), error.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(refusal) => refusal.into(),
            error => Self::new(Errno::from_raw(error.errno()), error.to_string()),
        }
    }
}

impl From<SecretsRefusal> for Failure {
    fn from(refusal: SecretsRefusal) -> Self {
        let errno = match &refusal {
            SecretsRefusal::NotSet(_) => Errno::ENOENT,
            SecretsRefusal::TooMany => Errno::ENOSPC,
            SecretsRefusal::TooOld(_) => Errno::EPERM,
            SecretsRefusal::Length(_)
            | SecretsRefusal::Control
            | SecretsRefusal::Name
            | SecretsRefusal::BothDirections(_) => Errno::EINVAL,
        };
        Self::new(errno, refusal.to_string())
    }
}

impl From<SecretsError> for Failure {
    fn from(error: SecretsError) -> Self {
        match error {
            SecretsError::Refused(refusal) => refusal.into(),
            SecretsError::Store(error) => error.into(),
        }
    }
}

/// Refusals that the flag overrides say so.
impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let hint = match &refusal {
            Refusal::TargetInUse { .. } | Refusal::HostInUse { .. } | Refusal::LuInUse { .. } => {
                "; pass --yes-i-really-mean-it to remove them with it".to_owned()
            }
            Refusal::Unfenced { id, .. } => format!(
                ": they may still write; the next start of lus.{id} fences them, and so does whoever takes a logical unit \
                 that they hold; pass --yes-i-really-mean-it to forget them"
            ),
            Refusal::Pinned { lu, .. } => format!("; take the pin away with: lus lu unpin {lu}"),
            Refusal::DaemonOut(id) => format!("; let it have some with: lus daemon in {id}"),
            _ => String::new(),
        };
        Self::new(Errno::from_raw(refusal.errno()), format!("{refusal}{hint}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceph_form() {
        let failure = Failure::not_found("unrecognized pool 'nosuch'");
        assert_eq!(failure.to_string(), "Error ENOENT: unrecognized pool 'nosuch'");
        assert_eq!(failure.exit_code(), 2);
        let failure = Failure::new(Errno::from_raw(-4095), "odd");
        assert_eq!(failure.to_string(), "Error 4095: odd");
        assert_eq!(failure.exit_code(), 5);
        let failure = Failure::from(Refusal::DaemonNotUp("a".parse().unwrap()));
        assert_eq!(failure.to_string(), "Error EHOSTDOWN: lus.a is not up");
        assert_eq!(failure.exit_code(), 112);
    }
}
