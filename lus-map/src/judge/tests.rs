//! Each rule: what it keeps from happening, and that it happens without it.

use super::*;
use crate::change::flags;
use crate::testing::{addr, first, id, led_by, map_of, registered, start, then, without};

/// Who was judged, and when in milliseconds.
type Judged = Option<(u64, String)>;

/// A look: when in milliseconds, how long it took, who watches (`None`: no answer).
type Look<'a> = (u64, u64, Option<&'a str>);

/// The looks of one second each, from `from` to `to`.
fn every<'a>(from: u64, to: u64, who: &'a str) -> Vec<Look<'a>> {
    (from..=to).map(|second| (second * 1000, 5, Some(who))).collect()
}

fn judge(map: &LusMap, rules: Rules) -> Judge {
    Judge::with_rules(start(map, "a"), rules)
}

/// Who was judged in which look, in milliseconds; each daemon is named by one letter.
fn judged(judge: &mut Judge, map: &LusMap, looks: &[Look<'_>]) -> Vec<(u64, String)> {
    let mut all = Vec::new();
    for (at, took, who) in looks {
        let (at, now) = (*at, Duration::from_millis(*at));
        let found = who.map(|who| who.chars().map(|name| addr(&name.to_string())).collect::<Vec<_>>());
        let found = found.as_deref().ok_or(());
        for verdict in judge.look(now, Duration::from_millis(*took), map, found) {
            all.push((at, verdict.daemon.to_string()));
        }
    }
    all
}

/// When and who first, by all rules and then by all but one.
fn with_and_without(map: &LusMap, leave_out: impl Fn(&mut Rules), looks: &[Look<'_>]) -> (Judged, Judged) {
    let mut rules = Rules::ALL;
    leave_out(&mut rules);
    assert_ne!(rules, Rules::ALL);
    let first = |rules| judged(&mut judge(map, rules), map, looks).into_iter().next();
    (first(Rules::ALL), first(rules))
}

fn b(at: u64) -> Judged {
    Some((at, "b".to_owned()))
}

#[test]
fn two_looks() {
    let map = map_of(&["a", "b", "c"]);
    let looks = [every(0, 9, "abc"), every(10, 10, "ac"), every(11, 14, "abc"), every(15, 20, "ac")].concat();
    let found = with_and_without(&map, |rules| rules.two_looks = false, &looks);
    assert_eq!(found, (b(16_000), b(10_000)), "once missing is not yet dead");
    // The verdict is given again until the map says it.
    let mut judge = judge(&map, Rules::ALL);
    let all = judged(&mut judge, &map, &looks);
    assert_eq!(all.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [16_000, 17_000, 18_000, 19_000, 20_000]);
    let down = without(&led_by(&map, "a"), "b");
    assert_eq!(judged(&mut judge, &down, &[(21_000, 5, Some("ac"))]), []);
}

#[test]
fn looks_apart() {
    let map = map_of(&["a", "b"]);
    let looks = [every(0, 9, "ab"), vec![(10_000, 5, Some("a")), (10_300, 5, Some("a"))], every(11, 12, "a")]
        .concat();
    let found = with_and_without(&map, |rules| rules.looks_apart = false, &looks);
    assert_eq!(found, (b(11_000), b(10_300)));
}

#[test]
fn not_itself() {
    let map = map_of(&["a", "b"]);
    let looks = [every(0, 9, "ab"), every(10, 20, "b")].concat();
    let without_watch = |rules: &mut Rules| rules.own_watch = false;
    let (mut with, mut without) = (Rules::ALL, Rules::ALL);
    without_watch(&mut with);
    without_watch(&mut without);
    without.not_itself = false;
    assert_eq!(judged(&mut judge(&map, with), &map, &looks), []);
    assert_eq!(judged(&mut judge(&map, without), &map, &looks)[0], (11_000, "a".to_owned()));
}

#[test]
fn not_the_last() {
    let map = map_of(&["a"]);
    let looks = [every(0, 9, "a"), every(10, 20, "")].concat();
    let mut rules = Rules { own_watch: false, not_itself: false, ..Rules::ALL };
    assert_eq!(judged(&mut judge(&map, rules), &map, &looks), []);
    rules.not_the_last = false;
    assert_eq!(judged(&mut judge(&map, rules), &map, &looks)[0], (11_000, "a".to_owned()));
}

#[test]
fn only_while_up() {
    // It was declared down, and its watch stands still.
    let map = map_of(&["a", "b", "c"]);
    let mut rules = Rules { own_watch: false, ..Rules::ALL };
    let down = without(&led_by(&map, "b"), "a");
    let looks = [every(0, 9, "abc"), every(10, 20, "ac")].concat();
    let me = start(&map, "a");
    assert_eq!(judged(&mut Judge::with_rules(me.clone(), rules), &down, &looks), []);
    rules.only_while_up = false;
    assert_eq!(judged(&mut Judge::with_rules(me, rules), &down, &looks)[0], (11_000, "b".to_owned()));
}

#[test]
fn own_watch() {
    // The OSD let all watches time out; those of others come back a little later than mine.
    let map = map_of(&["a", "b", "c"]);
    let looks = [every(0, 9, "abc"), every(10, 10, ""), every(11, 13, "a"), every(14, 20, "abc")].concat();
    let found = with_and_without(&map, |rules| rules.own_watch = false, &looks);
    assert_eq!(found, (None, b(11_000)));
}

#[test]
fn failed_look() {
    let map = map_of(&["a", "b"]);
    let stall = vec![(10_000, 5, None), (11_000, 5, None)];
    let looks = [every(0, 9, "ab"), stall, every(12, 15, "a"), every(16, 20, "ab")].concat();
    // A failed look that tells nothing of itself looks like nobody there.
    let mut rules = Rules { own_watch: false, ..Rules::ALL };
    assert_eq!(judged(&mut judge(&map, rules), &map, &looks), []);
    rules.failed_look = false;
    assert_eq!(judged(&mut judge(&map, rules), &map, &looks)[0], (11_000, "b".to_owned()));
}

#[test]
fn slow_look() {
    let map = map_of(&["a", "b"]);
    let slow = vec![(10_000, 1001, Some("a")), (11_000, 1500, Some("a"))];
    let looks = [every(0, 9, "ab"), slow.clone(), every(12, 14, "a"), every(15, 20, "ab")].concat();
    let found = with_and_without(&map, |rules| rules.slow_look = false, &looks);
    assert_eq!(found, (None, b(11_000)));
    // One that took just the time tells what it tells.
    let looks = [every(0, 9, "ab"), vec![(10_000, 1000, Some("a")), (11_000, 1000, Some("a"))]].concat();
    assert_eq!(judged(&mut judge(&map, Rules::ALL), &map, &looks), [(11_000, "b".to_owned())]);
    // A watch that a slow look shows stands.
    let looks = [every(0, 9, "ab"), slow, vec![(12_000, 1500, Some("ab"))], every(13, 14, "a")].concat();
    assert_eq!(judged(&mut judge(&map, Rules::ALL), &map, &looks), [(14_000, "b".to_owned())]);
}

#[test]
fn gap() {
    // The judge stood still, as perhaps its machine did, or RADOS: what it saw before says nothing.
    let map = map_of(&["a", "b"]);
    let looks = [every(0, 9, "ab"), every(10, 10, "a"), every(13, 14, "a"), every(15, 20, "ab")].concat();
    let found = with_and_without(&map, |rules| rules.gap = false, &looks);
    assert_eq!(found, (None, b(13_000)));
    // One that is short enough is none.
    let looks = [every(0, 9, "ab"), vec![(10_000, 5, Some("a")), (12_500, 5, Some("a"))]].concat();
    assert_eq!(judged(&mut judge(&map, Rules::ALL), &map, &looks), [(12_500, "b".to_owned())]);
}

#[test]
fn patience() {
    // RADOS stood still: b comes back after 4 s, c does not.
    let map = map_of(&["a", "b", "c"]);
    let stall = vec![(10_000, 5, None)];
    let looks = [every(0, 9, "abc"), stall, every(11, 14, "a"), every(15, 30, "ab")].concat();
    let found = with_and_without(&map, |rules| rules.patience = false, &looks);
    // Missing at 11, counted from 16 on.
    assert_eq!(found, (Some((17_000, "c".to_owned())), b(12_000)));
    let all = judged(&mut judge(&map, Rules::ALL), &map, &looks);
    assert!(all.iter().all(|(_, who)| who == "c"), "{all:?}");
    // Who was seen again has no such time any more.
    let looks = [every(11, 14, "abc"), every(15, 30, "ac")].concat();
    let looks = [every(0, 9, "abc"), vec![(10_000, 5, None)], looks].concat();
    assert_eq!(judged(&mut judge(&map, Rules::ALL), &map, &looks)[0], (16_000, "b".to_owned()));
}

#[test]
fn not_the_new() {
    // It is in the map, and watches a little later; nothing else is wrong.
    let (before, mut rules) = (map_of(&["a"]), Rules { patience: false, ..Rules::ALL });
    let map = registered(&before, "b", addr("b"));
    let run = |rules| {
        let mut judge = judge(&before, rules);
        judged(&mut judge, &before, &every(0, 9, "a"));
        judged(&mut judge, &map, &[every(10, 13, "a"), every(14, 20, "ab")].concat())
    };
    assert_eq!(run(rules), []);
    rules.not_the_new = false;
    assert_eq!(run(rules)[0], (11_000, "b".to_owned()));
    // A new start of the same daemon is new.
    let again = registered(&map, "b", "10.0.0.98:0/2".parse().unwrap());
    let mut judge = judge(&before, Rules::ALL);
    judged(&mut judge, &map, &[every(0, 9, "ab"), every(10, 10, "a")].concat());
    assert_eq!(judged(&mut judge, &again, &every(11, 15, "ab")), []);
}

#[test]
fn nofailover() {
    let map = then(&map_of(&["a", "b"]), 0, |map, origin| flags::set(map, origin, Flag::NoFailover));
    let looks = [every(0, 9, "ab"), every(10, 20, "a")].concat();
    let found = with_and_without(&map, |rules| rules.nofailover = false, &looks);
    assert_eq!(found, (None, b(11_000)));
}

#[test]
fn a_judge_that_begins_gives_the_time_to_come_back() {
    let map = map_of(&["a", "b", "c"]);
    let all = judged(&mut judge(&map, Rules::ALL), &map, &every(0, 10, "ac"));
    assert_eq!(all[0], (6_000, "b".to_owned()));
}

#[test]
fn all_the_dead_at_once_and_the_reason() {
    let map = map_of(&["a", "b", "c"]);
    let mut judge = judge(&map, Rules::ALL);
    judged(&mut judge, &map, &[every(0, 9, "abc"), every(10, 10, "a")].concat());
    assert_eq!(judge.missing_looks(&start(&map, "b")), 1);
    assert_eq!(judge.missing_looks(&start(&map, "a")), 0);
    let watchers = [addr("a")];
    let verdicts = judge.look(Duration::from_secs(11), Duration::ZERO, &map, Ok::<_, ()>(&watchers[..]));
    assert_eq!(verdicts.len(), 2);
    assert_eq!(verdicts[0].to_string(), "lus.b up_from 3: its watch on the map is gone, for 1.0 s");
    assert_eq!(judge.missing_looks(&start(&map, "b")), 2);
}

#[test]
fn who_has_no_control_client_has_no_watch() {
    let map = map_of(&["a", "b"]);
    let fenced = then(&map, 0, |map, origin| crate::change::daemon::fenced(map, origin, &[addr("b")], 7));
    let looks = [every(0, 10, "ab")].concat();
    assert_eq!(judged(&mut judge(&map, Rules::ALL), &fenced, &looks)[0], (6_000, "b".to_owned()));
    assert!(first().daemon(&id("b")).is_none());
}
