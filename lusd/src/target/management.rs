//! Task management (RFC 7143 11.5, SAM-5 7): each function is answered only when the tasks it is about have ended, or can never take
//! effect. librbd cannot cancel, so a task that is in RADOS is waited for.
//!
//! Functions that end many tasks also wait until the initiator has sent what it had been asked for (RFC 7143 4.2.3.3), unless the session
//! reports by FastAbort (4.2.3.4). Initiators are known that never send it, so the wait has an end: target transfer tags are not used
//! again, and what comes later is dropped.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lusd_iscsi::{
    AsyncEvent, Connection as Proto, Referenced, TaskReporting, TaskTag, TmfFunction, TmfRequest, TmfResponse,
};
use lusd_scsi::{Lun, UnitAttention};
use tracing::{debug, info};

use super::answer::end;
use super::group::{Abort, Promise};
use super::session::{Carrier, Session, Slot, Task};
use crate::lun::unit::Unit;
use crate::lun::work::Request;

/// How long a function waits for data that had been asked for.
const DATA_PATIENCE: Duration = Duration::from_secs(1);

/// Functions and a logout that wait for tasks to end.
#[derive(Default)]
pub(super) struct Management {
    pending: Vec<Pending>,
    /// The initiator has asked to log out; it is answered when nothing is left.
    logout: bool,
    /// A TARGET COLD RESET was answered: all sessions of the target are to end.
    cold_reset: bool,
    /// Set while any task is cut off.
    cut_off: bool,
}

struct Pending {
    whose: Whose,
    /// Own tasks that have not ended.
    tasks: Vec<TaskTag>,
    /// Units whose operations, of all sessions, have not all ended.
    resets: Rc<Cell<usize>>,
}

/// Who waits for the end.
enum Whose {
    /// The initiator, for the answer.
    Initiator { initiator_task_tag: u32, is_cold_reset: bool },
    /// Another connection of the session; the promise is held until then.
    Sibling { _promise: Promise },
}

impl Session {
    /// A task management function has arrived.
    pub fn task_management(&mut self, request: &TmfRequest, cx: &mut Carrier<'_>) {
        let lun = Lun::from_wire(request.lun.to_be_bytes());
        let unit = lun.and_then(|lun| self.luns.0.get(&lun)).map(|slot| slot.unit.clone());
        info!(function = ?request.function, ?lun, lu = unit.as_ref().map(|unit| unit.name.as_str()), "task management");
        let respond = |proto: &mut Proto, response| proto.tmf_response(request.initiator_task_tag, response);
        match request.function {
            TmfFunction::AbortTask => match request.referenced {
                Referenced::Task(tag) => {
                    let tasks = if self.end_task(tag, None, cx.proto) { vec![tag] } else { vec![] };
                    self.pend(request, tasks, Rc::default(), cx.proto);
                }
                // It has not arrived and never will: as good as aborted (RFC 7143 11.5.1 b).
                Referenced::CmdSnNotReceived => respond(cx.proto, TmfResponse::FunctionComplete),
                Referenced::NotInTask | Referenced::Nothing => {
                    respond(cx.proto, TmfResponse::TaskDoesNotExist)
                }
            },
            TmfFunction::AbortTaskSet | TmfFunction::ClearTaskSet | TmfFunction::LogicalUnitReset => {
                let Some(unit) = unit else { return respond(cx.proto, TmfResponse::LunDoesNotExist) };
                let resets = Rc::new(Cell::new(0));
                match request.function {
                    TmfFunction::LogicalUnitReset => {
                        reset(&unit, &resets, cx);
                        unit.scsi.reset(UnitAttention::DeviceReset, None);
                    }
                    TmfFunction::ClearTaskSet => {
                        reset(&unit, &resets, cx);
                        if !unit.answers_ended_tasks() {
                            let own = lun.and_then(|lun| self.luns.0.get(&lun)).map(|slot| &*slot.nexus);
                            unit.scsi.raise(UnitAttention::CommandsCleared, own);
                        }
                    }
                    _ => {}
                }
                let until = self.data_patience(cx.now);
                if let Some(membership) = &self.membership {
                    membership.abort(Some(&unit), until, &resets);
                }
                let tasks = self.end_tasks(|task_unit| Arc::ptr_eq(task_unit, &unit), until, cx.proto);
                self.note_resets();
                self.pend(request, tasks, resets, cx.proto);
            }
            TmfFunction::TargetWarmReset | TmfFunction::TargetColdReset => {
                let attention = match request.function {
                    TmfFunction::TargetWarmReset => UnitAttention::BusReset,
                    _ => UnitAttention::PowerOn,
                };
                let resets = Rc::new(Cell::new(0));
                for slot in self.luns.0.values() {
                    reset(&slot.unit, &resets, cx);
                    slot.unit.scsi.reset(attention, None);
                }
                let until = self.data_patience(cx.now);
                let tasks = self.end_tasks(|_| true, until, cx.proto);
                self.note_resets();
                self.pend(request, tasks, resets, cx.proto);
            }
            TmfFunction::ItNexusReset => {
                for slot in self.luns.0.values() {
                    slot.nexus.establish(UnitAttention::NexusLoss);
                }
                let (until, left) = (self.data_patience(cx.now), Rc::default());
                if let Some(membership) = &self.membership {
                    membership.abort(None, until, &left);
                }
                let tasks = self.end_tasks(|_| true, until, cx.proto);
                self.pend(request, tasks, left, cx.proto);
            }
            TmfFunction::QueryTask | TmfFunction::QueryTaskSet | TmfFunction::QueryAsynchronousEvent => {
                let Some(unit) = unit else { return respond(cx.proto, TmfResponse::LunDoesNotExist) };
                self.query(request, &unit, cx.proto);
            }
            TmfFunction::TaskReassign => {
                respond(cx.proto, TmfResponse::TaskAllegianceReassignmentNotSupported)
            }
            // Control mode page: no NACA (SPC-4 4.5.4).
            TmfFunction::ClearAca => respond(cx.proto, TmfResponse::FunctionNotSupported),
        }
    }

    /// Functions that only ask (RFC 7144 4.1): Function Succeeded says yes.
    fn query(&self, request: &TmfRequest, unit: &Arc<Unit>, proto: &mut Proto) {
        let is_on = |lun: u64| lun == request.lun;
        let (yes, additional) = match request.function {
            TmfFunction::QueryTask => match request.referenced {
                Referenced::Task(tag) => (proto.task(tag).is_some_and(|task| is_on(task.lun)), [0; 3]),
                _ => (false, [0; 3]),
            },
            TmfFunction::QueryTaskSet => (proto.tasks().any(|task| is_on(task.lun)), [0; 3]),
            _ => {
                let slot = self.luns.0.values().find(|slot| Arc::ptr_eq(&slot.unit, unit));
                match slot.and_then(|slot| slot.nexus.pending(&unit.scsi)) {
                    // SAM-5 7.9: UADE depth 1 (how many more there are is not said), then the sense.
                    Some(code) => (true, [1 << 4 | code.key as u8, code.asc, code.ascq]),
                    None => (false, [0; 3]),
                }
            }
        };
        let response = if yes { TmfResponse::FunctionSucceeded } else { TmfResponse::FunctionComplete };
        proto.tmf_response_with(request.initiator_task_tag, response, additional);
    }

    /// Until when data that had been asked for is waited for; none where nothing is.
    fn data_patience(&self, now: Instant) -> Option<Instant> {
        (self.task_reporting != TaskReporting::FastAbort).then_some(now + DATA_PATIENCE)
    }

    /// Own resets are no news.
    fn note_resets(&mut self) {
        for slot in self.luns.0.values_mut() {
            slot.resets_seen = slot.unit.reset_generation();
        }
    }

    /// Another session has reset a unit: ends what this one has on it, and says so where FastAbort was agreed on (RFC 7143 4.2.3.4 c).
    pub(super) fn end_reset(&mut self, proto: &mut Proto) {
        let is_reset = |slot: &&mut Slot| slot.resets_seen != slot.unit.reset_generation();
        let mut reset = Vec::new();
        for slot in self.luns.0.values_mut().filter(is_reset) {
            slot.resets_seen = slot.unit.reset_generation();
            reset.push(slot.unit.clone());
        }
        for unit in reset {
            let mut affected = None;
            for index in 0..self.tasks.len() {
                let Some((tag, task)) = &self.tasks[index] else { continue };
                let tag = *tag;
                let ends = match task {
                    Task::Collecting { unit: on, entry, .. }
                    | Task::Hungry { unit: on, entry, .. }
                    | Task::Parked { unit: on, request: Request { entry, .. }, .. } => {
                        Arc::ptr_eq(on, &unit) && entry.is_ended(on)
                    }
                    Task::Asking(asking) => Arc::ptr_eq(&asking.unit, &unit) && asking.is_ended(),
                    // Its outcome says whether it is ended.
                    Task::Running { unit: on, .. } => {
                        if Arc::ptr_eq(on, &unit) {
                            affected = proto.task(tag).map(|task| task.lun);
                        }
                        false
                    }
                    Task::Aborted | Task::CutOff { .. } => false,
                };
                if ends {
                    affected = proto.task(tag).map(|task| task.lun);
                    self.tell_ended(tag, proto);
                }
            }
            if let (Some(lun), TaskReporting::FastAbort) = (affected, self.task_reporting) {
                proto.send_async(AsyncEvent::TaskTermination { lun });
            }
        }
    }

    /// Ends a task that another session has ended and that is not in the backend.
    fn tell_ended(&mut self, tag: TaskTag, proto: &mut Proto) {
        let (unit, transfer_length) = match self.take(tag) {
            Some(Task::Collecting { unit, plan, .. }) => (unit, plan.transfer_out),
            Some(Task::Hungry { unit, plan, .. }) => (unit, plan.transfer_in),
            Some(Task::Parked { unit, reply, .. }) => (unit, reply.transfer_length),
            Some(Task::Asking(asking)) => (asking.unit, 0),
            Some(Task::Running { .. } | Task::Aborted | Task::CutOff { .. }) | None => {
                unreachable!("looked at by the caller")
            }
        };
        end(proto, tag, &unit, transfer_length);
    }

    /// Ends what functions are about that other connections of the session have brought, and says so where FastAbort was agreed on (RFC
    /// 7143 4.2.3.4 c).
    pub(super) fn end_for_others(&mut self, proto: &mut Proto) {
        let Some(membership) = &self.membership else { return };
        for Abort { unit, until, promise } in membership.mail.take() {
            let is_meant = |task: &Arc<Unit>| unit.as_ref().is_none_or(|unit| Arc::ptr_eq(task, unit));
            let affected = self.luns.0.values().filter(|slot| is_meant(&slot.unit)).find_map(|slot| {
                let mut tasks = self.tasks.iter().flatten();
                let (tag, _) = tasks.find(|(_, task)| {
                    super::order::unit_of(task).is_some_and(|on| Arc::ptr_eq(on, &slot.unit))
                })?;
                proto.task(*tag).map(|task| task.lun)
            });
            if let (Some(lun), TaskReporting::FastAbort) = (affected, self.task_reporting) {
                proto.send_async(AsyncEvent::TaskTermination { lun });
            }
            let tasks = self.end_tasks(is_meant, until, proto);
            let whose = Whose::Sibling { _promise: promise };
            self.management.pending.push(Pending { whose, tasks, resets: Rc::default() });
        }
        self.answer_management(proto);
    }

    /// Gives up on data that does not come.
    pub(super) fn end_cut_off(&mut self, cx: &mut Carrier<'_>) {
        if !std::mem::take(&mut self.management.cut_off) {
            return;
        }
        for index in 0..self.tasks.len() {
            match &self.tasks[index] {
                Some((tag, Task::CutOff { until })) if cx.now >= *until => {
                    let tag = *tag;
                    self.take(tag);
                    cx.proto.abandon(tag);
                }
                Some((_, Task::CutOff { .. })) => self.management.cut_off = true,
                _ => {}
            }
        }
    }

    /// True once after a TARGET COLD RESET was answered.
    pub fn take_cold_reset(&mut self) -> bool {
        std::mem::take(&mut self.management.cold_reset)
    }

    /// TargetName.
    pub fn target(&self) -> &str {
        &self.port.target_name
    }

    /// The initiator logs out: what it still has under way is ended without an answer, and waited for.
    pub fn logout(&mut self, proto: &mut Proto) {
        self.management.logout = true;
        self.end_tasks(|_| true, None, proto);
        self.answer_management(proto);
    }

    /// The connection is gone: nothing is answered any more, and the nexuses are lost.
    pub fn close(&mut self) {
        self.tasks.clear();
        self.luns.0.clear();
    }

    /// Answers the functions, and the logout, whose tasks have all ended.
    pub(super) fn answer_management(&mut self, proto: &mut Proto) {
        if self.management.pending.is_empty() && !self.management.logout {
            return;
        }
        let (tasks, cold_reset) = (&self.tasks, &mut self.management.cold_reset);
        self.management.pending.retain_mut(|pending| {
            pending.tasks.retain(|tag| matches!(tasks.get(tag.slot()), Some(Some((held, _))) if held == tag));
            if !pending.tasks.is_empty() || pending.resets.get() > 0 {
                return true;
            }
            if let Whose::Initiator { initiator_task_tag, is_cold_reset } = pending.whose {
                proto.tmf_response(initiator_task_tag, TmfResponse::FunctionComplete);
                *cold_reset |= is_cold_reset;
            }
            false
        });
        if self.management.logout && !self.is_busy() {
            self.management.logout = false;
            // What its nexuses held by RESERVE is free when the answer leaves.
            self.luns.0.clear();
            proto.logout_complete();
        }
    }

    fn pend(
        &mut self,
        request: &TmfRequest,
        tasks: Vec<TaskTag>,
        resets: Rc<Cell<usize>>,
        proto: &mut Proto,
    ) {
        debug!(waits_for = tasks.len(), resets = resets.get(), "task management waits");
        let initiator_task_tag = request.initiator_task_tag;
        let is_cold_reset = request.function == TmfFunction::TargetColdReset;
        let whose = Whose::Initiator { initiator_task_tag, is_cold_reset };
        self.management.pending.push(Pending { whose, tasks, resets });
        self.answer_management(proto);
    }

    /// Ends a task without an answer. True when it has to be waited for: it is in the backend, or the initiator is sending its data,
    /// which is waited for until `until`.
    fn end_task(&mut self, tag: TaskTag, until: Option<Instant>, proto: &mut Proto) -> bool {
        match (self.take(tag), until) {
            (Some(Task::Collecting { .. }), Some(until)) if proto.cut_off(tag) => {
                self.management.cut_off = true;
                self.set(tag, Task::CutOff { until });
                true
            }
            (Some(Task::CutOff { until }), Some(_)) => {
                self.set(tag, Task::CutOff { until });
                true
            }
            (Some(Task::Running { .. } | Task::Aborted), _) => {
                self.set(tag, Task::Aborted);
                self.stop_copy(tag);
                true
            }
            (
                Some(
                    Task::Collecting { .. }
                    | Task::Hungry { .. }
                    | Task::Parked { .. }
                    | Task::Asking(_)
                    | Task::CutOff { .. },
                ),
                _,
            ) => {
                proto.abandon(tag);
                false
            }
            (None, _) => {
                if self.waiting.as_ref().is_some_and(|(command, _)| command.tag == tag) {
                    self.waiting = None;
                    proto.abandon(tag);
                }
                false
            }
        }
    }

    /// Ends the tasks on units that `of` names; returns those that have to be waited for.
    fn end_tasks(
        &mut self,
        of: impl Fn(&Arc<Unit>) -> bool,
        until: Option<Instant>,
        proto: &mut Proto,
    ) -> Vec<TaskTag> {
        let mut waited_for = Vec::new();
        for index in 0..self.tasks.len() {
            let Some((tag, task)) = &self.tasks[index] else { continue };
            let tag = *tag;
            let ends = match task {
                Task::Collecting { unit, .. }
                | Task::Hungry { unit, .. }
                | Task::Parked { unit, .. }
                | Task::Running { unit, .. } => of(unit),
                Task::Asking(asking) => of(&asking.unit),
                // Which unit it was on is forgotten; waiting for one too many is safe.
                Task::Aborted | Task::CutOff { .. } => true,
            };
            if ends && self.end_task(tag, until, proto) {
                waited_for.push(tag);
            }
        }
        waited_for
    }
}

/// Ends the tasks of all sessions on `unit` and counts it in `resets` until nothing of them can take effect any more.
fn reset(unit: &Arc<Unit>, resets: &Rc<Cell<usize>>, cx: &Carrier<'_>) {
    unit.raise_reset_generation();
    resets.set(resets.get() + 1);
    let (unit, resets) = (unit.clone(), resets.clone());
    let service = cx.shard.service.clone();
    service.note_reset();
    tokio::task::spawn_local(async move {
        match unit.gate.barrier().await {
            Some(barrier) => drop(barrier),
            // Shut: nothing enters any more, and what is inside ends.
            None => unit.gate.drained().await,
        }
        resets.set(resets.get() - 1);
        // Those that were held off by the barrier, and the session that waits for this.
        service.sessions.wake_all();
    });
}
