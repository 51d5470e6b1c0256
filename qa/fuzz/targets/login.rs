//! A connection that was just accepted, and dialogues of login and text requests.

#![no_main]

use arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use lus_fuzz::Gateway;

const OPCODES: [u8; 4] = [0x03, 0x03, 0x03, 0x04];

fuzz_target!(|data: &[u8]| {
    let mut input = Unstructured::new(data);
    let mut gateway = Gateway::new();
    while gateway.step(&mut input, &OPCODES) {}
    gateway.finish();
});
