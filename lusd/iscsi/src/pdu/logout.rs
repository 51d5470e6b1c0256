//! Logout Request and Logout Response (RFC 7143 11.14, 11.15).

use super::{TargetSns, cmd_sn, exp_stat_sn, put_request};
use crate::bhs::{Bhs, FINAL, Opcode, field};
use crate::error::WireError;
use crate::serial::Serial;

const REASON: u8 = 0x7f;
const CID: usize = 20;
const RESPONSE: usize = 2;
const TIME_2_WAIT: usize = 40;
const TIME_2_RETAIN: usize = 42;

/// What the initiator wants to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum LogoutReason {
    /// The session and all its connections.
    CloseSession = 0,
    /// One connection, with its tasks.
    CloseConnection = 1,
    /// One connection, whose tasks another one takes over.
    RemoveConnectionForRecovery = 2,
}

/// Logout Request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogoutRequest {
    /// Deliver outside of CmdSN order.
    pub immediate: bool,
    /// What is to be ended.
    pub reason: LogoutReason,
    /// Initiator task tag.
    pub initiator_task_tag: u32,
    /// The connection that is meant.
    pub cid: u16,
    /// CmdSN.
    pub cmd_sn: Serial,
    /// ExpStatSN.
    pub exp_stat_sn: Serial,
}

impl LogoutRequest {
    /// # Errors
    /// A reserved reason.
    pub fn parse(bhs: &Bhs) -> Result<Self, WireError> {
        let reason = match bhs.flags() & REASON {
            0 => LogoutReason::CloseSession,
            1 => LogoutReason::CloseConnection,
            2 => LogoutReason::RemoveConnectionForRecovery,
            code => return Err(WireError::LogoutReason(code)),
        };
        Ok(Self {
            immediate: bhs.immediate(),
            reason,
            initiator_task_tag: bhs.initiator_task_tag(),
            cid: bhs.u16_at(CID),
            cmd_sn: cmd_sn(bhs),
            exp_stat_sn: exp_stat_sn(bhs),
        })
    }

    /// The header.
    #[must_use]
    pub fn to_bhs(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::LogoutRequest, FINAL | self.reason as u8);
        bhs.put_u32(field::INITIATOR_TASK_TAG, self.initiator_task_tag);
        bhs.put_u16(CID, self.cid);
        put_request(&mut bhs, self.immediate, self.cmd_sn, self.exp_stat_sn);
        bhs
    }
}

/// How a logout ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are the RFC's")]
pub enum LogoutResult {
    Closed = 0,
    CidNotFound = 1,
    RecoveryNotSupported = 2,
    CleanupFailed = 3,
}

/// Logout Response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogoutResponse {
    /// How the logout ended.
    pub response: LogoutResult,
    /// Initiator task tag.
    pub initiator_task_tag: u32,
    /// StatSN, ExpCmdSN, MaxCmdSN.
    pub sns: TargetSns,
    /// Seconds to wait before the next login.
    pub time_2_wait_s: u16,
    /// Seconds for which tasks are kept after that.
    pub time_2_retain_s: u16,
}

impl LogoutResponse {
    /// # Errors
    /// A reserved response code.
    pub fn parse(bhs: &Bhs) -> Result<Self, WireError> {
        let response = match bhs.0[RESPONSE] {
            0 => LogoutResult::Closed,
            1 => LogoutResult::CidNotFound,
            2 => LogoutResult::RecoveryNotSupported,
            3 => LogoutResult::CleanupFailed,
            code => return Err(WireError::LogoutResponse(code)),
        };
        Ok(Self {
            response,
            initiator_task_tag: bhs.initiator_task_tag(),
            sns: TargetSns::parse(bhs),
            time_2_wait_s: bhs.u16_at(TIME_2_WAIT),
            time_2_retain_s: bhs.u16_at(TIME_2_RETAIN),
        })
    }

    /// The header.
    #[must_use]
    pub fn to_bhs(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::LogoutResponse, FINAL);
        bhs.0[RESPONSE] = self.response as u8;
        bhs.put_u32(field::INITIATOR_TASK_TAG, self.initiator_task_tag);
        self.sns.put(&mut bhs);
        bhs.put_u16(TIME_2_WAIT, self.time_2_wait_s);
        bhs.put_u16(TIME_2_RETAIN, self.time_2_retain_s);
        bhs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn codes() {
        for code in 0..=REASON {
            let parsed = LogoutRequest::parse(&Bhs::new(Opcode::LogoutRequest, FINAL | code));
            assert_eq!(parsed.map(|r| r.reason as u8).ok(), (code < 3).then_some(code));
        }
        for code in 0..=255_u8 {
            let mut bhs = Bhs::new(Opcode::LogoutResponse, FINAL);
            bhs.0[RESPONSE] = code;
            assert_eq!(
                LogoutResponse::parse(&bhs).map(|r| r.response as u8).ok(),
                (code < 4).then_some(code)
            );
        }
    }

    proptest! {
        #[test]
        fn round_trips(
            (immediate, which, initiator_task_tag, cid, a, b) in (any::<bool>(), 0..3usize, any::<u32>(), any::<u16>(), any::<u32>(), any::<u32>()),
        ) {
            use LogoutReason::{CloseConnection, CloseSession, RemoveConnectionForRecovery};
            let request = LogoutRequest {
                immediate, reason: [CloseSession, CloseConnection, RemoveConnectionForRecovery][which],
                initiator_task_tag, cid, cmd_sn: Serial(a), exp_stat_sn: Serial(b),
            };
            prop_assert_eq!(LogoutRequest::parse(&request.to_bhs()).unwrap(), request);
            let response = LogoutResponse {
                response: [LogoutResult::Closed, LogoutResult::CidNotFound, LogoutResult::CleanupFailed][which],
                initiator_task_tag, sns: TargetSns { stat_sn: Serial(a), exp_cmd_sn: Serial(b), max_cmd_sn: Serial(!b) },
                time_2_wait_s: cid, time_2_retain_s: !cid,
            };
            prop_assert_eq!(LogoutResponse::parse(&response.to_bhs()).unwrap(), response);
        }
    }
}
