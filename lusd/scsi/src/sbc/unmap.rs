//! UNMAP (SBC-3). ANCHOR is reserved in the table's row: nothing can be anchored (ANC_SUP=0).

use smallvec::SmallVec;

use super::range_of;
use crate::LogicalUnit;
use crate::block::{BlockOp, Range};
use crate::cdb::Cdb;
use crate::lu::{UNMAP_DESCRIPTOR_BYTES, UNMAP_HEADER_BYTES};
use crate::plan::{After, ParametersKind, Plan, Unit};
use crate::sense::{CheckCondition, Fault};

/// The parameter list of an UNMAP that is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnmapList;

pub(crate) fn unmap(cdb: &Cdb, _unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    match usize::from(cdb.u16(7)) {
        0 => Ok(Plan::done()),
        1..UNMAP_HEADER_BYTES => Err(Fault::ParameterListLength.into()),
        len => Ok(Plan::parameters(ParametersKind::Unmap(UnmapList), len as u64)),
    }
}

impl UnmapList {
    /// All descriptors are checked before any of them takes effect. A last, incomplete descriptor is ignored, as
    /// SBC-3 says; UNMAP DATA LENGTH or UNMAP BLOCK DESCRIPTOR DATA LENGTH beyond what was sent is an error.
    pub(crate) fn finish(self, lu: &LogicalUnit, data: &[u8]) -> Result<After, CheckCondition> {
        const DATA_LENGTH_AT: u16 = 0;
        const DESCRIPTORS_LENGTH_AT: u16 = 2;
        let Some((header, rest)) = data.split_first_chunk::<UNMAP_HEADER_BYTES>() else {
            return Err(Fault::ParameterListLength.into());
        };
        let data_length = usize::from(u16::from_be_bytes([header[0], header[1]]));
        let descriptors_length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if descriptors_length > rest.len() || data_length > data.len() - 2 {
            return Err(Fault::ParameterListLength.into());
        }
        // UNMAP DATA LENGTH counts what follows it: it cannot be less than its parts.
        if descriptors_length > 0 && data_length < descriptors_length + UNMAP_HEADER_BYTES - 2 {
            return Err(CheckCondition::invalid_parameter(DATA_LENGTH_AT, None));
        }
        let (descriptors, _) = rest[..descriptors_length].as_chunks::<UNMAP_DESCRIPTOR_BYTES>();
        let limits = lu.limits();
        if descriptors.len() as u64 > u64::from(limits.unmap_descriptors_max) {
            return Err(CheckCondition::invalid_parameter(DESCRIPTORS_LENGTH_AT, None));
        }
        let mut ranges = SmallVec::new();
        let mut bytes = 0u64;
        for (at, descriptor) in descriptors.iter().enumerate() {
            if let Some(range) = range(lu, descriptor)? {
                bytes += range.len;
                if bytes > limits.unmap_bytes_max {
                    let length_at = UNMAP_HEADER_BYTES + at * UNMAP_DESCRIPTOR_BYTES + 8;
                    return Err(CheckCondition::invalid_parameter(length_at as u16, None));
                }
                ranges.push(range);
            }
        }
        Ok(if ranges.is_empty() { After::Done } else { After::Block(BlockOp::Unmap(ranges)) })
    }
}

/// UNMAP block descriptor: LBA, 64 bits; NUMBER OF LOGICAL BLOCKS, 32 bits; reserved.
fn range(
    lu: &LogicalUnit,
    descriptor: &[u8; UNMAP_DESCRIPTOR_BYTES],
) -> Result<Option<Range>, CheckCondition> {
    let words = u128::from_be_bytes(*descriptor);
    range_of(lu, (words >> 64) as u64, words as u64 >> 32)
}
