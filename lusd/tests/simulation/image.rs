//! Images: a header with lock and watches, blocks that hold a number each; what librbd does with them, as measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use lusd_ceph::Errno;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::objects::{Tell, Watch};
use crate::oracle::Oracle;
use crate::rados::{Client, Reply, State};

/// How long the header keeps the watch of a silent client.
const HEADER_WATCH: Duration = Duration::from_secs(30);
/// How often librbd asks again for a lock whose holder does not answer.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// How long the monitors keep a blocklist entry that librbd makes.
const LIBRBD_EXPIRE: Duration = Duration::from_secs(3600);
/// How long librbd drains before a release; it waits for as long as it takes.
const DRAIN_POLL: Duration = Duration::from_millis(2);

/// Blocks of an image that hosts write to.
pub(crate) const BLOCKS: usize = 3;

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Locker {
    pub(crate) client: String,
    pub(crate) cookie: String,
    pub(crate) addr: String,
}

/// An image in RADOS.
#[derive(Default)]
pub(crate) struct ImageState {
    pub(crate) lock: Option<Locker>,
    pub(crate) blocks: [u64; BLOCKS],
}

pub(crate) fn header(lu: usize) -> String {
    format!("header.{lu}")
}

pub(crate) fn block_object(lu: usize, block: usize) -> String {
    format!("data.{lu}.{block}")
}

/// An image that is open read-write.
pub(crate) struct Image {
    pub(crate) lu: usize,
    pub(crate) client: Client,
    oracle: Arc<Oracle>,
    cookie: String,
    watch: u64,
    locked: AtomicBool,
    in_flight: AtomicU64,
    /// Rung when something is to be looked at.
    pub(crate) updates: Arc<Notify>,
}

impl Image {
    pub(crate) async fn open(client: &Client, oracle: &Arc<Oracle>, lu: usize) -> Reply<Arc<Self>> {
        let updates = Arc::new(Notify::new());
        let (hint, watcher, object, seen) = (updates.clone(), client.clone(), header(lu), oracle.clone());
        let opened = client.submit(header(lu), move |state| {
            seen.opened(&watcher, lu);
            let (id, heard, tell) = (state.id(), Instant::now(), Tell::Hint(hint));
            let timeout = HEADER_WATCH;
            state.watches.push(Watch {
                id,
                object,
                client: watcher,
                timeout,
                heard,
                hidden_until: None,
                tell,
            });
            Ok(id)
        });
        let watch = opened.await?;
        Ok(Arc::new(Self {
            lu,
            client: client.clone(),
            oracle: oracle.clone(),
            cookie: format!("auto {watch}"),
            watch,
            locked: AtomicBool::new(false),
            in_flight: AtomicU64::new(0),
            updates,
        }))
    }

    fn locker(&self) -> Locker {
        let addr = self.client.addr.to_string();
        Locker {
            client: format!("client.{}", addr.replace(['.', ':', '/'], "")),
            cookie: self.cookie.clone(),
            addr,
        }
    }

    /// Does something with the header's lock.
    async fn with_lock<T: Send + 'static>(
        &self,
        op: impl FnOnce(&mut State, Locker) -> Reply<T> + Send + 'static,
    ) -> Reply<T> {
        let me = self.locker();
        self.client.submit(header(self.lu), move |state| op(state, me)).await
    }

    pub(crate) async fn list_lockers(&self) -> Reply<Option<Locker>> {
        let lu = self.lu;
        self.with_lock(move |state, _| Ok(state.images[lu].lock.clone())).await
    }

    pub(crate) async fn list_watchers(&self) -> Reply<Vec<String>> {
        let header = header(self.lu);
        self.with_lock(move |state, _| Ok(state.watchers(&header))).await
    }

    /// `cls_lock`'s break: fences nobody.
    pub(crate) async fn break_lock(&self, locker: &Locker) -> Reply<()> {
        let (lu, locker, oracle) = (self.lu, locker.clone(), self.oracle.clone());
        self.with_lock(move |state, _| {
            if state.images[lu].lock.as_ref() != Some(&locker) {
                return Err(Errno::ENOENT);
            }
            oracle.lock_broken(state, lu, &locker);
            state.images[lu].lock = None;
            Ok(())
        })
        .await
    }

    /// `rbd_lock_acquire`: -30 while a living client holds it; that of a dead one it breaks when its watch is gone.
    pub(crate) async fn lock_acquire(&self) -> Reply<()> {
        loop {
            let (lu, header) = (self.lu, header(self.lu));
            let found = self
                .with_lock(move |state, me| {
                    let holder = match &state.images[lu].lock {
                        Some(holder) if *holder != me => holder.clone(),
                        _ => {
                            state.images[lu].lock = Some(me);
                            return Ok(None);
                        }
                    };
                    let watch =
                        state.watches.iter().find(|w| w.object == header && *w.client.addr == *holder.addr);
                    match watch {
                        Some(watch) if watch.client.process.is_heard() => Err(Errno::EROFS),
                        watch => Ok(Some((holder, watch.is_some()))),
                    }
                })
                .await?;
            let Some((holder, watched)) = found else { break };
            if watched {
                sleep(ASK_AGAIN).await;
                continue;
            }
            self.client.blocklist_add(&holder.addr, LIBRBD_EXPIRE).await;
            self.with_lock(move |state, _| {
                state.images[lu].lock.take_if(|lock| *lock == holder);
                Ok(())
            })
            .await?;
        }
        self.locked.store(true, SeqCst);
        self.oracle.rados_note(|| format!("{} has the lock of lu{}", self.client.addr, self.lu));
        Ok(())
    }

    pub(crate) async fn is_lock_owner(&self) -> Reply<bool> {
        let lu = self.lu;
        self.with_lock(move |state, me| Ok(state.images[lu].lock.as_ref() == Some(&me))).await
    }

    /// Lets what is in flight end first.
    pub(crate) async fn lock_release(&self) -> Reply<()> {
        self.locked.store(false, SeqCst);
        while self.in_flight.load(SeqCst) > 0 {
            sleep(DRAIN_POLL).await;
        }
        let lu = self.lu;
        self.with_lock(move |state, me| {
            let released = state.images[lu].lock.take_if(|lock| *lock == me);
            released.map(drop).ok_or(Errno::ENOENT)
        })
        .await
    }

    pub(crate) async fn close(self: Arc<Self>) {
        if self.locked.load(SeqCst) {
            let _ = self.lock_release().await;
        }
        let id = self.watch;
        let unwatched = self.with_lock(move |state, _| {
            state.watches.retain(|watch| watch.id != id);
            Ok(())
        });
        let _ = unwatched.await;
    }

    /// Whether a handle of ours says that it may write.
    fn may_write(&self) -> Reply<()> {
        if self.locked.load(SeqCst) { Ok(()) } else { Err(Errno::EROFS) }
    }

    pub(crate) async fn write(&self, block: usize, number: u64, epoch: u64) -> Reply<()> {
        self.may_write()?;
        self.in_flight.fetch_add(1, SeqCst);
        let (lu, oracle, me) = (self.lu, self.oracle.clone(), self.client.addr.clone());
        let written = self.client.submit(block_object(lu, block), move |state| {
            oracle.applied(lu, block, number, epoch, &me);
            state.images[lu].blocks[block] = number;
            Ok(())
        });
        let written = written.await;
        self.in_flight.fetch_sub(1, SeqCst);
        written
    }

    pub(crate) async fn read(&self, block: usize) -> Reply<u64> {
        self.may_write()?;
        let lu = self.lu;
        self.client.submit(block_object(lu, block), move |state| Ok(state.images[lu].blocks[block])).await
    }
}
