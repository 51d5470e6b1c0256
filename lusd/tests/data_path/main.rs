//! The daemon's data path in one process: shards, connections, sessions and units as the daemon puts them together, on `ram:` and
//! `null:`, with a scripted initiator on the other end of a real TCP connection. What it sends and reads is encoded here, byte for byte
//! from RFC 7143, and shares nothing with the target's codec.
#![forbid(unsafe_code)]

mod atomic;
mod authentication;
mod capacity;
mod connections;
mod copy;
mod data;
mod discovery;
mod ending;
mod erase;
mod garbage;
mod gate;
mod gateway;
mod habits;
mod hostile;
mod initiator;
mod management;
mod memory;
mod messages;
mod model;
mod order;
mod reservations;
mod sessions;
mod stale;
mod views;
