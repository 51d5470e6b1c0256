//! Daemons: registration, write-ahead addresses, ends and fences (design: records and epochs).
//!
//! A RADOS client is on record before it opens an image. It leaves the record in two ways only: after a shutdown with
//! nothing in flight ([`remove_data_addrs`], [`retire`]), or with the OSD epoch of its blocklisting ([`fenced`]). What a
//! start leaves behind, the next start of the same daemon inherits in `to_fence`, in the same step that takes its place.

mod standing;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU16;

pub use standing::{declare_down, drain, leave, mark_down, rm, set_in, set_out};

use super::leader::withdraw;
use super::placement::{PLACED_PER_STEP_MAX, place};
use super::{Change, Draft, Refusal};
use crate::id::{ClientAddr, DaemonId, Epoch};
use crate::increment::Origin;
use crate::key::Key;
use crate::map::LusMap;
use crate::model::{
    ADDRESSES_MAX, BASE_WRITER, DaemonInstance, FENCED_MAX, Fenced, InstanceState, PORTALS_MAX,
    PlacementReason, WEIGHT_DEFAULT, is_line_text,
};
use crate::placement::choose;

/// Daemons at most: four times what is promised to be fast.
pub const DAEMONS_MAX: usize = 256;

/// What a daemon says of itself when it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Register {
    /// The daemon.
    pub id: DaemonId,
    /// Where it will accept iSCSI.
    pub portals: Vec<SocketAddr>,
    /// The name of its machine.
    pub hostname: String,
    /// The version of its program.
    pub version: String,
    /// Its RADOS client for map and records.
    pub control_addr: ClientAddr,
    /// Its RADOS clients for images; none of them has opened one yet.
    pub data_addrs: Vec<ClientAddr>,
}

/// Registers a start of a daemon: the instance `(id, map.epoch() + 1)`. An older start of it goes, and what that left
/// unfenced is the new one's to fence. Units without an owner are placed, 2048 of them at most. Asked again by the very
/// same start, there is nothing to do.
///
/// # Errors
/// [`Refusal::AddressTaken`], [`Refusal::Invalid`], [`Refusal::TooMany`].
pub fn register(map: &LusMap, origin: &Origin, ask: &Register) -> Result<Change, Refusal> {
    valid(ask)?;
    let own: Vec<&ClientAddr> = std::iter::once(&ask.control_addr).chain(&ask.data_addrs).collect();
    if own.iter().collect::<BTreeSet<_>>().len() != own.len() {
        return Err(Refusal::Invalid { what: "client addresses", why: "one is named twice".to_owned() });
    }
    if let Some(daemon) = map.daemon(&ask.id).filter(|daemon| is_this_start(daemon, ask)) {
        return Ok(Change::Already {
            said: format!("lus.{} is registered, up_from {}", ask.id, daemon.up_from),
        });
    }
    own.iter().try_for_each(|addr| not_on_record(map, addr))?;
    let mut draft = Draft::new(map, origin);
    let mut instance = DaemonInstance {
        min_writer: BASE_WRITER,
        id: ask.id.clone(),
        up_from: draft.epoch(),
        state: InstanceState::Up,
        portal_group_tag: portal_group_tag(map, &ask.id)?,
        portals: ask.portals.clone(),
        hostname: ask.hostname.clone(),
        version: ask.version.clone(),
        registered: origin.when,
        control_addr: Some(ask.control_addr.clone()),
        data_addrs: ask.data_addrs.clone(),
        to_fence: Vec::new(),
        fenced: Vec::new(),
        weight: WEIGHT_DEFAULT,
        out: false,
        downs: Vec::new(),
        leaving: false,
    };
    for older in map.instances(&ask.id) {
        instance.to_fence.extend(older.unfenced().cloned());
        instance.fenced.extend(older.fenced.iter().cloned());
        (instance.weight, instance.out) = (older.weight, older.out);
        instance.downs.clone_from(&older.downs);
        // It neither ended in order nor was declared down: it is gone all the same.
        if older.state.is_up() {
            instance.note_down(origin.when);
        }
        draft.remove(Key::Daemon(older.key()));
    }
    if own.len() + instance.to_fence.len() > ADDRESSES_MAX {
        return Err(Refusal::TooMany {
            what: "clients of older starts that were never fenced",
            limit: ADDRESSES_MAX,
        });
    }
    forget_oldest(&mut instance.fenced);
    place_on_registration(map, &mut draft, &instance);
    draft.put(&instance);
    let (id, up_from) = (&instance.id, instance.up_from);
    draft.finish(format!("register lus.{id}"), format!("lus.{id} registered, up_from {up_from}"))
}

/// Whether this very start has registered: an earlier attempt whose result it does not know got there. No two starts
/// have a RADOS client in common.
fn is_this_start(daemon: &DaemonInstance, ask: &Register) -> bool {
    daemon.state.is_up()
        && daemon.control_addr.as_ref() == Some(&ask.control_addr)
        && daemon.data_addrs == ask.data_addrs
        && daemon.portals == ask.portals
}

fn valid(ask: &Register) -> Result<(), Refusal> {
    if ask.portals.len() > PORTALS_MAX {
        return Err(Refusal::TooMany { what: "portals", limit: PORTALS_MAX });
    }
    // A host has to be able to reach what it is told.
    if let Some(portal) = ask.portals.iter().find(|portal| portal.ip().is_unspecified() || portal.port() == 0)
    {
        return Err(Refusal::Invalid {
            what: "portal",
            why: format!("{portal} is not an address to connect to"),
        });
    }
    for (what, text) in [("host name", &ask.hostname), ("version", &ask.version)] {
        if !is_line_text(text) {
            return Err(Refusal::Invalid { what, why: "too long or unprintable".to_owned() });
        }
    }
    Ok(())
}

fn not_on_record(map: &LusMap, addr: &ClientAddr) -> Result<(), Refusal> {
    let holds = |daemon: &&DaemonInstance| {
        daemon.unfenced().chain(daemon.fenced.iter().map(|fenced| &fenced.addr)).any(|known| known == addr)
    };
    match map.daemons().find(holds) {
        Some(daemon) => Err(Refusal::AddressTaken { addr: addr.clone(), holder: daemon.id.clone() }),
        None => Ok(()),
    }
}

/// The tag that the daemon has had since its first start, or the lowest free one.
fn portal_group_tag(map: &LusMap, id: &DaemonId) -> Result<NonZeroU16, Refusal> {
    if let Some(older) = map.daemon(id) {
        return Ok(older.portal_group_tag);
    }
    if map.daemons().count() >= DAEMONS_MAX {
        return Err(Refusal::TooMany { what: "daemons", limit: DAEMONS_MAX });
    }
    let taken: BTreeSet<NonZeroU16> = map.daemons().map(|daemon| daemon.portal_group_tag).collect();
    (1..=u16::MAX)
        .filter_map(NonZeroU16::new)
        .find(|tag| !taken.contains(tag))
        .ok_or(Refusal::TooMany { what: "portal group tags", limit: usize::from(u16::MAX) })
}

fn place_on_registration(map: &LusMap, draft: &mut Draft<'_>, instance: &DaemonInstance) {
    let others = || map.daemons().filter(|daemon| daemon.takes_units() && daemon.id != instance.id);
    let candidates = || {
        let new = Some(instance).filter(|new| new.takes_units());
        others().chain(new).map(|daemon| (&daemon.id, daemon.weight))
    };
    for lu in map.unplaced().take(PLACED_PER_STEP_MAX) {
        let Some(owner) = choose(lu, candidates()) else { return };
        place(draft, *lu, owner, PlacementReason::Registered);
    }
}

fn forget_oldest(fenced: &mut Vec<Fenced>) {
    let excess = fenced.len().saturating_sub(FENCED_MAX);
    fenced.drain(..excess);
}

/// The start `(id, up_from)`, if it is still the daemon's.
fn current<'a>(map: &'a LusMap, id: &DaemonId, up_from: Epoch) -> Result<&'a DaemonInstance, Refusal> {
    map.instance(id, up_from).ok_or_else(|| match map.daemon(id) {
        Some(newest) => Refusal::Superseded { id: id.clone(), up_from, newest: Some(newest.up_from) },
        None => Refusal::Superseded { id: id.clone(), up_from, newest: None },
    })
}

/// The same, and it is up.
pub(super) fn current_up<'a>(
    map: &'a LusMap,
    id: &DaemonId,
    up_from: Epoch,
) -> Result<&'a DaemonInstance, Refusal> {
    let instance = current(map, id, up_from)?;
    if !instance.state.is_up() {
        return Err(Refusal::NotUp { id: id.clone(), up_from });
    }
    Ok(instance)
}

/// Puts more RADOS clients of a daemon on record, before they open anything.
///
/// # Errors
/// [`Refusal::Superseded`], [`Refusal::NotUp`], [`Refusal::AddressTaken`], [`Refusal::TooMany`].
pub fn add_data_addrs(
    map: &LusMap,
    origin: &Origin,
    (id, up_from): (&DaemonId, Epoch),
    addrs: &[ClientAddr],
) -> Result<Change, Refusal> {
    let mut instance = current_up(map, id, up_from)?.clone();
    for addr in addrs {
        if !instance.data_addrs.contains(addr) {
            not_on_record(map, addr)?;
            instance.data_addrs.push(addr.clone());
        }
    }
    if instance.unfenced().count() > ADDRESSES_MAX {
        return Err(Refusal::TooMany { what: "RADOS clients", limit: ADDRESSES_MAX });
    }
    let mut draft = Draft::new(map, origin);
    draft.put(&instance);
    let count = addrs.len();
    draft.finish(
        format!("lus.{id} opens {count} data clients"),
        format!("{count} clients on record for lus.{id}"),
    )
}

/// Takes RADOS clients off a daemon's record: they were shut down with nothing in flight.
///
/// # Errors
/// [`Refusal::Superseded`], [`Refusal::NotUp`], [`Refusal::NotOnRecord`].
pub fn remove_data_addrs(
    map: &LusMap,
    origin: &Origin,
    (id, up_from): (&DaemonId, Epoch),
    addrs: &[ClientAddr],
) -> Result<Change, Refusal> {
    let mut instance = current_up(map, id, up_from)?.clone();
    for addr in addrs {
        let Some(index) = instance.data_addrs.iter().position(|known| known == addr) else {
            return Err(Refusal::NotOnRecord { addr: addr.clone(), id: id.clone(), up_from });
        };
        instance.data_addrs.remove(index);
    }
    let mut draft = Draft::new(map, origin);
    draft.put(&instance);
    let count = addrs.len();
    draft.finish(
        format!("lus.{id} closed {count} data clients"),
        format!("{count} clients off lus.{id}'s record"),
    )
}

/// The clean end of a start: its clients are shut down with nothing in flight, the control client does this as its last
/// act. What it inherited and did not fence stays on record.
///
/// # Errors
/// [`Refusal::Superseded`]; [`Refusal::NotUp`] if it was declared down, for then its clients are to be fenced.
pub fn retire(map: &LusMap, origin: &Origin, (id, up_from): (&DaemonId, Epoch)) -> Result<Change, Refusal> {
    let mut instance = current(map, id, up_from)?.clone();
    let said = format!("lus.{id} up_from {up_from} retired");
    match instance.state {
        InstanceState::Retired { .. } => return Ok(Change::Already { said }),
        InstanceState::Down { .. } => return Err(Refusal::NotUp { id: id.clone(), up_from }),
        InstanceState::Up => {}
    }
    let mut draft = Draft::new(map, origin);
    instance.state = InstanceState::Retired { down_at: draft.epoch() };
    instance.control_addr = None;
    instance.data_addrs.clear();
    withdraw(map, &mut draft, &instance.key());
    draft.put(&instance);
    draft.finish(format!("retire lus.{id} up_from {up_from}"), said)
}

/// Records that RADOS clients are on the blocklist of OSD map `osd_epoch`, which the caller has seen. Each leaves
/// the record of whoever had it; one that nobody has is no error.
///
/// # Errors
/// [`Refusal::Invalid`] for OSD epoch 0, [`Refusal::TooOld`].
pub fn fenced(
    map: &LusMap,
    origin: &Origin,
    addrs: &[ClientAddr],
    osd_epoch: u64,
) -> Result<Change, Refusal> {
    if osd_epoch == 0 {
        return Err(Refusal::Invalid { what: "OSD epoch", why: "it must be above 0".to_owned() });
    }
    let gone: BTreeSet<&ClientAddr> = addrs.iter().collect();
    let mut draft = Draft::new(map, origin);
    let mut count = 0;
    for daemon in map.daemons().filter(|daemon| daemon.unfenced().any(|addr| gone.contains(addr))) {
        let mut instance = daemon.clone();
        let hit: Vec<ClientAddr> = daemon.unfenced().filter(|addr| gone.contains(addr)).cloned().collect();
        count += hit.len();
        instance.control_addr.take_if(|addr| gone.contains(addr));
        instance.data_addrs.retain(|addr| !gone.contains(addr));
        instance.to_fence.retain(|addr| !gone.contains(addr));
        instance.fenced.extend(hit.into_iter().map(|addr| Fenced { addr, osd_epoch }));
        forget_oldest(&mut instance.fenced);
        draft.put(&instance);
    }
    if count == 0 {
        return Ok(Change::Already { said: "no such client is on record".to_owned() });
    }
    let list: Vec<&str> = gone.iter().map(|addr| addr.as_str()).collect();
    draft.finish(
        format!("fenced at OSD epoch {osd_epoch}: {}", list.join(" ")),
        format!("{count} clients fenced"),
    )
}

impl LusMap {
    /// The OSD epoch since which a RADOS client is fenced, as far as the map remembers.
    pub fn fenced_at(&self, addr: &ClientAddr) -> Option<u64> {
        let fenced = self.daemons().flat_map(|daemon| &daemon.fenced);
        fenced.filter(|fenced| fenced.addr == *addr).map(|fenced| fenced.osd_epoch).next()
    }
}
