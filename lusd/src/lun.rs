//! Logical units: the gate, the backends, and the one who owns them.

pub mod backend;
pub mod clients;
pub mod copy;
pub mod describe;
pub mod erase;
pub mod errnos;
pub mod fencer;
pub mod gate;
pub mod job;
pub mod owner;
pub mod ram;
pub mod reserve;
pub mod room;
pub mod takeover;
pub mod unit;
pub mod work;
