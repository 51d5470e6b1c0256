//! An iSCSI initiator that does nothing but load a logical unit: random or sequential reads or writes at a depth, over one or several
//! sessions, in one thread.
//!
//! ```text
//!   options ─► drive (sockets, clock, poll) ─┬─ session (login, window, R2T, answers) ─ wire (framing, codec of lusd-iscsi)
//!                                            ├─ pattern (what is written, and must be read)
//!                                            └─ report (fio's words)
//! ```
//!
//! One read takes all answers that are there, one write sends all commands that they make room for. Nothing waits without a bound, and
//! whatever is not a good answer ends the run.
#![forbid(unsafe_code)]

pub mod drive;
pub mod login;
pub mod options;
pub mod pattern;
pub mod report;
pub mod session;
pub mod wire;
