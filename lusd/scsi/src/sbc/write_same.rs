//! WRITE SAME (SBC-3). ANCHOR is reserved in the table's rows, UNMAP where the unit is not thin.

use super::Extent;
use crate::LogicalUnit;
use crate::block::{BlockOp, Range};
use crate::cdb::Cdb;
use crate::plan::{After, ParametersKind, Plan, Unit};
use crate::sense::{CheckCondition, Fault};

/// The one block of a WRITE SAME that is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WriteSamePattern {
    range: Range,
}

fn write_same(unit: Unit<'_>, extent: Extent, no_data_out: bool) -> Result<Plan, CheckCondition> {
    let Some(range) = extent.within(unit.lu, unit.lu.limits().write_same_bytes_max)? else {
        // WSNZ=1 in the Block Limits page: a length of zero does not mean the rest of the medium.
        return Err(CheckCondition::invalid_field(extent.length_at, None));
    };
    Ok(if no_data_out {
        Plan::block(write_zeroes(unit.lu, range), 0, 0)
    } else {
        let block_bytes = unit.lu.block_size().bytes();
        Plan::parameters(ParametersKind::WriteSame(WriteSamePattern { range }), block_bytes)
    })
}

/// On a thin logical unit zeroes need no space, whether UNMAP is set or not: with LBPRZ=1 a mapped block of zeroes may
/// become deallocated at any time (SBC-3), and nothing is promised to be anchored.
fn write_zeroes(lu: &LogicalUnit, range: Range) -> BlockOp {
    BlockOp::WriteZeroes { range, may_unmap: lu.is_thin() }
}

impl WriteSamePattern {
    /// UNMAP=1 with data that is not zeroes is an ordinary write: with LBPRZ=1 an unmapped block could not return it.
    pub(crate) fn finish(self, lu: &LogicalUnit, pattern: &[u8]) -> Result<After, CheckCondition> {
        if pattern.len() as u64 != lu.block_size().bytes() {
            return Err(Fault::InvalidFieldInInformationUnit.into());
        }
        Ok(After::Block(if pattern.iter().all(|byte| *byte == 0) {
            write_zeroes(lu, self.range)
        } else {
            BlockOp::WriteSame(self.range)
        }))
    }
}

pub(crate) fn write_same_10(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    write_same(unit, Extent::of_10(cdb), false)
}

pub(crate) fn write_same_16(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    const NDOB: u8 = 0x01;
    write_same(unit, Extent::of_16(cdb), cdb.flag(1, NDOB))
}
