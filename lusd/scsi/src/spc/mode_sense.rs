//! MODE SENSE (SPC-4).

use super::mode_pages::{
    ALL_PAGES, ALL_SUBPAGES, HeaderForm, ModePage, PageControl, long_descriptor, pages_of, short_descriptor,
};
use crate::LogicalUnit;
use crate::cdb::Cdb;
use crate::plan::{Plan, Unit};
use crate::sense::{CheckCondition, Fault};

/// DBD in byte 1: no block descriptors.
const DBD: u8 = 0x08;
/// LLBAA in byte 1 of the 10 byte CDB: long block descriptors are welcome.
const LLBAA: u8 = 0x10;

#[derive(Clone, Copy)]
enum Descriptor {
    None,
    Short,
    Long,
}

pub(crate) fn mode_sense_6(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    let descriptor = if cdb.flag(1, DBD) { Descriptor::None } else { Descriptor::Short };
    let data = mode_data(cdb, unit.lu, HeaderForm::Short, descriptor)?;
    Ok(Plan::reply(data, u32::from(cdb.u8(4))))
}

pub(crate) fn mode_sense_10(cdb: &Cdb, unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    let descriptor = match (cdb.flag(1, DBD), cdb.flag(1, LLBAA)) {
        (true, _) => Descriptor::None,
        (false, false) => Descriptor::Short,
        (false, true) => Descriptor::Long,
    };
    let data = mode_data(cdb, unit.lu, HeaderForm::Long, descriptor)?;
    Ok(Plan::reply(data, u32::from(cdb.u16(7))))
}

fn mode_data(
    cdb: &Cdb,
    lu: &LogicalUnit,
    form: HeaderForm,
    descriptor: Descriptor,
) -> Result<Vec<u8>, CheckCondition> {
    const SAVED: u8 = 0b11;
    let pages = selected_pages(lu, cdb.u8(2) & 0x3f, cdb.u8(3))?;
    let control = match cdb.u8(2) >> 6 {
        0b00 => PageControl::Current,
        0b01 => PageControl::Changeable,
        0b10 => PageControl::Default,
        SAVED.. => return Err(Fault::SavingParametersNotSupported.into()),
    };
    let mut data = vec![0; form.bytes()];
    match descriptor {
        Descriptor::None => {}
        Descriptor::Short => data.extend_from_slice(&short_descriptor(lu)),
        Descriptor::Long => data.extend_from_slice(&long_descriptor(lu)),
    }
    let descriptor_bytes = data.len() - form.bytes();
    for page in pages {
        data.extend_from_slice(&page.bytes(lu, control));
    }
    fill_header(&mut data, form, lu, descriptor_bytes, matches!(descriptor, Descriptor::Long));
    Ok(data)
}

/// Mode parameter header (SPC-4). All pages together are shorter than the one byte length holds (asserted).
fn fill_header(data: &mut [u8], form: HeaderForm, lu: &LogicalUnit, descriptor_bytes: usize, long: bool) {
    const WP: u8 = 0x80;
    const DPOFUA: u8 = 0x10;
    const LONGLBA: u8 = 0x01;
    let device_specific = DPOFUA | if lu.is_write_protected() { WP } else { 0 };
    match form {
        HeaderForm::Short => {
            let length = data.len() - 1;
            assert!(length <= usize::from(u8::MAX), "mode data of {length} bytes");
            data[0] = length as u8;
            data[2] = device_specific;
            data[3] = descriptor_bytes as u8;
        }
        HeaderForm::Long => {
            let length = (data.len() - 2) as u16;
            data[..2].copy_from_slice(&length.to_be_bytes());
            data[3] = device_specific;
            data[4] = if long { LONGLBA } else { 0 };
            data[6..8].copy_from_slice(&(descriptor_bytes as u16).to_be_bytes());
        }
    }
}

/// Which pages a page code and a subpage code ask for.
fn selected_pages(
    lu: &LogicalUnit,
    code: u8,
    subcode: u8,
) -> Result<impl Iterator<Item = &'static ModePage>, CheckCondition> {
    const PAGE_CODE_HIGH_BIT: u8 = 5;
    let matches = move |page: &&ModePage| match (code, subcode) {
        (ALL_PAGES, ALL_SUBPAGES) => true,
        // The other subpage codes of all pages are reserved.
        (ALL_PAGES, _) => subcode == 0 && page.subcode == 0,
        (_, ALL_SUBPAGES) => page.code == code,
        _ => (page.code, page.subcode) == (code, subcode),
    };
    if pages_of(lu).any(|page| matches(&page)) {
        return Ok(pages_of(lu).filter(matches));
    }
    let known = code == ALL_PAGES || pages_of(lu).any(|page| page.code == code);
    Err(match known {
        true => CheckCondition::invalid_field(3, None),
        false => CheckCondition::invalid_field(2, Some(PAGE_CODE_HIGH_BIT)),
    })
}
