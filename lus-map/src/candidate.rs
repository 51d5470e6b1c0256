//! When a daemon takes the leadership, keeps it, gives it up. No clock: the caller says when.
//!
//! Every daemon looks at the lease once in [`LOOK_INTERVAL`](crate::lease::LOOK_INTERVAL), together with its look at the
//! watchers. The leadership is there to be taken
//! - if nobody has it, or the start that has it is not up any more,
//! - if the lease stood still for [`LEASE`] by the candidate's own clock, while RADOS answered it without a gap,
//! - if the watch of the leader is gone in two looks of the candidate's [`Judge`].
//!
//! Those that may take it wait a little each, by their rank in a hash of term and name: the first one comes before the
//! others have begun. Should two meet, the compare-and-set decides; and should one take it from a leader that lives, terms
//! and fences make that safe.

use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::id::{ClientAddr, DaemonId};
use crate::judge::Judge;
use crate::key::InstanceKey;
use crate::lease::{LEASE, LOOK_GAP_MAX, LOOK_TOOK_MAX, Lease};
use crate::map::LusMap;

/// How long the next in rank waits for the one before it.
pub const RANK_DELAY: Duration = Duration::from_millis(200);
/// Ranks that differ in their delay; what is behind them waits as the last.
const RANKS_MAX: u32 = 8;
/// Looks without the leader's watch after which others may take its place.
const LOOKS: u32 = 2;

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Stay,
    /// Lead on: write this lease's [`next`](Lease::next) over it.
    Renew(Lease),
    /// Take the leadership in the term after `term`.
    Take {
        /// The map's term that was judged.
        term: u64,
        /// The lease that was seen to stand still; none: there is none.
        stale: Option<Lease>,
    },
    /// Lead no more: this start is over, or others no longer see its watch.
    Resign,
}

/// What was last seen of the lease, and since when it is so.
#[derive(Debug, Clone, Copy)]
struct Still {
    lease: Option<Lease>,
    since: Duration,
}

/// Decides for one daemon.
#[derive(Debug, Clone)]
pub struct Candidate {
    me: InstanceKey,
    still: Option<Still>,
    /// When the last look was asked for.
    last: Option<Duration>,
    /// My watch, and that of any other daemon, in the last look.
    own_watch: bool,
    other_watch: bool,
    own_missing: u32,
    /// Since when the leadership of this term is there to be taken.
    vacant: Option<(u64, Duration)>,
}

impl Candidate {
    /// A candidate that has seen nothing, for the start `me`.
    pub fn new(me: InstanceKey) -> Self {
        Self {
            me,
            still: None,
            last: None,
            own_watch: false,
            other_watch: false,
            own_missing: 0,
            vacant: None,
        }
    }

    /// Takes a look, as [`Judge::look`] does, with the lease; a failed one says only that RADOS did not answer.
    pub fn look<E>(
        &mut self,
        now: Duration,
        took: Duration,
        map: &LusMap,
        seen: Result<(Option<Lease>, &[ClientAddr]), E>,
    ) {
        let gap = self.last.is_some_and(|last| now.saturating_sub(last) > LOOK_GAP_MAX);
        self.last = Some(now);
        if gap || took > LOOK_TOOK_MAX {
            self.still = None;
        }
        let Ok((lease, watchers)) = seen else {
            self.still = None;
            return;
        };
        if self.still.is_none_or(|still| still.lease != lease) {
            // It may have been renewed at any moment of the look.
            self.still = Some(Still { lease, since: now + took });
        }
        let watches = |daemon: &crate::model::DaemonInstance| {
            daemon.state.is_up() && daemon.control_addr.as_ref().is_some_and(|addr| watchers.contains(addr))
        };
        self.own_watch = map.instance(&self.me.id, self.me.up_from).is_some_and(watches);
        self.own_missing = if self.own_watch { 0 } else { self.own_missing.saturating_add(1) };
        self.other_watch = map.daemons().any(|daemon| daemon.id != self.me.id && watches(daemon));
    }

    /// Notes a lease that this daemon wrote: by taking the leadership or by renewing it.
    pub fn wrote(&mut self, now: Duration, lease: Lease) {
        self.still = Some(Still { lease: Some(lease), since: now });
        self.vacant = None;
    }

    /// What to do at `now`, by the latest map; `judge` has had the same looks. Ask with each look, with each new map, and
    /// at [`due`](Self::due).
    pub fn step(&mut self, now: Duration, map: &LusMap, judge: &Judge) -> Step {
        let up = map.instance(&self.me.id, self.me.up_from).is_some_and(|daemon| daemon.state.is_up());
        if map.leader().is_some_and(|leader| leader.instance() == self.me) {
            self.vacant = None;
            return self.lead(map, up);
        }
        if !up || !self.own_watch || !self.is_vacant(now, map, judge) {
            self.vacant = None;
            return Step::Stay;
        }
        let term = map.meta().leader_term;
        let since = match self.vacant {
            Some((of, since)) if of == term => since,
            _ => now,
        };
        self.vacant = Some((term, since));
        if now < since + self.delay(map) {
            return Step::Stay;
        }
        Step::Take { term, stale: self.still.and_then(|still| still.lease) }
    }

    /// When to ask again before the next look, if the leadership is there to be taken and others come first.
    pub fn due(&self, map: &LusMap) -> Option<Duration> {
        self.vacant.map(|(_, since)| since + self.delay(map))
    }

    fn lead(&self, map: &LusMap, up: bool) -> Step {
        let unseen = self.own_missing >= LOOKS && self.other_watch;
        if !up || unseen {
            return Step::Resign;
        }
        match self.still.and_then(|still| still.lease) {
            Some(lease) if lease.term == map.meta().leader_term => Step::Renew(lease),
            // RADOS does not answer, or a newer map is on its way.
            _ => Step::Stay,
        }
    }

    fn is_vacant(&self, now: Duration, map: &LusMap, judge: &Judge) -> bool {
        // A lease of a later term says that somebody took it, and that this map is an old one.
        let Some(still) = self.still.filter(|s| s.lease.is_none_or(|l| l.term <= map.meta().leader_term))
        else {
            return false;
        };
        let Some(leader) = map.leader() else { return true };
        let up = map.instance(&leader.daemon, leader.up_from).is_some_and(|daemon| daemon.state.is_up());
        // Whoever stood still has to look again first: what it saw of lease and watches is from before.
        let looks = self.last.is_some_and(|last| now.saturating_sub(last) <= LOOK_GAP_MAX);
        let stale = now.saturating_sub(still.since) >= LEASE;
        !up || (looks && (stale || judge.missing_looks(&leader.instance()) >= LOOKS))
    }

    /// How long to wait for those that come first, of the daemons that are up.
    fn delay(&self, map: &LusMap) -> Duration {
        let term = map.meta().leader_term;
        let leader = map.leader().map(|leader| &leader.daemon);
        let draw = |id: &DaemonId| (xxh3_64_with_seed(id.as_str().as_bytes(), term), id.clone());
        let mine = draw(&self.me.id);
        let rivals = map.daemons().filter(|d| d.state.is_up() && Some(&d.id) != leader && d.id != self.me.id);
        let before = rivals.filter(|daemon| draw(&daemon.id) < mine).count();
        RANK_DELAY * u32::try_from(before).unwrap_or(RANKS_MAX).min(RANKS_MAX)
    }
}

#[cfg(test)]
mod tests;
