//! Daemons in memory, on a clock that runs when nothing else does.

use std::sync::Mutex;

use lus_map::change::daemon::Register;
use lus_map::change::flags;
use lus_map::change::lu::{self, AddLu};
use lus_map::{Backend, Flag, LuId};
use lus_map_store::memory::Memory;
use lus_map_store::{MapWatch, WatchOptions};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::*;

const FSID: &str = "19870b3c-8b62-466d-9486-786ae60cd7f7";
const UNITS: u128 = 12;

/// What a daemon is made of, as far as leading goes.
struct Node {
    key: InstanceKey,
    address: String,
    follow: MapWatch,
    leads: watch::Receiver<Option<u64>>,
    driver: JoinHandle<()>,
}

struct Bench {
    memory: Memory,
    store: MapStore,
    nodes: Vec<Node>,
    fenced: Arc<Mutex<Vec<ClientAddr>>>,
}

fn store(memory: &Memory) -> MapStore {
    MapStore::with_objects(Arc::new(memory.clone()), "client.test", FSID)
}

impl Bench {
    async fn new(names: &[&str]) -> Self {
        let memory = Memory::default();
        let store = store(&memory);
        store.create().await.unwrap();
        let mut bench = Self { memory, store, nodes: Vec::new(), fenced: Arc::default() };
        for (n, name) in names.iter().enumerate() {
            bench.start(name, n + 1).await;
        }
        for n in 0..UNITS {
            let backend = Backend::Null { name: format!("u{n}").parse().unwrap(), size_bytes: 4096 };
            let ask = AddLu::new(LuId(Uuid::from_u128(n + 1)), backend);
            bench.store.update(|map, origin| lu::add(map, origin, &ask)).await.unwrap();
        }
        bench
    }

    async fn start(&mut self, name: &str, n: usize) {
        let address = format!("10.0.0.{n}:0/1");
        let store = store(&self.memory.client(&*address));
        let ask = Register {
            id: name.parse().unwrap(),
            portals: vec![],
            hostname: "h".to_owned(),
            version: "1".to_owned(),
            control_addr: address.parse().unwrap(),
            data_addrs: vec![format!("10.0.0.{n}:0/2").parse().unwrap()],
        };
        let updated = store.update(|map, origin| daemon::register(map, origin, &ask)).await.unwrap();
        let key = updated.map.daemon(&ask.id).unwrap().key();
        let follow = MapWatch::start(store.clone(), WatchOptions::default()).await.unwrap();
        let (leads_sender, leads) = watch::channel(None);
        let fenced = self.fenced.clone();
        let fence: FenceAll = Arc::new(move |addrs| {
            fenced.lock().unwrap().extend(addrs.iter().cloned());
            Box::pin(async move { Ok(addrs.into_iter().map(|addr| Fenced { addr, osd_epoch: 5 }).collect()) })
        });
        let driver = Driver::new(key.clone(), store, follow.maps(), fence, leads_sender);
        let driver = tokio::spawn(driver.run());
        self.nodes.push(Node { key, address, follow, leads, driver });
    }

    async fn map(&self) -> Arc<LusMap> {
        self.store.latest().await.unwrap()
    }

    /// Which of the daemons lead, by their own word.
    fn leaders(&self) -> Vec<usize> {
        let leads = |node: &Node| !node.driver.is_finished() && node.leads.borrow().is_some();
        (0..self.nodes.len()).filter(|n| leads(&self.nodes[*n])).collect()
    }

    /// The daemon is no more: its watch is still there until it is hidden.
    fn kill(&self, n: usize) {
        self.nodes[n].driver.abort();
    }

    fn hide(&self, n: usize) {
        self.memory.hide_watcher(&self.nodes[n].address, true);
    }
}

async fn seconds(n: u64) {
    tokio::time::sleep(Duration::from_secs(n)).await;
}

#[tokio::test(start_paused = true)]
async fn one_leads_and_its_successor_declares_it_down() {
    let bench = Bench::new(&["a", "b", "c"]).await;
    seconds(8).await;
    let [first] = bench.leaders()[..] else { panic!("one leads: {:?}", bench.leaders()) };
    let map = bench.map().await;
    assert_eq!(map.leader().unwrap().instance(), bench.nodes[first].key);
    let term = map.leader().unwrap().term;
    seconds(30).await;
    assert_eq!(
        bench.map().await.epoch(),
        map.epoch(),
        "a lease is renewed without an epoch, and nobody is judged"
    );
    assert!(map.placements().any(|p| p.owner == bench.nodes[first].key.id), "it has units");

    bench.kill(first);
    bench.hide(first);
    seconds(5).await;
    let map = bench.map().await;
    let next = map.leader().unwrap();
    assert_ne!(next.instance(), bench.nodes[first].key);
    assert_eq!(next.term, term + 1);
    let dead = map.daemon(&bench.nodes[first].key.id).unwrap();
    assert!(matches!(dead.state, InstanceState::Down { .. }));
    assert!(map.placements().all(|p| p.owner != dead.id), "its units have other owners");
    let fenced = bench.fenced.lock().unwrap().clone();
    assert_eq!(
        fenced.iter().map(|addr| addr.as_str().to_owned()).collect::<Vec<_>>(),
        [format!("10.0.0.{}:0/1", first + 1), format!("10.0.0.{}:0/2", first + 1)]
    );
    assert_eq!(dead.unfenced().count(), 0, "and that is on record");
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_is_gone_is_declared_down_unless_nofailover_is_set() {
    let bench = Bench::new(&["a", "b", "c"]).await;
    seconds(8).await;
    let [leader] = bench.leaders()[..] else { panic!("one leads") };
    let other = (leader + 1) % 3;
    bench.store.update(|map, origin| flags::set(map, origin, Flag::NoFailover)).await.unwrap();
    bench.kill(other);
    bench.hide(other);
    seconds(60).await;
    let state = |map: &LusMap| map.daemon(&bench.nodes[other].key.id).unwrap().state;
    assert!(state(&*bench.map().await).is_up());
    bench.store.update(|map, origin| flags::unset(map, origin, Flag::NoFailover)).await.unwrap();
    seconds(3).await;
    assert!(!state(&*bench.map().await).is_up());
    assert_eq!(bench.leaders(), [leader]);
}

#[tokio::test(start_paused = true)]
async fn who_gives_its_watch_up_resigns_and_the_last_one_is_not_judged() {
    let bench = Bench::new(&["a", "b"]).await;
    seconds(8).await;
    let [leader] = bench.leaders()[..] else { panic!("one leads") };
    bench.nodes[leader].follow.hold_watch(false);
    seconds(12).await;
    let other = 1 - leader;
    assert_eq!(bench.leaders(), [other]);
    let map = bench.map().await;
    assert!(!map.daemon(&bench.nodes[leader].key.id).unwrap().state.is_up());
    bench.nodes[other].follow.hold_watch(false);
    seconds(60).await;
    assert!(bench.map().await.daemon(&bench.nodes[other].key.id).unwrap().state.is_up());
}

#[tokio::test(start_paused = true)]
async fn units_come_to_a_new_daemon_by_and_by() {
    let mut bench = Bench::new(&["a"]).await;
    seconds(8).await;
    bench.start("b", 2).await;
    seconds(30).await;
    let at = |map: &LusMap, id: &str| map.placements().filter(|p| p.owner.as_str() == id).count();
    assert_eq!(at(&*bench.map().await, "b"), 0, "not before it has been up for a while");
    // Placements carry the time of the machine, which the paused clock does not move: a map of the past stands in for it.
    let map = bench.map().await;
    let mut origin = bench.store.origin().leading(map.leader().unwrap().term);
    origin.when.0 += 120 * 1_000_000;
    assert_eq!(next_work(&map, &origin, &[], true), Some(Work::Rebalance));
    assert_eq!(next_work(&map, &origin, &[], false), None);
}
