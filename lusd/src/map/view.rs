//! From the map to what initiators may see.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use lus_map::{DaemonId, InstanceState, Iqn, LuId, LunMapping, LusMap};
use lusd_scsi::{Lun, PortGroup, PortGroups};

use crate::lun::unit::Unit;
use crate::target::view::{Portal, TargetView, View};

/// What this daemon says of itself.
#[derive(Clone, Debug)]
pub struct Own {
    /// Its id.
    pub id: DaemonId,
    /// Its target portal group tag.
    pub group_tag: u16,
    /// Where it accepts; an unspecified address stands for whichever the initiator came by.
    pub portals: Vec<SocketAddr>,
}

/// The units that exist, by id.
pub type Units = HashMap<LuId, Arc<Unit>>;

/// Views made one after the other: targets that did not change are taken over.
#[derive(Debug, Default)]
pub struct Viewer {
    targets: BTreeMap<String, TargetView>,
}

impl Viewer {
    /// Makes `iqn` anew, or drops it where the map has it no more.
    pub fn refresh(&mut self, map: &LusMap, iqn: &Iqn, units: &Units) {
        match map.target(iqn) {
            Some(target) => {
                let view = target_view(map, iqn, target.open, units);
                self.targets.insert(iqn.as_str().to_owned(), view);
            }
            None => drop(self.targets.remove(iqn.as_str())),
        }
    }

    /// The whole view.
    pub fn view(&self, map: &LusMap, own: &Own) -> View {
        View { group_tag: own.group_tag, targets: self.targets.clone(), portals: portals(map, own) }
    }
}

/// The target port groups of all daemons, by tag: a daemon that ended in order has none until it comes back.
pub fn port_groups(map: &LusMap) -> Arc<[PortGroup]> {
    // Of several starts of one daemon, which have one tag, the latest counts.
    let mut groups = BTreeMap::new();
    for daemon in map.daemons() {
        let tag = daemon.portal_group_tag.get();
        match daemon.state {
            InstanceState::Up => groups.insert(tag, true),
            InstanceState::Down { .. } => groups.insert(tag, false),
            InstanceState::Retired { .. } => groups.remove(&tag),
        };
    }
    groups.into_iter().map(|(tag, up)| PortGroup { tag, up }).collect()
}

/// Those of one LU: `groups`, and which of them is the owner's.
pub fn port_groups_of(map: &LusMap, groups: &Arc<[PortGroup]>, own: &Own, lu: &LuId) -> PortGroups {
    let owner = map.placement(lu).and_then(|placement| map.daemon(&placement.owner));
    PortGroups::new(groups.clone(), own.group_tag, owner.map(|daemon| daemon.portal_group_tag.get()))
}

fn target_view(map: &LusMap, iqn: &Iqn, open: bool, units: &Units) -> TargetView {
    let mut view = TargetView { open, ..TargetView::default() };
    view.hosts = map.hosts(iqn).map(|host| host.initiator.as_str().to_owned()).collect();
    for mapping in map.luns(iqn) {
        let Some((lun, unit)) = entry(mapping, units) else { continue };
        let table = match &mapping.host {
            None => &mut view.luns,
            Some(host) => view.host_luns.entry(host.as_str().to_owned()).or_default(),
        };
        table.insert(lun, unit);
    }
    view
}

/// The unit under a number; none while its image has not been looked at yet.
fn entry(mapping: &LunMapping, units: &Units) -> Option<(Lun, Arc<Unit>)> {
    let unit = units.get(&mapping.lu)?;
    Some((Lun::new(mapping.lun.number())?, unit.clone()))
}

/// Portals of every daemon that is up, ours first.
fn portals(map: &LusMap, own: &Own) -> Vec<Portal> {
    let ours = own.portals.iter().map(|address| Portal { address: *address, group_tag: own.group_tag });
    let others =
        map.daemons().filter(|daemon| daemon.state.is_up() && daemon.id != own.id).flat_map(|daemon| {
            let group_tag = daemon.portal_group_tag.get();
            daemon.portals.iter().map(move |address| Portal { address: *address, group_tag })
        });
    ours.chain(others).collect()
}

#[cfg(test)]
mod tests {
    use lus_map::change::{self, Change};
    use lus_map::{Origin, Timestamp};
    use lusd_scsi::{AccessState, Identity, LogicalUnit, LogicalUnitConfig};
    use uuid::Uuid;

    use super::*;

    fn origin() -> Origin {
        Origin::new(Uuid::from_u128(1), Timestamp(1), "test")
    }

    fn step(map: &LusMap, change: Change) -> LusMap {
        match change {
            Change::Make { increment, .. } => map.apply(&increment).unwrap(),
            Change::Already { .. } => map.clone(),
        }
    }

    fn unit(id: LuId, name: &str) -> Arc<Unit> {
        let config = LogicalUnitConfig::new(Identity::new(*id.0.as_bytes()), 1 << 20);
        Unit::new(id, name.to_owned(), LogicalUnit::new(config, AccessState::Standby).unwrap(), 1)
    }

    fn register(map: &LusMap, id: &str, portal: &str, n: u32) -> LusMap {
        let ask = change::daemon::Register {
            id: id.parse().unwrap(),
            portals: vec![portal.parse().unwrap()],
            hostname: "h".to_owned(),
            version: "1".to_owned(),
            control_addr: format!("10.0.0.1:0/{n}").parse().unwrap(),
            data_addrs: vec![],
        };
        step(map, change::daemon::register(map, &origin(), &ask).unwrap())
    }

    fn create_target(map: &LusMap, iqn: &Iqn, open: bool) -> LusMap {
        step(map, change::target::create(map, &origin(), iqn, open).unwrap())
    }

    #[test]
    fn portals_of_all_daemons_that_are_up_ours_first() {
        let map = LusMap::create(&change::create(Uuid::from_u128(9), &origin())).unwrap();
        let map = register(&map, "a", "10.0.0.1:3260", 1);
        let map = register(&map, "b", "10.0.0.2:3260", 2);
        let b = map.daemon(&"b".parse().unwrap()).unwrap();
        let own = Own {
            id: b.id.clone(),
            group_tag: b.portal_group_tag.get(),
            portals: vec!["0.0.0.0:3260".parse().unwrap()],
        };
        let shown: Vec<_> =
            portals(&map, &own).iter().map(|p| format!("{},{}", p.address, p.group_tag)).collect();
        assert_eq!(shown, ["0.0.0.0:3260,2", "10.0.0.1:3260,1"]);
        let a = map.daemon(&"a".parse().unwrap()).unwrap();
        let down = change::daemon::mark_down(&map, &origin(), (&a.id, a.up_from), "test").unwrap();
        assert_eq!(portals(&step(&map, down), &own).len(), 1);
    }

    #[test]
    fn port_groups_are_the_same_at_every_daemon() {
        use lusd_scsi::PortGroupState::{ActiveOptimized, Standby, Unavailable};
        let map = LusMap::create(&change::create(Uuid::from_u128(9), &origin())).unwrap();
        let map = ["a", "b", "c"]
            .iter()
            .zip(1u32..)
            .fold(map, |map, (id, n)| register(&map, id, &format!("10.0.0.{n}:3260"), n));
        let tag = |id: &str| map.daemon(&id.parse().unwrap()).unwrap().portal_group_tag.get();
        let id = LuId(Uuid::from_u128(3));
        let backend = lus_map::Backend::Null { name: "n".parse().unwrap(), size_bytes: 1 << 20 };
        let ask = change::lu::AddLu::new(id, backend);
        let map = step(&map, change::lu::add(&map, &origin(), &ask).unwrap());
        let owner = map.placement(&id).unwrap().owner.clone();
        let states = |map: &LusMap, at: &str| -> Vec<_> {
            let own = Own { id: at.parse().unwrap(), group_tag: tag(at), portals: vec![] };
            let access = if own.id == owner { AccessState::Serving } else { AccessState::Standby };
            port_groups_of(map, &port_groups(map), &own, &id).states(access).collect()
        };
        let expected: Vec<_> = ["a", "b", "c"]
            .map(|id| (tag(id), if id == owner.as_str() { ActiveOptimized } else { Standby }))
            .to_vec();
        for at in ["a", "b", "c"] {
            assert_eq!(states(&map, at), expected, "at {at}");
        }
        // The owner is declared down; another one ended in order.
        let up_from = map.daemon(&owner).unwrap().up_from;
        let down = change::daemon::mark_down(&map, &origin(), (&owner, up_from), "test").unwrap();
        let map = step(&map, down);
        let other = ["a", "b", "c"].into_iter().find(|id| *id != owner.as_str()).unwrap();
        let listed = |map: &LusMap, id: &str| states(map, other).into_iter().find(|state| state.0 == tag(id));
        assert_eq!(listed(&map, owner.as_str()), Some((tag(owner.as_str()), Unavailable)));
        let third = ["a", "b", "c"].into_iter().find(|id| *id != owner.as_str() && *id != other).unwrap();
        let instance = map.daemon(&third.parse().unwrap()).unwrap();
        let retire = change::daemon::retire(&map, &origin(), (&instance.id, instance.up_from)).unwrap();
        let map = step(&map, retire);
        assert_eq!(listed(&map, third), None);
        assert_eq!(states(&map, other).len(), 2);
    }

    #[test]
    fn only_named_targets_are_made_anew() {
        let iqn: Iqn = "iqn.2026-11.io.lus:a".parse().unwrap();
        let other: Iqn = "iqn.2026-11.io.lus:b".parse().unwrap();
        let host: Iqn = "iqn.2026-11.io.host:x".parse().unwrap();
        let map = LusMap::create(&change::create(Uuid::from_u128(9), &origin())).unwrap();
        let map = create_target(&map, &iqn, false);
        let map = step(&map, change::host::add(&map, &origin(), &iqn, &host).unwrap());
        let mut viewer = Viewer::default();
        let units = Units::new();
        viewer.refresh(&map, &iqn, &units);
        let map = create_target(&map, &other, true);
        let own = Own { id: "a".parse().unwrap(), group_tag: 3, portals: vec![] };
        let view = viewer.view(&map, &own);
        assert_eq!(view.targets.keys().collect::<Vec<_>>(), [iqn.as_str()]);
        assert!(
            view.targets[iqn.as_str()].admits(host.as_str()) && !view.targets[iqn.as_str()].admits("iqn.x")
        );
        viewer.refresh(&map, &other, &units);
        assert!(viewer.view(&map, &own).targets[other.as_str()].open);
        let map = step(&map, change::host::remove(&map, &origin(), &iqn, &host, true).unwrap());
        let map = step(&map, change::target::remove(&map, &origin(), &iqn, true).unwrap());
        viewer.refresh(&map, &iqn, &units);
        assert_eq!(viewer.view(&map, &own).targets.keys().collect::<Vec<_>>(), [other.as_str()]);
    }

    #[test]
    fn luns_of_all_and_of_one_host() {
        let mapping = |lun: u16, host: Option<&str>, lu: LuId| LunMapping {
            min_writer: 1,
            target: "iqn.2026-11.io.lus:a".parse().unwrap(),
            lun: lus_map::Lun::new(lun).unwrap(),
            host: host.map(|host| host.parse().unwrap()),
            lu,
            created: Timestamp(0),
        };
        let id = LuId(Uuid::from_u128(5));
        let units = Units::from([(id, unit(id, "null:x"))]);
        let (lun, found) = entry(&mapping(7, None, id), &units).unwrap();
        assert_eq!((lun, found.name.as_str()), (Lun::new(7).unwrap(), "null:x"));
        assert!(entry(&mapping(7, None, LuId(Uuid::from_u128(6))), &units).is_none(), "not looked at yet");
    }
}
