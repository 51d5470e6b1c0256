//! The room below a thin logical unit, and its soft threshold (SBC-4, "Logical block provisioning thresholds"): hosts are told once when little is left.
//!
//! One threshold, armed decreasing, a percentage of the room. It is reached when no more than that is left, and armed again when
//! more than half the range above it is left, so that a value that goes to and fro at the threshold is told once.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// THRESHOLD PERCENTAGE of VPD page B2h: the range over which a threshold works, tenths of a percent.
pub(crate) const THRESHOLD_RANGE_TENTHS: u8 = 20;
/// Half of it, percent.
const HALF_RANGE_PERCENT: u8 = THRESHOLD_RANGE_TENTHS / 10 / 2;
/// A threshold set, the unit in which room is counted: 2 to the power of 20 bytes.
const THRESHOLD_SET_SHIFT: u32 = 20;

/// What the storage below a thin logical unit still takes, and what it holds. Other logical units use the same storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes that it still takes.
    pub available_bytes: u64,
    /// Bytes that it holds.
    pub used_bytes: u64,
}

impl Room {
    /// AVAILABLE LBA MAPPING RESOURCE COUNT, in threshold sets; all ones if it is more than the field holds.
    pub(crate) fn available_sets(self) -> u32 {
        sets(self.available_bytes)
    }

    /// USED LBA MAPPING RESOURCE COUNT, in the same way.
    pub(crate) fn used_sets(self) -> u32 {
        sets(self.used_bytes)
    }

    /// How much of all of it is available, percent, rounded down; of nothing, nothing is.
    pub fn available_percent(self) -> u8 {
        let total = u128::from(self.available_bytes) + u128::from(self.used_bytes);
        (u128::from(self.available_bytes) * 100).checked_div(total).map_or(0, |percent| percent as u8)
    }

    /// Whether no more than `percent` is available.
    fn is_down_to(self, percent: u8) -> bool {
        let total = u128::from(self.available_bytes) + u128::from(self.used_bytes);
        u128::from(self.available_bytes) * 100 <= total * u128::from(percent)
    }
}

fn sets(bytes: u64) -> u32 {
    u32::try_from(bytes >> THRESHOLD_SET_SHIFT).unwrap_or(u32::MAX)
}

/// THRESHOLD EXPONENT: base 2 logarithm of the blocks in a threshold set.
pub(crate) const fn threshold_exponent(block_shift: u32) -> u8 {
    (THRESHOLD_SET_SHIFT - block_shift) as u8
}

/// What is known of the room below one logical unit.
#[derive(Debug)]
pub(super) struct RoomCell {
    /// Percent of the room that is available; 0: never reached.
    threshold_percent: u8,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    room: Option<Room>,
    armed: bool,
}

impl RoomCell {
    pub(super) fn new(threshold_percent: u8) -> RoomCell {
        RoomCell { threshold_percent, state: Mutex::new(State { room: None, armed: true }) }
    }

    pub(super) fn threshold_percent(&self) -> u8 {
        self.threshold_percent
    }

    pub(super) fn room(&self) -> Option<Room> {
        self.state().room
    }

    /// Takes it over; whether the threshold is reached by it.
    pub(super) fn set(&self, room: Room) -> bool {
        let mut state = self.state();
        state.room = Some(room);
        let reached = self.threshold_percent != 0 && state.armed && room.is_down_to(self.threshold_percent);
        if reached {
            state.armed = false;
        } else if !room.is_down_to(self.threshold_percent.saturating_add(HALF_RANGE_PERCENT)) {
            state.armed = true;
        }
        reached
    }

    /// A holder that panicked leaves it whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
