//! The control plane in a simulation: map, leader, LU states, with a RADOS and a clock of their own, whatever a seed lets go wrong.
//!
//! ```text
//!   fault ──► world: machines with daemons ── MapStore, RecordStore, MapWatch, Driver, Facts, Gate, Pulses (real) ──► rados (simulated)
//!                │        ▲                                                                                              │
//!                └─ host ─┘ writes with ever newer numbers                      oracle ◄── what takes effect, is answered ┘
//! ```
//!
//! Real are the map and its changes, the compare-and-set of map, lease and records, the follower, judge, candidate and driver of the
//! leader, the order of a takeover, the gate, the watchdog's findings. What does the steps of a takeover, a move and a start is bound to
//! librbd in the product; [`attempt`], [`owner`], [`handover`], [`daemon`] and [`clients`] do the same here, in the same order and with
//! the same waits. Who changes the one has to change the other.
//!
//! Invariant: a seed gives the same run each time. One thread, a clock that runs when nothing else does, one source of random numbers;
//! nobody but one task waits at a `watch` channel (tokio wakes several in a random order), and every `select!` is biased.
//!
//! `doc/development.md` says how to run it, and how to run a seed again.

mod attempt;
mod clients;
mod daemon;
mod fault;
mod handover;
mod host;
mod image;
mod judge;
mod objects;
mod oracle;
mod owner;
mod process;
mod rados;
mod rules;
mod run;
mod sim;
mod target;
mod tests;
mod watchdog;
mod world;
