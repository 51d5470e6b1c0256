//! A logical unit as this daemon knows it: what SCSI says of it, its gate, and its backend while this daemon owns it.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwapOption, Guard};
use lus_map::LuId;
use lusd_scsi::{AccessState, LogicalUnit};
use tokio::sync::Notify;
use tracing::error;

use super::backend::Backend;
use super::gate::{Gate, LuEpoch};
use super::reserve::Desk;

/// See the module's text. Shared by all shards; nothing on the path of a read or a write locks it.
pub struct Unit {
    /// Stable identity, from the map.
    pub id: LuId,
    /// `POOL/IMAGE`, `ram:NAME` or `null:NAME`.
    pub name: String,
    /// The device server's view of it.
    pub scsi: LogicalUnit,
    /// What every block operation passes twice.
    pub gate: Gate,
    /// Where requests to change its reservations wait.
    pub desk: Desk,
    backend: ArcSwapOption<Backend>,
    /// Number of the pool that holds its blocks; [`NO_POOL`] while none is known.
    data_pool: AtomicI64,
    /// Of the backend, while there is one.
    reads_into_buffers: AtomicBool,
    /// Raised by each LOGICAL UNIT RESET, CLEAR TASK SET and the like: tasks of an earlier generation are ended.
    reset_generation: AtomicU64,
    /// TAS, as it was when tasks were ended last.
    ended_tasks_are_answered: AtomicBool,
    /// The highest epoch of which an operation was lost or has an outcome that is not known, whether the gate was open or shut.
    lost_epoch: AtomicU64,
    lost: Notify,
    looks: Looks,
}

/// While another daemon serves the unit, what is known of it here is what was seen of the image.
#[derive(Default)]
struct Looks {
    /// Looks that have ended, and when the last one did.
    ended: Mutex<(u64, Option<Instant>)>,
    wanted: Notify,
}

/// Numbers of pools begin at 1.
const NO_POOL: i64 = -1;
/// What was seen so lately is not looked at again because a host asks.
pub const LOOK_FRESH: Duration = Duration::from_secs(2);

impl Unit {
    /// A unit that is not served yet; `shards` as for [`Gate::new`].
    pub fn new(id: LuId, name: String, scsi: LogicalUnit, shards: usize) -> Arc<Self> {
        Arc::new(Self {
            id,
            name,
            scsi,
            gate: Gate::new(shards),
            desk: Desk::default(),
            backend: ArcSwapOption::empty(),
            data_pool: AtomicI64::new(NO_POOL),
            reads_into_buffers: AtomicBool::new(false),
            reset_generation: AtomicU64::new(0),
            ended_tasks_are_answered: AtomicBool::new(false),
            lost_epoch: AtomicU64::new(0),
            lost: Notify::new(),
            looks: Looks::default(),
        })
    }

    /// Starts to serve under `epoch`. The caller holds the LU: fenced, lock acquired and checked.
    pub fn serve(&self, epoch: LuEpoch, backend: Arc<Backend>) {
        self.reads_into_buffers.store(backend.read_needs_buffer(), SeqCst);
        self.backend.store(Some(backend));
        self.scsi.set_access(AccessState::Serving);
        self.desk.open();
        self.gate.open(epoch);
    }

    /// Stops in order: shuts the gate, lets what is inside end and be answered, and hands the backend back.
    pub async fn stop(&self, access: AccessState) -> Option<Arc<Backend>> {
        self.scsi.set_access(access);
        self.gate.shut();
        self.desk.shut();
        self.gate.drained().await;
        self.scsi.forget_reserve();
        self.backend.swap(None)
    }

    /// Takes the backend away while the gate is held: nothing is inside, and nothing enters before it is shut.
    pub fn retire_backend(&self) -> Option<Arc<Backend>> {
        self.backend.swap(None)
    }

    /// The LU was lost under `epoch`: nothing that is inside is answered any more. Idempotent, from any thread.
    pub fn lost(&self, epoch: LuEpoch, unknown: bool) {
        if self.gate.epoch() != epoch {
            return;
        }
        // Also while it drains: it must not be called released then.
        self.lost_epoch.fetch_max(epoch.0, SeqCst);
        if !self.gate.is_serving() {
            return;
        }
        error!(lu = %self.name, epoch = epoch.0, unknown, "lost: its sessions with commands in flight are reset");
        self.scsi.set_access(AccessState::Transitioning);
        self.gate.revoke();
        self.desk.shut();
        self.lost.notify_one();
    }

    /// Whether an operation of `epoch` was lost, or has an outcome that is not known.
    pub fn was_lost(&self, epoch: LuEpoch) -> bool {
        self.lost_epoch.load(SeqCst) == epoch.0
    }

    /// Waits for [`Unit::lost`].
    pub async fn until_lost(&self) {
        self.lost.notified().await;
    }

    /// The backend, while this daemon serves the LU.
    #[inline]
    pub fn backend(&self) -> Guard<Option<Arc<Backend>>> {
        self.backend.load()
    }

    /// Puts what `make` makes of the backend in its place, if it makes something. The caller holds the gate's barrier.
    pub fn exchange_backend(&self, make: impl FnOnce(&Backend) -> Option<Backend>) {
        if let Some(other) = self.backend.load().as_deref().and_then(make) {
            self.reads_into_buffers.store(other.read_needs_buffer(), SeqCst);
            self.backend.store(Some(Arc::new(other)));
        }
    }

    /// True where a read needs a buffer of ours, which is to be charged first.
    #[inline]
    pub fn reads_into_buffers(&self) -> bool {
        self.reads_into_buffers.load(SeqCst)
    }

    /// The number of the pool that holds its blocks, where that is known.
    pub fn data_pool(&self) -> Option<i64> {
        Some(self.data_pool.load(SeqCst)).filter(|pool| *pool != NO_POOL)
    }

    /// Notes that; `None` changes nothing: what was seen of an image does not change.
    pub fn set_data_pool(&self, pool: Option<i64>) {
        if let Some(pool) = pool {
            self.data_pool.store(pool, SeqCst);
        }
    }

    /// A host asks for the size. If that is another daemon's to serve and was not looked at just now: wakes
    /// [`Unit::until_look_is_wanted`], and says which look to wait for.
    pub fn ask_for_look(&self, now: Instant) -> Option<u64> {
        if self.scsi.access() != AccessState::Standby {
            return None;
        }
        let (ended, last) = *self.looks();
        if last.is_some_and(|last| now.saturating_duration_since(last) < LOOK_FRESH) {
            return None;
        }
        self.looks.wanted.notify_one();
        Some(ended + 1)
    }

    /// Whether that look has ended.
    pub fn was_looked_at(&self, look: u64) -> bool {
        self.looks().0 >= look
    }

    /// Waits until a host asks.
    pub async fn until_look_is_wanted(&self) {
        self.looks.wanted.notified().await;
    }

    /// A look has ended; `seen`: not in vain.
    pub fn note_look(&self, now: Instant, seen: bool) {
        let mut looks = self.looks();
        looks.0 += 1;
        if seen {
            looks.1 = Some(now);
        }
    }

    fn looks(&self) -> MutexGuard<'_, (u64, Option<Instant>)> {
        self.looks.ended.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The current reset generation.
    #[inline]
    pub fn reset_generation(&self) -> u64 {
        self.reset_generation.load(SeqCst)
    }

    /// Ends every task of the unit. To be called before a reset of the mode parameters: it looks at TAS.
    pub fn raise_reset_generation(&self) -> u64 {
        self.note_end_of_tasks();
        self.reset_generation.fetch_add(1, SeqCst) + 1
    }

    /// Tasks are about to be ended by another nexus than their own: TAS of now says whether they are answered.
    pub fn note_end_of_tasks(&self) {
        self.ended_tasks_are_answered.store(self.scsi.task_aborted_status(), SeqCst);
    }

    /// Whether a task that another nexus than its own ended is answered, with TASK ABORTED.
    pub fn answers_ended_tasks(&self) -> bool {
        self.ended_tasks_are_answered.load(SeqCst)
    }
}

impl std::fmt::Debug for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unit")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("gate", &self.gate)
            .finish()
    }
}
