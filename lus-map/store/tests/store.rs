//! The map's object with everything that can go wrong, in memory.

use std::sync::Arc;

use lus_map::change::{Change, Refusal, host, target};
use lus_map::{
    Corrupt, EPOCH_XATTR, Epoch, INCREMENTS_KEPT, Increment, Iqn, LoadError, LusMap, MAP_OBJECT, Origin,
    Timestamp, increment_key,
};
use lus_map_store::memory::{Memory, WriteFault};
use lus_map_store::{Commit, MapStore, StoreError};
use lusd_ceph::Errno;

const FSID: &str = "19870b3c-8b62-466d-9486-786ae60cd7f7";

fn store(memory: &Memory) -> MapStore {
    MapStore::with_objects(Arc::new(memory.clone()), "client.test", FSID)
}

fn iqn(name: impl std::fmt::Display) -> Iqn {
    format!("iqn.2026-11.io.lus:{name}").parse().unwrap()
}

fn creates(name: impl std::fmt::Display) -> impl Fn(&LusMap, &Origin) -> Result<Change, Refusal> {
    let iqn = iqn(name);
    move |map, origin| target::create(map, origin, &iqn, false)
}

/// A map of some targets, and a store that has seen nothing of it.
async fn with_targets(count: usize) -> (Memory, MapStore) {
    let memory = Memory::default();
    let writer = store(&memory);
    writer.create().await.unwrap();
    for n in 0..count {
        writer.update(creates(n)).await.unwrap();
    }
    (memory.clone(), store(&memory))
}

/// A change through a store of its own, from inside a synchronous hook.
fn change_now(memory: &Memory, name: impl std::fmt::Display + Send + 'static) {
    let memory = memory.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { store(&memory).update(creates(name)).await.map(drop) }).unwrap();
    })
    .join()
    .unwrap();
}

#[tokio::test]
async fn create_once() {
    let memory = Memory::default();
    let store = store(&memory);
    assert!(matches!(store.latest().await, Err(StoreError::NoMap)));
    assert!(matches!(store.update(creates("a")).await, Err(StoreError::NoMap)));
    let map = store.create().await.unwrap();
    assert_eq!((map.epoch(), map.fsid().to_string().as_str()), (Epoch(1), FSID));
    let error = store.create().await.unwrap_err();
    assert!(matches!(error, StoreError::MapExists));
    assert_eq!(error.errno(), 17);
    assert_eq!(store.latest_or_create().await.unwrap(), map);
    assert_eq!(memory.object(MAP_OBJECT).unwrap().xattrs[EPOCH_XATTR], "1");
}

#[tokio::test]
async fn create_without_an_answer() {
    for faults in [
        vec![WriteFault::MadeUnanswered],
        vec![WriteFault::LostUnanswered, WriteFault::LostUnanswered],
        vec![WriteFault::Late],
    ] {
        let memory = Memory::default();
        memory.fail_writes(faults);
        let map = store(&memory).create().await.unwrap();
        assert_eq!(*store(&memory).load().await.unwrap(), *map);
    }
}

#[tokio::test]
async fn a_change_is_one_epoch() {
    let (memory, store) = with_targets(0).await;
    let made = store.update(creates("a")).await.unwrap();
    assert!(made.changed());
    assert_eq!((made.map.epoch(), made.said.as_str()), (Epoch(2), "target 'iqn.2026-11.io.lus:a' created"));
    let again = store.update(creates("a")).await.unwrap();
    assert!(!again.changed());
    assert_eq!(again.map.epoch(), Epoch(2));
    let refused = store.update(|map, o| target::remove(map, o, &iqn("x"), false)).await.unwrap_err();
    assert_eq!((refused.errno(), refused.to_string()), (2, "no such target iqn.2026-11.io.lus:x".to_owned()));
    let object = memory.object(MAP_OBJECT).unwrap();
    let keys: Vec<&str> = object.omap.keys().map(String::as_str).collect();
    let (first, second) = (increment_key(Epoch(1)), increment_key(Epoch(2)));
    assert_eq!(keys, [&first, &second, "meta", "target.iqn.2026-11.io.lus:a"]);
    // Removing removes.
    store.update(|map, o| target::remove(map, o, &iqn("a"), false)).await.unwrap();
    assert!(!memory.object(MAP_OBJECT).unwrap().omap.contains_key("target.iqn.2026-11.io.lus:a"));
}

/// `count` changes on top of the map: targets and hosts made and removed, so that keys lie before and behind the
/// increments, and all over the alphabet.
fn changes_ahead(map: &LusMap, count: usize) -> Vec<Increment> {
    let mut map = map.clone();
    let mut increments = Vec::new();
    for n in 0..count {
        let name = |n: usize| iqn(format!("{}{}", (b'a' + (n * 7 % 26) as u8) as char, n % 5));
        let (t, h) = (iqn(n % 2), name(n));
        let origin = Origin::new(uuid::Uuid::from_u128(n as u128), Timestamp(n as u64), "client.other");
        let change = match (n.is_multiple_of(3), map.target(&h), map.host(&t, &h)) {
            (true, Some(_), _) => target::remove(&map, &origin, &h, true),
            (true, None, _) => target::create(&map, &origin, &h, false),
            (false, _, Some(_)) => host::remove(&map, &origin, &t, &h, true),
            (false, _, None) => host::add(&map, &origin, &t, &h),
        };
        let Ok(Change::Make { increment, .. }) = change else { panic!("{change:?}") };
        map = map.apply(&increment).unwrap();
        increments.push(increment);
    }
    increments
}

/// Makes a change as another client would, in one moment.
fn make_now(memory: &Memory, increment: &Increment) {
    memory.edit(MAP_OBJECT, |object| {
        for change in &increment.changes {
            match &change.new {
                Some(raw) => drop(object.omap.insert(change.key.to_string(), raw.clone().into())),
                None => drop(object.omap.remove(&change.key.to_string())),
            }
        }
        object.omap.insert(increment.omap_key(), increment.encode().into());
        object.xattrs.insert(EPOCH_XATTR.into(), increment.epoch.to_string().into());
    });
}

/// Lets each of the changes come right before a read, with `skip` undisturbed reads before each.
fn make_before_reads(memory: &Memory, increments: Vec<Increment>, skip: usize) {
    for increment in increments {
        memory.before_read(skip, move |memory| make_now(memory, &increment));
    }
}

#[tokio::test]
async fn a_map_of_many_pages_is_of_one_epoch() {
    // Changes come after every so many reads, so that they fall behind, on and before what was read.
    for skip in 1..12 {
        let (memory, reader) = with_targets(40).await;
        let first = self::store(&memory).load().await.unwrap();
        changes_ahead(&first, 70).iter().for_each(|increment| make_now(&memory, increment));
        memory.small_pages(3);
        let before = self::store(&memory).load().await.unwrap();
        assert_eq!(before.epoch().0, first.epoch().0 + 70);
        assert_eq!(
            before.entities() + 111,
            memory.object(MAP_OBJECT).unwrap().omap.len(),
            "no page is left out"
        );
        assert!(before.all_hosts().count() > 10 && before.targets().count() > 10);
        let ahead = changes_ahead(&before, 60);
        make_before_reads(&memory, ahead.clone(), skip);
        let map = reader.load().await.unwrap();
        assert!(map.epoch() > before.epoch(), "it changed meanwhile");
        let made = ahead.iter().take_while(|increment| increment.epoch <= map.epoch());
        let replayed = made.fold((*before).clone(), |map, increment| map.apply(increment).unwrap());
        assert_eq!(*map, replayed, "skip {skip}");
    }
}

#[tokio::test]
async fn a_map_that_never_stands_still_is_given_up() {
    let (memory, reader) = with_targets(2).await;
    let map = reader.load().await.unwrap();
    let reader = store(&memory);
    // The attribute, then for each attempt at the page: the page that comes too late, and the catching up.
    make_before_reads(&memory, changes_ahead(&map, 80), 1);
    let error = reader.load().await.unwrap_err();
    assert!(matches!(error, StoreError::Unstable { .. }), "{error}");
    assert!(error.is_passing());
    assert!(reader.load().await.is_ok());
}

#[tokio::test]
async fn reading_what_is_new() {
    let (memory, reader) = with_targets(3).await;
    let known = reader.load().await.unwrap();
    let reads = memory.reads();
    let same = reader.refresh(&known).await.unwrap();
    assert!(Arc::ptr_eq(&same, &known));
    assert_eq!(memory.reads() - reads, 1, "one operation says that nothing is new");

    let writer = store(&memory);
    for n in 0..200 {
        writer.update(creates(format!("x{n}"))).await.unwrap();
    }
    let reads = memory.reads();
    let newest = reader.refresh(&known).await.unwrap();
    assert_eq!(*newest, *store(&memory).load().await.unwrap());
    assert_eq!(newest.targets().count(), 203);
    assert!(memory.reads() - reads < 10, "increments come in pages");
    assert!(Arc::ptr_eq(&reader.latest().await.unwrap(), &newest));
}

#[tokio::test]
async fn far_behind_reads_whole() {
    let (memory, reader) = with_targets(1).await;
    let known = reader.load().await.unwrap();
    let writer = store(&memory);
    for n in 0..INCREMENTS_KEPT + 30 {
        let name = n % 7;
        writer
            .update(|map, o| match map.target(&iqn(format!("x{name}"))) {
                Some(_) => target::remove(map, o, &iqn(format!("x{name}")), false),
                None => target::create(map, o, &iqn(format!("x{name}")), false),
            })
            .await
            .unwrap();
    }
    let newest = reader.refresh(&known).await.unwrap();
    assert_eq!(newest.epoch().0, known.epoch().0 + INCREMENTS_KEPT + 30);
    assert_eq!(*newest, *store(&memory).load().await.unwrap());

    // So many increments are kept, and so far does the past reach, byte for byte.
    let object = memory.object(MAP_OBJECT).unwrap();
    let kept = object.omap.keys().filter(|key| key.starts_with("inc.")).count();
    assert_eq!(kept as u64, INCREMENTS_KEPT);
    let oldest = Epoch(newest.epoch().0 - INCREMENTS_KEPT + 1);
    let mut past = (*reader.past(oldest).await.unwrap()).clone();
    for increment in reader.increments(oldest, newest.epoch()).await.unwrap() {
        past = past.apply(&increment).unwrap();
        if past.epoch().0.is_multiple_of(97) {
            assert_eq!(*reader.past(past.epoch()).await.unwrap(), past);
        }
    }
    assert_eq!(past, *newest);
    for gone in [Epoch(0), Epoch(oldest.0 - 1), newest.epoch().next()] {
        let error = reader.past(gone).await.unwrap_err();
        assert!(matches!(error, StoreError::NoEpoch(_)), "{error}");
        assert_eq!((error.errno(), error.to_string()), (2, format!("there is no map for epoch {gone}")));
    }
}

#[tokio::test]
async fn another_map_under_the_same_name_is_noticed() {
    let (memory, reader) = with_targets(3).await;
    let known = reader.load().await.unwrap();
    let (other, _) = with_targets(3).await;
    let replace = |from: &Memory| {
        let object = from.object(MAP_OBJECT).unwrap();
        memory.edit(MAP_OBJECT, |old| *old = object);
    };
    // The same epoch, another history.
    replace(&other);
    let error = reader.refresh(&known).await.unwrap_err();
    assert!(matches!(error, StoreError::Replaced { had: Epoch(4), found: Epoch(4) }), "{error}");
    // A lower epoch.
    replace(&with_targets(1).await.0);
    let error = reader.refresh(&known).await.unwrap_err();
    assert!(matches!(error, StoreError::Replaced { had: Epoch(4), found: Epoch(2) }), "{error}");
    assert!(!error.is_passing());
    // Another cluster's.
    let foreign =
        MapStore::with_objects(Arc::new(memory.clone()), "x", "00000000-0000-0000-0000-000000000001");
    assert!(matches!(foreign.load().await, Err(StoreError::OtherCluster { .. })));
}

#[tokio::test]
async fn corruption_is_named() {
    let (memory, reader) = with_targets(5).await;
    let known = reader.load().await.unwrap();
    let good = memory.object(MAP_OBJECT).unwrap();
    let restore = || memory.edit(MAP_OBJECT, |object| *object = good.clone());
    let corrupt = |error: StoreError| match error {
        StoreError::Load(LoadError::Corrupt(corrupt)) => corrupt,
        error => panic!("{error}"),
    };

    memory.edit(MAP_OBJECT, |object| drop(object.xattrs.remove(EPOCH_XATTR)));
    assert_eq!(corrupt(reader.load().await.unwrap_err()), Corrupt::MissingEpoch);
    assert_eq!(corrupt(reader.refresh(&known).await.unwrap_err()), Corrupt::MissingEpoch);

    for text in ["", "0", "06", "six", "18446744073709551616"] {
        memory.edit(MAP_OBJECT, |object| drop(object.xattrs.insert(EPOCH_XATTR.into(), text.into())));
        assert_eq!(corrupt(reader.load().await.unwrap_err()), Corrupt::BadEpoch(text.to_owned()));
    }

    // The epoch says more than the increments do.
    memory.edit(MAP_OBJECT, |object| drop(object.xattrs.insert(EPOCH_XATTR.into(), "7".into())));
    let gap = Corrupt::IncrementGap { key: increment_key(Epoch(7)), epoch: Epoch(7) };
    assert_eq!(corrupt(reader.load().await.unwrap_err()), gap);
    assert_eq!(corrupt(reader.refresh(&known).await.unwrap_err()), gap);

    // A hole in the middle.
    restore();
    memory.edit(MAP_OBJECT, |object| drop(object.omap.remove(&increment_key(Epoch(4)))));
    let first = store(&memory);
    let gap = Corrupt::IncrementGap { key: increment_key(Epoch(4)), epoch: Epoch(6) };
    assert_eq!(corrupt(first.increments(Epoch(1), Epoch(6)).await.unwrap_err()), gap);
    assert_eq!(corrupt(first.past(Epoch(2)).await.unwrap_err()), gap);
    assert_eq!(first.past(Epoch(5)).await.unwrap().epoch(), Epoch(5));

    restore();
    memory.edit(MAP_OBJECT, |object| {
        object.omap.insert(increment_key(Epoch(6)), b"\xff".as_slice().into());
    });
    assert!(corrupt(reader.load().await.unwrap_err()).to_string().contains("'inc.00000000000000000006'"));

    restore();
    memory.edit(MAP_OBJECT, |object| {
        object.omap.insert("target.iqn.2026-11.io.lus:0".to_owned(), b"\xff".as_slice().into());
    });
    let error = reader.load().await.unwrap_err();
    assert_eq!(error.errno(), 5);
    let text = error.to_string();
    assert!(
        text.starts_with("object 'lus_map' is corrupt: key 'target.iqn.2026-11.io.lus:0' cannot be"),
        "{text}"
    );
    // Nobody writes on what he cannot read.
    assert!(store(&memory).update(creates("new")).await.is_err());
}

#[tokio::test]
async fn a_lost_race_is_told_and_run_again() {
    let (memory, one) = with_targets(1).await;
    let map = one.latest().await.unwrap();
    let Change::Make { increment, .. } = creates("mine")(&map, &one.origin()).unwrap() else { panic!() };
    change_now(&memory, "theirs");
    assert!(matches!(one.commit(&map, &increment).await.unwrap(), Commit::Lost));
    let mut asked = 0;
    let updated = one
        .update(|map, origin| {
            asked += 1;
            if asked <= 3 {
                change_now(&memory, format!("other{asked}"));
            }
            creates("mine")(map, origin)
        })
        .await
        .unwrap();
    assert_eq!((asked, updated.map.epoch()), (4, Epoch(7)));
    assert!(updated.map.target(&iqn("theirs")).is_some() && updated.map.target(&iqn("mine")).is_some());
}

#[tokio::test]
async fn an_answer_that_is_lost_is_found_out() {
    use WriteFault::{Fails, Late, LostUnanswered, MadeUnanswered};
    for faults in [
        vec![MadeUnanswered],
        vec![LostUnanswered],
        vec![Late],
        vec![LostUnanswered, MadeUnanswered],
        vec![Late, LostUnanswered, MadeUnanswered],
        vec![Late, Late, Late],
    ] {
        let (memory, store) = with_targets(1).await;
        memory.fail_writes(faults.clone());
        let made = store.update(creates("mine")).await.unwrap();
        assert_eq!(made.map.epoch(), Epoch(3), "{faults:?}");
        // Whatever was still under way comes to nothing.
        let next = store.update(creates("next")).await.unwrap();
        assert_eq!(next.map.epoch(), Epoch(4), "{faults:?}");
        assert_eq!(*self::store(&memory).load().await.unwrap(), *next.map, "{faults:?}");
    }
    let (memory, store) = with_targets(1).await;
    memory.fail_writes([LostUnanswered; 5]);
    let error = store.update(creates("mine")).await.unwrap_err();
    assert!(matches!(error, StoreError::Unknown { .. }), "{error}");
    assert_eq!(error.errno(), 110);
    for (errno, fenced) in [(Errno::EACCES, false), (Errno::ESHUTDOWN, true)] {
        memory.fail_writes([Fails(errno)]);
        let error = store.update(creates("mine")).await.unwrap_err();
        assert_eq!((error.errno(), error.is_fenced(), error.is_passing()), (errno.raw(), fenced, false));
    }
}

/// The answer is lost, the change is not made, and somebody else makes that epoch: the change is made on top.
#[tokio::test]
async fn a_lost_answer_and_another_change() {
    let (memory, store) = with_targets(1).await;
    let map = store.latest().await.unwrap();
    let Change::Make { increment, .. } = creates("mine")(&map, &store.origin()).unwrap() else { panic!() };
    memory.fail_writes([WriteFault::LostUnanswered]);
    let inner = memory.clone();
    memory.before_read(0, move |_| change_now(&inner, "theirs"));
    assert!(matches!(store.commit(&map, &increment).await.unwrap(), Commit::Lost));
}

#[tokio::test]
async fn what_would_break_the_map_is_not_written() {
    let (_, store) = with_targets(1).await;
    let map = store.latest().await.unwrap();
    let Change::Make { mut increment, .. } = creates("x")(&map, &store.origin()).unwrap() else { panic!() };
    // A host of a target that is not there, as no builder makes it.
    let mut raw = vec![0x12, 21];
    raw.extend(b"iqn.2026-11.io.lus:no");
    raw.extend([0x1a, 21]);
    raw.extend(b"iqn.2026-11.io.lus:hh");
    increment.changes[0].key = "host.iqn.2026-11.io.lus:no/iqn.2026-11.io.lus:hh".parse().unwrap();
    increment.changes[0].new = Some(raw);
    let error = store.commit(&map, &increment).await.unwrap_err();
    assert!(matches!(error, StoreError::Broken(_)), "{error}");
    assert!(error.to_string().contains("host-has-target"), "{error}");
    assert_eq!(store.latest().await.unwrap().epoch(), map.epoch());
}

/// Several writers with faults of every kind: what was said to be made is made once, and nothing else is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_and_faults() {
    for seed in 0..20u64 {
        let (memory, reader) = with_targets(0).await;
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = move |bound: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % bound
        };
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let store = store(&memory);
                tokio::spawn(async move {
                    let mut made = Vec::new();
                    for n in 0..15 {
                        let name = format!("w{writer}n{n}");
                        match store.update(creates(&name)).await {
                            Ok(updated) if updated.changed() => made.push(name),
                            Ok(_) => panic!("nobody else makes it"),
                            Err(StoreError::Unknown { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                    made
                })
            })
            .collect();
        for _ in 0..25 {
            let fault = match next(3) {
                0 => WriteFault::MadeUnanswered,
                1 => WriteFault::LostUnanswered,
                _ => WriteFault::Late,
            };
            memory.fail_writes([fault]);
            tokio::time::sleep(std::time::Duration::from_micros(next(800))).await;
        }
        let mut made = Vec::new();
        for writer in writers {
            made.extend(writer.await.unwrap());
        }
        let map = reader.load().await.unwrap();
        let increments = reader.increments(Epoch(1), map.epoch()).await.unwrap();
        for name in &made {
            let why = format!("target create {}", iqn(name));
            assert_eq!(
                increments.iter().filter(|increment| increment.why == why).count(),
                1,
                "seed {seed}: {name}"
            );
        }
        assert_eq!(increments.len(), map.targets().count(), "seed {seed}");
        assert!(map.targets().count() >= made.len());
    }
}
