//! What initiators may see through this daemon: targets, who may log in, and which LU stands under which LUN. Made from the map by
//! the reconciler, replaced as a whole, read by connections.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use lusd_scsi::Lun;

use crate::lun::unit::Unit;

/// LUNs and the units under them.
pub type LunTable = BTreeMap<Lun, Arc<Unit>>;

/// One target.
#[derive(Debug, Default, Clone)]
pub struct TargetView {
    /// Any initiator may log in without being named.
    pub open: bool,
    /// Initiators that are named.
    pub hosts: BTreeSet<String>,
    /// What every host of the target sees.
    pub luns: LunTable,
    /// What one host sees on top of that; a number here hides the same number there.
    pub host_luns: HashMap<String, LunTable>,
}

impl TargetView {
    /// True when `initiator` may log in.
    pub fn admits(&self, initiator: &str) -> bool {
        self.open || self.hosts.contains(initiator)
    }

    /// The LUNs of `initiator`.
    pub fn luns_of(&self, initiator: &str) -> LunTable {
        let mut luns = self.luns.clone();
        if let Some(own) = self.host_luns.get(initiator) {
            luns.extend(own.iter().map(|(lun, unit)| (*lun, unit.clone())));
        }
        luns
    }
}

/// A portal as SendTargets names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Portal {
    /// Address and port; an unspecified address stands for the one that the initiator came by.
    pub address: SocketAddr,
    /// Target portal group tag of its daemon.
    pub group_tag: u16,
}

/// Everything that initiators may see.
#[derive(Debug, Default)]
pub struct View {
    /// This daemon's target portal group tag.
    pub group_tag: u16,
    /// By node name.
    pub targets: BTreeMap<String, TargetView>,
    /// Portals of all daemons that are up, this one's first.
    pub portals: Vec<Portal>,
}

impl View {
    /// The portals that an initiator can use which came by `local`: those of the same family, with addresses.
    pub fn portals_for(&self, local: IpAddr) -> impl Iterator<Item = Portal> + '_ {
        let local = local.to_canonical();
        self.portals.iter().filter_map(move |portal| {
            let mut portal = portal.clone();
            if portal.address.is_ipv4() != local.is_ipv4() {
                return None;
            }
            if portal.address.ip().is_unspecified() {
                portal.address.set_ip(local);
            }
            Some(portal)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portals_of_the_family_that_the_initiator_came_by() {
        let portal = |address: &str| Portal { address: address.parse().unwrap(), group_tag: 1 };
        let portals = ["0.0.0.0:3260", "[::]:3260", "192.0.2.7:3261", "[2001:db8::7]:3260"].map(portal);
        let view = View { portals: portals.into(), ..Default::default() };
        let shown = |local: &str| {
            let portals = view.portals_for(local.parse().unwrap());
            portals.map(|portal| portal.address.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(shown("192.0.2.1"), ["192.0.2.1:3260", "192.0.2.7:3261"]);
        assert_eq!(shown("::ffff:192.0.2.1"), ["192.0.2.1:3260", "192.0.2.7:3261"], "IPv4 on an IPv6 socket");
        assert_eq!(shown("2001:db8::1"), ["[2001:db8::1]:3260", "[2001:db8::7]:3260"]);
    }

    #[test]
    fn only_named_hosts_are_admitted_unless_open() {
        let mut target = TargetView { hosts: ["iqn.a:x".to_owned()].into(), ..Default::default() };
        assert!(target.admits("iqn.a:x") && !target.admits("iqn.a:y"));
        target.open = true;
        assert!(target.admits("iqn.a:y"));
    }
}
