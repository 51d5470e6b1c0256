//! Fencing against a real cluster: what a blocklisted client sees, and that its writes do not land.

mod support;

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use lusd_ceph::{Errno, Image, OpenMode, ReadOp, WatchEvent, WriteOp};
use smallvec::smallvec;
use support::{Waiter, connect, data, pool, pool_name, remove, unique};

/// Long enough for the test, short enough to leave no rubbish in a cluster that lives on.
const EXPIRE: Duration = Duration::from_secs(600);

#[tokio::test]
async fn blocklisted_client() {
    let us = pool().await;
    let victim = connect().await;
    let their_pool = victim.pool(&pool_name(), None).await.unwrap();
    let oid = unique("fenced");
    their_pool.write(&oid, WriteOp::new().write_full("theirs")).await.unwrap();
    let mut watch = their_pool.watch(&oid, Duration::from_secs(30)).await.unwrap();

    let before = us.cluster().osdmap_epoch().await.unwrap();
    us.cluster().blocklist_add(&victim.address(), EXPIRE).await.unwrap();
    assert!(us.cluster().osdmap_epoch().await.unwrap() > before);
    us.cluster().blocklist_add(&victim.address(), EXPIRE).await.expect("again is no error");

    let error = their_pool.write(&oid, WriteOp::new().write_full("late")).await.unwrap_err();
    assert_eq!(error.errno(), Errno::ESHUTDOWN);
    assert!(error.is_fenced());
    assert!(their_pool.read(&oid, ReadOp::new().stat()).await.unwrap_err().is_fenced());
    let event = tokio::time::timeout(Duration::from_secs(20), watch.next()).await.expect("the watch says so");
    assert!(matches!(event, WatchEvent::Error(_)), "{event:?}");
    assert_eq!(watch.check().unwrap_err().errno(), Errno::ENOTCONN);
    let found = us.read(&oid, ReadOp::new().read(0, 100)).await.unwrap();
    assert_eq!(&found.data[..], b"theirs");

    // All of it can be closed.
    let _ = watch.close().await;
    drop(their_pool);
    tokio::time::timeout(Duration::from_secs(20), victim.shutdown()).await.expect("shuts down");
    us.write(&oid, WriteOp::new().remove()).await.unwrap();
}

/// The takeover of the design: blocklist the recorded address, break the lock, open, acquire, write. The old owner, alive and writing, is out.
#[tokio::test]
async fn takeover_from_a_live_owner() {
    let us = pool().await;
    let victim = connect().await;
    let their_pool = victim.pool(&pool_name(), None).await.unwrap();
    let theirs = support::owned_image(&their_pool, "takeover", 4 << 20).await;
    let (name, header) = (theirs.name().to_owned(), theirs.header_object());
    let recorded = victim.address();
    let w = Waiter::new();
    theirs.write(&w.queue, 1, 0, smallvec![Bytes::from(vec![1; 4096])]).unwrap();
    assert_eq!(w.one().await.result, Ok(0));
    let mut updates = theirs.watch_update();

    let start = Instant::now();
    us.cluster().blocklist_add(&recorded, EXPIRE).await.unwrap();
    let lockers = us.list_lockers(&header, "rbd_lock").await.unwrap();
    assert_eq!(lockers.len(), 1);
    assert_eq!(lockers[0].addr, Some(recorded));
    us.break_lock(&header, "rbd_lock", &lockers[0].client, &lockers[0].cookie).await.unwrap();
    let again = us.break_lock(&header, "rbd_lock", &lockers[0].client, &lockers[0].cookie).await;
    assert!(again.unwrap_err().is_not_found());
    assert_eq!(us.list_lockers(&header, "rbd_lock").await.unwrap(), []);
    let ours = Image::open(&us, &name, OpenMode::ReadWrite).await.unwrap();
    ours.lock_acquire().await.unwrap();
    assert!(ours.is_lock_owner().await.unwrap());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    ours.write(&w.queue, 2, 0, smallvec![Bytes::from(vec![2; 4096])]).unwrap();
    assert_eq!(w.one().await.result, Ok(0));

    // The old owner: everything says ESHUTDOWN, at once, and nothing of it lands.
    for token in 10..20 {
        theirs.write(&w.queue, token, 0, smallvec![Bytes::from(vec![3; 4096])]).unwrap();
    }
    for done in w.wait(10).await {
        assert_eq!(done.result, Err(Errno::ESHUTDOWN));
    }
    theirs.read(&w.queue, 20, 0, BytesMut::with_capacity(4096), 4096).unwrap();
    let done = w.one().await;
    assert_eq!(done.result, Err(Errno::ESHUTDOWN));
    assert!(data(&done).is_empty(), "no data with an error");
    theirs.flush(&w.queue, 21).unwrap();
    assert_eq!(w.one().await.result, Err(Errno::ESHUTDOWN));
    let told = tokio::time::timeout(Duration::from_secs(10), updates.next()).await;
    assert!(told.is_ok(), "a broken lock is told as a change");
    assert_ne!(theirs.is_lock_owner().await.ok(), Some(true));
    assert!(theirs.lock_acquire().await.is_err());
    assert!(Image::open(&their_pool, &name, OpenMode::ReadWrite).await.unwrap_err().is_fenced());

    ours.read(&w.queue, 3, 0, BytesMut::with_capacity(4096), 4096).unwrap();
    assert!(data(&w.one().await).iter().all(|&b| b == 2));

    // It closes what it has and comes back as a new client, without the lock.
    let _ = theirs.close().await;
    drop(their_pool);
    tokio::time::timeout(Duration::from_secs(20), victim.shutdown()).await.expect("shuts down");
    let back = pool().await;
    assert_ne!(back.cluster().address(), recorded);
    let theirs = Image::open(&back, &name, OpenMode::ReadWrite).await.unwrap();
    theirs.write(&w.queue, 4, 0, smallvec![Bytes::from(vec![4; 4096])]).unwrap();
    assert_eq!(w.one().await.result, Err(Errno::EROFS));
    theirs.close().await.unwrap();
    remove(&us, ours).await;
}

/// Operations in flight when the fence falls complete exactly once.
#[tokio::test]
async fn fenced_in_flight() {
    let us = pool().await;
    let victim = connect().await;
    let their_pool = victim.pool(&pool_name(), None).await.unwrap();
    let theirs = support::owned_image(&their_pool, "inflight", 16 << 20).await;
    let name = theirs.name().to_owned();
    let w = Waiter::new();
    let fence = tokio::spawn({
        let (cluster, address) = (us.cluster().clone(), victim.address());
        async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            cluster.blocklist_add(&address, EXPIRE).await
        }
    });
    let (mut submitted, mut fenced, mut written) = (0u64, 0u64, 0u64);
    while fenced < 100 {
        while submitted - fenced - written < 32 {
            let data = Bytes::from(vec![submitted as u8; 4096]);
            theirs.write(&w.queue, submitted, submitted % 4096 * 4096, smallvec![data]).unwrap();
            submitted += 1;
        }
        for done in w.wait(1).await {
            match done.result {
                Ok(0) => written += 1,
                Err(Errno::ESHUTDOWN) => fenced += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    fence.await.unwrap().unwrap();
    let rest = usize::try_from(submitted - fenced - written).unwrap();
    assert_eq!(w.wait(rest).await.len(), rest);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(w.queue.drain(|_| ()), 0, "each exactly once");
    let _ = theirs.close().await;
    drop(their_pool);
    victim.shutdown().await;
    // The blocklist took the watch away, so the image can be removed at once.
    let removed = async {
        while let Err(error) = us.remove_image(&name, |_, _| {}).await {
            assert!(matches!(error.errno(), Errno::EBUSY | Errno::EROFS), "{error}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), removed).await.expect("removable");
}
