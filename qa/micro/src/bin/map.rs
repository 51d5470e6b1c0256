//! Instructions for a map with 100 logical units, three daemons and 20 hosts: to load it, to write it out, to apply one change.
//!
//! `qa/bench/micro` runs it and says there what the counts depend on.
#![forbid(unsafe_code)]
#![expect(missing_docs, reason = "what the macros of gungraun make public")]

use std::hint::black_box;

use gungraun::{Callgrind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main};
use lus_map::change::daemon::{self, Register};
use lus_map::change::lu::{self, AddLu};
use lus_map::change::lun::MapLun;
use lus_map::change::{self, Change, Refusal, host, lun, target};
use lus_map::{Backend, Epoch, ImageSpec, Increment, Iqn, LuId, LusMap, MapDiff, Origin, Timestamp};
use uuid::Uuid;

const UNITS: u128 = 100;
const DAEMONS: u8 = 3;
const HOSTS: u32 = 20;

/// A map as it is stored: keys and values.
type Entries = Vec<(String, Vec<u8>)>;

fn origin(epoch: Epoch) -> Origin {
    Origin::new(Uuid::from_u128(epoch.0.into()), Timestamp(epoch.0), "client.bench")
}

/// The increment that `ask` asks for.
fn increment(map: &LusMap, ask: impl FnOnce(&LusMap, &Origin) -> Result<Change, Refusal>) -> Increment {
    match ask(map, &origin(map.epoch().next())) {
        Ok(Change::Make { increment, .. }) => increment,
        other => panic!("{other:?}"),
    }
}

fn make(map: &mut LusMap, ask: impl FnOnce(&LusMap, &Origin) -> Result<Change, Refusal>) {
    *map = map.apply(&increment(map, ask)).expect("an increment of this map");
}

fn iqn(name: &str) -> Iqn {
    format!("iqn.2026-11.io.lus:{name}").parse().expect("an iSCSI name")
}

fn map() -> LusMap {
    let mut map = LusMap::create(&change::create(Uuid::from_u128(1), &origin(Epoch(1)))).expect("a map");
    for n in 0..DAEMONS {
        let ask = Register {
            id: format!("d{n}").parse().expect("a name"),
            portals: vec![([10, 0, 0, n], 3260).into()],
            hostname: format!("host{n}"),
            version: "0.1.0".to_owned(),
            control_addr: format!("10.0.0.{n}:0/1").parse().expect("an address"),
            data_addrs: vec![format!("10.0.0.{n}:0/2").parse().expect("an address")],
        };
        make(&mut map, |map, origin| daemon::register(map, origin, &ask));
    }
    let disks = iqn("disks");
    make(&mut map, |map, origin| target::create(map, origin, &disks, false));
    for n in 0..HOSTS {
        make(&mut map, |map, origin| host::add(map, origin, &disks, &iqn(&format!("host{n}"))));
    }
    for n in 0..UNITS {
        let image = ImageSpec::new("rbd", "", &format!("image{n}")).expect("an image's name");
        let ask = AddLu::new(
            LuId(Uuid::from_u128(n << 64 | 7)),
            Backend::Rbd { image, image_id: format!("{n:x}") },
        );
        make(&mut map, |map, origin| lu::add(map, origin, &ask));
        let lun = MapLun { target: disks.clone(), lu: ask.backend.name(), lun: None, host: None };
        make(&mut map, |map, origin| lun::map(map, origin, &lun));
    }
    assert_eq!((map.lus().count(), map.all_luns().count(), map.placements().count()), (100, 100, 100));
    map
}

/// The map, and a change of it: one host more.
fn change() -> (LusMap, Increment) {
    let map = map();
    let increment = increment(&map, |map, origin| host::add(map, origin, &iqn("disks"), &iqn("one-more")));
    (map, increment)
}

fn encoded_change() -> (Epoch, Vec<u8>) {
    let (_, increment) = change();
    (increment.epoch, increment.encode())
}

fn entries(map: &LusMap) -> Entries {
    map.raw_entries().map(|(key, raw)| (key.to_string(), raw.to_vec())).collect()
}

fn stored() -> (LusMap, Entries) {
    let map = map();
    let entries = entries(&map);
    (map, entries)
}

fn both() -> (LusMap, LusMap) {
    let (map, increment) = change();
    let next = map.apply(&increment).expect("an increment of this map");
    (map, next)
}

// What a bench takes and makes is returned, so that it is dropped outside of its count.

#[library_benchmark]
#[bench::of_100_lus(change())]
fn apply((map, increment): (LusMap, Increment)) -> (LusMap, Increment, LusMap) {
    let next = black_box(&map).apply(black_box(&increment)).expect("an increment of this map");
    (map, increment, next)
}

#[library_benchmark]
#[bench::of_100_lus(both())]
fn diff((before, after): (LusMap, LusMap)) -> (LusMap, LusMap, MapDiff) {
    let diff = black_box(&before).diff(black_box(&after));
    (before, after, diff)
}

#[library_benchmark]
#[bench::of_one_host(change())]
fn encode_increment((map, increment): (LusMap, Increment)) -> (LusMap, Increment, Vec<u8>) {
    let bytes = black_box(&increment).encode();
    (map, increment, bytes)
}

#[library_benchmark]
#[bench::of_one_host(encoded_change())]
fn decode_increment((epoch, bytes): (Epoch, Vec<u8>)) -> (Vec<u8>, Increment) {
    let increment = Increment::decode(epoch, black_box(&bytes)).expect("an increment");
    (bytes, increment)
}

#[library_benchmark]
#[bench::of_100_lus(map())]
fn encode(map: LusMap) -> (LusMap, Entries) {
    let entries = entries(black_box(&map));
    (map, entries)
}

#[library_benchmark]
#[bench::of_100_lus(stored())]
fn decode((map, entries): (LusMap, Entries)) -> (LusMap, Entries, LusMap) {
    let pairs = black_box(&entries).iter().map(|(key, raw)| (key.as_str(), &raw[..]));
    let decoded = LusMap::decode(map.epoch(), map.modified(), pairs).expect("a map");
    (map, entries, decoded)
}

library_benchmark_group!(
    name = of_100_lus_with_20_hosts,
    benchmarks = [apply, diff, encode_increment, decode_increment, encode, decode]
);

main!(
    config = LibraryBenchmarkConfig::default()
        .pass_through_env("GLIBC_TUNABLES")
        .tool(Callgrind::with_args(["--cache-sim=no"])),
    library_benchmark_groups = [of_100_lus_with_20_hosts]
);
