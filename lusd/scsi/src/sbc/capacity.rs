//! READ CAPACITY and GET LBA STATUS (SBC-3).

use bytes::Bytes;

use crate::block::{BlockOp, Range};
use crate::cdb::Cdb;
use crate::plan::{Plan, Unit};
use crate::sense::{CheckCondition, Fault};
use crate::{BlockSize, LogicalUnit};

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

/// Objects that one GET LBA STATUS looks at: bounds its time, and its data-in. What is behind them a host asks for next.
const STATUS_OBJECTS: u64 = 256;

/// A logical unit that is not thin provisioned has no blocks but mapped ones; of others the backend is asked.
pub(crate) fn get_lba_status(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    const ALLOCATION_LENGTH_AT: usize = 10;
    let (lu, lba) = (unit.lu, cdb.u64(2));
    let left = lu.blocks().checked_sub(lba).filter(|left| *left > 0);
    let left = left.ok_or_else(|| CheckCondition::lba_out_of_range(lba))?;
    let shift = lu.block_size().shift();
    let allocation_length = cdb.u32(ALLOCATION_LENGTH_AT);
    if !lu.is_thin() {
        // NUMBER OF LOGICAL BLOCKS has 32 bits.
        let range = Range { offset: lba << shift, len: left.min(u64::from(u32::MAX)) << shift };
        return Ok(Plan::reply(status(lu.block_size(), range, &[range]), allocation_length));
    }
    let range =
        Range { offset: lba << shift, len: (left << shift).min(lu.limits().object_bytes * STATUS_OBJECTS) };
    Ok(Plan::block(BlockOp::LbaStatus { range, allocation_length }, 0, 0))
}

/// Data-in of GET LBA STATUS for `range`, of which `mapped`, in order and apart from each other, holds data. What holds data in part counts as mapped.
pub fn lba_status(block_size: BlockSize, range: Range, mapped: &[Range], allocation_length: u32) -> Bytes {
    let mut data = status(block_size, range, mapped);
    data.truncate(usize::try_from(allocation_length).unwrap_or(usize::MAX));
    data.into()
}

fn status(block_size: BlockSize, range: Range, mapped: &[Range]) -> Vec<u8> {
    const HEADER_BYTES: usize = 8;
    const MAPPED: u8 = 0;
    const DEALLOCATED: u8 = 1;
    let shift = block_size.shift();
    let end = range.end() >> shift;
    let mut data = vec![0; HEADER_BYTES];
    let mut push = |from: u64, to: u64, provisioning: u8| {
        if from < to {
            data.extend_from_slice(&from.to_be_bytes());
            data.extend_from_slice(&u32::try_from(to - from).unwrap_or(u32::MAX).to_be_bytes());
            data.extend_from_slice(&[provisioning, 0, 0, 0]);
        }
    };
    let mut at = range.offset >> shift;
    for part in mapped {
        let from = (part.offset >> shift).clamp(at, end);
        let to = part.end().div_ceil(block_size.bytes()).clamp(from, end);
        push(at, from, DEALLOCATED);
        push(from, to, MAPPED);
        at = to;
    }
    push(at, end, DEALLOCATED);
    // PARAMETER DATA LENGTH counts what follows it.
    let length = (data.len() - 4) as u32;
    data[..4].copy_from_slice(&length.to_be_bytes());
    data
}
