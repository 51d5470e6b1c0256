//! Reservations in the LU's record: between the form that is kept and the one that counts, and the keeper that writes them.

use std::time::Duration;

use lus_map::record::{self as kept, ReservationKind};
use lus_map::{Holder, LuRecord};
use lus_map_store::{RecordStore, RecordWrite, StoreError};
use lusd_scsi::{InitiatorPort, Registration, ReservationType, Reservations};
use tracing::{error, warn};

use super::{Boxed, Keeper, Written};

/// How often RADOS is asked again what became of a write.
const UNKNOWN_PAUSE: Duration = Duration::from_millis(500);

/// From what is kept.
pub fn from_kept(kept: &kept::Reservations) -> Reservations {
    let registration = |kept: &kept::Registration| Registration {
        initiator: InitiatorPort { name: kept.initiator.clone(), isid: kept.isid },
        target_port: kept.target_port,
        key: kept.key,
        holder: kept.holder,
    };
    Reservations {
        generation: kept.generation,
        aptpl: kept.aptpl,
        kind: kept.kind.and_then(|kind| ReservationType::from_code(kind.code())),
        registrations: kept.registrations.iter().map(registration).collect(),
    }
}

/// To what is kept.
pub fn to_kept(state: &Reservations) -> kept::Reservations {
    let registration = |own: &Registration| kept::Registration {
        initiator: own.initiator.name.clone(),
        isid: own.initiator.isid,
        target_port: own.target_port,
        key: own.key,
        holder: own.holder,
    };
    kept::Reservations {
        generation: state.generation,
        aptpl: state.aptpl,
        kind: state.kind.and_then(|kind| ReservationKind::from_code(kind.code())),
        registrations: state.registrations.iter().map(registration).collect(),
    }
}

/// Writes them into the record that names us.
#[derive(Clone)]
pub struct RecordKeeper {
    /// The records.
    pub records: RecordStore,
    /// The one of the LU, as it was read or written last.
    pub record: LuRecord,
    /// As whom it names us.
    pub holder: Holder,
    /// The state that counts here; the record has another one where somebody else has written it.
    pub known: kept::Reservations,
}

impl RecordKeeper {
    async fn set(&mut self, next: &Reservations) -> Written {
        let wanted = to_kept(next);
        let mut unknown = false;
        loop {
            if let Some(other) = self.other() {
                return Written::Other(other);
            }
            let step = match self.record.reserve(&self.holder, wanted.clone()) {
                Ok(step) => step,
                Err(error) => {
                    error!(%error, "reservations cannot be kept");
                    return Written::NotDone;
                }
            };
            match self.records.write(&self.record, &step).await {
                Ok(RecordWrite::Written) => {
                    self.record = step;
                    self.known = wanted;
                    return Written::Done;
                }
                Ok(RecordWrite::Lost(Some(found))) if found.state.holder() == Some(&self.holder) => {
                    self.record = found;
                    // Ours, by an attempt of which nothing was known.
                    if self.record.reservations == wanted {
                        self.known = wanted;
                        return Written::Done;
                    }
                }
                Ok(RecordWrite::Lost(_)) => {
                    warn!("the record names another holder");
                    return Written::Lost;
                }
                Err(error) => {
                    unknown |= is_unknown(&error);
                    warn!(%error, unknown, "cannot keep reservations");
                    if !unknown {
                        return Written::NotDone;
                    }
                    tokio::time::sleep(UNKNOWN_PAUSE).await;
                }
            }
        }
    }

    /// What the record has, if it is not what counts here: from now on it is.
    fn other(&mut self) -> Option<Reservations> {
        if self.record.reservations == self.known {
            return None;
        }
        self.known = self.record.reservations.clone();
        Some(from_kept(&self.known))
    }

    /// What is kept, if it is another state than ours: somebody else has changed it.
    pub async fn look(&mut self) -> Option<Reservations> {
        match self.records.read(&self.record.lu).await {
            Ok(Some(found)) if found.state.holder() == Some(&self.holder) => {
                self.record = found;
                self.other()
            }
            // Whose the LU is, is looked at elsewhere.
            Ok(_) => None,
            Err(error) => {
                warn!(%error, "cannot look at the record");
                None
            }
        }
    }
}

fn is_unknown(error: &StoreError) -> bool {
    match error {
        StoreError::Unknown { .. } => true,
        StoreError::Ceph(error) => error.is_unknown_outcome(),
        _ => false,
    }
}

impl Keeper for RecordKeeper {
    fn write<'a>(&'a mut self, next: &'a Reservations) -> Boxed<'a, Written> {
        Box::pin(self.set(next))
    }
}

#[cfg(test)]
mod tests;
