//! `lus lu takeover`: fences the client outside of LUS that holds a unit's lock, so that the unit's owner may break it.
//!
//! A daemon breaks a lock only if its holder is on the blocklist for good, and puts nobody there who is not of LUS: that a
//! client outside of LUS is to lose an image is for an administrator to say. All else is the owner's, which looks again
//! every few seconds.
//!
//! Invariants:
//! - A client of LUS is never fenced here. Who has the lock is listed before the map is read, and a daemon's client stands
//!   in the map before it opens an image.
//! - The entry on the blocklist is one for good, or the command fails.

use std::time::Duration;

use lus_map::{Backend, ClientAddr, LuName, LusMap, Timestamp, change};
use lusd_ceph::{Cluster, Errno};
use serde_json::Value;

use super::state::Lock;
use super::{image, no_such_lu};
use crate::error::{Failure, Result};
use crate::output::Reply;
use crate::session::Session;

/// How long the entry lives: what the daemons' own fences do by default (`lus_blocklist_expire`).
const EXPIRE: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Who is on the blocklist for longer than this was put there by LUS, and for good. Others use an hour.
const FOR_GOOD: Duration = Duration::from_secs(180 * 86_400);

/// Fences the foreign holder of a unit's lock.
///
/// # Errors
/// ENOENT; EINVAL for a unit without an image; EPERM without `really`, naming the holder; EBUSY if it is on the blocklist
/// already and not for good; what the monitors answer.
pub(super) async fn takeover(session: &Session, name: &LuName, really: bool) -> Result<Reply> {
    let map = session.map_if_any().await?;
    let lu = map.as_ref().and_then(|map| map.lu_named(name)).ok_or_else(|| no_such_lu(name))?;
    let Backend::Rbd { image: spec, image_id } = &lu.backend else {
        return Err(Failure::invalid(format!(
            "logical unit {name} has no image that somebody else could lock"
        )));
    };
    let pool = image::pool(&session.cluster, spec).await?;
    // In this order: see the invariants.
    let lockers = image::lockers(&pool, image_id).await?;
    let map = session.map().await?;
    let lu = map.lu_named(name).ok_or_else(|| no_such_lu(name))?;
    let record = session.record(&lu.id).await?;
    let locks: Vec<Lock> = lockers.iter().map(|locker| Lock::of(locker, &map, record.as_ref())).collect();
    let Some(holder) = locks.iter().find(|lock| lock.is_foreign()) else {
        return Ok(Reply::done(nothing_to_do(name, &locks)));
    };
    let addr = fenceable(holder, name)?;
    match until(&session.cluster, addr).await? {
        Some(until) if is_for_good(&until, session.now()) => {
            return Ok(
                Reply::done(format!("{} is already on the blocklist", label(holder))).note(next(&map, name))
            );
        }
        Some(until) => return Err(short_lived(holder, addr, name, &until)),
        None if !really => return Err(uncertain(holder, name)),
        None => fence(&session.cluster, addr).await?,
    }
    match until(&session.cluster, addr).await? {
        Some(until) if !is_for_good(&until, session.now()) => Err(short_lived(holder, addr, name, &until)),
        _ => {
            let reply =
                Reply::done(format!("{} is on the blocklist now", label(holder))).note(next(&map, name));
            Ok(match noted(session, holder, addr, name).await {
                Ok(()) => reply,
                Err(error) => reply.note(format!("lus events does not show it: {error}")),
            })
        }
    }
}

/// Has `lus events` show the fence.
async fn noted(session: &Session, holder: &Lock, addr: &ClientAddr, name: &LuName) -> Result<()> {
    let reason = format!("{}, not of LUS, had the lock of {name}: taken over", holder.client);
    session.change(|map, origin| change::fence::note(map, origin, addr, &reason)).await?;
    Ok(())
}

/// Whether a foreign client is on the blocklist for good; false where this client may not ask.
pub(super) async fn is_fenced(session: &Session, lock: &Lock) -> bool {
    let Some(addr) = &lock.addr else { return false };
    let until = until(&session.cluster, addr).await.unwrap_or_default();
    until.is_some_and(|until| is_for_good(&until, session.now()))
}

async fn fence(cluster: &Cluster, addr: &ClientAddr) -> Result<()> {
    let malformed = || Failure::new(Errno::EIO, format!("'{addr}' is no address of a RADOS client"));
    let client = addr.as_str().parse().map_err(|_| malformed())?;
    Ok(cluster.blocklist_add(&client, EXPIRE).await?)
}

/// When the entry of a client on the blocklist ends, as the monitors say it; none: it is not there.
async fn until(cluster: &Cluster, addr: &ClientAddr) -> Result<Option<String>> {
    let (reply, _) = cluster.mon_command(r#"{"prefix":"osd blocklist ls","format":"json"}"#).await?;
    listed_until(&reply, addr).map_err(|_| Failure::new(Errno::EIO, "malformed answer to 'osd blocklist ls'"))
}

fn listed_until(reply: &[u8], addr: &ClientAddr) -> serde_json::Result<Option<String>> {
    // Newer monitors send two arrays, one after the other: entries, and ranges of addresses.
    for array in serde_json::Deserializer::from_slice(reply).into_iter::<Vec<Value>>() {
        for entry in array? {
            let listed = entry["addr"].as_str().and_then(|addr| addr.parse::<ClientAddr>().ok());
            if listed.as_ref() == Some(addr) {
                return Ok(Some(entry["until"].as_str().unwrap_or_default().to_owned()));
            }
        }
    }
    Ok(None)
}

/// Whether an entry that ends then is one for good. Compared as text: some hours of another time zone are nothing to months.
fn is_for_good(until: &str, now: Timestamp) -> bool {
    let micros = u64::try_from(FOR_GOOD.as_micros()).unwrap_or(u64::MAX);
    until > Timestamp(now.0.saturating_add(micros)).to_string().as_str()
}

/// `client.4711 (192.0.2.9:0/17)`.
fn label(lock: &Lock) -> String {
    match &lock.addr {
        Some(addr) => format!("{} ({addr})", lock.client),
        None => lock.client.clone(),
    }
}

fn nothing_to_do(name: &LuName, locks: &[Lock]) -> String {
    match locks.first() {
        None => format!("logical unit '{name}' is locked by nobody: nothing to take over"),
        Some(lock) => format!(
            "logical unit '{name}' is locked by {lock}: nothing to take over from outside of LUS (to another daemon: lus lu move)"
        ),
    }
}

fn fenceable<'a>(holder: &'a Lock, name: &LuName) -> Result<&'a ClientAddr> {
    holder.addr.as_ref().ok_or_else(|| {
        Failure::new(
            Errno::EIO,
            format!("logical unit {name} is locked by {holder}, whose address is of no form that can be blocklisted"),
        )
    })
}

fn uncertain(holder: &Lock, name: &LuName) -> Failure {
    Failure::new(
        Errno::EPERM,
        format!(
            "WARNING: logical unit {name} is locked by {holder}. Taking it over blocklists that client for good: whatever it \
             has not written yet, to this image or any other, is lost, and it must be started anew. If you are *ABSOLUTELY \
             CERTAIN* that is what you want, pass --yes-i-really-mean-it."
        ),
    )
}

/// An entry that somebody made keeps its end, and what the client has in flight may land then.
fn short_lived(holder: &Lock, addr: &ClientAddr, name: &LuName, until: &str) -> Failure {
    Failure::new(
        Errno::EBUSY,
        format!(
            "{} was put on the blocklist by somebody else, until {until}, and that cannot be made longer. Make sure that this \
             client is gone, then run: ceph osd blocklist rm {addr} && lus lu takeover {name} --yes-i-really-mean-it",
            label(holder)
        ),
    )
}

/// Who goes on from here.
fn next(map: &LusMap, name: &LuName) -> String {
    let owner = map
        .lu_named(name)
        .and_then(|lu| map.placement(&lu.id))
        .map(|placement| &placement.owner)
        .filter(|owner| map.daemon(owner).is_some_and(|daemon| daemon.state.is_up()));
    match owner {
        Some(owner) => {
            format!(
                "lus.{owner} takes logical unit '{name}' within seconds; watch it with: lus lu info {name}"
            )
        }
        None => format!("the next daemon that owns logical unit '{name}' takes it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{empty, origin, with_daemon, with_lu};

    #[test]
    fn the_blocklist_is_read() {
        let reply = br#"[{"addr":"192.0.2.1:0/1","until":"2026-11-21T03:07:10.079378+0000"},
            {"addr":"192.0.2.1:0/2","until":"2036-11-21T03:07:10.079378+0200"},{"range":"10.0.0.0/8"}][]"#;
        let until = |n: u32| listed_until(reply, &format!("192.0.2.1:0/{n}").parse().unwrap()).unwrap();
        assert_eq!(until(3), None);
        let now = origin().when;
        assert!(!is_for_good(&until(1).unwrap(), now));
        assert!(is_for_good(&until(2).unwrap(), now));
        assert!(!is_for_good("", now), "an entry without an end in words is none for good");
        assert!(listed_until(b"{}", &"192.0.2.1:0/1".parse().unwrap()).is_err());
    }

    #[test]
    fn what_is_said() {
        let name: LuName = "rbd/1".parse().unwrap();
        let foreign = Lock { client: "client.9".into(), addr: "192.0.2.9:0/9".parse().ok(), daemon: None };
        let warning = uncertain(&foreign, &name).to_string();
        assert!(warning.starts_with(
            "Error EPERM: WARNING: logical unit rbd/1 is locked by FOREIGN client client.9 (192.0.2.9:0/9). Taking"
        ));
        let short = short_lived(&foreign, fenceable(&foreign, &name).unwrap(), &name, "soon").to_string();
        assert!(
            short.starts_with(
                "Error EBUSY: client.9 (192.0.2.9:0/9) was put on the blocklist by somebody else"
            )
        );
        assert!(short.contains("ceph osd blocklist rm 192.0.2.9:0/9 && lus lu takeover rbd/1 "), "{short}");
        let unknown = Lock { addr: None, ..foreign };
        assert_eq!(fenceable(&unknown, &name).unwrap_err().errno, Errno::EIO);
        assert_eq!(
            nothing_to_do(&name, &[]),
            "logical unit 'rbd/1' is locked by nobody: nothing to take over"
        );
        let ours = Lock { daemon: "a".parse().ok(), ..unknown };
        assert!(nothing_to_do(&name, &[ours]).contains("is locked by lus.a, client.9: nothing"));
        assert_eq!(
            next(&with_lu(&empty(), 1), &name),
            "the next daemon that owns logical unit 'rbd/1' takes it"
        );
        assert!(
            next(&with_lu(&with_daemon(&empty(), "a", 1), 1), &name).starts_with("lus.a takes logical unit")
        );
    }
}
