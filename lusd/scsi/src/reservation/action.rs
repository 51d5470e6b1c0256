//! The service actions of PERSISTENT RESERVE OUT as functions from one state to the next (SPC-4 5.13.7 to 5.13.11).

use super::{InitiatorPort, Nexus, REGISTRATIONS_MAX, Registration, ReservationType, Reservations};
use crate::attention::UnitAttention;
use crate::sense::{CheckCondition, Fault};

/// SCOPE and TYPE share byte 2 of the CDB.
const SCOPE_AND_TYPE: CheckCondition = CheckCondition::invalid_field(2, None);
/// SERVICE ACTION in the CDB.
const SERVICE_ACTION: CheckCondition = CheckCondition::invalid_field(1, Some(4));
/// SERVICE ACTION RESERVATION KEY in the parameter list.
pub(super) const NEW_KEY: CheckCondition = CheckCondition::invalid_parameter(8, None);
/// SPEC_I_PT in the parameter list.
const SPEC_I_PT: CheckCondition = CheckCondition::invalid_parameter(20, Some(3));
/// The first TransportID of a REGISTER.
const TRANSPORT_IDS: CheckCondition = CheckCondition::invalid_parameter(28, None);
/// RELATIVE TARGET PORT IDENTIFIER of a REGISTER AND MOVE.
const MOVE_TARGET_PORT: CheckCondition = CheckCondition::invalid_parameter(18, None);
/// The TransportID of a REGISTER AND MOVE.
const MOVE_TRANSPORT_ID: CheckCondition = CheckCondition::invalid_parameter(24, None);

/// A TransportID of iSCSI (SPC-4 7.6.4.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Specified {
    /// One initiator port.
    Port(InitiatorPort),
    /// All initiator ports of this name that the logical unit knows.
    Device(String),
}

/// A service action with its parameters. Where SCOPE and TYPE count they are `kind`; `None`: they are not valid.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of the parameter list")]
pub enum Action {
    /// REGISTER, and REGISTER AND IGNORE EXISTING KEY.
    Register {
        /// RESERVATION KEY; `None`: it is ignored.
        key: Option<u64>,
        new_key: u64,
        /// SPEC_I_PT with its list.
        also: Option<Vec<Specified>>,
        all_target_ports: bool,
        aptpl: bool,
    },
    /// RESERVE.
    Reserve { key: u64, kind: Option<ReservationType> },
    /// RELEASE.
    Release { key: u64, kind: Option<ReservationType> },
    /// CLEAR.
    Clear { key: u64 },
    /// PREEMPT, and PREEMPT AND ABORT.
    Preempt { key: u64, victim: u64, kind: Option<ReservationType>, abort: bool },
    /// REGISTER AND MOVE.
    Move { key: u64, new_key: u64, to: Specified, target_port: u16, unregister: bool, aptpl: bool },
}

/// Why nothing is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Status RESERVATION CONFLICT.
    Conflict,
    /// Status CHECK CONDITION.
    Check(CheckCondition),
}

impl From<CheckCondition> for Refusal {
    fn from(check: CheckCondition) -> Refusal {
        Refusal::Check(check)
    }
}

/// The next state, and what follows once it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The next state.
    pub next: Reservations,
    /// Whom to tell what: nexuses by their registration.
    pub tell: Vec<(Registration, UnitAttention)>,
    /// Whose tasks are aborted.
    pub abort: Vec<Registration>,
    /// Some nexus may do less afterwards: commands under way have to end first.
    pub narrows: bool,
}

/// What a service action may refer to beside the state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known<'a> {
    /// Initiator ports that are logged in.
    pub(crate) initiators: &'a [InitiatorPort],
    /// Target ports of the logical unit.
    pub(crate) target_ports: &'a [u16],
}

impl Reservations {
    /// What `action` of `from` does; `None`: it is GOOD and does nothing.
    pub(crate) fn apply(
        &self,
        from: &Nexus,
        action: &Action,
        known: Known<'_>,
    ) -> Result<Option<Change>, Refusal> {
        match action {
            Action::Register { key, new_key, also, all_target_ports, aptpl } => {
                let target_port = if *all_target_ports { None } else { Some(from.target_port) };
                let step = self.step();
                match self.registration(from) {
                    None if key.is_some_and(|key| key != 0) => Err(Refusal::Conflict),
                    None if *new_key == 0 => Ok(None),
                    None => step.register(from, *new_key, also.as_deref(), target_port, *aptpl, known),
                    Some(own) if key.is_some_and(|key| key != own.key) => Err(Refusal::Conflict),
                    Some(_) if also.is_some() => Err(SPEC_I_PT.into()),
                    Some(own) if *new_key == 0 => step.unregister(own, *aptpl),
                    Some(own) => step.change_key(own, *new_key, target_port, *aptpl),
                }
            }
            Action::Reserve { key, kind } => self.reserve(self.own(from, *key)?, *kind),
            Action::Release { key, kind } => self.release(self.own(from, *key)?, *kind),
            Action::Clear { key } => self.clear(self.own(from, *key)?),
            Action::Preempt { key, victim, kind, abort } => {
                self.preempt(self.own(from, *key)?, *victim, *kind, *abort)
            }
            Action::Move { key, new_key, to, target_port, unregister, aptpl } => {
                let own = self.own(from, *key)?;
                let to = self.destination(from, own, *new_key, to, *target_port, known)?;
                Ok(self.move_to(own, *new_key, to, *target_port, *unregister, *aptpl)?)
            }
        }
    }

    /// The registration of a nexus that knows its key.
    fn own(&self, from: &Nexus, key: u64) -> Result<&Registration, Refusal> {
        self.registration(from).filter(|own| own.key == key).ok_or(Refusal::Conflict)
    }

    pub(super) fn step(&self) -> Step<'_> {
        Step { state: self, next: self.clone(), tell: Vec::new(), abort: Vec::new() }
    }

    /// 5.13.9.
    fn reserve(&self, own: &Registration, kind: Option<ReservationType>) -> Result<Option<Change>, Refusal> {
        let kind = kind.ok_or(SCOPE_AND_TYPE)?;
        match self.kind {
            None => {
                let mut step = self.step();
                step.hold(own, kind);
                Ok(Some(step.done()))
            }
            Some(current) if current == kind && self.holds(own) => Ok(None),
            Some(_) => Err(Refusal::Conflict),
        }
    }

    /// 5.13.11.2.2.
    fn release(&self, own: &Registration, kind: Option<ReservationType>) -> Result<Option<Change>, Refusal> {
        match self.kind {
            Some(current) if self.holds(own) => {
                if kind != Some(current) {
                    return Err(CheckCondition::from(Fault::InvalidReleaseOfPersistentReservation).into());
                }
                let mut step = self.step();
                step.next.end_reservation();
                if current.admits_registrants() {
                    step.tell_others(own, UnitAttention::ReservationsReleased);
                }
                Ok(Some(step.done()))
            }
            _ => Ok(None),
        }
    }

    /// 5.13.11.2.7.
    fn clear(&self, own: &Registration) -> Result<Option<Change>, Refusal> {
        let mut step = self.step();
        step.tell_others(own, UnitAttention::ReservationsPreempted);
        step.next.registrations.clear();
        step.next.end_reservation();
        Ok(Some(step.counted()))
    }

    /// The checks of 5.13.8, and the initiator port that the reservation is moved to.
    fn destination(
        &self,
        from: &Nexus,
        own: &Registration,
        new_key: u64,
        to: &Specified,
        target_port: u16,
        known: Known<'_>,
    ) -> Result<InitiatorPort, Refusal> {
        match self.kind {
            None => return Err(SERVICE_ACTION.into()),
            Some(_) if !own.holder => return Err(Refusal::Conflict),
            Some(_) => {}
        }
        if new_key == 0 {
            return Err(NEW_KEY.into());
        }
        if !known.target_ports.contains(&target_port) {
            return Err(MOVE_TARGET_PORT.into());
        }
        let Specified::Port(to) = to else { return Err(MOVE_TRANSPORT_ID.into()) };
        if *to == from.initiator {
            return Err(MOVE_TRANSPORT_ID.into());
        }
        Ok(to.clone())
    }

    /// 5.13.8.
    fn move_to(
        &self,
        own: &Registration,
        new_key: u64,
        to: InitiatorPort,
        target_port: u16,
        unregister: bool,
        aptpl: bool,
    ) -> Result<Option<Change>, CheckCondition> {
        let mut step = self.step();
        let next = &mut step.next;
        next.registrations.iter_mut().for_each(|registration| registration.holder = false);
        let destination = Nexus { initiator: to, target_port };
        match next.registrations.iter_mut().find(|registration| registration.is_of(&destination)) {
            Some(registration) => (registration.key, registration.holder) = (new_key, true),
            None => next.registrations.push(Registration {
                initiator: destination.initiator,
                target_port: Some(target_port),
                key: new_key,
                holder: true,
            }),
        }
        if unregister {
            next.registrations.retain(|registration| !registration.is_same_as(own));
        }
        next.aptpl = aptpl;
        next.check_room()?;
        Ok(Some(step.counted()))
    }

    /// Registrations stay.
    pub(super) fn end_reservation(&mut self) {
        self.kind = None;
        self.registrations.iter_mut().for_each(|registration| registration.holder = false);
    }

    /// The reservation ends with its last holder (5.13.10). True if it did.
    pub(super) fn end_if_unheld(&mut self) -> bool {
        let held = self.registrations.iter().any(|registration| self.holds(registration));
        let ends = self.kind.is_some() && !held;
        if ends {
            self.kind = None;
        }
        ends
    }

    fn check_room(&self) -> Result<(), CheckCondition> {
        if self.registrations.len() > REGISTRATIONS_MAX {
            return Err(Fault::InsufficientRegistrationResources.into());
        }
        Ok(())
    }
}

/// A change in the making.
pub(super) struct Step<'a> {
    state: &'a Reservations,
    pub(super) next: Reservations,
    tell: Vec<(Registration, UnitAttention)>,
    pub(super) abort: Vec<Registration>,
}

impl Step<'_> {
    pub(super) fn tell(&mut self, who: &Registration, what: UnitAttention) {
        self.tell.push((who.clone(), what));
    }

    /// All that were registered but `own`.
    fn tell_others(&mut self, own: &Registration, what: UnitAttention) {
        let others = self.state.registrations.iter().filter(|other| !other.is_same_as(own));
        self.tell.extend(others.map(|other| (other.clone(), what)));
    }

    /// `own` makes a reservation in place of whatever there is.
    pub(super) fn hold(&mut self, own: &Registration, kind: ReservationType) {
        self.next.kind = Some(kind);
        for registration in &mut self.next.registrations {
            registration.holder = registration.is_same_as(own) && !kind.is_all_registrants();
        }
    }

    /// Tables 67 and 68, of a nexus that is not registered.
    fn register(
        mut self,
        from: &Nexus,
        key: u64,
        also: Option<&[Specified]>,
        target_port: Option<u16>,
        aptpl: bool,
        known: Known<'_>,
    ) -> Result<Option<Change>, Refusal> {
        let mut ports = vec![from.initiator.clone()];
        for specified in also.unwrap_or_default() {
            for port in self.ports_of(specified, known)? {
                if !ports.contains(&port) {
                    ports.push(port);
                }
            }
            if ports.len() > REGISTRATIONS_MAX {
                return Err(CheckCondition::from(Fault::InsufficientRegistrationResources).into());
            }
        }
        for (at, initiator) in ports.into_iter().enumerate() {
            let covers = |own: &Registration| {
                own.initiator == initiator
                    && (target_port.is_none() || own.target_port.is_none() || own.target_port == target_port)
            };
            if at > 0 && self.state.registrations.iter().any(covers) {
                return Err(TRANSPORT_IDS.into());
            }
            self.next.put(Registration { initiator, target_port, key, holder: false });
        }
        self.next.aptpl = aptpl;
        self.next.check_room()?;
        Ok(Some(self.counted()))
    }

    fn ports_of(&self, specified: &Specified, known: Known<'_>) -> Result<Vec<InitiatorPort>, Refusal> {
        let name = match specified {
            Specified::Port(port) => return Ok(vec![port.clone()]),
            Specified::Device(name) => name,
        };
        let registered = self.state.registrations.iter().map(|registration| &registration.initiator);
        let mut ports: Vec<_> =
            known.initiators.iter().chain(registered).filter(|port| port.name == *name).cloned().collect();
        ports.sort();
        ports.dedup();
        if ports.is_empty() { Err(TRANSPORT_IDS.into()) } else { Ok(ports) }
    }

    /// 5.13.11.2.3.
    fn unregister(mut self, own: &Registration, aptpl: bool) -> Result<Option<Change>, Refusal> {
        let kind = self.state.kind;
        self.next.registrations.retain(|registration| !registration.is_same_as(own));
        if self.next.end_if_unheld() && kind.is_some_and(ReservationType::is_registrants_only) {
            self.tell_others(own, UnitAttention::ReservationsReleased);
        }
        self.next.aptpl = aptpl;
        Ok(Some(self.counted()))
    }

    /// The reservation stays with whom it is.
    fn change_key(
        mut self,
        own: &Registration,
        key: u64,
        target_port: Option<u16>,
        aptpl: bool,
    ) -> Result<Option<Change>, Refusal> {
        // A registration with all target ports stays one.
        let target_port = if target_port.is_none() { None } else { own.target_port };
        self.next.put(Registration { key, target_port, ..own.clone() });
        self.next.aptpl = aptpl;
        Ok(Some(self.counted()))
    }

    /// The change, PRgeneration raised.
    pub(super) fn counted(mut self) -> Change {
        self.next.generation = self.next.generation.wrapping_add(1);
        self.done()
    }

    fn done(self) -> Change {
        debug_assert!(self.next.is_sound(), "{:?}", self.next);
        let narrows = !self.abort.is_empty() || self.state.is_narrowed_by(&self.next);
        Change { next: self.next, tell: self.tell, abort: self.abort, narrows }
    }
}

impl Reservations {
    /// Puts a registration in the place of those that it covers; one that held the reservation goes on holding it.
    fn put(&mut self, mut registration: Registration) {
        let covers = |other: &Registration| {
            other.initiator == registration.initiator
                && (registration.target_port.is_none() || other.target_port == registration.target_port)
        };
        let place = self.registrations.iter().position(covers);
        registration.holder = self.registrations.iter().any(|other| covers(other) && other.holder);
        self.registrations.retain(|other| !covers(other));
        let place = place.unwrap_or(usize::MAX).min(self.registrations.len());
        self.registrations.insert(place, registration);
    }

    /// Whether some nexus may do less under `next`.
    fn is_narrowed_by(&self, next: &Reservations) -> bool {
        let Some(kind) = next.kind else { return false };
        if self.kind != Some(kind) {
            return true;
        }
        let keeps = |before: &Registration| {
            next.registrations.iter().any(|after| {
                after.initiator == before.initiator
                    && (after.target_port.is_none() || after.target_port == before.target_port)
                    && (after.holder || !before.holder)
            })
        };
        !self.registrations.iter().all(keeps)
    }
}
