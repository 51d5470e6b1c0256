use std::collections::BTreeSet;

use lus_map::{Epoch, LuId};
use proptest::prelude::*;

use super::*;

fn addr(n: u32) -> ClientAddr {
    format!("10.0.0.1:0/{n}").parse().unwrap()
}

fn holder(daemon: &str, n: u32) -> Holder {
    Holder { daemon: daemon.parse().unwrap(), up_from: Epoch(u64::from(n)), addr: addr(n) }
}

fn locker(n: u32) -> LockHolder {
    LockHolder { client: format!("client.{n}"), cookie: "auto 1".to_owned(), addr: Some(addr(n)) }
}

const GOOD: ImageFacts = ImageFacts { exclusive_lock: true, non_primary: false, same_image: true };

fn record(state: LuState) -> LuRecord {
    LuRecord { lu_epoch: Epoch(4), version: 9, state, ..LuRecord::new(LuId(uuid::Uuid::from_u128(7))) }
}

/// Facts of client 2 with `state` on record.
fn facts(state: LuState) -> Facts {
    Facts { record: Some(Some(record(state))), ..Facts::new(holder("a", 2), true) }
}

fn ours() -> Facts {
    facts(LuState::Serving { holder: holder("a", 2) })
}

fn fenced(n: u32) -> Fenced {
    Fenced { addr: addr(n), osd_epoch: 5 }
}

#[test]
fn the_record_comes_first() {
    let mut f = Facts::new(holder("a", 2), true);
    assert_eq!(f.next(), Step::ReadRecord);
    f.record = Some(None);
    assert_eq!(f.next(), Step::CreateRecord);
    for state in [LuState::New, LuState::Released] {
        let Step::Write(next) = facts(state).next() else { panic!() };
        assert_eq!((next.lu_epoch, next.state), (Epoch(5), LuState::Serving { holder: holder("a", 2) }));
    }
}

#[test]
fn every_recorded_holder_is_fenced_and_the_map_seen_before_the_record_changes() {
    let old = holder("a", 1);
    let states = [
        LuState::Serving { holder: old.clone() },
        LuState::Lost { holder: old.clone() },
        LuState::Moving { from: old.clone(), to: "a".parse().unwrap() },
        LuState::Serving { holder: Holder { addr: old.addr.clone(), ..holder("b", 9) } },
    ];
    for state in states {
        let mut f = facts(state);
        assert_eq!(f.next(), Step::Fence(addr(1)));
        f.note_fenced(fenced(7));
        assert_eq!(f.next(), Step::Fence(addr(1)), "another client's fence does not count");
        f.note_fenced(fenced(1));
        assert_eq!(f.next(), Step::SeeOsdMap);
        f.osdmap_seen = true;
        let Step::Write(next) = f.next() else { panic!("{:?}", f.next()) };
        assert_eq!((next.lu_epoch, next.version), (Epoch(5), 10));
    }
}

#[test]
fn own_client_is_never_fenced() {
    for state in [
        LuState::Lost { holder: holder("a", 2) },
        LuState::Serving { holder: Holder { up_from: Epoch(1), ..holder("a", 2) } },
    ] {
        assert!(matches!(facts(state).next(), Step::Wait(Obstacle::Record(_))));
    }
    assert_eq!(ours().next(), Step::Open, "an earlier write of ours arrived after all");
}

#[test]
fn images_that_must_not_be_served() {
    for (image, obstacle) in [
        (ImageFacts { exclusive_lock: false, ..GOOD }, Obstacle::NoExclusiveLock),
        (ImageFacts { non_primary: true, ..GOOD }, Obstacle::NonPrimary),
        (ImageFacts { same_image: false, ..GOOD }, Obstacle::OtherImage),
    ] {
        let f = Facts { image: Some(image), acquired: true, confirmed: true, ..ours() };
        assert_eq!(f.next(), Step::Wait(obstacle.clone()));
        assert!(obstacle.needs_somebody());
    }
}

#[test]
fn lockers() {
    let f = Facts { image: Some(GOOD), ..ours() };
    assert_eq!(f.next(), Step::ListLockers);
    let with = |lockers: Vec<LockHolder>| Facts { lockers: Some(lockers), ..f.clone() };
    assert_eq!(with(vec![]).next(), Step::Acquire);
    assert_eq!(with(vec![locker(2)]).next(), Step::Acquire, "our own");
    let mut f = with(vec![locker(1)]);
    assert_eq!(f.next(), Step::LookUp(addr(1)));
    f.note_standing(Standing::Foreign);
    assert_eq!(f.next(), Step::Wait(Obstacle::ForeignHolder(locker(1))));
    f.note_standing(Standing::Abandoned);
    assert_eq!(f.next(), Step::Fence(addr(1)));
    f.note_fenced(fenced(1));
    assert_eq!(f.next(), Step::SeeOsdMap);
    f.osdmap_seen = true;
    assert_eq!(f.next(), Step::Break(locker(1)));
    f.note_broken();
    assert_eq!(f.next(), Step::ListLockers);
    let mut f = with(vec![locker(3)]);
    f.note_standing(Standing::FencedForGood);
    assert_eq!(f.next(), Step::SeeOsdMap);
    f.osdmap_seen = true;
    assert_eq!(f.next(), Step::Break(locker(3)));
    let unknown = LockHolder { addr: None, ..locker(1) };
    let text = Obstacle::ForeignHolder(unknown.clone()).to_string();
    assert_eq!(with(vec![unknown.clone()]).next(), Step::Wait(Obstacle::ForeignHolder(unknown)));
    assert_eq!(text, "foreign lock holder of unknown address (client.1): it is not broken");
}

#[test]
fn nothing_is_served_unconfirmed() {
    let mut f = Facts { image: Some(GOOD), lockers: Some(vec![]), acquired: true, ..ours() };
    assert_eq!(f.next(), Step::Confirm);
    f.confirmed = true;
    assert_eq!(f.next(), Step::Serve);
    let volatile = Facts { has_image: false, ..ours() };
    assert_eq!(volatile.next(), Step::Serve, "ram: and null: have no lock, but a record");
}

/// The cluster, as far as it matters here.
#[derive(Clone, Debug, Default)]
struct World {
    record: Option<LuRecord>,
    /// Client numbers on the blocklist.
    blocklist: BTreeSet<u32>,
    /// Version of the OSD map.
    osdmap: u32,
    /// Who holds the lock.
    lock: Option<u32>,
    /// Clients of daemons that ever ran.
    known: BTreeSet<u32>,
    served: u32,
}

fn number(addr: &ClientAddr) -> u32 {
    addr.as_str().rsplit('/').next().unwrap().parse().unwrap()
}

/// Runs client `me` for at most `steps` steps: a crash after the last one. Returns whether it serves.
fn run(world: &mut World, daemon: &str, me: u32, steps: usize, foreign: Option<u32>) -> bool {
    world.known.insert(me);
    let mut f = Facts::new(holder(daemon, me), true);
    let mut seen = 0;
    for _ in 0..steps {
        let step = f.next();
        assert!(!world.blocklist.contains(&me), "somebody fenced the live one: {step:?}");
        match step {
            Step::ReadRecord => f.record = Some(world.record.clone()),
            Step::CreateRecord => {
                let first = LuRecord::new(LuId(uuid::Uuid::from_u128(7)));
                world.record = Some(first.clone());
                f.record = Some(Some(first));
            }
            Step::Fence(addr) => {
                assert_ne!(number(&addr), me);
                assert_ne!(Some(number(&addr)), foreign, "who is not of LUS is left alone");
                world.blocklist.insert(number(&addr));
                world.osdmap += 1;
                f.note_fenced(Fenced { addr, osd_epoch: u64::from(world.osdmap) });
            }
            Step::SeeOsdMap => {
                seen = world.osdmap;
                f.osdmap_seen = true;
            }
            Step::Write(next) => {
                let before = world.record.as_ref().unwrap();
                assert!(next.version == before.version + 1 && next.lu_epoch > before.lu_epoch);
                if let Some(holder) = before.state.holder() {
                    assert!(world.blocklist.contains(&number(&holder.addr)), "taken over without a fence");
                    assert_eq!(seen, world.osdmap, "our client has not seen the fence");
                }
                world.record = Some(next.clone());
                f.record = Some(Some(next));
            }
            Step::Open => f.image = Some(GOOD),
            Step::ListLockers => f.lockers = Some(world.lock.map(locker).into_iter().collect()),
            Step::LookUp(addr) => f.note_standing(match number(&addr) {
                n if world.blocklist.contains(&n) => Standing::FencedForGood,
                n if world.known.contains(&n) => Standing::Abandoned,
                _ => Standing::Foreign,
            }),
            Step::Break(locker) => {
                let n = number(locker.addr.as_ref().unwrap());
                assert!(
                    world.blocklist.contains(&n) && seen == world.osdmap,
                    "a lock broken without a fence"
                );
                assert_eq!(world.record.as_ref().unwrap().state.holder().map(|h| number(&h.addr)), Some(me));
                world.lock = None;
                f.note_broken();
            }
            Step::Acquire => {
                assert!(world.lock.is_none_or(|n| n == me));
                world.lock = Some(me);
                f.acquired = true;
            }
            Step::Confirm => f.confirmed = world.lock == Some(me),
            Step::Serve => {
                let record = world.record.as_ref().unwrap();
                assert_eq!(record.state.holder().map(|h| number(&h.addr)), Some(me));
                assert_eq!(world.lock, Some(me));
                world.served = me;
                return true;
            }
            Step::Wait(obstacle) => {
                assert!(foreign.is_some(), "{obstacle}");
                return false;
            }
        }
    }
    false
}

/// The longest way that one attempt takes.
const STEPS_MAX: usize = 20;

#[test]
fn a_crash_after_any_step_is_recovered_from() {
    for first in 0..STEPS_MAX {
        for second in 0..STEPS_MAX {
            for third in 0..STEPS_MAX {
                let mut world = World::default();
                run(&mut world, "a", 1, first, None);
                run(&mut world, "b", 2, second, None);
                run(&mut world, "a", 3, third, None);
                assert!(run(&mut world, "a", 4, STEPS_MAX, None), "{world:?}");
            }
        }
    }
}

proptest! {
    #[test]
    fn a_foreign_holder_is_never_broken(crashes in proptest::collection::vec(0..STEPS_MAX, 0..5), at in 0usize..5) {
        let mut world = World::default();
        let mut me = 1;
        for (n, steps) in crashes.iter().enumerate() {
            if n == at && world.lock.is_none() {
                world.lock = Some(99);
            }
            let foreign = (world.lock == Some(99)).then_some(99);
            run(&mut world, "a", me, *steps, foreign);
            me += 1;
        }
        let foreign = (world.lock == Some(99)).then_some(99);
        let serves = run(&mut world, "a", me, STEPS_MAX, foreign);
        prop_assert_eq!(serves, foreign.is_none());
        if foreign.is_some() {
            prop_assert_eq!(world.lock, Some(99));
        }
    }
}
