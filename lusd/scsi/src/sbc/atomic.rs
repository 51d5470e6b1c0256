//! COMPARE AND WRITE, ORWRITE (16) and WRITE ATOMIC (16): what must be alone on its blocks (SBC-3 5.2, 5.8; SBC-4 5.47). FUA and DPO are
//! as in [`super::rw`]. Their data-out has exactly the length that the CDB says: half of such an operation is none.

use super::Extent;
use crate::block::BlockOp;
use crate::cdb::Cdb;
use crate::plan::{Plan, Unit};
use crate::sense::CheckCondition;

/// NUMBER OF LOGICAL BLOCKS of COMPARE AND WRITE.
const CAW_LENGTH_AT: u16 = 13;

/// Data-out is the blocks to compare with, then those to write. No blocks is no error (SBC-3 5.2), but data for them is.
pub(crate) fn compare_and_write(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    let blocks = u64::from(cdb.u8(usize::from(CAW_LENGTH_AT)));
    let extent = Extent { lba: cdb.u64(2), blocks, length_at: CAW_LENGTH_AT };
    let plan = match extent.within(unit.lu, unit.lu.compare_and_write_bytes_max())? {
        Some(range) => Plan::block(BlockOp::CompareAndWrite(range), 2 * range.len, 0),
        None => Plan::done(),
    };
    Ok(plan.exactly(CAW_LENGTH_AT))
}

pub(crate) fn orwrite_16(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    let extent = Extent::of_16(cdb);
    Ok(match extent.within(unit.lu, unit.lu.limits().transfer_bytes_max)? {
        Some(range) => Plan::block(BlockOp::OrWrite(range), range.len, 0).exactly(extent.length_at),
        None => Plan::done(),
    })
}

/// ATOMIC BOUNDARY is reserved in the table's row (MAXIMUM ATOMIC BOUNDARY SIZE 0). RADOS writes one object wholly or not at all, whatever
/// fails, and knows no such promise for two: a range that crosses from one into the next is refused. Hosts that align what they write
/// to its length, a power of two (as Linux does), never meet that.
pub(crate) fn write_atomic_16(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    const LENGTH_AT: u16 = 12;
    const LBA_AT: u16 = 2;
    let blocks = u64::from(cdb.u16(usize::from(LENGTH_AT)));
    let extent = Extent { lba: cdb.u64(usize::from(LBA_AT)), blocks, length_at: LENGTH_AT };
    let Some(range) = extent.within(unit.lu, unit.lu.atomic_bytes_max())? else { return Ok(Plan::done()) };
    let object = unit.lu.limits().object_bytes;
    if range.offset / object != (range.end() - 1) / object {
        return Err(CheckCondition::invalid_field(LBA_AT, None));
    }
    Ok(Plan::block(BlockOp::WriteAtomic(range), range.len, 0).exactly(LENGTH_AT))
}
