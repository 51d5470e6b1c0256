//! What all connections of the daemon share: limits, data memory, the sessions, who has to authenticate, and the view of the map.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc::{Sender, WeakSender};
use tracing::warn;

use crate::net::memory::DataMemory;
use crate::net::shard::Accepted;
use crate::target::authentication::Authenticator;
use crate::target::sessions::Sessions;
use crate::target::view::View;

/// An initiator that has waited so long may give a command up, and repeat it elsewhere: what changes data and came longer ago is not
/// submitted, and a connection on which something stood unread for longer is reset. Below the shortest time after which initiators
/// do ([`GIVE_UP_MIN`]), by enough for what else is between.
pub const STALL_BOUND: Duration = Duration::from_secs(3);
/// The shortest time after which a supported initiator may give a command up: shipped with the settings for hosts.
pub const GIVE_UP_MIN: Duration = Duration::from_secs(5);

/// Bounds of the data path. All but the stall bound can be set; see `lusd --help`.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Data memory of the daemon, bytes.
    pub data_memory: usize,
    /// Data memory of one connection, bytes.
    pub connection_memory: usize,
    /// Connections at the same time; one more is closed at accept. So is one of a peer that has half of them, where less than a quarter is left.
    pub connections: usize,
    /// Connections at one portal that have not logged in, and discovery sessions; for one more, the one that takes the longest is closed.
    pub logins: usize,
    /// Normal sessions at the same time; a login that would begin one more is refused (0302), but for logins that are under way at that
    /// moment. Beside data memory a session takes some 400 KiB for each connection: what is received (64 KiB), what waits to be sent
    /// (256 KiB), the table of its tasks; and some 200 bytes for each LUN.
    pub sessions: usize,
    /// Where normal sessions are sent instead of being let in: target redirection (RFC 7143 11.13.5, 0x0101 and 0x0102).
    pub redirect: Option<Redirect>,
    /// A connection whose peer takes nothing of a pending answer for this long is reset.
    pub send_timeout: Duration,
    /// How old a command may be when it is submitted: see [`STALL_BOUND`].
    pub stall_bound: Duration,
    /// What iSCSI negotiates and bounds.
    pub iscsi: Arc<lusd_iscsi::Config>,
}

/// Where initiators are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The portal.
    pub address: SocketAddr,
    /// They are to forget the address that they came to.
    pub permanently: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            data_memory: 1 << 30,
            connection_memory: 32 << 20,
            connections: 4096,
            logins: 512,
            sessions: 3584,
            redirect: None,
            send_timeout: Duration::from_secs(30),
            stall_bound: STALL_BOUND,
            iscsi: Arc::default(),
        }
    }
}

/// Completions that one shard has seen, on a cache line of its own.
#[repr(align(128))]
#[derive(Debug, Default)]
struct Completions(AtomicU64);

/// See the module's text.
pub struct Service {
    /// Bounds.
    pub limits: Limits,
    /// Data memory of all connections.
    pub memory: Arc<DataMemory>,
    /// Sessions and connections.
    pub sessions: Sessions,
    /// Who has to show who it is.
    pub authenticator: Authenticator,
    /// Shards, as the gates count them.
    pub shards: usize,
    view: ArcSwap<View>,
    generation: AtomicU64,
    isolated: AtomicBool,
    resets: AtomicU64,
    /// Where each shard takes connections; it ends when nobody else holds a sender.
    doors: Box<[OnceLock<WeakSender<Accepted>>]>,
    completions: Box<[Completions]>,
}

impl Service {
    /// A service that shows nothing yet.
    pub fn new(limits: Limits, shards: usize) -> Arc<Self> {
        Arc::new(Self {
            memory: DataMemory::new(limits.data_memory),
            limits,
            sessions: Sessions::default(),
            authenticator: Authenticator::default(),
            shards,
            view: ArcSwap::from_pointee(View::default()),
            generation: AtomicU64::new(0),
            isolated: AtomicBool::new(false),
            resets: AtomicU64::new(0),
            doors: (0..shards).map(|_| OnceLock::new()).collect(),
            completions: (0..shards).map(|_| Completions::default()).collect(),
        })
    }

    /// The current view.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// A number that changes whenever sessions are to look again at what they see: one load, for the start of each round of a
    /// connection. To be read before the view is.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(SeqCst)
    }

    /// Whether nobody may be served: RADOS does not answer, or this start is over. Nothing is submitted, no login is granted, and
    /// what is inside is not answered.
    #[inline]
    pub fn is_isolated(&self) -> bool {
        self.isolated.load(SeqCst)
    }

    /// Begins or ends that; every connection that there is is reset when it begins.
    pub fn set_isolated(&self, isolated: bool) {
        self.isolated.store(isolated, SeqCst);
        if isolated {
            self.sessions.reset_all();
        }
    }

    /// Shard `index` takes connections here.
    pub fn open_door(&self, index: usize, door: &Sender<Accepted>) {
        assert!(self.doors[index].set(door.downgrade()).is_ok(), "shard {index} was started twice");
    }

    /// Hands a connection over to shard `index`. It is closed if that ends, or has more than enough to take over.
    pub fn hand_over(&self, index: usize, accepted: Accepted) {
        let door = self.doors[index].get().and_then(WeakSender::upgrade);
        if door.is_none_or(|door| door.try_send(accepted).is_err()) {
            warn!(shard = index, "a connection could not be handed over: closed");
        }
    }

    /// A number that changes whenever the tasks of some unit are ended by a function that concerns other sessions too.
    #[inline]
    pub fn resets(&self) -> u64 {
        self.resets.load(SeqCst)
    }

    /// That has happened: sessions are woken to look at theirs.
    pub fn note_reset(&self) {
        self.resets.fetch_add(1, SeqCst);
        self.sessions.wake_all();
    }

    /// A shard has seen completions of RADOS.
    #[inline]
    pub fn note_completions(&self, shard: usize) {
        self.completions[shard].0.fetch_add(1, Relaxed);
    }

    /// A number that changes whenever RADOS completes operations of initiators.
    pub fn completions(&self) -> u64 {
        self.completions.iter().map(|shard| shard.0.load(Relaxed)).fold(0, u64::wrapping_add)
    }

    /// Replaces the view and wakes every connection.
    pub fn publish(&self, view: View) {
        self.view.store(Arc::new(view));
        self.note_change();
    }

    /// Something that initiators see of a unit has changed, or the view has: every connection is woken to look.
    pub fn note_change(&self) {
        self.generation.fetch_add(1, SeqCst);
        self.sessions.wake_all();
    }
}
