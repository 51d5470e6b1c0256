//! `lus health [detail]`: what is not well, in the form of `ceph health`.
//!
//! The map's own checks are `lus_map::health`'s. Here those come in that ask others: the images, their locks, the daemons.

use clap::Args;
use clap::builder::PossibleValuesParser;
use lus_map::health::{SERVE_GRACE, foreign_holder, health, status};
use lus_map::{HealthCheck, Lu, LusMap, Severity, Timestamp};
use serde_json::{Map, Value, json};

use crate::error::Result;
use crate::lu::facts::{Facts, gather};
use crate::lu::state::State;
use crate::output::{Reply, count};
use crate::session::{Heard, Session};

const EXAMPLES: &str = "\
Examples:
    lus health
    lus health detail
    lus health detail -f json-pretty

The checks:

    LUS_DAEMON_DOWN        a daemon is down, or ended: start it, or lus daemon rm
    LUS_DAEMON_SILENT      a daemon is up in the map, and does not answer
    LUS_DAEMON_FLAPPING    a daemon goes down again and again, and is held back from logical units
    LUS_NO_LEADER          no daemon leads: what fails is not failed over
    LUS_FLAG_SET           a flag of lus set is set
    LUS_LU_NO_OWNER        a logical unit has no owner that is up
    LUS_LU_NOT_SERVED      the owner of a logical unit does not serve it, and had the time to
    LUS_LU_STARTING        the owner of a logical unit is about to serve it, or waits for its lock
    LUS_FOREIGN_HOLDER     a client outside of LUS holds the lock of an image: lus lu takeover
    LUS_IMAGE_MISSING      the image of a logical unit cannot be read

What passes by itself, such as a failover, shows for as long as it lasts.";

/// `lus health [detail]`.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct HealthArgs {
    /// Say which daemons and logical units are meant.
    #[arg(value_name = "detail", value_parser = PossibleValuesParser::new(["detail"]))]
    detail: Option<String>,
}

impl HealthArgs {
    /// Looks at everything and says what is not well.
    pub(crate) async fn run(&self, session: &Session) -> Result<Reply> {
        let checks = match session.map_if_any().await? {
            Some(map) => {
                let (facts, heard) = (gather(session, &map).await?, session.roll_call(&map).await);
                checks(&map, &facts, heard, session.now())
            }
            None => Vec::new(),
        };
        let detail = self.detail.is_some();
        Ok(Reply::data(plain(&checks, detail), json(&checks, detail)))
    }
}

/// `HEALTH_WARN 1 daemon is down; ...`, and with `detail` the checks, a line for each thing.
fn plain(checks: &[HealthCheck], detail: bool) -> String {
    let summaries: Vec<&str> = checks.iter().map(|check| check.summary.as_str()).collect();
    let mut text = format!("{} {}", status(checks), summaries.join("; ")).trim_end().to_owned() + "\n";
    if detail {
        text.extend(checks.iter().map(|check| format!("{check}\n")));
    }
    text
}

/// As `ceph health -f json` has it.
pub(crate) fn json(checks: &[HealthCheck], detail: bool) -> Value {
    let all: Map<String, Value> = checks
        .iter()
        .map(|check| {
            let summary = json!({"message": check.summary, "count": check.detail.len()});
            let mut json = json!({"severity": check.severity, "summary": summary});
            if detail {
                json["detail"] = check.detail.iter().map(|line| json!({"message": line})).collect();
            }
            (check.code.to_owned(), json)
        })
        .collect();
    json!({"status": status(checks), "checks": all})
}

/// All that keeps the health from being OK; `facts` are of all units of `map`, in its order.
pub(crate) fn checks(
    map: &LusMap,
    facts: &[Facts],
    heard: Option<Heard>,
    now: Timestamp,
) -> Vec<HealthCheck> {
    let units: Vec<(&Lu, &Facts)> = map.lus().zip(facts).collect();
    // Who has the lock of a foreign holder's unit is said once.
    let records = units
        .iter()
        .filter(|(_, facts)| facts.foreign().is_none())
        .map(|(lu, facts)| (lu.id, facts.record.clone()));
    let mut checks = health(map, records, now);
    let of = |wanted: &dyn Fn(&Lu, &Facts) -> Option<String>| -> Vec<String> {
        units.iter().filter_map(|(lu, facts)| wanted(lu, facts)).collect()
    };
    checks.extend(silent(map, heard));
    checks.extend(foreign_holder(of(&|lu, facts| {
        let lock = facts.foreign()?;
        Some(format!("{} is locked by {lock}; to take it over: lus lu takeover {0}", lu.name()))
    })));
    let starting = of(&|lu, facts| {
        (facts.foreign().is_none() && is_starting(map, lu, facts, now))
            .then(|| format!("{} is {}", lu.name(), facts.state))
    });
    checks.extend(warning("LUS_LU_STARTING", starting, |n| {
        format!(
            "{} not served yet",
            if n == 1 { "1 logical unit is".to_owned() } else { format!("{n} logical units are") }
        )
    }));
    let missing =
        of(&|lu, facts| facts.size.is_none().then(|| format!("{}: its image cannot be read", lu.name())));
    checks.extend(warning("LUS_IMAGE_MISSING", missing, |n| {
        format!("{} without a readable image", count(n, "logical unit"))
    }));
    checks
}

fn warning(
    code: &'static str,
    detail: Vec<String>,
    summary: impl Fn(usize) -> String,
) -> Option<HealthCheck> {
    let summary = summary(detail.len());
    (!detail.is_empty()).then_some(HealthCheck { code, severity: Severity::Warn, summary, detail })
}

/// Daemons that are up in the map and did not answer; who did is not told by name.
fn silent(map: &LusMap, heard: Option<Heard>) -> Option<HealthCheck> {
    let up = map.daemons().filter(|daemon| daemon.state.is_up());
    let up: Vec<String> = up.map(|daemon| format!("lus.{}", daemon.id)).collect();
    let silent = up.len().saturating_sub(heard?.following);
    let detail = match silent {
        0 => Vec::new(),
        _ if silent == up.len() => up.iter().map(|name| format!("{name} does not answer")).collect(),
        _ => vec![format!("{silent} of {}", up.join(", "))],
    };
    warning("LUS_DAEMON_SILENT", detail, |_| {
        format!("{silent} of {} up in the map not answering", count(up.len(), "daemon"))
    })
}

/// Whether a unit is not served and its owner is at it: what has had its time is another check's.
fn is_starting(map: &LusMap, lu: &Lu, facts: &Facts, now: Timestamp) -> bool {
    let Some(placement) = map.placement(&lu.id) else { return false };
    let Some(owner) = map.daemon(&placement.owner).filter(|owner| owner.state.is_up()) else { return false };
    let fresh = |since: Timestamp| since.distance(now) < SERVE_GRACE;
    match facts.state {
        State::Opening => true,
        State::New | State::Released | State::Lost | State::Takeover => {
            fresh(placement.moved) || fresh(owner.registered)
        }
        State::Serving | State::Moving | State::Down | State::Unplaced => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lus_map::{DaemonId, Flag, Holder, LuRecord, change};

    use super::*;
    use crate::lu::state::Lock;
    use crate::testing::{empty, led, lu_id, origin, then, with_daemon, with_lu};

    fn later() -> Timestamp {
        Timestamp(origin().when.0 + 3_600_000_000)
    }

    fn facts(state: State) -> Facts {
        Facts { size: Some(1 << 30), record: None, state, locks: Vec::new() }
    }

    /// Facts of a unit that daemon `a` serves.
    fn served(map: &LusMap, n: u128) -> Facts {
        let daemon: DaemonId = "a".parse().unwrap();
        let up_from = map.daemon(&daemon).unwrap().up_from;
        let holder = Holder { daemon, up_from, addr: "192.0.2.1:0/1".parse().unwrap() };
        let record = LuRecord::new(lu_id(n)).claim(&holder).unwrap();
        Facts { record: Some(record), ..facts(State::Serving) }
    }

    fn codes(checks: &[HealthCheck]) -> Vec<&'static str> {
        checks.iter().map(|check| check.code).collect()
    }

    #[test]
    fn well() {
        let map = with_lu(&led(&with_daemon(&empty(), "a", 1), "a"), 1);
        let found = checks(&map, &[served(&map, 1)], Some(Heard { following: 1, behind: 0 }), later());
        assert_eq!(found, []);
        assert_eq!(plain(&found, true), "HEALTH_OK\n");
        assert_eq!(json(&found, true).to_string(), r#"{"status":"HEALTH_OK","checks":{}}"#);
    }

    #[test]
    fn golden_unwell() {
        let mut map = led(&with_daemon(&empty(), "a", 1), "a");
        map = then(&map, |map, origin| change::flags::set(map, origin, Flag::NoMove));
        for n in 1..=4 {
            map = with_lu(&map, n);
        }
        let foreign = Lock { client: "client.9".into(), addr: "192.0.2.9:0/9".parse().ok(), daemon: None };
        let serving = served(&map, 4).record.unwrap();
        let released = serving.release(serving.state.holder().unwrap()).unwrap();
        let units = [
            served(&map, 1),
            Facts { state: State::Opening, ..served(&map, 2) },
            Facts { locks: vec![foreign], ..facts(State::New) },
            Facts { size: None, record: Some(released), ..facts(State::Released) },
        ];
        let found = checks(&map, &units, Some(Heard::default()), later());
        assert_eq!(
            plain(&found, true),
            "HEALTH_ERR nomove flag(s) set; 1 logical unit is not served by its owner; 1 of 1 daemon up in the map not \
             answering; 1 logical unit is locked by a client that is not of LUS; 1 logical unit is not served yet; 1 \
             logical unit without a readable image\n\
             [WRN] LUS_FLAG_SET: nomove flag(s) set\n    \
             nomove: logical units are not moved by themselves to where they belong: no failback, no balancing; failover and \
             the commands of an administrator go on\n\
             [ERR] LUS_LU_NOT_SERVED: 1 logical unit is not served by its owner\n    \
             rbd/4 is placed on lus.a, but nobody has held it since it was released\n\
             [WRN] LUS_DAEMON_SILENT: 1 of 1 daemon up in the map not answering\n    \
             lus.a does not answer\n\
             [ERR] LUS_FOREIGN_HOLDER: 1 logical unit is locked by a client that is not of LUS\n    \
             rbd/3 is locked by FOREIGN client client.9 (192.0.2.9:0/9); to take it over: lus lu takeover rbd/3\n\
             [WRN] LUS_LU_STARTING: 1 logical unit is not served yet\n    \
             rbd/2 is opening\n\
             [WRN] LUS_IMAGE_MISSING: 1 logical unit without a readable image\n    \
             rbd/4: its image cannot be read\n"
        );
        assert_eq!(plain(&found, false).lines().count(), 1);
        let short = json(&found, false);
        assert_eq!(short["status"], "HEALTH_ERR");
        assert_eq!(
            short["checks"]["LUS_LU_STARTING"],
            json!({"severity": "HEALTH_WARN", "summary": {"message": "1 logical unit is not served yet", "count": 1}})
        );
        assert_eq!(
            json(&found, true)["checks"]["LUS_LU_STARTING"]["detail"],
            json!([{"message": "rbd/2 is opening"}])
        );
    }

    #[test]
    fn every_check_is_explained() {
        let sources = [include_str!("health.rs"), include_str!("../../../lus-map/src/health.rs")];
        let is_code = |text: &&str| {
            text.len() > 4
                && text.starts_with("LUS_")
                && !text.contains(|c: char| c != '_' && !c.is_ascii_uppercase())
        };
        let codes: Vec<&str> = sources.iter().flat_map(|source| source.split('"')).filter(is_code).collect();
        assert!(codes.len() >= 10, "{codes:?}");
        for code in codes {
            assert!(EXAMPLES.contains(&format!("\n    {code} ")), "{code}");
        }
    }

    #[test]
    fn an_owner_gets_its_time() {
        let map = with_lu(&led(&with_daemon(&empty(), "a", 1), "a"), 1);
        let at = |after: Duration| Timestamp(origin().when.0 + u64::try_from(after.as_micros()).unwrap());
        for state in [State::New, State::Released, State::Lost, State::Takeover] {
            let found = |after| codes(&checks(&map, &[facts(state)], None, at(after)));
            assert_eq!(found(Duration::from_secs(1)), ["LUS_LU_STARTING"], "{state}");
            assert_eq!(found(SERVE_GRACE), ["LUS_LU_NOT_SERVED"], "{state}");
        }
        assert!(checks(&map, &[served(&map, 1)], None, at(Duration::ZERO)).is_empty());
    }

    #[test]
    fn silent_daemons() {
        let map = with_daemon(&with_daemon(&empty(), "a", 1), "b", 2);
        let said = |following| {
            silent(&map, Some(Heard { following, behind: 0 }))
                .map(|check| check.to_string())
                .unwrap_or_default()
        };
        assert_eq!(
            said(0),
            "[WRN] LUS_DAEMON_SILENT: 2 of 2 daemons up in the map not answering\n    lus.a does not answer\n    \
             lus.b does not answer"
        );
        assert_eq!(
            said(1),
            "[WRN] LUS_DAEMON_SILENT: 1 of 2 daemons up in the map not answering\n    1 of lus.a, lus.b"
        );
        assert_eq!((said(2), said(3)), (String::new(), String::new()));
        assert_eq!(silent(&map, None), None);
    }
}
