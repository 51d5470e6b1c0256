//! The connections of one session, which all live on one shard: who they are, what they share, and what they ask of each other.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;

use lusd_iscsi::SessionHandle;
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
}

#[derive(Debug)]
struct Member {
    cid: u16,
    handle: Arc<ConnectionHandle>,
    mail: Rc<Mail>,
}

/// What the other connections of the session ask of one.
#[derive(Debug, Default)]
pub struct Mail(RefCell<Vec<Abort>>);

impl Mail {
    /// Takes what has come.
    pub(super) fn take(&self) -> Vec<Abort> {
        std::mem::take(&mut *self.0.borrow_mut())
    }

    /// True if nothing has come.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }
}

/// A function that another connection of the session has brought: it is about these tasks, too.
#[derive(Debug)]
pub(super) struct Abort {
    /// Of this unit; none: of all.
    pub(super) unit: Option<Arc<Unit>>,
    /// Until when data that had been asked for is waited for.
    pub(super) until: Option<Instant>,
    pub(super) promise: Promise,
}

/// Dropped when nothing of the tasks can take effect any more.
#[derive(Debug)]
pub(super) struct Promise {
    left: Rc<Cell<usize>>,
    by: Arc<Notify>,
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
        })
    }

    /// A connection comes in.
    pub fn enter(self: &Rc<Self>, cid: u16, handle: &Arc<ConnectionHandle>) -> Membership {
        let mail = Rc::<Mail>::default();
        let member = Member { cid, handle: handle.clone(), mail: mail.clone() };
        self.members.borrow_mut().push(member);
        let inherited = self.nexuses.borrow().values().filter_map(|(_, nexus)| nexus.upgrade()).collect();
        Membership { group: self.clone(), mail, handle: handle.clone(), inherited: RefCell::new(inherited) }
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
        for other in self.others(None) {
            other.notify.notify_one();
        }
    }

    /// Has the other connections end their tasks on `unit`, or all; `left` counts those that have not.
    pub(super) fn abort(&self, unit: Option<&Arc<Unit>>, until: Option<Instant>, left: &Rc<Cell<usize>>) {
        for member in self.group.members.borrow().iter().filter(|m| m.handle.id != self.handle.id) {
            left.set(left.get() + 1);
            let promise = Promise { left: left.clone(), by: self.handle.notify.clone() };
            member.mail.0.borrow_mut().push(Abort { unit: unit.cloned(), until, promise });
            member.handle.notify.notify_one();
        }
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
