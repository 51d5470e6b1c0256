use std::time::Instant;

use lusd_iscsi::pdu::{Isid, LoginRequest, Stage};
use lusd_iscsi::{Config, Event, LoginGrant};
use lusd_scsi::{AccessState, Identity, LogicalUnit, LogicalUnitConfig};

use super::super::sessions::Sessions;
use super::*;

/// A session that has logged in and may have several connections.
fn session() -> SessionHandle {
    let config = Config { max_connections: 4, ..Config::default() };
    let mut proto = Proto::new(Arc::new(config), Instant::now(), 0);
    let text = b"InitiatorName=iqn.a:i\0TargetName=iqn.a:t\0MaxConnections=4\0";
    let request = LoginRequest {
        csg: Stage::LoginOperationalNegotiation,
        nsg: Some(Stage::FullFeaturePhase),
        continues: false,
        version_max: 0,
        version_min: 0,
        isid: Isid([0x80, 0, 0, 0, 0, 1]),
        tsih: 0,
        initiator_task_tag: 1,
        cid: 0,
        cmd_sn: Serial(1),
        exp_stat_sn: Serial(0),
    };
    let mut bhs = request.to_bhs();
    bhs.set_data_segment_length(text.len() as u32);
    let mut bytes = [&bhs.0[..], text].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    proto.read_target().buf.extend_from_slice(&bytes);
    proto.received(bytes.len());
    assert!(matches!(proto.poll(Instant::now()), Some(Event::Login(_))));
    proto.login_grant(LoginGrant { tsih: 1, ..LoginGrant::default() });
    assert!(matches!(proto.poll(Instant::now()), Some(Event::LoggedIn(_))));
    proto.session().expect("it is up")
}

fn unit() -> Arc<Unit> {
    let config = LogicalUnitConfig::new(Identity::new([7; 16]), 1 << 20);
    let scsi = LogicalUnit::new(config, AccessState::BecomingReady).unwrap();
    Unit::new(lus_map::LuId(uuid::Uuid::from_u128(7)), "ram:x".to_owned(), scsi, 1)
}

/// One connection may have ended while something of it is in RADOS, and another one goes on with commands as fast as it can.
#[test]
fn letters_to_who_does_not_read_are_bounded() {
    let (sessions, group, unit) = (Sessions::default(), Group::new(session()), unit());
    let handles = [(); 2].map(|()| sessions.enter(Arc::default(), std::net::Ipv4Addr::LOCALHOST.into()));
    let (active, silent) = (group.enter(0, &handles[0]), group.enter(1, &handles[1]));
    let lasts = active.announce(Serial(0), &unit, Kind::Head);
    for i in 1..10_000 {
        let kind = if i % 2 == 0 { Kind::Head } else { Kind::Ordered };
        drop(active.announce(Serial(i), &unit, kind));
    }
    let letters = silent.mail.take();
    assert!(letters.len() <= LETTERS_LOW, "{} letters", letters.len());
    // What is not over is among them.
    assert!(matches!(&letters[0], Letter::Special(foreign) if foreign.what.cmd_sn == Serial(0)));
    drop(lasts);
}
