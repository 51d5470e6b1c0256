//! The other connections of the session: what functions and logouts that one brings mean for another, and what one leaves behind.

use std::rc::Rc;
use std::sync::Arc;

use lusd_iscsi::{
    AsyncEvent, Connection as Proto, Serial, TaskInfo, TaskReporting, TaskTag, TmfRequest, TmfResponse,
};
use lusd_scsi::Lun;

use super::{Pending, Whose};
use crate::lun::unit::Unit;
use crate::target::group::{Abort, AbortOne, Announced, Kind, Letter, Promise};
use crate::target::order::unit_of;
use crate::target::session::{Session, Task};
use crate::target::sessions::ConnectionHandle;

impl Session {
    /// What the other connections of the session have for this one.
    pub(in crate::target) fn read_mail(&mut self, proto: &mut Proto) {
        let letters = self.membership.as_ref().map(|membership| membership.mail.take());
        for letter in letters.into_iter().flatten() {
            match letter {
                Letter::Abort(abort) => self.end_for_other(abort, proto),
                Letter::Special(foreign) => self.order.hear(foreign),
                Letter::Query(query) => drop(query.look(proto)),
                Letter::AbortOne(abort) => self.end_one_for_other(abort, proto),
                Letter::Acknowledge(promise) => self.await_acknowledgement(vec![], promise),
            }
        }
        self.answer_management(proto);
    }

    /// Ends what a function is about that another connection of the session has brought, and says so where FastAbort was agreed on (RFC
    /// 7143 4.2.3.4 c).
    fn end_for_other(&mut self, Abort { unit, until, before, promise }: Abort, proto: &mut Proto) {
        // An immediate command has the number of the one that follows it.
        let is_before = |task: TaskInfo| {
            before
                .is_none_or(|before| task.cmd_sn.is_before(before) || task.immediate && task.cmd_sn == before)
        };
        let is_meant = |task: &Arc<Unit>, info: Option<TaskInfo>| {
            unit.as_ref().is_none_or(|unit| Arc::ptr_eq(task, unit)) && info.is_none_or(is_before)
        };
        let tasks = self.tasks.iter().flatten().filter_map(|(tag, task)| {
            let unit = unit_of(task)?;
            Some((unit, proto.task(*tag)))
        });
        let waiting = self.waiting.as_ref().and_then(|(command, _)| proto.task(command.tag));
        let waiting = waiting.zip(self.waits_on()).map(|(info, unit)| (unit, Some(info)));
        let affected = tasks.chain(waiting).find(|(unit, info)| is_meant(unit, *info));
        let affected = affected.and_then(|(_, info)| info).map(|task| task.lun);
        if let (Some(lun), TaskReporting::FastAbort) = (affected, self.task_reporting) {
            proto.send_async(AsyncEvent::TaskTermination { lun });
        }
        let tasks = self.end_tasks(is_meant, until, proto);
        self.note_resets(unit.as_ref());
        self.await_acknowledgement(tasks, promise);
    }

    /// Ends the task that an ABORT TASK of another connection names, if it is here.
    fn end_one_for_other(&mut self, abort: AbortOne, proto: &mut Proto) {
        let AbortOne { initiator_task_tag, cmd_sn, found, promise } = abort;
        let named = (initiator_task_tag, cmd_sn);
        let task = proto.tasks().find(|task| (task.initiator_task_tag, task.cmd_sn) == named);
        let Some(TaskInfo { tag, .. }) = task else { return };
        found.set(true);
        let tasks = if self.end_task(tag, None, proto) { vec![tag] } else { vec![] };
        self.await_acknowledgement(tasks, promise);
    }

    /// Keeps `promise` until the tasks have ended and what was sent here before is acknowledged.
    fn await_acknowledgement(&mut self, tasks: Vec<TaskTag>, promise: Promise) {
        let whose = Whose::Sibling { _promise: promise, fence: None };
        self.management.pending.push(Pending { whose, tasks, resets: Rc::default() });
    }

    /// The unit of the command that waits for memory.
    pub(super) fn waits_on(&self) -> Option<&Arc<Unit>> {
        let (command, _) = self.waiting.as_ref()?;
        let lun = Lun::from_wire(command.lun.to_be_bytes())?;
        self.luns.0.get(&lun).map(|slot| &slot.unit)
    }

    /// ABORT TASK of what is not here: its connection may have failed (RFC 7143 11.5.1), and have left it under way.
    pub(super) fn abort_elsewhere(&mut self, request: &TmfRequest, proto: &mut Proto) {
        let (found, left) = (Rc::default(), Rc::default());
        if let Some(membership) = &self.membership {
            membership.abort_one(request.referenced_task_tag, request.ref_cmd_sn, &found, &left);
        }
        let (yes, no) = (TmfResponse::FunctionComplete, TmfResponse::TaskDoesNotExist);
        let whose = Whose::Asker { initiator_task_tag: request.initiator_task_tag, found, yes, no };
        self.management.pending.push(Pending { whose, tasks: vec![], resets: left });
        self.answer_management(proto);
    }

    /// The initiator has logged out these connections of the session, which have been asked to end; none: there is no such connection.
    pub fn logout_other(
        &mut self,
        initiator_task_tag: u32,
        others: Vec<Arc<ConnectionHandle>>,
        proto: &mut Proto,
    ) {
        let whose = Whose::LogsOut { initiator_task_tag, others };
        self.management.pending.push(Pending { whose, tasks: vec![], resets: Rc::default() });
        self.answer_management(proto);
    }

    /// The connection is gone: nothing is answered any more, and the nexuses are lost. What it still has in the backend holds the other
    /// connections of the session until what is returned is dropped.
    pub fn close(&mut self) -> Vec<Announced> {
        let mut left: Vec<Arc<Unit>> = Vec::new();
        for (_, task) in self.tasks.drain(..).flatten() {
            match task {
                Task::Running { unit, .. } => left.push(unit),
                // Which unit it was on is forgotten.
                Task::Aborted => left.extend(self.luns.0.values().map(|slot| slot.unit.clone())),
                _ => {}
            }
        }
        self.luns.0.clear();
        let Some(membership) = &self.membership else { return Vec::new() };
        left.sort_unstable_by_key(Arc::as_ptr);
        left.dedup_by(|a, b| Arc::ptr_eq(a, b));
        left.iter().filter_map(|unit| membership.announce(Serial(0), unit, Kind::Left)).collect()
    }
}
