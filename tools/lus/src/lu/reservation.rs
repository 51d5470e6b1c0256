//! `lus lu unreserve`, and what `lus lu info` says of reservations.

use lus_map::record::{Registration, Reservations};
use lus_map::{LuName, LuRecord};
use lus_map_store::TransitionError;
use lusd_ceph::Errno;

use super::no_such_lu;
use crate::error::{Failure, Result};
use crate::output::{Reply, count};
use crate::session::Session;

/// Takes the persistent reservation and all registrations of a unit away.
///
/// # Errors
/// ENOENT; EPERM without `really`, naming what there is; EIO where a newer program wrote the record.
pub(super) async fn unreserve(session: &Session, name: &LuName, really: bool) -> Result<Reply> {
    let map = session.map_if_any().await?;
    let lu = map.as_ref().and_then(|map| map.lu_named(name)).ok_or_else(|| no_such_lu(name))?;
    let record = session.record(&lu.id).await?;
    let Some(record) = record.filter(|record| !record.reservations.registrations.is_empty()) else {
        return Ok(Reply::done(format!("logical unit {name} has no registrations")));
    };
    if !really {
        return Err(uncertain(name, &record.reservations));
    }
    let cleared = session.records().transition(&lu.id, LuRecord::clear_reservations).await;
    cleared.map_err(|error| match error {
        TransitionError::Refused(refused) => Failure::new(Errno::EIO, refused.to_string()),
        TransitionError::Store(error) => error.into(),
    })?;
    let gone = count(record.reservations.registrations.len(), "registration");
    let reply = Reply::done(format!("{gone} of logical unit {name} taken away"));
    Ok(reply.note("the daemon that serves it notices within 10 s"))
}

fn uncertain(name: &LuName, reservations: &Reservations) -> Failure {
    let lines: String = lines(reservations).map(|(key, value)| format!("\n    {key}: {value}")).collect();
    Failure::new(
        Errno::EPERM,
        format!(
            "WARNING: hosts that rely on their reservation of logical unit {name} are not protected by it any more. If you are \
             *ABSOLUTELY CERTAIN* that is what you want, pass --yes-i-really-mean-it. There is{lines}"
        ),
    )
}

/// The lines of `lus lu info`: none without a registration.
pub(super) fn lines(reservations: &Reservations) -> impl Iterator<Item = (&'static str, String)> {
    let kind = reservations.kind.map(|kind| ("reservation", kind.to_string()));
    let registered = reservations.registrations.iter();
    kind.into_iter().chain(registered.map(|own| ("registered", line(own, reservations.holds(own)))))
}

fn line(registration: &Registration, holds: bool) -> String {
    let isid: String = registration.isid.iter().map(|byte| format!("{byte:02x}")).collect();
    let port = registration.target_port.map_or_else(|| "all ports".to_owned(), |port| format!("port {port}"));
    let holds = if holds { ", holds it" } else { "" };
    format!("{},i,0x{isid} by {port}, key 0x{:x}{holds}", registration.initiator, registration.key)
}

#[cfg(test)]
mod tests {
    use lus_map::record::ReservationKind;

    use super::*;

    fn registration(isid: u8, target_port: Option<u16>, holder: bool) -> Registration {
        let initiator = "iqn.2026-11.example:host".to_owned();
        Registration { initiator, isid: [0, 2, 0x3d, 0, 0, isid], target_port, key: 0xabc, holder }
    }

    #[test]
    fn what_is_shown() {
        assert_eq!(lines(&Reservations::default()).count(), 0);
        let kind = Some(ReservationKind::WriteExclusiveRegistrantsOnly);
        let registrations = vec![registration(1, Some(2), true), registration(2, None, false)];
        let reservations = Reservations { generation: 3, aptpl: false, kind, registrations };
        let shown: Vec<_> = lines(&reservations).map(|(key, value)| format!("{key}: {value}")).collect();
        assert_eq!(
            shown,
            [
                "reservation: write exclusive, registrants only",
                "registered: iqn.2026-11.example:host,i,0x00023d000001 by port 2, key 0xabc, holds it",
                "registered: iqn.2026-11.example:host,i,0x00023d000002 by all ports, key 0xabc",
            ]
        );
        let failure = uncertain(&"rbd/web1".parse().unwrap(), &reservations).to_string();
        assert!(
            failure.starts_with(
                "Error EPERM: WARNING: hosts that rely on their reservation of logical unit rbd/web1"
            ),
            "{failure}"
        );
        assert!(failure.contains("by port 2, key 0xabc, holds it"), "{failure}");
    }
}
