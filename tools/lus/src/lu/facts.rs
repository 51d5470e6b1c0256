//! What is to be known of logical units beyond the map, read for many at once.

use std::collections::HashMap;
use std::sync::Arc;

use lus_map::{Backend, Lu, LuRecord, LusMap};
use lusd_ceph::Pool;
use tokio::task::JoinSet;

use super::image;
use super::state::{Lock, State};
use crate::error::{Failure, Result};
use crate::session::Session;

/// Units that are looked at together: each look is two or three small reads.
const IN_PARALLEL: usize = 64;

/// One unit's facts.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// Bytes; none where the image is missing or cannot be reached.
    pub(crate) size: Option<u64>,
    /// Its record; none before the first daemon has made it.
    pub(crate) record: Option<LuRecord>,
    /// Both together.
    pub(crate) state: State,
    /// Who holds its image's lock, where a daemon does not serve it in order; empty otherwise.
    pub(crate) locks: Vec<Lock>,
}

impl Facts {
    /// The client outside of LUS that keeps the unit from being served.
    pub(crate) fn foreign(&self) -> Option<&Lock> {
        self.locks.iter().find(|lock| lock.is_foreign())
    }
}

/// The facts of all units of `map`, in its order.
///
/// # Errors
/// What reading the records gives. An image that cannot be read is a fact, not a failure.
pub(crate) async fn gather(session: &Session, map: &Arc<LusMap>) -> Result<Vec<Facts>> {
    let pools = pools(session, map).await;
    let mut found: Vec<Option<Facts>> = vec![None; map.lus().count()];
    let mut running = JoinSet::new();
    for (index, lu) in map.lus().enumerate() {
        if running.len() >= IN_PARALLEL {
            collect(&mut running, &mut found).await?;
        }
        let (map, lu, records) = (map.clone(), lu.clone(), session.records());
        let pool = pool_key(&lu).and_then(|key| pools.get(&key).cloned());
        running.spawn(async move {
            let record = records.read(&lu.id).await?;
            Ok::<_, Failure>((index, facts(&map, &lu, pool.as_ref(), record).await))
        });
    }
    while !running.is_empty() {
        collect(&mut running, &mut found).await?;
    }
    Ok(found.into_iter().map(|facts| facts.expect("each unit was looked at")).collect())
}

async fn collect(running: &mut JoinSet<Result<(usize, Facts)>>, found: &mut [Option<Facts>]) -> Result<()> {
    if let Some(done) = running.join_next().await {
        let (index, facts) = done.expect("a look at a unit does not panic")?;
        found[index] = Some(facts);
    }
    Ok(())
}

async fn facts(map: &LusMap, lu: &Lu, pool: Option<&Pool>, record: Option<LuRecord>) -> Facts {
    let state = State::of(map, lu, record.as_ref());
    let mut facts = Facts { size: lu.backend.size_bytes(), record, state, locks: Vec::new() };
    if let (Backend::Rbd { image_id, .. }, Some(pool)) = (&lu.backend, pool) {
        facts.size = image::size(pool, image_id).await.ok();
        if let Ok(locks) = image::locks(pool, image_id, map, facts.record.as_ref()).await {
            facts.state = state.with_locks(facts.record.as_ref(), &locks);
            facts.locks = locks;
        }
    }
    facts
}

/// Pool and namespace of a unit's image.
type PoolKey = (String, String);

fn pool_key(lu: &Lu) -> Option<PoolKey> {
    match &lu.backend {
        Backend::Rbd { image, .. } => Some((image.pool().to_owned(), image.namespace().to_owned())),
        Backend::Ram { .. } | Backend::Null { .. } => None,
    }
}

/// The pools of all images, as far as they can be opened.
async fn pools(session: &Session, map: &LusMap) -> HashMap<PoolKey, Pool> {
    let mut pools = HashMap::new();
    for lu in map.lus() {
        let (Some(key), Backend::Rbd { image, .. }) = (pool_key(lu), &lu.backend) else { continue };
        if pools.contains_key(&key) {
            continue;
        }
        if let Ok(pool) = image::pool(&session.cluster, image).await {
            pools.insert(key, pool);
        }
    }
    pools
}
