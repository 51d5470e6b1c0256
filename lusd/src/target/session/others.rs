//! Tasks that others carry out: changes of reservations, and copies.

use std::sync::Arc;

use lusd_iscsi::TaskTag;
use lusd_scsi::{ExtendedCopy, Fault, Lun, ReserveRequest, Status, Target};
use tokio::sync::oneshot;

use super::{Carrier, Session, Task};
use crate::lun::copy::{PIECE_BYTES, Place};
use crate::lun::job::Entry;
use crate::lun::reserve::Ask;
use crate::lun::unit::Unit;
use crate::net::shard::Outcome;
use crate::target::answer::{Reply, put_off, refuse_gone};

impl Session {
    /// Asks whoever serves the unit to change its reservations.
    #[expect(clippy::too_many_arguments, reason = "a task's parts, taken apart by the caller")]
    pub(super) fn reserve(
        &mut self,
        tag: TaskTag,
        lun: Lun,
        unit: Arc<Unit>,
        request: ReserveRequest,
        transfer_length: u64,
        entry: Entry,
        cx: &mut Carrier<'_>,
    ) {
        let Some(slot) = self.slot(lun, &unit) else {
            return refuse_gone(cx.proto, tag, &unit, transfer_length);
        };
        let (answer, answered) = oneshot::channel();
        unit.desk.put(Ask {
            request,
            nexus: slot.nexus.handle(),
            reset_generation: entry.reset_generation,
            aborts: entry.aborts,
            before: entry.alive + cx.shard.service.limits.stall_bound,
            answer,
        });
        // Without an answer it is not known what became of it.
        let outcome = async move { answered.await.map_or(Outcome::Revoked, Outcome::Reserved) };
        cx.inbox.expect(tag, outcome);
        let reply = Reply { lun, at: 0, writes: true, transfer_length };
        self.set(tag, Task::Running { unit, reply });
    }

    /// Begins a copy between units that the session sees.
    pub(super) fn start_copy(
        &mut self,
        tag: TaskTag,
        unit: Arc<Unit>,
        copy: Box<ExtendedCopy>,
        reply: Reply,
        entry: Entry,
        cx: &mut Carrier<'_>,
    ) {
        let late = cx.now.saturating_duration_since(entry.alive) > cx.shard.service.limits.stall_bound;
        let charge = if late { None } else { cx.memory.try_charge_spare(PIECE_BYTES) };
        let Some(charge) = charge else {
            copy.record.end(Err(Fault::CopyAborted.into()));
            return put_off(cx.proto, tag, Status::Busy, reply.transfer_length);
        };
        let find = |target: &Target| {
            let mut slots = self.luns.0.values();
            let slot = slots.find(|slot| target.is(&slot.unit.scsi, &self.port))?;
            let (nexus, aborts) = (slot.nexus.handle(), slot.nexus.aborts());
            Some(Place { unit: slot.unit.clone(), nexus, aborts })
        };
        let units = copy.targets.iter().map(find).collect();
        let stop = cx.shard.spawn_copy(&unit, (copy, units), charge, cx.inbox, tag, entry);
        self.copies.push((tag, stop));
        self.set(tag, Task::Running { unit, reply });
    }

    /// The task has ended, or is to end.
    pub(in crate::target) fn stop_copy(&mut self, tag: TaskTag) {
        self.copies.retain(|(held, stop)| {
            stop.set(stop.get() || *held == tag);
            *held != tag
        });
    }
}
