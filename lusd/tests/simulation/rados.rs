//! RADOS: a monitor with a blocklist, OSDs that learn of it late, clients whose operations travel in order to each placement group.
//!
//! ```text
//!   client ─ leaves while its process runs, with the OSD epoch that the client has ─► network ─► placement group: takes the newer epoch of
//!            the two, refuses whom that epoch has on the blocklist, else does it ─► network ─► process
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use lusd_ceph::Errno;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use crate::image::ImageState;
use crate::objects::{Object, Watch};
use crate::process::{Process, Valve};
use crate::sim::{Sim, lock};

/// An operation's result.
pub(crate) type Reply<T> = Result<T, Errno>;
/// One under way.
pub(crate) type Pending<T> = Pin<Box<dyn Future<Output = Reply<T>> + Send>>;

/// The name of processes that are not of LUS.
pub(crate) const OUTSIDER: &str = "outsider";
/// How often watches are looked at.
const TICK: Duration = Duration::from_millis(500);
/// How long the blocklist entries that LUS makes have to last to count as such for good.
pub(crate) const FOR_GOOD: Duration = Duration::from_secs(180 * 86_400);

struct Entry {
    added: u64,
    removed: Option<u64>,
    expires: Duration,
    /// By librbd of a client that is not of LUS, which does not last.
    foreign: bool,
}

#[derive(Default)]
struct PlacementGroup {
    epoch: u64,
    /// Epochs that it will hear of by itself.
    rumours: Vec<(Instant, u64)>,
}

#[derive(Default)]
struct ClientState {
    /// Newest OSD map of the client.
    epoch: u64,
    /// When the last operation left, and when the last one arrived, for each placement group.
    left: BTreeMap<String, Instant>,
    arrived: BTreeMap<String, Instant>,
    /// The end of the last operation that was submitted there.
    before: BTreeMap<String, oneshot::Receiver<()>>,
}

/// All that is in RADOS.
pub(crate) struct State {
    osd_epoch: u64,
    blocklist: BTreeMap<String, Vec<Entry>>,
    /// What the monitors' clock is ahead.
    ahead: Duration,
    groups: BTreeMap<String, PlacementGroup>,
    clients: BTreeMap<String, ClientState>,
    /// Clients that ended in order, with nothing in flight.
    pub(crate) ended: BTreeSet<String>,
    pub(crate) objects: BTreeMap<String, Object>,
    pub(crate) images: Vec<ImageState>,
    pub(crate) watches: Vec<Watch>,
    pub(crate) next_id: u64,
    /// While the OSDs stand still: whether watches time out meanwhile.
    stall_drops_watches: bool,
    pub(crate) fences: Vec<String>,
}

/// See the module's text.
pub(crate) struct Rados {
    pub(crate) sim: Arc<Sim>,
    state: Mutex<State>,
    /// Shut while the OSDs stand still.
    osds: Valve,
}

/// A RADOS client.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) rados: Arc<Rados>,
    pub(crate) process: Arc<Process>,
    pub(crate) addr: Arc<str>,
}

impl State {
    pub(crate) fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn blocklisted(&self, addr: &str, epoch: u64) -> bool {
        let listed =
            |entry: &Entry| entry.added <= epoch && entry.removed.is_none_or(|removed| removed > epoch);
        self.blocklist.get(addr).is_some_and(|entries| entries.iter().any(listed))
    }

    /// When the entry of `addr` that stands now ends, from now.
    fn fenced_for(&self, addr: &str, now: Duration) -> Option<Duration> {
        let entry = self.blocklist.get(addr)?.iter().find(|entry| entry.removed.is_none())?;
        Some(entry.expires.saturating_sub(now + self.ahead))
    }

    /// Whether `addr` was fenced as it should be: for years, or by somebody else before anybody of LUS could. The first entry stands, for as
    /// long as it says.
    pub(crate) fn is_fenced_well(&self, addr: &str, now: Duration) -> bool {
        let foreign =
            self.blocklist.get(addr).is_some_and(|entries| entries.iter().any(|entry| entry.foreign));
        foreign || self.is_fenced_for_good(addr, now)
    }

    /// Whether `addr` is on the blocklist, for years.
    pub(crate) fn is_fenced_for_good(&self, addr: &str, now: Duration) -> bool {
        self.fenced_for(addr, now).is_some_and(|left| left > FOR_GOOD)
    }

    fn learn(&mut self, pg: &str, stamp: u64) -> u64 {
        let newest = self.osd_epoch;
        let group = self
            .groups
            .entry(pg.to_owned())
            .or_insert_with(|| PlacementGroup { epoch: newest, ..Default::default() });
        let now = Instant::now();
        let heard = group.rumours.iter().filter(|(at, _)| *at <= now).map(|(_, epoch)| *epoch).max();
        group.rumours.retain(|(at, _)| *at > now);
        let before = group.epoch;
        group.epoch = group.epoch.max(stamp).max(heard.unwrap_or(0));
        let epoch = group.epoch;
        if epoch > before {
            self.drop_watches_of_fenced(pg, epoch);
        }
        epoch
    }

    fn drop_watches_of_fenced(&mut self, pg: &str, epoch: u64) {
        let gone: Vec<Watch> = {
            let fenced: Vec<bool> = self
                .watches
                .iter()
                .map(|watch| watch.object == pg && self.blocklisted(&watch.client.addr, epoch))
                .collect();
            let mut fenced = fenced.into_iter();
            self.watches.extract_if(.., |_| fenced.next().unwrap_or(false)).collect()
        };
        gone.into_iter().for_each(Watch::broken);
    }

    fn expire(&mut self, sim: &Sim) {
        let now = sim.now() + self.ahead;
        let mut any = false;
        for entries in self.blocklist.values_mut() {
            for entry in entries.iter_mut().filter(|entry| entry.removed.is_none() && entry.expires <= now) {
                entry.removed = Some(self.osd_epoch + 1);
                any = true;
            }
        }
        if any {
            self.raise(sim);
        }
    }

    fn raise(&mut self, sim: &Sim) {
        self.osd_epoch += 1;
        for group in self.groups.values_mut() {
            group.rumours.push((Instant::now() + sim.ms(100..=15_000), self.osd_epoch));
        }
    }
}

impl Rados {
    pub(crate) fn new(sim: Arc<Sim>, images: usize) -> Arc<Self> {
        let state = State {
            osd_epoch: 10,
            blocklist: BTreeMap::new(),
            ahead: Duration::ZERO,
            groups: BTreeMap::new(),
            clients: BTreeMap::new(),
            ended: BTreeSet::new(),
            objects: BTreeMap::new(),
            images: (0..images).map(|_| ImageState::default()).collect(),
            watches: Vec::new(),
            next_id: 0,
            stall_drops_watches: false,
            fences: Vec::new(),
        };
        let rados = Arc::new(Self { sim, state: Mutex::new(state), osds: Valve::default() });
        tokio::spawn(rados.clone().keep_watches());
        rados
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// A new client, with an address of its own on the machine `ip`.
    pub(crate) fn client(self: &Arc<Self>, process: &Arc<Process>, ip: &str) -> Client {
        let mut state = self.state();
        let nonce = state.id();
        let addr: Arc<str> = format!("{ip}:0/{nonce}").into();
        let epoch = state.osd_epoch;
        state.clients.insert(addr.to_string(), ClientState { epoch, ..Default::default() });
        Client { rados: self.clone(), process: process.clone(), addr }
    }

    /// The OSDs stand still; operations on their way wait.
    pub(crate) fn stall(&self, drops_watches: bool) {
        self.state().stall_drops_watches = drops_watches;
        self.osds.shut();
    }

    pub(crate) fn go_on(&self) {
        self.osds.open();
    }

    /// For the monitors, so much time has passed.
    pub(crate) fn let_time_pass(&self, time: Duration) {
        let mut state = self.state();
        state.ahead += time;
        state.expire(&self.sim);
    }

    /// Some watches on the map are not listed for a moment.
    pub(crate) fn blink(&self, time: Duration) {
        let mut state = self.state();
        let until = Instant::now() + time;
        for watch in state.watches.iter_mut().filter(|watch| watch.object == lus_map::MAP_OBJECT) {
            if self.sim.chance(500) {
                watch.hidden_until = Some(until);
            }
        }
    }

    /// Forgets the watches of those that are silent for too long.
    async fn keep_watches(self: Arc<Self>) {
        loop {
            sleep(TICK).await;
            let stalled = self.osds.is_shut();
            let now = Instant::now();
            let mut state = self.state();
            state.expire(&self.sim);
            let frozen = stalled && !state.stall_drops_watches;
            for watch in &mut state.watches {
                if frozen || (!stalled && watch.client.process.is_heard()) {
                    watch.heard = now;
                }
            }
            let gone: Vec<Watch> = state
                .watches
                .extract_if(.., |watch| now.duration_since(watch.heard) > watch.timeout)
                .collect();
            let groups: Vec<String> = state.groups.keys().cloned().collect();
            if !stalled {
                for pg in &groups {
                    state.learn(pg, 0);
                }
            }
            drop(state);
            gone.into_iter().for_each(Watch::broken);
        }
    }
}

impl Client {
    /// Sends an operation to the placement group of `pg`. It leaves the process as soon as that runs, and goes on whatever becomes of the
    /// process or of the returned future then.
    pub(crate) fn submit<T: Send + 'static>(
        &self,
        pg: impl Into<String>,
        op: impl FnOnce(&mut State) -> Reply<T> + Send + 'static,
    ) -> Pending<T> {
        let (sender, receiver) = oneshot::channel();
        let pg = pg.into();
        let (done, next) = oneshot::channel();
        let mut state = self.rados.state();
        let client = state.clients.entry(self.addr.to_string()).or_default();
        let before = client.before.insert(pg.clone(), next);
        drop(state);
        tokio::spawn(self.clone().travel(pg, op, sender, before, done));
        Box::pin(async move {
            match receiver.await {
                Ok(reply) => reply,
                // It never left.
                Err(_) => std::future::pending().await,
            }
        })
    }

    async fn travel<T: Send + 'static>(
        self,
        pg: String,
        op: impl FnOnce(&mut State) -> Reply<T> + Send + 'static,
        sender: oneshot::Sender<Reply<T>>,
        before: Option<oneshot::Receiver<()>>,
        done: oneshot::Sender<()>,
    ) {
        let rados = &self.rados;
        let leaves = {
            let wanted = Instant::now() + rados.sim.ms(0..=1);
            let mut state = rados.state();
            let Some(client) = state.clients.get_mut(&*self.addr) else { return };
            in_order(&mut client.left, &pg, wanted)
        };
        sleep_until(leaves).await;
        self.process.runs().await;
        let (stamp, arrives) = {
            let wanted = Instant::now() + rados.sim.latency();
            let mut state = rados.state();
            let Some(client) = state.clients.get_mut(&*self.addr) else { return };
            (client.epoch, in_order(&mut client.arrived, &pg, wanted))
        };
        sleep_until(arrives).await;
        self.process.machine.link.pass().await;
        rados.osds.pass().await;
        // In the order in which they were submitted, also where many have waited for the same.
        if let Some(before) = before {
            let _ = before.await;
        }
        rados.osds.pass().await;
        let reply = {
            let mut state = rados.state();
            let epoch = state.learn(&pg, stamp);
            if state.blocklisted(&self.addr, epoch) { Err(Errno::ESHUTDOWN) } else { op(&mut state) }
        };
        drop(done);
        sleep(rados.sim.latency()).await;
        self.process.machine.link.pass().await;
        let _ = sender.send(reply);
    }

    /// A command to the monitors: they do not look at the OSDs' blocklist.
    async fn ask<T: Send + 'static>(
        &self,
        takes: Duration,
        op: impl FnOnce(&mut State) -> T + Send + 'static,
    ) -> T {
        let (sender, receiver) = oneshot::channel();
        let client = self.clone();
        tokio::spawn(async move {
            client.process.runs().await;
            sleep(takes).await;
            client.process.machine.link.pass().await;
            let reply = op(&mut client.rados.state());
            sleep(client.rados.sim.ms(0..=2)).await;
            client.process.machine.link.pass().await;
            let _ = sender.send(reply);
        });
        match receiver.await {
            Ok(reply) => reply,
            Err(_) => std::future::pending().await,
        }
    }

    /// `osd blocklist add`: gives the OSD epoch of it, which this client has then. An entry that is there keeps its expiry.
    pub(crate) async fn blocklist_add(&self, addr: &str, expire: Duration) -> u64 {
        let takes = self.rados.sim.ms(50..=1000);
        let (sim, addr) = (self.rados.sim.clone(), addr.to_owned());
        let (by, foreign) = (self.addr.clone(), &*self.process.name == OUTSIDER);
        let epoch = self
            .ask(takes, move |state| {
                let now = sim.now() + state.ahead;
                if state.fenced_for(&addr, sim.now()).is_none() {
                    sim.note(|| format!("mon: {addr} on the blocklist, by {by}"));
                    state.raise(&sim);
                    let entry =
                        Entry { added: state.osd_epoch, removed: None, expires: now + expire, foreign };
                    state.blocklist.entry(addr.clone()).or_default().push(entry);
                    if !foreign {
                        state.fences.push(addr);
                    }
                }
                state.osd_epoch
            })
            .await;
        self.has_map(epoch);
        epoch
    }

    pub(crate) async fn wait_for_latest_osdmap(&self) {
        let takes = self.rados.sim.ms(0..=3);
        let epoch = self.ask(takes, |state| state.osd_epoch).await;
        self.has_map(epoch);
    }

    fn has_map(&self, epoch: u64) {
        if let Some(client) = self.rados.state().clients.get_mut(&*self.addr) {
            client.epoch = client.epoch.max(epoch);
        }
    }

    /// Whether `addr` is on the blocklist for years, by `osd blocklist ls`.
    pub(crate) async fn is_fenced_for_good(&self, addr: &str) -> bool {
        let (sim, addr) = (self.rados.sim.clone(), addr.to_owned());
        self.ask(self.rados.sim.ms(0..=3), move |state| state.is_fenced_for_good(&addr, sim.now())).await
    }

    /// It ends in order.
    pub(crate) fn shutdown(&self) {
        self.rados.state().ended.insert(self.addr.to_string());
    }
}

/// `wanted`, or later: behind all that went there before.
fn in_order(times: &mut BTreeMap<String, Instant>, pg: &str, wanted: Instant) -> Instant {
    let at = times.get(pg).map_or(wanted, |last| wanted.max(*last + Duration::from_millis(1)));
    times.insert(pg.to_owned(), at);
    at
}
