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
    assert!(checks[0].detail[0].ends_with("held back for 10 minutes"), "{:?}", checks[0].detail);
}

#[test]
fn units_without_an_owner_that_is_up() {
    let map = with_units(&crate::testing::first(), 2);
    let checks = bare(&map);
    assert_eq!(codes(&checks), ["LUS_LU_NO_OWNER"]);
    assert_eq!(checks[0].summary, "2 logical units are without an owner that is up");
    assert_eq!(checks[0].detail[0], "null:u0 has no owner");
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
    for record in [None, Some(&new), Some(&other), Some(&older), Some(&lost), Some(&released)] {
        let checks = says(record, later());
        assert_eq!(codes(&checks), ["LUS_LU_NOT_SERVED"]);
        assert!(
            checks[0].detail[0].starts_with("null:u0 is placed on lus.a, but is"),
            "{:?}",
            checks[0].detail
        );
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
    assert_eq!((check.code, check.severity), ("LUS_FOREIGN_HOLDER", Severity::Err));
    assert_eq!(serde_json::to_value(&check).unwrap()["severity"], "HEALTH_ERR");
}
