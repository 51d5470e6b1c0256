//! Vital product data (SPC-4 7.8, SBC-3): one table of pages, so that what page 00h announces is what is served.

mod block;
mod extended;
mod identification;
mod ports;

pub(crate) use self::identification::device_identification;
use crate::spc::{DISK, NO_UNIT, WELL_KNOWN_UNIT, third_party_copy};
use crate::{LogicalUnit, TargetPort};

/// Makes what follows the header of a page.
type Body = fn(&LogicalUnit, &TargetPort) -> Vec<u8>;

/// All pages but 00h, by page code.
static PAGES: &[(u8, Body)] = &[
    (0x80, |lu, _| lu.identity().serial.clone().into_bytes()),
    (0x83, device_identification),
    (0x86, extended::extended_inquiry),
    (0x87, extended::mode_page_policy),
    (0x88, ports::scsi_ports),
    (0x8f, third_party_copy),
    (0xb0, block::limits),
    (0xb1, block::characteristics),
    (0xb2, block::provisioning),
];

/// SUPPORTED VPD PAGES.
const SUPPORTED_PAGES: u8 = 0x00;

/// A page with its header; `None` if it does not exist.
pub(crate) fn page(code: u8, lu: &LogicalUnit, port: &TargetPort) -> Option<Vec<u8>> {
    if code == SUPPORTED_PAGES {
        return Some(with_header(DISK, SUPPORTED_PAGES, pages().collect()));
    }
    let (code, body) = PAGES.iter().find(|(known, _)| *known == code)?;
    Some(with_header(DISK, *code, body(lu, port)))
}

/// Where the LUN has no logical unit: only the page that says so.
pub(crate) fn page_without_unit(code: u8) -> Option<Vec<u8>> {
    (code == SUPPORTED_PAGES).then(|| with_header(NO_UNIT, code, vec![SUPPORTED_PAGES]))
}

/// Of the REPORT LUNS well-known logical unit: the list of pages, and Device Identification.
pub(crate) fn page_of_well_known(code: u8, port: &TargetPort) -> Option<Vec<u8>> {
    const IDENTIFICATION: u8 = 0x83;
    let body = match code {
        SUPPORTED_PAGES => vec![SUPPORTED_PAGES, IDENTIFICATION],
        IDENTIFICATION => identification::without_unit(port),
        _ => return None,
    };
    Some(with_header(WELL_KNOWN_UNIT, code, body))
}

/// Page codes of all pages, in the order in which they are announced.
pub(crate) fn pages() -> impl Iterator<Item = u8> {
    [SUPPORTED_PAGES].into_iter().chain(PAGES.iter().map(|(code, _)| *code))
}

/// Every page fits PAGE LENGTH: strings are bounded where they come in, and SCSI Ports ends with the last port that it has room for.
fn with_header(peripheral: u8, code: u8, body: Vec<u8>) -> Vec<u8> {
    let [high, low] = (body.len() as u16).to_be_bytes();
    let mut page = vec![peripheral, code, high, low];
    page.extend_from_slice(&body);
    page
}
