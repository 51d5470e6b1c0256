//! Reservations between two hosts: what conflicts, what they are told, and what becomes of what was under way.

use lusd::lun::gate::{Refused, Verdict};
use lusd::lun::unit::Unit;
use lusd_scsi::AccessState;

use crate::gateway::{Gateway, HOST, OTHER_HOST, TARGET, limits, until};
use crate::initiator::{Answer, Command, Gone, Initiator, Pdu, pattern, tmf};
use crate::management::{TASK_ABORTED, set_tas};

const CONFLICT: u8 = 0x18;
pub(crate) const REGISTER: u8 = 0;
pub(crate) const RESERVE: u8 = 1;
pub(crate) const RELEASE: u8 = 2;
pub(crate) const CLEAR: u8 = 3;
pub(crate) const PREEMPT: u8 = 4;
pub(crate) const PREEMPT_AND_ABORT: u8 = 5;

const WRITE_EXCLUSIVE: u8 = 1;
const EXCLUSIVE_ACCESS: u8 = 3;
pub(crate) const REGISTRANTS_ONLY: u8 = 5;

/// PERSISTENT RESERVE OUT.
pub(crate) fn out(service: u8, kind: u8, key: u64, new_key: u64) -> Command {
    let mut data = [&key.to_be_bytes()[..], &new_key.to_be_bytes()].concat();
    data.resize(24, 0);
    Command { data, ..Command::new(&[0x5f, service, kind, 0, 0, 0, 0, 0, 24, 0]) }
}

/// READ KEYS: PRgeneration and the keys.
pub(crate) fn keys(host: &mut Initiator) -> (u32, Vec<u64>) {
    let read = Command { reads: 256, ..Command::new(&[0x5e, 0, 0, 0, 0, 0, 0, 1, 0, 0]) };
    let data = host.run(&read).good().data;
    let keys = data[8..].chunks_exact(8).map(|key| u64::from_be_bytes(key.try_into().unwrap()));
    (u32::from_be_bytes(data[..4].try_into().unwrap()), keys.collect())
}

pub(crate) fn conflicts(answer: &Answer) -> bool {
    answer.status == CONFLICT && answer.sense.is_empty()
}

fn write(lba: u32) -> Command {
    Command::write(lba, &pattern(lba, 4096)).all_immediate()
}

/// Two hosts that are registered with keys 1 and 2.
fn two(gateway: &Gateway) -> (Initiator, Initiator) {
    let (mut host, mut other) = (gateway.session(), gateway.session_of(OTHER_HOST, ""));
    host.run(&out(REGISTER, 0, 0, 1)).good();
    other.run(&out(REGISTER, 0, 0, 2)).good();
    (host, other)
}

/// Sends a command without its data; returns what asks for it.
pub(crate) fn held_back(host: &mut Initiator, command: &Command) -> Pdu {
    host.answers_r2t = false;
    host.submit(command);
    host.ping();
    host.r2ts.pop().expect("an R2T")
}

#[test]
fn a_reservation_keeps_others_from_writing_until_it_is_released() {
    let (gateway, _) = Gateway::with_ram(limits(), 2);
    let (mut host, mut other) = two(&gateway);
    let mut stranger = gateway.session_of("iqn.2026-11.io.lus:stranger", "");
    assert_eq!(keys(&mut stranger), (2, vec![1, 2]));
    host.run(&out(RESERVE, REGISTRANTS_ONLY, 1, 0)).good();
    assert!(conflicts(&stranger.run(&write(0))));
    assert!(conflicts(&stranger.run(&out(RESERVE, REGISTRANTS_ONLY, 1, 0))));
    stranger.run(&Command::read(0, 8)).good();
    other.run(&write(8)).good();
    host.run(&write(16)).good();
    host.run(&out(RELEASE, REGISTRANTS_ONLY, 1, 0)).good();
    assert_eq!(other.fails(&Command::test_unit_ready()), (6, 0x2a, 0x04));
    stranger.run(&write(0)).good();
    host.run(&out(RESERVE, EXCLUSIVE_ACCESS, 1, 0)).good();
    for initiator in [&mut other, &mut stranger] {
        assert!(conflicts(&initiator.run(&Command::read(0, 8))));
        initiator.run(&Command::test_unit_ready()).good();
    }
    other.run(&out(CLEAR, 0, 2, 0)).good();
    assert_eq!(host.fails(&Command::test_unit_ready()), (6, 0x2a, 0x03));
    assert_eq!(keys(&mut host), (3, vec![]));
    stranger.run(&write(0)).good();
}

#[test]
fn what_waits_for_its_data_meets_the_reservation_of_then() {
    let (gateway, _) = Gateway::with_ram(limits(), 2);
    let (mut host, mut other) = two(&gateway);
    let r2t = held_back(&mut other, &Command::write(0, &pattern(1, 4096)));
    host.run(&out(RESERVE, WRITE_EXCLUSIVE, 1, 0)).good();
    other.answer_r2t(&r2t);
    assert!(conflicts(&other.answer(r2t.tag())));
    assert!(host.run(&Command::read(0, 8)).good().data == [0; 4096]);
    gateway.memory_is_back();
}

fn until_held(unit: &Unit) {
    until("the gate is held", || match unit.gate.enter(1) {
        Ok(permit) => unit.gate.leave(permit) == Verdict::Revoked,
        Err(refused) => refused == Refused::Held,
    });
}

#[test]
fn a_reservation_is_answered_when_what_was_under_way_has_ended() {
    let (gateway, unit) = Gateway::with_ram(limits(), 2);
    let (mut host, mut other) = two(&gateway);
    // Stands for a write that librbd has not ended.
    let permit = unit.gate.enter(1).unwrap();
    let reserve = host.submit(&out(RESERVE, WRITE_EXCLUSIVE, 1, 0));
    host.stays_quiet();
    until_held(&unit);
    // What comes meanwhile waits, and is not let in afterwards; what reads is.
    let late = other.submit(&write(0));
    let read = other.submit(&Command::read(0, 8));
    other.stays_quiet();
    unit.gate.leave(permit);
    host.answer(reserve).good();
    assert!(conflicts(&other.answer(late)));
    assert!(other.answer(read).good().data == [0; 4096]);
    gateway.memory_is_back();
}

#[test]
fn preempt_and_abort_ends_what_the_other_one_has_under_way() {
    let (gateway, _) = Gateway::with_ram(limits(), 2);
    let (mut host, mut other) = two(&gateway);
    other.run(&out(RESERVE, WRITE_EXCLUSIVE, 2, 0)).good();
    other.answers_r2t = false;
    other.submit(&Command::write(0, &pattern(1, 4096)));
    other.submit(&Command { data: vec![0; 24], ..Command::new(&[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0]) });
    other.ping();
    let r2ts: Vec<_> = other.r2ts.drain(..).collect();
    assert_eq!(r2ts.len(), 2);
    host.run(&out(PREEMPT_AND_ABORT, WRITE_EXCLUSIVE, 1, 2)).good();
    for r2t in &r2ts {
        other.answer_r2t(r2t);
    }
    // No answer to either (TAS=0), and the new reservation stands.
    other.stays_quiet();
    assert_eq!(other.fails(&Command::test_unit_ready()), (6, 0x2a, 0x05));
    assert!(conflicts(&other.run(&write(8))));
    assert!(host.run(&Command::read(0, 8)).good().data == [0; 4096]);
    host.run(&write(16)).good();
    assert_eq!(keys(&mut host), (3, vec![1]));
    gateway.memory_is_back();
}

/// SPC-4 5.13.11.2.6: TAS says whether they are answered, as it does where a reset ends them.
#[test]
fn with_tas_what_preempt_and_abort_ends_is_answered() {
    let (gateway, unit) = Gateway::with_ram(limits(), 2);
    let (mut host, mut other) = two(&gateway);
    set_tas(&mut host, &mut [&mut other]);
    let write = held_back(&mut other, &Command::write(0, &pattern(1, 4096)));
    let permit = unit.gate.enter(1).unwrap();
    let preempt = host.submit(&out(PREEMPT_AND_ABORT, 0, 1, 2));
    host.stays_quiet();
    until_held(&unit);
    let (parked, late) = (other.submit(&Command::read(0, 8)), other.submit(&out(REGISTER, 0, 2, 3)));
    other.ping();
    let register = other.r2ts.pop().expect("an R2T");
    other.answer_r2t(&register);
    other.stays_quiet();
    unit.gate.leave(permit);
    host.answer(preempt).good();
    other.answer_r2t(&write);
    for task in [parked, late, write.tag()] {
        assert_eq!(other.answer(task).status, TASK_ABORTED);
    }
    assert_eq!(other.fails(&Command::test_unit_ready()), (6, 0x2a, 0x05));
    assert_eq!(keys(&mut host), (3, vec![1]));
    gateway.memory_is_back();
}

#[test]
fn preempt_without_abort_answers_everything() {
    let (gateway, _) = Gateway::with_ram(limits(), 2);
    let (mut host, mut other) = two(&gateway);
    let r2t = held_back(&mut other, &Command::write(0, &pattern(1, 4096)));
    host.run(&out(PREEMPT, 0, 1, 2)).good();
    other.answer_r2t(&r2t);
    other.answer(r2t.tag()).good();
    assert_eq!(other.fails(&Command::test_unit_ready()), (6, 0x2a, 0x05));
    assert_eq!(keys(&mut host), (3, vec![1]));
}

#[test]
fn registrations_are_the_initiator_ports() {
    let (gateway, _) = Gateway::with_ram(limits(), 2);
    let (mut host, mut other) = two(&gateway);
    host.run(&out(RESERVE, EXCLUSIVE_ACCESS, 1, 0)).good();
    let isid = host.isid;
    host.logout();
    assert!(conflicts(&other.run(&Command::read(0, 8))), "it outlives the session");
    // The same initiator with another ISID is another port.
    let mut elsewhere = gateway.session();
    assert!(conflicts(&elsewhere.run(&Command::read(0, 8))));
    assert!(conflicts(&elsewhere.run(&out(RELEASE, EXCLUSIVE_ACCESS, 1, 0))));
    let mut again = gateway.connect();
    again.isid = isid;
    again.login(HOST, TARGET, "").unwrap();
    again.clear_attentions(0);
    again.run(&write(0)).good();
    again.run(&out(RELEASE, EXCLUSIVE_ACCESS, 1, 0)).good();
    other.run(&Command::read(0, 8)).good();
}

#[test]
fn reserve_ends_with_the_nexus_and_with_resets() {
    let (gateway, unit) = Gateway::with_ram(limits(), 2);
    let (mut host, mut other) = (gateway.session(), gateway.session_of(OTHER_HOST, ""));
    let reserve = Command::new(&[0x16]);
    let release = Command::new(&[0x17]);
    host.run(&reserve).good();
    assert!(conflicts(&other.run(&reserve)) && conflicts(&other.run(&Command::test_unit_ready())));
    other.run(&release).good();
    assert!(conflicts(&other.run(&Command::test_unit_ready())));
    host.run(&release).good();
    other.run(&reserve).good();
    assert!(conflicts(&host.run(&Command::read(0, 8))));
    other.logout();
    host.run(&Command::read(0, 8)).good();
    for function in [tmf::LOGICAL_UNIT_RESET, tmf::TARGET_WARM_RESET] {
        let mut third = gateway.session_of(OTHER_HOST, "");
        third.run(&reserve).good();
        assert_eq!(host.tmf(function, 0), 0);
        host.clear_attentions(0);
        host.run(&write(0)).good();
    }
    // A nexus that is reset keeps its session, and what is persistent.
    let mut third = gateway.session_of(OTHER_HOST, "iSCSIProtocolLevel=2\0");
    third.run(&reserve).good();
    assert!(conflicts(&host.run(&write(0))));
    assert_eq!(third.tmf(tmf::I_T_NEXUS_RESET, 0), 0);
    host.run(&write(0)).good();
    assert_eq!(third.fails(&Command::test_unit_ready()), (6, 0x29, 0x07));
    // So it does when its RESERVE still waits.
    let barrier = gateway.runtime.block_on(unit.gate.barrier()).unwrap();
    third.submit(&reserve);
    third.quiet();
    let function = third.submit_tmf(tmf::I_T_NEXUS_RESET, 0, u32::MAX);
    third.quiet();
    drop(barrier);
    gateway.service.sessions.wake_all();
    assert_eq!(third.tmf_answer(function), 0);
    host.run(&write(0)).good();
    third.clear_attentions(0);
    third.run(&out(REGISTER, 0, 0, 9)).good();
    third.run(&out(RESERVE, EXCLUSIVE_ACCESS, 9, 0)).good();
    assert_eq!(third.tmf(tmf::I_T_NEXUS_RESET, 0), 0);
    assert!(conflicts(&host.run(&write(0))));
    third.clear_attentions(0);
    third.run(&out(CLEAR, 0, 9, 0)).good();
    host.clear_attentions(0);
    // A connection that breaks.
    let mut broken = gateway.session_of(OTHER_HOST, "");
    broken.run(&reserve).good();
    broken.finish();
    assert_eq!(broken.end(), Gone::Closed);
    until("the nexus is lost", || !conflicts(&host_reads(&gateway)));
    // Registrations survive a reset.
    host.run(&out(REGISTER, 0, 0, 7)).good();
    assert_eq!(host.tmf(tmf::LOGICAL_UNIT_RESET, 0), 0);
    host.clear_attentions(0);
    assert_eq!(keys(&mut host), (3, vec![7]));
    drop(unit);
}

fn host_reads(gateway: &Gateway) -> Answer {
    gateway.session().run(&Command::read(0, 8))
}

#[test]
fn what_waits_for_its_turn_is_not_begun_when_its_session_has_ended() {
    let (gateway, unit) = Gateway::with_ram(limits(), 2);
    let (mut host, mut other) = two(&gateway);
    let permit = unit.gate.enter(1).unwrap();
    let reserve = host.submit(&out(RESERVE, WRITE_EXCLUSIVE, 1, 0));
    host.stays_quiet();
    other.submit(&Command { immediate: 24, ..out(CLEAR, 0, 2, 0) });
    other.ping();
    let sessions = gateway.service.sessions.connections();
    drop(other);
    // Its socket is closed; the session lingers until what it asked for has ended.
    until("the socket is closed", || gateway.service.sessions.sockets() < sessions);
    unit.gate.leave(permit);
    host.answer(reserve).good();
    until("the session is gone", || gateway.service.sessions.connections() < sessions);
    assert_eq!(keys(&mut host), (2, vec![1, 2]));
}

#[test]
fn where_the_unit_is_not_served_reservations_are_not_either() {
    let (gateway, unit) = Gateway::with_ram(limits(), 2);
    let (mut host, mut other) = two(&gateway);
    let r2t = held_back(&mut host, &out(RESERVE, WRITE_EXCLUSIVE, 1, 0));
    gateway.runtime.block_on(unit.stop(AccessState::Standby));
    host.answer_r2t(&r2t);
    assert_eq!(host.answer(r2t.tag()).code(), (2, 0x04, 0x0a));
    let standby = (2, 0x04, 0x0b);
    assert_eq!(
        other.fails(&Command { reads: 8, ..Command::new(&[0x5e, 0, 0, 0, 0, 0, 0, 0, 8, 0]) }),
        standby
    );
    assert_eq!(other.fails(&out(REGISTER, 0, 2, 0)), standby);
}
