//! A start of a daemon: registers, fences what older ones left, follows the map, leads, serves, and ends; as `lusd::app`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lus_map::change::daemon::{self as change, Register};
use lus_map::{Change, InstanceKey, LuId, LusMap};
use lus_map_store::{AckWhen, MapStore, MapWatch, RecordStore, WatchOptions};
use lusd::map::leader::{Driver, FenceAll};
use lusd::map::register::{self, Over};
use lusd::process::EarlierLife;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::clients::{Clients, Fencer, addr_of};
use crate::judge;
use crate::objects::SimObjects;
use crate::oracle::Oracle;
use crate::owner::{self, DRAIN_TIMEOUT, State, Task, Wanted};
use crate::process::Process;
use crate::rados::{Client, Rados};
use crate::rules::{Rule, of_judge};
use crate::sim::{Sim, lock};
use crate::target::{Offered, Sessions, Shard};
use crate::watchdog;
use crate::world::{FSID, Site, World};

const SHARDS: usize = 2;
const DATA_CLIENTS: usize = 2;
/// `lus_open_parallel`, here less than there are LUs.
const TURNS: usize = 2;
const COUNT_INTERVAL: Duration = Duration::from_millis(250);
const OVER_QUEUE: usize = 4;

/// How a start ended.
#[derive(Debug)]
#[expect(dead_code, reason = "the reason is for the trace")]
pub(crate) enum Ended {
    /// In order.
    Stopped,
    /// To begin again in the same process.
    Again(EarlierLife),
    /// There is a newer one.
    Superseded,
    /// With an error; whoever supervises it starts it again.
    Failed(String),
}

/// What is told to an LU's task, and what it tells.
type Owner = (watch::Sender<Wanted>, watch::Receiver<State>);

/// What all tasks of a start share.
pub(crate) struct Daemon {
    pub(crate) sim: Arc<Sim>,
    pub(crate) rados: Arc<Rados>,
    pub(crate) oracle: Arc<Oracle>,
    pub(crate) site: Arc<Site>,
    pub(crate) process: Arc<Process>,
    pub(crate) me: InstanceKey,
    pub(crate) control: Client,
    pub(crate) store: MapStore,
    pub(crate) records: RecordStore,
    pub(crate) fencer: Arc<Fencer>,
    pub(crate) clients: Arc<Clients>,
    turns: Arc<Semaphore>,
    /// The map as it is followed; nobody waits for a change of it here.
    pub(crate) maps: watch::Receiver<Arc<LusMap>>,
    pub(crate) shards: Vec<Arc<Shard>>,
    offered: Vec<Arc<Offered>>,
    owners: Mutex<BTreeMap<usize, Owner>>,
    pub(crate) sessions: Sessions,
    pub(crate) listening: AtomicBool,
    pub(crate) isolated: AtomicBool,
    pub(crate) completions: AtomicU64,
    /// The term while it leads.
    pub(crate) leads: watch::Receiver<Option<u64>>,
    /// SIGTERM.
    pub(crate) terminate: Notify,
}

impl Daemon {
    pub(crate) fn note(&self, line: impl FnOnce() -> String) {
        self.sim.note(|| format!("{} {}", self.me, line()));
    }

    /// A step of an LU's task: the place to crash, or to be stopped.
    pub(crate) async fn at(&self, lu: usize, step: &'static str) {
        self.note(|| format!("lu{lu}: {step}"));
        if self.site.reached(step) {
            // What was done to the process takes effect where it would be polled again.
            tokio::task::yield_now().await;
        }
    }

    pub(crate) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        self.turns.clone().acquire_owned().await.ok()
    }

    pub(crate) fn offered(&self, lu: usize) -> Arc<Offered> {
        self.offered[lu].clone()
    }

    pub(crate) fn is_up(&self, map: &LusMap) -> bool {
        map.instance(&self.me.id, self.me.up_from).is_some_and(|instance| instance.state.is_up())
    }

    /// Whether it serves `lu`.
    pub(crate) fn serves(&self, lu: usize) -> bool {
        !self.process.is_dead() && self.offered[lu].unit.gate.is_serving()
    }

    fn place(&self, map: &LusMap, lu: &LuId) -> Wanted {
        let owner = map.placement(lu).map(|placement| placement.owner.clone());
        let here = owner.as_ref() == Some(&self.me.id);
        Wanted { here, elsewhere: owner.filter(|_| !here), gone: false }
    }

    /// Tells the owners' tasks what the map wants.
    fn reconcile(self: &Arc<Self>, map: &LusMap) {
        let mut owners = lock(&self.owners);
        for offered in &self.offered {
            let wanted = self.place(map, &offered.unit.id);
            if let Some((told, _)) = owners.get(&offered.lu) {
                told.send_if_modified(|was| {
                    let differs = was.here != wanted.here || was.elsewhere != wanted.elsewhere;
                    (was.here, was.elsewhere) = (wanted.here, wanted.elsewhere);
                    differs
                });
                continue;
            }
            let first = if wanted.here { State::Opening } else { State::Idle };
            let ((told, wants), (tells, state)) = (watch::channel(wanted), watch::channel(first));
            owners.insert(offered.lu, (told, state));
            self.process.spawn(Task::new(self.clone(), offered.clone(), wants, tells).run());
        }
    }

    fn states(&self) -> Vec<State> {
        lock(&self.owners).values().map(|(_, state)| *state.borrow()).collect()
    }
}

pub(crate) fn store_of(world: &World, client: &Client, site: Option<Arc<Site>>) -> MapStore {
    let objects = SimObjects { client: client.clone(), oracle: world.oracle.clone(), site };
    let sim = world.sim.clone();
    let stamps = Arc::new(move || (sim.uuid(), sim.timestamp()));
    MapStore::simulated(Arc::new(objects), &*client.addr, FSID, stamps, world.sim.breaks(Rule::Term))
}

/// The life of one start.
pub(crate) async fn life(
    world: Arc<World>,
    site: Arc<Site>,
    process: Arc<Process>,
    earlier: Option<EarlierLife>,
) -> Ended {
    if let Some(earlier) = earlier {
        sleep(earlier.pause()).await;
    }
    let begun = Instant::now();
    match start(&world, &site, &process, earlier).await {
        Ok((daemon, follow, over)) => live(world, daemon, follow, over, earlier, begun).await,
        Err(Some(over @ Over::Superseded { .. })) => {
            world.sim.note(|| format!("{}: {over}", process.name));
            Ended::Superseded
        }
        Err(over) => Ended::Failed(format!("{over:?}")),
    }
}

type Started = (Arc<Daemon>, Arc<MapWatch>, mpsc::Receiver<Over>);

async fn start(
    world: &Arc<World>,
    site: &Arc<Site>,
    process: &Arc<Process>,
    earlier: Option<EarlierLife>,
) -> Result<Started, Option<Over>> {
    let sim = &world.sim;
    let control = world.rados.client(process, &site.ip);
    sleep(sim.ms(10..=60)).await;
    let store = store_of(world, &control, Some(site.clone()));
    let map = store.latest_or_create().await.map_err(|_| None)?;
    if let Some(earlier) = earlier {
        register::still_the_newest(&map, &site.id, earlier.up_from).map_err(Some)?;
    }
    let clients: Vec<Client> = (0..DATA_CLIENTS).map(|_| world.rados.client(process, &site.ip)).collect();
    let ask = Register {
        id: site.id.clone(),
        portals: vec![],
        hostname: format!("host{}", site.index),
        version: "1".to_owned(),
        control_addr: addr_of(&control),
        data_addrs: clients.iter().filter(|_| !sim.breaks(Rule::AddressesAhead)).map(addr_of).collect(),
    };
    if sim.breaks(Rule::ToFenceInherited) {
        let older: Vec<_> = map.instances(&site.id).flat_map(|older| older.unfenced()).cloned().collect();
        let forgotten = store.update(|map, origin| change::fenced(map, origin, &older, 1)).await;
        forgotten.map_err(|_| None)?;
    }
    let updated = store.update(|map, origin| change::register(map, origin, &ask)).await.map_err(|_| None)?;
    let instance =
        updated.map.daemon(&site.id).filter(|new| new.control_addr.as_ref() == Some(&ask.control_addr));
    let instance = instance.ok_or(None)?;
    let (me, to_fence) = (instance.key(), instance.to_fence.clone());
    sim.note(|| format!("{me} registered"));
    let fencer = Fencer::new(&control);
    let options = WatchOptions { ack: AckWhen::Applied, ..WatchOptions::default() };
    let follow = Arc::new(MapWatch::start(store.clone(), options).await.map_err(|_| None)?);
    let (leads_sender, leads) = watch::channel(None);
    let (maps_sender, maps) = watch::channel(follow.map());
    let (driver_sender, driver_maps) = watch::channel(follow.map());
    let entries: BTreeMap<_, _> = follow.map().lus().map(|lu| (lu.id, lu.clone())).collect();
    let offered =
        (0..world.lus).map(|lu| owner::offer(lu, &entries[&crate::world::lu_id(lu)], SHARDS)).collect();
    let daemon = Arc::new(Daemon {
        sim: sim.clone(),
        rados: world.rados.clone(),
        oracle: world.oracle.clone(),
        site: site.clone(),
        process: process.clone(),
        me: me.clone(),
        control,
        records: RecordStore::new(store.objects()),
        clients: Clients::new(me.clone(), site.ip.clone(), store.clone(), fencer.clone(), clients),
        fencer: fencer.clone(),
        turns: Arc::new(Semaphore::new(TURNS)),
        maps,
        shards: (0..SHARDS).map(|index| Shard::new(index, process)).collect(),
        offered,
        owners: Mutex::default(),
        sessions: Sessions::default(),
        listening: AtomicBool::new(false),
        isolated: AtomicBool::new(false),
        completions: AtomicU64::new(0),
        leads,
        terminate: Notify::new(),
        store: store.clone(),
    });
    site.set_daemon(&daemon);
    for shard in &daemon.shards {
        process.spawn(shard.thread.gate(shard.clone().tick(sim.clone())));
    }
    let (over_sender, over) = mpsc::channel(OVER_QUEUE);
    process.spawn(follow_map(
        daemon.clone(),
        follow.clone(),
        maps_sender,
        driver_sender,
        over_sender.clone(),
    ));
    if !to_fence.is_empty() {
        let fenced = fencer.fence_all(to_fence).await.map_err(|_| None)?;
        let addrs: Vec<_> = fenced.iter().map(|fenced| fenced.addr.clone()).collect();
        let osd_epoch = fenced.iter().map(|fenced| fenced.osd_epoch).max().unwrap_or(0);
        let noted = store.update(|map, origin| change::fenced(map, origin, &addrs, osd_epoch)).await;
        noted.map_err(|_| None)?;
    }
    daemon.listening.store(true, SeqCst);
    let fence: FenceAll = Arc::new(move |addrs| {
        let fencer = fencer.clone();
        Box::pin(async move { fencer.fence_all(addrs).await })
    });
    let driver = Driver::new(me, store, driver_maps, fence, leads_sender);
    let driver = match of_judge(sim.broken) {
        Some(rules) => {
            process.spawn(judge::run(daemon.clone(), rules));
            driver.with_rules(rules)
        }
        None => driver,
    };
    process.spawn(driver.run());
    let dog = watchdog::run(daemon.clone(), follow.clone());
    let key = daemon.me.clone();
    process.spawn(async move {
        let map = dog.await;
        let over = register::is_over(&map, &key).unwrap_or_else(|| Over::lost_sight(&key));
        let _ = over_sender.send(over).await;
    });
    Ok((daemon, follow, over))
}

/// Follows the map for everybody in the daemon, and finds that this start is over.
async fn follow_map(
    daemon: Arc<Daemon>,
    follow: Arc<MapWatch>,
    maps: watch::Sender<Arc<LusMap>>,
    driver: watch::Sender<Arc<LusMap>>,
    over: mpsc::Sender<Over>,
) {
    let (mut followed, mut health) = (follow.maps(), follow.health());
    loop {
        let map = followed.borrow_and_update().clone();
        maps.send_replace(map.clone());
        driver.send_replace(map.clone());
        daemon.reconcile(&map);
        follow.applied(map.epoch());
        let found = register::is_over(&map, &daemon.me).or_else(|| {
            let error = health.borrow_and_update().error.clone();
            error.filter(|error| error.is_fenced()).map(|error| Over::Fenced(error.to_string()))
        });
        if let Some(found) = found {
            let _ = over.send(found).await;
            return;
        }
        let changed = tokio::select! {
            biased;
            changed = followed.changed() => changed,
            changed = health.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

async fn live(
    world: Arc<World>,
    daemon: Arc<Daemon>,
    follow: Arc<MapWatch>,
    mut over: mpsc::Receiver<Over>,
    earlier: Option<EarlierLife>,
    begun: Instant,
) -> Ended {
    let found = tokio::select! {
        biased;
        found = over.recv() => found.unwrap_or_else(|| Over::lost_sight(&daemon.me)),
        () = daemon.terminate.notified() => return drain(&daemon, follow).await,
    };
    daemon.note(|| format!("over: {found}"));
    daemon.isolated.store(true, SeqCst);
    daemon.reset_sessions();
    match found {
        Over::Superseded { .. } if !world.sim.breaks(Rule::SupersededEnds) => Ended::Superseded,
        Over::Superseded { newest, .. } => Ended::Again(EarlierLife::next(earlier, begun.elapsed(), newest)),
        _ => Ended::Again(EarlierLife::next(earlier, begun.elapsed(), daemon.me.up_from)),
    }
}

/// The end in order.
async fn drain(daemon: &Arc<Daemon>, follow: Arc<MapWatch>) -> Ended {
    daemon.note(|| "SIGTERM".to_owned());
    let _ = timeout(DRAIN_TIMEOUT, hand_over_all(daemon)).await;
    daemon.listening.store(false, SeqCst);
    daemon.reset_sessions();
    for (told, _) in lock(&daemon.owners).values() {
        told.send_modify(|wanted| wanted.gone = true);
    }
    let ended = async {
        while daemon.states().iter().any(|state| *state != State::Ended) {
            sleep(COUNT_INTERVAL).await;
        }
    };
    if timeout(DRAIN_TIMEOUT, ended).await.is_err() {
        return Ended::Failed("logical units cannot be released".to_owned());
    }
    daemon.clients.current().iter().for_each(Client::shutdown);
    daemon.control.shutdown();
    drop(follow);
    let key = &daemon.me;
    let retired =
        daemon.store.update(|map, origin| change::retire(map, origin, (&key.id, key.up_from))).await;
    match retired {
        Ok(_) => Ended::Stopped,
        Err(error) => Ended::Failed(error.to_string()),
    }
}

async fn hand_over_all(daemon: &Arc<Daemon>) {
    let key = &daemon.me;
    let map = loop {
        let left = daemon.store.update(|map, origin| -> Result<Change, _> {
            change::leave(map, origin, (&key.id, key.up_from))
        });
        match left.await {
            Ok(left) if !left.changed() => break left.map,
            Ok(_) => {}
            Err(_) => return,
        }
    };
    let others = map.daemons().any(|other| other.id != key.id && other.takes_units());
    if !others || map.placements().any(|placement| placement.owner == key.id) {
        return;
    }
    while daemon.maps.borrow().epoch() < map.epoch()
        || daemon.states().iter().any(|state| *state != State::Idle)
    {
        sleep(COUNT_INTERVAL).await;
    }
}
