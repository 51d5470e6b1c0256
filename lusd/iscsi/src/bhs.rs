//! The basic header segment: the 48 bytes that every PDU starts with (RFC 7143 11.2).
//!
//! [`Bhs`] is a view with named fields; the modules under [`crate::pdu`] turn one into a value.

use std::ops::Range;

/// Length of the basic header segment, bytes (RFC 7143 11.2.1).
pub const BHS_LEN: usize = 48;
/// Greatest length of all additional header segments, bytes: TotalAHSLength is one byte that counts 4-byte words.
pub const AHS_LEN_MAX: usize = 255 * 4;
/// Length of a header or data digest, bytes.
pub const DIGEST_LEN: usize = 4;
/// Greatest value of DataSegmentLength, bytes: the field has 24 bits.
pub const DATA_SEGMENT_LENGTH_MAX: u32 = (1 << 24) - 1;
/// The tag that means "none" for initiator and target task tags (RFC 7143 11.2.1.8).
pub const RESERVED_TAG: u32 = 0xffff_ffff;

/// Byte ranges common to all PDUs.
pub mod field {
    use super::Range;
    /// Immediate bit and opcode.
    pub const OPCODE: usize = 0;
    /// First byte of opcode-specific fields: final bit and flags.
    pub const FLAGS: usize = 1;
    /// Length of the additional header segments in words of 4 bytes.
    pub const TOTAL_AHS_LENGTH: usize = 4;
    /// Length of the data segment without padding, bytes.
    pub const DATA_SEGMENT_LENGTH: Range<usize> = 5..8;
    /// Logical unit number, or opcode-specific.
    pub const LUN: usize = 8;
    /// Initiator task tag.
    pub const INITIATOR_TASK_TAG: usize = 16;
    /// Target transfer tag in those PDUs that have one.
    pub const TARGET_TRANSFER_TAG: usize = 20;
    /// CmdSN (from initiators) or StatSN (from targets).
    pub const CMD_SN: usize = 24;
    /// ExpStatSN (from initiators) or ExpCmdSN (from targets).
    pub const EXP_STAT_SN: usize = 28;
    /// MaxCmdSN (from targets).
    pub const MAX_CMD_SN: usize = 32;
}

/// The "I" bit of byte 0: deliver now, outside of CmdSN order.
pub const IMMEDIATE: u8 = 0x40;
/// The "F" (or "T") bit of byte 1.
pub const FINAL: u8 = 0x80;
/// The "C" bit of byte 1 of text and login PDUs.
pub const CONTINUE: u8 = 0x40;

/// What a PDU is (RFC 7143 11.2.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are the RFC's")]
pub enum Opcode {
    NopOut = 0x00,
    ScsiCommand = 0x01,
    TaskManagementRequest = 0x02,
    LoginRequest = 0x03,
    TextRequest = 0x04,
    DataOut = 0x05,
    LogoutRequest = 0x06,
    SnackRequest = 0x10,
    NopIn = 0x20,
    ScsiResponse = 0x21,
    TaskManagementResponse = 0x22,
    LoginResponse = 0x23,
    TextResponse = 0x24,
    DataIn = 0x25,
    LogoutResponse = 0x26,
    ReadyToTransfer = 0x31,
    AsyncMessage = 0x32,
    Reject = 0x3f,
}

impl Opcode {
    /// The opcode with this 6-bit code, or None for reserved and vendor codes.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0x00 => Self::NopOut,
            0x01 => Self::ScsiCommand,
            0x02 => Self::TaskManagementRequest,
            0x03 => Self::LoginRequest,
            0x04 => Self::TextRequest,
            0x05 => Self::DataOut,
            0x06 => Self::LogoutRequest,
            0x10 => Self::SnackRequest,
            0x20 => Self::NopIn,
            0x21 => Self::ScsiResponse,
            0x22 => Self::TaskManagementResponse,
            0x23 => Self::LoginResponse,
            0x24 => Self::TextResponse,
            0x25 => Self::DataIn,
            0x26 => Self::LogoutResponse,
            0x31 => Self::ReadyToTransfer,
            0x32 => Self::AsyncMessage,
            0x3f => Self::Reject,
            _ => return None,
        })
    }
}

/// A basic header segment as it is on the wire.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Bhs(pub [u8; BHS_LEN]);

impl Bhs {
    /// An empty header of this kind with the final bit as given.
    #[must_use]
    pub const fn new(opcode: Opcode, flags: u8) -> Self {
        let mut bytes = [0; BHS_LEN];
        bytes[field::OPCODE] = opcode as u8;
        bytes[field::FLAGS] = flags;
        Self(bytes)
    }

    /// The first 48 of `bytes`, or None if there are fewer.
    #[must_use]
    pub fn from_prefix(bytes: &[u8]) -> Option<Self> {
        bytes.first_chunk::<BHS_LEN>().map(|b| Self(*b))
    }

    /// What kind of PDU this is; None if its code is reserved or vendor specific.
    #[must_use]
    pub const fn opcode(&self) -> Option<Opcode> {
        Opcode::from_code(self.0[field::OPCODE] & 0x3f)
    }

    /// The "I" bit.
    #[must_use]
    pub const fn immediate(&self) -> bool {
        self.0[field::OPCODE] & IMMEDIATE != 0
    }

    /// Byte 1.
    #[must_use]
    pub const fn flags(&self) -> u8 {
        self.0[field::FLAGS]
    }

    /// True if all of `bits` are set in byte 1.
    #[must_use]
    pub const fn has_flag(&self, bits: u8) -> bool {
        self.flags() & bits == bits
    }

    /// Length of the additional header segments, bytes.
    #[must_use]
    pub const fn total_ahs_length(&self) -> usize {
        self.0[field::TOTAL_AHS_LENGTH] as usize * 4
    }

    /// Length of the data segment without padding, bytes.
    #[must_use]
    pub const fn data_segment_length(&self) -> u32 {
        u32::from_be_bytes([0, self.0[5], self.0[6], self.0[7]])
    }

    /// Sets the length of the data segment.
    ///
    /// # Panics
    /// If `len` does not fit the 24 bits of the field.
    pub fn set_data_segment_length(&mut self, len: u32) {
        assert!(len <= DATA_SEGMENT_LENGTH_MAX, "a data segment of {len} bytes was asked for");
        self.0[field::DATA_SEGMENT_LENGTH].copy_from_slice(&len.to_be_bytes()[1..]);
    }

    /// The LUN field as a big-endian number.
    #[must_use]
    pub fn lun(&self) -> u64 {
        u64::from(self.u32_at(field::LUN)) << 32 | u64::from(self.u32_at(field::LUN + 4))
    }

    /// Sets the LUN field.
    pub fn set_lun(&mut self, lun: u64) {
        self.0[field::LUN..field::LUN + 8].copy_from_slice(&lun.to_be_bytes());
    }

    /// The initiator task tag.
    #[must_use]
    pub const fn initiator_task_tag(&self) -> u32 {
        self.u32_at(field::INITIATOR_TASK_TAG)
    }

    /// The big-endian 32-bit number at byte `at`.
    ///
    /// # Panics
    /// If the number would reach past the header.
    #[must_use]
    pub const fn u32_at(&self, at: usize) -> u32 {
        u32::from_be_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    /// The big-endian 16-bit number at byte `at`.
    ///
    /// # Panics
    /// If the number would reach past the header.
    #[must_use]
    pub const fn u16_at(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    /// Writes a big-endian 32-bit number at byte `at`.
    ///
    /// # Panics
    /// If the number would reach past the header.
    pub fn put_u32(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    /// Writes a big-endian 16-bit number at byte `at`.
    ///
    /// # Panics
    /// If the number would reach past the header.
    pub fn put_u16(&mut self, at: usize, value: u16) {
        self.0[at..at + 2].copy_from_slice(&value.to_be_bytes());
    }
}

impl std::fmt::Debug for Bhs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bhs({:?}, flags {:02x}", self.opcode(), self.flags())?;
        if self.immediate() {
            write!(f, ", immediate")?;
        }
        write!(f, ", itt {:08x}, data {})", self.initiator_task_tag(), self.data_segment_length())
    }
}

/// Padding that brings `len` bytes to a multiple of 4 (RFC 7143 11.1).
#[must_use]
pub const fn pad_len(len: u32) -> usize {
    (len.wrapping_neg() & 3) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_sit_where_the_rfc_puts_them() {
        let mut bhs = Bhs::new(Opcode::ScsiCommand, FINAL);
        bhs.0[field::OPCODE] |= IMMEDIATE;
        bhs.0[field::TOTAL_AHS_LENGTH] = 2;
        bhs.set_data_segment_length(0x01_02_03);
        bhs.set_lun(0x0001_0000_0000_0000);
        bhs.put_u32(field::INITIATOR_TASK_TAG, 0xdead_beef);
        assert_eq!(bhs.0[..8], [0x41, 0x80, 0, 0, 2, 1, 2, 3]);
        assert_eq!(bhs.opcode(), Some(Opcode::ScsiCommand));
        assert!(bhs.immediate() && bhs.has_flag(FINAL));
        assert_eq!((bhs.total_ahs_length(), bhs.data_segment_length()), (8, 0x01_02_03));
        assert_eq!((bhs.lun(), bhs.initiator_task_tag()), (1 << 48, 0xdead_beef));
    }

    #[test]
    fn a_prefix_that_is_too_short_is_none() {
        for n in 0..BHS_LEN {
            assert_eq!(Bhs::from_prefix(&[0; BHS_LEN][..n]), None);
        }
        assert!(Bhs::from_prefix(&[0; BHS_LEN + 1]).is_some());
    }

    #[test]
    fn every_opcode_has_its_code_and_no_other() {
        let known = (0..=0x3f).filter_map(|c| Opcode::from_code(c).map(|o| (c, o)));
        assert_eq!(known.clone().count(), 18);
        for (code, opcode) in known {
            assert_eq!(opcode as u8, code);
        }
    }

    #[test]
    fn padding() {
        assert_eq!([0, 1, 2, 3, 4, 5].map(pad_len), [0, 3, 2, 1, 0, 3]);
    }
}
