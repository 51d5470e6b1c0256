//! How an LU becomes this daemon's: a pure function from what is known to what is to be done next. The owner's task does it and
//! adds to what is known; a crash after any step leaves a state from which the next start goes on.
//!
//! ```text
//!                 ┌─ its holder lives: open ─► await its release ─┐
//!   read record ──┤                                               ├─► raise the LU epoch in the record ─► open ─► list lockers
//!                 └─ it does not: fence it ─► see that OSD map ───┘                                                 │
//!      serve ◄── check ownership ◄── acquire ◄── break (only clients that are fenced for good) ◄────────────────────┘
//! ```
//!
//! Invariants (checked by the tests over every crash point):
//! * The record names us, under an epoch that nobody had, before the lock is broken or acquired.
//! * The client that the record named before has released the LU, or is on the blocklist and our client for images has seen that
//!   OSD map, before the record names us. Ours is never fenced by us.
//! * A holder that lives is given the time to let go, see [`lus_map::record::handover`]; the image is open by then, without its lock.
//! * A lock is broken only if its holder's client is fenced for good; who is not of LUS is left alone.
//! * Nothing is served unless the lock was acquired under this record and librbd confirms that we own it.

use lus_map::{ClientAddr, Fenced, Holder, LuRecord, LuState};

/// Who holds the lock of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockHolder {
    /// `client.4711`.
    pub client: String,
    /// The lock's cookie.
    pub cookie: String,
    /// Its address; `None` if it has a form that we do not know.
    pub addr: Option<ClientAddr>,
}

/// What an LU's image is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageFacts {
    /// It has the feature without which nobody can own it.
    pub exclusive_lock: bool,
    /// It is the other end's copy of a mirrored image.
    pub non_primary: bool,
    /// It is the image that was added to the map, not another one of that name.
    pub same_image: bool,
}

/// Whether a lock holder's client can still write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// On the blocklist for years.
    FencedForGood,
    /// On record as a client of a daemon's start that is over: ours to fence.
    Abandoned,
    /// A client of another daemon that is up: it has released the LU, and gives the lock up in a moment.
    Leaving,
    /// Anyone else: left alone.
    Foreign,
}

/// What is known so far. It only grows while one attempt lasts.
#[derive(Clone, Debug)]
pub struct Facts {
    /// This start of this daemon, with the client that opens the image.
    pub me: Holder,
    /// The record as last read or written; the inner `None`: there is none.
    pub record: Option<Option<LuRecord>>,
    /// Whether the recorded holder lives and has to be waited for.
    pub holder_lives: Option<bool>,
    /// The recorded client is on the blocklist, as of this OSD epoch.
    pub fenced: Option<Fenced>,
    /// Our client for images has the newest OSD map since the last fence.
    pub osdmap_seen: bool,
    /// The image has blocks in RADOS, and so a lock; `ram:` and `null:` have not.
    pub has_image: bool,
    /// The image is open read-write, and is this.
    pub image: Option<ImageFacts>,
    /// Who holds the lock.
    pub lockers: Option<Vec<LockHolder>>,
    /// What is known of the first of `lockers`.
    pub standing: Option<Standing>,
    /// A locker that was [`Leaving`](Standing::Leaving) had its time.
    pub unlock_overdue: bool,
    /// `rbd_lock_acquire` returned 0.
    pub acquired: bool,
    /// librbd asked the OSD: we own the lock.
    pub confirmed: bool,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read `lu.<id>`.
    ReadRecord,
    /// Write the first record.
    CreateRecord,
    /// Find out whether the recorded holder lives.
    AskMap,
    /// Wait until the holder lets go, dies, or had its time.
    AwaitRelease,
    /// Blocklist this client.
    Fence(ClientAddr),
    /// Wait for the newest OSD map in the client for images.
    SeeOsdMap,
    /// Compare-and-set the record to this.
    Write(LuRecord),
    /// Open the image read-write.
    Open,
    /// List who holds its lock.
    ListLockers,
    /// Find out whether this client is fenced for good.
    LookUp(ClientAddr),
    /// Wait until this lock is gone, or its holder had its time.
    AwaitUnlock(LockHolder),
    /// Break this lock.
    Break(LockHolder),
    /// `rbd_lock_acquire`.
    Acquire,
    /// `rbd_is_exclusive_lock_owner`.
    Confirm,
    /// Everything holds: serve under the record's epoch.
    Serve,
    /// It cannot go on; try again later.
    Wait(Obstacle),
}

/// Why an LU is not served although it is placed here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// A client that is not of LUS holds the lock.
    #[error("foreign lock holder {} ({}): it is not broken", .0.addr.as_ref().map_or("of unknown address", |a| a.as_str()), .0.client)]
    ForeignHolder(LockHolder),
    /// The image lacks the feature exclusive-lock.
    #[error("the image lacks the feature exclusive-lock: run 'rbd feature enable POOL/IMAGE exclusive-lock'")]
    NoExclusiveLock,
    /// The image is the copy of a mirrored one.
    #[error("the image is a non-primary mirror copy: promote it first")]
    NonPrimary,
    /// The image of that name is another one.
    #[error("the image is not the one that was added: it was removed and created again")]
    OtherImage,
    /// The record does not allow it.
    #[error("{0}")]
    Record(lus_map::RecordError),
}

impl Obstacle {
    /// It goes away only when somebody acts.
    pub fn needs_somebody(&self) -> bool {
        !matches!(self, Self::Record(_))
    }
}

impl Step {
    /// Whether it may be left in the middle when the map wants something else: nothing has begun that others would have to know of.
    pub fn may_be_left(&self) -> bool {
        !matches!(self, Self::Write(_) | Self::Acquire | Self::Confirm | Self::Serve)
    }
}

impl Facts {
    /// Nothing but who we are.
    pub fn new(me: Holder, has_image: bool) -> Self {
        Self {
            me,
            record: None,
            holder_lives: None,
            fenced: None,
            osdmap_seen: false,
            has_image,
            image: None,
            lockers: None,
            standing: None,
            unlock_overdue: false,
            acquired: false,
            confirmed: false,
        }
    }

    /// The record names us, through the very client that we use.
    fn is_ours(&self, record: &LuRecord) -> bool {
        matches!(&record.state, LuState::Serving { holder } if *holder == self.me)
    }

    /// The record names us, and nothing was served under it yet: whoever gives up now has to say so.
    pub fn has_claim(&self) -> bool {
        self.record.as_ref().and_then(Option::as_ref).is_some_and(|record| self.is_ours(record))
    }

    /// See the module's text.
    pub fn next(&self) -> Step {
        let record = match &self.record {
            None => return Step::ReadRecord,
            Some(None) => return Step::CreateRecord,
            Some(Some(record)) => record,
        };
        if !self.is_ours(record) {
            return self.claim(record);
        }
        if !self.has_image {
            return Step::Serve;
        }
        let Some(image) = &self.image else { return Step::Open };
        if let Some(obstacle) = image.obstacle() {
            return Step::Wait(obstacle);
        }
        if self.acquired {
            return if self.confirmed { Step::Serve } else { Step::Confirm };
        }
        match &self.lockers {
            None => Step::ListLockers,
            Some(lockers) => lockers.first().map_or(Step::Acquire, |locker| self.pass(locker)),
        }
    }

    /// Makes the record ours.
    fn claim(&self, record: &LuRecord) -> Step {
        let next = match record.state.holder() {
            None => record.claim(&self.me),
            // Written through our own client, by an attempt whose outcome was not known, or lost and not replaced:
            // it must not be fenced, and the record cannot be taken over from it.
            Some(holder) if holder.addr == self.me.addr => {
                record.take_over(&self.me, &no_fence(&holder.addr))
            }
            Some(holder) => match (&self.fenced, self.holder_lives) {
                (Some(fenced), _) if fenced.addr == holder.addr && self.osdmap_seen => {
                    record.take_over(&self.me, fenced)
                }
                (Some(fenced), _) if fenced.addr == holder.addr => return Step::SeeOsdMap,
                (_, None) => return Step::AskMap,
                (_, Some(true)) => return self.prepare(),
                (_, Some(false)) => return Step::Fence(holder.addr.clone()),
            },
        };
        match next {
            Ok(next) => Step::Write(next),
            Err(error) => Step::Wait(Obstacle::Record(error)),
        }
    }

    /// All that can be done before the holder lets go.
    fn prepare(&self) -> Step {
        match &self.image {
            None if self.has_image => Step::Open,
            Some(image) => image.obstacle().map_or(Step::AwaitRelease, Step::Wait),
            None => Step::AwaitRelease,
        }
    }

    /// Gets past the one who holds the lock.
    fn pass(&self, locker: &LockHolder) -> Step {
        let Some(addr) = &locker.addr else { return Step::Wait(Obstacle::ForeignHolder(locker.clone())) };
        if *addr == self.me.addr {
            return Step::Acquire;
        }
        if self.fenced.as_ref().is_some_and(|fenced| fenced.addr == *addr) {
            return if self.osdmap_seen { Step::Break(locker.clone()) } else { Step::SeeOsdMap };
        }
        match self.standing {
            None => Step::LookUp(addr.clone()),
            Some(Standing::FencedForGood) if self.osdmap_seen => Step::Break(locker.clone()),
            Some(Standing::FencedForGood) => Step::SeeOsdMap,
            Some(Standing::Abandoned) => Step::Fence(addr.clone()),
            Some(Standing::Leaving) if self.unlock_overdue => Step::Fence(addr.clone()),
            Some(Standing::Leaving) => Step::AwaitUnlock(locker.clone()),
            Some(Standing::Foreign) => Step::Wait(Obstacle::ForeignHolder(locker.clone())),
        }
    }

    /// The record was read, or is known by what became of a write.
    pub fn note_record(&mut self, record: Option<LuRecord>) {
        self.record = Some(record);
        self.holder_lives = None;
    }

    /// A client was fenced, or found to be fenced: the OSD map is to be seen again.
    pub fn note_fenced(&mut self, fenced: Fenced) {
        self.fenced = Some(fenced);
        self.osdmap_seen = false;
    }

    /// What was found out of the first locker.
    pub fn note_standing(&mut self, standing: Standing) {
        self.standing = Some(standing);
        self.osdmap_seen = false;
    }

    /// A lock was broken, or is gone: who is next?
    pub fn note_broken(&mut self) {
        self.lockers = None;
        self.standing = None;
        self.unlock_overdue = false;
    }
}

/// A fence that did not take place, for the record to refuse.
fn no_fence(addr: &ClientAddr) -> Fenced {
    Fenced { addr: addr.clone(), osd_epoch: 0 }
}

impl ImageFacts {
    fn obstacle(&self) -> Option<Obstacle> {
        if !self.same_image {
            Some(Obstacle::OtherImage)
        } else if !self.exclusive_lock {
            Some(Obstacle::NoExclusiveLock)
        } else if self.non_primary {
            Some(Obstacle::NonPrimary)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests;
