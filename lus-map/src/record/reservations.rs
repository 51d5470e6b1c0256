//! The persistent reservation of a logical unit and the registrations, as a record keeps them: whoever serves the unit next goes on with
//! them. What they mean is SPC-4 5.13; here they are data.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::wire::pb;

/// Registrations at most: so many that a record stays below 160 KiB.
pub const REGISTRATIONS_MAX: usize = 512;
/// The writer level that a record with registrations asks for: who has less would lose them.
pub const RESERVATIONS_WRITER: u32 = 2;
/// iSCSI names have at most 223 bytes (RFC 7143 4.2.7.1).
const NAME_BYTES_MAX: usize = 223;

/// TYPE of a persistent reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names are those of SPC-4 6.15.3.4")]
pub enum ReservationKind {
    WriteExclusive = 1,
    ExclusiveAccess = 3,
    WriteExclusiveRegistrantsOnly = 5,
    ExclusiveAccessRegistrantsOnly = 6,
    WriteExclusiveAllRegistrants = 7,
    ExclusiveAccessAllRegistrants = 8,
}

impl ReservationKind {
    /// All kinds with their names.
    const ALL: [(ReservationKind, &'static str); 6] = [
        (ReservationKind::WriteExclusive, "write exclusive"),
        (ReservationKind::ExclusiveAccess, "exclusive access"),
        (ReservationKind::WriteExclusiveRegistrantsOnly, "write exclusive, registrants only"),
        (ReservationKind::ExclusiveAccessRegistrantsOnly, "exclusive access, registrants only"),
        (ReservationKind::WriteExclusiveAllRegistrants, "write exclusive, all registrants"),
        (ReservationKind::ExclusiveAccessAllRegistrants, "exclusive access, all registrants"),
    ];

    /// `None` for a code that is reserved or obsolete.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().map(|(kind, _)| kind).find(|kind| kind.code() == code)
    }

    /// The code in SCSI.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// Whether every registered nexus holds it.
    pub fn is_all_registrants(self) -> bool {
        matches!(self, Self::WriteExclusiveAllRegistrants | Self::ExclusiveAccessAllRegistrants)
    }
}

impl fmt::Display for ReservationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(kind, _)| kind == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

/// A registration: of an I_T nexus, or of an initiator port with all target ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Registration {
    /// The initiator's iSCSI name.
    pub initiator: String,
    /// Initiator part of its session id.
    #[serde(serialize_with = "isid")]
    pub isid: [u8; 6],
    /// RELATIVE TARGET PORT IDENTIFIER: a daemon's tag. None: all target ports.
    pub target_port: Option<u16>,
    /// Its key, not 0.
    #[serde(serialize_with = "key")]
    pub key: u64,
    /// It alone holds the reservation; never under a kind for all registrants.
    pub holder: bool,
}

fn key<S: Serializer>(key: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("0x{key:x}"))
}

fn isid<S: Serializer>(isid: &[u8; 6], serializer: S) -> Result<S::Ok, S::Error> {
    let digits: String = isid.iter().map(|byte| format!("{byte:02x}")).collect();
    serializer.serialize_str(&format!("0x{digits}"))
}

/// The reservation, if there is one, and all registrations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Reservations {
    /// PRgeneration.
    pub generation: u32,
    /// The last APTPL of a host. Registrations are kept in either case: that another daemon serves is no loss of power.
    pub aptpl: bool,
    /// The reservation.
    pub kind: Option<ReservationKind>,
    /// In the order in which they were made.
    pub registrations: Vec<Registration>,
}

impl Reservations {
    /// True where no host ever registered.
    pub fn is_untouched(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a registration holds the reservation.
    pub fn holds(&self, registration: &Registration) -> bool {
        registration.holder || self.kind.is_some_and(ReservationKind::is_all_registrants)
    }

    /// Why these cannot be; none if they can.
    pub(super) fn flaw(&self) -> Option<&'static str> {
        let all = &self.registrations;
        let holders = all.iter().filter(|registration| registration.holder).count();
        let held = match self.kind {
            None => holders == 0,
            Some(kind) if kind.is_all_registrants() => holders == 0 && !all.is_empty(),
            Some(_) => holders == 1,
        };
        let named = |registration: &Registration| {
            !registration.initiator.is_empty() && registration.initiator.len() <= NAME_BYTES_MAX
        };
        let twice = |(at, registration): (usize, &Registration)| {
            all[..at].iter().any(|other| {
                (&other.initiator, other.isid) == (&registration.initiator, registration.isid)
                    && (other.target_port == registration.target_port
                        || other.target_port.is_none()
                        || registration.target_port.is_none())
            })
        };
        match () {
            () if all.len() > REGISTRATIONS_MAX => Some("too many registrations"),
            () if !held => Some("a reservation without its holder, or a holder too many"),
            () if !all.iter().all(named) => {
                Some("a registration without a name, or with one that is too long")
            }
            () if all.iter().any(|registration| registration.key == 0) => {
                Some("a registration without a key")
            }
            () if all.iter().enumerate().any(twice) => Some("a nexus with two registrations"),
            () => None,
        }
    }

    pub(super) fn encode(&self) -> Option<pb::lu_record::Reservations> {
        if self.is_untouched() {
            return None;
        }
        Some(pb::lu_record::Reservations {
            generation: self.generation,
            aptpl: self.aptpl,
            kind: self.kind.map_or(0, |kind| u32::from(kind.code())),
            registrations: self
                .registrations
                .iter()
                .map(|registration| pb::lu_record::Registration {
                    initiator: registration.initiator.clone(),
                    isid: registration.isid.to_vec(),
                    target_port: registration.target_port.map_or(0, u32::from),
                    key: registration.key,
                    holder: registration.holder,
                })
                .collect(),
        })
    }

    pub(super) fn decode(stored: Option<pb::lu_record::Reservations>) -> Result<Self, String> {
        let Some(stored) = stored else { return Ok(Self::default()) };
        let kind = match u8::try_from(stored.kind) {
            Ok(0) => None,
            code => Some(
                code.ok()
                    .and_then(ReservationKind::from_code)
                    .ok_or_else(|| format!("reservation type {}", stored.kind))?,
            ),
        };
        let registrations = stored.registrations.into_iter().map(registration).collect::<Result<_, _>>()?;
        let reservations = Self { generation: stored.generation, aptpl: stored.aptpl, kind, registrations };
        match reservations.flaw() {
            Some(flaw) => Err(flaw.to_owned()),
            None => Ok(reservations),
        }
    }
}

fn registration(stored: pb::lu_record::Registration) -> Result<Registration, String> {
    let isid = stored.isid.try_into().map_err(|_| "an ISID that is not 6 bytes long".to_owned())?;
    let port =
        u16::try_from(stored.target_port).map_err(|_| format!("target port {}", stored.target_port))?;
    Ok(Registration {
        initiator: stored.initiator,
        isid,
        target_port: (port != 0).then_some(port),
        key: stored.key,
        holder: stored.holder,
    })
}

#[cfg(test)]
mod tests;
