//! Why an intent is refused, with the errno that a command ends with and the sentence that it prints.

use crate::flag::Flag;
use crate::id::{ClientAddr, DaemonId, Epoch, Iqn, LuId, LuName, Lun, Wwn};
use crate::key::Key;
use crate::model::WRITER;

/// Why an intent is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such target.
    #[error("no such target {0}")]
    NoSuchTarget(Iqn),
    /// The target names no such host.
    #[error("no such host {initiator} in target {target}")]
    NoSuchHost {
        /// The target.
        target: Iqn,
        /// The initiator.
        initiator: Iqn,
    },
    /// No such logical unit.
    #[error("no such logical unit {0}")]
    NoSuchLu(LuName),
    /// No logical unit of this id.
    #[error("no logical unit of id {0}")]
    NoSuchLuId(LuId),
    /// No such daemon.
    #[error("no such daemon lus.{0}")]
    NoSuchDaemon(DaemonId),
    /// Another start of the daemon took its place.
    #[error("lus.{id} up_from {up_from} was superseded{}", by(.newest))]
    Superseded {
        /// The daemon.
        id: DaemonId,
        /// The start that wanted something.
        up_from: Epoch,
        /// The start that is in the map.
        newest: Option<Epoch>,
    },
    /// This start of the daemon is not up.
    #[error("lus.{id} up_from {up_from} is not up")]
    NotUp {
        /// The daemon.
        id: DaemonId,
        /// The start.
        up_from: Epoch,
    },
    /// There is no such mapping.
    #[error("logical unit {lu} is not mapped in target {target}{}", for_host(.host))]
    NotMapped {
        /// The logical unit.
        lu: LuName,
        /// The target.
        target: Iqn,
        /// The one host that was asked for.
        host: Option<Iqn>,
    },
    /// The target is there, but other than asked for.
    #[error("target {target} already exists and is {}", if *.open { "open" } else { "not open" })]
    TargetDiffers {
        /// The target.
        target: Iqn,
        /// As it is.
        open: bool,
    },
    /// The logical unit is there, but other than asked for.
    #[error("logical unit {lu} already exists with another {what}")]
    LuDiffers {
        /// The logical unit.
        lu: LuName,
        /// What is other.
        what: &'static str,
    },
    /// The image is another unit's.
    #[error("the image of {lu} is that of logical unit {holder}")]
    ImageTaken {
        /// The name that was asked for.
        lu: LuName,
        /// The unit that has the image.
        holder: LuName,
    },
    /// The WWN is another unit's.
    #[error("WWN {wwn} is that of logical unit {holder}")]
    WwnTaken {
        /// The name.
        wwn: Wwn,
        /// The unit that has it.
        holder: LuName,
    },
    /// The serial is another unit's.
    #[error("serial '{serial}' is that of logical unit {holder}")]
    SerialTaken {
        /// The serial.
        serial: String,
        /// The unit that has it.
        holder: LuName,
    },
    /// The id is another unit's.
    #[error("id {0} is taken")]
    IdTaken(LuId),
    /// The number is taken.
    #[error("LUN {lun} of target {target} is taken by logical unit {holder}{}", for_host(.host))]
    LunTaken {
        /// The target.
        target: Iqn,
        /// The number.
        lun: Lun,
        /// The unit that has it.
        holder: LuName,
        /// The one host that sees it so.
        host: Option<Iqn>,
    },
    /// The unit has a number already.
    #[error("logical unit {lu} is mapped as LUN {lun} of target {target}{}", for_host(.host))]
    AlreadyMapped {
        /// The logical unit.
        lu: LuName,
        /// The target.
        target: Iqn,
        /// Its number.
        lun: Lun,
        /// The one host that sees it so.
        host: Option<Iqn>,
    },
    /// The unit is mapped, but not as what is to be unmapped.
    #[error("logical unit {lu} is not mapped so: it is LUN {lun} of target {target}{}", for_host(.host))]
    MappedOtherwise {
        /// The logical unit.
        lu: LuName,
        /// The target.
        target: Iqn,
        /// Its number.
        lun: Lun,
        /// The one host that sees it so.
        host: Option<Iqn>,
    },
    /// No number is left.
    #[error("target {0} has no free LUN")]
    NoFreeLun(Iqn),
    /// Something is left in the target.
    #[error("target {target} has {hosts} hosts and {luns} LUNs")]
    TargetInUse {
        /// The target.
        target: Iqn,
        /// Its hosts.
        hosts: usize,
        /// Its LUNs.
        luns: usize,
    },
    /// LUNs are mapped to the host alone.
    #[error("host {initiator} of target {target} has {luns} LUNs of its own")]
    HostInUse {
        /// The target.
        target: Iqn,
        /// The initiator.
        initiator: Iqn,
        /// Its LUNs.
        luns: usize,
    },
    /// The unit is mapped.
    #[error("logical unit {lu} is mapped as {luns} LUNs, first in target {target}")]
    LuInUse {
        /// The logical unit.
        lu: LuName,
        /// How often.
        luns: usize,
        /// One of the targets.
        target: Iqn,
    },
    /// A RADOS client is on record already.
    #[error("RADOS client {addr} is on record with lus.{holder}")]
    AddressTaken {
        /// The client.
        addr: ClientAddr,
        /// The daemon that it is recorded for.
        holder: DaemonId,
    },
    /// The client is on the record of the start, but not as one that can be taken off.
    #[error("RADOS client {addr} is not on record with lus.{id} up_from {up_from}")]
    NotOnRecord {
        /// The client.
        addr: ClientAddr,
        /// The daemon.
        id: DaemonId,
        /// The start.
        up_from: Epoch,
    },
    /// The size of the unit is the image's.
    #[error("the size of {0} is that of its image")]
    SizeOfImage(LuName),
    /// Who wants what only the leader may is not, or not any more.
    #[error("only the leader of term {current} may do that, while it is up{}", of_term(.term))]
    NotLeader {
        /// The term that it leads in, as it thinks.
        term: Option<u64>,
        /// The map's.
        current: u64,
    },
    /// A flag forbids it.
    #[error("flag {0} is set")]
    FlagSet(Flag),
    /// The daemon is not up.
    #[error("lus.{0} is not up")]
    DaemonNotUp(DaemonId),
    /// The daemon is up.
    #[error("lus.{0} is up: stop it first")]
    DaemonUp(DaemonId),
    /// The daemon is to have no units.
    #[error("lus.{0} is out: it is to have no logical units")]
    DaemonOut(DaemonId),
    /// Nobody could take its units.
    #[error("lus.{id} has {units} logical units, and no other daemon is up and in")]
    NoOtherDaemon {
        /// The daemon.
        id: DaemonId,
        /// Its units.
        units: usize,
    },
    /// What it left may still write.
    #[error("{clients} RADOS clients of lus.{id} are not known to be fenced")]
    Unfenced {
        /// The daemon.
        id: DaemonId,
        /// How many.
        clients: usize,
    },
    /// The unit is pinned to another daemon.
    #[error("logical unit {lu} is pinned to lus.{pin}")]
    Pinned {
        /// The unit.
        lu: LuName,
        /// The daemon.
        pin: DaemonId,
    },
    /// The unit has no owner.
    #[error("logical unit {0} has no owner")]
    NotPlaced(LuName),
    /// A value that cannot be.
    #[error("invalid {what}: {why}")]
    Invalid {
        /// What.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// More than a bound.
    #[error("too many {what}: the limit is {limit}")]
    TooMany {
        /// What.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// A newer program wrote it.
    #[error("'{key}' asks for writer level {min_writer}, this version has {WRITER}: use a newer version")]
    TooOld {
        /// The key; `meta` for the whole map.
        key: Key,
        /// The level that it asks for.
        min_writer: u32,
    },
}

fn for_host(host: &Option<Iqn>) -> String {
    host.as_ref().map(|host| format!(" for host {host}")).unwrap_or_default()
}

fn of_term(term: &Option<u64>) -> String {
    term.map(|term| format!(" (asked by that of term {term})")).unwrap_or_default()
}

fn by(newest: &Option<Epoch>) -> String {
    newest.map(|epoch| format!(" by up_from {epoch}")).unwrap_or_default()
}

/// Linux errno numbers with their names.
mod errno {
    pub(super) const EPERM: (i32, &str) = (1, "EPERM");
    pub(super) const ENOENT: (i32, &str) = (2, "ENOENT");
    pub(super) const EBUSY: (i32, &str) = (16, "EBUSY");
    pub(super) const EEXIST: (i32, &str) = (17, "EEXIST");
    pub(super) const EINVAL: (i32, &str) = (22, "EINVAL");
    pub(super) const ENOSPC: (i32, &str) = (28, "ENOSPC");
    pub(super) const EHOSTDOWN: (i32, &str) = (112, "EHOSTDOWN");
    pub(super) const ESTALE: (i32, &str) = (116, "ESTALE");
}

impl Refusal {
    fn code(&self) -> (i32, &'static str) {
        match self {
            Self::NoSuchTarget(_)
            | Self::NoSuchHost { .. }
            | Self::NoSuchLu(_)
            | Self::NoSuchLuId(_)
            | Self::NoSuchDaemon(_)
            | Self::NotOnRecord { .. }
            | Self::NotPlaced(_)
            | Self::NotMapped { .. }
            | Self::MappedOtherwise { .. } => errno::ENOENT,
            Self::TargetDiffers { .. }
            | Self::LuDiffers { .. }
            | Self::ImageTaken { .. }
            | Self::WwnTaken { .. }
            | Self::SerialTaken { .. }
            | Self::IdTaken(_)
            | Self::LunTaken { .. }
            | Self::AlreadyMapped { .. }
            | Self::AddressTaken { .. } => errno::EEXIST,
            Self::TargetInUse { .. }
            | Self::HostInUse { .. }
            | Self::LuInUse { .. }
            | Self::FlagSet(_)
            | Self::DaemonUp(_)
            | Self::NoOtherDaemon { .. }
            | Self::Pinned { .. } => errno::EBUSY,
            Self::DaemonNotUp(_) | Self::DaemonOut(_) => errno::EHOSTDOWN,
            Self::SizeOfImage(_) | Self::Invalid { .. } => errno::EINVAL,
            Self::NoFreeLun(_) | Self::TooMany { .. } => errno::ENOSPC,
            Self::Superseded { .. } | Self::NotUp { .. } | Self::NotLeader { .. } => errno::ESTALE,
            Self::TooOld { .. } | Self::Unfenced { .. } => errno::EPERM,
        }
    }

    /// The errno as a positive number: a command's exit code.
    pub fn errno(&self) -> i32 {
        self.code().0
    }

    /// The name of the errno, as in `Error ENOENT: ...`.
    pub fn errno_name(&self) -> &'static str {
        self.code().1
    }
}
