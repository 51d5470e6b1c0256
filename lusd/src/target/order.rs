//! Task attributes (SAM-5 8.6): what ORDERED and HEAD OF QUEUE ask of the tasks that one session has on a logical unit. Each I_T nexus has a
//! task set of its own (TST=001b in the Control mode page), so tasks of other sessions are neither waited for nor held.
//!
//! * An ORDERED task starts when all older tasks on its unit have ended, and every HEAD OF QUEUE one.
//! * A SIMPLE task starts when the older ORDERED ones on its unit have ended, and every HEAD OF QUEUE one.
//! * A HEAD OF QUEUE task starts at once.
//!
//! Older is who has the lower CmdSN. What is held off is parked, and tried again when something has ended. While all tasks are SIMPLE
//! this costs one look at an empty list. Commands that touch no block are answered as they come.
//!
//! The connections of a session tell each other of their tasks that are not SIMPLE: each holds its own newer ones, and says when it has no
//! older ones. All commands with lower numbers have come by then, by whichever connection (RFC 7143 4.2.2.1).
//!
//! What a connection has in the backend when it ends is not answered, and may be repeated on another one of its session; so until it has
//! ended it holds all that comes on its unit.

use std::sync::Arc;

use lusd_iscsi::{Connection as Proto, ScsiCommand, Serial, TaskAttribute, TaskTag};

use super::group::{Announced, Foreign, Kind, Membership};
use super::session::{Carrier, Session, Task};
use crate::lun::unit::Unit;

/// A task that is not SIMPLE.
#[derive(Debug)]
struct Special {
    whose: Whose,
    unit: Arc<Unit>,
    kind: Kind,
}

#[derive(Debug)]
enum Whose {
    /// This connection's; the others of the session know of it.
    Own { tag: TaskTag, announced: Option<Announced> },
    /// Another connection's of the session.
    Other(Foreign),
}

impl Special {
    fn is_own(&self, tag: TaskTag) -> bool {
        matches!(self.whose, Whose::Own { tag: own, .. } if own == tag)
    }

    /// A lost connection has left it behind.
    fn is_left(&self) -> bool {
        matches!(&self.whose, Whose::Other(Foreign { what, .. }) if what.kind == Kind::Left && !what.has_ended())
    }

    /// As far as the other connections of the session are concerned.
    fn is_next(&self) -> bool {
        match &self.whose {
            Whose::Own { announced: Some(announced), .. } => announced.is_next(),
            Whose::Own { announced: None, .. } | Whose::Other(_) => true,
        }
    }
}

/// The tasks of the session that are not SIMPLE, while they last, and a little longer.
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
    pub(super) fn note(&mut self, command: &ScsiCommand, unit: &Arc<Unit>, membership: &Option<Membership>) {
        match command.attribute {
            TaskAttribute::Ordered => self.add(command, unit, Kind::Ordered, membership.as_ref()),
            TaskAttribute::HeadOfQueue => self.add(command, unit, Kind::Head, membership.as_ref()),
            TaskAttribute::Untagged | TaskAttribute::Simple | TaskAttribute::Aca => {}
        }
    }

    #[cold]
    fn add(&mut self, command: &ScsiCommand, unit: &Arc<Unit>, kind: Kind, membership: Option<&Membership>) {
        let tag = command.tag;
        // One that waited for memory comes again.
        if !self.0.iter().any(|special| special.is_own(tag)) {
            let announced = membership.and_then(|others| others.announce(command.cmd_sn, unit, kind));
            let whose = Whose::Own { tag, announced };
            self.0.push(Special { whose, unit: unit.clone(), kind });
        }
    }

    /// Another connection of the session has such a task.
    pub(super) fn hear(&mut self, foreign: Foreign) {
        let (unit, kind) = (foreign.what.unit.clone(), foreign.what.kind);
        self.0.push(Special { whose: Whose::Other(foreign), unit, kind });
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
        Task::Fenced(fenced) => Some(&fenced.unit),
        Task::CutOff { .. } | Task::Aborted => None,
    }
}

impl Session {
    /// Whether `tag`, which is not in the table now, may start on `unit`.
    pub(super) fn may_start(&self, tag: TaskTag, unit: &Arc<Unit>, proto: &Proto) -> bool {
        self.order.is_idle() || self.is_its_turn(tag, unit, proto)
    }

    #[cold]
    fn is_its_turn(&self, tag: TaskTag, unit: &Arc<Unit>, proto: &Proto) -> bool {
        let own = self.order.0.iter().find(|special| special.is_own(tag));
        let is_head = own.is_some_and(|special| special.kind == Kind::Head);
        if is_head
            && !self.order.0.iter().any(|special| special.is_left() && Arc::ptr_eq(&special.unit, unit))
        {
            return true;
        }
        let Some(cmd_sn) = proto.task(tag).map(|task| task.cmd_sn) else { return true };
        let is_older = |tag: TaskTag| proto.task(tag).is_some_and(|task| task.cmd_sn.is_before(cmd_sn));
        let holds = |special: &Special| match &special.whose {
            Whose::Own { tag: other, .. } => {
                *other != tag && self.has(*other) && (special.kind == Kind::Head || is_older(*other))
            }
            Whose::Other(Foreign { what, .. }) => {
                !what.has_ended() && (special.kind != Kind::Ordered || what.cmd_sn.is_before(cmd_sn))
            }
        };
        if self.order.0.iter().any(|special| Arc::ptr_eq(&special.unit, unit) && holds(special)) {
            return false;
        }
        own.is_none_or(|own| own.is_next() && !self.has_older(cmd_sn, unit, proto))
    }

    /// Whether this connection has tasks on `unit` that are older than the one with this number.
    fn has_older(&self, cmd_sn: Serial, unit: &Arc<Unit>, proto: &Proto) -> bool {
        // Which unit it was on may be forgotten; waiting for one too many is safe.
        let is_here = |task: &Task| unit_of(task).is_none_or(|other| Arc::ptr_eq(other, unit));
        let is_older = |tag: TaskTag| proto.task(tag).is_some_and(|task| task.cmd_sn.is_before(cmd_sn));
        self.tasks.iter().flatten().any(|(other, task)| is_here(task) && is_older(*other))
            || self.waiting.as_ref().is_some_and(|(command, _)| command.cmd_sn.is_before(cmd_sn))
    }

    /// Starts what may start now that something may have ended. To be called at the end of each round.
    pub fn follow_order(&mut self, cx: &mut Carrier<'_>) {
        if self.order.is_idle() {
            return;
        }
        self.prune_order(cx.proto);
        self.unpark(cx);
        self.prune_order(cx.proto);
        // What was held off by one that has ended meanwhile.
        if self.order.is_idle() {
            self.unpark(cx);
        }
    }

    fn prune_order(&mut self, proto: &Proto) {
        let mut order = std::mem::take(&mut self.order);
        order.0.retain_mut(|special| match &mut special.whose {
            Whose::Own { tag, .. } => self.has(*tag) || self.keeps_waiting(*tag),
            Whose::Other(Foreign { what, promise }) => {
                if promise.is_some() && !self.has_older(what.cmd_sn, &what.unit, proto) {
                    *promise = None;
                }
                !what.has_ended()
            }
        });
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
