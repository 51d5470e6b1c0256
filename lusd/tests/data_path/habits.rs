//! What known initiators do, and what they need of a target: scripted, byte for byte where the bytes are known. Each says where that is known
//! from; nothing of it was tried with the initiators themselves here.

mod cluster;
mod esxi;
mod linux;
mod windows;
mod wire;
