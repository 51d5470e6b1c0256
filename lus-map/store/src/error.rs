//! Why the map or a record could not be read or written.

use lus_map::{ApplyError, Corrupt, Epoch, LoadError, MAP_OBJECT, Refusal, Violation};
use lusd_ceph::{Errno, Error};

/// Why the map or a record could not be read or written. Each names object and key where there is one.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no map: nobody has created it.
    #[error("there is no LUS map (object '{MAP_OBJECT}') in the pool")]
    NoMap,
    /// There is a map already.
    #[error("the LUS map (object '{MAP_OBJECT}') already exists")]
    MapExists,
    /// An epoch that has not been, or is no longer kept.
    #[error("there is no map for epoch {0}")]
    NoEpoch(Epoch),
    /// RADOS says no.
    #[error(transparent)]
    Ceph(#[from] Error),
    /// What is stored is no map, or one of a newer program.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// An increment that does not belong on the map.
    #[error("object '{MAP_OBJECT}': {0}")]
    Apply(ApplyError),
    /// A record that is none.
    #[error("object '{object}' is corrupt: {source}")]
    Record {
        /// The object.
        object: String,
        /// What is wrong.
        source: Corrupt,
    },
    /// The object is not the map that was read before: its epoch went back, or it has another history.
    #[error(
        "object '{MAP_OBJECT}' is not the map that was read at epoch {had}: it was replaced (epoch {found})"
    )]
    Replaced {
        /// The epoch that was read before.
        had: Epoch,
        /// The epoch that is there.
        found: Epoch,
    },
    /// The map belongs to another Ceph cluster.
    #[error("object '{MAP_OBJECT}' is of the Ceph cluster {found}, this one is {cluster}")]
    OtherCluster {
        /// The cluster that the map names.
        found: uuid::Uuid,
        /// The cluster that it was read from.
        cluster: String,
    },
    /// The intent is refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The change would break the map. The builders of changes do not let that happen.
    #[error("the change would break the map: {0}")]
    Broken(Violation),
    /// Others were faster, each time.
    #[error("the map changed during each of {0} attempts to change it")]
    Contended(u32),
    /// It changed under each reading.
    #[error("object '{object}' changed during each of {attempts} attempts to read it")]
    Unstable {
        /// The object.
        object: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// It cannot be found out whether the change was made.
    #[error("it is not known whether the change of '{object}' was made: {why}")]
    Unknown {
        /// The object.
        object: String,
        /// What stands against it.
        why: &'static str,
    },
}

impl From<ApplyError> for StoreError {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::Load(error) => Self::Load(error),
            error => Self::Apply(error),
        }
    }
}

impl From<Corrupt> for StoreError {
    fn from(corrupt: Corrupt) -> Self {
        Self::Load(corrupt.into())
    }
}

impl StoreError {
    /// The errno as a positive number: a command's exit code.
    pub fn errno(&self) -> i32 {
        match self {
            Self::NoMap | Self::NoEpoch(_) => Errno::ENOENT.raw(),
            Self::MapExists => Errno::EEXIST.raw(),
            Self::Ceph(error) => error.errno().raw(),
            Self::Refused(refusal) => refusal.errno(),
            Self::Load(LoadError::UnknownFeatures(_)) => Errno::EPERM.raw(),
            Self::Contended(_) | Self::Unstable { .. } => Errno::EAGAIN.raw(),
            Self::Unknown { .. } => Errno::ETIMEDOUT.raw(),
            Self::Broken(_) => Errno::EINVAL.raw(),
            Self::Load(_)
            | Self::Apply(_)
            | Self::Record { .. }
            | Self::Replaced { .. }
            | Self::OtherCluster { .. } => Errno::EIO.raw(),
        }
    }

    /// Whether this client is on the blocklist: nothing will work through it any more.
    pub fn is_fenced(&self) -> bool {
        matches!(self, Self::Ceph(error) if error.is_fenced())
    }

    /// Whether another look may find it otherwise: RADOS did not answer, or others were busy.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Ceph(error) => !error.is_fenced() && !error.is_permission_denied(),
            Self::Contended(_) | Self::Unstable { .. } | Self::Unknown { .. } => true,
            _ => false,
        }
    }
}
