//! What the cluster tests share: a client from the environment, pools, images that go when the test ends.
#![allow(dead_code, unreachable_pub)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use lusd_ceph::{
    Cluster, ClusterOptions, Completed, CompletionQueue, CreateOptions, Image, OpBuffers, OpenMode, Pool,
    QueueWaiter,
};

/// The pool for objects and images; `LUS_TEST_POOL` names another one.
pub fn pool_name() -> String {
    std::env::var("LUS_TEST_POOL").unwrap_or_else(|_| "rbd".into())
}

/// The environment's client, able to open images, tuned as the daemon's.
pub fn options() -> ClusterOptions {
    assert!(
        std::env::var_os("CEPH_CONF").is_some(),
        "these tests need a cluster: tools/vstart up, then eval \"$(tools/vstart env)\""
    );
    ClusterOptions::from_env().for_images().tuned(1)
}

pub async fn connect() -> Cluster {
    Cluster::connect(options()).await.expect("connect to the cluster that CEPH_CONF and CEPH_ARGS name")
}

pub async fn pool() -> Pool {
    connect().await.pool(&pool_name(), None).await.expect("open the pool")
}

/// A name that no other test and no other run uses.
pub fn unique(kind: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("lus-test-{kind}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Creates an image and opens it on the same client, without the lock.
pub async fn image(pool: &Pool, kind: &str, size: u64) -> Image {
    let name = unique(kind);
    pool.create_image(&name, size, CreateOptions::default()).await.expect("create an image");
    Image::open(pool, &name, OpenMode::ReadWrite).await.expect("open the image")
}

/// As [`image`], with the lock taken.
pub async fn owned_image(pool: &Pool, kind: &str, size: u64) -> Image {
    let image = image(pool, kind, size).await;
    image.lock_acquire().await.expect("take the lock");
    image
}

/// Closes and removes it.
pub async fn remove(pool: &Pool, image: Image) {
    let name = image.name().to_owned();
    image.close().await.expect("close the image");
    pool.remove_image(&name, |_, _| {}).await.expect("remove the image");
}

/// Waits on a queue the way a shard does.
pub struct Waiter {
    pub queue: Arc<CompletionQueue>,
    waiter: QueueWaiter,
}

impl Waiter {
    pub fn new() -> Waiter {
        let queue = CompletionQueue::new().expect("a queue");
        Waiter { waiter: QueueWaiter::new(queue.clone()).expect("its event in epoll"), queue }
    }

    /// The next `count` completions or more. Panics after 60 s.
    pub async fn wait(&self, count: usize) -> Vec<Completed> {
        let mut done = Vec::new();
        let all = async {
            loop {
                self.queue.drain(|c| done.push(c));
                if done.len() >= count {
                    break;
                }
                self.waiter.wait().await.expect("epoll");
            }
        };
        tokio::time::timeout(Duration::from_secs(60), all).await.expect("completions in time");
        done
    }

    /// The one completion that is in flight.
    pub async fn one(&self) -> Completed {
        let mut done = self.wait(1).await;
        assert_eq!(done.len(), 1);
        done.remove(0)
    }
}

/// What a read brought.
pub fn data(completed: &Completed) -> &[u8] {
    match &completed.buffers {
        OpBuffers::Read(buf) => buf,
        other => panic!("not the buffers of a read: {other:?}"),
    }
}
