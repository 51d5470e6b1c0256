//! What others see of the daemon.

pub mod log;
