//! What a logical unit as a whole is busy with, or has not come through: SANITIZE (SBC-3 4.11) and FORMAT UNIT (SBC-3 4.34).

use std::sync::atomic::{AtomicU32, Ordering};

use crate::sense::{CheckCondition, SenseCode, SenseKey};

/// Operation codes.
pub(super) const SANITIZE: u8 = 0x48;
pub(super) const FORMAT_UNIT: u8 = 0x04;

/// See the module's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Nothing: commands run.
    None,
    /// A sanitize operation, and how much of it is done in parts of 65,536.
    Sanitizing(u16),
    /// A format operation, and how much of it is done.
    Formatting(u16),
    /// A sanitize operation did not end well, or was cut off. Commands on the medium wait for one that does, or for EXIT FAILURE MODE.
    SanitizeFailed {
        /// AUSE: EXIT FAILURE MODE is allowed.
        may_exit: bool,
    },
    /// A format operation did not end well, or was cut off.
    FormatFailed,
}

impl Operation {
    /// Why a command cannot run, if it cannot.
    pub fn check(self) -> Option<CheckCondition> {
        let code = |key, asc, ascq| CheckCondition::new(SenseCode::new(key, asc, ascq));
        match self {
            Operation::None => None,
            Operation::Sanitizing(done) => Some(code(SenseKey::NotReady, 0x04, 0x1b).with_progress(done)),
            Operation::Formatting(done) => Some(code(SenseKey::NotReady, 0x04, 0x04).with_progress(done)),
            Operation::SanitizeFailed { .. } => Some(code(SenseKey::MediumError, 0x31, 0x03)),
            Operation::FormatFailed => Some(code(SenseKey::MediumError, 0x31, 0x01)),
        }
    }

    /// Whether a command with this operation code may put it right: SANITIZE whatever failed, FORMAT UNIT only another of its kind.
    pub(crate) fn is_put_right_by(self, opcode: u8) -> bool {
        match self {
            Operation::SanitizeFailed { .. } => opcode == SANITIZE,
            Operation::FormatFailed => opcode == SANITIZE || opcode == FORMAT_UNIT,
            _ => false,
        }
    }

    /// True while it goes on.
    pub fn is_under_way(self) -> bool {
        matches!(self, Operation::Sanitizing(_) | Operation::Formatting(_))
    }

    fn to_word(self) -> u32 {
        match self {
            Operation::None => 0,
            Operation::Sanitizing(done) => 1 << 16 | u32::from(done),
            Operation::Formatting(done) => 2 << 16 | u32::from(done),
            Operation::SanitizeFailed { may_exit } => 3 << 16 | u32::from(may_exit),
            Operation::FormatFailed => 4 << 16,
        }
    }

    fn from_word(word: u32) -> Operation {
        match word >> 16 {
            0 => Operation::None,
            1 => Operation::Sanitizing(word as u16),
            2 => Operation::Formatting(word as u16),
            3 => Operation::SanitizeFailed { may_exit: word & 1 != 0 },
            _ => Operation::FormatFailed,
        }
    }
}

/// The operation of one logical unit, read by every command.
#[derive(Debug, Default)]
pub(super) struct OperationCell(AtomicU32);

impl OperationCell {
    #[inline]
    pub(super) fn get(&self) -> Operation {
        Operation::from_word(self.0.load(Ordering::SeqCst))
    }

    pub(super) fn set(&self, operation: Operation) {
        self.0.store(operation.to_word(), Ordering::SeqCst);
    }

    /// Begins `operation`, unless one is under way.
    pub(super) fn begin(&self, operation: Operation) -> Result<(), Operation> {
        self.0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |word| {
                (!Operation::from_word(word).is_under_way()).then(|| operation.to_word())
            })
            .map(drop)
            .map_err(Operation::from_word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        for operation in [
            Operation::None,
            Operation::Sanitizing(0),
            Operation::Sanitizing(u16::MAX),
            Operation::Formatting(0x1234),
            Operation::SanitizeFailed { may_exit: true },
            Operation::SanitizeFailed { may_exit: false },
            Operation::FormatFailed,
        ] {
            assert_eq!(Operation::from_word(operation.to_word()), operation);
        }
    }

    #[test]
    fn one_operation_at_a_time() {
        let cell = OperationCell::default();
        assert_eq!(cell.begin(Operation::Formatting(0)), Ok(()));
        cell.set(Operation::Formatting(7));
        assert_eq!(cell.begin(Operation::Sanitizing(0)), Err(Operation::Formatting(7)));
        cell.set(Operation::FormatFailed);
        assert_eq!(cell.begin(Operation::Sanitizing(0)), Ok(()));
    }
}
