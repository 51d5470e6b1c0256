//! A planned move, on the side that lets go.
//!
//! ```text
//!   record Moving ─► the other one has the image open ─► gate held, drained ─► record Released ─► lock released ─► image closed
//!        │  serving on                                     │ commands wait                           ─► the other one has the lock
//!        └──────────── placed here again: cancelled ◄──────┘                                         ─► gate shut, they are answered
//! ```
//!
//! Commands that wait in the gate were never submitted, so they may cross the epoch: they are answered so that hosts ask for the
//! port groups and repeat them where the LU is by then. That answer waits until the other one serves: a host that is told earlier finds
//! no path, and some wait for seconds before they ask again.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use lus_map::{DaemonId, LuRecord, LuState, RecordError};
use lus_map_store::{RecordWrite, StoreError, TransitionError};
use lusd_ceph::{Image, Pool};
use lusd_scsi::AccessState;
use tokio::time::{Instant, timeout};
use tracing::{debug, error, info, warn};

use super::attempt::{Held, RBD_LOCK};
use super::{Task, close};
use crate::lun::gate::LuEpoch;
use crate::lun::unit::Unit;

/// How long the other one may take to open the image before the gate is held all the same.
const READY_TIMEOUT: Duration = Duration::from_secs(1);
/// How long it may take to serve before waiting commands are answered all the same: below what hosts wait for an answer.
const TAKEN_TIMEOUT: Duration = Duration::from_secs(3);
/// How often it is looked at.
const POLL: Duration = Duration::from_millis(10);
/// How often a step of the record is tried again because its version was another one.
const ATTEMPTS: usize = 4;

/// What became of a move.
pub(super) enum Over {
    /// The LU is not this daemon's any more.
    Gone,
    /// It is placed here again, and was never away.
    Stays,
    /// It was lost, or does not drain.
    Lost,
}

/// Why a move stops before the release.
enum Stop {
    Cancelled,
    Lost,
}

impl Task {
    /// Hands the LU over to `to`, or finds that it is to stay.
    pub(super) async fn hand_over(
        &mut self,
        unit: &Arc<Unit>,
        held: &mut Held,
        epoch: LuEpoch,
        to: &DaemonId,
    ) -> Over {
        info!(%to, epoch = epoch.0, "moving");
        if let LuState::Moving { .. } = held.record.state
            && !matches!(self.step(held, LuRecord::cancel_move).await, Ok(true))
        {
            return Over::Lost;
        }
        match self.step(held, |record| record.begin_move(to)).await {
            Ok(true) => {}
            Ok(false) => {
                warn!("the record names another holder");
                unit.lost(epoch, false);
                return Over::Lost;
            }
            // Without the announcement it goes as well.
            Err(error) => warn!(%error, "cannot announce the move"),
        }
        if let (Some(pool), Some(image)) = (&held.pool, &held.image) {
            let other_is_ready = timeout(READY_TIMEOUT, self.has_opened(to, pool, image));
            if other_is_ready.await.is_err() {
                debug!(%to, "the new owner has not opened the image yet");
            }
        }
        let lu = self.current().lu;
        let _turn = self.shared.turns.turn(&lu).await;
        let shut = Instant::now();
        {
            // Held until the end of this block, or shut for good before.
            let mut gate = pin!(unit.gate.barrier());
            let drained = timeout(self.shared.drain_timeout, &mut gate).await;
            let stop = match drained {
                Ok(Some(_)) => self.may_release(unit, held, epoch).await.err(),
                Ok(None) => Some(Stop::Lost),
                Err(_) => {
                    error!(gate = ?unit.gate, "commands do not end: the client is given up");
                    Some(Stop::Lost)
                }
            };
            let me = held.holder.clone();
            match stop {
                None => {}
                Some(Stop::Lost) => {
                    // Revoked before the barrier is dropped, which would open it.
                    unit.lost(epoch, false);
                    return Over::Lost;
                }
                Some(Stop::Cancelled) => return self.stay(held).await,
            }
            match self.step(held, |record| record.release(&me)).await {
                Ok(true) => {}
                Ok(false) => {
                    warn!("the record names another holder");
                    unit.lost(epoch, false);
                    return Over::Lost;
                }
                Err(error) => {
                    warn!(%error, "cannot note the release");
                    unit.lost(epoch, false);
                    return Over::Lost;
                }
            }
            drop(unit.retire_backend());
            if let Some(image) = held.image.take() {
                if let Err(error) = image.lock_release().await {
                    warn!(%error, "cannot release the lock");
                }
                tokio::spawn(close(image));
            }
            let mut wanted = self.wanted.clone();
            tokio::select! {
                taken = timeout(TAKEN_TIMEOUT, self.has_taken(held)) => if taken.is_err() {
                    warn!(%to, "the new owner does not serve yet");
                },
                // It comes back: too late to stay, so it is claimed again.
                _ = wanted.wait_for(|wanted| wanted.here && !wanted.gone) => {}
            }
            drop(unit.stop(AccessState::Standby).await);
        }
        self.shared.service.sessions.wake_all();
        let stalled_ms = shut.elapsed().as_millis() as u64;
        info!(%to, epoch = epoch.0, stalled_ms, "moved");
        Over::Gone
    }

    /// The gate is drained: is it still ours to release?
    async fn may_release(&mut self, unit: &Unit, held: &Held, epoch: LuEpoch) -> Result<(), Stop> {
        let owns = match &held.image {
            Some(image) => matches!(image.is_lock_owner().await, Ok(true)),
            None => true,
        };
        if unit.was_lost(epoch) || !owns {
            return Err(Stop::Lost);
        }
        let wanted = self.current();
        if wanted.here && !wanted.gone { Err(Stop::Cancelled) } else { Ok(()) }
    }

    async fn stay(&self, held: &mut Held) -> Over {
        match self.step(held, LuRecord::cancel_move).await {
            Ok(true) => {
                info!("stays");
                self.shared.service.sessions.wake_all();
                Over::Stays
            }
            Ok(false) => Over::Lost,
            // The record names us in either case; the next step of it looks again.
            Err(error) => {
                warn!(%error, "cannot take the announcement of the move back");
                Over::Stays
            }
        }
    }

    /// Writes a step of the record that is held; false if it names another holder by now.
    async fn step(
        &self,
        held: &mut Held,
        step: impl Fn(&LuRecord) -> Result<LuRecord, RecordError>,
    ) -> Result<bool, TransitionError> {
        for _ in 0..ATTEMPTS {
            let next = step(&held.record)?;
            match self.shared.records.write(&held.record, &next).await? {
                RecordWrite::Written => {
                    held.record = next;
                    return Ok(true);
                }
                // A step of ours whose outcome was not known.
                RecordWrite::Lost(Some(found)) if found.state.holder() == Some(&held.holder) => {
                    held.record = found;
                }
                RecordWrite::Lost(_) => return Ok(false),
            }
        }
        Err(StoreError::Unstable { object: "record".to_owned(), attempts: ATTEMPTS as u32 }.into())
    }

    /// Waits until a client for images of `to` watches the image's header: it has the image open.
    async fn has_opened(&self, to: &DaemonId, pool: &Pool, image: &Image) {
        let header = image.header_object();
        loop {
            if let Ok(watchers) = pool.list_watchers(&header).await {
                let map = self.shared.maps.borrow();
                let clients = map.daemon(to).map_or(&[][..], |daemon| &daemon.data_addrs);
                if clients.iter().any(|client| watchers.iter().any(|watcher| watcher == client.as_str())) {
                    return;
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until the next holder has the lock: from there it is a moment until it serves.
    async fn has_taken(&self, held: &Held) {
        let Some(pool) = &held.pool else { return self.has_claimed(held).await };
        self.has_claimed(held).await;
        let lu = self.wanted.borrow().lu.clone();
        let lus_map::Backend::Rbd { image_id, .. } = &lu.backend else { return };
        let header = format!("rbd_header.{image_id}");
        let me = held.holder.addr.as_str();
        loop {
            if let Ok(lockers) = pool.list_lockers(&header, RBD_LOCK).await
                && lockers.iter().any(|locker| locker.addr.is_some_and(|addr| addr.to_string() != me))
            {
                return tokio::time::sleep(POLL).await;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until the record names a holder again.
    async fn has_claimed(&self, held: &Held) {
        loop {
            let record = self.shared.records.read(&held.record.lu).await;
            if matches!(record, Ok(Some(record)) if record.state.holder().is_some()) {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    }
}
