//! LOG SENSE (SPC-4 6.7, 7.3). LOG SELECT is not in the table: there is nothing to reset, save or set.

use crate::LogicalUnit;
use crate::cdb::Cdb;
use crate::plan::{Plan, Unit};
use crate::sense::CheckCondition;

/// Each parameter's code and value, by code; never empty.
type Parameters = Vec<(u16, Vec<u8>)>;

/// A log page with parameters.
struct LogPage {
    code: u8,
    parameters: fn(&LogicalUnit) -> Parameters,
}

/// All pages but the lists of pages, by page code. None has subpages.
static PAGES: [LogPage; 1] = [LogPage { code: 0x2f, parameters: informational_exceptions }];

/// PAGE CODE of the lists of pages.
const LISTS: u8 = 0x00;
/// SUBPAGE CODE of the list of pages and subpages.
const ALL_SUBPAGES: u8 = 0xff;
/// SPF in byte 0.
const SUB_PAGE_FORMAT: u8 = 0x40;

/// The log pages that are served, by page code and subpage code.
pub(crate) fn pages() -> impl Iterator<Item = (u8, u8)> {
    [(LISTS, 0), (LISTS, ALL_SUBPAGES)].into_iter().chain(PAGES.iter().map(|page| (page.code, 0)))
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
        list(subcode).ok_or(CheckCondition::invalid_field(3, None))?
    } else {
        let page = PAGES.iter().find(|page| page.code == code);
        let page = page.ok_or(CheckCondition::invalid_field(2, Some(PAGE_CODE_HIGH_BIT)))?;
        if subcode != 0 {
            return Err(CheckCondition::invalid_field(3, None));
        }
        let mut parameters = (page.parameters)(unit.lu);
        parameters.retain(|(code, _)| *code >= pointer);
        if parameters.is_empty() {
            return Err(CheckCondition::invalid_field(POINTER_AT, None));
        }
        page_of(code, &parameters)
    };
    Ok(Plan::reply(data, u32::from(cdb.u16(7))))
}

/// Supported Log Pages, and Supported Log Pages and Subpages (SPC-4 7.3.18, 7.3.19).
fn list(subcode: u8) -> Option<Vec<u8>> {
    let (first, body): (u8, Vec<u8>) = match subcode {
        0 => (LISTS, pages().filter(|(_, subcode)| *subcode == 0).map(|(code, _)| code).collect()),
        ALL_SUBPAGES => {
            (LISTS | SUB_PAGE_FORMAT, pages().flat_map(|(code, subcode)| [code, subcode]).collect())
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
fn informational_exceptions(_: &LogicalUnit) -> Parameters {
    const GENERAL: u16 = 0x0000;
    const NO_TEMPERATURE: u8 = 0xff;
    vec![(GENERAL, vec![0, 0, NO_TEMPERATURE])]
}
