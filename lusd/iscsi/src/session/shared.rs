//! The command window that the connections of a session share, and the handle by which a connection joins a session.

use std::cell::RefCell;
use std::rc::Rc;

use smallvec::SmallVec;

use super::window::{Admission, CommandWindow};
use crate::params::Params;
use crate::serial::Serial;

#[derive(Debug)]
struct Shared {
    window: CommandWindow,
    /// Connections that may still bring commands.
    connections: usize,
    /// CmdSNs of commands that wait on their connections for one before them: at most one for each connection.
    parked: SmallVec<[Serial; 2]>,
}

/// A window that is shared. Each call is short and does not call out.
#[derive(Clone, Debug)]
pub(crate) struct Window(Rc<RefCell<Shared>>);

impl Window {
    pub(crate) fn new(window: CommandWindow) -> Self {
        Self(Rc::new(RefCell::new(Shared { window, connections: 1, parked: SmallVec::new() })))
    }

    pub(crate) fn joined(&self) {
        self.0.borrow_mut().connections += 1;
    }

    pub(crate) fn left(&self) {
        self.0.borrow_mut().connections -= 1;
    }

    /// True if another connection may bring what is missing.
    pub(crate) fn has_others(&self) -> bool {
        self.0.borrow().connections > 1
    }

    /// See [`CommandWindow::admit`].
    pub(crate) fn admit(&self, cmd_sn: Serial) -> Admission {
        self.0.borrow_mut().window.admit(cmd_sn)
    }

    /// A command waits for its turn.
    pub(crate) fn park(&self, cmd_sn: Serial) {
        self.0.borrow_mut().parked.push(cmd_sn);
    }

    /// It waits no more.
    pub(crate) fn unpark(&self, cmd_sn: Serial) {
        self.0.borrow_mut().parked.retain(|sn| *sn != cmd_sn);
    }

    /// Whether that command has to wait on.
    pub(crate) fn keeps_waiting(&self, cmd_sn: Serial) -> bool {
        let shared = self.0.borrow();
        shared.connections > 1 && shared.window.is_gap(cmd_sn)
    }

    /// Whether a connection waits that could go on.
    #[inline]
    pub(crate) fn wakes_others(&self) -> bool {
        let shared = self.0.borrow();
        shared.parked.iter().any(|sn| shared.connections < 2 || !shared.window.is_gap(*sn))
    }

    /// See [`CommandWindow::holds`].
    pub(crate) fn holds(&self, cmd_sn: Serial) -> bool {
        self.0.borrow().window.holds(cmd_sn)
    }

    /// See [`CommandWindow::give_up`].
    pub(crate) fn give_up(&self, cmd_sn: Serial) {
        self.0.borrow_mut().window.give_up(cmd_sn);
    }

    /// See [`CommandWindow::task_started`].
    pub(crate) fn task_started(&self) {
        self.0.borrow_mut().window.task_started();
    }

    /// See [`CommandWindow::task_ended`].
    pub(crate) fn task_ended(&self) {
        self.0.borrow_mut().window.task_ended();
    }

    /// See [`CommandWindow::set_closed`].
    pub(crate) fn set_closed(&self, closed: bool) {
        self.0.borrow_mut().window.set_closed(closed);
    }

    /// See [`CommandWindow::stamp`].
    pub(crate) fn stamp(&self) -> (Serial, Serial) {
        self.0.borrow_mut().window.stamp()
    }

    /// See [`CommandWindow::must_announce`].
    pub(crate) fn must_announce(&self) -> bool {
        self.0.borrow().window.must_announce()
    }
}

/// A session that is up, for further connections to join: [`crate::Connection::login_join`]. It does not keep the session up.
#[derive(Clone, Debug)]
pub struct SessionHandle {
    pub(crate) window: Window,
    pub(crate) params: Rc<Params>,
    pub(crate) tsih: u16,
}

impl SessionHandle {
    /// What was negotiated by its leading connection.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Target's part of the session identifier.
    #[must_use]
    pub const fn tsih(&self) -> u16 {
        self.tsih
    }
}
