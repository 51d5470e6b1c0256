//! Random histories: every change keeps the invariants; replay gives the map; the way back gives the past.

use std::sync::Arc;

use lus_map::change::daemon::{self, Register};
use lus_map::change::lu::{self, AddLu};
use lus_map::change::lun::{self, MapLun, UnmapLun};
use lus_map::change::{self, Change, Refusal, flags, host, leader, placement, target};
use lus_map::events::events;
use lus_map::health::health;
use lus_map::{
    ApplyError, Backend, BlockSize, ClientAddr, DaemonId, Epoch, Flag, ImageSpec, Increment, InstanceKey,
    Iqn, Key, LuId, LuName, Lun, LusMap, Origin, PlacementReason, Timestamp, Verdict,
};
use proptest::prelude::*;
use uuid::Uuid;

/// What somebody wants; few names, so that they meet.
#[derive(Debug, Clone)]
enum Intent {
    CreateTarget(u8, bool),
    RemoveTarget(u8, bool),
    AddHost(u8, u8),
    RemoveHost(u8, u8, bool),
    AddLu {
        name: u8,
        image: u8,
        wwn: bool,
        block: bool,
    },
    RemoveLu(u8, bool),
    Resize(u8, u16),
    Access(u8, bool),
    Map {
        target: u8,
        lu: u8,
        lun: Option<u8>,
        host: Option<u8>,
    },
    Unmap {
        target: u8,
        lu: u8,
        host: Option<u8>,
    },
    Register {
        id: u8,
        nonce: u16,
        data: u8,
    },
    Opens {
        id: u8,
        back: u8,
        nonce: u16,
    },
    Closed {
        id: u8,
        which: u8,
    },
    Retire(u8, u8),
    Take(u8, u8),
    Resign(u8),
    /// Of the daemons whose bits are set, by the leader of the term, or of one some terms ago.
    Verdicts {
        who: u8,
        stale: u8,
    },
    Failover {
        stale: u8,
    },
    Rebalance {
        stale: u8,
    },
    In(u8),
    Out(u8),
    Drain(u8),
    Leave(u8, u8),
    Forget(u8, bool),
    Move {
        lu: u8,
        to: u8,
    },
    Pin {
        lu: u8,
        to: Option<u8>,
    },
    Unpin(u8),
    Flag(u8, bool),
    Fenced {
        id: u8,
        count: u8,
    },
    Place,
}

fn intent() -> impl Strategy<Value = Intent> {
    use Intent::*;
    let (small, tiny) = (0u8..6, 0u8..3);
    let stale = prop_oneof![4 => Just(0u8), 1 => Just(1u8)];
    prop_oneof![
        3 => (tiny.clone(), any::<bool>()).prop_map(|(t, open)| CreateTarget(t, open)),
        1 => (tiny.clone(), any::<bool>()).prop_map(|(t, force)| RemoveTarget(t, force)),
        4 => (tiny.clone(), small.clone()).prop_map(|(t, h)| AddHost(t, h)),
        1 => (tiny.clone(), small.clone(), any::<bool>()).prop_map(|(t, h, force)| RemoveHost(t, h, force)),
        10 => (0u8..12, 0u8..10, prop::bool::weighted(0.1), any::<bool>())
            .prop_map(|(name, image, wwn, block)| AddLu { name, image, wwn, block }),
        1 => (0u8..12, any::<bool>()).prop_map(|(name, force)| RemoveLu(name, force)),
        1 => (0u8..12, any::<u16>()).prop_map(|(name, size)| Resize(name, size)),
        1 => (0u8..12, any::<bool>()).prop_map(|(name, read_only)| Access(name, read_only)),
        8 => (tiny.clone(), 0u8..12, proptest::option::of(small.clone()), proptest::option::of(small.clone()))
            .prop_map(|(target, lu, lun, host)| Map { target, lu, lun, host }),
        2 => (tiny.clone(), 0u8..12, proptest::option::of(small.clone()))
            .prop_map(|(target, lu, host)| Unmap { target, lu, host }),
        8 => (tiny.clone(), any::<u16>(), 0u8..3).prop_map(|(id, nonce, data)| Register { id, nonce, data }),
        2 => (tiny.clone(), 0u8..2, any::<u16>()).prop_map(|(id, back, nonce)| Opens { id, back, nonce }),
        1 => (tiny.clone(), any::<u8>()).prop_map(|(id, which)| Closed { id, which }),
        3 => (tiny.clone(), 0u8..2).prop_map(|(id, back)| Retire(id, back)),
        4 => (tiny.clone(), 0u8..2).prop_map(|(id, back)| Take(id, back)),
        1 => tiny.clone().prop_map(Resign),
        8 => (1u8..8, stale.clone()).prop_map(|(who, stale)| Verdicts { who, stale }),
        8 => stale.clone().prop_map(|stale| Failover { stale }),
        6 => stale.prop_map(|stale| Rebalance { stale }),
        2 => tiny.clone().prop_map(In),
        1 => tiny.clone().prop_map(Out),
        1 => tiny.clone().prop_map(Drain),
        1 => (tiny.clone(), 0u8..2).prop_map(|(id, back)| Leave(id, back)),
        1 => (tiny.clone(), any::<bool>()).prop_map(|(id, force)| Forget(id, force)),
        3 => (0u8..12, tiny.clone()).prop_map(|(lu, to)| Move { lu, to }),
        2 => (0u8..12, proptest::option::of(tiny.clone())).prop_map(|(lu, to)| Pin { lu, to }),
        1 => (0u8..12).prop_map(Unpin),
        1 => (tiny.clone(), any::<bool>()).prop_map(|(flag, set)| Flag(flag, set)),
        2 => (tiny, any::<u8>()).prop_map(|(id, count)| Fenced { id, count }),
        1 => Just(Place),
    ]
}

fn target_name(n: u8) -> Iqn {
    format!("iqn.2026-11.io.lus:t{n}").parse().unwrap()
}

fn host_name(n: u8) -> Iqn {
    format!("iqn.1993-08.org.debian:01:h{n}").parse().unwrap()
}

/// The first eight are images, the others volatile.
fn lu_name(n: u8) -> LuName {
    let text = if n < 8 { format!("rbd/image{n}") } else { format!("ram:r{n}") };
    text.parse().unwrap()
}

fn daemon_id(n: u8) -> DaemonId {
    format!("d{n}").parse().unwrap()
}

fn addr(nonce: u16) -> ClientAddr {
    format!("127.0.0.1:0/{nonce}").parse().unwrap()
}

fn origin(epoch: Epoch) -> Origin {
    Origin::new(Uuid::from_u128(epoch.0.into()), Timestamp(20_000_000 * epoch.0), "client.test")
}

/// The start of a daemon, or one that has not been or is over.
fn start(map: &LusMap, id: &DaemonId, back: u8) -> Epoch {
    map.daemon(id).map_or(Epoch(1), |daemon| Epoch(daemon.up_from.0.saturating_sub(back.into())))
}

fn instance(map: &LusMap, id: u8, back: u8) -> InstanceKey {
    let id = daemon_id(id);
    InstanceKey { up_from: start(map, &id, back), id }
}

/// The origin of the leader of the map's term, or of one some terms ago.
fn led(map: &LusMap, origin: &Origin, stale: u8) -> Origin {
    origin.clone().leading(map.meta().leader_term.saturating_sub(stale.into()))
}

fn ask(map: &LusMap, intent: &Intent) -> Result<Change, Refusal> {
    let o = &origin(map.epoch().next());
    match *intent {
        Intent::CreateTarget(t, open) => target::create(map, o, &target_name(t), open),
        Intent::RemoveTarget(t, force) => target::remove(map, o, &target_name(t), force),
        Intent::AddHost(t, h) => host::add(map, o, &target_name(t), &host_name(h)),
        Intent::RemoveHost(t, h, force) => host::remove(map, o, &target_name(t), &host_name(h), force),
        Intent::AddLu { name, image, wwn, block } => {
            let backend = match lu_name(name) {
                LuName::Rbd(spec) => Backend::Rbd { image: spec, image_id: format!("id{image}") },
                LuName::Ram(name) => Backend::Ram { name, size_bytes: 4096 * (u64::from(image) + 1) },
                LuName::Null(name) => Backend::Null { name, size_bytes: 4096 },
            };
            let mut ask = AddLu::new(LuId(Uuid::from_u128(u128::from(o.when.0))), backend);
            ask.wwn = wwn.then(|| "5000000000000001".parse().unwrap());
            ask.block_size = if block { BlockSize::B4096 } else { BlockSize::B512 };
            lu::add(map, o, &ask)
        }
        Intent::RemoveLu(name, force) => lu::remove(map, o, &lu_name(name), force),
        Intent::Resize(name, size) => lu::resize_volatile(map, o, &lu_name(name), u64::from(size) * 512),
        Intent::Access(name, read_only) => lu::set_read_only(map, o, &lu_name(name), read_only),
        Intent::Map { target, lu, lun, host } => {
            let lun = lun.and_then(|lun| Lun::new(lun.into()));
            let host = host.map(host_name);
            lun::map(map, o, &MapLun { target: target_name(target), lu: lu_name(lu), lun, host })
        }
        Intent::Unmap { target, lu, host } => {
            let host = host.map(host_name);
            lun::unmap(map, o, &UnmapLun { target: target_name(target), lu: lu_name(lu), lun: None, host })
        }
        Intent::Register { id, nonce, data } => {
            let ask = Register {
                id: daemon_id(id),
                portals: vec![([127, 0, 0, 1], 3260 + u16::from(id)).into()],
                hostname: "host".to_owned(),
                version: "0.1.0".to_owned(),
                control_addr: addr(nonce),
                data_addrs: (1..=data).map(|n| addr(nonce.wrapping_add(n.into()))).collect(),
            };
            daemon::register(map, o, &ask)
        }
        Intent::Opens { id, back, nonce } => {
            let id = daemon_id(id);
            daemon::add_data_addrs(map, o, (&id, start(map, &id, back)), &[addr(nonce)])
        }
        Intent::Closed { id, which } => {
            let id = daemon_id(id);
            let addrs: Vec<ClientAddr> = map.daemon(&id).map(|d| d.data_addrs.clone()).unwrap_or_default();
            let picked = addrs.get(usize::from(which) % addrs.len().max(1)).cloned();
            daemon::remove_data_addrs(map, o, (&id, start(map, &id, 0)), picked.as_slice())
        }
        Intent::Retire(id, back) => {
            let id = daemon_id(id);
            daemon::retire(map, o, (&id, start(map, &id, back)))
        }
        Intent::Take(id, back) => leader::take(map, o, &instance(map, id, back)),
        Intent::Resign(id) => leader::resign(map, o, &instance(map, id, 0)),
        Intent::Verdicts { who, stale } => {
            let verdicts = (0..3).filter(|n| who & 1 << n != 0).map(|n| {
                let InstanceKey { id, up_from } = instance(map, n, 0);
                Verdict { daemon: id, up_from, reason: "test".to_owned() }
            });
            daemon::declare_down(map, &led(map, o, stale), &verdicts.collect::<Vec<_>>())
        }
        Intent::Failover { stale } => placement::failover(map, &led(map, o, stale)),
        Intent::Rebalance { stale } => placement::rebalance(map, &led(map, o, stale)),
        Intent::In(id) => daemon::set_in(map, o, &daemon_id(id)),
        Intent::Out(id) => daemon::set_out(map, o, &daemon_id(id)),
        Intent::Drain(id) => daemon::drain(map, o, &daemon_id(id)),
        Intent::Leave(id, back) => {
            let id = daemon_id(id);
            daemon::leave(map, o, (&id, start(map, &id, back)))
        }
        Intent::Forget(id, force) => daemon::rm(map, o, &daemon_id(id), force),
        Intent::Move { lu, to } => lu::move_to(map, o, &lu_name(lu), &daemon_id(to)),
        Intent::Pin { lu, to } => lu::pin(map, o, &lu_name(lu), to.map(daemon_id).as_ref()),
        Intent::Unpin(lu) => lu::unpin(map, o, &lu_name(lu)),
        Intent::Flag(flag, set) => {
            let flag = Flag::ALL[usize::from(flag)];
            if set { flags::set(map, o, flag) } else { flags::unset(map, o, flag) }
        }
        Intent::Fenced { id, count } => {
            let unfenced = map.daemon(&daemon_id(id)).map(|d| d.unfenced().cloned().collect::<Vec<_>>());
            let addrs: Vec<ClientAddr> =
                unfenced.unwrap_or_default().into_iter().take(count.into()).collect();
            daemon::fenced(map, o, &addrs, 1 + u64::from(count))
        }
        Intent::Place => placement::place_unplaced(map, o),
    }
}

fn first() -> (LusMap, Increment) {
    let increment = change::create(Uuid::from_u128(1), &origin(Epoch(1)));
    (LusMap::create(&increment).unwrap(), increment)
}

/// Every client that was ever on record is on record still, fenced, or gone by a clean end of its own.
fn nothing_is_forgotten(old: &LusMap, new: &LusMap, intent: &Intent) -> Result<(), TestCaseError> {
    let unfenced =
        |map: &LusMap| -> Vec<ClientAddr> { map.daemons().flat_map(|d| d.unfenced().cloned()).collect() };
    let kept = unfenced(new);
    for gone in unfenced(old).into_iter().filter(|addr| !kept.contains(addr)) {
        let clean = matches!(intent, Intent::Retire(..) | Intent::Closed { .. } | Intent::Forget(_, true));
        let fenced = new.daemons().any(|d| d.fenced.iter().any(|fenced| fenced.addr == gone));
        prop_assert!(clean || fenced, "{gone} is forgotten");
    }
    Ok(())
}

/// Terms rise with each leader and never fall; what is the leader's only he does, and not one of an older term.
fn only_leaders_lead(old: &LusMap, new: &LusMap, increment: &Increment) -> Result<(), TestCaseError> {
    let (before, after) = (old.meta().leader_term, new.meta().leader_term);
    let another = new.leader().is_some_and(|leader| old.leader() != Some(leader));
    prop_assert_eq!(another, after == before + 1);
    prop_assert!(another || after == before);
    if let Some(term) = increment.origin.leader_term.filter(|_| !another) {
        prop_assert_eq!((term, old.leader().map(|leader| leader.term)), (before, Some(before)));
        if before > 0 {
            let mut late = increment.clone();
            late.origin.leader_term = Some(before - 1);
            let refused = matches!(old.apply(&late), Err(ApplyError::LowerTerm { .. }));
            prop_assert!(refused, "{:?}", late);
        }
    }
    let mut anybody = increment.clone();
    anybody.origin.leader_term = None;
    let down = new.daemons().any(|daemon| {
        let was_up = old.instance(&daemon.id, daemon.up_from).is_some_and(|daemon| daemon.state.is_up());
        was_up && matches!(daemon.state, lus_map::InstanceState::Down { .. })
    });
    let by_itself = new.placements().any(|placement| {
        let moved = old.placement(&placement.lu).is_some_and(|old| old.owner != placement.owner);
        moved && matches!(placement.reason, PlacementReason::Failover | PlacementReason::Rebalanced)
    });
    let refused = matches!(old.apply(&anybody), Err(ApplyError::LeaderOnly { .. }));
    prop_assert_eq!(refused, down || by_itself);
    Ok(())
}

/// A unit has one owner, and another one only by what moves units; that one may have units, and is the pin if that may.
fn moved_for_a_reason(old: &LusMap, new: &LusMap, intent: &Intent) -> Result<(), TestCaseError> {
    let keys: Vec<Key> = new.raw_entries().map(|(key, _)| key).collect();
    let placed = keys.iter().filter(|key| matches!(key, Key::Place(_))).count();
    prop_assert_eq!(placed, new.placements().count());
    for placement in new.placements() {
        let Some(before) = old.placement(&placement.lu).filter(|old| old.owner != placement.owner) else {
            continue;
        };
        let owner = new.daemon(&placement.owner).unwrap();
        prop_assert!(owner.takes_units(), "{placement:?}");
        prop_assert_eq!((placement.since, placement.moved), (new.epoch(), new.modified()));
        if let Some(pin) = placement.pin.as_ref().and_then(|pin| new.daemon(pin)) {
            prop_assert!(*pin == *owner || !pin.takes_units(), "{placement:?}");
        }
        let up = old.daemon(&before.owner).is_some_and(|daemon| daemon.state.is_up());
        match intent {
            Intent::Verdicts { .. } => prop_assert!(up && !old.is_set(Flag::NoFailover)),
            Intent::Failover { .. } => prop_assert!(!up && !old.is_set(Flag::NoFailover)),
            Intent::Rebalance { .. } => prop_assert!(up && !old.is_set(Flag::NoMove)),
            Intent::Drain(id) | Intent::Leave(id, _) | Intent::Forget(id, _) => {
                prop_assert_eq!(&before.owner, &daemon_id(*id));
            }
            Intent::Move { to, .. } => prop_assert_eq!(&placement.owner, &daemon_id(*to)),
            Intent::Pin { to, .. } => prop_assert_eq!(Some(placement.owner.clone()), to.map(daemon_id)),
            other => prop_assert!(false, "{other:?} moved a unit"),
        }
    }
    // Whoever is down has none left, if anybody could have them.
    if matches!(intent, Intent::Verdicts { .. } | Intent::Failover { .. }) {
        let left = new.placements().filter(|p| new.daemon(&p.owner).is_some_and(|d| !d.state.is_up()));
        let judged = |owner: &DaemonId| old.daemon(owner).is_some_and(|daemon| daemon.state.is_up());
        let left = left.filter(|p| matches!(intent, Intent::Failover { .. }) || judged(&p.owner)).count();
        prop_assert!(left == 0 || !new.daemons().any(|daemon| daemon.takes_units()));
    }
    let ups = |map: &LusMap| map.daemons().filter(|daemon| daemon.state.is_up()).count();
    prop_assert!(ups(new) > 0 || !matches!(intent, Intent::Verdicts { .. }), "the last one was judged");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_histories(intents in proptest::collection::vec(intent(), 1..160)) {
        let (mut map, created) = first();
        let mut increments = vec![created];
        let mut maps = vec![map.clone()];
        for intent in &intents {
            let change = ask(&map, intent);
            // Pure: the same question has the same answer.
            prop_assert_eq!(&change, &ask(&map, intent));
            let Ok(Change::Make { increment, .. }) = change else { continue };
            let next = map.apply(&increment).unwrap();
            prop_assert_eq!(next.check(), Ok(()));
            nothing_is_forgotten(&map, &next, intent)?;
            only_leaders_lead(&map, &next, &increment)?;
            moved_for_a_reason(&map, &next, intent)?;
            // What is done is done: the same intent has nothing more to do, or is refused.
            let again = ask(&next, intent);
            if let Ok(Change::Make { increment, .. }) = &again {
                use Intent::{Closed, Fenced, Rebalance, Take};
                // The time of the next epoch lets more be moved.
                let more = matches!(intent, Fenced { .. } | Closed { .. } | Take(..) | Rebalance { .. });
                prop_assert!(more, "{increment:?}");
            }
            // Twice, on a wrong map, or with other bytes it does not apply.
            prop_assert!(next.apply(&increment).is_err());
            let tables = (map.diff(&next), next.diff(&map));
            prop_assert_eq!(tables.0.lus.added.len(), tables.1.lus.removed.len());
            prop_assert_eq!(tables.0.is_empty(), false);
            increments.push(increment);
            maps.push(next.clone());
            map = next;
        }

        // Replay, over the stored form.
        let stored: Vec<Vec<u8>> = increments.iter().map(Increment::encode).collect();
        let mut replayed: Option<LusMap> = None;
        for (n, raw) in stored.iter().enumerate() {
            let increment = Increment::decode(Epoch(n as u64 + 1), raw).unwrap();
            prop_assert_eq!(increment.encode(), raw.clone());
            replayed = Some(match replayed {
                None => LusMap::create(&increment).unwrap(),
                Some(map) => map.apply(&increment).unwrap(),
            });
        }
        prop_assert_eq!(replayed.as_ref(), Some(&map));

        // What happened is told, and how it is.
        let told = events(&increments).unwrap();
        prop_assert!(told.is_sorted_by_key(|event| event.epoch));
        let leaders = told.iter().filter(|event| event.reason.starts_with("leads, ")).count();
        prop_assert_eq!(leaders as u64, map.meta().leader_term);
        health(&map, map.lus().map(|lu| (lu.id, None)), map.modified());

        // Read whole.
        let entries: Vec<(String, &[u8])> = map.raw_entries().map(|(key, raw)| (key.to_string(), raw)).collect();
        let whole = LusMap::decode(map.epoch(), map.modified(), entries.iter().map(|(k, raw)| (k.as_str(), *raw)));
        let whole = whole.unwrap();
        prop_assert_eq!(&whole, &map);
        prop_assert!(whole.diff(&map).is_empty());

        // The way back.
        let mut past = map.clone();
        for n in (1..increments.len()).rev() {
            past = past.take_back(&increments[n], increments[n - 1].origin.when).unwrap();
            prop_assert_eq!(&past, &maps[n - 1]);
        }

        // The difference over any distance patches the old units into the new ones.
        let (old, new) = (Arc::new(maps[maps.len() / 2].clone()), &map);
        let diff = old.diff(new);
        let mut ids: Vec<LuId> = old.lus().map(|lu| lu.id).collect();
        ids.retain(|id| !diff.lus.removed.iter().any(|(gone, _)| gone == id));
        ids.extend(diff.lus.added.iter().map(|(id, _)| *id));
        ids.sort();
        prop_assert_eq!(ids, new.lus().map(|lu| lu.id).collect::<Vec<_>>());
    }
}

#[test]
fn images_of_other_namespaces_are_other_images() {
    let (map, _) = first();
    let spec = |namespace| ImageSpec::new("rbd", namespace, "a").unwrap();
    let add = |map: &LusMap, n: u128, namespace| {
        let backend = Backend::Rbd { image: spec(namespace), image_id: "1".to_owned() };
        lu::add(map, &origin(map.epoch().next()), &AddLu::new(LuId(Uuid::from_u128(n)), backend))
    };
    let Ok(Change::Make { increment, .. }) = add(&map, 1, "") else { panic!() };
    let map = map.apply(&increment).unwrap();
    assert!(matches!(add(&map, 2, "ns"), Ok(Change::Make { .. })));
    assert!(matches!(add(&map, 2, ""), Ok(Change::Already { .. })));
}
