//! `lus lu move|pin|unpin`: which daemon is to own a unit. The daemons make it true.

use lus_map::{Backend, DaemonId, LuName, LusMap, change};

use crate::error::Result;
use crate::output::Reply;
use crate::session::{Changed, Session};

/// Has a unit handed over to a daemon.
///
/// # Errors
/// ENOENT; EHOSTDOWN for a daemon that may not have units; EBUSY for a unit that is pinned to another one.
pub(super) async fn move_to(session: &Session, name: &LuName, to: &DaemonId) -> Result<Reply> {
    let changed = session.change(|map, origin| change::lu::move_to(map, origin, name, to)).await?;
    Ok(match went(&changed, name) {
        true => begun(Reply::done(&changed.said), &changed.map, name),
        false => Reply::done(format!("logical unit '{name}' is already placed on lus.{to}")),
    })
}

/// Pins a unit to a daemon, or to its owner.
///
/// # Errors
/// ENOENT.
pub(super) async fn pin(session: &Session, name: &LuName, to: Option<&DaemonId>) -> Result<Reply> {
    let changed = session.change(|map, origin| change::lu::pin(map, origin, name, to)).await?;
    let reply = Reply::done(&changed.said);
    let placement = changed.map.lu_named(name).and_then(|lu| changed.map.placement(&lu.id));
    let there = placement.is_none_or(|placement| placement.pin.as_ref() == Some(&placement.owner));
    Ok(match (went(&changed, name), there) {
        (true, _) => begun(reply, &changed.map, name),
        (false, true) => reply,
        (false, false) => reply.note("it goes there when that daemon is up and in"),
    })
}

/// Takes a unit's pin away.
///
/// # Errors
/// ENOENT.
pub(super) async fn unpin(session: &Session, name: &LuName) -> Result<Reply> {
    Ok(session.change(|map, origin| change::lu::unpin(map, origin, name)).await?.granted())
}

/// Whether the change gave the unit another owner.
fn went(changed: &Changed, name: &LuName) -> bool {
    let placement = changed.map.lu_named(name).and_then(|lu| changed.map.placement(&lu.id));
    changed.made && placement.is_some_and(|placement| placement.since == changed.map.epoch())
}

/// The answer to what has begun and goes on.
fn begun(reply: Reply, map: &LusMap, name: &LuName) -> Reply {
    let reply = reply.note(format!("watch it with: lus lu info {name}; lus events"));
    match map.lu_named(name).map(|lu| &lu.backend) {
        Some(Backend::Ram { .. }) => reply.note("what was in the memory of its last owner is lost"),
        _ => reply,
    }
}
