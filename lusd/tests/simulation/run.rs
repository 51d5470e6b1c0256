//! One run: a world, its hosts, its faults, and what the oracles found.

use std::time::Duration;

use lus_map::Flag;
use lus_map::change::flags;
use tokio::time::sleep;

use crate::fault::{self, Profile};
use crate::host;
use crate::oracle::Finding;
use crate::rules::Rule;
use crate::sim::{Sim, Weather};
use crate::world::{Act, Trigger, World};

/// What happens in a run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Scene {
    /// Whatever the seed says.
    #[default]
    BySeed,
    /// Moves and crashes, and this when any daemon reaches this step.
    Step(&'static str, Act),
    /// A thread that serves stands still, again and again.
    Shard(Duration),
    /// The leader is interrupted while it writes a verdict, again and again.
    Leader,
    /// The locks of all LUs are removed.
    Unlock,
    /// A second process of one daemon comes, again and again.
    Twin,
    /// Somebody who is not of LUS takes a lock.
    Foreign,
    /// All machines stand still, again and again.
    Pause,
    /// No OSD answers, again and again, for so long that watches time out.
    Stall,
    /// Some watches on the map are not listed for a moment, often.
    Blinks,
    /// Nobody is to be judged, and a daemon is stopped.
    NoFailover,
    /// Many operations of the control clients are not answered, and some are made late, while LUs move.
    Unanswered,
}

/// How a run is made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// Rules to leave out.
    pub(crate) broken: &'static [Rule],
    /// What kind of run; by the seed, if none is said.
    pub(crate) profile: Option<Profile>,
    /// What happens.
    pub(crate) scene: Scene,
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
    /// Of [`Scene::Step`]: whether the step was reached.
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
        if let Scene::Step(step, act) = plan.scene {
            site.arm(Trigger::Step(step), act);
        }
        world.launch(&site, None);
        sleep(sim.ms(0..=500)).await;
    }
    for lu in 0..lus {
        tokio::spawn(host::run(world.clone(), lu, vec![0]));
        tokio::spawn(host::run(world.clone(), lu, vec![1, 2]));
    }
    let mut reached = false;
    match plan.scene {
        Scene::BySeed => {
            sim.set_weather(profile.weather(&sim));
            fault::inflict(&world, profile).await;
        }
        Scene::Step(step, _) => reached = at_a_step(&world, step).await,
        scene => again_and_again(&world, scene).await,
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
async fn at_a_step(world: &std::sync::Arc<World>, step: &'static str) -> bool {
    sleep(Duration::from_secs(8)).await;
    let armed = world.sites().len();
    if step == "LookUp" || step == "AwaitUnlock" {
        // They are made where a released LU is still locked.
        for site in world.sites() {
            site.arm(Trigger::Step("move:released"), Act::Stop { time: Duration::from_secs(2) });
        }
    }
    for round in 0..3 {
        if step.starts_with("lost") {
            fault::drop_locks(world);
        }
        for _ in 0..4 {
            fault::one_move(world).await;
            sleep(world.sim.ms(100..=2500)).await;
        }
        let sites = world.sites();
        world.does(&sites[round % sites.len()], Act::Crash { restart: world.sim.ms(100..=9000) });
        sleep(Duration::from_secs(12)).await;
    }
    let left = world.sites().iter().filter(|site| site.disarm(step)).count();
    left < armed
}

/// One kind of trouble.
async fn again_and_again(world: &std::sync::Arc<World>, scene: Scene) {
    sleep(Duration::from_secs(8)).await;
    for _ in 0..6 {
        match scene {
            Scene::Shard(time) => {
                for site in world.sites() {
                    fault::stick(world, &site, time);
                }
            }
            Scene::Leader => fault::interrupt_leader(world),
            Scene::Unlock => fault::drop_locks(world),
            Scene::Twin => {
                let site = world.sites()[0].clone();
                let twin = world.add_site(site.id.clone());
                world.launch(&twin, None);
            }
            Scene::Foreign => {
                fault::foreign_holder(world, Duration::from_secs(40));
                fault::drop_locks(world);
                sleep(Duration::from_secs(5)).await;
                let crash = Act::Crash { restart: Duration::from_secs(9) };
                world.sites().iter().for_each(|site| world.does(site, crash));
            }
            Scene::Pause => fault::pause_all(world, Duration::from_secs(6)),
            Scene::Stall => {
                world.rados.stall(true);
                sleep(world.sim.ms(7000..=9000)).await;
                world.rados.go_on();
            }
            Scene::Blinks => {
                for _ in 0..20 {
                    world.rados.blink(world.sim.ms(50..=300));
                    sleep(world.sim.ms(500..=1500)).await;
                }
            }
            Scene::NoFailover => {
                world.administer(|map, origin| flags::set(map, origin, Flag::NoFailover)).await;
                world.does(&world.sites()[0], Act::Stop { time: Duration::from_secs(9) });
            }
            Scene::Unanswered => {
                world.sim.set_weather(Weather { unanswered: 250, ..Weather::default() });
                for _ in 0..6 {
                    fault::one_move(world).await;
                    sleep(world.sim.ms(100..=3000)).await;
                }
            }
            Scene::BySeed | Scene::Step(..) => {}
        }
        sleep(world.sim.ms(20_000..=30_000)).await;
    }
}
