//! How a task ends: the one place where outcomes and refusals become SCSI responses.

use bytes::Bytes;
use lusd_iscsi::{Connection as Proto, Response, TaskTag};
use lusd_scsi::{CheckCondition, Lun, Refusal, SenseFormat, Status};
use tracing::{debug, warn};

use crate::lun::backend::BackendError;
use crate::lun::reserve;
use crate::lun::unit::Unit;
use crate::net::shard::Outcome;

/// What the answer of a task needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reply {
    pub(super) lun: Lun,
    /// First byte on the medium, for INFORMATION.
    pub(super) at: u64,
    pub(super) writes: bool,
    /// Bytes that the CDB moves, for the residual count.
    pub(super) transfer_length: u64,
}

pub(super) fn good(proto: &mut Proto, tag: TaskTag, data_in: Bytes, transfer_length: u64) {
    proto.respond(tag, Response { status: Status::Good as u8, sense: &[], data_in, transfer_length });
}

/// With a status that has the initiator send the command again.
pub(super) fn put_off(proto: &mut Proto, tag: TaskTag, status: Status, transfer_length: u64) {
    let (status, data_in) = (status as u8, Bytes::new());
    proto.respond(tag, Response { status, sense: &[], data_in, transfer_length });
}

/// Of a task that another nexus has ended: TASK ABORTED where TAS asks for it, else there is no answer (SAM-5 5.6).
pub(super) fn end(proto: &mut Proto, tag: TaskTag, unit: &Unit, transfer_length: u64) {
    if unit.answers_ended_tasks() {
        put_off(proto, tag, Status::TaskAborted, transfer_length);
    } else {
        proto.abandon(tag);
    }
}

pub(super) fn refuse(
    proto: &mut Proto,
    tag: TaskTag,
    check: &CheckCondition,
    unit: Option<&Unit>,
    transfer_length: u64,
) {
    let format = unit.map_or(SenseFormat::Fixed, |unit| unit.scsi.sense_format());
    let sense = check.sense(format);
    let status = Status::CheckCondition as u8;
    proto.respond(tag, Response { status, sense: &sense, data_in: Bytes::new(), transfer_length });
}

/// Of a command that is marked as a read and as a write at once: none here moves data both ways.
#[cold]
pub(crate) fn refuse_bidirectional(proto: &mut Proto, tag: TaskTag) {
    let check = CheckCondition::from(lusd_scsi::Fault::InvalidFieldInInformationUnit);
    refuse(proto, tag, &check, None, 0);
}

/// The LUN was unmapped while the command was on its way.
pub(super) fn refuse_gone(proto: &mut Proto, tag: TaskTag, unit: &Unit, transfer_length: u64) {
    let gone = CheckCondition::from(lusd_scsi::Fault::LogicalUnitNotSupported);
    refuse(proto, tag, &gone, Some(unit), transfer_length);
}

/// The one place where an outcome becomes an answer.
pub(super) fn answer(proto: &mut Proto, tag: TaskTag, unit: &Unit, reply: Reply, outcome: Outcome) {
    let error = match outcome {
        Outcome::Done(Ok(data)) => return good(proto, tag, data, reply.transfer_length),
        Outcome::Aborted => return end(proto, tag, unit, reply.transfer_length),
        Outcome::Late => {
            debug!(lu = %unit.name, "held off for too long: BUSY");
            return put_off(proto, tag, Status::Busy, reply.transfer_length);
        }
        Outcome::Revoked => unreachable!("a revoked outcome resets the session"),
        Outcome::Data(data) => {
            let len = data.len() as u64;
            return good(proto, tag, data, len);
        }
        Outcome::Check(check) => {
            debug!(lu = %unit.name, ?check, "answered with an error");
            return refuse(proto, tag, &check, Some(unit), reply.transfer_length);
        }
        Outcome::Conflict => {
            return put_off(proto, tag, Status::ReservationConflict, reply.transfer_length);
        }
        Outcome::Reserved(reserved) => return answer_reserved(proto, tag, unit, reply, reserved),
        Outcome::Miscompare(byte) => lusd_scsi::BackendError::Miscompare(byte),
        Outcome::Done(Err(error)) => {
            warn!(lu = %unit.name, lun = %reply.lun, ?error, writes = reply.writes, "a command failed in the backend");
            scsi_error(error, reply.writes)
        }
    };
    let (status, check) = error.answer(unit.scsi.block_size(), reply.at);
    debug!(lu = %unit.name, ?status, ?check, "answered with an error");
    match check {
        Some(check) => refuse(proto, tag, &check, Some(unit), reply.transfer_length),
        None => put_off(proto, tag, status, reply.transfer_length),
    }
}

/// What became of a request to change reservations.
fn answer_reserved(proto: &mut Proto, tag: TaskTag, unit: &Unit, reply: Reply, reserved: reserve::Reply) {
    let length = reply.transfer_length;
    match reserved {
        reserve::Reply::Answer(Ok(())) => good(proto, tag, Bytes::new(), length),
        reserve::Reply::Answer(Err(Refusal::Conflict)) => {
            put_off(proto, tag, Status::ReservationConflict, length);
        }
        reserve::Reply::Answer(Err(Refusal::Check(check))) => refuse(proto, tag, &check, Some(unit), length),
        reserve::Reply::Busy => put_off(proto, tag, Status::Busy, length),
        reserve::Reply::Displaced => refuse(proto, tag, &unit.scsi.displaced(None), Some(unit), length),
        reserve::Reply::Aborted => end(proto, tag, unit, length),
    }
}

fn scsi_error(error: BackendError, writes: bool) -> lusd_scsi::BackendError {
    match (error, writes) {
        (BackendError::NoSpace, _) => lusd_scsi::BackendError::NoSpace,
        (BackendError::Busy, _) => lusd_scsi::BackendError::Busy,
        (BackendError::OutOfRange, _) => lusd_scsi::BackendError::OutOfRange,
        (BackendError::Medium, true) => lusd_scsi::BackendError::MediumWrite,
        (BackendError::Medium, false) => lusd_scsi::BackendError::MediumRead,
        (BackendError::Refused, _) => lusd_scsi::BackendError::Internal,
        (BackendError::Lost | BackendError::Unknown, _) => {
            unreachable!("a lost logical unit revokes its operations")
        }
    }
}

#[cfg(test)]
mod tests {
    use lusd_scsi::{BlockSize, Fault};

    use super::*;
    use crate::lun::errnos;

    /// What a host gets for each row of the table of error numbers; `None`: its session is reset, nothing is told.
    #[test]
    fn each_error_number_has_its_answer() {
        let check = |fault: Fault| (Status::CheckCondition, Some(fault.code()));
        for row in &errnos::ROWS {
            for writes in [false, true] {
                let expected = match row.meaning {
                    BackendError::Lost | BackendError::Unknown => None,
                    BackendError::NoSpace => Some(check(Fault::SpaceAllocationFailed)),
                    BackendError::Busy => Some((Status::Busy, None)),
                    BackendError::OutOfRange => Some(check(Fault::LbaOutOfRange)),
                    BackendError::Refused => Some(check(Fault::InternalTargetFailure)),
                    BackendError::Medium if writes => Some(check(Fault::Write)),
                    BackendError::Medium => Some(check(Fault::UnrecoveredRead)),
                };
                let Some(expected) = expected else { continue };
                let (status, sense) = scsi_error(row.meaning, writes).answer(BlockSize::B512, 0);
                assert_eq!((status, sense.map(|check| check.code)), expected, "{:?}", row.errno);
            }
        }
    }
}
