//! Sessions of several connections, over real sockets and on two shards: half of the connections have to be handed over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use lusd::lun::unit::Unit;
use lusd_scsi::UnitAttention;

use crate::gateway::{Gateway, HOST, OTHER_HOST, TARGET, limits_with, until};
use crate::initiator::{Command, Gone, Initiator, Pdu, pattern, tmf};
use crate::reservations::{PREEMPT_AND_ABORT, REGISTER, REGISTRANTS_ONLY, out};

const TOO_MANY: (u8, u8) = (2, 6);
const CANNOT_INCLUDE: (u8, u8) = (2, 8);
const NO_SESSION: (u8, u8) = (2, 10);
const COMPLETE: u8 = 0;

fn start() -> (Gateway, Arc<Unit>) {
    Gateway::with_ram(limits_with(|iscsi| iscsi.max_connections = 3), 2)
}

fn leading(gateway: &Gateway) -> Initiator {
    gateway.session_of(HOST, "MaxConnections=16\0TaskReporting=FastAbort\0")
}

/// Another connection of the session that `of` is of.
pub(crate) fn join(gateway: &Gateway, of: &Initiator, cid: u16) -> Result<Initiator, (u8, u8)> {
    let mut other = gateway.connect();
    (other.isid, other.tsih, other.cid, other.cmd_sn) = (of.isid, of.tsih, cid, of.cmd_sn);
    other.login(HOST, TARGET, "")?;
    assert_eq!(other.tsih, of.tsih);
    Ok(other)
}

/// A command takes the next number of the session.
fn run(session: &mut [&mut Initiator], on: usize, command: &Command) -> crate::initiator::Answer {
    let cmd_sn = session[on].cmd_sn;
    for connection in session.iter_mut() {
        connection.cmd_sn = cmd_sn + 1;
    }
    session[on].cmd_sn = cmd_sn;
    session[on].run(command)
}

/// Runs `body` while `other` acknowledges whatever it gets, as an initiator does. Its CmdSN is ahead then: `body` may take as many as a window has.
pub(crate) fn while_acknowledging<T>(other: &mut Initiator, body: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    other.cmd_sn += 16;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(SeqCst) {
                other.quiet();
            }
        });
        // Also when it panics: else the other thread would go on for ever.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        over.store(true, SeqCst);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[test]
fn commands_by_three_connections() {
    let (gateway, _) = start();
    // Whichever shard the leading connection lives on.
    for _ in 0..2 {
        let mut a = leading(&gateway);
        let (mut b, mut c) = (join(&gateway, &a, 1).unwrap(), join(&gateway, &a, 2).unwrap());
        assert_eq!(join(&gateway, &a, 3).err(), Some(TOO_MANY));
        let mut session = [&mut a, &mut b, &mut c];
        for i in 0..30_u32 {
            let (write, read) = (i as usize % 3, (i as usize + 1) % 3);
            // No unit attention: it is one nexus.
            run(&mut session, write, &Command::write(i * 8, &pattern(i, 4096))).good();
            assert!(run(&mut session, read, &Command::read(i * 8, 8)).good().data == pattern(i, 4096));
        }
        gateway.connect();
    }
    gateway.memory_is_back();
}

#[test]
fn a_command_waits_for_the_one_before_it_on_another_connection() {
    let (gateway, _) = start();
    let mut a = leading(&gateway);
    let mut b = join(&gateway, &a, 1).unwrap();
    let start = a.cmd_sn;
    b.cmd_sn = start + 1;
    let second = b.submit(&Command::write(0, &pattern(2, 4096)).all_immediate());
    let third = b.submit(&Command::read(0, 8));
    let mut other = gateway.session_of(OTHER_HOST, "");
    for _ in 0..20 {
        assert!(other.run(&Command::read(0, 8)).good().data == [0; 4096], "it is not carried out");
    }
    let first = a.submit(&Command::write(0, &pattern(1, 4096)).all_immediate());
    a.answer(first).good();
    b.answer(second).good();
    assert!(b.answer(third).good().data == pattern(2, 4096));
}

#[test]
fn the_end_of_one_connection_ends_its_tasks_only() {
    let (gateway, unit) = start();
    let mut a = leading(&gateway);
    let mut b = join(&gateway, &a, 1).unwrap();
    let barrier = gateway.runtime.block_on(unit.gate.barrier()).unwrap();
    let stays = a.submit(&Command::write(0, &pattern(1, 4096)).all_immediate());
    a.quiet();
    b.cmd_sn = a.cmd_sn;
    b.submit(&Command::write(8, &pattern(2, 4096)).all_immediate());
    b.quiet();
    a.cmd_sn = b.cmd_sn;
    drop(b);
    until("it is gone", || gateway.service.sessions.connections() == 1);
    drop(barrier);
    gateway.service.sessions.wake_all();
    a.answer(stays).good();
    assert!(a.run(&Command::read(0, 8)).good().data == pattern(1, 4096));
    assert!(a.run(&Command::read(8, 8)).good().data == [0; 4096]);
    // The identifier is free again; so is that of the leading connection, once it has ended.
    let mut b = join(&gateway, &a, 1).unwrap();
    drop(a);
    until("it is gone", || gateway.service.sessions.connections() == 1);
    b.run(&Command::read(0, 8)).good();
    let mut a = join(&gateway, &b, 0).unwrap();
    a.run(&Command::test_unit_ready()).good();
}

#[test]
fn logins_that_lead_nowhere() {
    let (gateway, _) = start();
    let mut a = leading(&gateway);
    let mut wrong = gateway.connect();
    (wrong.isid, wrong.tsih) = (a.isid, a.tsih.wrapping_add(1000) | 1);
    assert_eq!(wrong.login(HOST, TARGET, "").err(), Some(NO_SESSION));
    let mut wrong = gateway.connect();
    (wrong.isid, wrong.tsih) = (a.isid, a.tsih);
    assert_eq!(wrong.login(OTHER_HOST, TARGET, "").err(), Some(CANNOT_INCLUDE));
    let mut wrong = gateway.connect();
    (wrong.isid, wrong.tsih) = ([9; 6], a.tsih);
    assert_eq!(wrong.login(HOST, TARGET, "").err(), Some(CANNOT_INCLUDE));
    let mut wrong = gateway.connect();
    wrong.tsih = 7;
    assert_eq!(wrong.login(HOST, "", "").err(), Some(NO_SESSION), "discovery");
    // By default a session has one connection.
    let (single, _) = Gateway::with_ram(crate::gateway::limits(), 2);
    let alone = leading(&single);
    assert_eq!(join(&single, &alone, 1).err(), Some(TOO_MANY));
    a.run(&Command::test_unit_ready()).good();
}

#[test]
fn the_same_connection_again_takes_its_place() {
    for connections in [1, 3] {
        let limits = limits_with(|iscsi| iscsi.max_connections = connections);
        let (gateway, _) = Gateway::with_ram(limits, 2);
        let mut a = leading(&gateway);
        a.answers_r2t = false;
        a.submit(&Command::write(0, &pattern(1, 4096)));
        a.ping();
        let mut again = join(&gateway, &a, 0).unwrap();
        assert_eq!(a.end(), Gone::Reset);
        assert_eq!(gateway.service.memory.used(), 0);
        // The session goes on: no unit attention, and its numbers.
        assert!(again.run(&Command::read(0, 8)).good().data == [0; 4096]);
    }
}

#[test]
fn a_new_session_ends_all_connections_of_the_old_one() {
    let (gateway, _) = start();
    let mut a = leading(&gateway);
    let mut b = join(&gateway, &a, 1).unwrap();
    let mut new = gateway.connect();
    new.isid = a.isid;
    new.login(HOST, TARGET, "").unwrap();
    assert_eq!((a.end(), b.end()), (Gone::Reset, Gone::Reset));
    new.clear_attentions(0);
    assert_eq!(gateway.service.sessions.connections(), 1);
}

/// Sends a logout; returns its task tag.
pub(crate) fn send_logout(connection: &mut Initiator, reason: u8, cid: u16) -> u32 {
    let tag = connection.tag();
    let pdu = Pdu::new(0x46, 0x80 | reason)
        .put_u32(16, tag)
        .put(20, &cid.to_be_bytes())
        .put_u32(24, connection.cmd_sn);
    connection.send(&pdu);
    tag
}

pub(crate) fn logout_answer(connection: &mut Initiator, tag: u32) -> u8 {
    let answer = connection.other(crate::initiator::op::LOGOUT_RESPONSE);
    assert_eq!(answer.tag(), tag);
    answer.bhs[2]
}

fn logout(connection: &mut Initiator, reason: u8, cid: u16) -> u8 {
    let tag = send_logout(connection, reason, cid);
    logout_answer(connection, tag)
}

#[test]
fn logouts_of_other_connections_and_of_all() {
    let (gateway, _) = start();
    let mut a = leading(&gateway);
    let mut b = join(&gateway, &a, 1).unwrap();
    assert_eq!(logout(&mut a, 1, 9), 1, "there is none of this identifier");
    assert_eq!(logout(&mut a, 2, 1), 2, "no recovery at level 0");
    assert_eq!(logout(&mut a, 1, 1), 0);
    assert_eq!(b.end(), Gone::Closed);
    a.run(&Command::test_unit_ready()).good();
    let mut b = join(&gateway, &a, 1).unwrap();
    let mut c = join(&gateway, &a, 2).unwrap();
    // Its own connection, then the session.
    assert_eq!(logout(&mut c, 1, 2), 0);
    assert_eq!(c.end(), Gone::Closed);
    assert_eq!(logout(&mut b, 0, 0), 0);
    assert_eq!((a.end(), b.end()), (Gone::Closed, Gone::Closed));
    until("all are gone", || gateway.service.sessions.connections() == 0);
}

/// A function is about the tasks of all connections of its session.
#[test]
fn an_abort_task_set_reaches_the_other_connections() {
    for function in [tmf::ABORT_TASK_SET, tmf::LOGICAL_UNIT_RESET] {
        let (gateway, unit) = start();
        let mut a = leading(&gateway);
        let mut b = join(&gateway, &a, 1).unwrap();
        let barrier = gateway.runtime.block_on(unit.gate.barrier()).unwrap();
        b.submit(&Command::write(8, &pattern(2, 4096)).all_immediate());
        b.quiet();
        b.answers_r2t = false;
        b.submit(&Command::write(16, &pattern(3, 4096)));
        b.ping();
        a.cmd_sn = b.cmd_sn;
        let tag = a.submit_tmf(function, 0, u32::MAX);
        // FastAbort: the other connection is told.
        assert_eq!(b.other(crate::initiator::op::ASYNC_MESSAGE).bhs[36], 5);
        drop(barrier);
        gateway.service.sessions.wake_all();
        // The message has to be acknowledged.
        b.quiet();
        assert_eq!(a.tmf_answer(tag), COMPLETE);
        gateway.memory_is_back();
        b.quiet();
        if function == tmf::LOGICAL_UNIT_RESET {
            let told = while_acknowledging(&mut b, || a.fails(&Command::test_unit_ready()));
            assert_eq!(told, (6, 0x29, 0x03));
        }
        for lba in [8, 16] {
            assert!(a.run(&Command::read(lba, 8)).good().data == [0; 4096]);
        }
    }
}

/// A write whose data is asked for and not sent: it stands in the task set until the R2T is answered.
fn standing(session: &mut [&mut Initiator], on: usize, command: &Command) -> Pdu {
    let cmd_sn = session[on].cmd_sn;
    session.iter_mut().for_each(|connection| connection.cmd_sn = cmd_sn + 1);
    session[on].cmd_sn = cmd_sn;
    session[on].answers_r2t = false;
    session[on].submit(command);
    session[on].ping();
    session[on].answers_r2t = true;
    session[on].r2ts.pop().expect("an R2T")
}

/// Sends a command with the session's next number.
fn submit(session: &mut [&mut Initiator], on: usize, command: &Command) -> u32 {
    let cmd_sn = session[on].cmd_sn;
    session.iter_mut().for_each(|connection| connection.cmd_sn = cmd_sn + 1);
    session[on].cmd_sn = cmd_sn;
    session[on].submit(command)
}

/// Task attributes hold over all connections of the session: it is one task set.
#[test]
fn an_ordered_task_waits_for_the_older_ones_of_all_connections() {
    let (gateway, unit) = start();
    let bystander = gateway.ram();
    gateway.show(&[(0, &unit), (1, &bystander)]);
    let mut a = leading(&gateway);
    let mut b = join(&gateway, &a, 1).unwrap();
    let (first, second) = (pattern(1, 4096), pattern(2, 4096));
    let session = &mut [&mut a, &mut b];
    let old = standing(session, 1, &Command::write(0, &first));
    let ordered = submit(session, 0, &Command::write(0, &second).all_immediate().ordered());
    let (here, there) = (submit(session, 0, &Command::read(0, 8)), submit(session, 1, &Command::read(0, 8)));
    for connection in session.iter_mut() {
        connection.stays_quiet();
    }
    // Another unit is not held; and who comes into the session meanwhile is.
    run(session, 1, &Command::read(0, 8).on(1)).good();
    let mut c = join(&gateway, session[1], 2).unwrap();
    let late = c.submit(&Command::read(0, 8));
    session.iter_mut().for_each(|connection| connection.cmd_sn = c.cmd_sn);
    c.stays_quiet();
    session[1].answer_r2t(&old);
    session[1].answer(old.tag()).good();
    session[0].answer(ordered).good();
    assert!(session[0].answer(here).good().data == second);
    assert!(session[1].answer(there).good().data == second);
    assert!(c.answer(late).good().data == second);
}

#[test]
fn a_head_of_queue_task_holds_the_others_of_all_connections() {
    let (gateway, _) = start();
    let mut a = leading(&gateway);
    let mut b = join(&gateway, &a, 1).unwrap();
    let session = &mut [&mut a, &mut b];
    let head = standing(session, 0, &Command::write(0, &pattern(1, 4096)).head_of_queue());
    let simple = submit(session, 1, &Command::read(0, 8));
    session[1].stays_quiet();
    // It waits for nobody, and neither does another one.
    run(session, 1, &Command::read(0, 8).head_of_queue()).good();
    session[0].answer_r2t(&head);
    session[0].answer(head.tag()).good();
    assert!(session[1].answer(simple).good().data == pattern(1, 4096));
}

/// What a connection held that ends goes on.
#[test]
fn an_ordered_task_that_is_lost_with_its_connection_holds_nobody() {
    let (gateway, _) = start();
    let mut a = leading(&gateway);
    let mut b = join(&gateway, &a, 1).unwrap();
    let session = &mut [&mut a, &mut b];
    standing(session, 0, &Command::write(0, &pattern(1, 4096)).ordered());
    let held = submit(session, 1, &Command::read(0, 8));
    session[1].stays_quiet();
    drop(a);
    assert!(b.answer(held).good().data == [0; 4096]);
    // The other way round: an older one is lost.
    let mut a = join(&gateway, &b, 0).unwrap();
    let session = &mut [&mut a, &mut b];
    standing(session, 0, &Command::write(0, &pattern(1, 4096)));
    let ordered = submit(session, 1, &Command::read(0, 8).ordered());
    session[1].stays_quiet();
    drop(a);
    assert!(b.answer(ordered).good().data == [0; 4096]);
}

#[test]
fn questions_are_about_the_tasks_of_all_connections() {
    const SUCCEEDED: u8 = 7;
    let (gateway, unit) = start();
    let bystander = gateway.ram();
    gateway.show(&[(0, &unit), (1, &bystander)]);
    let mut a = gateway.session_of(HOST, "MaxConnections=16\0iSCSIProtocolLevel=2\0");
    let mut b = join(&gateway, &a, 1).unwrap();
    assert_eq!(a.tmf(tmf::QUERY_TASK_SET, 0), COMPLETE);
    let session = &mut [&mut a, &mut b];
    let there = standing(session, 1, &Command::write(0, &pattern(1, 4096)));
    assert_eq!(a.tmf(tmf::QUERY_TASK_SET, 0), SUCCEEDED);
    assert_eq!(a.tmf(tmf::QUERY_TASK_SET, 1), COMPLETE);
    for (task, answer) in [(there.tag(), SUCCEEDED), (0x4711, COMPLETE)] {
        let tag = a.submit_tmf(tmf::QUERY_TASK, 0, task);
        assert_eq!(a.tmf_answer(tag), answer);
    }
    b.answer_r2t(&there);
    b.answer(there.tag()).good();
    assert_eq!(a.tmf(tmf::QUERY_TASK_SET, 0), COMPLETE);
}

/// RFC 7143 4.2.2.3.3: what was answered on another connection is acknowledged before the answer to a function that ends many tasks.
#[test]
fn a_function_waits_for_acknowledgements_on_other_connections() {
    let (gateway, _) = start();
    let mut a = leading(&gateway);
    let mut b = join(&gateway, &a, 1).unwrap();
    run(&mut [&mut a, &mut b], 1, &Command::read(0, 8)).good();
    b.answers_pings = false;
    let function = a.submit_tmf(tmf::ABORT_TASK_SET, 0, u32::MAX);
    // The target asks for it.
    let asked = b.other(crate::initiator::op::NOP_IN);
    assert_eq!(asked.tag(), u32::MAX);
    a.stays_quiet();
    b.answer_ping(&asked);
    assert_eq!(a.tmf_answer(function), COMPLETE);
    // What is acknowledged already is not asked for.
    assert_eq!(a.tmf(tmf::ABORT_TASK_SET, 0), COMPLETE);
    b.quiet();
}

/// RFC 7143 4.2.2.3.4: so are a unit attention and the end of PREEMPT AND ABORT, which may be about tasks of other connections.
#[test]
fn what_tells_of_ended_tasks_waits_for_acknowledgements_on_other_connections() {
    let (gateway, unit) = start();
    let mut a = leading(&gateway);
    a.run(&out(REGISTER, 0, 0, 1)).good();
    let mut b = join(&gateway, &a, 1).unwrap();
    for preempts in [false, true] {
        run(&mut [&mut a, &mut b], 1, &Command::read(0, 8)).good();
        b.answers_pings = false;
        let command = if preempts {
            out(PREEMPT_AND_ABORT, REGISTRANTS_ONLY, 1, 1).all_immediate()
        } else {
            unit.scsi.raise(UnitAttention::DeviceReset, None);
            Command::write(0, &pattern(1, 4096)).all_immediate()
        };
        let tag = submit(&mut [&mut a, &mut b], 0, &command);
        let asked = b.other(crate::initiator::op::NOP_IN);
        a.stays_quiet();
        // An abort does not take the answer away: it comes first.
        let function = a.submit_tmf(tmf::ABORT_TASK_SET, 0, u32::MAX);
        a.stays_quiet();
        b.answer_ping(&asked);
        b.answers_pings = true;
        let answer = a.answer(tag);
        if preempts {
            answer.good();
        } else {
            assert_eq!(answer.code(), (6, 0x29, 0x03));
        }
        b.quiet();
        assert_eq!(a.tmf_answer(function), COMPLETE);
    }
    // Where nothing is to be acknowledged nobody waits, and one that is gone is not waited for.
    unit.scsi.raise(UnitAttention::DeviceReset, None);
    b.answers_pings = false;
    let tag = submit(&mut [&mut a, &mut b], 0, &Command::test_unit_ready());
    drop(b);
    assert_eq!(a.answer(tag).code(), (6, 0x29, 0x03));
    gateway.memory_is_back();
}

/// RFC 7143 11.5.1: all commands with lower numbers are meant, by whichever connection they come.
#[test]
fn a_function_waits_for_the_commands_before_it() {
    let (gateway, unit) = start();
    let mut a = leading(&gateway);
    let mut b = join(&gateway, &a, 1).unwrap();
    let barrier = gateway.runtime.block_on(unit.gate.barrier()).unwrap();
    b.cmd_sn = a.cmd_sn;
    a.cmd_sn += 1;
    let function = a.submit_tmf(tmf::ABORT_TASK_SET, 0, u32::MAX);
    let mut bystander = gateway.session_of(OTHER_HOST, "");
    bystander.stays_quiet();
    b.submit(&Command::write(0, &pattern(1, 4096)).all_immediate());
    assert_eq!(b.other(crate::initiator::op::ASYNC_MESSAGE).bhs[36], 5, "FastAbort: it is ended");
    drop(barrier);
    gateway.service.sessions.wake_all();
    // Answers its pings, and with them acknowledges the message.
    b.quiet();
    assert_eq!(a.tmf_answer(function), COMPLETE);
    assert!(run(&mut [&mut a, &mut b], 0, &Command::read(0, 8)).good().data == [0; 4096]);
}
