//! PREEMPT and PREEMPT AND ABORT (SPC-4 5.13.11.2.4 to 5.13.11.2.6).

use super::action::{Change, NEW_KEY, Refusal};
use super::{Registration, ReservationType, Reservations};
use crate::attention::UnitAttention;
use crate::sense::CheckCondition;

impl Reservations {
    /// Table 72: `own` removes the registrations with key `victim`, and takes the reservation if they hold it.
    pub(super) fn preempt(
        &self,
        own: &Registration,
        victim: u64,
        kind: Option<ReservationType>,
        abort: bool,
    ) -> Result<Option<Change>, Refusal> {
        let takes = match self.kind {
            Some(current) if current.is_all_registrants() => victim == 0,
            // Zero is nobody's key: also where there is no reservation.
            _ if victim == 0 => return Err(NEW_KEY.into()),
            Some(_) => self.registrations.iter().any(|other| other.holder && other.key == victim),
            None => false,
        };
        if takes {
            let kind = kind.ok_or(CheckCondition::invalid_field(2, None))?;
            Ok(Some(self.take_reservation(own, victim, kind, abort)))
        } else if self.registrations.iter().any(|other| other.key == victim) {
            Ok(Some(self.remove_registrations(own, victim, abort)))
        } else {
            Err(Refusal::Conflict)
        }
    }

    /// 5.13.11.2.4.3. The preempting nexus keeps its registration, also where it preempts itself.
    fn take_reservation(
        &self,
        own: &Registration,
        victim: u64,
        kind: ReservationType,
        abort: bool,
    ) -> Change {
        let goes = |other: &Registration| !other.is_same_as(own) && (victim == 0 || other.key == victim);
        let mut step = self.step();
        for other in self.registrations.iter().filter(|other| !other.is_same_as(own)) {
            if goes(other) {
                step.tell(other, UnitAttention::RegistrationsPreempted);
                if abort {
                    step.abort.push(other.clone());
                }
            } else if self.kind != Some(kind) {
                step.tell(other, UnitAttention::ReservationsReleased);
            }
        }
        step.next.registrations.retain(|other| !goes(other));
        step.hold(own, kind);
        step.counted()
    }

    /// 5.13.11.2.5. The preempting nexus loses its own registration if that has the key.
    fn remove_registrations(&self, own: &Registration, victim: u64, abort: bool) -> Change {
        let mut step = self.step();
        for other in self.registrations.iter().filter(|other| other.key == victim && !other.is_same_as(own)) {
            step.tell(other, UnitAttention::RegistrationsPreempted);
            if abort {
                step.abort.push(other.clone());
            }
        }
        step.next.registrations.retain(|other| other.key != victim);
        // Only under a type for all registrants can a holder be among them.
        step.next.end_if_unheld();
        step.counted()
    }
}
