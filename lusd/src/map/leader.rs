//! This daemon's part in leading: it looks at watchers and lease once a second, takes the leadership when it falls to it, and leads.
//!
//! ```text
//!   each second: look ─► judge, candidate ─┬─ take, renew, resign (lease) ──► lus_map
//!                                          └─ while it leads: verdicts, failover, placement ─► lus_map;  fences of what is down ─► mon
//! ```
//!
//! What decides is pure and elsewhere: [`lus_map::judge`], [`lus_map::candidate`], [`lus_map::change`]. Here is who asks it when.
//!
//! Invariants:
//! * Nothing waits for RADOS but the one job that asked: looks go on while a change hangs, and a look that hangs counts as one that failed.
//! * What the leader writes is refused by the map once another term has begun; so nothing here has to be in time to be safe.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use lus_map::change::{daemon, leader, placement};
use lus_map::lease::LOOK_INTERVAL;
use lus_map::{
    Candidate, Change, ClientAddr, Fenced, InstanceKey, InstanceState, Judge, Lease, LusMap, Origin, Refusal,
    Verdict, candidate,
};
use lus_map_store::{Looked, MapStore, Renewal, StoreError, Take};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, info, warn};

use crate::lun::fencer::FenceError;

/// Looks between two looks at whether units are to be moved, while the map stays as it is.
const LOOKS_PER_BALANCE: u32 = 5;

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
/// Something under way.
type Job<T> = Option<Boxed<T>>;
/// Fences clients, all in one round.
pub type FenceAll = Arc<dyn Fn(Vec<ClientAddr>) -> Boxed<Result<Vec<Fenced>, FenceError>> + Send + Sync>;

/// A look, and when it was asked for.
type Look = (Instant, Result<Looked, StoreError>);

/// What became of a step of the candidate.
enum Led {
    Taken(Arc<LusMap>, Lease),
    Renewed(Lease),
    Resigned(Arc<LusMap>),
    /// Somebody else was faster, or a newer map says otherwise.
    Lost,
}

/// What a leader has to do, one thing at a time.
#[derive(Debug, PartialEq, Eq)]
enum Work {
    Down(Vec<Verdict>),
    Failover,
    Place,
    Rebalance,
}

/// See the module's text.
pub struct Driver {
    me: InstanceKey,
    store: MapStore,
    fence: FenceAll,
    maps: watch::Receiver<Arc<LusMap>>,
    /// The newest map that is known here: followed, or made by this task.
    map: Arc<LusMap>,
    judge: Judge,
    candidate: Candidate,
    verdicts: Vec<Verdict>,
    begun: Instant,
    look: Job<Look>,
    /// The look under way took too long: what it brings is of no use any more.
    overdue: bool,
    lease: Job<Result<Led, StoreError>>,
    work: Job<Result<Arc<LusMap>, StoreError>>,
    fencing: Job<Result<Arc<LusMap>, String>>,
    /// A job failed: nothing new of its kind before the next look.
    pause: bool,
    looks: u32,
    leads: watch::Sender<Option<u64>>,
}

impl Driver {
    /// For the start `me`; `maps` are followed. `leads` tells the term while this daemon leads.
    pub fn new(
        me: InstanceKey,
        store: MapStore,
        maps: watch::Receiver<Arc<LusMap>>,
        fence: FenceAll,
        leads: watch::Sender<Option<u64>>,
    ) -> Self {
        let map = maps.borrow().clone();
        Self {
            judge: Judge::new(me.clone()),
            candidate: Candidate::new(me.clone()),
            me,
            store,
            fence,
            maps,
            map,
            verdicts: Vec::new(),
            begun: Instant::now(),
            look: None,
            overdue: false,
            lease: None,
            work: None,
            fencing: None,
            pause: false,
            looks: 0,
            leads,
        }
    }

    /// One whose judge leaves out rules.
    #[cfg(feature = "simulation")]
    pub fn with_rules(self, rules: lus_map::judge::Rules) -> Self {
        Self { judge: Judge::with_rules(self.me.clone(), rules), ..self }
    }

    /// Runs until the map is followed no more, or it is dropped.
    pub async fn run(mut self) {
        let mut tick = tokio::time::interval(LOOK_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let may = self.lease.is_none() && !self.pause;
            let due = self.candidate.due(&self.map).filter(|_| may).map(|due| self.begun + due);
            // In a fixed order, so that a simulation can be run again; none of them is ready all the time.
            tokio::select! {
                biased;
                _ = tick.tick() => self.tick(),
                look = ended(&mut self.look) => self.looked(look),
                led = ended(&mut self.lease) => self.led(led),
                done = ended(&mut self.work) => self.worked(done),
                fenced = ended(&mut self.fencing) => self.fenced(fenced),
                changed = self.maps.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let map = self.maps.borrow_and_update().clone();
                    self.newer(map);
                }
                () = sleep_until(due) => {}
            }
            self.act();
        }
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn newer(&mut self, map: Arc<LusMap>) {
        if map.epoch() > self.map.epoch() {
            self.map = map;
        }
    }

    /// Asks for a look, or notes that the one under way has failed.
    fn tick(&mut self) {
        self.pause = false;
        self.looks = self.looks.wrapping_add(1);
        if self.look.is_some() {
            self.overdue = true;
            debug!("no answer to a look at the watchers");
            let late: Result<Looked, ()> = Err(());
            return self.judged(Instant::now(), &late);
        }
        let store = self.store.clone();
        self.overdue = false;
        self.look = Some(Box::pin(async move { (Instant::now(), store.look_around().await) }));
    }

    fn looked(&mut self, (asked, look): Look) {
        if self.overdue {
            return;
        }
        if let Err(error) = &look {
            debug!(%error, "cannot look at the watchers");
        }
        self.judged(asked, &look);
    }

    fn judged<E>(&mut self, asked: Instant, look: &Result<Looked, E>) {
        let (now, took) = (asked - self.begun, asked.elapsed());
        let watchers = look.as_ref().map(|look| &look.watchers[..]);
        self.verdicts = self.judge.look(now, took, &self.map, watchers);
        let seen = look.as_ref().map(|look| (look.lease, &look.watchers[..]));
        self.candidate.look(now, took, &self.map, seen);
        self.renew();
    }

    /// Starts whatever is to be done and not under way.
    fn act(&mut self) {
        self.tell();
        if self.lease.is_none() && !self.pause {
            self.step();
        }
        let Some(term) = self.term().filter(|_| self.is_up()) else { return };
        if self.pause {
            return;
        }
        if self.fencing.is_none() {
            self.fence_what_is_down();
        }
        if self.work.is_none() {
            let origin = self.store.origin().leading(term);
            let balance = self.looks.is_multiple_of(LOOKS_PER_BALANCE);
            if let Some(work) = next_work(&self.map, &origin, &self.verdicts, balance) {
                self.work = Some(Box::pin(carry_out(self.store.clone(), term, work)));
            }
        }
    }

    /// The term in which this daemon leads.
    fn term(&self) -> Option<u64> {
        self.map.leader().filter(|leader| leader.instance() == self.me).map(|leader| leader.term)
    }

    fn is_up(&self) -> bool {
        self.map.instance(&self.me.id, self.me.up_from).is_some_and(|daemon| daemon.state.is_up())
    }

    fn tell(&self) {
        let term = self.term();
        self.leads.send_if_modified(|leads| {
            let changed = *leads != term;
            if let (true, Some(before), None) = (changed, *leads, term) {
                info!(term = before, "leads no more");
            }
            *leads = term;
            changed
        });
    }

    /// With each look, once: the lease of a leader.
    fn renew(&mut self) {
        if self.lease.is_some() {
            return;
        }
        if let candidate::Step::Renew(lease) = self.candidate.step(self.now(), &self.map, &self.judge) {
            let store = self.store.clone();
            self.lease = Some(Box::pin(async move {
                Ok(match store.renew(lease).await? {
                    Renewal::Renewed(lease) => Led::Renewed(lease),
                    Renewal::Lost(_) => Led::Lost,
                })
            }));
        }
    }

    fn step(&mut self) {
        let (store, me) = (self.store.clone(), self.me.clone());
        match self.candidate.step(self.now(), &self.map, &self.judge) {
            candidate::Step::Stay | candidate::Step::Renew(_) => {}
            candidate::Step::Take { term, stale } => {
                let why = vacancy(&self.map, &self.judge);
                self.lease = Some(Box::pin(async move {
                    Ok(match store.take(&me, term, stale).await? {
                        Take::Taken { map, lease, .. } => {
                            info!(term = lease.term, why, "leads");
                            Led::Taken(map, lease)
                        }
                        Take::Lost => Led::Lost,
                    })
                }));
            }
            candidate::Step::Resign => {
                self.lease = Some(Box::pin(async move {
                    let updated = store.update(|map, origin| leader::resign(map, origin, &me)).await?;
                    info!("resigns: others do not see its watch, or it is not up any more");
                    Ok(Led::Resigned(updated.map))
                }));
            }
        }
    }

    fn led(&mut self, led: Result<Led, StoreError>) {
        match led {
            Ok(Led::Taken(map, lease)) => {
                self.candidate.wrote(self.now(), lease);
                self.newer(map);
            }
            Ok(Led::Renewed(lease)) => self.candidate.wrote(self.now(), lease),
            Ok(Led::Resigned(map)) => self.newer(map),
            Ok(Led::Lost) => self.pause = true,
            Err(error) => {
                warn!(%error, "the leadership: no success");
                self.pause = true;
            }
        }
    }

    fn worked(&mut self, done: Result<Arc<LusMap>, StoreError>) {
        match done {
            Ok(map) => self.newer(map),
            Err(StoreError::Refused(refusal @ (Refusal::NotLeader { .. } | Refusal::FlagSet(_)))) => {
                debug!(%refusal, "a newer map says otherwise");
                self.pause = true;
            }
            Err(error) => {
                warn!(%error, "cannot write what the leader decided");
                self.pause = true;
            }
        }
    }

    /// Whoever is down may not come back to its clients: also those that hold no unit, and the one for map and records.
    fn fence_what_is_down(&mut self) {
        let down = self.map.daemons().filter(|daemon| matches!(daemon.state, InstanceState::Down { .. }));
        let clients: Vec<ClientAddr> = down.flat_map(|daemon| daemon.unfenced().cloned()).collect();
        if clients.is_empty() {
            return;
        }
        let (store, fence) = (self.store.clone(), self.fence.clone());
        self.fencing = Some(Box::pin(async move {
            let fenced = fence(clients).await.map_err(|error| error.to_string())?;
            let osd_epoch = fenced.iter().map(|fenced| fenced.osd_epoch).max().unwrap_or(0);
            let addrs: Vec<ClientAddr> = fenced.into_iter().map(|fenced| fenced.addr).collect();
            let noted = store.update(|map, origin| daemon::fenced(map, origin, &addrs, osd_epoch)).await;
            noted.map(|updated| updated.map).map_err(|error| error.to_string())
        }));
    }

    fn fenced(&mut self, fenced: Result<Arc<LusMap>, String>) {
        match fenced {
            Ok(map) => self.newer(map),
            Err(error) => {
                warn!(error, "cannot fence the clients of a daemon that is down");
                self.pause = true;
            }
        }
    }
}

/// What the map asks of its leader next.
fn next_work(map: &LusMap, origin: &Origin, verdicts: &[Verdict], balance: bool) -> Option<Work> {
    let up = |verdict: &&Verdict| {
        map.instance(&verdict.daemon, verdict.up_from).is_some_and(|daemon| daemon.state.is_up())
    };
    let dead: Vec<Verdict> = verdicts.iter().filter(up).cloned().collect();
    if !dead.is_empty() {
        return Some(Work::Down(dead));
    }
    let makes = |change: Result<Change, Refusal>| matches!(change, Ok(Change::Make { .. }));
    if makes(placement::failover(map, origin)) {
        return Some(Work::Failover);
    }
    if map.unplaced().next().is_some() && makes(placement::place_unplaced(map, origin)) {
        return Some(Work::Place);
    }
    (balance && makes(placement::rebalance(map, origin))).then_some(Work::Rebalance)
}

async fn carry_out(store: MapStore, term: u64, work: Work) -> Result<Arc<LusMap>, StoreError> {
    let updated = match &work {
        Work::Down(verdicts) => {
            store.update_leading(term, |map, origin| daemon::declare_down(map, origin, verdicts)).await
        }
        Work::Failover => store.update_leading(term, placement::failover).await,
        Work::Place => store.update_leading(term, placement::place_unplaced).await,
        Work::Rebalance => store.update_leading(term, placement::rebalance).await,
    }?;
    if updated.changed() {
        if let Work::Down(verdicts) = &work {
            for verdict in verdicts {
                info!(%verdict, term, "declared down");
            }
        }
        info!(epoch = updated.map.epoch().0, term, "{}", updated.said);
    }
    Ok(updated.map)
}

/// Why the leadership is there to be taken.
fn vacancy(map: &LusMap, judge: &Judge) -> String {
    let Some(leader) = map.leader() else { return "nobody leads".to_owned() };
    let (instance, id) = (leader.instance(), &leader.daemon);
    if !map.instance(id, leader.up_from).is_some_and(|daemon| daemon.state.is_up()) {
        format!("lus.{id}, which led, is not up")
    } else if judge.missing_looks(&instance) > 0 {
        format!("the watch of lus.{id}, which led, is gone")
    } else {
        format!("lus.{id} does not renew its lease")
    }
}

/// The result of a job, once; never, without one.
async fn ended<T>(job: &mut Job<T>) -> T {
    match job {
        Some(running) => {
            let result = running.await;
            *job = None;
            result
        }
        None => std::future::pending().await,
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
