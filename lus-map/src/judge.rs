//! Who is alive, by the watchers of the map's object: looks in, verdicts out. No clock: the caller says when it looked.
//!
//! A daemon watches the map's object through its control client, and RADOS forgets the watch of a client that is silent
//! for [`WATCH_TIMEOUT`]. Every daemon looks once in [`LOOK_INTERVAL`] and keeps a judge, so that whoever takes the
//! leadership knows what it has seen; only the leader's verdicts are written.
//!
//! ```text
//!   seen ──missing──► missing once ──missing, a moment later──► verdict
//!     ▲                   │
//!     └────── seen ───────┘          a look that tells nothing ─► all runs begin anew, and patience is asked for:
//!                                    missing runs count only after WATCH_TIMEOUT, until the instance is seen
//! ```
//!
//! RADOS itself may stall, and then lets watches time out that nobody could renew. So a look that failed or took long, a
//! gap between looks, and a look without one's own watch tell nothing of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::flag::Flag;
use crate::id::{ClientAddr, DaemonId, Epoch};
use crate::key::InstanceKey;
use crate::lease::{LOOK_GAP_MAX, LOOK_INTERVAL, LOOK_TOOK_MAX, WATCH_TIMEOUT};
use crate::map::LusMap;

/// Looks without an instance's watch that make a verdict.
const LOOKS: u32 = 2;
/// How far apart two looks must be to count as two.
const LOOKS_APART: Duration = Duration::from_millis(800);

// Two looks of the common interval count as two, and do not make a gap.
const _: () = assert!(LOOKS_APART.as_millis() < LOOK_INTERVAL.as_millis());
const _: () = assert!(LOOK_GAP_MAX.as_millis() > 2 * LOOK_INTERVAL.as_millis());

/// A start of a daemon is dead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The daemon.
    pub daemon: DaemonId,
    /// The start.
    pub up_from: Epoch,
    /// Why.
    pub reason: String,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lus.{} up_from {}: {}", self.daemon, self.up_from, self.reason)
    }
}

/// The rules of judging. All hold; the simulation shows of each that something breaks without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// One look is not enough.
    pub two_looks: bool,
    /// Two looks right after one another are one.
    pub looks_apart: bool,
    /// Nobody judges itself.
    pub not_itself: bool,
    /// The last daemon that is up is not judged.
    pub not_the_last: bool,
    /// Who is not up itself judges nobody.
    pub only_while_up: bool,
    /// A look without one's own watch tells nothing.
    pub own_watch: bool,
    /// A look that failed tells nothing.
    pub failed_look: bool,
    /// A look that took longer than [`LOOK_TOOK_MAX`] tells nothing.
    pub slow_look: bool,
    /// Who did not look for longer than [`LOOK_GAP_MAX`] knows nothing.
    pub gap: bool,
    /// After something of the kind, a watch has [`WATCH_TIMEOUT`] to come back.
    pub patience: bool,
    /// An instance that is new here is not judged for [`WATCH_TIMEOUT`].
    pub not_the_new: bool,
    /// Under `nofailover` nobody is judged.
    pub nofailover: bool,
}

impl Rules {
    /// All rules.
    pub const ALL: Self = Self {
        two_looks: true,
        looks_apart: true,
        not_itself: true,
        not_the_last: true,
        only_while_up: true,
        own_watch: true,
        failed_look: true,
        slow_look: true,
        gap: true,
        patience: true,
        not_the_new: true,
        nofailover: true,
    };
}

/// Looks without an instance's watch, one after the other.
#[derive(Debug, Clone, Copy)]
struct Missing {
    /// The first.
    since: Duration,
    /// The last one that counted, and how many did.
    last: Duration,
    looks: u32,
}

/// What is known of an instance that is up.
#[derive(Debug, Clone, Copy)]
struct Watched {
    /// The first look that had it in the map.
    first: Duration,
    missing: Option<Missing>,
    /// Its watch was not seen since the last look that told nothing.
    patience: bool,
}

/// Watches the watchers for one daemon.
#[derive(Debug, Clone)]
pub struct Judge {
    me: InstanceKey,
    rules: Rules,
    watched: BTreeMap<InstanceKey, Watched>,
    /// When the last look was asked for.
    last: Option<Duration>,
}

impl Judge {
    /// A judge that has seen nothing, of the start `me`.
    pub fn new(me: InstanceKey) -> Self {
        Self { me, rules: Rules::ALL, watched: BTreeMap::new(), last: None }
    }

    /// One that leaves out rules.
    #[cfg(any(test, feature = "simulation"))]
    pub fn with_rules(me: InstanceKey, rules: Rules) -> Self {
        Self { rules, ..Self::new(me) }
    }

    /// Takes a look: asked for at `now` (time since any fixed moment, by a clock that does not jump), answered after
    /// `took`, with the addresses of the clients that watch the map's object; `map` is the latest known. Gives who is dead.
    /// A verdict is given again with each look until the map says it.
    pub fn look<E>(
        &mut self,
        now: Duration,
        took: Duration,
        map: &LusMap,
        watchers: Result<&[ClientAddr], E>,
    ) -> Vec<Verdict> {
        let gap = self.last.is_some_and(|last| now.saturating_sub(last) > LOOK_GAP_MAX);
        self.last = Some(now);
        self.follow(now, map);
        if (gap && self.rules.gap) || (took > LOOK_TOOK_MAX && self.rules.slow_look) {
            self.restart();
        }
        let watchers: BTreeSet<&ClientAddr> = match watchers {
            Ok(watchers) => watchers.iter().collect(),
            Err(_) if self.rules.failed_look => {
                self.restart();
                return Vec::new();
            }
            Err(_) => BTreeSet::new(),
        };
        let present = |key: &InstanceKey| {
            let control = map.instance(&key.id, key.up_from).and_then(|daemon| daemon.control_addr.as_ref());
            control.is_some_and(|addr| watchers.contains(addr))
        };
        if self.rules.own_watch && !present(&self.me) {
            self.restart();
            return Vec::new();
        }
        // What came late is good for those that it names: their watches stand.
        let tells_of_missing = took <= LOOK_TOOK_MAX || !self.rules.slow_look;
        for (key, watched) in &mut self.watched {
            if present(key) {
                (watched.missing, watched.patience) = (None, false);
            } else if tells_of_missing {
                watched.miss(now, &self.rules);
            }
        }
        self.verdicts(now, map)
    }

    /// How many looks in a row were without an instance's watch, and tell something.
    pub fn missing_looks(&self, key: &InstanceKey) -> u32 {
        self.watched.get(key).and_then(|watched| watched.missing).map_or(0, |missing| missing.looks)
    }

    /// Instances that are new in the map come, those that are not up go.
    fn follow(&mut self, now: Duration, map: &LusMap) {
        self.watched.retain(|key, _| map.instance(&key.id, key.up_from).is_some_and(|d| d.state.is_up()));
        for daemon in map.daemons().filter(|daemon| daemon.state.is_up()) {
            self.watched.entry(daemon.key()).or_insert(Watched { first: now, missing: None, patience: true });
        }
    }

    /// Nothing is known of who is missing.
    fn restart(&mut self) {
        for watched in self.watched.values_mut() {
            (watched.missing, watched.patience) = (None, true);
        }
    }

    fn verdicts(&self, now: Duration, map: &LusMap) -> Vec<Verdict> {
        let rules = &self.rules;
        let nobody = (rules.nofailover && map.is_set(Flag::NoFailover))
            || (rules.only_while_up && !self.watched.contains_key(&self.me));
        if nobody {
            return Vec::new();
        }
        let dead = self.watched.iter().filter(|(key, watched)| {
            let itself = rules.not_itself && **key == self.me;
            let new = rules.not_the_new && now.saturating_sub(watched.first) < WATCH_TIMEOUT;
            !itself && !new && watched.missing.is_some_and(|missing| missing.is_enough(rules))
        });
        let verdicts: Vec<Verdict> = dead
            .map(|(key, watched)| {
                let since = watched.missing.map_or(now, |missing| missing.since);
                let seconds = now.saturating_sub(since).as_secs_f64();
                let reason = format!("its watch on the map is gone, for {seconds:.1} s");
                Verdict { daemon: key.id.clone(), up_from: key.up_from, reason }
            })
            .collect();
        let all = verdicts.len() == self.watched.len();
        if all && rules.not_the_last { Vec::new() } else { verdicts }
    }
}

impl Watched {
    fn miss(&mut self, now: Duration, rules: &Rules) {
        let missing = self.missing.get_or_insert(Missing { since: now, last: now, looks: 0 });
        let waits = rules.patience && self.patience && now.saturating_sub(missing.since) < WATCH_TIMEOUT;
        let apart = now.saturating_sub(missing.last) >= LOOKS_APART || !rules.looks_apart;
        if !waits && (missing.looks == 0 || apart) {
            (missing.looks, missing.last) = (missing.looks + 1, now);
        }
    }
}

impl Missing {
    fn is_enough(self, rules: &Rules) -> bool {
        self.looks >= if rules.two_looks { LOOKS } else { 1 }
    }
}

#[cfg(test)]
mod tests;
