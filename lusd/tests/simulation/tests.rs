//! Seeds, every step with something that happens there, and every rule left out.

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::fault::Profile;
use crate::oracle::Kind;
use crate::rules::Rule;
use crate::run::{Outcome, Plan, Scene, run};
use crate::sim::lock;
use crate::world::Act;

/// Seeds without being told how many.
const SEEDS: u64 = 200;
/// Seeds that are tried to show that a rule is left out.
const RULE_SEEDS: u64 = 40;
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
    "submit",
    "map:write",
];

/// A number out of the environment.
fn given(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// How many runs are made at the same time.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
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
        for _ in 0..threads() {
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
    let wrong = each(STEPS, |step| at_step(step, act));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is wrong with such a run.
fn at_step(step: &'static str, act: Act) -> Option<String> {
    for seed in 0..TRIES {
        let scene = Scene::Step(step, act);
        let plan = Plan { seed, profile: Some(Profile::Faults), scene, ..Plan::default() };
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
    at_every_step(CRASH);
}

#[test]
fn a_stop_at_every_step() {
    at_every_step(STOP);
}

/// A crash at a step, and a start a moment later.
const CRASH: Act = Act::Crash { restart: Duration::from_millis(300) };
/// Long enough for others to take over.
const STOP: Act = Act::Stop { time: Duration::from_secs(9) };
/// Long enough for a host to give up, and hardly for others to take over.
const STUCK: Duration = Duration::from_millis(6300);

/// A rule that is left out, or several that stand in for one another, and what shows it.
struct Shown {
    broken: &'static [Rule],
    profile: Profile,
    scene: Scene,
    /// What is found then, by one of a few seeds.
    kinds: &'static [Kind],
}

const fn fault(broken: &'static [Rule], scene: Scene, kinds: &'static [Kind]) -> Shown {
    Shown { broken, profile: Profile::Faults, scene, kinds }
}

const fn calm(broken: &'static [Rule], scene: Scene) -> Shown {
    Shown { broken, profile: Profile::Calm, scene, kinds: &[Kind::Judge, Kind::NeedlessVerdict] }
}

const fn quiet(broken: &'static [Rule], kinds: &'static [Kind]) -> Shown {
    Shown { broken, profile: Profile::Quiet, scene: Scene::BySeed, kinds }
}

const IN_FLIGHT: Scene = Scene::Step("submit", STOP);
const UNLOCKING: Scene = Scene::Step("AwaitUnlock", STOP);

/// Rules of section 3 of the design, and those of the judge. Three of the judge's have no run here, since what else there is stands in for
/// them in every run that was tried: `not_the_last` (nobody judges itself), `only_while_up` (the driver acts only then), `not_the_new`
/// (who is new has patience). The tests of `lus_map::judge` show what each does.
const SHOWN: &[Shown] = &[
    fault(&[Rule::AddressesAhead], Scene::Twin, &[Kind::OffRecord]),
    fault(&[Rule::AddressesStay], Scene::Unlock, &[Kind::LeftRecord]),
    fault(&[Rule::ToFenceInherited], Scene::Twin, &[Kind::LeftRecord]),
    fault(&[Rule::SupersededEnds], Scene::Twin, &[Kind::Liveness]),
    fault(&[Rule::FenceThoughFree], Scene::Step("Acquire", CRASH), &[Kind::TakenUnfenced]),
    fault(&[Rule::FenceTheLeaving], UNLOCKING, &[Kind::BrokenUnfenced]),
    quiet(&[Rule::FenceTheRecorded], &[Kind::NeedlessFence, Kind::TakenUnfenced, Kind::BrokenUnfenced]),
    fault(&[Rule::ForeignLeftAlone], Scene::Foreign, &[Kind::Foreign]),
    fault(&[Rule::Fence], IN_FLIGHT, &[Kind::LeftRecord, Kind::TakenUnfenced]),
    fault(&[Rule::LongExpiry], IN_FLIGHT, &[Kind::LeftRecord, Kind::TakenUnfenced]),
    fault(&[Rule::MapAwaited], IN_FLIGHT, &[Kind::Undone, Kind::EpochBack, Kind::StaleRead]),
    fault(&[Rule::EpochRaised], IN_FLIGHT, &[Kind::Record]),
    fault(&[Rule::FenceFirst], IN_FLIGHT, &[Kind::BrokenUnfenced]),
    fault(&[Rule::OwnershipAsked], Scene::Unlock, &[Kind::Unlocked]),
    fault(&[Rule::RecordCompared], Scene::Unanswered, &[Kind::Record]),
    fault(&[Rule::Drained], Scene::Step("submit", CRASH), &[Kind::ReleasedInside]),
    fault(&[Rule::StallBound], Scene::Shard(STUCK), &[Kind::Undone]),
    fault(&[Rule::Term], Scene::Leader, &[Kind::Term]),
    calm(&[Rule::JudgeTwoLooks], Scene::Blinks),
    calm(&[Rule::JudgeLooksApart], Scene::Blinks),
    fault(&[Rule::JudgeNoFailover], Scene::NoFailover, &[Kind::Judge]),
    // A look without one's own watch tells nothing: that stands in for others.
    calm(&[Rule::JudgeOwnWatch, Rule::JudgeFailedLook], Scene::Stall),
    calm(&[Rule::JudgeGap], Scene::Pause),
    calm(&[Rule::JudgePatience], Scene::Pause),
    calm(&[Rule::JudgeOwnWatch, Rule::JudgeGap, Rule::JudgeSlowLook], Scene::Stall),
    fault(&[Rule::JudgeOwnWatch, Rule::JudgeNotItself], Scene::Shard(STUCK), &[Kind::Judge]),
];

impl Shown {
    fn plan(&self, seed: u64) -> Plan {
        let Self { broken, profile, scene, .. } = *self;
        Plan { seed, broken, profile: Some(profile), scene, ..Plan::default() }
    }

    /// What is wrong: nothing, if one of the seeds shows it.
    fn is_not_found(&self, seeds: u64) -> Option<String> {
        for seed in 0..seeds {
            if let Some(finding) = run(self.plan(seed)).finding {
                let said = format!("{:?}, seed {seed}: {finding}", self.broken);
                tell(&said);
                return (!self.kinds.contains(&finding.kind)).then_some(said);
            }
        }
        Some(format!("{:?}: nothing is found by {seeds} seeds", self.broken))
    }
}

/// Does something with each, a few at the same time; gives what is wrong.
fn each<T: Sync>(all: &[T], wrong_with: impl Fn(&T) -> Option<String> + Sync) -> Vec<String> {
    let next = AtomicU64::new(0);
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                while let Some(one) = all.get(next.fetch_add(1, SeqCst) as usize) {
                    let found = wrong_with(one);
                    lock(&wrong).extend(found);
                }
            });
        }
    });
    wrong.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// `LUS_SIM_SEARCH` seeds for each.
#[test]
fn every_rule_that_is_left_out_is_found() {
    let seeds = given("LUS_SIM_SEARCH").unwrap_or(RULE_SEEDS);
    let wrong = each(SHOWN, |shown| shown.is_not_found(seeds));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The scenes that show a rule left out show nothing where it holds.
#[test]
fn scenes_are_well_with_every_rule() {
    let wrong = each(SHOWN, |shown| {
        let plan = Plan { broken: &[], ..shown.plan(0) };
        run(plan).finding.map(|_| describe(plan))
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
