//! SANITIZE (SBC-3 5.30; SBC-4 5.32) and FORMAT UNIT (SBC-3 5.3): what is done to the whole medium.

use bytes::Bytes;

use crate::LogicalUnit;
use crate::block::{BlockOp, EraseKind, Erasure, Overwrite};
use crate::cdb::Cdb;
use crate::lu::Operation;
use crate::plan::{After, ParametersKind, Plan, Unit};
use crate::sense::{CheckCondition, Fault};

/// IMMED of SANITIZE.
const IMMED: u8 = 0x80;
/// AUSE of SANITIZE.
const AUSE: u8 = 0x20;
/// Bytes in front of the initialization pattern.
const OVERWRITE_HEADER_BYTES: usize = 4;

/// The parameter list of a SANITIZE OVERWRITE that is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OverwriteList {
    immediate: bool,
    may_exit: bool,
}

/// The parameter list of a FORMAT UNIT that is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FormatList {
    /// LONGLIST: its header is the long one.
    long: bool,
}

/// The pattern is at least a byte and at most a block; other lengths are refused at once.
pub(crate) fn sanitize_overwrite(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    const LENGTH_AT: u16 = 7;
    let len = u64::from(cdb.u16(usize::from(LENGTH_AT)));
    let header = OVERWRITE_HEADER_BYTES as u64;
    if len <= header || len > header + unit.lu.block_size().bytes() {
        return Err(CheckCondition::invalid_field(LENGTH_AT, None));
    }
    let list = OverwriteList { immediate: cdb.flag(1, IMMED), may_exit: cdb.flag(1, AUSE) };
    Ok(Plan::parameters(ParametersKind::Overwrite(list), len))
}

/// The blocks read as zeroes afterwards, and their space is given back.
pub(crate) fn sanitize_block_erase(cdb: &Cdb, _unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    let kind = EraseKind::Sanitize { may_exit: cdb.flag(1, AUSE) };
    Ok(erase(kind, cdb.flag(1, IMMED), None))
}

/// GOOD where no sanitize operation has failed; refused where it was begun without AUSE, and where the medium is protected.
pub(crate) fn sanitize_exit_failure_mode(_cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    const SERVICE_ACTION_HIGH_BIT: u8 = 4;
    match unit.lu.operation() {
        Operation::SanitizeFailed { may_exit: true } => {
            unit.lu.check_writable()?;
            Ok(erase(EraseKind::ExitFailureMode, false, None))
        }
        Operation::SanitizeFailed { may_exit: false } => {
            Err(CheckCondition::invalid_field(1, Some(SERVICE_ACTION_HIGH_BIT)))
        }
        _ => Ok(Plan::done()),
    }
}

fn erase(kind: EraseKind, immediate: bool, overwrite: Option<Overwrite>) -> Plan {
    Plan::block(BlockOp::Erase(Box::new(Erasure { kind, immediate, overwrite })), 0, 0)
}

impl OverwriteList {
    pub(crate) fn finish(self, lu: &LogicalUnit, data: &[u8]) -> Result<After, CheckCondition> {
        const INVERT: u8 = 0x80;
        const TEST: u8 = 0x60;
        const TEST_HIGH_BIT: u8 = 6;
        const COUNT: u8 = 0x1f;
        const COUNT_HIGH_BIT: u8 = 4;
        const PATTERN_LENGTH_AT: u16 = 2;
        let block_bytes = lu.block_size().bytes() as usize;
        let Some((header, pattern)) = data.split_first_chunk::<OVERWRITE_HEADER_BYTES>() else {
            return Err(Fault::ParameterListLength.into());
        };
        if header[0] & TEST != 0 {
            return Err(CheckCondition::invalid_parameter(0, Some(TEST_HIGH_BIT)));
        }
        let count = header[0] & COUNT;
        if count == 0 {
            return Err(CheckCondition::invalid_parameter(0, Some(COUNT_HIGH_BIT)));
        }
        let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let pattern = pattern
            .get(..len)
            .filter(|_| (1..=block_bytes).contains(&len))
            .ok_or(CheckCondition::invalid_parameter(PATTERN_LENGTH_AT, None))?;
        let block: Bytes = pattern.iter().copied().cycle().take(block_bytes).collect();
        let overwrite = Overwrite { block, count, invert: header[0] & INVERT != 0 };
        let kind = EraseKind::Sanitize { may_exit: self.may_exit };
        let erasure = Erasure { kind, immediate: self.immediate, overwrite: Some(overwrite) };
        Ok(After::Block(BlockOp::Erase(Box::new(erasure))))
    }
}

/// Afterwards the blocks read as zeroes. There are no defects to manage: no list of them is taken, and CMPLST is without effect.
pub(crate) fn format_unit(cdb: &Cdb, _unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    const LONGLIST: u8 = 0x20;
    const FMTDATA: u8 = 0x10;
    if !cdb.flag(1, FMTDATA) {
        return Ok(erase(EraseKind::Format, false, None));
    }
    let long = cdb.flag(1, LONGLIST);
    Ok(Plan::parameters(ParametersKind::Format(FormatList { long }), if long { 8 } else { 4 }))
}

impl FormatList {
    /// Short header (4 bytes) or long one (8 bytes); without protection information, initialization pattern and defect list.
    pub(crate) fn finish(self, data: &[u8]) -> Result<After, CheckCondition> {
        const PROTECTION_USAGE: u8 = 0x07;
        const PROTECTION_USAGE_HIGH_BIT: u8 = 2;
        const FOV: u8 = 0x80;
        /// DPRY, DCRT, STPF: about defects, of which there are none.
        const DEFECTS: u8 = 0x70;
        const IMMED: u8 = 0x02;
        let (lengths, length_at) = match data {
            [_, _, high, low] if !self.long => ([0, 0, *high, *low], 2),
            [_, _, _, protection, lengths @ ..] if self.long && lengths.len() == 4 => {
                if *protection != 0 {
                    return Err(CheckCondition::invalid_parameter(3, None));
                }
                ([lengths[0], lengths[1], lengths[2], lengths[3]], 4)
            }
            _ => return Err(Fault::ParameterListLength.into()),
        };
        if data[0] & PROTECTION_USAGE != 0 {
            return Err(CheckCondition::invalid_parameter(0, Some(PROTECTION_USAGE_HIGH_BIT)));
        }
        let known = IMMED | FOV | if data[1] & FOV != 0 { DEFECTS } else { 0 };
        let unknown = data[1] & !known;
        if unknown != 0 {
            return Err(CheckCondition::invalid_parameter(1, Some(7 - unknown.leading_zeros() as u8)));
        }
        if lengths != [0; 4] {
            return Err(CheckCondition::invalid_parameter(length_at, None));
        }
        let erasure = Erasure { kind: EraseKind::Format, immediate: data[1] & IMMED != 0, overwrite: None };
        Ok(After::Block(BlockOp::Erase(Box::new(erasure))))
    }
}
