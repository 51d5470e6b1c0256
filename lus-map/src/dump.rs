//! The map as text, in the form of `ceph osd dump`: `key value` lines, then a line for each entity.

use std::fmt;

use crate::map::LusMap;
use crate::model::{
    Backend, DaemonInstance, Fenced, InstanceState, Leader, Lu, LunMapping, PhysicalBlockSize, Placement,
    PlacementReason,
};

/// Values with `separator` between them.
struct Joined<'a, T>(&'a [T], &'static str);

impl<T: fmt::Display> fmt::Display for Joined<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, value) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str(self.1)?;
            }
            value.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Fenced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.addr, self.osd_epoch)
    }
}

impl fmt::Display for InstanceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Retired { .. } => "retired",
            Self::Down { .. } => "down",
        })
    }
}

impl fmt::Display for PlacementReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Created => f.write_str("created"),
            Self::Registered => f.write_str("registered"),
            Self::Moved => f.write_str("moved"),
            Self::Pinned => f.write_str("pinned"),
            Self::Drained => f.write_str("drained"),
            Self::Failover => f.write_str("failover"),
            Self::Rebalanced => f.write_str("rebalanced"),
            Self::Other(number) => write!(f, "reason {number}"),
        }
    }
}

impl fmt::Display for Leader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "leader lus.{} up_from {} term {} taken {}",
            self.daemon, self.up_from, self.term, self.taken
        )
    }
}

impl fmt::Display for DaemonInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let in_or_out = match (self.out, self.leaving) {
            (true, _) => "out",
            (false, true) => "leaving",
            (false, false) => "in",
        };
        let down_at = self.state.down_at().unwrap_or_default();
        let control = self.control_addr.as_ref().map(|addr| addr.as_str()).unwrap_or("-");
        write!(f, "lus.{} {} {in_or_out} weight ", self.id, self.state)?;
        write!(f, "{}.{:03} up_from {} ", self.weight / 1000, self.weight % 1000, self.up_from)?;
        write!(
            f,
            "down_at {down_at} tag {} portals [{}] ",
            self.portal_group_tag,
            Joined(&self.portals, ",")
        )?;
        write!(f, "control {control} data [{}] ", Joined(&self.data_addrs, ","))?;
        write!(f, "to_fence [{}] fenced [{}]", Joined(&self.to_fence, ","), Joined(&self.fenced, ","))?;
        write!(f, " host '{}' version '{}'", self.hostname, self.version)?;
        match self.downs.last() {
            Some(last) => write!(f, " downs {} last {last}", self.downs.len()),
            None => Ok(()),
        }
    }
}

impl fmt::Display for LunMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lun {} target {} lu {}", self.lun, self.target, self.lu)?;
        match &self.host {
            Some(host) => write!(f, " host {host}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Lu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lu {} '{}'", self.id, self.name())?;
        match &self.backend {
            Backend::Rbd { image_id, .. } => write!(f, " image_id {image_id}")?,
            Backend::Ram { size_bytes, .. } | Backend::Null { size_bytes, .. } => {
                write!(f, " size {size_bytes}")?
            }
        }
        let wwn = self.wwn.as_ref().map(|wwn| wwn.as_str()).unwrap_or("-");
        let access = if self.read_only { "ro" } else { "rw" };
        write!(f, " block_size {}", self.block_size.bytes())?;
        if self.physical_block_size != PhysicalBlockSize::default() {
            write!(f, " physical_block_size {}", self.physical_block_size.bytes())?;
        }
        write!(f, " {access} wwn {wwn} ")?;
        write!(f, "serial '{}' vendor '{}' product '{}'", self.serial, self.vendor, self.product)
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "place {} on lus.{} since {} {}", self.lu, self.owner, self.since, self.reason)?;
        match &self.pin {
            Some(pin) => write!(f, " pin lus.{pin}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for LusMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let meta = self.meta();
        let words = |words: &std::collections::BTreeSet<String>| {
            words.iter().map(String::as_str).collect::<Vec<_>>().join(",")
        };
        writeln!(f, "epoch {}", self.epoch())?;
        writeln!(f, "fsid {}", meta.fsid)?;
        writeln!(f, "created {}", meta.created)?;
        writeln!(f, "modified {}", self.modified())?;
        writeln!(f, "flags {}", words(&meta.flags))?;
        writeln!(f, "min_writer {}", meta.min_writer)?;
        writeln!(f, "required_features {}", words(&meta.required_features))?;
        writeln!(f, "leader_term {}", meta.leader_term)?;
        writeln!(f, "raft_incarnation {}", meta.raft_incarnation)?;
        self.leader().into_iter().try_for_each(|leader| writeln!(f, "{leader}"))?;
        self.daemons().try_for_each(|daemon| writeln!(f, "{daemon}"))?;
        for target in self.targets() {
            let open = if target.open { "open" } else { "closed" };
            writeln!(f, "target {} {open}", target.iqn)?;
            self.hosts(&target.iqn)
                .try_for_each(|host| writeln!(f, "host {} target {}", host.initiator, host.target))?;
            self.luns(&target.iqn).try_for_each(|mapping| writeln!(f, "{mapping}"))?;
        }
        self.lus().try_for_each(|lu| writeln!(f, "{lu}"))?;
        self.placements().try_for_each(|placement| writeln!(f, "{placement}"))?;
        self.others.iter().try_for_each(|(key, raw)| writeln!(f, "unknown '{key}' {} bytes", raw.len()))
    }
}
