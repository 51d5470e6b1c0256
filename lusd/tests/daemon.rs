//! The daemon's control side against a real cluster: who owns an LU, and what is left when a daemon ends in any way.
#![forbid(unsafe_code)]

mod support;

use lus_map::{DaemonId, Epoch, LuState};
use lusd_ceph::OpenMode;
use rustix::process::Signal;
use support::{Bench, ceph, served_by, until};

const MON_CAPS: &str = "profile rbd, allow r";

#[tokio::test(flavor = "multi_thread")]
async fn serves_and_lets_go_in_order() {
    let bench = Bench::new().await;
    bench.user("a", MON_CAPS);
    let lu = bench.image("x").await;
    let mut daemon = bench.start("a", &[]);
    daemon.until_log("ready").await;
    let id: DaemonId = bench.daemon("a").parse().unwrap();
    let instance = bench.store.latest().await.unwrap().daemon(&id).unwrap().clone();
    let record = bench.until(&lu, "served", |record| served_by(record).is_some()).await;
    let client = served_by(&record).unwrap();
    assert_eq!(instance.data_addrs.iter().map(ToString::to_string).collect::<Vec<_>>(), [client.as_str()]);
    bench.until_locked("x", Some(&client)).await;
    daemon.until_log("serving").await;
    // It follows the manager's reports, some seconds behind.
    let listed = || ceph(&["service", "dump", "-f", "json"]).contains(&bench.daemon("a"));
    until("it is in the service map", listed).await;

    daemon.signal(Signal::TERM);
    let (status, log) = daemon.ended().await;
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!(bench.record(&lu).await.unwrap().state, LuState::Released);
    bench.until_locked("x", None).await;
    let instance = bench.store.latest().await.unwrap().daemon(&id).unwrap().clone();
    assert!(!instance.state.is_up() && instance.unfenced().next().is_none(), "{instance:?}");
    assert!(!ceph(&["osd", "blocklist", "ls"]).contains(&client), "nobody was fenced");
    bench.remove(&["x"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_one_left_is_fenced_before_it_is_served() {
    let bench = Bench::new().await;
    bench.user("a", MON_CAPS);
    let lu = bench.image("x").await;
    let mut daemon = bench.start("a", &[]);
    daemon.until_log("serving").await;
    let old = served_by(&bench.record(&lu).await.unwrap()).unwrap();
    daemon.signal(Signal::KILL);
    daemon.ended().await;

    let mut daemon = bench.start("a", &[]);
    daemon.until_log("serving").await;
    let record = bench.record(&lu).await.unwrap();
    assert_eq!(record.lu_epoch, Epoch(2));
    let new = served_by(&record).unwrap();
    assert_ne!(new, old);
    bench.until_locked("x", Some(&new)).await;
    let listed = ceph(&["osd", "blocklist", "ls"]);
    let entry = listed.lines().find(|line| line.starts_with(&old)).expect("the old client is fenced");
    let year = |text: &str| text.split([' ', '-']).nth(1).and_then(|year| year.parse::<i32>().ok()).unwrap();
    assert!(year(entry) >= i32::from(jiff::Zoned::now().year()) + 9, "{entry}");
    daemon.signal(Signal::TERM);
    assert!(daemon.ended().await.0.success());
    bench.remove(&["x"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_fenced_comes_back_through_another_client() {
    let bench = Bench::new().await;
    bench.user("a", MON_CAPS);
    let lu = bench.image("x").await;
    let mut daemon = bench.start("a", &[]);
    daemon.until_log("serving").await;
    let old = served_by(&bench.record(&lu).await.unwrap()).unwrap();
    ceph(&["osd", "blocklist", "add", &old, "600"]);
    let again = |record: &lus_map::LuRecord| {
        record.lu_epoch > Epoch(1) && served_by(record).is_some_and(|new| new != old)
    };
    let record = bench.until(&lu, "served again", again).await;
    bench.until_locked("x", served_by(&record).as_deref()).await;
    daemon.until_log("serving epoch=2").await;
    daemon.until_log("was on the blocklist already, by somebody else").await;
    daemon.signal(Signal::TERM);
    let (status, log) = daemon.ended().await;
    assert!(status.success(), "{log}");
    bench.remove(&["x"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_holder_is_left_alone() {
    let bench = Bench::new().await;
    bench.user("a", MON_CAPS);
    bench.image("x").await;
    let foreign = bench.open(&bench.image_name("x"), OpenMode::ReadWrite).await;
    foreign.lock_acquire().await.unwrap();
    let address = bench.cluster.address().to_string();
    let mut daemon = bench.start("a", &[]);
    daemon.until_log(&format!("foreign lock holder {address}")).await;
    assert!(foreign.is_lock_owner().await.unwrap());
    assert!(!daemon.log().contains("serving"));
    foreign.lock_release().await.unwrap();
    foreign.close().await.unwrap();
    daemon.until_log("serving").await;
    daemon.signal(Signal::TERM);
    assert!(daemon.ended().await.0.success());
    bench.remove(&["x"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_may_not_fence_does_not_start() {
    let bench = Bench::new().await;
    bench.user("a", "allow r");
    let (status, log) = bench.start("a", &[]).ended().await;
    assert_eq!(status.code(), Some(13), "{log}");
    assert!(log.contains("ceph auth caps client.lus.a"), "{log}");
    let map = bench.store.latest().await.unwrap();
    assert_eq!(map.daemons().count(), 0, "it has not registered");
    bench.remove(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_start_gives_way() {
    let bench = Bench::new().await;
    bench.user("a", MON_CAPS);
    let lu = bench.image("x").await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut older = bench.start("a", &[&format!("--lus-portal=127.0.0.1:{port}")]);
    older.until_log("serving").await;
    let mut newer = bench.start("a", &[]);
    newer.until_log("serving").await;
    let (status, log) = older.ended().await;
    assert!(!status.success() && log.contains("is superseded"), "{log}");
    assert_eq!(bench.record(&lu).await.unwrap().lu_epoch, Epoch(2));
    newer.signal(Signal::TERM);
    assert!(newer.ended().await.0.success());
    bench.remove(&["x"]).await;
}
