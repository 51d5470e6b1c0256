//! Task management (RFC 7143 11.5, SAM-5 7): each function is answered only when the tasks it is about have ended, or can never take
//! effect. librbd cannot cancel, so a task that is in RADOS is waited for.
//!
//! Functions that end many tasks also wait until the initiator has sent what it had been asked for (RFC 7143 4.2.3.3), unless the session
//! reports by FastAbort (4.2.3.4). Initiators are known that never send it, so the wait has an end: target transfer tags are not used
//! again, and what comes later is dropped.
//!
//! Of a session of several connections all tasks are meant. The answer to a function that ends many waits until the initiator has
//! acknowledged what was sent on the other connections before (4.2.2.3.3: else it might meet an answer of an ended task later).

mod siblings;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lusd_iscsi::{
    AsyncEvent, Connection as Proto, Referenced, Serial, TaskInfo, TaskReporting, TaskTag, TmfFunction,
    TmfRequest, TmfResponse,
};
use lusd_scsi::{Lun, UnitAttention};
use tracing::{debug, info};

use super::answer::end;
use super::group::{Promise, Query};
use super::session::{Carrier, Session, Slot, Task};
use super::sessions::ConnectionHandle;
use crate::lun::unit::Unit;
use crate::lun::work::Request;

/// How long a function waits for data that had been asked for.
const DATA_PATIENCE: Duration = Duration::from_secs(1);

/// Functions and a logout that wait for tasks to end.
#[derive(Default)]
pub(super) struct Management {
    pending: Vec<Pending>,
    /// The initiator has asked to log out; it is answered when nothing is left, of these connections either.
    logout: Option<Vec<Arc<ConnectionHandle>>>,
    /// A TARGET COLD RESET was answered: all sessions of the target are to end.
    cold_reset: bool,
    /// Set while any task is cut off.
    cut_off: bool,
    /// Set while acknowledgements are waited for.
    fenced: bool,
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
    /// The initiator, for the answer to a question that other connections of the session are asked, too: what yes is, and no.
    Asker { initiator_task_tag: u32, found: Rc<Cell<bool>>, yes: TmfResponse, no: TmfResponse },
    /// The initiator, for the answer to a logout of these connections.
    LogsOut { initiator_task_tag: u32, others: Vec<Arc<ConnectionHandle>> },
    /// Another connection of the session; the promise is held until then, and until the initiator has acknowledged what was sent here
    /// before this status number.
    Sibling { _promise: Promise, fence: Option<Serial> },
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
                Referenced::NotInTask | Referenced::Nothing => self.abort_elsewhere(request, cx.proto),
            },
            // Each nexus has a task set of its own (TST=001b), so to clear it is to abort it (SAM-5 7.5).
            TmfFunction::AbortTaskSet | TmfFunction::ClearTaskSet => {
                let Some(unit) = unit else { return respond(cx.proto, TmfResponse::LunDoesNotExist) };
                self.end_many(request, Some(&unit), Rc::default(), cx);
            }
            TmfFunction::LogicalUnitReset => {
                let Some(unit) = unit else { return respond(cx.proto, TmfResponse::LunDoesNotExist) };
                let resets = Rc::new(Cell::new(0));
                reset(&unit, &resets, cx);
                unit.scsi.reset(UnitAttention::DeviceReset, None);
                self.end_many(request, Some(&unit), resets, cx);
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
                self.end_many(request, None, resets, cx);
            }
            TmfFunction::ItNexusReset => {
                self.luns.0.values().for_each(|slot| slot.nexus.reset());
                self.end_many(request, None, Rc::default(), cx);
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

    /// Ends the tasks of the session on `unit`, or all, on whichever connection, without an answer; the function is answered when they have
    /// ended, and what `left` counts.
    fn end_many(
        &mut self,
        request: &TmfRequest,
        unit: Option<&Arc<Unit>>,
        left: Rc<Cell<usize>>,
        cx: &mut Carrier<'_>,
    ) {
        let until = self.data_patience(cx.now);
        // A reset ends whatever there is; an abort, what was sent before it.
        let is_abort = matches!(request.function, TmfFunction::AbortTaskSet | TmfFunction::ClearTaskSet);
        if let Some(membership) = &self.membership {
            membership.abort(unit, until, is_abort.then_some(request.cmd_sn), &left);
        }
        let is_meant = |task: &Arc<Unit>, _| unit.is_none_or(|unit| Arc::ptr_eq(task, unit));
        let tasks = self.end_tasks(is_meant, until, cx.proto);
        self.note_resets(unit);
        self.pend(request, tasks, left, cx.proto);
    }

    /// Functions that only ask (RFC 7144 4.1): Function Succeeded says yes.
    fn query(&mut self, request: &TmfRequest, unit: &Arc<Unit>, proto: &mut Proto) {
        let tag = request.initiator_task_tag;
        if request.function == TmfFunction::QueryAsynchronousEvent {
            let slot = self.luns.0.values().find(|slot| Arc::ptr_eq(&slot.unit, unit));
            return match slot.and_then(|slot| slot.nexus.pending(&unit.scsi)) {
                // SAM-5 7.9: UADE depth 1 (how many more there are is not said), then the sense.
                Some(code) => {
                    let additional = [1 << 4 | code.key as u8, code.asc, code.ascq];
                    proto.tmf_response_with(tag, TmfResponse::FunctionSucceeded, additional);
                }
                None => proto.tmf_response(tag, TmfResponse::FunctionComplete),
            };
        }
        let task = (request.function == TmfFunction::QueryTask).then_some(request.referenced_task_tag);
        let query = Query { lun: request.lun, task, found: Rc::default(), _promise: None };
        let left = Rc::default();
        if let (false, Some(membership)) = (query.look(proto), &self.membership) {
            membership.ask(&query, &left);
        }
        let (yes, no) = (TmfResponse::FunctionSucceeded, TmfResponse::FunctionComplete);
        let whose = Whose::Asker { initiator_task_tag: tag, found: query.found, yes, no };
        self.management.pending.push(Pending { whose, tasks: vec![], resets: left });
        self.answer_management(proto);
    }

    /// Until when data that had been asked for is waited for; none where nothing is.
    fn data_patience(&self, now: Instant) -> Option<Instant> {
        (self.task_reporting != TaskReporting::FastAbort).then_some(now + DATA_PATIENCE)
    }

    /// What the session has done to `unit`, or to all, is no news to it.
    fn note_resets(&mut self, unit: Option<&Arc<Unit>>) {
        for slot in self.luns.0.values_mut() {
            if unit.is_none_or(|unit| Arc::ptr_eq(unit, &slot.unit)) {
                slot.resets_seen = slot.unit.reset_generation();
            }
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
                    // It has its answer.
                    Task::Fenced(_) | Task::Aborted | Task::CutOff { .. } => false,
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
            Some(Task::Running { .. } | Task::Fenced(_) | Task::Aborted | Task::CutOff { .. }) | None => {
                unreachable!("looked at by the caller")
            }
        };
        end(proto, tag, &unit, transfer_length);
    }

    /// Looks whether acknowledgements that are waited for have come. To be called at the end of each round.
    #[inline]
    pub fn follow_acknowledgements(&mut self, proto: &mut Proto) {
        if self.management.fenced {
            self.answer_management(proto);
        }
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

    /// The initiator logs out: what it still has under way is ended without an answer, and waited for; so are these connections, which
    /// have been asked to end.
    pub fn logout(&mut self, others: Vec<Arc<ConnectionHandle>>, proto: &mut Proto) {
        self.management.logout = Some(others);
        self.end_tasks(|_, _| true, None, proto);
        self.answer_management(proto);
    }

    /// True while a logout of this connection waits for its answer.
    pub fn closes(&self) -> bool {
        self.management.logout.is_some()
    }

    /// Answers the functions, and the logout, whose tasks have all ended.
    pub(super) fn answer_management(&mut self, proto: &mut Proto) {
        if self.management.pending.is_empty() && self.management.logout.is_none() {
            return;
        }
        let Management { pending, cold_reset, fenced, .. } = &mut self.management;
        let tasks = &self.tasks;
        *fenced = false;
        pending.retain_mut(|pending| {
            pending.tasks.retain(|tag| matches!(tasks.get(tag.slot()), Some(Some((held, _))) if held == tag));
            if !pending.tasks.is_empty() || pending.resets.get() > 0 {
                return true;
            }
            match &mut pending.whose {
                Whose::Initiator { initiator_task_tag, is_cold_reset } => {
                    proto.tmf_response(*initiator_task_tag, TmfResponse::FunctionComplete);
                    *cold_reset |= *is_cold_reset;
                }
                Whose::Asker { initiator_task_tag, found, yes, no } => {
                    proto.tmf_response(*initiator_task_tag, if found.get() { *yes } else { *no });
                }
                Whose::LogsOut { initiator_task_tag, others } => {
                    if !are_gone(others) {
                        return true;
                    }
                    proto.logout_other_complete(*initiator_task_tag, !others.is_empty());
                }
                Whose::Sibling { fence, .. } => {
                    let begins = fence.is_none();
                    let stat_sn = *fence.get_or_insert(proto.next_stat_sn());
                    if !proto.is_acknowledged(stat_sn) {
                        if begins {
                            proto.ping();
                        }
                        *fenced = true;
                        return true;
                    }
                }
            }
            false
        });
        if self.management.logout.as_deref().is_some_and(are_gone) && !self.is_busy() {
            self.management.logout = None;
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
            // What it did, and what it is to tell, stands: its answer goes out first.
            (Some(task @ Task::Fenced(_)), _) => {
                self.set(tag, task);
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

    /// Ends the tasks that `of` names; returns those that have to be waited for.
    fn end_tasks(
        &mut self,
        of: impl Fn(&Arc<Unit>, Option<TaskInfo>) -> bool,
        until: Option<Instant>,
        proto: &mut Proto,
    ) -> Vec<TaskTag> {
        let mut waited_for = Vec::new();
        let waiting = self.waiting.as_ref().map(|(command, _)| command.tag);
        if let Some(tag) =
            waiting.filter(|tag| self.waits_on().is_some_and(|unit| of(unit, proto.task(*tag))))
        {
            self.end_task(tag, until, proto);
        }
        for index in 0..self.tasks.len() {
            let Some((tag, task)) = &self.tasks[index] else { continue };
            let tag = *tag;
            let ends = match task {
                Task::Collecting { unit, .. }
                | Task::Hungry { unit, .. }
                | Task::Parked { unit, .. }
                | Task::Running { unit, .. } => of(unit, proto.task(tag)),
                Task::Asking(asking) => of(&asking.unit, proto.task(tag)),
                Task::Fenced(fenced) => of(&fenced.unit, proto.task(tag)),
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

fn are_gone(connections: &[Arc<ConnectionHandle>]) -> bool {
    connections.iter().all(|connection| connection.is_gone())
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
