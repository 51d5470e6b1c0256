//! PERSISTENT RESERVE IN (SPC-4 6.15). ADDITIONAL LENGTH counts what there is, whatever of it the host takes.

use super::{ReservationType, Reservations, transport_id};
use crate::cdb::Cdb;
use crate::plan::{Plan, Unit};
use crate::sense::CheckCondition;
use crate::status::Status;

/// PRGENERATION and ADDITIONAL LENGTH.
const HEADER_BYTES: usize = 8;

/// While a nexus holds the logical unit by RESERVE no persistent reservation is told of, nor made (SPC-2 5.5.1).
fn reply(
    cdb: &Cdb,
    unit: Unit<'_>,
    body: impl FnOnce(&Reservations) -> Vec<u8>,
) -> Result<Plan, CheckCondition> {
    if unit.lu.book.is_reserved_by_spc2() {
        return Ok(Plan::status(Status::ReservationConflict));
    }
    Ok(Plan::reply(body(&unit.lu.reservations()), u32::from(cdb.u16(7))))
}

/// The list behind PRGENERATION and its own length.
fn listed(state: &Reservations, list: &[u8]) -> Vec<u8> {
    let mut data = Vec::with_capacity(HEADER_BYTES + list.len());
    data.extend_from_slice(&state.generation.to_be_bytes());
    // REGISTRATIONS_MAX descriptors of at most 268 bytes: fits.
    data.extend_from_slice(&(list.len() as u32).to_be_bytes());
    data.extend_from_slice(list);
    data
}

/// 6.15.2.
pub(crate) fn read_keys(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    reply(cdb, unit, |state| {
        let keys: Vec<u8> = state.registrations.iter().flat_map(|own| own.key.to_be_bytes()).collect();
        listed(state, &keys)
    })
}

/// 6.15.3. The scope is LU_SCOPE, 0h; the key of a type for all registrants is zero.
pub(crate) fn read_reservation(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    const DESCRIPTOR_BYTES: usize = 16;
    const SCOPE_AND_TYPE_AT: usize = 13;
    reply(cdb, unit, |state| {
        let Some(kind) = state.kind else { return listed(state, &[]) };
        let key = state.registrations.iter().find(|own| own.holder).map_or(0, |own| own.key);
        let mut descriptor = [0; DESCRIPTOR_BYTES];
        descriptor[..8].copy_from_slice(&key.to_be_bytes());
        descriptor[SCOPE_AND_TYPE_AT] = kind.code();
        listed(state, &descriptor)
    })
}

/// 6.15.4.
pub(crate) fn report_capabilities(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    const LENGTH: u8 = 8;
    /// RESERVE and RELEASE of registered nexuses as in SPC-4 5.13.3; SPEC_I_PT; ALL_TG_PT; APTPL.
    const CRH_SIP_C_ATP_C_PTPL_C: u8 = 0x10 | 0x08 | 0x04 | 0x01;
    const TMV: u8 = 0x80;
    /// 100b: what the command table says of TEST UNIT READY, RECEIVE COPY RESULTS, MODE SENSE and their like.
    const ALLOW_COMMANDS: u8 = 0b100 << 4;
    const PTPL_A: u8 = 0x01;
    reply(cdb, unit, |state| {
        let aptpl = if state.aptpl { PTPL_A } else { 0 };
        let [first, second] = type_mask();
        vec![0, LENGTH, CRH_SIP_C_ATP_C_PTPL_C, TMV | ALLOW_COMMANDS | aptpl, first, second, 0, 0]
    })
}

/// PERSISTENT RESERVATION TYPE MASK: type 1 is bit 1 of the first byte, type 8 bit 0 of the second.
fn type_mask() -> [u8; 2] {
    let mut mask = [0; 2];
    for kind in ReservationType::ALL {
        mask[usize::from(kind.code() / 8)] |= 1 << (kind.code() % 8);
    }
    mask
}

/// 6.15.5.
pub(crate) fn read_full_status(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    const ALL_TG_PT: u8 = 0x02;
    const R_HOLDER: u8 = 0x01;
    reply(cdb, unit, |state| {
        let mut list = Vec::new();
        for own in &state.registrations {
            let holds = state.holds(own);
            let kind = state.kind.filter(|_| holds).map_or(0, ReservationType::code);
            let all = own.target_port.is_none();
            let flags = if all { ALL_TG_PT } else { 0 } | if holds { R_HOLDER } else { 0 };
            let id = transport_id::encode(&own.initiator);
            list.extend_from_slice(&own.key.to_be_bytes());
            list.extend_from_slice(&[0, 0, 0, 0, flags, kind, 0, 0, 0, 0]);
            list.extend_from_slice(&own.target_port.unwrap_or(0).to_be_bytes());
            list.extend_from_slice(&(id.len() as u32).to_be_bytes());
            list.extend_from_slice(&id);
        }
        listed(state, &list)
    })
}
