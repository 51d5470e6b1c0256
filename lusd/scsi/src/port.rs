//! What a target port says of itself: it differs by target and daemon, the logical unit does not.

/// Task management functions, as REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS encodes them (SPC-4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskManagementFunctions(u16);

impl TaskManagementFunctions {
    /// ATS: ABORT TASK.
    pub const ABORT_TASK: TaskManagementFunctions = TaskManagementFunctions(0x8000);
    /// ATSS: ABORT TASK SET.
    pub const ABORT_TASK_SET: TaskManagementFunctions = TaskManagementFunctions(0x4000);
    /// CTSS: CLEAR TASK SET.
    pub const CLEAR_TASK_SET: TaskManagementFunctions = TaskManagementFunctions(0x1000);
    /// LURS: LOGICAL UNIT RESET.
    pub const LOGICAL_UNIT_RESET: TaskManagementFunctions = TaskManagementFunctions(0x0800);
    /// QTS: QUERY TASK.
    pub const QUERY_TASK: TaskManagementFunctions = TaskManagementFunctions(0x0400);
    /// TRS: TARGET RESET.
    pub const TARGET_RESET: TaskManagementFunctions = TaskManagementFunctions(0x0200);
    /// QAES: QUERY ASYNCHRONOUS EVENT.
    pub const QUERY_ASYNCHRONOUS_EVENT: TaskManagementFunctions = TaskManagementFunctions(0x0004);
    /// QTSS: QUERY TASK SET.
    pub const QUERY_TASK_SET: TaskManagementFunctions = TaskManagementFunctions(0x0002);
    /// ITNRS: I_T NEXUS RESET.
    pub const I_T_NEXUS_RESET: TaskManagementFunctions = TaskManagementFunctions(0x0001);

    /// What RFC 7143 alone offers.
    pub const RFC_7143: TaskManagementFunctions = TaskManagementFunctions::ABORT_TASK
        .and(TaskManagementFunctions::ABORT_TASK_SET)
        .and(TaskManagementFunctions::CLEAR_TASK_SET)
        .and(TaskManagementFunctions::LOGICAL_UNIT_RESET)
        .and(TaskManagementFunctions::TARGET_RESET);

    /// Both.
    pub const fn and(self, other: TaskManagementFunctions) -> TaskManagementFunctions {
        TaskManagementFunctions(self.0 | other.0)
    }

    /// Bytes 0 and 1 of the parameter data.
    pub(crate) const fn to_bytes(self) -> [u8; 2] {
        self.0.to_be_bytes()
    }
}

/// A target port of an iSCSI target: one target portal group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetPort {
    /// iSCSI name of the target, at most [`TARGET_NAME_BYTES_MAX`] bytes (longer ones are cut).
    pub target_name: String,
    /// Target portal group tag (RFC 7143 4.1): with the name it makes the SCSI port name.
    pub portal_group_tag: u16,
    /// RELATIVE TARGET PORT IDENTIFIER, unique within the SCSI target device; not 0.
    pub relative_target_port: u16,
    /// TARGET PORT GROUP of asymmetric access.
    pub target_port_group: u16,
    /// What the transport side of this target port does.
    pub task_management: TaskManagementFunctions,
}

/// iSCSI names have at most 223 bytes (RFC 7143 4.2.7.1).
pub const TARGET_NAME_BYTES_MAX: usize = 223;

impl TargetPort {
    /// The target's name, cut to what a designator has room for.
    pub(crate) fn bounded_name(&self) -> &str {
        let mut end = self.target_name.len().min(TARGET_NAME_BYTES_MAX);
        while !self.target_name.is_char_boundary(end) {
            end -= 1;
        }
        &self.target_name[..end]
    }

    /// SCSI port name: `NAME,t,0xTPGT` (RFC 7143 4.4.1).
    pub(crate) fn scsi_port_name(&self) -> String {
        self.scsi_port_name_of(self.portal_group_tag)
    }

    /// That of the same target's port with another portal group tag: of another daemon.
    pub(crate) fn scsi_port_name_of(&self, portal_group_tag: u16) -> String {
        format!("{},t,0x{portal_group_tag:04x}", self.bounded_name())
    }
}
