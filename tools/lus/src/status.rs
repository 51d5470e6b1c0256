//! `lus status`, `lus -s`: everything on one screen.

use std::collections::BTreeMap;
use std::fmt::Write;

use clap::Args;
use lus_map::health::status;
use lus_map::{DaemonInstance, HealthCheck, Leader, LusMap, Timestamp};
use serde_json::{Map, Value, json};

use crate::error::Result;
use crate::health;
use crate::lu::facts::{Facts, gather};
use crate::lu::state::State;
use crate::output::{Reply, count};
use crate::session::{Heard, Session};
use crate::size::Size;

const EXAMPLES: &str = "\
Examples:
    lus -s
    lus status -f json-pretty

It is HEALTH_OK when each logical unit is served by its owner, each daemon is up and answers, and one of them leads; else the \
reasons follow. lus health detail says which daemons and logical units are meant.";

/// Names that a line lists at most.
const NAMED_MAX: usize = 3;

/// `lus status`.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct StatusArgs {}

/// Reads everything and shows it.
///
/// # Errors
/// What reading the map and the records gives.
pub(crate) async fn run(session: &Session) -> Result<Reply> {
    let map = session.map_if_any().await?;
    let (facts, heard) = match &map {
        Some(map) => (gather(session, map).await?, session.roll_call(map).await),
        None => (Vec::new(), None),
    };
    let status = Status::of(session.cluster.fsid().to_owned(), map.as_deref(), &facts, heard, session.now());
    Ok(Reply::data(status.plain(), status.json()))
}

#[derive(Debug)]
struct Status {
    fsid: String,
    /// None before the map is created.
    epoch: Option<u64>,
    checks: Vec<HealthCheck>,
    flags: Vec<String>,
    /// The start that leads.
    leader: Option<Leader>,
    /// Ids of all daemons, and of those that are up.
    daemons: Vec<String>,
    up: Vec<String>,
    targets: usize,
    hosts: usize,
    luns: usize,
    lus: usize,
    bytes: u64,
    states: BTreeMap<State, usize>,
}

impl Status {
    fn of(fsid: String, map: Option<&LusMap>, facts: &[Facts], heard: Option<Heard>, now: Timestamp) -> Self {
        let daemons = || map.into_iter().flat_map(LusMap::daemons);
        let id = |daemon: &DaemonInstance| daemon.id.to_string();
        let mut states = BTreeMap::new();
        facts.iter().for_each(|facts| *states.entry(facts.state).or_default() += 1);
        Self {
            fsid,
            epoch: map.map(|map| map.epoch().0),
            checks: map.map_or_else(Vec::new, |map| health::checks(map, facts, heard, now)),
            flags: map.map_or_else(Vec::new, |map| map.meta().flags.iter().cloned().collect()),
            leader: map.and_then(LusMap::leader).filter(|leader| leads(map, leader)).cloned(),
            daemons: daemons().map(id).collect(),
            up: daemons().filter(|daemon| daemon.state.is_up()).map(id).collect(),
            targets: map.map_or(0, |map| map.targets().count()),
            hosts: map.map_or(0, |map| map.all_hosts().count()),
            luns: map.map_or(0, |map| map.all_luns().count()),
            lus: facts.len(),
            bytes: facts.iter().filter_map(|facts| facts.size).fold(0, u64::saturating_add),
            states,
        }
    }

    fn plain(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "  cluster:\n    id:     {}\n    health: {}", self.fsid, status(&self.checks));
        for check in &self.checks {
            let _ = writeln!(text, "            {}", check.summary);
        }
        let _ = match self.epoch {
            Some(epoch) => writeln!(text, "    map:    e{epoch}"),
            None => writeln!(text, "    map:    none yet; the first change or the first daemon creates it"),
        };
        let named = match self.up.as_slice() {
            [] => String::new(),
            up => format!(" ({})", names(up.iter().map(String::as_str))),
        };
        let leader = self.leader.as_ref().map(|leader| format!(", leader {}", leader.daemon));
        let _ = writeln!(
            text,
            "\n  services:\n    lusd: {}: {} up{named}{}",
            count(self.daemons.len(), "daemon"),
            self.up.len(),
            leader.unwrap_or_default()
        );
        if !self.flags.is_empty() {
            let _ = writeln!(text, "          flags {}", self.flags.join(","));
        }
        let states: Vec<String> =
            self.states.iter().map(|(state, units)| format!("{units} {state}")).collect();
        let lus = match states.as_slice() {
            [] => count(0, "lu"),
            states => format!("{}, {}: {}", count(self.lus, "lu"), Size(self.bytes), states.join(", ")),
        };
        let _ = writeln!(
            text,
            "\n  data:\n    targets: {}, {}, {}\n    lus:     {lus}",
            count(self.targets, "target"),
            count(self.hosts, "host"),
            count(self.luns, "lun")
        );
        text
    }

    fn json(&self) -> Value {
        let states: Map<String, Value> =
            self.states.iter().map(|(state, units)| (state.to_string(), json!(units))).collect();
        json!({
            "fsid": self.fsid,
            "health": health::json(&self.checks, false),
            "lusmap": {
                "epoch": self.epoch,
                "num_daemons": self.daemons.len(),
                "num_up_daemons": self.up.len(),
                "up": self.up,
                "leader": self.leader,
                "flags": self.flags,
                "num_targets": self.targets,
                "num_hosts": self.hosts,
                "num_luns": self.luns,
                "num_lus": self.lus,
                "lu_bytes": self.bytes,
                "lus_by_state": states,
            },
        })
    }
}

/// Whether the start that is entered as the leader is up.
fn leads(map: Option<&LusMap>, leader: &Leader) -> bool {
    map.and_then(|map| map.instance(&leader.daemon, leader.up_from))
        .is_some_and(|daemon| daemon.state.is_up())
}

/// The first few names, and how many more there are.
fn names<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = names.len().saturating_sub(NAMED_MAX);
    let listed: Vec<&str> = names.take(NAMED_MAX).collect();
    match more {
        0 => listed.join(", "),
        more => format!("{} and {more} more", listed.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use lus_map::{Flag, change};

    use super::*;
    use crate::testing::{FSID, empty, led, origin, then, with_daemon, with_lu};

    fn facts(state: State) -> Facts {
        Facts { size: Some(1 << 30), record: None, state, locks: Vec::new() }
    }

    fn shown(map: &LusMap, facts: &[Facts]) -> Status {
        Status::of(FSID.to_string(), Some(map), facts, None, origin().when)
    }

    #[test]
    fn golden_well() {
        let map = with_lu(&with_lu(&with_daemon(&with_daemon(&empty(), "a", 1), "b", 2), 1), 2);
        let target = "iqn.2026-11.x:y".parse().unwrap();
        let map = then(&map, |map, origin| change::target::create(map, origin, &target, true));
        let status = shown(&led(&map, "b"), &[facts(State::Serving), facts(State::Serving)]);
        assert_eq!(
            status.plain(),
            "  cluster:\n    id:     19870b3c-8b62-466d-9486-786ae60cd7f7\n    health: HEALTH_OK\n    map:    e7\n\n  \
             services:\n    lusd: 2 daemons: 2 up (a, b), leader b\n\n  data:\n    targets: 1 target, 0 hosts, 0 luns\n    \
             lus:     2 lus, 2 GiB: 2 serving\n"
        );
        assert_eq!(
            status.json().to_string(),
            r#"{"fsid":"19870b3c-8b62-466d-9486-786ae60cd7f7","health":{"status":"HEALTH_OK","checks":{}},"#
                .to_owned()
                + r#""lusmap":{"epoch":7,"num_daemons":2,"num_up_daemons":2,"up":["a","b"],"leader":{"daemon":"b","#
                + r#""up_from":3,"term":1,"taken":"2026-11-21T00:00:00.000000+0000"},"flags":[],"num_targets":1,"#
                + r#""num_hosts":0,"num_luns":0,"num_lus":2,"lu_bytes":2147483648,"lus_by_state":{"serving":2}}}"#
        );
    }

    #[test]
    fn golden_unwell() {
        let mut map = led(&with_daemon(&empty(), "a", 1), "a");
        for n in 1..=3 {
            map = with_lu(&map, n);
        }
        map = then(&map, |map, origin| change::flags::set(map, origin, Flag::NoFailover));
        let id = "a".parse().unwrap();
        let up_from = map.daemon(&id).unwrap().up_from;
        let map = then(&map, |map, origin| change::daemon::retire(map, origin, (&id, up_from)));
        let status = shown(&map, &[State::Down; 3].map(facts));
        assert_eq!(
            status.plain(),
            "  cluster:\n    id:     19870b3c-8b62-466d-9486-786ae60cd7f7\n    health: HEALTH_ERR\n            \
             1 daemon is down\n            \
             nofailover flag(s) set\n            \
             3 logical units are without an owner that is up\n    map:    e8\n\n  \
             services:\n    lusd: 1 daemon: 0 up\n          flags nofailover\n\n  \
             data:\n    targets: 0 targets, 0 hosts, 0 luns\n    lus:     3 lus, 3 GiB: 3 down\n"
        );
        let json = status.json();
        assert_eq!(json["health"]["status"], "HEALTH_ERR");
        assert_eq!(json["health"]["checks"]["LUS_LU_NO_OWNER"]["summary"]["count"], 3);
        assert_eq!(json["lusmap"]["num_up_daemons"], 0);
        assert_eq!(
            (&json["lusmap"]["leader"], &json["lusmap"]["flags"]),
            (&Value::Null, &json!(["nofailover"]))
        );
    }

    #[test]
    fn before_the_map() {
        let status = Status::of(FSID.to_string(), None, &[], None, origin().when);
        assert!(status.plain().contains("map:    none yet"));
        assert_eq!(
            (&status.json()["health"]["status"], &status.json()["lusmap"]["epoch"]),
            (&json!("HEALTH_OK"), &Value::Null)
        );
    }
}
