//! Task attributes (SAM-5 8.6): what ORDERED and HEAD OF QUEUE ask of the tasks that one session has on a logical unit.
//!
//! * An ORDERED task starts when all older tasks on its unit have ended, and every HEAD OF QUEUE one.
//! * A SIMPLE task starts when the older ORDERED ones on its unit have ended, and every HEAD OF QUEUE one.
//! * A HEAD OF QUEUE task starts at once.
//!
//! Older is who has the lower CmdSN. What is held off is parked, and tried again when something has ended. While all tasks are SIMPLE
//! this costs one look at an empty list. Commands that touch no block are answered as they come.

use std::sync::Arc;

use lusd_iscsi::{Connection as Proto, TaskAttribute, TaskTag};

use super::session::{Carrier, Session, Task};
use crate::lun::unit::Unit;

/// A task that is not SIMPLE.
#[derive(Debug)]
struct Special {
    tag: TaskTag,
    unit: Arc<Unit>,
    is_head: bool,
}

/// The tasks that are not SIMPLE, while they last, and a little longer.
#[derive(Debug, Default)]
pub(super) struct Order(Vec<Special>);

impl Order {
    /// True if nothing needs to be looked at.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.0.is_empty()
    }

    /// A command has come.
    #[inline]
    pub(super) fn note(&mut self, tag: TaskTag, attribute: TaskAttribute, unit: &Arc<Unit>) {
        let is_head = match attribute {
            TaskAttribute::Ordered => false,
            TaskAttribute::HeadOfQueue => true,
            TaskAttribute::Untagged | TaskAttribute::Simple | TaskAttribute::Aca => return,
        };
        // One that waited for memory comes again.
        if !self.0.iter().any(|special| special.tag == tag) {
            self.0.push(Special { tag, unit: unit.clone(), is_head });
        }
    }
}

/// The unit that a task is on; none where that is forgotten.
pub(super) fn unit_of(task: &Task) -> Option<&Arc<Unit>> {
    match task {
        Task::Collecting { unit, .. }
        | Task::Hungry { unit, .. }
        | Task::Parked { unit, .. }
        | Task::Running { unit, .. } => Some(unit),
        Task::Asking(asking) => Some(&asking.unit),
        Task::CutOff { .. } | Task::Aborted => None,
    }
}

impl Session {
    /// Whether `tag`, which is not in the table now, may start on `unit`.
    pub(super) fn may_start(&self, tag: TaskTag, unit: &Arc<Unit>, proto: &Proto) -> bool {
        if self.order.is_idle() {
            return true;
        }
        let here = |special: &&Special| Arc::ptr_eq(&special.unit, unit);
        let own = self.order.0.iter().find(|special| special.tag == tag);
        if own.is_some_and(|special| special.is_head) {
            return true;
        }
        let Some(cmd_sn) = proto.task(tag).map(|task| task.cmd_sn) else { return true };
        let is_older = |tag: TaskTag| proto.task(tag).is_some_and(|task| task.cmd_sn.is_before(cmd_sn));
        let holds = |special: &Special| {
            special.tag != tag && self.has(special.tag) && (special.is_head || is_older(special.tag))
        };
        if self.order.0.iter().filter(here).any(holds) {
            return false;
        }
        // Which unit it was on may be forgotten; waiting for one too many is safe.
        let is_here = |task: &Task| unit_of(task).is_none_or(|other| Arc::ptr_eq(other, unit));
        own.is_none() || !self.tasks.iter().flatten().any(|(other, task)| is_here(task) && is_older(*other))
    }

    /// Starts what may start now that something may have ended. To be called at the end of each round.
    pub fn follow_order(&mut self, cx: &mut Carrier<'_>) {
        if self.order.is_idle() {
            return;
        }
        self.prune_order();
        self.unpark(cx);
        self.prune_order();
        // What was held off by one that has ended meanwhile.
        if self.order.is_idle() {
            self.unpark(cx);
        }
    }

    fn prune_order(&mut self) {
        let mut order = std::mem::take(&mut self.order);
        order.0.retain(|special| self.has(special.tag) || self.keeps_waiting(special.tag));
        self.order = order;
    }

    /// Whether the task is in the table.
    fn has(&self, tag: TaskTag) -> bool {
        matches!(self.tasks.get(tag.slot()), Some(Some((held, _))) if *held == tag)
    }

    /// Whether it is the command that waits for memory.
    fn keeps_waiting(&self, tag: TaskTag) -> bool {
        self.waiting.as_ref().is_some_and(|(command, _)| command.tag == tag)
    }
}
