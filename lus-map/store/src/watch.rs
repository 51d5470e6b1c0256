//! Following the map: a watch for what is new, and a slow poll as the net under it.

use std::sync::Arc;
use std::time::Duration;

use lus_map::{Epoch, LusMap, MAP_OBJECT};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use crate::error::StoreError;
use crate::objects::{Acknowledge, ObjectEvent, ObjectWatch};
use crate::store::MapStore;

/// Notifies that wait for the daemon to apply what they announce; what comes on top is acknowledged at once.
const PENDING_ACKS_MAX: usize = 64;

/// When a notify is acknowledged to whoever changed the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckWhen {
    /// When the map that it announces was read.
    Read,
    /// When the daemon said [`MapWatch::applied`] of it: then an administrator's command that waits for the watchers
    /// returns when its effect is there.
    Applied,
}

/// How to follow the map.
#[derive(Debug, Clone)]
pub struct WatchOptions {
    /// How long RADOS keeps the watch of a silent client; a notify waits for a dead one as long.
    pub timeout: Duration,
    /// How often the map is looked at without being told to.
    pub poll: Duration,
    /// How long to wait before a broken watch is made again after that failed.
    pub retry: Duration,
    /// When a notify is acknowledged.
    pub ack: AckWhen,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            poll: Duration::from_secs(10),
            retry: Duration::from_secs(1),
            ack: AckWhen::Read,
        }
    }
}

/// How the following goes.
#[derive(Debug, Clone)]
pub struct WatchHealth {
    /// When the map was last read or found unchanged.
    pub last_look: Instant,
    /// Whether a watch stands.
    pub watching: bool,
    /// What the last look or watch failed with, if it failed.
    pub error: Option<Arc<StoreError>>,
}

/// Follows the map until it is dropped.
#[derive(Debug)]
pub struct MapWatch {
    maps: watch::Receiver<Arc<LusMap>>,
    health: watch::Receiver<WatchHealth>,
    applied: watch::Sender<Epoch>,
    held: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Drop for MapWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl MapWatch {
    /// Reads the map and follows it from there.
    ///
    /// # Errors
    /// As [`MapStore::latest`], and what the first watch fails with.
    pub async fn start(store: MapStore, options: WatchOptions) -> Result<Self, StoreError> {
        // The watch first: what changes behind it is announced.
        let watched = store.inner.objects.watch(MAP_OBJECT, options.timeout).await.map_err(|error| {
            if error.is_not_found() { StoreError::NoMap } else { StoreError::Ceph(error) }
        })?;
        let map = store.latest().await?;
        let (maps_sender, maps) = watch::channel(map);
        let first = WatchHealth { last_look: Instant::now(), watching: true, error: None };
        let (health_sender, health) = watch::channel(first);
        let (applied, applied_receiver) = watch::channel(Epoch(0));
        let (held, held_receiver) = watch::channel(true);
        let follower = Follower {
            store,
            options,
            watched: Some(watched),
            maps: maps_sender,
            health: health_sender,
            applied: applied_receiver,
            held: held_receiver,
            pending: Vec::new(),
        };
        Ok(Self { maps, health, applied, held, task: tokio::spawn(follower.run()) })
    }

    /// The map as last read.
    pub fn map(&self) -> Arc<LusMap> {
        Arc::clone(&self.maps.borrow())
    }

    /// The maps, as they are read; a slow reader sees the latest only.
    pub fn maps(&self) -> watch::Receiver<Arc<LusMap>> {
        self.maps.clone()
    }

    /// How the following goes.
    pub fn health(&self) -> watch::Receiver<WatchHealth> {
        self.health.clone()
    }

    /// Whether to hold the watch. A daemon that gives it up is found missing, and judged; it follows the map by looking.
    pub fn hold_watch(&self, held: bool) {
        self.held.send_if_modified(|was| std::mem::replace(was, held) != held);
    }

    /// The daemon does what the map of `epoch` says; see [`AckWhen::Applied`].
    pub fn applied(&self, epoch: Epoch) {
        self.applied.send_if_modified(|applied| {
            let newer = epoch > *applied;
            *applied = epoch.max(*applied);
            newer
        });
    }
}

/// What the follower waits for.
enum Event {
    Poll,
    Applied,
    Held,
    Watch(ObjectEvent),
}

struct Follower {
    store: MapStore,
    options: WatchOptions,
    watched: Option<Box<dyn ObjectWatch>>,
    maps: watch::Sender<Arc<LusMap>>,
    health: watch::Sender<WatchHealth>,
    applied: watch::Receiver<Epoch>,
    /// Whether the watch is to be held.
    held: watch::Receiver<bool>,
    /// Notifies that are not acknowledged, with the epoch that must be applied first.
    pending: Vec<(Epoch, Acknowledge)>,
}

impl Follower {
    async fn run(mut self) {
        let mut poll = tokio::time::interval_at(Instant::now() + self.options.poll, self.options.poll);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let retry = self.watched.is_none();
            // In a fixed order, so that a simulation can be run again; none of them is ready all the time.
            let event = tokio::select! {
                biased;
                _ = poll.tick() => Event::Poll,
                () = tokio::time::sleep(self.options.retry), if retry => Event::Poll,
                changed = self.applied.changed() => match changed {
                    Ok(()) => Event::Applied,
                    // The handle is gone: nobody reads any more.
                    Err(_) => return,
                },
                changed = self.held.changed() => match changed {
                    Ok(()) => Event::Held,
                    Err(_) => return,
                },
                event = next(&mut self.watched) => Event::Watch(event),
            };
            self.handle(event).await;
        }
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Applied => self.acknowledge_applied(),
            Event::Held => {
                if !*self.held.borrow_and_update() {
                    tracing::warn!("giving up the watch on the map");
                    self.watched = None;
                }
                self.look().await;
            }
            Event::Poll => {
                if let Some(error) = self.watched.as_ref().and_then(|watched| watched.check().err()) {
                    self.broken(error.into());
                }
                self.look().await;
            }
            Event::Watch(ObjectEvent::Lost) => self.look().await,
            Event::Watch(ObjectEvent::Broken(error)) => {
                self.broken(error.into());
                self.look().await;
            }
            Event::Watch(ObjectEvent::Notify(acknowledge)) => {
                self.look().await;
                let epoch = self.maps.borrow().epoch();
                match self.options.ack {
                    AckWhen::Applied if self.pending.len() < PENDING_ACKS_MAX => {
                        self.pending.push((epoch, acknowledge));
                        self.acknowledge_applied();
                    }
                    AckWhen::Applied => acknowledge(b""),
                    AckWhen::Read => acknowledge(epoch.to_string().as_bytes()),
                }
            }
        }
    }

    /// Answers the notifies whose epoch is applied.
    fn acknowledge_applied(&mut self) {
        let applied = *self.applied.borrow_and_update();
        for (_, acknowledge) in self.pending.extract_if(.., |(epoch, _)| *epoch <= applied) {
            acknowledge(applied.to_string().as_bytes());
        }
    }

    fn broken(&mut self, error: StoreError) {
        tracing::warn!(%error, "the watch on the map is broken; watching again");
        self.watched = None;
        self.report(Err(error));
    }

    /// Watches again if need be, then reads what is new.
    async fn look(&mut self) {
        let watched = self.watch_again().await;
        let read = self.refresh().await;
        self.report(watched.and(read));
    }

    async fn watch_again(&mut self) -> Result<(), StoreError> {
        if self.watched.is_none() && *self.held.borrow() {
            let watched = self.store.inner.objects.watch(MAP_OBJECT, self.options.timeout).await?;
            tracing::info!("watching the map again");
            self.watched = Some(watched);
        }
        Ok(())
    }

    async fn refresh(&mut self) -> Result<(), StoreError> {
        let known = Arc::clone(&self.maps.borrow());
        let latest = self.store.refresh(&known).await?;
        self.maps.send_if_modified(|map| {
            let newer = latest.epoch() > map.epoch();
            if newer {
                *map = latest;
            }
            newer
        });
        Ok(())
    }

    fn report(&mut self, looked: Result<(), StoreError>) {
        let watching = self.watched.is_some();
        if let Err(error) = &looked {
            tracing::warn!(%error, "cannot follow the map");
        }
        self.health.send_modify(|health| {
            health.watching = watching;
            if looked.is_ok() {
                health.last_look = Instant::now();
            }
            health.error = looked.err().map(Arc::new);
        });
    }
}

/// The next event of a watch; never, without one.
async fn next(watched: &mut Option<Box<dyn ObjectWatch>>) -> ObjectEvent {
    match watched {
        Some(watched) => watched.next().await,
        None => std::future::pending().await,
    }
}
