//! Task attributes: who waits for whom.

use crate::gateway::{Gateway, HOST, OTHER_HOST, limits};
use crate::initiator::{Command, Initiator, pattern, tmf};

/// A write whose data is asked for and not sent: it stands in the task set until the R2T is answered.
fn standing(host: &mut Initiator, command: &Command) -> crate::initiator::Pdu {
    host.answers_r2t = false;
    host.submit(command);
    host.ping();
    host.answers_r2t = true;
    host.r2ts.pop().expect("an R2T")
}

fn read(lba: u32) -> Command {
    Command::read(lba, 8)
}

#[test]
fn an_ordered_task_waits_for_the_older_ones_and_holds_the_newer_ones() {
    let (gateway, unit) = Gateway::with_ram(limits(), 2);
    let bystander = gateway.ram();
    gateway.show(&[(0, &unit), (1, &bystander)]);
    let (mut host, mut other) = (gateway.session_of(HOST, ""), gateway.session_of(OTHER_HOST, ""));
    let (first, second) = (pattern(1, 4096), pattern(2, 4096));
    let old = standing(&mut host, &Command::write(0, &first));
    // SIMPLE ones pass each other.
    host.run(&read(8)).good();
    let ordered = host.submit(&Command::write(0, &second).all_immediate().ordered());
    let newer = host.submit(&read(0));
    host.stays_quiet();
    // Neither another unit nor another session is held.
    host.run(&read(0).on(1)).good();
    other.run(&read(0)).good();
    host.answer_r2t(&old);
    host.answer(old.tag()).good();
    host.answer(ordered).good();
    assert!(host.answer(newer).good().data == second, "the newer one sees what the ordered one wrote");
    host.run(&read(0)).good();
}

#[test]
fn ordered_tasks_keep_their_order_among_each_other() {
    let (gateway, unit) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.session();
    let barrier = gateway.runtime.block_on(unit.gate.barrier()).unwrap();
    let writes: Vec<_> = (0..10)
        .map(|i| host.submit(&Command::write(0, &pattern(i, 4096)).all_immediate().ordered()))
        .collect();
    host.quiet();
    drop(barrier);
    gateway.service.sessions.wake_all();
    for (i, tag) in writes.into_iter().enumerate() {
        let (answered, answer) = host.any_answer();
        assert_eq!(answered, tag, "write {i}");
        answer.good();
    }
    assert!(host.run(&read(0)).good().data == pattern(9, 4096));
}

#[test]
fn a_head_of_queue_task_passes_all_and_holds_all() {
    let (gateway, _) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.session();
    let old = standing(&mut host, &Command::write(0, &pattern(1, 4096)));
    let ordered = host.submit(&read(0).ordered());
    // It waits for nobody.
    host.run(&read(8).head_of_queue()).good();
    let head = standing(&mut host, &Command::write(8, &pattern(2, 4096)).head_of_queue());
    let simple = host.submit(&read(8));
    host.stays_quiet();
    // The first of the two that hold the ordered one.
    host.answer_r2t(&old);
    host.stays_quiet();
    host.answer_r2t(&head);
    for tag in [old.tag(), head.tag(), ordered] {
        host.answer(tag).good();
    }
    assert!(host.answer(simple).good().data == pattern(2, 4096));
}

#[test]
fn what_an_aborted_task_held_goes_on() {
    let (gateway, _) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.session();
    let old = standing(&mut host, &Command::write(0, &pattern(1, 4096)));
    let ordered = host.submit(&read(0).ordered());
    let newer = host.submit(&read(8));
    host.quiet();
    let function = host.submit_tmf(tmf::ABORT_TASK, 0, ordered);
    assert_eq!(host.other(crate::initiator::op::TASK_MANAGEMENT_RESPONSE).tag(), function);
    host.answer(newer).good();
    host.answer_r2t(&old);
    host.answer(old.tag()).good();
    // The other way round.
    let old = standing(&mut host, &Command::write(0, &pattern(1, 4096)));
    let ordered = host.submit(&read(0).ordered());
    host.quiet();
    let function = host.submit_tmf(tmf::ABORT_TASK, 0, old.tag());
    assert_eq!(host.other(crate::initiator::op::TASK_MANAGEMENT_RESPONSE).tag(), function);
    host.answer(ordered).good();
}

#[test]
fn there_is_no_auto_contingent_allegiance() {
    let (gateway, _) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.session();
    assert_eq!(host.fails(&Command { attribute: 4, ..read(0) }), (5, 0x49, 0x00));
    host.run(&Command { attribute: 0, ..read(0) }).good();
}
