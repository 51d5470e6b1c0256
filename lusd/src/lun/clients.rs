//! The RADOS clients through which this daemon opens images. Each LU uses one of them, always the same one; a fence hits all LUs of one
//! client, and no other.
//!
//! Invariant: a client's address stands in the map before the client opens anything read-write.

use std::sync::Arc;

use lus_map::{ClientAddr, Epoch, InstanceKey, LuId, change};
use lus_map_store::{MapStore, StoreError};
use lusd_ceph::{Cluster, ClusterOptions};
use tokio::sync::{Mutex, watch};
use tracing::{info, warn};

use super::fencer::{FenceError, Fencer};

/// Why a client could not be replaced.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The new one cannot connect.
    #[error(transparent)]
    Ceph(#[from] lusd_ceph::Error),
    /// Its address is none that the map takes.
    #[error(transparent)]
    Address(#[from] lus_map::BadName),
    /// It cannot be put on record.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The old one cannot be fenced.
    #[error(transparent)]
    Fence(#[from] FenceError),
}

/// One client.
#[derive(Clone)]
pub struct DataClient {
    /// The client.
    pub cluster: Cluster,
    /// Its address, as the map has it.
    pub addr: ClientAddr,
}

impl DataClient {
    /// Connects one.
    ///
    /// # Errors
    /// [`ClientError::Ceph`], [`ClientError::Address`].
    pub async fn connect(options: &ClusterOptions) -> Result<Self, ClientError> {
        let cluster = Cluster::connect(options.clone()).await?;
        let addr = cluster.address().to_string().parse()?;
        Ok(Self { cluster, addr })
    }
}

struct Slot {
    current: watch::Sender<DataClient>,
    replacing: Mutex<()>,
}

/// See the module's text.
pub struct DataClients {
    options: ClusterOptions,
    instance: InstanceKey,
    store: MapStore,
    fencer: Arc<Fencer>,
    slots: Vec<Slot>,
}

impl DataClients {
    /// From clients whose addresses were registered with `instance`.
    ///
    /// # Panics
    /// Without any client.
    pub fn new(
        options: ClusterOptions,
        instance: InstanceKey,
        store: MapStore,
        fencer: Arc<Fencer>,
        clients: Vec<DataClient>,
    ) -> Self {
        assert!(!clients.is_empty(), "at least one client for images");
        let slot = |client: DataClient| {
            fencer.protect(client.addr.clone());
            Slot { current: watch::Sender::new(client), replacing: Mutex::new(()) }
        };
        let slots = clients.into_iter().map(slot).collect();
        Self { options, instance, store, fencer, slots }
    }

    fn slot(&self, lu: &LuId) -> &Slot {
        let at = lu.0.as_u128() % self.slots.len() as u128;
        &self.slots[at as usize]
    }

    /// The client of `lu`, now and when it is replaced.
    pub fn of(&self, lu: &LuId) -> watch::Receiver<DataClient> {
        self.slot(lu).current.subscribe()
    }

    /// All of them, as they are now.
    pub fn current(&self) -> Vec<DataClient> {
        self.slots.iter().map(|slot| slot.current.borrow().clone()).collect()
    }

    /// Gives up the client `dead` of `lu`: connects another one, puts it on record, and fences the old one, of which nothing can take
    /// effect any more then. Does nothing when that has happened already.
    ///
    /// # Errors
    /// [`ClientError`]; the old one stays.
    pub async fn replace(&self, lu: &LuId, dead: &ClientAddr) -> Result<(), ClientError> {
        let slot = self.slot(lu);
        let _turn = slot.replacing.lock().await;
        if slot.current.borrow().addr != *dead {
            return Ok(());
        }
        let client = DataClient::connect(&self.options).await?;
        let (id, up_from): (_, Epoch) = (&self.instance.id, self.instance.up_from);
        let addrs = [client.addr.clone()];
        self.store
            .update(|map, origin| change::daemon::add_data_addrs(map, origin, (id, up_from), &addrs))
            .await?;
        info!(old = %dead, new = %client.addr, "the RADOS client for images is replaced");
        self.fencer.protect(client.addr.clone());
        self.fencer.unprotect(dead);
        slot.current.send_replace(client);
        // From here on the LUs of the old client find out by themselves; that it is fenced makes it certain.
        let fenced = self.fencer.fence(dead).await?;
        let gone = [fenced.addr];
        let noted = self
            .store
            .update(|map, origin| change::daemon::fenced(map, origin, &gone, fenced.osd_epoch))
            .await;
        if let Err(error) = noted {
            warn!(%error, client = %dead, "cannot note in the map that it is fenced; the next start does");
        }
        Ok(())
    }

    /// Every client, for the end: they are shut down when the last image is closed.
    pub async fn shutdown(self) {
        for slot in self.slots {
            let client = slot.current.borrow().clone();
            drop(slot);
            client.cluster.shutdown().await;
        }
    }
}
