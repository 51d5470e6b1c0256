//! The reservations of a logical unit, for the daemon that carries changes out.

use std::sync::Arc;

use super::LogicalUnit;
use crate::reservation::{Change, Decision, NexusHandle, Reservations, ReserveRequest};

impl LogicalUnit {
    /// The persistent reservation and the registrations as they stand.
    pub fn reservations(&self) -> Arc<Reservations> {
        self.book.reservations()
    }

    /// What `request` of `nexus` does as things stand. Whoever publishes what follows is alone in doing so: the next decision is made
    /// after that.
    pub fn decide(&self, nexus: &NexusHandle, request: &ReserveRequest) -> Decision {
        let mut target_ports = vec![nexus.0.nexus.target_port];
        self.each_port_group(|tag, _| target_ports.push(tag));
        self.book.decide(&nexus.0, request, &target_ports)
    }

    /// The change stands: it is durable, and if it narrows what nexuses may do, nothing is under way.
    pub fn publish(&self, change: Change) {
        self.book.publish(change);
    }

    /// Takes over what others have made of the reservations, before this daemon serves and when it finds a change that is not its own.
    /// Nothing is under way. Nexuses that are here are told what they lost.
    pub fn adopt(&self, reservations: Reservations) {
        debug_assert!(reservations.is_sound());
        self.book.adopt(reservations);
    }

    /// `nexus` holds it by RESERVE, unless its session has ended, or its tasks were aborted since `aborts` of them were
    /// ([`NexusHandle::aborts`]): then false. Nothing is under way.
    pub fn hold(&self, nexus: &NexusHandle, aborts: u64) -> bool {
        self.book.hold(&nexus.0, aborts)
    }

    /// `nexus` holds it no more by RESERVE.
    pub fn let_go(&self, nexus: &NexusHandle) {
        self.book.let_go(&nexus.0);
    }

    /// The logical unit is not served here any more: a reservation by RESERVE, which this daemon alone knows, ends. Its holder is told.
    pub fn forget_reserve(&self) {
        self.book.end_spc2(true);
    }
}
