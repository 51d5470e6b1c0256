//! The daemon's control side against a real cluster: who owns an LU, and what is left when a daemon ends in any way.
#![forbid(unsafe_code)]

mod support;

use lus_map::change::lu::move_to;
use lus_map::{DaemonId, Epoch, LuState};
use lusd_ceph::OpenMode;
use rustix::process::Signal;
use support::{Bench, Daemon, ceph, served_by, until};

const MON_CAPS: &str = "profile rbd, allow r";

/// The option for a portal of its own.
fn portal() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("--lus-portal={}", listener.local_addr().unwrap())
}

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
    let mut older = bench.start("a", &[&portal()]);
    older.until_log("serving").await;
    let mut newer = bench.start("a", &[]);
    newer.until_log("serving").await;
    let (status, log) = older.ended().await;
    assert!(status.code() == Some(17) && log.contains("is superseded"), "{log}");
    assert_eq!(bench.record(&lu).await.unwrap().lu_epoch, Epoch(2));
    newer.signal(Signal::TERM);
    assert!(newer.ended().await.0.success());
    bench.remove(&["x"]).await;
}

/// Two daemons that are ready, and their ids.
async fn two_daemons(bench: &Bench) -> (Vec<DaemonId>, Vec<Daemon>) {
    let ids: Vec<DaemonId> = ["a", "b"].map(|id| bench.daemon(id).parse().unwrap()).to_vec();
    let mut daemons = Vec::new();
    for id in ["a", "b"] {
        bench.user(id, MON_CAPS);
        let mut daemon = bench.start(id, &[&portal()]);
        daemon.until_log("ready").await;
        daemons.push(daemon);
    }
    (ids, daemons)
}

/// Waits until the map says that `id`, which is `daemon`, is up in a start later than `before`.
async fn next_start(bench: &Bench, daemon: &Daemon, id: &DaemonId, before: Epoch) -> Epoch {
    let found = || async {
        let map = bench.store.latest().await.unwrap();
        map.daemon(id)
            .filter(|daemon| daemon.state.is_up() && daemon.up_from > before)
            .map(|daemon| daemon.up_from)
    };
    for _ in 0..1000 {
        if let Some(up_from) = found().await {
            return up_from;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("no later start of lus.{id}:\n{}", daemon.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_owner_is_taken_from_and_comes_back_as_a_new_start_of_the_same_process() {
    let bench = Bench::new().await;
    let lu = bench.image("x").await;
    let (ids, mut daemons) = two_daemons(&bench).await;
    let record = bench.until(&lu, "served", |record| served_by(record).is_some()).await;
    let old = record.state.holder().unwrap().clone();
    let owner = ids.iter().position(|id| *id == old.daemon).unwrap();
    daemons[owner].signal(Signal::STOP);
    let taken = bench
        .until(&lu, "taken over", |record| {
            record.state.holder().is_some_and(|holder| holder.daemon != old.daemon)
        })
        .await;
    assert!(taken.lu_epoch > record.lu_epoch);
    bench.until_locked("x", served_by(&taken).as_deref()).await;
    assert!(ceph(&["osd", "blocklist", "ls"]).contains(old.addr.as_str()), "fenced first");
    daemons[owner].signal(Signal::CONT);
    daemons[owner].until_log("runs itself again").await;
    next_start(&bench, &daemons[owner], &ids[owner], old.up_from).await;
    daemons[owner].until_logs("lusd::app: ready", 2).await;
    for daemon in &daemons {
        daemon.signal(Signal::TERM);
    }
    for daemon in daemons {
        let (status, log) = daemon.ended().await;
        assert!(status.success(), "{log}");
    }
    bench.remove(&["x"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_and_an_orderly_end_fence_nobody() {
    let bench = Bench::new().await;
    let lu = bench.image("x").await;
    let (ids, mut daemons) = two_daemons(&bench).await;
    let holder = |record: &lus_map::LuRecord| record.state.holder().map(|holder| holder.daemon.clone());
    let record = bench.until(&lu, "served", |record| served_by(record).is_some()).await;
    let from = ids.iter().position(|id| Some(id) == holder(&record).as_ref()).unwrap();
    let to = 1 - from;
    bench
        .store
        .update(|map, origin| move_to(map, origin, &map.lu(&lu).unwrap().name(), &ids[to]))
        .await
        .unwrap();
    let moved = bench.until(&lu, "moved", |record| holder(record).as_ref() == Some(&ids[to])).await;
    assert_eq!(moved.lu_epoch.0, record.lu_epoch.0 + 1);
    daemons[from].until_log("moved to=").await;
    bench.until_locked("x", served_by(&moved).as_deref()).await;
    // The new owner ends: it hands the LU back.
    let ending = daemons.remove(to);
    ending.signal(Signal::TERM);
    let (status, log) = ending.ended().await;
    assert!(status.success() && log.contains("every logical unit is handed over"), "{log}");
    let back = bench.until(&lu, "back", |record| holder(record).as_ref() == Some(&ids[from])).await;
    bench.until_locked("x", served_by(&back).as_deref()).await;
    let clients = [&record, &moved, &back].map(|record| served_by(record).unwrap());
    let listed = ceph(&["osd", "blocklist", "ls"]);
    assert!(clients.iter().all(|client| !listed.contains(client.as_str())), "{listed}");
    let last = daemons.remove(0);
    last.signal(Signal::TERM);
    assert!(last.ended().await.0.success());
    bench.remove(&["x"]).await;
}
