//! Where a task stands, and what a session needs to go on with it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use lusd_iscsi::Connection as Proto;
use lusd_scsi::{Lun, Plan};

use crate::lun::job::Entry;
use crate::lun::unit::Unit;
use crate::lun::work::Request;
use crate::net::memory::{Charge, ConnectionMemory};
use crate::net::shard::{Inbox, Shard};
use crate::target::answer::Reply;
use crate::target::capacity::Asking;
use crate::target::session::fence::Fenced;

/// What a session needs of the connection that carries it.
pub struct Carrier<'a> {
    /// The shard.
    pub shard: &'a Shard,
    /// Where outcomes arrive.
    pub inbox: &'a Rc<Inbox>,
    /// The connection's share of the data memory.
    pub memory: &'a Arc<ConnectionMemory>,
    /// The protocol.
    pub proto: &'a mut Proto,
    /// The time.
    pub now: Instant,
    /// Nothing of what is being taken in came before this.
    pub since: Instant,
}

/// Whether a command was taken over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// It is answered, or under way.
    Taken,
    /// There is no data memory for it now: nothing more is read until there is.
    NoMemory,
}

/// The session is to be reset: a command of it must not be answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Lost;

/// The host has no access any more.
#[derive(Debug, PartialEq, Eq)]
pub struct NoAccess;

/// Where a task stands.
pub(in crate::target) enum Task {
    /// Its data-out is on the way.
    Collecting {
        lun: Lun,
        unit: Arc<Unit>,
        plan: Plan,
        charge: Charge,
        /// Bytes that are not charged yet: what they are for has not been asked for.
        missing: usize,
        /// The initiator sends the last of the data while it still waits for the task.
        proves: bool,
        entry: Entry,
    },
    /// A read that waits for memory.
    Hungry { lun: Lun, unit: Arc<Unit>, plan: Plan, missing: usize, entry: Entry },
    /// A barrier is held on its unit.
    Parked { unit: Arc<Unit>, request: Request, reply: Reply },
    /// A look at its unit is awaited.
    Asking(Asking),
    /// Its answer waits for acknowledgements on other connections of the session.
    Fenced(Fenced),
    /// Between the two passages of the gate.
    Running { unit: Arc<Unit>, reply: Reply },
    /// As `Running`, but ended by a task management function: it is not answered.
    Aborted,
    /// Ended by a function while the initiator was sending what it had been asked for; that is waited for, but not for ever.
    CutOff { until: Instant },
}
