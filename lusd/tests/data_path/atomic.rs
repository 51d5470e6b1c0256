//! COMPARE AND WRITE, ORWRITE and WRITE ATOMIC among everything else that goes on.

use lusd::lun::unit::Unit;

use crate::gateway::{Gateway, HOST, OTHER_HOST, limits, until};
use crate::initiator::{Command, Initiator, pattern, tmf};

pub(crate) const MISCOMPARE: (u8, u8, u8) = (0x0e, 0x1d, 0x00);
const INVALID_FIELD_IN_CDB: (u8, u8, u8) = (5, 0x24, 0x00);

pub(crate) fn sixteen(opcode: u8, lba: u64, blocks: u32, data: Vec<u8>) -> Command {
    let mut command = Command { data, ..Command::new(&[opcode]) };
    command.cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    command.cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    command
}

pub(crate) fn compare_and_write(lba: u64, old: &[u8], new: &[u8]) -> Command {
    sixteen(0x89, lba, (old.len() / 512) as u32, [old, new].concat())
}

fn orwrite(lba: u64, data: &[u8]) -> Command {
    sixteen(0x8b, lba, (data.len() / 512) as u32, data.to_vec())
}

fn write_atomic(lba: u64, data: &[u8]) -> Command {
    sixteen(0x9c, lba, (data.len() / 512) as u32, data.to_vec())
}

#[test]
fn compare_and_write_writes_where_nothing_differs() {
    let (gateway, _) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.session();
    let (old, new) = (pattern(1, 2048), pattern(2, 2048));
    host.run(&Command::write(10, &old)).good();
    let answer = host.run(&compare_and_write(10, &old, &new)).good();
    assert_eq!((answer.underflow, answer.overflow), (0, 0));
    assert!(host.run(&Command::read(9, 6)).good().data == [&[0; 512][..], &new, &[0; 512]].concat());
    // What differs is told by its first byte, in INFORMATION, and nothing is written.
    let mut wrong = new.clone();
    wrong[1500] ^= 1;
    wrong[1700] ^= 1;
    for command in [compare_and_write(10, &wrong, &old), compare_and_write(10, &wrong, &old).all_immediate()]
    {
        let answer = host.run(&command);
        assert_eq!(answer.code(), MISCOMPARE);
        assert_eq!(
            answer.sense[..7],
            [0xf0, 0, 0x0e, 0, 0, 1500u16.to_be_bytes()[0], 1500u16.to_be_bytes()[1]]
        );
    }
    assert!(host.run(&Command::read(10, 4)).good().data == new);
    gateway.memory_is_back();
}

#[test]
fn data_must_be_twice_the_blocks() {
    let (gateway, _) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.session();
    for len in [512, 1024, 1536, 2560, 4096] {
        for immediate in [0, len] {
            let command = sixteen(0x89, 0, 2, vec![0; len]).immediate(immediate);
            assert_eq!(host.fails(&command), INVALID_FIELD_IN_CDB, "{len} bytes for two blocks");
        }
    }
    assert_eq!(host.fails(&sixteen(0x89, 0, 0, vec![0; 1024])), INVALID_FIELD_IN_CDB, "data for no blocks");
    assert_eq!(host.fails(&sixteen(0x89, 0, 2, vec![])), INVALID_FIELD_IN_CDB, "no data");
    host.run(&sixteen(0x89, 0, 0, vec![])).good();
    assert!(host.run(&Command::read(0, 8)).good().data == [0; 4096]);
    gateway.memory_is_back();
}

/// A counter that hosts of two shards raise, each by what it has read last: no step is lost.
#[test]
fn hosts_that_race_lose_no_step() {
    const HOSTS: u64 = 4;
    const STEPS: u64 = 50;
    let (gateway, unit) = Gateway::with_ram(limits(), 2);
    let block = |count: u64| {
        let mut block = vec![0; 512];
        block[..8].copy_from_slice(&count.to_be_bytes());
        block
    };
    std::thread::scope(|scope| {
        for i in 0..HOSTS {
            let mut host = gateway.session_of(&format!("{HOST}{i}"), "");
            scope.spawn(move || {
                for _ in 0..STEPS {
                    loop {
                        let found = host.run(&Command::read(5, 1)).good().data;
                        let count = u64::from_be_bytes(found[..8].try_into().unwrap());
                        let answer = host.run(&compare_and_write(5, &found, &block(count + 1)));
                        if answer.status == 0 {
                            break;
                        }
                        assert_eq!(answer.code(), MISCOMPARE);
                    }
                    let mut bit = vec![0; 512];
                    bit[i as usize] = 1 << i;
                    host.run(&orwrite(6, &bit)).good();
                }
            });
        }
    });
    let mut host = gateway.session();
    assert!(host.run(&Command::read(5, 1)).good().data == block(HOSTS * STEPS));
    assert_eq!(host.run(&Command::read(6, 1)).good().data[..5], [1, 2, 4, 8, 0]);
    assert_eq!(unit.gate.inside(), 0);
}

/// More than the backend does at once: a reader sees all of it or nothing.
#[test]
fn an_atomic_write_is_read_whole() {
    const BYTES: usize = 3 << 20;
    let (gateway, _) = Gateway::with_ram(limits(), 2);
    let (mut writer, mut reader) = (gateway.session(), gateway.session_of(OTHER_HOST, ""));
    let values = [vec![0xaa; BYTES], vec![0x55; BYTES]];
    writer.run(&write_atomic(0, &values[0])).good();
    std::thread::scope(|scope| {
        let values = &values;
        let writing = scope.spawn(move || {
            for i in 1..=12 {
                writer.run(&write_atomic(0, &values[i % 2])).good();
            }
        });
        while !writing.is_finished() {
            let found = reader.run(&Command::read(0, (BYTES / 512) as u16)).good().data;
            assert!(values.contains(&found), "half of one, half of the other");
        }
    });
    assert_eq!(reader.fails(&write_atomic(8191, &[0; 1024])), INVALID_FIELD_IN_CDB, "two objects");
}

/// Stands for an operation that librbd has not ended.
fn busy(
    gateway: &Gateway,
    unit: &Unit,
    host: &mut Initiator,
    command: &Command,
) -> (lusd::lun::gate::Permit, u32) {
    let permit = unit.gate.enter(1).unwrap();
    let tag = host.submit(command);
    until("it is inside", || unit.gate.inside() == 2);
    let _ = gateway;
    (permit, tag)
}

#[test]
fn the_rest_of_the_unit_goes_on_meanwhile() {
    let (gateway, unit) = Gateway::with_ram(limits(), 2);
    let (mut host, mut other) = (gateway.session(), gateway.session_of(OTHER_HOST, ""));
    let (zeroes, new) = (vec![0; 1024], pattern(3, 1024));
    let (permit, atomic) =
        busy(&gateway, &unit, &mut host, &compare_and_write(8, &zeroes, &new).all_immediate());
    // Beside it, everything goes on; what overlaps waits for it.
    let beside = pattern(4, 512);
    other.run(&Command::write(7, &beside)).good();
    other.run(&Command::write(10, &beside)).good();
    let overlapping = other.submit(&Command::read(9, 2));
    let same = other.submit(&compare_and_write(8, &zeroes, &zeroes).all_immediate());
    other.stays_quiet();
    host.quiet();
    unit.gate.leave(permit);
    host.answer(atomic).good();
    assert!(other.answer(overlapping).good().data == [&new[512..], &beside].concat());
    assert_eq!(other.answer(same).code(), MISCOMPARE, "it came second");
    until("nothing is inside", || unit.gate.inside() == 0);
}

#[test]
fn a_reset_ends_it_before_it_writes() {
    let (gateway, unit) = Gateway::with_ram(limits(), 2);
    let mut host = gateway.session();
    let (zeroes, new) = (vec![0; 512], pattern(3, 512));
    let (permit, _) = busy(&gateway, &unit, &mut host, &compare_and_write(8, &zeroes, &new).all_immediate());
    let reset = host.submit_tmf(tmf::LOGICAL_UNIT_RESET, 0, 0xffff_ffff);
    host.ping();
    unit.gate.leave(permit);
    assert_eq!(host.tmf_answer(reset), 0);
    host.clear_attentions(0);
    assert!(host.run(&Command::read(8, 1)).good().data == zeroes);
    gateway.memory_is_back();
}

#[test]
fn a_connection_that_ends_waits_for_it() {
    let (gateway, unit) = Gateway::with_ram(limits(), 2);
    let mut host = gateway.session();
    let (zeroes, new) = (vec![0; 512], pattern(3, 512));
    let (permit, _) = busy(&gateway, &unit, &mut host, &compare_and_write(8, &zeroes, &new).all_immediate());
    host.finish();
    drop(host);
    assert_eq!(unit.gate.inside(), 2);
    unit.gate.leave(permit);
    until("nothing is inside", || unit.gate.inside() == 0);
    gateway.memory_is_back();
}
