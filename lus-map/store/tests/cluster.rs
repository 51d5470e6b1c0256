//! Against a real cluster: `eval $(tools/vstart env)`, then `cargo test --features cluster-tests`.

#![expect(clippy::print_stdout, reason = "the times are of interest")]

use std::time::{Duration, Instant};

use lus_map::change::daemon::{self, Register};
use lus_map::change::lu::{self, AddLu};
use lus_map::change::{Change, placement, target};
use lus_map::record::record_object;
use lus_map::{
    Backend, DaemonInstance, Epoch, Fenced, Holder, INCREMENTS_KEPT, Iqn, Lease, LuId, LuState, LusMap,
    MAP_OBJECT, increment_key,
};
use lus_map_store::{
    AckWhen, Commit, MapStore, MapWatch, RecordStore, RecordWrite, Renewal, StoreError, Take, WatchOptions,
};
use lusd_ceph::{Cluster, ClusterOptions, Pool, WriteOp};
use tokio::time::timeout;
use uuid::Uuid;

/// The pool; `LUS_TEST_POOL` names another one.
fn pool_name() -> String {
    std::env::var("LUS_TEST_POOL").unwrap_or_else(|_| ".lus".into())
}

async fn connect() -> Cluster {
    assert!(
        std::env::var_os("CEPH_CONF").is_some(),
        "these tests need a cluster: tools/vstart up, then eval \"$(tools/vstart env)\""
    );
    Cluster::connect(ClusterOptions::from_env()).await.expect("connect to the cluster that CEPH_CONF names")
}

/// A map of one's own: a RADOS namespace that no other test and no daemon uses, which ends with it.
struct Place {
    namespace: String,
    pool: Pool,
}

impl Place {
    async fn new(test: &str) -> Self {
        let namespace = format!("lus-test-{test}-{}", Uuid::new_v4().simple());
        let pool = connect().await.pool(&pool_name(), Some(&namespace)).await.expect("open the pool");
        Self { namespace, pool }
    }

    fn store(&self) -> MapStore {
        MapStore::open(&self.pool)
    }

    /// Another client in the same place.
    async fn elsewhere(&self) -> Self {
        let pool = connect().await.pool(&pool_name(), Some(&self.namespace)).await.expect("open the pool");
        Self { namespace: self.namespace.clone(), pool }
    }

    async fn clear(self) {
        for object in self.pool.list_objects(1000).await.unwrap() {
            self.pool.write(&object, WriteOp::new().remove()).await.unwrap();
        }
    }
}

fn iqn(name: impl std::fmt::Display) -> Iqn {
    format!("iqn.2026-11.io.lus:{name}").parse().unwrap()
}

async fn add_target(store: &MapStore, name: impl std::fmt::Display) -> lus_map_store::Updated {
    store.update(|map, origin| target::create(map, origin, &iqn(&name), false)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn create_change_and_look_back() {
    let place = Place::new("change").await;
    let store = place.store();
    assert!(matches!(store.latest().await, Err(StoreError::NoMap)));
    let first = store.create().await.unwrap();
    assert!(matches!(store.create().await, Err(StoreError::MapExists)));
    assert_eq!(first.fsid().to_string(), place.pool.cluster().fsid());

    let begun = Instant::now();
    let mut maps = vec![(*first).clone()];
    for n in 0..50 {
        maps.push((*add_target(&store, n).await.map).clone());
    }
    println!("a change of the map: {:.2} ms", begun.elapsed().as_secs_f64() * 20.0);
    let other = place.elsewhere().await;
    let whole = other.store().load().await.unwrap();
    assert_eq!(*whole, *maps.last().unwrap());
    for map in &maps {
        assert_eq!(*other.store().past(map.epoch()).await.unwrap(), *map);
    }
    assert!(matches!(other.store().past(Epoch(99)).await, Err(StoreError::NoEpoch(Epoch(99)))));

    // A lost race, against the real comparison.
    let map = other.store().load().await.unwrap();
    let Change::Make { increment, .. } =
        target::create(&map, &other.store().origin(), &iqn("x"), false).unwrap()
    else {
        panic!()
    };
    add_target(&store, "faster").await;
    assert!(matches!(other.store().commit(&map, &increment).await.unwrap(), Commit::Lost));
    place.clear().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_lose_nothing() {
    let place = Place::new("writers").await;
    place.store().create().await.unwrap();
    let mut writers = Vec::new();
    for writer in 0..4 {
        let place = place.elsewhere().await;
        writers.push(tokio::spawn(async move {
            for n in 0..25 {
                let updated = add_target(&place.store(), format!("w{writer}n{n}")).await;
                assert!(updated.changed());
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let map = place.store().load().await.unwrap();
    assert_eq!((map.epoch(), map.targets().count()), (Epoch(101), 100));
    assert_eq!(map.check(), Ok(()));
    place.clear().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_map_is_read_at_one_epoch_while_it_changes() {
    let place = Place::new("large").await;
    let store = place.store();
    store.create().await.unwrap();
    let ask = Register {
        id: "a".parse().unwrap(),
        portals: vec![([127, 0, 0, 1], 3260).into()],
        hostname: "host".into(),
        version: "0.1.0".into(),
        control_addr: place.pool.cluster().address().to_string().parse().unwrap(),
        data_addrs: vec![],
    };
    // 2500 units, in increments of many keys, to be quick.
    let mut map = store.latest().await.unwrap();
    for _ in 0..5 {
        let mut increment = None;
        let mut local = (*map).clone();
        for _ in 0..500 {
            let id = LuId(Uuid::new_v4());
            let backend =
                Backend::Null { name: format!("n{}", id.0.simple()).parse().unwrap(), size_bytes: 512 };
            let made = lu::add(&local, &store.origin(), &AddLu::new(id, backend)).unwrap();
            let Change::Make { increment: one, .. } = made else { panic!() };
            local = local.apply(&one).unwrap();
            let all = increment.get_or_insert_with(|| lus_map::Increment { changes: vec![], ..one.clone() });
            all.changes.extend(one.changes);
        }
        let mut increment = increment.unwrap();
        increment.epoch = map.epoch().next();
        increment.changes.sort_by(|a, b| a.key.cmp(&b.key));
        match store.commit(&map, &increment).await.unwrap() {
            Commit::Committed(committed) => map = committed.map,
            Commit::Lost => panic!("nobody else writes"),
        }
    }
    store.update(|map, origin| daemon::register(map, origin, &ask)).await.unwrap();
    // What one step does not place, the next one does.
    let placed = store.update(placement::place_unplaced).await.unwrap();
    assert_eq!((placed.map.placements().count(), placed.map.unplaced().count()), (2500, 0));
    let writer = {
        let place = place.elsewhere().await;
        tokio::spawn(async move {
            for n in 0..100 {
                add_target(&place.store(), n).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    };
    let reader = place.elsewhere().await;
    let mut epochs = Vec::new();
    while !writer.is_finished() {
        let begun = Instant::now();
        let map = reader.store().load().await.unwrap();
        assert_eq!(map.lus().count(), 2500);
        assert_eq!(map.targets().count() as u64, map.epoch().0 - 8, "targets and epoch agree");
        epochs.push((map.epoch().0, begun.elapsed().as_millis()));
    }
    writer.await.unwrap();
    println!("epochs and times (ms) of reading {} entities: {epochs:?}", map.entities());
    place.clear().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_increments_go() {
    let place = Place::new("trim").await;
    let store = place.store();
    let first = store.create().await.unwrap();
    for n in 0..INCREMENTS_KEPT + 5 {
        store
            .update(|map, o| match map.target(&iqn(n % 3)) {
                Some(_) => target::remove(map, o, &iqn(n % 3), false),
                None => target::create(map, o, &iqn(n % 3), false),
            })
            .await
            .unwrap();
    }
    let omap = place.pool.snapshot(MAP_OBJECT, "inc.").await.unwrap().omap;
    assert_eq!(omap.len() as u64, INCREMENTS_KEPT);
    assert!(!omap.contains_key(&increment_key(Epoch(6))));
    assert!(omap.contains_key(&increment_key(Epoch(7))));
    let late = place.elsewhere().await.store();
    let newest = late.refresh(&first).await.unwrap();
    assert_eq!(newest.epoch().0, INCREMENTS_KEPT + 6);
    assert_eq!(*late.past(Epoch(7)).await.unwrap(), *store.past(Epoch(7)).await.unwrap());
    assert!(matches!(late.past(Epoch(6)).await, Err(StoreError::NoEpoch(_))));
    place.clear().await;
}

async fn reaches(watch: &MapWatch, map: &LusMap) {
    let mut maps = watch.maps();
    let reached = timeout(Duration::from_secs(30), maps.wait_for(|seen| seen.epoch() >= map.epoch())).await;
    reached.expect("it gets there").expect("it lives");
    assert_eq!(*watch.map(), *map);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_see_each_change_when_the_writer_has_waited() {
    let place = Place::new("watch").await;
    let store = place.store();
    store.create().await.unwrap();
    let mut watches = Vec::new();
    for _ in 0..3 {
        let options = WatchOptions { poll: Duration::from_secs(3600), ..WatchOptions::default() };
        watches.push(MapWatch::start(place.elsewhere().await.store(), options).await.unwrap());
    }
    let begun = Instant::now();
    for n in 0..20 {
        let updated = add_target(&store, n).await;
        let map = updated.map.clone();
        let outcome = updated.wait_for_watchers().await;
        assert_eq!((outcome.acked.len(), outcome.missing), (3, 0));
        for watch in &watches {
            assert_eq!(*watch.map(), *map);
        }
    }
    println!("a change, seen by three watchers: {:.2} ms", begun.elapsed().as_secs_f64() * 50.0);

    // One that does not apply is waited for a second, and told of; the others have it.
    let options = WatchOptions { ack: AckWhen::Applied, ..WatchOptions::default() };
    let lazy = MapWatch::start(place.elsewhere().await.store(), options).await.unwrap();
    let begun = Instant::now();
    let updated = add_target(&store, "lazy").await;
    let (map, changed) = (updated.map.clone(), begun.elapsed());
    assert!(changed < Duration::from_millis(700), "the change does not wait for the watchers: {changed:?}");
    let outcome = updated.wait_for_watchers().await;
    assert_eq!((outcome.acked.len(), outcome.missing), (3, 1));
    assert!(
        (Duration::from_millis(900)..Duration::from_secs(4)).contains(&begun.elapsed()),
        "{:?}",
        begun.elapsed()
    );
    reaches(&lazy, &map).await;
    place.clear().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_without_notifies_polls_and_one_that_is_fenced_says_so() {
    let place = Place::new("poll").await;
    let store = place.store();
    let first = store.create().await.unwrap();
    let throwaway = place.elsewhere().await;
    let options = WatchOptions {
        poll: Duration::from_secs(1),
        retry: Duration::from_millis(300),
        ..Default::default()
    };
    let watch = MapWatch::start(throwaway.store(), options).await.unwrap();

    // Written past the store, so that nobody is notified.
    let Change::Make { increment, .. } =
        target::create(&first, &store.origin(), &iqn("quiet"), false).unwrap()
    else {
        panic!()
    };
    let mut pairs = vec![(increment.omap_key(), increment.encode())];
    pairs
        .extend(increment.changes.iter().map(|change| (change.key.to_string(), change.new.clone().unwrap())));
    let op = WriteOp::new().cmpxattr_eq("epoch", "1").setxattr("epoch", "2").omap_set(pairs);
    place.pool.write(MAP_OBJECT, op).await.unwrap();
    let map = place.store().load().await.unwrap();
    reaches(&watch, &map).await;

    // The other client is fenced: its watch breaks, and the follower says why.
    let mut health = watch.health();
    let addr = throwaway.pool.cluster().address();
    place.pool.cluster().blocklist_add(&addr, Duration::from_secs(60)).await.unwrap();
    let fenced = timeout(
        Duration::from_secs(20),
        health.wait_for(|health| health.error.as_ref().is_some_and(|error| error.is_fenced())),
    );
    fenced.await.expect("it notices").expect("it lives");
    let error =
        throwaway.store().update(|map, o| target::create(map, o, &iqn("no"), false)).await.unwrap_err();
    assert!(error.is_fenced(), "{error}");
    assert_eq!(*watch.map(), *map);
    drop(watch);
    place.clear().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records() {
    let place = Place::new("records").await;
    let records = RecordStore::new(place.store().objects());
    let lu = LuId(Uuid::new_v4());
    assert_eq!(records.read(&lu).await.unwrap(), None);
    let new = records.read_or_create(&lu).await.unwrap();
    let holder = |daemon: &str, nonce: u32| Holder {
        daemon: daemon.parse().unwrap(),
        up_from: Epoch(2),
        addr: format!("127.0.0.1:0/{nonce}").parse().unwrap(),
    };
    let begun = Instant::now();
    let serving = records.transition(&lu, |record| record.claim(&holder("a", 1))).await.unwrap();
    println!("a claim: {:.2} ms", begun.elapsed().as_secs_f64() * 1e3);
    let other = RecordStore::new(place.elsewhere().await.store().objects());
    assert_eq!(other.read(&lu).await.unwrap(), Some(serving.clone()));
    let claim = new.claim(&holder("b", 2)).unwrap();
    assert_eq!(other.write(&new, &claim).await.unwrap(), RecordWrite::Lost(Some(serving.clone())));
    let fenced = Fenced { addr: holder("a", 1).addr, osd_epoch: 5 };
    let taken = other.transition(&lu, |record| record.take_over(&holder("b", 2), &fenced)).await.unwrap();
    assert_eq!((taken.lu_epoch, &taken.state), (Epoch(2), &LuState::Serving { holder: holder("b", 2) }));
    let stale = serving.release(&holder("a", 1)).unwrap();
    assert_eq!(records.write(&serving, &stale).await.unwrap(), RecordWrite::Lost(Some(taken.clone())));
    assert_eq!(records.remove(&taken).await.unwrap(), RecordWrite::Written);
    assert!(!place.pool.list_objects(10).await.unwrap().contains(&record_object(&lu)));
    assert_eq!(records.remove(&taken).await.unwrap(), RecordWrite::Written);
    place.clear().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_taken_renewed_and_decided_by_the_lease() {
    let place = Place::new("lease").await;
    let (store, elsewhere) = (place.store(), place.elsewhere().await);
    let rival = elsewhere.store();
    store.create().await.unwrap();
    let mut starts = Vec::new();
    for (name, place) in [("a", &place), ("b", &elsewhere)] {
        let control_addr = place.pool.cluster().address().to_string().parse().unwrap();
        let ask = Register {
            id: name.parse().unwrap(),
            portals: vec![],
            hostname: "host".into(),
            version: "0.1.0".into(),
            control_addr,
            data_addrs: vec![],
        };
        let map = store.update(|map, origin| daemon::register(map, origin, &ask)).await.unwrap().map;
        starts.push(map.daemon(&ask.id).unwrap().clone());
    }
    assert_eq!(store.read_lease().await.unwrap(), None);
    let first = store.take(&starts[0].key(), 0, None).await.unwrap();
    let Take::Taken { lease: mut held, .. } = first else { panic!("{first:?}") };
    let epoch = store.latest().await.unwrap().epoch();
    let begun = Instant::now();
    for _ in 0..50 {
        let Renewal::Renewed(next) = store.renew(held).await.unwrap() else { panic!() };
        held = next;
    }
    println!("a renewal: {:.2} ms", begun.elapsed().as_secs_f64() * 20.0);
    assert_eq!(rival.latest().await.unwrap().epoch(), epoch);
    // Seen before the last renewal; seen after it.
    let before = Lease { count: held.count - 1, ..held };
    assert!(matches!(rival.take(&starts[1].key(), 1, Some(before)).await.unwrap(), Take::Lost));
    let begun = Instant::now();
    let taken = rival.take(&starts[1].key(), 1, Some(held)).await.unwrap();
    println!("taking the leadership: {:.2} ms", begun.elapsed().as_secs_f64() * 1e3);
    assert!(matches!(taken, Take::Taken { lease: Lease { term: 2, count: 0 }, .. }), "{taken:?}");
    assert_eq!(store.renew(held).await.unwrap(), Renewal::Lost(Some(Lease { term: 2, count: 0 })));
    assert!(matches!(store.take(&starts[0].key(), 1, Some(held)).await.unwrap(), Take::Lost));

    // Each watches; who gives it up is not listed, and who is fenced is not either, at once.
    let options = WatchOptions::default();
    let mine = MapWatch::start(store.clone(), options.clone()).await.unwrap();
    let theirs = MapWatch::start(rival.clone(), options).await.unwrap();
    let listed = async |start: &DaemonInstance| {
        let watchers = store.look_around().await.unwrap().watchers;
        watchers.contains(start.control_addr.as_ref().unwrap())
    };
    let begun = Instant::now();
    assert!(listed(&starts[0]).await && listed(&starts[1]).await);
    println!("a look around: {:.2} ms", begun.elapsed().as_secs_f64() * 500.0);
    mine.hold_watch(false);
    timeout(Duration::from_secs(5), mine.health().wait_for(|health| !health.watching))
        .await
        .unwrap()
        .unwrap();
    let gone = async {
        while listed(&starts[0]).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(3), gone).await.expect("it is no watcher any more");
    let addr = elsewhere.pool.cluster().address();
    place.pool.cluster().blocklist_add(&addr, Duration::from_secs(60)).await.unwrap();
    let begun = Instant::now();
    while listed(&starts[1]).await {
        assert!(begun.elapsed() < Duration::from_secs(5), "a fenced one is no watcher");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    mine.hold_watch(true);
    timeout(Duration::from_secs(5), mine.health().wait_for(|health| health.watching)).await.unwrap().unwrap();
    assert!(listed(&starts[0]).await);
    drop((mine, theirs));
    place.clear().await;
}
