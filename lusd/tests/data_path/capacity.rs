//! READ CAPACITY through a daemon that does not serve the unit: what was seen of the image, looked at again when it is asked for.

use std::time::Instant;

use lusd::lun::unit::Unit;
use lusd_scsi::AccessState;

use crate::gateway::{Gateway, OTHER_HOST, limits};
use crate::initiator::{Command, Initiator};

const MIB: u64 = 1 << 20;

fn read_capacity_16() -> Command {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1], cdb[13]) = (0x9e, 0x10, 32);
    Command { cdb, reads: 32, ..Command::test_unit_ready() }
}

fn read_capacity_10() -> Command {
    Command { reads: 8, ..Command::new(&[0x25]) }
}

#[track_caller]
fn size(host: &mut Initiator, tag: u32) -> u64 {
    let data = host.answer(tag).good().data;
    let (last, block) = match data.len() {
        8 => (u64::from(u32::from_be_bytes(data[..4].try_into().unwrap())), &data[4..8]),
        _ => (u64::from_be_bytes(data[..8].try_into().unwrap()), &data[8..12]),
    };
    (last + 1) * u64::from(u32::from_be_bytes(block.try_into().unwrap()))
}

/// A look that somebody asked for, as the unit's owner does it.
fn look(gateway: &Gateway, unit: &Unit, bytes: u64) {
    gateway.runtime.block_on(unit.until_look_is_wanted());
    unit.scsi.set_capacity_bytes(bytes);
    unit.note_look(Instant::now(), true);
    gateway.service.sessions.wake_all();
}

#[test]
fn a_size_that_another_daemon_serves_is_looked_at() {
    let (gateway, unit) = Gateway::with_ram(limits(), 2);
    let (mut host, mut other) = (gateway.session(), gateway.session_of(OTHER_HOST, ""));
    // Served here there is nothing to look at.
    let ask = host.submit(&read_capacity_16());
    assert_eq!(size(&mut host, ask), 64 * MIB);
    gateway.runtime.block_on(unit.stop(AccessState::Standby)).expect("it was served");

    let ask = host.submit(&read_capacity_16());
    host.quiet();
    // What does not ask for it is not held up.
    let inquiry = Command { reads: 36, ..Command::new(&[0x12, 0, 0, 0, 36]) };
    assert_eq!(host.run(&inquiry).good().data.len(), 36);
    host.quiet();
    look(&gateway, &unit, 128 * MIB);
    // As where it is served: each nexus hears of it first.
    let changed = (6, 0x2a, 0x09);
    assert_eq!(host.answer(ask).code(), changed);
    let (ask, short) = (host.submit(&read_capacity_16()), host.submit(&read_capacity_10()));
    assert_eq!((size(&mut host, ask), size(&mut host, short)), (128 * MIB, 128 * MIB), "seen just now");
    assert_eq!(other.fails(&read_capacity_16()), changed);
}

#[test]
fn an_answer_waits_for_a_look_for_a_while_only() {
    let (gateway, unit) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.session();
    gateway.runtime.block_on(unit.stop(AccessState::Standby)).expect("it was served");
    // Nobody looks.
    let ask = host.submit(&read_capacity_10());
    assert_eq!(size(&mut host, ask), 64 * MIB);
    // A look in vain ends the wait as well, and is no reason not to look again.
    for ask in [read_capacity_10(), read_capacity_16()] {
        let ask = host.submit(&ask);
        host.quiet();
        gateway.runtime.block_on(unit.until_look_is_wanted());
        unit.note_look(Instant::now(), false);
        gateway.service.sessions.wake_all();
        assert_eq!(size(&mut host, ask), 64 * MIB);
    }
}

#[test]
fn who_waits_for_a_look_can_be_aborted() {
    let (gateway, unit) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.session();
    gateway.runtime.block_on(unit.stop(AccessState::Standby)).expect("it was served");
    let aborted = host.submit(&read_capacity_16());
    assert_eq!(host.abort(0, aborted), 0);
    let reset = host.submit(&read_capacity_16());
    assert_eq!(host.tmf(crate::initiator::tmf::ABORT_TASK_SET, 0), 0);
    look(&gateway, &unit, 64 * MIB);
    host.quiet();
    assert_ne!(reset, aborted);
}
