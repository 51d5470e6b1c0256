//! What is held off for too long, in the socket or behind it, is not carried out late: its initiator may have given it up, and written
//! something newer elsewhere.

use std::time::{Duration, Instant};

use lusd::service::{GIVE_UP_MIN, Limits, STALL_BOUND};

use crate::gateway::{Gateway, HOST, OTHER_HOST, limits, until};
use crate::initiator::{Command, Gone, Initiator, Pdu, pattern};

const KIB: usize = 1024;
const BUSY: u8 = 0x08;
const LONG_SEGMENTS: &str = "MaxRecvDataSegmentLength=262144\0";
/// By so much, more or less, an age may be overstated.
const VAGUE: Duration = Duration::from_secs(1);

fn bounded() -> Limits {
    Limits { stall_bound: STALL_BOUND, ..limits() }
}

#[track_caller]
fn is_busy(host: &mut Initiator, tag: u32) {
    assert_eq!(host.answer(tag).status, BUSY);
}

/// The table of times that have to fit together.
#[test]
fn the_times_fit_together() {
    let limits = Limits::default();
    assert_eq!((limits.stall_bound, limits.iscsi.nop_interval), (STALL_BOUND, Duration::from_secs(1)));
    assert!(STALL_BOUND + VAGUE < GIVE_UP_MIN);
    assert!(limits.iscsi.nop_interval + limits.iscsi.nop_timeout < GIVE_UP_MIN);
}

#[test]
fn a_write_that_a_gate_holds_off_for_too_long_is_busy() {
    let (gateway, unit) = Gateway::with_ram(bounded(), 1);
    let mut host = gateway.session();
    let barrier = gateway.runtime.block_on(unit.gate.barrier()).unwrap();
    let begun = Instant::now();
    let write = host.submit(&Command::write(0, &pattern(1, 4096)).all_immediate());
    let same = host.submit(&Command::write_same(8, 8, &pattern(2, 512)));
    let read = host.submit(&Command::read(0, 16));
    is_busy(&mut host, write);
    is_busy(&mut host, same);
    assert!(begun.elapsed() > STALL_BOUND - VAGUE);
    // One that has come since then goes on when it may, and so does the read, which can do no harm.
    let young = host.submit(&Command::write(16, &pattern(3, 4096)).all_immediate());
    host.quiet();
    drop(barrier);
    gateway.service.sessions.wake_all();
    host.answer(young).good();
    assert!(host.answer(read).good().data == [0; 8192]);
    assert!(host.run(&Command::read(16, 8)).good().data == pattern(3, 4096));
    host.run(&Command::write(0, &pattern(1, 4096)).all_immediate()).good();
}

/// Who sends data that it was asked for has not given its command up.
#[test]
#[expect(clippy::disallowed_methods, reason = "blocks a test's own thread, not a shard")]
fn who_takes_its_time_to_send_its_data_is_served() {
    let (gateway, unit) = Gateway::with_ram(bounded(), 1);
    let mut host = gateway.session();
    host.answers_r2t = false;
    let write = host.submit(&Command::write(0, &pattern(1, 4096)));
    host.ping();
    let r2t = host.r2ts.pop().expect("an R2T");
    std::thread::sleep(STALL_BOUND + VAGUE);
    host.answer_r2t(&r2t);
    host.answer(write).good();
    // From then on its time runs.
    let write = host.submit(&Command::write(0, &pattern(2, 4096)));
    host.ping();
    let r2t = host.r2ts.pop().expect("an R2T");
    let barrier = gateway.runtime.block_on(unit.gate.barrier()).unwrap();
    let asked = Instant::now();
    host.answer_r2t(&r2t);
    is_busy(&mut host, write);
    assert!(asked.elapsed() > STALL_BOUND - VAGUE);
    drop(barrier);
    assert!(host.run(&Command::read(0, 8)).good().data == pattern(1, 4096));
}

#[test]
fn who_waits_for_memory_is_busy_before_what_is_behind_it_is_old() {
    let limits = Limits { data_memory: 128 * KIB, connection_memory: 128 * KIB, ..bounded() };
    let (gateway, _) = Gateway::with_ram(limits, 2);
    let mut first = gateway.session();
    first.answers_r2t = false;
    let held = first.submit(&Command::write(0, &pattern(1, 128 * KIB)));
    first.ping();
    let r2t = first.r2ts.pop().expect("an R2T");
    let mut host = gateway.session_of(OTHER_HOST, "");
    let begun = Instant::now();
    let writes: Vec<_> = (0..4)
        .map(|i| {
            host.submit(&Command::write(512 + i * 8, &pattern(i, 4096)).immediate(2048 + i as usize * 512))
        })
        .collect();
    let behind = host.submit(&Command::test_unit_ready());
    for write in writes {
        is_busy(&mut host, write);
    }
    host.answer(behind).good();
    assert!(begun.elapsed() > STALL_BOUND / 3 * 2 - VAGUE);
    first.answer_r2t(&r2t);
    first.answer(held).good();
    assert!(host.run(&Command::read(512, 32)).good().data == [0; 16 * KIB]);
    host.run(&Command::write(512, &pattern(0, 4096)).immediate(512)).good();
    gateway.memory_is_back();
}

/// A host that reads none of its answers keeps the target from looking at what it sends.
#[test]
fn what_stood_unread_for_too_long_resets_its_connection() {
    let (gateway, _) = Gateway::with_ram(bounded(), 1);
    let (mut idle, mut host) = (gateway.session_of(OTHER_HOST, ""), gateway.session_of(HOST, LONG_SEGMENTS));
    host.receive_little();
    let begun = Instant::now();
    send_without_reading(&mut host);
    until("it is reset", || gateway.service.sessions.connections() == 1);
    assert!(begun.elapsed() > STALL_BOUND - VAGUE);
    gateway.memory_is_back();
    let gone = loop {
        if let Err(gone) = host.receive_to_the_end() {
            break gone;
        }
    };
    assert_eq!(gone, Gone::Reset);
    // Who sent nothing meanwhile is as well as before, and nothing was written.
    assert!(idle.run(&Command::read(0, 8)).good().data == [0; 4096]);
}

/// The same, but it reads again in time.
#[test]
#[expect(clippy::disallowed_methods, reason = "blocks a test's own thread, not a shard")]
fn what_stood_unread_for_a_while_is_carried_out() {
    let (gateway, _) = Gateway::with_ram(bounded(), 1);
    let mut host = gateway.session_of(HOST, LONG_SEGMENTS);
    // The sockets between do not hold the answers.
    send_without_reading(&mut host);
    std::thread::sleep(STALL_BOUND / 3);
    assert!(host.is_alive());
    assert!(gateway.session().run(&Command::read(0, 8)).good().data == pattern(1, 4096));
}

/// Reads of 32 MiB in all, so many pings that no more answers are queued behind theirs, and a write of the first 4 KiB.
fn send_without_reading(host: &mut Initiator) {
    for i in 0..4 {
        host.submit(&Command::read(i * 16_384, 16_384));
    }
    for tag in 0..8u32 {
        let ping =
            Pdu::new(0x40, 0x80).put_u32(16, 0x1000 + tag).put(20, &[0xff; 4]).put_u32(24, host.cmd_sn);
        host.send(&ping.with(&[0; 64 * KIB]));
    }
    host.submit(&Command::write(0, &pattern(1, 4096)).all_immediate());
}
