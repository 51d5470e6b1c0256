//! Who waits for whom.

use uuid::Uuid;

use super::*;
use crate::id::{Epoch, LuId};
use crate::model::Fenced;
use crate::testing::{addr, id, led_by, map_of, registered, start, then, without};

fn holder(map: &LusMap, name: &str, client: u32) -> Holder {
    let addr = format!("10.0.1.{}:0/{client}", name.as_bytes()[0]).parse().unwrap();
    Holder { daemon: id(name), up_from: start(map, name).up_from, addr }
}

#[test]
fn every_holder_in_every_state() {
    let map = map_of(&["a", "b"]);
    let (a, b) = (holder(&map, "a", 1), holder(&map, "b", 1));
    let new = LuRecord::new(LuId(Uuid::from_u128(1)));
    let serving = new.claim(&a).unwrap();
    let moving = serving.begin_move(&b.daemon).unwrap();
    let (released, lost) = (moving.release(&a).unwrap(), serving.lose(&a).unwrap());
    let short = Duration::from_millis(29_999);
    let (wait, fence) =
        (Handover::WaitForRelease { holder: a.clone() }, Handover::FenceAndTake { holder: a.clone() });

    for free in [&new, &released] {
        assert_eq!(handover(free, &map, &b, Duration::ZERO), Handover::Claim);
    }
    for held in [&serving, &moving] {
        assert_eq!(handover(held, &map, &b, short), wait);
        assert_eq!(handover(held, &map, &b, MOVE_PATIENCE), fence);
        // It is mine already, however long I think about it; through another client I am another holder.
        assert_eq!(handover(held, &map, &a, MOVE_PATIENCE), Handover::Ours);
        assert_eq!(handover(held, &map, &holder(&map, "a", 2), Duration::ZERO), fence);
    }
    // Who lost it says so, and has nothing to release: also I, who must come with another client then.
    assert_eq!(handover(&lost, &map, &b, Duration::ZERO), fence);
    assert_eq!(handover(&lost, &map, &a, Duration::ZERO), fence);

    // Down, ended, superseded, gone.
    let led = led_by(&map, "b");
    let down = without(&led, "a");
    let ended =
        then(&map, 0, |map, origin| crate::change::daemon::retire(map, origin, (&a.daemon, a.up_from)));
    let superseded = registered(&map, "a", "10.0.0.97:0/2".parse().unwrap());
    let gone = then(&down, 0, |map, origin| crate::change::daemon::rm(map, origin, &a.daemon, true));
    for map in [&down, &ended, &superseded, &gone] {
        for held in [&serving, &moving, &lost] {
            assert_eq!(handover(held, map, &b, Duration::ZERO), fence);
        }
        assert_eq!(handover(&released, map, &b, Duration::ZERO), Handover::Claim);
    }
    // The next start of the daemon does not wait for the one before.
    assert_eq!(handover(&serving, &superseded, &holder(&superseded, "a", 2), Duration::ZERO), fence);
}

#[test]
fn what_the_rule_says_the_record_allows() {
    let map = map_of(&["a", "b"]);
    let (a, b) = (holder(&map, "a", 1), holder(&map, "b", 1));
    let new = LuRecord::new(LuId(Uuid::from_u128(1)));
    let serving = new.claim(&a).unwrap();
    let moving = serving.begin_move(&b.daemon).unwrap();
    let records =
        [new, serving.clone(), moving.clone(), moving.release(&a).unwrap(), serving.lose(&a).unwrap()];
    for record in records {
        for waited in [Duration::ZERO, MOVE_PATIENCE] {
            match handover(&record, &map, &b, waited) {
                Handover::Claim => drop(record.claim(&b).unwrap()),
                Handover::FenceAndTake { holder } => {
                    let fenced = Fenced { addr: holder.addr, osd_epoch: 7 };
                    assert_eq!(record.take_over(&b, &fenced).unwrap().lu_epoch, Epoch(2));
                }
                Handover::WaitForRelease { holder } => drop(record.release(&holder).unwrap()),
                Handover::Ours => panic!("b holds nothing"),
            }
        }
    }
    assert_eq!(handover(&moving, &map, &a, Duration::ZERO), Handover::Ours);
    assert_eq!(moving.cancel_move().unwrap().state, serving.state);
    assert_ne!(addr("a"), a.addr, "a client for images is not the one for the map");
}
