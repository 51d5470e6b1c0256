//! What RECEIVE COPY RESULTS tells, and what the Third-party Copy page announces.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    BLOCK_TO_BLOCK, DESCRIPTORS_BYTES_MAX, IDENTIFICATION, SEGMENT_LENGTH_MAX, SEGMENTS_MAX, TARGETS_MAX,
};
use crate::cdb::Cdb;
use crate::plan::{Plan, Unit};
use crate::sense::{CheckCondition, Fault, SenseFormat};
use crate::status::Status;
use crate::{LogicalUnit, TargetPort};

/// Results that are kept for one nexus on one logical unit; the oldest goes. Copies under way count too, and are never forgotten: each
/// is a command of the nexus, so the command window bounds them.
const KEPT: usize = 16;
/// MAXIMUM CONCURRENT COPIES.
const CONCURRENT: u8 = KEPT as u8;
/// LIST IDENTIFIER in the CDB.
const LIST_AT: u16 = 2;

#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    segments: u16,
    bytes: u64,
    end: Option<Result<(), CheckCondition>>,
}

/// How far a copy has come; shared by the one who copies and those who ask.
#[derive(Clone, Debug, Default)]
pub struct CopyRecord(Arc<Mutex<Progress>>);

impl PartialEq for CopyRecord {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for CopyRecord {}

impl CopyRecord {
    /// So many more bytes were copied.
    pub fn moved(&self, bytes: u64) {
        self.lock().bytes += bytes;
    }

    /// One more segment was copied.
    pub fn segment_done(&self) {
        let mut progress = self.lock();
        progress.segments = progress.segments.saturating_add(1);
    }

    /// The copy has ended.
    pub fn end(&self, result: Result<(), CheckCondition>) {
        self.lock().end = Some(result);
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The copies of one nexus on one logical unit, oldest first, by list identifier.
#[derive(Debug, Default)]
pub(crate) struct CopyResults(Mutex<VecDeque<(u8, CopyRecord)>>);

impl CopyResults {
    /// A new copy; one of the same identifier that has ended is forgotten. Without an identifier nobody can ask for it.
    pub(crate) fn begin(&self, list: Option<u8>) -> Result<CopyRecord, CheckCondition> {
        let record = CopyRecord::default();
        let Some(list) = list else { return Ok(record) };
        let mut kept = self.lock();
        if let Some(at) = kept.iter().position(|(held, _)| *held == list) {
            if kept[at].1.lock().end.is_none() {
                return Err(Fault::OperationInProgress.into());
            }
            kept.remove(at);
        }
        kept.push_back((list, record.clone()));
        if kept.len() > KEPT
            && let Some(at) = kept.iter().position(|(_, old)| old.lock().end.is_some())
        {
            kept.remove(at);
        }
        Ok(record)
    }

    fn find(&self, list: u8) -> Result<Progress, CheckCondition> {
        let found = self.lock().iter().find(|(held, _)| *held == list).map(|(_, record)| *record.lock());
        found.ok_or(CheckCondition::invalid_field(LIST_AT, None))
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(u8, CopyRecord)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find(cdb: &Cdb, unit: Unit<'_>) -> Result<Progress, CheckCondition> {
    unit.nexus.copies().find(cdb.u8(usize::from(LIST_AT)))
}

fn reply(cdb: &Cdb, mut data: Vec<u8>) -> Plan {
    const LENGTH_BYTES: usize = 4;
    // AVAILABLE DATA counts what follows it.
    let available = (data.len() - LENGTH_BYTES) as u32;
    data[..LENGTH_BYTES].copy_from_slice(&available.to_be_bytes());
    Plan::reply(data, cdb.u32(10))
}

/// COPY STATUS (SPC-4 6.20.2).
pub(crate) fn status(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    const IN_PROGRESS: u8 = 0;
    const DONE: u8 = 1;
    const FAILED: u8 = 2;
    let progress = find(cdb, unit)?;
    let mut data = vec![0; 12];
    data[4] = match progress.end {
        None => IN_PROGRESS,
        Some(Ok(())) => DONE,
        Some(Err(_)) => FAILED,
    };
    data[5..7].copy_from_slice(&progress.segments.to_be_bytes());
    // TRANSFER COUNT in bytes, or where those do not fit in KiB, MiB ...
    let (mut units, mut count) = (0, progress.bytes);
    while count > u64::from(u32::MAX) {
        (units, count) = (units + 1, count >> 10);
    }
    data[7] = units;
    data[8..].copy_from_slice(&(count as u32).to_be_bytes());
    Ok(reply(cdb, data))
}

/// FAILED SEGMENT DETAILS (SPC-4 6.20.5): nothing, unless the copy has failed.
pub(crate) fn failed_segment_details(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    const STATUS_AT: usize = 56;
    let Some(Err(check)) = find(cdb, unit)?.end else { return Ok(reply(cdb, vec![0; 4])) };
    let sense = check.sense(SenseFormat::Fixed);
    let mut data = vec![0; STATUS_AT];
    data.extend_from_slice(&[Status::CheckCondition as u8, 0]);
    data.extend_from_slice(&(sense.len() as u16).to_be_bytes());
    data.extend_from_slice(&sense);
    Ok(reply(cdb, data))
}

/// OPERATING PARAMETERS (SPC-4 6.20.4): no inline data, no held data, no streams.
pub(crate) fn operating_parameters(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    const SNLID: u8 = 0x01;
    const CODES: [u8; 2] = [BLOCK_TO_BLOCK, IDENTIFICATION];
    let mut data = vec![0; 44];
    data[4] = SNLID;
    data[8..10].copy_from_slice(&TARGETS_MAX.to_be_bytes());
    data[10..12].copy_from_slice(&SEGMENTS_MAX.to_be_bytes());
    data[12..16].copy_from_slice(&DESCRIPTORS_BYTES_MAX.to_be_bytes());
    data[16..20].copy_from_slice(&SEGMENT_LENGTH_MAX.to_be_bytes());
    data[34..36].copy_from_slice(&u16::from(CONCURRENT).to_be_bytes());
    data[36] = CONCURRENT;
    data[37] = unit_granularity(unit.lu);
    data[43] = CODES.len() as u8;
    data.extend_from_slice(&CODES);
    Ok(reply(cdb, data))
}

/// DATA SEGMENT GRANULARITY, a power of two: whole blocks.
fn unit_granularity(lu: &LogicalUnit) -> u8 {
    lu.block_size().shift() as u8
}

/// Third-party Copy page (SPC-4 7.8.17): what stands behind its header.
pub(crate) fn third_party_copy(lu: &LogicalUnit, _: &TargetPort) -> Vec<u8> {
    const SUPPORTED_COMMANDS: u16 = 0x0001;
    const PARAMETER_DATA: u16 = 0x0004;
    const SUPPORTED_DESCRIPTORS: u16 = 0x0008;
    const GENERAL: u16 = 0x8001;
    let mut page = Vec::new();
    // Each operation code with the number of its service actions, and those.
    push(&mut page, SUPPORTED_COMMANDS, &[8, 0x83, 1, 0x00, 0x84, 3, 0x00, 0x03, 0x04]);
    let mut parameters = [0; 28];
    parameters[4..6].copy_from_slice(&TARGETS_MAX.to_be_bytes());
    parameters[6..8].copy_from_slice(&SEGMENTS_MAX.to_be_bytes());
    parameters[8..12].copy_from_slice(&DESCRIPTORS_BYTES_MAX.to_be_bytes());
    push(&mut page, PARAMETER_DATA, &parameters);
    push(&mut page, SUPPORTED_DESCRIPTORS, &[2, BLOCK_TO_BLOCK, IDENTIFICATION]);
    let mut general = [0; 32];
    general[..4].copy_from_slice(&u32::from(CONCURRENT).to_be_bytes());
    general[4..8].copy_from_slice(&u32::from(CONCURRENT).to_be_bytes());
    general[8..12].copy_from_slice(&SEGMENT_LENGTH_MAX.to_be_bytes());
    general[12] = unit_granularity(lu);
    push(&mut page, GENERAL, &general);
    page
}

/// A third-party copy descriptor: type, length, and what is padded to a multiple of 4 bytes.
fn push(page: &mut Vec<u8>, kind: u16, body: &[u8]) {
    let len = body.len().next_multiple_of(4);
    page.extend_from_slice(&kind.to_be_bytes());
    page.extend_from_slice(&(len as u16).to_be_bytes());
    page.extend_from_slice(body);
    page.resize(page.len() + len - body.len(), 0);
}
