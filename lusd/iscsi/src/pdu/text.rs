//! Text Request and Text Response (RFC 7143 11.10, 11.11).

use super::{TargetSns, cmd_sn, exp_stat_sn, flag, put_request};
use crate::bhs::{Bhs, CONTINUE, FINAL, Opcode, field};
use crate::error::WireError;
use crate::serial::Serial;

/// Text Request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextRequest {
    /// Deliver outside of CmdSN order.
    pub immediate: bool,
    /// "F": the initiator has no more to negotiate.
    pub is_final: bool,
    /// "C": the text goes on in the next request.
    pub continues: bool,
    /// Logical unit number: what the response that this continues had.
    pub lun: u64,
    /// Initiator task tag.
    pub initiator_task_tag: u32,
    /// The tag of the response that this continues, or the reserved tag.
    pub target_transfer_tag: u32,
    /// CmdSN.
    pub cmd_sn: Serial,
    /// ExpStatSN.
    pub exp_stat_sn: Serial,
}

impl TextRequest {
    /// # Errors
    /// "F" and "C" at once.
    pub fn parse(bhs: &Bhs) -> Result<Self, WireError> {
        if bhs.has_flag(FINAL | CONTINUE) {
            return Err(WireError::FinalAndContinue);
        }
        Ok(Self {
            immediate: bhs.immediate(),
            is_final: bhs.has_flag(FINAL),
            continues: bhs.has_flag(CONTINUE),
            lun: bhs.lun(),
            initiator_task_tag: bhs.initiator_task_tag(),
            target_transfer_tag: bhs.u32_at(field::TARGET_TRANSFER_TAG),
            cmd_sn: cmd_sn(bhs),
            exp_stat_sn: exp_stat_sn(bhs),
        })
    }

    /// The header; the length of the text is the caller's to set.
    #[must_use]
    pub fn to_bhs(&self) -> Bhs {
        let mut bhs =
            Bhs::new(Opcode::TextRequest, flag(self.is_final, FINAL) | flag(self.continues, CONTINUE));
        bhs.set_lun(self.lun);
        bhs.put_u32(field::INITIATOR_TASK_TAG, self.initiator_task_tag);
        bhs.put_u32(field::TARGET_TRANSFER_TAG, self.target_transfer_tag);
        put_request(&mut bhs, self.immediate, self.cmd_sn, self.exp_stat_sn);
        bhs
    }
}

/// Text Response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextResponse {
    /// "F": the negotiation is over.
    pub is_final: bool,
    /// "C": the text goes on in the next response.
    pub continues: bool,
    /// Initiator task tag.
    pub initiator_task_tag: u32,
    /// The tag that a request which continues this must carry, or the reserved tag.
    pub target_transfer_tag: u32,
    /// StatSN, ExpCmdSN, MaxCmdSN.
    pub sns: TargetSns,
}

impl TextResponse {
    /// # Errors
    /// "F" and "C" at once.
    pub fn parse(bhs: &Bhs) -> Result<Self, WireError> {
        if bhs.has_flag(FINAL | CONTINUE) {
            return Err(WireError::FinalAndContinue);
        }
        Ok(Self {
            is_final: bhs.has_flag(FINAL),
            continues: bhs.has_flag(CONTINUE),
            initiator_task_tag: bhs.initiator_task_tag(),
            target_transfer_tag: bhs.u32_at(field::TARGET_TRANSFER_TAG),
            sns: TargetSns::parse(bhs),
        })
    }

    /// The header; the length of the text is the caller's to set.
    #[must_use]
    pub fn to_bhs(&self) -> Bhs {
        let mut bhs =
            Bhs::new(Opcode::TextResponse, flag(self.is_final, FINAL) | flag(self.continues, CONTINUE));
        bhs.put_u32(field::INITIATOR_TASK_TAG, self.initiator_task_tag);
        bhs.put_u32(field::TARGET_TRANSFER_TAG, self.target_transfer_tag);
        self.sns.put(&mut bhs);
        bhs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn final_and_continue_exclude_each_other() {
        let both = FINAL | CONTINUE;
        assert_eq!(
            TextRequest::parse(&Bhs::new(Opcode::TextRequest, both)),
            Err(WireError::FinalAndContinue)
        );
        assert_eq!(
            TextResponse::parse(&Bhs::new(Opcode::TextResponse, both)),
            Err(WireError::FinalAndContinue)
        );
    }

    proptest! {
        #[test]
        fn round_trips(
            (immediate, is_final, c) in any::<(bool, bool, bool)>(),
            (lun, initiator_task_tag, target_transfer_tag, a, b) in any::<(u64, u32, u32, u32, u32)>(),
        ) {
            let continues = c && !is_final;
            let request = TextRequest {
                immediate, is_final, continues, lun, initiator_task_tag, target_transfer_tag,
                cmd_sn: Serial(a), exp_stat_sn: Serial(b),
            };
            prop_assert_eq!(TextRequest::parse(&request.to_bhs()).unwrap(), request);
            let sns = TargetSns { stat_sn: Serial(a), exp_cmd_sn: Serial(b), max_cmd_sn: Serial(!a) };
            let response = TextResponse { is_final, continues, initiator_task_tag, target_transfer_tag, sns };
            prop_assert_eq!(TextResponse::parse(&response.to_bhs()).unwrap(), response);
        }
    }
}
