//! Puts RADOS clients on the blocklist, each once, several at a time (the monitors take what comes together in one round).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lus_map::{ClientAddr, Fenced};
use lusd_ceph::Cluster;
use serde_json::Value;
use tokio::sync::OnceCell;
use tracing::{info, warn};

/// Fences remembered; beyond it they are forgotten, and done again when asked for: that does no harm.
const REMEMBERED_MAX: usize = 4096;
/// Who is on the blocklist for longer than this was put there by LUS, and for good. Others use an hour.
const FOR_GOOD: Duration = Duration::from_secs(180 * 86_400);
/// Longest answer to `osd blocklist ls` that is read, bytes: some 100,000 entries.
const BLOCKLIST_BYTES_MAX: usize = 16 << 20;

/// Why a client could not be fenced. Nobody is fenced then.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// It is a client that this daemon uses.
    #[error("{0} is a client of this very daemon")]
    Own(ClientAddr),
    /// The address is none that Ceph could have.
    #[error("'{0}' is not the address of a RADOS client")]
    Address(ClientAddr),
    /// The monitors refuse, or do not answer.
    #[error(transparent)]
    Ceph(#[from] lusd_ceph::Error),
    /// The answer to `osd blocklist ls` is not what it should be.
    #[error("malformed answer to 'osd blocklist ls'")]
    Malformed,
}

/// See the module's text.
pub struct Fencer {
    control: Cluster,
    expire: Duration,
    own: Mutex<Vec<ClientAddr>>,
    done: Mutex<HashMap<ClientAddr, Arc<OnceCell<Fenced>>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Fencer {
    /// Fences through `control`; entries live for `expire`. `control`'s own address is never fenced.
    pub fn new(control: Cluster, expire: Duration) -> Result<Self, lus_map::BadName> {
        let own = vec![control.address().to_string().parse()?];
        Ok(Self { control, expire, own: Mutex::new(own), done: Mutex::new(HashMap::new()) })
    }

    /// Never fence `addr`: this daemon uses it.
    pub fn protect(&self, addr: ClientAddr) {
        lock(&self.own).push(addr);
    }

    /// This daemon has given `addr` up.
    pub fn unprotect(&self, addr: &ClientAddr) {
        lock(&self.own).retain(|own| own != addr);
    }

    /// Blocklists `addr`. The control client has that OSD map then; any other client has to wait for it.
    ///
    /// # Errors
    /// [`FenceError`]; the client must be taken for alive.
    pub async fn fence(&self, addr: &ClientAddr) -> Result<Fenced, FenceError> {
        if lock(&self.own).contains(addr) {
            return Err(FenceError::Own(addr.clone()));
        }
        let client: lusd_ceph::ClientAddr =
            addr.as_str().parse().map_err(|_| FenceError::Address(addr.clone()))?;
        let cell = {
            let mut done = lock(&self.done);
            if done.len() >= REMEMBERED_MAX {
                done.retain(|_, cell| !cell.initialized());
            }
            done.entry(addr.clone()).or_default().clone()
        };
        let fenced = cell
            .get_or_try_init(|| async {
                self.control.blocklist_add(&client, self.expire).await?;
                let osd_epoch = u64::from(self.control.osdmap_epoch().await?);
                info!(client = %addr, osd_epoch, "fenced");
                self.warn_of_short_fence(addr).await;
                Ok::<_, FenceError>(Fenced { addr: addr.clone(), osd_epoch })
            })
            .await?;
        Ok(fenced.clone())
    }

    /// An entry that somebody made before keeps its expiry: what that client has in flight may land when it ends.
    async fn warn_of_short_fence(&self, addr: &ClientAddr) {
        if let Ok(false) = self.is_fenced_for_good(addr).await {
            warn!(
                client = %addr,
                "was on the blocklist already, by somebody else and not for long: see to it that this client is gone before its entry is"
            );
        }
    }

    /// Fences all of `addrs` at the same time.
    ///
    /// # Errors
    /// The first that failed; others may have been fenced.
    pub async fn fence_all(self: &Arc<Self>, addrs: Vec<ClientAddr>) -> Result<Vec<Fenced>, FenceError> {
        let mut tasks = tokio::task::JoinSet::new();
        for addr in addrs {
            let fencer = self.clone();
            tasks.spawn(async move { fencer.fence(&addr).await });
        }
        tasks.join_all().await.into_iter().collect()
    }

    /// Whether `addr` is on the blocklist for years.
    ///
    /// # Errors
    /// [`FenceError`].
    pub async fn is_fenced_for_good(&self, addr: &ClientAddr) -> Result<bool, FenceError> {
        let (json, _) = self.control.mon_command(r#"{"prefix":"osd blocklist ls","format":"json"}"#).await?;
        let until = blocklisted_until(&json, addr)?;
        Ok(until.is_some_and(|until| until > jiff::Timestamp::now() + FOR_GOOD))
    }
}

/// When the entry of `addr` ends.
fn blocklisted_until(json: &[u8], addr: &ClientAddr) -> Result<Option<jiff::Timestamp>, FenceError> {
    if json.len() > BLOCKLIST_BYTES_MAX {
        return Err(FenceError::Malformed);
    }
    // Two arrays, one after the other: entries, and ranges of addresses.
    for array in serde_json::Deserializer::from_slice(json).into_iter::<Vec<Value>>() {
        for entry in array.map_err(|_| FenceError::Malformed)? {
            let (Some(listed), Some(until)) = (entry["addr"].as_str(), entry["until"].as_str()) else {
                continue;
            };
            if listed.parse::<ClientAddr>().is_ok_and(|listed| listed == *addr) {
                // 2026-11-21T03:07:10.079378+0000: the offset without a colon.
                let until = jiff::fmt::strtime::parse("%Y-%m-%dT%H:%M:%S%.f%z", until)
                    .and_then(|until| until.to_timestamp());
                return until.map(Some).map_err(|_| FenceError::Malformed);
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blocklist_is_read() {
        let json = br#"[{"addr":"127.0.0.1:0/1","until":"2026-11-21T03:07:10.079378+0000"},
            {"addr":"127.0.0.1:0/2","until":"2036-11-21T03:07:10.079378+0200"},{"range":"10.0.0.0/8"}][]"#;
        let until = |n: u32| {
            let addr: ClientAddr = format!("127.0.0.1:0/{n}").parse().unwrap();
            blocklisted_until(json, &addr).unwrap().map(|until| until.to_string())
        };
        assert_eq!(until(1).as_deref(), Some("2026-11-21T03:07:10.079378Z"));
        assert_eq!(until(2).as_deref(), Some("2036-11-21T01:07:10.079378Z"));
        assert_eq!(until(3), None);
        let addr: ClientAddr = "127.0.0.1:0/1".parse().unwrap();
        for bad in [&b"{}"[..], b"x", br#"[{"addr":"127.0.0.1:0/1","until":"soon"}]"#] {
            assert!(matches!(blocklisted_until(bad, &addr), Err(FenceError::Malformed)));
        }
    }
}
