//! READ CAPACITY and GET LBA STATUS (SBC-3).

use crate::LogicalUnit;
use crate::cdb::Cdb;
use crate::plan::{Plan, Unit};
use crate::sense::{CheckCondition, Fault};

/// RETURNED LOGICAL BLOCK ADDRESS: the last block. A daemon that is not the owner, and has not seen the image, says that it is not
/// the owner, not that there is no medium.
fn last_lba(lu: &LogicalUnit) -> Result<u64, CheckCondition> {
    match lu.blocks().checked_sub(1) {
        Some(last) => Ok(last),
        None => Err(lu.access().check().err().unwrap_or(Fault::NoMedium.into())),
    }
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

/// One extent from the starting block to the end, MAPPED: which SBC-4 reads as "mapped, or in an unknown state". Hosts that ask (QEMU copies
/// only what is mapped) then read everything, which is right for any image.
pub(crate) fn get_lba_status(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    /// PARAMETER DATA LENGTH counts what follows it: reserved bytes and one descriptor.
    const PARAMETER_DATA_LENGTH: u32 = 20;
    const LEN: usize = 24;
    const MAPPED: u8 = 0;
    let lba = cdb.u64(2);
    let left = unit.lu.blocks().checked_sub(lba).filter(|left| *left > 0);
    let left = left.ok_or_else(|| CheckCondition::lba_out_of_range(lba))?;
    let mut data = vec![0; LEN];
    data[..4].copy_from_slice(&PARAMETER_DATA_LENGTH.to_be_bytes());
    data[8..16].copy_from_slice(&lba.to_be_bytes());
    data[16..20].copy_from_slice(&u32::try_from(left).unwrap_or(u32::MAX).to_be_bytes());
    data[20] = MAPPED;
    Ok(Plan::reply(data, cdb.u32(10)))
}
