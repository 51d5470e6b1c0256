//! `lus lun ...`: the numbers under which the hosts of a target see logical units.

use clap::{Args, Subcommand};
use lus_map::change::lun::{MapLun, UnmapLun};
use lus_map::{Iqn, LuName, Lun, LunMapping, LusMap, change};
use serde_json::{Value, json};

use crate::error::Result;
use crate::output::Reply;
use crate::session::Session;
use crate::table::{Align, Column, table};
use crate::target::no_such_target;

const MAP_EXAMPLES: &str = "\
Examples:
    lus lun map iqn.2026-11.com.example:store rbd/web1
    lus lun map iqn.2026-11.com.example:store rbd/web2 --lun 7
    lus lun map iqn.2026-11.com.example:store rbd/web3 --host iqn.1994-05.com.redhat:web3

Without --lun it gets the lowest number that is free. Without --host every host of the target sees it; with --host that one \
alone.";

const UNMAP_EXAMPLES: &str = "\
Examples:
    lus lun unmap iqn.2026-11.com.example:store rbd/web1
    lus lun unmap iqn.2026-11.com.example:store rbd/web3 --host iqn.1994-05.com.redhat:web3

The hosts lose the disk at once: unmount it there first. The logical unit and its data stay.";

/// `lus lun`.
#[derive(Debug, Subcommand)]
pub(crate) enum LunCommand {
    /// Give a logical unit to the hosts of a target, or to one of them.
    #[command(after_long_help = MAP_EXAMPLES)]
    Map(Mapping),
    /// Take a logical unit away from the hosts of a target, or from one of them.
    #[command(after_long_help = UNMAP_EXAMPLES)]
    Unmap(Mapping),
    /// List the LUNs of a target.
    Ls {
        /// The target.
        #[arg(value_name = "IQN")]
        target: Iqn,
    },
}

/// What `map` and `unmap` name.
#[derive(Debug, Args)]
pub(crate) struct Mapping {
    /// The target.
    #[arg(value_name = "IQN")]
    target: Iqn,
    /// The logical unit.
    #[arg(value_name = "LU")]
    lu: LuName,
    /// Its number, 0 to 16383.
    #[arg(long, value_name = "N")]
    lun: Option<Lun>,
    /// The one host that is meant.
    #[arg(long, value_name = "INITIATOR_IQN")]
    host: Option<Iqn>,
}

impl LunCommand {
    /// Runs the verb.
    pub(crate) async fn run(&self, session: &Session) -> Result<Reply> {
        match self {
            Self::Map(Mapping { target, lu, lun, host }) => {
                let ask = MapLun { target: target.clone(), lu: lu.clone(), lun: *lun, host: host.clone() };
                Ok(session.change(|map, origin| change::lun::map(map, origin, &ask)).await?.granted())
            }
            Self::Unmap(Mapping { target, lu, lun, host }) => {
                let ask = UnmapLun { target: target.clone(), lu: lu.clone(), lun: *lun, host: host.clone() };
                Ok(session.change(|map, origin| change::lun::unmap(map, origin, &ask)).await?.revoked())
            }
            Self::Ls { target } => list(session.map_if_any().await?.as_deref(), target),
        }
    }
}

const COLUMNS: [Column; 3] = [("LUN", Align::Right), ("LU", Align::Left), ("HOST", Align::Left)];

fn list(map: Option<&LusMap>, target: &Iqn) -> Result<Reply> {
    let map = map.filter(|map| map.target(target).is_some()).ok_or_else(|| no_such_target(target))?;
    Ok(Reply::data(lun_rows(map, target), lun_json(map, target)))
}

/// What a person calls the unit of a mapping.
fn lu_name(map: &LusMap, mapping: &LunMapping) -> String {
    map.lu(&mapping.lu).map_or_else(|| mapping.lu.to_string(), |lu| lu.name().to_string())
}

/// The LUNs of a target as a table; `*` stands for every host.
pub(crate) fn lun_rows(map: &LusMap, target: &Iqn) -> String {
    let rows = map.luns(target).map(|mapping| {
        let host = mapping.host.as_ref().map_or("*", |host| host.as_str());
        vec![mapping.lun.to_string(), lu_name(map, mapping), host.to_owned()]
    });
    table(&COLUMNS, rows)
}

/// The same as `[{lun, lu, host}]`; `host` is null for every host.
pub(crate) fn lun_json(map: &LusMap, target: &Iqn) -> Value {
    map.luns(target)
        .map(|mapping| json!({"lun": mapping.lun, "lu": lu_name(map, mapping), "host": mapping.host}))
        .collect()
}
