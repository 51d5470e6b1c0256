//! NOP-Out and NOP-In (RFC 7143 11.18, 11.19).

use super::{TargetSns, cmd_sn, exp_stat_sn, put_request};
use crate::bhs::{Bhs, FINAL, Opcode, field};
use crate::serial::Serial;

/// NOP-Out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NopOut {
    /// Deliver outside of CmdSN order.
    pub immediate: bool,
    /// Logical unit number: the one of the NOP-In that this answers, else 0.
    pub lun: u64,
    /// The reserved tag if no answer is wanted.
    pub initiator_task_tag: u32,
    /// The tag of the NOP-In that this answers, or the reserved tag.
    pub target_transfer_tag: u32,
    /// CmdSN.
    pub cmd_sn: Serial,
    /// ExpStatSN.
    pub exp_stat_sn: Serial,
}

impl NopOut {
    /// The value of this header: every one has one.
    #[must_use]
    pub fn parse(bhs: &Bhs) -> Self {
        Self {
            immediate: bhs.immediate(),
            lun: bhs.lun(),
            initiator_task_tag: bhs.initiator_task_tag(),
            target_transfer_tag: bhs.u32_at(field::TARGET_TRANSFER_TAG),
            cmd_sn: cmd_sn(bhs),
            exp_stat_sn: exp_stat_sn(bhs),
        }
    }

    /// The header; the length of the ping data is the caller's to set.
    #[must_use]
    pub fn to_bhs(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::NopOut, FINAL);
        bhs.set_lun(self.lun);
        bhs.put_u32(field::INITIATOR_TASK_TAG, self.initiator_task_tag);
        bhs.put_u32(field::TARGET_TRANSFER_TAG, self.target_transfer_tag);
        put_request(&mut bhs, self.immediate, self.cmd_sn, self.exp_stat_sn);
        bhs
    }
}

/// NOP-In.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NopIn {
    /// Logical unit number, to come back in the answer.
    pub lun: u64,
    /// The tag of the NOP-Out that this answers, or the reserved tag.
    pub initiator_task_tag: u32,
    /// The reserved tag if no answer is wanted.
    pub target_transfer_tag: u32,
    /// StatSN (its own if this is an answer, else the next one), ExpCmdSN, MaxCmdSN.
    pub sns: TargetSns,
}

impl NopIn {
    /// The value of this header: every one has one.
    #[must_use]
    pub fn parse(bhs: &Bhs) -> Self {
        Self {
            lun: bhs.lun(),
            initiator_task_tag: bhs.initiator_task_tag(),
            target_transfer_tag: bhs.u32_at(field::TARGET_TRANSFER_TAG),
            sns: TargetSns::parse(bhs),
        }
    }

    /// The header; the length of the ping data is the caller's to set.
    #[must_use]
    pub fn to_bhs(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::NopIn, FINAL);
        bhs.set_lun(self.lun);
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

    proptest! {
        #[test]
        fn round_trips((immediate, lun, initiator_task_tag, target_transfer_tag, a, b) in any::<(bool, u64, u32, u32, u32, u32)>()) {
            let out = NopOut { immediate, lun, initiator_task_tag, target_transfer_tag, cmd_sn: Serial(a), exp_stat_sn: Serial(b) };
            prop_assert_eq!(NopOut::parse(&out.to_bhs()), out);
            let sns = TargetSns { stat_sn: Serial(a), exp_cmd_sn: Serial(b), max_cmd_sn: Serial(a ^ b) };
            let back = NopIn { lun, initiator_task_tag, target_transfer_tag, sns };
            prop_assert_eq!(NopIn::parse(&back.to_bhs()), back);
        }
    }
}
