//! SEND DIAGNOSTIC and RECEIVE DIAGNOSTIC RESULTS (SPC-4 6.32, 6.28): the default self-test, and the list of diagnostic pages, which
//! is the only page.

use crate::cdb::Cdb;
use crate::plan::{After, ParametersKind, Plan, Unit};
use crate::sense::{CheckCondition, Fault};

/// SUPPORTED DIAGNOSTIC PAGES.
const SUPPORTED_PAGES: u8 = 0x00;
/// Bytes of a page's header.
const HEADER_BYTES: usize = 4;

/// The default self-test finds what the access state says, which was looked at before. DEVOFFL and UNITOFFL allow what it does
/// not need.
pub(crate) fn send_diagnostic(cdb: &Cdb, _unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    const SELF_TEST: u8 = 0x04;
    const PF: u8 = 0x10;
    const PF_BIT: u8 = 4;
    const LENGTH_AT: u16 = 3;
    let length = cdb.u16(usize::from(LENGTH_AT));
    if length == 0 {
        return Ok(Plan::done());
    }
    if cdb.flag(1, SELF_TEST) {
        return Err(CheckCondition::invalid_field(LENGTH_AT, None));
    }
    if !cdb.flag(1, PF) {
        return Err(CheckCondition::invalid_field(1, Some(PF_BIT)));
    }
    Ok(Plan::parameters(ParametersKind::SendDiagnostic, u64::from(length)))
}

/// One diagnostic page: the request for the list of pages, which RECEIVE DIAGNOSTIC RESULTS gives in any case.
pub(crate) fn check_page(data: &[u8]) -> Result<After, CheckCondition> {
    let [code, _, high, low, ref rest @ ..] = *data else { return Err(Fault::ParameterListLength.into()) };
    if code != SUPPORTED_PAGES {
        return Err(CheckCondition::invalid_parameter(0, None));
    }
    if (high, low) != (0, 0) {
        return Err(CheckCondition::invalid_parameter(2, None));
    }
    if !rest.is_empty() {
        return Err(Fault::ParameterListLength.into());
    }
    Ok(After::Done)
}

/// With PCV the page that is asked for, else that of the last SEND DIAGNOSTIC: there is one only.
pub(crate) fn receive_diagnostic_results(cdb: &Cdb, _unit: Unit<'_>) -> Result<Plan, CheckCondition> {
    const PAGE_CODE_AT: u16 = 2;
    if cdb.u8(usize::from(PAGE_CODE_AT)) != SUPPORTED_PAGES {
        return Err(CheckCondition::invalid_field(PAGE_CODE_AT, None));
    }
    let mut data = vec![SUPPORTED_PAGES; HEADER_BYTES + 1];
    data[HEADER_BYTES - 1] = 1; // PAGE LENGTH
    Ok(Plan::reply(data, u32::from(cdb.u16(3))))
}
