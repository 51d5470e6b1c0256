//! Leadership in memory: the lease, who takes it, and what becomes of the units of a daemon that is gone.

use std::sync::Arc;
use std::time::Duration;

use lus_map::change::daemon::{self, Register};
use lus_map::change::lu::{self, AddLu};
use lus_map::change::{Refusal, flags, placement};
use lus_map::{
    Backend, Candidate, ClientAddr, Corrupt, DaemonId, Epoch, Flag, InstanceKey, Judge, LEASE_XATTR, Lease,
    LoadError, LuId, MAP_OBJECT, candidate::Step,
};
use lus_map_store::memory::{Memory, WriteFault};
use lus_map_store::{Looked, MapStore, ObjectWatch, Objects, Renewal, StoreError, Take};
use lusd_ceph::Errno;
use uuid::Uuid;

const FSID: &str = "19870b3c-8b62-466d-9486-786ae60cd7f7";

fn store(memory: &Memory) -> MapStore {
    MapStore::with_objects(Arc::new(memory.clone()), "client.test", FSID)
}

fn id(name: &str) -> DaemonId {
    name.parse().unwrap()
}

fn address(name: &str) -> ClientAddr {
    format!("10.0.0.{}:0/1", name.as_bytes()[0]).parse().unwrap()
}

async fn register(store: &MapStore, name: &str) -> InstanceKey {
    let ask = Register {
        id: id(name),
        portals: vec![],
        hostname: "host".to_owned(),
        version: "1".to_owned(),
        control_addr: address(name),
        data_addrs: vec![],
    };
    let updated = store.update(|map, origin| daemon::register(map, origin, &ask)).await.unwrap();
    updated.map.daemon(&ask.id).unwrap().key()
}

/// A map of two daemons, seen through one store.
async fn two() -> (Memory, MapStore, InstanceKey, InstanceKey) {
    let memory = Memory::default();
    let store = store(&memory);
    store.create().await.unwrap();
    let (a, b) = (register(&store, "a").await, register(&store, "b").await);
    (memory, store, a, b)
}

async fn taken(store: &MapStore, me: &InstanceKey, term: u64, stale: Option<Lease>) -> Lease {
    match store.take(me, term, stale).await.unwrap() {
        Take::Taken { map, lease, .. } => {
            assert_eq!(
                map.leader().map(|leader| (leader.instance(), leader.term)),
                Some((me.clone(), lease.term))
            );
            lease
        }
        Take::Lost => panic!("somebody else took it"),
    }
}

fn lease(term: u64, count: u64) -> Lease {
    Lease { term, count }
}

#[tokio::test]
async fn taken_renewed_and_taken_by_another() {
    let (memory, store, a, b) = two().await;
    let other = self::store(&memory);
    assert_eq!(store.read_lease().await.unwrap(), None);
    let first = taken(&store, &a, 0, None).await;
    assert_eq!(first, lease(1, 0));
    let epoch = store.latest().await.unwrap().epoch();
    let mut held = first;
    for count in 1..=3 {
        held = match store.renew(held).await.unwrap() {
            Renewal::Renewed(held) => held,
            lost => panic!("{lost:?}"),
        };
        assert_eq!((held, other.read_lease().await.unwrap()), (lease(1, count), Some(held)));
    }
    assert_eq!(other.latest().await.unwrap().epoch(), epoch, "a renewal makes no epoch");
    // The candidate saw the lease before the last renewal.
    assert!(matches!(other.take(&b, 1, Some(lease(1, 2))).await.unwrap(), Take::Lost));
    assert_eq!(other.latest().await.unwrap().epoch(), epoch);
    assert_eq!(taken(&other, &b, 1, Some(held)).await, lease(2, 0));
    // The old leader learns it at its next renewal, and by whatever else it tries.
    assert_eq!(store.renew(held).await.unwrap(), Renewal::Lost(Some(lease(2, 0))));
    assert!(matches!(store.take(&a, 1, Some(held)).await.unwrap(), Take::Lost));
    let refused = store.update_leading(1, placement::failover).await.unwrap_err();
    let expected = Refusal::NotLeader { term: Some(1), current: 2 };
    assert!(matches!(&refused, StoreError::Refused(refusal) if *refusal == expected), "{refused}");
    assert_eq!(refused.errno(), Errno::ESTALE.raw());
    assert!(other.update_leading(2, placement::failover).await.is_ok());
}

#[tokio::test]
async fn of_two_that_take_one_does() {
    let (memory, store, a, b) = two().await;
    let other = self::store(&memory);
    let (first, second) = tokio::join!(store.take(&a, 0, None), other.take(&b, 0, None));
    let taken = [first.unwrap(), second.unwrap()].iter().filter(|t| matches!(t, Take::Taken { .. })).count();
    assert_eq!(taken, 1);
    let map = store.latest().await.unwrap();
    assert_eq!((map.meta().leader_term, store.read_lease().await.unwrap()), (1, Some(lease(1, 0))));
    assert_eq!(map.check(), Ok(()));
}

#[tokio::test]
async fn a_change_of_somebody_else_is_no_reason_to_give_up() {
    let (memory, store, a, _) = two().await;
    store.latest().await.unwrap();
    let between = memory.clone();
    memory.before_read(1, move |_| {
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let set = self::store(&between);
            runtime.block_on(async { set.update(|map, o| flags::set(map, o, Flag::NoMove)).await.map(drop) })
        })
        .join()
        .unwrap()
        .unwrap();
    });
    // The first read is of the map, the second one looks what became of the change.
    memory.fail_writes([WriteFault::LostUnanswered]);
    assert_eq!(taken(&store, &a, 0, None).await, lease(1, 0));
    assert!(store.latest().await.unwrap().is_set(Flag::NoMove));
}

#[tokio::test]
async fn unknown_results_are_looked_at() {
    for fault in [WriteFault::MadeUnanswered, WriteFault::LostUnanswered, WriteFault::Late] {
        let (memory, store, a, b) = two().await;
        memory.fail_writes([fault]);
        let first = taken(&store, &a, 0, None).await;
        memory.fail_writes([fault]);
        assert_eq!(store.renew(first).await.unwrap(), Renewal::Renewed(lease(1, 1)), "{fault:?}");
        memory.fail_writes([fault]);
        assert_eq!(taken(&store, &b, 1, Some(lease(1, 1))).await, lease(2, 0), "{fault:?}");
        assert_eq!(store.latest().await.unwrap().meta().leader_term, 2);
        // A renewal that was held back and arrives after the leadership was taken does nothing.
        memory.fail_writes([WriteFault::Late]);
        let renewal = store.renew(lease(1, 1)).await.unwrap();
        assert_eq!(renewal, Renewal::Lost(Some(lease(2, 0))));
    }
    let (memory, store, a, _) = two().await;
    let first = taken(&store, &a, 0, None).await;
    memory.fail_writes([WriteFault::LostUnanswered; 3]);
    assert!(matches!(store.renew(first).await, Err(StoreError::Unknown { .. })));
    memory.fail_writes([WriteFault::Fails(Errno::ESHUTDOWN)]);
    assert!(store.renew(first).await.unwrap_err().is_fenced());
}

#[tokio::test]
async fn what_is_no_lease_is_said() {
    let (memory, store, a, _) = two().await;
    memory.edit(MAP_OBJECT, |object| drop(object.xattrs.insert(LEASE_XATTR.to_owned(), "1 -1".into())));
    let error = store.read_lease().await.unwrap_err();
    let undecodable = matches!(&error, StoreError::Load(LoadError::Corrupt(Corrupt::Undecodable { .. })));
    assert!(undecodable && error.to_string().contains("xattr leader"), "{error}");
    let nobody = InstanceKey { up_from: Epoch(99), ..a };
    let error = store.take(&nobody, 0, None).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused(Refusal::Superseded { .. })), "{error}");
    let none = self::store(&Memory::default());
    assert!(matches!(none.read_lease().await, Err(StoreError::NoMap)));
    assert!(matches!(none.watchers().await, Err(StoreError::NoMap)));
    assert!(matches!(none.renew(lease(1, 1)).await, Err(StoreError::NoMap)));
}

/// A daemon in its loop: it looks, judges, and leads if it is its turn.
struct Daemon {
    name: &'static str,
    store: MapStore,
    judge: Judge,
    candidate: Candidate,
    watch: Box<dyn ObjectWatch>,
    lives: bool,
}

impl Daemon {
    async fn start(memory: &Memory, name: &'static str) -> Self {
        let mine = memory.client(address(name).as_str());
        let store = store(&mine);
        let me = register(&store, name).await;
        let watch = mine.watch(MAP_OBJECT, Duration::from_secs(5)).await.unwrap();
        let (judge, candidate) = (Judge::new(me.clone()), Candidate::new(me));
        Self { name, store, judge, candidate, watch, lives: true }
    }

    fn me(&self, map: &lus_map::LusMap) -> InstanceKey {
        map.daemon(&id(self.name)).unwrap().key()
    }

    /// What a daemon does at `now`; whether it leads.
    async fn turn(&mut self, now: Duration) -> bool {
        assert!(self.watch.check().is_ok());
        let map = self.store.latest().await.unwrap();
        let Looked { lease, watchers } = self.store.look_around().await.unwrap();
        let verdicts = self.judge.look(now, Duration::ZERO, &map, Ok::<_, ()>(&watchers[..]));
        self.candidate.look(now, Duration::ZERO, &map, Ok::<_, ()>((lease, &watchers[..])));
        let mut term = map.meta().leader_term;
        match self.candidate.step(now, &map, &self.judge) {
            Step::Stay | Step::Resign => return false,
            Step::Renew(held) => match self.store.renew(held).await.unwrap() {
                Renewal::Renewed(held) => self.candidate.wrote(now, held),
                Renewal::Lost(_) => return false,
            },
            Step::Take { term: judged, stale } => {
                match self.store.take(&self.me(&map), judged, stale).await.unwrap() {
                    Take::Taken { lease, .. } => {
                        self.candidate.wrote(now, lease);
                        term = lease.term;
                    }
                    Take::Lost => return false,
                }
            }
        }
        if !verdicts.is_empty() {
            let down = |map: &_, origin: &_| daemon::declare_down(map, origin, &verdicts);
            self.store.update_leading(term, down).await.unwrap();
        }
        self.store.update_leading(term, placement::failover).await.unwrap();
        true
    }
}

#[tokio::test]
async fn a_leader_dies_and_its_units_live_on() {
    let memory = Memory::default();
    store(&memory).create().await.unwrap();
    let mut daemons = Vec::new();
    for name in ["a", "b", "c"] {
        daemons.push(Daemon::start(&memory, name).await);
    }
    for n in 0..30u128 {
        let backend = Backend::Ram { name: format!("u{n}").parse().unwrap(), size_bytes: 4096 };
        let ask = AddLu::new(LuId(Uuid::from_u128(n)), backend);
        daemons[0].store.update(|map, origin| lu::add(map, origin, &ask)).await.unwrap();
    }
    let mut killed: Option<(Duration, String)> = None;
    let mut down_after = Vec::new();
    // In steps of 100 ms each looks once a second, one after the other; those that died are silent, and RADOS forgets
    // their watch after 5 s.
    for step in 0..450u64 {
        let now = Duration::from_millis(step * 100);
        if step == 150 || step == 300 {
            let map = daemons[0].store.latest().await.unwrap();
            let leader = map.leader().unwrap().daemon.clone();
            let dead = daemons.iter_mut().find(|daemon| id(daemon.name) == leader).unwrap();
            dead.lives = false;
            killed = Some((now, dead.name.to_owned()));
        }
        if let Some((at, name)) = &killed
            && now == *at + Duration::from_secs(5)
        {
            memory.hide_watcher(address(name).as_str(), true);
        }
        let n = step as usize % 10;
        if n < 9 && n.is_multiple_of(3) && daemons[n / 3].lives {
            daemons[n / 3].turn(now).await;
        }
        let map = daemons[0].store.latest().await.unwrap();
        assert_eq!(map.check(), Ok(()));
        if let Some((at, name)) = &killed
            && !map.daemon(&id(name)).unwrap().state.is_up()
        {
            down_after.push(now - *at);
            assert!(map.placements().all(|placement| placement.owner != id(name)), "nothing is left with it");
            killed = None;
        }
    }
    // 5 s until RADOS forgets the watch, and two looks.
    assert_eq!(down_after.len(), 2, "{down_after:?}");
    let expected = Duration::from_millis(5_800)..=Duration::from_millis(7_100);
    assert!(down_after.iter().all(|after| expected.contains(after)), "{down_after:?}");
    let map = daemons[0].store.latest().await.unwrap();
    let survivor = daemons.iter().find(|daemon| daemon.lives).unwrap();
    assert!(map.placements().all(|placement| placement.owner == id(survivor.name)));
    assert_eq!((map.placements().count(), map.meta().leader_term), (30, 3));
    assert!(map.epoch() < Epoch(50), "renewals make no epochs: {}", map.epoch());
}
