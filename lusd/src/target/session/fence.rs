//! Response fence (RFC 7143 4.2.2.3.3): some answers must not overtake what was sent on the other connections of their session before. They
//! wait until the initiator has acknowledged that. A session of one connection has no such answers.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use lusd_iscsi::{Connection as Proto, TaskTag};
use lusd_scsi::CheckCondition;

use super::{Session, Task};
use crate::lun::unit::Unit;
use crate::target::answer::{good, refuse};

/// An answer that waits.
pub(in crate::target) struct Fenced {
    pub(in crate::target) unit: Arc<Unit>,
    answer: Answer,
    /// Bytes that the CDB moves, for the residual count.
    transfer_length: u64,
    /// Other connections on which something is not acknowledged.
    left: Rc<Cell<usize>>,
}

/// Which.
pub(in crate::target) enum Answer {
    /// Status GOOD.
    Good,
    /// Status CHECK CONDITION.
    Check(CheckCondition),
}

impl Session {
    /// Answers a task that was accepted, behind what was sent on the session's other connections.
    pub(super) fn answer_behind_others(
        &mut self,
        tag: TaskTag,
        unit: &Arc<Unit>,
        answer: Answer,
        transfer_length: u64,
        proto: &mut Proto,
    ) {
        let left = Rc::default();
        if let Some(membership) = &self.membership {
            membership.ask_for_acknowledgement(&left);
        }
        let fenced = Fenced { unit: unit.clone(), answer, transfer_length, left };
        if fenced.left.get() == 0 {
            return fenced.respond(tag, proto);
        }
        self.set(tag, Task::Fenced(fenced));
        self.fenced = true;
    }

    /// Answers those whose wait is over.
    pub(super) fn answer_fenced(&mut self, proto: &mut Proto) {
        if !std::mem::take(&mut self.fenced) {
            return;
        }
        for index in 0..self.tasks.len() {
            let Some((tag, Task::Fenced(fenced))) = &self.tasks[index] else { continue };
            if fenced.left.get() > 0 {
                self.fenced = true;
                continue;
            }
            let tag = *tag;
            let Some(Task::Fenced(fenced)) = self.take(tag) else { unreachable!("looked at above") };
            fenced.respond(tag, proto);
        }
    }
}

impl Fenced {
    fn respond(self, tag: TaskTag, proto: &mut Proto) {
        match self.answer {
            Answer::Good => good(proto, tag, Bytes::new(), self.transfer_length),
            Answer::Check(check) => refuse(proto, tag, &check, Some(&self.unit), self.transfer_length),
        }
    }
}
