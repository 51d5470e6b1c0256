//! The inner watchdog: asks every shard and every RADOS client, once a second, whether it answers.
//!
//! | finding | condition | what follows |
//! |---|---|---|
//! | stuck | a shard, or a client for images while the one for the map answers, does not answer for [`SILENCE`] | the watch on the map is given up: the others judge |
//! | isolated | neither the monitors nor any OSD answers any client for [`SILENCE`] | sessions are reset, nothing is submitted, no login is granted |
//!
//! Both end by themselves. The daemon is not isolated any more only when the map, read anew, still says that this start is up.
//!
//! Who stood still itself knows nothing of the time between: then everybody gets the whole time again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lus_map::{ClientAddr, InstanceKey, LusMap, MAP_OBJECT};
use lus_map_store::{MapStore, MapWatch, StoreError};
use lusd_ceph::{Cluster, ReadOp};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{error, info, warn};

use crate::lun::clients::DataClients;
use crate::net::shard::Pinger;
use crate::service::Service;

/// How long somebody may be silent.
pub const SILENCE: Duration = Duration::from_secs(3);
/// How often everybody is asked.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// How often is looked at who is silent.
const TICK: Duration = Duration::from_millis(250);
/// Who looks less often than this stood still.
const GAP: Duration = Duration::from_millis(1500);

/// Who is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// A shard, by its number.
    Shard(usize),
    /// A client for images, for a look at the map's object.
    Data(ClientAddr),
    /// The client for map and records, for the same.
    Control,
    /// The monitors, through that.
    Monitors,
}

impl Who {
    fn is_of_rados(&self) -> bool {
        !matches!(self, Self::Shard(_))
    }
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Shard(index) => write!(f, "shard {index}"),
            Self::Data(addr) => write!(f, "the client for images {addr}"),
            Self::Control => f.write_str("the client for the map"),
            Self::Monitors => f.write_str("the monitors"),
        }
    }
}

/// What was asked of one.
#[derive(Clone, Copy, Debug, Default)]
struct Pulse {
    /// The question that is not answered.
    asked: Option<Instant>,
    /// When the last one was asked that is answered.
    answered: Option<Instant>,
}

/// What there is to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Somebody is stuck.
    pub stuck: Option<Who>,
    /// RADOS does not answer at all.
    pub isolated: bool,
}

/// Who is silent since when. No clock and no I/O.
#[derive(Debug)]
pub struct Pulses {
    pulses: HashMap<Who, Pulse>,
    /// When RADOS last answered anybody.
    heard: Instant,
    completions: u64,
    last: Instant,
}

impl Pulses {
    /// Everybody is well at `now`.
    pub fn new(now: Instant) -> Self {
        Self { pulses: HashMap::new(), heard: now, completions: 0, last: now }
    }

    /// Only these are asked from now on.
    pub fn retain(&mut self, keep: impl Fn(&Who) -> bool) {
        self.pulses.retain(|who, _| keep(who));
    }

    /// Whether a question may be put to `who` at `now`: the last one is answered, and some time ago. It counts as put.
    pub fn ask(&mut self, who: &Who, now: Instant) -> bool {
        let pulse = self.pulses.entry(who.clone()).or_default();
        let asks = pulse.asked.is_none();
        if asks {
            pulse.asked = Some(now);
        }
        asks
    }

    /// `who` has answered.
    pub fn answered(&mut self, who: &Who, now: Instant) {
        if who.is_of_rados() {
            self.heard = now;
        }
        if let Some(pulse) = self.pulses.get_mut(who) {
            pulse.answered = pulse.asked.take();
        }
    }

    /// Looks at `now`; `completions` changes when operations of initiators end.
    pub fn look(&mut self, now: Instant, completions: u64) -> Findings {
        if now.saturating_duration_since(self.last) > GAP {
            self.heard = now;
            for pulse in self.pulses.values_mut() {
                pulse.asked = pulse.asked.map(|_| now);
            }
        }
        self.last = now;
        if self.completions != completions {
            (self.completions, self.heard) = (completions, now);
        }
        let silent =
            |pulse: &Pulse| pulse.asked.is_some_and(|asked| now.saturating_duration_since(asked) >= SILENCE);
        let control = self.pulses.get(&Who::Control).and_then(|pulse| pulse.answered);
        // One that was asked later has answered: RADOS as such is well.
        let alone = |pulse: &Pulse| match (pulse.asked, control) {
            (Some(asked), Some(answered)) => answered > asked,
            _ => false,
        };
        let stuck = self.pulses.iter().find(|(who, pulse)| match who {
            Who::Shard(_) => silent(pulse),
            Who::Data(_) => silent(pulse) && alone(pulse),
            Who::Control | Who::Monitors => false,
        });
        Findings {
            stuck: stuck.map(|(who, _)| who.clone()),
            isolated: now.saturating_duration_since(self.heard) >= SILENCE,
        }
    }
}

/// Everything that is asked, and told.
pub struct Watchdog {
    /// This start of this daemon.
    pub me: InstanceKey,
    /// The shards.
    pub pingers: Vec<Pinger>,
    /// The client for map and records.
    pub control: Cluster,
    /// The clients for images.
    pub clients: Arc<DataClients>,
    /// The pool of the map.
    pub pool: String,
    /// The map.
    pub store: MapStore,
    /// Whose watch is given up.
    pub follow: Arc<MapWatch>,
    /// What is isolated.
    pub service: Arc<Service>,
}

impl Watchdog {
    /// Runs until it finds, after an isolation, that the map does not say any more that this start is up: that map.
    pub async fn run(self) -> Arc<LusMap> {
        let mut pulses = Pulses::new(Instant::now());
        let mut questions = JoinSet::new();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ask_at = Instant::now();
        let mut findings = Findings::default();
        let mut reading: JoinSet<Result<Arc<LusMap>, StoreError>> = JoinSet::new();
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                Some(answer) = questions.join_next() => {
                    if let Ok(who) = answer {
                        pulses.answered(&who, Instant::now());
                    }
                    continue;
                }
                Some(Ok(read)) = reading.join_next() => {
                    match read {
                        Ok(map) if self.is_up(&map) => {
                            info!("RADOS answers again, and the map says that this start is up: serving again");
                            self.service.set_isolated(false);
                        }
                        Ok(map) => return map,
                        Err(error) => warn!(%error, "cannot read the map"),
                    }
                    continue;
                }
            }
            let now = Instant::now();
            let found = pulses.look(now, self.service.completions());
            self.tell(&findings, &found);
            if !found.isolated && self.service.is_isolated() && reading.is_empty() {
                let store = self.store.clone();
                reading.spawn(async move { store.latest().await });
            }
            findings = found;
            if now >= ask_at {
                ask_at = now + ASK_INTERVAL;
                self.ask(&mut pulses, &mut questions, now);
            }
        }
    }

    fn is_up(&self, map: &LusMap) -> bool {
        map.instance(&self.me.id, self.me.up_from).is_some_and(|instance| instance.state.is_up())
    }

    fn tell(&self, before: &Findings, found: &Findings) {
        if found.stuck != before.stuck {
            match &found.stuck {
                Some(who) => error!(
                    "{who} does not answer for {} s: this daemon gives its watch up, to be judged",
                    SILENCE.as_secs()
                ),
                None => info!("everybody answers again: watching the map"),
            }
            self.follow.hold_watch(found.stuck.is_none());
        }
        if found.isolated && !before.isolated {
            error!(
                connections = self.service.sessions.connections(),
                "no answer from RADOS for {} s: sessions are reset, logins refused",
                SILENCE.as_secs()
            );
            self.service.set_isolated(true);
        }
    }

    fn ask(&self, pulses: &mut Pulses, questions: &mut JoinSet<Who>, now: Instant) {
        for (index, pinger) in self.pingers.iter().enumerate() {
            let who = Who::Shard(index);
            if pulses.ask(&who, now) {
                let pinger = pinger.clone();
                questions.spawn(async move {
                    pinger.ping().await;
                    who
                });
            }
        }
        let clients = self.clients.current();
        pulses.retain(|who| match who {
            Who::Data(addr) => clients.iter().any(|client| client.addr == *addr),
            _ => true,
        });
        let data = clients.into_iter().map(|client| (Who::Data(client.addr), client.cluster));
        for (who, cluster) in data.chain([(Who::Control, self.control.clone())]) {
            if pulses.ask(&who, now) {
                let pool = self.pool.clone();
                questions.spawn(async move {
                    // An error is an answer, too.
                    if let Ok(pool) = cluster.pool(&pool, None).await {
                        let _ = pool.read(MAP_OBJECT, ReadOp::new().stat()).await;
                    }
                    who
                });
            }
        }
        if pulses.ask(&Who::Monitors, now) {
            let control = self.control.clone();
            questions.spawn(async move {
                let _ = control.wait_for_latest_osdmap().await;
                Who::Monitors
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> Who {
        Who::Data("10.0.0.1:0/1".parse().unwrap())
    }

    /// Pulses that are looked at four times a second; everybody is asked each second, and those that `answers` names answer at once.
    fn after(seconds: u64, answers: impl Fn(&Who, u64) -> bool) -> Vec<Findings> {
        let begun = Instant::now();
        let mut pulses = Pulses::new(begun);
        let all = [Who::Shard(0), data(), Who::Control, Who::Monitors];
        let mut found = Vec::new();
        for quarter in 0..=seconds * 4 {
            let now = begun + TICK * u32::try_from(quarter).unwrap();
            if quarter % 4 == 0 {
                for who in &all {
                    pulses.ask(who, now);
                    if answers(who, quarter / 4) {
                        pulses.answered(who, now + Duration::from_millis(1));
                    }
                }
            }
            found.push(pulses.look(now, 0));
        }
        found
    }

    #[test]
    fn who_answers_is_well() {
        assert!(after(60, |_, _| true).iter().all(|found| *found == Findings::default()));
    }

    #[test]
    fn a_shard_that_is_silent_is_found_after_three_seconds_and_comes_back() {
        let found = after(12, |who, second| *who != Who::Shard(0) || !(2..8).contains(&second));
        let stuck = |second: usize| found[second * 4].stuck.clone();
        assert_eq!((stuck(4), stuck(5), stuck(7)), (None, Some(Who::Shard(0)), Some(Who::Shard(0))));
        assert_eq!(stuck(9), None);
        assert!(found.iter().all(|found| !found.isolated));
    }

    #[test]
    fn a_client_for_images_is_stuck_only_if_the_other_one_answers() {
        let alone = after(8, |who, second| *who != data() || second < 2);
        assert_eq!(alone[5 * 4].stuck, Some(data()));
        // `ceph osd pause`: the monitors answer, and no OSD does.
        let paused = after(70, |who, second| *who == Who::Monitors || *who == Who::Shard(0) || second < 2);
        assert!(paused.iter().all(|found| *found == Findings::default()));
        // It begins between the two questions of one second.
        let between = after(70, |who, second| {
            *who == Who::Monitors
                || *who == Who::Shard(0)
                || second < 2
                || second == 2 && *who == Who::Control
        });
        assert!(between.iter().all(|found| *found == Findings::default()));
    }

    #[test]
    fn nobody_of_rados_answers() {
        let cut = after(10, |who, second| *who == Who::Shard(0) || !(2..7).contains(&second));
        assert!(!cut[3 * 4].isolated && cut[5 * 4].isolated && cut[6 * 4].isolated && !cut[8 * 4].isolated);
        assert!(cut.iter().all(|found| found.stuck.is_none()));
        let begun = Instant::now();
        let mut pulses = Pulses::new(begun);
        for n in 0u32..40 {
            assert!(!pulses.look(begun + TICK * n, n.into()).isolated, "operations of initiators end");
        }
    }

    #[test]
    fn who_stood_still_knows_nothing() {
        let begun = Instant::now();
        let mut pulses = Pulses::new(begun);
        pulses.ask(&Who::Shard(0), begun);
        let later = begun + Duration::from_secs(15);
        assert_eq!(pulses.look(later, 0), Findings::default());
        assert_eq!(pulses.look(later + TICK, 0), Findings::default());
        for n in 2..12u32 {
            pulses.look(later + TICK * n, 0);
        }
        let found = pulses.look(later + SILENCE, 0);
        assert!(found.isolated && found.stuck == Some(Who::Shard(0)));
    }
}
