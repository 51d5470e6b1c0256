//! The sessions of this daemon: one entry per I_T nexus, so that a new login with the same ISID takes the old one's place only
//! after nothing of the old one can take effect any more (RFC 7143, 6.3.5), and so that the map's changes reach connections.
//!
//! A session that has ended may still have operations in RADOS, which cannot be called back. librbd does not keep overlapping writes in
//! order, so a write that the initiator gave up on could land after a newer one. Therefore every login of the same initiator, with
//! whatever ISID, waits until what it left behind has ended.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};

use lusd_iscsi::LoginStatus;
use tokio::sync::{Notify, watch};

use super::logins::Logins;

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

/// A connection's place in its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Target's part of the session identifier.
    pub tsih: u16,
    /// Connection identifier.
    pub cid: u16,
    /// The shard on which all connections of the session live.
    pub shard: usize,
}

/// Who has a nexus.
#[derive(Debug)]
struct Place {
    tsih: u16,
    shard: usize,
    members: Vec<(u16, Arc<ConnectionHandle>)>,
}

/// Why a connection is asked to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Stop {
    /// It is not.
    No = 0,
    /// By the host itself, which is asked to log out: what it uses is served elsewhere.
    Logout = 1,
    /// In order: another connection of its session has logged it out.
    LoggedOut = 2,
    /// In order: what is in flight is answered first, and the host is told. The daemon stops, or the host lost its access.
    Close = 3,
    /// At once, by a TCP reset: there are too many logins.
    Evict = 4,
    /// At once, by a TCP reset: a newer login took its place, or what it carries must not be answered.
    Reset = 5,
}

/// The handle by which others reach a connection.
#[derive(Debug)]
pub struct ConnectionHandle {
    /// Unique in this daemon's life.
    pub id: u64,
    peer: IpAddr,
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
            1 => Stop::Logout,
            2 => Stop::LoggedOut,
            3 => Stop::Close,
            4 => Stop::Evict,
            _ => Stop::Reset,
        }
    }

    /// Asks the connection to end; a stronger wish stands.
    pub fn ask(&self, stop: Stop) {
        self.stop.fetch_max(stop as u8, SeqCst);
        self.notify.notify_one();
    }

    /// Whether nothing of the connection can take effect any more.
    pub fn is_gone(&self) -> bool {
        *self.gone.borrow()
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
    /// Sockets that are not closed.
    sockets: watch::Sender<usize>,
    connections: Mutex<HashMap<u64, Arc<ConnectionHandle>>>,
    /// Ended, or about to, with operations under way.
    lingering: Mutex<HashMap<u64, (Nexus, Arc<ConnectionHandle>)>>,
    nexuses: Mutex<HashMap<Nexus, Place>>,
    logins: Mutex<Logins>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Sessions {
    /// A handle for a new connection from `peer`, whose task sleeps on `notify`.
    pub fn enter(&self, notify: Arc<Notify>, peer: IpAddr) -> Arc<ConnectionHandle> {
        let id = self.next_id.fetch_add(1, SeqCst);
        let handle = Arc::new(ConnectionHandle {
            id,
            peer,
            stop: AtomicU8::new(Stop::No as u8),
            notify,
            gone: watch::Sender::new(false),
        });
        self.sockets.send_modify(|sockets| *sockets += 1);
        lock(&self.connections).insert(id, handle.clone());
        if self.stopping.load(SeqCst) {
            handle.ask(Stop::Close);
        }
        handle
    }

    /// The connection has come by `portal` and is to log in. Of more than `max` that do so there, one is closed: the oldest of
    /// those of the peer that has most. Who logs in does so within milliseconds, so it is who does not. Discovery sessions, which last as
    /// short a time, count as logins to their end.
    pub fn begin_login(&self, handle: &Arc<ConnectionHandle>, portal: SocketAddr, peer: IpAddr, max: usize) {
        let mut logins = lock(&self.logins);
        if let Some(victim) = logins.begin(handle, portal, peer, max) {
            victim.ask(Stop::Evict);
        }
    }

    /// The connection has logged in, or has ended.
    pub fn end_login(&self, handle: &Arc<ConnectionHandle>) {
        lock(&self.logins).end(handle.id);
    }

    /// Whether another connection from `peer` is one too many, where there may be `max`: nobody gets the last quarter of them that has half of
    /// all already, so that others can come while one peer asks for all that it can get.
    pub fn refuses(&self, peer: IpAddr, max: usize) -> bool {
        let connections = lock(&self.connections);
        let of_peer = || connections.values().filter(|handle| handle.peer == peer).count();
        connections.len() >= max || connections.len() >= max - max / 4 && of_peer() >= max / 2
    }

    /// Connections that have not logged in, and discovery sessions.
    pub fn logins(&self) -> usize {
        lock(&self.logins).portal_of.len()
    }

    /// A target session identifying handle: never 0 (RFC 7143, 11.12.6), and not that of a session that is up.
    pub fn next_tsih(&self) -> u16 {
        let nexuses = lock(&self.nexuses);
        loop {
            let tsih = (self.next_tsih.fetch_add(1, SeqCst) % u64::from(u16::MAX)) as u16 + 1;
            // Logins that are under way may make it more sessions than handles: then one that is taken is as good as another.
            if nexuses.len() >= usize::from(u16::MAX) || nexuses.values().all(|place| place.tsih != tsih) {
                return tsih;
            }
        }
    }

    /// Whether there are `max` sessions, none of which a login of `nexus` would take the place of.
    pub fn is_full(&self, nexus: &Nexus, max: usize) -> bool {
        let nexuses = lock(&self.nexuses);
        nexuses.len() >= max && !nexuses.contains_key(nexus)
    }

    /// The shard of the session that `nexus` has under `tsih`.
    ///
    /// # Errors
    /// There is no such session, or it is somebody else's.
    pub fn find(&self, nexus: &Nexus, tsih: u16) -> Result<usize, LoginStatus> {
        let nexuses = lock(&self.nexuses);
        match nexuses.get(nexus) {
            Some(place) if place.tsih == tsih => Ok(place.shard),
            _ if nexuses.values().any(|place| place.tsih == tsih) => Err(LoginStatus::CannotIncludeInSession),
            _ => Err(LoginStatus::SessionDoesNotExist),
        }
    }

    /// Adds a connection to the session that `nexus` has. One with the same identifier is reset (connection reinstatement, RFC 7143
    /// 6.3.4): the caller waits until it is gone. `None` if there is no such session any more.
    pub fn join(
        &self,
        nexus: &Nexus,
        handle: &Arc<ConnectionHandle>,
        seat: Seat,
    ) -> Option<Vec<Arc<ConnectionHandle>>> {
        let mut nexuses = lock(&self.nexuses);
        let place = nexuses.get_mut(nexus).filter(|place| place.tsih == seat.tsih)?;
        let before: Vec<_> =
            place.members.extract_if(.., |(cid, _)| *cid == seat.cid).map(|(_, handle)| handle).collect();
        place.members.push((seat.cid, handle.clone()));
        self.displace(nexus, &before);
        Some(before)
    }

    /// Takes `nexus` over for `handle`. A session that has it now is reset. The caller waits for all that are returned, with
    /// [`ConnectionHandle::gone`], before it lets the new session start: that one, and those that the same initiator has left behind.
    pub fn take(
        &self,
        nexus: Nexus,
        handle: &Arc<ConnectionHandle>,
        seat: Seat,
    ) -> Vec<Arc<ConnectionHandle>> {
        let same = |other: &Nexus| other.initiator == nexus.initiator && other.target == nexus.target;
        let place = Place { tsih: seat.tsih, shard: seat.shard, members: vec![(seat.cid, handle.clone())] };
        let mut nexuses = lock(&self.nexuses);
        let older = nexuses.insert(nexus.clone(), place).map(|older| older.members).unwrap_or_default();
        let older: Vec<_> = older.into_iter().map(|(_, holder)| holder).collect();
        self.displace(&nexus, &older);
        let lingering = lock(&self.lingering);
        let left = lingering.values().filter(|(other, _)| same(other));
        left.map(|(_, handle)| handle.clone()).collect()
    }

    /// Resets connections that a newer login takes the place of. Nobody finds them by their nexus any more; so each login of the initiator
    /// waits for them, also when the one that has displaced them gives up. The caller holds the lock of `nexuses`.
    fn displace(&self, nexus: &Nexus, older: &[Arc<ConnectionHandle>]) {
        for holder in older {
            self.linger(holder, nexus);
            holder.ask(Stop::Reset);
        }
    }

    /// The connection ends, and operations of its session are under way.
    pub fn linger(&self, handle: &Arc<ConnectionHandle>, nexus: &Nexus) {
        let mut lingering = lock(&self.lingering);
        // `leave` takes it off the list when it is gone.
        if !handle.is_gone() {
            lingering.insert(handle.id, (nexus.clone(), handle.clone()));
        }
    }

    /// A connection that had entered has closed its socket.
    pub fn hung_up(&self) {
        self.sockets.send_modify(|sockets| {
            *sockets = sockets.checked_sub(1).expect("no more sockets are closed than were opened");
        });
    }

    /// Connections whose socket is not closed.
    pub fn sockets(&self) -> usize {
        *self.sockets.borrow()
    }

    /// Waits until every socket is closed.
    pub async fn all_hung_up(&self) {
        let none = self.sockets.subscribe().wait_for(|sockets| *sockets == 0).await.is_ok();
        assert!(none, "the sender is ours");
    }

    /// The connection is gone: nothing of it can take effect any more.
    pub fn leave(&self, handle: &Arc<ConnectionHandle>, nexus: Option<&Nexus>) {
        self.end_login(handle);
        lock(&self.connections).remove(&handle.id);
        if let Some(nexus) = nexus {
            let mut nexuses = lock(&self.nexuses);
            if let Some(place) = nexuses.get_mut(nexus) {
                place.members.retain(|(_, member)| member.id != handle.id);
                if place.members.is_empty() {
                    nexuses.remove(nexus);
                }
            }
        }
        handle.gone.send_replace(true);
        // Last: who is gone is not put there any more.
        lock(&self.lingering).remove(&handle.id);
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

    /// Asks the host of every connection to log out.
    pub fn ask_for_logout(&self) {
        for handle in lock(&self.connections).values() {
            handle.ask(Stop::Logout);
        }
    }

    /// Asks every session with `target` to end in order.
    pub fn close_target(&self, target: &str) {
        let nexuses = lock(&self.nexuses);
        let places = nexuses.iter().filter(|(nexus, _)| nexus.target.as_deref() == Some(target));
        for (_, handle) in places.flat_map(|(_, place)| &place.members) {
            handle.ask(Stop::Close);
        }
    }

    /// Resets every connection at once. Others may come.
    pub fn reset_all(&self) {
        for handle in lock(&self.connections).values() {
            handle.ask(Stop::Reset);
        }
    }

    /// Connections now, logged in or not.
    pub fn connections(&self) -> usize {
        lock(&self.connections).len()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn nexus(isid: u8) -> Nexus {
        Nexus { initiator: "iqn.a:i".into(), isid: [0, 0, 0, 0, 0, isid], target: Some("iqn.a:t".into()) }
    }

    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const SEAT: Seat = Seat { tsih: 1, cid: 0, shard: 0 };

    #[test]
    fn connections_join_the_session_that_they_name() {
        let sessions = Sessions::default();
        let [first, second, third] = [(); 3].map(|()| sessions.enter(Arc::default(), PEER));
        sessions.take(nexus(1), &first, Seat { shard: 3, ..SEAT });
        assert_eq!(sessions.find(&nexus(1), 1), Ok(3));
        assert_eq!(sessions.find(&nexus(1), 2), Err(LoginStatus::SessionDoesNotExist));
        assert_eq!(sessions.find(&nexus(2), 1), Err(LoginStatus::CannotIncludeInSession));
        assert!(sessions.join(&nexus(1), &second, Seat { tsih: 2, ..SEAT }).is_none());
        assert!(sessions.join(&nexus(1), &second, Seat { cid: 1, ..SEAT }).unwrap().is_empty());
        // The same connection again.
        let before = sessions.join(&nexus(1), &third, Seat { cid: 1, ..SEAT }).unwrap();
        assert_eq!((before[0].id, second.stop(), first.stop()), (second.id, Stop::Reset, Stop::No));
        sessions.leave(&second, Some(&nexus(1)));
        sessions.leave(&first, Some(&nexus(1)));
        assert_eq!(sessions.find(&nexus(1), 1), Ok(3), "one is left");
        // A new session ends all connections of the old one.
        let new = sessions.enter(Arc::default(), PEER);
        assert_eq!(sessions.take(nexus(1), &new, Seat { tsih: 5, ..SEAT })[0].id, third.id);
        sessions.leave(&third, Some(&nexus(1)));
        assert_eq!(sessions.find(&nexus(1), 5), Ok(0));
        sessions.leave(&new, Some(&nexus(1)));
        assert!(sessions.find(&nexus(1), 5).is_err());
    }

    #[tokio::test]
    async fn a_newer_login_waits_for_the_older_one() {
        let sessions = Sessions::default();
        let old = sessions.enter(Arc::default(), PEER);
        let new = sessions.enter(Arc::default(), PEER);
        assert!(sessions.take(nexus(1), &old, SEAT).is_empty());
        assert!(sessions.take(nexus(2), &new, SEAT).is_empty(), "another ISID is another nexus");
        let [before] = &sessions.take(nexus(1), &new, SEAT)[..] else { panic!("reinstatement") };
        assert_eq!((before.id, before.stop()), (old.id, Stop::Reset));
        sessions.leave(&old, Some(&nexus(1)));
        before.gone().await;
        let third = sessions.enter(Arc::default(), PEER);
        assert_eq!(sessions.take(nexus(1), &third, SEAT)[0].id, new.id, "the newer one still holds it");
    }

    /// The login that has displaced a session may give up before that has ended, or be displaced itself.
    #[test]
    fn every_login_waits_for_who_was_displaced() {
        let sessions = Sessions::default();
        let [old, first, second, third] = [(); 4].map(|()| sessions.enter(Arc::default(), PEER));
        let ids = |before: Vec<Arc<ConnectionHandle>>| {
            let mut ids: Vec<_> = before.iter().map(|handle| handle.id).collect();
            ids.sort_unstable();
            ids
        };
        sessions.take(nexus(1), &old, SEAT);
        assert_eq!(ids(sessions.take(nexus(1), &first, SEAT)), [old.id]);
        assert_eq!(ids(sessions.take(nexus(1), &second, SEAT)), [old.id, first.id]);
        sessions.leave(&first, Some(&nexus(1)));
        sessions.leave(&second, Some(&nexus(1)));
        assert_eq!(ids(sessions.take(nexus(1), &third, SEAT)), [old.id]);
        // The same for one connection of a session.
        let again = sessions.enter(Arc::default(), PEER);
        assert_eq!(ids(sessions.join(&nexus(1), &again, SEAT).unwrap()), [third.id]);
        sessions.leave(&again, Some(&nexus(1)));
        let last = sessions.enter(Arc::default(), PEER);
        assert_eq!(ids(sessions.take(nexus(2), &last, SEAT)), [old.id, third.id]);
        sessions.leave(&old, Some(&nexus(1)));
        sessions.leave(&third, Some(&nexus(1)));
        assert!(sessions.lingering.lock().unwrap().is_empty());
        // Who is gone already is not remembered.
        sessions.linger(&old, &nexus(1));
        assert!(sessions.lingering.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_login_with_another_isid_waits_for_what_was_left_behind() {
        let sessions = Sessions::default();
        let (old, new) = (sessions.enter(Arc::default(), PEER), sessions.enter(Arc::default(), PEER));
        sessions.take(nexus(1), &old, SEAT);
        sessions.linger(&old, &nexus(1));
        let [before] = &sessions.take(nexus(2), &new, SEAT)[..] else { panic!("the old one lingers") };
        assert_eq!(before.id, old.id);
        sessions.leave(&old, Some(&nexus(1)));
        before.gone().await;
        assert!(sessions.take(nexus(3), &new, SEAT).is_empty());
    }

    #[tokio::test]
    async fn the_last_socket_that_is_closed_is_waited_for() {
        let sessions = Sessions::default();
        sessions.all_hung_up().await;
        let (_first, _second) = (sessions.enter(Arc::default(), PEER), sessions.enter(Arc::default(), PEER));
        for left in [1, 0] {
            let at_once = tokio::time::timeout(std::time::Duration::ZERO, sessions.all_hung_up());
            assert!(at_once.await.is_err(), "{} are open", left + 1);
            sessions.hung_up();
            assert_eq!(sessions.sockets(), left);
        }
        sessions.all_hung_up().await;
    }

    #[test]
    fn tsih_is_never_zero() {
        let sessions = Sessions { next_tsih: AtomicU64::new(65_534), ..Default::default() };
        assert_eq!([sessions.next_tsih(), sessions.next_tsih()], [65_535, 1]);
    }

    #[test]
    fn nobody_takes_all_places() {
        const MAX: usize = 8;
        let sessions = Sessions::default();
        let other = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
        let mut own = Vec::new();
        while !sessions.refuses(PEER, MAX) {
            own.push(sessions.enter(Arc::default(), PEER));
        }
        assert_eq!(own.len(), 6);
        let others: Vec<_> = (0..2).map(|_| sessions.enter(Arc::default(), other)).collect();
        assert!(sessions.refuses(other, MAX), "there is no more");
        sessions.leave(&others[0], None);
        assert!(!sessions.refuses(other, MAX) && sessions.refuses(PEER, MAX));
        for handle in &own[3..] {
            sessions.leave(handle, None);
        }
        assert!(!sessions.refuses(PEER, MAX), "it has less than half");
    }

    #[test]
    fn who_comes_while_the_daemon_stops_is_closed() {
        let sessions = Sessions::default();
        let first = sessions.enter(Arc::default(), PEER);
        sessions.close_all();
        assert_eq!(first.stop(), Stop::Close);
        first.ask(Stop::Reset);
        first.ask(Stop::Close);
        assert_eq!(first.stop(), Stop::Reset, "the stronger wish stands");
        assert_eq!(sessions.enter(Arc::default(), PEER).stop(), Stop::Close);
    }

    #[test]
    fn resets_and_requests_to_log_out_concern_who_is_there() {
        let sessions = Sessions::default();
        let first = sessions.enter(Arc::default(), PEER);
        sessions.ask_for_logout();
        assert_eq!(first.stop(), Stop::Logout);
        sessions.reset_all();
        assert_eq!((first.stop(), sessions.sockets()), (Stop::Reset, 1));
        assert_eq!(sessions.enter(Arc::default(), PEER).stop(), Stop::No);
        sessions.hung_up();
        assert_eq!(
            (sessions.sockets(), sessions.connections()),
            (1, 2),
            "one may have commands under way still"
        );
    }
}
