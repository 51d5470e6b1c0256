//! The map changes while initiators are logged in.

use lusd::target::view::TargetView;

use crate::gateway::{Gateway, HOST, OTHER_HOST, TARGET, limits, lun};
use crate::initiator::{Command, pattern};

const REPORTED_LUNS_DATA_HAS_CHANGED: (u8, u8, u8) = (6, 0x3f, 0x0e);
const POWER_ON: (u8, u8, u8) = (6, 0x29, 0x00);
const NOT_SUPPORTED: (u8, u8, u8) = (5, 0x25, 0x00);

#[test]
fn luns_come_and_go() {
    let (gateway, unit) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.session();
    let ready = Command::test_unit_ready();
    assert_eq!(host.report_luns(), [0]);
    let added = gateway.ram();
    gateway.show(&[(0, &unit), (1, &added)]);
    assert_eq!(host.fails(&ready), REPORTED_LUNS_DATA_HAS_CHANGED);
    host.run(&ready).good();
    assert_eq!(host.report_luns(), [0, 1]);
    assert_eq!(host.fails(&ready.clone().on(1)), POWER_ON);
    host.run(&ready.clone().on(1)).good();
    host.run(&Command::write(0, &pattern(1, 512)).on(1)).good();

    gateway.show(&[(0, &unit)]);
    // REPORT LUNS tells it as well as the unit attention does: afterwards there is none.
    assert_eq!(host.report_luns(), [0]);
    host.run(&ready).good();
    assert_eq!(host.fails(&ready.clone().on(1)), NOT_SUPPORTED);

    // A view that changes nothing for this host says nothing to it.
    gateway.show(&[(0, &unit)]);
    host.run(&ready).good();

    // Another unit under the same number is another unit.
    host.run(&Command::write(0, &pattern(2, 512))).good();
    gateway.show(&[(0, &added)]);
    assert_eq!(host.fails(&ready), POWER_ON);
    assert_eq!(host.fails(&ready), REPORTED_LUNS_DATA_HAS_CHANGED);
    assert!(host.run(&Command::read(0, 1)).good().data == pattern(1, 512));
}

#[test]
fn data_of_a_write_comes_after_its_lun_has_gone() {
    let (gateway, unit) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.session();
    host.answers_r2t = false;
    let tag = host.submit(&Command::write(0, &pattern(1, 4096)));
    host.ping();
    let r2t = host.r2ts.pop().expect("an R2T");
    gateway.show(&[]);
    host.answer_r2t(&r2t);
    // The command was taken while the LUN was there.
    host.answer(tag).good();
    gateway.show(&[(0, &unit)]);
    host.clear_attentions(0);
    assert!(host.run(&Command::read(0, 8)).good().data == pattern(1, 4096));
}

#[test]
fn each_host_sees_its_own_luns() {
    let gateway = Gateway::start(limits(), 2);
    let (common, own) = (gateway.ram(), gateway.ram());
    let target = TargetView {
        hosts: [HOST.to_owned(), OTHER_HOST.to_owned()].into(),
        luns: [(lun(0), common.clone()), (lun(1), common.clone())].into(),
        host_luns: [(HOST.to_owned(), [(lun(1), own.clone()), (lun(5), own.clone())].into())].into(),
        ..Default::default()
    };
    gateway.publish([(TARGET.to_owned(), target)].into());
    let (mut host, mut other) = (gateway.session(), gateway.session_of(OTHER_HOST, ""));
    assert_eq!((host.report_luns(), other.report_luns()), (vec![0, 1, 5], vec![0, 1]));
    host.run(&Command::write(0, &pattern(1, 512)).on(1)).good();
    assert!(host.run(&Command::read(0, 1).on(5)).good().data == pattern(1, 512), "LUNs 1 and 5 are one unit");
    assert!(other.run(&Command::read(0, 1).on(1)).good().data == [0; 512], "hidden only from the other host");
}

#[test]
fn a_host_that_is_removed_is_closed() {
    let gateway = Gateway::start(limits(), 2);
    let unit = gateway.ram();
    let publish = |hosts: &[&str]| {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        let target = TargetView { hosts, luns: [(lun(0), unit.clone())].into(), ..Default::default() };
        gateway.publish([(TARGET.to_owned(), target)].into());
    };
    publish(&[HOST, OTHER_HOST]);
    let (mut host, mut other) = (gateway.session(), gateway.session_of(OTHER_HOST, ""));
    publish(&[OTHER_HOST]);
    host.is_dropped();
    other.run(&Command::test_unit_ready()).good();
    gateway.publish(Default::default());
    // The whole target has gone.
    other.is_dropped();
}
