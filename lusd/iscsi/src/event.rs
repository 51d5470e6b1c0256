//! What a connection tells the daemon, and what the daemon tells it.

use bytes::{Bytes, BytesMut};

use crate::chap::ChapGrant;
use crate::error::{CloseReason, IscsiCondition};
use crate::params::{Params, SessionType};
use crate::pdu::{Cdb, Isid, LogoutReason, TaskAttribute, TmfFunction};
use crate::serial::Serial;

/// Names a task of a connection from its [`Event::Command`] until it is ended.
///
/// [`TaskTag::slot`] is dense: below command window plus immediate window, and used again after the task's end. Use of a tag
/// after its end is caught.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TaskTag {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl TaskTag {
    /// Index for tables of the daemon's own.
    #[must_use]
    pub const fn slot(self) -> usize {
        self.slot as usize
    }
}

impl std::fmt::Debug for TaskTag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TaskTag({}.{})", self.slot, self.generation)
    }
}

/// What happened on a connection; [`crate::Connection::poll`] yields these in order.
#[derive(Debug)]
pub enum Event {
    /// An initiator wants in: may it, and by which credentials? Nothing goes on until `login_grant`, `login_refuse` or
    /// `login_redirect`.
    Login(LoginRequest),
    /// The login is done. Its last response is held back until this event was taken: whoever reinstates a session does it before
    /// writing out.
    LoggedIn(SessionInfo),
    /// A SCSI command, in order. Nothing more is read until `accept`, `respond` or `abandon`.
    Command(ScsiCommand),
    /// All the data of a command that was accepted with [`DataOut::Receive`].
    DataOut {
        /// The command.
        tag: TaskTag,
        /// Its data: as many bytes as were asked for, or as the initiator expected to send if that is fewer.
        data: BytesMut,
    },
    /// The data of a command cannot be had. The daemon ends the task with CHECK CONDITION and the sense data of the condition.
    DataOutFailed {
        /// The command.
        tag: TaskTag,
        /// Why.
        condition: IscsiCondition,
    },
    /// A task management function, to be answered by `tmf_response`; reading goes on meanwhile.
    TaskManagement(TmfRequest),
    /// Which targets are there? Nothing more is read until `send_targets`.
    SendTargets(SendTargetsRequest),
    /// The initiator wants to end. The daemon ends the tasks of the session, then calls `logout_complete`.
    LogoutRequested {
        /// What the initiator asked for. To close the session is to end its other connections, too.
        reason: LogoutReason,
    },
    /// The initiator wants another connection of the session to end. The daemon ends it, then calls `logout_other_complete`; reading goes on
    /// meanwhile.
    LogoutOther {
        /// Names the request in `logout_other_complete`.
        initiator_task_tag: u32,
        /// Its connection identifier.
        cid: u16,
    },
    /// The last event: write what is queued, then close the socket. Tasks still in progress are the daemon's to drop; ending them
    /// here is allowed and sends nothing.
    Closed(CloseReason),
}

/// Who wants in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginRequest {
    /// InitiatorName, byte for byte.
    pub initiator_name: String,
    /// InitiatorAlias.
    pub initiator_alias: Option<String>,
    /// TargetName; always there for a normal session.
    pub target_name: Option<String>,
    /// What for.
    pub session_type: SessionType,
    /// Initiator's part of the session identifier.
    pub isid: Isid,
    /// Target's part: 0 for a new session. Any other names a session to join, by `login_join`: the daemon refuses with
    /// SessionDoesNotExist if there is no such session; a plain grant is turned into TooManyConnections.
    pub tsih: u16,
    /// Connection identifier.
    pub cid: u16,
}

/// The answer that lets an initiator in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoginGrant {
    /// Tag of the portal group that the connection came in by.
    pub portal_group_tag: u16,
    /// Target's part of the session identifier; not 0.
    pub tsih: u16,
    /// TargetAlias, if there is one, at most 255 bytes.
    pub target_alias: Option<String>,
    /// How the initiator has to show who it is; without that it is not logged in, whatever is granted.
    pub authentication: Authentication,
}

/// How an initiator has to show who it is (RFC 7143 6.3.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Authentication {
    /// It need not: AuthMethod=None.
    #[default]
    None,
    /// By CHAP, and by nothing else.
    Chap(Box<ChapGrant>),
}

/// A session that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// Who, and what for.
    pub request: LoginRequest,
    /// Target's part of the session identifier.
    pub tsih: u16,
    /// What was negotiated.
    pub params: Params,
}

/// A SCSI command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScsiCommand {
    /// Names the task from here on.
    pub tag: TaskTag,
    /// The initiator's name for it.
    pub initiator_task_tag: u32,
    /// Logical unit number: the eight bytes of the wire, big endian.
    pub lun: u64,
    /// Command descriptor block.
    pub cdb: Cdb,
    /// Task attribute.
    pub attribute: TaskAttribute,
    /// The initiator expects data from the target.
    pub read: bool,
    /// The initiator has data for the target.
    pub write: bool,
    /// How many bytes it expects to move; the write half of a bidirectional command.
    pub expected_data_transfer_length: u32,
    /// How many of these may come without being asked for: what travels with the command, and what follows it without an R2T.
    pub unsolicited_length: u32,
    /// How many bytes it expects to read, if the command is bidirectional.
    pub bidi_read_length: Option<u32>,
    /// Delivered outside of CmdSN order.
    pub immediate: bool,
    /// CmdSN.
    pub cmd_sn: Serial,
}

/// What a command wants of its initiator.
#[derive(Debug)]
pub enum DataOut {
    /// Nothing: what comes is dropped.
    None,
    /// Data.
    Receive {
        /// How many bytes the command wants; fewer come if the initiator expected to send fewer.
        len: u32,
        /// Where they go: empty, with capacity for `len`.
        buf: BytesMut,
    },
    /// Data, but no more than comes unsolicited until [`crate::Connection::solicit`]: for a daemon that has no memory for all of it now.
    Hold {
        /// As for `Receive`.
        len: u32,
        /// As for `Receive`.
        buf: BytesMut,
    },
}

/// How a command ended.
#[derive(Clone, Debug, Default)]
pub struct Response<'a> {
    /// SCSI status.
    pub status: u8,
    /// Sense data, fixed or descriptor format; empty for none. At most [`crate::SENSE_LEN_MAX`] bytes.
    pub sense: &'a [u8],
    /// Data for the initiator. More than it expects is cut off.
    pub data_in: Bytes,
    /// Bytes that the command would move if the initiator expected enough: what the residual is counted from. For a
    /// bidirectional command the write half; the read half is counted from `data_in`.
    pub transfer_length: u64,
}

/// A task in progress, as [`crate::Connection::tasks`] shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskInfo {
    /// Names the task.
    pub tag: TaskTag,
    /// The initiator's name for it.
    pub initiator_task_tag: u32,
    /// Logical unit number, as on the wire.
    pub lun: u64,
    /// CmdSN.
    pub cmd_sn: Serial,
    /// Delivered outside of CmdSN order.
    pub immediate: bool,
    /// True while its data is still on the way.
    pub receiving: bool,
}

/// What became of the task that a task management function names (RFC 7143 11.5.5, 11.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Referenced {
    /// The function does not name a task.
    Nothing,
    /// It is in progress.
    Task(TaskTag),
    /// It has not come, and now never will: ABORT TASK is answered with Function Complete.
    CmdSnNotReceived,
    /// It is not in progress: ABORT TASK is answered with Task Does Not Exist.
    NotInTask,
}

/// A task management function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TmfRequest {
    /// Names the request in `tmf_response`.
    pub initiator_task_tag: u32,
    /// What is asked.
    pub function: TmfFunction,
    /// Logical unit number, as on the wire.
    pub lun: u64,
    /// The task that is meant.
    pub referenced: Referenced,
    /// The initiator's name for it; what is not here may be on another connection of the session.
    pub referenced_task_tag: u32,
    /// RefCmdSN as sent.
    pub ref_cmd_sn: Serial,
    /// CmdSN of the request: tasks after it are not affected.
    pub cmd_sn: Serial,
    /// Delivered outside of CmdSN order.
    pub immediate: bool,
}

/// Which targets are asked for (RFC 7143 13.3, appendix C).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendTargetsRequest {
    /// All that the initiator may see.
    All,
    /// The target of this session.
    This,
    /// The target of this name.
    Named(String),
}

/// A target and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetRecord {
    /// TargetName.
    pub name: String,
    /// `address:port` or `[address]:port`, and the tag of the portal's group.
    pub portals: Vec<(String, u16)>,
}

/// Something that the initiator did not ask for (RFC 7143 11.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsyncEvent<'a> {
    /// A SCSI event with its sense data.
    Scsi {
        /// Logical unit number, as on the wire.
        lun: u64,
        /// Sense data, at most [`crate::SENSE_LEN_MAX`] bytes.
        sense: &'a [u8],
    },
    /// Please log out within so many seconds. Commands are still taken; past that time plus a second the connection is dropped, and said
    /// to be.
    LogoutRequest {
        /// Seconds.
        within_s: u16,
    },
    /// This connection will be dropped. Time2Wait is the session's; nothing is retained.
    ConnectionDrop,
    /// All connections of the session will be dropped. The rest as for `ConnectionDrop`.
    SessionDrop,
    /// Please negotiate the parameters again, within so many seconds.
    NegotiationRequest {
        /// Seconds.
        within_s: u16,
    },
    /// All tasks of a logical unit were terminated.
    TaskTermination {
        /// Logical unit number, as on the wire.
        lun: u64,
    },
}
