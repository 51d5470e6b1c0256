//! Whether this daemon may execute commands of a logical unit, and what it answers where it may not.

use crate::Flags;
use crate::sense::{CheckCondition, SenseCode, SenseKey};

/// LOGICAL UNIT NOT ACCESSIBLE, ASYMMETRIC ACCESS STATE TRANSITION.
pub(super) const TRANSITION: SenseCode = SenseCode::new(SenseKey::NotReady, 0x04, 0x0a);

/// State of a logical unit as this daemon sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AccessState {
    /// This daemon owns the logical unit and executes everything.
    Serving,
    /// Another daemon owns it.
    Standby,
    /// Ownership is moving: it is fenced, opened or locked here, or let go.
    Transitioning,
    /// It is not ready yet, and nothing moves: a logical unit without target port groups that is being made.
    BecomingReady,
    /// It cannot be served until somebody acts (the image is locked by a foreign client, missing, or damaged).
    ManualInterventionRequired,
    /// This daemon cannot serve it, for a reason that no other state tells.
    Unavailable,
}

impl AccessState {
    /// All states, by discriminant.
    const ALL: [AccessState; 6] = [
        AccessState::Serving,
        AccessState::Standby,
        AccessState::Transitioning,
        AccessState::BecomingReady,
        AccessState::ManualInterventionRequired,
        AccessState::Unavailable,
    ];

    /// The sense of each state; `None` where commands run.
    pub const fn code(self) -> Option<SenseCode> {
        let ascq = match self {
            AccessState::Serving => return None,
            AccessState::Standby => 0x0b, // NOT ACCESSIBLE, TARGET PORT IN STANDBY STATE
            AccessState::Transitioning => return Some(TRANSITION),
            AccessState::BecomingReady => 0x01, // IN PROCESS OF BECOMING READY
            AccessState::ManualInterventionRequired => 0x03, // MANUAL INTERVENTION REQUIRED
            AccessState::Unavailable => 0x0c,   // NOT ACCESSIBLE, TARGET PORT IN UNAVAILABLE STATE
        };
        Some(SenseCode::new(SenseKey::NotReady, 0x04, ascq))
    }

    /// Err where a command with these flags cannot run.
    #[inline]
    pub(crate) fn check_command(self, flags: Flags) -> Result<(), CheckCondition> {
        if flags.has(Flags::NOT_SERVING) || (self == AccessState::Standby && flags.has(Flags::STANDBY)) {
            return Ok(());
        }
        self.check()
    }

    /// Err where an operation on the medium cannot run.
    #[inline]
    pub(crate) fn check(self) -> Result<(), CheckCondition> {
        match self.code() {
            None => Ok(()),
            Some(code) => Err(CheckCondition::new(code)),
        }
    }

    pub(crate) fn from_discriminant(discriminant: u8) -> AccessState {
        AccessState::ALL[usize::from(discriminant)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discriminants_round_trip() {
        for state in AccessState::ALL {
            assert_eq!(AccessState::from_discriminant(state as u8), state);
        }
    }

    #[test]
    fn every_state_but_serving_has_a_sense_of_its_own() {
        let codes: Vec<_> = AccessState::ALL.iter().filter_map(|state| state.code()).collect();
        assert_eq!(codes.len(), AccessState::ALL.len() - 1);
        for (i, code) in codes.iter().enumerate() {
            assert_eq!((code.key, code.asc), (SenseKey::NotReady, 0x04));
            assert!(!codes[..i].contains(code));
        }
    }
}
