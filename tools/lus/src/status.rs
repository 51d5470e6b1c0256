//! `lus status`, `lus -s`: everything on one screen.

use std::collections::BTreeMap;
use std::fmt::Write;

use clap::Args;
use lus_map::{DaemonInstance, Lu, LusMap};
use serde_json::{Map, Value, json};

use crate::error::Result;
use crate::lu::facts::{Facts, gather};
use crate::lu::state::State;
use crate::output::{Reply, count};
use crate::session::{Heard, Session};
use crate::size::Size;

const EXAMPLES: &str = "\
Examples:
    lus -s
    lus status -f json-pretty

It is HEALTH_OK when each logical unit is served by its owner and each daemon is up and answers; else the reasons follow.";

/// Names that a health line lists at most.
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
    let status = Status::of(session.cluster.fsid().to_owned(), map.as_deref(), &facts, heard);
    Ok(Reply::data(status.plain(), status.json()))
}

/// One thing that is not as it should be.
#[derive(Debug, PartialEq, Eq)]
struct Check {
    code: &'static str,
    message: String,
    count: usize,
}

#[derive(Debug)]
struct Status {
    fsid: String,
    /// None before the map is created.
    epoch: Option<u64>,
    checks: Vec<Check>,
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
    fn of(fsid: String, map: Option<&LusMap>, facts: &[Facts], heard: Option<Heard>) -> Self {
        let daemons = || map.into_iter().flat_map(LusMap::daemons);
        let id = |daemon: &DaemonInstance| daemon.id.to_string();
        let mut states = BTreeMap::new();
        facts.iter().for_each(|facts| *states.entry(facts.state).or_default() += 1);
        let units: Vec<(&Lu, &Facts)> = map.into_iter().flat_map(LusMap::lus).zip(facts).collect();
        Self {
            fsid,
            epoch: map.map(|map| map.epoch().0),
            checks: checks(map, &units, heard),
            daemons: daemons().map(id).collect(),
            up: daemons().filter(|daemon| daemon.state.is_up()).map(id).collect(),
            targets: map.map_or(0, |map| map.targets().count()),
            hosts: map.map_or(0, |map| map.all_hosts().count()),
            luns: map.map_or(0, |map| map.all_luns().count()),
            lus: units.len(),
            bytes: facts.iter().filter_map(|facts| facts.size).fold(0, u64::saturating_add),
            states,
        }
    }

    fn health(&self) -> &'static str {
        if self.checks.is_empty() { "HEALTH_OK" } else { "HEALTH_WARN" }
    }

    fn plain(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "  cluster:\n    id:     {}\n    health: {}", self.fsid, self.health());
        for check in &self.checks {
            let _ = writeln!(text, "            {}", check.message);
        }
        let _ = match self.epoch {
            Some(epoch) => writeln!(text, "    map:    e{epoch}"),
            None => writeln!(text, "    map:    none yet; the first change or the first daemon creates it"),
        };
        let named = match self.up.as_slice() {
            [] => String::new(),
            up => format!(" ({})", names(up.iter().map(String::as_str))),
        };
        let _ = writeln!(
            text,
            "\n  services:\n    lusd: {}: {} up{named}",
            count(self.daemons.len(), "daemon"),
            self.up.len()
        );
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
        let checks: Map<String, Value> = self
            .checks
            .iter()
            .map(|check| {
                let summary = json!({"message": check.message, "count": check.count});
                (check.code.to_owned(), json!({"severity": "HEALTH_WARN", "summary": summary}))
            })
            .collect();
        let states: Map<String, Value> =
            self.states.iter().map(|(state, units)| (state.to_string(), json!(units))).collect();
        json!({
            "fsid": self.fsid,
            "health": {"status": self.health(), "checks": checks},
            "lusmap": {
                "epoch": self.epoch,
                "num_daemons": self.daemons.len(),
                "num_up_daemons": self.up.len(),
                "up": self.up,
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

/// What keeps the health from being OK.
fn checks(map: Option<&LusMap>, units: &[(&Lu, &Facts)], heard: Option<Heard>) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut check = |code, found: Vec<String>, message: &dyn Fn(usize, &str) -> String| {
        if !found.is_empty() {
            let listed = names(found.iter().map(String::as_str));
            checks.push(Check { code, message: message(found.len(), &listed), count: found.len() });
        }
    };
    let daemons = |up: bool| -> Vec<String> {
        let all = map.into_iter().flat_map(LusMap::daemons);
        all.filter(|daemon| daemon.state.is_up() == up).map(|daemon| format!("lus.{}", daemon.id)).collect()
    };
    check("LUS_DAEMON_DOWN", daemons(false), &|n, names| format!("{} not up: {names}", count(n, "daemon")));
    // Who answers is not told by name.
    let (up, answering) = (daemons(true), heard.map(|heard| heard.following));
    let silent = up.len().saturating_sub(answering.unwrap_or(up.len()));
    check("LUS_DAEMON_SILENT", up.iter().take(silent).cloned().collect(), &|n, _| match n == up.len() {
        true => format!(
            "{} up in the map and not answering: {}",
            count(n, "daemon"),
            names(up.iter().map(String::as_str))
        ),
        false => format!("{n} of {} daemons up in the map not answering", up.len()),
    });
    let of = |wanted: &dyn Fn(&Facts) -> bool| -> Vec<String> {
        units.iter().filter(|(_, facts)| wanted(facts)).map(|(lu, _)| lu.name().to_string()).collect()
    };
    let foreign = of(&|facts| facts.foreign().is_some());
    check("LUS_FOREIGN_HOLDER", foreign, &|n, names| {
        format!("{} held by a client outside of LUS: {names}", count(n, "lu"))
    });
    let ownerless =
        of(&|facts| facts.foreign().is_none() && matches!(facts.state, State::Down | State::Unplaced));
    check("LUS_NO_DAEMON", ownerless, &|n, names| format!("{} without a daemon: {names}", count(n, "lu")));
    let idle = of(&|facts| {
        facts.foreign().is_none()
            && matches!(facts.state, State::New | State::Opening | State::Released | State::Lost)
    });
    check("LUS_NOT_SERVED", idle, &|n, names| format!("{} not served yet: {names}", count(n, "lu")));
    let missing = of(&|facts| facts.size.is_none());
    check("LUS_IMAGE_MISSING", missing, &|n, names| {
        format!("{} whose image cannot be read: {names}", count(n, "lu"))
    });
    checks
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
    use lus_map::change;

    use super::*;
    use crate::lu::state::Lock;
    use crate::testing::{FSID, empty, then, with_daemon, with_lu};

    fn facts(state: State) -> Facts {
        Facts { size: Some(1 << 30), record: None, state, locks: Vec::new() }
    }

    fn status(map: &LusMap, facts: &[Facts]) -> Status {
        Status::of(FSID.to_string(), Some(map), facts, None)
    }

    #[test]
    fn golden_well() {
        let map = with_lu(&with_lu(&with_daemon(&with_daemon(&empty(), "a", 1), "b", 2), 1), 2);
        let target = "iqn.2026-11.x:y".parse().unwrap();
        let map = then(&map, |map, origin| change::target::create(map, origin, &target, true));
        let status = status(&map, &[facts(State::Serving), facts(State::Serving)]);
        assert_eq!(
            status.plain(),
            "  cluster:\n    id:     19870b3c-8b62-466d-9486-786ae60cd7f7\n    health: HEALTH_OK\n    map:    e6\n\n  \
             services:\n    lusd: 2 daemons: 2 up (a, b)\n\n  data:\n    targets: 1 target, 0 hosts, 0 luns\n    \
             lus:     2 lus, 2 GiB: 2 serving\n"
        );
        assert_eq!(
            status.json().to_string(),
            r#"{"fsid":"19870b3c-8b62-466d-9486-786ae60cd7f7","health":{"status":"HEALTH_OK","checks":{}},"#
                .to_owned()
                + r#""lusmap":{"epoch":6,"num_daemons":2,"num_up_daemons":2,"up":["a","b"],"num_targets":1,"#
                + r#""num_hosts":0,"num_luns":0,"num_lus":2,"lu_bytes":2147483648,"lus_by_state":{"serving":2}}}"#
        );
    }

    #[test]
    fn golden_unwell() {
        let mut map = with_daemon(&empty(), "a", 1);
        for n in 1..=7 {
            map = with_lu(&map, n);
        }
        let id = "a".parse().unwrap();
        let up_from = map.daemon(&id).unwrap().up_from;
        let map = then(&map, |map, origin| change::daemon::mark_down(map, origin, (&id, up_from), "test"));
        let mut units: Vec<Facts> = [State::Down; 4].map(facts).into();
        units.extend([facts(State::New), facts(State::Lost), Facts { size: None, ..facts(State::Unplaced) }]);
        units[5].locks = vec![Lock { client: "client.1".into(), addr: None, daemon: None }];
        let status = status(&map, &units);
        assert_eq!(
            status.plain(),
            "  cluster:\n    id:     19870b3c-8b62-466d-9486-786ae60cd7f7\n    health: HEALTH_WARN\n            \
             1 daemon not up: lus.a\n            \
             1 lu held by a client outside of LUS: rbd/6\n            \
             5 lus without a daemon: rbd/1, rbd/2, rbd/3 and 2 more\n            \
             1 lu not served yet: rbd/5\n            \
             1 lu whose image cannot be read: rbd/7\n    map:    e10\n\n  \
             services:\n    lusd: 1 daemon: 0 up\n\n  data:\n    targets: 0 targets, 0 hosts, 0 luns\n    \
             lus:     7 lus, 6 GiB: 1 new, 1 lost, 4 down, 1 unplaced\n"
        );
        let json = status.json();
        assert_eq!(json["health"]["status"], "HEALTH_WARN");
        assert_eq!(json["health"]["checks"]["LUS_NO_DAEMON"]["summary"]["count"], 5);
        assert_eq!(json["lusmap"]["num_up_daemons"], 0);
    }

    #[test]
    fn silent_daemons() {
        let map = with_daemon(&with_daemon(&empty(), "a", 1), "b", 2);
        let messages = |following| {
            let heard = Heard { following, behind: 0 };
            let status = Status::of(FSID.to_string(), Some(&map), &[], Some(heard));
            status.checks.iter().map(|check| format!("{} {}", check.code, check.message)).collect::<Vec<_>>()
        };
        assert_eq!(
            messages(0),
            ["LUS_DAEMON_SILENT 2 daemons up in the map and not answering: lus.a, lus.b"]
        );
        assert_eq!(messages(1), ["LUS_DAEMON_SILENT 1 of 2 daemons up in the map not answering"]);
        assert!(messages(2).is_empty() && messages(3).is_empty());
    }

    #[test]
    fn before_the_map() {
        let status = Status::of(FSID.to_string(), None, &[], None);
        assert!(status.plain().contains("map:    none yet"));
        assert_eq!((status.health(), &status.json()["lusmap"]["epoch"]), ("HEALTH_OK", &Value::Null));
    }
}
