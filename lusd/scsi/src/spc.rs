//! Primary commands (SPC-4): about the device, the session and the nexus.

mod copy;
mod diagnostic;
mod inquiry;
mod log_sense;
mod mode_pages;
mod mode_select;
mod mode_sense;
mod opcodes;
mod ready;
mod report_luns;
mod target_port_groups;
mod well_known;

pub(crate) use self::copy::{
    CopyList, CopyResults, extended_copy, failed_segment_details, operating_parameters,
    status as copy_status, third_party_copy,
};
pub use self::copy::{CopyRecord, CopyStep, ExtendedCopy, Target};
pub(crate) use self::diagnostic::{
    check_page as check_diagnostic_page, receive_diagnostic_results, send_diagnostic,
};
pub(crate) use self::inquiry::{DISK, NO_UNIT, WELL_KNOWN_UNIT, inquiry};
pub(crate) use self::log_sense::{log_sense, pages as log_pages};
pub(crate) use self::mode_pages::{THRESHOLD_DESCRIPTOR_AT, pages as mode_pages};
pub(crate) use self::mode_select::{ModeSelect, mode_select_6, mode_select_10};
pub(crate) use self::mode_sense::{mode_sense_6, mode_sense_10};
pub(crate) use self::opcodes::{
    report_supported_operation_codes, report_supported_task_management_functions,
};
pub(crate) use self::ready::{prevent_allow_medium_removal, request_sense, test_unit_ready};
pub(crate) use self::report_luns::report_luns;
pub(crate) use self::target_port_groups::{EXTENDED_HEADER, report_target_port_groups};
pub(crate) use self::well_known::plan as plan_well_known;
