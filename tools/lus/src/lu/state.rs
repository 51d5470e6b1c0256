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
    /// On its way to another owner.
    Moving,
    /// Given up in order, and not taken yet.
    Released,
    /// Not served yet.
    New,
    /// Its owner lost it, and has not taken it again yet.
    Lost,
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
        match (state, map.placement(&lu.id)) {
            (LuState::Serving { holder }, _) if held(&holder.daemon, holder.up_from) => Self::Serving,
            (LuState::Moving { from, .. }, _) if held(&from.daemon, from.up_from) => Self::Moving,
            (_, None) => Self::Unplaced,
            (_, Some(placement)) if !is_up(&placement.owner) => Self::Down,
            (LuState::New, _) => Self::New,
            (LuState::Released, _) => Self::Released,
            // The daemon is up again, and what its last start held is still on record: it takes it back.
            (LuState::Serving { .. } | LuState::Moving { .. } | LuState::Lost { .. }, _) => Self::Lost,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Serving => "serving",
            Self::Moving => "moving",
            Self::Released => "released",
            Self::New => "new",
            Self::Lost => "lost",
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
