//! Login Request and Login Response (RFC 7143 11.12, 11.13).

use super::{TargetSns, cmd_sn, exp_stat_sn, flag};
use crate::bhs::{Bhs, CONTINUE, FINAL, IMMEDIATE, Opcode, field};
use crate::error::{LoginStatus, WireError};
use crate::serial::Serial;

/// The only version of iSCSI (RFC 7143 11.12.4).
pub const ISCSI_VERSION: u8 = 0;

const VERSION_MAX: usize = 2;
const VERSION_MIN_OR_ACTIVE: usize = 3;
const ISID: usize = 8;
const TSIH: usize = 14;
const CID: usize = 20;
const STATUS: usize = 36;

/// The initiator's part of a session identifier, 6 bytes (RFC 7143 11.12.5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Isid(pub [u8; 6]);

impl std::fmt::Display for Isid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl std::fmt::Debug for Isid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// A stage of the connection, as CSG and NSG name it (RFC 7143 11.12.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are the RFC's")]
pub enum Stage {
    SecurityNegotiation = 0,
    LoginOperationalNegotiation = 1,
    FullFeaturePhase = 3,
}

impl Stage {
    const fn from_code(code: u8) -> Option<Self> {
        match code & 3 {
            0 => Some(Self::SecurityNegotiation),
            1 => Some(Self::LoginOperationalNegotiation),
            3 => Some(Self::FullFeaturePhase),
            _ => None,
        }
    }
}

/// The stage bits of a header: (CSG, NSG where the "T" bit makes it mean something).
fn stages(bhs: &Bhs) -> Result<(Stage, Option<Stage>), WireError> {
    let csg = Stage::from_code(bhs.flags() >> 2).ok_or(WireError::Stage)?;
    let nsg =
        if bhs.has_flag(FINAL) { Some(Stage::from_code(bhs.flags()).ok_or(WireError::Stage)?) } else { None };
    if nsg.is_some() && bhs.has_flag(CONTINUE) {
        return Err(WireError::FinalAndContinue);
    }
    Ok((csg, nsg))
}

fn stage_flags(csg: Stage, nsg: Option<Stage>, continues: bool) -> u8 {
    (csg as u8) << 2 | nsg.map_or(0, |nsg| FINAL | nsg as u8) | flag(continues, CONTINUE)
}

/// Login Request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginRequest {
    /// Current stage.
    pub csg: Stage,
    /// The stage that the initiator wants to go to next ("T"), if it is done with this one.
    pub nsg: Option<Stage>,
    /// "C": the text goes on in the next request.
    pub continues: bool,
    /// Highest version that the initiator knows.
    pub version_max: u8,
    /// Lowest version that the initiator knows.
    pub version_min: u8,
    /// Initiator's part of the session identifier.
    pub isid: Isid,
    /// Target's part of the session identifier; 0 for a new session.
    pub tsih: u16,
    /// Initiator task tag.
    pub initiator_task_tag: u32,
    /// Connection identifier.
    pub cid: u16,
    /// CmdSN: the number of the session's first command, in a leading login.
    pub cmd_sn: Serial,
    /// ExpStatSN.
    pub exp_stat_sn: Serial,
}

impl LoginRequest {
    /// # Errors
    /// A reserved stage; "T" and "C" at once.
    pub fn parse(bhs: &Bhs) -> Result<Self, WireError> {
        let (csg, nsg) = stages(bhs)?;
        let mut isid = [0; 6];
        isid.copy_from_slice(&bhs.0[ISID..ISID + 6]);
        Ok(Self {
            csg,
            nsg,
            continues: bhs.has_flag(CONTINUE),
            version_max: bhs.0[VERSION_MAX],
            version_min: bhs.0[VERSION_MIN_OR_ACTIVE],
            isid: Isid(isid),
            tsih: bhs.u16_at(TSIH),
            initiator_task_tag: bhs.initiator_task_tag(),
            cid: bhs.u16_at(CID),
            cmd_sn: cmd_sn(bhs),
            exp_stat_sn: exp_stat_sn(bhs),
        })
    }

    /// The header; the length of the text is the caller's to set.
    #[must_use]
    pub fn to_bhs(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::LoginRequest, stage_flags(self.csg, self.nsg, self.continues));
        bhs.0[field::OPCODE] |= IMMEDIATE;
        bhs.0[VERSION_MAX] = self.version_max;
        bhs.0[VERSION_MIN_OR_ACTIVE] = self.version_min;
        bhs.0[ISID..ISID + 6].copy_from_slice(&self.isid.0);
        bhs.put_u16(TSIH, self.tsih);
        bhs.put_u32(field::INITIATOR_TASK_TAG, self.initiator_task_tag);
        bhs.put_u16(CID, self.cid);
        bhs.put_u32(field::CMD_SN, self.cmd_sn.0);
        bhs.put_u32(field::EXP_STAT_SN, self.exp_stat_sn.0);
        bhs
    }
}

/// Login Response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginResponse {
    /// Current stage.
    pub csg: Stage,
    /// The stage that both go to next ("T").
    pub nsg: Option<Stage>,
    /// "C": the text goes on in the next response.
    pub continues: bool,
    /// Initiator's part of the session identifier.
    pub isid: Isid,
    /// Target's part of the session identifier; only the last response of a leading login sets it.
    pub tsih: u16,
    /// Initiator task tag.
    pub initiator_task_tag: u32,
    /// StatSN, ExpCmdSN, MaxCmdSN.
    pub sns: TargetSns,
    /// Status class and detail.
    pub status: LoginStatus,
}

impl LoginResponse {
    /// # Errors
    /// A reserved stage; "T" and "C" at once; a status that is not in RFC 7143 11.13.5.
    pub fn parse(bhs: &Bhs) -> Result<Self, WireError> {
        let (csg, nsg) = stages(bhs)?;
        let mut isid = [0; 6];
        isid.copy_from_slice(&bhs.0[ISID..ISID + 6]);
        let code = bhs.u16_at(STATUS);
        Ok(Self {
            csg,
            nsg,
            continues: bhs.has_flag(CONTINUE),
            isid: Isid(isid),
            tsih: bhs.u16_at(TSIH),
            initiator_task_tag: bhs.initiator_task_tag(),
            sns: TargetSns::parse(bhs),
            status: LoginStatus::from_code(code).ok_or(WireError::LoginStatus(code))?,
        })
    }

    /// The header; the length of the text is the caller's to set.
    #[must_use]
    pub fn to_bhs(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::LoginResponse, stage_flags(self.csg, self.nsg, self.continues));
        bhs.0[VERSION_MAX] = ISCSI_VERSION;
        bhs.0[VERSION_MIN_OR_ACTIVE] = ISCSI_VERSION;
        bhs.0[ISID..ISID + 6].copy_from_slice(&self.isid.0);
        bhs.put_u16(TSIH, self.tsih);
        bhs.put_u32(field::INITIATOR_TASK_TAG, self.initiator_task_tag);
        self.sns.put(&mut bhs);
        bhs.put_u16(STATUS, self.status.code());
        bhs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The header with which open-iscsi 2.1.8 starts a login without CHAP (CSG=1, NSG=3).
    #[test]
    fn the_first_request_of_open_iscsi() {
        let mut bytes = [0; 48];
        bytes[0] = 0x43;
        bytes[1] = 0x87;
        bytes[8..14].copy_from_slice(&[0x00, 0x02, 0x3d, 0x01, 0, 0]);
        bytes[27] = 1;
        let request = LoginRequest::parse(&Bhs(bytes)).unwrap();
        assert_eq!(request.csg, Stage::LoginOperationalNegotiation);
        assert_eq!(request.nsg, Some(Stage::FullFeaturePhase));
        assert_eq!(request.isid.to_string(), "00023d010000");
        assert_eq!(request.cmd_sn, Serial(1));
        assert_eq!(request.to_bhs().0, bytes);
    }

    #[test]
    fn stages_that_do_not_exist() {
        for flags in 0..=255_u8 {
            let csg = flags >> 2 & 3;
            let good = csg != 2 && (flags & FINAL == 0 || flags & 3 != 2 && flags & CONTINUE == 0);
            assert_eq!(
                LoginRequest::parse(&Bhs::new(Opcode::LoginRequest, flags)).is_ok(),
                good,
                "{flags:x}"
            );
        }
    }

    fn stage() -> impl Strategy<Value = Stage> {
        prop_oneof![
            Just(Stage::SecurityNegotiation),
            Just(Stage::LoginOperationalNegotiation),
            Just(Stage::FullFeaturePhase)
        ]
    }

    proptest! {
        #[test]
        fn round_trips(
            (csg, nsg, c) in (stage(), proptest::option::of(stage()), any::<bool>()),
            (version_max, version_min, isid, tsih) in any::<(u8, u8, [u8; 6], u16)>(),
            (initiator_task_tag, cid, a, b) in any::<(u32, u16, u32, u32)>(),
            status in 0..LoginStatus::ALL.len(),
        ) {
            let continues = c && nsg.is_none();
            let request = LoginRequest {
                csg, nsg, continues, version_max, version_min, isid: Isid(isid), tsih, initiator_task_tag, cid,
                cmd_sn: Serial(a), exp_stat_sn: Serial(b),
            };
            prop_assert_eq!(LoginRequest::parse(&request.to_bhs()).unwrap(), request);
            let response = LoginResponse {
                csg, nsg, continues, isid: Isid(isid), tsih, initiator_task_tag,
                sns: TargetSns { stat_sn: Serial(a), exp_cmd_sn: Serial(b), max_cmd_sn: Serial(!b) },
                status: LoginStatus::ALL[status],
            };
            prop_assert_eq!(LoginResponse::parse(&response.to_bhs()).unwrap(), response);
        }
    }
}
