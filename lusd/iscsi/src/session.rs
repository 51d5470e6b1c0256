//! What belongs to a session rather than to its connection: the command window and the tasks. A session has one connection
//! for now and is held by it.

pub(crate) mod tasks;
pub(crate) mod window;

use crate::config::Config;
use crate::serial::Serial;
use tasks::TaskTable;
use window::CommandWindow;

#[derive(Debug)]
pub(crate) struct Session {
    pub window: CommandWindow,
    pub tasks: TaskTable,
}

impl Session {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            window: CommandWindow::new(Serial(0), config.command_window),
            tasks: TaskTable::new((config.command_window + config.immediate_window) as usize),
        }
    }
}
