//! From CDB and parameter list to a [`ReserveRequest`] (SPC-4 6.16, SPC-2 7.21 to 7.24).

use super::action::Action;
use super::{ReservationType, ReserveRequest, transport_id};
use crate::cdb::Cdb;
use crate::plan::{After, ParametersKind, Plan, Unit};
use crate::sense::{CheckCondition, Fault};

/// A parameter list without TransportIDs.
const BASIC_BYTES: usize = 24;
/// Longest parameter list: more TransportIDs than there is room for registrations.
const LIST_BYTES_MAX: u32 = 256 << 10;

/// SERVICE ACTION of PERSISTENT RESERVE OUT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    Register,
    Reserve,
    Release,
    Clear,
    Preempt,
    PreemptAndAbort,
    RegisterAndIgnoreExistingKey,
    RegisterAndMove,
}

/// The parameter list of a PERSISTENT RESERVE OUT that is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PrOut {
    service: Service,
    /// SCOPE and TYPE; `None` where they are not valid.
    kind: Option<ReservationType>,
    length: usize,
}

fn pr_out(cdb: &Cdb, service: Service) -> Result<Plan, CheckCondition> {
    const LU_SCOPE: u8 = 0;
    let length = cdb.u32(5);
    let has_more = matches!(service, Service::Register | Service::RegisterAndMove);
    let fits = length as usize == BASIC_BYTES || (has_more && length as usize > BASIC_BYTES);
    if !fits || length > LIST_BYTES_MAX {
        return Err(Fault::ParameterListLength.into());
    }
    let (scope, code) = (cdb.u8(2) >> 4, cdb.u8(2) & 0x0f);
    let kind = if scope == LU_SCOPE { ReservationType::from_code(code) } else { None };
    let list = PrOut { service, kind, length: length as usize };
    Ok(Plan::parameters(ParametersKind::PrOut(list), u64::from(length)))
}

pub(crate) fn register(cdb: &Cdb, _unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    pr_out(cdb, Service::Register)
}

pub(crate) fn reserve(cdb: &Cdb, _unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    pr_out(cdb, Service::Reserve)
}

pub(crate) fn release(cdb: &Cdb, _unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    pr_out(cdb, Service::Release)
}

pub(crate) fn clear(cdb: &Cdb, _unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    pr_out(cdb, Service::Clear)
}

pub(crate) fn preempt(cdb: &Cdb, _unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    pr_out(cdb, Service::Preempt)
}

pub(crate) fn preempt_and_abort(cdb: &Cdb, _unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    pr_out(cdb, Service::PreemptAndAbort)
}

pub(crate) fn register_and_ignore_existing_key(cdb: &Cdb, _unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    pr_out(cdb, Service::RegisterAndIgnoreExistingKey)
}

pub(crate) fn register_and_move(cdb: &Cdb, _unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    pr_out(cdb, Service::RegisterAndMove)
}

/// The whole logical unit for the nexus. Extents and third parties are reserved in the table's rows.
pub(crate) fn reserve_6(_cdb: &Cdb, _unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    Ok(Plan::reserve(ReserveRequest::Reserve))
}

pub(crate) fn reserve_10(_cdb: &Cdb, _unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    Ok(Plan::reserve(ReserveRequest::Reserve))
}

pub(crate) fn release_6(_cdb: &Cdb, _unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    Ok(Plan::reserve(ReserveRequest::Release))
}

pub(crate) fn release_10(_cdb: &Cdb, _unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    Ok(Plan::reserve(ReserveRequest::Release))
}

impl PrOut {
    /// Reads the list; nothing of it takes effect here.
    pub(crate) fn finish(self, data: &[u8]) -> Result<After, CheckCondition> {
        let list = data.get(..self.length).ok_or(Fault::ParameterListLength)?;
        let (basic, more) = list.split_first_chunk::<BASIC_BYTES>().ok_or(Fault::ParameterListLength)?;
        let action = match self.service {
            Service::RegisterAndMove => move_of(basic, more)?,
            _ => self.basic(basic, more)?,
        };
        Ok(After::Reserve(ReserveRequest::Persistent(action)))
    }

    /// 6.16.3.
    fn basic(self, list: &[u8; BASIC_BYTES], more: &[u8]) -> Result<Action, CheckCondition> {
        const FLAGS_AT: usize = 20;
        const SPEC_I_PT: u8 = 0x08;
        const SPEC_I_PT_BIT: u8 = 3;
        const ALL_TG_PT: u8 = 0x04;
        const APTPL: u8 = 0x01;
        let (key, new_key) = keys(list);
        let flag = |mask| list[FLAGS_AT] & mask != 0;
        let also = match (flag(SPEC_I_PT), self.service) {
            (true, Service::Register) => Some(transport_ids(more)?),
            (true, _) => {
                return Err(CheckCondition::invalid_parameter(FLAGS_AT as u16, Some(SPEC_I_PT_BIT)));
            }
            (false, _) if !more.is_empty() => return Err(Fault::ParameterListLength.into()),
            (false, _) => None,
        };
        let kind = self.kind;
        let register = |key| Action::Register {
            key,
            new_key,
            also,
            all_target_ports: flag(ALL_TG_PT),
            aptpl: flag(APTPL),
        };
        Ok(match self.service {
            Service::Register => register(Some(key)),
            Service::RegisterAndIgnoreExistingKey => register(None),
            Service::Reserve => Action::Reserve { key, kind },
            Service::Release => Action::Release { key, kind },
            Service::Clear => Action::Clear { key },
            Service::Preempt => Action::Preempt { key, victim: new_key, kind, abort: false },
            Service::PreemptAndAbort => Action::Preempt { key, victim: new_key, kind, abort: true },
            Service::RegisterAndMove => unreachable!("has a list of its own"),
        })
    }
}

/// RESERVATION KEY and SERVICE ACTION RESERVATION KEY.
fn keys(list: &[u8; BASIC_BYTES]) -> (u64, u64) {
    let key = |at: usize| list[at..at + 8].iter().fold(0, |key, byte| key << 8 | u64::from(*byte));
    (key(0), key(8))
}

/// TRANSPORTID PARAMETER DATA LENGTH and the TransportIDs behind the basic list.
fn transport_ids(more: &[u8]) -> Result<Vec<super::Specified>, CheckCondition> {
    let (length, rest) = more.split_first_chunk::<4>().ok_or(Fault::ParameterListLength)?;
    let length = u32::from_be_bytes(*length) as usize;
    let mut rest = rest.get(..length).ok_or(Fault::ParameterListLength)?;
    let mut ids = Vec::new();
    let mut at = BASIC_BYTES + 4;
    while !rest.is_empty() {
        let wrong = CheckCondition::invalid_parameter(u16::try_from(at).unwrap_or(u16::MAX), None);
        let (id, len) = transport_id::decode(rest).ok_or(wrong)?;
        ids.push(id);
        at += len;
        rest = &rest[len..];
    }
    Ok(ids)
}

/// 6.16.4: REGISTER AND MOVE.
fn move_of(list: &[u8; BASIC_BYTES], more: &[u8]) -> Result<Action, CheckCondition> {
    const FLAGS_AT: usize = 17;
    const UNREG: u8 = 0x02;
    const APTPL: u8 = 0x01;
    const TRANSPORT_ID_AT: u16 = BASIC_BYTES as u16;
    let (key, new_key) = keys(list);
    let length = u32::from_be_bytes([list[20], list[21], list[22], list[23]]) as usize;
    let id = more.get(..length).ok_or(Fault::ParameterListLength)?;
    let wrong = CheckCondition::invalid_parameter(TRANSPORT_ID_AT, None);
    let (to, len) = transport_id::decode(id).ok_or(wrong)?;
    if len != length {
        return Err(wrong);
    }
    Ok(Action::Move {
        key,
        new_key,
        to,
        target_port: u16::from_be_bytes([list[18], list[19]]),
        unregister: list[FLAGS_AT] & UNREG != 0,
        aptpl: list[FLAGS_AT] & APTPL != 0,
    })
}
