//! `lus dump`: the whole map, now or as it was.

use clap::Args;
use lus_map::Epoch;

use crate::error::Result;
use crate::output::Reply;
use crate::session::Session;

const EXAMPLES: &str = "\
Examples:
    lus dump                      the map as it is
    lus dump 41 -f json-pretty    as it was in epoch 41; the last 500 epochs are kept";

/// `lus dump [EPOCH]`.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct DumpArgs {
    /// Show the map as it was in this epoch.
    #[arg(value_name = "EPOCH", value_parser = epoch)]
    epoch: Option<Epoch>,
}

fn epoch(text: &str) -> std::result::Result<Epoch, String> {
    text.parse().map(Epoch).map_err(|_| format!("invalid epoch '{text}': a whole number is wanted"))
}

impl DumpArgs {
    /// Reads the map and shows it.
    pub(crate) async fn run(&self, session: &Session) -> Result<Reply> {
        let map = match self.epoch {
            None => session.map().await?,
            Some(epoch) => session.past(epoch).await?,
        };
        Ok(Reply::data(map.to_string(), &*map).note(format!("dumped lus map epoch {}", map.epoch())))
    }
}
