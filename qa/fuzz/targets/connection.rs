//! A session that is up, in several ways, and whatever an initiator sends then: commands, data, text, task management, logout, noise.

#![no_main]

use arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use lus_fuzz::Gateway;

/// What an initiator may send, and two that it may not.
const OPCODES: [u8; 12] = [0x01, 0x05, 0x01, 0x05, 0x00, 0x02, 0x04, 0x06, 0x10, 0x03, 0x21, 0x3f];

fuzz_target!(|data: &[u8]| {
    let mut input = Unstructured::new(data);
    let mut gateway = Gateway::logged_in(input.arbitrary().unwrap_or(0));
    while gateway.step(&mut input, &OPCODES) {}
    gateway.finish();
});
