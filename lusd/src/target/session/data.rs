//! Data from the initiator, and the memory for data either way.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use lusd_iscsi::{Connection as Proto, DataOut, IscsiCondition, ScsiCommand, TaskTag};
use lusd_scsi::{CheckCondition, Lun, Plan, SenseCode, SenseKey, Status};
use tracing::{debug, warn};

use super::{Carrier, Flow, Session, Task};
use crate::lun::job::Entry;
use crate::lun::unit::Unit;
use crate::target::answer::{end, put_off, refuse};

impl Session {
    /// Takes over a command with data-out, or refuses it with TASK SET FULL, or keeps it until there is memory; but not until what came
    /// behind it is too old to be read: then it is BUSY.
    #[expect(clippy::too_many_arguments, reason = "a command's parts, taken apart by the caller")]
    pub(super) fn collect(
        &mut self,
        command: ScsiCommand,
        entry: Entry,
        lun: Lun,
        unit: Arc<Unit>,
        plan: Plan,
        wanted: usize,
        read_bytes: usize,
        cx: &mut Carrier<'_>,
    ) -> Flow {
        let tag = command.tag;
        let (all, at_once) = (wanted + read_bytes, wanted.min(command.unsolicited_length as usize));
        let whole = if cx.memory.is_scarce() && at_once < all { None } else { cx.memory.try_charge(all) };
        let (charge, missing) = match whole {
            Some(charge) => (charge, 0),
            None => match cx.memory.try_charge(at_once) {
                Some(charge) => (charge, all - at_once),
                None => {
                    // Not reading on would keep from these what they wait for.
                    let collects =
                        self.tasks.iter().flatten().any(|(_, task)| matches!(task, Task::Collecting { .. }));
                    let patience = cx.shard.service.limits.stall_bound / 3 * 2;
                    let status = if collects {
                        Status::TaskSetFull
                    } else if cx.now.saturating_duration_since(entry.alive) > patience {
                        Status::Busy
                    } else {
                        self.waiting = Some((command, entry.alive));
                        return Flow::NoMemory;
                    };
                    debug!(lu = %unit.name, bytes = at_once, ?status, "no memory");
                    put_off(cx.proto, tag, status, plan.transfer_out);
                    return Flow::Taken;
                }
            },
        };
        let (len, buf) = (wanted as u32, BytesMut::with_capacity(wanted));
        // What is asked for later on is sent only by who still waits.
        let proves = missing == 0 || at_once < wanted;
        self.set(tag, Task::Collecting { lun, unit, plan, charge, missing, proves, entry });
        self.hungry |= missing > 0;
        cx.proto.accept(
            tag,
            if missing > 0 { DataOut::Hold { len, buf } } else { DataOut::Receive { len, buf } },
        );
        Flow::Taken
    }

    /// Gives memory to tasks that wait for it. To be called when all that is there has been read, too.
    pub fn feed(&mut self, cx: &mut Carrier<'_>) {
        if !self.hungry {
            return;
        }
        let take = |bytes| cx.memory.try_charge_spare(bytes).or_else(|| cx.memory.try_reserve(bytes));
        self.hungry = false;
        let mut fed = Vec::new();
        for (tag, task) in self.tasks.iter_mut().flatten() {
            match task {
                Task::Collecting { missing, .. } | Task::Hungry { missing, .. } if *missing > 0 => {
                    match take(*missing) {
                        Some(more) => fed.push((*tag, more)),
                        None => {
                            self.hungry = true;
                            break;
                        }
                    }
                }
                _ => {}
            }
        }
        for (tag, more) in fed {
            match self.take(tag) {
                Some(Task::Collecting { lun, unit, plan, charge, proves, entry, .. }) => {
                    let charge = charge.join(more);
                    self.set(tag, Task::Collecting { lun, unit, plan, charge, missing: 0, proves, entry });
                    cx.proto.solicit(tag);
                }
                Some(Task::Hungry { unit, plan, entry, .. }) if entry.is_ended(&unit) => {
                    end(cx.proto, tag, &unit, plan.transfer_in);
                }
                Some(Task::Hungry { lun, unit, plan, entry, .. }) => {
                    self.carry_out(tag, lun, unit, plan, Bytes::new(), Some(more), entry, cx);
                }
                _ => unreachable!("looked at above"),
            }
        }
    }

    /// All data-out of a task is there.
    pub fn data_out(&mut self, tag: TaskTag, data: BytesMut, cx: &mut Carrier<'_>) {
        match self.take(tag) {
            Some(Task::Collecting { unit, plan, entry, .. }) if entry.is_ended(&unit) => {
                end(cx.proto, tag, &unit, plan.transfer_out);
            }
            Some(Task::Collecting { lun, unit, plan, charge, proves, entry, .. }) => {
                let alive = if proves { cx.since } else { entry.alive };
                let entry = Entry { alive, ..entry };
                self.carry_out(tag, lun, unit, plan, data.freeze(), Some(charge), entry, cx);
            }
            _ => unreachable!("data-out for a task that does not wait for it"),
        }
    }

    /// The data-out of a task cannot be had.
    pub fn data_out_failed(&mut self, tag: TaskTag, condition: &IscsiCondition, proto: &mut Proto) {
        match self.take(tag) {
            Some(Task::CutOff { .. }) => {
                proto.abandon(tag);
                self.answer_management(proto);
            }
            Some(Task::Collecting { unit, plan, .. }) => {
                warn!(lu = %unit.name, ?condition, "data for a write could not be had");
                let (_, asc, ascq) = condition.sense();
                let check = CheckCondition::new(SenseCode { key: SenseKey::AbortedCommand, asc, ascq });
                refuse(proto, tag, &check, Some(&unit), plan.transfer_out);
            }
            _ => unreachable!("data-out for a task that does not wait for it"),
        }
    }
}
