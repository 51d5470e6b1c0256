//! Errors, grouped by who erred, and their way onto the wire in one place each:
//! [`WireError`] (bytes that make no sense) and [`ProtocolError`] (a PDU that is not allowed now) become a
//! [`RejectReason`] or end the connection; [`LoginStatus`] is what a failed login answers; [`CloseReason`] says why a
//! connection ended. Our own misuse asserts.

use crate::pdu::RejectReason;

/// A header or an additional header that has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum WireError {
    #[error("task attribute {0} is reserved")]
    TaskAttribute(u8),
    #[error("additional header segment is malformed")]
    AdditionalHeader,
    #[error("overflow and underflow at once")]
    ResidualFlags,
    #[error("service response {0:#x} is reserved")]
    ServiceResponse(u8),
    #[error("task management response {0} is reserved")]
    TmfResponse(u8),
    #[error("R2T asks for nothing")]
    DesiredLength,
    #[error("final and continue bits at once")]
    FinalAndContinue,
    #[error("login stage is reserved")]
    Stage,
    #[error("login status {0:#06x} is reserved")]
    LoginStatus(u16),
    #[error("logout reason {0} is reserved")]
    LogoutReason(u8),
    #[error("logout response {0} is reserved")]
    LogoutResponse(u8),
    #[error("SNACK type {0} is reserved")]
    SnackKind(u8),
    #[error("reject reason {0:#x} is reserved")]
    RejectReason(u8),
    #[error("asynchronous event {0} is reserved")]
    AsyncEvent(u8),
}

/// A PDU that the initiator should not have sent; each is answered with a Reject PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ProtocolError {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("opcode {0:#04x} is not one of an initiator")]
    Opcode(u8),
    #[error("not allowed in a discovery session")]
    DiscoverySession,
    #[error("login request in the full feature phase")]
    LoginInFullFeaturePhase,
    #[error("the reserved task tag")]
    ReservedTag,
    #[error("the task tag is in use")]
    TaskTagInUse,
    #[error("too many immediate requests in progress")]
    TooManyImmediate,
    #[error("a request that must be immediate is not")]
    NotImmediate,
    #[error("no R2T or NOP-In has this target transfer tag")]
    TargetTransferTag,
    #[error("SNACK at error recovery level 0")]
    Snack,
    #[error("data digest error")]
    DataDigest,
    #[error("text is malformed")]
    Text,
    #[error("a text negotiation is too long")]
    TextTooLong,
}

impl From<&ProtocolError> for RejectReason {
    fn from(error: &ProtocolError) -> Self {
        match error {
            ProtocolError::Wire(_) | ProtocolError::ReservedTag | ProtocolError::TargetTransferTag => {
                Self::InvalidPduField
            }
            ProtocolError::Opcode(_) => Self::CommandNotSupported,
            ProtocolError::DiscoverySession
            | ProtocolError::LoginInFullFeaturePhase
            | ProtocolError::NotImmediate
            | ProtocolError::Text => Self::ProtocolError,
            ProtocolError::TaskTagInUse => Self::TaskInProgress,
            ProtocolError::TooManyImmediate => Self::TooManyImmediateCommands,
            ProtocolError::Snack => Self::SnackReject,
            ProtocolError::DataDigest => Self::DataDigestError,
            ProtocolError::TextTooLong => Self::LongOperationReject,
        }
    }
}

/// Text that is not a list of `key=value` pairs (RFC 7143 6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum TextError {
    #[error("a pair does not end with a zero byte")]
    Unterminated,
    #[error("a pair has no equals sign")]
    NoEquals,
    #[error("a key name is empty, too long or has characters that are not allowed")]
    KeyName,
    #[error("a value is too long or not UTF-8")]
    Value,
    #[error("more pairs than are allowed")]
    TooManyPairs,
    #[error("a key comes twice")]
    RepeatedKey,
    #[error("a declared value is not allowed")]
    Declaration,
}

impl From<TextError> for ProtocolError {
    fn from(error: TextError) -> Self {
        match error {
            TextError::TooManyPairs => Self::TextTooLong,
            _ => Self::Text,
        }
    }
}

impl From<TextError> for LoginStatus {
    fn from(_: TextError) -> Self {
        Self::InitiatorError
    }
}

impl From<WireError> for LoginStatus {
    fn from(_: WireError) -> Self {
        Self::InitiatorError
    }
}

/// Status class and detail of a Login Response (RFC 7143 11.13.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u16)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum LoginStatus {
    #[error("success")]
    Success = 0x0000,
    #[error("target moved temporarily")]
    TargetMovedTemporarily = 0x0101,
    #[error("target moved permanently")]
    TargetMovedPermanently = 0x0102,
    #[error("initiator error")]
    InitiatorError = 0x0200,
    #[error("authentication failure")]
    AuthenticationFailure = 0x0201,
    #[error("authorization failure")]
    AuthorizationFailure = 0x0202,
    #[error("target not found")]
    NotFound = 0x0203,
    #[error("target removed")]
    TargetRemoved = 0x0204,
    #[error("unsupported version")]
    UnsupportedVersion = 0x0205,
    #[error("too many connections")]
    TooManyConnections = 0x0206,
    #[error("missing parameter")]
    MissingParameter = 0x0207,
    #[error("cannot include in session")]
    CannotIncludeInSession = 0x0208,
    #[error("session type not supported")]
    SessionTypeNotSupported = 0x0209,
    #[error("session does not exist")]
    SessionDoesNotExist = 0x020a,
    #[error("invalid during login")]
    InvalidDuringLogin = 0x020b,
    #[error("target error")]
    TargetError = 0x0300,
    #[error("service unavailable")]
    ServiceUnavailable = 0x0301,
    #[error("out of resources")]
    OutOfResources = 0x0302,
}

impl LoginStatus {
    /// Every status.
    pub const ALL: [Self; 18] = [
        Self::Success,
        Self::TargetMovedTemporarily,
        Self::TargetMovedPermanently,
        Self::InitiatorError,
        Self::AuthenticationFailure,
        Self::AuthorizationFailure,
        Self::NotFound,
        Self::TargetRemoved,
        Self::UnsupportedVersion,
        Self::TooManyConnections,
        Self::MissingParameter,
        Self::CannotIncludeInSession,
        Self::SessionTypeNotSupported,
        Self::SessionDoesNotExist,
        Self::InvalidDuringLogin,
        Self::TargetError,
        Self::ServiceUnavailable,
        Self::OutOfResources,
    ];

    /// Class in the high byte, detail in the low one.
    #[must_use]
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The status with this code, if there is one.
    #[must_use]
    pub fn from_code(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.code() == code)
    }
}

/// Why a connection ended: what [`crate::Event::Closed`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum CloseReason {
    #[error("logout")]
    Logout,
    #[error("login refused: {0}")]
    Login(LoginStatus),
    #[error("login took too long")]
    LoginTimeout,
    #[error("no answer to a ping")]
    NopTimeout,
    #[error("a write made no progress")]
    DataOutTimeout,
    #[error("no logout came after it was asked for")]
    LogoutTimeout,
    #[error("a discovery session stood idle")]
    DiscoveryTimeout,
    #[error("header digest error")]
    HeaderDigest,
    #[error("a data segment of {0} bytes, more than was declared")]
    DataSegmentTooLong(u32),
    #[error("a CmdSN is missing, and nothing can bring it back at error recovery level 0")]
    CmdSnGap,
    #[error("closed by the daemon")]
    Daemon,
}

/// A condition that ends a task and is reported as SCSI sense data (RFC 7143 11.4.7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IscsiCondition {
    /// Data came that nobody asked for and the negotiation does not allow.
    #[error("unexpected unsolicited data")]
    UnexpectedUnsolicitedData,
    /// A sequence had more or fewer bytes than it should.
    #[error("incorrect amount of data")]
    IncorrectAmountOfData,
    /// A data digest was wrong, or a data PDU is missing.
    #[error("protocol service CRC error")]
    ProtocolServiceCrcError,
    /// Data came out of order.
    #[error("data offset error")]
    DataOffsetError,
}

impl IscsiCondition {
    /// Sense key, additional sense code and qualifier. The sense key is always ABORTED COMMAND.
    #[must_use]
    pub const fn sense(self) -> (u8, u8, u8) {
        match self {
            Self::UnexpectedUnsolicitedData => (0x0b, 0x0c, 0x0c),
            Self::IncorrectAmountOfData => (0x0b, 0x0c, 0x0d),
            Self::ProtocolServiceCrcError => (0x0b, 0x47, 0x05),
            Self::DataOffsetError => (0x0b, 0x4b, 0x05),
        }
    }
}

impl CloseReason {
    /// True if the initiator cannot know it otherwise: it is told that its connection is dropped (RFC 7143 11.9.1).
    pub(crate) const fn is_told(self) -> bool {
        matches!(self, Self::DataOutTimeout | Self::LogoutTimeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_login_status_is_found_by_its_code() {
        for status in LoginStatus::ALL {
            assert_eq!(LoginStatus::from_code(status.code()), Some(status));
        }
        assert_eq!(LoginStatus::from_code(0x0303), None);
    }
}
