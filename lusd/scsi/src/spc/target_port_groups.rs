//! REPORT TARGET PORT GROUPS (SPC-4 6.37). SET TARGET PORT GROUPS is not in the table: access is implicit only.

use crate::alua::PortGroupState;
use crate::cdb::Cdb;
use crate::plan::{Plan, Unit};
use crate::sense::CheckCondition;

/// PARAMETER DATA FORMAT in byte 1 of the CDB: 001b, extended header; the table lets no other bit of the field pass.
pub(crate) const EXTENDED_HEADER: u8 = 0x20;

/// What can occur: T_SUP, U_SUP, S_SUP, AO_SUP.
const SUPPORTED_STATES: u8 = 0x80 | 0x08 | 0x04 | 0x01;
/// STATUS CODE: the state was altered by implicit behavior.
const IMPLICIT: u8 = 0x02;
/// IMPLICIT TRANSITION TIME, seconds: how long a host should wait for a transition's end. A takeover takes some 10 s; more when
/// RADOS stalls. Linux gives the path up after that time.
const IMPLICIT_TRANSITION_TIME_S: u8 = 60;

pub(crate) fn report_target_port_groups(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    const RETURN_DATA_LENGTH_BYTES: usize = 4;
    /// FORMAT TYPE 001b, in place.
    const FORMAT_EXTENDED: u8 = 0x10;
    let mut data = vec![0; RETURN_DATA_LENGTH_BYTES];
    if cdb.flag(1, EXTENDED_HEADER) {
        data.extend_from_slice(&[FORMAT_EXTENDED, IMPLICIT_TRANSITION_TIME_S, 0, 0]);
    }
    unit.lu.each_port_group(|tag, state| push(&mut data, tag, state));
    // At most 65 535 groups of 12 bytes: fits.
    let length = (data.len() - RETURN_DATA_LENGTH_BYTES) as u32;
    data[..RETURN_DATA_LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
    Ok(Plan::reply(data, cdb.u32(6)))
}

/// Target port group descriptor with its one target port.
fn push(data: &mut Vec<u8>, tag: u16, state: PortGroupState) {
    const TARGET_PORT_COUNT: u8 = 1;
    let [high, low] = tag.to_be_bytes();
    data.extend_from_slice(&[state as u8, SUPPORTED_STATES, high, low, 0, IMPLICIT, 0, TARGET_PORT_COUNT]);
    data.extend_from_slice(&[0, 0, high, low]);
}
