//! Every PDU from 48 bytes: what can be read is written as it was meant, and read again as the same. Additional headers and text from what follows.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lusd_iscsi::bhs::Bhs;
use lusd_iscsi::{pdu, text};

/// `parse` of these may fail.
macro_rules! there_and_back {
    ($bhs:expr, $($pdu:ident),*) => {
        $(if let Ok(value) = pdu::$pdu::parse($bhs) {
            assert_eq!(pdu::$pdu::parse(&value.to_bhs()), Ok(value));
        })*
    };
}

/// Any header is one of these.
macro_rules! always_there_and_back {
    ($bhs:expr, $($pdu:ident),*) => {
        $(let value = pdu::$pdu::parse($bhs);
        assert_eq!(pdu::$pdu::parse(&value.to_bhs()), value);)*
    };
}

fuzz_target!(|data: &[u8]| {
    let Some(bhs) = Bhs::from_prefix(data) else { return };
    always_there_and_back!(&bhs, DataOut, NopIn, NopOut, TaskManagementRequest);
    there_and_back!(&bhs, AsyncMessage, DataIn, ReadyToTransfer, LoginRequest, LoginResponse);
    there_and_back!(&bhs, LogoutRequest, LogoutResponse, Reject, ScsiCommand, ScsiResponse, SnackRequest);
    there_and_back!(&bhs, TaskManagementResponse, TextRequest, TextResponse);
    let rest = &data[48..];
    // The header tells the length of these in words, in one byte.
    let _ = pdu::parse_ahs(&rest[..rest.len().min(255 * 4) / 4 * 4]);
    let _ = text::pairs(rest);
});
