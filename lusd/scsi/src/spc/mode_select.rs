//! MODE SELECT (SPC-4). SP is reserved in the table's rows: nothing can be saved.

use super::mode_pages::{
    HeaderForm, LONG_DESCRIPTOR_BYTES, ModePage, ModeParameters, PageControl, SHORT_DESCRIPTOR_BYTES,
    long_descriptor, short_descriptor,
};
use crate::LogicalUnit;
use crate::attention::UnitAttention;
use crate::cdb::Cdb;
use crate::plan::{After, ParametersKind, Plan, Unit};
use crate::sense::{CheckCondition, Fault};

/// The parameter list of a MODE SELECT that is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ModeSelect {
    form: HeaderForm,
}

pub(crate) fn mode_select_6(cdb: &Cdb, _unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    mode_select(cdb, HeaderForm::Short, u64::from(cdb.u8(4)))
}

pub(crate) fn mode_select_10(cdb: &Cdb, _unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    mode_select(cdb, HeaderForm::Long, u64::from(cdb.u16(7)))
}

fn mode_select(cdb: &Cdb, form: HeaderForm, length: u64) -> Result<Plan, CheckCondition> {
    const PF: u8 = 0x10;
    const PF_BIT: u8 = 4;
    if length == 0 {
        return Ok(Plan::done());
    }
    if !cdb.flag(1, PF) {
        return Err(CheckCondition::invalid_field(1, Some(PF_BIT)));
    }
    Ok(Plan::parameters(ParametersKind::ModeSelect(ModeSelect { form }), length))
}

impl ModeSelect {
    /// The whole list is checked before anything of it takes effect. A change is told to all other nexuses.
    pub(crate) fn finish(self, unit: Unit<'_>, data: &[u8]) -> Result<After, CheckCondition> {
        let _turn = unit.lu.mode_select_turn();
        let before = ModeParameters::current(unit.lu);
        let mut after = before;
        let mut at = self.check_header(unit.lu, data)?;
        while at < data.len() {
            let (page, bytes) = page_at(unit.lu, data, at)?;
            after.take_from(page, bytes);
            at += bytes.len();
        }
        if after != before {
            after.apply(unit.lu);
            unit.lu.raise(UnitAttention::ModeParametersChanged, Some(unit.nexus));
        }
        Ok(After::Done)
    }

    /// Checks header and block descriptor; the offset of the first page. MODE DATA LENGTH and DEVICE-SPECIFIC
    /// PARAMETER are reserved here, and ignored: hosts send back what MODE SENSE gave them.
    fn check_header(self, lu: &LogicalUnit, data: &[u8]) -> Result<usize, CheckCondition> {
        const LONGLBA: u8 = 0x01;
        let header_bytes = self.form.bytes();
        let header = data.get(..header_bytes).ok_or(Fault::ParameterListLength)?;
        let (medium_type_at, long, length_at, length) = match self.form {
            HeaderForm::Short => (1, false, 3, usize::from(header[3])),
            HeaderForm::Long => {
                (2, header[4] & LONGLBA != 0, 6, usize::from(u16::from_be_bytes([header[6], header[7]])))
            }
        };
        if header[medium_type_at] != 0 {
            return Err(CheckCondition::invalid_parameter(medium_type_at as u16, None));
        }
        let descriptor = data.get(header_bytes..header_bytes + length).ok_or(Fault::ParameterListLength)?;
        let expected: &[u8] = match (length, long) {
            (0, _) => return Ok(header_bytes),
            (SHORT_DESCRIPTOR_BYTES, false) => &short_descriptor(lu),
            (LONG_DESCRIPTOR_BYTES, true) => &long_descriptor(lu),
            _ => return Err(CheckCondition::invalid_parameter(length_at, None)),
        };
        check_descriptor(descriptor, expected, header_bytes)?;
        Ok(header_bytes + length)
    }
}

/// The geometry cannot be changed: the number of blocks is the present one, or 0 (no change), or all ones (the
/// largest possible), and the rest is as it is (SBC-3).
fn check_descriptor(given: &[u8], expected: &[u8], at: usize) -> Result<(), CheckCondition> {
    let count_bytes = given.len() / 2;
    let (count, rest) = given.split_at(count_bytes);
    let keeps_count = count == &expected[..count_bytes]
        || count.iter().all(|b| *b == 0)
        || count.iter().all(|b| *b == 0xff);
    if !keeps_count {
        return Err(CheckCondition::invalid_parameter(at as u16, None));
    }
    match rest.iter().zip(&expected[count_bytes..]).position(|(given, expected)| given != expected) {
        Some(byte) => Err(CheckCondition::invalid_parameter((at + count_bytes + byte) as u16, None)),
        None => Ok(()),
    }
}

/// The page at `at`: known, of its right length, and without a change to a bit that cannot be changed.
fn page_at<'a>(
    lu: &LogicalUnit,
    data: &'a [u8],
    at: usize,
) -> Result<(&'static ModePage, &'a [u8]), CheckCondition> {
    const PS: u8 = 0x80;
    const SPF: u8 = 0x40;
    const PAGE_CODE_HIGH_BIT: u8 = 5;
    let wrong = |byte: usize, bit| CheckCondition::invalid_parameter((at + byte) as u16, bit);
    let rest = &data[at..];
    let [first, second, ..] = *rest else { return Err(Fault::ParameterListLength.into()) };
    if first & PS != 0 {
        return Err(wrong(0, Some(7)));
    }
    let sub_page = first & SPF != 0;
    let page = ModePage::find(lu, first & 0x3f, if sub_page { second } else { 0 })
        .filter(|page| (page.subcode != 0) == sub_page)
        .ok_or(wrong(0, Some(PAGE_CODE_HIGH_BIT)))?;
    let current = page.bytes(lu, PageControl::Current);
    let header_len = page.header_len();
    if rest.len() < header_len {
        return Err(Fault::ParameterListLength.into());
    }
    if let Some(byte) = (0..header_len).find(|byte| rest[*byte] != current[*byte]) {
        return Err(wrong(byte, None));
    }
    let bytes = rest.get(..current.len()).ok_or(Fault::ParameterListLength)?;
    let changeable = page.bytes(lu, PageControl::Changeable);
    for byte in header_len..current.len() {
        let changed = (bytes[byte] ^ current[byte]) & !changeable[byte];
        if changed != 0 {
            return Err(wrong(byte, Some(7 - changed.leading_zeros() as u8)));
        }
    }
    Ok((page, bytes))
}
