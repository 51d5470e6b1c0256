//! The iSCSI part of doc/conformance.md: keys from the table that login and text negotiation read, PDUs, login statuses, asynchronous
//! messages and task management functions from the codes that the parsers know. What is said here is what these do not say, and which tests
//! show it.

#[path = "../../tests/conformance/mod.rs"]
mod document;

use std::fmt::Write as _;

use lusd_iscsi::bhs::{Bhs, Opcode};
use lusd_iscsi::pdu::{AsyncCode, AsyncMessage, TaskManagementRequest};
use lusd_iscsi::{LoginStatus, TmfFunction, keys};

use self::document::{check_part, shown};

/// Keys, what is agreed on, and the tests.
type About = (&'static [&'static str], &'static str, &'static [&'static str]);

const EDGES: &str = "negotiation::range_edges";

#[rustfmt::skip]
const ABOUT: &[About] = &[
    (&["AuthMethod"], "CHAP where the daemon has secrets for who comes, else None; what cannot be agreed on is refused with 0201. No KRB5, SRP", &["security.txt", "chap.txt", "lusd: data_path::authentication", "suite auth"]),
    (&["HeaderDigest", "DataDigest"], "None and CRC32C", &["operational.txt", "data_out::a_wrong_data_digest", "framer::every_wrong_bit_of_a_digest_is_seen", "suite clients"]),
    (&["InitialR2T"], "No, unless the initiator wants otherwise", &["operational.txt", "data_out::immediate_unsolicited_and_solicited_data_end_in_one_buffer", "data_out::data_that_the_negotiation_does_not_allow"]),
    (&["ImmediateData"], "Yes, unless the initiator wants otherwise", &["operational.txt", "data_out::immediate_unsolicited_and_solicited_data_end_in_one_buffer", "data_out::data_that_the_negotiation_does_not_allow"]),
    (&["MaxRecvDataSegmentLength"], "256 KiB is declared", &["first_request.txt", "data_out::a_segment_longer_than_declared_ends_the_connection", "commands::a_long_read_is_cut_to_segments_and_bursts"]),
    (&["FirstBurstLength"], "at most 256 KiB", &[EDGES, "commands::a_long_read_is_cut_to_segments_and_bursts"]),
    (&["MaxBurstLength"], "at most 1 MiB", &[EDGES, "commands::a_long_read_is_cut_to_segments_and_bursts"]),
    (&["MaxOutstandingR2T"], "at most 4", &["data_out::several_r2ts_at_once_up_to_what_was_agreed"]),
    (&["DefaultTime2Wait"], "at least 2", &[EDGES]),
    (&["DefaultTime2Retain"], "0", &[EDGES]),
    (&["DataPDUInOrder", "DataSequenceInOrder"], "Yes", &[EDGES, "data_out::sequences_in_the_wrong_order"]),
    (&["MaxConnections"], "up to `lus_session_connections_max` (1 by default, at most 16); what the leading connection has settled is rejected on others", &[EDGES, "negotiation::another_connection_of_a_session", "lusd: data_path::connections"]),
    (&["ErrorRecoveryLevel"], "0: an error ends the task or the connection", &[EDGES]),
    (&["InitiatorName", "TargetName", "SessionType", "InitiatorAlias"], "", &["first_request.txt", "discovery.txt"]),
    (&["TargetAddress", "TargetPortalGroupTag", "TargetAlias"], "", &["first_request.txt", "answers.txt", "control::discovery"]),
    (&["SendTargets"], "All, a name, nothing; portals of all daemons, of the family that the initiator came by", &["control::discovery", "control::text_in_a_normal_session", "lusd: view::portals_of_the_family_that_the_initiator_came_by", "suite clients"]),
    (&["iSCSIProtocolLevel"], "at most 2 (RFC 7144)", &[EDGES, "control::other_functions"]),
    (&["TaskReporting"], "RFC3720, ResponseFence, FastAbort. Answers to functions that end many tasks, unit attentions and the end of PREEMPT AND ABORT wait for acknowledgements on the other connections of the session whatever was agreed on (RFC 7143 4.2.2.3.4); those of other sessions are not waited for (4.2.3.3)", &[EDGES, "lusd: management::fast_aborts_wait_for_no_data_and_tell_the_others", "lusd: connections::a_function_waits_for_acknowledgements_on_other_connections", "lusd: connections::what_tells_of_ended_tasks_waits_for_acknowledgements_on_other_connections"]),
    (&["X#NodeArchitecture"], "taken, not answered", &[EDGES]),
    (&["IFMarker", "OFMarker", "IFMarkInt", "OFMarkInt"], "obsolete (RFC 7143 13.25)", &["negotiation::what_open_iscsi_offers", EDGES]),
];

#[test]
fn the_document_says_what_the_table_says() {
    let mut text = String::from(
        "## iSCSI: keys\n\n\
         | key | rule | values | default | scope | stages | what is agreed on | test |\n|---|---|---|---|---|---|---|---|\n",
    );
    for key in keys() {
        let about = ABOUT.iter().find(|about| about.0.contains(&key.name));
        let (_, what, tests) = about.unwrap_or_else(|| panic!("{}: which test shows it?", key.name));
        let discovery = if key.normal_only { "; Irrelevant in discovery" } else { "" };
        let tests = shown(tests);
        writeln!(
            text,
            "| {} | {}, by {} | {} | {} | {} | {}{discovery} | {what} | {tests} |",
            key.name, key.rule, key.sender, key.range, key.default, key.scope, key.stages
        )
        .unwrap();
    }
    let chap = shown(&["chap.txt", "text::binary_values", "lusd: data_path::authentication"]);
    writeln!(
        text,
        "| CHAP_A, CHAP_I, CHAP_C, CHAP_N, CHAP_R | RFC 7143 12.1.3 | | | connection | security | MD5, SHA1, SHA-256, SHA3-256 in the initiator's \
         order; one way and mutual; hexadecimal and base64; a challenge or response of ours that comes back is refused (9.2.1) | {chap} |"
    )
    .unwrap();
    writeln!(text, "| any other | | | | | | NotUnderstood | {} |", shown(&[EDGES])).unwrap();
    let wrong = [
        "negotiation::illegal_values_of_every_key_are_rejected",
        "negotiation::a_key_comes_once",
        "negotiation::discovery_and_wrong_places",
        "spanning.txt",
    ];
    let wrong = shown(&wrong);
    writeln!(
        text,
        "| illegal values, repeated keys, wrong stages | | | | | | Reject, or the login ends | {wrong} |"
    )
    .unwrap();
    check_part("keys", &text);
}

#[test]
fn every_line_is_about_a_key() {
    for name in ABOUT.iter().flat_map(|about| about.0) {
        assert!(keys().any(|key| key.name == *name), "no key {name}");
    }
}

/// What a PDU is called, what of it is there, and the tests.
type AboutPdu = (&'static str, &'static str, &'static [&'static str]);

#[rustfmt::skip]
fn about_pdu(opcode: Opcode) -> AboutPdu {
    match opcode {
        Opcode::NopOut => ("NOP-Out", "echoed; an answer to a ping of ours, or only an acknowledgement", &["control::pings_are_echoed"]),
        Opcode::ScsiCommand => ("SCSI Command", "long CDBs, unsolicited and immediate data; ORDERED and HEAD OF QUEUE as SAM-5 8.6 says among the block commands of the session, over all its connections; ACA and commands marked for both directions are refused", &["commands::a_command_is_what_was_sent", "commands::long_cdbs_and_bidirectional_lengths", "lusd: order::an_ordered_task_waits_for_the_older_ones_and_holds_the_newer_ones", "lusd: order::there_is_no_auto_contingent_allegiance", "lusd: connections::an_ordered_task_waits_for_the_older_ones_of_all_connections", "lusd: data::bidirectional_commands_are_refused"]),
        Opcode::TaskManagementRequest => ("Task Management Function Request", "see below", &["control::an_abort_finds_its_task", "control::other_functions"]),
        Opcode::LoginRequest => ("Login Request", "sessions are reinstated, connections join and are reinstated; rejected after the login", &["login::dialogues", "login::a_login_cut_at_every_offset", "lusd: sessions::a_newer_login_takes_the_place_of_the_older_one", "lusd: connections::the_same_connection_again_takes_its_place", "control::pdus_that_do_not_belong_here"]),
        Opcode::TextRequest => ("Text Request", "SendTargets, and the keys that may be negotiated then", &["control::discovery", "control::text_in_a_normal_session", "control::text_that_is_wrong_or_too_long"]),
        Opcode::DataOut => ("SCSI Data-Out", "in order, by sequences; what ends inside a block, comes twice, or is more than was asked for", &["data_out::immediate_unsolicited_and_solicited_data_end_in_one_buffer", "data_out::wrong_data_fails_its_task_only", "data_out::a_data_pdu_that_comes_twice_counts_once", "data_out::data_for_nobody", "lusd: data::what_was_written_in_any_way_is_read", "suite clients", "qa memory"]),
        Opcode::LogoutRequest => ("Logout Request", "close session, close connection, also another one of the session; recovery is refused", &["control::logouts", "control::logouts_that_are_refused_leave_the_session_as_it_is", "sessions::one_connection_logs_another_out", "lusd: connections::logouts_of_other_connections_and_of_all"]),
        Opcode::SnackRequest => ("SNACK Request", "rejected: error recovery level 0", &["control::pdus_that_do_not_belong_here"]),
        Opcode::NopIn => ("NOP-In", "pings quiet connections and closes those that do not answer; announces a window that has opened", &["control::quiet_connections_are_pinged", "commands::a_closed_window_stands_still"]),
        Opcode::ScsiResponse => ("SCSI Response", "residuals, sense data", &["commands::residuals_of_reads", "commands::a_status_that_is_not_good_has_its_own_pdu", "lusd: data::residuals_are_counted", "lusd: data::transfers_of_nothing_and_of_the_wrong_direction"]),
        Opcode::TaskManagementResponse => ("Task Management Function Response", "when the tasks have ended or can never take effect", &["lusd: management::a_reset_waits_for_what_is_inside_and_not_for_a_unit_that_is_shut"]),
        Opcode::LoginResponse => ("Login Response", "see below for its statuses", &["login::dialogues"]),
        Opcode::TextResponse => ("Text Response", "over several PDUs where it is long", &["control::a_long_answer_spans_responses"]),
        Opcode::DataIn => ("SCSI Data-In", "by bursts and segments; with the status in the last one where that is GOOD", &["commands::a_read_with_its_status", "commands::a_long_read_is_cut_to_segments_and_bursts"]),
        Opcode::LogoutResponse => ("Logout Response", "when nothing of the session, or connection, can take effect any more", &["control::logouts", "lusd: sessions::a_logout_ends_the_tasks_of_its_session"]),
        Opcode::ReadyToTransfer => ("R2T", "as many at once as was agreed on; held back while there is no memory for the data", &["data_out::several_r2ts_at_once_up_to_what_was_agreed", "data_out::held_data_is_asked_for_when_the_daemon_says_so", "qa memory"]),
        Opcode::AsyncMessage => ("Asynchronous Message", "see below", &["control::asynchronous_messages"]),
        Opcode::Reject => ("Reject", "with the header of what was rejected", &["control::pdus_that_do_not_belong_here", "commands::task_tags_are_used_once_at_a_time_and_the_reserved_one_never", "control::functions_in_progress_are_bounded"]),
    }
}

fn pdus(text: &mut String) {
    text.push_str("## iSCSI: PDUs\n\n| PDU | opcode | | test |\n|---|---|---|---|\n");
    for opcode in (0..64).filter_map(Opcode::from_code) {
        let (name, what, tests) = about_pdu(opcode);
        writeln!(text, "| {name} | {:02x} | {what} | {} |", opcode as u8, shown(tests)).unwrap();
    }
    let rejected = shown(&["control::pdus_that_do_not_belong_here"]);
    writeln!(text, "| any other | | Reject: command not supported | {rejected} |").unwrap();
    let numbers = [
        "commands::numbers_wrap",
        "commands::the_window_counts_tasks_and_opens_with_their_ends",
        "commands::a_gap_in_the_numbers_ends_the_connection",
        "sessions::commands_are_taken_in_the_order_of_their_numbers",
        "control::acknowledgements_of_statuses_that_were_not_sent",
        "lusd: hostile::a_flood_of_command_numbers",
    ];
    writeln!(
        text,
        "\nCommand numbers and window go over all connections of a session; an acknowledgement out of range says nothing: {}.\n",
        shown(&numbers)
    )
    .unwrap();
}

#[rustfmt::skip]
fn about_status(status: LoginStatus) -> (&'static str, &'static [&'static str]) {
    const NEVER: &[&str] = &["answers.txt"];
    match status {
        LoginStatus::Success => ("", &["login::dialogues"]),
        LoginStatus::TargetMovedTemporarily => ("`lus_login_redirect = ADDRESS:PORT`", &["answers.txt", "lusd: discovery::logins_are_sent_elsewhere"]),
        LoginStatus::TargetMovedPermanently => ("`lus_login_redirect = permanent:ADDRESS:PORT`", &["answers.txt", "lusd: discovery::logins_are_sent_elsewhere"]),
        LoginStatus::InitiatorError => ("text, stages or bits that make no sense; too many requests or bytes", &["first_request.txt", "operational.txt", "security.txt", "spanning.txt", "chap.txt"]),
        LoginStatus::AuthenticationFailure => ("CHAP failed, or was wanted and not offered", &["security.txt", "chap.txt", "lusd: authentication::nobody_gets_around_it"]),
        LoginStatus::AuthorizationFailure => ("the target does not admit the initiator", &["answers.txt", "lusd: discovery::who_is_not_named_is_refused_until_the_view_says_otherwise"]),
        LoginStatus::NotFound => ("no such target, also where there was one", &["answers.txt", "lusd: discovery::who_is_not_named_is_refused_until_the_view_says_otherwise"]),
        LoginStatus::TargetRemoved => ("never: the map does not remember names, so it is 0203", NEVER),
        LoginStatus::UnsupportedVersion => ("Version-min above 0", &["first_request.txt"]),
        LoginStatus::TooManyConnections => ("more connections of a session than MaxConnections", &["answers.txt", "lusd: connections::commands_by_three_connections", "lusd: connections::logins_that_lead_nowhere"]),
        LoginStatus::MissingParameter => ("no InitiatorName; no TargetName for a normal session; keys of CHAP", &["first_request.txt", "chap.txt"]),
        LoginStatus::CannotIncludeInSession => ("the TSIH is of another initiator's session, or of another ISID", &["answers.txt", "lusd: connections::logins_that_lead_nowhere"]),
        LoginStatus::SessionTypeNotSupported => ("a SessionType other than Normal and Discovery", &["first_request.txt"]),
        LoginStatus::SessionDoesNotExist => ("there is no session of this TSIH", &["answers.txt", "lusd: connections::logins_that_lead_nowhere"]),
        LoginStatus::InvalidDuringLogin => ("another PDU before the login is done", &["first_request.txt", "spanning.txt"]),
        LoginStatus::TargetError => ("the kernel gives no random bytes for a challenge, or a stored secret cannot be used: no test can bring either about", NEVER),
        LoginStatus::ServiceUnavailable => ("nobody may be served now (RADOS does not answer), or too many logins have failed lately", &["answers.txt", "lusd: sessions::an_isolated_daemon_resets_its_sessions_and_lets_nobody_in", "lusd: authentication::who_fails_too_often_waits"]),
        LoginStatus::OutOfResources => ("as many sessions as `lus_sessions_max`. Of more logins at once than `lus_logins_max` one is reset, and a connection beyond `lus_connections_max` closed, without a status", &["answers.txt", "lusd: discovery::sessions_are_bounded", "lusd: hostile::ten_thousand_half_open_logins"]),
    }
}

fn statuses(text: &mut String) {
    text.push_str("## Login statuses\n\n| status | | when | test |\n|---|---|---|---|\n");
    for status in LoginStatus::ALL {
        let (when, tests) = about_status(status);
        writeln!(text, "| {:04x} | {status} | {when} | {} |", status.code(), shown(tests)).unwrap();
    }
    text.push('\n');
}

#[rustfmt::skip]
fn about_event(event: AsyncCode) -> AboutPdu {
    const SAID: &str = "control::asynchronous_messages";
    match event {
        AsyncCode::ScsiEvent => ("SCSI event", "other LUNs (REPORTED LUNS DATA HAS CHANGED, on LUN 0), another size (CAPACITY DATA HAS CHANGED); once for a session, and beside the unit attention", &[SAID, "lusd: messages::other_luns_are_told_at_once", "lusd: messages::another_size_is_told_at_once", "lusd: messages::a_session_is_told_once"]),
        AsyncCode::LogoutRequest => ("logout request", "the daemon stops, and its logical units are served elsewhere; who does not log out in time is dropped", &[SAID, "lusd: sessions::a_host_is_asked_to_log_out_once_and_may_finish_first"]),
        AsyncCode::ConnectionDrop => ("connection dropped", "data for a write, or a logout that was asked for, did not come", &[SAID, "data_out::a_write_without_progress_ends_the_connection", "lusd: memory::a_write_whose_data_does_not_come_ends_its_connection"]),
        AsyncCode::SessionDrop => ("all connections of the session dropped", "the daemon stops, the host lost its access, TARGET COLD RESET; with the session's Time2Wait, and nothing retained", &[SAID, "lusd: messages::a_host_is_told_that_its_session_is_dropped", "lusd: sessions::a_daemon_that_stops_sends_what_is_answered_and_closes", "lusd: views::a_host_that_is_removed_is_closed"]),
        AsyncCode::NegotiationRequest => ("negotiation request", "the protocol has it; the daemon has no reason for one", &[SAID]),
        AsyncCode::TaskTermination => ("task termination", "with FastAbort: another session, or another connection of this one, has ended the tasks of a logical unit", &[SAID, "lusd: management::fast_aborts_wait_for_no_data_and_tell_the_others", "lusd: connections::an_abort_task_set_reaches_the_other_connections"]),
        AsyncCode::VendorSpecific => ("vendor specific", "never", &["async_message::every_event_round_trips"]),
    }
}

fn events(text: &mut String) {
    text.push_str("## Asynchronous messages\n\n| event | | when | test |\n|---|---|---|---|\n");
    for code in 0..=255_u8 {
        let mut bhs = Bhs::new(Opcode::AsyncMessage, 0x80);
        bhs.0[36] = code;
        let Ok(message) = AsyncMessage::parse(&bhs) else { continue };
        let (name, when, tests) = about_event(message.event);
        writeln!(text, "| {code} | {name} | {when} | {} |", shown(tests)).unwrap();
    }
    text.push('\n');
}

#[rustfmt::skip]
fn about_function(function: TmfFunction) -> AboutPdu {
    match function {
        TmfFunction::AbortTask => ("ABORT TASK", "function complete; of a command that never came, too; rejected for a function", &["control::an_abort_finds_its_task", "control::an_abort_of_a_command_that_never_came_lets_the_others_pass", "control::an_abort_of_a_function_is_rejected", "lusd: management::abort_of_a_task_that_waits_for_data", "lusd: management::abort_of_a_task_that_is_held_off"]),
        TmfFunction::AbortTaskSet => ("ABORT TASK SET", "function complete; of the session's tasks on the logical unit", &["control::other_functions", "lusd: management::abort_task_set_ends_the_tasks_of_its_own_session_on_its_unit"]),
        TmfFunction::ClearAca => ("CLEAR ACA", "function not supported: there is no ACA (NACA)", &["control::other_functions", "lusd: management::functions_that_do_not_fit"]),
        TmfFunction::ClearTaskSet => ("CLEAR TASK SET", "as ABORT TASK SET: each nexus has a task set of its own (TST=001b)", &["control::other_functions", "lusd: management::clear_task_set_is_for_its_own_nexus"]),
        TmfFunction::LogicalUnitReset => ("LOGICAL UNIT RESET", "function complete; of all sessions' tasks, with a unit attention for each", &["control::other_functions", "lusd: management::a_logical_unit_reset_ends_the_tasks_of_all_sessions", "lusd: management::with_tas_the_tasks_of_others_are_answered"]),
        TmfFunction::TargetWarmReset => ("TARGET WARM RESET", "as LOGICAL UNIT RESET, of every logical unit that the session sees", &["control::other_functions", "lusd: management::a_warm_reset_is_for_every_unit_that_the_session_sees"]),
        TmfFunction::TargetColdReset => ("TARGET COLD RESET", "as the warm one, and the sessions of the target end", &["control::other_functions", "lusd: management::a_cold_reset_ends_the_sessions_of_the_target"]),
        TmfFunction::TaskReassign => ("TASK REASSIGN", "task allegiance reassignment not supported", &["control::other_functions", "lusd: management::functions_that_do_not_fit"]),
        TmfFunction::QueryTask => ("QUERY TASK", "function succeeded, or complete; of a task of any connection of the session", &["control::other_functions", "lusd: management::questions_about_tasks_and_attentions", "lusd: connections::questions_are_about_the_tasks_of_all_connections"]),
        TmfFunction::QueryTaskSet => ("QUERY TASK SET", "as QUERY TASK", &["control::other_functions", "lusd: management::questions_about_tasks_and_attentions", "lusd: connections::questions_are_about_the_tasks_of_all_connections"]),
        TmfFunction::ItNexusReset => ("I_T NEXUS RESET", "function complete; RESERVE ends, what is persistent stays, and the nexus is told of its loss", &["control::other_functions", "lusd: management::a_nexus_reset_ends_the_tasks_of_its_own_session", "lusd: reservations::reserve_ends_with_the_nexus_and_with_resets"]),
        TmfFunction::QueryAsynchronousEvent => ("QUERY ASYNCHRONOUS EVENT", "function succeeded with the unit attention that is to be reported next, or complete", &["control::other_functions", "lusd: management::questions_about_tasks_and_attentions"]),
    }
}

fn functions(text: &mut String) {
    text.push_str(
        "## Task management\n\n\
         The protocol side is in `lusd/iscsi/tests/control.rs`; what the daemon does is in `lusd/src/target/management.rs`. A function is answered when its\n\
         tasks have ended or can never take effect.\n\n\
         | function | code | iSCSIProtocolLevel | answer | test |\n|---|---|---|---|---|\n",
    );
    for code in 0..128_u8 {
        let request = TaskManagementRequest::parse(&Bhs::new(Opcode::TaskManagementRequest, 0x80 | code));
        let Some(function) = request.function else { continue };
        let (name, answer, tests) = about_function(function);
        let level = function.protocol_level_min();
        writeln!(text, "| {name} | {code} | {level} | {answer} | {} |", shown(tests)).unwrap();
    }
    let unknown = shown(&["control::other_functions", "lusd: management::functions_that_do_not_fit"]);
    writeln!(text, "| any other | | | function not supported | {unknown} |").unwrap();
    let data = shown(&[
        "control::the_data_of_a_task_that_is_cut_off_is_waited_for",
        "lusd: management::a_reset_waits_for_data_that_was_asked_for",
    ]);
    let all = shown(&[
        "lusd: connections::an_abort_task_set_reaches_the_other_connections",
        "sessions::functions_about_many_tasks_wait_for_the_commands_before_them",
        "lusd: connections::a_function_waits_for_the_commands_before_it",
        "lusd: connections::a_function_waits_for_acknowledgements_on_other_connections",
    ]);
    writeln!(
        text,
        "\nFunctions that end many tasks wait for data that had been asked for, at most a second since some initiators never send it, or with FastAbort not at\n\
         all (RFC 7143 4.2.3): {data}. They are about the tasks of all connections of the session, also those that are still to come with lower\n\
         numbers, and wait until what was answered there is acknowledged: {all}.\n\n\
         REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS says the same: `primary::task_management_functions_are_the_ports`.\n"
    )
    .unwrap();
}

#[test]
fn the_document_says_what_the_parsers_know() {
    let mut text = String::new();
    pdus(&mut text);
    statuses(&mut text);
    events(&mut text);
    functions(&mut text);
    check_part("iscsi", &text);
}
