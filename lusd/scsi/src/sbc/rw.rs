//! READ and WRITE (SBC-3). DPO is accepted and without effect: there is no cache to spare.

use super::{Extent, FUA};
use crate::block::BlockOp;
use crate::cdb::Cdb;
use crate::plan::{Plan, Unit};
use crate::sense::CheckCondition;

/// FUA on a read asks for data from the medium: what lies below never returns older data than was written through
/// it, so there is nothing to bypass.
#[inline]
fn read(unit: Unit<'_>, extent: Extent) -> Result<Plan, CheckCondition> {
    Ok(match extent.within(unit.lu, unit.lu.limits().transfer_bytes_max)? {
        Some(range) => Plan::block(BlockOp::Read(range), 0, range.len),
        None => Plan::done(),
    })
}

#[inline]
fn write(unit: Unit<'_>, extent: Extent, fua: bool) -> Result<Plan, CheckCondition> {
    Ok(match extent.within(unit.lu, unit.lu.limits().transfer_bytes_max)? {
        Some(range) => Plan::block(BlockOp::Write { range, fua }, range.len, 0),
        None => Plan::done(),
    })
}

pub(crate) fn read_6(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    read(unit, Extent::of_6(cdb))
}

pub(crate) fn read_10(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    read(unit, Extent::of_10(cdb))
}

pub(crate) fn read_12(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    read(unit, Extent::of_12(cdb))
}

pub(crate) fn read_16(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    read(unit, Extent::of_16(cdb))
}

pub(crate) fn write_6(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    write(unit, Extent::of_6(cdb), false)
}

pub(crate) fn write_10(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    write(unit, Extent::of_10(cdb), cdb.flag(1, FUA))
}

pub(crate) fn write_12(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    write(unit, Extent::of_12(cdb), cdb.flag(1, FUA))
}

pub(crate) fn write_16(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    write(unit, Extent::of_16(cdb), cdb.flag(1, FUA))
}
