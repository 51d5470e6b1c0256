//! Unit attentions: whom they reach, in which order, what clears them.

use lusd_scsi::*;
use proptest::prelude::*;

use crate::bed::*;

const TUR: [u8; 6] = [0; 6];

fn told(bed: &Bed, nexus: &NexusLu) -> Option<SenseCode> {
    let unit = Unit { lu: &bed.lu, nexus };
    plan(&TUR, &bed.context(Some(Lun::ZERO)), Some(unit)).err().map(|check| check.code)
}

fn all_told(bed: &Bed, nexus: &NexusLu) -> Vec<SenseCode> {
    std::iter::from_fn(|| told(bed, nexus)).collect()
}

#[test]
fn codes() {
    let codes: Vec<_> = UnitAttention::ORDER.iter().map(|attention| attention.code()).collect();
    assert!(codes.iter().all(|code| code.key == SenseKey::UnitAttention));
    let pairs: Vec<_> = codes.iter().map(|code| (code.asc, code.ascq)).collect();
    let expected = [
        (0x29, 0x00),
        (0x29, 0x02),
        (0x29, 0x03),
        (0x29, 0x07),
        (0x2a, 0x03),
        (0x2a, 0x04),
        (0x2a, 0x05),
        (0x3f, 0x0e),
        (0x3f, 0x03),
        (0x2a, 0x09),
        (0x2a, 0x01),
        (0x2a, 0x06),
        (0x38, 0x07),
    ];
    assert_eq!(pairs, expected);
}

#[test]
fn a_new_nexus_hears_of_power_on_and_of_nothing_before() {
    let bed = Bed::new();
    bed.lu.set_capacity_bytes(512);
    let nexus = NexusLu::new(&bed.lu, nexus(), Some(UnitAttention::PowerOn));
    assert_eq!(all_told(&bed, &nexus), [UnitAttention::PowerOn.code()]);
    let nexus = NexusLu::new(&bed.lu, crate::bed::nexus(), Some(UnitAttention::NexusLoss));
    assert_eq!(all_told(&bed, &nexus), [UnitAttention::NexusLoss.code()]);
}

#[test]
fn three_commands_pass_by_all_others_are_interrupted() {
    for row in commands() {
        let bed = Bed::new();
        bed.nexus.establish(UnitAttention::CapacityDataHasChanged);
        let result = bed.plan(&crate::table::accepted(row));
        if ["INQUIRY", "REPORT LUNS", "REQUEST SENSE"].contains(&row.name) {
            assert!(result.is_ok(), "{}", row.name);
        } else {
            assert_eq!(
                result.unwrap_err().code,
                UnitAttention::CapacityDataHasChanged.code(),
                "{}",
                row.name
            );
            assert_eq!(told(&bed, &bed.nexus), None, "told once");
        }
    }
}

#[test]
fn request_sense_returns_and_clears() {
    let bed = Bed::new();
    bed.nexus.establish(UnitAttention::CapacityDataHasChanged);
    bed.nexus.establish(UnitAttention::PowerOn);
    let sense = |desc| bed.data(&[0x03, desc, 0, 0, 18, 0]);
    assert_eq!(sense(0), [0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x29, 0, 0, 0, 0, 0]);
    assert_eq!(sense(1), [0x72, 6, 0x2a, 0x09, 0, 0, 0, 0]);
    assert_eq!(sense(1), [0x72, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(told(&bed, &bed.nexus), None);
    // Also while the unit is not served: the attention first, then why.
    bed.lu.set_access(AccessState::Transitioning);
    bed.nexus.establish(UnitAttention::DeviceReset);
    assert_eq!(sense(1)[..4], [0x72, 6, 0x29, 0x03]);
    assert_eq!(sense(1)[..4], [0x72, 6, 0x2a, 0x06]);
    assert_eq!(sense(1)[..4], [0x72, 2, 0x04, 0x0a]);
}

#[test]
fn report_luns_clears_what_it_reports() {
    let bed = Bed::new();
    bed.nexus.establish(UnitAttention::ReportedLunsDataHasChanged);
    bed.nexus.establish(UnitAttention::CapacityDataHasChanged);
    let mut report_luns = [0; 12];
    (report_luns[0], report_luns[9]) = (0xa0, 255);
    bed.data(&report_luns);
    assert_eq!(all_told(&bed, &bed.nexus), [UnitAttention::CapacityDataHasChanged.code()]);
}

#[test]
fn the_attention_comes_before_the_state_and_after_the_cdb() {
    let bed = Bed::new();
    bed.nexus.establish(UnitAttention::PowerOn);
    bed.lu.set_access(AccessState::Transitioning);
    assert_eq!(bed.error(&[0xff]), fault(Fault::InvalidOperationCode));
    assert_eq!(bed.error(&[0, 1, 0, 0, 0, 0]), in_cdb(1, 0));
    assert_eq!(bed.error(&TUR).code, UnitAttention::PowerOn.code());
    assert_eq!(bed.error(&TUR).code, AccessState::Transitioning.code().unwrap());
}

#[test]
fn changes_reach_every_nexus_once() {
    let bed = Bed::new();
    let others = [NexusLu::new(&bed.lu, nexus(), None), NexusLu::new(&bed.lu, nexus(), None)];
    bed.lu.set_capacity_bytes(BLOCKS * 1024);
    bed.lu.set_capacity_bytes(BLOCKS * 1024 + 511);
    bed.lu.set_identity(Identity::new(ID));
    for nexus in others.iter().chain([&bed.nexus]) {
        assert_eq!(all_told(&bed, nexus), [UnitAttention::CapacityDataHasChanged.code()]);
    }
    assert_eq!(bed.lu.blocks(), 2 * BLOCKS);
    assert_eq!(bed.data(&cdb10(0x25, 0, 0, 0))[..4], (2 * BLOCKS as u32 - 1).to_be_bytes());
    bed.lu.set_identity(Identity::new(ID).with_product("other").unwrap());
    for nexus in others.iter().chain([&bed.nexus]) {
        assert_eq!(all_told(&bed, nexus), [UnitAttention::InquiryDataHasChanged.code()]);
    }
    bed.lu.raise(UnitAttention::ReservationsReleased, Some(&bed.nexus));
    assert_eq!(told(&bed, &bed.nexus), None);
    assert_eq!(all_told(&bed, &others[0]), [UnitAttention::ReservationsReleased.code()]);
}

#[test]
fn an_event_from_another_thread_is_never_missed() {
    let bed = Bed::new();
    let rounds = 2_000u64;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..rounds {
                bed.lu.set_capacity_bytes((round + 1) * 512);
            }
        });
        // Whoever reads the last capacity after having been told for the last time has seen the last change.
        let mut seen = 0;
        while seen != rounds {
            if told(&bed, &bed.nexus).is_some() {
                seen = bed.lu.blocks();
            }
        }
    });
    all_told(&bed, &bed.nexus);
    assert_eq!(told(&bed, &bed.nexus), None);
}

#[derive(Clone, Debug)]
enum Act {
    Raise(usize, Option<usize>),
    Establish(usize, usize),
    ClearReportedLuns(usize),
    Take(usize),
}

const NEXUSES: usize = 3;
const POWER_ON: usize = 0;
const REPORTED_LUNS: usize = UnitAttention::ReportedLunsDataHasChanged as usize;
const ACCESS_STATE: usize = UnitAttention::AsymmetricAccessStateChanged as usize;

fn act() -> impl Strategy<Value = Act> {
    let kind = 0..UnitAttention::ORDER.len();
    let shared = kind.clone().prop_filter("a session's own", |kind| *kind != REPORTED_LUNS);
    prop_oneof![
        (shared, proptest::option::of(0..NEXUSES)).prop_map(|(kind, except)| Act::Raise(kind, except)),
        (0..NEXUSES, kind).prop_map(|(nexus, kind)| Act::Establish(nexus, kind)),
        (0..NEXUSES).prop_map(Act::ClearReportedLuns),
        (0..NEXUSES).prop_map(Act::Take),
    ]
}

/// The naive form: one sorted list a nexus; of the resets (the first four) only the highest stays, and power on swallows a change of
/// access states.
#[derive(Default)]
struct Model([Vec<usize>; NEXUSES]);

impl Model {
    fn add(&mut self, nexus: usize, kind: usize) {
        let queue = &mut self.0[nexus];
        queue.push(kind);
        queue.sort_unstable();
        queue.dedup();
        if let Some(highest) = queue.iter().copied().find(|kind| *kind < 4) {
            queue.retain(|kind| *kind >= 4 || *kind == highest);
        }
        if queue.contains(&POWER_ON) {
            queue.retain(|kind| *kind != ACCESS_STATE);
        }
    }
}

proptest! {
    #[test]
    fn queues_behave_as_the_naive_ones(acts in proptest::collection::vec(act(), 1..60)) {
        let bed = Bed::new();
        let nexuses: [NexusLu; NEXUSES] = std::array::from_fn(|_| NexusLu::new(&bed.lu, nexus(), None));
        let mut model = Model::default();
        for act in acts {
            match act {
                Act::Raise(kind, except) => {
                    bed.lu.raise(UnitAttention::ORDER[kind], except.map(|nexus| &nexuses[nexus]));
                    (0..NEXUSES).filter(|nexus| Some(*nexus) != except).for_each(|nexus| model.add(nexus, kind));
                }
                Act::Establish(nexus, kind) => {
                    nexuses[nexus].establish(UnitAttention::ORDER[kind]);
                    model.add(nexus, kind);
                }
                Act::ClearReportedLuns(nexus) => {
                    nexuses[nexus].clear_reported_luns();
                    model.0[nexus].retain(|pending| *pending != REPORTED_LUNS);
                }
                Act::Take(nexus) => {
                    let expected = (!model.0[nexus].is_empty()).then(|| model.0[nexus].remove(0));
                    let expected = expected.map(|kind| UnitAttention::ORDER[kind].code());
                    prop_assert_eq!(told(&bed, &nexuses[nexus]), expected);
                }
            }
        }
        for (nexus, pending) in nexuses.iter().zip(&model.0) {
            let expected: Vec<_> = pending.iter().map(|kind| UnitAttention::ORDER[*kind].code()).collect();
            prop_assert_eq!(all_told(&bed, nexus), expected);
        }
    }
}
