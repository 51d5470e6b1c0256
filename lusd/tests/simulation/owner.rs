//! The task of one LU, as `lusd::lun::owner`: makes it this daemon's while the map places it here, serves it, lets it go.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use lus_map::{ClientAddr, DaemonId, Lu};
use lusd::lun::backend::Backend;
use lusd::lun::describe::{self, Geometry};
use lusd::lun::gate::LuEpoch;
use lusd::lun::unit::Unit;
use lusd_scsi::AccessState;
use tokio::sync::watch;
use tokio::time::{Instant, interval_at, timeout};

use crate::attempt::{self, Held, Trouble, Waiting};
use crate::clients::addr_of;
use crate::daemon::Daemon;
use crate::handover::Over;
use crate::image::Image;
use crate::rados::{Client, Reply};
use crate::rules::Rule;
use crate::target::Offered;

pub(crate) const CHECK_INTERVAL: Duration = Duration::from_secs(10);
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(5);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// `lus_drain_timeout`.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// What the map wants of an LU.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) here: bool,
    pub(crate) elsewhere: Option<DaemonId>,
    pub(crate) gone: bool,
}

/// What has become of an LU here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Idle,
    Opening,
    Serving,
    Ended,
}

pub(crate) async fn close(image: Arc<Image>) {
    let _ = timeout(CLOSE_TIMEOUT, image.close()).await;
}

pub(crate) struct Task {
    pub(crate) daemon: Arc<Daemon>,
    pub(crate) lu: usize,
    pub(crate) wanted: watch::Receiver<Wanted>,
    pub(crate) offered: Arc<Offered>,
    state: watch::Sender<State>,
    dead: Option<ClientAddr>,
    waiting: Waiting,
    claimed: bool,
}

enum End {
    LetGo,
    Lost,
}

type Check = Pin<Box<dyn Future<Output = Reply<bool>> + Send>>;

async fn asked(check: &mut Option<Check>) -> Reply<bool> {
    match check {
        Some(check) => check.await,
        None => std::future::pending().await,
    }
}

/// The unit of an LU, as hosts see it through a daemon.
pub(crate) fn offer(lu: usize, entry: &Lu, shards: usize) -> Arc<Offered> {
    let geometry = Geometry { size: 1 << 30, object_size: 4 << 20, data_pool: None };
    let scsi = describe::logical_unit(entry, geometry, 0, AccessState::Standby).expect("a describable unit");
    Arc::new(Offered::new(lu, Unit::new(entry.id, entry.name().to_string(), scsi, shards)))
}

impl Task {
    pub(crate) fn new(
        daemon: Arc<Daemon>,
        offered: Arc<Offered>,
        wanted: watch::Receiver<Wanted>,
        state: watch::Sender<State>,
    ) -> Self {
        let lu = offered.lu;
        Self { daemon, lu, wanted, offered, state, dead: None, waiting: None, claimed: false }
    }

    pub(crate) async fn run(mut self) {
        let mut client = self.daemon.clients.of(&self.offered.unit.id);
        let mut pause = RETRY_MIN;
        loop {
            let wanted = self.current();
            if wanted.gone || !wanted.here {
                self.disclaim(&client).await;
            }
            if wanted.gone {
                self.state.send_replace(State::Ended);
                return;
            }
            if !wanted.here {
                self.waiting = None;
                self.state.send_replace(State::Idle);
                self.offered.unit.scsi.set_access(AccessState::Standby);
                let _ = self.wanted.changed().await;
                continue;
            }
            self.state.send_replace(State::Opening);
            self.offered.unit.scsi.set_access(AccessState::Transitioning);
            let current = client.borrow_and_update().clone();
            match self.try_hold(&current).await {
                Ok(held) => {
                    pause = RETRY_MIN;
                    self.serve(held, &mut client).await;
                }
                Err(trouble) => {
                    self.daemon.note(|| format!("lu{}: {trouble:?}", self.lu));
                    let wait = if trouble.needs_somebody() { RETRY_MAX } else { pause };
                    pause = (pause * 2).min(RETRY_MAX);
                    let _ = timeout(wait, self.wanted.changed()).await;
                }
            }
        }
    }

    pub(crate) fn current(&mut self) -> Wanted {
        let orphaned = self.wanted.has_changed().is_err();
        let mut wanted = self.wanted.borrow_and_update().clone();
        wanted.gone |= orphaned;
        wanted
    }

    async fn try_hold(&mut self, client: &Client) -> Result<Held, Trouble> {
        let id = self.offered.unit.id;
        let addr = addr_of(client);
        if self.dead.as_ref() == Some(&addr) {
            self.daemon.clients.replace(&id, &addr).await.map_err(Trouble::Client)?;
            return Err(Trouble::ClientReplaced);
        }
        let held = attempt::run(&self.daemon, self.lu, client, &mut self.wanted, &mut self.waiting).await;
        self.claimed = held.is_err();
        if let Err(trouble) = &held
            && trouble.is_of_client()
        {
            self.daemon.clients.replace(&id, &addr).await.map_err(Trouble::Client)?;
        }
        held
    }

    async fn disclaim(&mut self, client: &watch::Receiver<Client>) {
        if !std::mem::take(&mut self.claimed) {
            return;
        }
        let id = self.offered.unit.id;
        let me = self.daemon.holder(&client.borrow());
        let Ok(Some(record)) = self.daemon.records.read(&id).await else { return };
        if record.state.holder() == Some(&me) {
            let _ = self.daemon.records.transition(&id, |record| record.release(&me)).await;
        }
    }

    async fn serve(&mut self, mut held: Held, client: &mut watch::Receiver<Client>) {
        let epoch = LuEpoch(held.record.lu_epoch.0);
        let unit = self.offered.unit.clone();
        if unit.gate.epoch() >= epoch {
            // The gate would end the daemon: it comes to this only with a rule left out.
            self.daemon.sim.note(|| format!("lu{}: e{} again", self.lu, epoch.0));
            return close(held.image).await;
        }
        self.offered.put(Some(held.image.clone()));
        self.daemon.oracle.serves_through(held.holder.addr.as_str(), &unit);
        unit.serve(epoch, Arc::new(Backend::Null));
        self.state.send_replace(State::Serving);
        self.daemon.note(|| format!("lu{}: serving in e{}", self.lu, epoch.0));
        loop {
            if let End::Lost = self.watch_over(&held, epoch, client).await {
                return self.lost(held, epoch).await;
            }
            let wanted = self.current();
            let Some(to) = wanted.elsewhere.filter(|_| !wanted.gone) else {
                return self.release(held, epoch).await;
            };
            match self.hand_over(&mut held, epoch, &to).await {
                Over::Gone => return,
                Over::Stays => {}
                Over::Lost => return self.lost(held, epoch).await,
            }
        }
    }

    async fn watch_over(&mut self, held: &Held, epoch: LuEpoch, client: &mut watch::Receiver<Client>) -> End {
        let unit = self.offered.unit.clone();
        let asks = !self.daemon.sim.breaks(Rule::OwnershipAsked);
        let first = CHECK_INTERVAL / 7 * (1 + self.lu as u32 % 7);
        let mut tick = interval_at(Instant::now() + first, CHECK_INTERVAL);
        let mut check: Option<Check> = None;
        loop {
            let mut ask = false;
            tokio::select! {
                biased;
                () = unit.until_lost() => {
                    if unit.was_lost(epoch) {
                        return End::Lost;
                    }
                }
                changed = self.wanted.changed() => {
                    let wanted = self.current();
                    if changed.is_err() || wanted.gone || !wanted.here {
                        return End::LetGo;
                    }
                }
                () = held.image.updates.notified() => ask = true,
                _ = client.changed() => ask = true,
                _ = tick.tick() => ask = true,
                owner = asked(&mut check) => {
                    check = None;
                    if !matches!(owner, Ok(true)) {
                        self.daemon.note(|| format!("lu{}: owner? {owner:?}", self.lu));
                        unit.lost(epoch, false);
                    }
                }
            }
            if ask && asks && check.is_none() {
                let (daemon, image) = (self.daemon.clone(), held.image.clone());
                check = Some(Box::pin(async move {
                    let _turn = daemon.turn().await;
                    image.is_lock_owner().await
                }));
            }
        }
    }

    async fn release(&mut self, held: Held, epoch: LuEpoch) {
        let unit = self.offered.unit.clone();
        self.daemon.at(self.lu, "release:stop").await;
        if timeout(DRAIN_TIMEOUT, unit.stop(AccessState::Standby)).await.is_err() {
            self.dead = Some(held.holder.addr);
            return;
        }
        self.offered.put(None);
        let _turn = self.daemon.turn().await;
        let owns = matches!(held.image.is_lock_owner().await, Ok(true));
        if unit.was_lost(epoch) || !owns {
            return self.lost(held, epoch).await;
        }
        self.daemon.at(self.lu, "release:record").await;
        let released =
            self.daemon.records.transition(&held.record.lu, |record| record.release(&held.holder)).await;
        if released.is_err() {
            self.dead = Some(held.holder.addr.clone());
        }
        self.daemon.at(self.lu, "release:unlock").await;
        let _ = held.image.lock_release().await;
        close(held.image).await;
    }

    async fn lost(&mut self, held: Held, epoch: LuEpoch) {
        self.state.send_replace(State::Opening);
        self.daemon.note(|| format!("lu{}: lost in e{}", self.lu, epoch.0));
        self.daemon.at(self.lu, "lost").await;
        let _ = self.daemon.records.transition(&held.record.lu, |record| record.lose(&held.holder)).await;
        self.dead = Some(held.holder.addr.clone());
        self.daemon.at(self.lu, "lost:replace").await;
        let _ = self.daemon.clients.replace(&held.record.lu, &held.holder.addr).await;
        drop(self.offered.unit.stop(AccessState::Transitioning).await);
        self.offered.put(None);
        close(held.image).await;
    }
}
