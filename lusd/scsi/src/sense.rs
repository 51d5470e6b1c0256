//! Sense: what went wrong, as a value ([`CheckCondition`]) and as bytes ([`Sense`]); SPC-4 4.5.
//!
//! Every (sense key, ASC, ASCQ) that this device server can report stands in one of three tables: [`Fault::code`]
//! here, `UnitAttention::code` and `AccessState::code`. Nothing here allocates.

use std::fmt;
use std::ops::Deref;

/// SENSE KEY (SPC-4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SenseKey {
    /// Nothing to report.
    NoSense = 0x0,
    /// The logical unit is not accessible.
    NotReady = 0x2,
    /// A flaw of the medium, or an error of the recorded data.
    MediumError = 0x3,
    /// The device failed in a way that is not the medium's.
    HardwareError = 0x4,
    /// The CDB or the parameter data is wrong.
    IllegalRequest = 0x5,
    /// Something happened that the host has to know before it goes on.
    UnitAttention = 0x6,
    /// The blocks are protected against this access.
    DataProtect = 0x7,
    /// A copy between logical units ended before its time.
    CopyAborted = 0xa,
    /// The device server aborted the command; the host may try again.
    AbortedCommand = 0xb,
    /// The data sent did not match the data on the medium.
    Miscompare = 0xe,
}

/// A sense key with its additional sense code and qualifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SenseCode {
    /// SENSE KEY.
    pub key: SenseKey,
    /// ADDITIONAL SENSE CODE.
    pub asc: u8,
    /// ADDITIONAL SENSE CODE QUALIFIER.
    pub ascq: u8,
}

impl SenseCode {
    /// NO SENSE, no additional sense information.
    pub const NO_SENSE: SenseCode = SenseCode::new(SenseKey::NoSense, 0, 0);

    pub(crate) const fn new(key: SenseKey, asc: u8, ascq: u8) -> SenseCode {
        SenseCode { key, asc, ascq }
    }
}

impl fmt::Display for SenseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:02x}h/{:02x}h", self.key, self.asc, self.ascq)
    }
}

/// Everything that ends a command with CHECK CONDITION but unit attentions and access states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// INVALID COMMAND OPERATION CODE.
    InvalidOperationCode,
    /// INVALID FIELD IN CDB.
    InvalidFieldInCdb,
    /// INVALID FIELD IN PARAMETER LIST.
    InvalidFieldInParameterList,
    /// PARAMETER LIST LENGTH ERROR.
    ParameterListLength,
    /// INVALID FIELD IN COMMAND INFORMATION UNIT: the transport's data length does not fit the CDB.
    InvalidFieldInInformationUnit,
    /// LOGICAL BLOCK ADDRESS OUT OF RANGE.
    LbaOutOfRange,
    /// LOGICAL UNIT NOT SUPPORTED.
    LogicalUnitNotSupported,
    /// SAVING PARAMETERS NOT SUPPORTED.
    SavingParametersNotSupported,
    /// WRITE PROTECTED: the logical unit is read-only.
    WriteProtected,
    /// LOGICAL UNIT SOFTWARE WRITE PROTECTED: a host set SWP in the Control mode page.
    SoftwareWriteProtected,
    /// SPACE ALLOCATION FAILED WRITE PROTECT: the pool is full.
    SpaceAllocationFailed,
    /// UNRECOVERED READ ERROR.
    UnrecoveredRead,
    /// WRITE ERROR.
    Write,
    /// INTERNAL TARGET FAILURE.
    InternalTargetFailure,
    /// MISCOMPARE DURING VERIFY OPERATION.
    Miscompare,
    /// MEDIUM NOT PRESENT: the logical unit has no blocks.
    NoMedium,
    /// ABORTED COMMAND with no additional sense information.
    Aborted,
    /// OPERATION IN PROGRESS: a copy with this list identifier is under way.
    OperationInProgress,
    /// TOO MANY TARGET DESCRIPTORS.
    TooManyTargetDescriptors,
    /// UNSUPPORTED TARGET DESCRIPTOR TYPE CODE.
    UnsupportedTargetDescriptor,
    /// TOO MANY SEGMENT DESCRIPTORS.
    TooManySegmentDescriptors,
    /// UNSUPPORTED SEGMENT DESCRIPTOR TYPE CODE.
    UnsupportedSegmentDescriptor,
    /// INLINE DATA LENGTH EXCEEDED.
    InlineDataLengthExceeded,
    /// COPY ABORTED with no additional sense information: a segment asks for what is not there, or for too much.
    CopyAborted,
    /// COPY ABORTED, UNREACHABLE COPY TARGET: a segment names no target of the list.
    UnreachableCopyTarget,
    /// COPY ABORTED, THIRD PARTY DEVICE FAILURE: a target did not do what was asked of it.
    ThirdPartyDeviceFailure,
    /// COPY ABORTED, COPY TARGET DEVICE NOT REACHABLE: a target is not served here, or the session does not see it.
    CopyTargetNotReachable,
    /// COPY ABORTED, INCORRECT COPY TARGET DEVICE TYPE.
    IncorrectCopyTarget,
    /// COPY ABORTED, UNEXPECTED INEXACT SEGMENT: no whole blocks of one of its targets.
    UnexpectedInexactSegment,
    /// WRITE ERROR - UNEXPECTED UNSOLICITED DATA (RFC 7143 11.4.7.2).
    UnexpectedUnsolicitedData,
    /// WRITE ERROR - NOT ENOUGH UNSOLICITED DATA (RFC 7143 11.4.7.2).
    NotEnoughUnsolicitedData,
    /// PROTOCOL SERVICE CRC ERROR (RFC 7143 11.4.7.2).
    ProtocolServiceCrc,
    /// INVALID RELEASE OF PERSISTENT RESERVATION: SCOPE or TYPE are not the reservation's.
    InvalidReleaseOfPersistentReservation,
    /// INSUFFICIENT REGISTRATION RESOURCES.
    InsufficientRegistrationResources,
}

impl Fault {
    /// The sense of each fault.
    pub const fn code(self) -> SenseCode {
        use SenseKey::*;
        match self {
            Fault::InvalidOperationCode => SenseCode::new(IllegalRequest, 0x20, 0x00),
            Fault::InvalidFieldInCdb => SenseCode::new(IllegalRequest, 0x24, 0x00),
            Fault::InvalidFieldInParameterList => SenseCode::new(IllegalRequest, 0x26, 0x00),
            Fault::ParameterListLength => SenseCode::new(IllegalRequest, 0x1a, 0x00),
            Fault::InvalidFieldInInformationUnit => SenseCode::new(IllegalRequest, 0x0e, 0x03),
            Fault::LbaOutOfRange => SenseCode::new(IllegalRequest, 0x21, 0x00),
            Fault::LogicalUnitNotSupported => SenseCode::new(IllegalRequest, 0x25, 0x00),
            Fault::SavingParametersNotSupported => SenseCode::new(IllegalRequest, 0x39, 0x00),
            Fault::WriteProtected => SenseCode::new(DataProtect, 0x27, 0x00),
            Fault::SoftwareWriteProtected => SenseCode::new(DataProtect, 0x27, 0x02),
            Fault::SpaceAllocationFailed => SenseCode::new(DataProtect, 0x27, 0x07),
            Fault::UnrecoveredRead => SenseCode::new(MediumError, 0x11, 0x00),
            Fault::Write => SenseCode::new(MediumError, 0x0c, 0x00),
            Fault::InternalTargetFailure => SenseCode::new(HardwareError, 0x44, 0x00),
            Fault::Miscompare => SenseCode::new(SenseKey::Miscompare, 0x1d, 0x00),
            Fault::NoMedium => SenseCode::new(NotReady, 0x3a, 0x00),
            Fault::Aborted => SenseCode::new(AbortedCommand, 0x00, 0x00),
            Fault::OperationInProgress => SenseCode::new(IllegalRequest, 0x00, 0x16),
            Fault::TooManyTargetDescriptors => SenseCode::new(IllegalRequest, 0x26, 0x06),
            Fault::UnsupportedTargetDescriptor => SenseCode::new(IllegalRequest, 0x26, 0x07),
            Fault::TooManySegmentDescriptors => SenseCode::new(IllegalRequest, 0x26, 0x08),
            Fault::UnsupportedSegmentDescriptor => SenseCode::new(IllegalRequest, 0x26, 0x09),
            Fault::InlineDataLengthExceeded => SenseCode::new(IllegalRequest, 0x26, 0x0b),
            Fault::CopyAborted => SenseCode::new(SenseKey::CopyAborted, 0x00, 0x00),
            Fault::UnreachableCopyTarget => SenseCode::new(SenseKey::CopyAborted, 0x08, 0x04),
            Fault::ThirdPartyDeviceFailure => SenseCode::new(SenseKey::CopyAborted, 0x0d, 0x01),
            Fault::CopyTargetNotReachable => SenseCode::new(SenseKey::CopyAborted, 0x0d, 0x02),
            Fault::IncorrectCopyTarget => SenseCode::new(SenseKey::CopyAborted, 0x0d, 0x03),
            Fault::UnexpectedInexactSegment => SenseCode::new(SenseKey::CopyAborted, 0x26, 0x0a),
            Fault::UnexpectedUnsolicitedData => SenseCode::new(AbortedCommand, 0x0c, 0x0c),
            Fault::NotEnoughUnsolicitedData => SenseCode::new(AbortedCommand, 0x0c, 0x0d),
            Fault::ProtocolServiceCrc => SenseCode::new(AbortedCommand, 0x47, 0x05),
            Fault::InvalidReleaseOfPersistentReservation => SenseCode::new(IllegalRequest, 0x26, 0x04),
            Fault::InsufficientRegistrationResources => SenseCode::new(IllegalRequest, 0x55, 0x04),
        }
    }
}

/// SENSE KEY SPECIFIC (SPC-4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeySpecific {
    /// Which field is wrong, for ILLEGAL REQUEST.
    FieldPointer {
        /// C/D: true for a byte of the CDB, false for one of the parameter data.
        in_cdb: bool,
        /// FIELD POINTER: the first byte of the field, or the byte that is wrong.
        byte: u16,
        /// BIT POINTER: the most significant bit of the field; `None` for a field of whole bytes.
        bit: Option<u8>,
    },
    /// PROGRESS INDICATION, in parts of 65 536, for NOT READY.
    Progress(u16),
}

impl KeySpecific {
    /// The three SENSE KEY SPECIFIC bytes, SKSV set.
    fn to_bytes(self) -> [u8; 3] {
        const SKSV: u8 = 0x80;
        const IN_CDB: u8 = 0x40;
        const BIT_POINTER_VALID: u8 = 0x08;
        match self {
            KeySpecific::FieldPointer { in_cdb, byte, bit } => {
                let place = if in_cdb { IN_CDB } else { 0 };
                let bit = bit.map_or(0, |bit| BIT_POINTER_VALID | (bit & 0x07));
                let [high, low] = byte.to_be_bytes();
                [SKSV | place | bit, high, low]
            }
            KeySpecific::Progress(progress) => {
                let [high, low] = progress.to_be_bytes();
                [SKSV, high, low]
            }
        }
    }
}

/// How sense data is laid out; D_SENSE of the Control mode page chooses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SenseFormat {
    /// Fixed format (response code 70h), the default.
    #[default]
    Fixed,
    /// Descriptor format (response code 72h).
    Descriptor,
}

/// The command ends with status CHECK CONDITION; this says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("CHECK CONDITION: {code}")]
pub struct CheckCondition {
    /// Sense key, ASC and ASCQ.
    pub code: SenseCode,
    /// INFORMATION: for LOGICAL BLOCK ADDRESS OUT OF RANGE the first LBA that is out of range.
    pub information: Option<u64>,
    /// SENSE KEY SPECIFIC.
    pub specific: Option<KeySpecific>,
}

impl CheckCondition {
    /// A check condition that carries nothing but its code.
    pub const fn new(code: SenseCode) -> CheckCondition {
        CheckCondition { code, information: None, specific: None }
    }

    /// INVALID FIELD IN CDB at `byte`, `bit` (the most significant one of the field; `None`: whole bytes).
    pub const fn invalid_field(byte: u16, bit: Option<u8>) -> CheckCondition {
        CheckCondition {
            code: Fault::InvalidFieldInCdb.code(),
            information: None,
            specific: Some(KeySpecific::FieldPointer { in_cdb: true, byte, bit }),
        }
    }

    /// INVALID FIELD IN PARAMETER LIST at `byte`, `bit` of the parameter data.
    pub const fn invalid_parameter(byte: u16, bit: Option<u8>) -> CheckCondition {
        CheckCondition {
            code: Fault::InvalidFieldInParameterList.code(),
            information: None,
            specific: Some(KeySpecific::FieldPointer { in_cdb: false, byte, bit }),
        }
    }

    /// LOGICAL BLOCK ADDRESS OUT OF RANGE; `lba` is the first one that does not exist.
    pub const fn lba_out_of_range(lba: u64) -> CheckCondition {
        CheckCondition { code: Fault::LbaOutOfRange.code(), information: Some(lba), specific: None }
    }

    /// The same with an INFORMATION field.
    pub const fn with_information(mut self, information: u64) -> CheckCondition {
        self.information = Some(information);
        self
    }

    /// The same with a PROGRESS INDICATION, in parts of 65 536.
    pub const fn with_progress(mut self, progress: u16) -> CheckCondition {
        self.specific = Some(KeySpecific::Progress(progress));
        self
    }

    /// The sense data in wire form (current error).
    pub fn sense(&self, format: SenseFormat) -> Sense {
        match format {
            SenseFormat::Fixed => self.fixed(),
            SenseFormat::Descriptor => self.descriptor(),
        }
    }

    /// Fixed format (SPC-4 4.5.3). INFORMATION has 32 bits here: a value that does not fit is left out, with VALID zero.
    fn fixed(&self) -> Sense {
        const VALID: u8 = 0x80;
        const CURRENT_FIXED: u8 = 0x70;
        const LEN: u8 = 18;
        let mut sense = Sense { bytes: [0; SENSE_BYTES_MAX], len: LEN };
        let bytes = &mut sense.bytes;
        bytes[0] = CURRENT_FIXED;
        if let Some(Ok(information)) = self.information.map(u32::try_from) {
            bytes[0] |= VALID;
            bytes[3..7].copy_from_slice(&information.to_be_bytes());
        }
        bytes[2] = self.code.key as u8;
        bytes[7] = LEN - 8;
        bytes[12] = self.code.asc;
        bytes[13] = self.code.ascq;
        if let Some(specific) = self.specific {
            bytes[15..18].copy_from_slice(&specific.to_bytes());
        }
        sense
    }

    /// Descriptor format (SPC-4 4.5.2).
    fn descriptor(&self) -> Sense {
        const CURRENT_DESCRIPTOR: u8 = 0x72;
        const HEADER: usize = 8;
        let mut bytes = [0; SENSE_BYTES_MAX];
        bytes[0] = CURRENT_DESCRIPTOR;
        bytes[1] = self.code.key as u8;
        bytes[2] = self.code.asc;
        bytes[3] = self.code.ascq;
        let mut end = HEADER;
        if let Some(information) = self.information {
            let at = &mut bytes[end..end + 12];
            at[1] = 0x0a;
            at[2] = 0x80;
            at[4..12].copy_from_slice(&information.to_be_bytes());
            end += 12;
        }
        if let Some(specific) = self.specific {
            let at = &mut bytes[end..end + 8];
            at[0] = 0x02;
            at[1] = 0x06;
            at[4..7].copy_from_slice(&specific.to_bytes());
            end += 8;
        }
        bytes[7] = (end - HEADER) as u8;
        Sense { bytes, len: end as u8 }
    }
}

impl From<Fault> for CheckCondition {
    fn from(fault: Fault) -> CheckCondition {
        CheckCondition::new(fault.code())
    }
}

/// Longest sense data built here: header 8, information descriptor 12, sense key specific descriptor 8 (bytes).
pub const SENSE_BYTES_MAX: usize = 28;

/// Sense data in wire form, on the stack; dereferences to its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    bytes: [u8; SENSE_BYTES_MAX],
    len: u8,
}

impl Deref for Sense {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_format_is_18_bytes_with_field_pointer() {
        let sense = CheckCondition::invalid_field(2, Some(5)).sense(SenseFormat::Fixed);
        assert_eq!(
            &sense[..],
            [0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0xcd, 0, 2],
            "SKSV, C/D, BPV, bit 5, byte 2"
        );
        let sense = CheckCondition::invalid_parameter(0x123, None).sense(SenseFormat::Fixed);
        assert_eq!(&sense[12..], [0x26, 0, 0, 0x80, 1, 0x23]);
    }

    #[test]
    fn fixed_information_is_valid_only_when_it_fits() {
        let sense = CheckCondition::lba_out_of_range(0xffff_ffff).sense(SenseFormat::Fixed);
        assert_eq!(&sense[..7], [0xf0, 0, 5, 0xff, 0xff, 0xff, 0xff]);
        let sense = CheckCondition::lba_out_of_range(0x1_0000_0000).sense(SenseFormat::Fixed);
        assert_eq!(&sense[..7], [0x70, 0, 5, 0, 0, 0, 0]);
    }

    #[test]
    fn descriptor_format_carries_64_bit_information() {
        let sense = CheckCondition::lba_out_of_range(0x1_0000_0000).sense(SenseFormat::Descriptor);
        assert_eq!(&sense[..], [0x72, 5, 0x21, 0, 0, 0, 0, 12, 0, 0x0a, 0x80, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
        let sense = CheckCondition::invalid_field(1, Some(7)).sense(SenseFormat::Descriptor);
        assert_eq!(&sense[..], [0x72, 5, 0x24, 0, 0, 0, 0, 8, 2, 6, 0, 0, 0xcf, 0, 1, 0]);
        let both = CheckCondition::invalid_field(1, None).with_information(7);
        assert_eq!(both.sense(SenseFormat::Descriptor).len(), SENSE_BYTES_MAX);
    }

    #[test]
    fn progress_is_reported_in_both_formats() {
        let check = CheckCondition::new(SenseCode::new(SenseKey::NotReady, 0x04, 0x01)).with_progress(0x8000);
        assert_eq!(&check.sense(SenseFormat::Fixed)[15..], [0x80, 0x80, 0]);
        assert_eq!(&check.sense(SenseFormat::Descriptor)[8..], [2, 6, 0, 0, 0x80, 0x80, 0, 0]);
    }
}
