//! Maps for the tests of what is shown.

use lus_map::change::daemon::Register;
use lus_map::change::lu::AddLu;
use lus_map::{Backend, Change, ImageSpec, Increment, LuId, LusMap, Origin, Refusal, Timestamp, change};
use uuid::Uuid;

/// The fsid of every map here.
pub(crate) const FSID: Uuid = Uuid::from_u128(0x19870b3c_8b62_466d_9486_786ae60cd7f7);

/// Who changes it, at the first second of 2026-11-21.
pub(crate) fn origin() -> Origin {
    Origin::new(Uuid::from_u128(1), Timestamp(1_795_219_200_000_000), "client.admin")
}

/// A map of nothing, at epoch 1.
pub(crate) fn empty() -> LusMap {
    LusMap::create(&change::create(FSID, &origin())).unwrap()
}

/// The map after an intent.
pub(crate) fn then(map: &LusMap, intent: impl Fn(&LusMap, &Origin) -> Result<Change, Refusal>) -> LusMap {
    match intent(map, &origin()).unwrap() {
        Change::Make { increment, .. } => map.apply(&increment).unwrap(),
        Change::Already { .. } => map.clone(),
    }
}

/// The increment that carries an intent out.
pub(crate) fn increment(
    map: &LusMap,
    intent: impl Fn(&LusMap, &Origin) -> Result<Change, Refusal>,
) -> Increment {
    match intent(map, &origin()).unwrap() {
        Change::Make { increment, .. } => increment,
        Change::Already { said } => panic!("nothing to do: {said}"),
    }
}

/// The map with a start of daemon `id`, whose control client has `nonce`.
pub(crate) fn with_daemon(map: &LusMap, id: &str, nonce: u32) -> LusMap {
    let ask = Register {
        id: id.parse().unwrap(),
        portals: vec!["192.0.2.1:3260".parse().unwrap()],
        hostname: "gw1".into(),
        version: "0.1.0".into(),
        control_addr: format!("192.0.2.1:0/{nonce}").parse().unwrap(),
        data_addrs: Vec::new(),
    };
    then(map, |map, origin| change::daemon::register(map, origin, &ask))
}

/// The map led by daemon `id`.
pub(crate) fn led(map: &LusMap, id: &str) -> LusMap {
    let key = map.daemon(&id.parse().unwrap()).unwrap().key();
    then(map, |map, origin| change::leader::take(map, origin, &key))
}

/// The id of unit `n`.
pub(crate) fn lu_id(n: u128) -> LuId {
    LuId(Uuid::from_u128(n))
}

/// The map with unit `n`, image `rbd/n`.
pub(crate) fn with_lu(map: &LusMap, n: u128) -> LusMap {
    let image = ImageSpec::new("rbd", "", &n.to_string()).unwrap();
    let ask = AddLu::new(lu_id(n), Backend::Rbd { image, image_id: format!("1{n}") });
    then(map, |map, origin| change::lu::add(map, origin, &ask))
}
