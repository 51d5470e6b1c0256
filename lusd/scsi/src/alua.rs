//! Asymmetric access (SPC-4): which target port groups reach a logical unit, and in which state each is.
//!
//! ```text
//! the map ─► PortGroups (all groups, the owner's) ─┐
//!                                                  ├─► state of each group ─► REPORT TARGET PORT GROUPS
//! this daemon ─► AccessState of the logical unit ──┘                    └──► a difference: 2A/06 to every nexus
//! ```
//!
//! A group is one daemon's target port. Implicit only: hosts are told, and cannot ask for a change.
//!
//! Invariants:
//! - At most one group is active/optimized in an answer.
//! - When the owner serves and every other daemon stands by, the answers through all of them are equal, byte by byte.
//!   While ownership moves, a daemon says of its own group what it knows better than the map.

use std::sync::Arc;

use crate::AccessState;

/// ASYMMETRIC ACCESS STATE (SPC-4 6.37). Active/non-optimized is not among them: a daemon that is not the owner serves no
/// medium command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PortGroupState {
    /// Active/optimized: the owner.
    ActiveOptimized = 0x0,
    /// Standby: up, not the owner.
    Standby = 0x2,
    /// Unavailable: down, or cannot serve.
    Unavailable = 0x3,
    /// Transitioning: it becomes, or ceases to be, the owner.
    Transitioning = 0xf,
}

/// The target port group of one daemon, with one target port in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortGroup {
    /// TARGET PORT GROUP, and the RELATIVE TARGET PORT IDENTIFIER of its port; not 0, unique.
    pub tag: u16,
    /// The daemon is up.
    pub up: bool,
}

/// The target port groups of a logical unit as the map has them: the same at every daemon but for `own`. Cheap to clone: the
/// list is shared by all logical units.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortGroups {
    groups: Arc<[PortGroup]>,
    own: u16,
    owner: Option<u16>,
}

impl PortGroups {
    /// `groups` in the order in which they are reported (every daemon uses the same); `own`: the tag of this daemon;
    /// `owner`: that of the daemon which the logical unit is placed on.
    pub fn new(groups: Arc<[PortGroup]>, own: u16, owner: Option<u16>) -> PortGroups {
        PortGroups { groups, own, owner }
    }

    /// True without any group: the logical unit is not asymmetric.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Each group's tag and state, at a daemon on which the logical unit is in state `access`.
    pub fn states(&self, access: AccessState) -> impl Iterator<Item = (u16, PortGroupState)> {
        // As long as this daemon serves, no other does, whoever is to be the next.
        let owner = if access == AccessState::Serving { Some(self.own) } else { self.owner };
        self.groups.iter().map(move |group| {
            let state = if !group.up {
                PortGroupState::Unavailable
            } else if group.tag == self.own {
                own_state(access, owner == Some(self.own))
            } else if owner == Some(group.tag) {
                PortGroupState::ActiveOptimized
            } else {
                PortGroupState::Standby
            };
            (group.tag, state)
        })
    }
}

/// State of this daemon's own group.
fn own_state(access: AccessState, is_owner: bool) -> PortGroupState {
    match access {
        AccessState::Serving => PortGroupState::ActiveOptimized,
        AccessState::Standby if !is_owner => PortGroupState::Standby,
        // Placed here, and not noticed yet.
        AccessState::Standby => PortGroupState::Transitioning,
        AccessState::Transitioning | AccessState::BecomingReady => PortGroupState::Transitioning,
        // A flaw of the logical unit, not of the port: through no other port would it be better.
        AccessState::ManualInterventionRequired if is_owner => PortGroupState::ActiveOptimized,
        AccessState::ManualInterventionRequired => PortGroupState::Standby,
        AccessState::Unavailable => PortGroupState::Unavailable,
    }
}

/// The groups that were published, and the access state that goes with them: what REPORT TARGET PORT GROUPS says now.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) groups: PortGroups,
    pub(crate) access: AccessState,
}

impl Shown {
    pub(crate) fn states(&self) -> impl Iterator<Item = (u16, PortGroupState)> {
        self.groups.states(self.access)
    }

    /// Whether hosts see no difference.
    pub(crate) fn looks_like(&self, other: &Shown) -> bool {
        self.states().eq(other.states())
    }
}
