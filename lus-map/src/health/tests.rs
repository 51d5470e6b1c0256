//! Each check, and that nothing is said of what is well.

use uuid::Uuid;

use super::*;
use crate::change::{daemon, flags};
use crate::id::{ClientAddr, Epoch};
use crate::record::Holder;
use crate::testing::{START, id, led_by, map_of, registered, start, then, with_units, without};

/// Long after all that the maps of the tests say.
fn later() -> Timestamp {
    Timestamp(START.0 + 3_600_000_000)
}

fn codes(checks: &[HealthCheck]) -> Vec<&'static str> {
    checks.iter().map(|check| check.code).collect()
}

fn bare(map: &LusMap) -> Vec<HealthCheck> {
    health(map, [], later())
}

#[test]
fn nothing_wrong_says_nothing() {
    let map = led_by(&map_of(&["a", "b"]), "a");
    assert_eq!(bare(&map), []);
    assert_eq!(status(&[]), "HEALTH_OK");
    assert_eq!(bare(&crate::testing::first()), [], "a new map is well");
}

#[test]
fn daemons_that_are_down() {
    let map = without(&led_by(&map_of(&["a", "b", "c"]), "a"), "b");
    let checks = bare(&map);
    assert_eq!(codes(&checks), ["LUS_DAEMON_DOWN"]);
    assert_eq!(
        checks[0].to_string(),
        "[WRN] LUS_DAEMON_DOWN: 1 daemon is down\n    lus.b is down since epoch 6"
    );
    let map = then(&map, 0, |map, origin| daemon::retire(map, origin, (&id("c"), start(map, "c").up_from)));
    let checks = bare(&map);
    assert_eq!(checks[0].summary, "2 daemons are down");
    assert_eq!(checks[0].detail[1], "lus.c ended in order in epoch 7");
    let map = then(&map, 0, |map, origin| daemon::retire(map, origin, (&id("a"), start(map, "a").up_from)));
    let checks = bare(&map);
    assert_eq!((codes(&checks), checks[0].severity), (vec!["LUS_DAEMON_DOWN"], Severity::Err));
    assert_eq!(status(&checks), "HEALTH_ERR");
}

#[test]
fn nobody_leads() {
    let map = map_of(&["a", "b"]);
    assert_eq!(codes(&bare(&map)), ["LUS_NO_LEADER"]);
    let again = registered(&led_by(&map, "a"), "a", "10.0.0.97:0/2".parse().unwrap());
    let checks = bare(&again);
    assert_eq!(checks[0].detail, ["lus.a up_from 2 led last, and is not up"]);
    assert_eq!(status(&checks), "HEALTH_WARN");
}

#[test]
fn flags_are_said_with_their_meaning() {
    let map = led_by(&map_of(&["a"]), "a");
    let map = Flag::ALL.into_iter().fold(map, |map, flag| then(&map, 0, |m, o| flags::set(m, o, flag)));
    let checks = bare(&map);
    assert_eq!(codes(&checks), ["LUS_FLAG_SET"]);
    assert_eq!(checks[0].summary, "nofailover,nomove,noout flag(s) set");
    assert!(checks[0].detail[2].starts_with("noout: no daemon is kept"), "{:?}", checks[0].detail);
}

#[test]
fn flapping_is_said_for_its_time() {
    // Three starts that never ended in order.
    let mut map = led_by(&map_of(&["a", "b"]), "a");
    for nonce in 2..5 {
        map = registered(&map, "b", format!("10.0.0.98:0/{nonce}").parse().unwrap());
    }
    let at = |seconds: u64| Timestamp(START.0 + seconds * 1_000_000);
    assert_eq!(codes(&health(&map, [], at(599))), ["LUS_DAEMON_FLAPPING"]);
    assert_eq!(codes(&health(&map, [], at(600))), [""; 0]);
    let checks = health(&map, [], at(1));
    assert_eq!(
        checks[0].to_string(),
        "[WRN] LUS_DAEMON_FLAPPING: 1 daemon is flapping\n    \
         lus.b went down repeatedly, last at 2026-11-21T03:00:00.000000+0000: held back for 10 minutes"
    );
    let map = then(&map, 0, |map, origin| flags::set(map, origin, Flag::NoOut));
    let checks = health(&map, [], at(1));
    assert!(checks[0].detail[0].ends_with(": not held back, as noout is set"), "{:?}", checks[0].detail);
}

#[test]
fn units_without_an_owner_that_is_up() {
    let map = with_units(&crate::testing::first(), 2);
    let checks = bare(&map);
    assert_eq!(codes(&checks), ["LUS_LU_NO_OWNER"]);
    assert_eq!(
        checks[0].to_string(),
        "[ERR] LUS_LU_NO_OWNER: 2 logical units are without an owner that is up\n    \
         null:u0 has no owner\n    null:u1 has no owner"
    );
    let map = registered(&map, "a", "10.0.0.97:0/1".parse().unwrap());
    let map = then(&map, 0, |map, origin| daemon::retire(map, origin, (&id("a"), start(map, "a").up_from)));
    assert_eq!(bare(&map)[1].detail[0], "null:u0 is placed on lus.a, which is not up");
}

#[test]
fn units_that_their_owner_does_not_serve() {
    let map = with_units(&led_by(&map_of(&["a"]), "a"), 1);
    let lu = LuId(Uuid::from_u128(1));
    let client: ClientAddr = "10.0.1.1:0/1".parse().unwrap();
    let holder =
        |name: &str, up_from| Holder { daemon: id(name), up_from: Epoch(up_from), addr: client.clone() };
    let new = LuRecord::new(lu);
    let serving = new.claim(&holder("a", 2)).unwrap();
    let says = |record: Option<&LuRecord>, now| health(&map, [(lu, record.cloned())], now);
    assert_eq!(says(Some(&serving), later()), []);
    assert_eq!(says(Some(&serving.begin_move(&id("b")).unwrap()), later()), []);
    let other = new.claim(&holder("b", 2)).unwrap();
    let older = new.claim(&holder("a", 1)).unwrap();
    let lost = serving.lose(&holder("a", 2)).unwrap();
    let released = serving.release(&holder("a", 2)).unwrap();
    let moving = other.begin_move(&id("a")).unwrap();
    for (record, why) in [
        (None, "nobody has ever held it"),
        (Some(&new), "nobody has ever held it"),
        (Some(&other), "lus.b up_from 2 (10.0.1.1:0/1) holds it"),
        (Some(&moving), "lus.b up_from 2 (10.0.1.1:0/1) holds it, to hand it over to lus.a"),
        (Some(&older), "lus.a up_from 1 (10.0.1.1:0/1) holds it"),
        (Some(&lost), "lus.a up_from 2 (10.0.1.1:0/1) lost it"),
        (Some(&released), "nobody has held it since it was released"),
    ] {
        let checks = says(record, later());
        assert_eq!(
            checks[0].to_string(),
            format!(
                "[ERR] LUS_LU_NOT_SERVED: 1 logical unit is not served by its owner\n    \
                 null:u0 is placed on lus.a, but {why}"
            )
        );
        assert_eq!(checks.len(), 1);
        // It takes a moment.
        assert_eq!(says(record, Timestamp(START.0 + 34_000_000)), []);
        assert_eq!(codes(&says(record, Timestamp(START.0 + 35_000_000))), ["LUS_LU_NOT_SERVED"]);
    }
    // A record of a unit that is gone says nothing.
    assert_eq!(health(&map, [(LuId(Uuid::from_u128(9)), Some(other))], later()), []);
}

#[test]
fn foreign_holders_are_the_callers_to_find() {
    assert_eq!(foreign_holder(vec![]), None);
    let check = foreign_holder(vec!["rbd/a is locked by client.4711 at 10.0.0.9:0/1".to_owned()]).unwrap();
    assert_eq!(
        check.to_string(),
        "[ERR] LUS_FOREIGN_HOLDER: 1 logical unit is locked by a client that is not of LUS\n    \
         rbd/a is locked by client.4711 at 10.0.0.9:0/1"
    );
    assert_eq!(serde_json::to_value(&check).unwrap()["severity"], "HEALTH_ERR");
}
