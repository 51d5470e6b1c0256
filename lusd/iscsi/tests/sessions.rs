//! Sessions of several connections (RFC 7143 4.2.2.1, 4.2.5.1, 6.3.4, 11.14).

mod common;

use common::{INITIATOR, Peer, TARGET, pattern};
use lusd_iscsi::bhs::Opcode;
use lusd_iscsi::pdu::{
    LoginRequest, LogoutRequest, LogoutResponse, LogoutResult, Reject, RejectReason, TaskManagementRequest,
};
use lusd_iscsi::{
    CloseReason, Config, DataOut, Event, LoginGrant, LogoutReason, Serial, SessionHandle, TmfFunction,
};

fn config() -> Config {
    Config { max_connections: 4, ..Config::default() }
}

fn leading(config: Config) -> (Peer, SessionHandle) {
    let mut peer = Peer::logged_in(config, "MaxConnections=8\0MaxBurstLength=4096\0InitialR2T=No\0");
    // The other connections count, too.
    peer.is_liar = true;
    let session = peer.conn.session().unwrap();
    assert_eq!((session.tsih(), session.params().max_connections), (1, 4));
    (peer, session)
}

/// Another connection of the session.
fn join(session: &SessionHandle, cid: u16, keys: &str) -> Peer {
    let mut peer = Peer::at(config(), 0, 0x4000);
    let names = format!("InitiatorName={INITIATOR}\0TargetName={TARGET}\0{keys}");
    let request = LoginRequest { tsih: 1, cid, ..peer.login_request() };
    peer.is_liar = true;
    peer.send(request.to_bhs(), names.as_bytes());
    let Event::Login(asked) = peer.event() else { panic!() };
    assert_eq!((asked.tsih, asked.cid), (1, cid));
    let grant = LoginGrant { portal_group_tag: 1, tsih: 1, ..LoginGrant::default() };
    peer.conn.login_join(grant, session);
    let Event::LoggedIn(info) = peer.event() else { panic!("not logged in") };
    assert_eq!((info.tsih, info.params.max_burst_length, info.params.initial_r2t), (1, 4096, false));
    let reply = peer.pdu();
    assert_eq!((reply.opcode(), reply.bhs.u16_at(14), reply.bhs.u16_at(36)), (Opcode::LoginResponse, 1, 0));
    peer.digests = (info.params.header_digest, info.params.data_digest);
    peer
}

fn at(peer: &mut Peer, cmd_sn: u32) {
    peer.cmd_sn = Serial(cmd_sn);
}

#[test]
fn commands_are_taken_in_the_order_of_their_numbers() {
    let (mut a, session) = leading(config());
    let mut b = join(&session, 1, "HeaderDigest=CRC32C\0");
    assert_eq!(b.digests, (true, false), "each connection has its own");
    // The second comes first: it waits, and what follows it on its connection.
    at(&mut b, 1);
    let second = b.write_command(3000);
    b.send(second.to_bhs(), &pattern(3000));
    let third = b.read_command(0);
    b.send(third.to_bhs(), &[]);
    b.no_event();
    b.no_pdu();
    assert!(b.conn.is_waiting() && !a.conn.wakes_others());
    at(&mut a, 0);
    let first = a.read_command(512);
    let first = a.run(&first);
    assert!(a.conn.wakes_others());
    let tag = b.command_event();
    assert!(!a.conn.wakes_others());
    b.accept(tag, 3000);
    assert_eq!(b.data_out_event().1, pattern(3000));
    let third = b.command_event();
    b.conn.accept(third, DataOut::None);
    // Answers go where the command came by.
    b.good(third);
    b.good(tag);
    assert_eq!(b.pdus().len(), 2);
    a.no_pdu();
    a.read_good(first, pattern(512));
    assert_eq!(a.pdus().len(), 1);
    // What was seen on one connection is seen: a copy is ignored.
    at(&mut a, 2);
    let copy = a.read_command(0);
    a.send(copy.to_bhs(), &[]);
    a.no_event();
}

/// RFC 7143 11.5.1: a function is about all tasks with lower numbers, by whichever connection they come.
#[test]
fn functions_about_many_tasks_wait_for_the_commands_before_them() {
    let (mut a, session) = leading(config());
    let mut b = join(&session, 1, "");
    let send_tmf = |peer: &mut Peer, function| {
        let request = TaskManagementRequest { ref_cmd_sn: Serial(100), ..peer.tmf(function) };
        peer.send(request.to_bhs(), &[]);
        request.initiator_task_tag
    };
    let is_tmf = |event, tag| {
        assert!(matches!(event, Event::TaskManagement(request) if request.initiator_task_tag == tag));
    };
    // One that names its task waits for nothing.
    at(&mut a, 2);
    let tag = send_tmf(&mut a, TmfFunction::AbortTask);
    is_tmf(a.event(), tag);
    let tag = send_tmf(&mut a, TmfFunction::AbortTaskSet);
    a.no_event();
    assert!(a.conn.is_waiting() && !b.conn.wakes_others());
    at(&mut b, 0);
    let command = b.read_command(0);
    b.run(&command);
    assert!(!b.conn.wakes_others(), "one is missing yet");
    a.no_event();
    let command = b.read_command(0);
    b.run(&command);
    assert!(b.conn.wakes_others());
    is_tmf(a.event(), tag);
    assert!(!b.conn.wakes_others());
    // What a lost connection was to bring is waited for no more. The window may be used up.
    at(&mut a, 4);
    let tag = send_tmf(&mut a, TmfFunction::LogicalUnitReset);
    a.no_event();
    b.conn.close();
    assert!(b.conn.wakes_others());
    is_tmf(a.event(), tag);
}

#[test]
fn the_window_is_one() {
    let (mut a, session) = leading(Config { command_window: 4, ..config() });
    let mut b = join(&session, 1, "");
    let mut tags = Vec::new();
    for sn in 0..4 {
        let peer = if sn % 2 == 0 { &mut a } else { &mut b };
        at(peer, sn);
        let command = peer.read_command(0);
        tags.push(peer.run(&command));
    }
    at(&mut a, 4);
    let fifth = a.read_command(0);
    a.send(fifth.to_bhs(), &[]);
    a.no_event();
    // The end of a command on one makes room for the other.
    b.good(tags[1]);
    assert_eq!(b.pdu().sns().max_cmd_sn, Serial(4));
    a.send(fifth.to_bhs(), &[]);
    a.command_event();
    // What a connection had in progress counts no more once it is dropped.
    drop(a);
    at(&mut b, 5);
    for _ in 0..3 {
        let nop = b.nop_out();
        b.send(nop.to_bhs(), &[]);
        b.pdu();
        let command = b.read_command(0);
        b.run(&command);
    }
}

#[test]
fn what_a_lost_connection_was_to_bring_is_waited_for_no_more() {
    let (mut a, session) = leading(config());
    let mut b = join(&session, 1, "");
    at(&mut b, 1);
    let second = b.read_command(0);
    b.send(second.to_bhs(), &[]);
    b.no_event();
    a.conn.close();
    assert!(matches!(a.event(), Event::Closed(CloseReason::Daemon)));
    assert!(a.conn.wakes_others());
    assert!(matches!(b.event(), Event::Closed(CloseReason::CmdSnGap)));
    let reject = b.pdu();
    assert_eq!(Reject::parse(&reject.bhs).unwrap().reason, RejectReason::ProtocolError);
    assert!(!a.conn.wakes_others());
}

#[test]
fn a_connection_that_waits_is_closed_like_any_other() {
    let (mut a, session) = leading(config());
    let mut b = join(&session, 1, "");
    at(&mut b, 1);
    let second = b.write_command(100);
    b.send(second.to_bhs(), &pattern(100));
    b.no_event();
    b.conn.close();
    assert!(matches!(b.event(), Event::Closed(CloseReason::Daemon)));
    // Alone again: a gap cannot be filled.
    at(&mut a, 2);
    let third = a.read_command(0);
    a.send(third.to_bhs(), &[]);
    assert!(matches!(a.event(), Event::Closed(CloseReason::CmdSnGap)));
}

#[test]
fn one_connection_logs_another_out() {
    let (mut a, session) = leading(config());
    let b = join(&session, 1, "");
    let answer = |peer: &mut Peer| {
        let pdu = peer.pdu();
        assert_eq!(pdu.opcode(), Opcode::LogoutResponse);
        LogoutResponse::parse(&pdu.bhs).unwrap().response
    };
    let request = LogoutRequest { cid: 1, ..a.logout(LogoutReason::CloseConnection) };
    a.send(request.to_bhs(), &[]);
    let asked = |event| {
        let Event::LogoutOther { initiator_task_tag, cid: 1 } = event else { panic!("{event:?}") };
        initiator_task_tag
    };
    let tag = asked(a.event());
    assert_eq!(tag, request.initiator_task_tag);
    a.no_pdu();
    // It goes on meanwhile; the tag is in use.
    let command = a.read_command(0);
    let read = a.run(&command);
    a.good(read);
    assert_eq!(a.pdus().len(), 1);
    a.send(request.to_bhs(), &[]);
    assert_eq!(Reject::parse(&a.pdu().bhs).unwrap().reason, RejectReason::TaskInProgress);
    drop(b);
    a.conn.logout_other_complete(tag, true);
    assert_eq!(answer(&mut a), LogoutResult::Closed);
    let request = LogoutRequest { cid: 1, ..a.logout(LogoutReason::CloseConnection) };
    a.send(request.to_bhs(), &[]);
    let tag = asked(a.event());
    a.conn.logout_other_complete(tag, false);
    assert_eq!(answer(&mut a), LogoutResult::CidNotFound);
    let request = LogoutRequest { cid: 1, ..a.logout(LogoutReason::RemoveConnectionForRecovery) };
    a.send(request.to_bhs(), &[]);
    assert_eq!(answer(&mut a), LogoutResult::RecoveryNotSupported);
    let command = a.read_command(0);
    a.run(&command);
}

#[test]
fn a_discovery_session_is_joined_by_nobody() {
    assert!(Peer::discovery(config()).conn.session().is_none());
    assert!(Peer::new(config()).conn.session().is_none());
}
