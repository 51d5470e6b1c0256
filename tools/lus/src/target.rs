//! `lus target ...`: the iSCSI names that hosts log in to.

use std::fmt::Write;

use clap::Subcommand;
use lus_map::{Iqn, LusMap, Subject, change};
use serde_json::{Value, json};

use crate::args::Really;
use crate::auth::{self, TargetAuth};
use crate::error::{Failure, Result};
use crate::lun::{lun_json, lun_rows};
use crate::output::{Reply, count};
use crate::session::Session;
use crate::table::{Align, Column, table};

const CREATE_EXAMPLES: &str = "\
Examples:
    lus target create iqn.2026-11.com.example:store
    lus target create iqn.2026-11.com.example:demo --open

An initiator is let in if `lus host add` names it. --open lets any initiator in, without authentication: for a \
demonstration, never for data.";

const RM_EXAMPLES: &str = "\
Examples:
    lus target rm iqn.2026-11.com.example:store

With --yes-i-really-mean-it the hosts and LUNs of the target go with it. Logical units stay.";

/// `lus target`.
#[derive(Debug, Subcommand)]
pub(crate) enum TargetCommand {
    /// Create a target.
    #[command(after_long_help = CREATE_EXAMPLES)]
    Create {
        /// Its iSCSI name, such as iqn.2026-11.com.example:store.
        #[arg(value_name = "IQN")]
        target: Iqn,
        /// Let any initiator in, without authentication.
        #[arg(long)]
        open: bool,
    },
    /// List the targets.
    Ls,
    /// Show a target with its portals, hosts and LUNs.
    Info {
        /// The target.
        #[arg(value_name = "IQN")]
        target: Iqn,
    },
    /// Remove a target.
    #[command(after_long_help = RM_EXAMPLES)]
    Rm {
        /// The target.
        #[arg(value_name = "IQN")]
        target: Iqn,
        #[command(flatten)]
        really: Really,
    },
    /// Say by which secret the hosts of a target are known.
    #[command(subcommand)]
    Auth(TargetAuth),
}

impl TargetCommand {
    /// Runs the verb.
    pub(crate) async fn run(&self, session: &Session) -> Result<Reply> {
        match self {
            Self::Create { target, open } => {
                let changed =
                    session.change(|map, origin| change::target::create(map, origin, target, *open)).await?;
                Ok(changed.granted())
            }
            Self::Ls => Ok(list(session.map_if_any().await?.as_deref())),
            Self::Info { target } => {
                let map = session.map_if_any().await?;
                info(map.as_deref(), target)
            }
            Self::Rm { target, really } => {
                let changed = session
                    .change(|map, origin| change::target::remove(map, origin, target, really.yes))
                    .await?;
                let gone = Subject::Target(target.clone());
                Ok(auth::forget(session, &gone, changed.revoked()).await)
            }
            Self::Auth(command) => command.run(session).await,
        }
    }
}

/// The failure for a target that is not there.
pub(crate) fn no_such_target(target: &Iqn) -> Failure {
    Failure::not_found(format!("no such target {target}"))
}

const COLUMNS: [Column; 4] =
    [("TARGET", Align::Left), ("ACCESS", Align::Left), ("HOSTS", Align::Right), ("LUNS", Align::Right)];

/// `open` or `hosts`.
fn access(open: bool) -> &'static str {
    if open { "open" } else { "hosts" }
}

fn list(map: Option<&LusMap>) -> Reply {
    let targets = || map.into_iter().flat_map(|map| map.targets().map(move |target| (map, target)));
    let rows = targets().map(|(map, target)| {
        vec![
            target.iqn.to_string(),
            access(target.open).to_owned(),
            map.hosts(&target.iqn).count().to_string(),
            map.luns(&target.iqn).count().to_string(),
        ]
    });
    let json: Vec<Value> = targets()
        .map(|(map, target)| {
            json!({
                "iqn": target.iqn,
                "open": target.open,
                "hosts": map.hosts(&target.iqn).count(),
                "luns": map.luns(&target.iqn).count(),
                "created": target.created,
            })
        })
        .collect();
    Reply::data(table(&COLUMNS, rows), json)
}

fn info(map: Option<&LusMap>, iqn: &Iqn) -> Result<Reply> {
    let found = map.and_then(|map| Some((map, map.target(iqn)?)));
    let (map, target) = found.ok_or_else(|| no_such_target(iqn))?;
    let up = || map.daemons().filter(|daemon| daemon.state.is_up());
    let hosts: Vec<&Iqn> = map.hosts(iqn).map(|host| &host.initiator).collect();
    let mut text = format!("target '{iqn}':\n");
    let _ = match target.open {
        true => writeln!(text, "    access:   open: any initiator, without authentication"),
        false => writeln!(text, "    access:   {}", count(hosts.len(), "host")),
    };
    let _ = writeln!(text, "    created:  {}", target.created);
    for daemon in up() {
        for portal in &daemon.portals {
            let _ = writeln!(text, "    portal:   {portal},{} (lus.{})", daemon.portal_group_tag, daemon.id);
        }
    }
    for host in &hosts {
        let _ = writeln!(text, "    host:     {host}");
    }
    text += &lun_rows(map, iqn);
    let portals: Vec<Value> = up()
        .map(|daemon| {
            json!({
                "daemon": daemon.id,
                "portal_group_tag": daemon.portal_group_tag,
                "portals": daemon.portals,
            })
        })
        .collect();
    let json = json!({
        "iqn": iqn,
        "open": target.open,
        "created": target.created,
        "portals": portals,
        "hosts": hosts,
        "luns": lun_json(map, iqn),
    });
    Ok(Reply::data(text, json))
}
