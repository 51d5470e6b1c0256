//! How the cluster is, in the form of `ceph health`: codes with a severity, a summary, and a line for each thing.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::flag::Flag;
use crate::id::LuId;
use crate::map::LusMap;
use crate::model::{DaemonInstance, FLAPPING_WINDOW, InstanceState, Lu, Placement};
use crate::record::{LuRecord, LuState};
use crate::time::Timestamp;

/// How long a unit may take to its owner before that is said: a move with all its patience.
pub const SERVE_GRACE: Duration = Duration::from_secs(35);

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Nothing is lost yet.
    Warn,
    /// Somebody waits for it.
    Err,
}

impl Severity {
    /// As Ceph has it: `HEALTH_WARN`, `HEALTH_ERR`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warn => "HEALTH_WARN",
            Self::Err => "HEALTH_ERR",
        }
    }

    /// As the detail has it: `WRN`, `ERR`.
    pub fn tag(self) -> &'static str {
        match self {
            Self::Warn => "WRN",
            Self::Err => "ERR",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Severity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Something that is not well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HealthCheck {
    /// Its name for programs: `LUS_DAEMON_DOWN`.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// In one line: `1 daemons are down`.
    pub summary: String,
    /// A line for each.
    pub detail: Vec<String>,
}

/// The form of `ceph health detail`.
impl fmt::Display for HealthCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}: {}", self.severity.tag(), self.code, self.summary)?;
        self.detail.iter().try_for_each(|line| write!(f, "\n    {line}"))
    }
}

/// What is wrong in all: `HEALTH_OK`, or the worst of `checks`.
pub fn status(checks: &[HealthCheck]) -> &'static str {
    checks.iter().map(|check| check.severity).max().map_or("HEALTH_OK", Severity::as_str)
}

/// `1 daemon is down`, `2 daemons are down`.
fn counted(count: usize, noun: &str, what: &str) -> String {
    match count {
        1 => format!("1 {noun} is {what}"),
        count => format!("{count} {noun}s are {what}"),
    }
}

/// What the map and the records of units say; `records` are those that were read, of units that are gone too. Empty: all is
/// well. `now` is the caller's time, for what may last a while.
pub fn health(
    map: &LusMap,
    records: impl IntoIterator<Item = (LuId, Option<LuRecord>)>,
    now: Timestamp,
) -> Vec<HealthCheck> {
    let checks = [
        daemon_down(map),
        daemon_flapping(map, now),
        no_leader(map),
        flag_set(map),
        lu_no_owner(map),
        lu_not_served(map, records, now),
    ];
    checks.into_iter().flatten().collect()
}

/// The check for locks of images that clients hold which are not of LUS, a line for each; none for no lines. Who holds
/// which lock is not in the map: the caller has asked RBD.
pub fn foreign_holder(detail: Vec<String>) -> Option<HealthCheck> {
    let summary = || match detail.len() {
        1 => "1 logical unit is locked by a client that is not of LUS".to_owned(),
        count => format!("{count} logical units are locked by clients that are not of LUS"),
    };
    if detail.is_empty() {
        return None;
    }
    Some(HealthCheck { code: "LUS_FOREIGN_HOLDER", severity: Severity::Err, summary: summary(), detail })
}

fn daemon_down(map: &LusMap) -> Option<HealthCheck> {
    let down: Vec<&DaemonInstance> = map.daemons().filter(|daemon| !daemon.state.is_up()).collect();
    let detail = down.iter().map(|daemon| match daemon.state {
        InstanceState::Retired { down_at } => format!("lus.{} ended in order in epoch {down_at}", daemon.id),
        _ => format!("lus.{} is down since epoch {}", daemon.id, daemon.state.down_at().unwrap_or_default()),
    });
    let detail: Vec<String> = detail.collect();
    let none_up = map.daemons().all(|daemon| !daemon.state.is_up());
    let severity = if none_up { Severity::Err } else { Severity::Warn };
    let summary = counted(down.len(), "daemon", "down");
    (!down.is_empty()).then_some(HealthCheck { code: "LUS_DAEMON_DOWN", severity, summary, detail })
}

fn daemon_flapping(map: &LusMap, now: Timestamp) -> Option<HealthCheck> {
    let flapping = map.daemons().filter(|daemon| daemon.is_flapping(now));
    let minutes = FLAPPING_WINDOW.as_secs() / 60;
    let held = if map.is_set(Flag::NoOut) {
        "not held back, as noout is set".to_owned()
    } else {
        format!("held back for {minutes} minutes")
    };
    let detail: Vec<String> = flapping
        .map(|daemon| {
            let last = daemon.downs.last().copied().unwrap_or_default();
            format!("lus.{} went down repeatedly, last at {last}: {held}", daemon.id)
        })
        .collect();
    let summary = counted(detail.len(), "daemon", "flapping");
    let check = HealthCheck { code: "LUS_DAEMON_FLAPPING", severity: Severity::Warn, summary, detail };
    (!check.detail.is_empty()).then_some(check)
}

fn no_leader(map: &LusMap) -> Option<HealthCheck> {
    if !map.daemons().any(|daemon| daemon.state.is_up()) {
        return None;
    }
    let why = match map.leader() {
        None => "nobody leads".to_owned(),
        Some(leader) => match map.instance(&leader.daemon, leader.up_from) {
            Some(daemon) if daemon.state.is_up() => return None,
            _ => format!("{} led last, and is not up", leader.instance()),
        },
    };
    let summary = "no daemon leads: what fails now is not failed over".to_owned();
    Some(HealthCheck { code: "LUS_NO_LEADER", severity: Severity::Warn, summary, detail: vec![why] })
}

fn flag_set(map: &LusMap) -> Option<HealthCheck> {
    let set: Vec<&str> = map.meta().flags.iter().map(String::as_str).collect();
    let summary = format!("{} flag(s) set", set.join(","));
    let help = |name: &&str| match name.parse::<Flag>() {
        Ok(flag) => format!("{flag}: {}", flag.help()),
        Err(_) => format!("{name}: of a newer version"),
    };
    let detail = set.iter().map(help).collect();
    (!set.is_empty()).then_some(HealthCheck {
        code: "LUS_FLAG_SET",
        severity: Severity::Warn,
        summary,
        detail,
    })
}

fn lu_no_owner(map: &LusMap) -> Option<HealthCheck> {
    let why = |lu: &Lu| match map.placement(&lu.id) {
        None => Some(format!("{} has no owner", lu.name())),
        Some(placement) => {
            let up = map.daemon(&placement.owner).is_some_and(|daemon| daemon.state.is_up());
            (!up).then(|| format!("{} is placed on lus.{}, which is not up", lu.name(), placement.owner))
        }
    };
    let detail: Vec<String> = map.lus().filter_map(why).collect();
    let summary = counted(detail.len(), "logical unit", "without an owner that is up");
    let check = HealthCheck { code: "LUS_LU_NO_OWNER", severity: Severity::Err, summary, detail };
    (!check.detail.is_empty()).then_some(check)
}

fn lu_not_served(
    map: &LusMap,
    records: impl IntoIterator<Item = (LuId, Option<LuRecord>)>,
    now: Timestamp,
) -> Option<HealthCheck> {
    let detail: Vec<String> =
        records.into_iter().filter_map(|(id, record)| not_served(map, &id, record.as_ref(), now)).collect();
    let summary = counted(detail.len(), "logical unit", "not served by its owner");
    let check = HealthCheck { code: "LUS_LU_NOT_SERVED", severity: Severity::Err, summary, detail };
    (!check.detail.is_empty()).then_some(check)
}

/// What stands in the way, if an owner that is up has had its time.
fn not_served(map: &LusMap, id: &LuId, record: Option<&LuRecord>, now: Timestamp) -> Option<String> {
    let (lu, placement) = (map.lu(id)?, map.placement(id)?);
    let owner = map.daemon(&placement.owner).filter(|daemon| daemon.state.is_up())?;
    let fresh = |since: Timestamp| since.distance(now) < SERVE_GRACE;
    if fresh(placement.moved) || fresh(owner.registered) || is_served(record, placement, owner) {
        return None;
    }
    Some(format!("{} is placed on lus.{}, but {}", lu.name(), placement.owner, held(record)))
}

/// What the record says instead.
fn held(record: Option<&LuRecord>) -> String {
    match record.map(|record| &record.state) {
        None | Some(LuState::New) => "nobody has ever held it".to_owned(),
        Some(LuState::Serving { holder }) => format!("{holder} holds it"),
        Some(LuState::Moving { from, to }) => format!("{from} holds it, to hand it over to lus.{to}"),
        Some(LuState::Released) => "nobody has held it since it was released".to_owned(),
        Some(LuState::Lost { holder }) => format!("{holder} lost it"),
    }
}

fn is_served(record: Option<&LuRecord>, placement: &Placement, owner: &DaemonInstance) -> bool {
    match record.map(|record| &record.state) {
        Some(LuState::Serving { holder } | LuState::Moving { from: holder, .. }) => {
            holder.daemon == placement.owner && holder.up_from == owner.up_from
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
