//! 10,000 units, 10,000 hosts and 64 daemons. Prints what it takes (`--nocapture`); fails on amounts, not on times.

#![expect(clippy::print_stdout, reason = "the times are the point of it")]

use std::time::{Duration, Instant};

use lus_map::change::daemon::{self, Register};
use lus_map::change::{self, Change, host, placement};
use lus_map::{Epoch, Increment, Iqn, Judge, LusMap, Origin, Timestamp, Verdict};
use uuid::Uuid;

const UNITS: u32 = 10_000;
const HOSTS: u32 = 10_000;
const DAEMONS: u32 = 64;

fn origin(epoch: Epoch) -> Origin {
    Origin::new(Uuid::from_u128(epoch.0.into()), Timestamp(epoch.0), "client.test")
}

fn make(map: &mut LusMap, ask: impl Fn(&LusMap, &Origin) -> Result<Change, change::Refusal>) -> Increment {
    match ask(map, &origin(map.epoch().next())) {
        Ok(Change::Make { increment, .. }) => {
            *map = map.apply(&increment).unwrap();
            increment
        }
        other => panic!("{other:?}"),
    }
}

fn timed<T>(what: &str, act: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let result = act();
    println!("{what}: {:.1} ms", begun.elapsed().as_secs_f64() * 1e3);
    result
}

/// Builds the map from the stored form of one entity of each kind, many times over.
fn large() -> LusMap {
    let mut map = LusMap::create(&change::create(Uuid::from_u128(1), &origin(Epoch(1)))).unwrap();
    for n in 0..DAEMONS {
        let ask = Register {
            id: format!("d{n}").parse().unwrap(),
            portals: vec![([10, 0, 0, n as u8], 3260).into()],
            hostname: format!("host{n}"),
            version: "0.1.0".to_owned(),
            control_addr: format!("10.0.0.{n}:0/1").parse().unwrap(),
            data_addrs: vec![format!("10.0.0.{n}:0/2").parse().unwrap()],
        };
        make(&mut map, |map, o| daemon::register(map, o, &ask));
    }
    let target: Iqn = "iqn.2026-11.io.lus:big".parse().unwrap();
    make(&mut map, |map, o| change::target::create(map, o, &target, false));
    let mut stored: Vec<(String, Vec<u8>)> =
        map.raw_entries().map(|(key, raw)| (key.to_string(), raw.to_vec())).collect();
    let field = |tag: u8, raw: &[u8]| [&[tag << 3 | 2, raw.len() as u8], raw].concat();
    for n in 0..UNITS {
        let id = Uuid::from_u128(u128::from(n) << 64 | 7);
        let rbd = [
            field(1, b"rbd"),
            field(3, format!("image{n}").as_bytes()),
            field(4, format!("{n:x}").as_bytes()),
        ];
        let serial = field(8, format!("S{n}").as_bytes());
        let lu = [
            field(2, id.as_bytes()),
            field(3, &rbd.concat()),
            vec![6 << 3, 0x80, 4],
            serial,
            field(9, b"CEPH"),
            field(10, b"LUS"),
        ];
        stored.push((format!("lu.{id}"), lu.concat()));
        let number = [vec![3 << 3, n as u8 | 0x80, (n >> 7) as u8], field(5, id.as_bytes())].concat();
        let lun = [field(2, target.as_str().as_bytes()), number].concat();
        stored.push((format!("lun.{target}/{n:05}"), lun));
    }
    for n in 0..HOSTS {
        let name = format!("iqn.1993-08.org.debian:01:{n:012x}");
        let host = [field(2, target.as_str().as_bytes()), field(3, name.as_bytes())].concat();
        stored.push((format!("host.{target}/{name}"), host));
    }
    let size: usize = stored.iter().map(|(key, raw)| key.len() + raw.len()).sum();
    println!("{} keys, {size} bytes", stored.len());
    timed("load", || {
        LusMap::decode(map.epoch(), map.modified(), stored.iter().map(|(key, raw)| (key.as_str(), &raw[..])))
            .unwrap()
    })
}

/// A verdict on one of 64 with its failover, and what the leader asks again and again while nothing is to do.
fn a_daemon_dies(map: &LusMap) {
    let mut map = map.clone();
    let leader = map.daemons().next().unwrap().key();
    make(&mut map, |map, o| change::leader::take(map, o, &leader));
    let dead = map.daemons().last().unwrap().key();
    let units = map.placements().filter(|placement| placement.owner == dead.id).count();
    let verdicts = [Verdict { daemon: dead.id, up_from: dead.up_from, reason: "a test".to_owned() }];
    let increment = timed("verdict and failover", || {
        make(&mut map, |map, o| daemon::declare_down(map, &o.clone().leading(1), &verdicts))
    });
    assert_eq!(increment.changes.len(), units + 1, "what is placed elsewhere stays there");
    let leading = origin(map.epoch().next()).leading(1);
    let nothing = |change| assert!(matches!(change, Ok(Change::Already { .. })), "{change:?}");
    timed("nothing to fail over", || nothing(placement::failover(&map, &leading)));
    timed("nothing to rebalance", || nothing(placement::rebalance(&map, &leading)));
    let watchers: Vec<_> = map.daemons().filter_map(|daemon| daemon.control_addr.clone()).collect();
    let mut judge = Judge::new(leader);
    let verdicts = timed("a look at 64 watchers", || {
        judge.look(Duration::ZERO, Duration::ZERO, &map, Ok::<_, ()>(&watchers[..]))
    });
    assert_eq!(verdicts, []);
    timed("health", || lus_map::health::health(&map, map.lus().map(|lu| (lu.id, None)), Timestamp(0)));
}

#[test]
fn ten_thousand() {
    let mut map = large();
    assert_eq!((map.lus().count(), map.all_hosts().count()), (UNITS as usize, HOSTS as usize));
    let steps = timed("place all units", || {
        let mut steps = 0;
        while map.unplaced().next().is_some() {
            make(&mut map, placement::place_unplaced);
            steps += 1;
        }
        steps
    });
    assert_eq!(steps, 5);
    timed("check", || map.check().unwrap());
    a_daemon_dies(&map);
    let before = map.clone();
    let target: Iqn = "iqn.2026-11.io.lus:big".parse().unwrap();
    let mut increments = Vec::new();
    timed("1000 changes, made and applied", || {
        for n in 0..1000 {
            let initiator: Iqn = format!("iqn.2026-11.io.lus:h{n}").parse().unwrap();
            increments.push(make(&mut map, |map, o| host::add(map, o, &target, &initiator)));
        }
    });
    assert!(increments.iter().all(|increment| increment.encode().len() < 512), "a change costs what changed");
    let diff = timed("diff of what shares", || before.diff(&map));
    assert_eq!((diff.hosts.added.len(), diff.lus.keys().count()), (1000, 0));
    let apart = {
        let stored: Vec<(String, &[u8])> =
            map.raw_entries().map(|(key, raw)| (key.to_string(), raw)).collect();
        LusMap::decode(map.epoch(), map.modified(), stored.iter().map(|(key, raw)| (key.as_str(), *raw)))
            .unwrap()
    };
    assert!(timed("diff of what was loaded apart", || apart.diff(&map)).is_empty());
    timed("1000 changes, taken back", || {
        for n in (0..1000).rev() {
            let when = if n > 0 { increments[n - 1].origin.when } else { before.modified() };
            map = map.take_back(&increments[n], when).unwrap();
        }
    });
    assert_eq!(map, before);
    timed("first look of a daemon", || map.diff_from_nothing());
    timed("json", || serde_json::to_string(&map).unwrap().len());
}
