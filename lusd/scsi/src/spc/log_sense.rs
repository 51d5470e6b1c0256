//! LOG SENSE (SPC-4 6.7, 7.3). LOG SELECT is not in the table: there is nothing to reset, save or set.

use crate::LogicalUnit;
use crate::cdb::Cdb;
use crate::plan::{Plan, Unit};
use crate::sense::CheckCondition;

/// Each parameter's code and value, by code.
type Parameters = Vec<(u16, Vec<u8>)>;

/// A log page with parameters.
struct LogPage {
    code: u8,
    /// `None` if this logical unit does not have the page.
    parameters: fn(&LogicalUnit) -> Option<Parameters>,
}

/// All pages but the lists of pages, by page code. None has subpages.
static PAGES: [LogPage; 2] = [
    LogPage { code: 0x0c, parameters: logical_block_provisioning },
    LogPage { code: 0x2f, parameters: informational_exceptions },
];

/// PAGE CODE of the lists of pages.
const LISTS: u8 = 0x00;
/// SUBPAGE CODE of the list of pages and subpages.
const ALL_SUBPAGES: u8 = 0xff;
/// SPF in byte 0.
const SUB_PAGE_FORMAT: u8 = 0x40;

/// The log pages that a logical unit may have, by page code and subpage code.
pub(crate) fn pages() -> impl Iterator<Item = (u8, u8)> {
    [(LISTS, 0), (LISTS, ALL_SUBPAGES)].into_iter().chain(PAGES.iter().map(|page| (page.code, 0)))
}

/// Those of them that this one has.
fn pages_of(lu: &LogicalUnit) -> impl Iterator<Item = (u8, u8)> {
    let absent: Vec<u8> =
        PAGES.iter().filter(|page| (page.parameters)(lu).is_none()).map(|page| page.code).collect();
    pages().filter(move |(code, _)| !absent.contains(code))
}

/// PC (thresholds or values, current or default) makes no difference: no parameter is a counter, and none has a threshold.
pub(crate) fn log_sense(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    const PAGE_CODE_HIGH_BIT: u8 = 5;
    const POINTER_AT: u16 = 5;
    let (code, subcode, pointer) = (cdb.u8(2) & 0x3f, cdb.u8(3), cdb.u16(usize::from(POINTER_AT)));
    let data = if code == LISTS {
        if pointer != 0 {
            return Err(CheckCondition::invalid_field(POINTER_AT, None));
        }
        list(unit.lu, subcode).ok_or(CheckCondition::invalid_field(3, None))?
    } else {
        let page = PAGES.iter().find(|page| page.code == code);
        let parameters = page.and_then(|page| (page.parameters)(unit.lu));
        let mut parameters = parameters.ok_or(CheckCondition::invalid_field(2, Some(PAGE_CODE_HIGH_BIT)))?;
        if subcode != 0 {
            return Err(CheckCondition::invalid_field(3, None));
        }
        parameters.retain(|(code, _)| *code >= pointer);
        // Without a pointer it is a page of which nothing is known yet.
        if parameters.is_empty() && pointer != 0 {
            return Err(CheckCondition::invalid_field(POINTER_AT, None));
        }
        page_of(code, &parameters)
    };
    Ok(Plan::reply(data, u32::from(cdb.u16(7))))
}

/// Supported Log Pages, and Supported Log Pages and Subpages (SPC-4 7.3.18, 7.3.19).
fn list(lu: &LogicalUnit, subcode: u8) -> Option<Vec<u8>> {
    let (first, body): (u8, Vec<u8>) = match subcode {
        0 => (LISTS, pages_of(lu).filter(|(_, subcode)| *subcode == 0).map(|(code, _)| code).collect()),
        ALL_SUBPAGES => {
            (LISTS | SUB_PAGE_FORMAT, pages_of(lu).flat_map(|(code, subcode)| [code, subcode]).collect())
        }
        _ => return None,
    };
    Some(with_header(first, subcode, &body))
}

/// A page with its parameters, each a binary list parameter.
fn page_of(code: u8, parameters: &[(u16, Vec<u8>)]) -> Vec<u8> {
    /// DS: not saved.
    const DISABLE_SAVE: u8 = 0x80;
    /// FORMAT AND LINKING 11b.
    const BINARY_LIST: u8 = 0x03;
    let mut body = Vec::new();
    for (code, value) in parameters {
        body.extend_from_slice(&code.to_be_bytes());
        body.extend_from_slice(&[BINARY_LIST, value.len() as u8]);
        body.extend_from_slice(value);
    }
    with_header(DISABLE_SAVE | code, 0, &body)
}

/// Pages are far shorter than PAGE LENGTH holds.
fn with_header(first: u8, subcode: u8, body: &[u8]) -> Vec<u8> {
    let [high, low] = (body.len() as u16).to_be_bytes();
    let mut data = vec![first, subcode, high, low];
    data.extend_from_slice(body);
    data
}

/// Informational Exceptions (SPC-4 7.3.8): none, as the mode page says (DEXCPT=1), and no temperature.
fn informational_exceptions(_: &LogicalUnit) -> Option<Parameters> {
    const GENERAL: u16 = 0x0000;
    const NO_TEMPERATURE: u8 = 0xff;
    Some(vec![(GENERAL, vec![0, 0, NO_TEMPERATURE])])
}

/// Logical Block Provisioning (SBC-4): the room below, which others use too; counted in threshold sets, and as a percentage.
fn logical_block_provisioning(lu: &LogicalUnit) -> Option<Parameters> {
    const AVAILABLE_COUNT: u16 = 0x0001;
    const USED_COUNT: u16 = 0x0002;
    const AVAILABLE_PERCENTAGE: u16 = 0x0003;
    /// SCOPE 10b: not dedicated to this logical unit.
    const SHARED: u8 = 0x02;
    let counted = |code, count: u32| {
        let [a, b, c, d] = count.to_be_bytes();
        (code, vec![a, b, c, d, SHARED, 0, 0, 0])
    };
    lu.soft_threshold_percent()?;
    let Some(room) = lu.room() else { return Some(Vec::new()) };
    Some(vec![
        counted(AVAILABLE_COUNT, room.available_sets()),
        counted(USED_COUNT, room.used_sets()),
        (AVAILABLE_PERCENTAGE, vec![0, room.available_percent(), 0, 0, SHARED, 0, 0, 0]),
    ])
}
