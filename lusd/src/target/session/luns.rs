//! What a session sees: its LUNs, and what it is told when they change.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use lusd_iscsi::{AsyncEvent, Connection as Proto};
use lusd_scsi::{CheckCondition, Lun, Nexus, NexusLu, SenseFormat, SessionView, UnitAttention};

use super::{NoAccess, Session};
use crate::lun::unit::Unit;
use crate::net::shard::Shard;

/// One LUN of the session.
pub(in crate::target) struct Slot {
    pub(in crate::target) unit: Arc<Unit>,
    pub(in crate::target) nexus: Rc<NexusLu>,
    /// The unit's reset generation up to which its tasks were looked at.
    pub(in crate::target) resets_seen: u64,
}

impl Slot {
    #[inline]
    pub(in crate::target) fn scsi(&self) -> lusd_scsi::Unit<'_> {
        lusd_scsi::Unit { lu: &self.unit.scsi, nexus: &self.nexus }
    }
}

/// The LUNs of a session.
#[derive(Default)]
pub(in crate::target) struct Luns(pub(in crate::target) BTreeMap<Lun, Slot>);

impl Luns {
    pub(super) fn units(&self) -> impl Iterator<Item = (Lun, &Arc<Unit>)> {
        self.0.iter().map(|(lun, slot)| (*lun, &slot.unit))
    }
}

impl SessionView for Luns {
    fn visit(&self, each: &mut dyn FnMut(Lun, Option<&NexusLu>)) {
        for (lun, slot) in &self.0 {
            each(*lun, Some(&slot.nexus));
        }
    }
}

/// Reports a unit attention at once, beside the unit attention itself.
fn tell(proto: &mut Proto, lun: u64, attention: UnitAttention, format: SenseFormat) {
    let sense = CheckCondition::new(attention.code()).sense(format);
    proto.send_async(AsyncEvent::Scsi { lun, sense: &sense });
}

impl Session {
    /// Takes over what has changed of what it sees, if something has, and tells the host.
    ///
    /// # Errors
    /// The host may not see the target any more.
    #[inline]
    pub fn refresh(&mut self, shard: &Shard, proto: &mut Proto) -> Result<(), NoAccess> {
        if shard.service.generation() == self.generation { Ok(()) } else { self.look_again(shard, proto) }
    }

    /// Tells of other LUNs by a unit attention, and of these and of other sizes at once by asynchronous messages (RFC 7143 11.9.1): a host
    /// that is idle would not hear of them before its next command.
    #[cold]
    fn look_again(&mut self, shard: &Shard, proto: &mut Proto) -> Result<(), NoAccess> {
        self.load(shard)?;
        let Some(membership) = &self.membership else { return Ok(()) };
        let news = membership.group.news(self.luns.units());
        if news.inventory {
            let attention = UnitAttention::ReportedLunsDataHasChanged;
            self.luns.0.values().for_each(|slot| slot.nexus.establish(attention));
            // LUN 0: it answers REPORT LUNS whether there is a unit or not.
            tell(proto, 0, attention, SenseFormat::Fixed);
        }
        for lun in news.resized {
            let format =
                self.luns.0.get(&lun).map_or(SenseFormat::Fixed, |slot| slot.unit.scsi.sense_format());
            let lun = u64::from_be_bytes(lun.to_wire());
            tell(proto, lun, UnitAttention::CapacityDataHasChanged, format);
        }
        Ok(())
    }

    pub(super) fn load(&mut self, shard: &Shard) -> Result<(), NoAccess> {
        // Read first: the view is at least as new.
        let generation = shard.service.generation();
        let view = shard.service.view();
        let target =
            view.targets.get(&self.port.target_name).filter(|target| target.admits(&self.initiator.name));
        let wanted = target.ok_or(NoAccess)?.luns_of(&self.initiator.name);
        self.generation = generation;
        self.port.portal_group_tag = view.group_tag;
        self.port.relative_target_port = view.group_tag;
        self.port.target_port_group = view.group_tag;
        self.luns.0.retain(|lun, slot| wanted.get(lun).is_some_and(|unit| Arc::ptr_eq(unit, &slot.unit)));
        for (lun, unit) in wanted {
            let membership = &self.membership;
            self.luns.0.entry(lun).or_insert_with(|| {
                let port =
                    Nexus { initiator: self.initiator.clone(), target_port: self.port.relative_target_port };
                let make = || NexusLu::new(&unit.scsi, port, Some(UnitAttention::PowerOn));
                let nexus = match membership {
                    Some(membership) => membership.group.nexus(lun, &unit, make),
                    None => Rc::new(make()),
                };
                let resets_seen = unit.reset_generation();
                Slot { unit, nexus, resets_seen }
            });
        }
        Ok(())
    }
}
