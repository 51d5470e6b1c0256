//! REPORT LUNS (SPC-4). There are no well-known and no administrative logical units.

use crate::lun::Lun;
use crate::plan::{Plan, Request};
use crate::sense::{CheckCondition, Fault};

const HEADER_BYTES: usize = 8;

/// Served by every logical unit, and by LUN 0 where there is none: hosts ask there first.
pub(crate) fn report_luns(request: &Request<'_>) -> Result<Plan, CheckCondition> {
    const SELECT_REPORT_AT: u16 = 2;
    if request.unit.is_none() && request.context.lun != Some(Lun::ZERO) {
        return Err(Fault::LogicalUnitNotSupported.into());
    }
    let with_units = match request.cdb.u8(usize::from(SELECT_REPORT_AT)) {
        0x00 | 0x02 | 0x11 => true, // logical units; with well-known ones; those outside of conglomerates
        0x01 | 0x10 | 0x12 => false, // well-known; administrative; subsidiary logical units
        _ => return Err(CheckCondition::invalid_field(SELECT_REPORT_AT, None)),
    };
    let mut data = vec![0; HEADER_BYTES];
    request.context.session.visit(&mut |lun, nexus| {
        if with_units {
            data.extend_from_slice(&lun.to_wire());
        }
        if let Some(nexus) = nexus {
            nexus.clear_reported_luns();
        }
    });
    // At most 16 384 LUNs of 8 bytes: fits.
    let list_length = (data.len() - HEADER_BYTES) as u32;
    data[..4].copy_from_slice(&list_length.to_be_bytes());
    Ok(Plan::reply(data, request.cdb.u32(6)))
}
