//! The task of one LU: shows it, makes it this daemon's while the map places it here, serves it, lets it go.
//!
//! ```text
//!              ┌────────────────────── not placed here ◄───────────────┐
//!   look ──► idle ──placed──► attempt ──► serving ──placed elsewhere──► hand over (see `handover`)
//!                               │ ▲          ├─ removed, daemon ends ─► release (gate drained, record Released, lock released)
//!                               │ ▲          │
//!                 obstacle, ────┘ │          └─ lost (fenced, lock gone, outcome unknown) ─► record Lost, client replaced ─┐
//!                 error: later    └────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! The order of an attempt's steps is in [`takeover`](super::takeover). Nothing here is on the path of a read or a write.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lus_map::{
    Backend as MapBackend, ClientAddr, DaemonId, Holder, ImageSpec, InstanceKey, Lu, LuId, LuRecord, LusMap,
};
use lus_map_store::{MapStore, RecordStore};
use lusd_ceph::{Cluster, Image, ImageUpdates, OpenMode};
use lusd_scsi::{AccessState, Operation};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{Instrument, debug, error, info, info_span, warn};

use super::backend::Backend;
use super::clients::{DataClient, DataClients};
use super::describe::{self, Geometry};
use super::erase;
use super::fencer::Fencer;
use super::gate::LuEpoch;
use super::ram::RamStore;
use super::reserve::record::{RecordKeeper, from_kept, to_kept};
use super::reserve::{self, Ask};
use super::unit::Unit;
use crate::service::Service;

mod attempt;
mod handover;

use attempt::{Held, Trouble, Waiting};
use handover::Over;

/// How long the first look at an image may take before its LU is shown without a size.
const LOOK_TIMEOUT: Duration = Duration::from_secs(3);
/// How often an LU that another daemon owns is looked at for its size, if no host asks for it.
const LOOK_INTERVAL: Duration = Duration::from_secs(300);
/// The same while no look has succeeded.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// How often an owner asks the OSD whether it still is; every event that hints at a loss makes it ask at once.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// First pause after a failed attempt; it doubles.
const RETRY_MIN: Duration = Duration::from_millis(500);
/// Longest pause; also that before an obstacle is looked at again which somebody has to remove.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How long a fenced or released image's close is waited for; it goes on by itself then.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// What all owners share.
pub struct Shared {
    /// This start of this daemon.
    pub me: InstanceKey,
    /// Shards, for the gates.
    pub shards: usize,
    /// The client for map and records.
    pub control: Cluster,
    /// The map.
    pub store: MapStore,
    /// The records.
    pub records: RecordStore,
    /// Fences.
    pub fencer: Arc<Fencer>,
    /// Clients for images.
    pub clients: Arc<DataClients>,
    /// Bounds what happens at the same time.
    pub turns: PoolTurns,
    /// When hosts of thin LUs are told: percent of its pool's room that is available then; 0 for never.
    pub soft_threshold_percent: u8,
    /// How long a gate may take to drain in order.
    pub drain_timeout: Duration,
    /// The map as it is followed.
    pub maps: watch::Receiver<Arc<LusMap>>,
    /// What connections share: those with commands that waited at a gate are woken.
    pub service: Arc<Service>,
}

/// Turns at opening and closing, for each pool its own: a pool that hangs does not hold up another.
pub struct PoolTurns {
    parallel: usize,
    pools: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl PoolTurns {
    /// `parallel` at the same time in each pool.
    pub fn new(parallel: usize) -> Self {
        Self { parallel, pools: Mutex::new(HashMap::new()) }
    }

    async fn turn(&self, lu: &Lu) -> Option<OwnedSemaphorePermit> {
        let pool = image_of(lu).map_or("", ImageSpec::pool).to_owned();
        let semaphore = {
            let mut pools = self.pools.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            pools.entry(pool).or_insert_with(|| Arc::new(Semaphore::new(self.parallel))).clone()
        };
        semaphore.acquire_owned().await.ok()
    }
}

/// The image of an LU, if it is one.
fn image_of(lu: &Lu) -> Option<&ImageSpec> {
    match &lu.backend {
        MapBackend::Rbd { image, .. } => Some(image),
        MapBackend::Ram { .. } | MapBackend::Null { .. } => None,
    }
}

/// What the map wants of an LU.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its entry.
    pub lu: Arc<Lu>,
    /// It is placed on this daemon.
    pub here: bool,
    /// The daemon that it is placed on, if it is another one.
    pub elsewhere: Option<DaemonId>,
    /// It is gone from the map, or the daemon stops: release it and end.
    pub gone: bool,
}

/// What has become of an LU here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Another daemon's.
    Idle,
    /// Being fenced, opened, locked.
    Opening,
    /// Served under this epoch.
    Serving(LuEpoch),
    /// It cannot be served, for this reason.
    Waiting(String),
}

/// A unit was made, or made anew: hosts are to see it.
pub type Made = (LuId, Arc<Unit>);

/// What the reconciler holds of an LU.
pub struct Owner {
    wanted: watch::Sender<Wanted>,
    state: watch::Receiver<State>,
    task: JoinHandle<()>,
}

impl Owner {
    /// Starts the task. It sends its unit to `made`.
    pub fn start(shared: Arc<Shared>, wanted: Wanted, made: mpsc::Sender<Made>) -> Self {
        let span = info_span!("lu", lu = %wanted.lu.name());
        let (state_sender, state) = watch::channel(if wanted.here { State::Opening } else { State::Idle });
        let (wanted, wanted_receiver) = watch::channel(wanted);
        let task = Task {
            shared,
            wanted: wanted_receiver,
            made,
            state: state_sender,
            dead: None,
            waiting: None,
            claimed: false,
        };
        Self { wanted, state, task: tokio::spawn(task.run().instrument(span)) }
    }

    /// Tells what the map wants now.
    pub fn want(&self, change: impl FnOnce(&mut Wanted)) {
        self.wanted.send_modify(change);
    }

    /// Where it stands, and each change of that.
    pub fn states(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// What has become of it.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Waits for the task's end; [`Wanted::gone`] makes it end.
    pub async fn ended(self) {
        if let Err(error) = self.task.await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

struct Task {
    shared: Arc<Shared>,
    wanted: watch::Receiver<Wanted>,
    made: mpsc::Sender<Made>,
    state: watch::Sender<State>,
    /// A client under which this LU was held and not released: never used for it again.
    dead: Option<ClientAddr>,
    /// The holder that is to let go.
    waiting: Waiting,
    /// The record may name us although the LU is not served: so an attempt ended.
    claimed: bool,
}

impl Task {
    async fn run(mut self) {
        let lu = self.current().lu;
        let mut client = self.shared.clients.of(&lu.id);
        let seen = self.look(&lu).await;
        let geometry = seen.unwrap_or_else(|| Geometry::of_map(&lu));
        let access = if self.current().here { AccessState::Transitioning } else { AccessState::Standby };
        let Some(mut unit) = self.make(&lu, geometry, access).await else { return };
        unit.note_look(Instant::now(), seen.is_some());
        let mut pause = RETRY_MIN;
        loop {
            let wanted = self.current();
            if wanted.gone || !wanted.here {
                self.disclaim(&wanted.lu, &client).await;
            }
            if wanted.gone {
                return;
            }
            if !wanted.here {
                self.waiting = None;
                self.set(State::Idle);
                unit.scsi.set_access(AccessState::Standby);
                unit = self.idle(unit).await;
                continue;
            }
            if matches!(*self.state.borrow(), State::Idle | State::Serving(_)) {
                self.set(State::Opening);
                unit.scsi.set_access(AccessState::Transitioning);
            }
            let current = client.borrow_and_update().clone();
            match self.try_hold(&wanted.lu, &current).await {
                Ok(held) => {
                    pause = RETRY_MIN;
                    unit = self.fit(unit, &wanted.lu, &held).await;
                    self.serve(&unit, &wanted.lu, held, &mut client).await;
                }
                Err(trouble) => {
                    let wait = if trouble.needs_somebody() { RETRY_MAX } else { pause };
                    self.report(&unit, &trouble);
                    pause = (pause * 2).min(RETRY_MAX);
                    let _ = tokio::time::timeout(wait, self.wanted.changed()).await;
                }
            }
        }
    }

    fn current(&mut self) -> Wanted {
        let orphaned = self.wanted.has_changed().is_err();
        let mut wanted = self.wanted.borrow_and_update().clone();
        wanted.gone |= orphaned;
        wanted
    }

    fn set(&self, state: State) {
        self.state.send_if_modified(|current| {
            let new = *current != state;
            *current = state;
            new
        });
    }

    /// Says why it is not served, once.
    fn report(&self, unit: &Unit, trouble: &Trouble) {
        let text = trouble.to_string();
        unit.scsi.set_access(if trouble.needs_somebody() {
            AccessState::ManualInterventionRequired
        } else {
            AccessState::Transitioning
        });
        let state = State::Waiting(text);
        if *self.state.borrow() != state {
            warn!(reason = %trouble, "not served");
            if trouble.is_forbidden() {
                warn!(
                    "if its pool was allowed after this daemon started: restart it, a client keeps the capabilities it connected with"
                );
            }
            self.set(state);
        }
    }

    /// Size and shape, by a read-only look that no other client notices; `None` where that fails, or takes too long.
    async fn look(&self, lu: &Arc<Lu>) -> Option<Geometry> {
        if image_of(lu).is_none() {
            return Some(Geometry::of_map(lu));
        }
        let look = async {
            let turn = self.shared.turns.turn(lu).await;
            // A task of its own: while librbd hangs in it, it keeps its turn, and so its pool to a bounded number of threads.
            tokio::spawn(look(self.shared.control.clone(), lu.clone(), turn)).await
        };
        match tokio::time::timeout(LOOK_TIMEOUT, look).await {
            Ok(Ok(Ok(geometry))) => Some(geometry),
            Ok(Ok(Err(error))) => {
                warn!(%error, "cannot look at the image");
                None
            }
            Ok(Err(error)) => {
                warn!(%error, "cannot look at the image");
                None
            }
            Err(_) => {
                warn!("no look at the image yet: it, or its pool, is slow");
                None
            }
        }
    }

    /// Makes the unit and shows it. `None`, and a line in the log, for an entry that cannot be shown.
    async fn make(&self, lu: &Lu, geometry: Geometry, access: AccessState) -> Option<Arc<Unit>> {
        match describe::logical_unit(lu, geometry, self.shared.soft_threshold_percent, access) {
            Ok(scsi) => {
                let unit = Unit::new(lu.id, lu.name().to_string(), scsi, self.shared.shards);
                unit.set_data_pool(geometry.data_pool);
                // The reconciler reads these as long as it lives.
                let _ = self.made.send((lu.id, unit.clone())).await;
                Some(unit)
            }
            Err(error) => {
                error!(%error, "cannot be shown to hosts");
                None
            }
        }
    }

    /// The unit with the size of what is held; another one if the image has another shape than was seen.
    async fn fit(&self, unit: Arc<Unit>, lu: &Lu, held: &Held) -> Arc<Unit> {
        let geometry = match &held.image {
            Some(image) => Geometry::of_image(image),
            None => Geometry::of_map(lu),
        };
        self.reshape(unit, lu, geometry, AccessState::Transitioning).await
    }

    async fn reshape(&self, unit: Arc<Unit>, lu: &Lu, geometry: Geometry, access: AccessState) -> Arc<Unit> {
        if unit.scsi.limits().object_bytes != geometry.object_size
            && let Some(other) = self.make(lu, geometry, access).await
        {
            return other;
        }
        unit.set_data_pool(geometry.data_pool);
        self.resize(&unit, geometry.size);
        unit
    }

    /// Takes a new size over; hosts hear of it.
    fn resize(&self, unit: &Unit, size: u64) {
        if unit.scsi.set_capacity_bytes(size) {
            self.shared.service.note_change();
        }
    }

    /// A volatile unit may have another size in the map: its memory is moved while nothing is inside the gate.
    async fn resize_volatile(&self, unit: &Unit, now: &Lu) {
        let Some(size) = now.backend.size_bytes().filter(|size| *size != unit.scsi.capacity_bytes()) else {
            return;
        };
        let Some(_barrier) = unit.gate.barrier().await else { return };
        // What waits at the gate looks at the capacity again before it enters.
        self.resize(unit, size);
        unit.exchange_backend(|backend| match backend {
            Backend::Ram(store) => Some(Backend::Ram(store.resized(size))),
            Backend::Null | Backend::Rbd(_) => None,
        });
        info!(size, "resized");
    }

    /// Until the map wants something else, looks at the size when a host asks for it, and now and then.
    async fn idle(&mut self, unit: Arc<Unit>) -> Arc<Unit> {
        let unseen = unit.scsi.capacity_bytes() == 0;
        let interval = if unseen { LOOK_AGAIN } else { LOOK_INTERVAL };
        tokio::select! {
            biased;
            _ = self.wanted.changed() => return unit,
            () = unit.until_look_is_wanted() => {}
            () = tokio::time::sleep(interval) => {}
        }
        let lu = self.current().lu;
        let mut wanted = self.wanted.clone();
        let seen = tokio::select! {
            biased;
            // What is placed here now must not wait for a look.
            _ = wanted.changed() => None,
            seen = self.look(&lu) => seen,
        };
        let shown = match seen {
            Some(geometry) => self.reshape(unit.clone(), &lu, geometry, AccessState::Standby).await,
            None => unit.clone(),
        };
        for unit in [unit, shown.clone()] {
            unit.note_look(Instant::now(), seen.is_some());
        }
        self.shared.service.sessions.wake_all();
        shown
    }

    /// One attempt, given up when the map wants something else; replaces a client that is of no use any more.
    async fn try_hold(&mut self, lu: &Lu, client: &DataClient) -> Result<Held, Trouble> {
        if self.dead.as_ref() == Some(&client.addr) {
            self.shared.clients.replace(&lu.id, &client.addr).await?;
            return Err(Trouble::ClientReplaced);
        }
        let held = attempt::run(&self.shared, lu, client, &mut self.wanted, &mut self.waiting).await;
        self.claimed = held.is_err();
        if let Err(trouble) = &held
            && trouble.is_of_client()
        {
            warn!(reason = %trouble, client = %client.addr, "the RADOS client is of no use any more");
            self.shared.clients.replace(&lu.id, &client.addr).await?;
        }
        held
    }

    /// Gives up what an attempt has claimed in the record: nothing was served under it.
    async fn disclaim(&mut self, lu: &Lu, client: &watch::Receiver<DataClient>) {
        if !std::mem::take(&mut self.claimed) {
            return;
        }
        let me = holder(&self.shared.me, &client.borrow());
        let claim = match self.shared.records.read(&lu.id).await {
            Ok(record) => record.filter(|record| record.state.holder() == Some(&me)),
            Err(error) => return warn!(%error, "cannot see whether the record names us"),
        };
        if claim.is_none() {
            return;
        }
        match self.shared.records.transition(&lu.id, |record| record.release(&me)).await {
            Ok(_) => info!("not wanted here any more: released unserved"),
            Err(error) => warn!(%error, "cannot note the release; whoever takes it over fences us"),
        }
    }

    /// Serves until the LU is lost, or is to be let go.
    async fn serve(
        &mut self,
        unit: &Arc<Unit>,
        lu: &Lu,
        mut held: Held,
        client: &mut watch::Receiver<DataClient>,
    ) {
        let epoch = LuEpoch(held.record.lu_epoch.0);
        unit.scsi.set_operation(match &held.image {
            Some(image) => erase::left_over(image).await,
            None => Operation::None,
        });
        let backend = Arc::new(match (&held.image, &lu.backend) {
            (Some(image), _) => Backend::Rbd(image.clone()),
            (None, MapBackend::Ram { size_bytes, .. }) => Backend::Ram(RamStore::new(*size_bytes)),
            (None, _) => Backend::Null,
        });
        // Before anything enters: hosts find their registrations, whoever served them before.
        unit.scsi.adopt(from_kept(&held.record.reservations));
        unit.serve(epoch, backend);
        self.set(State::Serving(epoch));
        info!(epoch = epoch.0, size = unit.scsi.capacity_bytes(), "serving");
        loop {
            if let End::Lost = self.watch_over(unit, &mut held, epoch, client).await {
                return self.lost(unit, held, epoch).await;
            }
            let wanted = self.current();
            let Some(to) = wanted.elsewhere.filter(|_| !wanted.gone) else {
                return self.release(unit, held, epoch).await;
            };
            match self.hand_over(unit, &mut held, epoch, &to).await {
                Over::Gone => return,
                Over::Stays => {}
                Over::Lost => return self.lost(unit, held, epoch).await,
            }
        }
    }

    async fn watch_over(
        &mut self,
        unit: &Arc<Unit>,
        held: &mut Held,
        epoch: LuEpoch,
        client: &mut watch::Receiver<DataClient>,
    ) -> End {
        let mut updates = held.image.as_ref().map(Image::watch_update);
        let mut check: Option<Check> = None;
        let mut changing: Option<Changing> = None;
        let mut tick =
            tokio::time::interval_at(tokio::time::Instant::now() + first_check(&unit.id), CHECK_INTERVAL);
        loop {
            let mut ask = false;
            tokio::select! {
                () = unit.until_lost() => {
                    if unit.was_lost(epoch) {
                        return End::Lost;
                    }
                }
                // What has begun is written before anything else becomes of the LU.
                record = changed(&mut changing) => {
                    changing = None;
                    held.record = record;
                }
                asked = unit.desk.next(), if changing.is_none() => {
                    changing = Some(self.change(unit, held, Some(asked)));
                }
                changed = self.wanted.changed(), if changing.is_none() => {
                    let wanted = self.current();
                    if changed.is_err() || wanted.gone || !wanted.here {
                        return End::LetGo;
                    }
                    self.resize_volatile(unit, &wanted.lu).await;
                }
                updated = updated(&mut updates) => {
                    self.resize(unit, updated);
                    ask = true;
                }
                _ = client.changed() => ask = true,
                _ = tick.tick() => {
                    ask = true;
                    // An administrator may have cleared the reservations.
                    changing = changing.or_else(|| Some(self.change(unit, held, None)));
                }
                owner = asked(&mut check) => {
                    check = None;
                    if !matches!(owner, Ok(true)) {
                        warn!(?owner, "not the lock's owner any more");
                        unit.lost(epoch, false);
                    }
                }
            }
            if ask
                && check.is_none()
                && let Some(image) = held.image.clone()
            {
                let (shared, lu) = (self.shared.clone(), self.wanted.borrow().lu.clone());
                check = Some(Box::pin(async move {
                    let turn = shared.turns.turn(&lu).await;
                    // A task of its own, for the same reason as a look's.
                    let asked = tokio::spawn(async move {
                        let _turn = turn;
                        image.is_lock_owner().await
                    });
                    asked.await.unwrap_or(Ok(false))
                }));
            }
        }
    }

    /// Carries `ask` out, or looks whether the reservations were changed from outside. Ends with the record as it is then.
    fn change(&self, unit: &Arc<Unit>, held: &Held, ask: Option<Ask>) -> Changing {
        let (unit, service) = (unit.clone(), self.shared.service.clone());
        let mut keeper = RecordKeeper {
            records: self.shared.records.clone(),
            record: held.record.clone(),
            holder: held.holder.clone(),
            known: to_kept(&unit.scsi.reservations()),
        };
        Box::pin(async move {
            match ask {
                Some(ask) => reserve::carry_out(&unit, &service, ask, &mut keeper).await,
                None => {
                    if let Some(other) = keeper.look().await {
                        reserve::adopt(&unit, other).await;
                        service.sessions.wake_all();
                    }
                }
            }
            keeper.record
        })
    }

    /// Lets it go in order.
    async fn release(&mut self, unit: &Arc<Unit>, held: Held, epoch: LuEpoch) {
        let Ok(backend) =
            tokio::time::timeout(self.shared.drain_timeout, unit.stop(AccessState::Standby)).await
        else {
            error!(gate = ?unit.gate, "commands do not end: not released; whoever takes it over fences us");
            self.dead = Some(held.client.addr);
            return;
        };
        drop(backend);
        let lu = self.current().lu;
        let _turn = self.shared.turns.turn(&lu).await;
        let owns = match &held.image {
            Some(image) => matches!(image.is_lock_owner().await, Ok(true)),
            None => true,
        };
        if unit.was_lost(epoch) || !owns {
            return self.lost(unit, held, epoch).await;
        }
        let released =
            self.shared.records.transition(&held.record.lu, |record| record.release(&held.holder)).await;
        if let Err(error) = &released {
            warn!(%error, "cannot note the release; whoever takes it over fences us");
            self.dead = Some(held.client.addr.clone());
        }
        if let Some(image) = held.image {
            if let Err(error) = image.lock_release().await {
                warn!(%error, "cannot release the lock");
            }
            close(image).await;
        }
        info!(epoch = epoch.0, "released");
    }

    /// It is not ours any more. What its client may still have in flight is fenced before it is tried again.
    async fn lost(&mut self, unit: &Arc<Unit>, held: Held, epoch: LuEpoch) {
        self.set(State::Opening);
        let noted = self.shared.records.transition(&held.record.lu, |record| record.lose(&held.holder)).await;
        if let Err(error) = noted {
            debug!(%error, "cannot note the loss");
        }
        self.dead = Some(held.client.addr.clone());
        match self.shared.clients.replace(&held.record.lu, &held.client.addr).await {
            Ok(()) => {}
            Err(error) => warn!(%error, "cannot replace the RADOS client yet"),
        }
        // What is inside ends now: the client is fenced. Until it has, the gate cannot be opened again.
        drop(unit.stop(AccessState::Transitioning).await);
        if let Some(image) = held.image {
            close(image).await;
        }
        warn!(epoch = epoch.0, "lost");
    }
}

/// Opens the image read-only and closes it again.
async fn look(
    control: Cluster,
    lu: Arc<Lu>,
    _turn: Option<OwnedSemaphorePermit>,
) -> lusd_ceph::Result<Geometry> {
    let Some(spec) = image_of(&lu) else { return Ok(Geometry::of_map(&lu)) };
    let pool = control.pool(spec.pool(), Some(spec.namespace())).await?;
    let image = Image::open(&pool, spec.image(), OpenMode::ReadOnly).await?;
    let geometry = Geometry::of_image(&image);
    image.close().await?;
    Ok(geometry)
}

/// Why serving ends.
enum End {
    LetGo,
    Lost,
}

type Check = Pin<Box<dyn Future<Output = lusd_ceph::Result<bool>> + Send>>;

/// The answer to a question under way; never, without one.
async fn asked(check: &mut Option<Check>) -> lusd_ceph::Result<bool> {
    match check {
        Some(check) => check.await,
        None => std::future::pending().await,
    }
}

/// A change of reservations under way; ends with the record.
type Changing = Pin<Box<dyn Future<Output = LuRecord> + Send>>;

/// The end of the change under way; never, without one.
async fn changed(changing: &mut Option<Changing>) -> LuRecord {
    match changing {
        Some(changing) => changing.await,
        None => std::future::pending().await,
    }
}

/// The next size that librbd tells; never, without an image.
async fn updated(updates: &mut Option<ImageUpdates>) -> u64 {
    if let Some(image) = updates
        && let Some(size) = image.next().await
    {
        return size;
    }
    *updates = None;
    std::future::pending().await
}

async fn until_not_wanted(wanted: &mut watch::Receiver<Wanted>) {
    // An error is the reconciler's end: as good as not wanted.
    let _ = wanted.wait_for(|wanted| wanted.gone || !wanted.here).await;
}

fn is_unwanted(wanted: &watch::Receiver<Wanted>) -> bool {
    let now = wanted.borrow();
    now.gone || !now.here || wanted.has_changed().is_err()
}

async fn close(image: Image) {
    match tokio::time::timeout(CLOSE_TIMEOUT, image.close()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "closing the image"),
        Err(_) => warn!("the image takes long to close"),
    }
}

/// The owners of many LUs do not all ask in the same moment.
fn first_check(lu: &LuId) -> Duration {
    const PARTS: u32 = 997;
    CHECK_INTERVAL / PARTS * (lu.0.as_u128() % u128::from(PARTS)) as u32
}

/// Who holds an LU for this daemon through `client`.
fn holder(me: &InstanceKey, client: &DataClient) -> Holder {
    Holder { daemon: me.id.clone(), up_from: me.up_from, addr: client.addr.clone() }
}
