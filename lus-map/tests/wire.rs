//! What is stored: old and new forms side by side, and what is no map at all.

use std::collections::BTreeMap;

use lus_map::change::{self, Change, Refusal, host, lu, target};
use lus_map::{
    ApplyError, Corrupt, DaemonId, Epoch, Fenced, Holder, Increment, Invariant, Iqn, Key, KeyChange,
    LoadError, LuId, LuName, LuRecord, LuState, LusMap, Origin, RecordError, Timestamp, WRITER,
};
use uuid::Uuid;

/// Field `number` as a protobuf varint.
fn varint(number: u32, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    for mut rest in [u64::from(number) << 3, value] {
        while rest >= 0x80 {
            out.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        out.push(rest as u8);
    }
    out
}

/// Field `number` as protobuf bytes.
fn bytes(number: u32, value: &[u8]) -> Vec<u8> {
    let mut out = varint(number, value.len() as u64);
    out[0] |= 2;
    out.extend(value);
    out
}

fn iqn(name: &str) -> Iqn {
    format!("iqn.2026-11.io.lus:{name}").parse().unwrap()
}

fn origin(epoch: u64) -> Origin {
    Origin::new(Uuid::from_u128(epoch.into()), Timestamp(epoch), "client.test")
}

type Entries = BTreeMap<String, Vec<u8>>;

fn meta(min_writer: u32, features: &[&str]) -> Vec<u8> {
    let mut raw = [varint(1, min_writer.into()), bytes(2, &[7; 16]), varint(3, 1)].concat();
    features.iter().for_each(|name| raw.extend(bytes(4, name.as_bytes())));
    raw
}

/// A map of a program of the first version: a target, a host of it, and a unit of each backend.
fn entries() -> Entries {
    let target = iqn("a");
    let target = target.as_str().as_bytes();
    let unit = |n: u8, backend: Vec<u8>| {
        let id = [[0; 15].as_slice(), &[n]].concat();
        let serial = bytes(8, &[b'0' + n]);
        [varint(1, 1), bytes(2, &id), backend, varint(6, 512), serial, bytes(9, b"CEPH"), bytes(10, b"LUS")]
            .concat()
    };
    let rbd = [bytes(1, b"rbd"), bytes(3, b"image"), bytes(4, b"10ab")].concat();
    let ram = [bytes(1, b"r"), varint(2, 4096)].concat();
    let lu_key = |n| format!("lu.00000000-0000-0000-0000-{n:012}");
    Entries::from([
        ("meta".to_owned(), meta(1, &[])),
        ("target.iqn.2026-11.io.lus:a".to_owned(), [varint(1, 1), bytes(2, target), varint(3, 1)].concat()),
        (
            "host.iqn.2026-11.io.lus:a/iqn.2026-11.io.lus:h".to_owned(),
            [varint(1, 1), bytes(2, target), bytes(3, b"iqn.2026-11.io.lus:h")].concat(),
        ),
        (lu_key(1), unit(1, bytes(3, &rbd))),
        (lu_key(2), unit(2, bytes(4, &ram))),
        (lu_key(3), unit(3, bytes(5, &ram))),
    ])
}

fn load(entries: &Entries) -> Result<LusMap, LoadError> {
    LusMap::decode(Epoch(9), Timestamp(9), entries.iter().map(|(key, raw)| (key.as_str(), &raw[..])))
}

fn make(change: Result<Change, Refusal>) -> Increment {
    match change {
        Ok(Change::Make { increment, .. }) => increment,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_first_form_still_loads() {
    let map = load(&entries()).unwrap();
    assert_eq!(map.check(), Ok(()));
    assert_eq!(map.fsid(), Uuid::from_bytes([7; 16]));
    assert!(map.target(&iqn("a")).unwrap().open);
    assert!(map.host(&iqn("a"), &iqn("h")).is_some());
    let names: Vec<String> = map.lus().map(|lu| lu.name().to_string()).collect();
    assert_eq!(names, ["rbd/image", "ram:r", "null:r"]);
    // Every byte is as it was.
    let stored: Entries = map.raw_entries().map(|(key, raw)| (key.to_string(), raw.to_vec())).collect();
    assert_eq!(stored, entries());
}

#[test]
fn fields_of_a_newer_program_survive_a_change_of_another_entity() {
    let mut entries = entries();
    for raw in entries.values_mut() {
        raw.extend(bytes(500, b"something newer"));
    }
    entries.insert("group.newer".to_owned(), b"not even protobuf \xff".to_vec());
    let map = load(&entries).unwrap();
    let next = map.apply(&make(target::create(&map, &origin(10), &iqn("b"), false))).unwrap();
    let next =
        next.apply(&make(lu::remove(&next, &origin(11), &LuName::Ram("r".parse().unwrap()), false))).unwrap();
    for (key, raw) in &entries {
        let key: Key = key.parse().unwrap();
        let removed = key.to_string().ends_with("002");
        assert_eq!(next.raw(&key), (!removed).then_some(&raw[..]), "{key}");
    }
}

#[test]
fn what_a_newer_program_keeps_to_itself_is_read_only() {
    let mut entries = entries();
    let newer = |raw: &mut Vec<u8>| raw.splice(..2, varint(1, u64::from(WRITER) + 1)).for_each(drop);
    newer(entries.get_mut("target.iqn.2026-11.io.lus:a").unwrap());
    let map = load(&entries).unwrap();
    assert!(map.target(&iqn("a")).unwrap().open, "it can be read");
    let refusal = target::remove(&map, &origin(10), &iqn("a"), true).unwrap_err();
    assert_eq!(refusal, Refusal::TooOld { key: Key::Target(iqn("a")), min_writer: WRITER + 1 });
    assert_eq!(refusal.errno_name(), "EPERM");
    assert!(refusal.to_string().contains("'target.iqn.2026-11.io.lus:a'"), "{refusal}");
    // Its neighbours are not.
    make(host::remove(&map, &origin(10), &iqn("a"), &iqn("h"), false));

    newer(entries.get_mut("meta").unwrap());
    let map = load(&entries).unwrap();
    let refusal = target::create(&map, &origin(10), &iqn("b"), false).unwrap_err();
    assert_eq!(refusal, Refusal::TooOld { key: Key::Meta, min_writer: WRITER + 1 });

    // A kind that is not known is nobody's to change either.
    let map = load(&self::entries()).unwrap();
    let key: Key = "group.newer".parse().unwrap();
    let changes = vec![KeyChange { key: key.clone(), old: None, new: Some(vec![1]) }];
    let increment = Increment { epoch: Epoch(10), why: String::new(), origin: origin(10), changes };
    assert_eq!(change::writable(&map, &increment), Err(Refusal::TooOld { key, min_writer: WRITER + 1 }));
    // But what a newer program did is followed.
    assert!(map.apply(&increment).is_ok());
}

#[test]
fn required_features_are_refused_by_name() {
    let mut entries = entries();
    entries.insert("meta".to_owned(), meta(1, &["warp", "weft"]));
    let unknown = LoadError::UnknownFeatures(vec!["warp".to_owned(), "weft".to_owned()]);
    assert_eq!(load(&entries), Err(unknown.clone()));
    assert!(unknown.to_string().contains("warp, weft"));
    // The increment that brings one stops an old program too.
    let map = load(&self::entries()).unwrap();
    let (old, new) = (map.raw(&Key::Meta).map(<[u8]>::to_vec), Some(meta(1, &["warp", "weft"])));
    let changes = vec![KeyChange { key: Key::Meta, old, new }];
    let increment = Increment { epoch: Epoch(10), why: String::new(), origin: origin(10), changes };
    assert_eq!(map.apply(&increment), Err(ApplyError::Load(unknown)));
}

fn corrupt(change: impl FnOnce(&mut Entries)) -> String {
    let mut entries = entries();
    change(&mut entries);
    match load(&entries) {
        Err(error @ LoadError::Corrupt(_)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn corrupt_keys_are_named() {
    let target = "target.iqn.2026-11.io.lus:a";
    assert_eq!(corrupt(|e| drop(e.remove("meta"))), "object 'lus_map' is corrupt: key 'meta' is missing");
    for (what, error) in [
        (
            corrupt(|e| e.get_mut(target).unwrap().truncate(10)),
            "key 'target.iqn.2026-11.io.lus:a' cannot be decoded",
        ),
        (
            corrupt(|e| drop(e.insert("target.x".to_owned(), vec![]))),
            "key 'target.x' is malformed: invalid iSCSI name",
        ),
        (corrupt(|e| drop(e.insert("lu.1".to_owned(), vec![]))), "key 'lu.1' is malformed"),
        (corrupt(|e| drop(e.insert("inc.1".to_owned(), vec![]))), "key 'inc.1' is malformed"),
        (corrupt(|e| drop(e.insert(target.to_owned(), vec![]))), "cannot be decoded: invalid iSCSI name ''"),
        (
            corrupt(|e| drop(e.insert(target.to_owned(), vec![0; 300_000]))),
            "300000 bytes are more than 262144",
        ),
        (corrupt(|e| drop(e.insert("x".to_owned(), vec![0; 300_000]))), "300000 bytes are more than 262144"),
        (
            corrupt(|e| {
                let raw = e[target].clone();
                e.insert("target.iqn.2026-11.io.lus:b".to_owned(), raw);
            }),
            "key 'target.iqn.2026-11.io.lus:b' holds what belongs to key 'target.iqn.2026-11.io.lus:a'",
        ),
    ] {
        assert!(what.contains(error), "{what}");
    }
}

#[test]
fn any_bytes_are_decoded_or_refused() {
    // Every entity with each byte changed and at each length: never a panic.
    for (key, raw) in entries() {
        for at in 0..raw.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut entries = entries();
                entries.get_mut(&key).unwrap()[at] = value;
                let _ = load(&entries);
            }
            let mut entries = entries();
            entries.get_mut(&key).unwrap().truncate(at);
            let _ = load(&entries);
        }
    }
}

#[test]
fn increments_are_checked() {
    let map = load(&entries()).unwrap();
    let increment = make(target::create(&map, &origin(10), &iqn("b"), false));
    let raw = increment.encode();
    assert_eq!(Increment::decode(Epoch(10), &raw).as_ref(), Ok(&increment));
    assert!(matches!(Increment::decode(Epoch(11), &raw), Err(Corrupt::WrongKey { .. })));
    for len in 0..raw.len() {
        if let Ok(shorter) = Increment::decode(Epoch(10), &raw[..len]) {
            assert_ne!(shorter, increment);
        }
    }
    // Keys twice or out of order.
    let mut twice = increment.clone();
    twice.changes.push(twice.changes[0].clone());
    assert!(matches!(Increment::decode(Epoch(10), &twice.encode()), Err(Corrupt::Undecodable { .. })));

    // Another epoch, other bytes, another leader.
    let wrong = Increment { epoch: Epoch(11), ..increment.clone() };
    assert!(matches!(map.apply(&wrong), Err(ApplyError::WrongEpoch { .. })));
    let mut wrong = increment.clone();
    wrong.changes[0].old = Some(vec![1]);
    assert!(matches!(map.apply(&wrong), Err(ApplyError::OtherBytes { .. })));
    let next = map.apply(&increment).unwrap();
    assert!(matches!(next.take_back(&wrong, Timestamp(9)), Err(ApplyError::Load(_))), "that was no target");
    wrong.changes[0].new = Some(vec![1]);
    assert!(matches!(next.take_back(&wrong, Timestamp(9)), Err(ApplyError::OtherBytes { .. })));
    assert!(matches!(map.take_back(&increment, Timestamp(9)), Err(ApplyError::WrongEpoch { .. })));
}

#[test]
fn leaders_of_lower_terms_and_other_incarnations_are_refused() {
    let mut entries = entries();
    entries.get_mut("meta").unwrap().extend([varint(5, 7), varint(6, 2)].concat());
    let map = load(&entries).unwrap();
    let mut increment = make(target::create(&map, &origin(10), &iqn("b"), false));
    let mut result = |term, incarnation| {
        (increment.origin.leader_term, increment.origin.raft_incarnation) = (term, incarnation);
        map.apply(&increment).map(|map| map.epoch())
    };
    assert_eq!(result(None, None), Ok(Epoch(10)), "everybody who is no leader");
    assert_eq!(result(Some(7), Some(2)), Ok(Epoch(10)));
    assert_eq!(result(Some(8), Some(2)), Ok(Epoch(10)));
    assert_eq!(
        result(Some(6), Some(2)),
        Err(ApplyError::LowerTerm { epoch: Epoch(10), term: 6, current: 7 })
    );
    let other = ApplyError::OtherIncarnation { epoch: Epoch(10), incarnation: 1, current: 2 };
    assert_eq!(result(Some(9), Some(1)), Err(other));
}

/// Two daemons, one unit on the first, whose placement the first version wrote; and the leader of `term`, the second.
fn led(term: u64) -> Entries {
    let mut entries = entries();
    for (n, id) in [(1u8, "d"), (2, "e")] {
        let addr = format!("1.2.3.4:0/{n}");
        let raw = [
            bytes(2, id.as_bytes()),
            varint(3, 3),
            varint(4, 1),
            varint(6, n.into()),
            bytes(11, addr.as_bytes()),
        ];
        entries.insert(format!("daemon.{id}.00000000000000000003"), raw.concat());
    }
    let unit = [[0; 15].as_slice(), &[1]].concat();
    let place = [varint(1, 1), bytes(2, &unit), bytes(3, b"d"), varint(4, 3), varint(5, 1)].concat();
    entries.insert("place.00000000-0000-0000-0000-000000000001".to_owned(), place);
    if term > 0 {
        entries.get_mut("meta").unwrap().extend(varint(5, term));
        let leader = [varint(1, 1), bytes(2, b"e"), varint(3, 3), varint(4, term), varint(5, 7)].concat();
        entries.insert("leader".to_owned(), leader);
    }
    entries
}

#[test]
fn what_the_first_version_wrote_has_defaults() {
    let map = load(&led(0)).unwrap();
    assert_eq!(map.check(), Ok(()));
    assert_eq!((map.leader(), map.meta().leader_term), (None, 0));
    let placement = map.placements().next().unwrap();
    assert_eq!((placement.pinned, &placement.pin, placement.moved), (false, &None, Timestamp(0)));
    let daemon = map.daemons().next().unwrap();
    assert_eq!((daemon.leaving, daemon.downs.len()), (false, 0));
    assert!(daemon.takes_units());
    // It could say that there is a pin, and not where to.
    let mut entries = led(0);
    entries.get_mut("place.00000000-0000-0000-0000-000000000001").unwrap().extend(varint(6, 1));
    let placement = load(&entries).unwrap().placements().next().unwrap().clone();
    assert_eq!((placement.pinned, placement.pin), (true, "d".parse().ok()));
    // Its key is of no kind that the first version knew: those came last, and so does it.
    let leader = Key::Leader;
    assert!(Key::Place(LuId(Uuid::max())) < leader && leader < Key::Other("a".into()));
}

#[test]
fn new_entities_come_back_and_never_panic() {
    let mut entries = led(4);
    let daemon = entries.get_mut("daemon.d.00000000000000000003").unwrap();
    daemon.extend([bytes(20, &[1, 2, 3]), varint(21, 1)].concat());
    let place = entries.get_mut("place.00000000-0000-0000-0000-000000000001").unwrap();
    place.extend([varint(6, 1), bytes(7, b"e"), varint(8, 9)].concat());
    let map = load(&entries).unwrap();
    assert_eq!(map.check(), Ok(()));
    let leader = map.leader().unwrap();
    assert_eq!(leader.to_string(), "leader lus.e up_from 3 term 4 taken 1970-01-01T00:00:00.000007+0000");
    let daemon = map.daemons().next().unwrap();
    assert_eq!(
        (daemon.leaving, daemon.downs.clone()),
        (true, vec![Timestamp(1), Timestamp(2), Timestamp(3)])
    );
    let placement = map.placements().next().unwrap();
    assert_eq!((placement.pin.clone(), placement.moved), ("e".parse().ok(), Timestamp(9)));
    for key in ["leader", "daemon.d.00000000000000000003", "place.00000000-0000-0000-0000-000000000001"] {
        for at in 0..entries[key].len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut entries = entries.clone();
                entries.get_mut(key).unwrap()[at] = value;
                let _ = load(&entries);
            }
            let mut entries = entries.clone();
            entries.get_mut(key).unwrap().truncate(at);
            let _ = load(&entries);
        }
    }
    let mut many = led(0);
    many.get_mut("daemon.d.00000000000000000003").unwrap().extend(bytes(20, &[1; 9]));
    assert!(load(&many).unwrap_err().to_string().contains("9 downs are more than 8"));
}

#[test]
fn what_only_a_leader_may_do_needs_its_term() {
    let step = |map: &LusMap, key: Key, new: Option<Vec<u8>>, term: Option<u64>| {
        let changes = vec![KeyChange { old: map.raw(&key).map(<[u8]>::to_vec), new, key }];
        let origin = Origin { leader_term: term, ..origin(10) };
        let increment = Increment { epoch: Epoch(10), why: String::new(), origin, changes };
        map.apply(&increment).map(drop)
    };
    let daemon: Key = "daemon.d.00000000000000000003".parse().unwrap();
    let place: Key = "place.00000000-0000-0000-0000-000000000001".parse().unwrap();
    let other_state = |state| {
        let mut raw = led(0)[&daemon.to_string()].clone();
        raw.extend([varint(4, state), varint(5, 10)].concat());
        Some(raw)
    };
    let (retired, down) = (2, 3);
    let placed = |owner: &str, reason| {
        let mut raw = led(0)[&place.to_string()].clone();
        raw.extend([bytes(3, owner.as_bytes()), varint(5, reason)].concat());
        Some(raw)
    };
    let (map, old) = (load(&led(4)).unwrap(), load(&led(0)).unwrap());
    let only = |key: &Key| Err(ApplyError::LeaderOnly { epoch: Epoch(10), key: key.clone() });
    // Verdicts.
    assert_eq!(step(&map, daemon.clone(), other_state(down), None), only(&daemon));
    assert_eq!(step(&map, daemon.clone(), other_state(down), Some(4)), Ok(()));
    let late = Err(ApplyError::LowerTerm { epoch: Epoch(10), term: 3, current: 4 });
    assert_eq!(step(&map, daemon.clone(), other_state(down), Some(3)), late);
    assert_eq!(step(&map, daemon.clone(), other_state(retired), None), Ok(()), "it ends by itself");
    assert_eq!(step(&old, daemon.clone(), other_state(down), None), Ok(()), "nobody ever led");
    // Placements, by their reasons: created, registered, moved, pinned, drained, failover, rebalanced, a newer one.
    for (reason, leaders) in
        [(1, true), (2, true), (3, false), (4, false), (5, false), (6, true), (7, true), (99, false)]
    {
        let expected = if leaders { only(&place) } else { Ok(()) };
        assert_eq!(step(&map, place.clone(), placed("e", reason), None), expected, "{reason}");
        assert_eq!(step(&map, place.clone(), placed("e", reason), Some(4)), Ok(()));
        assert_eq!(step(&old, place.clone(), placed("e", reason), None), Ok(()));
        assert_eq!(step(&map, place.clone(), placed("d", reason), None), Ok(()), "it stays");
    }
    assert_eq!(step(&map, place.clone(), None, None), Ok(()), "its unit is removed");
    // Leaders: of the next term, and never again of an older one.
    let meta = |term| Some([meta(1, &[]), varint(5, term)].concat());
    let leader = |id: &str, term| {
        Some([varint(1, 1), bytes(2, id.as_bytes()), varint(3, 3), varint(4, term), varint(5, 8)].concat())
    };
    let lower = |term| Err(ApplyError::LowerTerm { epoch: Epoch(10), term, current: 4 });
    assert_eq!(step(&map, Key::Meta, meta(3), None), lower(3));
    assert_eq!(step(&map, Key::Meta, meta(5), None), Ok(()));
    assert_eq!(step(&map, Key::Leader, leader("d", 4), Some(4)), lower(4), "a term has one leader");
    assert_eq!(step(&map, Key::Leader, leader("e", 4), Some(4)), lower(4), "nor does it take it twice");
    assert_eq!(step(&map, Key::Leader, None, None), Ok(()), "it resigns");
}

#[test]
fn check_names_what_is_broken_about_leaders_and_pins() {
    let found = |entries: &Entries| {
        let violations = load(entries).unwrap().check().unwrap_err();
        violations.into_iter().map(|violation| violation.invariant.name()).collect::<Vec<_>>()
    };
    let mut entries = led(4);
    entries.insert("meta".to_owned(), [meta(1, &[]), varint(5, 5)].concat());
    assert_eq!(found(&entries), ["leader-of-term"]);
    let mut entries = led(4);
    entries.get_mut("leader").unwrap().extend(varint(3, 10));
    assert_eq!(found(&entries), ["nothing-from-the-future"]);
    let mut entries = led(4);
    let place = entries.get_mut("place.00000000-0000-0000-0000-000000000001").unwrap();
    place.extend(bytes(7, b"x"));
    assert_eq!(found(&entries), ["placement-has-pin"]);
}

#[test]
fn check_names_what_is_broken() {
    let broken = |key: &str, raw: Vec<u8>| {
        let mut entries = entries();
        entries.insert(key.to_owned(), raw);
        let map = load(&entries).unwrap();
        map.check().unwrap_err().into_iter().map(|violation| violation.invariant).collect::<Vec<_>>()
    };
    let (a, gone) = (iqn("a"), iqn("gone"));
    let (a, gone) = (a.as_str().as_bytes(), gone.as_str().as_bytes());
    let lun = |n: u64, host: &[u8], lu: u8| {
        let id = [[0; 15].as_slice(), &[lu]].concat();
        [bytes(2, a), varint(3, n), bytes(4, host), bytes(5, &id)].concat()
    };
    let host = [bytes(2, gone), bytes(3, a)].concat();
    assert_eq!(broken("host.iqn.2026-11.io.lus:gone/iqn.2026-11.io.lus:a", host), [Invariant::HostHasTarget]);
    assert_eq!(broken("lun.iqn.2026-11.io.lus:a/00001", lun(1, b"", 9)), [Invariant::LunHasLu]);
    let key = "lun.iqn.2026-11.io.lus:a/00001/iqn.2026-11.io.lus:gone";
    assert_eq!(broken(key, lun(1, gone, 1)), [Invariant::LunHasHost]);
    let placement = |owner: &str, since| {
        let id = [[0; 15].as_slice(), &[1]].concat();
        [bytes(2, &id), bytes(3, owner.as_bytes()), varint(4, since), varint(5, 1)].concat()
    };
    let key = "place.00000000-0000-0000-0000-000000000001";
    assert_eq!(broken(key, placement("x", 9)), [Invariant::PlacementHasOwner]);
    let both = [Invariant::PlacementHasOwner, Invariant::NothingFromTheFuture];
    assert_eq!(broken(key, placement("x", 10)), both);
    // A reason that a newer program gives is kept, not refused.
    let mut entries_with = entries();
    entries_with.insert(key.to_owned(), [placement("x", 9), varint(5, 77)].concat());
    let map = load(&entries_with).unwrap();
    assert_eq!(map.placements().next().unwrap().reason.to_string(), "reason 77");
    let twin = {
        let mut raw = entries()["lu.00000000-0000-0000-0000-000000000001"].clone();
        raw[19] = 4;
        raw
    };
    let all = [Invariant::LuNameUnique, Invariant::LuImageUnique, Invariant::LuSerialUnique];
    assert_eq!(broken("lu.00000000-0000-0000-0000-000000000004", twin), all);
    let daemon = |id: &str, up_from: u64| {
        [bytes(2, id.as_bytes()), varint(3, up_from), varint(4, 1), varint(6, 1), bytes(11, b"1.2.3.4:0/5")]
            .concat()
    };
    let mut entries = entries();
    for (key, raw) in [("d.00000000000000000003", daemon("d", 3)), ("d.00000000000000000004", daemon("d", 4))]
    {
        entries.insert(format!("daemon.{key}"), raw);
    }
    entries.insert("daemon.e.00000000000000000004".to_owned(), daemon("e", 4));
    let found = load(&entries).unwrap().check().unwrap_err();
    let found: Vec<_> = found.iter().map(|violation| violation.invariant.name()).collect();
    assert_eq!(
        found,
        ["daemon-one-instance", "daemon-address-once", "daemon-tag-unique", "daemon-address-once"]
    );
}

fn holder(daemon: &str, nonce: u32) -> Holder {
    Holder {
        daemon: daemon.parse().unwrap(),
        up_from: Epoch(3),
        addr: format!("127.0.0.1:0/{nonce}").parse().unwrap(),
    }
}

fn fenced(nonce: u32) -> Fenced {
    Fenced { addr: holder("x", nonce).addr, osd_epoch: 50 }
}

#[test]
fn records_go_their_ways_only() {
    let (a, b) = (holder("a", 1), holder("b", 2));
    let b_id: DaemonId = "b".parse().unwrap();
    let new = LuRecord::new(LuId(Uuid::from_u128(1)));
    let serving = new.claim(&a).unwrap();
    assert_eq!((serving.lu_epoch, serving.version), (Epoch(1), 2));
    let moving = serving.begin_move(&b_id).unwrap();
    assert_eq!((moving.lu_epoch, moving.version), (Epoch(1), 3));
    let released = moving.release(&a).unwrap();
    let lost = serving.lose(&a).unwrap();
    assert_eq!(moving.cancel_move().unwrap().state, serving.state);
    assert_eq!(serving.release(&a).unwrap().state, LuState::Released);
    assert_eq!(moving.lose(&a).unwrap().state, lost.state);
    let claimed = released.claim(&b).unwrap();
    assert_eq!((claimed.lu_epoch, &claimed.state), (Epoch(2), &LuState::Serving { holder: b.clone() }));
    for held in [&serving, &moving, &lost] {
        let taken = held.take_over(&b, &fenced(1)).unwrap();
        assert_eq!((taken.lu_epoch, &taken.state), (Epoch(2), &LuState::Serving { holder: b.clone() }));
        // Its own daemon may have it back, but not through the client that was fenced, nor without the right fence.
        assert!(held.take_over(&holder("a", 3), &fenced(1)).is_ok());
        assert!(matches!(held.take_over(&a, &fenced(1)), Err(RecordError::FencedClient { .. })));
        assert!(matches!(held.take_over(&b, &fenced(9)), Err(RecordError::OtherClientFenced { .. })));
        assert!(matches!(held.claim(&b), Err(RecordError::WrongState { .. })));
    }
    for free in [&new, &released] {
        assert!(matches!(free.take_over(&b, &fenced(1)), Err(RecordError::WrongState { .. })));
        assert!(free.claim(&a).is_ok());
    }
    for held in [&serving, &moving] {
        assert!(matches!(held.release(&b), Err(RecordError::NotHolder { .. })));
        assert!(matches!(held.lose(&b), Err(RecordError::NotHolder { .. })));
    }
    for other in [&new, &moving, &released, &lost] {
        assert!(matches!(other.begin_move(&b_id), Err(RecordError::WrongState { .. })));
    }
    for other in [&new, &serving, &released, &lost] {
        assert!(matches!(other.cancel_move(), Err(RecordError::WrongState { .. })));
    }
    for other in [&new, &released, &lost] {
        assert!(matches!(other.release(&a), Err(RecordError::WrongState { .. })));
        assert!(matches!(other.lose(&a), Err(RecordError::WrongState { .. })));
    }
    for record in [&new, &serving, &moving, &released, &lost] {
        let raw = record.encode();
        assert_eq!(LuRecord::decode(&record.lu, &raw).as_ref(), Ok(record));
        assert!(matches!(LuRecord::decode(&LuId(Uuid::nil()), &raw), Err(Corrupt::WrongKey { .. })));
        for len in 0..raw.len() {
            assert_ne!(LuRecord::decode(&record.lu, &raw[..len]).as_ref(), Ok(record));
        }
    }
    let newer = LuRecord { min_writer: WRITER + 1, ..serving };
    assert!(matches!(newer.release(&a), Err(RecordError::TooOld { .. })));
    assert!(matches!(newer.take_over(&b, &fenced(1)), Err(RecordError::TooOld { .. })));
}
