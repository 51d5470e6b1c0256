//! `lus host ...`: which initiators may log in to a target.

use clap::Subcommand;
use lus_map::{Iqn, LusMap, Subject, change};
use serde_json::{Value, json};

use crate::args::Really;
use crate::auth::{self, HostAuth};
use crate::error::Result;
use crate::output::Reply;
use crate::session::Session;
use crate::table::{Align, Column, table};
use crate::target::no_such_target;

const ADD_EXAMPLES: &str = "\
Examples:
    lus host add iqn.2026-11.com.example:store iqn.1994-05.com.redhat:web1

Where a host finds its own name: Linux in /etc/iscsi/initiatorname.iscsi, Windows in `iscsicli` or the iSCSI Initiator's \
Configuration tab, ESXi in `esxcli iscsi adapter get`.";

const RM_EXAMPLES: &str = "\
Examples:
    lus host rm iqn.2026-11.com.example:store iqn.1994-05.com.redhat:web1

With --yes-i-really-mean-it the LUNs that were mapped for this host alone go with it. Its secrets go in any case.";

/// `lus host`.
#[derive(Debug, Subcommand)]
pub(crate) enum HostCommand {
    /// Let an initiator log in to a target.
    #[command(after_long_help = ADD_EXAMPLES)]
    Add {
        /// The target.
        #[arg(value_name = "IQN")]
        target: Iqn,
        /// The initiator's iSCSI name.
        #[arg(value_name = "INITIATOR_IQN")]
        initiator: Iqn,
    },
    /// Refuse an initiator that was let in.
    #[command(after_long_help = RM_EXAMPLES)]
    Rm {
        /// The target.
        #[arg(value_name = "IQN")]
        target: Iqn,
        /// The initiator's iSCSI name.
        #[arg(value_name = "INITIATOR_IQN")]
        initiator: Iqn,
        #[command(flatten)]
        really: Really,
    },
    /// List the initiators of a target.
    Ls {
        /// The target.
        #[arg(value_name = "IQN")]
        target: Iqn,
    },
    /// Say by which secret a host is known.
    #[command(subcommand)]
    Auth(HostAuth),
}

impl HostCommand {
    /// Runs the verb.
    pub(crate) async fn run(&self, session: &Session) -> Result<Reply> {
        match self {
            Self::Add { target, initiator } => {
                let changed =
                    session.change(|map, origin| change::host::add(map, origin, target, initiator)).await?;
                Ok(changed.granted())
            }
            Self::Rm { target, initiator, really } => {
                let changed = session
                    .change(|map, origin| change::host::remove(map, origin, target, initiator, really.yes))
                    .await?;
                let gone = Subject::Host(target.clone(), initiator.clone());
                Ok(auth::forget(session, &gone, changed.revoked()).await)
            }
            Self::Ls { target } => list(session.map_if_any().await?.as_deref(), target),
            Self::Auth(command) => command.run(session).await,
        }
    }
}

const COLUMNS: [Column; 3] = [("HOST", Align::Left), ("LUNS", Align::Right), ("CREATED", Align::Left)];

fn list(map: Option<&LusMap>, target: &Iqn) -> Result<Reply> {
    let map = map.filter(|map| map.target(target).is_some()).ok_or_else(|| no_such_target(target))?;
    let hosts = || map.hosts(target).map(|host| (host, map.view(target, &host.initiator).count()));
    let rows = hosts()
        .map(|(host, luns)| vec![host.initiator.to_string(), luns.to_string(), host.created.to_string()]);
    let json: Vec<Value> = hosts()
        .map(|(host, luns)| json!({"host": host.initiator, "luns": luns, "created": host.created}))
        .collect();
    Ok(Reply::data(table(&COLUMNS, rows), json))
}
