//! Whether this daemon may execute commands of a logical unit, and what it answers where it may not.

use crate::sense::{CheckCondition, SenseCode, SenseKey};

/// What a command is told that was planned while the logical unit was served and found it shut when it came to be
/// submitted: LOGICAL UNIT IS IN PROCESS OF BECOMING READY, on which hosts try again.
pub const NOT_SERVED: SenseCode = SenseCode::new(SenseKey::NotReady, 0x04, 0x01);

/// State of a logical unit as this daemon sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AccessState {
    /// This daemon owns the logical unit and executes everything.
    Serving,
    /// Another daemon owns it.
    NotOwner,
    /// Ownership is moving.
    Transitioning,
    /// It is being opened or fenced.
    BecomingReady,
    /// It cannot be served until somebody acts (the image is locked by a foreign client, missing, or damaged).
    ManualInterventionRequired,
    /// It cannot be served, for a reason that no other state tells.
    Unknown,
}

impl AccessState {
    /// All states, by discriminant.
    const ALL: [AccessState; 6] = [
        AccessState::Serving,
        AccessState::NotOwner,
        AccessState::Transitioning,
        AccessState::BecomingReady,
        AccessState::ManualInterventionRequired,
        AccessState::Unknown,
    ];

    /// The sense of each state; `None` where commands run.
    pub const fn code(self) -> Option<SenseCode> {
        let ascq = match self {
            AccessState::Serving => return None,
            AccessState::NotOwner => 0x0c, // NOT ACCESSIBLE, TARGET PORT IN UNAVAILABLE STATE
            AccessState::Transitioning => 0x0a, // NOT ACCESSIBLE, ASYMMETRIC ACCESS STATE TRANSITION
            AccessState::BecomingReady => 0x01, // IN PROCESS OF BECOMING READY
            AccessState::ManualInterventionRequired => 0x03, // MANUAL INTERVENTION REQUIRED
            AccessState::Unknown => 0x00,  // CAUSE NOT REPORTABLE
        };
        Some(SenseCode::new(SenseKey::NotReady, 0x04, ascq))
    }

    /// Err where a command that needs the logical unit cannot run.
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
