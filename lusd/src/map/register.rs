//! Into the map and out of it: the checks before a daemon starts, its registration, the fence of what its older starts left.
//!
//! ```text
//!   caps let it fence? ─► addresses known ─► registered (they are on record) ─► older ones fenced ─► noted in the map
//! ```
//!
//! Nothing is opened read-write before the registration has put every address of this start on record.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use lus_map::change::daemon::{self, Register};
use lus_map::{ClientAddr, DaemonId, Epoch, InstanceKey, LusMap};
use lus_map_store::{MapStore, StoreError};
use lusd_ceph::{Cluster, ClusterOptions};
use tracing::{info, warn};

use crate::config::Config;
use crate::lun::clients::DataClient;
use crate::lun::fencer::{FenceError, Fencer};

/// Life of the blocklist entry that shows that the caps are there; its client is gone by then.
const TRIAL_EXPIRE: Duration = Duration::from_secs(60);

/// What `ceph auth caps` has to say for a daemon.
fn caps_hint(config: &Config) -> String {
    format!(
        "its caps do not let it fence other clients; run: ceph auth caps {} mon 'profile rbd, allow r' osd 'profile rbd pool=POOL, \
         allow rwx pool={}'",
        config.name, config.pool
    )
}

/// Opens the map, or creates it where this is the first of all.
///
/// # Errors
/// A missing pool, with what to run; whatever keeps the map from being read.
pub async fn open_map(control: &Cluster, pool: &str) -> anyhow::Result<(MapStore, Arc<LusMap>)> {
    let pool_handle = match control.pool(pool, None).await {
        Err(error) if error.is_not_found() => {
            return Err(anyhow!(error).context(format!(
                "there is no pool '{pool}' for the LUS map; run: ceph osd pool create {pool} && ceph osd pool application enable {pool} lus"
            )));
        }
        opened => opened.with_context(|| format!("cannot open pool '{pool}'"))?,
    };
    let store = MapStore::open(&pool_handle);
    let map = match store.latest_or_create().await {
        Err(StoreError::Ceph(error)) if error.is_permission_denied() => {
            return Err(anyhow!(error).context(format!(
                "its caps do not let it use pool '{pool}': osd 'allow rwx pool={pool}' is needed"
            )));
        }
        map => map.context("cannot read the LUS map")?,
    };
    Ok((store, map))
}

/// Fences a client that was made for nothing else. A daemon that cannot must not hold an LU, since nobody could take one over from
/// whoever held it before.
///
/// # Errors
/// When it cannot, with the caps that are missing.
pub async fn check_fencing(
    control: &Cluster,
    options: &ClusterOptions,
    config: &Config,
) -> anyhow::Result<()> {
    let trial = Cluster::connect(options.clone()).await.context("cannot connect a second client")?;
    let fenced = control.blocklist_add(&trial.address(), TRIAL_EXPIRE).await;
    trial.shutdown().await;
    match fenced {
        Err(error) if error.is_permission_denied() => Err(anyhow!(error).context(caps_hint(config))),
        fenced => fenced.context("cannot fence a client of its own, as a trial"),
    }
}

/// Whether older starts of `id` left clients that may not be fenced.
pub fn left_unfenced(map: &LusMap, id: &DaemonId) -> bool {
    map.instances(id).any(|instance| instance.unfenced().next().is_some())
}

/// This start, as the map has it.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Its key.
    pub key: InstanceKey,
    /// The daemon's target portal group tag.
    pub group_tag: u16,
    /// Clients of older starts.
    pub to_fence: Vec<ClientAddr>,
}

/// Puts this start and the addresses of all its clients on record.
///
/// # Errors
/// What the map refuses; whatever keeps it from being written.
pub async fn register(
    store: &MapStore,
    config: &Config,
    portals: Vec<std::net::SocketAddr>,
    control: &Cluster,
    clients: &[DataClient],
) -> anyhow::Result<Registration> {
    let ask = Register {
        id: config.id.clone(),
        portals,
        hostname: config.hostname.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        control_addr: control.address().to_string().parse()?,
        data_addrs: clients.iter().map(|client| client.addr.clone()).collect(),
    };
    let updated = store.update(|map, origin| daemon::register(map, origin, &ask)).await;
    let updated = updated.context("cannot register in the LUS map")?;
    let Some(instance) =
        updated.map.daemon(&config.id).filter(|new| new.control_addr.as_ref() == Some(&ask.control_addr))
    else {
        bail!("another start of lus.{} came at the same time", config.id);
    };
    info!("{}: map e{}", updated.said, updated.map.epoch());
    Ok(Registration {
        key: instance.key(),
        group_tag: instance.portal_group_tag.get(),
        to_fence: instance.to_fence.clone(),
    })
}

/// Fences what older starts left, all in one round, and notes it.
///
/// # Errors
/// When one of them cannot be fenced.
pub async fn fence_older(
    store: &MapStore,
    fencer: &Arc<Fencer>,
    to_fence: Vec<ClientAddr>,
    config: &Config,
) -> anyhow::Result<()> {
    if to_fence.is_empty() {
        return Ok(());
    }
    let fenced = match fencer.fence_all(to_fence).await {
        Err(FenceError::Ceph(error)) if error.is_permission_denied() => {
            return Err(anyhow!(error).context(caps_hint(config)));
        }
        fenced => fenced.context("cannot fence what an earlier start left")?,
    };
    let addrs: Vec<ClientAddr> = fenced.iter().map(|fenced| fenced.addr.clone()).collect();
    let osd_epoch = fenced.iter().map(|fenced| fenced.osd_epoch).max().unwrap_or(0);
    store
        .update(|map, origin| daemon::fenced(map, origin, &addrs, osd_epoch))
        .await
        .context("cannot note the fence in the LUS map")?;
    Ok(())
}

/// The clean end: every client for images is shut down, and nothing is in flight.
pub async fn retire(store: &MapStore, key: &InstanceKey) {
    let retired = store.update(|map, origin| daemon::retire(map, origin, (&key.id, key.up_from))).await;
    match retired {
        // Whoever waits for this daemon to be gone learns it by this.
        Ok(updated) => drop(updated.wait_for_watchers().await),
        Err(error) => warn!(%error, "cannot retire from the map; the next start fences what is on record"),
    }
}

/// Why this start is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Over {
    /// It was declared down, or forgotten.
    #[error("lus.{} up_from {} {how}", .key.id, .key.up_from)]
    Down {
        /// This start.
        key: InstanceKey,
        /// `was declared down`.
        how: &'static str,
    },
    /// A newer start of the same daemon took its place: there may be one only.
    #[error("lus.{} up_from {} is superseded: the newest is up_from {newest}", .key.id, .key.up_from)]
    Superseded {
        /// This start.
        key: InstanceKey,
        /// The newer one.
        newest: Epoch,
    },
    /// Its client for map and records is on the blocklist.
    #[error("fenced: {0}")]
    Fenced(String),
}

impl Over {
    /// Nobody follows the map any more.
    pub fn lost_sight(key: &InstanceKey) -> Self {
        Self::Down { key: key.clone(), how: "does not see the map any more" }
    }
}

/// Whether no start of `id` came after `up_from`: a daemon that starts again in place must not take the place of one that was started
/// elsewhere meanwhile.
///
/// # Errors
/// [`Over::Superseded`].
pub fn still_the_newest(map: &LusMap, id: &DaemonId, up_from: Epoch) -> Result<(), Over> {
    match map.daemon(id).map(|newest| newest.up_from).filter(|newest| *newest > up_from) {
        Some(newest) => Err(Over::Superseded { key: InstanceKey { id: id.clone(), up_from }, newest }),
        None => Ok(()),
    }
}

/// Whether a start is over, and why.
pub fn is_over(map: &LusMap, key: &InstanceKey) -> Option<Over> {
    let how = match map.instance(&key.id, key.up_from) {
        Some(instance) if instance.state.is_up() => return None,
        Some(_) => "was declared down",
        None => "is not in the map any more",
    };
    let newer = still_the_newest(map, &key.id, key.up_from).err();
    Some(newer.unwrap_or(Over::Down { key: key.clone(), how }))
}
