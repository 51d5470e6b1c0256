//! The target under test.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use lusd::listener::Bound;
use lusd::lun::backend::Backend;
use lusd::lun::gate::LuEpoch;
use lusd::lun::ram::RamStore;
use lusd::lun::reserve;
use lusd::lun::unit::Unit;
use lusd::net::shard::ShardHandle;
use lusd::service::{Limits, Service};
use lusd::target::view::{LunTable, Portal, TargetView, View};
use lusd_scsi::{AccessState, BlockSize, Identity, LogicalUnit, LogicalUnitConfig, Lun};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::initiator::Initiator;

pub(crate) const TARGET: &str = "iqn.2026-11.io.lus:disk";
pub(crate) const HOST: &str = "iqn.2026-11.io.lus:host";
pub(crate) const OTHER_HOST: &str = "iqn.2026-11.io.lus:other";

/// Long enough for the slowest machine; nothing waits for it to pass.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a condition.
#[expect(clippy::disallowed_methods, reason = "blocks a test's own thread, not a shard")]
#[track_caller]
pub(crate) fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Limits under which nothing happens by the clock alone.
pub(crate) fn limits() -> Limits {
    limits_with(|_| {})
}

pub(crate) fn limits_with(change: impl FnOnce(&mut lusd_iscsi::Config)) -> Limits {
    let hour = Duration::from_secs(3600);
    let mut iscsi = lusd_iscsi::Config {
        nop_interval: hour,
        nop_timeout: hour,
        data_out_timeout: hour,
        login_timeout: PATIENCE,
        ..Default::default()
    };
    change(&mut iscsi);
    Limits { iscsi: Arc::new(iscsi), send_timeout: hour, stall_bound: hour, ..Default::default() }
}

pub(crate) fn lun(number: u16) -> Lun {
    Lun::new(number).expect("a small number")
}

/// A panic on a shard ends its thread and is otherwise only logged.
static SHARD_PANICKED: AtomicBool = AtomicBool::new(false);

fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if std::thread::current().name().is_some_and(|name| name.starts_with("lus-shard")) {
                SHARD_PANICKED.store(true, SeqCst);
            }
            before(info);
        }));
    });
}

/// A daemon's data path with its accept loop.
pub(crate) struct Gateway {
    pub service: Arc<Service>,
    pub address: SocketAddr,
    pub runtime: Runtime,
    shards: Option<Arc<Vec<ShardHandle>>>,
    stop: watch::Sender<bool>,
    accepting: Option<tokio::task::JoinHandle<()>>,
}

impl Gateway {
    /// Listens on an address of its own, with nothing to see.
    pub(crate) fn start(limits: Limits, shards: usize) -> Self {
        note_panics();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let service = Service::new(limits, shards);
        let handles: Vec<_> = (0..shards).map(|i| ShardHandle::start(i, service.clone()).unwrap()).collect();
        let handles = Arc::new(handles);
        let (stop, stopped) = watch::channel(false);
        let guard = runtime.enter();
        let listeners = Bound::bind(&["127.0.0.1:0".parse().unwrap()]).unwrap().listen().unwrap();
        let address = listeners.addresses()[0];
        let accepting = tokio::spawn(listeners.run(service.clone(), handles.clone(), stopped));
        drop(guard);
        Self { service, address, runtime, shards: Some(handles), stop, accepting: Some(accepting) }
    }

    /// One target with one `ram:` unit of 64 MiB as LUN 0, open to everyone.
    pub(crate) fn with_ram(limits: Limits, shards: usize) -> (Self, Arc<Unit>) {
        let gateway = Self::start(limits, shards);
        let unit = gateway.ram();
        gateway.show(&[(0, &unit)]);
        (gateway, unit)
    }

    pub(crate) fn ram(&self) -> Arc<Unit> {
        const CAPACITY: u64 = 64 << 20;
        self.unit(CAPACITY, BlockSize::B512, Backend::Ram(RamStore::new(CAPACITY)))
    }

    pub(crate) fn null(&self) -> Arc<Unit> {
        self.unit(1 << 40, BlockSize::B512, Backend::Null)
    }

    pub(crate) fn unit(&self, capacity: u64, block_size: BlockSize, backend: Backend) -> Arc<Unit> {
        let id = lus_map::LuId(uuid::Uuid::new_v4());
        let config = LogicalUnitConfig {
            block_size,
            physical_block_exponent: 0,
            ..LogicalUnitConfig::new(Identity::new(*id.0.as_bytes()), capacity)
        };
        let scsi = LogicalUnit::new(config, AccessState::BecomingReady).unwrap();
        let unit = Unit::new(id, "ram:test".to_owned(), scsi, self.service.shards);
        unit.serve(LuEpoch(1), Arc::new(backend));
        self.runtime.spawn(reserve::serve_volatile(unit.clone(), self.service.clone()));
        unit
    }

    /// Publishes [`TARGET`] with these LUNs, open to everyone.
    pub(crate) fn show(&self, luns: &[(u16, &Arc<Unit>)]) {
        let luns: LunTable = luns.iter().map(|(number, unit)| (lun(*number), Arc::clone(unit))).collect();
        self.publish([(TARGET.to_owned(), TargetView { open: true, luns, ..Default::default() })].into());
    }

    pub(crate) fn publish(&self, targets: BTreeMap<String, TargetView>) {
        let portals = vec![Portal { address: self.address, group_tag: 1 }];
        self.service.publish(View { group_tag: 1, targets, portals });
    }

    /// A connection that has said nothing yet. They go to the shards in turn.
    pub(crate) fn connect(&self) -> Initiator {
        Initiator::connect(self.address)
    }

    /// A normal session of [`HOST`] with [`TARGET`]; the unit attentions of the login are read away.
    pub(crate) fn session(&self) -> Initiator {
        self.session_of(HOST, "")
    }

    pub(crate) fn session_of(&self, host: &str, keys: &str) -> Initiator {
        let mut initiator = self.connect();
        initiator.login(host, TARGET, keys).expect("login");
        for lun in initiator.report_luns() {
            initiator.clear_attentions(lun);
        }
        initiator
    }

    /// Waits until all data memory was given back.
    #[track_caller]
    pub(crate) fn memory_is_back(&self) {
        until("all data memory is given back", || self.service.memory.used() == 0);
    }
}

impl Drop for Gateway {
    /// Ends it as the daemon does: nothing may be left.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.stop.send_replace(true);
        self.runtime.block_on(self.accepting.take().unwrap()).unwrap();
        self.service.sessions.close_all();
        let shards = Arc::into_inner(self.shards.take().unwrap()).expect("the accept loop has ended");
        shards.into_iter().for_each(ShardHandle::join);
        assert!(!SHARD_PANICKED.load(SeqCst), "a shard panicked");
        assert_eq!(self.service.sessions.connections(), 0);
        assert_eq!(self.service.memory.used(), 0, "data memory is left over");
    }
}
