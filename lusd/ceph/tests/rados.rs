//! librados against a real cluster: clients, objects, watch and notify.

mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use lusd_ceph::{Cluster, Errno, Error, ReadOp, WatchEvent, WriteOp};
use support::{connect, options, pool, pool_name, unique};

#[tokio::test]
async fn connect_and_say_who() {
    let cluster = connect().await;
    assert_eq!(cluster.fsid().len(), 36);
    assert!(cluster.instance_id() > 0);
    assert!(cluster.address().nonce() > 0 && cluster.address().port() == 0);
    assert!(Cluster::librados_version().0 >= 3);
    assert_eq!(cluster.conf_get("rbd_cache").unwrap(), "false");
    assert_eq!(cluster.conf_get("admin_socket").unwrap(), "");
    assert_eq!(cluster.conf_get("lus_no_such_option").unwrap_err().errno(), Errno::ENOENT);
    let pools = cluster.pool_list().await.unwrap();
    assert!(pools.contains(&pool_name()), "{pools:?}");
    assert!(cluster.pool("lus-no-such-pool", None).await.unwrap_err().is_not_found());
    let epoch = cluster.osdmap_epoch().await.unwrap();
    assert!(epoch > 0);
    cluster.wait_for_latest_osdmap().await.unwrap();

    let other = connect().await;
    assert_ne!(other.address(), cluster.address(), "each client has its own address");
    assert_ne!(other.instance_id(), cluster.instance_id());
    let pool = other.pool(&pool_name(), None).await.unwrap();
    let shutdown = tokio::spawn(other.shutdown());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!shutdown.is_finished(), "the pool keeps the client");
    drop(pool);
    shutdown.await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test]
async fn options_are_checked() {
    let unknown = Cluster::connect(options().option("lus_no_such_option", "1")).await.unwrap_err();
    assert_eq!(unknown.errno(), Errno::ENOENT);
    let bad = Cluster::connect(options().option("rados_osd_op_timeout", "soon")).await.unwrap_err();
    assert_eq!(bad.errno(), Errno::EINVAL);

    let mut argv = options();
    argv.argv = ["--debug-objecter=0/0", "--rados-osd-op-timeout", "7"].map(String::from).to_vec();
    let cluster = Cluster::connect(argv).await.unwrap();
    assert_eq!(cluster.conf_get("debug_objecter").unwrap(), "0/0");
    assert_eq!(cluster.conf_get("rados_osd_op_timeout").unwrap(), "7");

    let mut first = options();
    first.argv = ["--lus-x", "3", "--debug-objecter=0/0"].map(String::from).to_vec();
    match Cluster::connect(first).await.unwrap_err() {
        Error::UnknownArgument(arg) => assert_eq!(arg, "--lus-x"),
        other => panic!("{other}"),
    }

    let mut nowhere = options();
    nowhere.conf = Some("/nonexistent/ceph.conf".into());
    assert!(Cluster::connect(nowhere).await.unwrap_err().is_not_found());
    let mut nobody = options();
    nobody.keyring = Some("/nonexistent/keyring".into());
    assert!(Cluster::connect(nobody).await.is_err());
}

#[tokio::test]
async fn mon_commands_and_service_map() {
    let cluster = connect().await;
    let (json, _) = cluster.mon_command(r#"{"prefix":"osd stat","format":"json"}"#).await.unwrap();
    assert!(json.starts_with(b"{") || json.starts_with(b"\n{"));
    match cluster.mon_command(r#"{"prefix":"lus no such command"}"#).await.unwrap_err() {
        Error::MonCommand { errno, status, .. } => {
            assert!(errno == Errno::EINVAL || errno == Errno::EACCES, "{errno} {status}");
        }
        other => panic!("{other}"),
    }
    let daemon = unique("daemon");
    cluster
        .service_register("lus-test", &daemon, &[("daemon_type", "gateway"), ("empty", "")])
        .await
        .unwrap();
    let again = cluster.service_register("lus-test", &daemon, &[]).await.unwrap_err();
    assert!(again.is_exists(), "{again}");
    cluster.service_update_status(&[("state", "active")]).unwrap();
    assert_eq!(cluster.service_update_status(&[("", "x")]).unwrap_err().errno(), Errno::EINVAL);
    cluster.shutdown().await;
}

#[tokio::test]
async fn object_data_and_attributes() {
    let pool = pool().await;
    let oid = unique("object");
    let missing = pool.read(&oid, ReadOp::new().stat()).await.unwrap_err();
    assert!(missing.is_not_found(), "{missing}");

    let op =
        WriteOp::new().create(true).write_full("hello world").setxattr("who", "me").setxattr("empty", "");
    let v1 = pool.write(&oid, op).await.unwrap();
    assert!(pool.write(&oid, WriteOp::new().create(true)).await.unwrap_err().is_exists());
    let reply = pool.read(&oid, ReadOp::new().stat().xattrs().read(6, 100)).await.unwrap();
    assert_eq!(reply.version, v1);
    assert_eq!(reply.stat.unwrap().size, 11);
    assert!(reply.stat.unwrap().mtime > 1_600_000_000);
    assert_eq!(&reply.data[..], b"world");
    assert_eq!(&reply.xattrs["who"][..], b"me");
    assert!(reply.xattrs["empty"].is_empty());

    let v2 = pool.write(&oid, WriteOp::new().write(0, "J").truncate(5).rmxattr("empty")).await.unwrap();
    assert!(v2 > v1);
    let reply = pool.read(&oid, ReadOp::new().assert_version(v2).read(0, 100).xattrs()).await.unwrap();
    assert_eq!(&reply.data[..], b"Jello");
    assert_eq!(reply.xattrs.len(), 1);

    let newer = pool.write(&oid, WriteOp::new().assert_version(v1).write_full("x")).await.unwrap_err();
    assert_eq!(newer.errno(), Errno::ERANGE);
    let older = pool.write(&oid, WriteOp::new().assert_version(v2 + 100).write_full("x")).await.unwrap_err();
    assert_eq!(older.errno(), Errno::EOVERFLOW);
    assert!(newer.is_version_mismatch() && older.is_version_mismatch());

    assert_eq!(
        pool.write(&oid, WriteOp::new().setxattr("a\0b", "")).await.unwrap_err().errno(),
        Errno::EINVAL
    );
    assert_eq!(pool.write("", WriteOp::new()).await.unwrap_err().errno(), Errno::EINVAL);
    let names = pool.list_objects(1_000_000).await.unwrap();
    assert!(names.contains(&oid));
    assert_eq!(pool.list_objects(1).await.unwrap().len(), 1);
    pool.write(&oid, WriteOp::new().remove()).await.unwrap();
    assert!(pool.write(&oid, WriteOp::new().remove()).await.unwrap_err().is_not_found());
    let ghost = pool.write(&oid, WriteOp::new().assert_exists().write_full("")).await.unwrap_err();
    assert!(ghost.is_not_found());
}

#[tokio::test]
async fn namespaces_are_apart() {
    let cluster = connect().await;
    let oid = unique("object");
    let default = cluster.pool(&pool_name(), None).await.unwrap();
    let secrets = cluster.pool(&pool_name(), Some("lus-test")).await.unwrap();
    secrets.write(&oid, WriteOp::new().write_full("x")).await.unwrap();
    assert!(default.read(&oid, ReadOp::new().stat()).await.unwrap_err().is_not_found());
    assert!(secrets.list_objects(1000).await.unwrap().contains(&oid));
    secrets.write(&oid, WriteOp::new().remove()).await.unwrap();
}

/// Sixteen writers count an epoch up by compare-and-set: each increment happens exactly once.
#[tokio::test]
async fn compare_and_set_by_epoch() {
    const WRITERS: usize = 16;
    const EACH: usize = 5;
    let pool = pool().await;
    let oid = unique("epoch");
    pool.write(&oid, WriteOp::new().create(true).setxattr("epoch", "0")).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let (pool, oid) = (pool.clone(), oid.clone());
        tasks.spawn(async move {
            let (mut done, mut lost) = (0, 0);
            while done < EACH {
                let reply = pool.read(&oid, ReadOp::new().xattrs()).await.unwrap();
                let epoch = reply.xattrs["epoch"].clone();
                let next = (std::str::from_utf8(&epoch).unwrap().parse::<u64>().unwrap() + 1).to_string();
                let op = WriteOp::new()
                    .cmpxattr_eq("epoch", epoch)
                    .setxattr("epoch", next.clone())
                    .omap_set([(format!("inc.{next}"), writer.to_string())]);
                match pool.write(&oid, op).await {
                    Ok(_) => done += 1,
                    Err(error) => {
                        assert!(error.is_compare_mismatch(), "{error}");
                        lost += 1;
                    }
                }
            }
            lost
        });
    }
    let mut lost = 0;
    while let Some(task) = tasks.join_next().await {
        lost += task.unwrap();
    }
    assert!(lost > 0, "somebody must have lost a race");
    let all = pool.snapshot(&oid, "").await.unwrap();
    assert_eq!(&all.xattrs["epoch"][..], (WRITERS * EACH).to_string().as_bytes());
    assert_eq!(all.omap.len(), WRITERS * EACH);
    // A missing attribute is a mismatch too.
    let missing =
        pool.write(&oid, WriteOp::new().cmpxattr_eq("nothing", "1").write_full("")).await.unwrap_err();
    assert!(missing.is_compare_mismatch() || missing.errno() == Errno::ENODATA, "{missing}");
    pool.write(&oid, WriteOp::new().remove()).await.unwrap();
}

#[tokio::test]
async fn omap_of_3000_keys() {
    let pool = pool().await;
    let oid = unique("omap");
    let value = |i: usize| Bytes::from(vec![i as u8; 1000 + i % 7]);
    let pairs = |range: std::ops::Range<usize>| range.map(move |i| (format!("lu.{i:08}"), value(i)));
    pool.write(&oid, WriteOp::new().create(true).setxattr("epoch", "1").omap_set(pairs(0..3000)))
        .await
        .unwrap();
    pool.write(&oid, WriteOp::new().omap_set([("daemon.a", "x"), ("zz", "y")])).await.unwrap();

    let page = pool.read(&oid, ReadOp::new().omap_vals("lu.00000009", "lu.", 5)).await.unwrap();
    assert!(page.more);
    let keys: Vec<_> = page.omap.keys().map(String::as_str).collect();
    assert_eq!(keys, ["lu.00000010", "lu.00000011", "lu.00000012", "lu.00000013", "lu.00000014"]);
    let page = pool.read(&oid, ReadOp::new().omap_vals("", "lu.", 1_000_000)).await.unwrap();
    assert!(page.more && page.omap.len() < 3000, "the OSD's own limit: {}", page.omap.len());
    let last = pool.read(&oid, ReadOp::new().omap_vals("lu.00002997", "lu.", 100)).await.unwrap();
    assert!(!last.more && last.omap.len() == 2);

    let all = pool.snapshot(&oid, "lu.").await.unwrap();
    assert_eq!(all.omap.len(), 3000);
    assert_eq!(&all.xattrs["epoch"][..], b"1");
    for (i, (key, found)) in all.omap.iter().enumerate() {
        assert_eq!(key, &format!("lu.{i:08}"));
        assert_eq!(found, &value(i));
    }
    assert_eq!(pool.snapshot(&oid, "").await.unwrap().omap.len(), 3002);
    assert_eq!(pool.snapshot(&oid, "nothing").await.unwrap().omap.len(), 0);

    let some = ReadOp::new().omap_vals_by_keys(["zz", "missing", "daemon.a"]).omap_vals("", "lu.0000000", 3);
    let some = pool.read(&oid, some).await.unwrap();
    assert_eq!(some.omap.len(), 5);
    assert_eq!(&some.omap["zz"][..], b"y");

    let unequal = pool.write(&oid, WriteOp::new().omap_cmp_eq("zz", "z").omap_clear()).await.unwrap_err();
    assert!(unequal.is_compare_mismatch());
    let unequal = pool.read(&oid, ReadOp::new().omap_cmp_eq("zz", "z")).await.unwrap_err();
    assert!(unequal.is_compare_mismatch());
    let op = WriteOp::new().omap_cmp_eq("zz", "y").omap_rm_keys(["zz", "missing"]).omap_set([("new", "")]);
    pool.write(&oid, op).await.unwrap();
    assert_eq!(pool.snapshot(&oid, "").await.unwrap().omap.len(), 3002);
    pool.write(&oid, WriteOp::new().omap_clear()).await.unwrap();
    assert_eq!(pool.snapshot(&oid, "").await.unwrap().omap.len(), 0);

    // A key that is not text: an answer, not a panic.
    pool.write(&oid, WriteOp::new().remove()).await.unwrap();
}

/// Pages of one snapshot are of one version although somebody writes all the time.
#[tokio::test]
async fn snapshot_under_changes() {
    let pool = pool().await;
    let oid = unique("changing");
    let write = |n: u32| {
        let pairs = (0..2500).map(move |i| (format!("k{i:05}"), n.to_string()));
        WriteOp::new().setxattr("epoch", n.to_string()).omap_set(pairs)
    };
    pool.write(&oid, write(0)).await.unwrap();
    let writer = tokio::spawn({
        let (pool, oid) = (pool.clone(), oid.clone());
        async move {
            for n in 1..30 {
                pool.write(&oid, write(n)).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    let mut seen = std::collections::BTreeSet::new();
    while !writer.is_finished() {
        match pool.snapshot(&oid, "").await {
            Ok(all) => {
                assert_eq!(all.omap.len(), 2500);
                assert!(all.omap.values().all(|v| *v == all.xattrs["epoch"]));
                seen.insert(all.version);
            }
            Err(Error::Unstable { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    writer.await.unwrap();
    assert!(pool.snapshot(&oid, "").await.is_ok());
    pool.write(&oid, WriteOp::new().remove()).await.unwrap();
}

#[tokio::test]
async fn dropped_futures_leave_nothing_behind() {
    let pool = pool().await;
    let oid = unique("dropped");
    for i in 0..200u32 {
        let write = pool.write(&oid, WriteOp::new().write_full(vec![i as u8; 100_000]));
        let read = pool.read(&oid, ReadOp::new().read(0, 100_000).xattrs().omap_vals("", "", 10));
        let _ = tokio::time::timeout(Duration::from_micros(u64::from(i) * 10), async {
            tokio::join!(write, read)
        })
        .await;
    }
    pool.write(&oid, WriteOp::new().remove()).await.unwrap();
    let cluster = pool.cluster().clone();
    drop(pool);
    cluster.shutdown().await; // ends only when all of that has ended
}

#[tokio::test]
async fn watch_notify_ack() {
    let (watcher, notifier) = (pool().await, pool().await);
    let oid = unique("watched");
    assert!(watcher.watch(&oid, Duration::from_secs(5)).await.unwrap_err().is_not_found());
    watcher.write(&oid, WriteOp::new().create(true)).await.unwrap();
    let none = notifier.notify(&oid, "x", Duration::from_secs(1)).await.unwrap();
    assert!(none.acks.is_empty() && !none.timed_out);

    let mut first = watcher.watch(&oid, Duration::from_secs(5)).await.unwrap();
    let mut second = watcher.watch(&oid, Duration::from_secs(5)).await.unwrap();
    assert!(first.check().unwrap() < Duration::from_secs(5));
    let serve = async {
        let WatchEvent::Notify(notify) = first.next().await else { panic!("a notify") };
        assert_eq!(&notify.payload()[..], b"epoch 7");
        assert_eq!(notify.notifier(), notifier.cluster().instance_id());
        notify.ack(b"seen").unwrap();
        let WatchEvent::Notify(notify) = second.next().await else { panic!("a notify") };
        assert!(notify.notify_id() > 0);
        drop(notify); // acknowledges, too
    };
    let start = Instant::now();
    let (reply, ()) = tokio::join!(notifier.notify(&oid, "epoch 7", Duration::from_secs(10)), serve);
    let reply = reply.unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "waits for acknowledgements, not for the timeout");
    assert!(!reply.timed_out && reply.timeouts.is_empty());
    let mut payloads: Vec<_> = reply.acks.iter().map(|ack| ack.payload.to_vec()).collect();
    payloads.sort();
    assert_eq!(payloads, [b"".to_vec(), b"seen".to_vec()]);
    assert!(reply.acks.iter().all(|ack| ack.watcher.client == watcher.cluster().instance_id()));

    second.close().await.unwrap();
    let serve = async { drop(first.next().await) };
    let (reply, ()) = tokio::join!(notifier.notify(&oid, "", Duration::from_secs(10)), serve);
    assert_eq!(reply.unwrap().acks.len(), 1, "the closed watch is gone");
    drop(first); // ends in the background
    let cluster = watcher.cluster().clone();
    drop(watcher);
    cluster.shutdown().await;
    notifier.write(&oid, WriteOp::new().remove()).await.unwrap();
}

#[tokio::test]
async fn hung_watcher() {
    let (watcher, notifier) = (pool().await, pool().await);
    let oid = unique("hung");
    watcher.write(&oid, WriteOp::new().create(true)).await.unwrap();
    let mut hung = watcher.watch(&oid, Duration::from_secs(30)).await.unwrap();
    let mut live = watcher.watch(&oid, Duration::from_secs(30)).await.unwrap();
    let serve = async {
        let WatchEvent::Notify(notify) = live.next().await else { panic!("a notify") };
        notify.ack(b"here").unwrap();
    };
    let start = Instant::now();
    let (reply, ()) = tokio::join!(notifier.notify(&oid, "", Duration::from_millis(1200)), serve);
    let reply = reply.unwrap();
    assert!(reply.timed_out);
    assert_eq!((reply.acks.len(), reply.timeouts.len()), (1, 1));
    assert_eq!(&reply.acks[0].payload[..], b"here");
    let took = start.elapsed();
    assert!(
        took >= Duration::from_millis(1900) && took < Duration::from_secs(8),
        "whole seconds, upwards: {took:?}"
    );
    assert!(matches!(hung.next().await, WatchEvent::Notify(_)), "it was there, unread");

    // One that never reads: what does not fit is acknowledged and counted.
    for _ in 0..70 {
        let notified = notifier.notify(&oid, "", Duration::from_secs(1));
        let _ = tokio::time::timeout(Duration::from_millis(2), notified).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut lost = 0;
    loop {
        match tokio::time::timeout(Duration::from_millis(200), hung.next()).await {
            Ok(WatchEvent::Lost(count)) => lost += count,
            Ok(_) => {}
            Err(_) => break,
        }
    }
    assert!(lost > 0);
    drop((hung, live));
    notifier.write(&oid, WriteOp::new().remove()).await.unwrap();
}

#[tokio::test]
async fn removed_object_breaks_the_watch() {
    let pool = pool().await;
    let oid = unique("removed");
    pool.write(&oid, WriteOp::new().create(true)).await.unwrap();
    let mut watch = pool.watch(&oid, Duration::from_secs(5)).await.unwrap();
    pool.write(&oid, WriteOp::new().remove()).await.unwrap();
    let event = tokio::time::timeout(Duration::from_secs(20), watch.next()).await.expect("an error event");
    assert!(matches!(event, WatchEvent::Error(_)), "{event:?}");
    assert_eq!(watch.check().unwrap_err().errno(), Errno::ENOTCONN);
    let _ = watch.close().await;
}

#[tokio::test]
async fn watchers_are_listed_by_address() {
    let (cluster, other) = (connect().await, connect().await);
    let pool = cluster.pool(&pool_name(), None).await.unwrap();
    let oid = unique("watchers");
    assert!(pool.list_watchers(&oid).await.unwrap_err().is_not_found());
    pool.write(&oid, WriteOp::new().create(true)).await.unwrap();
    assert!(pool.list_watchers(&oid).await.unwrap().is_empty());
    let watch = pool.watch(&oid, Duration::from_secs(5)).await.unwrap();
    let other_pool = other.pool(&pool_name(), None).await.unwrap();
    let other_watch = other_pool.watch(&oid, Duration::from_secs(5)).await.unwrap();
    let mut listed = pool.list_watchers(&oid).await.unwrap();
    let mut expected = [cluster.address(), other.address()].map(|address| address.to_string()).to_vec();
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);
    other_watch.close().await.unwrap();
    assert_eq!(pool.list_watchers(&oid).await.unwrap(), [cluster.address().to_string()]);
    watch.close().await.unwrap();
    pool.write(&oid, WriteOp::new().remove()).await.unwrap();
}
