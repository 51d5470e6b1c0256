//! READ CAPACITY (SBC-3).

use crate::LogicalUnit;
use crate::cdb::Cdb;
use crate::plan::{Plan, Unit};
use crate::sense::{CheckCondition, Fault};

/// RETURNED LOGICAL BLOCK ADDRESS: the last block.
fn last_lba(lu: &LogicalUnit) -> Result<u64, CheckCondition> {
    lu.blocks().checked_sub(1).ok_or(Fault::NoMedium.into())
}

fn block_bytes(lu: &LogicalUnit) -> [u8; 4] {
    (lu.block_size().bytes() as u32).to_be_bytes()
}

pub(crate) fn read_capacity_10(_cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    /// The last LBA needs READ CAPACITY (16).
    const BEYOND: u32 = u32::MAX;
    const LEN: u32 = 8;
    let last = u32::try_from(last_lba(unit.lu)?).unwrap_or(BEYOND);
    let mut data = Vec::with_capacity(LEN as usize);
    data.extend_from_slice(&last.to_be_bytes());
    data.extend_from_slice(&block_bytes(unit.lu));
    Ok(Plan::reply(data, LEN))
}

pub(crate) fn read_capacity_16(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    const LBPME: u8 = 0x80;
    const LBPRZ: u8 = 0x40;
    const LEN: usize = 32;
    let mut data = vec![0; LEN];
    data[..8].copy_from_slice(&last_lba(unit.lu)?.to_be_bytes());
    data[8..12].copy_from_slice(&block_bytes(unit.lu));
    data[13] = unit.lu.physical_block_exponent();
    if unit.lu.is_thin() {
        data[14] = LBPME | LBPRZ;
    }
    Ok(Plan::reply(data, cdb.u32(10)))
}
