//! PDUs as values. One file per family; each is laid out alike: constants, the value, `parse` from a
//! [`Bhs`], `to_bhs`, tests. Parsing ignores reserved bits (RFC 7143 11: receivers MUST ignore them) and fails where a
//! value would make no sense. Both directions are here: the target needs one half, its tests the other.

mod async_message;
mod data;
mod login;
mod logout;
mod nop;
mod reject;
mod scsi;
mod snack;
mod task_management;
mod text;

pub use async_message::{AsyncCode, AsyncMessage};
pub use data::{DataIn, DataInStatus, DataOut, ReadyToTransfer};
pub use login::{ISCSI_VERSION, Isid, LoginRequest, LoginResponse, Stage};
pub use logout::{LogoutReason, LogoutRequest, LogoutResponse, LogoutResult};
pub use nop::{NopIn, NopOut};
pub use reject::{Reject, RejectReason};
pub use scsi::{
    Ahs, CDB_LEN_MAX, Cdb, Residual, ScsiCommand, ScsiResponse, ServiceResponse, TaskAttribute, parse_ahs,
};
pub use snack::{SnackKind, SnackRequest};
pub use task_management::{TaskManagementRequest, TaskManagementResponse, TmfFunction, TmfResponse};
pub use text::{TextRequest, TextResponse};

use crate::bhs::{Bhs, field};
use crate::serial::Serial;

/// The three numbers that every PDU of a target carries (RFC 7143 4.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TargetSns {
    /// Number of this response, or the next one's where this PDU has none of its own.
    pub stat_sn: Serial,
    /// The next CmdSN that the target expects.
    pub exp_cmd_sn: Serial,
    /// The last CmdSN that the target will take.
    pub max_cmd_sn: Serial,
}

impl TargetSns {
    fn parse(bhs: &Bhs) -> Self {
        Self {
            stat_sn: Serial(bhs.u32_at(field::CMD_SN)),
            exp_cmd_sn: Serial(bhs.u32_at(field::EXP_STAT_SN)),
            max_cmd_sn: Serial(bhs.u32_at(field::MAX_CMD_SN)),
        }
    }

    fn put(self, bhs: &mut Bhs) {
        bhs.put_u32(field::CMD_SN, self.stat_sn.0);
        bhs.put_u32(field::EXP_STAT_SN, self.exp_cmd_sn.0);
        bhs.put_u32(field::MAX_CMD_SN, self.max_cmd_sn.0);
    }
}

fn cmd_sn(bhs: &Bhs) -> Serial {
    Serial(bhs.u32_at(field::CMD_SN))
}

fn exp_stat_sn(bhs: &Bhs) -> Serial {
    Serial(bhs.u32_at(field::EXP_STAT_SN))
}

/// Sets the "I" bit and the two numbers that every request of an initiator carries.
fn put_request(bhs: &mut Bhs, immediate: bool, cmd_sn: Serial, exp_stat_sn: Serial) {
    if immediate {
        bhs.0[field::OPCODE] |= crate::bhs::IMMEDIATE;
    }
    bhs.put_u32(field::CMD_SN, cmd_sn.0);
    bhs.put_u32(field::EXP_STAT_SN, exp_stat_sn.0);
}

const fn flag(set: bool, bit: u8) -> u8 {
    if set { bit } else { 0 }
}
