//! Following the map, on a clock that does not run by itself.

use std::sync::Arc;
use std::time::Duration;

use lus_map::change::target;
use lus_map::{Epoch, INCREMENTS_KEPT, Iqn, LusMap, MAP_OBJECT};
use lus_map_store::memory::Memory;
use lus_map_store::{AckWhen, MapStore, MapWatch, NotifyOutcome, StoreError, WatchOptions};
use tokio::time::{Instant, timeout};

const FSID: &str = "19870b3c-8b62-466d-9486-786ae60cd7f7";

fn store(memory: &Memory) -> MapStore {
    MapStore::with_objects(Arc::new(memory.clone()), "client.test", FSID)
}

fn iqn(n: u64) -> Iqn {
    format!("iqn.2026-11.io.lus:t{n}").parse().unwrap()
}

/// Makes a target, or removes it if it is there, and waits for the watchers.
async fn change(store: &MapStore, n: u64) -> (Arc<LusMap>, NotifyOutcome) {
    let updated = store
        .update(|map, o| match map.target(&iqn(n)) {
            Some(_) => target::remove(map, o, &iqn(n), false),
            None => target::create(map, o, &iqn(n), false),
        })
        .await
        .unwrap();
    (Arc::clone(&updated.map), updated.wait_for_watchers().await)
}

async fn start(options: WatchOptions) -> (Memory, MapStore, MapWatch) {
    let memory = Memory::default();
    let writer = store(&memory);
    assert!(matches!(MapWatch::start(store(&memory), options.clone()).await, Err(StoreError::NoMap)));
    writer.create().await.unwrap();
    let watch = MapWatch::start(store(&memory), options).await.unwrap();
    assert_eq!(watch.map().epoch(), Epoch(1));
    (memory, writer, watch)
}

/// Waits until the follower has `epoch`; how long that took.
async fn reaches(watch: &MapWatch, epoch: Epoch) -> Duration {
    let begun = Instant::now();
    let mut maps = watch.maps();
    let reached = timeout(Duration::from_secs(60), maps.wait_for(|map| map.epoch() >= epoch)).await;
    reached.expect("it gets there").expect("it lives");
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_notify_brings_the_map_at_once() {
    let (_, writer, watch) = start(WatchOptions::default()).await;
    for n in 0..20 {
        let (map, outcome) = change(&writer, n).await;
        // The writer that waits knows that every watcher has it.
        assert_eq!(outcome, NotifyOutcome { acked: vec![map.epoch()], missing: 0 });
        assert_eq!(*watch.map(), *map);
    }
    let health = watch.health().borrow().clone();
    assert!(health.watching && health.error.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_lost_notify_costs_the_poll() {
    let (memory, writer, watch) = start(WatchOptions::default()).await;
    memory.lose_notifies(true);
    let (map, _) = change(&writer, 1).await;
    assert_eq!(watch.map().epoch(), Epoch(1));
    let waited = reaches(&watch, map.epoch()).await;
    assert!(waited <= Duration::from_secs(11), "{waited:?}");
    assert_eq!(*watch.map(), *map);
}

#[tokio::test(start_paused = true)]
async fn behind_by_more_than_is_kept() {
    let (memory, writer, watch) =
        start(WatchOptions { poll: Duration::from_secs(3600), ..Default::default() }).await;
    memory.lose_notifies(true);
    for n in 0..INCREMENTS_KEPT + 100 {
        change(&writer, n % 5).await;
    }
    assert_eq!(watch.map().epoch(), Epoch(1));
    memory.lose_notifies(false);
    let (map, _) = change(&writer, 9).await;
    reaches(&watch, map.epoch()).await;
    assert_eq!(*watch.map(), *map);
}

#[tokio::test(start_paused = true)]
async fn a_broken_watch_is_made_again() {
    let (memory, writer, watch) = start(WatchOptions::default()).await;
    for n in 0..5 {
        memory.break_watches();
        // What happened while there was no watch is not missed for longer than it takes to watch again.
        let (map, _) = change(&writer, n).await;
        let waited = reaches(&watch, map.epoch()).await;
        assert!(waited <= Duration::from_secs(2), "{waited:?}");
        let (map, outcome) = change(&writer, n + 100).await;
        assert_eq!(outcome.acked, [map.epoch()], "it is watched again");
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_gone_is_reported_and_comes_back() {
    let (memory, writer, watch) = start(WatchOptions::default()).await;
    let (map, _) = change(&writer, 1).await;
    let object = memory.object(MAP_OBJECT).unwrap();
    memory.edit(MAP_OBJECT, |object| drop(object.xattrs.remove("epoch")));
    let mut health = watch.health();
    timeout(Duration::from_secs(20), health.wait_for(|health| health.error.is_some()))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(*watch.map(), *map, "the last good map stays");
    memory.edit(MAP_OBJECT, |broken| *broken = object);
    timeout(Duration::from_secs(20), health.wait_for(|health| health.error.is_none()))
        .await
        .unwrap()
        .unwrap();
    let (map, _) = change(&writer, 2).await;
    assert_eq!(*watch.map(), *map);
}

#[tokio::test(start_paused = true)]
async fn acknowledged_when_applied() {
    let (_, writer, watch) = start(WatchOptions { ack: AckWhen::Applied, ..WatchOptions::default() }).await;
    let mut maps = watch.maps();
    let (_, outcome) = change(&writer, 1).await;
    assert_eq!(outcome, NotifyOutcome { acked: vec![], missing: 1 }, "nobody applied it");
    let applier = tokio::spawn(async move {
        while maps.changed().await.is_ok() {
            let epoch = maps.borrow_and_update().epoch();
            tokio::time::sleep(Duration::from_millis(300)).await;
            watch.applied(epoch);
            watch.applied(Epoch(1));
        }
    });
    let begun = Instant::now();
    let (map, outcome) = change(&writer, 2).await;
    assert_eq!(outcome, NotifyOutcome { acked: vec![map.epoch()], missing: 0 });
    assert!(begun.elapsed() >= Duration::from_millis(300));
    applier.abort();
}

#[tokio::test(start_paused = true)]
async fn a_follower_ends_with_its_handle() {
    let (_, writer, watch) = start(WatchOptions::default()).await;
    let maps = watch.maps();
    drop(watch);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(maps.has_changed().is_err());
    let (_, outcome) = change(&writer, 1).await;
    assert_eq!(outcome, NotifyOutcome::default(), "nobody watches");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_given_up_is_not_listed_and_comes_back() {
    let (memory, writer, watch) = start(WatchOptions::default()).await;
    let listed = || async { writer.watchers().await.unwrap().len() };
    assert_eq!(listed().await, 1);
    watch.hold_watch(false);
    let mut health = watch.health();
    health.wait_for(|health| !health.watching).await.unwrap();
    assert_eq!(listed().await, 0);
    // It still follows, by looking.
    let (map, outcome) = change(&writer, 1).await;
    assert_eq!(outcome, NotifyOutcome::default());
    assert!(reaches(&watch, map.epoch()).await <= Duration::from_secs(2));
    assert!(health.borrow().error.is_none() && !health.borrow().watching);
    watch.hold_watch(true);
    health.wait_for(|health| health.watching).await.unwrap();
    assert_eq!(listed().await, 1);
    let (map, outcome) = change(&writer, 2).await;
    assert_eq!(outcome.acked, [map.epoch()]);
    // Giving up one that is broken, and taking it back at once.
    watch.hold_watch(false);
    memory.break_watches();
    watch.hold_watch(true);
    let (map, _) = change(&writer, 3).await;
    assert!(reaches(&watch, map.epoch()).await <= Duration::from_secs(11));
    assert_eq!(listed().await, 1);
}
