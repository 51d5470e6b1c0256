//! One attempt at making an LU this daemon's: the steps of `lusd::lun::takeover`, done as in `lusd::lun::owner::attempt`.

use std::sync::Arc;
use std::time::Duration;

use lus_map::record::{MOVE_PATIENCE, handover};
use lus_map::{ClientAddr, Fenced, Handover, Holder, LuRecord, LuState, LusMap};
use lus_map_store::{RecordWrite, StoreError};
use lusd::lun::fencer::FenceError;
use lusd::lun::takeover::{Facts, ImageFacts, LockHolder, Obstacle, Standing, Step};
use lusd_ceph::Errno;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep};

use crate::clients::{ReplaceError, addr_of};
use crate::daemon::Daemon;
use crate::image::{Image, Locker};
use crate::owner::Wanted;
use crate::rados::Client;
use crate::rules::Rule;

const STEPS_MAX: usize = 64;
const MOVING_POLL: Duration = Duration::from_millis(20);
const SERVING_POLL: Duration = Duration::from_millis(50);
const LATE_POLL: Duration = Duration::from_millis(250);
const LATE: Duration = Duration::from_secs(3);
const UNLOCK_PATIENCE: Duration = Duration::from_secs(1);
const UNLOCK_POLL: Duration = Duration::from_millis(10);

/// Since when a holder that lives is waited for, over all attempts.
pub(crate) type Waiting = Option<(Holder, Instant)>;

/// An LU that is ours.
pub(crate) struct Held {
    pub(crate) record: LuRecord,
    pub(crate) holder: Holder,
    pub(crate) image: Arc<Image>,
}

/// Why an attempt ended without the LU.
#[derive(Debug)]
#[expect(dead_code, reason = "for the trace")]
pub(crate) enum Trouble {
    Obstacle(Obstacle),
    NotPlaced,
    ClientReplaced,
    ClientFenced,
    LockTaken,
    Endless,
    Ceph(Errno),
    Store(StoreError),
    Fence(FenceError),
    Client(ReplaceError),
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Self {
        if errno.is_fenced() { Self::ClientFenced } else { Self::Ceph(errno) }
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<FenceError> for Trouble {
    fn from(error: FenceError) -> Self {
        Self::Fence(error)
    }
}

impl Trouble {
    pub(crate) fn is_of_client(&self) -> bool {
        matches!(
            self,
            Self::ClientFenced | Self::Obstacle(Obstacle::Record(lus_map::RecordError::FencedClient { .. }))
        )
    }

    pub(crate) fn needs_somebody(&self) -> bool {
        matches!(self, Self::Obstacle(obstacle) if obstacle.needs_somebody())
    }
}

/// The name of a step, to crash at.
pub(crate) fn name_of(step: &Step) -> &'static str {
    match step {
        Step::ReadRecord => "ReadRecord",
        Step::CreateRecord => "CreateRecord",
        Step::AskMap => "AskMap",
        Step::AwaitRelease => "AwaitRelease",
        Step::Fence(_) => "Fence",
        Step::SeeOsdMap => "SeeOsdMap",
        Step::Write(_) => "Write",
        Step::Open => "Open",
        Step::ListLockers => "ListLockers",
        Step::LookUp(_) => "LookUp",
        Step::AwaitUnlock(_) => "AwaitUnlock",
        Step::Break(_) => "Break",
        Step::Acquire => "Acquire",
        Step::Confirm => "Confirm",
        Step::Serve => "Serve",
        Step::Wait(_) => "Wait",
    }
}

pub(crate) fn is_unwanted(wanted: &watch::Receiver<Wanted>) -> bool {
    let now = wanted.borrow();
    now.gone || !now.here || wanted.has_changed().is_err()
}

async fn until_not_wanted(wanted: &mut watch::Receiver<Wanted>) {
    let _ = wanted.wait_for(|wanted| wanted.gone || !wanted.here).await;
}

struct Attempt<'a> {
    daemon: &'a Arc<Daemon>,
    lu: usize,
    client: &'a Client,
    waiting: &'a mut Waiting,
    facts: Facts,
    image: Option<Arc<Image>>,
    turn: Option<OwnedSemaphorePermit>,
}

/// Runs one attempt for `lu` through `client`, until `wanted` wants something else.
pub(crate) async fn run(
    daemon: &Arc<Daemon>,
    lu: usize,
    client: &Client,
    wanted: &mut watch::Receiver<Wanted>,
    waiting: &mut Waiting,
) -> Result<Held, Trouble> {
    let turn = tokio::select! {
        biased;
        turn = daemon.turn() => turn,
        () = until_not_wanted(wanted) => return Err(Trouble::NotPlaced),
    };
    let facts = Facts::new(daemon.holder(client), true);
    let mut attempt = Attempt { daemon, lu, client, waiting, facts, image: None, turn };
    match attempt.steps(wanted).await {
        Ok(()) => attempt.held(),
        Err(trouble) => {
            if let Some(image) = attempt.image.take() {
                match trouble {
                    Trouble::NotPlaced => crate::owner::close(image).await,
                    // Whoever drops a handle has it closed by and by.
                    _ => drop(daemon.process.spawn(image.close())),
                }
            }
            Err(trouble)
        }
    }
}

impl Attempt<'_> {
    async fn steps(&mut self, wanted: &mut watch::Receiver<Wanted>) -> Result<(), Trouble> {
        for _ in 0..STEPS_MAX {
            let step = self.facts.next();
            if is_unwanted(wanted) {
                return Err(Trouble::NotPlaced);
            }
            self.daemon.at(self.lu, name_of(&step)).await;
            if step == Step::Serve {
                return Ok(());
            }
            if step.may_be_left() {
                tokio::select! {
                    biased;
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
        let image = self.image.ok_or(Trouble::Endless)?;
        Ok(Held { record, holder: self.facts.me, image })
    }

    fn breaks(&self, rule: Rule) -> bool {
        self.daemon.sim.breaks(rule)
    }

    async fn take(&mut self, step: Step) -> Result<(), Trouble> {
        let id = crate::world::lu_id(self.lu);
        match step {
            Step::ReadRecord => self.facts.note_record(self.daemon.records.read(&id).await?),
            Step::CreateRecord => {
                self.facts.note_record(Some(self.daemon.records.read_or_create(&id).await?))
            }
            Step::AskMap => self.ask_map().await?,
            Step::AwaitRelease => self.await_release().await?,
            Step::Fence(addr) => {
                self.still_placed().await?;
                let fenced = self.fence(&addr).await?;
                self.facts.note_fenced(fenced);
            }
            Step::SeeOsdMap => {
                if !self.breaks(Rule::MapAwaited) {
                    self.client.wait_for_latest_osdmap().await;
                }
                self.facts.osdmap_seen = true;
            }
            Step::Write(next) => self.write(next).await?,
            Step::Open => self.open().await?,
            Step::ListLockers => self.list_lockers().await?,
            Step::LookUp(addr) => {
                let mut standing = self.look_up(&addr).await?;
                if standing == Standing::Leaving && self.breaks(Rule::FenceTheLeaving) {
                    standing = Standing::FencedForGood;
                }
                if standing == Standing::Foreign && self.breaks(Rule::ForeignLeftAlone) {
                    standing = Standing::Abandoned;
                }
                self.facts.note_standing(standing);
            }
            Step::AwaitUnlock(locker) => self.await_unlock(&locker).await?,
            Step::Break(locker) => self.break_lock(&locker).await?,
            Step::Acquire => match self.image()?.lock_acquire().await {
                Ok(()) => self.facts.acquired = true,
                Err(Errno::EROFS) => return Err(Trouble::LockTaken),
                Err(error) => return Err(error.into()),
            },
            Step::Confirm => {
                if !self.breaks(Rule::OwnershipAsked) && !self.image()?.is_lock_owner().await? {
                    return Err(Trouble::LockTaken);
                }
                self.facts.confirmed = true;
            }
            Step::Wait(obstacle) => return Err(Trouble::Obstacle(obstacle)),
            Step::Serve => {}
        }
        Ok(())
    }

    /// Fences the client on record, but for the rules that are left out.
    async fn fence(&mut self, addr: &ClientAddr) -> Result<Fenced, Trouble> {
        let not_really = Fenced { addr: addr.clone(), osd_epoch: 1 };
        let looks = [Rule::FenceThoughFree, Rule::FenceTheRecorded, Rule::FenceFirst];
        if looks.into_iter().any(|rule| self.breaks(rule)) {
            if self.image.is_none() {
                self.open().await?;
            }
            let holder = self.image()?.list_lockers().await?;
            match holder {
                None if self.breaks(Rule::FenceThoughFree) => return Ok(not_really),
                Some(holder) if self.breaks(Rule::FenceTheRecorded) && holder.addr != *self.client.addr => {
                    let now = holder.addr.parse().map_err(|_| Trouble::Endless)?;
                    self.daemon.fencer.fence(&now).await?;
                    let _ = self.image()?.break_lock(&holder).await;
                    return Ok(not_really);
                }
                Some(holder) if self.breaks(Rule::FenceFirst) && holder.addr == addr.as_str() => {
                    let _ = self.image()?.break_lock(&holder).await;
                }
                _ => {}
            }
        }
        Ok(self.daemon.fencer.fence(addr).await?)
    }

    fn image(&self) -> Result<&Arc<Image>, Trouble> {
        self.image.as_ref().ok_or(Trouble::Endless)
    }

    /// The newest map, which still places the LU here.
    async fn still_placed(&self) -> Result<Arc<LusMap>, Trouble> {
        let map = self.daemon.store.latest().await?;
        let me = &self.daemon.me;
        let placement = map.placement(&crate::world::lu_id(self.lu));
        let here = placement.is_some_and(|placement| placement.owner == me.id);
        if here && map.instance(&me.id, me.up_from).is_some() { Ok(map) } else { Err(Trouble::NotPlaced) }
    }

    fn record(&self) -> Result<&LuRecord, Trouble> {
        self.facts.record.as_ref().and_then(Option::as_ref).ok_or(Trouble::Endless)
    }

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
        let mut lives = matches!(handover, Handover::WaitForRelease { .. });
        lives &= !self.breaks(Rule::FenceTheRecorded);
        if !lives {
            let found = self.daemon.records.read(&crate::world::lu_id(self.lu)).await?;
            if found.as_ref() != Some(&record) {
                self.facts.note_record(found);
                return Ok(());
            }
        }
        self.facts.holder_lives = Some(lives);
        Ok(())
    }

    async fn await_release(&mut self) -> Result<(), Trouble> {
        self.turn = None;
        let known = self.record()?.clone();
        let Some((holder, since)) = self.waiting.clone() else { return Err(Trouble::Endless) };
        let moving = matches!(known.state, LuState::Moving { .. });
        loop {
            let waited = since.elapsed();
            sleep(match () {
                () if moving => MOVING_POLL,
                () if waited < LATE => SERVING_POLL,
                () => LATE_POLL,
            })
            .await;
            let found = self.daemon.records.read(&crate::world::lu_id(self.lu)).await?;
            if found.as_ref() != Some(&known) {
                self.facts.note_record(found);
                return Ok(());
            }
            let up = {
                let map = self.daemon.maps.borrow();
                map.instance(&holder.daemon, holder.up_from).is_some_and(|daemon| daemon.state.is_up())
            };
            if !up || since.elapsed() >= MOVE_PATIENCE {
                self.facts.holder_lives = None;
                return Ok(());
            }
        }
    }

    async fn await_unlock(&mut self, locker: &LockHolder) -> Result<(), Trouble> {
        let end = Instant::now() + UNLOCK_PATIENCE;
        while Instant::now() < end {
            sleep(UNLOCK_POLL).await;
            self.list_lockers().await?;
            if self.facts.lockers.as_ref().and_then(|lockers| lockers.first()) != Some(locker) {
                self.facts.note_broken();
                return Ok(());
            }
        }
        self.facts.unlock_overdue = true;
        Ok(())
    }

    async fn write(&mut self, mut next: LuRecord) -> Result<(), Trouble> {
        let Some(Some(current)) = &self.facts.record else { return Err(Trouble::Endless) };
        if self.breaks(Rule::EpochRaised) && current.state.holder().is_some() {
            next.lu_epoch = current.lu_epoch;
        }
        match self.daemon.records.write(current, &next).await? {
            RecordWrite::Written => self.facts.note_record(Some(next)),
            RecordWrite::Lost(found) => self.facts.note_record(found),
        }
        Ok(())
    }

    async fn open(&mut self) -> Result<(), Trouble> {
        let image = Image::open(self.client, &self.daemon.oracle, self.lu).await?;
        self.facts.image = Some(ImageFacts { exclusive_lock: true, non_primary: false, same_image: true });
        self.image = Some(image);
        Ok(())
    }

    async fn list_lockers(&mut self) -> Result<(), Trouble> {
        let locker = self.image()?.list_lockers().await?;
        let holder = |locker: Locker| LockHolder {
            client: locker.client,
            cookie: locker.cookie,
            addr: locker.addr.parse().ok(),
        };
        self.facts.lockers = Some(locker.map(holder).into_iter().collect());
        Ok(())
    }

    async fn look_up(&self, addr: &ClientAddr) -> Result<Standing, Trouble> {
        let map = self.daemon.store.latest().await?;
        if map.fenced_at(addr).is_some() || self.daemon.fencer.is_fenced_for_good(addr).await {
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
        let Some(addr) = &locker.addr else { return Err(Trouble::Endless) };
        let found =
            Locker { client: locker.client.clone(), cookie: locker.cookie.clone(), addr: addr.to_string() };
        match self.image()?.break_lock(&found).await {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
        self.facts.note_broken();
        Ok(())
    }
}

impl Daemon {
    pub(crate) fn holder(&self, client: &Client) -> Holder {
        Holder { daemon: self.me.id.clone(), up_from: self.me.up_from, addr: addr_of(client) }
    }
}
