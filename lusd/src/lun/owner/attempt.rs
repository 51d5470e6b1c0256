//! One attempt at making an LU this daemon's: does what [`takeover`](crate::lun::takeover) says, step by step.

use std::time::Duration;

use lus_map::change::fence;
use lus_map::record::{MOVE_PATIENCE, handover};
use lus_map::{ClientAddr, Handover, Holder, Lu, LuRecord, LuState, LusMap};
use lus_map_store::{RecordWrite, StoreError};
use lusd_ceph::{Errno, Features, Image, MirrorState, OpenMode, Pool};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{Shared, Wanted, close, holder, image_of, is_unwanted, until_not_wanted};
use crate::lun::clients::{ClientError, DataClient};
use crate::lun::fencer::FenceError;
use crate::lun::takeover::{Facts, ImageFacts, LockHolder, Obstacle, Standing, Step};

/// librbd's name of the exclusive lock on an image's header.
pub(super) const RBD_LOCK: &str = "rbd_lock";
/// Steps of one attempt: the longest way has 14; more means that others change the record all the time.
const STEPS_MAX: usize = 64;
/// How often the record of a holder that is about to let go is looked at: that is a part of the stall that hosts see.
const MOVING_POLL: Duration = Duration::from_millis(20);
/// The same while it has not begun to.
const SERVING_POLL: Duration = Duration::from_millis(50);
/// The same once it takes long.
const LATE_POLL: Duration = Duration::from_millis(250);
/// How long that is.
const LATE: Duration = Duration::from_secs(3);
/// How long a lock may be held by one that has released the LU. Then it is fenced.
const UNLOCK_PATIENCE: Duration = Duration::from_secs(1);
/// How often it is looked at.
const UNLOCK_POLL: Duration = Duration::from_millis(10);

/// Since when a holder that lives is waited for, over all attempts.
pub(super) type Waiting = Option<(Holder, Instant)>;

/// An LU that is ours.
pub(super) struct Held {
    /// The record that names us.
    pub(super) record: LuRecord,
    /// As whom it names us.
    pub(super) holder: Holder,
    /// Through this client.
    pub(super) client: DataClient,
    /// The image, its lock acquired and confirmed; none for a volatile LU.
    pub(super) image: Option<Image>,
    /// Where its header is.
    pub(super) pool: Option<Pool>,
}

/// Why an attempt ended without the LU.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// It may not be served as it is.
    #[error(transparent)]
    Obstacle(#[from] Obstacle),
    /// The newest map does not place it here.
    #[error("not placed here any more")]
    NotPlaced,
    /// There is a new client now.
    #[error("another RADOS client takes over")]
    ClientReplaced,
    /// Our client for images is on the blocklist.
    #[error("client for images: {0}")]
    ClientFenced(lusd_ceph::Error),
    /// The lock went to somebody else in between.
    #[error("the lock was taken by another client meanwhile")]
    LockTaken,
    /// The record changes all the time.
    #[error("no end after {STEPS_MAX} steps")]
    Endless,
    /// The image, or its pool.
    #[error(transparent)]
    Ceph(lusd_ceph::Error),
    /// The record, or the map.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The recorded holder cannot be fenced.
    #[error("cannot fence: {0}")]
    Fence(#[from] FenceError),
    /// The client cannot be replaced.
    #[error("cannot replace the RADOS client: {0}")]
    Client(#[from] ClientError),
}

impl From<lusd_ceph::Error> for Trouble {
    fn from(error: lusd_ceph::Error) -> Self {
        if error.is_fenced() { Self::ClientFenced(error) } else { Self::Ceph(error) }
    }
}

impl Trouble {
    /// Another client is needed.
    pub(super) fn is_of_client(&self) -> bool {
        matches!(
            self,
            Self::ClientFenced(_)
                | Self::Obstacle(Obstacle::Record(lus_map::RecordError::FencedClient { .. }))
        )
    }

    /// It goes away only when somebody acts.
    pub(super) fn needs_somebody(&self) -> bool {
        match self {
            Self::Obstacle(obstacle) => obstacle.needs_somebody(),
            Self::Ceph(error) => error.is_not_found() || error.is_permission_denied(),
            _ => false,
        }
    }

    /// The client's capabilities do not reach it.
    pub(super) fn is_forbidden(&self) -> bool {
        matches!(self, Self::Ceph(error) if error.is_permission_denied())
    }
}

/// Everything that one attempt touches.
struct Attempt<'a> {
    shared: &'a Shared,
    lu: &'a Lu,
    client: &'a DataClient,
    waiting: &'a mut Waiting,
    facts: Facts,
    opened: Option<(Pool, Image)>,
    /// Given back where another daemon is waited for.
    turn: Option<OwnedSemaphorePermit>,
}

/// Runs one attempt for `lu` through `client`, until `wanted` wants something else. What it opened is closed when it fails.
pub(super) async fn run(
    shared: &Shared,
    lu: &Lu,
    client: &DataClient,
    wanted: &mut watch::Receiver<Wanted>,
    waiting: &mut Waiting,
) -> Result<Held, Trouble> {
    let turn = tokio::select! {
        turn = shared.turns.turn(lu) => turn,
        () = until_not_wanted(wanted) => return Err(Trouble::NotPlaced),
    };
    let facts = Facts::new(holder(&shared.me, client), image_of(lu).is_some());
    let mut attempt = Attempt { shared, lu, client, waiting, facts, opened: None, turn };
    match attempt.steps(wanted).await {
        Ok(()) => attempt.held(),
        Err(trouble) => {
            // In order, where there is time for it: whoever is to have it next finds no lock.
            if let (Trouble::NotPlaced, Some((_, image))) = (&trouble, attempt.opened.take()) {
                close(image).await;
            }
            Err(trouble)
        }
    }
}

impl Attempt<'_> {
    async fn steps(&mut self, wanted: &mut watch::Receiver<Wanted>) -> Result<(), Trouble> {
        for _ in 0..STEPS_MAX {
            let step = self.facts.next();
            debug!(?step);
            if is_unwanted(wanted) {
                return Err(Trouble::NotPlaced);
            }
            if step == Step::Serve {
                return Ok(());
            }
            if step.may_be_left() {
                tokio::select! {
                    taken = self.take(step) => taken?,
                    () = until_not_wanted(wanted) => return Err(Trouble::NotPlaced),
                }
            } else {
                self.take(step).await?;
            }
        }
        Err(Trouble::Endless)
    }

    fn held(self) -> Result<Held, Trouble> {
        let record = self.facts.record.flatten().ok_or(Trouble::Endless)?;
        *self.waiting = None;
        let (pool, image) = self.opened.unzip();
        Ok(Held { record, holder: self.facts.me, client: self.client.clone(), image, pool })
    }

    async fn take(&mut self, step: Step) -> Result<(), Trouble> {
        let shared = self.shared;
        match step {
            Step::ReadRecord => self.facts.note_record(shared.records.read(&self.lu.id).await?),
            Step::CreateRecord => {
                self.facts.note_record(Some(shared.records.read_or_create(&self.lu.id).await?));
            }
            Step::AskMap => self.ask_map().await?,
            Step::AwaitRelease => self.await_release().await?,
            Step::Fence(addr) => {
                // With an old map in hand we might fence who has every right to hold it.
                let map = self.still_placed().await?;
                self.facts.note_fenced(shared.fencer.fence(&addr).await?);
                self.tell_of_fence(&map, addr);
            }
            Step::SeeOsdMap => {
                self.client.cluster.wait_for_latest_osdmap().await?;
                self.facts.osdmap_seen = true;
            }
            Step::Write(next) => self.write(next).await?,
            Step::Open => self.open().await?,
            Step::ListLockers => self.list_lockers().await?,
            Step::LookUp(addr) => {
                let standing = self.look_up(&addr).await?;
                self.facts.note_standing(standing);
            }
            Step::AwaitUnlock(locker) => self.await_unlock(&locker).await?,
            Step::Break(locker) => self.break_lock(&locker).await?,
            Step::Acquire => match self.image()?.1.lock_acquire().await {
                Ok(()) => self.facts.acquired = true,
                Err(error) if error.errno() == Errno::EROFS => return Err(Trouble::LockTaken),
                Err(error) => return Err(error.into()),
            },
            Step::Confirm => {
                if !self.image()?.1.is_lock_owner().await? {
                    return Err(Trouble::LockTaken);
                }
                self.facts.confirmed = true;
            }
            Step::Wait(obstacle) => return Err(obstacle.into()),
            Step::Serve => {}
        }
        Ok(())
    }

    fn image(&self) -> Result<&(Pool, Image), Trouble> {
        self.opened.as_ref().ok_or(Trouble::Endless)
    }

    /// The newest map, which still places the LU here.
    async fn still_placed(&self) -> Result<std::sync::Arc<LusMap>, Trouble> {
        let map = self.shared.store.latest().await?;
        let me = &self.shared.me;
        let here = map.placement(&self.lu.id).is_some_and(|placement| placement.owner == me.id);
        if here && map.instance(&me.id, me.up_from).is_some() { Ok(map) } else { Err(Trouble::NotPlaced) }
    }

    /// The leader notes the fences of what is down, and a daemon those of its own clients; any other is noted here, beside what goes on.
    fn tell_of_fence(&self, map: &LusMap, addr: ClientAddr) {
        let lu = self.lu.name();
        let holder = map.daemons().find(|daemon| daemon.unfenced().any(|known| *known == addr));
        let reason = match holder {
            Some(daemon) if !daemon.state.is_up() || daemon.id == self.shared.me.id => return,
            Some(daemon) => format!("of lus.{}, which is up and does not let go of {lu}", daemon.id),
            None if map.fenced_at(&addr).is_some() => return,
            None => format!("on no daemon's record, and held {lu}"),
        };
        let store = self.shared.store.clone();
        tokio::spawn(async move {
            if let Err(error) = store.update(|map, origin| fence::note(map, origin, &addr, &reason)).await {
                debug!(%error, client = %addr, "cannot note in the map's history that it is fenced");
            }
        });
    }

    fn record(&self) -> Result<&LuRecord, Trouble> {
        self.facts.record.as_ref().and_then(Option::as_ref).ok_or(Trouble::Endless)
    }

    /// Has the recorded holder to be waited for? With an old map in hand it might be one that is not known yet.
    async fn ask_map(&mut self) -> Result<(), Trouble> {
        let map = self.still_placed().await?;
        let record = self.record()?.clone();
        let Some(holder) = record.state.holder() else { return Err(Trouble::Endless) };
        let since = match &*self.waiting {
            Some((of, since)) if of == holder => *since,
            _ => {
                let now = Instant::now();
                *self.waiting = Some((holder.clone(), now));
                now
            }
        };
        let handover = handover(&record, &map, &self.facts.me, since.elapsed());
        let lives = matches!(handover, Handover::WaitForRelease { .. });
        if lives {
            debug!(%holder, "waiting for the holder to let go");
        } else {
            // It may have let go in the moment that it was given up.
            let found = self.shared.records.read(&self.lu.id).await?;
            if found.as_ref() != Some(&record) {
                self.facts.note_record(found);
                return Ok(());
            }
            let waited_ms = since.elapsed().as_millis() as u64;
            info!(%holder, waited_ms, "its holder is not waited for any longer: it is fenced");
        }
        self.facts.holder_lives = Some(lives);
        Ok(())
    }

    /// Returns when the record is another one, or when the map is to be asked about the holder again.
    async fn await_release(&mut self) -> Result<(), Trouble> {
        // Whoever opens beforehand and waits must not keep others from opening.
        self.turn = None;
        let known = self.record()?.clone();
        let Some((holder, since)) = self.waiting.clone() else { return Err(Trouble::Endless) };
        let moving = matches!(known.state, LuState::Moving { .. });
        loop {
            let waited = since.elapsed();
            tokio::time::sleep(match () {
                () if moving => MOVING_POLL,
                () if waited < LATE => SERVING_POLL,
                () => LATE_POLL,
            })
            .await;
            let found = self.shared.records.read(&self.lu.id).await?;
            if found.as_ref() != Some(&known) {
                self.facts.note_record(found);
                return Ok(());
            }
            let up = {
                let map = self.shared.maps.borrow();
                map.instance(&holder.daemon, holder.up_from).is_some_and(|daemon| daemon.state.is_up())
            };
            if !up || since.elapsed() >= MOVE_PATIENCE {
                self.facts.holder_lives = None;
                return Ok(());
            }
        }
    }

    /// Returns when another one, or nobody, has the lock, or the time for it is over.
    async fn await_unlock(&mut self, locker: &LockHolder) -> Result<(), Trouble> {
        let end = Instant::now() + UNLOCK_PATIENCE;
        while Instant::now() < end {
            tokio::time::sleep(UNLOCK_POLL).await;
            self.list_lockers().await?;
            if self.facts.lockers.as_ref().and_then(|lockers| lockers.first()) != Some(locker) {
                self.facts.note_broken();
                return Ok(());
            }
        }
        warn!(client = %locker.client, "released, and its lock is still held: its holder is fenced");
        self.facts.unlock_overdue = true;
        Ok(())
    }

    async fn write(&mut self, next: LuRecord) -> Result<(), Trouble> {
        let Some(Some(current)) = &self.facts.record else { return Err(Trouble::Endless) };
        match self.shared.records.write(current, &next).await? {
            RecordWrite::Written => self.facts.note_record(Some(next)),
            RecordWrite::Lost(found) => self.facts.note_record(found),
        }
        Ok(())
    }

    async fn open(&mut self) -> Result<(), Trouble> {
        let lus_map::Backend::Rbd { image: spec, image_id } = &self.lu.backend else {
            return Err(Trouble::Endless);
        };
        let pool = self.client.cluster.pool(spec.pool(), Some(spec.namespace())).await?;
        let image = Image::open(&pool, spec.image(), OpenMode::ReadWrite).await?;
        let (features, mirror) = tokio::join!(image.features(), image.mirror_state());
        self.facts.image = Some(ImageFacts {
            exclusive_lock: features?.contains(Features::EXCLUSIVE_LOCK),
            non_primary: mirror? == MirrorState::NonPrimary,
            same_image: image.id() == image_id,
        });
        self.opened = Some((pool, image));
        Ok(())
    }

    async fn list_lockers(&mut self) -> Result<(), Trouble> {
        let (pool, image) = self.image()?;
        let lockers = pool.list_lockers(&image.header_object(), RBD_LOCK).await?;
        let holder = |locker: lusd_ceph::Locker| LockHolder {
            client: locker.client,
            cookie: locker.cookie,
            addr: locker.addr.and_then(|addr| addr.to_string().parse().ok()),
        };
        self.facts.lockers = Some(lockers.into_iter().map(holder).collect());
        Ok(())
    }

    /// Who is `addr`? The map and the blocklist know.
    async fn look_up(&self, addr: &ClientAddr) -> Result<Standing, Trouble> {
        let map = self.shared.store.latest().await?;
        if map.fenced_at(addr).is_some() || self.shared.fencer.is_fenced_for_good(addr).await? {
            return Ok(Standing::FencedForGood);
        }
        let abandoned = map.daemons().any(|daemon| {
            daemon.to_fence.contains(addr)
                || (!daemon.state.is_up() && daemon.unfenced().any(|known| known == addr))
        });
        let leaving = map.daemons().any(|daemon| daemon.state.is_up() && daemon.data_addrs.contains(addr));
        Ok(match () {
            () if abandoned => Standing::Abandoned,
            () if leaving => Standing::Leaving,
            () => Standing::Foreign,
        })
    }

    async fn break_lock(&mut self, locker: &LockHolder) -> Result<(), Trouble> {
        let (pool, image) = self.image()?;
        let header = image.header_object();
        match pool.break_lock(&header, RBD_LOCK, &locker.client, &locker.cookie).await {
            Ok(()) => info!(client = %locker.client, "the lock of a fenced client is broken"),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        self.facts.note_broken();
        Ok(())
    }
}
