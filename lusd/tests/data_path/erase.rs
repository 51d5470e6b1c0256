//! SANITIZE and FORMAT UNIT.

use lusd::lun::gate::LuEpoch;
use lusd_scsi::{AccessState, Operation};

use crate::gateway::{Gateway, OTHER_HOST, limits, until};
use crate::initiator::{Command, Initiator, pattern, tmf};
use crate::reservations::{
    PREEMPT_AND_ABORT, REGISTER, REGISTRANTS_ONLY, RESERVE, conflicts, held_back, out,
};

const IN_PROGRESS: (u8, u8, u8) = (2, 0x04, 0x1b);
const FAILED: (u8, u8, u8) = (3, 0x31, 0x03);
const TEST_UNIT_READY: [u8; 6] = [0; 6];

fn overwrite(flags: u8, header: u8, pattern: &[u8]) -> Command {
    let mut data = vec![header, 0, 0, pattern.len() as u8];
    data.extend_from_slice(pattern);
    Command { data, ..Command::new(&[0x48, 0x01 | flags, 0, 0, 0, 0, 0, 0, pattern.len() as u8 + 4]) }
        .all_immediate()
}

fn block_erase(flags: u8) -> Command {
    Command::new(&[0x48, 0x02 | flags])
}

/// Every piece of the medium: its first block, its last, and what is between.
fn reads_as(host: &mut Initiator, block: &[u8]) {
    for lba in [0, 1, 32_767, 32_768, 70_000, 131_071] {
        assert!(host.run(&Command::read(lba, 1)).good().data == block, "block {lba}");
    }
}

#[test]
fn the_whole_medium_is_overwritten_or_erased() {
    let (gateway, unit) = Gateway::with_ram(limits(), 2);
    let mut host = gateway.session();
    host.run(&Command::write(131_064, &pattern(1, 4096))).good();
    host.run(&overwrite(0, 1, b"xyz")).good();
    let block: Vec<u8> = b"xyz".iter().copied().cycle().take(512).collect();
    reads_as(&mut host, &block);
    // Two passes: the second is inverted.
    host.run(&overwrite(0, 0x82, &[0x0f])).good();
    reads_as(&mut host, &[0xf0; 512]);
    host.run(&block_erase(0)).good();
    reads_as(&mut host, &[0; 512]);
    host.run(&Command::write(131_064, &pattern(1, 4096))).good();
    host.run(&Command::new(&[0x04, 0, 0, 0, 0, 0])).good();
    reads_as(&mut host, &[0; 512]);
    host.run(&Command { data: vec![0, 0, 0, 0], ..Command::new(&[0x04, 0x10, 0, 0, 0, 0]) }).good();
    assert_eq!((unit.scsi.operation(), unit.gate.inside()), (Operation::None, 0));
}

#[test]
fn it_goes_on_whatever_becomes_of_the_session() {
    let (gateway, unit) = Gateway::with_ram(limits(), 2);
    let (mut host, mut other) = (gateway.session(), gateway.session_of(OTHER_HOST, ""));
    host.run(&Command::write(0, &pattern(1, 4096))).good();
    // Stands for an operation that librbd has not ended: what is to be erased must not be written over by it.
    let permit = unit.gate.enter(1).unwrap();
    let task = host.submit(&overwrite(0, 1, &[0xaa]));
    until("it has begun", || unit.scsi.operation().is_under_way());
    for command in
        [Command::read(0, 1), Command::write(0, &[0; 512]).all_immediate(), Command::new(&TEST_UNIT_READY)]
    {
        assert_eq!(other.fails(&command), IN_PROGRESS);
    }
    assert_eq!(other.fails(&block_erase(0)), IN_PROGRESS, "one at a time");
    let inquiry = Command { reads: 36, ..Command::new(&[0x12, 0, 0, 0, 36]) };
    assert_eq!(other.run(&inquiry).good().data.len(), 36);
    let sense = other.run(&Command { reads: 18, ..Command::new(&[3, 0, 0, 0, 18]) }).good().data;
    assert_eq!((sense[2], sense[12], sense[13], sense[15]), (2, 0x04, 0x1b, 0x80));
    // The task is ended, and what it began is not.
    assert_eq!(host.abort(0, task), 0);
    drop(host);
    assert_eq!(other.fails(&Command::new(&TEST_UNIT_READY)), IN_PROGRESS);
    unit.gate.leave(permit);
    until("it has ended", || unit.scsi.operation() == Operation::None);
    reads_as(&mut other, &[0xaa; 512]);
    gateway.memory_is_back();
}

#[test]
fn a_reset_does_not_end_it() {
    let (gateway, unit) = Gateway::with_ram(limits(), 2);
    let mut host = gateway.session();
    let permit = unit.gate.enter(1).unwrap();
    host.submit(&block_erase(0));
    until("it has begun", || unit.scsi.operation().is_under_way());
    let reset = host.submit_tmf(tmf::LOGICAL_UNIT_RESET, 0, 0xffff_ffff);
    host.ping();
    unit.gate.leave(permit);
    assert_eq!(host.tmf_answer(reset), 0);
    until("it has ended", || unit.scsi.operation() == Operation::None);
    host.clear_attentions(0);
    reads_as(&mut host, &[0; 512]);
}

#[test]
fn immediate_status_comes_once_it_goes_on() {
    let (gateway, unit) = Gateway::with_ram(limits(), 2);
    let mut host = gateway.session();
    host.run(&Command::write(0, &pattern(1, 4096))).good();
    host.run(&overwrite(0x80, 1, &[0x11])).good();
    assert_eq!(host.fails(&Command::new(&TEST_UNIT_READY)), IN_PROGRESS, "half a second's work");
    until("it has ended", || unit.scsi.operation() == Operation::None);
    reads_as(&mut host, &[0x11; 512]);
}

/// The unit is let go in the middle; whoever serves it next says what the mark on the image has told.
#[test]
fn what_is_half_erased_does_not_look_erased() {
    let (gateway, unit) = Gateway::with_ram(limits(), 2);
    let mut host = gateway.session();
    let task = host.submit(&overwrite(0, 31, &[0x11]));
    until("it goes on", || matches!(unit.scsi.operation(), Operation::Sanitizing(done) if done > 0));
    let backend = gateway.runtime.block_on(unit.stop(AccessState::Transitioning)).expect("it was served");
    assert_eq!(host.answer(task).code(), (2, 0x04, 0x0a), "it moves");
    unit.scsi.set_operation(Operation::SanitizeFailed { may_exit: true });
    unit.serve(LuEpoch(2), backend);
    assert_eq!(host.fails(&Command::read(0, 1)), FAILED);
    assert_eq!(host.fails(&Command::new(&TEST_UNIT_READY)), FAILED);
    host.run(&Command::new(&[0x48, 0x1f])).good();
    host.run(&Command::read(0, 1)).good();
    unit.scsi.set_operation(Operation::SanitizeFailed { may_exit: false });
    assert_eq!(host.fails(&Command::new(&[0x48, 0x1f])), (5, 0x24, 0));
    host.run(&block_erase(0)).good();
    reads_as(&mut host, &[0; 512]);
    assert_eq!(unit.gate.inside(), 0);
}

/// Both are planned while the failure stands. Whoever leaves it behind must not take another's mark off, nor call the medium erased.
#[test]
fn one_leaves_the_failure_behind_or_another_erases() {
    for exit_first in [true, false] {
        let (gateway, unit) = Gateway::with_ram(limits(), 2);
        let mut host = gateway.session();
        unit.scsi.set_operation(Operation::SanitizeFailed { may_exit: true });
        let barrier = gateway.runtime.block_on(unit.gate.barrier()).unwrap();
        let (exit, erase) = (Command::new(&[0x48, 0x1f]), overwrite(0, 1, &[0x55]));
        let order = if exit_first { [exit, erase] } else { [erase, exit] };
        let tags = order.map(|command| host.submit(&command));
        host.stays_quiet();
        drop(barrier);
        gateway.service.sessions.wake_all();
        assert_eq!(host.answer(tags[1]).code(), IN_PROGRESS);
        host.answer(tags[0]).good();
        assert_eq!(unit.scsi.operation(), Operation::None);
        reads_as(&mut host, &[if exit_first { 0 } else { 0x55 }; 512]);
    }
}

/// What waited for its turn looks at the reservation that was made meanwhile, as any other command does.
#[test]
fn a_reservation_keeps_others_from_erasing() {
    let (gateway, unit) = Gateway::with_ram(limits(), 2);
    let (mut host, mut other) = (gateway.session(), gateway.session_of(OTHER_HOST, ""));
    host.run(&Command::write(0, &pattern(1, 4096))).good();
    for initiator in [&mut host, &mut other] {
        initiator.run(&out(REGISTER, 0, 0, 1)).good();
    }
    let erasures = [block_erase(0), overwrite(0, 1, &[0xaa]), Command::new(&[0x04])];
    for erasure in &erasures {
        let r2t = held_back(&mut other, &Command::write(64, &pattern(2, 4096)));
        let task = other.submit(&erasure.clone().ordered());
        other.stays_quiet();
        host.run(&out(RESERVE, 1, 1, 0)).good();
        other.answer_r2t(&r2t);
        assert!(conflicts(&other.answer(r2t.tag())));
        assert!(conflicts(&other.answer(task)), "{erasure:?}");
        host.run(&out(crate::reservations::RELEASE, 1, 1, 0)).good();
    }
    // A host that was shut out does not erase by what it had sent before.
    let r2t = held_back(&mut other, &Command::write(64, &pattern(2, 4096)));
    other.submit(&block_erase(0).ordered());
    other.stays_quiet();
    host.run(&out(REGISTER, 0, 1, 3)).good();
    host.run(&out(PREEMPT_AND_ABORT, REGISTRANTS_ONLY, 3, 1)).good();
    other.answer_r2t(&r2t);
    other.stays_quiet();
    assert_eq!((unit.scsi.operation(), unit.gate.inside()), (Operation::None, 0));
    assert!(host.run(&Command::read(0, 8)).good().data == pattern(1, 4096));
}
