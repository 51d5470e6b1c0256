//! Small maps for the tests of this crate.

use std::time::Duration;

use uuid::Uuid;

use crate::change::daemon::{self, Register};
use crate::change::lu::AddLu;
use crate::change::{self, Change, Refusal};
use crate::id::{ClientAddr, DaemonId, Epoch, LuId};
use crate::increment::Origin;
use crate::key::InstanceKey;
use crate::map::LusMap;
use crate::model::Backend;
use crate::time::Timestamp;

/// When the first map is made.
pub(crate) const START: Timestamp = Timestamp(1_795_230_000_000_000);

pub(crate) fn id(name: &str) -> DaemonId {
    name.parse().unwrap()
}

/// The control client of the first start of a daemon; its first letter is its machine.
pub(crate) fn addr(name: &str) -> ClientAddr {
    format!("10.0.0.{}:0/1", name.as_bytes()[0]).parse().unwrap()
}

/// The first map, of no daemons.
pub(crate) fn first() -> LusMap {
    LusMap::create(&change::create(Uuid::from_u128(1), &origin(Epoch(1), START))).unwrap()
}

pub(crate) fn origin(epoch: Epoch, when: Timestamp) -> Origin {
    Origin::new(Uuid::from_u128(epoch.0.into()), when, "client.test")
}

/// The map after a change at `START` and some seconds; whatever is a leader's, the map's leader does.
pub(crate) fn then(
    map: &LusMap,
    seconds: u64,
    ask: impl FnOnce(&LusMap, &Origin) -> Result<Change, Refusal>,
) -> LusMap {
    let when = Timestamp(START.0 + Duration::from_secs(seconds).as_micros() as u64);
    let origin = origin(map.epoch().next(), when).leading(map.meta().leader_term);
    match ask(map, &origin).unwrap() {
        Change::Make { increment, .. } => {
            let next = map.apply(&increment).unwrap();
            assert_eq!(next.check(), Ok(()));
            next
        }
        Change::Already { said } => panic!("nothing to do: {said}"),
    }
}

pub(crate) fn registered(map: &LusMap, name: &str, control: ClientAddr) -> LusMap {
    let ask = Register {
        id: id(name),
        portals: vec![],
        hostname: "host".to_owned(),
        version: "1".to_owned(),
        control_addr: control,
        data_addrs: vec![],
    };
    then(map, 0, |map, origin| daemon::register(map, origin, &ask))
}

/// A map of daemons that are up.
pub(crate) fn map_of(names: &[&str]) -> LusMap {
    names.iter().fold(first(), |map, name| registered(&map, name, addr(name)))
}

/// The start of a daemon that is in the map.
pub(crate) fn start(map: &LusMap, name: &str) -> InstanceKey {
    map.daemon(&id(name)).unwrap().key()
}

/// The map in which a daemon has taken the leadership.
pub(crate) fn led_by(map: &LusMap, name: &str) -> LusMap {
    let me = start(map, name);
    then(map, 0, |map, origin| change::leader::take(map, origin, &me))
}

/// The map in which a daemon was declared down.
pub(crate) fn without(map: &LusMap, name: &str) -> LusMap {
    let instance = map.daemon(&id(name)).unwrap().clone();
    let verdict = crate::judge::Verdict {
        daemon: instance.id.clone(),
        up_from: instance.up_from,
        reason: "a test".to_owned(),
    };
    then(map, 0, |map, origin| daemon::declare_down(map, origin, &[verdict]))
}

/// The map with units `null:u0` to `null:u<count - 1>`.
pub(crate) fn with_units(map: &LusMap, count: u128) -> LusMap {
    (0..count).fold(map.clone(), |map, n| {
        let backend = Backend::Null { name: format!("u{n}").parse().unwrap(), size_bytes: 4096 };
        let ask = AddLu::new(LuId(Uuid::from_u128(n + 1)), backend);
        then(&map, 0, |map, origin| change::lu::add(map, origin, &ask))
    })
}
