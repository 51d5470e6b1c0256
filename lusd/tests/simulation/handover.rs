//! A planned move, on the side that lets go: as `lusd::lun::owner::handover`.

use std::pin::pin;
use std::time::Duration;

use lus_map::{DaemonId, LuRecord, LuState, RecordError};
use lus_map_store::{RecordWrite, StoreError, TransitionError};
use lusd::lun::gate::LuEpoch;
use lusd_scsi::AccessState;
use tokio::time::{sleep, timeout};

use crate::attempt::Held;
use crate::owner::{DRAIN_TIMEOUT, Task};
use crate::rules::Rule;

const READY_TIMEOUT: Duration = Duration::from_secs(1);
const TAKEN_TIMEOUT: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(10);
const ATTEMPTS: usize = 4;

/// What became of a move.
pub(crate) enum Over {
    Gone,
    Stays,
    Lost,
}

enum Stop {
    Cancelled,
    Lost,
}

impl Task {
    pub(crate) async fn hand_over(&mut self, held: &mut Held, epoch: LuEpoch, to: &DaemonId) -> Over {
        let unit = self.offered.unit.clone();
        self.daemon.at(self.lu, "move:begin").await;
        if let LuState::Moving { .. } = held.record.state
            && !matches!(self.step(held, LuRecord::cancel_move).await, Ok(true))
        {
            return Over::Lost;
        }
        if let Ok(false) = self.step(held, |record| record.begin_move(to)).await {
            unit.lost(epoch, false);
            return Over::Lost;
        }
        self.daemon.at(self.lu, "move:announced").await;
        let _ = timeout(READY_TIMEOUT, self.has_opened(to, held)).await;
        let _turn = self.daemon.turn().await;
        self.daemon.at(self.lu, "move:hold").await;
        {
            let drains = !self.daemon.sim.breaks(Rule::Drained);
            let mut gate =
                pin!(async { if drains { unit.gate.barrier().await.map(Some) } else { Some(None) } });
            let drained = timeout(DRAIN_TIMEOUT, &mut gate).await;
            let stop = match drained {
                Ok(Some(_)) => self.may_release(held, epoch).await.err(),
                Ok(None) | Err(_) => Some(Stop::Lost),
            };
            let me = held.holder.clone();
            match stop {
                None => {}
                Some(Stop::Lost) => {
                    unit.lost(epoch, false);
                    return Over::Lost;
                }
                Some(Stop::Cancelled) => return self.stay(held).await,
            }
            self.daemon.at(self.lu, "move:drained").await;
            match self.step(held, |record| record.release(&me)).await {
                Ok(true) => {}
                Ok(false) | Err(_) => {
                    unit.lost(epoch, false);
                    return Over::Lost;
                }
            }
            self.daemon.at(self.lu, "move:released").await;
            drop(unit.retire_backend());
            self.offered.put(None);
            let _ = held.image.lock_release().await;
            self.daemon.at(self.lu, "move:unlocked").await;
            self.daemon.process.spawn(crate::owner::close(held.image.clone()));
            let mut wanted = self.wanted.clone();
            tokio::select! {
                biased;
                _ = timeout(TAKEN_TIMEOUT, self.has_taken(held)) => {}
                _ = wanted.wait_for(|wanted| wanted.here && !wanted.gone) => {}
            }
            drop(unit.stop(AccessState::Standby).await);
        }
        self.daemon.note(|| format!("lu{}: moved to {to}", self.lu));
        Over::Gone
    }

    async fn may_release(&mut self, held: &Held, epoch: LuEpoch) -> Result<(), Stop> {
        let owns = matches!(held.image.is_lock_owner().await, Ok(true));
        if self.offered.unit.was_lost(epoch) || !owns {
            return Err(Stop::Lost);
        }
        let wanted = self.current();
        if wanted.here && !wanted.gone { Err(Stop::Cancelled) } else { Ok(()) }
    }

    async fn stay(&self, held: &mut Held) -> Over {
        match self.step(held, LuRecord::cancel_move).await {
            Ok(true) | Err(_) => Over::Stays,
            Ok(false) => Over::Lost,
        }
    }

    async fn step(
        &self,
        held: &mut Held,
        step: impl Fn(&LuRecord) -> Result<LuRecord, RecordError>,
    ) -> Result<bool, TransitionError> {
        for _ in 0..ATTEMPTS {
            let next = step(&held.record)?;
            match self.daemon.records.write(&held.record, &next).await? {
                RecordWrite::Written => {
                    held.record = next;
                    return Ok(true);
                }
                RecordWrite::Lost(Some(found)) if found.state.holder() == Some(&held.holder) => {
                    held.record = found;
                }
                RecordWrite::Lost(_) => return Ok(false),
            }
        }
        Err(StoreError::Unstable { object: "record".to_owned(), attempts: ATTEMPTS as u32 }.into())
    }

    async fn has_opened(&self, to: &DaemonId, held: &Held) {
        loop {
            if let Ok(watchers) = held.image.list_watchers().await {
                let map = self.daemon.maps.borrow();
                let clients = map.daemon(to).map_or(&[][..], |daemon| &daemon.data_addrs);
                if clients.iter().any(|client| watchers.iter().any(|watcher| watcher == client.as_str())) {
                    return;
                }
            }
            sleep(POLL).await;
        }
    }

    async fn has_taken(&self, held: &Held) {
        loop {
            let record = self.daemon.records.read(&held.record.lu).await;
            if matches!(record, Ok(Some(record)) if record.state.holder().is_some()) {
                break;
            }
            sleep(POLL).await;
        }
        loop {
            if let Ok(Some(locker)) = held.image.list_lockers().await
                && locker.addr != held.holder.addr.as_str()
            {
                return sleep(POLL).await;
            }
            sleep(POLL).await;
        }
    }
}
