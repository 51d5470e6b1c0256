//! Block commands (SBC-3): the extent that a CDB names, checked, and one file per family.

mod atomic;
mod capacity;
mod defects;
mod erase;
mod medium;
mod rw;
mod unmap;
mod verify;
mod write_same;

pub(crate) use self::atomic::{compare_and_write, orwrite_16, write_atomic_16};
pub use self::capacity::lba_status;
pub(crate) use self::capacity::{get_lba_status, read_capacity_10, read_capacity_16};
pub(crate) use self::defects::{read_defect_data_10, read_defect_data_12};
pub(crate) use self::erase::{
    FormatList, OverwriteList, format_unit, sanitize_block_erase, sanitize_exit_failure_mode,
    sanitize_overwrite,
};
pub(crate) use self::medium::{
    pre_fetch_10, pre_fetch_16, start_stop_unit, synchronize_cache_10, synchronize_cache_16,
};
pub(crate) use self::rw::{read_6, read_10, read_12, read_16, write_6, write_10, write_12, write_16};
pub(crate) use self::unmap::{UnmapList, unmap};
pub(crate) use self::verify::{
    verify_10, verify_12, verify_16, write_and_verify_10, write_and_verify_12, write_and_verify_16,
};
pub(crate) use self::write_same::{WriteSamePattern, write_same_10, write_same_16};

use crate::LogicalUnit;
use crate::block::Range;
use crate::cdb::Cdb;
use crate::sense::CheckCondition;

/// DPO and FUA sit in byte 1 of the CDBs that have them.
const FUA: u8 = 0x08;

/// The blocks that a CDB names, not yet checked.
#[derive(Clone, Copy, Debug)]
struct Extent {
    /// LOGICAL BLOCK ADDRESS.
    lba: u64,
    /// TRANSFER LENGTH, NUMBER OF LOGICAL BLOCKS, VERIFICATION LENGTH ...
    blocks: u64,
    /// First byte of that length in the CDB.
    length_at: u16,
}

impl Extent {
    /// READ (6), WRITE (6): a length of 0 means 256 blocks (SBC-3).
    #[inline]
    fn of_6(cdb: &Cdb) -> Extent {
        let blocks = match cdb.u8(4) {
            0 => 256,
            blocks => u64::from(blocks),
        };
        Extent { lba: u64::from(cdb.u32(0) & 0x1f_ffff), blocks, length_at: 4 }
    }

    #[inline]
    fn of_10(cdb: &Cdb) -> Extent {
        Extent { lba: u64::from(cdb.u32(2)), blocks: u64::from(cdb.u16(7)), length_at: 7 }
    }

    #[inline]
    fn of_12(cdb: &Cdb) -> Extent {
        Extent { lba: u64::from(cdb.u32(2)), blocks: u64::from(cdb.u32(6)), length_at: 6 }
    }

    #[inline]
    fn of_16(cdb: &Cdb) -> Extent {
        Extent { lba: cdb.u64(2), blocks: u64::from(cdb.u32(10)), length_at: 10 }
    }

    /// The bytes that the extent covers, `None` for no blocks. Err past the end of the medium, whatever the length.
    #[inline]
    fn on(self, lu: &LogicalUnit) -> Result<Option<Range>, CheckCondition> {
        range_of(lu, self.lba, self.blocks)
    }

    /// The same, at most `bytes_max` long: INVALID FIELD IN CDB beyond.
    #[inline]
    fn within(self, lu: &LogicalUnit, bytes_max: u64) -> Result<Option<Range>, CheckCondition> {
        let range = self.on(lu)?;
        match range {
            Some(range) if range.len > bytes_max => Err(CheckCondition::invalid_field(self.length_at, None)),
            range => Ok(range),
        }
    }
}

/// Checks `blocks` blocks at `lba` against the capacity.
#[inline]
fn range_of(lu: &LogicalUnit, lba: u64, blocks: u64) -> Result<Option<Range>, CheckCondition> {
    let capacity = lu.blocks();
    if lba > capacity || blocks > capacity - lba {
        return Err(CheckCondition::lba_out_of_range(lba.max(capacity)));
    }
    if blocks == 0 {
        return Ok(None);
    }
    let shift = lu.block_size().shift();
    Ok(Some(Range { offset: lba << shift, len: blocks << shift }))
}
