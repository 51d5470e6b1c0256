//! SNACK Request (RFC 7143 11.16). Refused at error recovery level 0, but parsed for its answer and for the log.

use super::exp_stat_sn;
use crate::bhs::{Bhs, FINAL, Opcode, field};
use crate::error::WireError;
use crate::serial::Serial;

const KIND: u8 = 0x0f;
const BEG_RUN: usize = 40;
const RUN_LENGTH: usize = 44;

/// What is to be sent again or acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are the RFC's")]
pub enum SnackKind {
    DataOrR2t = 0,
    Status = 1,
    DataAck = 2,
    RData = 3,
}

/// SNACK Request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnackRequest {
    /// What is meant.
    pub kind: SnackKind,
    /// Logical unit number, as on the wire.
    pub lun: u64,
    /// Initiator task tag of the command that is meant.
    pub initiator_task_tag: u32,
    /// Target transfer tag or SNACK tag.
    pub target_transfer_tag: u32,
    /// ExpStatSN.
    pub exp_stat_sn: Serial,
    /// First number of the run.
    pub beg_run: Serial,
    /// Length of the run; 0 is "all from there on".
    pub run_length: u32,
}

impl SnackRequest {
    /// # Errors
    /// A reserved type.
    pub fn parse(bhs: &Bhs) -> Result<Self, WireError> {
        let kind = match bhs.flags() & KIND {
            0 => SnackKind::DataOrR2t,
            1 => SnackKind::Status,
            2 => SnackKind::DataAck,
            3 => SnackKind::RData,
            code => return Err(WireError::SnackKind(code)),
        };
        Ok(Self {
            kind,
            lun: bhs.lun(),
            initiator_task_tag: bhs.initiator_task_tag(),
            target_transfer_tag: bhs.u32_at(field::TARGET_TRANSFER_TAG),
            exp_stat_sn: exp_stat_sn(bhs),
            beg_run: Serial(bhs.u32_at(BEG_RUN)),
            run_length: bhs.u32_at(RUN_LENGTH),
        })
    }

    /// The header.
    #[must_use]
    pub fn to_bhs(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::SnackRequest, FINAL | self.kind as u8);
        bhs.set_lun(self.lun);
        bhs.put_u32(field::INITIATOR_TASK_TAG, self.initiator_task_tag);
        bhs.put_u32(field::TARGET_TRANSFER_TAG, self.target_transfer_tag);
        bhs.put_u32(field::EXP_STAT_SN, self.exp_stat_sn.0);
        bhs.put_u32(BEG_RUN, self.beg_run.0);
        bhs.put_u32(RUN_LENGTH, self.run_length);
        bhs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_refuses_reserved_types() {
        let request = SnackRequest {
            kind: SnackKind::RData,
            lun: 1,
            initiator_task_tag: 2,
            target_transfer_tag: 3,
            exp_stat_sn: Serial(4),
            beg_run: Serial(5),
            run_length: 6,
        };
        assert_eq!(SnackRequest::parse(&request.to_bhs()).unwrap(), request);
        for code in 0..=KIND {
            let parsed = SnackRequest::parse(&Bhs::new(Opcode::SnackRequest, FINAL | code));
            assert_eq!(parsed.is_ok(), code < 4);
        }
    }
}
