//! INQUIRY (SPC-4): the standard data here, the vital product data pages in `vpd`.

use crate::LogicalUnit;
use crate::plan::{Plan, Request};
use crate::sense::CheckCondition;
use crate::vpd;

/// PERIPHERAL QUALIFIER 000b, PERIPHERAL DEVICE TYPE 00h: a disk that is there.
pub(crate) const DISK: u8 = 0x00;
/// PERIPHERAL QUALIFIER 011b, PERIPHERAL DEVICE TYPE 1Fh: nothing is there, and cannot be.
pub(crate) const NO_UNIT: u8 = 0x7f;

/// PERIPHERAL DEVICE TYPE 1Eh: a well-known logical unit.
pub(crate) const WELL_KNOWN_UNIT: u8 = 0x1e;

/// Standard INQUIRY data with all version descriptors, in bytes.
const STANDARD_BYTES: usize = 96;

/// VERSION: SPC-4.
const VERSION_SPC_4: u8 = 0x06;

/// VERSION DESCRIPTORs, no version claimed of each, in the order that SPC-4 6.6.2 recommends: architecture, transport, primary
/// commands, commands of the device type.
const VERSION_DESCRIPTORS: [u16; 4] = [
    0x00a0, // SAM-5
    0x0960, // iSCSI
    0x0460, // SPC-4
    0x04c0, // SBC-3
];

pub(crate) fn inquiry(request: &Request<'_>) -> Result<Plan, CheckCondition> {
    const EVPD: u8 = 0x01;
    const PAGE_CODE_AT: u16 = 2;
    let page_code = request.cdb.u8(usize::from(PAGE_CODE_AT));
    let no_such_page = CheckCondition::invalid_field(PAGE_CODE_AT, None);
    let lu = request.unit.map(|unit| unit.lu);
    let port = request.context.port;
    let data = if request.cdb.flag(1, EVPD) {
        match lu {
            Some(lu) => vpd::page(page_code, lu, port),
            None if request.is_to_well_known() => vpd::page_of_well_known(page_code, port),
            None => vpd::page_without_unit(page_code),
        }
        .ok_or(no_such_page)?
    } else if page_code != 0 {
        return Err(no_such_page);
    } else {
        standard(lu, request.is_to_well_known())
    };
    Ok(Plan::reply(data, u32::from(request.cdb.u16(3))))
}

/// Standard INQUIRY data; with blank strings where there is no logical unit.
fn standard(lu: Option<&LogicalUnit>, well_known: bool) -> Vec<u8> {
    const HISUP: u8 = 0x10;
    const RESPONSE_DATA_FORMAT: u8 = 0x02;
    /// 01b: implicit asymmetric access.
    const TPGS_IMPLICIT: u8 = 0x10;
    const THIRD_PARTY_COPY: u8 = 0x08;
    const MULTIP: u8 = 0x10;
    const CMDQUE: u8 = 0x02;
    const VERSION_DESCRIPTORS_AT: usize = 58;
    let mut data = vec![0; STANDARD_BYTES];
    data[2] = VERSION_SPC_4;
    data[3] = HISUP | RESPONSE_DATA_FORMAT;
    data[4] = (STANDARD_BYTES - 5) as u8;
    data[6] = MULTIP;
    data[7] = CMDQUE;
    for (at, descriptor) in VERSION_DESCRIPTORS.iter().enumerate() {
        let at = VERSION_DESCRIPTORS_AT + 2 * at;
        data[at..at + 2].copy_from_slice(&descriptor.to_be_bytes());
    }
    match lu {
        Some(lu) => {
            let identity = lu.identity();
            data[0] = DISK;
            data[5] = THIRD_PARTY_COPY | if lu.is_asymmetric() { TPGS_IMPLICIT } else { 0 };
            data[8..16].copy_from_slice(&identity.vendor);
            data[16..32].copy_from_slice(&identity.product);
            data[32..36].copy_from_slice(&identity.revision);
        }
        None => {
            data[0] = if well_known { WELL_KNOWN_UNIT } else { NO_UNIT };
            data[8..36].fill(b' ');
        }
    }
    data
}
