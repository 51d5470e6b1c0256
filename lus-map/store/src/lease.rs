//! The lease of the leader: looked at by all, renewed by the leader, taken together with the leadership.

use std::sync::Arc;

use lus_map::change::leader;
use lus_map::{Change, ClientAddr, Corrupt, InstanceKey, LEASE_XATTR, Lease, LusMap, MAP_OBJECT};

use crate::commit::{Commit, Committed, LeaseChange, Notified, lease_value, pause, unknown};
use crate::error::StoreError;
use crate::objects::{Read, ReadReply, Write};
use crate::store::MapStore;

/// How often a renewal is sent again while nothing is known of it.
const RENEW_ATTEMPTS: u32 = 3;
/// How often the leadership is tried to be taken because some other change of the map came first.
const TAKE_ATTEMPTS: u32 = 16;

/// What a daemon looks at once in [`LOOK_INTERVAL`](lus_map::lease::LOOK_INTERVAL).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// The lease; none: nobody ever led.
    pub lease: Option<Lease>,
    /// The clients that watch the map's object.
    pub watchers: Vec<ClientAddr>,
}

/// What became of a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// It is made; this is the lease now.
    Renewed(Lease),
    /// The lease is another one: somebody took the leadership.
    Lost(Option<Lease>),
}

/// What became of the attempt to take the leadership.
#[derive(Debug)]
pub enum Take {
    /// This daemon leads.
    Taken {
        /// The map that says so.
        map: Arc<LusMap>,
        /// The lease, to be renewed.
        lease: Lease,
        /// The notify to the watchers, under way.
        notified: Notified,
    },
    /// Another one took it, or the leader renewed its lease.
    Lost,
}

impl MapStore {
    /// The lease; none: nobody ever led.
    ///
    /// # Errors
    /// [`StoreError::NoMap`], [`StoreError::Load`] for what is no lease, [`StoreError::Ceph`].
    pub async fn read_lease(&self) -> Result<Option<Lease>, StoreError> {
        lease_of(&self.read(Read { xattrs: true, ..Read::default() }).await?)
    }

    /// The clients that watch the map's object. One that is silent is listed until its watch times out.
    ///
    /// # Errors
    /// [`StoreError::NoMap`], [`StoreError::Ceph`].
    pub async fn watchers(&self) -> Result<Vec<ClientAddr>, StoreError> {
        let listed = self.inner.objects.watchers(MAP_OBJECT).await.map_err(|error| {
            if error.is_not_found() { StoreError::NoMap } else { StoreError::Ceph(error) }
        })?;
        let address = |text: &String| match text.parse() {
            Ok(address) => Some(address),
            Err(error) => {
                // No daemon has such an address on record either.
                tracing::warn!(%error, "a watcher of the map");
                None
            }
        };
        Ok(listed.iter().filter_map(address).collect())
    }

    /// Lease and watchers, both at once.
    ///
    /// # Errors
    /// As [`read_lease`](Self::read_lease) and [`watchers`](Self::watchers).
    pub async fn look_around(&self) -> Result<Looked, StoreError> {
        let (lease, watchers) = tokio::try_join!(self.read_lease(), self.watchers())?;
        Ok(Looked { lease, watchers })
    }

    /// Renews `held`, the lease as it was last written or seen: no epoch is made, nobody is notified.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] if RADOS does not answer, [`StoreError::NoMap`], [`StoreError::Load`], [`StoreError::Ceph`].
    pub async fn renew(&self, held: Lease) -> Result<Renewal, StoreError> {
        let next = held.next();
        let write = Write {
            compare: vec![(LEASE_XATTR, lease_value(held))],
            set_xattrs: vec![(LEASE_XATTR, lease_value(next))],
            ..Write::default()
        };
        for attempt in 0..RENEW_ATTEMPTS {
            match self.inner.objects.write(MAP_OBJECT, write.clone()).await {
                Ok(()) => return Ok(Renewal::Renewed(next)),
                Err(error) if error.is_not_found() => return Err(StoreError::NoMap),
                // Another one took the leadership, or an attempt without an answer got there.
                Err(error) if error.is_compare_mismatch() => {}
                Err(error) if !error.is_unknown_outcome() => return Err(error.into()),
                Err(_) => pause(attempt).await,
            }
            match self.read_lease().await {
                Ok(found) if found == Some(next) => return Ok(Renewal::Renewed(next)),
                // What was sent may still arrive. The same again is harmless: of the two one fails.
                Ok(found) if found == Some(held) => {}
                Ok(found) => return Ok(Renewal::Lost(found)),
                Err(StoreError::Ceph(error)) if error.is_unknown_outcome() => {}
                Err(error) => return Err(error),
            }
        }
        Err(unknown("no answer from RADOS"))
    }

    /// Takes the leadership for `me` in the term after `term`, unless the map is in another term by now, or the lease is not
    /// `stale` any more. One operation compares epoch and lease, and sets both.
    ///
    /// # Errors
    /// [`StoreError::Refused`] if `me` is not up, [`StoreError::Contended`]; as [`commit`](Self::commit).
    pub async fn take(&self, me: &InstanceKey, term: u64, stale: Option<Lease>) -> Result<Take, StoreError> {
        for attempt in 0..TAKE_ATTEMPTS {
            let map = self.latest().await?;
            if map.meta().leader_term != term {
                return Ok(Take::Lost);
            }
            let Change::Make { increment, .. } = leader::take(&map, &self.origin(), me)? else {
                unreachable!("a new term is a change");
            };
            let change = LeaseChange { stale, first: Lease::first(term + 1) };
            match self.commit_with(&map, &increment, Some(&change)).await? {
                Commit::Committed(Committed { map, notified }) => {
                    return Ok(Take::Taken { map, lease: change.first, notified });
                }
                Commit::Lost if self.read_lease().await? != stale => return Ok(Take::Lost),
                Commit::Lost => pause(attempt).await,
            }
        }
        Err(StoreError::Contended(TAKE_ATTEMPTS))
    }
}

fn lease_of(reply: &ReadReply) -> Result<Option<Lease>, StoreError> {
    let Some(raw) = reply.xattrs.get(LEASE_XATTR) else { return Ok(None) };
    let text = String::from_utf8_lossy(raw);
    let undecodable = |error: lus_map::BadName| Corrupt::Undecodable {
        key: format!("xattr {LEASE_XATTR}"),
        why: error.to_string(),
    };
    Ok(Some(text.parse().map_err(undecodable)?))
}
