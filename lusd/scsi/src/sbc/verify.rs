//! VERIFY and WRITE AND VERIFY (SBC-3).

use super::Extent;
use crate::block::{BlockOp, Comparand};
use crate::cdb::Cdb;
use crate::plan::{Plan, Unit};
use crate::sense::CheckCondition;

/// BYTCHK in byte 1.
fn byte_check(cdb: &Cdb) -> u8 {
    cdb.u8(1) >> 1 & 0x03
}

const BYTE_CHECK_HIGH_BIT: u8 = 2;

fn verify(cdb: &Cdb, unit: Unit<'_>, extent: Extent) -> Result<Plan, CheckCondition> {
    let comparand = match byte_check(cdb) {
        0b00 => None,
        0b01 => Some(Comparand::Blocks),
        0b11 => Some(Comparand::OneBlock),
        _ => return Err(CheckCondition::invalid_field(1, Some(BYTE_CHECK_HIGH_BIT))),
    };
    let Some(range) = extent.within(unit.lu, unit.lu.limits().transfer_bytes_max)? else {
        return Ok(Plan::done());
    };
    Ok(match comparand {
        None => Plan::block(BlockOp::VerifyMedium(range), 0, 0),
        Some(comparand @ Comparand::Blocks) => {
            Plan::block(BlockOp::Compare { range, comparand }, range.len, 0)
        }
        Some(comparand @ Comparand::OneBlock) => {
            Plan::block(BlockOp::Compare { range, comparand }, unit.lu.block_size().bytes(), 0)
        }
    })
}

/// BYTCHK is 00b or 01b here: its high bit is reserved in the table's rows.
fn write_and_verify(cdb: &Cdb, unit: Unit<'_>, extent: Extent) -> Result<Plan, CheckCondition> {
    let compare = byte_check(cdb) != 0;
    Ok(match extent.within(unit.lu, unit.lu.limits().transfer_bytes_max)? {
        Some(range) => Plan::block(BlockOp::WriteVerify { range, compare }, range.len, 0),
        None => Plan::done(),
    })
}

pub(crate) fn verify_10(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    verify(cdb, unit, Extent::of_10(cdb))
}

pub(crate) fn verify_12(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    verify(cdb, unit, Extent::of_12(cdb))
}

pub(crate) fn verify_16(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    verify(cdb, unit, Extent::of_16(cdb))
}

pub(crate) fn write_and_verify_10(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    write_and_verify(cdb, unit, Extent::of_10(cdb))
}

pub(crate) fn write_and_verify_12(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    write_and_verify(cdb, unit, Extent::of_12(cdb))
}

pub(crate) fn write_and_verify_16(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    write_and_verify(cdb, unit, Extent::of_16(cdb))
}
