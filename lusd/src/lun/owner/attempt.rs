//! One attempt at making an LU this daemon's: does what [`takeover`](crate::lun::takeover) says, step by step.

use lus_map::{ClientAddr, Holder, Lu, LuRecord};
use lus_map_store::{RecordWrite, StoreError};
use lusd_ceph::{Errno, Features, Image, MirrorState, OpenMode, Pool};
use tracing::{debug, info};

use super::{Shared, holder, image_of};
use crate::lun::clients::{ClientError, DataClient};
use crate::lun::fencer::FenceError;
use crate::lun::takeover::{Facts, ImageFacts, LockHolder, Obstacle, Standing, Step};

/// librbd's name of the exclusive lock on an image's header.
const RBD_LOCK: &str = "rbd_lock";
/// Steps of one attempt: the longest way has 14; more means that others change the record all the time.
const STEPS_MAX: usize = 64;

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
    facts: Facts,
    opened: Option<(Pool, Image)>,
}

/// Runs one attempt for `lu` through `client`. What it opened is closed when it fails.
pub(super) async fn run(shared: &Shared, lu: &Lu, client: &DataClient) -> Result<Held, Trouble> {
    let _turn = shared.turns.turn(lu).await;
    let facts = Facts::new(holder(&shared.me, client), image_of(lu).is_some());
    let mut attempt = Attempt { shared, lu, client, facts, opened: None };
    for _ in 0..STEPS_MAX {
        let step = attempt.facts.next();
        debug!(?step);
        if step == Step::Serve {
            return attempt.held();
        }
        attempt.take(step).await?;
    }
    Err(Trouble::Endless)
}

impl Attempt<'_> {
    fn held(self) -> Result<Held, Trouble> {
        let record = self.facts.record.flatten().ok_or(Trouble::Endless)?;
        let image = self.opened.map(|(_, image)| image);
        Ok(Held { record, holder: self.facts.me, client: self.client.clone(), image })
    }

    async fn take(&mut self, step: Step) -> Result<(), Trouble> {
        let shared = self.shared;
        match step {
            Step::ReadRecord => self.facts.record = Some(shared.records.read(&self.lu.id).await?),
            Step::CreateRecord => {
                self.facts.record = Some(Some(shared.records.read_or_create(&self.lu.id).await?));
            }
            Step::Fence(addr) => {
                // With an old map in hand we might fence who has every right to hold it.
                self.still_placed().await?;
                self.facts.note_fenced(shared.fencer.fence(&addr).await?);
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

    async fn still_placed(&self) -> Result<(), Trouble> {
        let map = self.shared.store.latest().await?;
        let me = &self.shared.me;
        let here = map.placement(&self.lu.id).is_some_and(|placement| placement.owner == me.id);
        if here && map.instance(&me.id, me.up_from).is_some() { Ok(()) } else { Err(Trouble::NotPlaced) }
    }

    async fn write(&mut self, next: LuRecord) -> Result<(), Trouble> {
        let Some(Some(current)) = &self.facts.record else { return Err(Trouble::Endless) };
        match self.shared.records.write(current, &next).await? {
            RecordWrite::Written => self.facts.record = Some(Some(next)),
            RecordWrite::Lost(found) => self.facts.record = Some(found),
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
        Ok(if abandoned { Standing::Abandoned } else { Standing::Foreign })
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
