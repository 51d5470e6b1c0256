//! The keys of doc/conformance.md, from the table that login and text negotiation read. What is said here is what the table does not say,
//! and which tests show it.

#[path = "../../tests/conformance/mod.rs"]
mod document;

use std::fmt::Write as _;

use lusd_iscsi::keys;

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
    (&["TaskReporting"], "RFC3720, ResponseFence, FastAbort. With several connections responses are not held back for acknowledgements on the others", &[EDGES, "lusd: management::fast_aborts_wait_for_no_data_and_tell_the_others"]),
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
