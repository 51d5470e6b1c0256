//! `lus lu move|pin|unpin`: which daemon is to own a unit. The daemons make it true.

use lus_map::{Backend, DaemonId, LuName, LusMap, change};
use lusd_ceph::Errno;

use crate::error::{Failure, Result};
use crate::output::Reply;
use crate::session::{Changed, Session};

/// Has a unit handed over to a daemon.
///
/// # Errors
/// ENOENT; EHOSTDOWN for a daemon that may not have units; EBUSY for a unit that is pinned to another one; EPERM for one that loses
/// its data, without `really`.
pub(super) async fn move_to(session: &Session, name: &LuName, to: &DaemonId, really: bool) -> Result<Reply> {
    may_lose(&*session.map_to_change().await?, name, to, really)?;
    let changed = session.change(|map, origin| change::lu::move_to(map, origin, name, to)).await?;
    Ok(match went(&changed, name) {
        true => begun(Reply::done(&changed.said), &changed.map, name),
        false => Reply::done(format!("logical unit '{name}' is already placed on lus.{to}")),
    })
}

/// Pins a unit to a daemon, or to its owner.
///
/// # Errors
/// ENOENT; EPERM for a unit that goes there at once and loses its data, without `really`.
pub(super) async fn pin(
    session: &Session,
    name: &LuName,
    to: Option<&DaemonId>,
    really: bool,
) -> Result<Reply> {
    if let Some(to) = to {
        may_lose(&*session.map_to_change().await?, name, to, really)?;
    }
    let changed = session.change(|map, origin| change::lu::pin(map, origin, name, to)).await?;
    let reply = Reply::done(&changed.said);
    let placement = changed.map.lu_named(name).and_then(|lu| changed.map.placement(&lu.id));
    let there = placement.is_none_or(|placement| placement.pin.as_ref() == Some(&placement.owner));
    Ok(match (went(&changed, name), there) {
        (true, _) => begun(reply, &changed.map, name),
        (false, true) => reply,
        (false, false) if is_volatile(&changed.map, name) => {
            reply.note("it stays where it is while its owner is up: its data is in the memory of that")
        }
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
    match is_volatile(map, name) {
        true => reply.note("what was in the memory of its last owner is lost"),
        false => reply,
    }
}

fn is_volatile(map: &LusMap, name: &LuName) -> bool {
    map.lu_named(name).is_some_and(|lu| matches!(lu.backend, Backend::Ram { .. }))
}

/// Whether a unit may go to a daemon though its data does not: not if its owner has it still.
fn may_lose(map: &LusMap, name: &LuName, to: &DaemonId, really: bool) -> Result<()> {
    let placement = map.lu_named(name).and_then(|lu| map.placement(&lu.id));
    let Some(owner) = placement.map(|placement| &placement.owner).filter(|owner| *owner != to) else {
        return Ok(());
    };
    let up = map.daemon(owner).is_some_and(|daemon| daemon.state.is_up());
    let goes = map.daemon(to).is_some_and(|daemon| daemon.takes_units());
    if really || !up || !goes || !is_volatile(map, name) {
        return Ok(());
    }
    Err(Failure::new(
        Errno::EPERM,
        format!(
            "WARNING: logical unit {name} keeps its data in the memory of lus.{owner}: all of it is lost when it goes to lus.{to}. \
             If you are *ABSOLUTELY CERTAIN* that is what you want, pass --yes-i-really-mean-it."
        ),
    ))
}

#[cfg(test)]
mod tests {
    use lus_map::Backend;
    use lus_map::change::lu::AddLu;

    use super::*;
    use crate::testing::{empty, lu_id, then, with_daemon};

    #[test]
    fn memory_goes_only_on_purpose() {
        let (ram, null): (LuName, LuName) = ("ram:m".parse().unwrap(), "null:n".parse().unwrap());
        let (a, b): (DaemonId, DaemonId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let map = with_daemon(&empty(), "a", 1);
        let backends = [
            Backend::Ram { name: "m".parse().unwrap(), size_bytes: 4096 },
            Backend::Null { name: "n".parse().unwrap(), size_bytes: 4096 },
        ];
        let map = backends.into_iter().zip(1..).fold(map, |map, (backend, n)| {
            let ask = AddLu::new(lu_id(n), backend);
            then(&map, |map, origin| change::lu::add(map, origin, &ask))
        });
        let alone = may_lose(&map, &ram, &b, false);
        assert!(alone.is_ok(), "nobody is there to take it: the map refuses, and says why");
        let map = with_daemon(&map, "b", 2);
        let refused = may_lose(&map, &ram, &b, false).unwrap_err().to_string();
        assert!(
            refused.starts_with(
                "Error EPERM: WARNING: logical unit ram:m keeps its data in the memory of lus.a: all of it is lost when it goes to lus.b. If"
            ),
            "{refused}"
        );
        assert!(may_lose(&map, &ram, &b, true).is_ok());
        assert!(may_lose(&map, &ram, &a, false).is_ok(), "it is there");
        assert!(may_lose(&map, &null, &b, false).is_ok(), "it has no data");
        let key = map.daemon(&a).unwrap().key();
        let ended = then(&map, |map, origin| change::daemon::retire(map, origin, (&key.id, key.up_from)));
        assert!(may_lose(&ended, &ram, &b, false).is_ok(), "it is lost already");
    }
}
