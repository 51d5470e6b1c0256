//! The parameter list of EXTENDED COPY (LID1).

use super::results::CopyRecord;
use super::{
    BLOCK_TO_BLOCK, DESCRIPTORS_BYTES_MAX, HEADER_BYTES, IDENTIFICATION, SEGMENT_BYTES, SEGMENT_LENGTH_MAX,
    SEGMENTS_MAX, TARGET_BYTES, TARGETS_MAX,
};
use crate::block::{BlockOp, Range};
use crate::cdb::Cdb;
use crate::plan::{After, ParametersKind, Plan, Unit};
use crate::sense::{CheckCondition, Fault};
use crate::{LogicalUnit, TargetPort, vpd};

/// A parameter list that is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CopyList;

/// A list of no bytes copies nothing (SPC-4 6.4.1).
pub(crate) fn extended_copy(cdb: &Cdb, _unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    match u64::from(cdb.u32(10)) {
        0 => Ok(Plan::done()),
        len if len > HEADER_BYTES as u64 + u64::from(DESCRIPTORS_BYTES_MAX) => {
            Err(Fault::ParameterListLength.into())
        }
        len => Ok(Plan::parameters(ParametersKind::Copy(CopyList), len)),
    }
}

/// A copy to be carried out: segments in their order, up to the first that fails.
#[derive(Debug, PartialEq, Eq)]
pub struct ExtendedCopy {
    /// What is copied from and to; the segments name them by their place.
    pub targets: Vec<Target>,
    segments: Vec<Segment>,
    /// To be told of progress and end.
    pub record: CopyRecord,
}

/// A target descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    code_set: u8,
    association_and_type: u8,
    designator: Vec<u8>,
    null: bool,
    device_type: u8,
    block_bytes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    source: u16,
    destination: u16,
    /// DC: the number of blocks counts blocks of the destination.
    counts_destination: bool,
    blocks: u16,
    source_lba: u64,
    destination_lba: u64,
}

/// What one segment moves, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyStep {
    /// Place of the source among the targets.
    pub source: usize,
    /// What is read there.
    pub from: Range,
    /// Place of the destination among the targets.
    pub destination: usize,
    /// What is written there; as long as `from`.
    pub to: Range,
}

impl CopyList {
    /// All of the list is checked before anything is copied.
    pub(crate) fn finish(self, unit: Unit<'_>, data: &[u8]) -> Result<After, CheckCondition> {
        const LENGTH_ERROR: Fault = Fault::ParameterListLength;
        let Some((header, rest)) = data.split_first_chunk::<HEADER_BYTES>() else {
            return Err(LENGTH_ERROR.into());
        };
        let targets_len = usize::from(be16(header, 2));
        let [segments_len, inline_len] = [8, 12].map(|at| be32(header, at) as usize);
        if targets_len.saturating_add(segments_len) > DESCRIPTORS_BYTES_MAX as usize {
            return Err(LENGTH_ERROR.into());
        }
        if targets_len > usize::from(TARGETS_MAX) * TARGET_BYTES {
            return Err(Fault::TooManyTargetDescriptors.into());
        }
        if rest.len() < targets_len + segments_len || !targets_len.is_multiple_of(TARGET_BYTES) {
            return Err(LENGTH_ERROR.into());
        }
        if inline_len > 0 {
            return Err(Fault::InlineDataLengthExceeded.into());
        }
        let list = identifier(header)?;
        let (targets, segments) = rest[..targets_len + segments_len].split_at(targets_len);
        let (targets, _) = targets.as_chunks::<TARGET_BYTES>();
        let targets: Vec<_> = targets
            .iter()
            .enumerate()
            .map(|(i, descriptor)| target(descriptor, HEADER_BYTES + i * TARGET_BYTES))
            .collect::<Result<_, _>>()?;
        let segments = self::segments(segments)?;
        let record = unit.nexus.copies().begin(list)?;
        Ok(After::Copy(Box::new(ExtendedCopy { targets, segments, record })))
    }
}

/// The list identifier under which the results are kept, if they are.
fn identifier(header: &[u8; HEADER_BYTES]) -> Result<Option<u8>, CheckCondition> {
    const USAGE_BITS: u8 = 0x18;
    const USAGE_HIGH_BIT: u8 = 4;
    match (header[1] & USAGE_BITS) >> 3 {
        0b00 | 0b10 => Ok(Some(header[0])),
        0b11 if header[0] == 0 => Ok(None),
        0b11 => Err(CheckCondition::invalid_parameter(0, None)),
        _ => Err(CheckCondition::invalid_parameter(1, Some(USAGE_HIGH_BIT))),
    }
}

/// Identification descriptor of a block device (SPC-4 6.4.5.2, 6.4.5.7), which has a use for LU ID TYPE no more; `at`: where it stands in the
/// list.
fn target(descriptor: &[u8; TARGET_BYTES], at: usize) -> Result<Target, CheckCondition> {
    const NUL: u8 = 0x20;
    const DESIGNATOR: std::ops::Range<usize> = 8..28;
    if descriptor[0] != IDENTIFICATION {
        return Err(Fault::UnsupportedTargetDescriptor.into());
    }
    let len = usize::from(descriptor[7]);
    let designator = descriptor[DESIGNATOR].get(..len);
    let designator = designator.ok_or(CheckCondition::invalid_parameter(at as u16 + 7, None))?;
    Ok(Target {
        code_set: descriptor[4] & 0x0f,
        association_and_type: descriptor[5] & 0x3f,
        designator: designator.to_vec(),
        null: descriptor[1] & NUL != 0,
        device_type: descriptor[1] & 0x1f,
        block_bytes: be32(descriptor, 28) & 0x00ff_ffff,
    })
}

fn segments(mut list: &[u8]) -> Result<Vec<Segment>, CheckCondition> {
    const DC: u8 = 0x02;
    /// DESCRIPTOR LENGTH counts what follows it.
    const LENGTH: u16 = SEGMENT_BYTES as u16 - 4;
    let mut segments = Vec::new();
    while let Some(code) = list.first() {
        if *code != BLOCK_TO_BLOCK {
            return Err(Fault::UnsupportedSegmentDescriptor.into());
        }
        if segments.len() == usize::from(SEGMENTS_MAX) {
            return Err(Fault::TooManySegmentDescriptors.into());
        }
        let Some((descriptor, rest)) = list.split_first_chunk::<SEGMENT_BYTES>() else {
            return Err(Fault::ParameterListLength.into());
        };
        if be16(descriptor, 2) != LENGTH {
            return Err(Fault::ParameterListLength.into());
        }
        segments.push(Segment {
            source: be16(descriptor, 4),
            destination: be16(descriptor, 6),
            counts_destination: descriptor[1] & DC != 0,
            blocks: be16(descriptor, 10),
            source_lba: be64(descriptor, 12),
            destination_lba: be64(descriptor, 20),
        });
        list = rest;
    }
    Ok(segments)
}

impl Target {
    /// Whether it names `lu`, which is seen through `port`, by one of the designators of Device Identification.
    pub fn is(&self, lu: &LogicalUnit, port: &TargetPort) -> bool {
        const PROTOCOL: u8 = 0xf0;
        const PIV: u8 = 0x80;
        let page = vpd::device_identification(lu, port);
        let mut rest = &page[..];
        while let [code_set, kind, _, len, after @ ..] = rest {
            let Some((designator, behind)) = after.split_at_checked(usize::from(*len)) else { return false };
            if code_set & !PROTOCOL == self.code_set
                && kind & !PIV == self.association_and_type
                && self.names_a_logical_unit()
                && designator == self.designator
            {
                return true;
            }
            rest = behind;
        }
        false
    }

    /// ASSOCIATION 00b.
    fn names_a_logical_unit(&self) -> bool {
        self.association_and_type & 0x30 == 0
    }
}

impl ExtendedCopy {
    /// Number of segments.
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// What segment `at` moves between `units`, which stand in the order of the targets, `None` for one that cannot be reached. `None`:
    /// nothing.
    ///
    /// # Errors
    /// COPY ABORTED, with what is wrong about the segment or its units as they are now.
    pub fn segment(
        &self,
        at: usize,
        units: &[Option<&LogicalUnit>],
    ) -> Result<Option<CopyStep>, CheckCondition> {
        let segment = &self.segments[at];
        let (source, destination) = (usize::from(segment.source), usize::from(segment.destination));
        let (from, to) = (self.unit(source, units)?, self.unit(destination, units)?);
        let counted = if segment.counts_destination { to } else { from };
        let bytes = u64::from(segment.blocks) << counted.block_size().shift();
        if bytes > u64::from(SEGMENT_LENGTH_MAX) {
            return Err(Fault::CopyAborted.into());
        }
        if [from, to].iter().any(|lu| !bytes.is_multiple_of(lu.block_size().bytes())) {
            return Err(Fault::UnexpectedInexactSegment.into());
        }
        if bytes == 0 {
            return Ok(None);
        }
        let from = range(from, segment.source_lba, bytes)?;
        let to_range = range(to, segment.destination_lba, bytes)?;
        if to.admit(&BlockOp::WriteAtomic(to_range)).is_err() {
            // Write protected, or just about to go; its own sense is not passed on.
            return Err(Fault::ThirdPartyDeviceFailure.into());
        }
        Ok(Some(CopyStep { source, from, destination, to: to_range }))
    }

    fn unit<'a>(
        &self,
        at: usize,
        units: &[Option<&'a LogicalUnit>],
    ) -> Result<&'a LogicalUnit, CheckCondition> {
        let target = self.targets.get(at).ok_or(Fault::UnreachableCopyTarget)?;
        if target.null {
            return Err(Fault::CopyTargetNotReachable.into());
        }
        let unit = units[at].ok_or(Fault::CopyTargetNotReachable)?;
        if unit.access().code().is_some() {
            return Err(Fault::CopyTargetNotReachable.into());
        }
        let block_bytes = u64::from(target.block_bytes);
        if target.device_type != 0 || (block_bytes != 0 && block_bytes != unit.block_size().bytes()) {
            return Err(Fault::IncorrectCopyTarget.into());
        }
        Ok(unit)
    }
}

fn range(lu: &LogicalUnit, lba: u64, bytes: u64) -> Result<Range, CheckCondition> {
    let beyond = lu.blocks().checked_sub(lba).is_none_or(|left| left < bytes >> lu.block_size().shift());
    if beyond {
        return Err(Fault::CopyAborted.into());
    }
    Ok(Range { offset: lba << lu.block_size().shift(), len: bytes })
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    (u32::from(be16(bytes, at)) << 16) | u32::from(be16(bytes, at + 2))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    (u64::from(be32(bytes, at)) << 32) | u64::from(be32(bytes, at + 4))
}
