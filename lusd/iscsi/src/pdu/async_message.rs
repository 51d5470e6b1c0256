//! Asynchronous Message (RFC 7143 11.9).

use super::TargetSns;
use crate::bhs::{Bhs, FINAL, Opcode, RESERVED_TAG, field};
use crate::error::WireError;

const ASYNC_EVENT: usize = 36;
const ASYNC_V_CODE: usize = 37;
const PARAMETER_1: usize = 38;
const PARAMETER_2: usize = 40;
const PARAMETER_3: usize = 42;

/// What has happened (RFC 7143 11.9.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are the RFC's")]
pub enum AsyncCode {
    ScsiEvent = 0,
    LogoutRequest = 1,
    ConnectionDrop = 2,
    SessionDrop = 3,
    NegotiationRequest = 4,
    TaskTermination = 5,
    VendorSpecific = 255,
}

/// Asynchronous Message; a SCSI event has sense data in its data segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsyncMessage {
    /// What has happened.
    pub event: AsyncCode,
    /// Vendor's code, with [`AsyncCode::VendorSpecific`].
    pub vendor_code: u8,
    /// Logical unit number as on the wire, with SCSI events and task terminations.
    pub lun: u64,
    /// StatSN, ExpCmdSN, MaxCmdSN.
    pub sns: TargetSns,
    /// Parameters 1 to 3, whose meaning hangs on the event.
    pub parameters: [u16; 3],
}

impl AsyncMessage {
    /// # Errors
    /// A reserved event.
    pub fn parse(bhs: &Bhs) -> Result<Self, WireError> {
        let event = match bhs.0[ASYNC_EVENT] {
            0 => AsyncCode::ScsiEvent,
            1 => AsyncCode::LogoutRequest,
            2 => AsyncCode::ConnectionDrop,
            3 => AsyncCode::SessionDrop,
            4 => AsyncCode::NegotiationRequest,
            5 => AsyncCode::TaskTermination,
            255 => AsyncCode::VendorSpecific,
            code => return Err(WireError::AsyncEvent(code)),
        };
        Ok(Self {
            event,
            vendor_code: bhs.0[ASYNC_V_CODE],
            lun: bhs.lun(),
            sns: TargetSns::parse(bhs),
            parameters: [bhs.u16_at(PARAMETER_1), bhs.u16_at(PARAMETER_2), bhs.u16_at(PARAMETER_3)],
        })
    }

    /// The header.
    #[must_use]
    pub fn to_bhs(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::AsyncMessage, FINAL);
        bhs.set_lun(self.lun);
        bhs.put_u32(field::INITIATOR_TASK_TAG, RESERVED_TAG);
        self.sns.put(&mut bhs);
        bhs.0[ASYNC_EVENT] = self.event as u8;
        bhs.0[ASYNC_V_CODE] = self.vendor_code;
        for (at, value) in [PARAMETER_1, PARAMETER_2, PARAMETER_3].into_iter().zip(self.parameters) {
            bhs.put_u16(at, value);
        }
        bhs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serial::Serial;

    #[test]
    fn every_event_round_trips() {
        let message = AsyncMessage {
            event: AsyncCode::LogoutRequest,
            vendor_code: 9,
            lun: 1 << 48,
            sns: TargetSns { stat_sn: Serial(1), exp_cmd_sn: Serial(2), max_cmd_sn: Serial(3) },
            parameters: [4, 5, 6],
        };
        for code in 0..=255_u8 {
            let mut bhs = message.to_bhs();
            bhs.0[ASYNC_EVENT] = code;
            let known = code <= 5 || code == 255;
            assert_eq!(AsyncMessage::parse(&bhs).map(|m| m.to_bhs()).ok(), known.then_some(bhs));
        }
    }
}
