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
        assert_eq!(f.next(), Step::AskMap);
        f.holder_lives = Some(false);
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
fn a_holder_that_lives_is_waited_for_with_the_image_open() {
    let old = LuState::Moving { from: holder("b", 1), to: "a".parse().unwrap() };
    let mut f = facts(old.clone());
    f.holder_lives = Some(true);
    assert_eq!(f.next(), Step::Open);
    f.image = Some(ImageFacts { exclusive_lock: false, ..GOOD });
    assert_eq!(f.next(), Step::Wait(Obstacle::NoExclusiveLock), "better said now than after the release");
    f.image = Some(GOOD);
    assert_eq!(f.next(), Step::AwaitRelease);
    f.note_record(Some(record(LuState::Released)));
    assert!(matches!(f.next(), Step::Write(_)));
    f.note_record(Some(record(old)));
    assert_eq!(f.next(), Step::AskMap, "what was known of the holder is asked again");
    let volatile = Facts { has_image: false, holder_lives: Some(true), ..f };
    assert_eq!(volatile.next(), Step::AwaitRelease);
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
    let mut f = with(vec![locker(4)]);
    f.note_standing(Standing::Leaving);
    assert_eq!(f.next(), Step::AwaitUnlock(locker(4)));
    f.unlock_overdue = true;
    assert_eq!(f.next(), Step::Fence(addr(4)));
    f.note_broken();
    assert!(!f.unlock_overdue);
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
    /// Clients of daemons that are up in the map.
    up: BTreeSet<u32>,
    /// Clients whose gate is open.
    open: BTreeSet<u32>,
    /// A holder that lives has had its time.
    patience_over: bool,
}

fn number(addr: &ClientAddr) -> u32 {
    addr.as_str().rsplit('/').next().unwrap().parse().unwrap()
}

/// A daemon in an attempt, and in a move.
struct Party {
    me: u32,
    facts: Facts,
    /// The OSD map that its client has.
    seen: u32,
    foreign: Option<u32>,
}

/// How far a party got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Got {
    Serves,
    /// It waits for another one.
    Waits,
    /// The steps were used up.
    Stopped,
}

impl Party {
    fn new(world: &mut World, daemon: &str, me: u32, foreign: Option<u32>) -> Self {
        world.known.insert(me);
        world.up.insert(me);
        Self { me, facts: Facts::new(holder(daemon, me), true), seen: 0, foreign }
    }

    /// Goes on for at most `steps` steps.
    fn go(&mut self, world: &mut World, steps: usize) -> Got {
        for _ in 0..steps {
            let step = self.facts.next();
            assert!(!world.blocklist.contains(&self.me), "somebody fenced the live one: {step:?}");
            if let Some(got) = self.take(world, step) {
                return got;
            }
        }
        Got::Stopped
    }

    fn take(&mut self, world: &mut World, step: Step) -> Option<Got> {
        let (me, f) = (self.me, &mut self.facts);
        match step {
            Step::ReadRecord => f.note_record(world.record.clone()),
            Step::CreateRecord => {
                let first = LuRecord::new(LuId(uuid::Uuid::from_u128(7)));
                world.record = Some(first.clone());
                f.note_record(Some(first));
            }
            Step::AskMap => {
                let holder = f.record.as_ref().unwrap().as_ref().unwrap().state.holder().unwrap();
                let lives = world.up.contains(&number(&holder.addr)) && !world.patience_over;
                if !lives && world.record != *f.record.as_ref().unwrap() {
                    f.note_record(world.record.clone());
                    return None;
                }
                f.holder_lives = Some(lives);
            }
            Step::AwaitRelease => {
                let holder = f.record.as_ref().unwrap().as_ref().unwrap().state.holder().unwrap();
                let lives = world.up.contains(&number(&holder.addr)) && !world.patience_over;
                if world.record == *f.record.as_ref().unwrap() && lives {
                    return Some(Got::Waits);
                }
                f.note_record(world.record.clone());
            }
            Step::AwaitUnlock(locker) => {
                let n = number(locker.addr.as_ref().unwrap());
                if world.lock == Some(n) && world.up.contains(&n) {
                    if !world.patience_over {
                        return Some(Got::Waits);
                    }
                    f.unlock_overdue = true;
                } else {
                    f.note_broken();
                }
            }
            Step::Fence(addr) => {
                let n = number(&addr);
                assert_ne!(n, me);
                assert_ne!(Some(n), self.foreign, "who is not of LUS is left alone");
                assert!(!world.up.contains(&n) || world.patience_over, "one that lives was fenced");
                world.blocklist.insert(n);
                world.up.remove(&n);
                world.osdmap += 1;
                f.note_fenced(Fenced { addr, osd_epoch: u64::from(world.osdmap) });
            }
            Step::SeeOsdMap => {
                self.seen = world.osdmap;
                f.osdmap_seen = true;
            }
            Step::Write(next) => {
                // By compare-and-set: it may be another one by now.
                if world.record != *f.record.as_ref().unwrap() {
                    f.note_record(world.record.clone());
                    return None;
                }
                let before = world.record.as_ref().unwrap();
                assert!(next.version == before.version + 1 && next.lu_epoch > before.lu_epoch);
                if let Some(holder) = before.state.holder() {
                    assert!(world.blocklist.contains(&number(&holder.addr)), "taken over without a fence");
                    assert_eq!(self.seen, world.osdmap, "our client has not seen the fence");
                }
                world.record = Some(next.clone());
                f.note_record(Some(next));
            }
            Step::Open => f.image = Some(GOOD),
            Step::ListLockers => f.lockers = Some(world.lock.map(locker).into_iter().collect()),
            Step::LookUp(addr) => f.note_standing(match number(&addr) {
                n if world.blocklist.contains(&n) => Standing::FencedForGood,
                n if world.up.contains(&n) => Standing::Leaving,
                n if world.known.contains(&n) => Standing::Abandoned,
                _ => Standing::Foreign,
            }),
            Step::Break(locker) => {
                let n = number(locker.addr.as_ref().unwrap());
                assert!(
                    world.blocklist.contains(&n) && self.seen == world.osdmap,
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
                let others = world.open.iter().filter(|n| !world.blocklist.contains(n) && **n != me);
                assert_eq!(others.count(), 0, "another one serves");
                world.open.insert(me);
                return Some(Got::Serves);
            }
            Step::Wait(obstacle) => {
                assert!(self.foreign.is_some(), "{obstacle}");
                return Some(Got::Waits);
            }
        }
        None
    }

    /// Steps of a move in which this party lets go, from `from` up to `to`: the order of `owner::handover`.
    fn hand_over(&self, world: &mut World, to: &str, steps: std::ops::Range<usize>) {
        for step in steps {
            let record = world.record.clone().unwrap();
            let me = self.facts.me.clone();
            match step {
                0 => world.record = Some(record.begin_move(&to.parse().unwrap()).unwrap()),
                1 => drop(world.open.remove(&self.me)),
                2 => world.record = Some(record.release(&me).unwrap()),
                _ => {
                    if world.lock == Some(self.me) {
                        world.lock = None;
                    }
                }
            }
        }
    }

    /// Gives up what an attempt has claimed, as the owner's task does when the map wants something else.
    fn give_back(&mut self, world: &mut World) {
        if world.open.contains(&self.me) {
            self.hand_over(world, "a", 0..MOVE_STEPS);
        } else if self.facts.has_claim() {
            world.record = Some(world.record.as_ref().unwrap().release(&self.facts.me).unwrap());
            world.lock = world.lock.filter(|n| *n != self.me);
        }
    }

    /// Its process is gone, and the leader has said so.
    fn crash(&self, world: &mut World) {
        world.up.remove(&self.me);
        world.open.remove(&self.me);
    }
}

/// Runs client `me` for at most `steps` steps: a crash after the last one. Returns whether it serves.
fn run(world: &mut World, daemon: &str, me: u32, steps: usize, foreign: Option<u32>) -> bool {
    let mut party = Party::new(world, daemon, me, foreign);
    let got = party.go(world, steps);
    party.crash(world);
    got == Got::Serves
}

/// The longest way that one attempt takes.
const STEPS_MAX: usize = 24;
/// Steps of a move on the side that lets go.
const MOVE_STEPS: usize = 4;

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

/// Everything that can have happened when somebody crashes in a move: how far the one that lets go has got, how far the other one,
/// and who began.
fn each_moment(mut check: impl FnMut(World, Party, Party, usize)) {
    for gave in 0..=MOVE_STEPS {
        for took in 0..STEPS_MAX {
            for before in 0..=took {
                let mut world = World::default();
                let mut a = Party::new(&mut world, "a", 1, None);
                assert_eq!(a.go(&mut world, STEPS_MAX), Got::Serves);
                let mut b = Party::new(&mut world, "b", 2, None);
                b.go(&mut world, before);
                a.hand_over(&mut world, "b", 0..gave);
                b.go(&mut world, took - before);
                check(world, a, b, gave);
            }
        }
    }
}

#[test]
fn a_move_ends_and_nobody_is_fenced() {
    each_moment(|mut world, a, mut b, gave| {
        a.hand_over(&mut world, "b", gave..MOVE_STEPS);
        assert_eq!(b.go(&mut world, STEPS_MAX), Got::Serves, "{world:?}");
        assert!(world.blocklist.is_empty() && world.record.unwrap().lu_epoch == Epoch(2));
    });
}

#[test]
fn a_crash_of_the_old_owner_at_any_moment_of_a_move_is_recovered_from() {
    each_moment(|mut world, a, mut b, gave| {
        a.crash(&mut world);
        assert_eq!(b.go(&mut world, STEPS_MAX), Got::Serves, "{world:?}");
        let clean = gave == MOVE_STEPS;
        assert_eq!(
            world.blocklist.contains(&1),
            !clean,
            "only one that had let go of all is not fenced: {gave}"
        );
    });
}

#[test]
fn a_crash_of_the_new_owner_at_any_moment_of_a_move_is_recovered_from() {
    each_moment(|mut world, a, b, gave| {
        b.crash(&mut world);
        a.hand_over(&mut world, "b", gave..MOVE_STEPS);
        let mut c = Party::new(&mut world, "c", 3, None);
        assert_eq!(c.go(&mut world, STEPS_MAX), Got::Serves, "{world:?}");
        assert!(!world.blocklist.contains(&1), "the old owner let go in order");
    });
}

#[test]
fn both_may_crash_at_any_moment_of_a_move() {
    each_moment(|mut world, a, b, _| {
        a.crash(&mut world);
        b.crash(&mut world);
        assert!(run(&mut world, "c", 3, STEPS_MAX, None), "{world:?}");
    });
}

#[test]
fn a_move_may_be_cancelled_until_the_release_and_taken_back_after_it() {
    each_moment(|mut world, mut a, mut b, gave| {
        b.give_back(&mut world);
        if gave <= 2 {
            if gave > 0 {
                world.record = Some(world.record.as_ref().unwrap().cancel_move().unwrap());
            }
            world.open.insert(a.me);
            assert_eq!(world.record.as_ref().unwrap().lu_epoch, Epoch(1));
        } else {
            a.hand_over(&mut world, "b", gave..MOVE_STEPS);
            a.facts = Facts::new(a.facts.me.clone(), true);
            assert_eq!(a.go(&mut world, STEPS_MAX), Got::Serves);
        }
        assert!(world.blocklist.is_empty() && world.lock == Some(a.me), "{world:?}");
    });
}

#[test]
fn a_holder_that_does_not_let_go_is_fenced_when_its_time_is_over() {
    each_moment(|mut world, _, mut b, gave| {
        world.patience_over = true;
        assert_eq!(b.go(&mut world, STEPS_MAX), Got::Serves, "{world:?}");
        assert_eq!(world.blocklist.contains(&1), gave < MOVE_STEPS);
    });
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
