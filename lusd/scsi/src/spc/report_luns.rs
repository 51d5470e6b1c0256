//! REPORT LUNS (SPC-4; the select reports from 10h on, which are about conglomerates, are SPC-5's). There are no administrative
//! logical units, and one that is well known.

use crate::lun::Lun;
use crate::plan::{Plan, Request};
use crate::sense::{CheckCondition, Fault};

const HEADER_BYTES: usize = 8;

/// Served by every logical unit, by the well-known one, and by LUN 0 where there is none: hosts ask there first.
pub(crate) fn report_luns(request: &Request<'_>) -> Result<Plan, CheckCondition> {
    const SELECT_REPORT_AT: u16 = 2;
    let at_zero_or_well_known = matches!(request.context.lun, Some(Lun::ZERO | Lun::REPORT_LUNS));
    if request.unit.is_none() && !at_zero_or_well_known {
        return Err(Fault::LogicalUnitNotSupported.into());
    }
    let (with_well_known, with_units) = match request.cdb.u8(usize::from(SELECT_REPORT_AT)) {
        0x00 => (false, true),
        0x01 => (true, false),
        0x02 => (true, true),
        // Administrative logical units; with those outside of conglomerates. Only there may be asked for them.
        0x10 if at_zero_or_well_known => (false, false),
        0x11 if at_zero_or_well_known => (false, true),
        // Those of the addressed conglomerate.
        0x12 => (false, false),
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
    if with_well_known {
        data.extend_from_slice(&Lun::REPORT_LUNS.to_wire());
    }
    // At most 16 385 LUNs of 8 bytes: fits.
    let list_length = (data.len() - HEADER_BYTES) as u32;
    data[..4].copy_from_slice(&list_length.to_be_bytes());
    Ok(Plan::reply(data, request.cdb.u32(6)))
}
