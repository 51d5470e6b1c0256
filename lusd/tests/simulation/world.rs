//! All of it: RADOS, machines with their daemons, hosts; started, disturbed and looked at by one seed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lus_map::change::lu::{self, AddLu};
use lus_map::{Backend, DaemonId, LuId, LusMap};
use lusd::process::EarlierLife;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::daemon::{self, Daemon, Ended};
use crate::oracle::Oracle;
use crate::process::{Machine, Process};
use crate::rados::Rados;
use crate::sim::{Sim, lock};

pub(crate) const FSID: &str = "19870b3c-8b62-466d-9486-786ae60cd7f7";
/// How long it may take after the last fault until all is well: a restart's longest pause, and the patience with a holder.
const SETTLE_MAX: Duration = Duration::from_secs(240);

pub(crate) fn lu_id(lu: usize) -> LuId {
    LuId(Uuid::from_u128(lu as u128 + 1))
}

pub(crate) fn lu_name(lu: usize) -> lus_map::LuName {
    format!("rbd/img{lu}").parse().expect("a name")
}

/// What is to happen to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// SIGKILL, and a start after a while.
    Crash { restart: Duration },
    /// SIGSTOP for a while.
    Stop { time: Duration },
}

/// When it is to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trigger {
    /// At so many steps from now.
    Steps(u64),
    /// At this step.
    Step(&'static str),
}

#[derive(Default)]
struct Life {
    process: Option<Arc<Process>>,
    daemon: Option<Arc<Daemon>>,
    /// How many there were.
    count: u64,
}

/// A machine on which a daemon is configured.
pub(crate) struct Site {
    pub(crate) id: DaemonId,
    pub(crate) index: usize,
    pub(crate) ip: String,
    pub(crate) machine: Arc<Machine>,
    life: Mutex<Life>,
    armed: Mutex<Vec<(Trigger, Act)>>,
    world: std::sync::Weak<World>,
}

/// See the module's text.
pub(crate) struct World {
    pub(crate) sim: Arc<Sim>,
    pub(crate) rados: Arc<Rados>,
    pub(crate) oracle: Arc<Oracle>,
    pub(crate) lus: usize,
    sites: Mutex<Vec<Arc<Site>>>,
}

impl Site {
    pub(crate) fn set_daemon(&self, daemon: &Arc<Daemon>) {
        lock(&self.life).daemon = Some(daemon.clone());
    }

    pub(crate) fn daemon(&self) -> Option<Arc<Daemon>> {
        lock(&self.life).daemon.clone().filter(|daemon| !daemon.process.is_dead())
    }

    pub(crate) fn process(&self) -> Option<Arc<Process>> {
        lock(&self.life).process.clone().filter(|process| !process.is_dead())
    }

    pub(crate) fn arm(&self, trigger: Trigger, act: Act) {
        lock(&self.armed).push((trigger, act));
    }

    /// Nothing happens here any more; whether something was left to happen at `step`.
    pub(crate) fn disarm(&self, step: &'static str) -> bool {
        let mut armed = lock(&self.armed);
        let any = armed.iter().any(|(trigger, _)| *trigger == Trigger::Step(step));
        armed.clear();
        any
    }

    /// A step is reached; true if something happens to the process here.
    pub(crate) fn reached(&self, step: &'static str) -> bool {
        let act = {
            let mut armed = lock(&self.armed);
            let at = armed.iter_mut().position(|(trigger, _)| match trigger {
                Trigger::Steps(0) => true,
                Trigger::Steps(left) => {
                    *left -= 1;
                    false
                }
                Trigger::Step(name) => *name == step,
            });
            at.map(|at| armed.remove(at).1)
        };
        let (Some(act), Some(world)) = (act, self.world.upgrade()) else { return false };
        world.does(self, act);
        true
    }
}

impl World {
    pub(crate) async fn new(
        sim: Arc<Sim>,
        daemons: usize,
        lus: usize,
        calm: bool,
        outside_only: bool,
    ) -> Arc<Self> {
        let oracle = Oracle::new(sim.clone(), lus, calm, outside_only);
        let rados = Rados::new(sim.clone(), lus);
        let world = Arc::new(Self { sim, rados, oracle, lus, sites: Mutex::default() });
        let admin = Process::new("admin".to_owned(), Arc::default());
        let client = world.rados.client(&admin, "10.1.0.1");
        let store = daemon::store_of(&world, &client, None);
        store.create().await.expect("a map");
        for lu in 0..lus {
            let lus_map::LuName::Rbd(image) = lu_name(lu) else { unreachable!("it is an image") };
            let ask = AddLu::new(lu_id(lu), Backend::Rbd { image, image_id: format!("id{lu}") });
            store.update(|map, origin| lu::add(map, origin, &ask)).await.expect("an LU");
        }
        for index in 0..daemons {
            let name = ["a", "b", "c", "d"][index];
            world.add_site(name.parse().expect("an id"));
        }
        world
    }

    /// One more machine for the daemon `id`.
    pub(crate) fn add_site(self: &Arc<Self>, id: DaemonId) -> Arc<Site> {
        let mut sites = lock(&self.sites);
        let index = sites.len();
        let site = Arc::new(Site {
            id,
            index,
            ip: format!("10.0.0.{}", index + 1),
            machine: Arc::default(),
            life: Mutex::default(),
            armed: Mutex::default(),
            world: Arc::downgrade(self),
        });
        sites.push(site.clone());
        site
    }

    pub(crate) fn sites(&self) -> Vec<Arc<Site>> {
        lock(&self.sites).clone()
    }

    pub(crate) fn map(&self) -> LusMap {
        self.oracle.map().expect("a map")
    }

    /// A client of somebody who is no daemon, and always reaches RADOS.
    pub(crate) fn outsider(&self) -> crate::rados::Client {
        let process = Process::new(crate::rados::OUTSIDER.to_owned(), Arc::default());
        self.rados.client(&process, "10.2.0.1")
    }

    /// An administrator's change of the map; whether it was made.
    pub(crate) async fn administer(
        &self,
        intent: impl FnMut(&LusMap, &lus_map::Origin) -> Result<lus_map::Change, lus_map::Refusal>,
    ) -> bool {
        let store = daemon::store_of(self, &self.outsider(), None);
        store.update(intent).await.is_ok_and(|updated| updated.changed())
    }

    /// Starts a daemon's process.
    pub(crate) fn launch(self: &Arc<Self>, site: &Arc<Site>, earlier: Option<EarlierLife>) {
        let process = {
            let mut life = lock(&site.life);
            if life.process.as_ref().is_some_and(|process| !process.is_dead()) {
                return;
            }
            life.count += 1;
            let name = format!("{}@{}#{}", site.id, site.index, life.count);
            let process = Process::new(name, site.machine.clone());
            (life.process, life.daemon) = (Some(process.clone()), None);
            process
        };
        self.sim.note(|| format!("{} starts", process.name));
        let (world, site) = (self.clone(), site.clone());
        let own = process.clone();
        process.spawn(async move {
            let ended = daemon::life(world.clone(), site.clone(), own, earlier).await;
            world.ended(&site, ended);
        });
    }

    fn ended(self: &Arc<Self>, site: &Arc<Site>, ended: Ended) {
        self.sim.note(|| format!("{}@{} ended: {ended:?}", site.id, site.index));
        self.kill(site);
        let (after, earlier) = match ended {
            Ended::Stopped | Ended::Superseded => return,
            Ended::Again(earlier) => (Duration::ZERO, Some(earlier)),
            Ended::Failed(_) => (self.sim.ms(1000..=3000), None),
        };
        self.launch_after(site, after, earlier);
    }

    fn launch_after(self: &Arc<Self>, site: &Arc<Site>, after: Duration, earlier: Option<EarlierLife>) {
        let (world, site) = (self.clone(), site.clone());
        tokio::spawn(async move {
            sleep(after).await;
            world.launch(&site, earlier);
        });
    }

    fn kill(&self, site: &Site) {
        let (process, daemon) = {
            let life = lock(&site.life);
            (life.process.clone(), life.daemon.clone())
        };
        if let Some(process) = process {
            process.kill();
        }
        // The kernel closes its connections.
        if let Some(daemon) = daemon {
            daemon.reset_sessions();
        }
    }

    /// Does something to the process of a machine.
    pub(crate) fn does(self: &Arc<Self>, site: &Site, act: Act) {
        let Some(site) = self.sites().into_iter().find(|other| other.index == site.index) else { return };
        let Some(process) = site.process() else { return };
        self.sim.note(|| format!("{act:?} {}", process.name));
        match act {
            Act::Crash { restart } => {
                self.kill(&site);
                self.launch_after(&site, restart, None);
            }
            Act::Stop { time } => {
                process.stop();
                tokio::spawn(async move {
                    sleep(time).await;
                    process.resume();
                });
            }
        }
    }

    /// Whether something was found already.
    pub(crate) fn is_over(&self) -> bool {
        self.sim.finding().is_some()
    }

    /// Waits until all is well, as it has to be some time after the last fault.
    pub(crate) async fn settles(&self, goods_before: u64) {
        let end = Instant::now() + SETTLE_MAX;
        let mut well = 0;
        loop {
            sleep(Duration::from_secs(1)).await;
            let trouble = self.trouble(goods_before);
            well = if trouble.is_none() { well + 1 } else { 0 };
            // For a while, or it is a moment between two restarts.
            if well >= 12 || self.is_over() {
                return;
            }
            if let Some(trouble) = trouble
                && Instant::now() >= end
            {
                return self.oracle.not_alive(&trouble);
            }
            if Instant::now() >= end + Duration::from_secs(60) {
                return self.oracle.not_alive("it does not come to rest");
            }
        }
    }

    /// What is not well.
    fn trouble(&self, goods_before: u64) -> Option<String> {
        let map = self.map();
        let daemons: Vec<Arc<Daemon>> = self.sites().iter().filter_map(|site| site.daemon()).collect();
        let up = |id: &DaemonId| map.daemon(id).is_some_and(|daemon| daemon.state.is_up());
        for site in self.sites() {
            let lives = daemons.iter().any(|daemon| daemon.me.id == site.id && daemon.is_up(&map));
            if !up(&site.id) || !lives {
                return Some(format!("lus.{} is not up", site.id));
            }
            let of_id =
                self.sites().iter().filter(|other| other.id == site.id && other.process().is_some()).count();
            if of_id != 1 {
                return Some(format!("{of_id} processes are lus.{}", site.id));
            }
        }
        for lu in 0..self.lus {
            let serving: Vec<&Arc<Daemon>> = daemons.iter().filter(|daemon| daemon.serves(lu)).collect();
            let owner = map.placement(&lu_id(lu)).map(|placement| &placement.owner);
            match serving[..] {
                [one] if Some(&one.me.id) == owner => {}
                _ => {
                    let names: Vec<String> = serving.iter().map(|daemon| daemon.me.to_string()).collect();
                    return Some(format!("lu{lu} is placed on {owner:?}, and served by {names:?}"));
                }
            }
        }
        let leaders = daemons.iter().filter(|daemon| daemon.leads.borrow().is_some()).count();
        if leaders != 1 {
            return Some(format!("{leaders} lead"));
        }
        (self.oracle.goods() <= goods_before).then(|| "no host gets an answer".to_owned())
    }
}
