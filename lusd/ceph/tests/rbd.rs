//! librbd against a real cluster: images, and every trap that the layer closes.

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use lusd_ceph::{
    Cluster, ClusterOptions, CreateOptions, Errno, Error, Features, IO_MAX_BYTES, Image, ImageUpdates,
    MirrorState, OpBuffers, OpenMode, RANGE_MAX_BYTES, WRITE_MAX_BUFFERS,
};
use smallvec::smallvec;
use support::{Waiter, connect, data, image, options, owned_image, pool, pool_name, remove, unique};

const MIB: u64 = 1 << 20;

async fn read(w: &Waiter, image: &Image, offset: u64, len: usize) -> Result<Bytes, Errno> {
    image.read(&w.queue, 7, offset, BytesMut::with_capacity(len), len).unwrap();
    let done = w.one().await;
    assert_eq!(done.token, 7);
    done.result.map(|count| {
        assert_eq!(count, len as u64);
        assert_eq!(data(&done).len(), len);
        Bytes::copy_from_slice(data(&done))
    })
}

async fn write(w: &Waiter, image: &Image, offset: u64, bytes: impl Into<Bytes>) -> Result<u64, Errno> {
    image.write(&w.queue, 8, offset, smallvec![bytes.into()]).unwrap();
    let done = w.one().await;
    assert!(matches!(&done.buffers, OpBuffers::Write(data) if data.len() == 1));
    done.result
}

#[tokio::test]
async fn create_list_resize_remove() {
    let pool = pool().await;
    let name = unique("admin");
    let wanted = Features::LAYERING | Features::EXCLUSIVE_LOCK;
    let create = CreateOptions { object_size: Some(MIB), features: Some(wanted), ..CreateOptions::default() };
    pool.create_image(&name, 8 * MIB, create.clone()).await.unwrap();
    assert!(pool.create_image(&name, 8 * MIB, create).await.unwrap_err().is_exists());
    let odd = CreateOptions { object_size: Some(MIB + 1), ..CreateOptions::default() };
    assert_eq!(pool.create_image("x", MIB, odd).await.unwrap_err().errno(), Errno::EINVAL);
    let lost = CreateOptions { data_pool: Some("lus-no-such-pool".into()), ..CreateOptions::default() };
    assert!(pool.create_image("x", MIB, lost).await.is_err());

    let image = Image::open(&pool, &name, OpenMode::ReadWrite).await.unwrap();
    assert_eq!((image.size(), image.name(), image.mode()), (8 * MIB, &name[..], OpenMode::ReadWrite));
    let layout = image.layout();
    assert_eq!((layout.object_size, layout.stripe_unit, layout.stripe_count), (MIB, MIB, 1));
    assert_eq!(image.features().await.unwrap(), wanted);
    assert_eq!(image.mirror_state().await.unwrap(), MirrorState::Disabled);
    let listed = pool.list_images().await.unwrap();
    let spec = listed.iter().find(|spec| spec.name == name).expect("it is listed");
    assert_eq!(spec.id, image.id());
    pool.read(&image.header_object(), lusd_ceph::ReadOp::new().assert_exists()).await.unwrap();

    image.update_features(Features::OBJECT_MAP, true).await.unwrap();
    assert!(image.features().await.unwrap().contains(wanted | Features::OBJECT_MAP));
    let reader = Image::open(&pool, &name, OpenMode::ReadOnly).await.unwrap();
    image.resize(16 * MIB, false).await.unwrap();
    assert_eq!(image.size(), 16 * MIB);
    assert_eq!(image.resize(4 * MIB, false).await.unwrap_err().errno(), Errno::EINVAL);
    image.resize(4 * MIB, true).await.unwrap();
    assert_eq!(image.size(), 4 * MIB);
    assert_eq!(reader.size(), 8 * MIB, "no watch, no news");
    reader.close().await.unwrap();

    let busy = pool.remove_image(&name, |_, _| {}).await.unwrap_err();
    assert_eq!(busy.errno(), Errno::EBUSY);
    image.close().await.unwrap();
    let calls = Arc::new(AtomicU64::new(0));
    let counted = calls.clone();
    pool.remove_image(&name, move |done, total| {
        assert!(done <= total);
        counted.fetch_add(1, Ordering::Relaxed);
    })
    .await
    .unwrap();
    assert!(calls.load(Ordering::Relaxed) > 0);
    assert!(pool.remove_image(&name, |_, _| {}).await.unwrap_err().is_not_found());
    assert!(Image::open(&pool, &name, OpenMode::ReadWrite).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn unsafe_options_are_refused() {
    let w = Waiter::new();
    let pool = pool().await;
    let image = owned_image(&pool, "options", 4 * MIB).await;
    let name = image.name().to_owned();

    // A client without the options may look, not write.
    let plain = Cluster::connect(ClusterOptions::from_env()).await.unwrap();
    let plain_pool = plain.pool(&pool_name(), None).await.unwrap();
    match Image::open(&plain_pool, &name, OpenMode::ReadWrite).await.unwrap_err() {
        Error::UnsafeOption { option, level: "client", .. } => {
            assert_eq!(option, "rbd_auto_exclusive_lock_until_manual_request");
        }
        other => panic!("{other}"),
    }
    let reader = Image::open(&plain_pool, &name, OpenMode::ReadOnly).await.unwrap();
    reader.write(&w.queue, 1, 0, smallvec![Bytes::from_static(b"x")]).unwrap();
    assert_eq!(w.one().await.result, Err(Errno::EROFS));
    reader.close().await.unwrap();
    // Setting one of them the other way does not help: the safe value is set last.
    let forced = Cluster::connect(options().option("rbd_cache", "true")).await.unwrap();
    assert_eq!(forced.conf_get("rbd_cache").unwrap(), "false");

    // An image that overrides them is refused.
    image.close().await.unwrap();
    let header = {
        let image = Image::open(&pool, &name, OpenMode::ReadOnly).await.unwrap();
        let header = image.header_object();
        image.close().await.unwrap();
        header
    };
    for (key, value) in
        [("metadata_conf_rbd_cache", "true"), ("metadata_conf_rbd_persistent_cache_mode", "ssd")]
    {
        // What `rbd config image set NAME rbd_cache true` stores.
        pool.write(&header, lusd_ceph::WriteOp::new().omap_set([(key, value)])).await.unwrap();
        match Image::open(&pool, &name, OpenMode::ReadWrite).await.unwrap_err() {
            Error::UnsafeOption { option, level, found, .. } => {
                assert_eq!(
                    (format!("metadata_conf_{option}"), level, found),
                    (key.into(), "image", value.into())
                );
            }
            other => panic!("{other}"),
        }
        pool.write(&header, lusd_ceph::WriteOp::new().omap_rm_keys([key])).await.unwrap();
    }
    let image = Image::open(&pool, &name, OpenMode::ReadWrite).await.unwrap();
    remove(&pool, image).await;
}

#[tokio::test]
async fn write_read_flush() {
    let w = Waiter::new();
    let pool = pool().await;
    let image = owned_image(&pool, "io", 16 * MIB).await;
    assert!(image.is_lock_owner().await.unwrap());

    assert_eq!(write(&w, &image, 4096, vec![0xA5; 8192]).await, Ok(0));
    let found = read(&w, &image, 0, 16384).await.unwrap();
    assert!(found[..4096].iter().all(|&b| b == 0));
    assert!(found[4096..12288].iter().all(|&b| b == 0xA5));
    assert!(found[12288..].iter().all(|&b| b == 0));

    // Vectored, with an empty part in between, over the border of an object.
    let parts: Vec<Bytes> = (0..5u8).map(|i| Bytes::from(vec![i; 1000 * usize::from(i)])).collect();
    let offset = 4 * MIB - 1500;
    image.write(&w.queue, 9, offset, parts.iter().cloned().collect()).unwrap();
    let done = w.one().await;
    assert_eq!(done.result, Ok(0));
    assert!(matches!(done.buffers, OpBuffers::Write(back) if back[..] == parts[..]));
    assert_eq!(read(&w, &image, offset, 10_000).await.unwrap(), parts.concat());

    // A read goes behind what is in the buffer.
    let mut buf = BytesMut::from(&b"header"[..]);
    buf.reserve(4096);
    image.read(&w.queue, 10, 4096, buf, 4096).unwrap();
    let done = w.one().await;
    assert_eq!(&data(&done)[..6], b"header");
    assert_eq!(data(&done).len(), 6 + 4096);
    assert!(data(&done)[6..].iter().all(|&b| b == 0xA5));

    image.flush(&w.queue, 11).unwrap();
    let done = w.one().await;
    assert_eq!((done.token, done.result), (11, Ok(0)));
    // The largest there is.
    image.resize(2 * IO_MAX_BYTES as u64, false).await.unwrap();
    assert_eq!(write(&w, &image, 0, vec![1; IO_MAX_BYTES]).await, Ok(0));
    assert!(read(&w, &image, 0, IO_MAX_BYTES).await.unwrap().iter().all(|&b| b == 1));
    remove(&pool, image).await;
}

#[tokio::test]
async fn ranges_are_checked() {
    let w = Waiter::new();
    let pool = pool().await;
    let size = 4 * MIB;
    let image = owned_image(&pool, "ranges", size).await;
    let q = &w.queue;
    let part = Bytes::from(vec![1; 4096]);

    let past_the_end = [(size - 2048, 4096), (size, 1), (u64::MAX, 1), (u64::MAX - 10, 4096)];
    for (offset, len) in past_the_end {
        let error = image.write(q, 1, offset, smallvec![part.slice(..len)]).unwrap_err();
        assert_eq!(error.errno, Errno::ERANGE);
        assert!(matches!(error.buffers, OpBuffers::Write(data) if data[0].len() == len));
        let error = image.read(q, 1, offset, BytesMut::with_capacity(4096), len).unwrap_err();
        assert_eq!(error.errno, Errno::ERANGE);
        assert!(matches!(error.buffers, OpBuffers::Read(buf) if buf.is_empty()));
        let len = len as u64;
        assert_eq!(image.discard(q, 1, offset, len).unwrap_err().errno, Errno::ERANGE);
        assert_eq!(image.write_zeroes(q, 1, offset, len, false).unwrap_err().errno, Errno::ERANGE);
        assert_eq!(
            image.write_same(q, 1, offset, len, Bytes::from_static(b"x")).unwrap_err().errno,
            Errno::ERANGE
        );
    }
    let empty = image.write(q, 1, 0, smallvec![Bytes::new()]).unwrap_err();
    assert_eq!(empty.errno, Errno::EINVAL);
    assert_eq!(image.read(q, 1, 0, BytesMut::new(), 0).unwrap_err().errno, Errno::EINVAL);
    assert_eq!(image.discard(q, 1, 0, 0).unwrap_err().errno, Errno::EINVAL);
    let small = image.read(q, 1, 0, BytesMut::with_capacity(100), 101).unwrap_err();
    assert_eq!(small.errno, Errno::EINVAL);
    let many = std::iter::repeat_n(part.slice(..1), WRITE_MAX_BUFFERS + 1).collect();
    assert_eq!(image.write(q, 1, 0, many).unwrap_err().errno, Errno::EINVAL);
    assert_eq!(image.discard(q, 1, 0, RANGE_MAX_BYTES + 1).unwrap_err().errno, Errno::EINVAL);

    // librbd would never complete these: -22 on submit.
    for (len, pattern) in [(4096, 100), (512, 4096), (4096, 0)] {
        let error = image.write_same(q, 1, 0, len, part.slice(..pattern)).unwrap_err();
        assert_eq!(error.errno, Errno::EINVAL);
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(q.drain(|c| panic!("nothing was submitted, but {c:?}")), 0);
    assert!(read(&w, &image, size - 4096, 4096).await.unwrap().iter().all(|&b| b == 0), "no clipped write");

    // Exactly to the end is fine, with as many parts as may be.
    let parts = std::iter::repeat_n(part.slice(..4), WRITE_MAX_BUFFERS).collect();
    image.write(q, 1, size - 4096, parts).unwrap();
    assert_eq!(w.one().await.result, Ok(0));
    assert!(read(&w, &image, size - 4096, 4096).await.unwrap().iter().all(|&b| b == 1));
    remove(&pool, image).await;
}

#[tokio::test]
async fn discard_zeroes_and_same() {
    let w = Waiter::new();
    let pool = pool().await;
    let image = owned_image(&pool, "zeroes", 16 * MIB).await;
    let all = |bytes: &[u8], value: u8| bytes.iter().all(|&b| b == value);
    write(&w, &image, 0, vec![0xFF; 12 << 20]).await.unwrap();

    // A discard below the granularity reports success and does nothing: that is librbd.
    image.discard(&w.queue, 1, 4096, 4096).unwrap();
    assert_eq!(w.one().await.result, Ok(0));
    assert!(all(&read(&w, &image, 4096, 4096).await.unwrap(), 0xFF), "tiny discards do nothing");
    // write_zeroes does, whatever the length, thin or thick.
    for (offset, len, thick) in
        [(4096, 4096, false), (8192 + 512, 512, false), (16384, 4096, true), (70_001, 65_536, true)]
    {
        image.write_zeroes(&w.queue, 2, offset, len, thick).unwrap();
        assert_eq!(w.one().await.result, Ok(0));
        assert!(all(&read(&w, &image, offset, len as usize).await.unwrap(), 0));
        assert_eq!(read(&w, &image, offset - 1, 1).await.unwrap()[0], 0xFF);
        assert_eq!(read(&w, &image, offset + len, 1).await.unwrap()[0], 0xFF);
    }
    // Whole objects go.
    image.discard(&w.queue, 3, 4 * MIB, 4 * MIB).unwrap();
    assert_eq!(w.one().await.result, Ok(0));
    assert!(all(&read(&w, &image, 4 * MIB, 4 << 20).await.unwrap(), 0));
    assert_eq!(read(&w, &image, 8 * MIB, 1).await.unwrap()[0], 0xFF);

    // Over the border of an object, in every position.
    let pattern: Vec<u8> = (0..512u32).map(|i| i as u8 ^ (i >> 8) as u8).collect();
    let (offset, len) = (8 * MIB - 256 * 1024, 512 * 1024);
    image.write_same(&w.queue, 4, offset, len, pattern.clone().into()).unwrap();
    let done = w.one().await;
    assert_eq!(done.result, Ok(0));
    assert!(matches!(done.buffers, OpBuffers::Write(data) if data[0] == pattern));
    let found = read(&w, &image, offset, len as usize).await.unwrap();
    assert!(found.chunks(512).all(|chunk| chunk == pattern));
    assert!(all(&read(&w, &image, offset - 512, 512).await.unwrap(), 0));
    assert!(all(&read(&w, &image, offset + len, 512).await.unwrap(), 0xFF));
    // A pattern of zeroes too.
    image.write_same(&w.queue, 5, offset, len, vec![0; 512].into()).unwrap();
    assert_eq!(w.one().await.result, Ok(0));
    assert!(all(&read(&w, &image, offset, len as usize).await.unwrap(), 0));
    remove(&pool, image).await;
}

#[tokio::test]
async fn only_the_owner_writes() {
    let w = Waiter::new();
    let pool = pool().await;
    let image = image(&pool, "owner", 4 * MIB).await;
    let name = image.name().to_owned();
    // Without the lock nothing is written, and the lock is not fetched silently.
    assert_eq!(write(&w, &image, 0, vec![1; 4096]).await, Err(Errno::EROFS));
    assert!(Errno::EROFS.is_not_lock_owner());
    image.flush(&w.queue, 1).unwrap();
    assert_eq!(w.one().await.result, Err(Errno::EROFS));
    assert!(!image.is_lock_owner().await.unwrap());
    assert_eq!(image.lock_owners().await.unwrap(), Vec::<String>::new());
    assert_eq!(pool.list_lockers(&image.header_object(), "rbd_lock").await.unwrap(), []);
    assert_eq!(image.lock_release().await.unwrap_err().errno(), Errno::EINVAL);

    image.lock_acquire().await.unwrap();
    assert!(image.is_lock_owner().await.unwrap());
    assert_eq!(image.lock_owners().await.unwrap().len(), 1);
    let lockers = pool.list_lockers(&image.header_object(), "rbd_lock").await.unwrap();
    assert_eq!(lockers.len(), 1);
    assert_eq!(lockers[0].client, format!("client.{}", pool.cluster().instance_id()));
    assert_eq!(lockers[0].addr, Some(pool.cluster().address()), "what a fence would name");
    assert_eq!(write(&w, &image, 0, vec![1; 4096]).await, Ok(0));

    // A second handle of the same client cannot write.
    let second = Image::open(&pool, &name, OpenMode::ReadWrite).await.unwrap();
    assert_eq!(write(&w, &second, 0, vec![2; 4096]).await, Err(Errno::EROFS));
    second.close().await.unwrap();
    // Nor one of another client, which cannot get the lock either.
    let other = connect().await.pool(&pool_name(), None).await.unwrap();
    let third = Image::open(&other, &name, OpenMode::ReadWrite).await.unwrap();
    assert_eq!(third.lock_acquire().await.unwrap_err().errno(), Errno::EROFS);
    assert_eq!(write(&w, &third, 0, vec![3; 4096]).await, Err(Errno::EROFS));
    assert_eq!(read(&w, &image, 0, 1).await.unwrap()[0], 1);
    // It asks the owner to resize.
    third.resize(8 * MIB, false).await.unwrap();
    assert_eq!(third.size(), 8 * MIB);

    // A clean hand-over, and what the old owner sees.
    image.lock_release().await.unwrap();
    assert_eq!(write(&w, &image, 0, vec![4; 4096]).await, Err(Errno::EROFS));
    third.lock_acquire().await.unwrap();
    assert_eq!(write(&w, &third, 0, vec![5; 4096]).await, Ok(0));
    assert_eq!(write(&w, &image, 0, vec![6; 4096]).await, Err(Errno::EROFS));
    assert!(!image.is_lock_owner().await.unwrap());
    third.close().await.unwrap(); // gives the lock up
    image.lock_acquire().await.unwrap();
    assert_eq!(read(&w, &image, 0, 1).await.unwrap()[0], 5);
    remove(&pool, image).await;
}

#[tokio::test]
async fn resize_is_told() {
    let w = Waiter::new();
    let pool = pool().await;
    let image = owned_image(&pool, "update", 4 * MIB).await;
    let mut updates = image.watch_update();
    // From another client, as an administrator would.
    let other = connect().await.pool(&pool_name(), None).await.unwrap();
    let admin = Image::open(&other, image.name(), OpenMode::ReadWrite).await.unwrap();
    admin.resize(32 * MIB, false).await.unwrap();
    told(&mut updates, 32 * MIB).await;
    assert_eq!(image.size(), 32 * MIB);
    write(&w, &image, 20 * MIB, vec![9; 4096]).await.unwrap();
    admin.resize(4 * MIB, true).await.unwrap();
    told(&mut updates, 4 * MIB).await;
    let gone = image.read(&w.queue, 1, 20 * MIB, BytesMut::with_capacity(1), 1).unwrap_err();
    assert_eq!(gone.errno, Errno::ERANGE);
    admin.close().await.unwrap();
    remove(&pool, image).await;
    let ended = async { while updates.next().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(10), ended).await.expect("ends with the image");
}

async fn told(updates: &mut ImageUpdates, size: u64) {
    let wait = async { while updates.next().await.expect("the image is open") != size {} };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("told in time");
}

/// Everything is dropped while operations are in flight: the image closes after them, nothing hangs, nothing crashes.
#[tokio::test]
async fn dropped_in_flight() {
    let pool = pool().await;
    let image = owned_image(&pool, "dropped", 16 * MIB).await;
    let name = image.name().to_owned();
    for round in 0..20u64 {
        let w = Waiter::new();
        for i in 0..32 {
            let data = Bytes::from(vec![round as u8; 4096]);
            image.write(&w.queue, i, (round * 32 + i) * 4096, smallvec![data]).unwrap();
            image.read(&w.queue, i, 8 * MIB + i * 4096, BytesMut::with_capacity(4096), 4096).unwrap();
        }
        drop(w); // the shard dies with 64 in flight
    }
    image.lock_release().await.unwrap(); // waits for the writes in flight
    image.lock_acquire().await.unwrap();
    let w = Waiter::new();
    for i in 0..32 {
        image.read(&w.queue, i, i * 20 * 4096, BytesMut::with_capacity(4096), 4096).unwrap();
    }
    let close = tokio::spawn(image.close());
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!close.is_finished(), "operations that nobody drained keep the image open");
    for done in w.wait(32).await {
        let round = (done.token * 20 / 32) as u8;
        assert!(data(&done).iter().all(|&b| b == round), "a write was lost");
    }
    tokio::time::timeout(Duration::from_secs(20), close).await.expect("closes").unwrap().unwrap();

    // The last references of all go on librbd's threads: image, pool and client close by themselves.
    let cluster = connect().await;
    let mine = cluster.pool(&pool_name(), None).await.unwrap();
    let image = Image::open(&mine, &name, OpenMode::ReadWrite).await.unwrap();
    let w = Waiter::new();
    for i in 0..32 {
        image.read(&w.queue, i, i * 4096, BytesMut::with_capacity(4096), 4096).unwrap();
    }
    drop((w, image, mine));
    tokio::time::timeout(Duration::from_secs(20), cluster.shutdown())
        .await
        .expect("ends when the reads have");
    // Once more, without anybody who waits.
    let cluster = connect().await;
    let mine = cluster.pool(&pool_name(), None).await.unwrap();
    let image = Image::open(&mine, &name, OpenMode::ReadWrite).await.unwrap();
    let w = Waiter::new();
    image.read(&w.queue, 1, 0, BytesMut::with_capacity(4096), 4096).unwrap();
    drop((w, image, mine, cluster));
    let removed = async {
        // EBUSY until that handle's watch is gone.
        while let Err(error) = pool.remove_image(&name, |_, _| {}).await {
            assert_eq!(error.errno(), Errno::EBUSY);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), removed).await.expect("the handle closed by itself");
}

/// Two shards, 32 operations deep each, random reads and writes of one image; every read must find what its shard wrote there last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_io_from_two_threads() {
    const BLOCK: u64 = 4096;
    const BLOCKS: u64 = 2048;
    const OPERATIONS: u64 = 6000;
    let pool = pool().await;
    let image = owned_image(&pool, "random", 2 * BLOCKS * BLOCK).await;
    let shards: Vec<_> = (0..2u64)
        .map(|shard| {
            let image = image.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(shard_io(image, shard, BLOCK, BLOCKS, OPERATIONS));
            })
        })
        .collect();
    for shard in shards {
        tokio::task::spawn_blocking(move || shard.join().unwrap()).await.unwrap();
    }
    remove(&pool, image).await;
}

fn filled(block: u64, version: u32, len: u64) -> Bytes {
    let mut bytes = BytesMut::with_capacity(len as usize);
    while (bytes.len() as u64) < len {
        bytes.extend_from_slice(&block.to_le_bytes());
        bytes.extend_from_slice(&version.to_le_bytes());
        bytes.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    }
    bytes.freeze()
}

async fn shard_io(image: Image, shard: u64, block_len: u64, blocks: u64, operations: u64) {
    let w = Waiter::new();
    let mut random = shard + 0x9E37_79B9_7F4A_7C15;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    // Per block: last version written (0: never), and whether an operation is in flight.
    let mut versions = vec![0u32; blocks as usize];
    let mut busy = vec![false; blocks as usize];
    let (mut started, mut finished, mut in_flight) = (0, 0, 0);
    while finished < operations {
        while in_flight < 32 && started < operations {
            let block = next() % blocks;
            if std::mem::replace(&mut busy[block as usize], true) {
                continue;
            }
            let offset = (shard * blocks + block) * block_len;
            if next() % 2 == 0 {
                versions[block as usize] += 1;
                let bytes = filled(block, versions[block as usize], block_len);
                let middle = (next() % (block_len - 1)) as usize + 1;
                // In one part or two.
                let parts = if next() % 2 == 0 {
                    smallvec![bytes]
                } else {
                    smallvec![bytes.slice(..middle), bytes.slice(middle..)]
                };
                image.write(&w.queue, block, offset, parts).unwrap();
            } else {
                let buf = BytesMut::with_capacity(block_len as usize);
                image.read(&w.queue, block, offset, buf, block_len as usize).unwrap();
            }
            in_flight += 1;
            started += 1;
        }
        for done in w.wait(1).await {
            let block = done.token as usize;
            assert!(std::mem::take(&mut busy[block]), "completed twice");
            match (&done.buffers, done.result.unwrap()) {
                (OpBuffers::Read(found), count) => {
                    assert_eq!(count, block_len);
                    match versions[block] {
                        0 => assert!(found.iter().all(|&b| b == 0)),
                        version => assert!(found[..] == filled(done.token, version, block_len)[..]),
                    }
                }
                (OpBuffers::Write(_), count) => assert_eq!(count, 0),
                (OpBuffers::None, _) => panic!("lost its buffers"),
            }
            in_flight -= 1;
            finished += 1;
        }
    }
}

#[tokio::test]
async fn metadata_is_there_for_who_opens_the_image_next() {
    let pool = pool().await;
    let image = owned_image(&pool, "metadata", 8 << 20).await;
    let name = image.name().to_owned();
    assert_eq!(image.metadata("lus_test").await.unwrap(), None);
    image.set_metadata("lus_test", None).await.expect("nothing to remove");
    image.set_metadata("lus_test", Some("first")).await.unwrap();
    image.set_metadata("lus_test", Some("a second value")).await.unwrap();
    let other = Image::open(&pool, &name, OpenMode::ReadOnly).await.unwrap();
    assert_eq!(other.metadata("lus_test").await.unwrap().as_deref(), Some("a second value"));
    other.close().await.unwrap();
    image.set_metadata("lus_test", None).await.unwrap();
    assert_eq!(image.metadata("lus_test").await.unwrap(), None);
    remove(&pool, image).await;
}

#[tokio::test]
async fn extents_are_where_something_was_written() {
    const OBJECT: u64 = 4 << 20;
    let pool = pool().await;
    let image = owned_image(&pool, "extents", 5 * OBJECT + 4096).await;
    let size = image.size();
    assert_eq!(image.layout().object_size, OBJECT);
    assert_eq!(image.extents(0, size).await.unwrap(), []);
    let w = Waiter::new();
    for offset in [OBJECT - 512, OBJECT, 5 * OBJECT] {
        image.write(&w.queue, 1, offset, smallvec![Bytes::from(vec![7; 512])]).unwrap();
        assert_eq!(w.one().await.result, Ok(0));
    }
    assert_eq!(image.extents(0, size).await.unwrap(), [(0, 2 * OBJECT), (5 * OBJECT, 4096)]);
    assert_eq!(image.extents(2 * OBJECT, 2 * OBJECT).await.unwrap(), []);
    image.write_zeroes(&w.queue, 1, 0, OBJECT, false).unwrap();
    assert_eq!(w.one().await.result, Ok(0));
    assert_eq!(image.extents(0, size).await.unwrap(), [(OBJECT, OBJECT), (5 * OBJECT, 4096)]);
    remove(&pool, image).await;
}
