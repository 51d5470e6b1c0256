//! What goes wrong, by the seed.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use lus_map::Flag;
use lus_map::change::{daemon as change, flags, lu};
use tokio::time::sleep;

use crate::image::Image;
use crate::sim::{Sim, Weather};
use crate::world::{Act, Site, Trigger, World, lu_name};

/// What kind of run it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Everything may fail.
    Faults,
    /// Nobody fails: RADOS and machines stand still for a while, and are slow. Nobody may be declared down.
    Calm,
    /// LUs are moved, and that is all. Nobody may be fenced.
    Quiet,
}

impl Profile {
    pub(crate) fn of(seed: u64) -> Self {
        match seed % 8 {
            0 => Self::Calm,
            1 => Self::Quiet,
            _ => Self::Faults,
        }
    }

    pub(crate) fn is_calm(self) -> bool {
        self != Self::Faults
    }

    pub(crate) fn weather(self, sim: &Sim) -> Weather {
        let upto = |max: u64| u32::try_from(sim.number(0..=max)).unwrap_or(0);
        match self {
            Self::Quiet => Weather::default(),
            // What is slow is no reason to blink as well.
            Self::Calm => {
                Weather { slow: upto(1) * upto(60), lost_notifies: upto(300), ..Weather::default() }
            }
            Self::Faults => Weather {
                slow: upto(40),
                very_slow: upto(4),
                lost_notifies: upto(300),
                unanswered: upto(1) * upto(12),
            },
        }
    }
}

/// A while, mostly short.
fn a_while(sim: &Sim) -> Duration {
    match sim.index(4) {
        0 => sim.ms(100..=3000),
        1 => sim.ms(3000..=6000),
        2 => sim.ms(6000..=15_000),
        _ => sim.ms(15_000..=60_000),
    }
}

fn any_site(world: &World) -> Arc<Site> {
    let sites = world.sites();
    sites[world.sim.index(sites.len())].clone()
}

/// The faults of a run, one after the other or at the same time.
pub(crate) async fn inflict(world: &Arc<World>, profile: Profile) {
    let sim = &world.sim;
    sleep(sim.ms(3000..=9000)).await;
    let count = sim.number(2..=6);
    for _ in 0..count {
        if world.is_over() {
            return;
        }
        match profile {
            Profile::Faults => one_fault(world).await,
            Profile::Calm => one_nuisance(world).await,
            Profile::Quiet => one_move(world).await,
        }
        sleep(match sim.index(3) {
            0 => sim.ms(0..=300),
            1 => sim.ms(300..=5000),
            _ => sim.ms(5000..=15_000),
        })
        .await;
    }
}

async fn one_fault(world: &Arc<World>) {
    let sim = world.sim.clone();
    let site = any_site(world);
    match sim.index(23) {
        0 | 1 => world.does(&site, Act::Crash { restart: a_while(&sim) }),
        2..=4 => world.does(&site, Act::Stop { time: a_while(&sim) }),
        5..=9 => {
            let act = if sim.chance(500) {
                Act::Crash { restart: a_while(&sim) }
            } else {
                Act::Stop { time: a_while(&sim) }
            };
            site.arm(Trigger::Steps(sim.number(0..=25)), act);
            // Steps are made when something is to be done.
            one_move(world).await;
        }
        10 => cut(world, &site),
        11 => stick_shard(world, &site),
        12 => {
            let twin = world.add_site(site.id.clone());
            world.launch(&twin, None);
        }
        13 => {
            if let Some(daemon) = site.daemon() {
                daemon.terminate.notify_one();
                let (world, after) = (world.clone(), a_while(&sim));
                tokio::spawn(async move {
                    sleep(after).await;
                    world.launch(&site, None);
                });
            }
        }
        14 => stall(world).await,
        15 => drop_lock(world),
        16 => foreign_holder(world, a_while(&sim)),
        17 => world.rados.let_time_pass(Duration::from_secs(2 * 3600)),
        18 => {
            let flag = [Flag::NoFailover, Flag::NoMove, Flag::NoOut][sim.index(3)];
            world.administer(|map, origin| flags::set(map, origin, flag)).await;
        }
        19 => interrupt_leader(world),
        _ => one_move(world).await,
    }
}

/// Nothing that a daemon could be blamed for.
async fn one_nuisance(world: &Arc<World>) {
    let sim = world.sim.clone();
    match sim.index(6) {
        0 => stall(world).await,
        1 => {
            // As long as RADOS keeps a silent client's watch it would drop some watches and not others, and rightly: they are gone.
            let time = Some(a_while(&sim)).filter(|time| !(4000..7000).contains(&time.as_millis()));
            pause_all(world, time.unwrap_or(Duration::from_secs(8)));
        }
        2 if sim.weather().slow == 0 => world.rados.blink(sim.ms(50..=300)),
        3 => world.does(&any_site(world), Act::Stop { time: sim.ms(100..=2000) }),
        4 => {
            let site = any_site(world);
            let time = sim.ms(100..=2500);
            stick(world, &site, time);
        }
        _ => one_move(world).await,
    }
}

pub(crate) async fn one_move(world: &Arc<World>) {
    let sim = world.sim.clone();
    let (site, name) = (any_site(world), lu_name(sim.index(world.lus)));
    match sim.index(8) {
        0 => drop(world.administer(|map, origin| change::set_out(map, origin, &site.id)).await),
        1 => drop(world.administer(|map, origin| change::set_in(map, origin, &site.id)).await),
        2 => drop(world.administer(|map, origin| change::drain(map, origin, &site.id)).await),
        3 => drop(world.administer(|map, origin| lu::pin(map, origin, &name, Some(&site.id))).await),
        4 => drop(world.administer(|map, origin| lu::unpin(map, origin, &name)).await),
        _ => drop(world.administer(|map, origin| lu::move_to(map, origin, &name, &site.id)).await),
    }
}

/// The link between a machine and RADOS is cut for a while; hosts reach it.
fn cut(world: &Arc<World>, site: &Arc<Site>) {
    let time = a_while(&world.sim);
    world.sim.note(|| format!("cut lus.{} for {time:?}", site.id));
    site.machine.link.shut();
    let machine = site.machine.clone();
    tokio::spawn(async move {
        sleep(time).await;
        machine.link.open();
    });
}

fn stick_shard(world: &Arc<World>, site: &Arc<Site>) {
    let sim = &world.sim;
    // About as long as it takes a host to give up, and the others to judge.
    let time = if sim.chance(500) { sim.ms(5000..=9000) } else { sim.ms(1000..=20_000) };
    stick(world, site, time);
}

/// A thread of a daemon stands still for a while.
pub(crate) fn stick(world: &Arc<World>, site: &Arc<Site>, time: Duration) {
    let Some(daemon) = site.daemon() else { return };
    let shard = daemon.shards[world.sim.index(daemon.shards.len())].clone();
    let thread = shard.thread.clone();
    world.sim.note(|| format!("{} stands still for {time:?}", thread.name));
    tokio::spawn(async move {
        // Not in the few instructions between gate and submit, where no clock could help: the whole process may be stopped there.
        while shard.between.load(SeqCst) > 0 {
            sleep(Duration::from_millis(1)).await;
        }
        thread.stop();
        sleep(time).await;
        thread.resume();
    });
}

/// The leader is stopped in the middle of what it writes, mostly that another one is down, which comes back meanwhile.
pub(crate) fn interrupt_leader(world: &Arc<World>) {
    let sim = &world.sim;
    let leads = |site: &Arc<Site>| site.daemon().is_some_and(|daemon| daemon.leads.borrow().is_some());
    let (leaders, others): (Vec<_>, Vec<_>) = world.sites().into_iter().partition(leads);
    let (Some(leader), Some(other)) = (leaders.first(), others.first()) else { return };
    leader.arm(Trigger::Step("map:write"), Act::Stop { time: sim.ms(6000..=14_000) });
    world.does(other, Act::Stop { time: sim.ms(6500..=9500) });
}

/// All machines stand still together, as on one that is overloaded or was suspended.
pub(crate) fn pause_all(world: &Arc<World>, time: Duration) {
    let sim = &world.sim;
    sim.note(|| format!("all stand still for {time:?}"));
    for site in world.sites() {
        let Some(process) = site.process() else { continue };
        process.stop();
        let time = time + sim.ms(0..=300);
        tokio::spawn(async move {
            sleep(time).await;
            process.resume();
        });
    }
}

/// No OSD answers for a while.
async fn stall(world: &Arc<World>) {
    let sim = &world.sim;
    let (time, drops) = (sim.ms(1000..=40_000), sim.chance(700));
    sim.note(|| format!("the OSDs stand still for {time:?}, watches time out: {drops}"));
    world.rados.stall(drops);
    sleep(time).await;
    world.rados.go_on();
}

/// Somebody removes the lock of an LU, and fences nobody.
fn drop_lock(world: &World) {
    let lu = world.sim.index(world.lus);
    world.sim.note(|| format!("the lock of lu{lu} is removed"));
    world.rados.state().images[lu].lock = None;
}

/// The same with all locks.
pub(crate) fn drop_locks(world: &World) {
    for image in &mut world.rados.state().images {
        image.lock = None;
    }
}

/// A client that is not of LUS takes the lock of an LU as soon as it can, and holds it for a while.
pub(crate) fn foreign_holder(world: &Arc<World>, time: Duration) {
    let (lu, client) = (world.sim.index(world.lus), world.outsider());
    world.oracle.add_foreign(&client.addr);
    let (world, tries) = (world.clone(), 2000);
    tokio::spawn(async move {
        let Ok(image) = Image::open(&client, &world.oracle, lu).await else { return };
        for _ in 0..tries {
            if image.lock_acquire().await.is_ok() {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
        sleep(time).await;
        image.close().await;
    });
}

/// All is well again.
pub(crate) async fn heal(world: &Arc<World>) {
    world.sim.note(|| "all faults end".to_owned());
    world.sim.set_weather(Weather::default());
    world.rados.go_on();
    for site in world.sites() {
        site.disarm("");
        site.machine.link.open();
        if let Some(process) = site.process() {
            process.resume_for_good();
        }
        if let Some(daemon) = site.daemon() {
            daemon.shards.iter().for_each(|shard| shard.thread.resume_for_good());
        }
    }
    for flag in [Flag::NoFailover, Flag::NoMove, Flag::NoOut] {
        world.administer(|map, origin| flags::unset(map, origin, flag)).await;
    }
    for site in world.sites() {
        world.administer(|map, origin| change::set_in(map, origin, &site.id)).await;
    }
    // Of two of one name the older has ended, or will; where none is left one is started.
    sleep(Duration::from_secs(20)).await;
    for site in world.sites() {
        let lives = world.sites().iter().any(|other| other.id == site.id && other.process().is_some());
        if !lives {
            world.launch(&site, None);
        }
    }
}
