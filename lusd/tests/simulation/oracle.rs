//! What must hold, whatever happens: looked at whenever something takes effect in RADOS, or is answered to a host.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use lus_map::record::RECORD_PREFIX;
use lus_map::{
    ClientAddr, Flag, Increment, InstanceKey, InstanceState, LuId, LuRecord, LuState, LusMap, MAP_OBJECT,
    Verdict, increment_key,
};
use lusd::lun::unit::Unit;

use crate::image::{BLOCKS, Locker};
use crate::rados::{Client, State};
use crate::sim::{Sim, found, lock};

/// How long an owner may serve that does not hold the lock: it asks each ten seconds, and RADOS may take its time.
const UNLOCKED_MAX: Duration = Duration::from_secs(90);

/// What does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Two starts answer for one LU in one epoch.
    TwoServe,
    /// A write of an earlier epoch takes effect on a block after one of a later epoch.
    EpochBack,
    /// An acknowledged write is not there, or a later write of an older number lies over it.
    Undone,
    /// A read gives what was there before an acknowledged write.
    StaleRead,
    /// All is well again, and an LU is not served, a daemon not up, or nobody leads.
    Liveness,
    /// The map breaks its invariants, or does not follow from the one before.
    Map,
    /// A record is no step from the one before.
    Record,
    /// A daemon that was merely slow is declared down.
    NeedlessVerdict,
    /// A client is fenced although nothing happened.
    NeedlessFence,
    /// A lock is broken whose holder may still write.
    BrokenUnfenced,
    /// A record names another holder, and the one before may still write.
    TakenUnfenced,
    /// A client that is not of LUS lost its lock.
    Foreign,
    /// An image is opened by a client that is not on record.
    OffRecord,
    /// A client leaves the record that may still write.
    LeftRecord,
    /// An LU is released while commands are inside.
    ReleasedInside,
    /// An owner without the lock goes on and on.
    Unlocked,
    /// One that does not lead writes as the leader.
    Term,
    /// A judge says what it may not say.
    Judge,
}

impl Kind {
    /// What hosts or an administrator can see. The others are about how it comes to that, and would mostly be found first.
    pub(crate) fn is_outside(self) -> bool {
        use Kind::{
            EpochBack, Foreign, Liveness, NeedlessFence, NeedlessVerdict, StaleRead, TwoServe, Undone,
            Unlocked,
        };
        matches!(
            self,
            TwoServe
                | EpochBack
                | Undone
                | StaleRead
                | Liveness
                | NeedlessVerdict
                | NeedlessFence
                | Foreign
                | Unlocked
        )
    }
}

/// What an oracle found.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) kind: Kind,
    pub(crate) at: Duration,
    pub(crate) what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {:.3} s: {}", self.kind, self.at.as_secs_f64(), self.what)
    }
}

#[derive(Default)]
struct Inner {
    map: Option<LusMap>,
    records: BTreeMap<String, LuRecord>,
    acked: Vec<[u64; BLOCKS]>,
    good: BTreeMap<(usize, u64), String>,
    written: BTreeMap<(usize, usize), u64>,
    unlocked: BTreeMap<(usize, u64), Duration>,
    units: BTreeMap<(String, String), Arc<Unit>>,
    foreign: BTreeSet<String>,
    verdicts: u32,
    goods: u64,
}

/// See the module's text.
pub(crate) struct Oracle {
    sim: Arc<Sim>,
    /// Nobody fails in this run, so nobody may be declared down.
    calm: bool,
    /// Only what can be seen from outside counts.
    outside_only: bool,
    inner: Mutex<Inner>,
}

impl Oracle {
    pub(crate) fn new(sim: Arc<Sim>, lus: usize, calm: bool, outside_only: bool) -> Arc<Self> {
        let inner = Inner { acked: vec![[0; BLOCKS]; lus], ..Inner::default() };
        Arc::new(Self { sim, calm, outside_only, inner: Mutex::new(inner) })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    fn found(&self, kind: Kind, what: fmt::Arguments<'_>) {
        if kind.is_outside() || !self.outside_only {
            self.sim.found(kind, what);
        }
    }

    pub(crate) fn rados_note(&self, line: impl FnOnce() -> String) {
        self.sim.note(line);
    }

    /// The newest map, however little of it anybody knows.
    pub(crate) fn map(&self) -> Option<LusMap> {
        self.inner().map.clone()
    }

    pub(crate) fn goods(&self) -> u64 {
        self.inner().goods
    }

    pub(crate) fn verdicts(&self) -> u32 {
        self.inner().verdicts
    }

    pub(crate) fn add_foreign(&self, addr: &str) {
        self.inner().foreign.insert(addr.to_owned());
    }

    /// Where commands pass for the holder `addr`.
    pub(crate) fn serves_through(&self, addr: &str, unit: &Arc<Unit>) {
        self.inner().units.insert((addr.to_owned(), unit.id.to_string()), unit.clone());
    }

    /// The map's object was written.
    pub(crate) fn map_written(&self, state: &State, client: &Client) {
        let Some(object) = state.objects.get(MAP_OBJECT) else { return };
        let mut inner = self.inner();
        let epoch =
            object.xattrs.get(lus_map::EPOCH_XATTR).map(|raw| String::from_utf8_lossy(raw).into_owned());
        let Some(epoch) = epoch.and_then(|text| text.parse().ok()).map(lus_map::Epoch) else {
            return self.found(Kind::Map, format_args!("no epoch"));
        };
        if inner.map.as_ref().is_some_and(|map| map.epoch() == epoch) {
            // A lease.
            return;
        }
        let raw = object.omap.get(&increment_key(epoch)).map(|raw| &raw[..]).unwrap_or_default();
        let increment = match Increment::decode(epoch, raw) {
            Ok(increment) => increment,
            Err(error) => return self.found(Kind::Map, format_args!("{error}")),
        };
        self.sim.note(|| format!("map e{epoch} by {}: {}", increment.origin.who, increment.why));
        let before = inner.map.take();
        let after = match &before {
            Some(before) => before.apply(&increment),
            None => LusMap::create(&increment),
        };
        let after = match after {
            Ok(after) => after,
            Err(error) => return self.found(Kind::Map, format_args!("{error}")),
        };
        if let Err(violations) = after.check() {
            self.found(Kind::Map, format_args!("{}", violations[0]));
        }
        if let Some(before) = &before {
            self.leaders_act(before, &after, &increment, client);
            self.leaves_record(before, &after, state);
            inner.verdicts += self.verdicts_in(before, &after);
        }
        inner.map = Some(after);
    }

    fn leaders_act(&self, before: &LusMap, after: &LusMap, increment: &Increment, client: &Client) {
        let Some(term) = increment.origin.leader_term else { return };
        let leader = after.leader().map(|leader| (leader.term, leader.instance()));
        let control =
            leader.as_ref().and_then(|(_, key)| before.instance(&key.id, key.up_from)?.control_addr.clone());
        let is_leader = control.is_some_and(|addr| addr.as_str() == &*client.addr);
        if leader.as_ref().map(|(of, _)| *of) != Some(term) || !is_leader {
            self.found(Kind::Term, format_args!("{} writes '{}' in term {term}", client.addr, increment.why));
        }
    }

    fn leaves_record(&self, before: &LusMap, after: &LusMap, state: &State) {
        let of = |map: &LusMap| -> BTreeSet<ClientAddr> {
            map.daemons().flat_map(|daemon| daemon.unfenced()).cloned().collect()
        };
        for addr in of(before).difference(&of(after)) {
            let over =
                state.is_fenced_well(addr.as_str(), self.sim.now()) || state.ended.contains(addr.as_str());
            if !over {
                self.found(Kind::LeftRecord, format_args!("{addr} at map e{}", after.epoch()));
            }
        }
    }

    fn verdicts_in(&self, before: &LusMap, after: &LusMap) -> u32 {
        let mut count = 0;
        for daemon in before.daemons().filter(|daemon| daemon.state.is_up()) {
            let now = after.instance(&daemon.id, daemon.up_from);
            if now.is_some_and(|now| matches!(now.state, InstanceState::Down { .. })) {
                count += 1;
                if self.calm {
                    self.found(Kind::NeedlessVerdict, format_args!("lus.{}", daemon.id));
                }
            }
        }
        count
    }

    /// An LU's record was written.
    pub(crate) fn record_written(&self, state: &State, name: &str, client: &Client) {
        let Some(object) = state.objects.get(name) else { return };
        let Some(lu) = name.strip_prefix(RECORD_PREFIX).and_then(|id| id.parse::<LuId>().ok()) else {
            return;
        };
        let record = match LuRecord::decode(&lu, &object.data) {
            Ok(record) => record,
            Err(error) => return self.found(Kind::Record, format_args!("{name}: {error}")),
        };
        self.sim.note(|| {
            format!("{name} e{} v{} by {}: {}", record.lu_epoch, record.version, client.addr, record.state)
        });
        let mut inner = self.inner();
        let before = inner.records.insert(name.to_owned(), record.clone());
        let Some(before) = before else { return };
        let (was, is) = (before.state.holder(), record.state.holder());
        let other_holder = is.is_some() && was != is;
        if record.version != before.version + 1
            || record.lu_epoch < before.lu_epoch
            || (other_holder && record.lu_epoch <= before.lu_epoch)
        {
            self.found(Kind::Record, format_args!("{name}: {record:?} after {before:?}"));
        }
        if let Some(was) = was
            && other_holder
            && !state.is_fenced_well(was.addr.as_str(), self.sim.now())
        {
            self.found(Kind::TakenUnfenced, format_args!("{name}: from {was}"));
        }
        if let (LuState::Released, Some(was)) = (&record.state, was) {
            let inside =
                inner.units.get(&(was.addr.to_string(), lu.to_string())).map_or(0, |unit| unit.gate.inside());
            if inside > 0 {
                self.found(Kind::ReleasedInside, format_args!("{name}: {inside} inside"));
            }
        }
    }

    /// A client has opened an image read-write.
    pub(crate) fn opened(&self, client: &Client, lu: usize) {
        let inner = self.inner();
        if inner.foreign.contains(&*client.addr) {
            return;
        }
        let known = inner.map.as_ref().is_some_and(|map| {
            let mut all =
                map.daemons().flat_map(|d| d.unfenced().chain(d.fenced.iter().map(|fenced| &fenced.addr)));
            all.any(|addr| addr.as_str() == &*client.addr)
        });
        if !known {
            self.found(Kind::OffRecord, format_args!("{} opens lu{lu}", client.addr));
        }
    }

    pub(crate) fn lock_broken(&self, state: &State, lu: usize, locker: &Locker) {
        self.sim.note(|| format!("lock of lu{lu} broken: {}", locker.addr));
        if self.inner().foreign.contains(&locker.addr) {
            self.found(Kind::Foreign, format_args!("lock of lu{lu}"));
        } else if !state.is_fenced_well(&locker.addr, self.sim.now()) {
            self.found(Kind::BrokenUnfenced, format_args!("lu{lu}: {}", locker.addr));
        }
    }

    /// A write takes effect in RADOS.
    pub(crate) fn applied(&self, lu: usize, block: usize, number: u64, epoch: u64, client: &str) {
        let mut inner = self.inner();
        let newest = inner.written.entry((lu, block)).or_insert(epoch);
        if epoch < *newest {
            self.found(
                Kind::EpochBack,
                format_args!("lu{lu} block {block}: e{epoch} by {client} after e{newest}"),
            );
        }
        *newest = epoch.max(*newest);
        let acked = inner.acked[lu][block];
        if number < acked {
            self.found(Kind::Undone, format_args!("lu{lu} block {block}: {number} by {client} over {acked}"));
        }
    }

    /// A host was told GOOD of a write.
    pub(crate) fn acked(&self, state: &State, lu: usize, block: usize, number: u64) {
        let mut inner = self.inner();
        let is = state.images[lu].blocks[block];
        if is < number {
            self.found(Kind::Undone, format_args!("lu{lu} block {block}: {number} acknowledged, {is} there"));
        }
        let acked = &mut inner.acked[lu][block];
        *acked = number.max(*acked);
        inner.goods += 1;
    }

    /// What has been acknowledged of a block.
    pub(crate) fn newest(&self, lu: usize, block: usize) -> u64 {
        self.inner().acked[lu][block]
    }

    /// A read that began when `least` was acknowledged gives `number`.
    pub(crate) fn was_read(&self, lu: usize, block: usize, number: u64, least: u64) {
        if number < least {
            self.found(
                Kind::StaleRead,
                format_args!("lu{lu} block {block}: {number}, {least} is acknowledged"),
            );
        }
    }

    /// A start answers GOOD, through `client`, in a session that lives.
    pub(crate) fn good(&self, state: &State, lu: usize, epoch: u64, start: &str, client: &str) {
        let mut inner = self.inner();
        let of_epoch = inner.good.entry((lu, epoch)).or_insert_with(|| format!("{start} {client}"));
        if *of_epoch != format!("{start} {client}") {
            self.found(Kind::TwoServe, format_args!("lu{lu} e{epoch}: {of_epoch}, and {start} {client}"));
        }
        let holds = state.images[lu].lock.as_ref().is_some_and(|lock| lock.addr == client);
        if holds {
            inner.unlocked.remove(&(lu, epoch));
            return;
        }
        let now = self.sim.now();
        let since = *inner.unlocked.entry((lu, epoch)).or_insert(now);
        if now - since > UNLOCKED_MAX {
            self.found(Kind::Unlocked, format_args!("lu{lu} e{epoch} by {start}"));
        }
    }

    /// At the end.
    pub(crate) fn settle(&self, state: &State, no_fences: bool) {
        let inner = self.inner();
        for (lu, blocks) in inner.acked.iter().enumerate() {
            for (block, acked) in blocks.iter().enumerate() {
                let is = state.images[lu].blocks[block];
                if is < *acked {
                    self.found(
                        Kind::Undone,
                        format_args!("lu{lu} block {block}: {is} at the end, {acked} acknowledged"),
                    );
                }
            }
        }
        if let Some(addr) = state.fences.iter().find(|addr| inner.foreign.contains(*addr)) {
            self.found(Kind::Foreign, format_args!("{addr} was fenced"));
        }
        if let Some(addr) = state.fences.first().filter(|_| no_fences) {
            self.found(Kind::NeedlessFence, format_args!("{addr}"));
        }
    }

    /// A judge's verdicts by `map`, who is `me`.
    pub(crate) fn judged(&self, me: &InstanceKey, map: &LusMap, verdicts: &[Verdict]) {
        let Some(first) = verdicts.first() else { return };
        let up = map.daemons().filter(|daemon| daemon.state.is_up()).count();
        let wrong = match () {
            () if verdicts.iter().any(|verdict| verdict.daemon == me.id) => "itself",
            () if !map.instance(&me.id, me.up_from).is_some_and(|daemon| daemon.state.is_up()) => {
                "and is not up"
            }
            () if map.is_set(Flag::NoFailover) => "under nofailover",
            () if verdicts.len() >= up => "the last one",
            () if self.calm => "who is merely slow",
            () => return,
        };
        self.found(Kind::Judge, format_args!("{me} judges {first}: {wrong}"));
    }

    pub(crate) fn not_alive(&self, what: &str) {
        found!(self.sim, Liveness, "{what}");
    }
}
