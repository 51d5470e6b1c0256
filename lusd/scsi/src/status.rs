//! Status bytes (SAM-5 5.3).

/// SCSI status of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Status {
    /// GOOD.
    Good = 0x00,
    /// CHECK CONDITION; sense data goes with it.
    CheckCondition = 0x02,
    /// CONDITION MET.
    ConditionMet = 0x04,
    /// BUSY: try again later.
    Busy = 0x08,
    /// RESERVATION CONFLICT.
    ReservationConflict = 0x18,
    /// TASK SET FULL: try again when a command of yours has ended.
    TaskSetFull = 0x28,
    /// TASK ABORTED by another I_T nexus.
    TaskAborted = 0x40,
}

impl From<Status> for u8 {
    fn from(status: Status) -> u8 {
        status as u8
    }
}
