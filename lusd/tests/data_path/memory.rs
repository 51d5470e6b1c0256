//! Data memory: bounded, given back, and never a reason to stand still.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use lusd::service::Limits;

use crate::gateway::{Gateway, HOST, limits, limits_with, until};
use crate::initiator::{Command, Gone, Initiator, pattern};

const KIB: usize = 1024;
const TASK_SET_FULL: u8 = 0x28;

fn tight(data_memory: usize, connection_memory: usize) -> Limits {
    Limits { data_memory, connection_memory, ..limits() }
}

/// Writes, and reads back, `count` pieces of `len` bytes from block `lba` on, up to `depth` at once, as hosts do: a command that found
/// the task set full is sent again when another one has ended.
fn work(host: &mut Initiator, lba: u32, count: u32, len: usize, depth: usize) {
    let blocks = (len / 512) as u32;
    for writes in [true, false] {
        let mut todo: Vec<u32> = (0..count).collect();
        let mut tags = HashMap::new();
        let mut depth = depth;
        while !todo.is_empty() || !tags.is_empty() {
            while tags.len() < depth
                && let Some(i) = todo.pop()
            {
                let at = lba + i * blocks;
                let command = if writes {
                    Command::write(at, &pattern(at, len)).immediate([0, 512, 4096.min(len)][i as usize % 3])
                } else {
                    Command::read(at, blocks as u16)
                };
                tags.insert(host.submit(&command), i);
            }
            let (tag, answer) = host.any_answer();
            let i = tags.remove(&tag).expect("a command of ours");
            if answer.status == TASK_SET_FULL {
                assert!(!tags.is_empty(), "who has nothing under way is not told to wait for it");
                todo.push(i);
                depth = tags.len();
                continue;
            }
            let data = answer.good().data;
            assert!(writes || data == pattern(lba + i * blocks, len), "piece {i}");
        }
    }
}

#[test]
fn many_writers_share_little_memory() {
    const LIMIT: usize = 320 * KIB;
    const LEN: usize = 64 * KIB;
    let (gateway, _) = Gateway::with_ram(tight(LIMIT, 192 * KIB), 2);
    let done = AtomicBool::new(false);
    let memory = &gateway.service.memory;
    let mut hosts: Vec<_> =
        (0..6).map(|_| gateway.session_of(HOST, "MaxRecvDataSegmentLength=65536\0")).collect();
    std::thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut most = 0;
            while !done.load(SeqCst) {
                most = most.max(memory.used());
                std::thread::yield_now();
            }
            most
        });
        let workers: Vec<_> = hosts
            .iter_mut()
            .enumerate()
            .map(|(i, host)| scope.spawn(move || work(host, i as u32 * 16_384, 48, LEN, 16)))
            .collect();
        let results: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        done.store(true, SeqCst);
        let most = sampler.join().unwrap();
        assert!(results.iter().all(Result::is_ok));
        // The reserve is for one command at a time.
        assert!(most <= LIMIT + LEN, "{most} bytes were used");
    });
    gateway.memory_is_back();
}

/// Data of a write comes behind the next commands on the same connection: they must not stop it.
#[test]
fn a_command_without_memory_does_not_hold_up_the_data_of_another() {
    let (gateway, _) = Gateway::with_ram(tight(256 * KIB, 128 * KIB), 1);
    let mut host = gateway.session();
    host.answers_r2t = false;
    let writes: Vec<_> =
        (0..6).map(|i| host.submit(&Command::write(i * 128, &pattern(i, 64 * KIB)))).collect();
    let read = host.submit(&Command::read(0, 128));
    // All of it was looked at, and reading goes on.
    host.ping();
    assert!(!host.r2ts.is_empty() && host.r2ts.len() < writes.len(), "{:?}", host.r2ts);
    for r2t in std::mem::take(&mut host.r2ts) {
        host.answer_r2t(&r2t);
    }
    host.answers_r2t = true;
    for tag in writes {
        host.answer(tag).good();
    }
    host.answer(read).good();
    for i in 0..6 {
        assert!(host.run(&Command::read(i * 128, 128)).good().data == pattern(i, 64 * KIB));
    }
    gateway.memory_is_back();
}

/// Data that comes unasked for has to go somewhere: who sends it is told before it is too much.
#[test]
fn unsolicited_data_without_memory_finds_the_task_set_full() {
    let (gateway, _) = Gateway::with_ram(tight(256 * KIB, 128 * KIB), 1);
    let mut host = gateway.session_of(HOST, "InitialR2T=No\0FirstBurstLength=65536\0");
    let write = |i: u32| Command {
        immediate: 512,
        unsolicited: 64 * KIB - 512,
        ..Command::write(i * 128, &pattern(i, 64 * KIB))
    };
    let tags: Vec<_> = (0..2).map(|i| host.submit_without_unsolicited(&write(i))).collect();
    for i in 2..4 {
        let refused = host.submit(&write(i));
        assert_eq!(host.answer(refused).status, TASK_SET_FULL);
    }
    for (i, tag) in tags.into_iter().enumerate() {
        host.send_unsolicited(tag, &write(i as u32));
        host.answer(tag).good();
    }
    host.run(&write(2)).good();
    for i in 0..3 {
        assert!(host.run(&Command::read(i * 128, 128)).good().data == pattern(i, 64 * KIB));
    }
    assert!(host.run(&Command::read(3 * 128, 128)).good().data == vec![0; 64 * KIB], "it was refused");
    gateway.memory_is_back();
}

#[test]
fn who_never_sends_its_data_does_not_stop_others() {
    let (gateway, _) = Gateway::with_ram(tight(256 * KIB, 128 * KIB), 2);
    let mut idle = gateway.session();
    idle.answers_r2t = false;
    idle.submit(&Command::write(0, &pattern(0, 128 * KIB)));
    idle.ping();
    assert_eq!(gateway.service.memory.used(), 128 * KIB);
    let mut host = gateway.session();
    work(&mut host, 1024, 40, 32 * KIB, 8);
    drop(idle);
    gateway.memory_is_back();
}

#[test]
fn who_waits_for_memory_goes_on_when_there_is_some() {
    let (gateway, _) = Gateway::with_ram(tight(128 * KIB, 128 * KIB), 2);
    let mut first = gateway.session();
    first.answers_r2t = false;
    let held = first.submit(&Command::write(0, &pattern(0, 128 * KIB)));
    first.ping();
    let r2t = first.r2ts.pop().expect("an R2T");
    let mut waiting: Vec<_> = (0..3)
        .map(|i| {
            let mut host = gateway.session();
            let tag = host.submit(&Command::write(1024 + i * 256, &pattern(i, 128 * KIB)).immediate(512));
            (host, tag)
        })
        .collect();
    first.answer_r2t(&r2t);
    first.answer(held).good();
    // In whatever order: each has to send its data when it is asked.
    std::thread::scope(|scope| {
        for (host, tag) in &mut waiting {
            scope.spawn(|| host.answer(*tag).good());
        }
    });
    // One whose peer goes away while it waits is no hindrance either.
    let held = first.submit(&Command::write(0, &pattern(0, 128 * KIB)));
    first.ping();
    let r2t = first.r2ts.pop().expect("an R2T");
    let (mut gone, _) = waiting.pop().unwrap();
    gone.submit(&Command::read(0, 8));
    drop(gone);
    first.answer_r2t(&r2t);
    first.answer(held).good();
    gateway.memory_is_back();
}

#[test]
fn a_write_whose_data_does_not_come_ends_its_connection() {
    let limits = limits_with(|iscsi| iscsi.data_out_timeout = Duration::from_millis(100));
    let (gateway, _) = Gateway::with_ram(limits, 1);
    let mut host = gateway.session();
    host.answers_r2t = false;
    host.submit(&Command::write(0, &pattern(0, 4096)));
    assert!(matches!(host.receive(), Ok(pdu) if pdu.opcode() == crate::initiator::op::R2T));
    let told = host.other(crate::initiator::op::ASYNC_MESSAGE);
    assert_eq!(
        told.bhs[36..44],
        [2, 0, 0, 0, 0, 2, 0, 0],
        "this connection is dropped; come again after 2 s"
    );
    assert_eq!(host.end(), Gone::Closed);
    gateway.memory_is_back();
}

#[test]
fn who_does_not_read_is_reset_and_gives_its_memory_back() {
    let limits = Limits { send_timeout: Duration::from_millis(100), ..limits() };
    let (gateway, _) = Gateway::with_ram(limits, 1);
    let mut host = gateway.session_of(HOST, "MaxRecvDataSegmentLength=262144\0");
    host.receive_little();
    for i in 0..4 {
        host.submit(&Command::read(i * 16_384, 16_384));
    }
    until("it is gone", || gateway.service.sessions.connections() == 0);
    gateway.memory_is_back();
    let gone = loop {
        if let Err(gone) = host.receive_to_the_end() {
            break gone;
        }
    };
    assert_eq!(gone, Gone::Reset);
    gateway.session().run(&Command::test_unit_ready()).good();
}
