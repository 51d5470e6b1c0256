//! Sessions that end: a newer login takes their place, the initiator logs out, the daemon stops.

use lusd::target::view::TargetView;

use crate::gateway::{Gateway, HOST, OTHER_HOST, TARGET, limits, lun, until};
use crate::initiator::{Command, Gone, Initiator, pattern};

const LONG_SEGMENTS: &str = "MaxRecvDataSegmentLength=262144\0";

#[test]
fn a_newer_login_takes_the_place_of_the_older_one() {
    let (gateway, unit) = Gateway::with_ram(limits(), 2);
    let mut old = gateway.session();
    let mut bystander = gateway.session();
    let mut stranger = gateway.connect();
    stranger.isid = old.isid;
    stranger.login(OTHER_HOST, TARGET, "").unwrap();
    // It leaves a write half done and another one held off.
    old.answers_r2t = false;
    old.submit(&Command::write(0, &pattern(1, 4096)));
    let barrier = gateway.runtime.block_on(unit.gate.barrier()).unwrap();
    old.submit(&Command::write(8, &pattern(2, 4096)).all_immediate());
    old.quiet();
    assert_eq!(gateway.service.memory.used(), 8192);

    let mut new = gateway.connect();
    new.isid = old.isid;
    new.login(HOST, TARGET, "").unwrap();
    assert_eq!(
        gateway.service.memory.used(),
        0,
        "nothing of the older session is left when the login is answered"
    );
    assert_eq!(gateway.service.sessions.connections(), 3);
    assert_eq!(old.end(), Gone::Reset);
    drop(barrier);
    gateway.service.sessions.wake_all();
    new.clear_attentions(0);
    assert!(new.run(&Command::read(0, 16)).good().data == [0; 8192]);
    // Another ISID, and another host with the same one, are other sessions.
    bystander.run(&Command::test_unit_ready()).good();
    stranger.clear_attentions(0);
}

#[test]
fn the_same_initiator_port_at_another_target_is_another_session() {
    const SECOND: &str = "iqn.2026-11.io.lus:second";
    let gateway = Gateway::start(limits(), 2);
    let target = TargetView { open: true, luns: [(lun(0), gateway.ram())].into(), ..Default::default() };
    gateway.publish([(TARGET.to_owned(), target.clone()), (SECOND.to_owned(), target)].into());
    let (mut first, mut second) = (gateway.session(), gateway.connect());
    second.isid = first.isid;
    second.login(HOST, SECOND, "").unwrap();
    let mut discovery = gateway.connect();
    discovery.isid = first.isid;
    discovery.login(HOST, "", "").unwrap();
    first.run(&Command::test_unit_ready()).good();
    second.clear_attentions(0);
    assert_eq!(discovery.send_targets("All").len(), 4);
}

/// Whatever their order, one is left.
#[test]
fn many_logins_for_one_place() {
    let (gateway, _) = Gateway::with_ram(limits(), 2);
    let gateway = &gateway;
    let mut left: Vec<_> = std::thread::scope(|scope| {
        let login = |mut initiator: Initiator| {
            initiator.isid = [0x80, 0, 0, 0, 0, 1];
            initiator.send_login(&format!("InitiatorName={HOST}\0TargetName={TARGET}\0"));
            // Each is logged in, or is reset before it is.
            initiator.receive().is_ok().then_some(initiator)
        };
        let logins: Vec<_> = (0..12).map(|_| scope.spawn(move || login(gateway.connect()))).collect();
        logins.into_iter().filter_map(|login| login.join().unwrap()).collect()
    });
    until("one is left", || gateway.service.sessions.connections() == 1);
    left.retain_mut(Initiator::is_alive);
    assert_eq!(left.len(), 1);
    left[0].clear_attentions(0);
}

#[test]
fn a_logout_ends_the_tasks_of_its_session() {
    let (gateway, unit) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.session();
    host.answers_r2t = false;
    host.submit(&Command::write(0, &pattern(1, 4096)));
    host.ping();
    assert_eq!(host.r2ts.len(), 1);
    let barrier = gateway.runtime.block_on(unit.gate.barrier()).unwrap();
    host.submit(&Command::write(8, &pattern(2, 4096)).all_immediate());
    host.submit(&Command::read(8, 8));
    host.quiet();
    host.logout();
    assert_eq!(host.end(), Gone::Closed);
    drop(barrier);
    gateway.service.sessions.wake_all();
    gateway.memory_is_back();
    assert!(gateway.session().run(&Command::read(0, 16)).good().data == [0; 8192]);
}

#[test]
fn a_daemon_that_stops_sends_what_is_answered_and_closes() {
    const READS: u32 = 24;
    let (gateway, unit) = Gateway::with_ram(limits(), 2);
    let mut host = gateway.session_of(HOST, LONG_SEGMENTS);
    let mut idle = gateway.session_of(OTHER_HOST, "");
    let mut unknown = gateway.connect();
    for i in 0..READS {
        host.run(&Command::write(i * 2048, &pattern(i, 1 << 20))).good();
    }
    // More than the sockets hold, of which the initiator reads nothing yet.
    let reads: Vec<_> = (0..READS).map(|i| host.submit(&Command::read(i * 2048, 2048))).collect();
    let charged = || gateway.service.memory.used() > 0;
    until("the target has begun to answer", charged);
    let begun = host.answer(reads[0]).good();
    assert!(begun.data == pattern(0, 1 << 20));
    host.ping();
    // It never got through the gate, so it is not answered.
    let barrier = gateway.runtime.block_on(unit.gate.barrier()).unwrap();
    host.submit(&Command::write(0, &pattern(99, 512)).all_immediate());
    host.ping();
    gateway.service.sessions.close_all();
    idle.is_dropped();
    assert_eq!(unknown.end(), Gone::Closed);
    for (i, tag) in reads.into_iter().enumerate().skip(1) {
        assert!(host.answer(tag).good().data == pattern(i as u32, 1 << 20), "read {i}");
    }
    host.is_dropped();
    drop(barrier);
    assert_eq!(gateway.connect().end(), Gone::Closed, "who still comes is closed too");
}

#[test]
fn an_isolated_daemon_resets_its_sessions_and_lets_nobody_in() {
    let (gateway, unit) = Gateway::with_ram(limits(), 2);
    let (mut host, mut idle) = (gateway.session(), gateway.session_of(OTHER_HOST, ""));
    let mut discovery = gateway.connect();
    discovery.login(HOST, "", "").unwrap();
    host.run(&Command::write(0, &pattern(1, 4096))).good();
    let barrier = gateway.runtime.block_on(unit.gate.barrier()).unwrap();
    host.submit(&Command::write(0, &pattern(2, 4096)).all_immediate());
    host.quiet();
    gateway.service.set_isolated(true);
    drop(barrier);
    for session in [&mut host, &mut idle, &mut discovery] {
        assert_eq!(session.end(), Gone::Reset);
    }
    until("every socket is closed", || gateway.service.sessions.sockets() == 0);
    for target in [TARGET, ""] {
        assert_eq!(gateway.connect().login(HOST, target, ""), Err((3, 1)), "service unavailable");
    }
    gateway.service.set_isolated(false);
    let mut host = gateway.session();
    assert!(
        host.run(&Command::read(0, 8)).good().data == pattern(1, 4096),
        "what waited was not carried out"
    );
}

#[test]
fn a_host_is_asked_to_log_out_once_and_may_finish_first() {
    const ASYNC_MESSAGE: u8 = 0x32;
    const LOGOUT_REQUEST: u8 = 1;
    let (gateway, _unit) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.session();
    gateway.service.sessions.ask_for_logout();
    let asked = host.receive().unwrap();
    assert_eq!((asked.opcode(), asked.bhs[36]), (ASYNC_MESSAGE, LOGOUT_REQUEST));
    assert_eq!(asked.bhs[42..44], lusd::net::connection::LOGOUT_WITHIN_S.to_be_bytes(), "Parameter3");
    host.run(&Command::read(0, 8)).good();
    gateway.service.sessions.ask_for_logout();
    host.logout();
    assert_eq!(host.end(), Gone::Closed);
    gateway.session().run(&Command::read(0, 8)).good();
}
