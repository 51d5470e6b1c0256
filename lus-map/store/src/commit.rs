//! Changes of the map: one operation each, compared on the epoch.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lus_map::increment::INCREMENT_BYTES_MAX;
use lus_map::{
    Change, Corrupt, EPOCH_XATTR, Epoch, INCREMENTS_KEPT, Increment, LEASE_XATTR, Lease, LusMap, MAP_OBJECT,
    Origin, Refusal, change, increment_key,
};
use lusd_ceph::Error;
use tokio::task::JoinHandle;

use crate::error::StoreError;
use crate::objects::{Read, Write};
use crate::store::{MapStore, epoch_of};

/// How often a change is sent again while nothing is known of it. Each attempt has RADOS's own timeout, if one is set.
const COMMIT_ATTEMPTS: u32 = 5;
/// How often an intent is asked again because another change came first. Each time somebody else got on.
const UPDATE_ATTEMPTS: u32 = 64;
/// How long the pause before another attempt is at most.
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// How long a notify waits for the watchers: the shortest time that RADOS knows (it counts in whole seconds).
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(1);

/// What became of a change.
#[derive(Debug)]
pub enum Commit {
    /// It is made.
    Committed(Committed),
    /// Another change made that epoch: read again.
    Lost,
}

/// A change that is made.
#[derive(Debug)]
pub struct Committed {
    /// The map that it made. A later one may be there by now.
    pub map: Arc<LusMap>,
    /// The notify to the watchers, under way.
    pub notified: Notified,
}

/// A notify to the watchers, under way. Dropped, it goes on without anyone waiting for it; a program that is about to
/// end waits, or the watchers learn of the change by their poll only.
#[derive(Debug)]
pub struct Notified(JoinHandle<Result<NotifyOutcome, Error>>);

/// What a notify brought back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NotifyOutcome {
    /// The epochs that the watchers acknowledged with.
    pub acked: Vec<Epoch>,
    /// Watchers that did not acknowledge in time, or with no epoch.
    pub missing: usize,
}

impl Notified {
    /// Waits for the watchers' acknowledgements, for little more than a second at most.
    ///
    /// # Errors
    /// [`StoreError::Ceph`]: the notify was not sent. The change is made all the same.
    pub async fn finished(self) -> Result<NotifyOutcome, StoreError> {
        match self.0.await {
            Ok(outcome) => Ok(outcome?),
            // The runtime is being shut down.
            Err(_) => Err(Error::Shutdown { op: "notify" }.into()),
        }
    }
}

/// What became of an intent.
#[derive(Debug)]
pub struct Updated {
    /// The map in which it is so.
    pub map: Arc<LusMap>,
    /// What to tell the user.
    pub said: String,
    /// The notify to the watchers; none if nothing had to change.
    pub notified: Option<Notified>,
}

impl Updated {
    /// Whether there was something to change.
    pub fn changed(&self) -> bool {
        self.notified.is_some()
    }

    /// Waits for the watchers, see [`Notified::finished`], and logs where that fails: the change is made in any case.
    pub async fn wait_for_watchers(self) -> NotifyOutcome {
        let Some(notified) = self.notified else { return NotifyOutcome::default() };
        notified.finished().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot notify the watchers of the map; they will see the change when they poll");
            NotifyOutcome::default()
        })
    }
}

/// The lease of a leadership that is being taken.
pub(crate) struct LeaseChange {
    /// What it must be; none: nothing is compared, nobody ever led.
    pub(crate) stale: Option<Lease>,
    /// What it becomes.
    pub(crate) first: Lease,
}

/// What the object says of a change whose result is not known.
enum Look {
    Ours,
    Others,
    NotThere,
}

impl MapStore {
    /// Creates the map of this cluster: epoch 1.
    ///
    /// # Errors
    /// [`StoreError::MapExists`], [`StoreError::Unknown`], [`StoreError::Ceph`].
    pub async fn create(&self) -> Result<Arc<LusMap>, StoreError> {
        let increment = change::create(self.fsid()?, &self.origin());
        let map = Arc::new(LusMap::create(&increment)?);
        let write = Write { create: true, ..write_of(&increment) };
        for attempt in 0..COMMIT_ATTEMPTS {
            match self.inner.objects.write(MAP_OBJECT, write.clone()).await {
                Ok(()) => return Ok(self.keep(map)),
                Err(error) if error.is_exists() && attempt == 0 => return Err(StoreError::MapExists),
                Err(error) if error.is_exists() => {}
                Err(error) if !error.is_unknown_outcome() => return Err(error.into()),
                Err(_) => pause(attempt).await,
            }
            match self.look(&increment).await {
                Ok(Look::Ours) => return Ok(self.keep(map)),
                Ok(Look::Others) => return Err(StoreError::MapExists),
                Ok(Look::NotThere) | Err(StoreError::NoMap) => {}
                Err(error) => return Err(error),
            }
        }
        Err(unknown("no answer from RADOS"))
    }

    /// The latest map; where there is none, creates it.
    ///
    /// # Errors
    /// As [`latest`](Self::latest) and [`create`](Self::create).
    pub async fn latest_or_create(&self) -> Result<Arc<LusMap>, StoreError> {
        match self.latest().await {
            Err(StoreError::NoMap) => match self.create().await {
                Err(StoreError::MapExists) => self.latest().await,
                created => created,
            },
            latest => latest,
        }
    }

    /// Makes the epoch that `increment` says, of `map`, unless another change made it.
    ///
    /// # Errors
    /// [`StoreError::Apply`] and [`StoreError::Refused`] for an increment that does not belong on `map` or must not be made
    /// by this program, [`StoreError::Broken`], [`StoreError::Unknown`], [`StoreError::Ceph`].
    pub async fn commit(&self, map: &LusMap, increment: &Increment) -> Result<Commit, StoreError> {
        self.commit_with(map, increment, None).await
    }

    /// As [`commit`](Self::commit); the same operation changes the lease of the leader, if it is what is said.
    pub(crate) async fn commit_with(
        &self,
        map: &LusMap,
        increment: &Increment,
        lease: Option<&LeaseChange>,
    ) -> Result<Commit, StoreError> {
        change::writable(map, increment)?;
        let next = map.apply(increment)?;
        breaks_nothing(map, &next)?;
        let mut write = write_of(increment);
        let size: usize = write.set_omap.iter().map(|(key, raw)| key.len() + raw.len()).sum();
        if size > INCREMENT_BYTES_MAX {
            let limit = INCREMENT_BYTES_MAX;
            return Err(Refusal::TooMany { what: "bytes changed in one step", limit }.into());
        }
        write.compare.push((EPOCH_XATTR, epoch_value(map.epoch())));
        if let Some(lease) = lease {
            write.compare.extend(lease.stale.map(|stale| (LEASE_XATTR, lease_value(stale))));
            write.set_xattrs.push((LEASE_XATTR, lease_value(lease.first)));
        }
        for attempt in 0..COMMIT_ATTEMPTS {
            let mut mismatch = false;
            match self.inner.objects.write(MAP_OBJECT, write.clone()).await {
                Ok(()) => return Ok(self.committed(next)),
                Err(error) if error.is_not_found() => return Err(StoreError::NoMap),
                // The epoch is another one: somebody else's, or our own, if an attempt without an answer got there.
                Err(error) if error.is_compare_mismatch() => mismatch = true,
                Err(error) if !error.is_unknown_outcome() => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(%error, epoch = increment.epoch.0, "no answer to a change of the map; looking");
                    pause(attempt).await;
                }
            }
            match self.look(increment).await {
                Ok(Look::Ours) => return Ok(self.committed(next)),
                Ok(Look::Others) => return Ok(Commit::Lost),
                // It is the lease that was another one. It does not come back, so no late attempt can get there.
                Ok(Look::NotThere) if mismatch && lease.is_some() => return Ok(Commit::Lost),
                // What was sent may still arrive. The same change again is harmless: one of the two fails on the epoch.
                Ok(Look::NotThere) => {}
                Err(StoreError::Ceph(error)) if error.is_unknown_outcome() => {}
                Err(error) => return Err(error),
            }
        }
        Err(unknown("no answer from RADOS"))
    }

    fn committed(&self, next: LusMap) -> Commit {
        let map = self.keep(Arc::new(next));
        let notified = self.notify(map.epoch());
        Commit::Committed(Committed { map, notified })
    }

    /// Whether the increment is in the object, another one of the same epoch is, or none.
    async fn look(&self, increment: &Increment) -> Result<Look, StoreError> {
        let key = increment.omap_key();
        let read = Read { xattrs: true, keys: vec![key.clone()], ..Read::default() };
        let reply = self.inner.objects.read(MAP_OBJECT, read).await.map_err(|error| {
            if error.is_not_found() { StoreError::NoMap } else { StoreError::Ceph(error) }
        })?;
        match reply.omap.get(&key) {
            Some(raw) if raw[..] == increment.encode()[..] => Ok(Look::Ours),
            Some(_) => Ok(Look::Others),
            None if epoch_of(&reply)? < increment.epoch => Ok(Look::NotThere),
            None if epoch_of(&reply)?.0 - increment.epoch.0 >= INCREMENTS_KEPT => {
                Err(unknown("its increment would no longer be kept"))
            }
            None => Err(Corrupt::IncrementGap { key, epoch: epoch_of(&reply)? }.into()),
        }
    }

    /// Tells the watchers of an epoch, in the background.
    pub fn notify(&self, epoch: Epoch) -> Notified {
        let store = self.clone();
        Notified(tokio::spawn(async move {
            let payload = epoch_value(epoch);
            let reply = store.inner.objects.notify(MAP_OBJECT, payload, NOTIFY_TIMEOUT).await?;
            let epoch_of_ack = |ack: &Bytes| std::str::from_utf8(ack).ok()?.parse().ok().map(Epoch);
            let acked: Vec<Epoch> = reply.acks.iter().filter_map(epoch_of_ack).collect();
            let missing = reply.missing + reply.acks.len() - acked.len();
            Ok(NotifyOutcome { acked, missing })
        }))
    }

    /// Makes a change: asks `intent` of the latest map until its increment is committed, or it says that nothing is to do.
    ///
    /// # Errors
    /// [`StoreError::Refused`] with what `intent` refuses, [`StoreError::Contended`]; as [`latest`](Self::latest) and
    /// [`commit`](Self::commit).
    pub async fn update<F>(&self, mut intent: F) -> Result<Updated, StoreError>
    where
        F: FnMut(&LusMap, &Origin) -> Result<Change, Refusal>,
    {
        self.update_by(None, &mut intent).await
    }

    /// Makes a change as the leader of `term`: as [`update`](Self::update), until another one leads.
    ///
    /// # Errors
    /// As [`update`](Self::update); [`StoreError::Refused`] with [`Refusal::NotLeader`] once the term is over.
    pub async fn update_leading<F>(&self, term: u64, mut intent: F) -> Result<Updated, StoreError>
    where
        F: FnMut(&LusMap, &Origin) -> Result<Change, Refusal>,
    {
        self.update_by(Some(term), &mut intent).await
    }

    async fn update_by<F>(&self, leader_term: Option<u64>, intent: &mut F) -> Result<Updated, StoreError>
    where
        F: FnMut(&LusMap, &Origin) -> Result<Change, Refusal>,
    {
        for attempt in 0..UPDATE_ATTEMPTS {
            let map = self.latest().await?;
            #[cfg(any(test, feature = "memory"))]
            let leader_term =
                if self.inner.any_term { leader_term.and(Some(map.meta().leader_term)) } else { leader_term };
            let origin = Origin { leader_term, ..self.origin() };
            match intent(&map, &origin)? {
                Change::Already { said } => return Ok(Updated { map, said, notified: None }),
                Change::Make { increment, said } => match self.commit(&map, &increment).await? {
                    Commit::Committed(Committed { map, notified }) => {
                        return Ok(Updated { map, said, notified: Some(notified) });
                    }
                    Commit::Lost => pause(attempt).await,
                },
            }
        }
        Err(StoreError::Contended(UPDATE_ATTEMPTS))
    }
}

pub(crate) async fn pause(attempt: u32) {
    tokio::time::sleep((Duration::from_millis(2) * attempt).min(PAUSE_MAX)).await;
}

pub(crate) fn unknown(why: &'static str) -> StoreError {
    StoreError::Unknown { object: MAP_OBJECT.to_owned(), why }
}

/// The value of the lease's attribute.
pub(crate) fn lease_value(lease: Lease) -> Bytes {
    Bytes::from(lease.to_string())
}

/// The value of the epoch's attribute.
fn epoch_value(epoch: Epoch) -> Bytes {
    Bytes::from(epoch.to_string())
}

/// The operation that makes the increment's epoch: its keys, itself, the oldest increment's end, the epoch.
fn write_of(increment: &Increment) -> Write {
    let mut write =
        Write { set_xattrs: vec![(EPOCH_XATTR, epoch_value(increment.epoch))], ..Write::default() };
    for change in &increment.changes {
        match &change.new {
            Some(raw) => write.set_omap.push((change.key.to_string(), Bytes::copy_from_slice(raw))),
            None => write.remove_omap.push(change.key.to_string()),
        }
    }
    write.set_omap.push((increment.omap_key(), Bytes::from(increment.encode())));
    if let Some(old) = increment.epoch.0.checked_sub(INCREMENTS_KEPT).filter(|old| *old > 0) {
        write.remove_omap.push(increment_key(Epoch(old)));
    }
    write
}

/// Whether `next` holds every invariant, but for those that are broken already: a broken map must stay repairable.
fn breaks_nothing(map: &LusMap, next: &LusMap) -> Result<(), StoreError> {
    let Err(after) = next.check() else { return Ok(()) };
    let before = map.check().err().unwrap_or_default();
    match after.into_iter().find(|violation| !before.contains(violation)) {
        Some(new) => Err(StoreError::Broken(new)),
        None => Ok(()),
    }
}
