//! One session's SCSI side: its LUNs, and each of its tasks from the command to its one answer. A session of several connections has one
//! of these for each; what they share is in their [`group`](super::group).
//!
//! ```text
//!   Command ─ plan ─┬─ Reply ──────────────────────────────────────────────► respond
//!                   ├─ wants data-out ─ accept ─ Collecting ─ DataOut ─┐
//!                   └─ Block ─ (Hungry: no memory to read into) ───────┴─► gate ─┬─ Running ─ Outcome ─► respond
//!                                                                                └─ Parked (a barrier is held) ─ again
//! ```
//!
//! Invariant: a task is ended exactly once, by `respond` or `abandon`; the protocol layer asserts it.

mod data;
mod fence;
mod luns;
mod others;
mod task;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use lusd_iscsi::{Connection as Proto, DataOut, Params, ScsiCommand, TaskAttribute, TaskReporting, TaskTag};
use lusd_scsi::{
    AccessState, After, BlockOp, CheckCondition, Context, InitiatorPort, Lun, Plan, SenseCode, SenseKey,
    Status, Step, TargetPort, TaskManagementFunctions,
};
use tracing::debug;

use self::fence::Answer;
use self::luns::Luns;
pub(super) use self::luns::Slot;
pub(super) use self::task::Task;
pub use self::task::{Carrier, Flow, Lost, NoAccess};
use super::answer::{Reply, answer, end, good, put_off, refuse, refuse_gone};
use super::group::Membership;
use super::management::Management;
use super::order::Order;
use crate::lun::job::Entry;
use crate::lun::reserve;
use crate::lun::unit::Unit;
use crate::lun::work::{Request, Work};
use crate::net::memory::Charge;
use crate::net::shard::{Outcome, Shard, Started};

/// An initiator message that makes no sense: here a task attribute (SAM-5 8.6.2).
const INVALID_MESSAGE_ERROR: SenseCode = SenseCode { key: SenseKey::IllegalRequest, asc: 0x49, ascq: 0 };

/// See the module's text.
pub struct Session {
    initiator: InitiatorPort,
    pub(super) port: TargetPort,
    pub(super) luns: Luns,
    generation: u64,
    /// By task tag.
    pub(super) tasks: Vec<Option<(TaskTag, Task)>>,
    /// The command that waits for data memory, and before when it did not come.
    pub(super) waiting: Option<(ScsiCommand, Instant)>,
    /// Set while any task is parked.
    parked: bool,
    /// Set while any task waits for memory.
    hungry: bool,
    /// Set while any task waits for a look.
    pub(super) asking: bool,
    /// Set while any answer waits for acknowledgements.
    fenced: bool,
    pub(super) management: Management,
    /// Copies and erasures under way, and what stops each, or the wait for it.
    copies: Vec<(TaskTag, Rc<Cell<bool>>)>,
    /// Tasks that are not SIMPLE.
    pub(super) order: Order,
    /// Its place among the session's connections.
    pub(super) membership: Option<Membership>,
    /// How functions that end many tasks do it here.
    pub(super) task_reporting: TaskReporting,
    /// Resets of any unit that were looked at.
    resets_seen: u64,
}

/// What a session can do with tasks; from iSCSIProtocolLevel 2 on also what RFC 7144 adds.
const fn task_management(protocol_level: u8) -> TaskManagementFunctions {
    if protocol_level < 2 {
        return TaskManagementFunctions::RFC_7143;
    }
    TaskManagementFunctions::RFC_7143
        .and(TaskManagementFunctions::QUERY_TASK)
        .and(TaskManagementFunctions::QUERY_TASK_SET)
        .and(TaskManagementFunctions::QUERY_ASYNCHRONOUS_EVENT)
        .and(TaskManagementFunctions::I_T_NEXUS_RESET)
}

impl Session {
    /// A session that has just logged in.
    pub fn new(
        shard: &Shard,
        initiator: InitiatorPort,
        target: String,
        params: &Params,
        membership: Option<Membership>,
    ) -> Self {
        let port = TargetPort {
            target_name: target,
            portal_group_tag: 0,
            relative_target_port: 1,
            target_port_group: 0,
            task_management: task_management(params.protocol_level),
        };
        let mut session = Self {
            initiator,
            port,
            luns: Luns::default(),
            generation: 0,
            tasks: Vec::new(),
            waiting: None,
            parked: false,
            hungry: false,
            asking: false,
            fenced: false,
            management: Management::default(),
            copies: Vec::new(),
            order: Order::default(),
            membership,
            task_reporting: params.task_reporting,
            resets_seen: shard.service.resets(),
        };
        // A host that lost its access since its login was granted is told so by the connection's next refresh.
        let _ = session.load(shard);
        if let Some(membership) = &session.membership {
            membership.has_luns();
            // What is news to the session another connection tells, which has been in it.
            if !membership.group.has_seen() {
                membership.group.news(session.luns.units());
            }
        }
        session
    }

    /// Its place among the session's connections.
    pub fn membership(&self) -> Option<&Membership> {
        self.membership.as_ref()
    }

    /// True while a command waits for data memory.
    pub fn waits_for_memory(&self) -> bool {
        self.waiting.is_some() || self.hungry
    }

    /// Tries again what was held up: tasks parked at a gate or for a look, answers to task management, a command without memory.
    pub fn resume(&mut self, cx: &mut Carrier<'_>) {
        // First: what its own session has ended is not another's doing.
        if self.membership.as_ref().is_some_and(|membership| !membership.mail.is_empty()) {
            self.read_mail(cx.proto);
        }
        let resets = cx.shard.service.resets();
        if self.resets_seen != resets {
            self.resets_seen = resets;
            self.end_reset(cx.proto);
        }
        self.unpark(cx);
        self.feed(cx);
        self.end_cut_off(cx);
        self.answer_looked_at(cx);
        self.answer_fenced(cx.proto);
        self.answer_management(cx.proto);
        if let Some((command, came)) = self.waiting.take() {
            self.take_over(command, came, cx);
        }
    }

    /// Tries parked tasks again, the oldest first where their order counts.
    pub(super) fn unpark(&mut self, cx: &mut Carrier<'_>) {
        if !std::mem::take(&mut self.parked) {
            return;
        }
        let parked = |slot: &Option<(TaskTag, Task)>| match slot {
            Some((tag, Task::Parked { .. })) => Some(*tag),
            _ => None,
        };
        let mut tags: Vec<TaskTag> = self.tasks.iter().filter_map(parked).collect();
        if !self.order.is_idle()
            && let Some(first) = tags.first().and_then(|tag| cx.proto.task(*tag)).map(|task| task.cmd_sn)
        {
            // Numbers wrap; all that are here lie within half of their range.
            let start = first.sub(1 << 30);
            tags.sort_by_key(|tag| cx.proto.task(*tag).map_or(0, |task| task.cmd_sn.since(start)));
        }
        for tag in tags {
            let Some(Task::Parked { unit, request, reply }) = self.take(tag) else {
                unreachable!("looked at above")
            };
            if request.entry.is_ended(&unit) {
                end(cx.proto, tag, &unit, reply.transfer_length);
            } else {
                self.start(tag, unit, request, reply, cx);
            }
        }
    }

    /// A command has arrived. It is answered, or on its way, unless there is no memory for it: then it is kept, and taken up again by
    /// [`Session::resume`].
    pub fn command(&mut self, command: ScsiCommand, cx: &mut Carrier<'_>) -> Flow {
        let came = cx.since;
        self.take_over(command, came, cx)
    }

    fn take_over(&mut self, command: ScsiCommand, came: Instant, cx: &mut Carrier<'_>) -> Flow {
        let tag = command.tag;
        let lun = Lun::from_wire(command.lun.to_be_bytes());
        let slot = lun.and_then(|lun| self.luns.0.get(&lun));
        let context = Context { lun, port: &self.port, session: &self.luns };
        let mut plan = match lusd_scsi::plan(command.cdb.as_slice(), &context, slot.map(Slot::scsi)) {
            Ok(plan) => plan,
            Err(check) => {
                match slot {
                    // It may be about tasks that were ended (RFC 7143 4.2.2.3.4).
                    Some(Slot { unit, .. }) if check.code.key == SenseKey::UnitAttention => {
                        let unit = unit.clone();
                        cx.proto.accept(tag, DataOut::None);
                        self.answer_behind_others(tag, &unit, Answer::Check(check), 0, cx.proto);
                    }
                    _ => refuse(cx.proto, tag, &check, slot.map(|slot| &*slot.unit), 0),
                }
                return Flow::Taken;
            }
        };
        if let Step::Status(status) = plan.step {
            put_off(cx.proto, tag, status, 0);
            return Flow::Taken;
        }
        let (Some(lun), Some(slot)) = (lun, slot) else {
            // Only what is answered without a logical unit gets here: INQUIRY, REPORT LUNS, REQUEST SENSE.
            match plan.step {
                Step::Reply(data) => good(cx.proto, tag, data, plan.transfer_in),
                _ => unreachable!("the device server planned a medium access without a logical unit"),
            }
            return Flow::Taken;
        };
        let unit = slot.unit.clone();
        if command.attribute == TaskAttribute::Aca {
            // SAM-5 8.6.2: there is no auto contingent allegiance here.
            let check = CheckCondition::new(INVALID_MESSAGE_ERROR);
            refuse(cx.proto, tag, &check, Some(&unit), 0);
            return Flow::Taken;
        }
        let entry =
            Entry { reset_generation: unit.reset_generation(), aborts: slot.nexus.aborts(), alive: came };
        self.order.note(&command, &unit, &self.membership);
        if self.looks_first(&command, &unit, entry, cx) {
            return Flow::Taken;
        }
        let edtl = u64::from(command.expected_data_transfer_length);
        let available = if command.write { edtl } else { 0 };
        let mut wanted = plan.transfer_out;
        if available != wanted && (wanted > 0 || plan.exact_at.is_some()) {
            match plan.limit_data_out(&unit.scsi, available) {
                Ok(bytes) => wanted = bytes,
                Err(check) => {
                    refuse(cx.proto, tag, &check, Some(&unit), plan.transfer_out);
                    return Flow::Taken;
                }
            }
        }
        plan.limit_data_in(&unit.scsi, if command.read { edtl } else { 0 });
        let read_bytes = match &plan.step {
            Step::Block(op) if unit.reads_into_buffers() => Work::read_bytes_of(op),
            _ => 0,
        };
        if wanted > 0 {
            return self.collect(command, entry, lun, unit, plan, wanted as usize, read_bytes, cx);
        }
        cx.proto.accept(tag, DataOut::None);
        let charge = match read_bytes {
            0 => None,
            missing => match cx.memory.try_charge_spare(missing) {
                Some(charge) => Some(charge),
                None => {
                    self.set(tag, Task::Hungry { lun, unit, plan, missing, entry });
                    self.hungry = true;
                    return Flow::Taken;
                }
            },
        };
        self.carry_out(tag, lun, unit, plan, Bytes::new(), charge, entry, cx);
        Flow::Taken
    }

    #[expect(clippy::too_many_arguments, reason = "a task's parts, taken apart by the caller")]
    fn carry_out(
        &mut self,
        tag: TaskTag,
        lun: Lun,
        unit: Arc<Unit>,
        plan: Plan,
        data: Bytes,
        charge: Option<Charge>,
        entry: Entry,
        cx: &mut Carrier<'_>,
    ) {
        let transfer_length = plan.transfer_in.max(plan.transfer_out);
        let op = match plan.step {
            Step::Reply(reply) => return good(cx.proto, tag, reply, transfer_length),
            Step::Block(op) => op,
            Step::Status(status) => return put_off(cx.proto, tag, status, transfer_length),
            Step::Reserve(request) => {
                return self.reserve(tag, lun, unit, request, transfer_length, entry, cx);
            }
            Step::Parameters(parameters) => {
                let Some(slot) = self.slot(lun, &unit) else {
                    return refuse_gone(cx.proto, tag, &unit, transfer_length);
                };
                if slot.nexus.aborts() != entry.aborts {
                    return end(cx.proto, tag, &unit, transfer_length);
                }
                match parameters.finish(slot.scsi(), &data) {
                    Ok(After::Done) => return good(cx.proto, tag, Bytes::new(), transfer_length),
                    Ok(After::Block(op)) => op,
                    Ok(After::Copy(copy)) => {
                        let reply = Reply { lun, at: 0, writes: true, transfer_length };
                        return self.start_copy(tag, unit, copy, reply, entry, cx);
                    }
                    Ok(After::Status(status)) => return put_off(cx.proto, tag, status, transfer_length),
                    Ok(After::Reserve(request)) => {
                        return self.reserve(tag, lun, unit, request, transfer_length, entry, cx);
                    }
                    Err(check) => return refuse(cx.proto, tag, &check, Some(&unit), transfer_length),
                }
            }
        };
        let at = op.ranges().first().map_or(0, |range| range.offset);
        let reply = Reply { lun, at, writes: op.modifies(), transfer_length };
        self.start(tag, unit, Request { work: Work { op, data }, charge, entry }, reply, cx);
    }

    fn slot(&self, lun: Lun, unit: &Arc<Unit>) -> Option<&Slot> {
        self.luns.0.get(&lun).filter(|slot| Arc::ptr_eq(&slot.unit, unit))
    }

    fn start(
        &mut self,
        tag: TaskTag,
        unit: Arc<Unit>,
        mut request: Request,
        reply: Reply,
        cx: &mut Carrier<'_>,
    ) {
        let entry = request.entry;
        if let Err(mut check) = unit.scsi.admit(&request.work.op) {
            if unit.scsi.access() != AccessState::Serving {
                check = self.displaced(reply.lun, &unit);
            }
            return refuse(cx.proto, tag, &check, Some(&unit), reply.transfer_length);
        }
        let age = cx.now.saturating_duration_since(entry.alive);
        if reply.writes && age > cx.shard.service.limits.stall_bound {
            // Nothing was submitted, and nothing will be; who still waits for it repeats it.
            debug!(lu = %unit.name, ?age, "held off for too long: BUSY");
            return put_off(cx.proto, tag, Status::Busy, reply.transfer_length);
        }
        if !self.may_start(tag, &unit, cx.proto) {
            self.parked = true;
            return self.set(tag, Task::Parked { unit, request, reply });
        }
        let slot = self.slot(reply.lun, &unit);
        let look = |op: &BlockOp| {
            let Some(nexus) = slot.map(|slot| &slot.nexus) else {
                // The LUN was unmapped meanwhile: what a reservation would say of its nexus is not known any more.
                return unit.scsi.reservations().kind.map(|_| Outcome::Conflict);
            };
            if nexus.aborts() != entry.aborts {
                Some(Outcome::Aborted)
            } else if !nexus.may(op) {
                Some(Outcome::Conflict)
            } else {
                None
            }
        };
        match cx.shard.start(&unit, &mut request, cx.inbox, tag, look) {
            Started::Pending => self.set(tag, Task::Running { unit, reply }),
            Started::Stoppable(stop) => {
                self.copies.push((tag, stop));
                self.set(tag, Task::Running { unit, reply });
            }
            Started::Done(Outcome::Revoked) => {
                // The outcome is not ours to tell: the next look at the handle resets the session.
                self.set(tag, Task::Aborted);
                cx.inbox.revoke();
            }
            Started::Done(outcome) => answer(cx.proto, tag, &unit, reply, outcome),
            Started::Held => {
                self.parked = true;
                self.set(tag, Task::Parked { unit, request, reply });
            }
            Started::Shut => {
                // Nothing was submitted: the host is told to look elsewhere, or to come again.
                let check = self.displaced(reply.lun, &unit);
                refuse(cx.proto, tag, &check, Some(&unit), reply.transfer_length);
            }
        }
    }

    /// What a command is told that finds its unit gone.
    fn displaced(&self, lun: Lun, unit: &Arc<Unit>) -> CheckCondition {
        unit.scsi.displaced(self.slot(lun, unit).map(|slot| &*slot.nexus))
    }

    /// An operation has ended.
    pub fn outcome(&mut self, tag: TaskTag, outcome: Outcome, proto: &mut Proto) -> Result<(), Lost> {
        self.stop_copy(tag);
        match (self.take(tag), outcome) {
            (_, Outcome::Revoked) => Err(Lost),
            // PREEMPT AND ABORT must (RFC 7143 4.2.2.3.4), the others may.
            (Some(Task::Running { unit, reply }), Outcome::Reserved(reserve::Reply::Answer(Ok(())))) => {
                self.answer_behind_others(tag, &unit, Answer::Good, reply.transfer_length, proto);
                self.answer_management(proto);
                Ok(())
            }
            (Some(Task::Running { unit, reply }), outcome) => {
                answer(proto, tag, &unit, reply, outcome);
                self.answer_management(proto);
                Ok(())
            }
            (Some(Task::Aborted), _) => {
                proto.abandon(tag);
                self.answer_management(proto);
                Ok(())
            }
            _ => unreachable!("an outcome for a task that does not run"),
        }
    }

    /// True while anything of the session could still take effect.
    pub(super) fn is_busy(&self) -> bool {
        self.tasks.iter().any(Option::is_some)
    }

    pub(super) fn set(&mut self, tag: TaskTag, task: Task) {
        let slot = tag.slot();
        if self.tasks.len() <= slot {
            self.tasks.resize_with(slot + 1, || None);
        }
        let before = self.tasks[slot].replace((tag, task));
        assert!(before.is_none(), "a task tag was used twice");
    }

    pub(super) fn take(&mut self, tag: TaskTag) -> Option<Task> {
        let (held, task) = self.tasks.get_mut(tag.slot())?.take()?;
        assert!(held == tag, "a task tag was used after its end");
        Some(task)
    }
}
