//! Connections of a session that end with commands under way: what is answered meanwhile, and when.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use lusd::lun::gate::Permit;
use lusd::lun::unit::Unit;
use lusd::service::{Limits, STALL_BOUND};

use crate::atomic::sixteen;
use crate::connections::{join, logout_answer, send_logout};
use crate::gateway::{Gateway, HOST, OTHER_HOST, TARGET, limits, limits_with, until};
use crate::initiator::{Command, Gone, Initiator, op, pattern, tmf};

const COMPLETE: u8 = 0;
const TASK_DOES_NOT_EXIST: u8 = 1;
const BUSY: u8 = 0x08;
const KIB: usize = 1024;

fn start() -> (Gateway, Arc<Unit>) {
    Gateway::with_ram(limits_with(|iscsi| iscsi.max_connections = 3), 1)
}

fn leading(gateway: &Gateway) -> Initiator {
    gateway.session_of(HOST, "MaxConnections=16\0")
}

/// A write that is inside the gate and has not ended, as one does that librbd has not ended. It goes on when the permit has left.
fn under_way(unit: &Unit, host: &mut Initiator, lba: u32) -> (u32, Permit) {
    let permit = unit.gate.enter(0).unwrap();
    let tag = host.submit(&sixteen(0x9c, lba.into(), 8, pattern(lba, 4096)).all_immediate());
    host.quiet();
    (tag, permit)
}

/// What the daemon does at once is done by now, and nothing has come.
#[track_caller]
fn hears_nothing(gateway: &Gateway, host: &Initiator) {
    gateway.session_of(OTHER_HOST, "").stays_quiet();
    host.stream.set_nonblocking(true).unwrap();
    let peeked = host.stream.peek(&mut [0]).map_err(|err| err.kind());
    host.stream.set_nonblocking(false).unwrap();
    assert_eq!((peeked, host.received.len()), (Err(ErrorKind::WouldBlock), 0));
}

fn lands(host: &mut Initiator, lba: u32) {
    assert!(host.run(&Command::read(lba, 8)).good().data == pattern(lba, 4096));
}

/// RFC 7143 11.9.1: a host that is asked to log out may close the session with one connection. An answered logout means that nothing of
/// the session lands later.
#[test]
fn a_logout_that_was_asked_for_waits_for_the_other_connections() {
    let (gateway, unit) = start();
    let mut a = leading(&gateway);
    let mut b = join(&gateway, &a, 1).unwrap();
    let (_, permit) = under_way(&unit, &mut b, 8);
    a.cmd_sn = b.cmd_sn;
    gateway.service.sessions.ask_for_logout();
    for connection in [&mut a, &mut b] {
        assert_eq!(connection.other(op::ASYNC_MESSAGE).bhs[36], 1);
    }
    let tag = send_logout(&mut a, 0, 0);
    hears_nothing(&gateway, &a);
    unit.gate.leave(permit);
    assert_eq!(logout_answer(&mut a, tag), 0);
    lands(&mut gateway.session(), 8);
}

/// However long that takes.
#[test]
#[expect(clippy::disallowed_methods, reason = "blocks a test's own thread, not a shard")]
fn a_logout_is_not_answered_by_the_clock() {
    const LIMIT: Duration = Duration::from_secs(3);
    let limits = limits_with(|iscsi| (iscsi.max_connections, iscsi.login_timeout) = (3, LIMIT));
    let (gateway, unit) = Gateway::with_ram(limits, 1);
    let mut a = leading(&gateway);
    let mut b = join(&gateway, &a, 1).unwrap();
    let (_, permit) = under_way(&unit, &mut b, 8);
    a.cmd_sn = b.cmd_sn;
    let tag = send_logout(&mut a, 0, 0);
    std::thread::sleep(LIMIT + LIMIT / 2);
    hears_nothing(&gateway, &a);
    unit.gate.leave(permit);
    assert_eq!(logout_answer(&mut a, tag), 0);
}

/// A connection that has another one logged out goes on meanwhile, and its commands do not grow old.
#[test]
fn a_connection_goes_on_while_it_ends_another() {
    let (gateway, unit) = start();
    let mut a = leading(&gateway);
    let mut b = join(&gateway, &a, 1).unwrap();
    let (_, permit) = under_way(&unit, &mut b, 8);
    a.cmd_sn = b.cmd_sn;
    let tag = send_logout(&mut a, 1, 1);
    a.run(&Command::write(64, &pattern(64, 4096)).all_immediate()).good();
    // Again, and of one that is not there.
    let again = send_logout(&mut a, 1, 1);
    let missing = send_logout(&mut a, 1, 7);
    assert_eq!(logout_answer(&mut a, missing), 1);
    a.stays_quiet();
    unit.gate.leave(permit);
    for tag in [tag, again] {
        assert_eq!(logout_answer(&mut a, tag), 0);
    }
    lands(&mut a, 64);
}

/// One connection logs itself out, and another one all: both are answered, the one that waits for the other last.
#[test]
fn a_logout_goes_on_when_the_session_is_closed() {
    let (gateway, unit) = start();
    let mut a = leading(&gateway);
    let mut b = join(&gateway, &a, 1).unwrap();
    let (_, permit) = under_way(&unit, &mut b, 8);
    a.cmd_sn = b.cmd_sn;
    let one = send_logout(&mut b, 1, 1);
    hears_nothing(&gateway, &b);
    let all = send_logout(&mut a, 0, 0);
    hears_nothing(&gateway, &a);
    hears_nothing(&gateway, &b);
    unit.gate.leave(permit);
    assert_eq!(logout_answer(&mut b, one), 0);
    assert_eq!(b.end(), Gone::Closed);
    drop(b);
    assert_eq!(logout_answer(&mut a, all), 0);
    assert_eq!(a.end(), Gone::Closed);
}

/// Two that log each other out: one is answered, the other one ended.
#[test]
fn connections_that_end_each_other() {
    let (gateway, _) = start();
    let mut a = leading(&gateway);
    let mut b = join(&gateway, &a, 1).unwrap();
    send_logout(&mut a, 1, 1);
    send_logout(&mut b, 1, 0);
    let ends = [a.receive(), b.receive()].map(|pdu| pdu.map(|pdu| pdu.opcode()));
    assert!(matches!(
        ends,
        [Ok(op::LOGOUT_RESPONSE), Err(Gone::Closed)] | [Err(Gone::Closed), Ok(op::LOGOUT_RESPONSE)]
    ));
}

/// What waits for memory is a task like any other to a function that another connection brings.
#[test]
fn a_function_reaches_a_command_without_memory_on_another_connection() {
    let limits = Limits {
        data_memory: 128 * KIB,
        connection_memory: 128 * KIB,
        ..limits_with(|iscsi| iscsi.max_connections = 3)
    };
    let (gateway, _) = Gateway::with_ram(limits, 1);
    let mut a = leading(&gateway);
    let mut b = join(&gateway, &a, 1).unwrap();
    let mut first = gateway.session_of(OTHER_HOST, "");
    first.answers_r2t = false;
    let held = first.submit(&Command::write(1024, &pattern(1, 128 * KIB)));
    first.ping();
    let r2t = first.r2ts.pop().expect("an R2T");
    b.cmd_sn = a.cmd_sn;
    b.submit(&Command::write(0, &pattern(2, 4096)).immediate(512));
    a.cmd_sn = b.cmd_sn;
    first.stays_quiet();
    assert_eq!(a.tmf(tmf::ABORT_TASK_SET, 0), COMPLETE);
    first.answer_r2t(&r2t);
    first.answer(held).good();
    b.quiet();
    assert!(a.run(&Command::read(0, 8)).good().data == [0; 4096]);
    gateway.memory_is_back();
}

/// An immediate function has the number of the command that follows it: that one, and those after it, are not meant, though they may have
/// come by another connection before it.
#[test]
fn a_function_spares_what_was_sent_after_it() {
    let (gateway, unit) = start();
    let mut a = leading(&gateway);
    let mut b = join(&gateway, &a, 1).unwrap();
    let barrier = gateway.runtime.block_on(unit.gate.barrier()).unwrap();
    b.cmd_sn = a.cmd_sn;
    let before = b.submit(&Command::write(0, &pattern(1, 4096)).all_immediate());
    a.cmd_sn = b.cmd_sn;
    let after = b.submit(&Command::write(8, &pattern(8, 4096)).all_immediate());
    b.quiet();
    let function = a.submit_tmf(tmf::ABORT_TASK_SET, 0, u32::MAX);
    a.cmd_sn = b.cmd_sn;
    a.stays_quiet();
    // It acknowledges what it was answered.
    b.quiet();
    assert_eq!(a.tmf_answer(function), COMPLETE);
    drop(barrier);
    gateway.service.sessions.wake_all();
    b.answer(after).good();
    b.quiet();
    assert_ne!(before, after);
    assert!(a.run(&Command::read(0, 8)).good().data == [0; 4096]);
    lands(&mut a, 8);
}

/// RFC 7143 11.5.1: when a connection has failed, its tasks are aborted by another one. What is told of them has to be certain.
#[test]
fn an_abort_of_what_a_lost_connection_left_behind() {
    let (gateway, unit) = start();
    let mut a = leading(&gateway);
    let mut b = join(&gateway, &a, 1).unwrap();
    b.cmd_sn = a.cmd_sn;
    let cmd_sn = b.cmd_sn;
    let (task, permit) = under_way(&unit, &mut b, 8);
    a.cmd_sn = b.cmd_sn;
    let sockets = gateway.service.sessions.sockets();
    drop(b);
    until("it has hung up", || gateway.service.sessions.sockets() < sockets);
    let tag = a.submit_tmf_for(tmf::ABORT_TASK, 0, task, cmd_sn);
    a.stays_quiet();
    unit.gate.leave(permit);
    assert_eq!(a.tmf_answer(tag), TASK_DOES_NOT_EXIST);
    lands(&mut a, 8);
}

/// The initiator has to bring it by the connection of the task; if it does not, it is told nothing wrong all the same.
#[test]
fn an_abort_by_another_connection() {
    let (gateway, unit) = start();
    let mut a = leading(&gateway);
    let mut b = join(&gateway, &a, 1).unwrap();
    let barrier = gateway.runtime.block_on(unit.gate.barrier()).unwrap();
    b.cmd_sn = a.cmd_sn;
    let cmd_sn = b.cmd_sn;
    let task = b.submit(&Command::write(0, &pattern(1, 4096)).all_immediate());
    b.quiet();
    a.cmd_sn = b.cmd_sn;
    // Of another number it is another task.
    let tag = a.submit_tmf_for(tmf::ABORT_TASK, 0, task, cmd_sn.wrapping_sub(1));
    assert_eq!(a.tmf_answer(tag), TASK_DOES_NOT_EXIST);
    let tag = a.submit_tmf_for(tmf::ABORT_TASK, 0, task, cmd_sn);
    b.quiet();
    assert_eq!(a.tmf_answer(tag), COMPLETE);
    drop(barrier);
    gateway.service.sessions.wake_all();
    b.quiet();
    assert!(a.run(&Command::read(0, 8)).good().data == [0; 4096]);
}

/// librbd keeps no order between writes in flight: what an initiator repeats on another connection waits for what the lost one has left.
#[test]
fn commands_wait_for_what_a_lost_connection_left_behind() {
    let (gateway, unit) = start();
    let bystander = gateway.ram();
    gateway.show(&[(0, &unit), (1, &bystander)]);
    let mut a = leading(&gateway);
    let mut b = join(&gateway, &a, 1).unwrap();
    let (_, permit) = under_way(&unit, &mut b, 8);
    a.cmd_sn = b.cmd_sn;
    let sockets = gateway.service.sessions.sockets();
    drop(b);
    until("it has hung up", || gateway.service.sessions.sockets() < sockets);
    let simple = a.submit(&Command::write(64, &pattern(64, 4096)).all_immediate());
    let head = a.submit(&Command::write(72, &pattern(72, 4096)).all_immediate().head_of_queue());
    a.stays_quiet();
    // Another unit, and another host, are not concerned.
    a.run(&Command::read(0, 8).on(1)).good();
    gateway.session_of(OTHER_HOST, "").run(&Command::read(64, 8)).good();
    // Nor is who comes in later better off.
    let mut c = join(&gateway, &a, 2).unwrap();
    let late = c.submit(&Command::write(80, &pattern(80, 4096)).all_immediate());
    a.cmd_sn = c.cmd_sn;
    c.stays_quiet();
    unit.gate.leave(permit);
    a.answer(simple).good();
    a.answer(head).good();
    c.answer(late).good();
    lands(&mut a, 8);
}

/// A login by another port of the initiator waits for what a connection has left behind from the moment on that this is given up, whether
/// its peer listens to the farewell or not.
#[test]
#[expect(clippy::disallowed_methods, reason = "blocks a test's own thread, not a shard")]
fn a_login_waits_for_what_a_dropped_connection_left_behind() {
    const LIMIT: Duration = Duration::from_millis(100);
    for listens in [true, false] {
        let limits = limits_with(|iscsi| iscsi.data_out_timeout = LIMIT);
        let (gateway, unit) = Gateway::with_ram(limits, 1);
        let mut old = gateway.session_of(HOST, "MaxRecvDataSegmentLength=262144\0InitialR2T=No\0");
        let (_, permit) = under_way(&unit, &mut old, 8);
        // Its data never comes.
        let write = Command { unsolicited: 4096, ..Command::write(0, &pattern(0, 4096)) };
        if listens {
            old.submit_without_unsolicited(&write);
            assert_eq!(old.other(op::ASYNC_MESSAGE).bhs[36], 2, "this connection is dropped");
            assert_eq!(old.end(), Gone::Closed);
        } else {
            old.receive_little();
            for i in 0..3 {
                old.submit(&Command::read(i * 16_384, 16_384));
            }
            old.submit_without_unsolicited(&write);
            std::thread::sleep(LIMIT * 10);
        }
        let mut new = gateway.connect();
        assert_ne!(new.isid, old.isid);
        new.send_login(&format!("InitiatorName={HOST}\0TargetName={TARGET}\0"));
        hears_nothing(&gateway, &new);
        unit.gate.leave(permit);
        new.login_answer().unwrap();
        new.clear_attentions(0);
        lands(&mut new, 8);
    }
}

/// What an initiator has sent behind its login, without waiting for the answer, grows old while the login waits.
#[test]
#[expect(clippy::disallowed_methods, reason = "blocks a test's own thread, not a shard")]
fn what_stood_behind_a_login_for_too_long_is_busy() {
    let (gateway, unit) = Gateway::with_ram(Limits { stall_bound: STALL_BOUND, ..limits() }, 1);
    let mut old = gateway.session();
    let (_, permit) = under_way(&unit, &mut old, 8);
    let mut new = gateway.connect();
    new.isid = old.isid;
    new.send_login(&format!("InitiatorName={HOST}\0TargetName={TARGET}\0"));
    let attention = new.submit(&Command::test_unit_ready());
    let write = new.submit(&Command::write(0, &pattern(0, 4096)).all_immediate());
    assert_eq!(old.end(), Gone::Reset);
    std::thread::sleep(STALL_BOUND + STALL_BOUND / 2);
    unit.gate.leave(permit);
    new.login_answer().unwrap();
    assert_eq!(new.answer(attention).status, 2);
    assert_eq!(new.answer(write).status, BUSY);
}

/// The bound on a session's connections is kept when several log in at once.
#[test]
fn no_more_connections_than_were_agreed_on() {
    let (gateway, _) = start();
    let a = leading(&gateway);
    let begin = |cid| {
        let mut connection = gateway.connect();
        (connection.isid, connection.tsih, connection.cid, connection.cmd_sn) =
            (a.isid, a.tsih, cid, a.cmd_sn);
        connection.login_step(1 << 2, &format!("InitiatorName={HOST}\0TargetName={TARGET}\0")).unwrap();
        connection
    };
    let mut connections: Vec<_> = (1..=4).map(begin).collect();
    let up = connections.iter_mut().filter_map(|connection| {
        connection.send_login("");
        connection.receive().ok()
    });
    assert_eq!(up.count(), 2);
}
