//! Random histories: every change keeps the invariants; replay gives the map; the way back gives the past.

use std::sync::Arc;

use lus_map::change::daemon::{self, Register};
use lus_map::change::lu::{self, AddLu};
use lus_map::change::lun::{self, MapLun, UnmapLun};
use lus_map::change::{self, Change, Refusal, host, placement, target};
use lus_map::{
    Backend, BlockSize, ClientAddr, DaemonId, Epoch, ImageSpec, Increment, Iqn, LuId, LuName, Lun, LusMap,
    Origin, Timestamp,
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
    AddLu { name: u8, image: u8, wwn: bool, block: bool },
    RemoveLu(u8, bool),
    Resize(u8, u16),
    Map { target: u8, lu: u8, lun: Option<u8>, host: Option<u8> },
    Unmap { target: u8, lu: u8, host: Option<u8> },
    Register { id: u8, nonce: u16, data: u8 },
    Opens { id: u8, back: u8, nonce: u16 },
    Closed { id: u8, which: u8 },
    Retire(u8, u8),
    Down(u8, u8),
    Fenced { id: u8, count: u8 },
    Place,
}

fn intent() -> impl Strategy<Value = Intent> {
    use Intent::*;
    let (small, tiny) = (0u8..6, 0u8..3);
    prop_oneof![
        3 => (tiny.clone(), any::<bool>()).prop_map(|(t, open)| CreateTarget(t, open)),
        1 => (tiny.clone(), any::<bool>()).prop_map(|(t, force)| RemoveTarget(t, force)),
        4 => (tiny.clone(), small.clone()).prop_map(|(t, h)| AddHost(t, h)),
        1 => (tiny.clone(), small.clone(), any::<bool>()).prop_map(|(t, h, force)| RemoveHost(t, h, force)),
        6 => (0u8..12, 0u8..10, prop::bool::weighted(0.1), any::<bool>())
            .prop_map(|(name, image, wwn, block)| AddLu { name, image, wwn, block }),
        1 => (0u8..12, any::<bool>()).prop_map(|(name, force)| RemoveLu(name, force)),
        1 => (0u8..12, any::<u16>()).prop_map(|(name, size)| Resize(name, size)),
        8 => (tiny.clone(), 0u8..12, proptest::option::of(small.clone()), proptest::option::of(small.clone()))
            .prop_map(|(target, lu, lun, host)| Map { target, lu, lun, host }),
        2 => (tiny.clone(), 0u8..12, proptest::option::of(small.clone()))
            .prop_map(|(target, lu, host)| Unmap { target, lu, host }),
        3 => (tiny.clone(), any::<u16>(), 0u8..3).prop_map(|(id, nonce, data)| Register { id, nonce, data }),
        2 => (tiny.clone(), 0u8..2, any::<u16>()).prop_map(|(id, back, nonce)| Opens { id, back, nonce }),
        1 => (tiny.clone(), any::<u8>()).prop_map(|(id, which)| Closed { id, which }),
        1 => (tiny.clone(), 0u8..2).prop_map(|(id, back)| Retire(id, back)),
        1 => (tiny.clone(), 0u8..2).prop_map(|(id, back)| Down(id, back)),
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
    Origin::new(Uuid::from_u128(epoch.0.into()), Timestamp(1_000_000 * epoch.0), "client.test")
}

/// The start of a daemon, or one that has not been or is over.
fn start(map: &LusMap, id: &DaemonId, back: u8) -> Epoch {
    map.daemon(id).map_or(Epoch(1), |daemon| Epoch(daemon.up_from.0.saturating_sub(back.into())))
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
        Intent::Down(id, back) => {
            let id = daemon_id(id);
            daemon::mark_down(map, o, (&id, start(map, &id, back)), "test")
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
        let clean = matches!(intent, Intent::Retire(..) | Intent::Closed { .. });
        let fenced = new.daemons().any(|d| d.fenced.iter().any(|fenced| fenced.addr == gone));
        prop_assert!(clean || fenced, "{gone} is forgotten");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

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
            // What is done is done: the same intent has nothing more to do, or is refused.
            let again = ask(&next, intent);
            if let Ok(Change::Make { increment, .. }) = &again {
                prop_assert!(matches!(intent, Intent::Fenced { .. } | Intent::Closed { .. }), "{increment:?}");
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
