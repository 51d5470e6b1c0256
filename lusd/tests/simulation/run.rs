//! One run: a world, its hosts, its faults, and what the oracles found.

use std::time::Duration;

use tokio::time::sleep;

use crate::fault::{self, Profile};
use crate::host;
use crate::oracle::Finding;
use crate::rules::Rule;
use crate::sim::Sim;
use crate::world::{Act, Trigger, World};

/// How a run is made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// A rule to leave out.
    pub(crate) broken: Option<Rule>,
    /// What kind of run; by the seed, if none is said.
    pub(crate) profile: Option<Profile>,
    /// Instead of faults by the seed: this, when any daemon reaches this step.
    pub(crate) directed: Option<(&'static str, Act)>,
    /// Only what hosts and administrators can see counts.
    pub(crate) outside_only: bool,
    pub(crate) traced: bool,
}

/// What became of it.
pub(crate) struct Outcome {
    pub(crate) finding: Option<Finding>,
    pub(crate) trace: Vec<String>,
    pub(crate) goods: u64,
    pub(crate) verdicts: u32,
    /// Of a directed run: whether the step was reached.
    pub(crate) reached: bool,
}

pub(crate) fn run(plan: Plan) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(simulate(plan))
}

async fn simulate(plan: Plan) -> Outcome {
    let sim = Sim::new(plan.seed, plan.broken, plan.traced);
    let profile = plan.profile.unwrap_or_else(|| Profile::of(plan.seed));
    let (daemons, lus) = (sim.number(2..=3) as usize, sim.number(1..=3) as usize);
    let world = World::new(sim.clone(), daemons, lus, profile.is_calm(), plan.outside_only).await;
    sim.note(|| format!("seed {}: {profile:?}, {daemons} daemons, {lus} LUs", plan.seed));
    for site in world.sites() {
        world.launch(&site, None);
        sleep(sim.ms(0..=500)).await;
    }
    for lu in 0..lus {
        tokio::spawn(host::run(world.clone(), lu, vec![0]));
        tokio::spawn(host::run(world.clone(), lu, vec![1, 2]));
    }
    let mut reached = false;
    match plan.directed {
        None => {
            sim.set_weather(profile.weather(&sim));
            fault::inflict(&world, profile).await;
        }
        Some((step, act)) => reached = directed(&world, step, act).await,
    }
    if !world.is_over() {
        sleep(sim.ms(0..=8000)).await;
        fault::heal(&world).await;
        let goods = world.oracle.goods();
        world.settles(goods).await;
        world.oracle.settle(&world.rados.state(), profile == Profile::Quiet);
    }
    let (goods, verdicts) = (world.oracle.goods(), world.oracle.verdicts());
    Outcome { finding: sim.finding(), trace: sim.trace(), goods, verdicts, reached }
}

/// Moves and a takeover, so that every step is made; something happens at one.
async fn directed(world: &std::sync::Arc<World>, step: &'static str, act: Act) -> bool {
    sleep(Duration::from_secs(8)).await;
    for site in world.sites() {
        site.arm(Trigger::Step(step), act);
    }
    let armed = world.sites().len();
    for round in 0..3 {
        for _ in 0..4 {
            fault::one_move(world).await;
            sleep(world.sim.ms(100..=2500)).await;
        }
        let sites = world.sites();
        world.does(&sites[round % sites.len()], Act::Crash { restart: world.sim.ms(100..=9000) });
        sleep(Duration::from_secs(12)).await;
    }
    let left = world.sites().iter().filter(|site| site.disarm()).count();
    left < armed
}
