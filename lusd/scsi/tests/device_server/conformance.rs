//! The SCSI part of doc/conformance.md, from the tables that the device server reads. What is said of a command or page here is only what
//! the tables do not say, and which tests show it.

#[path = "../../../tests/conformance/mod.rs"]
mod document;

use std::fmt::Write as _;

use lusd_scsi::*;

use self::document::{check_part, missing_names, shown};
use crate::bed::*;

/// Of a command, or all whose names begin so: what else is to be said, and its own tests.
type About = (&'static str, &'static str, &'static [&'static str]);

const MOVES: &[&str] = &[
    "block::ranges_are_checked_against_the_capacity",
    "block::no_blocks_is_good_up_to_the_end_and_an_error_beyond",
    "block::lbas_use_all_their_bits",
    "block::transfers_beyond_the_announced_maximum_are_refused",
    "block::fua_and_dpo_are_known_protection_is_not",
    "block::blocks_of_4096_bytes",
    "lusd: data::blocks_of_4096_bytes",
    "suite clients",
];
const SELECTS: &[&str] = &[
    "mode::every_bit_that_cannot_be_changed_is_refused_with_its_place",
    "mode::a_list_is_taken_whole_or_not_at_all",
    "mode::malformed_lists_are_refused",
    "mode::page_format_and_saving",
    "mode::a_change_is_told_to_the_others_only",
];
const SENSES: &[&str] =
    &["mode::each_page_alone_and_all_together", "mode::page_controls", "mode::headers_and_block_descriptors"];
const MEDIUM: &[&str] = &["block::caches_and_the_medium_as_a_whole"];
const VERIFIES: &[&str] = &["block::verify_compares_what_bytchk_says", "block::lbas_use_all_their_bits"];
const SAMES: &[&str] = &["block::write_same_writes_zeroes_where_it_can", "block::write_same_has_edges"];
const RESERVES: &[&str] = &[
    "reservation::reserve_and_release_without_registrations",
    "reservation::what_ends_a_reservation_by_reserve",
    "reservation::reserve_of_registered_nexuses_is_compatible",
    "lusd: reservations::reserve_ends_with_the_nexus_and_with_resets",
];
const PERSISTS: &[&str] = &[
    "reservation::a_reservation_is_made_and_released_by_its_holder",
    "reservation::what_is_left_to_others",
    "reservation::who_is_not_registered_or_has_another_key_conflicts",
    "reservation::parameter_lists_have_their_length",
];

#[rustfmt::skip]
const COMMANDS: &[About] = &[
    ("TEST UNIT READY", "", &["primary::a_unit_without_blocks_has_no_medium", "primary::what_is_answered_in_each_access_state"]),
    ("REQUEST SENSE", "fixed and descriptor format; a pending unit attention first", &["attention::request_sense_returns_and_clears"]),
    ("READ (", "at most 8 MiB; no protection information", MOVES),
    ("WRITE (", "at most 8 MiB; no protection information; FUA costs nothing", MOVES),
    ("INQUIRY", "SPC-4, SBC-3, SAM-5, iSCSI; TPGS=01b, 3PC", &["identity::standard_inquiry_data", "primary::an_absent_unit_answers_what_it_must"]),
    ("MODE SELECT", "PF only; nothing is saved (SP refused)", SELECTS),
    ("MODE SENSE", "LLBAA; saved values: SAVING PARAMETERS NOT SUPPORTED", SENSES),
    ("START STOP UNIT", "START=0 flushes; no power conditions, no LOEJ", MEDIUM),
    ("RECEIVE DIAGNOSTIC RESULTS", "page 00", &["logs::the_list_of_diagnostic_pages_is_the_only_one"]),
    ("SEND DIAGNOSTIC", "default self-test; page 00", &["logs::the_default_self_test_and_nothing_else", "logs::the_list_of_diagnostic_pages_is_the_only_one"]),
    ("PREVENT ALLOW MEDIUM REMOVAL", "GOOD: the medium is fixed", &["primary::medium_removal_is_a_matter_of_indifference"]),
    ("READ CAPACITY", "", &["primary::read_capacity", "primary::large_units_need_read_capacity_16", "lusd: capacity::a_size_that_another_daemon_serves_is_looked_at"]),
    ("WRITE AND VERIFY", "BYTCHK 0, 1", VERIFIES),
    ("VERIFY", "BYTCHK 0, 1, 3", VERIFIES),
    ("PRE-FETCH", "GOOD: nothing is fetched", MEDIUM),
    ("SYNCHRONIZE CACHE", "IMMED is answered after the flush all the same", MEDIUM),
    ("WRITE SAME", "at most 16 MiB; UNMAP, NDOB where thin; ANCHOR refused", SAMES),
    ("UNMAP", "256 descriptors; ANCHOR refused", &["block::unmap_takes_its_descriptors_all_or_none", "block::unmap_is_bounded_in_blocks", "block::unmap_lists_that_do_not_add_up_are_refused", "block::a_thick_unit_has_no_unmap"]),
    ("RESERVE (", "the whole unit; GOOD without effect for registrants (CRH)", RESERVES),
    ("RELEASE (", "", RESERVES),
    ("PERSISTENT RESERVE IN", "", &["reservation::reports_count_what_they_do_not_return", "reservation::all_target_ports"]),
    ("PERSISTENT RESERVE OUT", "all six types; APTPL; 512 registrations", PERSISTS),
    ("PERSISTENT RESERVE OUT, REGISTER", "SPEC_I_PT, ALL_TG_PT, APTPL; 512 registrations", &["suite reservations", "reservation::registering_goes_by_tables_67_and_68", "reservation::spec_i_pt_registers_others_too", "reservation::all_target_ports", "reservation::unregistering_the_holder_ends_the_reservation", "reservation::the_holders_new_key_is_the_reservations", "reservation::registrations_are_bounded"]),
    ("PERSISTENT RESERVE OUT, REGISTER AND MOVE", "", &["reservation::register_and_move"]),
    ("PERSISTENT RESERVE OUT, CLEAR", "", &["reservation::clear_takes_everything_and_tells_all_that_were_registered"]),
    ("PERSISTENT RESERVE OUT, PREEMPT", "", &["reservation::preempting_the_holder_takes_its_reservation", "reservation::a_holder_may_preempt_itself", "reservation::preempting_another_key_removes_registrations_only", "reservation::preempting_all_registrants", "reservation::preempt_and_abort_ends_the_tasks_of_whom_it_removes", "lusd: reservations::preempt_and_abort_ends_what_the_other_one_has_under_way"]),
    ("GET LBA STATUS", "by whole objects, 256 at a time; all is mapped where thick", &["block::a_thin_unit_asks_what_is_mapped", "block::what_is_mapped_is_told_in_order_and_without_gaps", "block::everything_is_mapped_on_a_thick_unit", "lusd: data::what_was_written_is_mapped_and_what_was_unmapped_is_not"]),
    ("FORMAT UNIT", "no defect lists, no protection information, no pattern; IMMED", &["erase::block_erase_and_format_give_space_back", "erase::while_it_goes_on_only_those_that_ask_are_answered", "erase::what_has_failed_is_to_be_put_right", "lusd: erase::the_whole_medium_is_overwritten_or_erased"]),
    ("READ DEFECT DATA", "both lists are empty", &["erase::there_are_no_defects"]),
    ("SANITIZE, OVERWRITE", "INVERT, IMMED, AUSE", &["erase::a_pattern_is_repeated_to_a_block", "erase::overwrites_that_make_no_sense_are_refused", "erase::while_it_goes_on_only_those_that_ask_are_answered", "lusd: erase::it_goes_on_whatever_becomes_of_the_session", "lusd: erase::a_reset_does_not_end_it"]),
    ("SANITIZE, BLOCK ERASE", "IMMED, AUSE", &["erase::block_erase_and_format_give_space_back", "lusd: erase::the_whole_medium_is_overwritten_or_erased"]),
    ("SANITIZE, EXIT FAILURE MODE", "", &["erase::what_has_failed_is_to_be_put_right", "lusd: erase::what_is_half_erased_does_not_look_erased"]),
    ("LOG SENSE", "nothing is saved (SP refused)", &["logs::the_lists_name_what_is_served", "logs::parameter_pointers_are_bounded_and_nothing_is_saved"]),
    ("COMPARE AND WRITE", "at most 255 blocks", &["atomic::compare_and_write_takes_twice_its_blocks", "atomic::compare_and_write_is_bounded_as_announced", "atomic::data_of_another_length_is_refused_whole"]),
    ("EXTENDED COPY (LID1)", "between block devices; 8 targets, 16 segments", &["copy::a_segment_names_bytes_of_its_units", "copy::a_unit_is_named_by_any_of_its_designators", "copy::segments_that_cannot_be_copied_abort", "copy::lists_that_do_not_add_up_are_refused"]),
    ("RECEIVE COPY", "", &["copy::results_are_kept_by_list_identifier", "copy::what_is_announced_is_what_is_taken"]),
    ("ORWRITE", "", &["atomic::orwrite_moves_what_a_write_moves"]),
    ("WRITE ATOMIC", "within one RADOS object", &["atomic::an_atomic_write_lies_in_one_object"]),
    ("REPORT LUNS", "select reports 00, 01, 02, 10, 11, 12", &["primary::report_luns_lists_what_the_session_sees", "attention::report_luns_clears_what_it_reports", "well_known::it_is_ready_and_lists_the_inventory"]),
    ("REPORT TARGET PORT GROUPS", "both formats; implicit access only", &["alua::both_formats_byte_by_byte", "alua::states_while_a_unit_moves", "alua::every_daemon_says_the_same"]),
    ("REPORT SUPPORTED OPERATION CODES", "all, one, one with service action; timeouts", &["table::the_list_of_all_commands_is_what_plan_knows", "table::one_command_reports_its_usage", "table::all_commands_with_timeouts_have_20_byte_descriptors"]),
    ("REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS", "4 and 16 bytes", &["primary::task_management_functions_are_the_ports"]),
];

/// Commands of SPC-4, SBC-3 and SPC-5 that hosts may try: name, operation code, service action. Those of them that the table has by
/// now are not listed.
const OTHERS: &[(&str, u8, Option<u8>)] = &[
    ("REASSIGN BLOCKS", 0x07, None),
    ("WRITE BUFFER", 0x3b, None),
    ("READ BUFFER", 0x3c, None),
    ("READ LONG (10)", 0x3e, None),
    ("WRITE LONG (10)", 0x3f, None),
    ("SANITIZE, CRYPTOGRAPHIC ERASE", 0x48, Some(0x03)),
    ("LOG SELECT", 0x4c, None),
    ("XDWRITEREAD (10)", 0x53, None),
    ("variable length CDBs: READ (32) ...", 0x7f, None),
    ("EXTENDED COPY (LID1)", 0x83, Some(0x00)),
    ("EXTENDED COPY (LID4)", 0x83, Some(0x01)),
    ("POPULATE TOKEN", 0x83, Some(0x10)),
    ("WRITE USING TOKEN", 0x83, Some(0x11)),
    ("ACCESS CONTROL IN", 0x86, None),
    ("READ LONG (16)", 0x9e, Some(0x11)),
    ("REPORT REFERRALS", 0x9e, Some(0x13)),
    ("WRITE LONG (16)", 0x9f, Some(0x11)),
    ("SECURITY PROTOCOL IN", 0xa2, None),
    ("REPORT IDENTIFYING INFORMATION", 0xa3, Some(0x05)),
    ("REPORT ALIASES", 0xa3, Some(0x0b)),
    ("REPORT PRIORITY", 0xa3, Some(0x0e)),
    ("REPORT TIMESTAMP", 0xa3, Some(0x0f)),
    ("SET IDENTIFYING INFORMATION", 0xa4, Some(0x06)),
    ("SET TARGET PORT GROUPS", 0xa4, Some(0x0a)),
    ("SET TIMESTAMP", 0xa4, Some(0x0f)),
    ("SECURITY PROTOCOL OUT", 0xb5, None),
];

/// What is told of a page: its codes, name, what else is to be said, its own tests.
type Page = (u8, u8, &'static str, &'static str, &'static [&'static str]);

#[rustfmt::skip]
const VPD: &[Page] = &[
    (0x00, 0, "Supported VPD Pages", "", &["identity::announced_pages_are_the_served_pages"]),
    (0x80, 0, "Unit Serial Number", "", &["identity::serial_number", "suite clients", "qa two-daemons"]),
    (0x83, 0, "Device Identification", "NAA (type 3, or the one given), T10 vendor, UUID; relative port, port group, port and device name", &["identity::designators_name_unit_port_and_device", "identity::a_given_wwn_and_long_names_fit", "alua::the_ports_own_designators_are_in_the_list", "qa two-daemons"]),
    (0x86, 0, "Extended INQUIRY Data", "", &["identity::provisioning_and_characteristics"]),
    (0x87, 0, "Mode Page Policy", "all pages are shared", &["identity::provisioning_and_characteristics"]),
    (0x88, 0, "SCSI Ports", "those of all daemons", &["identity::scsi_ports_are_those_of_all_daemons"]),
    (0x8f, 0, "Third-party Copy", "EXTENDED COPY (LID1) and what it takes", &["copy::what_is_announced_is_what_is_taken"]),
    (0xb0, 0, "Block Limits", "unmap granularity is the image's object size", &["identity::block_limits_announce_the_limits", "suite clients"]),
    (0xb1, 0, "Block Device Characteristics", "does not rotate", &["identity::provisioning_and_characteristics", "suite clients"]),
    (0xb2, 0, "Logical Block Provisioning", "a soft threshold where there is a pool", &["identity::provisioning_and_characteristics", "thresholds::a_unit_whose_room_is_not_known_has_no_thresholds", "suite clients"]),
    (0xb7, 0, "Block Limits Extension", "", &[]),
];

#[rustfmt::skip]
const MODE: &[Page] = &[
    (0x01, 0, "Read-Write Error Recovery", "AWRE, ARRE", SENSES),
    (0x08, 0, "Caching", "WCE=0", SENSES),
    (0x0a, 0, "Control", "D_SENSE, SWP and TAS can be changed; a task set for each nexus (TST=001b), GLTSD, unrestricted reordering", &["mode::d_sense_changes_the_sense_format", "mode::swp_protects_the_unit", "mode::tas_has_ended_tasks_answered", "lusd: management::with_tas_the_tasks_of_others_are_answered"]),
    (0x0a, 1, "Control Extension", "IALUAE where there are target port groups", SENSES),
    (0x1c, 0, "Informational Exceptions Control", "DEXCPT", SENSES),
    (0x1c, 2, "Logical Block Provisioning", "images only; one soft threshold, a percentage, set by `lus_thin_threshold`", &["thresholds::the_threshold_is_the_administrators_to_set", "thresholds::a_threshold_is_told_once_until_there_was_more_room"]),
];

#[rustfmt::skip]
const LOG: &[Page] = &[
    (0x00, 0x00, "Supported Log Pages", "", &["logs::the_lists_name_what_is_served"]),
    (0x00, 0xff, "Supported Log Pages and Subpages", "", &["logs::the_lists_name_what_is_served"]),
    (0x0c, 0, "Logical Block Provisioning", "images only; what the pool has available and in use, counted in MiB, and the percentage", &["thresholds::the_log_page_counts_what_there_is"]),
    (0x2f, 0, "Informational Exceptions", "none, and no temperature", &["logs::informational_exceptions_has_nothing_to_report"]),
];

fn code_of(opcode: u8, service_action: Option<u8>) -> String {
    match service_action {
        Some(action) => format!("{opcode:02x}/{action:02x}"),
        None => format!("{opcode:02x}"),
    }
}

fn commands_there(text: &mut String) {
    text.push_str("| command | code | | test |\n|---|---|---|---|\n");
    for row in commands() {
        let about = COMMANDS.iter().filter(|about| row.name.starts_with(about.0));
        let about = about.max_by_key(|about| about.0.len());
        let (what, tests) = about.map_or(("", &[][..]), |about| (about.1, about.2));
        let tests = if tests.is_empty() { "as for every command".to_owned() } else { shown(tests) };
        let code = code_of(row.opcode(), row.has_service_action.then(|| row.service_action_code()));
        let what = if what.is_empty() { "yes".to_owned() } else { format!("yes; {what}") };
        writeln!(text, "| {} | {code} | {what} | {tests} |", row.name).unwrap();
    }
}

/// Each is tried: what is written is what it answers.
fn commands_refused(text: &mut String) {
    let bed = Bed::new();
    text.push_str("| command | code | refused with |\n|---|---|---|\n");
    for (name, opcode, action) in OTHERS {
        let known = |row: &Row| {
            row.opcode() == *opcode && action.is_none_or(|action| row.service_action_code() == action)
        };
        if commands().iter().any(known) {
            continue;
        }
        let mut cdb = [0; 16];
        (cdb[0], cdb[1]) = (*opcode, action.unwrap_or(0));
        let code = bed.error(&cdb).code;
        let answer = match (code.asc, code.ascq) {
            (0x20, 0x00) => "INVALID COMMAND OPERATION CODE",
            (0x24, 0x00) => "INVALID FIELD IN CDB",
            _ => panic!("{name}: {code}"),
        };
        writeln!(text, "| {name} | {} | {answer} |", code_of(*opcode, *action)).unwrap();
    }
}

/// Every page that is served has its line, and none else.
fn pages(text: &mut String, served: &[(u8, u8)], about: &[Page]) {
    text.push_str("| page | | | test |\n|---|---|---|---|\n");
    for (code, subcode) in served {
        let page = about.iter().find(|page| (page.0, page.1) == (*code, *subcode));
        let (name, what, tests) = page.map_or(("?", "", &[][..]), |page| (page.2, page.3, page.4));
        let code = code_of(*code, (*subcode != 0).then_some(*subcode));
        let tests = if tests.is_empty() { "as for every page".to_owned() } else { shown(tests) };
        writeln!(text, "| {code} | {name} | {what} | {tests} |").unwrap();
    }
}

fn attentions(text: &mut String) {
    text.push_str("| condition | code |\n|---|---|\n");
    for attention in UnitAttention::ORDER {
        let code = attention.code();
        let mut name = String::new();
        for letter in format!("{attention:?}").chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push(' ');
            }
            name.extend(letter.to_lowercase());
        }
        writeln!(text, "| {name} | {:02x}/{:02x} |", code.asc, code.ascq).unwrap();
    }
}

#[test]
fn every_line_is_about_something_that_is_there() {
    for (name, _, tests) in COMMANDS {
        assert!(commands().iter().any(|row| row.name.starts_with(name)), "no command {name}");
        assert!(!tests.is_empty(), "{name}");
    }
    let vpd: Vec<_> = vpd_pages().map(|code| (code, 0)).collect();
    for (served, about) in [(vpd, VPD), (mode_pages().collect(), MODE), (log_pages().collect(), LOG)] {
        for page in &served {
            assert!(about.iter().any(|about| (about.0, about.1) == *page), "page {page:02x?} has no line");
        }
    }
}

#[test]
fn the_document_says_what_the_tables_say() {
    let mut text = String::from(
        "## SCSI commands\n\n\
         [lusd/scsi/COMMANDS.md](../lusd/scsi/COMMANDS.md) has their CDB usage, timeouts and flags. For every command, in these tests too:\n\
         `table::every_command_is_accepted`, `table::each_reserved_bit_is_refused_with_its_place`, `table::one_command_reports_its_usage`,\n\
         `attention::three_commands_pass_by_all_others_are_interrupted`, `primary::what_is_answered_in_each_access_state`.\n\n",
    );
    commands_there(&mut text);
    text.push_str(
        "\nThese are not there, and reported as not supported (`table::unknown_commands_are_reported_as_such`, `logs::*`); each was tried\n\
         when this list was made:\n\n",
    );
    commands_refused(&mut text);
    text.push_str(
        "\nThe REPORT LUNS well-known logical unit (C101h) has INQUIRY with VPD pages 00 and 83, REPORT LUNS, REQUEST SENSE and TEST UNIT READY:\n\
         `well_known::it_is_a_unit_of_its_own_type_with_the_targets_name`, `well_known::it_has_four_commands`.\n\n\
         ## VPD pages\n\n\
         Exactly these, each with the right length: `identity::announced_pages_are_the_served_pages`, suite clients.\n\n",
    );
    pages(&mut text, &vpd_pages().map(|code| (code, 0)).collect::<Vec<_>>(), VPD);
    text.push_str(
        "\n## Mode pages\n\nNo page can be saved; all are shared by all nexuses: `mode::pages_that_do_not_exist_are_refused`,\n\
         `mode::every_bit_that_cannot_be_changed_is_refused_with_its_place`, `mode::a_change_is_told_to_the_others_only`, `mode::a_reset_restores_the_defaults`.\n\n",
    );
    pages(&mut text, &mode_pages().collect::<Vec<_>>(), MODE);
    text.push_str("\n## Log pages\n\n");
    pages(&mut text, &log_pages().collect::<Vec<_>>(), LOG);
    text.push_str(
        "\n## Unit attentions\n\nFor each I_T nexus and logical unit, in this order; of the resets (the first four) the highest only. INQUIRY, REPORT LUNS and\n\
         REQUEST SENSE pass by; the last two tell, or clear, what they are about: `attention::queues_behave_as_the_naive_ones`,\n\
         `attention::three_commands_pass_by_all_others_are_interrupted`, `attention::an_event_from_another_thread_is_never_missed`.\n\n",
    );
    attentions(&mut text);
    check_part("scsi", &text);
}

#[test]
fn every_test_that_the_document_names_is_there() {
    assert_eq!(missing_names(), Vec::<String>::new());
}
