//! The sessions of this daemon: one entry per I_T nexus, so that a new login with the same ISID takes the old one's place only
//! after nothing of the old one can take effect any more (RFC 7143, 6.3.5), and so that the map's changes reach connections.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Notify, watch};

/// What names an I_T nexus at this daemon: initiator port (name and ISID) and target port (name; the group tag is the daemon's).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Nexus {
    /// InitiatorName.
    pub initiator: String,
    /// Initiator part of the session id, 6 bytes.
    pub isid: [u8; 6],
    /// TargetName, or `None` for a discovery session.
    pub target: Option<String>,
}

/// Why a connection is asked to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Stop {
    /// It is not.
    No = 0,
    /// In order: what is in flight is answered first. The daemon stops, or the host lost its access.
    Close = 1,
    /// At once, by a TCP reset: a newer login took its place, or what it carries must not be answered.
    Reset = 2,
}

/// The handle by which others reach a connection.
#[derive(Debug)]
pub struct ConnectionHandle {
    /// Unique in this daemon's life.
    pub id: u64,
    stop: AtomicU8,
    /// Wakes the connection's task.
    pub notify: Arc<Notify>,
    gone: watch::Sender<bool>,
}

impl ConnectionHandle {
    /// What the connection is asked to do.
    pub fn stop(&self) -> Stop {
        match self.stop.load(SeqCst) {
            0 => Stop::No,
            1 => Stop::Close,
            _ => Stop::Reset,
        }
    }

    /// Asks the connection to end; a stronger wish stands.
    pub fn ask(&self, stop: Stop) {
        self.stop.fetch_max(stop as u8, SeqCst);
        self.notify.notify_one();
    }

    /// Waits until nothing of the connection can take effect any more.
    pub async fn gone(&self) {
        let mut gone = self.gone.subscribe();
        // An error means that the sender is dropped with the handle, which we hold.
        let _ = gone.wait_for(|gone| *gone).await;
    }
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Sessions {
    next_id: AtomicU64,
    next_tsih: AtomicU64,
    stopping: AtomicBool,
    connections: Mutex<HashMap<u64, Arc<ConnectionHandle>>>,
    nexuses: Mutex<HashMap<Nexus, Arc<ConnectionHandle>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Sessions {
    /// A handle for a new connection, whose task sleeps on `notify`.
    pub fn enter(&self, notify: Arc<Notify>) -> Arc<ConnectionHandle> {
        let id = self.next_id.fetch_add(1, SeqCst);
        let handle = Arc::new(ConnectionHandle {
            id,
            stop: AtomicU8::new(Stop::No as u8),
            notify,
            gone: watch::Sender::new(false),
        });
        lock(&self.connections).insert(id, handle.clone());
        if self.stopping.load(SeqCst) {
            handle.ask(Stop::Close);
        }
        handle
    }

    /// A target session identifying handle: never 0 (RFC 7143, 11.12.6), and not one of the last 65,534.
    pub fn next_tsih(&self) -> u16 {
        (self.next_tsih.fetch_add(1, SeqCst) % u64::from(u16::MAX)) as u16 + 1
    }

    /// Takes `nexus` over for `handle`. The session that had it before is reset; the caller waits for it with
    /// [`ConnectionHandle::gone`] before it lets the new session start.
    pub fn take(&self, nexus: Nexus, handle: &Arc<ConnectionHandle>) -> Option<Arc<ConnectionHandle>> {
        let before = lock(&self.nexuses).insert(nexus, handle.clone())?;
        before.ask(Stop::Reset);
        Some(before)
    }

    /// The connection is gone: nothing of it can take effect any more.
    pub fn leave(&self, handle: &Arc<ConnectionHandle>, nexus: Option<&Nexus>) {
        lock(&self.connections).remove(&handle.id);
        if let Some(nexus) = nexus {
            let mut nexuses = lock(&self.nexuses);
            if nexuses.get(nexus).is_some_and(|holder| holder.id == handle.id) {
                nexuses.remove(nexus);
            }
        }
        handle.gone.send_replace(true);
    }

    /// Wakes every connection: a view, a gate or a unit has changed.
    pub fn wake_all(&self) {
        for handle in lock(&self.connections).values() {
            handle.notify.notify_one();
        }
    }

    /// Asks every connection, and each that still comes, to close in order.
    pub fn close_all(&self) {
        self.stopping.store(true, SeqCst);
        for handle in lock(&self.connections).values() {
            handle.ask(Stop::Close);
        }
    }

    /// Connections now, logged in or not.
    pub fn connections(&self) -> usize {
        lock(&self.connections).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nexus(isid: u8) -> Nexus {
        Nexus { initiator: "iqn.a:i".into(), isid: [0, 0, 0, 0, 0, isid], target: Some("iqn.a:t".into()) }
    }

    #[tokio::test]
    async fn a_newer_login_waits_for_the_older_one() {
        let sessions = Sessions::default();
        let old = sessions.enter(Arc::default());
        let new = sessions.enter(Arc::default());
        assert!(sessions.take(nexus(1), &old).is_none());
        assert!(sessions.take(nexus(2), &new).is_none(), "another ISID is another nexus");
        let before = sessions.take(nexus(1), &new).expect("reinstatement");
        assert_eq!((before.id, before.stop()), (old.id, Stop::Reset));
        sessions.leave(&old, Some(&nexus(1)));
        before.gone().await;
        let third = sessions.enter(Arc::default());
        assert_eq!(sessions.take(nexus(1), &third).expect("the newer one still holds it").id, new.id);
    }

    #[test]
    fn tsih_is_never_zero() {
        let sessions = Sessions { next_tsih: AtomicU64::new(65_534), ..Default::default() };
        assert_eq!([sessions.next_tsih(), sessions.next_tsih()], [65_535, 1]);
    }

    #[test]
    fn who_comes_while_the_daemon_stops_is_closed() {
        let sessions = Sessions::default();
        let first = sessions.enter(Arc::default());
        sessions.close_all();
        assert_eq!(first.stop(), Stop::Close);
        first.ask(Stop::Reset);
        first.ask(Stop::Close);
        assert_eq!(first.stop(), Stop::Reset, "the stronger wish stands");
        assert_eq!(sessions.enter(Arc::default()).stop(), Stop::Close);
    }
}
