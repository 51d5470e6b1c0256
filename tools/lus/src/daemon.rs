//! `lus daemon ...`: the daemons as the map has them, and which of them have logical units.

use std::collections::HashMap;

use clap::Subcommand;
use lus_map::{Backend, DaemonId, DaemonInstance, Flag, LusMap, change};
use serde_json::json;

use crate::args::{Really, daemon_id};
use crate::error::Result;
use crate::output::{Reply, count};
use crate::session::Session;
use crate::table::{Align, Column, table};

const LS_EXAMPLES: &str = "\
A daemon that ended well is `retired`, one that was declared dead is `down`. IN says whether it may have logical units: `in`, \
`out` by an administrator, or `leaving`, as it is about to end. LUS counts those that it is to own, UP_FROM is the epoch in which \
the running instance registered, TPGT its target portal group tag.";

const IN_EXAMPLES: &str = "\
Examples:
    lus daemon in a

Logical units come back to it by and by, a few at a time, once it has been up for a minute; not under the flag nomove.";

const OUT_EXAMPLES: &str = "\
Examples:
    lus daemon out a

It gets no more logical units, and those that it has leave it by and by, a few at a time; not under the flag nomove. It goes on \
serving them until then. Units ram:NAME, which would lose their data, stay. To have them leave at once: lus daemon drain.";

const DRAIN_EXAMPLES: &str = "\
Examples:
    lus daemon drain a    before its host is restarted
    lus lu ls             who owns what, and whether it is served there
    lus daemon in a       afterwards

Puts it out and moves all its logical units to other daemons at once: each is handed over in order, and hosts with a path to the \
new owner see no error. The command returns when the map says so; lus lu ls and lus events show how the moves go on. Units ram:NAME \
lose their data.";

const RM_EXAMPLES: &str = "\
Examples:
    lus daemon rm c

Forgets a daemon that is not up: its portal group, its weight, the pins to it. Its logical units go to other daemons. One \
that did not end in order, and whose RADOS clients are not known to be fenced, asks for --yes-i-really-mean-it: its next start \
would fence them, and so would a daemon that takes over what they hold. Its keyring stays: ceph auth rm client.lus.c.";

/// `lus daemon`.
#[derive(Debug, Subcommand)]
pub(crate) enum DaemonCommand {
    /// List the daemons.
    #[command(after_long_help = LS_EXAMPLES)]
    Ls,
    /// Let a daemon have logical units.
    #[command(after_long_help = IN_EXAMPLES)]
    In {
        /// The daemon: `a` or `lus.a`.
        #[arg(value_name = "ID", value_parser = daemon_id)]
        daemon: DaemonId,
    },
    /// Keep a daemon from getting logical units.
    #[command(after_long_help = OUT_EXAMPLES)]
    Out {
        /// The daemon: `a` or `lus.a`.
        #[arg(value_name = "ID", value_parser = daemon_id)]
        daemon: DaemonId,
    },
    /// Put a daemon out and move its logical units away at once.
    #[command(after_long_help = DRAIN_EXAMPLES)]
    Drain {
        /// The daemon: `a` or `lus.a`.
        #[arg(value_name = "ID", value_parser = daemon_id)]
        daemon: DaemonId,
    },
    /// Forget a daemon that is not up.
    #[command(after_long_help = RM_EXAMPLES)]
    Rm {
        /// The daemon: `a` or `lus.a`.
        #[arg(value_name = "ID", value_parser = daemon_id)]
        daemon: DaemonId,
        #[command(flatten)]
        really: Really,
    },
}

impl DaemonCommand {
    /// Runs the verb.
    pub(crate) async fn run(&self, session: &Session) -> Result<Reply> {
        match self {
            Self::Ls => Ok(reply(session.map_if_any().await?.as_deref())),
            Self::In { daemon } => put(session, daemon, false).await,
            Self::Out { daemon } => put(session, daemon, true).await,
            Self::Drain { daemon } => drain(session, daemon).await,
            Self::Rm { daemon, really } => {
                let intent = |map: &_, origin: &_| change::daemon::rm(map, origin, daemon, really.yes);
                Ok(session.change(intent).await?.granted())
            }
        }
    }
}

/// Puts a daemon in or out; logical units come and go by the leader.
async fn put(session: &Session, id: &DaemonId, out: bool) -> Result<Reply> {
    let changed = match out {
        true => session.change(|map, origin| change::daemon::set_out(map, origin, id)).await?,
        false => session.change(|map, origin| change::daemon::set_in(map, origin, id)).await?,
    };
    if !changed.made {
        return Ok(Reply::done(format!("lus.{id} is already {}", if out { "out" } else { "in" })));
    }
    let left = owned(&changed.map, id);
    let stay = changed.map.is_set(Flag::NoMove);
    let reply = changed.granted();
    Ok(match (out, left, stay) {
        (false, _, true) => reply.note("flag nomove is set: no logical units come to it by themselves"),
        (true, 1.., true) => {
            reply.note(format!("flag nomove is set: its {} stay with it", count(left, "logical unit")))
        }
        _ => reply,
    })
}

/// Moves everything away from a daemon, in as many steps as that takes.
async fn drain(session: &Session, id: &DaemonId) -> Result<Reply> {
    let map = session.map_to_change().await?;
    let (before, volatile) = (owned(&map, id), volatile(&map, id));
    loop {
        let changed = session.change(|map, origin| change::daemon::drain(map, origin, id)).await?;
        let left = owned(&changed.map, id);
        if changed.made && left > 0 {
            continue;
        }
        return Ok(match before.saturating_sub(left) {
            0 => Reply::done(format!("lus.{id} is out and has no logical units")),
            moved => {
                let done = format!("lus.{id} is out and hands over {}", count(moved, "logical unit"));
                let reply = Reply::done(done).note("watch it with: lus lu ls; lus events");
                match volatile {
                    0 => reply,
                    lost => reply.note(format!("the data of {} is lost", count(lost, "ram: unit"))),
                }
            }
        });
    }
}

/// How many of them lose their data when they leave it.
fn volatile(map: &LusMap, id: &DaemonId) -> usize {
    let of_memory = |lu| map.lu(lu).is_some_and(|lu| matches!(lu.backend, Backend::Ram { .. }));
    map.placements().filter(|placement| placement.owner == *id && of_memory(&placement.lu)).count()
}

/// How many units a daemon is to own.
fn owned(map: &LusMap, id: &DaemonId) -> usize {
    map.placements().filter(|placement| placement.owner == *id).count()
}

/// Whether a daemon may have units, in one word.
fn standing(daemon: &DaemonInstance) -> &'static str {
    match (daemon.out, daemon.leaving) {
        (true, _) => "out",
        (false, true) => "leaving",
        (false, false) => "in",
    }
}

const COLUMNS: [Column; 9] = [
    ("ID", Align::Left),
    ("STATE", Align::Left),
    ("IN", Align::Left),
    ("LUS", Align::Right),
    ("UP_FROM", Align::Right),
    ("TPGT", Align::Right),
    ("PORTALS", Align::Left),
    ("VERSION", Align::Left),
    ("HOST", Align::Left),
];

fn reply(map: Option<&LusMap>) -> Reply {
    let daemons = || map.into_iter().flat_map(LusMap::daemons);
    let mut units: HashMap<&DaemonId, usize> = HashMap::new();
    for placement in map.into_iter().flat_map(LusMap::placements) {
        *units.entry(&placement.owner).or_default() += 1;
    }
    let units = |daemon: &DaemonInstance| units.get(&daemon.id).copied().unwrap_or(0);
    let leads = |daemon: &DaemonInstance| {
        map.and_then(LusMap::leader).is_some_and(|leader| leader.instance() == daemon.key())
    };
    let rows = daemons().map(|daemon| {
        let portals: Vec<String> = daemon.portals.iter().map(ToString::to_string).collect();
        vec![
            daemon.id.to_string(),
            daemon.state.to_string(),
            standing(daemon).to_owned(),
            units(daemon).to_string(),
            daemon.up_from.to_string(),
            daemon.portal_group_tag.to_string(),
            if portals.is_empty() { "-".to_owned() } else { portals.join(",") },
            daemon.version.clone(),
            daemon.hostname.clone(),
        ]
    });
    let json: Vec<_> = daemons()
        .map(|daemon| {
            json!({
                "id": daemon.id,
                "state": daemon.state.to_string(),
                "up_from": daemon.up_from,
                "down_at": daemon.state.down_at(),
                "portal_group_tag": daemon.portal_group_tag,
                "portals": daemon.portals,
                "version": daemon.version,
                "hostname": daemon.hostname,
                "in": !daemon.out,
                "weight": daemon.weight,
                "leaving": daemon.leaving,
                "leader": leads(daemon) && daemon.state.is_up(),
                "lus": units(daemon),
                "downs": daemon.downs,
            })
        })
        .collect();
    Reply::data(table(&COLUMNS, rows), json)
}
