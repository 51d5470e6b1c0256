//! Who has to show by CHAP who it is, with which secrets, and how often it may try.
//!
//! The secrets are read as they are followed; nothing of them is in the view, which more can see. Who fails too often is turned away
//! for a while before anything is computed: per initiator name at one address, and per address whatever names come from there.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use lus_map::Secrets;
use lusd_iscsi::chap::{ChallengeKey, ChapGrant, Credentials, NONCE_LEN, Secret};
use lusd_iscsi::{Authentication, LoginStatus};

/// Failures of one initiator at one address before it has to wait.
const BURST_INITIATOR: u32 = 8;
/// Failures of all at one address before they have to wait: hosts behind one address are many.
const BURST_ADDRESS: u32 = 64;
/// After this time one failure of an initiator is forgotten: an hour has 360 attempts for a secret of 96 bits.
const FORGET: Duration = Duration::from_secs(10);
/// The same for an address.
const FORGET_ADDRESS: Duration = Duration::from_secs(1);
/// Initiators and addresses that are remembered; who failed longest ago is forgotten first. Some 300 bytes each.
const REMEMBERED_MAX: usize = 4096;

/// See the module's text.
#[derive(Debug, Default)]
pub struct Authenticator {
    /// None: not read yet.
    secrets: ArcSwapOption<Secrets>,
    failures: Mutex<Failures>,
    failed: AtomicU64,
    turned_away: AtomicU64,
}

/// What became of logins that had to authenticate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Wrong, or not even tried.
    pub failed: u64,
    /// Not looked at, because there were too many before.
    pub turned_away: u64,
}

impl Authenticator {
    /// What counts from now on, for logins that begin.
    pub fn set(&self, secrets: Secrets) {
        self.secrets.store(Some(Arc::new(secrets)));
    }

    /// How an initiator has to show who it is at `target`; none: for discovery. Both names are in lower case.
    ///
    /// # Errors
    /// The status to refuse it with.
    pub fn wanted(&self, target: Option<&str>, initiator: &str) -> Result<Authentication, LoginStatus> {
        let secrets = self.secrets.load();
        let Some(secrets) = secrets.as_ref() else { return Ok(Authentication::None) };
        // What the map does not take as a name has no secrets of its own there.
        let initiator = initiator.parse().ok();
        let target = match target {
            Some(name) => Some(name.parse().map_err(|_| LoginStatus::NotFound)?),
            None => None,
        };
        let Some(chap) = secrets.at_login(target.as_ref(), initiator.as_ref()) else {
            return Ok(Authentication::None);
        };
        let mut random = [0; NONCE_LEN + 1];
        getrandom::fill(&mut random).map_err(|_| LoginStatus::TargetError)?;
        let [identifier, nonce @ ..] = random;
        Ok(Authentication::Chap(Box::new(ChapGrant {
            initiator: credentials(&chap.initiator)?,
            target: chap.target.as_ref().map(credentials).transpose()?,
            identifier,
            nonce,
            key: ChallengeKey::new(*secrets.challenge_key()),
        })))
    }

    /// Whether an initiator may try.
    pub fn admits(&self, address: IpAddr, initiator: &str, now: Instant) -> bool {
        let mut failures = self.failures();
        let admits = Key::both(address, initiator).iter().all(|key| failures.level(key, now) < key.burst());
        if !admits {
            self.turned_away.fetch_add(1, Relaxed);
        }
        admits
    }

    /// It failed. True if it is turned away from now on, for a while.
    pub fn has_failed(&self, address: IpAddr, initiator: &str, now: Instant) -> bool {
        self.failed.fetch_add(1, Relaxed);
        let mut failures = self.failures();
        Key::both(address, initiator).map(|key| failures.add(key, now)).contains(&true)
    }

    /// It has shown who it is: what it failed before was a mistake.
    pub fn has_passed(&self, address: IpAddr, initiator: &str) {
        let [own, _] = Key::both(address, initiator);
        self.failures().levels.remove(&own);
    }

    /// What became of logins.
    pub fn counters(&self) -> Counters {
        Counters { failed: self.failed.load(Relaxed), turned_away: self.turned_away.load(Relaxed) }
    }

    fn failures(&self) -> std::sync::MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn credentials(stored: &lus_map::Credentials) -> Result<Credentials, LoginStatus> {
    let secret = Secret::new(stored.secret().expose()).map_err(|_| LoginStatus::TargetError)?;
    Ok(Credentials { name: stored.name().to_owned(), secret })
}

/// Who is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    address: IpAddr,
    /// None: all of this address.
    initiator: Option<Box<str>>,
}

impl Key {
    fn both(address: IpAddr, initiator: &str) -> [Self; 2] {
        let address = match address.to_canonical() {
            // A host has a whole network of these to choose from.
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
            v4 => v4,
        };
        [Some(initiator.into()), None].map(|initiator| Self { address, initiator })
    }

    fn burst(&self) -> u32 {
        if self.initiator.is_some() { BURST_INITIATOR } else { BURST_ADDRESS }
    }

    fn forget(&self) -> Duration {
        if self.initiator.is_some() { FORGET } else { FORGET_ADDRESS }
    }
}

/// Failures that are not forgotten, as of a time.
#[derive(Clone, Copy, Debug)]
struct Level {
    failures: u32,
    at: Instant,
}

#[derive(Debug, Default)]
struct Failures {
    levels: HashMap<Key, Level>,
}

impl Failures {
    /// Failures that are not forgotten.
    fn level(&mut self, key: &Key, now: Instant) -> u32 {
        let Some(level) = self.levels.get_mut(key) else { return 0 };
        let forgotten = now.saturating_duration_since(level.at).as_micros() / key.forget().as_micros();
        let forgotten = u32::try_from(forgotten).unwrap_or(u32::MAX);
        level.failures = level.failures.saturating_sub(forgotten);
        level.at += key.forget().saturating_mul(forgotten);
        if level.failures == 0 {
            self.levels.remove(key);
            return 0;
        }
        level.failures
    }

    /// One more. True if it was the last one.
    fn add(&mut self, key: Key, now: Instant) -> bool {
        let burst = key.burst();
        let failures = self.level(&key, now) + 1;
        if failures == 1 && self.levels.len() >= REMEMBERED_MAX {
            let oldest = self.levels.iter().min_by_key(|(_, level)| level.at).map(|(key, _)| key.clone());
            oldest.map(|key| self.levels.remove(&key));
        }
        let level = self.levels.entry(key).or_insert(Level { failures, at: now });
        level.failures = failures.min(burst);
        failures == burst
    }
}

#[cfg(test)]
mod tests {
    use lus_map::{Chap, Subject, Timestamp};

    use super::*;

    const TARGET: &str = "iqn.2026-11.io.lus:disk";
    const HOST: &str = "iqn.2026-11.io.lus:host";

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn who_has_secrets_has_to_show_them() {
        let authenticator = Authenticator::default();
        assert_eq!(authenticator.wanted(Some(TARGET), HOST), Ok(Authentication::None));
        let secret = lus_map::Secret::new(b"secret-of-host").unwrap();
        let chap = Chap {
            initiator: lus_map::Credentials::new("host", secret).unwrap(),
            target: None,
            changed: Timestamp(0),
        };
        let subject = Subject::Target(TARGET.parse().unwrap());
        authenticator.set(Secrets::new([1; 32]).set(&subject, chap).unwrap());
        let wanted = || match authenticator.wanted(Some(TARGET), HOST) {
            Ok(Authentication::Chap(grant)) => grant,
            other => panic!("{other:?}"),
        };
        let (first, second) = (wanted(), wanted());
        assert_eq!((&*first.initiator.name, &first.target), ("host", &None));
        assert_eq!(first.initiator.secret, Secret::new(b"secret-of-host").unwrap());
        assert_ne!(first.nonce, second.nonce, "a challenge is never used again");
        assert_eq!(authenticator.wanted(None, HOST), Ok(Authentication::None));
        assert_eq!(authenticator.wanted(Some("iqn.2026-11.io.lus:x"), HOST), Ok(Authentication::None));
        // A name that the map would not take gets no further by that.
        assert!(matches!(authenticator.wanted(Some(TARGET), "?"), Ok(Authentication::Chap(_))));
    }

    #[test]
    fn who_fails_too_often_waits() {
        let authenticator = Authenticator::default();
        let (here, there, now) = (address("192.0.2.1"), address("192.0.2.2"), Instant::now());
        for n in 1..=BURST_INITIATOR {
            assert!(authenticator.admits(here, HOST, now), "{n}");
            assert_eq!(authenticator.has_failed(here, HOST, now), n == BURST_INITIATOR, "{n}");
        }
        assert!(!authenticator.admits(here, HOST, now));
        assert!(!authenticator.admits(address("::ffff:192.0.2.1"), HOST, now), "the same address");
        assert!(authenticator.admits(here, "iqn.x", now) && authenticator.admits(there, HOST, now));
        let later = now + FORGET;
        assert!(authenticator.admits(here, HOST, later), "one more");
        assert!(authenticator.has_failed(here, HOST, later));
        assert!(!authenticator.admits(here, HOST, later));
        authenticator.has_passed(here, HOST);
        assert!(authenticator.admits(here, HOST, later));
        let failed = u64::from(BURST_INITIATOR) + 1;
        assert_eq!(authenticator.counters(), Counters { failed, turned_away: 3 });
    }

    #[test]
    fn other_names_from_one_address_do_not_help() {
        let authenticator = Authenticator::default();
        let now = Instant::now();
        for n in 0..BURST_ADDRESS {
            // The addresses of one network are one host's to choose from.
            let address = address(&format!("2001:db8::{n:x}"));
            assert!(authenticator.admits(address, &format!("iqn.{n}"), now));
            authenticator.has_failed(address, &format!("iqn.{n}"), now);
        }
        assert!(!authenticator.admits(address("2001:db8::ffff"), "iqn.new", now));
        assert!(authenticator.admits(address("2001:db8:0:1::1"), "iqn.new", now));
        assert!(authenticator.admits(address("2001:db8::1"), "iqn.new", now + FORGET_ADDRESS));
    }

    #[test]
    fn memory_is_bounded() {
        let authenticator = Authenticator::default();
        let now = Instant::now();
        // Two entries each.
        let last = u32::try_from(REMEMBERED_MAX).unwrap() / 2 + 128;
        for n in 0..last {
            let at = now + Duration::from_micros(n.into());
            authenticator.has_failed(IpAddr::V4(n.into()), HOST, at);
        }
        let failures = authenticator.failures();
        assert_eq!(failures.levels.len(), REMEMBERED_MAX);
        let remembered = |n: u32| failures.levels.contains_key(&Key::both(IpAddr::V4(n.into()), HOST)[0]);
        assert!(remembered(last - 1) && !remembered(0), "the oldest is forgotten first");
    }
}
