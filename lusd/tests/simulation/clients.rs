//! The RADOS clients for images of a daemon, and its way to fence others: as `lusd::lun::{clients, fencer}`, over the simulated RADOS.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lus_map::change::daemon;
use lus_map::{ClientAddr, Fenced, InstanceKey, LuId};
use lus_map_store::{MapStore, StoreError};
use lusd::lun::fencer::FenceError;
use tokio::sync::{OnceCell, watch};

use crate::process::Process;
use crate::rados::Client;
use crate::rules::Rule;
use crate::sim::{Sim, lock};

/// Ten years: `lus_blocklist_expire`.
const EXPIRE: Duration = Duration::from_secs(3650 * 86_400);
/// What a fence lasts when it is too short on purpose: what the monitors use by themselves.
const EXPIRE_SHORT: Duration = Duration::from_secs(3600);

pub(crate) fn addr_of(client: &Client) -> ClientAddr {
    client.addr.parse().expect("an address")
}

/// Puts RADOS clients on the blocklist, each once.
pub(crate) struct Fencer {
    sim: Arc<Sim>,
    process: Arc<Process>,
    pub(crate) control: Client,
    own: Mutex<Vec<ClientAddr>>,
    done: Mutex<BTreeMap<ClientAddr, Arc<OnceCell<Fenced>>>>,
}

impl Fencer {
    pub(crate) fn new(control: &Client) -> Arc<Self> {
        Arc::new(Self {
            sim: control.rados.sim.clone(),
            process: control.process.clone(),
            control: control.clone(),
            own: Mutex::new(vec![addr_of(control)]),
            done: Mutex::default(),
        })
    }

    pub(crate) async fn fence(&self, addr: &ClientAddr) -> Result<Fenced, FenceError> {
        if lock(&self.own).contains(addr) {
            return Err(FenceError::Own(addr.clone()));
        }
        if self.sim.breaks(Rule::Fence) {
            return Ok(Fenced { addr: addr.clone(), osd_epoch: 1 });
        }
        let cell = lock(&self.done).entry(addr.clone()).or_default().clone();
        let expire = if self.sim.breaks(Rule::LongExpiry) { EXPIRE_SHORT } else { EXPIRE };
        let fenced = cell
            .get_or_init(|| async {
                let osd_epoch = self.control.blocklist_add(addr.as_str(), expire).await;
                Fenced { addr: addr.clone(), osd_epoch }
            })
            .await;
        Ok(fenced.clone())
    }

    pub(crate) async fn fence_all(
        self: &Arc<Self>,
        addrs: Vec<ClientAddr>,
    ) -> Result<Vec<Fenced>, FenceError> {
        for addr in addrs.clone() {
            let fencer = self.clone();
            self.process.spawn(async move { drop(fencer.fence(&addr).await) });
        }
        let mut fenced = Vec::new();
        for addr in &addrs {
            fenced.push(self.fence(addr).await?);
        }
        Ok(fenced)
    }

    pub(crate) async fn is_fenced_for_good(&self, addr: &ClientAddr) -> bool {
        self.control.is_fenced_for_good(addr.as_str()).await
    }
}

struct Slot {
    current: Mutex<Client>,
    /// One receiver each: LUs hear of a new client in a fixed order.
    told: Mutex<Vec<watch::Sender<Client>>>,
    replacing: tokio::sync::Mutex<()>,
}

/// See the module's text.
pub(crate) struct Clients {
    me: InstanceKey,
    ip: String,
    process: Arc<Process>,
    store: MapStore,
    fencer: Arc<Fencer>,
    slots: Vec<Slot>,
}

impl Clients {
    pub(crate) fn new(
        me: InstanceKey,
        ip: String,
        store: MapStore,
        fencer: Arc<Fencer>,
        clients: Vec<Client>,
    ) -> Arc<Self> {
        let process = fencer.process.clone();
        let slot = |client: Client| {
            lock(&fencer.own).push(addr_of(&client));
            Slot {
                current: Mutex::new(client),
                told: Mutex::default(),
                replacing: tokio::sync::Mutex::default(),
            }
        };
        let slots = clients.into_iter().map(slot).collect();
        Arc::new(Self { me, ip, process, store, fencer, slots })
    }

    fn slot(&self, lu: &LuId) -> &Slot {
        let at = lu.0.as_u128() % self.slots.len() as u128;
        &self.slots[at as usize]
    }

    pub(crate) fn of(&self, lu: &LuId) -> watch::Receiver<Client> {
        let slot = self.slot(lu);
        let (sender, receiver) = watch::channel(lock(&slot.current).clone());
        lock(&slot.told).push(sender);
        receiver
    }

    pub(crate) fn current(&self) -> Vec<Client> {
        self.slots.iter().map(|slot| lock(&slot.current).clone()).collect()
    }

    /// Connects another client in the place of `dead`, puts it on record, and fences the old one.
    pub(crate) async fn replace(&self, lu: &LuId, dead: &ClientAddr) -> Result<(), ReplaceError> {
        let slot = self.slot(lu);
        let sim = self.fencer.sim.clone();
        let _turn = slot.replacing.lock().await;
        if addr_of(&lock(&slot.current)) != *dead {
            return Ok(());
        }
        let client = self.fencer.control.rados.client(&self.process, &self.ip);
        tokio::time::sleep(sim.ms(10..=40)).await;
        let start = (&self.me.id, self.me.up_from);
        let addrs = [addr_of(&client)];
        if !sim.breaks(Rule::AddressesAhead) {
            self.store.update(|map, origin| daemon::add_data_addrs(map, origin, start, &addrs)).await?;
        }
        sim.note(|| format!("{}: {dead} is replaced by {}", self.me, client.addr));
        let [new] = addrs;
        {
            let mut own = lock(&self.fencer.own);
            own.push(new);
            own.retain(|addr| addr != dead);
        }
        *lock(&slot.current) = client.clone();
        lock(&slot.told).retain(|told| told.send(client.clone()).is_ok());
        let gone = [dead.clone()];
        if sim.breaks(Rule::AddressesStay) {
            self.store.update(|map, origin| daemon::remove_data_addrs(map, origin, start, &gone)).await?;
            return Ok(());
        }
        let fenced = self.fencer.fence(dead).await?;
        // The next start notes it where that fails.
        let _ = self.store.update(|map, origin| daemon::fenced(map, origin, &gone, fenced.osd_epoch)).await;
        Ok(())
    }
}

/// Why a client could not be replaced.
#[derive(Debug)]
#[expect(dead_code, reason = "for the trace")]
pub(crate) enum ReplaceError {
    Store(StoreError),
    Fence(FenceError),
}

impl From<StoreError> for ReplaceError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<FenceError> for ReplaceError {
    fn from(error: FenceError) -> Self {
        Self::Fence(error)
    }
}
