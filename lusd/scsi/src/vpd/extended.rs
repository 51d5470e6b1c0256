//! Extended INQUIRY Data and Mode Page Policy (SPC-4).

use crate::{LogicalUnit, TargetPort};

/// 86h: no protection information; SIMPLE, ORDERED and HEAD OF QUEUE tasks.
pub(super) fn extended_inquiry(lu: &LogicalUnit, _: &TargetPort) -> Vec<u8> {
    const PAGE_BYTES: usize = 0x3c;
    const SIMPSUP: u8 = 0x01;
    const ORDSUP: u8 = 0x02;
    const HEADSUP: u8 = 0x04;
    const V_SUP: u8 = 0x01;
    let mut body = vec![0; PAGE_BYTES];
    body[5 - 4] = SIMPSUP | ORDSUP | HEADSUP;
    body[6 - 4] = if lu.has_write_cache() { V_SUP } else { 0 };
    body
}

/// 87h: all pages and subpages are shared by all nexuses.
pub(super) fn mode_page_policy(_: &LogicalUnit, _: &TargetPort) -> Vec<u8> {
    const ALL_PAGES: u8 = 0x3f;
    const ALL_SUBPAGES: u8 = 0xff;
    const SHARED: u8 = 0;
    vec![ALL_PAGES, ALL_SUBPAGES, SHARED, 0]
}
