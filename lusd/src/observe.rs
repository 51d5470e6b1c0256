//! What others see of the daemon.

pub mod log;
pub mod service_map;
pub mod watchdog;
