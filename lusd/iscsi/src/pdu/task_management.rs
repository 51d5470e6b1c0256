//! Task Management Function Request and Response (RFC 7143 11.5, 11.6; RFC 7144 4).

use super::{TargetSns, cmd_sn, exp_stat_sn, put_request};
use crate::bhs::{Bhs, FINAL, Opcode, field};
use crate::error::WireError;
use crate::serial::Serial;

const FUNCTION: u8 = 0x7f;
const REFERENCED_TASK_TAG: usize = 20;
const REF_CMD_SN: usize = 32;
const EXP_DATA_SN: usize = 36;
const RESPONSE: usize = 2;
const ADDITIONAL: std::ops::Range<usize> = 8..11;

/// A task management function. From [`TmfFunction::QueryTask`] on they are RFC 7144's and need iSCSIProtocolLevel 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are the RFCs'")]
pub enum TmfFunction {
    AbortTask = 1,
    AbortTaskSet = 2,
    ClearAca = 3,
    ClearTaskSet = 4,
    LogicalUnitReset = 5,
    TargetWarmReset = 6,
    TargetColdReset = 7,
    TaskReassign = 8,
    QueryTask = 9,
    QueryTaskSet = 10,
    ItNexusReset = 11,
    QueryAsynchronousEvent = 12,
}

impl TmfFunction {
    const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::AbortTask,
            2 => Self::AbortTaskSet,
            3 => Self::ClearAca,
            4 => Self::ClearTaskSet,
            5 => Self::LogicalUnitReset,
            6 => Self::TargetWarmReset,
            7 => Self::TargetColdReset,
            8 => Self::TaskReassign,
            9 => Self::QueryTask,
            10 => Self::QueryTaskSet,
            11 => Self::ItNexusReset,
            12 => Self::QueryAsynchronousEvent,
            _ => return None,
        })
    }

    /// True if the function is about one task that the request names.
    #[must_use]
    pub const fn names_a_task(self) -> bool {
        matches!(self, Self::AbortTask | Self::TaskReassign | Self::QueryTask)
    }

    /// The lowest iSCSIProtocolLevel at which the function exists.
    #[must_use]
    pub const fn protocol_level_min(self) -> u8 {
        if self as u8 >= Self::QueryTask as u8 { 2 } else { 1 }
    }
}

/// Task Management Function Request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskManagementRequest {
    /// Deliver outside of CmdSN order.
    pub immediate: bool,
    /// What is asked; None for a reserved code.
    pub function: Option<TmfFunction>,
    /// Logical unit number as on the wire; means something for functions that act on one.
    pub lun: u64,
    /// Initiator task tag of this request.
    pub initiator_task_tag: u32,
    /// Initiator task tag of the task that is meant.
    pub referenced_task_tag: u32,
    /// CmdSN.
    pub cmd_sn: Serial,
    /// ExpStatSN.
    pub exp_stat_sn: Serial,
    /// CmdSN of the task that is meant.
    pub ref_cmd_sn: Serial,
    /// For TASK REASSIGN: the next Data-In or R2T that the initiator expects.
    pub exp_data_sn: Serial,
}

impl TaskManagementRequest {
    /// The value of this header: every one has one.
    #[must_use]
    pub fn parse(bhs: &Bhs) -> Self {
        Self {
            immediate: bhs.immediate(),
            function: TmfFunction::from_code(bhs.flags() & FUNCTION),
            lun: bhs.lun(),
            initiator_task_tag: bhs.initiator_task_tag(),
            referenced_task_tag: bhs.u32_at(REFERENCED_TASK_TAG),
            cmd_sn: cmd_sn(bhs),
            exp_stat_sn: exp_stat_sn(bhs),
            ref_cmd_sn: Serial(bhs.u32_at(REF_CMD_SN)),
            exp_data_sn: Serial(bhs.u32_at(EXP_DATA_SN)),
        }
    }

    /// The header; a function of None is written as 0.
    #[must_use]
    pub fn to_bhs(&self) -> Bhs {
        let code = self.function.map_or(0, |f| f as u8);
        let mut bhs = Bhs::new(Opcode::TaskManagementRequest, FINAL | code);
        bhs.set_lun(self.lun);
        bhs.put_u32(field::INITIATOR_TASK_TAG, self.initiator_task_tag);
        bhs.put_u32(REFERENCED_TASK_TAG, self.referenced_task_tag);
        put_request(&mut bhs, self.immediate, self.cmd_sn, self.exp_stat_sn);
        bhs.put_u32(REF_CMD_SN, self.ref_cmd_sn.0);
        bhs.put_u32(EXP_DATA_SN, self.exp_data_sn.0);
        bhs
    }
}

/// How a task management function ended (RFC 7143 11.6.1, RFC 7144 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are the RFCs'")]
pub enum TmfResponse {
    FunctionComplete = 0,
    TaskDoesNotExist = 1,
    LunDoesNotExist = 2,
    TaskStillAllegiant = 3,
    TaskAllegianceReassignmentNotSupported = 4,
    FunctionNotSupported = 5,
    FunctionAuthorizationFailed = 6,
    FunctionSucceeded = 7,
    FunctionRejected = 255,
}

/// Task Management Function Response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskManagementResponse {
    /// How the function ended.
    pub response: TmfResponse,
    /// Additional response information of QUERY ASYNCHRONOUS EVENT (SAM-5 7.9, RFC 7144 5.3); zeroes otherwise.
    pub additional: [u8; 3],
    /// Initiator task tag of the request.
    pub initiator_task_tag: u32,
    /// StatSN, ExpCmdSN, MaxCmdSN.
    pub sns: TargetSns,
}

impl TaskManagementResponse {
    /// # Errors
    /// A reserved response code.
    pub fn parse(bhs: &Bhs) -> Result<Self, WireError> {
        let response = match bhs.0[RESPONSE] {
            0 => TmfResponse::FunctionComplete,
            1 => TmfResponse::TaskDoesNotExist,
            2 => TmfResponse::LunDoesNotExist,
            3 => TmfResponse::TaskStillAllegiant,
            4 => TmfResponse::TaskAllegianceReassignmentNotSupported,
            5 => TmfResponse::FunctionNotSupported,
            6 => TmfResponse::FunctionAuthorizationFailed,
            7 => TmfResponse::FunctionSucceeded,
            255 => TmfResponse::FunctionRejected,
            code => return Err(WireError::TmfResponse(code)),
        };
        let mut additional = [0; 3];
        additional.copy_from_slice(&bhs.0[ADDITIONAL]);
        Ok(Self {
            response,
            additional,
            initiator_task_tag: bhs.initiator_task_tag(),
            sns: TargetSns::parse(bhs),
        })
    }

    /// The header.
    #[must_use]
    pub fn to_bhs(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::TaskManagementResponse, FINAL);
        bhs.0[RESPONSE] = self.response as u8;
        bhs.0[ADDITIONAL].copy_from_slice(&self.additional);
        bhs.put_u32(field::INITIATOR_TASK_TAG, self.initiator_task_tag);
        self.sns.put(&mut bhs);
        bhs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn functions_and_responses_have_their_codes() {
        for code in 0..=FUNCTION {
            assert_eq!(
                TmfFunction::from_code(code).map(|f| f as u8),
                (1..=12).contains(&code).then_some(code)
            );
        }
        for code in 0..=255 {
            let mut bhs = Bhs::new(Opcode::TaskManagementResponse, FINAL);
            bhs.0[RESPONSE] = code;
            bhs.0[8..11].copy_from_slice(&[0x46, 0x29, code]);
            match TaskManagementResponse::parse(&bhs) {
                Ok(value) => assert_eq!(value.to_bhs(), bhs),
                Err(e) => assert_eq!(e, WireError::TmfResponse(code)),
            }
        }
    }

    proptest! {
        #[test]
        fn requests_round_trip(
            (immediate, code, lun) in (any::<bool>(), 1..=12u8, any::<u64>()),
            (initiator_task_tag, referenced_task_tag, a, b, c, d) in any::<(u32, u32, u32, u32, u32, u32)>(),
        ) {
            let value = TaskManagementRequest {
                immediate, function: TmfFunction::from_code(code), lun, initiator_task_tag, referenced_task_tag,
                cmd_sn: Serial(a), exp_stat_sn: Serial(b), ref_cmd_sn: Serial(c), exp_data_sn: Serial(d),
            };
            prop_assert_eq!(TaskManagementRequest::parse(&value.to_bhs()), value);
        }
    }
}
