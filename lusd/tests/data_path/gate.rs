//! Commands meet the gate of their unit: held, shut, lost.

use lusd::lun::gate::LuEpoch;
use lusd_scsi::{AccessState, PortGroup, PortGroups};

use crate::gateway::{Gateway, OTHER_HOST, limits};
use crate::initiator::{Command, Gone, op, pattern};

#[test]
fn a_barrier_holds_commands_off_and_lets_them_go_on() {
    let (gateway, unit) = Gateway::with_ram(limits(), 2);
    let (mut host, mut other) = (gateway.session(), gateway.session_of(OTHER_HOST, ""));
    let barrier = gateway.runtime.block_on(unit.gate.barrier()).unwrap();
    let data = pattern(1, 4096);
    let write = host.submit(&Command::write(0, &data).immediate(512));
    let read = host.submit(&Command::read(8, 1));
    let theirs = other.submit(&Command::read(8, 1));
    host.quiet();
    other.quiet();
    // What touches no block is not held off.
    let inquiry = Command { reads: 36, ..Command::new(&[0x12, 0, 0, 0, 36]) };
    assert_eq!(host.run(&inquiry).good().data.len(), 36);
    drop(barrier);
    gateway.service.sessions.wake_all();
    host.answer(write).good();
    host.answer(read).good();
    other.answer(theirs).good();
    assert!(other.run(&Command::read(0, 8)).good().data == data);
    assert_eq!(unit.gate.inside(), 0);
}

#[test]
fn nobody_has_to_wake_those_that_a_barrier_held_off() {
    let (gateway, unit) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.session();
    let barrier = gateway.runtime.block_on(unit.gate.barrier()).unwrap();
    let read = host.submit(&Command::read(8, 1));
    host.quiet();
    drop(barrier);
    host.answer(read).good();
}

#[test]
fn a_barrier_waits_for_what_is_inside() {
    let (gateway, unit) = Gateway::with_ram(limits(), 2);
    let mut host = gateway.session();
    // Stands for an operation that librbd has not ended.
    let permit = unit.gate.enter(1).unwrap();
    let other = unit.clone();
    let taken = gateway.runtime.spawn(async move { other.gate.barrier().await.is_some() });
    crate::gateway::until("the barrier holds entrants off", || {
        let entered = unit.gate.enter(0);
        entered.map(|permit| unit.gate.leave(permit)).is_err()
    });
    let read = host.submit(&Command::read(8, 1));
    host.quiet();
    assert!(!taken.is_finished());
    unit.gate.leave(permit);
    assert!(gateway.runtime.block_on(taken).unwrap());
    host.answer(read).good();
}

#[test]
fn a_unit_that_is_released_says_so_and_comes_back() {
    let (gateway, unit) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.session();
    let data = pattern(1, 4096);
    host.run(&Command::write(0, &data)).good();
    host.answers_r2t = false;
    let late = host.submit(&Command::write(8, &data));
    host.ping();
    let r2t = host.r2ts.pop().expect("an R2T");

    // A command that is held off when the unit is released was never begun: it is told the same.
    let barrier = gateway.runtime.block_on(unit.gate.barrier()).unwrap();
    let parked = host.submit(&Command::write(16, &data).all_immediate());
    host.quiet();
    let backend = gateway.runtime.block_on(unit.stop(AccessState::Transitioning)).expect("it was served");
    drop(barrier);
    gateway.service.sessions.wake_all();
    let transition = (2, 0x04, 0x0a);
    assert_eq!(host.answer(parked).code(), transition);
    assert_eq!(host.fails(&Command::read(0, 8)), transition);
    assert_eq!(host.fails(&Command::write(0, &pattern(2, 4096)).all_immediate()), transition);
    assert_eq!(host.fails(&Command::test_unit_ready()), transition);
    host.answer_r2t(&r2t);
    assert_eq!(host.answer(late).code(), transition);
    assert_eq!(host.report_luns(), [0]);

    unit.serve(LuEpoch(2), backend);
    host.answers_r2t = true;
    assert!(host.run(&Command::read(0, 8)).good().data == data);
    assert!(host.run(&Command::read(8, 16)).good().data == [0; 8192], "nothing that failed was written");
}

/// As a planned move ends: the map has another owner, and this daemon serves until it lets go.
#[test]
fn commands_that_wait_when_a_unit_moves_hear_of_it_once() {
    const GROUP: u16 = 1;
    const OTHER_GROUP: u16 = 2;
    let placed = |owner| {
        let groups = [GROUP, OTHER_GROUP].map(|tag| PortGroup { tag, up: true });
        PortGroups::new(groups.into(), GROUP, Some(owner))
    };
    let gateway = Gateway::start(limits(), 2);
    let unit = gateway.ram();
    unit.scsi.set_port_groups(placed(GROUP));
    gateway.show(&[(0, &unit)]);
    let (mut host, mut other) = (gateway.session(), gateway.session_of(OTHER_HOST, ""));
    let data = pattern(1, 4096);

    let barrier = gateway.runtime.block_on(unit.gate.barrier()).unwrap();
    let waiting: Vec<_> =
        (0..4).map(|i| host.submit(&Command::write(i * 8, &data).all_immediate())).collect();
    let theirs = other.submit(&Command::read(0, 8));
    host.quiet();
    unit.scsi.set_port_groups(placed(OTHER_GROUP));
    let report = Command { reads: 255, ..Command::new(&[0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0]) };
    assert_eq!(host.run(&report).good().data, groups(0, 2), "it still serves");
    host.quiet();
    gateway.runtime.block_on(unit.stop(AccessState::Standby)).expect("it was served");
    drop(barrier);
    gateway.service.sessions.wake_all();

    let (changed, moving, standby) = ((6, 0x2a, 0x06), (2, 0x04, 0x0a), (2, 0x04, 0x0b));
    let mut told: Vec<_> = waiting.into_iter().map(|tag| host.answer(tag).code()).collect();
    told.sort_unstable();
    assert_eq!(told, [moving, moving, moving, changed]);
    assert_eq!(other.answer(theirs).code(), changed, "each nexus hears of it");
    assert_eq!(host.run(&report).good().data, groups(2, 0));
    // What comes only now is not held off: it does not belong here.
    assert_eq!(host.fails(&Command::read(0, 8)), standby);
    assert_eq!(other.fails(&Command::write(0, &data).all_immediate()), standby);
    assert_eq!(unit.gate.inside(), 0);

    fn groups(own: u8, others: u8) -> Vec<u8> {
        let header = [0, 0, 0, 24];
        let group = |state, tag| [state, 0x8d, 0, tag, 0, 2, 0, 1, 0, 0, 0, tag];
        [&header[..], &group(own, GROUP as u8), &group(others, OTHER_GROUP as u8)].concat()
    }
}

/// An operation is inside the gate, in the shard's thread, while another thread finds that the unit is lost.
#[test]
fn what_was_in_flight_when_its_unit_was_lost_is_not_answered() {
    /// WRITE SAME of 16 MiB, a block of 512 bytes at a time, takes its time; many of them take no pause.
    const COMMANDS: usize = 16;
    /// The unit may be lost just between two of them; then the rest is refused, which is right too.
    const TRIES: u64 = 50;
    let gateway = Gateway::start(limits(), 2);
    for _ in 0..TRIES {
        let unit = gateway.ram();
        gateway.show(&[(0, &unit)]);
        let (mut host, mut other) = (gateway.session(), gateway.session_of(OTHER_HOST, ""));
        for i in 0..COMMANDS {
            host.submit(&Command::write_same(i as u32, 32_768, &pattern(i as u32, 512)));
        }
        while unit.gate.inside() == 0 {
            std::hint::spin_loop();
        }
        unit.lost(LuEpoch(1), false);
        let mut answered = 0;
        let gone = loop {
            match host.receive() {
                Ok(pdu) => {
                    assert_eq!(pdu.opcode(), op::SCSI_RESPONSE);
                    answered += 1;
                    if answered == COMMANDS {
                        break None;
                    }
                }
                Err(gone) => break Some(gone),
            }
        };
        // A session without commands in flight stays.
        assert_eq!(other.fails(&Command::read(0, 1)), (2, 0x04, 0x0a));
        assert!(unit.was_lost(LuEpoch(1)));
        if let Some(gone) = gone {
            assert_eq!(gone, Gone::Reset);
            let mut again = gateway.session();
            assert_eq!(again.fails(&Command::read(0, 1)), (2, 0x04, 0x0a));
            return;
        }
    }
    panic!("in {TRIES} tries the unit was never lost with a command in flight");
}
