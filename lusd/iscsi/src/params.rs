//! What was negotiated: values past the text, each within its range.

/// What a session is for (RFC 7143 13.21).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the RFC's")]
pub enum SessionType {
    Normal,
    Discovery,
}

/// How a task management function that ends many tasks does it (RFC 7143 13.23, 4.2.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TaskReporting {
    /// What was asked for by R2T is waited for.
    #[default]
    Rfc3720,
    /// As that; responses to other commands have been acknowledged before.
    ResponseFence,
    /// Nothing is waited for; other sessions are told by an asynchronous message.
    FastAbort,
}

impl TaskReporting {
    /// The value of the key.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rfc3720 => "RFC3720",
            Self::ResponseFence => "ResponseFence",
            Self::FastAbort => "FastAbort",
        }
    }

    /// That of a value.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Rfc3720, Self::ResponseFence, Self::FastAbort].into_iter().find(|one| one.name() == name)
    }
}

/// The parameters of a session and of its connection. The default is what RFC 7143 section 13 says for keys that nobody names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Params {
    /// Headers carry CRC32C.
    pub header_digest: bool,
    /// Data carries CRC32C.
    pub data_digest: bool,
    /// Longest data segment that the initiator takes, bytes.
    pub max_send_data_segment_length: u32,
    /// True if all data but immediate data waits for an R2T.
    pub initial_r2t: bool,
    /// Data may travel with its command.
    pub immediate_data: bool,
    /// Most data of a command that may come unasked for, immediate data included, bytes.
    pub first_burst_length: u32,
    /// Longest sequence of Data-In or Data-Out PDUs, bytes.
    pub max_burst_length: u32,
    /// R2Ts of one command that may be outstanding.
    pub max_outstanding_r2t: u16,
    /// Connections of the session.
    pub max_connections: u16,
    /// Error recovery level.
    pub error_recovery_level: u8,
    /// Seconds to wait before coming back.
    pub default_time_2_wait_s: u16,
    /// Seconds for which tasks are kept after that.
    pub default_time_2_retain_s: u16,
    /// iSCSIProtocolLevel.
    pub protocol_level: u8,
    /// TaskReporting.
    pub task_reporting: TaskReporting,
}

impl Params {
    /// Those that another connection of the session starts with.
    pub(crate) fn of_another_connection(self) -> Self {
        let new = Self::default();
        Self {
            header_digest: new.header_digest,
            data_digest: new.data_digest,
            max_send_data_segment_length: new.max_send_data_segment_length,
            ..self
        }
    }
}

impl Default for Params {
    fn default() -> Self {
        Self {
            header_digest: false,
            data_digest: false,
            max_send_data_segment_length: 8192,
            initial_r2t: true,
            immediate_data: true,
            first_burst_length: 65_536,
            max_burst_length: 262_144,
            max_outstanding_r2t: 1,
            max_connections: 1,
            error_recovery_level: 0,
            default_time_2_wait_s: 2,
            default_time_2_retain_s: 20,
            protocol_level: 1,
            task_reporting: TaskReporting::Rfc3720,
        }
    }
}
