//! Start, life and end of the daemon.
//!
//! ```text
//!   connect ─ configuration of the monitors ─ map ─ may it fence? ─ secrets ─ bind portals ─ connect clients for images ─ register
//!     ─ fence older starts ┐
//!     ─ show and open LUs  ┴─ listen ─ ready ─ … ─┬─ SIGTERM ─ hand LUs over ─ stop accepting ─ close sessions ─ release LUs ─ retire
//!                                                 └─ declared down, fenced ─ reset sessions ─ run the program again (same process)
//! ```

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use lus_map::LusMap;
use lus_map::change::daemon;
use lus_map_store::{AckWhen, MapWatch, RecordStore, SecretWatch, WatchOptions};
use lusd_ceph::{Cluster, ClusterOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::config::{Config, Environment};
use crate::listener::{Bound, announced};
use crate::lun::clients::{DataClient, DataClients};
use crate::lun::fencer::Fencer;
use crate::lun::owner::{PoolTurns, Shared};
use crate::lun::room::Rooms;
use crate::map::leader::{Driver, FenceAll};
use crate::map::reconcile::Reconciler;
use crate::map::register::{self, Over, Registration};
use crate::map::secrets;
use crate::map::view::Own;
use crate::net::connection::LOGOUT_WITHIN_S;
use crate::net::shard::ShardHandle;
use crate::observe::log::{Log, RENAME_CHECK};
use crate::observe::service_map;
use crate::observe::watchdog::Watchdog;
use crate::process::{self, Detached, EarlierLife};
use crate::service::Service;

/// How long the first look at all LUs may hold up the start; those that do not answer appear later.
const FIRST_LOOK_TIMEOUT: Duration = Duration::from_secs(3);
/// How long each RADOS client may take to end. An end that takes longer is as good as a crash: the next start fences it.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the resets of all sessions may take before the program runs itself again.
const RESET_TIMEOUT: Duration = Duration::from_millis(500);
/// Exit code of a second SIGTERM, as a shell would show the signal.
const EXIT_TERMINATED: i32 = 128 + 15;

/// Everything that a running daemon consists of.
struct Running {
    control: Cluster,
    shared: Arc<Shared>,
    service: Arc<Service>,
    follow: Arc<MapWatch>,
    secrets: SecretWatch,
    reconciler: Reconciler,
    shards: Arc<Vec<ShardHandle>>,
    accepting: JoinHandle<()>,
    stop_accepting: watch::Sender<bool>,
    reporting: JoinHandle<()>,
    leading: JoinHandle<()>,
    watchdog: JoinHandle<Arc<LusMap>>,
    registration: Registration,
}

/// How the daemon's life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// In order, because it was told to.
    Stopped,
    /// This start is over, and the next one is to begin in this process.
    Again(EarlierLife),
}

/// Runs the daemon until SIGTERM or SIGINT, or until its start is over.
///
/// # Errors
/// Whatever keeps it from starting, or from going on.
pub async fn run(
    config: Config,
    environment: &Environment,
    log: Log,
    detached: Option<Detached>,
    earlier: Option<EarlierLife>,
) -> anyhow::Result<Ended> {
    let begun = Instant::now();
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    tokio::spawn(keep_log(log));
    let drain_timeout = config.drain_timeout;
    let mut running = tokio::select! {
        running = start_after(earlier, config, environment) => running?,
        _ = terminate.recv() => bail!("terminated while starting"),
        _ = interrupt.recv() => bail!("interrupted while starting"),
    };
    if let Some(detached) = detached {
        detached.ready()?;
    }
    process::notify_service_manager("READY=1");
    info!("ready");
    let over = tokio::select! {
        _ = terminate.recv() => {
            info!("SIGTERM: stopping");
            None
        }
        _ = interrupt.recv() => {
            info!("SIGINT: stopping");
            None
        }
        over = running.is_over() => Some(over),
    };
    if let Some(over) = over {
        let ended = running.give_up(over, earlier, begun.elapsed()).await?;
        // A signal that came meanwhile would be forgotten by what comes next.
        return tokio::select! {
            biased;
            _ = terminate.recv() => bail!("terminated while this start was over"),
            _ = interrupt.recv() => bail!("interrupted while this start was over"),
            () = std::future::ready(()) => Ok(ended),
        };
    }
    process::notify_service_manager("STOPPING=1");
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        warn!("a second signal: ending at once; the next start fences what is left");
        std::process::exit(EXIT_TERMINATED);
    });
    running.drain(drain_timeout).await.map(|()| Ended::Stopped)
}

/// Starts, after a pause if the process has an earlier life.
async fn start_after(
    earlier: Option<EarlierLife>,
    config: Config,
    environment: &Environment,
) -> anyhow::Result<Running> {
    if let Some(earlier) = earlier {
        let pause = earlier.pause();
        info!(
            restarts = earlier.count,
            after = earlier.up_from.0,
            pause_s = pause.as_secs(),
            "starting again"
        );
        tokio::time::sleep(pause).await;
    }
    start(config, environment, earlier).await
}

async fn start(
    config: Config,
    environment: &Environment,
    earlier: Option<EarlierLife>,
) -> anyhow::Result<Running> {
    let options = config.cluster_options();
    let control = Cluster::connect(options.clone())
        .await
        .with_context(|| format!("cannot connect to cluster '{}' as {}", config.cluster, config.name))?;
    let config = with_central(config, &control, environment).await?;
    info!(fsid = control.fsid(), client = %control.address(), "connected");
    let (store, map) = register::open_map(&control, &config.pool).await?;
    if let Some(earlier) = earlier {
        register::still_the_newest(&map, &config.id, earlier.up_from)?;
    }
    if !register::left_unfenced(&map, &config.id) {
        // Where there is something to fence, that is the trial.
        register::check_fencing(&control, &options, &config).await?;
    }
    let service = Service::new(config.limits.clone(), config.shards);
    let secrets = secrets::follow(&control, &config.pool, service.clone()).await?;
    let bound = Bound::bind(&config.portals)?;
    let image_options = options.for_images().tuned(config.data_client_threads);
    let clients = connect_clients(&image_options, config.data_clients).await?;
    let registration =
        register::register(&store, &config, announced(&config.portals), &control, &clients).await?;
    let fencer = Arc::new(Fencer::new(control.clone(), config.blocklist_expire)?);
    let follow = WatchOptions { ack: AckWhen::Applied, ..WatchOptions::default() };
    let follow = Arc::new(MapWatch::start(store.clone(), follow).await.context("cannot follow the LUS map")?);
    service_map::register(&control, &config).await;

    let key = registration.key.clone();
    let shared = Arc::new(Shared {
        me: key.clone(),
        shards: config.shards,
        control: control.clone(),
        store: store.clone(),
        records: RecordStore::new(store.objects()),
        fencer: fencer.clone(),
        clients: Arc::new(DataClients::new(image_options, key, store.clone(), fencer.clone(), clients)),
        turns: PoolTurns::new(config.open_parallel),
        soft_threshold_percent: config.soft_threshold_percent,
        drain_timeout: config.drain_timeout,
        maps: follow.maps(),
        service: service.clone(),
    });
    let own =
        Own { id: config.id.clone(), group_tag: registration.group_tag, portals: config.portals.clone() };
    let rooms = Rooms::follow(control.clone(), config.pool_usage_interval);
    let reconciler = Reconciler::start(shared.clone(), service.clone(), own, follow.clone(), rooms);
    let mut first = reconciler.first.clone();
    let (fenced, _) = tokio::join!(
        register::fence_older(&store, &fencer, registration.to_fence.clone(), &config),
        tokio::time::timeout(FIRST_LOOK_TIMEOUT, first.wait_for(|first| *first)),
    );
    if let Err(error) = fenced {
        // Whatever was opened meanwhile has not been served: each LU waits for the fence of its own holder.
        reconciler.stop().await;
        return Err(error);
    }
    let shards = (0..config.shards)
        .map(|index| ShardHandle::start(index, service.clone()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let shards = Arc::new(shards);
    let listeners = bound.listen()?;
    for address in listeners.addresses() {
        info!(%address, group_tag = registration.group_tag, "listening");
    }
    let (stop_accepting, stop) = watch::channel(false);
    let accepting = tokio::spawn(listeners.run(service.clone(), shards.clone(), stop));
    let (leads_sender, leads) = watch::channel(None);
    let leading = Driver::new(
        registration.key.clone(),
        store.clone(),
        follow.maps(),
        fence_through(fencer.clone()),
        leads_sender,
    );
    let leading = tokio::spawn(leading.run());
    let watchdog = Watchdog {
        me: registration.key.clone(),
        pingers: shards.iter().map(ShardHandle::pinger).collect(),
        control: control.clone(),
        clients: shared.clients.clone(),
        pool: config.pool.clone(),
        store: store.clone(),
        follow: follow.clone(),
        service: service.clone(),
    };
    let watchdog = tokio::spawn(watchdog.run());
    let reporting = tokio::spawn(service_map::report(
        control.clone(),
        service.clone(),
        reconciler.epoch.clone(),
        reconciler.counts.clone(),
        leads,
    ));
    Ok(Running {
        control,
        shared,
        service,
        follow,
        secrets,
        reconciler,
        shards,
        accepting,
        stop_accepting,
        reporting,
        leading,
        watchdog,
        registration,
    })
}

/// The leader's way to fence.
fn fence_through(fencer: Arc<Fencer>) -> FenceAll {
    Arc::new(move |addrs| {
        let fencer = fencer.clone();
        Box::pin(async move { fencer.fence_all(addrs).await })
    })
}

/// Adds what the monitors say. Without the right to ask them the daemon lives by the rest.
async fn with_central(
    config: Config,
    control: &Cluster,
    environment: &Environment,
) -> anyhow::Result<Config> {
    let command = serde_json::json!({ "prefix": "config get", "who": config.name, "format": "json" });
    let config = match control.mon_command(command.to_string()).await {
        Ok((json, _)) => config.with_central(&json, environment.cores)?,
        Err(error) if error.is_permission_denied() => {
            warn!(
                "no right to read the monitors' configuration (mon 'allow r'): lus_* options there are not seen"
            );
            config
        }
        Err(error) => return Err(error).context("cannot read the monitors' configuration"),
    };
    for name in config.unknown() {
        warn!(option = %name, "unknown option");
    }
    for (option, value, from) in config.differences() {
        info!(option, value, %from, "configured");
    }
    Ok(config)
}

async fn connect_clients(options: &ClusterOptions, count: usize) -> anyhow::Result<Vec<DataClient>> {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..count {
        let options = options.clone();
        tasks.spawn(async move { DataClient::connect(&options).await });
    }
    let clients: Result<Vec<_>, _> = tasks.join_all().await.into_iter().collect();
    clients.context("cannot connect a client for images")
}

impl Running {
    /// Resolves when this start is over, with the reason.
    async fn is_over(&mut self) -> Over {
        let mut maps = self.follow.maps();
        let mut health = self.follow.health();
        let key = &self.registration.key;
        loop {
            if let Some(over) = register::is_over(&maps.borrow_and_update(), key) {
                return over;
            }
            let error = health.borrow_and_update().error.clone();
            if let Some(error) = error.filter(|error| error.is_fenced()) {
                return Over::Fenced(error.to_string());
            }
            let changed = tokio::select! {
                changed = maps.changed() => changed,
                changed = health.changed() => changed,
                found = &mut self.watchdog => {
                    let over = found.ok().and_then(|map| register::is_over(&map, key));
                    return over.unwrap_or_else(|| Over::lost_sight(key));
                }
            };
            if changed.is_err() {
                return Over::lost_sight(key);
            }
        }
    }

    /// This start is over: nothing of it may be answered any more. The process goes on as another start, unless there is one already.
    async fn give_up(
        self,
        over: Over,
        earlier: Option<EarlierLife>,
        lived: Duration,
    ) -> anyhow::Result<Ended> {
        error!(reason = %over, "this start is over: sessions are reset");
        // It would end the isolation.
        self.watchdog.abort();
        self.service.set_isolated(true);
        let _ = self.stop_accepting.send(true);
        if tokio::time::timeout(RESET_TIMEOUT, self.service.sessions.all_hung_up()).await.is_err() {
            warn!(connections = self.service.sessions.sockets(), "not all connections could be reset");
        }
        if let Over::Superseded { .. } = over {
            return Err(over.into());
        }
        Ok(Ended::Again(EarlierLife::next(earlier, lived, self.registration.key.up_from)))
    }

    /// Hands every LU over to daemons that are up and in. False if there is none.
    async fn hand_over_all(&self) -> anyhow::Result<bool> {
        let key = &self.registration.key;
        let map = loop {
            let left =
                self.shared.store.update(|map, origin| daemon::leave(map, origin, (&key.id, key.up_from)));
            let left = left.await?;
            if !left.changed() {
                break left.map;
            }
            info!(epoch = left.map.epoch().0, "{}", left.said);
        };
        let others = map.daemons().any(|other| other.id != key.id && other.takes_units());
        if !others || map.placements().any(|placement| placement.owner == key.id) {
            return Ok(false);
        }
        let (mut epoch, mut counts) = (self.reconciler.epoch.clone(), self.reconciler.counts.clone());
        epoch.wait_for(|epoch| *epoch >= map.epoch()).await?;
        counts.wait_for(|counts| counts.serving + counts.waiting == 0).await?;
        Ok(true)
    }

    /// LUs first, while hosts have other paths; then these are asked to leave.
    async fn leave(&self, timeout: Duration) {
        match tokio::time::timeout(timeout, self.hand_over_all()).await {
            Ok(Ok(true)) => info!("every logical unit is handed over"),
            Ok(Ok(false)) => return info!("there is no daemon to hand logical units over to"),
            Ok(Err(error)) => return warn!(%error, "cannot hand logical units over"),
            Err(_) => return warn!("not all logical units could be handed over in time"),
        }
        self.service.sessions.ask_for_logout();
        let within = Duration::from_secs(u64::from(LOGOUT_WITHIN_S));
        if tokio::time::timeout(within, self.service.sessions.all_hung_up()).await.is_err() {
            info!(connections = self.service.sessions.sockets(), "not all hosts have logged out");
        }
    }

    /// The end in order. What cannot be ended in time is left to the next start, which fences it.
    async fn drain(self, timeout: Duration) -> anyhow::Result<()> {
        self.leave(timeout).await;
        let _ = self.stop_accepting.send(true);
        let _ = self.accepting.await;
        self.reporting.abort();
        // The sessions first: a host that finds its connection closed comes again and repeats what was not answered; one that is told
        // that the LU is not served any more gives its I/O up.
        self.service.sessions.close_all();
        let Some(shards) = Arc::into_inner(self.shards) else { bail!("a shard is still in use") };
        let joined = tokio::task::spawn_blocking(|| shards.into_iter().for_each(ShardHandle::join));
        let in_order = tokio::time::timeout(timeout, joined).await.is_ok();
        if !in_order {
            error!(connections = self.service.sessions.connections(), "connections do not end");
        }
        if tokio::time::timeout(timeout, self.reconciler.stop()).await.is_err() {
            bail!("stopped, but not in order: logical units cannot be released, RADOS does not answer");
        }
        info!("every logical unit is let go");
        if !in_order {
            bail!("stopped, but not in order: connections did not end within {} s", timeout.as_secs());
        }
        let store = self.shared.store.clone();
        self.watchdog.abort();
        let _ = self.watchdog.await;
        let Some(shared) = Arc::into_inner(self.shared) else { bail!("an LU's task is still there") };
        let Some(clients) = Arc::into_inner(shared.clients) else {
            bail!("a client for images is still in use")
        };
        drop((shared.control, shared.store, shared.records, shared.fencer, shared.maps));
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, clients.shutdown()).await.is_err() {
            bail!("stopped, but not in order: a client for images does not end");
        }
        // To the last moment: without its watch it would be judged.
        self.leading.abort();
        let _ = self.leading.await;
        drop(self.follow);
        drop(self.secrets);
        register::retire(&store, &self.registration.key).await;
        drop(store);
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, self.control.shutdown()).await.is_err() {
            warn!("the RADOS client does not end");
        }
        info!("stopped");
        Ok(())
    }
}

/// Opens the log again on SIGHUP, and when somebody renamed it; says what was left out of it.
async fn keep_log(log: Log) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    let mut tick = tokio::time::interval(RENAME_CHECK);
    loop {
        let reopened = tokio::select! {
            _ = hangup.recv() => log.reopen().map(|()| true),
            _ = tick.tick() => {
                log.tell_left_out();
                log.reopen_if_renamed()
            }
        };
        match reopened {
            Ok(true) => info!("log opened again"),
            Ok(false) => {}
            // To the old file: there is nowhere else.
            Err(error) => warn!(%error, "cannot open the log again"),
        }
    }
}
