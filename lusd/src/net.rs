//! Sockets, shards and the memory that connections hold.

pub mod arrivals;
pub mod connection;
pub mod memory;
pub mod shard;
