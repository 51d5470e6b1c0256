//! Vital product data (SPC-4 7.8, SBC-3): one table of pages, so that what page 00h announces is what is served.

mod block;
mod extended;
mod identification;

pub(crate) use self::identification::device_identification;
use crate::spc::{DISK, NO_UNIT, third_party_copy};
use crate::{LogicalUnit, TargetPort};

/// Makes what follows the header of a page.
type Body = fn(&LogicalUnit, &TargetPort) -> Vec<u8>;

/// All pages but 00h, by page code.
static PAGES: [(u8, Body); 8] = [
    (0x80, |lu, _| lu.identity().serial.clone().into_bytes()),
    (0x83, device_identification),
    (0x86, extended::extended_inquiry),
    (0x87, extended::mode_page_policy),
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
        let codes = [SUPPORTED_PAGES].into_iter().chain(PAGES.iter().map(|(code, _)| *code)).collect();
        return Some(with_header(DISK, SUPPORTED_PAGES, codes));
    }
    let (code, body) = PAGES.iter().find(|(known, _)| *known == code)?;
    Some(with_header(DISK, *code, body(lu, port)))
}

/// Where the LUN has no logical unit: only the page that says so.
pub(crate) fn page_without_unit(code: u8) -> Option<Vec<u8>> {
    (code == SUPPORTED_PAGES).then(|| with_header(NO_UNIT, code, vec![SUPPORTED_PAGES]))
}

/// Every page is far shorter than PAGE LENGTH holds: strings are bounded where they come in.
fn with_header(peripheral: u8, code: u8, body: Vec<u8>) -> Vec<u8> {
    let [high, low] = (body.len() as u16).to_be_bytes();
    let mut page = vec![peripheral, code, high, low];
    page.extend_from_slice(&body);
    page
}
