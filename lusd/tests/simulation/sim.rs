//! What all parts of one run share: seeded random numbers, the trace, the rule that is broken on purpose, what the oracles found.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use lus_map::Timestamp;
use tokio::time::Instant;
use uuid::Uuid;

use crate::oracle::{Finding, Kind};
use crate::rules::Rule;

/// When every simulation begins.
const START: Timestamp = Timestamp(1_795_230_000_000_000);

/// How slow and how faulty RADOS is, out of a thousand operations.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// Operations that take up to a second.
    pub(crate) slow: u32,
    /// Operations that take several seconds.
    pub(crate) very_slow: u32,
    /// Notifies that reach somebody not at all.
    pub(crate) lost_notifies: u32,
    /// Operations of the control client whose answer does not come: made, not made, or made late.
    pub(crate) unanswered: u32,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[derive(Default)]
struct Trace {
    lines: Option<Vec<String>>,
}

/// See the module's text.
pub(crate) struct Sim {
    /// The rules that are left out in this run.
    pub(crate) broken: &'static [Rule],
    rng: Mutex<fastrand::Rng>,
    begun: Instant,
    trace: Mutex<Trace>,
    weather: Mutex<Weather>,
    finding: Mutex<Option<Finding>>,
}

impl Sim {
    pub(crate) fn new(seed: u64, broken: &'static [Rule], traced: bool) -> Arc<Self> {
        let trace = Trace { lines: traced.then(Vec::new) };
        Arc::new(Self {
            broken,
            rng: Mutex::new(fastrand::Rng::with_seed(seed)),
            begun: Instant::now(),
            trace: Mutex::new(trace),
            weather: Mutex::default(),
            finding: Mutex::default(),
        })
    }

    pub(crate) fn breaks(&self, rule: Rule) -> bool {
        self.broken.contains(&rule)
    }

    pub(crate) fn number(&self, range: RangeInclusive<u64>) -> u64 {
        lock(&self.rng).u64(range)
    }

    pub(crate) fn index(&self, len: usize) -> usize {
        lock(&self.rng).usize(..len)
    }

    pub(crate) fn ms(&self, range: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.number(range))
    }

    /// True `per_mille` times out of a thousand.
    pub(crate) fn chance(&self, per_mille: u32) -> bool {
        per_mille > 0 && lock(&self.rng).u32(..1000) < per_mille
    }

    pub(crate) fn weather(&self) -> Weather {
        *lock(&self.weather)
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        *lock(&self.weather) = weather;
    }

    /// How long an operation travels one way.
    pub(crate) fn latency(&self) -> Duration {
        let weather = self.weather();
        if self.chance(weather.very_slow) {
            self.ms(1000..=6000)
        } else if self.chance(weather.slow) {
            self.ms(20..=900)
        } else {
            self.ms(0..=2)
        }
    }

    /// Time since the run began.
    pub(crate) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    pub(crate) fn timestamp(&self) -> Timestamp {
        Timestamp(START.0 + u64::try_from(self.now().as_micros()).unwrap_or(u64::MAX))
    }

    pub(crate) fn uuid(&self) -> Uuid {
        Uuid::from_u128(lock(&self.rng).u128(..))
    }

    /// A line of the trace, if there is one.
    pub(crate) fn note(&self, line: impl FnOnce() -> String) {
        if lock(&self.trace).lines.is_none() {
            return;
        }
        let line = format!("{:>9.3} {}", self.now().as_secs_f64(), line());
        if let Some(lines) = &mut lock(&self.trace).lines {
            lines.push(line);
        }
    }

    pub(crate) fn trace(&self) -> Vec<String> {
        lock(&self.trace).lines.take().unwrap_or_default()
    }

    /// An oracle has found something; the first finding stands.
    pub(crate) fn found(&self, kind: Kind, what: fmt::Arguments<'_>) {
        let mut finding = lock(&self.finding);
        if finding.is_none() {
            let finding_now = Finding { kind, at: self.now(), what: what.to_string() };
            self.note(|| format!("ORACLE {finding_now}"));
            *finding = Some(finding_now);
        }
    }

    pub(crate) fn finding(&self) -> Option<Finding> {
        lock(&self.finding).clone()
    }
}

/// Reports a finding.
macro_rules! found {
    ($sim:expr, $kind:ident, $($text:tt)*) => {
        $sim.found($crate::oracle::Kind::$kind, format_args!($($text)*))
    };
}
pub(crate) use found;
