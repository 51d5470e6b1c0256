//! Task management, pings, text, logout, asynchronous messages, discovery.

mod common;

use std::time::Duration;

use common::{INITIATOR, Pdu, Peer, TARGET, pattern};
use lusd_iscsi::bhs::{Bhs, FINAL, IMMEDIATE, Opcode, RESERVED_TAG};
use lusd_iscsi::pdu::{
    AsyncCode, AsyncMessage, LogoutResponse, LogoutResult, NopIn, NopOut, Reject, RejectReason, ScsiCommand,
    SnackKind, SnackRequest, TaskManagementRequest, TaskManagementResponse, TextRequest, TextResponse,
};
use lusd_iscsi::{
    AsyncEvent, CloseReason, Config, Event, LogoutReason, Referenced, SendTargetsRequest, Serial,
    TargetRecord, TmfFunction, TmfRequest, TmfResponse,
};

fn reject(peer: &mut Peer) -> RejectReason {
    let pdu = peer.pdu();
    assert_eq!((pdu.opcode(), pdu.data.len()), (Opcode::Reject, 48), "{pdu:?}");
    Reject::parse(&pdu.bhs).unwrap().reason
}

fn tmf_event(peer: &mut Peer) -> TmfRequest {
    match peer.event() {
        Event::TaskManagement(request) => request,
        other => panic!("not a TMF: {other:?}"),
    }
}

fn tmf_answer(peer: &mut Peer) -> TmfResponse {
    let pdu = peer.pdu();
    assert_eq!(pdu.opcode(), Opcode::TaskManagementResponse, "{pdu:?}");
    TaskManagementResponse::parse(&pdu.bhs).unwrap().response
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn an_abort_finds_its_task() {
    let mut peer = Peer::logged_in(Config::default(), "");
    let command = peer.read_command(4096);
    let tag = peer.run(&command);
    let abort = TaskManagementRequest {
        referenced_task_tag: command.initiator_task_tag,
        ref_cmd_sn: command.cmd_sn,
        ..peer.tmf(TmfFunction::AbortTask)
    };
    peer.send(abort.to_bhs(), &[]);
    let request = tmf_event(&mut peer);
    assert_eq!((request.function, request.referenced), (TmfFunction::AbortTask, Referenced::Task(tag)));
    assert!(request.immediate);
    // Until it is answered commands go on, and its tag is taken.
    peer.no_pdu();
    let other = peer.read_command(0);
    peer.run(&other);
    peer.send(abort.to_bhs(), &[]);
    assert_eq!(reject(&mut peer), RejectReason::TaskInProgress);
    peer.conn.abandon(tag);
    peer.conn.tmf_response(request.initiator_task_tag, TmfResponse::FunctionComplete);
    assert_eq!(tmf_answer(&mut peer), TmfResponse::FunctionComplete);
    // Again: now there is no such task, and its number has been seen.
    peer.send(abort.to_bhs(), &[]);
    let request = tmf_event(&mut peer);
    assert_eq!(request.referenced, Referenced::NotInTask);
    peer.conn.tmf_response(request.initiator_task_tag, TmfResponse::TaskDoesNotExist);
    assert_eq!(tmf_answer(&mut peer), TmfResponse::TaskDoesNotExist);
}

#[test]
fn an_abort_of_a_command_that_never_came_lets_the_others_pass() {
    let mut peer = Peer::logged_in(Config::default(), "");
    let lost = peer.read_command(0);
    let abort = TaskManagementRequest {
        referenced_task_tag: lost.initiator_task_tag,
        ref_cmd_sn: lost.cmd_sn,
        ..peer.tmf(TmfFunction::AbortTask)
    };
    peer.send(abort.to_bhs(), &[]);
    let request = tmf_event(&mut peer);
    assert_eq!(request.referenced, Referenced::CmdSnNotReceived);
    peer.conn.tmf_response(request.initiator_task_tag, TmfResponse::FunctionComplete);
    assert_eq!(peer.pdu().sns().exp_cmd_sn, peer.cmd_sn);
    // Should it come after all, it is a duplicate.
    peer.send(lost.to_bhs(), &[]);
    peer.no_event();
    let next = peer.read_command(0);
    peer.run(&next);
}

#[test]
fn other_functions() {
    let config = Config { protocol_level: 1, ..Config::default() };
    let mut peer = Peer::logged_in(config, "iSCSIProtocolLevel=2\0");
    for function in [
        TmfFunction::AbortTaskSet,
        TmfFunction::ClearAca,
        TmfFunction::ClearTaskSet,
        TmfFunction::LogicalUnitReset,
        TmfFunction::TargetWarmReset,
        TmfFunction::TargetColdReset,
    ] {
        // In order, for once.
        let request = peer.tmf(function);
        let request = TaskManagementRequest { immediate: false, cmd_sn: peer.number(), ..request };
        peer.send(request.to_bhs(), &[]);
        let event = tmf_event(&mut peer);
        assert_eq!((event.function, event.referenced), (function, Referenced::Nothing));
        peer.conn.tmf_response(event.initiator_task_tag, TmfResponse::FunctionComplete);
        assert_eq!(tmf_answer(&mut peer), TmfResponse::FunctionComplete);
    }
    let reassign = peer.tmf(TmfFunction::TaskReassign);
    peer.send(reassign.to_bhs(), &[]);
    assert_eq!(tmf_answer(&mut peer), TmfResponse::TaskAllegianceReassignmentNotSupported);
    // RFC 7144's functions need its protocol level, which was not agreed on.
    let query = peer.tmf(TmfFunction::QueryTask);
    peer.send(query.to_bhs(), &[]);
    assert_eq!(tmf_answer(&mut peer), TmfResponse::FunctionNotSupported);
    let reserved = TaskManagementRequest { function: None, ..query };
    peer.send(reserved.to_bhs(), &[]);
    assert_eq!(tmf_answer(&mut peer), TmfResponse::FunctionNotSupported);
    peer.no_event();
    let mut peer = Peer::logged_in(Config::default(), "");
    peer.send(query.to_bhs(), &[]);
    assert_eq!(tmf_answer(&mut peer), TmfResponse::FunctionNotSupported);
    let mut peer = Peer::logged_in(Config::default(), "iSCSIProtocolLevel=2\0");
    let query = peer.tmf(TmfFunction::QueryTask);
    peer.send(query.to_bhs(), &[]);
    assert_eq!(tmf_event(&mut peer).referenced, Referenced::NotInTask);
    for function in
        [TmfFunction::QueryTaskSet, TmfFunction::ItNexusReset, TmfFunction::QueryAsynchronousEvent]
    {
        let request = peer.tmf(function);
        peer.send(request.to_bhs(), &[]);
        let event = tmf_event(&mut peer);
        assert_eq!((event.function, event.referenced), (function, Referenced::Nothing));
        let (tag, succeeded) = (event.initiator_task_tag, TmfResponse::FunctionSucceeded);
        peer.conn.tmf_response_with(tag, succeeded, [0x46, 0x29, 0x07]);
        let answer = TaskManagementResponse::parse(&peer.pdu().bhs).unwrap();
        assert_eq!((answer.response, answer.additional), (succeeded, [0x46, 0x29, 0x07]));
    }
}

/// RFC 7143 4.2.3.3: what was asked for is waited for, and dropped.
#[test]
fn the_data_of_a_task_that_is_cut_off_is_waited_for() {
    let mut peer = Peer::logged_in(Config::default(), "MaxOutstandingR2T=2\0MaxBurstLength=4096\0");
    let command = peer.write_command(16384);
    let tag = peer.start(&command, &[]);
    peer.accept(tag, 16384);
    let r2ts: Vec<_> = peer.pdus().iter().map(Pdu::r2t).collect();
    assert_eq!(r2ts.len(), 2);
    let data = pattern(16384);
    // In the middle of a PDU.
    let first = lusd_iscsi::pdu::DataOut {
        is_final: true,
        lun: 0,
        initiator_task_tag: command.initiator_task_tag,
        target_transfer_tag: r2ts[0].target_transfer_tag,
        exp_stat_sn: peer.exp_stat_sn(),
        data_sn: Serial(0),
        buffer_offset: 0,
    };
    let bytes = common::encode(first.to_bhs(), &[], &data[..4096], (false, false));
    peer.send_bytes(&bytes[..1000]);
    assert!(peer.conn.cut_off(tag));
    peer.send_bytes(&bytes[1000..]);
    peer.no_event();
    peer.answer(&r2ts[1], &data, 4096);
    assert!(matches!(peer.event(), Event::DataOutFailed { tag: failed, .. } if failed == tag));
    peer.no_pdu();
    peer.conn.abandon(tag);
    // Nothing of it was promised.
    let command = peer.write_command(4096);
    let tag = peer.start(&command, &[]);
    let buf = bytes::BytesMut::with_capacity(4096);
    peer.conn.accept(tag, lusd_iscsi::DataOut::Hold { len: 4096, buf });
    assert!(!peer.conn.cut_off(tag));
    peer.conn.abandon(tag);
    let next = peer.read_command(0);
    peer.run(&next);
}

/// RFC 7143 4.2.2.2: an acknowledgement of what was never sent, or that goes back, says nothing.
#[test]
fn acknowledgements_of_statuses_that_were_not_sent() {
    let mut peer = Peer::logged_in(Config::default(), "");
    let ping = |peer: &mut Peer, exp_stat_sn: Serial| {
        let nop = NopOut { exp_stat_sn, ..peer.nop_out() };
        peer.send(nop.to_bhs(), &[]);
        peer.pdu();
        peer.conn.statuses_unacknowledged()
    };
    let now = peer.exp_stat_sn();
    assert_eq!(ping(&mut peer, now), 1, "its own answer");
    assert_eq!(ping(&mut peer, now.add(1000)), 2);
    assert_eq!(ping(&mut peer, now.sub(1)), 3);
    assert_eq!(ping(&mut peer, now.add(2)), 2);
    assert_eq!(ping(&mut peer, now.add(1 << 31)), 3);
}

/// RFC 7143 11.5.1: no function aborts another one.
#[test]
fn an_abort_of_a_function_is_rejected() {
    let mut peer = Peer::logged_in(Config::default(), "");
    let reset = peer.tmf(TmfFunction::LogicalUnitReset);
    peer.send(reset.to_bhs(), &[]);
    assert_eq!(tmf_event(&mut peer).function, TmfFunction::LogicalUnitReset);
    let abort = peer.tmf(TmfFunction::AbortTask);
    let abort = TaskManagementRequest { referenced_task_tag: reset.initiator_task_tag, ..abort };
    peer.send(abort.to_bhs(), &[]);
    assert_eq!(tmf_answer(&mut peer), TmfResponse::FunctionRejected);
    peer.no_event();
    peer.conn.tmf_response(reset.initiator_task_tag, TmfResponse::FunctionComplete);
    assert_eq!(tmf_answer(&mut peer), TmfResponse::FunctionComplete);
}

#[test]
fn functions_in_progress_are_bounded() {
    let config = Config { immediate_window: 2, ..Config::default() };
    let mut peer = Peer::logged_in(config, "");
    for _ in 0..2 {
        let reset = peer.tmf(TmfFunction::LogicalUnitReset);
        peer.send(reset.to_bhs(), &[]);
        tmf_event(&mut peer);
    }
    let reset = peer.tmf(TmfFunction::LogicalUnitReset);
    peer.send(reset.to_bhs(), &[]);
    assert_eq!(reject(&mut peer), RejectReason::TooManyImmediateCommands);
}

#[test]
#[should_panic(expected = "was answered already")]
fn a_function_is_answered_once() {
    let mut peer = Peer::logged_in(Config::default(), "");
    let reset = peer.tmf(TmfFunction::LogicalUnitReset);
    peer.send(reset.to_bhs(), &[]);
    let tag = tmf_event(&mut peer).initiator_task_tag;
    peer.conn.tmf_response(tag, TmfResponse::FunctionComplete);
    peer.conn.tmf_response(tag, TmfResponse::FunctionComplete);
}

#[test]
fn pings_are_echoed() {
    let mut peer = Peer::logged_in(Config::default(), "MaxRecvDataSegmentLength=1000\0");
    for len in [0, 1, 255, 1000, 4000, 100_000] {
        let nop = peer.nop_out();
        peer.send(nop.to_bhs(), &pattern(len));
        let pdu = peer.pdu();
        let nop_in = NopIn::parse(&pdu.bhs);
        assert_eq!((pdu.opcode(), nop_in.initiator_task_tag), (Opcode::NopIn, nop.initiator_task_tag));
        assert_eq!(nop_in.target_transfer_tag, RESERVED_TAG);
        assert_eq!(pdu.data, pattern(len.min(1000)));
    }
    // In order, too: then it has a number.
    let nop = NopOut { immediate: false, cmd_sn: peer.number(), ..peer.nop_out() };
    peer.send(nop.to_bhs(), &[]);
    assert_eq!(peer.pdu().sns().exp_cmd_sn, peer.cmd_sn);
    // No answer is wanted.
    let nop = NopOut { initiator_task_tag: RESERVED_TAG, ..peer.nop_out() };
    peer.send(nop.to_bhs(), &[]);
    peer.no_pdu();
    let nop = NopOut { immediate: false, cmd_sn: peer.number(), ..nop };
    peer.send(nop.to_bhs(), &[]);
    assert_eq!(reject(&mut peer), RejectReason::ProtocolError);
}

#[test]
fn quiet_connections_are_pinged() {
    let mut peer = Peer::logged_in(Config::default(), "");
    // Traffic is sign enough.
    for _ in 0..10 {
        peer.pass(Duration::from_millis(900));
        let command = peer.read_command(0);
        let tag = peer.run(&command);
        peer.good(tag);
        assert_eq!(peer.pdu().opcode(), Opcode::ScsiResponse);
    }
    for _ in 0..5 {
        peer.pass(secs(1));
        let ping = peer.pdu();
        assert_eq!((ping.opcode(), ping.bhs.initiator_task_tag()), (Opcode::NopIn, RESERVED_TAG));
        let target_transfer_tag = NopIn::parse(&ping.bhs).target_transfer_tag;
        assert_ne!(target_transfer_tag, RESERVED_TAG);
        peer.pass(Duration::from_millis(2900));
        peer.no_pdu();
        let nop = NopOut { initiator_task_tag: RESERVED_TAG, target_transfer_tag, ..peer.nop_out() };
        peer.send(nop.to_bhs(), &[]);
        peer.no_pdu();
        peer.pass(Duration::from_millis(100));
        peer.no_pdu();
        peer.pass(Duration::from_millis(100));
        let nop = NopOut { initiator_task_tag: RESERVED_TAG, ..nop };
        peer.send(nop.to_bhs(), &[]);
    }
    // Anything but silence will do.
    peer.pass(secs(1));
    peer.pdu();
    peer.pass(secs(1));
    let command = peer.read_command(0);
    peer.run(&command);
    peer.pass(secs(2));
    peer.no_event();
    peer.pdu();
    peer.pass(Duration::from_millis(2999));
    peer.no_event();
    peer.pass(Duration::from_millis(1));
    assert!(matches!(peer.event(), Event::Closed(CloseReason::NopTimeout)));
    assert_eq!(peer.conn.next_timeout(), None);
}

fn targets(n: usize) -> Vec<TargetRecord> {
    (0..n)
        .map(|i| TargetRecord {
            name: format!("{TARGET}{i}"),
            portals: vec![("192.0.2.1:3260".into(), 1), ("[2001:db8::1]:3260".into(), 2)],
        })
        .collect()
}

fn send_targets(peer: &mut Peer, value: &str) -> TextRequest {
    let request = peer.text_request();
    peer.send(request.to_bhs(), format!("SendTargets={value}\0").as_bytes());
    request
}

#[test]
fn discovery() {
    let mut peer = Peer::discovery(Config::default());
    let request = send_targets(&mut peer, "All");
    let Event::SendTargets(asked) = peer.event() else { panic!() };
    assert_eq!(asked, SendTargetsRequest::All);
    assert!(peer.conn.is_waiting());
    peer.conn.send_targets(&targets(1));
    let pdu = peer.pdu();
    let response = TextResponse::parse(&pdu.bhs).unwrap();
    assert!(response.is_final && !response.continues);
    assert_eq!(response.target_transfer_tag, RESERVED_TAG);
    assert_eq!(response.initiator_task_tag, request.initiator_task_tag);
    let name = format!("{TARGET}0");
    let expected = [
        ("TargetName", &*name),
        ("TargetAddress", "192.0.2.1:3260,1"),
        ("TargetAddress", "[2001:db8::1]:3260,2"),
    ];
    assert_eq!(pdu.text(), expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    // None is an answer too.
    send_targets(&mut peer, "All");
    assert!(matches!(peer.event(), Event::SendTargets(_)));
    peer.conn.send_targets(&[]);
    assert!(peer.pdu().data.is_empty());
    // A single one.
    send_targets(&mut peer, TARGET);
    let Event::SendTargets(asked) = peer.event() else { panic!() };
    assert_eq!(asked, SendTargetsRequest::Named(TARGET.into()));
    peer.conn.send_targets(&targets(1));
    peer.pdu();
    // There is no target of this session.
    send_targets(&mut peer, "");
    assert_eq!(peer.pdu().text(), [("SendTargets".into(), "Reject".into())]);
    // Nothing but text and logout.
    let command = peer.read_command(0);
    peer.send(command.to_bhs(), &[]);
    assert_eq!(reject(&mut peer), RejectReason::ProtocolError);
    let nop = peer.nop_out();
    peer.send(nop.to_bhs(), &[]);
    assert_eq!(reject(&mut peer), RejectReason::ProtocolError);
    // No pings, but a limit to idleness.
    peer.pass(secs(59));
    peer.no_pdu();
    let logout = peer.logout(LogoutReason::CloseSession);
    peer.send(logout.to_bhs(), &[]);
    assert!(matches!(peer.event(), Event::LogoutRequested { reason: LogoutReason::CloseSession }));
    peer.conn.logout_complete();
    assert_eq!(peer.pdu().opcode(), Opcode::LogoutResponse);
    assert!(matches!(peer.event(), Event::Closed(CloseReason::Logout)));
}

#[test]
fn a_long_answer_spans_responses() {
    let names = format!("InitiatorName={INITIATOR}\0SessionType=Discovery\0MaxRecvDataSegmentLength=512\0");
    for immediate in [true, false] {
        let mut peer = Peer::new(Config::default());
        peer.send(peer.login_request().to_bhs(), names.as_bytes());
        peer.event();
        peer.conn.login_grant(lusd_iscsi::LoginGrant { portal_group_tag: 1, tsih: 1, ..Default::default() });
        peer.event();
        peer.pdu();
        let mut request = TextRequest { immediate, ..peer.text_request() };
        let mut text: Vec<u8> = b"SendTargets=All\0".to_vec();
        let mut whole = Vec::new();
        loop {
            if !immediate {
                request.cmd_sn = peer.number();
            }
            peer.send(request.to_bhs(), &text);
            text.clear();
            if let Some(Event::SendTargets(_)) = peer.try_event() {
                peer.conn.send_targets(&targets(30));
            }
            let pdu = peer.pdu();
            let response = TextResponse::parse(&pdu.bhs).unwrap();
            whole.extend_from_slice(&pdu.data);
            assert!(pdu.data.len() <= 512);
            assert_eq!(response.continues, !response.is_final);
            if response.is_final {
                break;
            }
            request.target_transfer_tag = response.target_transfer_tag;
        }
        let whole = Pdu { bhs: Bhs::new(Opcode::TextResponse, FINAL), data: whole };
        assert_eq!(whole.text().len(), 90);
    }
}

#[test]
fn text_in_a_normal_session() {
    let mut peer = Peer::logged_in(Config::default(), "");
    // Its own target; all targets are for discovery.
    send_targets(&mut peer, "");
    let Event::SendTargets(asked) = peer.event() else { panic!() };
    assert_eq!(asked, SendTargetsRequest::This);
    peer.conn.send_targets(&targets(1));
    assert_eq!(peer.pdu().text().len(), 3);
    send_targets(&mut peer, "All");
    assert_eq!(peer.pdu().text(), [("SendTargets".into(), "Reject".into())]);
    // What may be said again, what may not, what nobody knows.
    let request = peer.text_request();
    peer.send(request.to_bhs(), b"MaxRecvDataSegmentLength=600\0MaxBurstLength=512\0X-a.b=1\0");
    let expected = [("MaxBurstLength", "Reject"), ("X-a.b", "NotUnderstood")];
    assert_eq!(peer.pdu().text(), expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    let command = peer.read_command(1000);
    let tag = peer.run(&command);
    peer.read_good(tag, pattern(1000));
    assert_eq!(peer.pdus().iter().map(|pdu| pdu.data.len()).collect::<Vec<_>>(), [600, 400]);
    // A text over several requests, with several answers.
    let mut request = TextRequest { is_final: false, continues: true, ..peer.text_request() };
    peer.send(request.to_bhs(), b"X-a=1\0X-");
    let response = TextResponse::parse(&peer.pdu().bhs).unwrap();
    assert!(!response.is_final && !response.continues);
    request.continues = false;
    request.target_transfer_tag = response.target_transfer_tag;
    peer.send(request.to_bhs(), b"b=2\0");
    let pdu = peer.pdu();
    let response = TextResponse::parse(&pdu.bhs).unwrap();
    assert!(!response.is_final);
    assert_eq!(pdu.text().len(), 2);
    // A tag that is not the last one.
    peer.send(request.to_bhs(), b"");
    assert_eq!(reject(&mut peer), RejectReason::InvalidPduField);
    request.target_transfer_tag = response.target_transfer_tag;
    request.is_final = true;
    peer.send(request.to_bhs(), b"");
    assert!(TextResponse::parse(&peer.pdu().bhs).unwrap().is_final);
}

/// RFC 7143 6.4: what a negotiation has changed that is rejected is as it was before.
#[test]
fn text_that_is_rejected_changes_nothing() {
    let mut peer = Peer::logged_in(Config::default(), "");
    let wrong = peer.text_request();
    peer.send(wrong.to_bhs(), b"MaxRecvDataSegmentLength=65536\0SendTargets=\0SendTargets=\0");
    assert_eq!(reject(&mut peer), RejectReason::ProtocolError);
    let good = peer.text_request();
    peer.send(good.to_bhs(), b"X-a.b=1\0");
    assert_eq!(peer.pdu().text().len(), 1);
    assert_eq!(peer.conn.params().max_send_data_segment_length, 8192);
}

#[test]
fn text_that_is_wrong_or_too_long() {
    let config = Config { text_bytes_max: 2048, ..Config::default() };
    let mut peer = Peer::logged_in(config, "");
    for bad in [&b"SendTargets"[..], b"SendTargets\0", b"X-a=1\0=2\0", b"SendTargets=\0SendTargets=\0"] {
        let request = peer.text_request();
        peer.send(request.to_bhs(), bad);
        assert_eq!(reject(&mut peer), RejectReason::ProtocolError);
    }
    let request = peer.text_request();
    peer.send(request.to_bhs(), &b"A=1\0".repeat(97));
    assert_eq!(reject(&mut peer), RejectReason::LongOperationReject);
    let request = peer.text_request();
    peer.send(request.to_bhs(), &[b'a'; 2049]);
    assert_eq!(reject(&mut peer), RejectReason::LongOperationReject);
    let mut request = TextRequest { is_final: false, continues: true, ..peer.text_request() };
    peer.send(request.to_bhs(), &[b'a'; 2000]);
    request.target_transfer_tag = TextResponse::parse(&peer.pdu().bhs).unwrap().target_transfer_tag;
    peer.send(request.to_bhs(), &[b'a'; 100]);
    assert_eq!(reject(&mut peer), RejectReason::LongOperationReject);
    // After all that a good one works.
    send_targets(&mut peer, "");
    assert!(matches!(peer.event(), Event::SendTargets(_)));
    peer.no_event();
}

fn logout_answer(peer: &mut Peer) -> LogoutResult {
    let pdu = peer.pdu();
    assert_eq!(pdu.opcode(), Opcode::LogoutResponse);
    LogoutResponse::parse(&pdu.bhs).unwrap().response
}

#[test]
fn logouts() {
    for reason in [LogoutReason::CloseSession, LogoutReason::CloseConnection] {
        let mut peer = Peer::logged_in(Config::default(), "");
        let command = peer.write_command(8192);
        let tag = peer.start(&command, &[]);
        peer.accept(tag, 8192);
        let r2t = peer.pdu().r2t();
        let request = peer.logout(reason);
        let request = lusd_iscsi::pdu::LogoutRequest { immediate: false, cmd_sn: peer.number(), ..request };
        peer.send(request.to_bhs(), &[]);
        assert!(matches!(peer.event(), Event::LogoutRequested { reason: r } if r == reason));
        // What still comes is not looked at, and time does not matter any more.
        peer.answer(&r2t, &pattern(8192), 4096);
        peer.pass(secs(100));
        peer.no_event();
        peer.no_pdu();
        peer.conn.abandon(tag);
        peer.conn.logout_complete();
        assert_eq!(logout_answer(&mut peer), LogoutResult::Closed);
        assert!(matches!(peer.event(), Event::Closed(CloseReason::Logout)));
        peer.conn.logout_complete();
        peer.conn.close();
        peer.no_event();
    }
}

#[test]
fn logouts_that_are_refused_leave_the_session_as_it_is() {
    let mut peer = Peer::logged_in(Config::default(), "");
    let mut request = peer.logout(LogoutReason::CloseConnection);
    request.cid = 7;
    peer.send(request.to_bhs(), &[]);
    assert_eq!(logout_answer(&mut peer), LogoutResult::CidNotFound);
    let request = peer.logout(LogoutReason::RemoveConnectionForRecovery);
    peer.send(request.to_bhs(), &[]);
    assert_eq!(logout_answer(&mut peer), LogoutResult::RecoveryNotSupported);
    let mut bhs = request.to_bhs();
    bhs.0[1] = FINAL | 9;
    peer.send(bhs, &[]);
    assert_eq!(reject(&mut peer), RejectReason::InvalidPduField);
    let command = peer.read_command(0);
    peer.run(&command);
}

#[test]
fn pdus_that_do_not_belong_here() {
    let mut peer = Peer::logged_in(Config::default(), "");
    let snack = SnackRequest {
        kind: SnackKind::Status,
        lun: 0,
        initiator_task_tag: RESERVED_TAG,
        target_transfer_tag: RESERVED_TAG,
        exp_stat_sn: Serial(0),
        beg_run: Serial(0),
        run_length: 0,
    };
    peer.send(snack.to_bhs(), &[]);
    assert_eq!(reject(&mut peer), RejectReason::SnackReject);
    peer.send(peer.login_request().to_bhs(), b"InitiatorName=x\0");
    assert_eq!(reject(&mut peer), RejectReason::ProtocolError);
    // Opcodes of targets, vendors and nobody.
    for code in [0x07, 0x1c, 0x20, 0x25, 0x31, 0x3f] {
        let mut bhs = Bhs::new(Opcode::NopOut, FINAL);
        bhs.0[0] = code | IMMEDIATE;
        peer.send(bhs, &pattern(100));
        assert_eq!(reject(&mut peer), RejectReason::CommandNotSupported, "{code:x}");
    }
    let mut bhs = peer.read_command(0).to_bhs();
    bhs.0[1] |= 7;
    peer.send(bhs, &[]);
    assert_eq!(reject(&mut peer), RejectReason::InvalidPduField);
    let command = peer.read_command(0);
    peer.run(&command);
}

fn async_message(peer: &mut Peer) -> AsyncMessage {
    let pdu = peer.pdu();
    assert_eq!(pdu.opcode(), Opcode::AsyncMessage);
    assert_eq!(pdu.bhs.initiator_task_tag(), RESERVED_TAG);
    AsyncMessage::parse(&pdu.bhs).unwrap()
}

#[test]
fn asynchronous_messages() {
    let mut peer = Peer::logged_in(Config::default(), "DefaultTime2Wait=5\0");
    peer.conn.send_async(AsyncEvent::Scsi { lun: 1 << 48, sense: &[0x70; 18] });
    let pdu = peer.pdu();
    let message = AsyncMessage::parse(&pdu.bhs).unwrap();
    assert_eq!((message.event, message.lun), (AsyncCode::ScsiEvent, 1 << 48));
    assert_eq!(pdu.data, [&[0, 18][..], &[0x70; 18]].concat());
    peer.conn.send_async(AsyncEvent::ConnectionDrop);
    assert_eq!(async_message(&mut peer).parameters, [0, 5, 0]);
    peer.conn.send_async(AsyncEvent::SessionDrop);
    let message = async_message(&mut peer);
    assert_eq!((message.event, message.parameters), (AsyncCode::SessionDrop, [0, 5, 0]));
    peer.conn.send_async(AsyncEvent::TaskTermination { lun: 7 });
    assert_eq!(async_message(&mut peer).lun, 7);
    peer.conn.send_async(AsyncEvent::NegotiationRequest { within_s: 3 });
    assert_eq!(async_message(&mut peer).parameters, [0, 0, 3]);
    peer.conn.send_async(AsyncEvent::LogoutRequest { within_s: 3 });
    let message = async_message(&mut peer);
    assert_eq!((message.event, message.parameters), (AsyncCode::LogoutRequest, [0, 0, 3]));
    for _ in 0..3 {
        peer.pass(secs(1));
        let command = peer.read_command(0);
        peer.run(&command);
    }
    peer.no_event();
    peer.pass(secs(1));
    assert!(matches!(peer.event(), Event::Closed(CloseReason::LogoutTimeout)));
    // The connection is dropped, and said to be (RFC 7143 11.9.1, event 1).
    let message = AsyncMessage::parse(&peer.pdus().pop().expect("a message").bhs).unwrap();
    assert_eq!((message.event, message.parameters), (AsyncCode::ConnectionDrop, [0, 5, 0]));
    // Discovery sessions are told nothing.
    let mut peer = Peer::discovery(Config::default());
    peer.conn.send_async(AsyncEvent::LogoutRequest { within_s: 0 });
    peer.no_pdu();
}

#[test]
fn closed_by_the_daemon_with_tasks_in_progress() {
    let mut peer = Peer::logged_in(Config::default(), "");
    let command = peer.write_command(1 << 20);
    let receiving = peer.start(&command, &[]);
    peer.accept(receiving, 1 << 20);
    let command = peer.read_command(0);
    let running = peer.run(&command);
    let offered = ScsiCommand { immediate: true, ..peer.read_command(0) };
    peer.cmd_sn = offered.cmd_sn;
    let offered = peer.start(&offered, &[]);
    let before = peer.pdus().len();
    assert_eq!(before, 1, "the R2T");
    peer.conn.close();
    assert!(matches!(peer.event(), Event::Closed(CloseReason::Daemon)));
    assert_eq!(peer.conn.tasks_len(), 3);
    peer.conn.accept(offered, lusd_iscsi::DataOut::None);
    peer.good(offered);
    peer.good(running);
    peer.conn.abandon(receiving);
    peer.conn.tmf_response(1, TmfResponse::FunctionComplete);
    peer.conn.send_targets(&[]);
    peer.send_bytes(&[0xff; 100_000]);
    peer.no_pdu();
    peer.no_event();
}
