//! READ DEFECT DATA (SBC-3 5.17): both lists are empty, whatever their format.

use crate::cdb::Cdb;
use crate::plan::{Plan, Unit};
use crate::sense::CheckCondition;

/// REQ_PLIST, REQ_GLIST and DEFECT LIST FORMAT, which come back as PLISTV, GLISTV and DEFECT LIST FORMAT.
const ASKED_FOR: u8 = 0x1f;

pub(crate) fn read_defect_data_10(cdb: &Cdb, _unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    Ok(Plan::reply(vec![0, cdb.u8(2) & ASKED_FOR, 0, 0], u32::from(cdb.u16(7))))
}

pub(crate) fn read_defect_data_12(cdb: &Cdb, _unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    Ok(Plan::reply(vec![0, cdb.u8(1) & ASKED_FOR, 0, 0, 0, 0, 0, 0], cdb.u32(6)))
}
