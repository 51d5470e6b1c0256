//! Asynchronous messages (RFC 7143 11.9), byte for byte: what a host is told without having asked.

use std::sync::Arc;

use lusd::lun::unit::Unit;

use crate::connections::while_acknowledging;
use crate::gateway::{Gateway, HOST, OTHER_HOST, TARGET, limits, limits_with};
use crate::initiator::{Command, Initiator, Pdu, op};

/// The header of an Asynchronous Message that follows `exp_stat_sn` and the host's last command.
fn header(host: &Initiator, stat_sn: u32, lun: u8, last: [u8; 8]) -> Vec<u8> {
    let mut bhs =
        vec![0x32, 0x80, 0, 0, 0, 0, 0, 0, 0, lun, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
    for number in [stat_sn, host.cmd_sn, host.max_cmd_sn()] {
        bhs.extend(number.to_be_bytes());
    }
    bhs.extend(last);
    bhs.extend([0; 4]);
    bhs
}

/// UNIT ATTENTION in fixed format, with its length before it.
fn sense(asc: u8, ascq: u8) -> [u8; 20] {
    [0, 18, 0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0]
}

#[track_caller]
fn is_scsi_event(host: &Initiator, told: &Pdu, stat_sn: u32, lun: u8, data: &[u8]) {
    let mut expected = header(host, stat_sn, lun, [0; 8]);
    expected[7] = data.len() as u8;
    assert_eq!((&told.bhs[..], &told.data[..]), (&expected[..], data));
}

/// What has come by the time that a ping is answered.
fn events(host: &mut Initiator) -> Vec<Pdu> {
    host.quiet();
    std::mem::take(&mut host.scsi_events)
}

fn resize(gateway: &Gateway, unit: &Arc<Unit>, size: u64) {
    if unit.scsi.set_capacity_bytes(size) {
        gateway.service.note_change();
    }
}

#[test]
fn other_luns_are_told_at_once() {
    let (gateway, unit) = Gateway::with_ram(limits(), 2);
    let (mut host, mut other) = (gateway.session(), gateway.session_of(OTHER_HOST, ""));
    let mut discovery = gateway.connect();
    discovery.login(HOST, "", "").unwrap();
    let added = gateway.ram();
    // One more, one less, another one under the same number.
    for luns in [&[(0, &unit), (1, &added)][..], &[(0, &unit)], &[(0, &added)], &[]] {
        gateway.show(luns);
        for session in [&mut host, &mut other] {
            let stat_sn = session.exp_stat_sn();
            let told = events(session);
            assert_eq!(told.len(), 1, "{told:?}");
            is_scsi_event(session, &told[0], stat_sn, 0, &sense(0x3f, 0x0e));
        }
    }
    // What changes nothing for a session is not told to it, and a discovery session sees no LUNs.
    gateway.show(&[]);
    assert!(events(&mut host).is_empty());
    assert_eq!(discovery.send_targets("All").len(), 2);
}

#[test]
fn another_size_is_told_at_once() {
    const MIB: u64 = 1 << 20;
    let (gateway, unit) = Gateway::with_ram(limits(), 2);
    let second = gateway.ram();
    gateway.show(&[(0, &unit), (3, &second)]);
    let mut host = gateway.session();
    resize(&gateway, &second, 128 * MIB);
    let stat_sn = host.exp_stat_sn();
    let told = events(&mut host);
    assert_eq!(told.len(), 1, "{told:?}");
    is_scsi_event(&host, &told[0], stat_sn, 3, &sense(0x2a, 0x09));
    // The unit attention comes all the same: the message may be lost with its connection.
    assert_eq!(host.fails(&Command::test_unit_ready().on(3)), (6, 0x2a, 0x09));
    host.run(&Command::test_unit_ready()).good();
    // To the same size is no news.
    resize(&gateway, &second, 128 * MIB);
    gateway.service.note_change();
    assert!(events(&mut host).is_empty());
    // In the format that the unit's sense data has (D_SENSE).
    let mut list = [0; 16];
    list[4..10].copy_from_slice(&[0x0a, 10, 0x22 | 0x04, 0x10, 0, 0]);
    let select = Command { data: list.to_vec(), ..Command::new(&[0x15, 0x10, 0, 0, 16, 0]) };
    host.run(&select.all_immediate().on(3)).good();
    resize(&gateway, &second, 64 * MIB);
    let stat_sn = host.exp_stat_sn();
    let told = events(&mut host);
    assert_eq!(told.len(), 1, "{told:?}");
    is_scsi_event(&host, &told[0], stat_sn, 3, &[0, 8, 0x72, 6, 0x2a, 0x09, 0, 0, 0, 0]);
}

/// Of several connections of a session one brings the message.
#[test]
fn a_session_is_told_once() {
    let (gateway, unit) = Gateway::with_ram(limits_with(|iscsi| iscsi.max_connections = 3), 2);
    let mut a = gateway.session_of(HOST, "MaxConnections=3\0");
    let mut b = gateway.connect();
    (b.isid, b.tsih, b.cid, b.cmd_sn) = (a.isid, a.tsih, 1, a.cmd_sn);
    b.login(HOST, TARGET, "").unwrap();
    let added = gateway.ram();
    for luns in [&[(0, &unit), (1, &added)][..], &[(0, &unit)]] {
        gateway.show(luns);
        assert_eq!(events(&mut a).len() + events(&mut b).len(), 1);
    }
    resize(&gateway, &unit, 1 << 20);
    assert_eq!(events(&mut a).len() + events(&mut b).len(), 1);
    // What comes before the unit attention is read is told once as well.
    while_acknowledging(&mut b, || a.clear_attentions(0));
    b.cmd_sn = a.cmd_sn;
    b.run(&Command::test_unit_ready()).good();
}

/// All connections of the session are dropped: come again after what was agreed on. Nothing is retained.
#[test]
fn a_host_is_told_that_its_session_is_dropped() {
    let (gateway, _) = Gateway::with_ram(limits(), 2);
    let mut host = gateway.session_of(HOST, "DefaultTime2Wait=7\0DefaultTime2Retain=20\0");
    let stat_sn = host.exp_stat_sn();
    gateway.service.sessions.close_target(TARGET);
    let told = host.other(op::ASYNC_MESSAGE);
    assert_eq!(told.bhs[..], header(&host, stat_sn, 0, [3, 0, 0, 0, 0, 7, 0, 0])[..]);
    assert!(told.data.is_empty());
    assert_eq!(host.end(), crate::initiator::Gone::Closed);
}
