//! Connections that have not logged in, or did so for discovery, by the portal that they came by: the bound that keeps those who never do from taking the place of
//! others.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::warn;

use super::sessions::ConnectionHandle;

/// At most one line in this time about logins that were let go.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// Logins under way at one portal, the oldest first.
type AtPortal = BTreeMap<u64, (IpAddr, Arc<ConnectionHandle>)>;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Logins {
    at: HashMap<SocketAddr, AtPortal>,
    /// Where each of them came in, by its handle's number.
    pub(super) portal_of: HashMap<u64, SocketAddr>,
    quiet_until: Option<Instant>,
}

impl Logins {
    /// Adds one; returns the one that has to go for it. It is counted no more.
    pub(super) fn begin(
        &mut self,
        handle: &Arc<ConnectionHandle>,
        portal: SocketAddr,
        peer: IpAddr,
        max: usize,
    ) -> Option<Arc<ConnectionHandle>> {
        let here = self.at.entry(portal).or_default();
        here.insert(handle.id, (peer, handle.clone()));
        self.portal_of.insert(handle.id, portal);
        if here.len() <= max {
            return None;
        }
        let victim = victim(here)?;
        let (from, victim) = here.remove(&victim)?;
        self.portal_of.remove(&victim.id);
        let now = Instant::now();
        if self.quiet_until.is_none_or(|until| now >= until) {
            self.quiet_until = Some(now + LOG_INTERVAL);
            warn!(%portal, %from, max, "too many logins at once: those that take the longest are closed");
        }
        Some(victim)
    }

    /// It has logged in, or has ended.
    pub(super) fn end(&mut self, id: u64) {
        let Some(portal) = self.portal_of.remove(&id) else { return };
        if let Some(here) = self.at.get_mut(&portal) {
            here.remove(&id);
            if here.is_empty() {
                self.at.remove(&portal);
            }
        }
    }
}

/// The oldest of those of the peer that has most.
fn victim(here: &AtPortal) -> Option<u64> {
    let mut counts: HashMap<IpAddr, usize> = HashMap::new();
    for (peer, _) in here.values() {
        *counts.entry(*peer).or_default() += 1;
    }
    let most = counts.values().max().copied()?;
    here.iter().find(|(_, (peer, _))| counts.get(peer) == Some(&most)).map(|(id, _)| *id)
}

#[cfg(test)]
mod tests {
    use super::super::sessions::{Sessions, Stop};
    use super::*;

    #[test]
    fn who_has_most_loses_its_oldest() {
        let sessions = Sessions::default();
        let portal: SocketAddr = "192.0.2.1:3260".parse().unwrap();
        let [honest, hostile]: [IpAddr; 2] = ["192.0.2.10", "192.0.2.11"].map(|ip| ip.parse().unwrap());
        let begin = |peer, portal| {
            let handle = sessions.enter(Arc::default(), peer);
            sessions.begin_login(&handle, portal, peer, 3);
            handle
        };
        let first = begin(honest, portal);
        let flood: Vec<_> = (0..5).map(|_| begin(hostile, portal)).collect();
        let stops: Vec<_> = flood.iter().map(|handle| handle.stop()).collect();
        assert_eq!(stops, [Stop::Evict, Stop::Evict, Stop::Evict, Stop::No, Stop::No]);
        assert_eq!((first.stop(), sessions.logins()), (Stop::No, 3));
        // Another portal has a bound of its own.
        let other = begin(hostile, "192.0.2.2:3260".parse().unwrap());
        assert_eq!((other.stop(), sessions.logins()), (Stop::No, 4));
        // Who has logged in makes room, and so does who has gone.
        sessions.end_login(&first);
        sessions.leave(&flood[3], None);
        begin(hostile, portal);
        begin(hostile, portal);
        assert_eq!((flood[4].stop(), sessions.logins()), (Stop::No, 4));
        for handle in flood {
            sessions.leave(&handle, None);
        }
        assert_eq!(sessions.logins(), 3);
    }
}
