//! The connections of one session, which all live on one shard: who they are, what they share, and what they ask of each other.

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;

use lusd_iscsi::{Connection as Proto, Serial, SessionHandle, TaskInfo};
use lusd_scsi::{Lun, NexusLu};
use tokio::sync::Notify;

use super::sessions::ConnectionHandle;
use crate::lun::unit::Unit;

/// By LUN: the unit that stands there, and the nexus with it, which the connections keep: it is lost with the last of them.
type Nexuses = BTreeMap<Lun, (Arc<Unit>, Weak<NexusLu>)>;

/// By LUN: the unit that stands there, and its size in bytes.
type Seen = BTreeMap<Lun, (Arc<Unit>, u64)>;

/// What of a session's LUNs is other than when one of its connections looked last.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Other units, or under other numbers.
    pub(super) inventory: bool,
    /// Units of another size than before.
    pub(super) resized: Vec<Lun>,
}

/// See the module's text.
#[derive(Debug)]
pub struct Group {
    /// The session as the protocol knows it.
    pub session: SessionHandle,
    members: RefCell<Vec<Member>>,
    /// The nexus with each unit: one for all connections.
    nexuses: RefCell<Nexuses>,
    /// What the session has been shown.
    seen: RefCell<Option<Seen>>,
    /// Tasks that are not SIMPLE, and some that have ended.
    announced: RefCell<Vec<Weak<Announcement>>>,
}

#[derive(Debug)]
struct Member {
    cid: u16,
    handle: Arc<ConnectionHandle>,
    mail: Rc<Mail>,
}

/// What the other connections of the session have for one.
#[derive(Debug, Default)]
pub struct Mail(RefCell<Vec<Letter>>);

impl Mail {
    /// Takes what has come.
    pub(super) fn take(&self) -> Vec<Letter> {
        std::mem::take(&mut *self.0.borrow_mut())
    }

    /// True if nothing has come.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Who has ended, or waits, reads none for a while: it is spared those that are over. The rest is bounded by what a connection may have
    /// in progress.
    fn put(&self, letter: Letter) {
        let mut letters = self.0.borrow_mut();
        if letters.len() >= LETTERS_LOW {
            letters.retain(|letter| !letter.is_over());
        }
        letters.push(letter);
    }
}

/// So many letters are not looked at again.
const LETTERS_LOW: usize = 64;

impl Letter {
    fn is_over(&self) -> bool {
        matches!(self, Self::Special(foreign) if foreign.what.has_ended())
    }
}

/// What one connection of a session has for another.
#[derive(Debug)]
pub(super) enum Letter {
    /// Tasks are to end.
    Abort(Abort),
    /// It has a task that is not SIMPLE.
    Special(Foreign),
    /// A question about tasks.
    Query(Query),
    /// One task is to end, if it is there.
    AbortOne(AbortOne),
    /// What was sent is to be acknowledged.
    Acknowledge(Promise),
}

/// An ABORT TASK that came by another connection of the session than its task.
#[derive(Debug)]
pub(super) struct AbortOne {
    pub(super) initiator_task_tag: u32,
    pub(super) cmd_sn: Serial,
    pub(super) found: Rc<Cell<bool>>,
    pub(super) promise: Promise,
}

/// A function that another connection of the session has brought: it is about these tasks, too.
#[derive(Debug)]
pub(super) struct Abort {
    /// Of this unit; none: of all.
    pub(super) unit: Option<Arc<Unit>>,
    /// Until when data that had been asked for is waited for.
    pub(super) until: Option<Instant>,
    /// Tasks that come before this number; none: all.
    pub(super) before: Option<Serial>,
    pub(super) promise: Promise,
}

/// How a task is not SIMPLE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// ORDERED.
    Ordered,
    /// HEAD OF QUEUE.
    Head,
    /// Its connection has ended, and it may still take effect: as nothing keeps it in order with what follows, that waits for it.
    Left,
}

/// A task that is not SIMPLE, as the other connections of its session see it.
#[derive(Debug)]
pub(super) struct Announcement {
    pub(super) cmd_sn: Serial,
    pub(super) unit: Arc<Unit>,
    pub(super) kind: Kind,
    ended: Cell<bool>,
    /// Other connections that have older tasks on the unit, or have not looked.
    left: Rc<Cell<usize>>,
}

impl Announcement {
    /// The task has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.get()
    }
}

/// An announcement at the connection that has the task; when that drops it, the task has ended.
#[derive(Debug)]
pub struct Announced {
    what: Rc<Announcement>,
    group: Rc<Group>,
    by: u64,
}

impl Announced {
    /// No other connection has an older task on the unit.
    pub(super) fn is_next(&self) -> bool {
        self.what.left.get() == 0
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        self.what.ended.set(true);
        self.group.wake_all_but(self.by);
    }
}

/// An announcement at another connection.
#[derive(Debug)]
pub(super) struct Foreign {
    pub(super) what: Rc<Announcement>,
    /// Kept while there are older tasks on the unit here, where they hold it.
    pub(super) promise: Option<Promise>,
}

/// Whether there is a task on this LUN; with `task`: one of this initiator task tag.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) lun: u64,
    pub(super) task: Option<u32>,
    pub(super) found: Rc<Cell<bool>>,
    pub(super) _promise: Option<Promise>,
}

impl Query {
    /// Looks among the tasks of one connection, and says whether it was found.
    pub(super) fn look(&self, proto: &Proto) -> bool {
        let is_meant = |task: TaskInfo| {
            task.lun == self.lun && self.task.is_none_or(|wanted| task.initiator_task_tag == wanted)
        };
        let found = proto.tasks().any(is_meant);
        self.found.set(self.found.get() || found);
        found
    }
}

/// Dropped when what was asked for is certain: for an abort, that nothing of the tasks can take effect any more.
#[derive(Debug)]
pub(super) struct Promise {
    left: Rc<Cell<usize>>,
    by: Arc<Notify>,
}

impl Promise {
    fn new(left: &Rc<Cell<usize>>, by: &Arc<Notify>) -> Self {
        left.set(left.get() + 1);
        Self { left: left.clone(), by: by.clone() }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.left.set(self.left.get() - 1);
        self.by.notify_one();
    }
}

/// One connection's place in its session.
#[derive(Debug)]
pub struct Membership {
    /// The session's connections.
    pub group: Rc<Group>,
    pub(super) mail: Rc<Mail>,
    handle: Arc<ConnectionHandle>,
    /// The nexuses as they were when it came in: the connection that has them may end before this one looks at its LUNs.
    inherited: RefCell<Vec<Rc<NexusLu>>>,
}

impl Group {
    /// A session that has just logged in, with no connection yet.
    pub fn new(session: SessionHandle) -> Rc<Self> {
        Rc::new(Self {
            session,
            members: RefCell::default(),
            nexuses: RefCell::default(),
            seen: RefCell::default(),
            announced: RefCell::default(),
        })
    }

    /// A connection comes in.
    pub fn enter(self: &Rc<Self>, cid: u16, handle: &Arc<ConnectionHandle>) -> Membership {
        let mail = Rc::<Mail>::default();
        // Whoever comes later has no older tasks.
        let live = |what: &Weak<Announcement>| what.upgrade().filter(|what| !what.has_ended());
        for what in self.announced.borrow().iter().filter_map(live) {
            mail.put(Letter::Special(Foreign { what, promise: None }));
        }
        let member = Member { cid, handle: handle.clone(), mail: mail.clone() };
        self.members.borrow_mut().push(member);
        let inherited = self.nexuses.borrow().values().filter_map(|(_, nexus)| nexus.upgrade()).collect();
        Membership { group: self.clone(), mail, handle: handle.clone(), inherited: RefCell::new(inherited) }
    }

    fn wake_all_but(&self, id: u64) {
        for member in self.members.borrow().iter().filter(|member| member.handle.id != id) {
            member.handle.notify.notify_one();
        }
    }

    /// Whether one more connection may come, with this identifier; one that has it already gives way.
    pub fn has_room_for(&self, cid: u16) -> bool {
        let others = self.members.borrow().iter().filter(|member| member.cid != cid).count();
        others < usize::from(self.session.params().max_connections)
    }

    /// What the session sees now. Of its connections the first that looks has the news, and tells.
    pub(super) fn news<'a>(&self, luns: impl Iterator<Item = (Lun, &'a Arc<Unit>)>) -> News {
        let now: Seen = luns.map(|(lun, unit)| (lun, (unit.clone(), unit.scsi.capacity_bytes()))).collect();
        let mut news = News::default();
        let mut seen = self.seen.borrow_mut();
        if let Some(before) = &*seen {
            news.inventory = before.keys().any(|lun| !now.contains_key(lun));
            for (lun, (unit, size)) in &now {
                match before.get(lun) {
                    Some((held, _)) if !Arc::ptr_eq(held, unit) => news.inventory = true,
                    None => news.inventory = true,
                    Some((_, before)) if before != size => news.resized.push(*lun),
                    Some(_) => {}
                }
            }
        }
        *seen = Some(now);
        news
    }

    /// Whether it has been shown anything.
    pub(super) fn has_seen(&self) -> bool {
        self.seen.borrow().is_some()
    }

    /// The nexus with `unit`; the first connection that sees it makes it.
    pub(super) fn nexus(&self, lun: Lun, unit: &Arc<Unit>, make: impl FnOnce() -> NexusLu) -> Rc<NexusLu> {
        let mut nexuses = self.nexuses.borrow_mut();
        let held = nexuses.get(&lun).filter(|(held, _)| Arc::ptr_eq(held, unit));
        held.and_then(|(_, nexus)| nexus.upgrade()).unwrap_or_else(|| {
            let nexus = Rc::new(make());
            nexuses.insert(lun, (unit.clone(), Rc::downgrade(&nexus)));
            nexus
        })
    }
}

impl Membership {
    /// The connection has its LUNs.
    pub(super) fn has_luns(&self) {
        self.inherited.take();
    }

    /// The other connections; with `cid`: that one.
    pub fn others(&self, cid: Option<u16>) -> Vec<Arc<ConnectionHandle>> {
        let members = self.group.members.borrow();
        let others = members.iter().filter(|member| member.handle.id != self.handle.id);
        others.filter(|member| cid.is_none_or(|cid| member.cid == cid)).map(|m| m.handle.clone()).collect()
    }

    /// The other connections are to look at what has changed.
    pub fn wake_others(&self) {
        self.group.wake_all_but(self.handle.id);
    }

    /// Writes to each of the other connections; `left` counts those that have not done what they promise.
    fn write(&self, left: &Rc<Cell<usize>>, letter: impl Fn(Promise) -> Letter) {
        for member in self.group.members.borrow().iter().filter(|m| m.handle.id != self.handle.id) {
            member.mail.put(letter(Promise::new(left, &self.handle.notify)));
            member.handle.notify.notify_one();
        }
    }

    /// Has the other connections end their tasks on `unit`, or all; of these with `before` those with lower numbers.
    pub(super) fn abort(
        &self,
        unit: Option<&Arc<Unit>>,
        until: Option<Instant>,
        before: Option<Serial>,
        left: &Rc<Cell<usize>>,
    ) {
        self.write(left, |promise| Letter::Abort(Abort { unit: unit.cloned(), until, before, promise }));
    }

    /// Has the other connections end the task with this tag and this number, where it is; `found` says whether it was anywhere.
    pub(super) fn abort_one(
        &self,
        initiator_task_tag: u32,
        cmd_sn: Serial,
        found: &Rc<Cell<bool>>,
        left: &Rc<Cell<usize>>,
    ) {
        self.write(left, |promise| {
            Letter::AbortOne(AbortOne { initiator_task_tag, cmd_sn, found: found.clone(), promise })
        });
    }

    /// Has the other connections see to it that all they have sent is acknowledged.
    pub(super) fn ask_for_acknowledgement(&self, left: &Rc<Cell<usize>>) {
        self.write(left, Letter::Acknowledge);
    }

    /// Asks the other connections.
    pub(super) fn ask(&self, query: &Query, left: &Rc<Cell<usize>>) {
        self.write(left, |promise| {
            let Query { lun, task, ref found, .. } = *query;
            Letter::Query(Query { lun, task, found: found.clone(), _promise: Some(promise) })
        });
    }

    /// Tells the other connections of a task that is not SIMPLE, and those that come while it lasts. None where there is no other.
    pub(super) fn announce(&self, cmd_sn: Serial, unit: &Arc<Unit>, kind: Kind) -> Option<Announced> {
        if self.group.session.params().max_connections < 2 {
            return None;
        }
        let left = Rc::new(Cell::new(0));
        let (unit, ended) = (unit.clone(), Cell::new(false));
        let what = Rc::new(Announcement { cmd_sn, unit, kind, ended, left: left.clone() });
        self.write(&left, |promise| {
            let promise = (kind == Kind::Ordered).then_some(promise);
            Letter::Special(Foreign { what: what.clone(), promise })
        });
        let mut announced = self.group.announced.borrow_mut();
        announced.retain(|what| what.strong_count() > 0);
        announced.push(Rc::downgrade(&what));
        Some(Announced { what, group: self.group.clone(), by: self.handle.id })
    }

    /// The connection has ended. True if it was the last one.
    pub fn leave(&self) -> bool {
        let mut members = self.group.members.borrow_mut();
        members.retain(|member| member.handle.id != self.handle.id);
        let is_last = members.is_empty();
        drop(members);
        self.wake_others();
        is_last
    }
}
