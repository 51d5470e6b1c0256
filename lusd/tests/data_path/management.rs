//! Task management: what is ended is not answered and does nothing, and a function is answered when that is certain.

use std::sync::Arc;

use lusd::lun::gate::Barrier;
use lusd::lun::unit::Unit;

use crate::gateway::{Gateway, HOST, OTHER_HOST, limits};
use crate::initiator::{Command, Initiator, Pdu, op, pattern, tmf};

const COMPLETE: u8 = 0;
const TASK_DOES_NOT_EXIST: u8 = 1;
const LUN_DOES_NOT_EXIST: u8 = 2;
const REASSIGN_NOT_SUPPORTED: u8 = 4;
const NOT_SUPPORTED: u8 = 5;
const SUCCEEDED: u8 = 7;
const RFC_7144: &str = "iSCSIProtocolLevel=2\0";

fn hold<'a>(gateway: &Gateway, unit: &'a Arc<Unit>) -> Barrier<'a> {
    gateway.runtime.block_on(unit.gate.barrier()).expect("served")
}

fn release(gateway: &Gateway, barrier: Barrier<'_>) {
    drop(barrier);
    gateway.service.sessions.wake_all();
}

/// Data of a write that is asked for and not sent.
fn half_written(host: &mut Initiator, lun: u16, lba: u32) -> Pdu {
    host.answers_r2t = false;
    host.submit(&Command::write(lba, &pattern(lba, 4096)).on(lun));
    host.ping();
    host.answers_r2t = true;
    host.r2ts.pop().expect("an R2T")
}

#[track_caller]
fn untouched(host: &mut Initiator, lba: u32) {
    assert!(host.run(&Command::read(lba, 8)).good().data == [0; 4096], "block {lba} was written");
}

#[test]
fn abort_of_a_task_that_waits_for_data() {
    let (gateway, _) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.session();
    let r2t = half_written(&mut host, 0, 0);
    assert_eq!(gateway.service.memory.used(), 4096);
    assert_eq!(host.abort(0, r2t.tag()), COMPLETE);
    assert_eq!(gateway.service.memory.used(), 0);
    // Its data may be on the way already; it goes nowhere.
    host.answer_r2t(&r2t);
    host.quiet();
    untouched(&mut host, 0);
    assert_eq!(host.abort(0, r2t.tag()), TASK_DOES_NOT_EXIST, "it is over");
}

#[test]
fn abort_of_a_task_that_is_held_off() {
    let (gateway, unit) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.session();
    let barrier = hold(&gateway, &unit);
    let aborted = host.submit(&Command::write(0, &pattern(1, 4096)).all_immediate());
    let stays = host.submit(&Command::write(8, &pattern(2, 4096)).all_immediate());
    // It was never begun, so nothing has to be waited for.
    assert_eq!(host.abort(0, aborted), COMPLETE);
    host.quiet();
    assert_eq!(gateway.service.memory.used(), 4096);
    release(&gateway, barrier);
    host.answer(stays).good();
    host.quiet();
    untouched(&mut host, 0);
    assert!(host.run(&Command::read(8, 8)).good().data == pattern(2, 4096));
}

#[test]
fn abort_of_a_task_that_is_not_there() {
    let (gateway, _) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.session();
    assert_eq!(host.abort(0, 0x4711), TASK_DOES_NOT_EXIST);
    let done = host.submit(&Command::read(0, 1));
    host.answer(done).good();
    assert_eq!(host.abort(0, done), TASK_DOES_NOT_EXIST);
    // A command that was lost on its way counts as received from then on (RFC 7143 11.5.5).
    let lost = host.cmd_sn;
    host.cmd_sn += 1;
    let tag = host.submit_tmf_for(tmf::ABORT_TASK, 0, 0x4712, lost);
    assert_eq!(host.tmf_answer(tag), COMPLETE);
    host.run(&Command::test_unit_ready()).good();
    host.quiet();
}

#[test]
fn functions_that_do_not_fit() {
    let (gateway, _) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.session();
    for function in [tmf::ABORT_TASK_SET, tmf::CLEAR_TASK_SET, tmf::LOGICAL_UNIT_RESET] {
        assert_eq!(host.tmf(function, 9), LUN_DOES_NOT_EXIST);
    }
    assert_eq!(host.tmf(tmf::TASK_REASSIGN, 0), REASSIGN_NOT_SUPPORTED);
    // CLEAR ACA, two that nobody knows, and one of RFC 7144, on which the login has not agreed.
    for function in [3, 0, 0x7f, tmf::QUERY_TASK] {
        assert_eq!(host.tmf(function, 0), NOT_SUPPORTED);
    }
    host.run(&Command::test_unit_ready()).good();
}

#[test]
fn a_logical_unit_reset_ends_the_tasks_of_all_sessions() {
    let (gateway, unit) = Gateway::with_ram(limits(), 2);
    let bystander = gateway.ram();
    gateway.show(&[(0, &unit), (1, &bystander)]);
    let (mut host, mut other) = (gateway.session(), gateway.session_of(OTHER_HOST, ""));
    let (ours, theirs) = (half_written(&mut host, 0, 100), half_written(&mut other, 0, 108));
    let elsewhere = half_written(&mut other, 1, 0);
    let barrier = hold(&gateway, &unit);
    for (initiator, lba) in [(&mut host, 0), (&mut other, 8)] {
        initiator.submit(&Command::write(lba, &pattern(lba, 4096)).all_immediate());
        initiator.submit(&Command::read(lba, 8));
        initiator.quiet();
    }
    let function = host.submit_tmf(tmf::LOGICAL_UNIT_RESET, 0, u32::MAX);
    // It would fail on a response to the function.
    host.stays_quiet();
    other.quiet();
    release(&gateway, barrier);
    assert_eq!(host.tmf_answer(function), COMPLETE);

    let device_reset = (6, 0x29, 0x03);
    assert_eq!(other.fails(&Command::test_unit_ready()), device_reset);
    assert_eq!(host.fails(&Command::test_unit_ready()), device_reset);
    host.answer_r2t(&ours);
    other.answer_r2t(&theirs);
    other.quiet();
    host.quiet();
    for lba in [0, 8, 100, 108] {
        untouched(&mut host, lba);
        untouched(&mut other, lba);
    }
    // The other unit was not concerned.
    other.answer_r2t(&elsewhere);
    other.answer(elsewhere.tag()).good();
    host.run(&Command::test_unit_ready().on(1)).good();
    gateway.memory_is_back();
}

#[test]
fn a_reset_waits_for_what_is_inside_and_not_for_a_unit_that_is_shut() {
    let (gateway, unit) = Gateway::with_ram(limits(), 2);
    let mut host = gateway.session();
    // Stands for an operation that librbd has not ended.
    let permit = unit.gate.enter(1).unwrap();
    let function = host.submit_tmf(tmf::LOGICAL_UNIT_RESET, 0, u32::MAX);
    host.stays_quiet();
    unit.gate.leave(permit);
    assert_eq!(host.tmf_answer(function), COMPLETE);
    gateway.runtime.block_on(unit.stop(lusd_scsi::AccessState::Standby));
    assert_eq!(host.tmf(tmf::LOGICAL_UNIT_RESET, 0), COMPLETE);
}

/// TST=001b: each nexus has a task set of its own.
#[test]
fn clear_task_set_is_for_its_own_nexus() {
    let (gateway, unit) = Gateway::with_ram(limits(), 2);
    let (mut host, mut other) = (gateway.session(), gateway.session_of(OTHER_HOST, ""));
    let page = host.run(&Command { reads: 16, ..Command::new(&[0x1a, 0x08, 0x0a, 0, 16, 0]) }).good().data;
    assert_eq!(page[6] >> 5, 0b001, "TST of the Control mode page");
    let barrier = hold(&gateway, &unit);
    host.submit(&Command::write(0, &pattern(1, 4096)).all_immediate());
    let theirs = other.submit(&Command::write(8, &pattern(2, 4096)).all_immediate());
    host.quiet();
    other.quiet();
    assert_eq!(host.tmf(tmf::CLEAR_TASK_SET, 0), COMPLETE);
    release(&gateway, barrier);
    other.answer(theirs).good();
    for session in [&mut host, &mut other] {
        session.run(&Command::test_unit_ready()).good();
        session.quiet();
    }
    untouched(&mut host, 0);
    gateway.memory_is_back();
}

/// MODE SELECT (6) of the Control page with TAS, by a host that hears nothing of it; the others are told.
pub(crate) fn set_tas(host: &mut Initiator, others: &mut [&mut Initiator]) {
    let mut list = [0; 16];
    list[4..10].copy_from_slice(&[0x0a, 10, 0x22, 0x10, 0, 0x40]);
    let select = Command { data: list.to_vec(), ..Command::new(&[0x15, 0x10, 0, 0, 16, 0]) };
    host.run(&select.all_immediate()).good();
    for other in others {
        assert_eq!(other.fails(&Command::test_unit_ready()), (6, 0x2a, 0x01), "mode parameters changed");
    }
}

pub(crate) const TASK_ABORTED: u8 = 0x40;

#[test]
fn with_tas_the_tasks_of_others_are_answered() {
    for function in [tmf::LOGICAL_UNIT_RESET, tmf::TARGET_WARM_RESET] {
        let (gateway, unit) = Gateway::with_ram(limits(), 2);
        let (mut host, mut other) = (gateway.session(), gateway.session_of(OTHER_HOST, ""));
        set_tas(&mut host, &mut [&mut other]);
        let theirs = half_written(&mut other, 0, 100);
        let barrier = hold(&gateway, &unit);
        host.submit(&Command::write(0, &pattern(1, 4096)).all_immediate());
        let parked = other.submit(&Command::write(8, &pattern(2, 4096)).all_immediate());
        let reading = other.submit(&Command::read(0, 8));
        host.quiet();
        other.quiet();
        let tag = host.submit_tmf(function, 0, u32::MAX);
        host.stays_quiet();
        release(&gateway, barrier);
        assert_eq!(host.tmf_answer(tag), COMPLETE);
        for task in [parked, reading] {
            let answer = other.answer(task);
            assert_eq!(
                (answer.status, &answer.sense[..], &answer.data[..]),
                (TASK_ABORTED, &[][..], &[][..])
            );
        }
        // Its data is asked for already; of another session it is not waited for (RFC 7143 4.2.3.3 a).
        assert_eq!(other.answer(theirs.tag()).status, TASK_ABORTED);
        host.quiet();
        // What a reset is told by is told all the same.
        let reset = (6, 0x29, if function == tmf::LOGICAL_UNIT_RESET { 0x03 } else { 0x02 });
        for session in [&mut other, &mut host] {
            assert_eq!(session.fails(&Command::test_unit_ready()), reset);
        }
        for lba in [0, 8, 100] {
            untouched(&mut host, lba);
        }
        gateway.memory_is_back();
    }
}

#[test]
fn abort_task_set_ends_the_tasks_of_its_own_session_on_its_unit() {
    let (gateway, unit) = Gateway::with_ram(limits(), 2);
    let bystander = gateway.ram();
    gateway.show(&[(0, &unit), (1, &bystander)]);
    let (mut host, mut other) = (gateway.session(), gateway.session_of(OTHER_HOST, ""));
    let r2t = half_written(&mut host, 0, 100);
    let elsewhere = half_written(&mut host, 1, 0);
    let barrier = hold(&gateway, &unit);
    host.submit(&Command::write(0, &pattern(1, 4096)).all_immediate());
    let theirs = other.submit(&Command::write(8, &pattern(2, 4096)).all_immediate());
    host.quiet();
    other.quiet();
    assert_eq!(host.tmf(tmf::ABORT_TASK_SET, 0), COMPLETE);
    release(&gateway, barrier);
    other.answer(theirs).good();
    host.answer_r2t(&r2t);
    host.quiet();
    host.answer_r2t(&elsewhere);
    host.answer(elsewhere.tag()).good();
    untouched(&mut host, 0);
    untouched(&mut host, 100);
    assert!(host.run(&Command::read(8, 8)).good().data == pattern(2, 4096));
    other.run(&Command::test_unit_ready()).good();
    gateway.memory_is_back();
}

#[test]
fn a_warm_reset_is_for_every_unit_that_the_session_sees() {
    let (gateway, unit) = Gateway::with_ram(limits(), 2);
    let second = gateway.ram();
    gateway.show(&[(0, &unit), (1, &second)]);
    let (mut host, mut other) = (gateway.session_of(HOST, ""), gateway.session_of(OTHER_HOST, ""));
    let barriers = (hold(&gateway, &unit), hold(&gateway, &second));
    host.submit(&Command::write(0, &pattern(1, 4096)).all_immediate());
    other.submit(&Command::write(0, &pattern(2, 4096)).all_immediate().on(1));
    host.quiet();
    other.quiet();
    let function = host.submit_tmf(tmf::TARGET_WARM_RESET, 0, u32::MAX);
    host.stays_quiet();
    release(&gateway, barriers.0);
    host.stays_quiet();
    release(&gateway, barriers.1);
    assert_eq!(host.tmf_answer(function), COMPLETE);
    let bus_reset = (6, 0x29, 0x02);
    for initiator in [&mut host, &mut other] {
        for lun in [0, 1] {
            assert_eq!(initiator.fails(&Command::test_unit_ready().on(lun)), bus_reset);
            assert!(initiator.run(&Command::read(0, 8).on(lun)).good().data == [0; 4096]);
        }
    }
    gateway.memory_is_back();
}

#[test]
fn questions_about_tasks_and_attentions() {
    let (gateway, unit) = Gateway::with_ram(limits(), 1);
    let bystander = gateway.ram();
    gateway.show(&[(0, &unit), (1, &bystander)]);
    let mut host = gateway.session_of(HOST, RFC_7144);
    assert_eq!(host.tmf(tmf::QUERY_TASK_SET, 0), COMPLETE, "there is none");
    let r2t = half_written(&mut host, 0, 0);
    let ask = |host: &mut Initiator, lun, task| {
        let tag = host.submit_tmf(tmf::QUERY_TASK, lun, task);
        host.tmf_answer(tag)
    };
    assert_eq!(ask(&mut host, 0, r2t.tag()), SUCCEEDED);
    assert_eq!(ask(&mut host, 1, r2t.tag()), COMPLETE, "on another unit");
    assert_eq!(ask(&mut host, 0, 0x4711), COMPLETE);
    assert_eq!(ask(&mut host, 9, r2t.tag()), LUN_DOES_NOT_EXIST);
    assert_eq!(host.tmf(tmf::QUERY_TASK_SET, 0), SUCCEEDED);
    assert_eq!(host.tmf(tmf::QUERY_TASK_SET, 1), COMPLETE);
    // To ask changes nothing.
    host.answer_r2t(&r2t);
    host.answer(r2t.tag()).good();

    assert_eq!(host.tmf(tmf::QUERY_ASYNCHRONOUS_EVENT, 0), COMPLETE);
    unit.scsi.reset(lusd_scsi::UnitAttention::DeviceReset, None);
    for _ in 0..2 {
        let tag = host.submit_tmf(tmf::QUERY_ASYNCHRONOUS_EVENT, 0, u32::MAX);
        assert_eq!(host.tmf_answer_with(tag), (SUCCEEDED, [0x16, 0x29, 0x03]));
    }
    assert_eq!(host.fails(&Command::test_unit_ready()), (6, 0x29, 0x03), "it is still to be told");
    assert_eq!(host.tmf(tmf::QUERY_ASYNCHRONOUS_EVENT, 0), COMPLETE);
}

#[test]
fn a_nexus_reset_ends_the_tasks_of_its_own_session() {
    let (gateway, unit) = Gateway::with_ram(limits(), 2);
    let mut host = gateway.session_of(HOST, RFC_7144);
    let mut other = gateway.session_of(OTHER_HOST, "");
    let barrier = hold(&gateway, &unit);
    host.submit(&Command::write(0, &pattern(1, 4096)).all_immediate());
    let theirs = other.submit(&Command::write(8, &pattern(2, 4096)).all_immediate());
    host.quiet();
    other.quiet();
    assert_eq!(host.tmf(tmf::I_T_NEXUS_RESET, 0), COMPLETE);
    release(&gateway, barrier);
    other.answer(theirs).good();
    assert_eq!(host.fails(&Command::test_unit_ready()), (6, 0x29, 0x07), "I_T nexus loss");
    other.run(&Command::test_unit_ready()).good();
    untouched(&mut host, 0);
    gateway.memory_is_back();
}

#[test]
fn a_cold_reset_ends_the_sessions_of_the_target() {
    let (gateway, unit) = Gateway::with_ram(limits(), 2);
    let (mut host, mut other) = (gateway.session(), gateway.session_of(OTHER_HOST, ""));
    let barrier = hold(&gateway, &unit);
    other.submit(&Command::write(0, &pattern(2, 4096)).all_immediate());
    other.quiet();
    let function = host.submit_tmf(tmf::TARGET_COLD_RESET, 0, u32::MAX);
    host.stays_quiet();
    release(&gateway, barrier);
    assert_eq!(host.tmf_answer(function), COMPLETE);
    host.is_dropped();
    other.is_dropped();
    let mut again = gateway.session();
    untouched(&mut again, 0);
    gateway.memory_is_back();
}

/// RFC 7143 4.2.3.3: what was asked for is waited for; but not for ever.
#[test]
fn a_reset_waits_for_data_that_was_asked_for() {
    let (gateway, _) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.session();
    let r2t = half_written(&mut host, 0, 0);
    let function = host.submit_tmf(tmf::LOGICAL_UNIT_RESET, 0, u32::MAX);
    host.stays_quiet();
    assert_eq!(gateway.service.memory.used(), 0, "it is dropped, so nothing is held for it");
    host.answer_r2t(&r2t);
    assert_eq!(host.tmf_answer(function), COMPLETE);
    host.clear_attentions(0);
    untouched(&mut host, 0);
    half_written(&mut host, 0, 0);
    assert_eq!(host.tmf(tmf::ABORT_TASK_SET, 0), COMPLETE);
}

/// RFC 7143 4.2.3.4.
#[test]
fn fast_aborts_wait_for_no_data_and_tell_the_others() {
    const TASK_TERMINATION: u8 = 5;
    let fast = "TaskReporting=FastAbort,RFC3720\0";
    let (gateway, unit) = Gateway::with_ram(limits(), 2);
    let mut host = gateway.session_of(HOST, fast);
    let (mut other, mut old) = (gateway.session_of(OTHER_HOST, fast), gateway.session_of(OTHER_HOST, ""));
    let mut idle = gateway.session_of(OTHER_HOST, fast);
    half_written(&mut host, 0, 0);
    half_written(&mut other, 0, 8);
    half_written(&mut old, 0, 16);
    let begun = std::time::Instant::now();
    assert_eq!(host.tmf(tmf::LOGICAL_UNIT_RESET, 0), COMPLETE);
    let told = other.other(op::ASYNC_MESSAGE);
    assert_eq!((told.bhs[36], told.bhs[9]), (TASK_TERMINATION, 0));
    assert!(begun.elapsed() < std::time::Duration::from_secs(60));
    // It would fail on a message.
    for session in [&mut host, &mut old, &mut idle] {
        session.quiet();
    }
    // All of them were ended at once, whether their data comes or not.
    gateway.memory_is_back();
    assert_eq!(unit.gate.inside(), 0);
}
