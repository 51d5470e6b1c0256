//! SCSI Data-Out, SCSI Data-In and Ready To Transfer (RFC 7143 11.7, 11.8).

use super::{Residual, TargetSns, exp_stat_sn, flag};
use crate::bhs::{Bhs, FINAL, Opcode, field};
use crate::error::WireError;
use crate::serial::Serial;

const STATUS_PRESENT: u8 = 0x01;
const STATUS: usize = 3;
const DATA_SN: usize = 36;
const BUFFER_OFFSET: usize = 40;
const RESIDUAL_OR_LENGTH: usize = 44;

/// SCSI Data-Out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataOut {
    /// "F": the last PDU of the sequence.
    pub is_final: bool,
    /// Logical unit number, as on the wire.
    pub lun: u64,
    /// Initiator task tag.
    pub initiator_task_tag: u32,
    /// The R2T that asked for this data, or the reserved tag for unsolicited data.
    pub target_transfer_tag: u32,
    /// ExpStatSN.
    pub exp_stat_sn: Serial,
    /// Number of this PDU within its sequence.
    pub data_sn: Serial,
    /// Place of the data within the command's, bytes.
    pub buffer_offset: u32,
}

impl DataOut {
    /// The value of this header: every one has one.
    #[must_use]
    pub fn parse(bhs: &Bhs) -> Self {
        Self {
            is_final: bhs.has_flag(FINAL),
            lun: bhs.lun(),
            initiator_task_tag: bhs.initiator_task_tag(),
            target_transfer_tag: bhs.u32_at(field::TARGET_TRANSFER_TAG),
            exp_stat_sn: exp_stat_sn(bhs),
            data_sn: Serial(bhs.u32_at(DATA_SN)),
            buffer_offset: bhs.u32_at(BUFFER_OFFSET),
        }
    }

    /// The header; the length of the data is the caller's to set.
    #[must_use]
    pub fn to_bhs(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::DataOut, flag(self.is_final, FINAL));
        bhs.set_lun(self.lun);
        bhs.put_u32(field::INITIATOR_TASK_TAG, self.initiator_task_tag);
        bhs.put_u32(field::TARGET_TRANSFER_TAG, self.target_transfer_tag);
        bhs.put_u32(field::EXP_STAT_SN, self.exp_stat_sn.0);
        bhs.put_u32(DATA_SN, self.data_sn.0);
        bhs.put_u32(BUFFER_OFFSET, self.buffer_offset);
        bhs
    }
}

/// A status that travels with the last Data-In PDU of a command ("phase collapse").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataInStatus {
    /// SCSI status: one that comes without sense data.
    pub status: u8,
    /// Residual of the command.
    pub residual: Residual,
}

/// SCSI Data-In.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataIn {
    /// "F": the last PDU of the sequence.
    pub is_final: bool,
    /// The command's status, if this PDU ends it.
    pub status: Option<DataInStatus>,
    /// Initiator task tag.
    pub initiator_task_tag: u32,
    /// StatSN (which counts only with a status), ExpCmdSN, MaxCmdSN.
    pub sns: TargetSns,
    /// Number of this PDU within the command.
    pub data_sn: Serial,
    /// Place of the data within the command's, bytes.
    pub buffer_offset: u32,
}

impl DataIn {
    /// # Errors
    /// Underflow and overflow at once.
    pub fn parse(bhs: &Bhs) -> Result<Self, WireError> {
        let status = if bhs.has_flag(STATUS_PRESENT) {
            Some(DataInStatus {
                status: bhs.0[STATUS],
                residual: Residual::decode_basic(bhs, RESIDUAL_OR_LENGTH)?,
            })
        } else {
            None
        };
        let mut sns = TargetSns::parse(bhs);
        if status.is_none() {
            sns.stat_sn = Serial(0);
        }
        Ok(Self {
            is_final: bhs.has_flag(FINAL),
            status,
            initiator_task_tag: bhs.initiator_task_tag(),
            sns,
            data_sn: Serial(bhs.u32_at(DATA_SN)),
            buffer_offset: bhs.u32_at(BUFFER_OFFSET),
        })
    }

    /// The header; the length of the data is the caller's to set.
    #[must_use]
    pub fn to_bhs(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::DataIn, flag(self.is_final, FINAL));
        self.sns.put(&mut bhs);
        if let Some(DataInStatus { status, residual }) = self.status {
            let (flags, count) = residual.encode_basic();
            bhs.0[field::FLAGS] |= STATUS_PRESENT | flags;
            bhs.0[STATUS] = status;
            bhs.put_u32(RESIDUAL_OR_LENGTH, count);
        } else {
            bhs.put_u32(field::CMD_SN, 0);
        }
        bhs.put_u32(field::INITIATOR_TASK_TAG, self.initiator_task_tag);
        bhs.put_u32(field::TARGET_TRANSFER_TAG, crate::bhs::RESERVED_TAG);
        bhs.put_u32(DATA_SN, self.data_sn.0);
        bhs.put_u32(BUFFER_OFFSET, self.buffer_offset);
        bhs
    }
}

/// Ready To Transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadyToTransfer {
    /// Logical unit number, as on the wire: the command's.
    pub lun: u64,
    /// Initiator task tag.
    pub initiator_task_tag: u32,
    /// The tag that the Data-Out PDUs of this sequence will carry.
    pub target_transfer_tag: u32,
    /// StatSN (the next one: an R2T has none of its own), ExpCmdSN, MaxCmdSN.
    pub sns: TargetSns,
    /// Number of this R2T within the command.
    pub r2t_sn: Serial,
    /// First byte asked for.
    pub buffer_offset: u32,
    /// Number of bytes asked for; not zero.
    pub desired_data_transfer_length: u32,
}

impl ReadyToTransfer {
    /// # Errors
    /// A desired length of zero, which RFC 7143 11.8.4 rules out.
    pub fn parse(bhs: &Bhs) -> Result<Self, WireError> {
        let desired_data_transfer_length = bhs.u32_at(RESIDUAL_OR_LENGTH);
        if desired_data_transfer_length == 0 {
            return Err(WireError::DesiredLength);
        }
        Ok(Self {
            lun: bhs.lun(),
            initiator_task_tag: bhs.initiator_task_tag(),
            target_transfer_tag: bhs.u32_at(field::TARGET_TRANSFER_TAG),
            sns: TargetSns::parse(bhs),
            r2t_sn: Serial(bhs.u32_at(DATA_SN)),
            buffer_offset: bhs.u32_at(BUFFER_OFFSET),
            desired_data_transfer_length,
        })
    }

    /// The header.
    #[must_use]
    pub fn to_bhs(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::ReadyToTransfer, FINAL);
        bhs.set_lun(self.lun);
        bhs.put_u32(field::INITIATOR_TASK_TAG, self.initiator_task_tag);
        bhs.put_u32(field::TARGET_TRANSFER_TAG, self.target_transfer_tag);
        self.sns.put(&mut bhs);
        bhs.put_u32(DATA_SN, self.r2t_sn.0);
        bhs.put_u32(BUFFER_OFFSET, self.buffer_offset);
        bhs.put_u32(RESIDUAL_OR_LENGTH, self.desired_data_transfer_length);
        bhs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_collapsed_status_on_the_wire() {
        let data_in = DataIn {
            is_final: true,
            status: Some(DataInStatus { status: 0, residual: Residual::Underflow(219) }),
            initiator_task_tag: 7,
            sns: TargetSns { stat_sn: Serial(1), exp_cmd_sn: Serial(2), max_cmd_sn: Serial(3) },
            data_sn: Serial(4),
            buffer_offset: 512,
        };
        let bytes = [
            0x25, 0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0xff, 0xff, 0xff, 0xff, 0, 0,
            0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 2, 0, 0, 0, 0, 219,
        ];
        assert_eq!(data_in.to_bhs().0, bytes);
        assert_eq!(DataIn::parse(&Bhs(bytes)).unwrap(), data_in);
    }

    #[test]
    fn an_r2t_asks_for_something() {
        assert_eq!(
            ReadyToTransfer::parse(&Bhs::new(Opcode::ReadyToTransfer, FINAL)),
            Err(WireError::DesiredLength)
        );
    }

    proptest! {
        #[test]
        fn data_out_round_trips(
            is_final in any::<bool>(),
            (lun, initiator_task_tag, target_transfer_tag, exp_stat_sn, data_sn, buffer_offset) in any::<(u64, u32, u32, u32, u32, u32)>(),
        ) {
            let value = DataOut {
                is_final, lun, initiator_task_tag, target_transfer_tag, exp_stat_sn: Serial(exp_stat_sn),
                data_sn: Serial(data_sn), buffer_offset,
            };
            prop_assert_eq!(DataOut::parse(&value.to_bhs()), value);
        }

        #[test]
        fn data_in_round_trips(
            (is_final, with_status, over) in any::<(bool, bool, bool)>(),
            (status, count, initiator_task_tag, data_sn, buffer_offset, sn) in any::<(u8, u32, u32, u32, u32, u32)>(),
        ) {
            let residual = if over { Residual::Overflow(count) } else { Residual::Underflow(count) };
            let value = DataIn {
                is_final,
                status: with_status.then_some(DataInStatus { status, residual }),
                initiator_task_tag,
                sns: TargetSns {
                    stat_sn: Serial(if with_status { sn } else { 0 }),
                    exp_cmd_sn: Serial(sn ^ 1),
                    max_cmd_sn: Serial(sn ^ 2),
                },
                data_sn: Serial(data_sn),
                buffer_offset,
            };
            prop_assert_eq!(DataIn::parse(&value.to_bhs()).unwrap(), value);
        }

        #[test]
        fn r2t_round_trips(
            (lun, initiator_task_tag, target_transfer_tag, sn) in any::<(u64, u32, u32, u32)>(),
            (buffer_offset, desired_data_transfer_length) in (any::<u32>(), 1..u32::MAX),
        ) {
            let value = ReadyToTransfer {
                lun, initiator_task_tag, target_transfer_tag,
                sns: TargetSns { stat_sn: Serial(sn), exp_cmd_sn: Serial(!sn), max_cmd_sn: Serial(sn ^ 9) },
                r2t_sn: Serial(sn ^ 5), buffer_offset, desired_data_transfer_length,
            };
            prop_assert_eq!(ReadyToTransfer::parse(&value.to_bhs()).unwrap(), value);
        }
    }
}
