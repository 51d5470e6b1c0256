//! When leadership is taken, kept and given up.

use super::*;
use crate::testing::{addr, id, led_by, map_of, registered, start, then, without};

struct One {
    candidate: Candidate,
    judge: Judge,
}

impl One {
    fn of(map: &LusMap, name: &str) -> Self {
        let me = start(map, name);
        Self { candidate: Candidate::new(me.clone()), judge: Judge::new(me) }
    }

    /// A look, as a daemon takes it, and what comes of it; `who` watches.
    fn look(&mut self, ms: u64, map: &LusMap, lease: Option<Lease>, who: &str) -> Step {
        let now = Duration::from_millis(ms);
        let watchers: Vec<ClientAddr> = who.chars().map(|name| addr(&name.to_string())).collect();
        self.judge.look(now, Duration::ZERO, map, Ok::<_, ()>(&watchers[..]));
        self.candidate.look(now, Duration::ZERO, map, Ok::<_, ()>((lease, &watchers[..])));
        self.candidate.step(now, map, &self.judge)
    }

    fn fail(&mut self, ms: u64, map: &LusMap) -> Step {
        let now = Duration::from_millis(ms);
        self.judge.look(now, Duration::ZERO, map, Err(()));
        self.candidate.look(now, Duration::ZERO, map, Err(()));
        self.candidate.step(now, map, &self.judge)
    }

    /// Asks again without a look.
    fn step(&mut self, now: Duration, map: &LusMap) -> Step {
        self.candidate.step(now, map, &self.judge)
    }
}

fn lease(term: u64, count: u64) -> Option<Lease> {
    Some(Lease { term, count })
}

#[test]
fn the_first_one_takes_what_nobody_has() {
    let map = map_of(&["a"]);
    let mut a = One::of(&map, "a");
    assert_eq!(a.step(Duration::ZERO, &map), Step::Stay, "it has not looked yet");
    assert_eq!(a.look(0, &map, None, ""), Step::Stay, "its own watch does not stand yet");
    assert_eq!(a.look(1000, &map, None, "a"), Step::Take { term: 0, stale: None });
}

#[test]
fn candidates_come_one_after_the_other() {
    let map = map_of(&["a", "b", "c"]);
    let mut delays = Vec::new();
    for name in ["a", "b", "c"] {
        let mut one = One::of(&map, name);
        let step = one.look(0, &map, None, "abc");
        let due = one.candidate.due(&map).unwrap();
        assert_eq!(step == Step::Stay, due > Duration::ZERO);
        if due > Duration::ZERO {
            assert_eq!(one.step(due - Duration::from_millis(1), &map), Step::Stay);
        }
        assert_eq!(one.step(due, &map), Step::Take { term: 0, stale: None });
        delays.push(due);
    }
    delays.sort();
    assert_eq!(delays, [Duration::ZERO, RANK_DELAY, RANK_DELAY * 2]);
    // Nobody has to wait for the leader whose place is free.
    let led = led_by(&map, "a");
    let gone = map_of(&["a", "b"]);
    let gone = then(&led_by(&gone, "a"), 0, |map, origin| {
        crate::change::daemon::retire(map, origin, (&id("a"), start(map, "a").up_from))
    });
    assert_eq!(
        One::of(&gone, "b").look(0, &gone, lease(1, 7), "b"),
        Step::Take { term: 1, stale: lease(1, 7) }
    );
    assert_eq!(One::of(&led, "b").look(0, &led, lease(1, 7), "abc"), Step::Stay);
}

#[test]
fn a_leader_renews() {
    let map = led_by(&map_of(&["a", "b"]), "a");
    let mut a = One::of(&map, "a");
    a.candidate.wrote(Duration::ZERO, Lease::first(1));
    assert_eq!(a.look(0, &map, lease(1, 0), "ab"), Step::Renew(Lease::first(1)));
    a.candidate.wrote(Duration::from_millis(1), Lease::first(1).next());
    assert_eq!(a.look(1000, &map, lease(1, 1), "ab"), Step::Renew(Lease { term: 1, count: 1 }));
    // Whatever it stood still for: if nobody took its place it goes on.
    assert_eq!(a.look(60_000, &map, lease(1, 1), "ab"), Step::Renew(Lease { term: 1, count: 1 }));
    assert_eq!(a.fail(61_000, &map), Step::Stay, "RADOS does not answer");
    // Somebody took it, and the map that says so is on its way.
    assert_eq!(a.look(62_000, &map, lease(2, 0), "ab"), Step::Stay);
    let taken = led_by(&map, "b");
    assert_eq!(a.look(63_000, &taken, lease(2, 1), "ab"), Step::Stay);
}

#[test]
fn a_leader_whose_start_is_over_resigns() {
    let map = led_by(&map_of(&["a", "b"]), "a");
    let mut a = One::of(&map, "a");
    let down = without(&led_by(&map, "b"), "a");
    assert_eq!(a.look(0, &down, lease(2, 0), "ab"), Step::Stay, "it does not lead any more");
    // Fenced by hand, say: its entry is there still, its watch is not, and another one's is.
    assert_eq!(a.look(1000, &map, lease(1, 3), "b"), Step::Resign, "twice unseen");
    let mut a = One::of(&map, "a");
    assert!(matches!(a.look(0, &map, lease(1, 3), "b"), Step::Renew(_)));
    assert_eq!(a.look(1000, &map, lease(1, 4), "b"), Step::Resign);
    // Where nobody else is seen either, RADOS is at fault.
    let mut a = One::of(&map, "a");
    for second in 0..10 {
        assert!(matches!(a.look(second * 1000, &map, lease(1, second), ""), Step::Renew(_)));
    }
    // And it does not take again what it gave up while nobody sees it.
    let resigned = then(&map, 0, |map, origin| crate::change::leader::resign(map, origin, &start(map, "a")));
    assert_eq!(a.look(11_000, &resigned, lease(1, 9), "b"), Step::Stay);
}

#[test]
fn a_lease_that_stands_still_is_taken_after_its_time() {
    let map = led_by(&map_of(&["a", "b"]), "a");
    let mut b = One::of(&map, "b");
    for second in 0..20 {
        assert_eq!(b.look(second * 1000, &map, lease(1, second), "ab"), Step::Stay, "it is renewed");
    }
    // The last renewal was seen at 19 s.
    for second in 20..24 {
        assert_eq!(b.look(second * 1000, &map, lease(1, 19), "ab"), Step::Stay);
    }
    assert_eq!(b.look(24_000, &map, lease(1, 19), "ab"), Step::Take { term: 1, stale: lease(1, 19) });
    // A renewal at the last moment keeps it.
    assert_eq!(b.look(25_000, &map, lease(1, 20), "ab"), Step::Stay);
    assert_eq!(b.candidate.due(&map), None);
}

#[test]
fn time_without_answers_does_not_count() {
    let map = led_by(&map_of(&["a", "b"]), "a");
    let run = |trouble: &dyn Fn(&mut One)| {
        let mut b = One::of(&map, "b");
        for second in 0..4 {
            b.look(second * 1000, &map, lease(1, 1), "ab");
        }
        trouble(&mut b);
        let taken = (8..20).find(|second| b.look(second * 1000, &map, lease(1, 1), "ab") != Step::Stay);
        taken.unwrap()
    };
    // Without trouble, from 0 on.
    let none = |b: &mut One| {
        for second in 4..8 {
            assert!((second < 5) == (b.look(second * 1000, &map, lease(1, 1), "ab") == Step::Stay));
        }
    };
    assert_eq!(run(&none), 8);
    // RADOS gave no answer, this daemon stood still, an answer took too long: from the next good look on.
    let failed = |b: &mut One| {
        for second in 4..8 {
            assert_eq!(b.fail(second * 1000, &map), Step::Stay);
        }
    };
    assert_eq!(run(&failed), 13);
    assert_eq!(run(&|_| ()), 13);
    let slow = |b: &mut One| {
        for second in 4..8 {
            let (now, took) = (Duration::from_secs(second), Duration::from_millis(1001));
            let watchers = [addr("a"), addr("b")];
            b.judge.look(now, took, &map, Ok::<_, ()>(&watchers[..]));
            b.candidate.look(now, took, &map, Ok::<_, ()>((lease(1, 1), &watchers[..])));
        }
    };
    // The answer of the look at 7 s, seen at 8.001 s.
    assert_eq!(run(&slow), 14);
}

#[test]
fn a_leader_whose_watch_is_gone_is_replaced() {
    let map = led_by(&map_of(&["a", "b"]), "a");
    let mut b = One::of(&map, "b");
    for second in 0..10 {
        assert_eq!(b.look(second * 1000, &map, lease(1, second), "ab"), Step::Stay);
    }
    assert_eq!(b.look(10_000, &map, lease(1, 10), "b"), Step::Stay, "one look");
    assert_eq!(b.look(11_000, &map, lease(1, 10), "b"), Step::Take { term: 1, stale: lease(1, 10) });
    // A daemon whose own watch is gone is no judge of that.
    let mut b = One::of(&map, "b");
    for second in 0..30 {
        assert_eq!(b.look(second * 1000, &map, lease(1, 0), ""), Step::Stay);
    }
}

#[test]
fn who_is_not_up_takes_nothing() {
    let map = map_of(&["a", "b"]);
    let down = without(&led_by(&map, "a"), "b");
    let mut b = One::of(&map, "b");
    for second in 0..20 {
        assert_eq!(b.look(second * 1000, &down, lease(1, 0), "b"), Step::Stay);
    }
    // Nor does a start that another one took the place of.
    let again = registered(&map, "b", "10.0.0.98:0/2".parse().unwrap());
    let mut b = One::of(&map, "b");
    assert_eq!(b.look(0, &again, None, "b"), Step::Stay);
}

#[test]
fn a_map_that_is_behind_is_not_acted_on() {
    let map = led_by(&map_of(&["a", "b"]), "a");
    let mut b = One::of(&map, "b");
    // Another one took term 2 already, says the lease.
    for second in 0..20 {
        assert_eq!(b.look(second * 1000, &map, lease(2, 0), "b"), Step::Stay);
    }
}

/// Found by the simulation: right after it went on, and before it looked again, it took the leadership of a leader that lives.
#[test]
fn who_stood_still_looks_again_before_it_takes_a_leaders_place() {
    let map = led_by(&map_of(&["a", "b"]), "a");
    let mut b = One::of(&map, "b");
    for second in 0..4 {
        assert_eq!(b.look(second * 1000, &map, lease(1, second), "ab"), Step::Stay);
    }
    let later = Duration::from_secs(12);
    assert_eq!(b.step(later, &map), Step::Stay, "the lease did not stand still, b did");
    assert_eq!(b.look(12_100, &map, lease(1, 12), "ab"), Step::Stay);
    // The same with a watch that was missing right before.
    assert_eq!(b.look(13_100, &map, lease(1, 13), "b"), Step::Stay);
    b.look(14_100, &map, lease(1, 14), "b");
    assert_eq!(b.step(later * 2, &map), Step::Stay, "the leader may be back by now");
}
