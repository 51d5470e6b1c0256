//! What the map and the record of a logical unit say together.

use std::fmt;

use lus_map::{ClientAddr, DaemonId, Epoch, Lu, LuRecord, LuState, LusMap};
use lusd_ceph::Locker;
use serde::Serialize;

/// Whether and how a logical unit is served, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// By its owner.
    Serving,
    /// On record as its owner's, who does not hold the image's lock: it is being opened, or cannot be.
    Opening,
    /// On its way to another owner.
    Moving,
    /// Given up in order, and not taken yet.
    Released,
    /// Not served yet.
    New,
    /// Its owner lost it, and has not taken it again yet.
    Lost,
    /// Its last holder is gone, and another daemon is to take it over.
    Takeover,
    /// Its owner is not up.
    Down,
    /// No daemon is there to own it.
    Unplaced,
}

impl State {
    /// The state of `lu`; no `record` if nobody has made one yet.
    pub(crate) fn of(map: &LusMap, lu: &Lu, record: Option<&LuRecord>) -> Self {
        let is_up = |id: &DaemonId| map.daemon(id).is_some_and(|daemon| daemon.state.is_up());
        let held = |id: &DaemonId, up_from: Epoch| {
            map.instance(id, up_from).is_some_and(|instance| instance.state.is_up())
        };
        let state = record.map_or(&LuState::New, |record| &record.state);
        let of_owner = |id: &DaemonId| map.placement(&lu.id).is_none_or(|placement| placement.owner == *id);
        match (state, map.placement(&lu.id)) {
            (LuState::Serving { holder }, _) if held(&holder.daemon, holder.up_from) => {
                if of_owner(&holder.daemon) { Self::Serving } else { Self::Moving }
            }
            (LuState::Moving { from, .. }, _) if held(&from.daemon, from.up_from) => Self::Moving,
            (_, None) => Self::Unplaced,
            (_, Some(placement)) if !is_up(&placement.owner) => Self::Down,
            (LuState::New, _) => Self::New,
            (LuState::Released, _) => Self::Released,
            // The daemon is up again, and what its last start held is still on record: it takes it back.
            (
                LuState::Serving { holder } | LuState::Moving { from: holder, .. } | LuState::Lost { holder },
                _,
            ) => {
                if of_owner(&holder.daemon) {
                    Self::Lost
                } else {
                    Self::Takeover
                }
            }
        }
    }
}

impl State {
    /// The state in the light of who holds the image's lock: the record names the owner before it has the lock.
    pub(crate) fn with_locks(self, record: Option<&LuRecord>, locks: &[Lock]) -> Self {
        let holder = record.and_then(|record| record.state.holder());
        let has_lock = |lock: &Lock| {
            lock.addr.as_ref().is_some_and(|addr| holder.is_some_and(|holder| holder.addr == *addr))
        };
        if self == Self::Serving && !locks.iter().any(has_lock) { Self::Opening } else { self }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Serving => "serving",
            Self::Opening => "opening",
            Self::Moving => "moving",
            Self::Released => "released",
            Self::New => "new",
            Self::Lost => "lost",
            Self::Takeover => "takeover",
            Self::Down => "down",
            Self::Unplaced => "unplaced",
        })
    }
}

/// A holder of an image's exclusive lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Lock {
    /// The RADOS client, `client.4123`.
    pub(crate) client: String,
    /// Its address, where it is in a form that is known.
    pub(crate) addr: Option<ClientAddr>,
    /// The daemon whose client it is; none: it is foreign to LUS.
    pub(crate) daemon: Option<DaemonId>,
}

impl Lock {
    /// A locker as the map and the unit's record know it.
    pub(crate) fn of(locker: &Locker, map: &LusMap, record: Option<&LuRecord>) -> Self {
        let addr = locker.addr.as_ref().and_then(|addr| addr.to_string().parse::<ClientAddr>().ok());
        let daemon = addr.as_ref().and_then(|addr| owner_of(map, record, addr));
        Self { client: locker.client.clone(), addr, daemon }
    }

    /// Whether no daemon of the map is known to be this client.
    pub(crate) fn is_foreign(&self) -> bool {
        self.daemon.is_none()
    }
}

/// The daemon that has or had the RADOS client `addr`, as far as record and map remember.
fn owner_of(map: &LusMap, record: Option<&LuRecord>, addr: &ClientAddr) -> Option<DaemonId> {
    if let Some(holder) =
        record.and_then(|record| record.state.holder()).filter(|holder| holder.addr == *addr)
    {
        return Some(holder.daemon.clone());
    }
    map.daemons()
        .find(|daemon| {
            daemon.unfenced().chain(daemon.fenced.iter().map(|fenced| &fenced.addr)).any(|a| a == addr)
        })
        .map(|daemon| daemon.id.clone())
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.daemon {
            Some(daemon) => write!(f, "lus.{daemon}, {}", self.client)?,
            None => write!(f, "FOREIGN client {}", self.client)?,
        }
        match &self.addr {
            Some(addr) => write!(f, " ({addr})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use lus_map::{Holder, change};

    use super::*;
    use crate::testing::{empty, lu_id, then, with_daemon, with_lu};

    fn holder(map: &LusMap, nonce: u32) -> Holder {
        let daemon: DaemonId = "a".parse().unwrap();
        let up_from = map.daemon(&daemon).unwrap().up_from;
        Holder { daemon, up_from, addr: format!("192.0.2.1:0/{nonce}").parse().unwrap() }
    }

    fn state(map: &LusMap, record: Option<&LuRecord>) -> State {
        State::of(map, map.lu(&lu_id(1)).unwrap(), record)
    }

    #[test]
    fn who_is_on_record_serves_only_with_the_lock() {
        let map = with_daemon(&with_lu(&empty(), 1), "a", 1);
        let held = holder(&map, 2);
        let record = LuRecord::new(lu_id(1)).claim(&held).unwrap();
        let lock =
            |addr: &ClientAddr| Lock { client: "client.1".into(), addr: Some(addr.clone()), daemon: None };
        let own = lock(&held.addr);
        let other = lock(&"127.0.0.1:0/99".parse().unwrap());
        let state = |locks: &[Lock]| State::Serving.with_locks(Some(&record), locks);
        assert_eq!(state(std::slice::from_ref(&own)), State::Serving);
        assert_eq!(state(&[]), State::Opening);
        assert_eq!(state(std::slice::from_ref(&other)), State::Opening);
        assert_eq!(State::Lost.with_locks(Some(&record), &[]), State::Lost);
    }

    #[test]
    fn of_map_and_record() {
        let alone = with_lu(&empty(), 1);
        assert_eq!(state(&alone, None), State::Unplaced);

        let map = with_daemon(&alone, "a", 1);
        let held = holder(&map, 2);
        let new = LuRecord::new(lu_id(1));
        let serving = new.claim(&held).unwrap();
        let moving = serving.begin_move(&"b".parse().unwrap()).unwrap();
        let released = serving.release(&held).unwrap();
        let lost = serving.lose(&held).unwrap();
        let down = then(&map, |map, origin| {
            change::daemon::mark_down(map, origin, (&held.daemon, held.up_from), "test")
        });
        let again = with_daemon(&map, "a", 3);
        for (record, up, restarted, gone) in [
            (None, State::New, State::New, State::Down),
            (Some(&new), State::New, State::New, State::Down),
            (Some(&serving), State::Serving, State::Lost, State::Down),
            (Some(&moving), State::Moving, State::Lost, State::Down),
            (Some(&released), State::Released, State::Released, State::Down),
            (Some(&lost), State::Lost, State::Lost, State::Down),
        ] {
            assert_eq!(
                [state(&map, record), state(&again, record), state(&down, record)],
                [up, restarted, gone]
            );
        }
    }

    #[test]
    fn of_a_unit_that_is_to_have_another_owner() {
        let map = with_daemon(&with_daemon(&with_lu(&empty(), 1), "a", 1), "b", 9);
        let held = holder(&map, 2);
        let (name, b) = (map.lu(&lu_id(1)).unwrap().name(), "b".parse().unwrap());
        let to_b = then(&map, |map, origin| change::lu::move_to(map, origin, &name, &b));
        let new = LuRecord::new(lu_id(1));
        let serving = new.claim(&held).unwrap();
        let moving = serving.begin_move(&b).unwrap();
        let (released, lost) = (moving.release(&held).unwrap(), serving.lose(&held).unwrap());
        let down = then(&to_b, |map, origin| {
            change::daemon::mark_down(map, origin, (&held.daemon, held.up_from), "test")
        });
        for (record, up, gone) in [
            (&new, State::New, State::New),
            (&serving, State::Moving, State::Takeover),
            (&moving, State::Moving, State::Takeover),
            (&released, State::Released, State::Released),
            (&lost, State::Takeover, State::Takeover),
        ] {
            assert_eq!(
                [state(&to_b, Some(record)), state(&down, Some(record))],
                [up, gone],
                "{}",
                record.state
            );
        }
    }

    #[test]
    fn lockers_are_known_by_address() {
        let map = with_daemon(&with_lu(&empty(), 1), "a", 1);
        let locker = |addr: &str| Locker {
            client: "client.4711".into(),
            cookie: "auto 1".into(),
            addr: Some(addr.parse().unwrap()),
        };
        let ours = Lock::of(&locker("192.0.2.1:0/1"), &map, None);
        assert_eq!(ours.to_string(), "lus.a, client.4711 (192.0.2.1:0/1)");
        assert!(!ours.is_foreign());
        let foreign = Lock::of(&locker("192.0.2.1:0/9"), &map, None);
        assert_eq!(foreign.to_string(), "FOREIGN client client.4711 (192.0.2.1:0/9)");
        assert!(foreign.is_foreign());
        let record = LuRecord::new(lu_id(1)).claim(&holder(&map, 9)).unwrap();
        assert!(!Lock::of(&locker("192.0.2.1:0/9"), &map, Some(&record)).is_foreign());
    }
}
