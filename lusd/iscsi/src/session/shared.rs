//! The command window that the connections of a session share, and the handle by which a connection joins a session.

use std::cell::RefCell;
use std::rc::Rc;

use smallvec::SmallVec;

use super::window::{Admission, CommandWindow};
use crate::bhs::{Bhs, field};
use crate::params::Params;
use crate::serial::Serial;

#[derive(Debug)]
struct Shared {
    window: CommandWindow,
    /// Connections that may still bring commands.
    connections: usize,
    /// Requests that wait on their connections for a command before them: at most one for each connection.
    parked: SmallVec<[Place; 2]>,
}

/// Where a request stands among the commands of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub cmd_sn: Serial,
    pub immediate: bool,
}

impl Place {
    /// That of a request.
    pub(crate) fn of(bhs: &Bhs) -> Self {
        Self { cmd_sn: Serial(bhs.u32_at(field::CMD_SN)), immediate: bhs.immediate() }
    }

    fn is_behind_others(self, window: &CommandWindow) -> bool {
        if self.immediate { window.is_ahead(self.cmd_sn) } else { window.is_gap(self.cmd_sn) }
    }
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

    /// A request waits for its turn.
    pub(crate) fn park(&self, place: Place) {
        self.0.borrow_mut().parked.push(place);
    }

    /// It waits no more.
    pub(crate) fn unpark(&self, place: Place) {
        let parked = &mut self.0.borrow_mut().parked;
        if let Some(i) = parked.iter().position(|held| *held == place) {
            parked.swap_remove(i);
        }
    }

    /// Whether that request has to wait, or to wait on.
    pub(crate) fn keeps_waiting(&self, place: Place) -> bool {
        let shared = self.0.borrow();
        shared.connections > 1 && place.is_behind_others(&shared.window)
    }

    /// Whether a connection waits that could go on.
    #[inline]
    pub(crate) fn wakes_others(&self) -> bool {
        let shared = self.0.borrow();
        shared.parked.iter().any(|place| shared.connections < 2 || !place.is_behind_others(&shared.window))
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
