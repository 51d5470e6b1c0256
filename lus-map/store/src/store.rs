//! The map's object: read it whole, read what is new, read what was.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use lus_map::{
    Corrupt, EPOCH_XATTR, Epoch, INCREMENT_PREFIX, Increment, LusMap, MAP_OBJECT, Origin, Timestamp,
    increment_epoch, increment_key,
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
/// How often a reading is begun again because the map changed under it. One takes about 1 ms per thousand entities.
const LOAD_ATTEMPTS: u32 = 32;
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
}

impl MapStore {
    /// The map in `pool`, to be changed as its client.
    pub fn open(pool: &Pool) -> Self {
        let cluster = pool.cluster();
        let who = format!("{} {}", cluster.name(), cluster.address());
        Self::with_objects(Arc::new(RadosObjects::new(pool.clone())), who, cluster.fsid())
    }

    /// The map in any objects; `who` is the name for the log of changes.
    pub fn with_objects(objects: Arc<dyn Objects>, who: impl Into<String>, fsid: impl Into<String>) -> Self {
        let inner = Inner { objects, who: who.into(), fsid: fsid.into(), latest: Mutex::new(None) };
        Self { inner: Arc::new(inner) }
    }

    /// The objects, for a [`RecordStore`](crate::RecordStore) beside it.
    pub fn objects(&self) -> Arc<dyn Objects> {
        Arc::clone(&self.inner.objects)
    }

    /// The origin of a change that is made now by this store's client, with a fresh id.
    pub fn origin(&self) -> Origin {
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

    /// Reads the whole map, at one epoch however many operations that takes.
    ///
    /// # Errors
    /// [`StoreError::NoMap`], [`StoreError::Load`] for what is corrupt or of a newer program,
    /// [`StoreError::OtherCluster`], [`StoreError::Unstable`] if it changes all the time, [`StoreError::Ceph`].
    pub async fn load(&self) -> Result<Arc<LusMap>, StoreError> {
        for _ in 0..LOAD_ATTEMPTS {
            match self.try_load().await {
                Err(StoreError::Ceph(error)) if error.is_compare_mismatch() => {}
                Ok(map) => return Ok(self.keep(Arc::new(map))),
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Unstable { object: MAP_OBJECT.to_owned(), attempts: LOAD_ATTEMPTS })
    }

    async fn read(&self, read: Read) -> Result<ReadReply, StoreError> {
        self.inner
            .objects
            .read(MAP_OBJECT, read)
            .await
            .map_err(|error| if error.is_not_found() { StoreError::NoMap } else { StoreError::Ceph(error) })
    }

    /// One attempt: every operation behind the first fails with ECANCELED if the epoch is another.
    async fn try_load(&self) -> Result<LusMap, StoreError> {
        let first = self.read(Read { xattrs: true, ..Read::default() }).await?;
        let epoch = epoch_of(&first)?;
        let compare = first.xattrs.get(EPOCH_XATTR).map(|raw| (EPOCH_XATTR, raw.clone()));
        let last_key = increment_key(epoch);
        let read = Read { compare: compare.clone(), keys: vec![last_key.clone()], ..Read::default() };
        let last = self.read(read).await?;
        let last =
            last.omap.get(&last_key).ok_or_else(|| Corrupt::IncrementGap { key: last_key.clone(), epoch })?;
        let modified = Increment::decode(epoch, last)?.origin.when;
        let mut entities: BTreeMap<String, Bytes> = BTreeMap::new();
        let mut start_after = String::new();
        loop {
            let omap = Some(OmapRange { start_after, prefix: String::new(), max: PAGE_PAIRS });
            let mut page = self.read(Read { compare: compare.clone(), omap, ..Read::default() }).await?;
            let Some((last, _)) = page.omap.last_key_value() else { break };
            // Once among the increments, go on behind them.
            start_after =
                if last.starts_with(INCREMENT_PREFIX) { BEHIND_INCREMENTS.into() } else { last.clone() };
            page.omap.retain(|key, _| !key.starts_with(INCREMENT_PREFIX));
            entities.append(&mut page.omap);
            if !page.more {
                break;
            }
        }
        let map =
            LusMap::decode(epoch, modified, entities.iter().map(|(key, raw)| (key.as_str(), &raw[..])))?;
        if map.fsid().hyphenated().to_string() != self.inner.fsid.to_ascii_lowercase() {
            return Err(StoreError::OtherCluster { found: map.fsid(), cluster: self.inner.fsid.clone() });
        }
        Ok(map)
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
