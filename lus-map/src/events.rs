//! What happened, out of the increments: verdicts, leaders, moves, fences, comings and goings, with their reasons.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::change::fence::noted;
use crate::id::{ClientAddr, DaemonId, Epoch, LuId};
use crate::increment::{Increment, KeyChange};
use crate::key::{InstanceKey, Key};
use crate::model::{DaemonInstance, InstanceState, Leader, Meta, Placement, PlacementReason};
use crate::time::Timestamp;
use crate::wire::{Corrupt, Entity, Stored, stored};

/// What kind of thing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// A start of a daemon was declared down.
    Verdict,
    /// Another one leads, or nobody any more.
    Leader,
    /// A unit got another owner, or another pin.
    Move,
    /// A unit got another owner as its own was not up.
    Failover,
    /// A RADOS client is fenced.
    Fence,
    /// A daemon started.
    Register,
    /// A daemon ended in order.
    Retire,
    /// A daemon is in, out, about to end, or forgotten.
    Daemon,
    /// A flag was set or unset.
    Flag,
}

impl EventKind {
    /// Its name, as commands have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Verdict => "verdict",
            Self::Leader => "leader",
            Self::Move => "move",
            Self::Failover => "failover",
            Self::Fence => "fence",
            Self::Register => "register",
            Self::Retire => "retire",
            Self::Daemon => "daemon",
            Self::Flag => "flag",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for EventKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// What it happened to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A start of a daemon.
    Daemon(InstanceKey),
    /// A logical unit; its name is the map's to say.
    Lu(LuId),
    /// A RADOS client.
    Client(ClientAddr),
    /// A flag.
    Flag(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Daemon(key) => key.fmt(f),
            Self::Lu(id) => id.fmt(f),
            Self::Client(addr) => addr.fmt(f),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

impl Serialize for Subject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// When, by the clock of whoever wrote it.
    pub time: Timestamp,
    /// The epoch that it made.
    pub epoch: Epoch,
    /// Of what kind it is.
    pub kind: EventKind,
    /// What it happened to.
    pub subject: Subject,
    /// How and why.
    pub reason: String,
    /// Who wrote it.
    pub who: String,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} e{} {} {}: {}", self.time, self.epoch, self.kind, self.subject, self.reason)
    }
}

/// What happened in `increments`, in their order.
///
/// # Errors
/// [`Corrupt`] for a value that cannot be decoded.
pub fn events<'a>(increments: impl IntoIterator<Item = &'a Increment>) -> Result<Vec<Event>, Corrupt> {
    let mut list = List { increment: None, events: Vec::new() };
    for increment in increments {
        list.increment = Some(increment);
        if let Some((addr, reason)) = noted(increment) {
            list.push(EventKind::Fence, Subject::Client(addr), reason);
        }
        for change in &increment.changes {
            match &change.key {
                Key::Meta => list.flags(change)?,
                Key::Leader => list.leader(change)?,
                Key::Daemon(key) => list.daemon(key, change)?,
                Key::Place(lu) => list.placement(*lu, change)?,
                _ => {}
            }
        }
    }
    Ok(list.events)
}

struct List<'a> {
    increment: Option<&'a Increment>,
    events: Vec<Event>,
}

/// What a key held before and holds after.
type BeforeAfter<T> = (Option<Stored<T>>, Option<Stored<T>>);

fn decode<T: Entity>(change: &KeyChange) -> Result<BeforeAfter<T>, Corrupt> {
    let one = |raw: &Option<Vec<u8>>| raw.as_deref().map(|raw| stored(&change.key, raw)).transpose();
    Ok((one(&change.old)?, one(&change.new)?))
}

impl List<'_> {
    fn push(&mut self, kind: EventKind, subject: Subject, reason: String) {
        let Some(increment) = self.increment else { return };
        self.events.push(Event {
            time: increment.origin.when,
            epoch: increment.epoch,
            kind,
            subject,
            reason,
            who: increment.origin.who.clone(),
        });
    }

    fn flags(&mut self, change: &KeyChange) -> Result<(), Corrupt> {
        let (old, new) = decode::<Meta>(change)?;
        let flags = |meta: &Option<Stored<Meta>>| meta.as_ref().map(|m| m.flags.clone()).unwrap_or_default();
        let (old, new) = (flags(&old), flags(&new));
        for flag in new.difference(&old) {
            self.push(EventKind::Flag, Subject::Flag(flag.clone()), "set".to_owned());
        }
        for flag in old.difference(&new) {
            self.push(EventKind::Flag, Subject::Flag(flag.clone()), "unset".to_owned());
        }
        Ok(())
    }

    fn leader(&mut self, change: &KeyChange) -> Result<(), Corrupt> {
        match decode::<Leader>(change)? {
            (old, Some(new)) => {
                let after = old.map(|old| format!(" after {}", old.instance())).unwrap_or_default();
                let reason = format!("leads, term {}{after}", new.term);
                self.push(EventKind::Leader, Subject::Daemon(new.instance()), reason);
            }
            (Some(old), None) => {
                let reason = format!("leads no more, term {}", old.term);
                self.push(EventKind::Leader, Subject::Daemon(old.instance()), reason);
            }
            (None, None) => {}
        }
        Ok(())
    }

    fn daemon(&mut self, key: &InstanceKey, change: &KeyChange) -> Result<(), Corrupt> {
        let subject = || Subject::Daemon(key.clone());
        let (old, new) = match decode::<DaemonInstance>(change)? {
            (None, Some(new)) => {
                let portals: Vec<String> = new.portals.iter().map(ToString::to_string).collect();
                let after = self.superseded_while_up(&key.id)?;
                let reason = format!("on {}, portals {}{after}", new.hostname, portals.join(","));
                self.push(EventKind::Register, subject(), reason);
                return Ok(());
            }
            // A newer start took its place, and is told of; else somebody forgot it.
            (Some(_), None) => {
                if !self.registers(&key.id) {
                    self.push(EventKind::Daemon, subject(), "removed".to_owned());
                }
                return Ok(());
            }
            (Some(old), Some(new)) => (old, new),
            (None, None) => return Ok(()),
        };
        if old.state.is_up() {
            match new.state {
                InstanceState::Up => {}
                InstanceState::Retired { .. } => {
                    self.push(EventKind::Retire, subject(), "ended in order".to_owned());
                }
                InstanceState::Down { .. } => {
                    let reason = self.verdict_reason(key);
                    self.push(EventKind::Verdict, subject(), reason);
                }
            }
        }
        if old.out != new.out {
            let word = if new.out { "out" } else { "in" };
            self.push(EventKind::Daemon, subject(), word.to_owned());
        }
        if !old.leaving && new.leaving {
            self.push(EventKind::Daemon, subject(), "hands over, to end".to_owned());
        }
        for fenced in new.fenced.iter().filter(|fenced| !old.fenced.contains(fenced)) {
            let why = why_fenced(&old, &fenced.addr);
            let reason = format!("of lus.{}, {why}; since OSD epoch {}", key.id, fenced.osd_epoch);
            self.push(EventKind::Fence, Subject::Client(fenced.addr.clone()), reason);
        }
        Ok(())
    }

    /// Whether the increment has a new start of the daemon.
    fn registers(&self, id: &DaemonId) -> bool {
        self.increment.is_some_and(|increment| {
            increment.changes.iter().any(|change| match &change.key {
                Key::Daemon(key) => key.id == *id && change.new.is_some(),
                _ => false,
            })
        })
    }

    /// What there is to say of an older start of the daemon that this increment removes.
    fn superseded_while_up(&self, id: &DaemonId) -> Result<String, Corrupt> {
        for change in self.increment.iter().flat_map(|increment| &increment.changes) {
            if matches!(&change.key, Key::Daemon(key) if key.id == *id && change.new.is_none())
                && let (Some(old), None) = decode::<DaemonInstance>(change)?
                && old.state.is_up()
            {
                return Ok(format!("; up_from {} did not end in order", old.up_from));
            }
        }
        Ok(String::new())
    }

    /// What the increment says of one of perhaps several that it declares down.
    fn verdict_reason(&self, key: &InstanceKey) -> String {
        let Some(why) = self.increment.map(|increment| increment.why.as_str()) else { return String::new() };
        let all = why.strip_prefix("down ").unwrap_or(why);
        let of_key = all.split("; ").find_map(|part| part.strip_prefix(&format!("{key}: ")));
        of_key.unwrap_or(all).to_owned()
    }

    fn placement(&mut self, lu: LuId, change: &KeyChange) -> Result<(), Corrupt> {
        let (Some(old), Some(new)) = decode::<Placement>(change)? else { return Ok(()) };
        if old.owner != new.owner {
            let failover = new.reason == PlacementReason::Failover;
            let kind = if failover { EventKind::Failover } else { EventKind::Move };
            let reason = format!("from lus.{} to lus.{}: {}", old.owner, new.owner, new.reason);
            self.push(kind, Subject::Lu(lu), reason);
        }
        if old.pin != new.pin {
            let reason = match &new.pin {
                Some(pin) => format!("pinned to lus.{pin}"),
                None => "not pinned any more".to_owned(),
            };
            self.push(EventKind::Move, Subject::Lu(lu), reason);
        }
        Ok(())
    }
}

/// Why a client of a daemon was fenced, by what the daemon was before.
fn why_fenced(daemon: &DaemonInstance, addr: &ClientAddr) -> &'static str {
    if daemon.to_fence.contains(addr) {
        "left behind by an older start"
    } else if daemon.state.is_up() {
        "which is up and has given it up"
    } else {
        "which is down"
    }
}
