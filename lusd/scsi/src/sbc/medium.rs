//! Commands about the cache and the medium as a whole: SYNCHRONIZE CACHE, PRE-FETCH, START STOP UNIT.

use super::Extent;
use crate::block::BlockOp;
use crate::cdb::Cdb;
use crate::plan::{Plan, Unit};
use crate::sense::CheckCondition;

/// The range is checked and the whole logical unit flushed: librbd knows no smaller flush. IMMED is
/// accepted and the status sent after the flush all the same, so that its failure is not lost.
fn synchronize_cache(unit: Unit<'_>, extent: Extent) -> Result<Plan, CheckCondition> {
    extent.on(unit.lu)?;
    Ok(Plan::block(BlockOp::Flush, 0, 0))
}

pub(crate) fn synchronize_cache_10(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    synchronize_cache(unit, Extent::of_10(cdb))
}

pub(crate) fn synchronize_cache_16(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    synchronize_cache(unit, Extent::of_16(cdb))
}

/// There is no cache that the blocks could be fetched into, so the answer is GOOD, never
/// CONDITION MET.
fn pre_fetch(unit: Unit<'_>, extent: Extent) -> Result<Plan, CheckCondition> {
    extent.on(unit.lu)?;
    Ok(Plan::done())
}

pub(crate) fn pre_fetch_10(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    pre_fetch(unit, Extent::of_10(cdb))
}

pub(crate) fn pre_fetch_16(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    pre_fetch(unit, Extent::of_16(cdb))
}

/// The unit is always active: a host that stops it (START=0, as Linux and Windows do before they shut
/// down) gets its writes made durable, and other hosts go on. Power conditions and LOEJ are reserved in the table's
/// row: the medium is fixed.
pub(crate) fn start_stop_unit(cdb: &Cdb, _unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    const START: u8 = 0x01;
    const NO_FLUSH: u8 = 0x04;
    if cdb.flag(4, START | NO_FLUSH) { Ok(Plan::done()) } else { Ok(Plan::block(BlockOp::Flush, 0, 0)) }
}
