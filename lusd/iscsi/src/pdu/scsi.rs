//! SCSI Command and SCSI Response (RFC 7143 11.3, 11.4).

use smallvec::SmallVec;

use super::{TargetSns, cmd_sn, exp_stat_sn, flag, put_request};
use crate::bhs::{AHS_LEN_MAX, Bhs, FINAL, Opcode, field};
use crate::error::WireError;
use crate::serial::Serial;

const READ: u8 = 0x40;
const WRITE: u8 = 0x20;
const ATTRIBUTE: u8 = 0x07;
const BIDI_READ_OVERFLOW: u8 = 0x10;
const BIDI_READ_UNDERFLOW: u8 = 0x08;
const OVERFLOW: u8 = 0x04;
const UNDERFLOW: u8 = 0x02;

const EXPECTED_DATA_TRANSFER_LENGTH: usize = 20;
const CDB: usize = 32;
/// Length of a CDB that the header itself holds, bytes.
const CDB_LEN_INLINE: usize = 16;
/// Greatest length of a CDB, bytes (SPC-4 4.2.4: variable length CDBs end at 260).
pub const CDB_LEN_MAX: usize = 260;

const AHS_EXTENDED_CDB: u8 = 1;
const AHS_BIDI_READ_LENGTH: u8 = 2;
/// Length and type of an additional header segment, bytes.
const AHS_PREFIX_LEN: usize = 3;

/// A SCSI command descriptor block, passed on without knowing what it means: 16 bytes, or up to 260.
#[derive(Clone, PartialEq, Eq)]
pub struct Cdb {
    inline: [u8; CDB_LEN_INLINE],
    /// The whole block if it is longer than what the header holds.
    extended: Option<Box<[u8]>>,
}

impl Cdb {
    /// A block from its bytes; shorter ones are filled up with zeros to 16. None if there are more than 260.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut inline = [0; CDB_LEN_INLINE];
        let n = bytes.len().min(CDB_LEN_INLINE);
        inline[..n].copy_from_slice(&bytes[..n]);
        let extended = (bytes.len() > CDB_LEN_INLINE).then(|| bytes.into());
        (bytes.len() <= CDB_LEN_MAX).then_some(Self { inline, extended })
    }

    /// All its bytes: 16, or 17 to 260.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.extended.as_deref().unwrap_or(&self.inline)
    }
}

impl std::ops::Deref for Cdb {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl std::fmt::Debug for Cdb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_slice().iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// Task attribute (RFC 7143 11.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are SAM-5's")]
pub enum TaskAttribute {
    Untagged = 0,
    Simple = 1,
    Ordered = 2,
    HeadOfQueue = 3,
    Aca = 4,
}

/// SCSI Command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScsiCommand {
    /// Deliver outside of CmdSN order.
    pub immediate: bool,
    /// "F": no unsolicited Data-Out PDU follows.
    pub is_final: bool,
    /// "R": data is expected to flow to the initiator.
    pub read: bool,
    /// "W": data is expected to flow to the target.
    pub write: bool,
    /// Task attribute.
    pub attribute: TaskAttribute,
    /// Logical unit number as on the wire.
    pub lun: u64,
    /// Initiator task tag.
    pub initiator_task_tag: u32,
    /// Bytes that the initiator expects to move; the write half for a bidirectional command.
    pub expected_data_transfer_length: u32,
    /// CmdSN.
    pub cmd_sn: Serial,
    /// ExpStatSN.
    pub exp_stat_sn: Serial,
    /// The part of the CDB that the header holds.
    pub cdb: [u8; CDB_LEN_INLINE],
}

impl ScsiCommand {
    /// # Errors
    /// A reserved task attribute.
    pub fn parse(bhs: &Bhs) -> Result<Self, WireError> {
        let attribute = match bhs.flags() & ATTRIBUTE {
            0 => TaskAttribute::Untagged,
            1 => TaskAttribute::Simple,
            2 => TaskAttribute::Ordered,
            3 => TaskAttribute::HeadOfQueue,
            4 => TaskAttribute::Aca,
            code => return Err(WireError::TaskAttribute(code)),
        };
        let mut cdb = [0; CDB_LEN_INLINE];
        cdb.copy_from_slice(&bhs.0[CDB..]);
        Ok(Self {
            immediate: bhs.immediate(),
            is_final: bhs.has_flag(FINAL),
            read: bhs.has_flag(READ),
            write: bhs.has_flag(WRITE),
            attribute,
            lun: bhs.lun(),
            initiator_task_tag: bhs.initiator_task_tag(),
            expected_data_transfer_length: bhs.u32_at(EXPECTED_DATA_TRANSFER_LENGTH),
            cmd_sn: cmd_sn(bhs),
            exp_stat_sn: exp_stat_sn(bhs),
            cdb,
        })
    }

    /// The header; lengths of additional headers and data are the caller's to set.
    #[must_use]
    pub fn to_bhs(&self) -> Bhs {
        let flags = flag(self.is_final, FINAL)
            | flag(self.read, READ)
            | flag(self.write, WRITE)
            | self.attribute as u8;
        let mut bhs = Bhs::new(Opcode::ScsiCommand, flags);
        bhs.set_lun(self.lun);
        bhs.put_u32(field::INITIATOR_TASK_TAG, self.initiator_task_tag);
        bhs.put_u32(EXPECTED_DATA_TRANSFER_LENGTH, self.expected_data_transfer_length);
        put_request(&mut bhs, self.immediate, self.cmd_sn, self.exp_stat_sn);
        bhs.0[CDB..].copy_from_slice(&self.cdb);
        bhs
    }
}

/// What the additional header segments of a SCSI command hold (RFC 7143 11.2.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ahs {
    /// The CDB from its 17th byte.
    pub extended_cdb: Option<SmallVec<[u8; 32]>>,
    /// Bytes that a bidirectional command may return.
    pub bidi_read_length: Option<u32>,
}

impl Ahs {
    /// The whole CDB of a command with these headers.
    #[must_use]
    pub fn cdb(&self, inline: &[u8; CDB_LEN_INLINE]) -> Cdb {
        let extended = self.extended_cdb.as_ref().map(|rest| [inline, rest.as_slice()].concat().into());
        Cdb { inline: *inline, extended }
    }

    /// The segments as they are sent, padded to words.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(rest) = &self.extended_cdb {
            out.extend_from_slice(&(rest.len() as u16 + 1).to_be_bytes());
            out.extend_from_slice(&[AHS_EXTENDED_CDB, 0]);
            out.extend_from_slice(rest);
            out.resize(out.len().next_multiple_of(4), 0);
        }
        if let Some(len) = self.bidi_read_length {
            out.extend_from_slice(&[0, 5, AHS_BIDI_READ_LENGTH, 0]);
            out.extend_from_slice(&len.to_be_bytes());
        }
        out
    }
}

/// Reads the additional header segments of a SCSI command; unknown types are skipped.
///
/// # Errors
/// A segment that reaches past the end, an extended CDB of more than 260 bytes in all, or one kind twice.
pub fn parse_ahs(mut bytes: &[u8]) -> Result<Ahs, WireError> {
    debug_assert!(bytes.len() <= AHS_LEN_MAX && bytes.len().is_multiple_of(4));
    let mut ahs = Ahs::default();
    while let Some((&[hi, lo, kind], rest)) = bytes.split_first_chunk::<AHS_PREFIX_LEN>() {
        let len = usize::from(u16::from_be_bytes([hi, lo]));
        let specific = rest.get(..len).ok_or(WireError::AdditionalHeader)?;
        match (kind, specific) {
            (AHS_EXTENDED_CDB, [_, cdb @ ..]) if !cdb.is_empty() => {
                let fits = CDB_LEN_INLINE + cdb.len() <= CDB_LEN_MAX;
                if !fits || ahs.extended_cdb.replace(cdb.into()).is_some() {
                    return Err(WireError::AdditionalHeader);
                }
            }
            (AHS_BIDI_READ_LENGTH, &[_, a, b, c, d]) => {
                let earlier = ahs.bidi_read_length.replace(u32::from_be_bytes([a, b, c, d]));
                if earlier.is_some() {
                    return Err(WireError::AdditionalHeader);
                }
            }
            (AHS_EXTENDED_CDB | AHS_BIDI_READ_LENGTH, _) => return Err(WireError::AdditionalHeader),
            _ => {}
        }
        let padded = (AHS_PREFIX_LEN + len).next_multiple_of(4) - AHS_PREFIX_LEN;
        bytes = rest.get(padded..).ok_or(WireError::AdditionalHeader)?;
    }
    if bytes.is_empty() { Ok(ahs) } else { Err(WireError::AdditionalHeader) }
}

/// How far the bytes moved are from the bytes expected (RFC 7143 11.4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Residual {
    /// As many as expected.
    #[default]
    None,
    /// This many fewer were moved.
    Underflow(u32),
    /// This many more would have been moved.
    Overflow(u32),
}

impl Residual {
    /// Compares what a command would move with what its initiator expected; saturates at 2^32 - 1.
    #[must_use]
    pub fn of(transfer_length: u64, expected: u32) -> Self {
        let expected = u64::from(expected);
        let saturated = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        match transfer_length.cmp(&expected) {
            std::cmp::Ordering::Less => Self::Underflow(saturated(expected - transfer_length)),
            std::cmp::Ordering::Equal => Self::None,
            std::cmp::Ordering::Greater => Self::Overflow(saturated(transfer_length - expected)),
        }
    }

    pub(super) const fn encode(self, underflow: u8, overflow: u8) -> (u8, u32) {
        match self {
            Self::None => (0, 0),
            Self::Underflow(n) => (underflow, n),
            Self::Overflow(n) => (overflow, n),
        }
    }

    pub(super) fn decode(bhs: &Bhs, underflow: u8, overflow: u8, at: usize) -> Result<Self, WireError> {
        match (bhs.has_flag(underflow), bhs.has_flag(overflow)) {
            (false, false) => Ok(Self::None),
            (true, false) => Ok(Self::Underflow(bhs.u32_at(at))),
            (false, true) => Ok(Self::Overflow(bhs.u32_at(at))),
            (true, true) => Err(WireError::ResidualFlags),
        }
    }

    /// The two flags of byte 1 and the residual count, for the PDUs that share their place.
    pub(super) const fn encode_basic(self) -> (u8, u32) {
        self.encode(UNDERFLOW, OVERFLOW)
    }

    pub(super) fn decode_basic(bhs: &Bhs, at: usize) -> Result<Self, WireError> {
        Self::decode(bhs, UNDERFLOW, OVERFLOW, at)
    }
}

/// The iSCSI service response (RFC 7143 11.4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ServiceResponse {
    /// The command ended; the status says how.
    Completed = 0,
    /// The target failed; there is no status.
    TargetFailure = 1,
}

const RESPONSE: usize = 2;
const STATUS: usize = 3;
const SNACK_TAG: usize = 20;
const EXP_DATA_SN: usize = 36;
const BIDI_READ_RESIDUAL: usize = 40;
const RESIDUAL: usize = 44;

/// SCSI Response; sense data travels in its data segment behind a two-byte length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScsiResponse {
    /// Service response.
    pub response: ServiceResponse,
    /// SCSI status (SAM-5 5.3.1).
    pub status: u8,
    /// Initiator task tag.
    pub initiator_task_tag: u32,
    /// StatSN, ExpCmdSN, MaxCmdSN.
    pub sns: TargetSns,
    /// Number of Data-In and R2T PDUs that the command was sent.
    pub exp_data_sn: Serial,
    /// Residual of the command, of the write half for a bidirectional one.
    pub residual: Residual,
    /// Residual of the read half of a bidirectional command.
    pub bidi_read_residual: Residual,
}

impl ScsiResponse {
    /// # Errors
    /// A reserved service response; underflow and overflow at once.
    pub fn parse(bhs: &Bhs) -> Result<Self, WireError> {
        let response = match bhs.0[RESPONSE] {
            0 => ServiceResponse::Completed,
            1 => ServiceResponse::TargetFailure,
            code => return Err(WireError::ServiceResponse(code)),
        };
        Ok(Self {
            response,
            status: bhs.0[STATUS],
            initiator_task_tag: bhs.initiator_task_tag(),
            sns: TargetSns::parse(bhs),
            exp_data_sn: Serial(bhs.u32_at(EXP_DATA_SN)),
            residual: Residual::decode_basic(bhs, RESIDUAL)?,
            bidi_read_residual: Residual::decode(
                bhs,
                BIDI_READ_UNDERFLOW,
                BIDI_READ_OVERFLOW,
                BIDI_READ_RESIDUAL,
            )?,
        })
    }

    /// The header.
    #[must_use]
    pub fn to_bhs(&self) -> Bhs {
        let (flags, residual) = self.residual.encode_basic();
        let (bidi_flags, bidi_residual) =
            self.bidi_read_residual.encode(BIDI_READ_UNDERFLOW, BIDI_READ_OVERFLOW);
        let mut bhs = Bhs::new(Opcode::ScsiResponse, FINAL | flags | bidi_flags);
        bhs.0[RESPONSE] = self.response as u8;
        bhs.0[STATUS] = self.status;
        bhs.put_u32(field::INITIATOR_TASK_TAG, self.initiator_task_tag);
        bhs.put_u32(SNACK_TAG, 0);
        self.sns.put(&mut bhs);
        bhs.put_u32(EXP_DATA_SN, self.exp_data_sn.0);
        bhs.put_u32(BIDI_READ_RESIDUAL, bidi_residual);
        bhs.put_u32(RESIDUAL, residual);
        bhs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A READ(10) of one block of LUN 1, put together by hand from RFC 7143 11.3.
    const READ_10: [u8; 48] = [
        0x01, 0xc1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x2a, 0, 0, 2, 0, 0, 0, 0, 0x11, 0, 0,
        0, 0x22, 0x28, 0, 0, 0, 0, 9, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0,
    ];

    #[test]
    fn a_read_on_the_wire() {
        let command = ScsiCommand::parse(&Bhs(READ_10)).unwrap();
        assert!(command.read && !command.write && command.is_final && !command.immediate);
        assert_eq!(command.lun, 1 << 48);
        assert_eq!(command.expected_data_transfer_length, 512);
        assert_eq!((command.cmd_sn, command.exp_stat_sn), (Serial(0x11), Serial(0x22)));
        assert_eq!(command.cdb[..10], [0x28, 0, 0, 0, 0, 9, 0, 0, 1, 0]);
        assert_eq!(command.to_bhs().0, READ_10);
    }

    #[test]
    fn reserved_attributes_are_refused() {
        for code in 0..8 {
            let mut bytes = READ_10;
            bytes[1] = 0x80 | code;
            assert_eq!(ScsiCommand::parse(&Bhs(bytes)).is_ok(), code <= 4, "{code}");
        }
    }

    #[test]
    fn additional_headers_truncated_at_every_offset() {
        let ahs =
            Ahs { extended_cdb: Some(SmallVec::from_slice(&[7; 16])), bidi_read_length: Some(0x0102_0304) };
        let bytes = ahs.to_bytes();
        assert_eq!(bytes.len(), 20 + 8);
        assert_eq!(parse_ahs(&bytes).unwrap(), ahs);
        for words in 0..bytes.len() / 4 {
            // A cut between two segments leaves a valid list; any other does not.
            assert_eq!(parse_ahs(&bytes[..words * 4]).is_ok(), words == 0 || words == 5, "{words}");
        }
    }

    #[test]
    fn bad_additional_headers() {
        for bytes in [
            &[0, 1, 1, 0][..],                                 // extended CDB of no bytes
            &[0, 4, 2, 0, 0, 0, 0, 0],                         // short bidirectional length
            &[0xff, 0xff, 1, 0],                               // past the end
            &[0, 5, 2, 0, 0, 0, 0, 0, 0, 5, 2, 0, 0, 0, 0, 0], // twice
        ] {
            assert_eq!(parse_ahs(bytes), Err(WireError::AdditionalHeader), "{bytes:x?}");
        }
        let unknown = [0, 1, 9, 0];
        assert_eq!(parse_ahs(&unknown), Ok(Ahs::default()));
        let longest = Ahs { extended_cdb: Some(SmallVec::from_elem(1, 244)), bidi_read_length: None };
        assert_eq!(parse_ahs(&longest.to_bytes()).unwrap().cdb(&[2; 16]).len(), CDB_LEN_MAX);
        let longer = Ahs { extended_cdb: Some(SmallVec::from_elem(1, 245)), bidi_read_length: None };
        assert_eq!(parse_ahs(&longer.to_bytes()), Err(WireError::AdditionalHeader));
    }

    #[test]
    fn residuals() {
        assert_eq!(Residual::of(10, 10), Residual::None);
        assert_eq!(Residual::of(4, 10), Residual::Underflow(6));
        assert_eq!(Residual::of(10, 4), Residual::Overflow(6));
        assert_eq!(Residual::of(u64::MAX, 4), Residual::Overflow(u32::MAX));
    }

    #[test]
    fn cdbs() {
        assert_eq!(Cdb::new(&[1, 2]).unwrap().as_slice(), [1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Cdb::new(&[3; 32]).unwrap().as_slice(), [3; 32]);
        assert_eq!(Cdb::new(&[3; 261]), None);
    }

    fn residual() -> impl Strategy<Value = Residual> {
        prop_oneof![
            Just(Residual::None),
            any::<u32>().prop_map(Residual::Underflow),
            any::<u32>().prop_map(Residual::Overflow)
        ]
    }

    proptest! {
        #[test]
        fn commands_round_trip(
            (flags, attribute) in (any::<[bool; 4]>(), 0..5u8),
            (lun, initiator_task_tag, expected_data_transfer_length) in any::<(u64, u32, u32)>(),
            (cmd_sn, exp_stat_sn, cdb) in any::<(u32, u32, [u8; 16])>(),
        ) {
            let [immediate, is_final, read, write] = flags;
            let attribute = [
                TaskAttribute::Untagged,
                TaskAttribute::Simple,
                TaskAttribute::Ordered,
                TaskAttribute::HeadOfQueue,
                TaskAttribute::Aca,
            ][usize::from(attribute)];
            let command = ScsiCommand {
                immediate, is_final, read, write, attribute, lun, initiator_task_tag, expected_data_transfer_length,
                cmd_sn: Serial(cmd_sn), exp_stat_sn: Serial(exp_stat_sn), cdb,
            };
            prop_assert_eq!(ScsiCommand::parse(&command.to_bhs()).unwrap(), command);
        }

        #[test]
        fn responses_round_trip(
            (status, initiator_task_tag, stat_sn, exp_cmd_sn, max_cmd_sn, exp_data_sn) in any::<(u8, u32, u32, u32, u32, u32)>(),
            failure in any::<bool>(),
            (residual, bidi_read_residual) in (residual(), residual()),
        ) {
            let response = ScsiResponse {
                response: if failure { ServiceResponse::TargetFailure } else { ServiceResponse::Completed },
                status, initiator_task_tag,
                sns: TargetSns { stat_sn: Serial(stat_sn), exp_cmd_sn: Serial(exp_cmd_sn), max_cmd_sn: Serial(max_cmd_sn) },
                exp_data_sn: Serial(exp_data_sn), residual, bidi_read_residual,
            };
            prop_assert_eq!(ScsiResponse::parse(&response.to_bhs()).unwrap(), response);
        }

        #[test]
        fn any_additional_header_is_taken_or_refused(words in proptest::collection::vec(any::<[u8; 4]>(), 0..64)) {
            let _ = parse_ahs(&words.concat());
        }
    }
}
