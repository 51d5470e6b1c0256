//! The room below a thin logical unit: what is told of it, and when.

use lusd_scsi::*;
use proptest::prelude::*;

use crate::bed::*;

const TUR: [u8; 6] = [0; 6];
const MIB: u64 = 1 << 20;
const REACHED: UnitAttention = UnitAttention::ThinProvisioningSoftThresholdReached;

fn log_page(pointer: u8) -> [u8; 10] {
    [0x4d, 0, 0x4c, 0, 0, 0, pointer, 0xff, 0xff, 0]
}

fn mode_page(page_control: u8) -> [u8; 6] {
    [0x1a, 0x08, page_control << 6 | 0x1c, 0x02, 0xff, 0]
}

/// Whether hosts are told when so much of 100 is available.
fn told_at(bed: &Bed, available: u64) -> bool {
    let told =
        bed.lu.set_room(Room { available_bytes: available * MIB, used_bytes: (100 - available) * MIB });
    let heard = bed.plan(&TUR).is_err_and(|check| check.code == REACHED.code());
    assert_eq!(told, heard);
    heard
}

fn with_threshold(percent: Option<u8>) -> Bed {
    Bed::with(LogicalUnitConfig { soft_threshold_percent: percent, ..config() })
}

#[test]
fn a_threshold_is_told_once_until_there_was_more_room() {
    let bed = Bed::new();
    let seen: Vec<_> = [50, 21, 20, 19, 20, 21, 20, 0, 22, 21, 20, 100, 5].map(|at| told_at(&bed, at)).into();
    let expected = [
        false, false, true, false, false, // down to 20
        false, false, false, // 21 is within the range: not armed
        false, false, true, // 22 is above it
        false, true,
    ];
    assert_eq!(seen, expected);
    // A daemon that finds little room when it starts says so.
    assert!(told_at(&Bed::new(), 3));
}

#[test]
fn every_nexus_hears_which_threshold_it_was() {
    let bed = Bed::new();
    let other = NexusLu::new(&bed.lu, nexus(), None);
    assert!(bed.lu.set_room(Room { available_bytes: 0, used_bytes: MIB }));
    let unit = Unit { lu: &bed.lu, nexus: &other };
    let check = plan(&TUR, &bed.context(Some(Lun::ZERO)), Some(unit)).unwrap_err();
    assert_eq!(check, CheckCondition::new(REACHED.code()).with_information(16));
    assert_eq!(bed.error(&TUR), check);
    let descriptor = bed.data(&mode_page(0))[4 + 16..].to_vec();
    assert_eq!(descriptor, [0x88, 0x03, 0, 0, 0, 0, 0, 20], "16 is where the descriptor begins");
}

#[test]
fn the_log_page_counts_what_there_is() {
    let bed = with_threshold(Some(0));
    assert_eq!(bed.data(&log_page(0)), [0x8c, 0, 0, 0], "nothing is known yet");
    assert_eq!(bed.error(&log_page(1)), in_cdb(5, None));
    bed.lu.set_room(Room { available_bytes: 0x0304_0506 * MIB + 5, used_bytes: 0x0708_090a * MIB });
    let counts = [
        &[0x00, 0x01, 0x03, 8, 3, 4, 5, 6, 0x02, 0, 0, 0][..],
        &[0x00, 0x02, 0x03, 8, 7, 8, 9, 10, 0x02, 0, 0, 0],
        &[0x00, 0x03, 0x03, 8, 0, 30, 0, 0, 0x02, 0, 0, 0],
    ];
    for from in 0..=3 {
        let body = counts[usize::from(from).saturating_sub(1)..].concat();
        assert_eq!(bed.data(&log_page(from)), [&[0x8c, 0, 0, body.len() as u8][..], &body].concat());
    }
    assert_eq!(bed.error(&log_page(4)), in_cdb(5, None));
    bed.lu.set_room(Room { available_bytes: u64::MAX, used_bytes: u64::MAX });
    assert_eq!(bed.data(&log_page(0))[8..12], [0xff; 4], "more than the field holds");
    bed.lu.set_room(Room { available_bytes: 0, used_bytes: 0 });
    assert_eq!(bed.data(&log_page(3))[8..10], [0, 0], "of nothing, nothing is available");
    // A threshold set is 1 MiB, whatever a block is.
    let large = Bed::with(LogicalUnitConfig { block_size: BlockSize::B4096, ..config() });
    assert_eq!(large.data(&[0x12, 1, 0xb2, 0, 255, 0])[4], 8);
}

#[test]
fn the_threshold_is_the_administrators_to_set() {
    let bed = with_threshold(Some(35));
    assert_eq!(bed.data(&mode_page(0))[4 + 16..], [0x88, 0x03, 0, 0, 0, 0, 0, 35]);
    assert_eq!(bed.data(&mode_page(2)), bed.data(&mode_page(0)), "by default");
    assert_eq!(bed.data(&mode_page(1))[4 + 4..], [0; 20], "nothing can be changed");
    let never = with_threshold(Some(0));
    assert_eq!(never.data(&mode_page(0))[4 + 16..], [0x08, 0x03, 0, 0, 0, 0, 0, 0], "not enabled");
    assert!(!told_at(&never, 0));
    let too_much = LogicalUnitConfig { soft_threshold_percent: Some(101), ..config() };
    assert!(matches!(
        LogicalUnit::new(too_much, AccessState::Serving),
        Err(LogicalUnitError::SoftThreshold(101))
    ));
}

#[test]
fn a_unit_whose_room_is_not_known_has_no_thresholds() {
    for bed in [with_threshold(None), Bed::thick()] {
        assert!(!told_at(&bed, 0));
        assert_eq!(bed.lu.room(), None);
        let provisioning = bed.data(&[0x12, 1, 0xb2, 0, 255, 0]);
        assert_eq!((provisioning[4], provisioning[7]), (0, 0), "no THRESHOLD EXPONENT, no range");
        assert_eq!(bed.error(&mode_page(0)), in_cdb(3, None));
        assert_eq!(bed.error(&log_page(0)), in_cdb(2, 5));
        assert_eq!(bed.data(&[0x4d, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0]), [0, 0, 0, 2, 0x00, 0x2f]);
        let all = bed.data(&[0x1a, 0x08, 0x3f, 0xff, 0xff, 0]);
        assert!(!all.windows(2).any(|bytes| bytes == [0x5c, 0x02]), "not among all pages");
    }
}

proptest! {
    /// It is told when at most the threshold is left and more than the range was left, or nothing was known, since it was told last.
    #[test]
    fn thresholds_behave_as_the_naive_one(
        percent in 0u8..=100,
        rooms in proptest::collection::vec((0u64..1000, 0u64..1000), 1..40),
    ) {
        let bed = with_threshold(Some(percent));
        let mut armed = true;
        for (available, used) in rooms {
            let share = |percent: u8| (available + used) as f64 * f64::from(percent) / 100.0;
            let reached = percent > 0 && armed && available as f64 <= share(percent);
            armed = if reached { false } else { armed || available as f64 > share(percent + 1) };
            prop_assert_eq!(bed.lu.set_room(Room { available_bytes: available, used_bytes: used }), reached);
        }
    }
}
