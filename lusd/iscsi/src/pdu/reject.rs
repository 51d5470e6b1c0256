//! Reject (RFC 7143 11.17). Its data segment holds the header of what was rejected.

use super::TargetSns;
use crate::bhs::{Bhs, FINAL, Opcode, RESERVED_TAG, field};
use crate::error::WireError;
use crate::serial::Serial;

const REASON: usize = 2;
const DATA_SN: usize = 36;

/// Why a PDU was rejected (RFC 7143 11.17.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are the RFC's")]
pub enum RejectReason {
    DataDigestError = 0x02,
    SnackReject = 0x03,
    ProtocolError = 0x04,
    CommandNotSupported = 0x05,
    TooManyImmediateCommands = 0x06,
    TaskInProgress = 0x07,
    InvalidDataAck = 0x08,
    InvalidPduField = 0x09,
    LongOperationReject = 0x0a,
    NegotiationReset = 0x0b,
    WaitingForLogout = 0x0c,
}

/// Reject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Why.
    pub reason: RejectReason,
    /// StatSN, ExpCmdSN, MaxCmdSN.
    pub sns: TargetSns,
    /// For a rejected data or R2T SNACK: the next number that would be sent.
    pub data_sn: Serial,
}

impl Reject {
    /// # Errors
    /// A reserved reason.
    pub fn parse(bhs: &Bhs) -> Result<Self, WireError> {
        let reason = match bhs.0[REASON] {
            0x02 => RejectReason::DataDigestError,
            0x03 => RejectReason::SnackReject,
            0x04 => RejectReason::ProtocolError,
            0x05 => RejectReason::CommandNotSupported,
            0x06 => RejectReason::TooManyImmediateCommands,
            0x07 => RejectReason::TaskInProgress,
            0x08 => RejectReason::InvalidDataAck,
            0x09 => RejectReason::InvalidPduField,
            0x0a => RejectReason::LongOperationReject,
            0x0b => RejectReason::NegotiationReset,
            0x0c => RejectReason::WaitingForLogout,
            code => return Err(WireError::RejectReason(code)),
        };
        Ok(Self { reason, sns: TargetSns::parse(bhs), data_sn: Serial(bhs.u32_at(DATA_SN)) })
    }

    /// The header; the rejected header goes into the data segment.
    #[must_use]
    pub fn to_bhs(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::Reject, FINAL);
        bhs.0[REASON] = self.reason as u8;
        bhs.put_u32(field::INITIATOR_TASK_TAG, RESERVED_TAG);
        self.sns.put(&mut bhs);
        bhs.put_u32(DATA_SN, self.data_sn.0);
        bhs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_round_trips() {
        for code in 0..=255_u8 {
            let mut bhs = Reject {
                reason: RejectReason::ProtocolError,
                sns: TargetSns { stat_sn: Serial(1), exp_cmd_sn: Serial(2), max_cmd_sn: Serial(3) },
                data_sn: Serial(4),
            }
            .to_bhs();
            bhs.0[REASON] = code;
            assert_eq!(
                Reject::parse(&bhs).map(|r| r.to_bhs()).ok(),
                (2..=0x0c).contains(&code).then_some(bhs)
            );
        }
    }
}
