//! What a unit's owner is doing, or waits for, in words: by the same rule as the daemon, from map, record and lock.

use std::time::Duration;

use lus_map::record::handover;
use lus_map::{DaemonInstance, Flag, Handover, Holder, Lu, LuRecord, LuState, LusMap};

use super::state::Lock;

/// What is to happen before the unit is served by its owner; none: it is.
///
/// `locks` are those of its image, none for a unit without one; `fenced`: whether the client of a foreign one is fenced.
pub(super) fn step(
    map: &LusMap,
    lu: &Lu,
    record: Option<&LuRecord>,
    locks: Option<&[Lock]>,
    fenced: bool,
) -> Option<String> {
    let Some(placement) = map.placement(&lu.id) else {
        return Some("no daemon is there to own it: the first one that is up and in does".to_owned());
    };
    let owner = &placement.owner;
    let Some(daemon) = map.daemon(owner).filter(|daemon| daemon.state.is_up()) else {
        return Some(without_owner(map, owner.as_str()));
    };
    if let Some(lock) = locks.into_iter().flatten().find(|lock| lock.is_foreign()) {
        return Some(match fenced {
            true => format!("lus.{owner} is to break the lock of {}, which is fenced", lock.client),
            false => format!("waits for {lock} to let go; to take it over: lus lu takeover {}", lu.name()),
        });
    }
    let new = LuRecord::new(lu.id);
    let record = record.unwrap_or(&new);
    let me = as_holder(daemon, record)?;
    match handover(record, map, &me, Duration::ZERO) {
        Handover::Claim => Some(format!("nobody holds it: lus.{owner} is to open it")),
        Handover::Ours => {
            let has_lock = |lock: &Lock| lock.addr.as_ref() == Some(&me.addr);
            match (&record.state, locks) {
                (LuState::Moving { to, .. }, _) => {
                    Some(format!("lus.{owner} keeps it: it was on its way to lus.{to}"))
                }
                (_, Some(locks)) if !locks.iter().any(has_lock) => {
                    Some(format!("lus.{owner} opens the image and takes its lock"))
                }
                _ => None,
            }
        }
        Handover::WaitForRelease { holder } => Some(match &record.state {
            LuState::Moving { .. } => {
                format!(
                    "lus.{} ends what is in flight, then lets go; lus.{owner} takes it then",
                    holder.daemon
                )
            }
            _ => format!("lus.{} is to hand it over to lus.{owner}", holder.daemon),
        }),
        Handover::FenceAndTake { holder } => Some(match map.fenced_at(&holder.addr) {
            Some(epoch) => {
                format!("lus.{owner} takes it over from {holder}, which is fenced since OSD epoch {epoch}")
            }
            None => format!("lus.{owner} fences {holder}, then takes it over"),
        }),
    }
}

/// What is to happen to a unit whose owner is not up.
fn without_owner(map: &LusMap, owner: &str) -> String {
    let takers = map.daemons().any(DaemonInstance::takes_units);
    match (map.is_set(Flag::NoFailover), takers) {
        (true, _) => format!("flag nofailover is set: it waits for the next start of lus.{owner}"),
        (false, true) => "the leader is to give it another owner".to_owned(),
        (false, false) => "it waits for a daemon that is up and in".to_owned(),
    }
}

/// The owner as it would hold the unit: through the client on record, if that is one of its own, or else through any.
fn as_holder(daemon: &DaemonInstance, record: &LuRecord) -> Option<Holder> {
    let recorded = record.state.holder().map(|holder| &holder.addr);
    let own = || daemon.data_addrs.iter().chain(&daemon.control_addr);
    let addr = own().find(|addr| Some(*addr) == recorded).or_else(|| own().next())?.clone();
    Some(Holder { daemon: daemon.id.clone(), up_from: daemon.up_from, addr })
}

#[cfg(test)]
mod tests {
    use lus_map::change;

    use super::*;
    use crate::testing::{empty, lu_id, then, with_daemon, with_lu};

    /// A unit on `a`, whose client is 192.0.2.1:0/1; `b` is there too.
    fn map() -> LusMap {
        with_daemon(&with_daemon(&with_lu(&empty(), 1), "a", 1), "b", 2)
    }

    fn moved(map: &LusMap, to: &str) -> LusMap {
        let (name, to) = (map.lu(&lu_id(1)).unwrap().name(), to.parse().unwrap());
        then(map, |map, origin| change::lu::move_to(map, origin, &name, &to))
    }

    fn down(map: &LusMap, id: &str) -> LusMap {
        let id = id.parse().unwrap();
        let up_from = map.daemon(&id).unwrap().up_from;
        then(map, |map, origin| change::daemon::mark_down(map, origin, (&id, up_from), "test"))
    }

    fn holder(map: &LusMap, id: &str, nonce: u32) -> Holder {
        let daemon = map.daemon(&id.parse().unwrap()).unwrap();
        let addr = format!("192.0.2.1:0/{nonce}").parse().unwrap();
        Holder { daemon: daemon.id.clone(), up_from: daemon.up_from, addr }
    }

    fn lock(nonce: u32, daemon: Option<&str>) -> Lock {
        Lock {
            client: "client.5".into(),
            addr: format!("192.0.2.1:0/{nonce}").parse().ok(),
            daemon: daemon.map(|id| id.parse().unwrap()),
        }
    }

    fn words(map: &LusMap, record: Option<&LuRecord>, locks: &[Lock]) -> String {
        let lu = map.lu(&lu_id(1)).unwrap();
        step(map, lu, record, Some(locks), false).unwrap_or_else(|| "-".to_owned())
    }

    #[test]
    fn while_it_stays() {
        let map = map();
        let a = holder(&map, "a", 1);
        let serving = LuRecord::new(lu_id(1)).claim(&a).unwrap();
        assert_eq!(words(&map, None, &[]), "nobody holds it: lus.a is to open it");
        assert_eq!(words(&map, Some(&serving), &[]), "lus.a opens the image and takes its lock");
        assert_eq!(words(&map, Some(&serving), &[lock(1, Some("a"))]), "-");
        let lu = map.lu(&lu_id(1)).unwrap();
        assert_eq!(step(&map, lu, Some(&serving), None, false), None, "a unit without an image has no lock");
        let lost = serving.lose(&a).unwrap();
        assert_eq!(
            words(&map, Some(&lost), &[]),
            "lus.a fences lus.a up_from 3 (192.0.2.1:0/1), then takes it over"
        );
    }

    #[test]
    fn during_a_move() {
        let before = map();
        let map = moved(&before, "b");
        let a = holder(&map, "a", 1);
        let serving = LuRecord::new(lu_id(1)).claim(&a).unwrap();
        let moving = serving.begin_move(&"b".parse().unwrap()).unwrap();
        let released = moving.release(&a).unwrap();
        let held = [lock(1, Some("a"))];
        assert_eq!(words(&map, Some(&serving), &held), "lus.a is to hand it over to lus.b");
        assert_eq!(
            words(&map, Some(&moving), &held),
            "lus.a ends what is in flight, then lets go; lus.b takes it then"
        );
        assert_eq!(words(&map, Some(&released), &[]), "nobody holds it: lus.b is to open it");
        assert_eq!(words(&before, Some(&moving), &held), "lus.a keeps it: it was on its way to lus.b");
        let by_b = released.claim(&holder(&map, "b", 2)).unwrap();
        assert_eq!(words(&map, Some(&by_b), &held), "lus.b opens the image and takes its lock");
        assert_eq!(words(&map, Some(&by_b), &[lock(2, Some("b"))]), "-");
    }

    #[test]
    fn during_a_takeover() {
        let map = down(&moved(&map(), "b"), "a");
        let serving = LuRecord::new(lu_id(1)).claim(&holder(&map, "a", 1)).unwrap();
        let held = [lock(1, Some("a"))];
        assert_eq!(
            words(&map, Some(&serving), &held),
            "lus.b fences lus.a up_from 3 (192.0.2.1:0/1), then takes it over"
        );
        let gone = ["192.0.2.1:0/1".parse().unwrap()];
        let fenced = then(&map, |map, origin| change::daemon::fenced(map, origin, &gone, 77));
        assert_eq!(
            words(&fenced, Some(&serving), &held),
            "lus.b takes it over from lus.a up_from 3 (192.0.2.1:0/1), which is fenced since OSD epoch 77"
        );
    }

    #[test]
    fn without_an_owner() {
        assert_eq!(
            words(&with_lu(&empty(), 1), None, &[]),
            "no daemon is there to own it: the first one that is up and in does"
        );
        let map = down(&map(), "a");
        assert_eq!(words(&map, None, &[]), "the leader is to give it another owner");
        assert_eq!(words(&down(&map, "b"), None, &[]), "it waits for a daemon that is up and in");
        let map = then(&map, |map, origin| change::flags::set(map, origin, Flag::NoFailover));
        assert_eq!(words(&map, None, &[]), "flag nofailover is set: it waits for the next start of lus.a");
    }

    #[test]
    fn behind_a_foreign_client() {
        let map = map();
        let foreign = [lock(9, None)];
        assert_eq!(
            words(&map, None, &foreign),
            "waits for FOREIGN client client.5 (192.0.2.1:0/9) to let go; to take it over: lus lu takeover rbd/1"
        );
        let lu = map.lu(&lu_id(1)).unwrap();
        assert_eq!(
            step(&map, lu, None, Some(&foreign), true).unwrap(),
            "lus.a is to break the lock of client.5, which is fenced"
        );
    }
}
