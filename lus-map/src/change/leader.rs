//! The leadership: one entry in the map, taken by compare-and-set, and a term that only rises.

use super::{Change, Draft, Refusal};
use crate::increment::Origin;
use crate::key::{InstanceKey, Key};
use crate::map::LusMap;
use crate::model::{BASE_WRITER, Leader};

/// The leader, if `origin` is of its term, which is the map's, and it is up.
///
/// # Errors
/// [`Refusal::NotLeader`].
pub(super) fn leads<'a>(map: &'a LusMap, origin: &Origin) -> Result<&'a Leader, Refusal> {
    let (term, current) = (origin.leader_term, map.meta().leader_term);
    let up = |leader: &&Leader| {
        map.instance(&leader.daemon, leader.up_from).is_some_and(|daemon| daemon.state.is_up())
    };
    let leader = map.leader().filter(|leader| term == Some(leader.term) && leader.term == current);
    leader.filter(up).ok_or(Refusal::NotLeader { term, current })
}

/// Takes the leadership for the start `me`, in the next term. When it may is [`candidate`](crate::candidate)'s to say.
/// The same change sets the lease, see [`lease`](crate::lease).
///
/// # Errors
/// [`Refusal::Superseded`], [`Refusal::NotUp`].
pub fn take(map: &LusMap, origin: &Origin, me: &InstanceKey) -> Result<Change, Refusal> {
    super::daemon::current_up(map, &me.id, me.up_from)?;
    let mut meta = map.meta().clone();
    assert!(meta.leader_term < u64::MAX, "the term counter cannot be exhausted");
    meta.leader_term += 1;
    let term = meta.leader_term;
    let origin = origin.clone().leading(term);
    let mut draft = Draft::new(map, &origin);
    draft.put(&meta);
    draft.put(&Leader {
        min_writer: BASE_WRITER,
        daemon: me.id.clone(),
        up_from: me.up_from,
        term,
        taken: origin.when,
    });
    draft.finish(format!("leader {me}, term {term}"), format!("lus.{} leads, term {term}", me.id))
}

/// Gives the leadership up, if `me` has it: others need not wait for the lease to run out.
///
/// # Errors
/// [`Refusal::TooOld`] for a map of a newer program.
pub fn resign(map: &LusMap, origin: &Origin, me: &InstanceKey) -> Result<Change, Refusal> {
    let said = format!("lus.{} does not lead", me.id);
    let mut draft = Draft::new(map, origin);
    if !withdraw(map, &mut draft, me) {
        return Ok(Change::Already { said });
    }
    draft.finish(format!("leader {me} resigns"), said)
}

/// Takes the entry away if it is of `me`; whether it was.
pub(super) fn withdraw(map: &LusMap, draft: &mut Draft<'_>, me: &InstanceKey) -> bool {
    let mine = map.leader().is_some_and(|leader| leader.instance() == *me);
    if mine {
        draft.remove(Key::Leader);
    }
    mine
}
