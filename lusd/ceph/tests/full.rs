//! A pool that is full: what needs space fails and says so, what needs none goes on, and other pools do not notice.

mod support;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use lusd_ceph::{Cluster, CreateOptions, Errno, Image, OpenMode, Pool};
use smallvec::smallvec;
use support::{Waiter, connect, image, owned_image, pool_name, remove, unique};

const OBJECT: u64 = 4 << 20;
/// Monitors look at quotas every few seconds, at statistics that are as old.
const PATIENCE: Duration = Duration::from_secs(60);

fn ceph(args: &[&str]) {
    let status = Command::new("ceph").args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(status.expect("the program 'ceph'").success(), "ceph {args:?}");
}

async fn write(w: &Waiter, image: &Image, offset: u64) -> Result<u64, Errno> {
    image.write(&w.queue, 1, offset, smallvec![Bytes::from_static(&[7; 4096])]).unwrap();
    w.one().await.result
}

/// An image whose data is in another pool says so.
async fn check_data_pool(pool: &Pool, data_pool: &str, id: Option<i64>) {
    let name = unique("data-pool");
    let options = CreateOptions { data_pool: Some(data_pool.to_owned()), ..CreateOptions::default() };
    pool.create_image(&name, OBJECT, options).await.unwrap();
    let image = Image::open(pool, &name, OpenMode::ReadOnly).await.unwrap();
    assert_eq!(image.data_pool_id(), id);
    remove(pool, image).await;
}

/// A quota is room that the pool does not have; without it the pool has what its OSDs have.
async fn check_usage(cluster: &Cluster, name: &str, id: i64) {
    const QUOTA: u64 = 64 << 20;
    let roomy = cluster.pool_usage().await.unwrap()[&id].available_bytes;
    assert!(roomy > 2 * QUOTA, "{roomy}");
    ceph(&["osd", "pool", "set-quota", name, "max_bytes", &QUOTA.to_string()]);
    let end = Instant::now() + PATIENCE;
    loop {
        let usage = cluster.pool_usage().await.unwrap()[&id];
        if usage.stored_bytes > 0 && usage.available_bytes + usage.stored_bytes == QUOTA {
            break;
        }
        assert!(Instant::now() < end, "{usage:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    ceph(&["osd", "pool", "set-quota", name, "max_bytes", "0"]);
}

#[tokio::test]
async fn writes_to_a_full_pool_fail_and_disturb_nothing_else() {
    let name = unique("full");
    ceph(&["osd", "pool", "create", &name, "1"]);
    ceph(&["osd", "pool", "application", "enable", &name, "rbd"]);
    let cluster = connect().await;
    let full = cluster.pool(&name, None).await.unwrap();
    let roomy = cluster.pool(&pool_name(), None).await.unwrap();
    let (victim, other) =
        (owned_image(&full, "full", 256 * OBJECT).await, image(&roomy, "roomy", OBJECT).await);
    other.lock_acquire().await.unwrap();
    check_data_pool(&roomy, &name, victim.data_pool_id()).await;
    let second = image(&full, "full", OBJECT).await;
    let w = Waiter::new();
    assert_eq!(write(&w, &victim, 0).await, Ok(0));
    check_usage(&cluster, &name, victim.data_pool_id().expect("the pool")).await;
    ceph(&["osd", "pool", "set-quota", &name, "max_objects", "1"]);
    let (end, mut objects) = (Instant::now() + PATIENCE, 1);
    let error = loop {
        assert!(Instant::now() < end, "the quota is never applied");
        match write(&w, &victim, objects % 256 * OBJECT).await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(errno) => break errno,
        }
        objects += 1;
    };
    assert_eq!(error, Errno::EDQUOT);
    // A lock needs no space, nor does a read, nor what gives space back.
    second.lock_acquire().await.unwrap();
    victim.read(&w.queue, 2, 0, BytesMut::with_capacity(4096), 4096).unwrap();
    assert_eq!(w.one().await.result, Ok(4096));
    victim.write_zeroes(&w.queue, 3, 0, OBJECT, false).unwrap();
    assert_eq!(w.one().await.result, Ok(0));
    assert_eq!(write(&w, &other, 0).await, Ok(0), "another pool of the same client");
    ceph(&["osd", "pool", "set-quota", &name, "max_objects", "0"]);
    let end = Instant::now() + PATIENCE;
    while let Err(errno) = write(&w, &victim, 0).await {
        assert_eq!(errno, Errno::EDQUOT);
        assert!(Instant::now() < end, "the quota is never lifted");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for image in [victim, second] {
        remove(&full, image).await;
    }
    remove(&roomy, other).await;
    ceph(&["osd", "pool", "rm", &name, &name, "--yes-i-really-really-mean-it"]);
}
