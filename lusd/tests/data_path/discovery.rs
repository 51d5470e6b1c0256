//! What initiators may see, and who gets in.

use lusd::service::{Limits, Redirect};
use lusd::target::view::{Portal, TargetView, View};

use crate::gateway::{Gateway, HOST, OTHER_HOST, TARGET, limits, until};
use crate::initiator::{Command, Gone, Pdu};

const OPEN: &str = "iqn.2026-11.io.lus:open";

fn named(hosts: &[&str]) -> TargetView {
    TargetView { hosts: hosts.iter().map(|host| (*host).to_owned()).collect(), ..Default::default() }
}

fn names(records: &[String]) -> Vec<&str> {
    records.iter().filter_map(|pair| pair.strip_prefix("TargetName=")).collect()
}

#[test]
fn an_initiator_sees_the_targets_that_admit_it() {
    let gateway = Gateway::start(limits(), 1);
    let open = TargetView { open: true, ..Default::default() };
    gateway.publish([(TARGET.to_owned(), named(&[HOST])), (OPEN.to_owned(), open)].into());
    let address = format!("TargetAddress={},1", gateway.address);

    let mut host = gateway.connect();
    host.login(HOST, "", "").unwrap();
    let both =
        [format!("TargetName={TARGET}"), address.clone(), format!("TargetName={OPEN}"), address.clone()];
    assert_eq!(host.send_targets("All"), both);
    for name in [TARGET, &TARGET.to_uppercase()] {
        assert_eq!(host.send_targets(name), both[..2]);
    }
    assert!(host.send_targets("iqn.2026-11.io.lus:nothing").is_empty());
    host.logout();
    assert_eq!(host.end(), Gone::Closed);

    let mut other = gateway.connect();
    other.login(OTHER_HOST, "", "").unwrap();
    assert_eq!(names(&other.send_targets("All")), [OPEN]);
    assert!(other.send_targets(TARGET).is_empty(), "not even by its name");
    // The view of now counts, not that of the login.
    gateway.publish([(TARGET.to_owned(), named(&[OTHER_HOST]))].into());
    assert_eq!(names(&other.send_targets("All")), [TARGET]);

    let mut session = gateway.connect();
    session.login(OTHER_HOST, TARGET, "").unwrap();
    assert_eq!(session.send_targets(""), [format!("TargetName={TARGET}"), address]);
}

#[test]
fn portals_are_named_with_addresses_that_can_be_reached() {
    let gateway = Gateway::start(limits(), 1);
    let portal = |address: &str, group_tag| Portal { address: address.parse().unwrap(), group_tag };
    gateway.service.publish(View {
        group_tag: 1,
        targets: [(OPEN.to_owned(), TargetView { open: true, ..Default::default() })].into(),
        portals: vec![
            portal("0.0.0.0:3260", 1),
            portal("[::]:3261", 1),
            portal("192.0.2.7:3260", 2),
            portal("[2001:db8::7]:3260", 3),
        ],
    });
    let mut host = gateway.connect();
    host.login(HOST, "", "").unwrap();
    // It came by IPv4.
    let expected = ["127.0.0.1:3260,1", "192.0.2.7:3260,2"];
    let records = host.send_targets("All");
    assert_eq!(records[1..], expected.map(|portal| format!("TargetAddress={portal}")));
}

/// Target moved temporarily, or permanently (RFC 7143 11.13.5); discovery stays, and so does who comes to where it was sent.
#[test]
fn logins_are_sent_elsewhere() {
    for permanently in [false, true] {
        let elsewhere = Redirect { address: "192.0.2.9:3260".parse().unwrap(), permanently };
        let (gateway, _) = Gateway::with_ram(Limits { redirect: Some(elsewhere), ..limits() }, 1);
        let mut host = gateway.connect();
        host.send_login(&format!("InitiatorName={HOST}\0TargetName={TARGET}\0"));
        let answer = host.receive().unwrap();
        assert_eq!((answer.bhs[36], answer.bhs[37]), (1, if permanently { 2 } else { 1 }));
        assert_eq!(answer.text(), ["TargetAddress=192.0.2.9:3260"]);
        assert_eq!(host.end(), Gone::Closed);
        let mut host = gateway.connect();
        let stranger = host.login(HOST, "iqn.2026-11.io.lus:nothing", "").map(|_| ());
        assert_eq!(stranger, Err((2, 3)), "not for strangers");
        let mut host = gateway.connect();
        host.login(HOST, "", "").unwrap();
        assert_eq!(host.send_targets("All").len(), 2);
    }
}

/// Out of resources: a status after which initiators try again. Who is in stays in, and may take its own place.
#[test]
fn sessions_are_bounded() {
    const OUT_OF_RESOURCES: (u8, u8) = (3, 2);
    let (gateway, _) = Gateway::with_ram(Limits { sessions: 2, ..limits() }, 2);
    let (mut first, mut second) = (gateway.session(), gateway.session());
    let mut third = gateway.connect();
    assert_eq!(third.login(HOST, TARGET, "").map(|_| ()), Err(OUT_OF_RESOURCES));
    assert_eq!(third.end(), Gone::Closed);
    // Discovery is none of them.
    let mut discovery = gateway.connect();
    discovery.login(HOST, "", "").unwrap();
    assert_eq!(discovery.send_targets("All").len(), 2);
    let mut again = gateway.connect();
    again.isid = second.isid;
    again.login(HOST, TARGET, "").unwrap();
    assert_eq!(second.end(), Gone::Reset);
    first.logout();
    assert_eq!(first.end(), Gone::Closed);
    until("it is gone", || gateway.service.sessions.connections() == 2);
    gateway.session().run(&Command::read(0, 8)).good();
}

/// RFC 7143 6.3.1 lets a discovery session name a target; it means nothing.
#[test]
fn a_discovery_session_may_name_a_target() {
    let (gateway, _) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.session();
    for target in [TARGET, "iqn.2026-11.io.lus:nothing"] {
        let mut discovery = gateway.connect();
        discovery.isid = host.isid;
        discovery.login(HOST, "", &format!("TargetName={target}\0")).unwrap();
        assert_eq!(discovery.send_targets("All").len(), 2);
    }
    host.run(&Command::test_unit_ready()).good();
}

#[test]
fn a_discovery_session_takes_no_commands() {
    let (gateway, _) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.connect();
    host.login(HOST, "", "").unwrap();
    host.submit(&Command::test_unit_ready());
    let reject: Pdu = host.receive().unwrap();
    assert_eq!((reject.opcode(), reject.bhs[2]), (0x3f, 0x04), "Reject, protocol error");
    assert_eq!(host.send_targets("All").len(), 2);
}

#[test]
fn who_is_not_named_is_refused_until_the_view_says_otherwise() {
    const NOT_FOUND: (u8, u8) = (2, 3);
    const AUTHORIZATION_FAILURE: (u8, u8) = (2, 2);
    let gateway = Gateway::start(limits(), 1);
    let login = |host: &str, target: &str| {
        let mut initiator = gateway.connect();
        let answer = initiator.login(host, target, "").map(|_| ());
        if answer.is_err() {
            assert_eq!(initiator.end(), Gone::Closed, "a refused login ends the connection");
        }
        answer
    };
    assert_eq!(login(HOST, TARGET), Err(NOT_FOUND), "before anything is published");
    gateway.publish([(TARGET.to_owned(), named(&[HOST]))].into());
    assert_eq!(login(HOST, TARGET), Ok(()));
    assert_eq!(login(OTHER_HOST, TARGET), Err(AUTHORIZATION_FAILURE));
    assert_eq!(login(HOST, "iqn.2026-11.io.lus:nothing"), Err(NOT_FOUND));
    gateway.publish([(TARGET.to_owned(), named(&[HOST, OTHER_HOST]))].into());
    assert_eq!(login(OTHER_HOST, TARGET), Ok(()));
    gateway.publish([(TARGET.to_owned(), named(&[OTHER_HOST]))].into());
    assert_eq!(login(HOST, TARGET), Err(AUTHORIZATION_FAILURE));
}
