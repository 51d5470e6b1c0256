//! A `lusd` of its own map in the cluster that `tools/vstart env` names, and what looks at it from outside.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use lus_map::change::lu::AddLu;
use lus_map::{Backend, ImageSpec, LuId, LuRecord, LuState, change};
use lus_map_store::{MapStore, RecordStore};
use lusd_ceph::{Cluster, ClusterOptions, CreateOptions, Features, Image, OpenMode, Pool};

/// What is waited for comes within this time, or not at all.
const PATIENCE: Duration = Duration::from_secs(20);
const IMAGE_BYTES: u64 = 16 << 20;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Waits for `condition`, which may run a command.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Runs `ceph` and returns what it prints.
pub(crate) fn ceph(args: &[&str]) -> String {
    let output =
        Command::new("ceph").args(args).stderr(Stdio::inherit()).output().expect("the program 'ceph'");
    assert!(output.status.success(), "ceph {args:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// A cluster with a pool for one map, and a place for files.
pub(crate) struct Bench {
    pub(crate) pool: String,
    pub(crate) cluster: Cluster,
    pub(crate) images: Pool,
    pub(crate) store: MapStore,
    pub(crate) records: RecordStore,
    pub(crate) dir: tempfile::TempDir,
    port: u16,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        assert!(
            std::env::var_os("CEPH_CONF").is_some(),
            "no cluster: run eval \"$(tools/vstart env)\" first"
        );
        let n = NEXT.fetch_add(1, SeqCst);
        let pool = format!(".lus-test-{}-{n}", std::process::id());
        ceph(&["osd", "pool", "create", &pool, "1"]);
        ceph(&["osd", "pool", "application", "enable", &pool, "lus"]);
        let cluster = Cluster::connect(ClusterOptions::from_env().for_images()).await.expect("the cluster");
        let map_pool = cluster.pool(&pool, None).await.expect("the map's pool");
        let images = cluster.pool("rbd", None).await.expect("pool rbd");
        let store = MapStore::open(&map_pool);
        let records = RecordStore::new(store.objects());
        // Any free port; the daemon binds it a moment later.
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        Self { pool, cluster, images, store, records, dir: tempfile::tempdir().expect("a folder"), port }
    }

    /// A user for daemon `id`, with the given caps of the monitors.
    pub(crate) fn user(&self, id: &str, mon: &str) {
        let osd = format!("profile rbd pool=rbd, allow rwx pool={}", self.pool);
        let keyring = self.keyring(id).display().to_string();
        let entity = self.entity(id);
        ceph(&["auth", "get-or-create", &entity, "mon", mon, "osd", &osd, "-o", &keyring]);
    }

    fn entity(&self, id: &str) -> String {
        format!("client.lus.{}", self.daemon(id))
    }

    /// The daemon's id: that of no other test.
    pub(crate) fn daemon(&self, id: &str) -> String {
        format!("{id}{}", self.pool.replace(".lus-test", ""))
    }

    fn keyring(&self, id: &str) -> PathBuf {
        self.dir.path().join(format!("{id}.keyring"))
    }

    /// Starts `lusd`.
    pub(crate) fn start(&self, id: &str, more: &[&str]) -> Daemon {
        let n = NEXT.fetch_add(1, SeqCst);
        let log = self.dir.path().join(format!("{id}.{n}.log"));
        let err = File::create(&log).expect("a log");
        let child = Command::new(env!("CARGO_BIN_EXE_lusd"))
            .args(["-d", "-n", &self.entity(id), "--lus-pool", &self.pool, "--lus-log", "info"])
            .arg("--keyring")
            .arg(self.keyring(id))
            .arg(format!("--lus-portal=127.0.0.1:{}", self.port))
            .args(more)
            .env_remove("CEPH_ARGS")
            .stdout(Stdio::null())
            .stderr(err)
            .spawn()
            .expect("lusd");
        Daemon { child, log }
    }

    /// An image, and an LU of it in the map.
    pub(crate) async fn image(&self, name: &str) -> LuId {
        let name = format!("{name}{}", self.pool);
        let options = CreateOptions { features: Some(Features::EXCLUSIVE_LOCK), ..CreateOptions::default() };
        self.images.create_image(&name, IMAGE_BYTES, options).await.expect("an image");
        let image = self.open(&name, OpenMode::ReadOnly).await;
        let id = LuId(uuid::Uuid::new_v4());
        let backend = Backend::Rbd {
            image: ImageSpec::new("rbd", "", &name).expect("a name"),
            image_id: image.id().to_owned(),
        };
        image.close().await.expect("closed");
        let ask = AddLu::new(id, backend);
        self.store.latest_or_create().await.expect("a map");
        self.store.update(|map, origin| change::lu::add(map, origin, &ask)).await.expect("an LU");
        id
    }

    pub(crate) async fn open(&self, name: &str, mode: OpenMode) -> Image {
        Image::open(&self.images, name, mode).await.expect("the image")
    }

    pub(crate) fn image_name(&self, name: &str) -> String {
        format!("{name}{}", self.pool)
    }

    pub(crate) async fn record(&self, lu: &LuId) -> Option<LuRecord> {
        self.records.read(lu).await.expect("a readable record")
    }

    /// Waits until the record is as `wanted`.
    pub(crate) async fn until(&self, lu: &LuId, what: &str, wanted: impl Fn(&LuRecord) -> bool) -> LuRecord {
        let end = Instant::now() + PATIENCE;
        loop {
            let record = self.record(lu).await;
            match record {
                Some(record) if wanted(&record) => return record,
                record => assert!(Instant::now() < end, "{what}: {record:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the lock of the LU's image is held through `addr` (or by nobody).
    pub(crate) async fn until_locked(&self, name: &str, addr: Option<&str>) {
        let image = self.open(&self.image_name(name), OpenMode::ReadOnly).await;
        let header = image.header_object();
        image.close().await.expect("closed");
        let end = Instant::now() + PATIENCE;
        loop {
            let lockers = self.images.list_lockers(&header, "rbd_lock").await.expect("lockers");
            let found = lockers.first().and_then(|locker| locker.addr).map(|addr| addr.to_string());
            if found.as_deref() == addr {
                return;
            }
            assert!(Instant::now() < end, "lock of {name}: {found:?}, not {addr:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The end of a test that went well.
    pub(crate) async fn remove(self, images: &[&str]) {
        for name in images {
            self.images.remove_image(&self.image_name(name), |_, _| {}).await.expect("removed");
        }
        ceph(&["osd", "pool", "rm", &self.pool, &self.pool, "--yes-i-really-really-mean-it"]);
    }
}

/// The client through which a record says that the LU is served.
pub(crate) fn served_by(record: &LuRecord) -> Option<String> {
    match &record.state {
        LuState::Serving { holder } => Some(holder.addr.to_string()),
        _ => None,
    }
}

/// A running `lusd`; killed when the test ends badly.
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for a line with `text`.
    pub(crate) async fn until_log(&mut self, text: &str) {
        self.until_logs(text, 1).await;
    }

    /// Waits for so many lines with `text`.
    pub(crate) async fn until_logs(&mut self, text: &str, count: usize) {
        let end = Instant::now() + PATIENCE;
        while self.log().matches(text).count() < count {
            let ended = self.child.try_wait().expect("a child");
            assert!(ended.is_none() && Instant::now() < end, "no '{text}' ({ended:?}):\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("a living process");
    }

    /// Waits for its end.
    pub(crate) async fn ended(mut self) -> (ExitStatus, String) {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return (status, self.log());
            }
            assert!(Instant::now() < end, "it does not end:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
