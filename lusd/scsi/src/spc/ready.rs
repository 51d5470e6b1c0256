//! TEST UNIT READY, REQUEST SENSE, PREVENT ALLOW MEDIUM REMOVAL.

use crate::LogicalUnit;
use crate::cdb::Cdb;
use crate::plan::{Plan, Request, Unit};
use crate::sense::{CheckCondition, Fault, SenseCode, SenseFormat};

/// TEST UNIT READY: the unit attention and access state were looked at before.
pub(crate) fn test_unit_ready(_cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    if unit.lu.blocks() == 0 {
        return Err(Fault::NoMedium.into());
    }
    Ok(Plan::done())
}

/// TEST UNIT READY of the REPORT LUNS well-known logical unit, which always is.
pub(crate) fn test_unit_ready_of_nothing(_request: &Request<'_>) -> Result<Plan, CheckCondition> {
    Ok(Plan::done())
}

/// The medium cannot be removed, so both are true at once; hosts send it and expect GOOD.
pub(crate) fn prevent_allow_medium_removal(_cdb: &Cdb, _unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    Ok(Plan::done())
}

fn why_not_ready(lu: &LogicalUnit) -> CheckCondition {
    match lu.access().code() {
        Some(code) => CheckCondition::new(code),
        None => lu.operation().check().unwrap_or(CheckCondition::new(SenseCode::NO_SENSE)),
    }
}

/// REQUEST SENSE: a pending unit attention is returned as parameter data and thereby cleared; else why the unit does not
/// serve; else NO SENSE. Where there is no logical unit the status is GOOD too (SAM-5).
pub(crate) fn request_sense(request: &Request<'_>) -> Result<Plan, CheckCondition> {
    const DESC: u8 = 0x01;
    let check = match request.unit {
        None if request.is_to_well_known() => CheckCondition::new(SenseCode::NO_SENSE),
        None => Fault::LogicalUnitNotSupported.into(),
        Some(unit) => unit.nexus.take(&unit.lu.attentions).unwrap_or_else(|| why_not_ready(unit.lu)),
    };
    let format = if request.cdb.flag(1, DESC) { SenseFormat::Descriptor } else { SenseFormat::Fixed };
    Ok(Plan::reply(check.sense(format).to_vec(), u32::from(request.cdb.u8(4))))
}
