//! What belongs to a session rather than to one of its connections, and what each connection has of it.
//!
//! ```text
//!   SessionHandle { TSIH, parameters, Window } ◄── Session { Window, tasks } ── one per Connection
//! ```
//!
//! All connections of a session live on one thread. They share the command window, so that commands are taken in the order of their
//! CmdSNs, whichever connection brought them (RFC 7143 4.2.2.1). A task is allegiant to the connection that its command came by
//! (4.2.5.1), so each connection has its own table of tasks, and what becomes of one connection is no matter to the tasks of another.

pub(crate) mod shared;
pub(crate) mod tasks;
pub(crate) mod window;

pub use shared::SessionHandle;

use crate::config::Config;
use crate::serial::Serial;
use shared::Window;
use tasks::TaskTable;
use window::CommandWindow;

#[derive(Debug)]
pub(crate) struct Session {
    pub window: Window,
    pub tasks: TaskTable,
    left: bool,
}

impl Session {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            window: Window::new(CommandWindow::new(Serial(0), config.command_window)),
            tasks: TaskTable::new((config.command_window + config.immediate_window) as usize),
            left: false,
        }
    }

    /// The connection is another one of the session that `window` is of.
    pub(crate) fn join(&mut self, window: &Window) {
        assert!(
            self.tasks.len() == 0 && !self.left,
            "a connection joins a session once, before its commands"
        );
        self.window = window.clone();
        self.window.joined();
    }

    /// Nothing more comes by this connection.
    pub(crate) fn leave(&mut self) {
        if !std::mem::replace(&mut self.left, true) {
            self.window.left();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.leave();
        // What was still in progress is nobody's any more; the other connections have the room.
        for task in self.tasks.iter_mut() {
            if !task.immediate {
                self.window.task_ended();
            }
        }
    }
}
