//! The map's object: read it whole, read what is new, read what was.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use lus_map::{
    ApplyError, Corrupt, EPOCH_XATTR, Epoch, INCREMENT_PREFIX, Increment, LusMap, MAP_OBJECT, Origin,
    Timestamp, increment_epoch, increment_key,
};
use lusd_ceph::{Error, Pool};
use uuid::Uuid;

use crate::error::StoreError;
use crate::objects::{Objects, OmapRange, Read, ReadReply};
use crate::rados::RadosObjects;

/// Omap pairs asked for in one operation: what an OSD returns at most (osd_max_omap_entries_per_request).
const PAGE_PAIRS: u64 = 1024;
/// Increments asked for in one operation: few are the rule, large ones are of 8 MiB.
const PAGE_INCREMENTS: u64 = 64;
/// How often a page is asked for because the map changed right before it; each attempt is 1 ms or so.
const PAGE_ATTEMPTS: u32 = 64;
/// How many pages of increments are read before giving up on catching up.
const REFRESH_PAGES: u32 = 64;
/// The first key behind all increments: '/' follows on '.'.
const BEHIND_INCREMENTS: &str = "inc/";

/// The map's object in a pool. Cheap to clone; all clones know the latest map that any of them has seen.
#[derive(Clone)]
pub struct MapStore {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) objects: Arc<dyn Objects>,
    /// Who changes the map through this store: `client.admin`.
    who: String,
    /// The fsid of the cluster, as librados gives it.
    fsid: String,
    /// The latest map seen, so that the next look is for increments only. Held for the copy of a pointer.
    latest: Mutex<Option<Arc<LusMap>>>,
    /// Where the id and the time of a change come from, if not from the machine.
    #[cfg(any(test, feature = "memory"))]
    stamps: Option<Stamps>,
    /// Changes of a leader are made in whatever term there is.
    #[cfg(any(test, feature = "memory"))]
    pub(crate) any_term: bool,
}

/// Gives ids and times of changes, for a simulation.
#[cfg(any(test, feature = "memory"))]
pub type Stamps = Arc<dyn Fn() -> (Uuid, Timestamp) + Send + Sync>;

impl MapStore {
    /// The map in `pool`, to be changed as its client.
    pub fn open(pool: &Pool) -> Self {
        let cluster = pool.cluster();
        let who = format!("{} {}", cluster.name(), cluster.address());
        Self::with_objects(Arc::new(RadosObjects::new(pool.clone())), who, cluster.fsid())
    }

    /// The map in any objects; `who` is the name for the log of changes.
    pub fn with_objects(objects: Arc<dyn Objects>, who: impl Into<String>, fsid: impl Into<String>) -> Self {
        let inner = Inner {
            objects,
            who: who.into(),
            fsid: fsid.into(),
            latest: Mutex::new(None),
            #[cfg(any(test, feature = "memory"))]
            stamps: None,
            #[cfg(any(test, feature = "memory"))]
            any_term: false,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The map in any objects, for a simulation: changes get their ids and times from `stamps`. With `any_term`, what a leader
    /// writes is not refused once its term is over: to see that this is noticed.
    #[cfg(any(test, feature = "memory"))]
    pub fn simulated(
        objects: Arc<dyn Objects>,
        who: impl Into<String>,
        fsid: impl Into<String>,
        stamps: Stamps,
        any_term: bool,
    ) -> Self {
        let inner = Inner {
            objects,
            who: who.into(),
            fsid: fsid.into(),
            latest: Mutex::new(None),
            stamps: Some(stamps),
            any_term,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The objects, for a [`RecordStore`](crate::RecordStore) beside it.
    pub fn objects(&self) -> Arc<dyn Objects> {
        Arc::clone(&self.inner.objects)
    }

    /// The origin of a change that is made now by this store's client, with a fresh id.
    pub fn origin(&self) -> Origin {
        #[cfg(any(test, feature = "memory"))]
        if let Some(stamps) = &self.inner.stamps {
            let (id, when) = stamps();
            return Origin::new(id, when, self.inner.who.clone());
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let when = Timestamp(u64::try_from(now.as_micros()).unwrap_or(u64::MAX));
        Origin::new(Uuid::new_v4(), when, self.inner.who.clone())
    }

    /// The fsid of the cluster, as the map has it.
    pub(crate) fn fsid(&self) -> Result<Uuid, StoreError> {
        Uuid::try_parse(&self.inner.fsid)
            .map_err(|_| Error::Malformed { object: "cluster".to_owned(), what: "fsid" }.into())
    }

    /// The latest map: read whole the first time, later by what is new.
    ///
    /// # Errors
    /// As [`load`](Self::load) and [`refresh`](Self::refresh).
    pub async fn latest(&self) -> Result<Arc<LusMap>, StoreError> {
        let known = self.lock_latest().clone();
        match known {
            Some(map) => self.refresh(&map).await,
            None => self.load().await,
        }
    }

    fn lock_latest(&self) -> std::sync::MutexGuard<'_, Option<Arc<LusMap>>> {
        // A panic while it was held cannot leave half a pointer.
        self.inner.latest.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Keeps `map` as the latest, unless a later one is known, and returns it.
    pub(crate) fn keep(&self, map: Arc<LusMap>) -> Arc<LusMap> {
        let mut latest = self.lock_latest();
        if latest.as_ref().is_none_or(|known| known.epoch() < map.epoch()) {
            *latest = Some(Arc::clone(&map));
        }
        map
    }

    /// Reads the whole map, at one epoch however many operations that takes, and however often it changes meanwhile.
    ///
    /// # Errors
    /// [`StoreError::NoMap`], [`StoreError::Load`] for what is corrupt or of a newer program,
    /// [`StoreError::OtherCluster`], [`StoreError::Unstable`] if it changes without a pause, [`StoreError::Ceph`].
    pub async fn load(&self) -> Result<Arc<LusMap>, StoreError> {
        let first = self.read(Read { xattrs: true, ..Read::default() }).await?;
        let mut partial =
            Partial { epoch: epoch_of(&first)?, entities: BTreeMap::new(), read_to: String::new() };
        let last = loop {
            if let Some(last) = self.read_page(&mut partial).await? {
                break last;
            }
        };
        let entities = partial.entities.iter().map(|(key, raw)| (key.as_str(), &raw[..]));
        let map = LusMap::decode(partial.epoch, last.origin.when, entities)?;
        if map.fsid().hyphenated().to_string() != self.inner.fsid.to_ascii_lowercase() {
            return Err(StoreError::OtherCluster { found: map.fsid(), cluster: self.inner.fsid.clone() });
        }
        Ok(self.keep(Arc::new(map)))
    }

    /// Reads one more page; behind the last one, gives the increment that made the epoch.
    ///
    /// Each operation is of the epoch that the pages before it are of, or ECANCELED. Then what came is applied to those.
    async fn read_page(&self, partial: &mut Partial) -> Result<Option<Increment>, StoreError> {
        for _ in 0..PAGE_ATTEMPTS {
            match self.try_page(partial).await {
                Err(StoreError::Ceph(error)) if error.is_compare_mismatch() => self.catch_up(partial).await?,
                page => return page,
            }
        }
        Err(StoreError::Unstable { object: MAP_OBJECT.to_owned(), attempts: PAGE_ATTEMPTS })
    }

    async fn try_page(&self, partial: &mut Partial) -> Result<Option<Increment>, StoreError> {
        let compare = Some((EPOCH_XATTR, Bytes::from(partial.epoch.to_string())));
        let start_after = partial.read_to.clone();
        let omap = Some(OmapRange { start_after, prefix: String::new(), max: PAGE_PAIRS });
        let mut page = self.read(Read { compare: compare.clone(), omap, ..Read::default() }).await?;
        let Some((to, _)) = page.omap.last_key_value() else {
            let key = increment_key(partial.epoch);
            let last = self.read(Read { compare, keys: vec![key.clone()], ..Read::default() }).await?;
            let raw = last.omap.get(&key).ok_or_else(|| gap(partial.epoch, partial.epoch))?;
            return Ok(Some(Increment::decode(partial.epoch, raw)?));
        };
        // Once among the increments, go on behind them.
        let to = if to.starts_with(INCREMENT_PREFIX) { BEHIND_INCREMENTS } else { to };
        partial.read_to = to.to_owned();
        page.omap.retain(|key, _| !key.starts_with(INCREMENT_PREFIX));
        partial.entities.append(&mut page.omap);
        Ok(None)
    }

    /// Brings what was read so far to a later epoch.
    async fn catch_up(&self, partial: &mut Partial) -> Result<(), StoreError> {
        let omap = Some(after(partial.epoch, PAGE_INCREMENTS));
        let page = self.read(Read { xattrs: true, omap, ..Read::default() }).await?;
        let epoch = epoch_of(&page)?;
        if epoch < partial.epoch {
            return Err(StoreError::Replaced { had: partial.epoch, found: epoch });
        }
        let next = partial.epoch.next();
        let increments = decode(&page.omap, next, epoch)?.ok_or_else(|| gap(next, epoch))?;
        increments.into_iter().try_for_each(|increment| partial.apply(increment))
    }

    pub(crate) async fn read(&self, read: Read) -> Result<ReadReply, StoreError> {
        self.inner
            .objects
            .read(MAP_OBJECT, read)
            .await
            .map_err(|error| if error.is_not_found() { StoreError::NoMap } else { StoreError::Ceph(error) })
    }

    /// The latest map, by reading what is new since `map`: nothing else where nothing is.
    ///
    /// # Errors
    /// As [`load`](Self::load), which is what it does where the increments since `map` are no longer kept; and
    /// [`StoreError::Replaced`] if the object is not the one that `map` was read from.
    pub async fn refresh(&self, map: &Arc<LusMap>) -> Result<Arc<LusMap>, StoreError> {
        let mut newest = Arc::clone(map);
        for _ in 0..REFRESH_PAGES {
            // From the increment that made our epoch on: it shows whether this is still the same map.
            let omap = Some(after(Epoch(newest.epoch().0.saturating_sub(1)), PAGE_INCREMENTS));
            let page = self.read(Read { xattrs: true, omap, ..Read::default() }).await?;
            let epoch = epoch_of(&page)?;
            if epoch < newest.epoch() {
                return Err(StoreError::Replaced { had: newest.epoch(), found: epoch });
            }
            let Some(increments) = decode(&page.omap, newest.epoch(), epoch)? else {
                return self.load_after(map).await;
            };
            let ours = increments.first().is_some_and(|first| first.origin.when == newest.modified());
            if !ours {
                return Err(StoreError::Replaced { had: newest.epoch(), found: epoch });
            }
            for increment in &increments[1..] {
                newest = Arc::new(newest.apply(increment)?);
            }
            if newest.epoch() == epoch {
                return Ok(self.keep(newest));
            }
            if !page.more && increments.len() < 2 {
                return Err(gap(newest.epoch().next(), epoch));
            }
        }
        Err(StoreError::Unstable { object: MAP_OBJECT.to_owned(), attempts: REFRESH_PAGES })
    }

    /// Reads the whole map, which must be a later state of `map`.
    async fn load_after(&self, map: &LusMap) -> Result<Arc<LusMap>, StoreError> {
        let whole = self.load().await?;
        if whole.epoch() < map.epoch() || whole.meta().created != map.meta().created {
            return Err(StoreError::Replaced { had: map.epoch(), found: whole.epoch() });
        }
        Ok(whole)
    }

    /// The increments that made the epochs behind `after`, up to `to`, oldest first; those that are kept.
    ///
    /// # Errors
    /// [`StoreError::NoMap`], [`StoreError::Load`] for a gap or what cannot be decoded, [`StoreError::Ceph`].
    pub async fn increments(&self, after_epoch: Epoch, to: Epoch) -> Result<Vec<Increment>, StoreError> {
        let mut all: Vec<Increment> = Vec::new();
        loop {
            let last = all.last().map_or(after_epoch, |increment| increment.epoch);
            if last >= to {
                return Ok(all);
            }
            let page =
                self.read(Read { omap: Some(after(last, PAGE_INCREMENTS)), ..Read::default() }).await?;
            let first = page.omap.keys().next().and_then(|key| increment_epoch(key));
            let from = match first {
                // The first one may be any: what was before it is no longer kept. Then they have no gap.
                Some(first) if all.is_empty() => first,
                _ => last.next(),
            };
            if page.omap.is_empty() || from > to {
                return if all.is_empty() { Ok(all) } else { Err(gap(from, to)) };
            }
            match decode(&page.omap, from, to)? {
                Some(increments) => all.extend(increments),
                None => return Err(gap(from, to)),
            }
        }
    }

    /// The map as it was at `epoch`, byte for byte.
    ///
    /// # Errors
    /// [`StoreError::NoEpoch`] for one that has not been or is no longer kept; as [`latest`](Self::latest).
    pub async fn past(&self, epoch: Epoch) -> Result<Arc<LusMap>, StoreError> {
        let latest = self.latest().await?;
        if epoch == latest.epoch() {
            return Ok(latest);
        }
        if epoch > latest.epoch() || epoch.0 == 0 {
            return Err(StoreError::NoEpoch(epoch));
        }
        // The increment that made `epoch` is needed too: it says when that was.
        let increments = self.increments(Epoch(epoch.0 - 1), latest.epoch()).await?;
        if increments.first().is_none_or(|first| first.epoch != epoch) {
            return Err(StoreError::NoEpoch(epoch));
        }
        let mut map = (*latest).clone();
        for pair in increments.windows(2).rev() {
            map = map.take_back(&pair[1], pair[0].origin.when)?;
        }
        Ok(Arc::new(map))
    }
}

/// A map that is being read.
struct Partial {
    /// What has been read is of this epoch.
    epoch: Epoch,
    /// The keys and values read so far, without the increments.
    entities: BTreeMap<String, Bytes>,
    /// All keys up to this one have been read.
    read_to: String,
}

impl Partial {
    /// Applies the next increment to the keys that have been read; the others are read as it left them.
    fn apply(&mut self, increment: Increment) -> Result<(), StoreError> {
        let epoch = increment.epoch;
        for change in increment.changes {
            let key = change.key.to_string();
            if key > self.read_to {
                continue;
            }
            let old = match change.new {
                Some(new) => self.entities.insert(key, new.into()),
                None => self.entities.remove(&key),
            };
            if old.as_deref() != change.old.as_deref() {
                return Err(ApplyError::OtherBytes { epoch, key: change.key }.into());
            }
        }
        self.epoch = epoch;
        Ok(())
    }
}

/// The epoch that the attribute of a reply says.
pub(crate) fn epoch_of(reply: &ReadReply) -> Result<Epoch, StoreError> {
    let raw = reply.xattrs.get(EPOCH_XATTR).ok_or(Corrupt::MissingEpoch)?;
    let text = String::from_utf8_lossy(raw);
    let epoch = text.parse::<u64>().ok().filter(|epoch| *epoch > 0 && epoch.to_string() == text);
    Ok(epoch.map(Epoch).ok_or_else(|| Corrupt::BadEpoch(text.chars().take(32).collect()))?)
}

/// A page of the increments behind `epoch`.
fn after(epoch: Epoch, max: u64) -> OmapRange {
    OmapRange { start_after: increment_key(epoch), prefix: INCREMENT_PREFIX.to_owned(), max }
}

fn gap(missing: Epoch, epoch: Epoch) -> StoreError {
    Corrupt::IncrementGap { key: increment_key(missing), epoch }.into()
}

/// The increments of a page from `first` on, up to `to` at most; none if the page begins later.
fn decode(
    page: &BTreeMap<String, Bytes>,
    first: Epoch,
    to: Epoch,
) -> Result<Option<Vec<Increment>>, StoreError> {
    let mut increments = Vec::with_capacity(page.len());
    let mut expected = first;
    for (key, raw) in page {
        let epoch = increment_epoch(key).ok_or_else(|| Corrupt::Undecodable {
            key: key.clone(),
            why: "the form is inc. and 20 digits".to_owned(),
        })?;
        if epoch > to {
            break;
        }
        if epoch != expected {
            return if increments.is_empty() { Ok(None) } else { Err(gap(expected, to)) };
        }
        increments.push(Increment::decode(epoch, raw)?);
        expected = expected.next();
    }
    Ok(if increments.is_empty() { None } else { Some(increments) })
}
