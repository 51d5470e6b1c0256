//! `lus set` and `lus unset`: the flags of the map.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use lus_map::{Flag, change};

use crate::error::Result;
use crate::output::Reply;
use crate::session::Session;

/// `lus set FLAG`.
#[derive(Debug, Args)]
#[command(after_long_help = set_examples())]
pub(crate) struct SetArgs {
    /// What to keep from happening.
    #[arg(value_name = "FLAG", value_parser = flag())]
    flag: Flag,
}

/// `lus unset FLAG`.
#[derive(Debug, Args)]
pub(crate) struct UnsetArgs {
    /// What may happen by itself again.
    #[arg(value_name = "FLAG", value_parser = flag())]
    flag: Flag,
}

fn flag() -> impl TypedValueParser<Value = Flag> {
    PossibleValuesParser::new(Flag::ALL.map(Flag::as_str))
        .map(|name| name.parse().expect("only names of flags get here"))
}

fn set_examples() -> String {
    let examples = "Examples:\n    lus set nomove\n    lus unset nomove\n\nThe flags:\n\n".to_owned();
    let flags = Flag::ALL.map(|flag| format!("    {:<12}{}\n", flag.as_str(), flag.help()));
    let end = "\nWhile one is set the health says so (LUS_FLAG_SET).";
    examples + &flags.concat() + end
}

impl SetArgs {
    /// Sets the flag.
    pub(crate) async fn run(&self, session: &Session) -> Result<Reply> {
        Ok(session.change(|map, origin| change::flags::set(map, origin, self.flag)).await?.granted())
    }
}

impl UnsetArgs {
    /// Unsets the flag.
    pub(crate) async fn run(&self, session: &Session) -> Result<Reply> {
        Ok(session.change(|map, origin| change::flags::unset(map, origin, self.flag)).await?.granted())
    }
}
