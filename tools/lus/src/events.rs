//! `lus events`: what happened, as the increments of the map tell it.

use std::time::Duration;

use clap::Args;
use lus_map::events::{Subject, events};
use lus_map::{Epoch, Event, INCREMENTS_KEPT, LusMap};
use lus_map_store::StoreError;
use lusd_ceph::Errno;
use serde_json::{Value, json};

use crate::error::{Failure, Result};
use crate::output::{Format, Reply};
use crate::session::Session;

const EXAMPLES: &str = "\
Examples:
    lus events                  the last 20
    lus events 200 -f json
    lus events --follow         and what happens from now on

KIND is

    verdict    a daemon was declared down
    leader     a daemon leads, or does so no more
    failover   a logical unit got another owner, as its own was not up
    move       a logical unit got another owner for another reason, or its pin was changed
    fence      a RADOS client was put on the blocklist: of a daemon that is down, of an older start, one that a daemon gave up,
               one that does not let go of a logical unit, one outside of LUS by lus lu takeover
    register   a daemon started
    retire     a daemon ended in order
    daemon     a daemon is in, out, about to end, or removed
    flag       a flag was set or unset

They are read from the last 500 changes of the map (lus dump EPOCH shows the map as one of them left it). Each event \
names the RADOS client that wrote it.";

/// Events at most: more than the increments that are kept ever told.
const NUMBER_MAX: i64 = 1_000_000;
/// Increments that are read together, newest first.
const PAGE: u64 = 64;
/// How often `--follow` looks for more.
const FOLLOW_POLL: Duration = Duration::from_secs(1);

/// `lus events [NUMBER] [--follow]`.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct EventsArgs {
    /// Show so many of the latest.
    #[arg(value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=NUMBER_MAX))]
    number: u32,
    /// Go on with what happens, until interrupted.
    #[arg(long)]
    follow: bool,
}

impl EventsArgs {
    /// Shows what happened; with `--follow` it comes back only when nobody reads any more.
    pub(crate) async fn run(&self, session: &Session, format: Format) -> Result<Reply> {
        let map = session.map_if_any().await?;
        let wanted = usize::try_from(self.number).unwrap_or(usize::MAX);
        let found = match &map {
            Some(map) => newest(session, map.epoch(), wanted).await?,
            None => Vec::new(),
        };
        let seen = map.as_deref().map_or(Epoch(0), LusMap::epoch);
        let shown = Shown::all(map.as_deref(), &found);
        match self.follow {
            false => Ok(Reply::data(plain(&shown), shown.iter().map(Shown::json).collect::<Vec<_>>())),
            true => follow(session, format, shown, seen).await,
        }
    }
}

/// The last `wanted` events up to epoch `to`, oldest first.
async fn newest(session: &Session, to: Epoch, wanted: usize) -> Result<Vec<Event>> {
    let floor = to.0.saturating_sub(INCREMENTS_KEPT);
    let mut found = Vec::new();
    let mut to = to;
    while found.len() < wanted && to.0 > floor {
        let after = Epoch(to.0.saturating_sub(PAGE).max(floor));
        let page = session.increments(after, to).await?;
        let Some(oldest) = page.first().map(|increment| increment.epoch) else { break };
        let mut older = events(&page).map_err(StoreError::from)?;
        older.append(&mut found);
        found = older;
        // What is older than this is not kept any more.
        if oldest > after.next() {
            break;
        }
        to = after;
    }
    found.drain(..found.len().saturating_sub(wanted));
    Ok(found)
}

/// Prints events as they come, until nobody reads them.
async fn follow(session: &Session, format: Format, first: Vec<Shown>, seen: Epoch) -> Result<Reply> {
    let (mut shown, mut seen) = (first, seen);
    loop {
        for one in &shown {
            let reads = Reply::data(one.plain.clone(), one.json())
                .print_to_reader(format)
                .map_err(|error| Failure::new(Errno::EIO, format!("stdout: {error}")))?;
            if !reads {
                return Ok(Reply::default());
            }
        }
        tokio::time::sleep(FOLLOW_POLL).await;
        shown = match session.map_if_any().await? {
            Some(map) if map.epoch() > seen => {
                let increments = session.increments(seen, map.epoch()).await?;
                seen = map.epoch();
                Shown::all(Some(&map), &events(&increments).map_err(StoreError::from)?)
            }
            _ => Vec::new(),
        };
    }
}

fn plain(shown: &[Shown]) -> String {
    shown.iter().map(|one| one.plain.as_str()).collect()
}

/// An event in the words of the map: a unit by its name.
#[derive(Debug)]
struct Shown {
    /// A line, ended by a newline.
    plain: String,
    name: String,
    event: Event,
}

impl Shown {
    fn all(map: Option<&LusMap>, events: &[Event]) -> Vec<Self> {
        events.iter().map(|event| Self::of(map, event)).collect()
    }

    fn of(map: Option<&LusMap>, event: &Event) -> Self {
        let name = match &event.subject {
            // One that is gone has left its name with it.
            Subject::Lu(id) => {
                map.and_then(|map| map.lu(id)).map_or_else(|| id.to_string(), |lu| lu.name().to_string())
            }
            subject => subject.to_string(),
        };
        // Behind the name of the client its address follows.
        let who = event.who.split(' ').next().unwrap_or_default();
        let plain = format!(
            "{} e{} {:<8} {name}: {} (by {who})\n",
            event.time, event.epoch, event.kind, event.reason
        );
        Self { plain, name, event: event.clone() }
    }

    fn json(&self) -> Value {
        let event = &self.event;
        let lu = match &event.subject {
            Subject::Lu(id) => Some(id),
            _ => None,
        };
        json!({
            "time": event.time,
            "epoch": event.epoch,
            "kind": event.kind,
            "subject": self.name,
            "lu_id": lu,
            "reason": event.reason,
            "who": event.who,
        })
    }
}

#[cfg(test)]
mod tests {
    use lus_map::change;

    use super::*;
    use crate::testing::{empty, increment, lu_id, with_daemon, with_lu};

    #[test]
    fn golden() {
        let map = with_daemon(&with_lu(&with_daemon(&empty(), "a", 1), 1), "b", 2);
        let name = map.lu(&lu_id(1)).unwrap().name();
        let to = "b".parse().unwrap();
        let moved = increment(&map, |map, origin| change::lu::move_to(map, origin, &name, &to));
        let flagged = increment(&map, |map, origin| change::flags::set(map, origin, lus_map::Flag::NoMove));
        let found = events([&moved, &flagged]).unwrap();
        let shown = Shown::all(Some(&map), &found);
        assert_eq!(
            plain(&shown),
            "2026-11-21T00:00:00.000000+0000 e5 move     rbd/1: from lus.a to lus.b: moved (by client.admin)\n\
             2026-11-21T00:00:00.000000+0000 e5 flag     nomove: set (by client.admin)\n"
        );
        assert_eq!(
            shown[0].json().to_string(),
            format!(
                r#"{{"time":"2026-11-21T00:00:00.000000+0000","epoch":5,"kind":"move","subject":"rbd/1","lu_id":"{}","#,
                lu_id(1)
            ) + r#""reason":"from lus.a to lus.b: moved","who":"client.admin"}"#
        );
        assert_eq!(shown[1].json()["lu_id"], Value::Null);
        // A unit that is gone is told of by its id.
        assert!(Shown::of(Some(&empty()), &found[0]).plain.contains(&format!("move     {}: ", lu_id(1))));
    }
}
