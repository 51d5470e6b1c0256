//! What the tests of the whole program share: a map pool of its own for each, the program, its answer.
#![allow(dead_code, unreachable_pub)]

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lus_map::change::daemon::{Register, register};
use lus_map::change::leader;
use lus_map::{ClientAddr, DaemonId, Epoch, InstanceKey};
use lus_map_store::{MapStore, RecordStore};
use lusd_ceph::{Cluster, ClusterOptions, Image, OpenMode, Pool};
use serde_json::{Value, json};

/// The pool of the images.
pub const IMAGES: &str = "rbd";

/// A test's client is waited for so long when it ends.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(10);

/// What the program said.
#[derive(Debug, PartialEq, Eq)]
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    /// Succeeded, and this is its data.
    #[track_caller]
    pub fn data(&self) -> &str {
        assert_eq!(self.code, 0, "{self:?}");
        &self.stdout
    }

    /// Succeeded without data, and this is its sentence.
    #[track_caller]
    pub fn sentence(&self) -> &str {
        assert_eq!((self.code, self.stdout.as_str()), (0, ""), "{self:?}");
        self.stderr.trim_end()
    }

    /// Failed without data, with this exit code, and this is its sentence.
    #[track_caller]
    pub fn failure(&self, code: i32) -> &str {
        assert_eq!((self.code, self.stdout.as_str()), (code, ""), "{self:?}");
        self.stderr.trim_end()
    }

    /// Succeeded, and this is its data as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(self.data()).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A cluster with a map pool of the test's own.
pub struct Fixture {
    pub runtime: tokio::runtime::Runtime,
    cluster: Option<Cluster>,
    pub map_pool: String,
}

impl Fixture {
    /// Connects and creates the pool.
    pub fn new() -> Self {
        let fixture = Self::without_pool();
        fixture.mon(json!({"prefix": "osd pool create", "pool": fixture.map_pool, "pg_num": 1, "size": 1, "yes_i_really_mean_it": true}));
        fixture.mon(json!({"prefix": "osd pool application enable", "pool": fixture.map_pool, "app": "lus"}));
        fixture
    }

    /// Connects and leaves the pool out.
    pub fn without_pool() -> Self {
        assert!(
            std::env::var_os("CEPH_CONF").is_some(),
            "these tests need a cluster: tools/vstart up --lusds 0, then eval \"$(tools/vstart env)\""
        );
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let cluster = runtime
            .block_on(Cluster::connect(ClusterOptions::from_env().for_images()))
            .expect("connect to the cluster that CEPH_CONF and CEPH_ARGS name");
        Self { runtime, cluster: Some(cluster), map_pool: unique("map") }
    }

    /// The test's own client.
    pub fn cluster(&self) -> &Cluster {
        self.cluster.as_ref().expect("it is there until the end")
    }

    /// Sends a command to the monitors.
    pub fn mon(&self, command: Value) -> Vec<u8> {
        self.runtime.block_on(self.cluster().mon_command(command.to_string())).expect("the monitors obey").0
    }

    /// Runs the program with the words of `line`.
    pub fn lus(&self, line: &str) -> Said {
        run(Command::new(env!("CARGO_BIN_EXE_lus"))
            .args(["--lus-pool", &self.map_pool])
            .args(line.split_whitespace()))
    }

    /// The map's store, as another client sees it.
    pub fn store(&self) -> MapStore {
        let pool =
            self.runtime.block_on(self.cluster().pool(&self.map_pool, None)).expect("open the map's pool");
        MapStore::open(&pool)
    }

    /// The records, as another client sees them.
    pub fn records(&self) -> RecordStore {
        RecordStore::new(self.store().objects())
    }

    /// The pool of the images.
    pub fn images(&self) -> Pool {
        self.runtime.block_on(self.cluster().pool(IMAGES, None)).expect("open the pool of the images")
    }

    /// Puts a daemon into the map that has the RADOS clients `control` and `data`; returns its start.
    pub fn register(&self, id: &str, control: &str, data: &[ClientAddr]) -> (DaemonId, Epoch) {
        let id: DaemonId = id.parse().unwrap();
        let ask = Register {
            id: id.clone(),
            portals: vec!["192.0.2.1:3260".parse().unwrap()],
            hostname: "test".into(),
            version: "0.0.0".into(),
            control_addr: control.parse().unwrap(),
            data_addrs: data.to_vec(),
        };
        let store = self.store();
        self.runtime.block_on(async {
            store.latest_or_create().await.unwrap();
            let updated = store.update(|map, origin| register(map, origin, &ask)).await.unwrap();
            (id.clone(), updated.map.daemon(&id).unwrap().up_from)
        })
    }
}

impl Fixture {
    /// Enters a start of a daemon as the leader.
    pub fn lead(&self, (id, up_from): &(DaemonId, Epoch)) {
        let me = InstanceKey { id: id.clone(), up_from: *up_from };
        let store = self.store();
        self.runtime
            .block_on(store.update(|map, origin| leader::take(map, origin, &me)))
            .expect("one that is up may lead");
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // Only where pools may be deleted; else the pool goes with the test cluster.
        let pool = &self.map_pool;
        let delete = json!({"prefix": "osd pool delete", "pool": pool, "pool2": pool, "yes_i_really_really_mean_it": true});
        let Some(cluster) = self.cluster.take() else { return };
        self.runtime.block_on(async {
            let _ = cluster.mon_command(delete.to_string()).await;
            // Awaited: the process must not end while librados's threads run. A test that fails may still hold something.
            let _ = tokio::time::timeout(SHUTDOWN_WAIT, cluster.shutdown()).await;
        });
    }
}

/// A daemon's data client and what it holds, played by the test.
pub struct Player {
    pub cluster: Cluster,
    pub image: Image,
    pub addr: ClientAddr,
}

/// Opens an image through a client of its own and takes its lock.
pub fn play(f: &Fixture, image: &str) -> Player {
    f.runtime.block_on(async {
        let cluster = Cluster::connect(ClusterOptions::from_env().for_images()).await.unwrap();
        let addr = cluster.address().to_string().parse().unwrap();
        let pool = cluster.pool(IMAGES, None).await.unwrap();
        let name = image.rsplit('/').next().unwrap();
        let image = Image::open(&pool, name, OpenMode::ReadWrite).await.unwrap();
        image.lock_acquire().await.unwrap();
        Player { cluster, image, addr }
    })
}

/// Ends what was played; the client may be fenced.
pub fn end(f: &Fixture, player: Player) {
    let Player { cluster, image, .. } = player;
    f.runtime.block_on(async {
        let _ = image.close().await;
        cluster.shutdown().await;
    });
}

/// A name that no other test and no other run uses.
pub fn unique(kind: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("lus-cli-{kind}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Runs a program to its end.
pub fn run(command: &mut Command) -> Said {
    let output = command.stdin(Stdio::null()).output().expect("the program starts");
    Said {
        code: output.status.code().expect("the program is not killed"),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs Ceph's own `rbd`.
#[track_caller]
pub fn rbd(line: &str) -> String {
    let said = run(Command::new("rbd").args(line.split_whitespace()));
    assert_eq!(said.code, 0, "rbd {line}: {said:?}");
    said.stdout
}
