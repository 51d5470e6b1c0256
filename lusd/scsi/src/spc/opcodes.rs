//! REPORT SUPPORTED OPERATION CODES and TASK MANAGEMENT FUNCTIONS (SPC-4), from the command table.

use crate::LogicalUnit;
use crate::cdb::Cdb;
use crate::plan::{Plan, Request, Unit};
use crate::sense::CheckCondition;
use crate::table::{self, Row};

/// REQUESTED OPERATION CODE.
const OPCODE_AT: u16 = 3;
/// REQUESTED SERVICE ACTION.
const SERVICE_ACTION_AT: u16 = 4;

pub(crate) fn report_supported_operation_codes(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    const OPTIONS_HIGH_BIT: u8 = 2;
    let timeouts = cdb.flag(2, 0x80);
    let opcode = cdb.u8(usize::from(OPCODE_AT));
    let service_action = cdb.u16(usize::from(SERVICE_ACTION_AT));
    let rows = table::rows_of(opcode);
    let has_service_actions = rows.iter().any(|row| row.has_service_action);
    let data = match cdb.u8(2) & 0x07 {
        0b000 => all(unit.lu, timeouts),
        0b001 if has_service_actions => return Err(CheckCondition::invalid_field(OPCODE_AT, None)),
        0b001 => one(rows.first(), unit.lu, timeouts),
        0b010 if !rows.is_empty() && !has_service_actions => {
            return Err(CheckCondition::invalid_field(SERVICE_ACTION_AT, None));
        }
        0b010 | 0b011 => {
            let found = rows.iter().find(|row| u16::from(row.service_action_code()) == service_action);
            one(found, unit.lu, timeouts)
        }
        _ => return Err(CheckCondition::invalid_field(2, Some(OPTIONS_HIGH_BIT))),
    };
    Ok(Plan::reply(data, cdb.u32(6)))
}

/// All commands format (SPC-4).
fn all(lu: &LogicalUnit, timeouts: bool) -> Vec<u8> {
    const SERVACTV: u8 = 0x01;
    const CTDP: u8 = 0x02;
    const HEADER_BYTES: usize = 4;
    let mut data = vec![0; HEADER_BYTES];
    for row in table::commands().iter().filter(|row| row.is_offered(lu)) {
        let flags = if row.has_service_action { SERVACTV } else { 0 } | if timeouts { CTDP } else { 0 };
        data.extend_from_slice(&[row.opcode(), 0, 0, row.service_action_code(), 0, flags]);
        data.extend_from_slice(&(row.usage.len() as u16).to_be_bytes());
        if timeouts {
            push_timeouts(&mut data, row);
        }
    }
    let length = (data.len() - HEADER_BYTES) as u32;
    data[..HEADER_BYTES].copy_from_slice(&length.to_be_bytes());
    data
}

/// One command format (SPC-4).
fn one(row: Option<&Row>, lu: &LogicalUnit, timeouts: bool) -> Vec<u8> {
    const NOT_SUPPORTED: u8 = 0b001;
    const SUPPORTED_AS_STANDARD: u8 = 0b011;
    const CTDP: u8 = 0x80;
    let Some(row) = row.filter(|row| row.is_offered(lu)) else {
        return vec![0, NOT_SUPPORTED, 0, 0];
    };
    let mut data = vec![0, SUPPORTED_AS_STANDARD | if timeouts { CTDP } else { 0 }];
    data.extend_from_slice(&(row.usage.len() as u16).to_be_bytes());
    let usage_at = data.len();
    data.extend_from_slice(row.usage);
    if !lu.is_thin() {
        data[usage_at + 1] &= !row.thin_bits;
    }
    if timeouts {
        push_timeouts(&mut data, row);
    }
    data
}

/// Command timeouts descriptor (SPC-4). No nominal time: the cluster decides.
fn push_timeouts(data: &mut Vec<u8>, row: &Row) {
    const LENGTH: u16 = 0x0a;
    const NOMINAL_NOT_INDICATED: u32 = 0;
    data.extend_from_slice(&LENGTH.to_be_bytes());
    data.extend_from_slice(&[0, 0]);
    data.extend_from_slice(&NOMINAL_NOT_INDICATED.to_be_bytes());
    data.extend_from_slice(&row.timeout_s.to_be_bytes());
}

pub(crate) fn report_supported_task_management_functions(
    request: &Request<'_>,
) -> Result<Plan, CheckCondition> {
    const REPD: u8 = 0x80;
    const ALLOCATION_LENGTH_AT: u16 = 6;
    const BASIC_BYTES: usize = 4;
    const EXTENDED_BYTES: usize = 16;
    let cdb = &request.cdb;
    let allocation_length = cdb.u32(usize::from(ALLOCATION_LENGTH_AT));
    if (allocation_length as usize) < BASIC_BYTES {
        return Err(CheckCondition::invalid_field(ALLOCATION_LENGTH_AT, None));
    }
    let extended = cdb.flag(2, REPD);
    let mut data = vec![0; if extended { EXTENDED_BYTES } else { BASIC_BYTES }];
    data[..2].copy_from_slice(&request.context.port.task_management.to_bytes());
    if extended {
        // No timeouts are indicated (their valid bits are zero).
        data[3] = (EXTENDED_BYTES - BASIC_BYTES) as u8;
    }
    Ok(Plan::reply(data, allocation_length))
}
