//! What holds in every map, whoever wrote it. The store refuses to commit a map that breaks one of these.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use crate::id::{ClientAddr, DaemonId, Iqn, LuId, Lun};
use crate::key::HostKey;
use crate::map::LusMap;
use crate::model::{Backend, DaemonInstance};

/// An invariant of the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// Each host's target exists.
    HostHasTarget,
    /// Each LUN's target exists.
    LunHasTarget,
    /// Each LUN's logical unit exists.
    LunHasLu,
    /// Where a LUN is of one host, its target names that host.
    LunHasHost,
    /// No host sees two logical units under one number.
    LunOneLuPerNumber,
    /// No host sees a logical unit under two numbers.
    LunOneNumberPerLu,
    /// No two logical units have one name.
    LuNameUnique,
    /// No two logical units have one image, under whatever name.
    LuImageUnique,
    /// No two logical units have one given WWN.
    LuWwnUnique,
    /// No two logical units have one serial.
    LuSerialUnique,
    /// The size of a volatile unit is of whole blocks, and not 0.
    LuSizeOfBlocks,
    /// Each placement's logical unit exists.
    PlacementHasLu,
    /// Each placement's owner is known.
    PlacementHasOwner,
    /// A daemon has one instance.
    DaemonOneInstance,
    /// No two daemons have one portal group tag.
    DaemonTagUnique,
    /// A RADOS client is on record once.
    DaemonAddressOnce,
    /// A pin is to a daemon that is known.
    PlacementHasPin,
    /// Who leads does so in the map's term.
    LeaderOfTerm,
    /// Nothing comes from an epoch that has not been.
    NothingFromTheFuture,
}

impl Invariant {
    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::HostHasTarget => "host-has-target",
            Self::LunHasTarget => "lun-has-target",
            Self::LunHasLu => "lun-has-lu",
            Self::LunHasHost => "lun-has-host",
            Self::LunOneLuPerNumber => "lun-one-lu-per-number",
            Self::LunOneNumberPerLu => "lun-one-number-per-lu",
            Self::LuNameUnique => "lu-name-unique",
            Self::LuImageUnique => "lu-image-unique",
            Self::LuWwnUnique => "lu-wwn-unique",
            Self::LuSerialUnique => "lu-serial-unique",
            Self::LuSizeOfBlocks => "lu-size-of-blocks",
            Self::PlacementHasLu => "placement-has-lu",
            Self::PlacementHasOwner => "placement-has-owner",
            Self::DaemonOneInstance => "daemon-one-instance",
            Self::DaemonTagUnique => "daemon-tag-unique",
            Self::DaemonAddressOnce => "daemon-address-once",
            Self::PlacementHasPin => "placement-has-pin",
            Self::LeaderOfTerm => "leader-of-term",
            Self::NothingFromTheFuture => "nothing-from-the-future",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A broken invariant, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{invariant}: {detail}")]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// The entities that break it.
    pub detail: String,
}

/// Violations that are reported; a map that is all wrong need not be listed whole.
pub const VIOLATIONS_MAX: usize = 64;

/// Collects violations up to the bound.
#[derive(Default)]
struct Findings(Vec<Violation>);

impl Findings {
    fn expect(&mut self, holds: bool, invariant: Invariant, detail: impl FnOnce() -> String) {
        if !holds && self.0.len() < VIOLATIONS_MAX {
            self.0.push(Violation { invariant, detail: detail() });
        }
    }
}

impl LusMap {
    /// Looks at every entity.
    ///
    /// # Errors
    /// The first [`VIOLATIONS_MAX`] violations.
    pub fn check(&self) -> Result<(), Vec<Violation>> {
        let mut findings = Findings::default();
        self.check_hosts(&mut findings);
        self.check_luns(&mut findings);
        self.check_views(&mut findings);
        self.check_lus(&mut findings);
        self.check_placements(&mut findings);
        self.check_daemons(&mut findings);
        self.check_leader(&mut findings);
        if findings.0.is_empty() { Ok(()) } else { Err(findings.0) }
    }

    fn check_hosts(&self, findings: &mut Findings) {
        for host in self.all_hosts() {
            findings.expect(self.target(&host.target).is_some(), Invariant::HostHasTarget, || {
                format!("host {} of target {}", host.initiator, host.target)
            });
        }
    }

    fn check_luns(&self, findings: &mut Findings) {
        for mapping in self.all_luns() {
            let what = || format!("LUN {} of target {}", mapping.lun, mapping.target);
            findings.expect(self.target(&mapping.target).is_some(), Invariant::LunHasTarget, what);
            findings.expect(self.lu(&mapping.lu).is_some(), Invariant::LunHasLu, what);
            if let Some(host) = &mapping.host {
                let key = HostKey { target: mapping.target.clone(), initiator: host.clone() };
                findings.expect(self.hosts.get(&key).is_some(), Invariant::LunHasHost, what);
            }
        }
    }

    /// The keys keep a number to one unit in one scope, the target's or a host's; what is left is between scopes.
    fn check_views(&self, findings: &mut Findings) {
        let mut common_by_number: HashMap<(&Iqn, Lun), LuId> = HashMap::new();
        let mut by_lu: HashMap<(&Iqn, Option<&Iqn>, LuId), Lun> = HashMap::new();
        for mapping in self.all_luns() {
            if mapping.host.is_none() {
                common_by_number.insert((&mapping.target, mapping.lun), mapping.lu);
            }
            let scope = (&mapping.target, mapping.host.as_ref(), mapping.lu);
            findings.expect(by_lu.insert(scope, mapping.lun).is_none(), Invariant::LunOneNumberPerLu, || {
                format!("logical unit {} in target {}", mapping.lu, mapping.target)
            });
        }
        for mapping in self.all_luns() {
            let Some(host) = &mapping.host else { continue };
            let what = || format!("LUN {} of host {host} in target {}", mapping.lun, mapping.target);
            let number_free = !common_by_number.contains_key(&(&mapping.target, mapping.lun));
            findings.expect(number_free, Invariant::LunOneLuPerNumber, what);
            let unit_free = !by_lu.contains_key(&(&mapping.target, None, mapping.lu));
            findings.expect(unit_free, Invariant::LunOneNumberPerLu, what);
        }
    }

    fn check_lus(&self, findings: &mut Findings) {
        let (mut names, mut images) = (HashSet::new(), HashSet::new());
        let (mut wwns, mut serials) = (HashSet::new(), HashSet::new());
        for lu in self.lus() {
            let what = || format!("logical unit {} ({})", lu.id, lu.name());
            findings.expect(names.insert(lu.name()), Invariant::LuNameUnique, what);
            if let Backend::Rbd { image, image_id } = &lu.backend {
                let image = (image.pool(), image.namespace(), image_id);
                findings.expect(images.insert(image), Invariant::LuImageUnique, what);
            }
            if let Some(wwn) = &lu.wwn {
                findings.expect(wwns.insert(wwn), Invariant::LuWwnUnique, what);
            }
            findings.expect(serials.insert(&lu.serial), Invariant::LuSerialUnique, what);
            let block_bytes = u64::from(lu.block_size.bytes());
            let size_good =
                lu.backend.size_bytes().is_none_or(|size| size > 0 && size.is_multiple_of(block_bytes));
            findings.expect(size_good, Invariant::LuSizeOfBlocks, what);
        }
    }

    fn check_placements(&self, findings: &mut Findings) {
        let known: HashSet<&DaemonId> = self.daemons().map(|daemon| &daemon.id).collect();
        for placement in self.placements() {
            let what = || format!("placement of {} on lus.{}", placement.lu, placement.owner);
            findings.expect(self.lu(&placement.lu).is_some(), Invariant::PlacementHasLu, what);
            findings.expect(known.contains(&placement.owner), Invariant::PlacementHasOwner, what);
            let pin_known = placement.pin.as_ref().is_none_or(|pin| known.contains(pin));
            findings.expect(pin_known, Invariant::PlacementHasPin, what);
            findings.expect(placement.since <= self.epoch(), Invariant::NothingFromTheFuture, what);
        }
    }

    fn check_leader(&self, findings: &mut Findings) {
        let Some(leader) = self.leader() else { return };
        let what = || leader.to_string();
        findings.expect(leader.term == self.meta().leader_term, Invariant::LeaderOfTerm, what);
        findings.expect(leader.up_from <= self.epoch(), Invariant::NothingFromTheFuture, what);
    }

    fn check_daemons(&self, findings: &mut Findings) {
        let mut tags: BTreeMap<u16, &DaemonId> = BTreeMap::new();
        let mut addresses: HashSet<&ClientAddr> = HashSet::new();
        let mut last: Option<&DaemonInstance> = None;
        for daemon in self.daemons() {
            let what = || daemon.key().to_string();
            findings.expect(last.is_none_or(|l| l.id != daemon.id), Invariant::DaemonOneInstance, what);
            let tag_owner = *tags.entry(daemon.portal_group_tag.get()).or_insert(&daemon.id);
            findings.expect(*tag_owner == daemon.id, Invariant::DaemonTagUnique, what);
            for addr in daemon.unfenced().chain(daemon.fenced.iter().map(|fenced| &fenced.addr)) {
                findings.expect(addresses.insert(addr), Invariant::DaemonAddressOnce, || {
                    format!("{} of {}", addr, daemon.key())
                });
            }
            let newest = daemon.state.down_at().unwrap_or(daemon.up_from).max(daemon.up_from);
            findings.expect(newest <= self.epoch(), Invariant::NothingFromTheFuture, what);
            last = Some(daemon);
        }
    }
}
