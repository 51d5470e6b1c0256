//! `lus daemon ...`: the daemons as the map has them.

use clap::Subcommand;
use lus_map::LusMap;
use serde_json::json;

use crate::error::Result;
use crate::output::Reply;
use crate::session::Session;
use crate::table::{Align, Column, table};

const LS_EXAMPLES: &str = "\
UP_FROM is the epoch in which the running instance registered, TPGT its target portal group tag. A daemon that ended \
well is `retired`, one that was declared dead is `down`.";

/// `lus daemon`.
#[derive(Debug, Subcommand)]
pub(crate) enum DaemonCommand {
    /// List the daemons.
    #[command(after_long_help = LS_EXAMPLES)]
    Ls,
}

impl DaemonCommand {
    /// Runs the verb.
    pub(crate) async fn run(&self, session: &Session) -> Result<Reply> {
        match self {
            Self::Ls => Ok(reply(session.map_if_any().await?.as_deref())),
        }
    }
}

const COLUMNS: [Column; 7] = [
    ("ID", Align::Left),
    ("STATE", Align::Left),
    ("UP_FROM", Align::Right),
    ("TPGT", Align::Right),
    ("PORTALS", Align::Left),
    ("VERSION", Align::Left),
    ("HOST", Align::Left),
];

fn reply(map: Option<&LusMap>) -> Reply {
    let daemons = || map.into_iter().flat_map(LusMap::daemons);
    let rows = daemons().map(|daemon| {
        let portals: Vec<String> = daemon.portals.iter().map(ToString::to_string).collect();
        vec![
            daemon.id.to_string(),
            daemon.state.to_string(),
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
            })
        })
        .collect();
    Reply::data(table(&COLUMNS, rows), json)
}
