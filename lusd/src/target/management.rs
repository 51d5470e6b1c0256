//! Task management (RFC 7143 11.5, SAM-5 7): each function is answered only when the tasks it is about have ended, or can never take
//! effect. librbd cannot cancel, so a task that is in RADOS is waited for.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use lusd_iscsi::{Connection as Proto, Referenced, TaskTag, TmfFunction, TmfRequest, TmfResponse};
use lusd_scsi::{Lun, UnitAttention};
use tracing::{debug, info};

use super::session::{Carrier, Session, Task};
use crate::lun::unit::Unit;

/// Functions and a logout that wait for tasks to end.
#[derive(Default)]
pub(super) struct Management {
    pending: Vec<Pending>,
    /// The initiator has asked to log out; it is answered when nothing is left.
    logout: bool,
}

struct Pending {
    initiator_task_tag: u32,
    response: TmfResponse,
    /// Own tasks that have not ended.
    tasks: Vec<TaskTag>,
    /// Units whose operations, of all sessions, have not all ended.
    resets: Rc<Cell<usize>>,
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
                    let tasks = if self.end_task(tag, cx.proto) { vec![tag] } else { vec![] };
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
                            let own = lun.and_then(|lun| self.luns.0.get(&lun)).map(|slot| &slot.nexus);
                            unit.scsi.raise(UnitAttention::CommandsCleared, own);
                        }
                    }
                    _ => {}
                }
                let tasks = self.end_tasks(|task_unit| Arc::ptr_eq(task_unit, &unit), cx.proto);
                self.pend(request, tasks, resets, cx.proto);
            }
            TmfFunction::TargetWarmReset => {
                let resets = Rc::new(Cell::new(0));
                for slot in self.luns.0.values() {
                    reset(&slot.unit, &resets, cx);
                    slot.unit.scsi.reset(UnitAttention::BusReset, None);
                }
                let tasks = self.end_tasks(|_| true, cx.proto);
                self.pend(request, tasks, resets, cx.proto);
            }
            TmfFunction::TaskReassign => {
                respond(cx.proto, TmfResponse::TaskAllegianceReassignmentNotSupported)
            }
            _ => respond(cx.proto, TmfResponse::FunctionNotSupported),
        }
    }

    /// The initiator logs out: what it still has under way is ended without an answer, and waited for.
    pub fn logout(&mut self, proto: &mut Proto) {
        self.management.logout = true;
        self.end_tasks(|_| true, proto);
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
        let tasks = &self.tasks;
        self.management.pending.retain_mut(|pending| {
            pending.tasks.retain(|tag| matches!(tasks.get(tag.slot()), Some(Some((held, _))) if held == tag));
            if !pending.tasks.is_empty() || pending.resets.get() > 0 {
                return true;
            }
            proto.tmf_response(pending.initiator_task_tag, pending.response);
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
        let response = TmfResponse::FunctionComplete;
        let initiator_task_tag = request.initiator_task_tag;
        self.management.pending.push(Pending { initiator_task_tag, response, tasks, resets });
        self.answer_management(proto);
    }

    /// Ends a task without an answer. True when it is in the backend and has to be waited for.
    fn end_task(&mut self, tag: TaskTag, proto: &mut Proto) -> bool {
        match self.take(tag) {
            Some(Task::Running { .. } | Task::Aborted) => {
                self.set(tag, Task::Aborted);
                self.stop_copy(tag);
                true
            }
            Some(Task::Collecting { .. } | Task::Hungry { .. } | Task::Parked { .. } | Task::Asking(_)) => {
                proto.abandon(tag);
                false
            }
            None => {
                if self.waiting.as_ref().is_some_and(|(command, _)| command.tag == tag) {
                    self.waiting = None;
                    proto.abandon(tag);
                }
                false
            }
        }
    }

    /// Ends the tasks on units that `of` names; returns those that have to be waited for.
    fn end_tasks(&mut self, of: impl Fn(&Arc<Unit>) -> bool, proto: &mut Proto) -> Vec<TaskTag> {
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
                Task::Aborted => true,
            };
            if ends && self.end_task(tag, proto) {
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
