//! `lus lu access`.

use clap::ValueEnum;
use lus_map::{LuName, change};

use crate::error::Result;
use crate::output::Reply;
use crate::session::Session;

/// What hosts may do with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Access {
    /// Read.
    ReadOnly,
    /// Read and write.
    ReadWrite,
}

/// Has writes refused, or taken again.
///
/// # Errors
/// ENOENT.
pub(super) async fn set(session: &Session, name: &LuName, access: Access) -> Result<Reply> {
    let read_only = access == Access::ReadOnly;
    let changed =
        session.change(|map, origin| change::lu::set_read_only(map, origin, name, read_only)).await?;
    Ok(changed.granted())
}
