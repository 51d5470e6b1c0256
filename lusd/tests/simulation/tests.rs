//! Seeds, every step with something that happens there, and every rule left out.

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::fault::Profile;
use crate::oracle::Kind;
use crate::rules::Rule;
use crate::run::{Outcome, Plan, run};
use crate::sim::lock;
use crate::world::Act;

/// Seeds without being told how many.
const SEEDS: u64 = 100;
/// Threads that run seeds.
const THREADS: u64 = 2;
/// Seeds that are tried to get to a step.
const TRIES: u64 = 40;
/// How often progress is told.
const PROGRESS: Duration = Duration::from_secs(10);
/// Lines of a trace that are shown of a failure.
const TRACE_LINES: usize = 60;

/// Every step of an attempt, of a move, of a release and of a loss.
const STEPS: &[&str] = &[
    "ReadRecord",
    "CreateRecord",
    "AskMap",
    "AwaitRelease",
    "Fence",
    "SeeOsdMap",
    "Write",
    "Open",
    "ListLockers",
    "LookUp",
    "AwaitUnlock",
    "Break",
    "Acquire",
    "Confirm",
    "Serve",
    "move:begin",
    "move:announced",
    "move:hold",
    "move:drained",
    "move:released",
    "move:unlocked",
    "lost",
    "lost:replace",
];

/// A number out of the environment.
fn given(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// To the terminal, also where the harness captures what tests print.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// What many runs came to.
#[derive(Default)]
struct Sum {
    /// Those that an oracle objects to, with the end of their traces.
    failed: Vec<String>,
    goods: u64,
    verdicts: u64,
}

/// Runs all plans, on a few threads.
fn sum_of(plans: &[Plan]) -> Sum {
    let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let sum = Mutex::new(Sum::default());
    let begun = Instant::now();
    let told = Mutex::new(begun);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(plan) = plans.get(next.fetch_add(1, SeqCst) as usize) {
                    let outcome = run(*plan);
                    let failed = outcome.finding.is_some().then(|| describe(*plan));
                    let failed = {
                        let mut sum = lock(&sum);
                        sum.failed.extend(failed);
                        sum.goods += outcome.goods;
                        sum.verdicts += u64::from(outcome.verdicts);
                        sum.failed.len()
                    };
                    let done = done.fetch_add(1, SeqCst) + 1;
                    let mut told = lock(&told);
                    if told.elapsed() >= PROGRESS {
                        *told = Instant::now();
                        let all = plans.len();
                        tell(&format!(
                            "{done} of {all} runs in {} s, {failed} failed",
                            begun.elapsed().as_secs()
                        ));
                    }
                }
            });
        }
    });
    sum.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A failed run, run again with its trace.
fn describe(plan: Plan) -> String {
    let again = run(Plan { traced: true, ..plan });
    let from = again.trace.len().saturating_sub(TRACE_LINES);
    let found = again.finding.map(|finding| finding.to_string()).unwrap_or_default();
    format!("{plan:?}: {found}\n  {}", again.trace[from..].join("\n  "))
}

fn expect_none(plans: &[Plan]) {
    let Sum { failed, goods, verdicts } = sum_of(plans);
    let (runs, bad) = (plans.len(), failed.len());
    tell(&format!(
        "{runs} runs, {bad} failed; {goods} writes acknowledged, {verdicts} daemons declared down"
    ));
    assert!(failed.is_empty(), "{bad} of {runs} runs:\n{}", failed.join("\n"));
    assert!(goods > 0 && (verdicts > 0 || runs < 20), "nothing happens in these runs");
}

/// `LUS_SIM_SEEDS` seeds from `LUS_SIM_SEED` on; one alone with its whole trace.
#[test]
fn seeds() {
    let (from, count) = (given("LUS_SIM_SEED").unwrap_or(0), given("LUS_SIM_SEEDS").unwrap_or(SEEDS));
    if count == 1 {
        let Outcome { finding, trace, .. } = run(Plan { seed: from, traced: true, ..Plan::default() });
        trace.iter().for_each(|line| tell(line));
        assert!(finding.is_none(), "seed {from}: {}", finding.map(|f| f.to_string()).unwrap_or_default());
        return;
    }
    let plans: Vec<Plan> = (from..from + count).map(|seed| Plan { seed, ..Plan::default() }).collect();
    expect_none(&plans);
}

#[test]
fn a_seed_gives_the_same_run_each_time() {
    for seed in [2, 3, 4, 8, 9] {
        let trace = || run(Plan { seed, traced: true, ..Plan::default() }).trace;
        let (first, second) = (trace(), trace());
        assert!(first.len() > 20, "seed {seed}: something happens, not only {first:?}");
        let differs = first.iter().zip(&second).position(|(a, b)| a != b);
        assert_eq!(differs.map(|at| (&first[at], &second[at])), None, "seed {seed}");
        assert_eq!(first.len(), second.len());
    }
}

/// Runs in which a daemon crashes, or is stopped, exactly there; by a seed with which it comes to that.
fn at_every_step(act: Act) {
    let next = AtomicU64::new(0);
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(step) = STEPS.get(next.fetch_add(1, SeqCst) as usize) {
                    lock(&wrong).extend(at_step(step, act));
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is wrong with such a run.
fn at_step(step: &'static str, act: Act) -> Option<String> {
    for seed in 0..TRIES {
        let directed = Some((step, act));
        let plan = Plan { seed, profile: Some(Profile::Faults), directed, ..Plan::default() };
        let outcome = run(plan);
        if outcome.finding.is_some() {
            return Some(describe(plan));
        }
        if outcome.reached {
            return None;
        }
    }
    Some(format!("no run gets to {step}"))
}

#[test]
fn a_crash_at_every_step() {
    at_every_step(Act::Crash { restart: Duration::from_millis(300) });
}

#[test]
fn a_stop_at_every_step() {
    at_every_step(Act::Stop { time: Duration::from_secs(9) });
}

/// Rules of section 3 of the design, and those of the judge: a seed that shows, without the rule, what it is good for, and what that is.
const SHOWN: &[(Rule, u64, Kind)] = &[
    (Rule::AddressesAhead, 0, Kind::OffRecord),
    (Rule::AddressesStay, 5, Kind::LeftRecord),
    (Rule::ToFenceInherited, 2, Kind::LeftRecord),
];

/// Looks for seeds that show a rule: the first of `count`, for each rule whose name has the text `LUS_SIM_RULE`.
fn search(count: u64) {
    let text = std::env::var("LUS_SIM_RULE").unwrap_or_default();
    let outside_only = given("LUS_SIM_OUTSIDE") == Some(1);
    let rules: Vec<Rule> =
        Rule::ALL.iter().copied().filter(|rule| format!("{rule:?}").contains(&text)).collect();
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(rule) = rules.get(next.fetch_add(1, SeqCst) as usize) {
                    let shown = (0..count).find_map(|seed| {
                        let plan = Plan { seed, broken: Some(*rule), outside_only, ..Plan::default() };
                        run(plan).finding.map(|finding| format!("seed {seed}: {finding}"))
                    });
                    tell(&format!("{rule:?}: {}", shown.unwrap_or_else(|| format!("not by {count} seeds"))));
                }
            });
        }
    });
}

#[test]
fn every_rule_that_is_left_out_is_found() {
    if let Some(count) = given("LUS_SIM_SEARCH") {
        return search(count);
    }
    for (rule, seed, kind) in SHOWN {
        let outcome = run(Plan { seed: *seed, broken: Some(*rule), ..Plan::default() });
        assert_eq!(outcome.finding.map(|finding| finding.kind), Some(*kind), "{rule:?}, seed {seed}");
    }
}
