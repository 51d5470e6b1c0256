//! Ceph's service map: `ceph -s` shows `lus: N daemons active`, `ceph service status` the status. For display only: an entry outlives
//! its daemon by a minute.

use std::sync::Arc;
use std::time::Duration;

use lus_map::Epoch;
use lusd_ceph::Cluster;
use tokio::sync::watch;
use tracing::warn;

use crate::config::Config;
use crate::service::Service;

/// librados sends the status with its beacon, every 5 s.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// LUs placed here, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Served.
    pub serving: usize,
    /// Not (yet).
    pub waiting: usize,
}

/// Registers the daemon. Without it the daemon works as well.
pub async fn register(cluster: &Cluster, config: &Config) {
    let portals: Vec<String> = config.portals.iter().map(ToString::to_string).collect();
    let metadata = [
        ("lusd_version", env!("CARGO_PKG_VERSION")),
        ("hostname", &config.hostname),
        ("portals", &portals.join(",")),
        ("pid", &std::process::id().to_string()),
    ];
    if let Err(error) = cluster.service_register("lus", config.id.as_str(), &metadata).await {
        warn!(%error, "cannot register in the service map: ceph -s does not show this daemon");
    }
}

/// Keeps the status up to date.
pub async fn report(
    cluster: Cluster,
    service: Arc<Service>,
    epoch: watch::Receiver<Epoch>,
    counts: watch::Receiver<Counts>,
    leads: watch::Receiver<Option<u64>>,
) {
    let mut last = Vec::new();
    loop {
        let Counts { serving, waiting } = *counts.borrow();
        let logins = service.authenticator.counters();
        let status = [
            ("map_epoch", epoch.borrow().to_string()),
            ("units_serving", serving.to_string()),
            ("units_waiting", waiting.to_string()),
            ("leader", if leads.borrow().is_some() { "true" } else { "false" }.to_owned()),
            ("connections", service.sessions.connections().to_string()),
            ("data_memory_used", service.memory.used().to_string()),
            ("logins_failed", logins.failed.to_string()),
            ("logins_turned_away", logins.turned_away.to_string()),
        ];
        let status: Vec<(&str, String)> = status.into();
        if status != last {
            let pairs: Vec<(&str, &str)> =
                status.iter().map(|(name, value)| (*name, value.as_str())).collect();
            if let Err(error) = cluster.service_update_status(&pairs) {
                warn!(%error, "cannot update the status in the service map");
            }
            last = status;
        }
        tokio::time::sleep(STATUS_INTERVAL).await;
    }
}
