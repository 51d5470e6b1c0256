//! EXTENDED COPY within a unit and between units.

use lusd::lun::unit::Unit;

use crate::gateway::{Gateway, OTHER_HOST, limits, until};
use crate::initiator::{Command, Initiator, pattern, tmf};

const COPY_ABORTED: u8 = 0x0a;

fn target(unit: &Unit) -> Vec<u8> {
    let naa = unit.scsi.identity().naa();
    let naa = naa.as_bytes();
    let mut descriptor = vec![0; 32];
    (descriptor[0], descriptor[4], descriptor[5], descriptor[7]) = (0xe4, 1, 3, naa.len() as u8);
    descriptor[8..8 + naa.len()].copy_from_slice(naa);
    descriptor[30] = 2;
    descriptor
}

/// From the first of `units` to the last: `blocks` from block `from` to block `to`.
pub(crate) fn copy(units: &[&Unit], segments: &[(u16, u64, u64)]) -> Command {
    let mut list = vec![0; 16];
    list[0] = 5;
    list[3] = (units.len() * 32) as u8;
    list[8..12].copy_from_slice(&(segments.len() as u32 * 28).to_be_bytes());
    units.iter().for_each(|unit| list.extend(target(unit)));
    for (blocks, from, to) in segments {
        let mut segment = vec![0; 28];
        (segment[0], segment[3], segment[7]) = (2, 24, units.len() as u8 - 1);
        segment[10..12].copy_from_slice(&blocks.to_be_bytes());
        segment[12..20].copy_from_slice(&from.to_be_bytes());
        segment[20..].copy_from_slice(&to.to_be_bytes());
        list.extend(segment);
    }
    let mut command = Command { data: list, ..Command::new(&[0x83]) };
    command.cdb[10..14].copy_from_slice(&(command.data.len() as u32).to_be_bytes());
    command.all_immediate()
}

/// COPY MANAGER STATUS, segments and bytes.
pub(crate) fn status(host: &mut Initiator) -> (u8, u16, u32) {
    let command = Command { reads: 12, ..Command::new(&[0x84, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12]) };
    let data = host.run(&command).good().data;
    let be32 = |at: usize| u32::from_be_bytes(data[at..at + 4].try_into().unwrap());
    assert_eq!((be32(0), data[7]), (8, 0));
    (data[4], u16::from_be_bytes([data[5], data[6]]), be32(8))
}

#[test]
fn blocks_are_copied_within_a_unit_and_between_units() {
    let gateway = Gateway::start(limits(), 2);
    let (first, second) = (gateway.ram(), gateway.ram());
    gateway.show(&[(0, &first), (3, &second)]);
    let mut host = gateway.session();
    // More than two pieces, and no whole number of them.
    let blocks = 2 * 2048 + 77;
    let data = pattern(1, blocks * 512);
    host.run(&Command::write(1000, &data)).good();
    let within = copy(&[&first], &[(blocks as u16, 1000, 20_001)]);
    host.run(&within).good();
    assert!(host.run(&Command::read(20_001, blocks as u16)).good().data == data);
    assert_eq!(status(&mut host), (1, 1, (blocks * 512) as u32));
    // The command goes to either unit, or to a third one.
    for lun in [0, 3] {
        let to = u64::from(lun) * 10_000;
        let between = copy(&[&first, &second], &[(8, 1000, to), (blocks as u16 - 8, 1008, to + 8)]).on(lun);
        host.run(&between).good();
        let found = host.run(&Command::read(to as u32, blocks as u16).on(3)).good().data;
        assert!(found == data);
    }
    assert!(host.run(&Command::read(1000, blocks as u16)).good().data == data, "the source is as it was");
    assert!(host.run(&Command::read(30_000, 8)).good().data == [0; 4096], "nothing went elsewhere");
    gateway.memory_is_back();
}

#[test]
fn what_overlaps_is_read_before_it_is_written_over() {
    let (gateway, unit) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.session();
    let blocks = 3 * 2048 + 5;
    let data = pattern(1, blocks * 512);
    for (from, to) in [(5000, 5001), (5000, 4999), (5000, 7050), (5000, 3001), (5000, 5000)] {
        host.run(&Command::write(from, &data)).good();
        host.run(&copy(&[&unit], &[(blocks as u16, from.into(), to.into())])).good();
        assert!(host.run(&Command::read(to, blocks as u16)).good().data == data, "{from} to {to}");
    }
}

#[test]
fn zeroes_are_copied_too() {
    let (gateway, unit) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.session();
    host.run(&Command::write(0, &pattern(1, 1 << 20))).good();
    host.run(&copy(&[&unit], &[(2048, 50_000, 0)])).good();
    assert!(host.run(&Command::read(0, 2048)).good().data == vec![0; 1 << 20]);
}

#[test]
fn what_the_session_does_not_see_is_not_reached() {
    let gateway = Gateway::start(limits(), 1);
    let (shown, hidden) = (gateway.ram(), gateway.ram());
    gateway.show(&[(0, &shown)]);
    let mut host = gateway.session();
    for units in [[&*shown, &*hidden], [&*hidden, &*shown]] {
        assert_eq!(host.fails(&copy(&units, &[(1, 0, 0)])), (COPY_ABORTED, 0x0d, 0x02));
    }
    // What came before the segment that fails was copied, and is told.
    host.run(&Command::write(0, &pattern(1, 512))).good();
    let last = shown.scsi.blocks() - 1;
    let beyond = copy(&[&shown], &[(1, 0, 9), (2, 0, last), (1, 0, 10)]);
    assert_eq!(host.fails(&beyond), (COPY_ABORTED, 0, 0));
    assert_eq!(status(&mut host), (2, 1, 512));
    assert!(host.run(&Command::read(9, 1)).good().data == pattern(1, 512));
    assert!(host.run(&Command::read(10, 1)).good().data == [0; 512]);
    gateway.memory_is_back();
}

#[test]
fn a_copy_that_is_held_up_can_be_ended() {
    let gateway = Gateway::start(limits(), 2);
    let (first, second) = (gateway.ram(), gateway.ram());
    gateway.show(&[(0, &first), (1, &second)]);
    let (mut host, mut other) = (gateway.session(), gateway.session_of(OTHER_HOST, ""));
    other.run(&Command::write(0, &pattern(1, 4096))).good();
    let between = copy(&[&first, &second], &[(8, 0, 0)]);

    // By ABORT TASK, though the gate stays held.
    let barrier = gateway.runtime.block_on(second.gate.barrier()).unwrap();
    let tag = host.submit(&between);
    host.stays_quiet();
    assert_eq!(status(&mut host).0, 0, "in progress");
    assert_eq!(host.abort(0, tag), 0);
    assert_eq!(status(&mut host), (2, 0, 0));

    // By a reset of the unit that it was sent to.
    host.submit(&between);
    host.stays_quiet();
    assert_eq!(host.tmf(tmf::LOGICAL_UNIT_RESET, 0), 0);
    host.clear_attentions(0);

    // By the end of the connection.
    host.submit(&between);
    host.stays_quiet();
    drop(host);
    gateway.memory_is_back();
    until("only one session is left", || gateway.service.sessions.connections() == 1);
    drop(barrier);
    other.clear_attentions(0);
    assert!(other.run(&Command::read(0, 8).on(1)).good().data == [0; 4096], "nothing was written");

    // Or it goes on.
    let mut host = gateway.session();
    let barrier = gateway.runtime.block_on(second.gate.barrier()).unwrap();
    let tag = host.submit(&between);
    host.stays_quiet();
    drop(barrier);
    host.answer(tag).good();
    assert!(other.run(&Command::read(0, 8).on(1)).good().data == pattern(1, 4096));
}

#[test]
fn a_unit_that_is_protected_meanwhile_is_not_written() {
    let gateway = Gateway::start(limits(), 2);
    let (first, second) = (gateway.ram(), gateway.ram());
    gateway.show(&[(0, &first), (1, &second)]);
    let mut host = gateway.session();
    host.run(&Command::write(0, &pattern(1, 4096))).good();
    let barrier = gateway.runtime.block_on(second.gate.barrier()).unwrap();
    let tag = host.submit(&copy(&[&first, &second], &[(8, 0, 0)]));
    host.stays_quiet();
    second.scsi.set_read_only(true);
    drop(barrier);
    assert_eq!(host.answer(tag).code(), (COPY_ABORTED, 0x0d, 0x01));
    host.clear_attentions(1);
    assert!(host.run(&Command::read(0, 8).on(1)).good().data == [0; 4096]);
}

#[test]
fn a_unit_that_the_session_sees_no_more_is_left_alone() {
    let gateway = Gateway::start(limits(), 2);
    let (first, second) = (gateway.ram(), gateway.ram());
    gateway.show(&[(0, &first), (1, &second)]);
    let mut host = gateway.session();
    host.run(&Command::write(0, &pattern(1, 4096))).good();
    let barrier = gateway.runtime.block_on(second.gate.barrier()).unwrap();
    let tag = host.submit(&copy(&[&first, &second], &[(8, 0, 0)]));
    host.stays_quiet();
    gateway.show(&[(0, &first)]);
    host.ping();
    drop(barrier);
    assert_eq!(host.answer(tag).code(), (COPY_ABORTED, 0x0d, 0x02));
    gateway.show(&[(1, &second)]);
    let mut other = gateway.session_of(OTHER_HOST, "");
    assert!(other.run(&Command::read(0, 8).on(1)).good().data == [0; 4096]);
}

#[test]
fn a_copy_waits_for_what_is_alone_on_its_blocks() {
    let (gateway, unit) = Gateway::with_ram(limits(), 2);
    let mut host = gateway.session();
    host.run(&Command::write(0, &pattern(1, 512))).good();
    let alone =
        unit.gate.enter_alone(1, lusd_scsi::Range { offset: 512, len: 512 }, &Default::default()).unwrap();
    let tag = host.submit(&copy(&[&unit], &[(1, 0, 1)]));
    host.stays_quiet();
    unit.gate.leave(alone);
    host.answer(tag).good();
    assert!(host.run(&Command::read(1, 1)).good().data == pattern(1, 512));
}

#[test]
fn a_unit_that_is_served_no_more_ends_the_copy() {
    let gateway = Gateway::start(limits(), 1);
    let (first, second) = (gateway.ram(), gateway.ram());
    gateway.show(&[(0, &first), (1, &second)]);
    let mut host = gateway.session();
    gateway.runtime.block_on(second.stop(lusd_scsi::AccessState::Standby)).expect("it was served");
    assert_eq!(host.fails(&copy(&[&first, &second], &[(8, 0, 0)])), (COPY_ABORTED, 0x0d, 0x02));
    assert_eq!(first.gate.inside(), 0);
}
