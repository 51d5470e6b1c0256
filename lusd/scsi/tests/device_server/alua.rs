//! Asymmetric access: REPORT TARGET PORT GROUPS read back by a parser of our own, who is told of changes, what becomes of commands
//! that waited.

use lusd_scsi::*;
use proptest::prelude::*;

use crate::bed::*;

const CHANGED: UnitAttention = UnitAttention::AsymmetricAccessStateChanged;

fn report(format: u8, allocation_length: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[..2].copy_from_slice(&[0xa3, format << 5 | 0x0a]);
    cdb[6..10].copy_from_slice(&allocation_length.to_be_bytes());
    cdb
}

/// A target port group descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Descriptor {
    preferred: bool,
    state: u8,
    supported: u8,
    group: u16,
    status: u8,
    ports: Vec<u16>,
}

/// What a host can read of parameter data that may be cut anywhere: the descriptors that are whole.
#[derive(Debug, PartialEq, Eq)]
struct Parsed {
    /// RETURN DATA LENGTH, of the data before it was cut.
    length: usize,
    transition_time: Option<u8>,
    descriptors: Vec<Descriptor>,
}

fn be16(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

/// By the tables of SPC-4 6.37, as an initiator would; `None` where not even the header is there.
fn parse(data: &[u8]) -> Option<Parsed> {
    let length = u32::from_be_bytes(data.get(..4)?.try_into().unwrap()) as usize;
    let mut rest = &data[4..data.len().min(length + 4)];
    let mut transition_time = None;
    // A group descriptor has its state in the first byte, of which bits 6 to 4 are zero.
    if let [0x10, time, reserved @ ..] = rest {
        if reserved.len() >= 2 {
            assert_eq!(reserved[..2], [0, 0]);
        }
        transition_time = Some(*time);
        rest = rest.get(4..).unwrap_or_default();
    }
    let mut descriptors = Vec::new();
    while rest.len() >= 8 {
        let (head, tail) = rest.split_at(8);
        let count = usize::from(head[7]);
        assert_eq!((head[0] & 0x70, head[1] & 0x20, head[4], head[6]), (0, 0, 0, 0), "reserved");
        if tail.len() < 4 * count {
            break;
        }
        let (ports, next) = tail.split_at(4 * count);
        descriptors.push(Descriptor {
            preferred: head[0] & 0x80 != 0,
            state: head[0] & 0x0f,
            supported: head[1],
            group: be16(&head[2..]),
            status: head[5],
            ports: ports
                .chunks(4)
                .map(|port| {
                    assert_eq!(port[..2], [0, 0]);
                    be16(&port[2..])
                })
                .collect(),
        });
        rest = next;
    }
    Some(Parsed { length, transition_time, descriptors })
}

/// Whether SUPPORTED has the bit of a state (SPC-4: bit by state).
fn is_supported(descriptor: &Descriptor) -> bool {
    let bit = match descriptor.state {
        state @ 0..=3 => 1 << state,
        0xf => 0x80,
        other => panic!("state {other:x}"),
    };
    descriptor.supported & bit != 0
}

fn parsed(bed: &Bed) -> Parsed {
    // A nexus of its own: the bed's may be told of something first.
    let nexus = NexusLu::new(&bed.lu, nexus(), None);
    let unit = Unit { lu: &bed.lu, nexus: &nexus };
    let context = bed.context(Some(Lun::ZERO));
    parse(&data(plan(&report(0, u32::MAX), &context, Some(unit)).unwrap())).unwrap()
}

fn states(bed: &Bed) -> Vec<(u16, u8)> {
    parsed(bed).descriptors.iter().map(|descriptor| (descriptor.group, descriptor.state)).collect()
}

fn told(bed: &Bed, nexus: &NexusLu) -> Vec<SenseCode> {
    std::iter::from_fn(|| {
        let unit = Unit { lu: &bed.lu, nexus };
        let check = plan(&[0; 6], &bed.context(Some(Lun::ZERO)), Some(unit)).err()?;
        (check.code.key == SenseKey::UnitAttention).then_some(check.code)
    })
    .collect()
}

#[test]
fn both_formats_byte_by_byte() {
    let bed = Bed::new();
    let mut list = vec![];
    for (tag, state) in TAGS.into_iter().zip([0, 2, 2]) {
        let [high, low] = tag.to_be_bytes();
        list.extend([state, 0x8d, high, low, 0, 2, 0, 1, 0, 0, high, low]);
    }
    assert_eq!(bed.data(&report(0, 0xffff)), [&[0, 0, 0, 36][..], &list].concat());
    let extended = bed.data(&report(1, 0xffff));
    assert_eq!(extended, [&[0, 0, 0, 40, 0x10, 60, 0, 0][..], &list].concat());
    for format in 2..8 {
        let bit = if format & 4 != 0 { 7 } else { 6 };
        assert_eq!(bed.error(&report(format, 0xffff)), in_cdb(1, bit), "format {format}");
    }
}

/// What INQUIRY and page 83h say of the port is what the list of groups has.
#[test]
fn the_ports_own_designators_are_in_the_list() {
    let bed = Bed::new();
    assert_eq!(bed.data(&cdb_inquiry(0, 0, 0xff))[5] >> 4 & 3, 1, "TPGS: implicit only");
    let page = bed.data(&vpd(0x83));
    let (mut group, mut port, mut at) = (None, None, 4);
    while at < page.len() {
        let designator = &page[at + 4..at + 4 + usize::from(page[at + 3])];
        match page[at + 1] & 0x3f {
            0x14 => port = Some(be16(&designator[2..])),
            0x15 => group = Some(be16(&designator[2..])),
            _ => {}
        }
        at += 4 + designator.len();
    }
    let parsed = parsed(&bed);
    let own = parsed.descriptors.iter().find(|descriptor| Some(descriptor.group) == group).unwrap();
    assert_eq!(own.ports, [port.unwrap()]);
}

#[test]
fn explicit_changes_are_refused() {
    let bed = Bed::new();
    let mut set = [0; 16];
    (set[0], set[1], set[9]) = (0xa4, 0x0a, 8);
    assert_eq!(bed.error(&set), fault(Fault::InvalidOperationCode));
    // A unit without groups does not know the other command either.
    let bed = Bed::thick();
    assert_eq!(bed.error(&report(0, 0xffff)), in_cdb(1, 4));
    assert_eq!(bed.error(&report(1, 0xffff)), in_cdb(1, 4));
}

/// The states of three groups as the daemon behind `own` tells them; `None`: no placement.
#[test]
fn states_while_a_unit_moves() {
    use AccessState::*;
    let [a, b, c] = TAGS;
    let cases = [
        // Where, the map's owner, this daemon's state; states of A, B, C.
        (a, Some(a), Serving, [0, 2, 2]),
        (b, Some(a), Standby, [0, 2, 2]),
        (c, Some(a), Standby, [0, 2, 2]),
        (a, Some(a), Transitioning, [0xf, 2, 2]),
        (a, Some(a), BecomingReady, [0xf, 2, 2]),
        // The map has spoken, its task has not begun yet.
        (a, Some(a), Standby, [0xf, 2, 2]),
        // A flaw of the unit is not the port's.
        (a, Some(a), ManualInterventionRequired, [0, 2, 2]),
        (a, Some(a), Unavailable, [3, 2, 2]),
        // Placed on B: A serves until it lets go.
        (a, Some(b), Serving, [0, 2, 2]),
        (a, Some(b), Transitioning, [0xf, 0, 2]),
        (a, Some(b), Standby, [2, 0, 2]),
        (b, Some(b), Transitioning, [2, 0xf, 2]),
        (b, Some(b), Serving, [2, 0, 2]),
        (c, Some(b), Standby, [2, 0, 2]),
        (c, Some(b), ManualInterventionRequired, [2, 0, 2]),
        // Nobody has been there to be chosen; or it is a daemon that ended.
        (a, None, Standby, [2, 2, 2]),
        (a, Some(1), Standby, [2, 2, 2]),
    ];
    for (own, owner, access, expected) in cases {
        let bed = Bed::new();
        bed.lu.set_access(access);
        bed.lu.set_port_groups(port_groups(own, owner));
        let expected: Vec<_> = TAGS.into_iter().zip(expected).collect();
        assert_eq!(states(&bed), expected, "at {own:04x}, owner {owner:04x?}, {access:?}");
    }
}

#[test]
fn a_daemon_that_is_down_is_unavailable() {
    let bed = Bed::new();
    let list = TAGS.map(|tag| PortGroup { tag, up: tag != TAGS[1] });
    bed.lu.set_access(AccessState::Standby);
    bed.lu.set_port_groups(PortGroups::new(list.into(), TAGS[0], Some(TAGS[1])));
    assert_eq!(states(&bed), [(TAGS[0], 2), (TAGS[1], 3), (TAGS[2], 2)]);
    // And so is this one, when it has been declared so.
    bed.lu.set_access(AccessState::Serving);
    bed.lu.set_port_groups(PortGroups::new(list.into(), TAGS[1], Some(TAGS[1])));
    assert_eq!(states(&bed)[1], (TAGS[1], 3));
}

#[test]
fn a_change_is_told_once_to_every_nexus() {
    let bed = Bed::new();
    let others = [NexusLu::new(&bed.lu, nexus(), None), NexusLu::new(&bed.lu, nexus(), None)];
    let everybody = || others.iter().chain([&bed.nexus]);
    // Nothing to see: the same groups again, and an owner to be while this one still serves.
    bed.lu.set_port_groups(port_groups(TAGS[0], Some(TAGS[0])));
    bed.lu.set_access(AccessState::Serving);
    bed.lu.set_port_groups(port_groups(TAGS[0], Some(TAGS[1])));
    for nexus in everybody() {
        assert_eq!(told(&bed, nexus), []);
    }
    // There and back, and a daemon less: one unit attention for all of it.
    bed.lu.set_access(AccessState::Standby);
    bed.lu.set_access(AccessState::Transitioning);
    bed.lu.set_access(AccessState::Serving);
    bed.lu.set_port_groups(PortGroups::new(
        [PortGroup { tag: TAGS[0], up: true }].into(),
        TAGS[0],
        Some(TAGS[0]),
    ));
    for nexus in everybody() {
        assert_eq!(told(&bed, nexus), [CHANGED.code()]);
        assert_eq!(told(&bed, nexus), []);
    }
    // A new nexus has been told of no state before, and hears of none that is gone.
    let new = NexusLu::new(&bed.lu, nexus(), Some(UnitAttention::PowerOn));
    bed.lu.set_access(AccessState::Transitioning);
    bed.lu.set_access(AccessState::Serving);
    assert_eq!(told(&bed, &new), [UnitAttention::PowerOn.code()]);
    bed.lu.set_access(AccessState::Transitioning);
    assert_eq!(told(&bed, &new), [CHANGED.code()]);
}

#[test]
fn a_unit_that_becomes_asymmetric_has_other_inquiry_data() {
    let bed = Bed::thick();
    bed.lu.set_access(AccessState::Standby);
    assert_eq!(told(&bed, &bed.nexus), [], "no groups, no states");
    bed.lu.set_port_groups(port_groups(TAGS[0], None));
    assert_eq!(told(&bed, &bed.nexus), [UnitAttention::InquiryDataHasChanged.code(), CHANGED.code()]);
    assert_eq!(bed.data(&cdb_inquiry(0, 0, 0xff))[5], 0x18);
}

#[test]
fn commands_that_waited_are_sent_to_another_path() {
    let moving = AccessState::Transitioning.code().unwrap();
    for access in [AccessState::Standby, AccessState::Transitioning] {
        let bed = Bed::new();
        let mut unmap = [0; 16];
        (unmap[0], unmap[8]) = (0x42, 24);
        let Step::Parameters(parameters) = bed.plan(&unmap).unwrap().step else { panic!("no parameters") };
        bed.nexus.establish(UnitAttention::CapacityDataHasChanged);
        // A change that no state shows, and that raises nothing, ends in the same way.
        assert_eq!(bed.lu.displaced(Some(&bed.nexus)).code, moving);
        bed.lu.set_port_groups(port_groups(TAGS[0], Some(TAGS[1])));
        bed.lu.set_access(access);
        // The first is told that the states changed, whatever else is pending; the others that it moves.
        let first = parameters.finish(bed.unit(), &[0; 24]);
        assert_eq!(first.unwrap_err().code, CHANGED.code());
        assert_eq!(bed.lu.displaced(Some(&bed.nexus)).code, moving);
        assert_eq!(bed.lu.displaced(None).code, moving);
        assert_eq!(told(&bed, &bed.nexus), [UnitAttention::CapacityDataHasChanged.code()]);
    }
    for access in
        [AccessState::BecomingReady, AccessState::ManualInterventionRequired, AccessState::Unavailable]
    {
        let bed = Bed::new();
        bed.lu.set_access(access);
        assert_eq!(Some(bed.lu.displaced(None).code), access.code());
    }
}

#[test]
fn a_change_from_another_thread_is_never_missed() {
    const ROUNDS: u64 = 2_000;
    let bed = Bed::new();
    std::thread::scope(|scope| {
        for states in [[AccessState::Standby, AccessState::Transitioning], [AccessState::Unavailable; 2]] {
            let lu = &bed.lu;
            scope.spawn(move || (0..ROUNDS).for_each(|round| lu.set_access(states[(round % 2) as usize])));
        }
        scope.spawn(|| {
            for round in 0..ROUNDS {
                let owner = TAGS[(round % 3) as usize];
                bed.lu.set_port_groups(port_groups(TAGS[0], Some(owner)));
            }
        });
    });
    // What is reported is what commands meet, and whoever asks after the last attention sees the last states.
    assert_eq!(told(&bed, &bed.nexus), [CHANGED.code()]);
    let own = match bed.lu.access() {
        AccessState::Unavailable => 3,
        AccessState::Standby => 2,
        _ => 0xf,
    };
    let last = TAGS[((ROUNDS - 1) % 3) as usize];
    let expected = TAGS.map(|tag| match tag {
        tag if tag == TAGS[0] => (tag, own),
        tag if tag == last => (tag, 0),
        tag => (tag, 2),
    });
    assert_eq!(states(&bed), expected);
}

/// Random lists: up to 40 daemons, tags without order.
fn groups() -> impl Strategy<Value = Vec<PortGroup>> {
    proptest::collection::btree_map(1u16.., any::<bool>(), 1..40)
        .prop_map(|tags| tags.into_iter().map(|(tag, up)| PortGroup { tag, up }).collect::<Vec<_>>())
        .prop_shuffle()
}

const ACCESS: [AccessState; 6] = [
    AccessState::Serving,
    AccessState::Standby,
    AccessState::Transitioning,
    AccessState::BecomingReady,
    AccessState::ManualInterventionRequired,
    AccessState::Unavailable,
];

proptest! {
    #[test]
    fn what_is_built_is_what_is_parsed(
        list in groups(),
        own: proptest::sample::Index,
        owner in proptest::option::of(any::<proptest::sample::Index>()),
        access in 0..ACCESS.len(),
        cut in 0u32..600,
    ) {
        let owner = owner.map(|owner| list[owner.index(list.len())].tag);
        let groups = PortGroups::new(list.clone().into(), list[own.index(list.len())].tag, owner);
        let bed = Bed::thick();
        bed.lu.set_access(ACCESS[access]);
        bed.lu.set_port_groups(groups.clone());
        let nexus = NexusLu::new(&bed.lu, nexus(), None);
        let ask = |cdb: [u8; 16]| {
            data(plan(&cdb, &bed.context(Some(Lun::ZERO)), Some(Unit { lu: &bed.lu, nexus: &nexus })).unwrap())
        };
        let plain = parse(&ask(report(0, u32::MAX))).unwrap();
        let extended = parse(&ask(report(1, u32::MAX))).unwrap();
        prop_assert_eq!((plain.length, extended.length), (12 * list.len(), 12 * list.len() + 4));
        prop_assert_eq!((plain.transition_time, extended.transition_time), (None, Some(60)));
        prop_assert_eq!(&plain.descriptors, &extended.descriptors);
        let states: Vec<_> = groups.states(ACCESS[access]).map(|(tag, state)| (tag, state as u8)).collect();
        let shown: Vec<_> = plain.descriptors.iter().map(|found| (found.group, found.state)).collect();
        prop_assert_eq!(&shown, &states);
        prop_assert!(plain.descriptors.iter().all(|found| is_supported(found) && !found.preferred));
        prop_assert!(plain.descriptors.iter().all(|found| found.status == 2 && found.ports == [found.group]));
        prop_assert!(states.iter().filter(|(_, state)| *state == 0).count() <= 1, "one active group at most");
        for (group, (tag, state)) in list.iter().zip(&states) {
            prop_assert_eq!(group.tag, *tag);
            prop_assert_eq!(!group.up, *state == 3 && !(group.up && ACCESS[access] == AccessState::Unavailable));
        }
        // Cut anywhere: what is whole is the same, and the length is that of all.
        for (format, full) in [(0, &plain), (1, &extended)] {
            let data = ask(report(format, cut));
            prop_assert_eq!(data.len(), (full.length + 4).min(cut as usize));
            match parse(&data) {
                None => prop_assert!(cut < 4),
                Some(part) => {
                    prop_assert_eq!(part.length, full.length);
                    prop_assert!(full.descriptors.starts_with(&part.descriptors));
                }
            }
        }
    }

    /// The owner serves, the others stand by: one answer, through whichever daemon.
    #[test]
    fn every_daemon_says_the_same(list in groups(), owner: proptest::sample::Index) {
        let owner = list[owner.index(list.len())].tag;
        let answers: Vec<_> = list
            .iter()
            .map(|group| {
                let bed = Bed::thick();
                bed.lu.set_access(if group.tag == owner { AccessState::Serving } else { AccessState::Standby });
                bed.lu.set_port_groups(PortGroups::new(list.clone().into(), group.tag, Some(owner)));
                states(&bed)
            })
            .collect();
        prop_assert!(answers.iter().all(|answer| *answer == answers[0]));
    }

    /// Whatever happens: a nexus has the attention pending exactly when what it would be told differs from, or has differed since, what
    /// it was told last.
    #[test]
    fn told_if_and_only_if_something_changed(
        steps in proptest::collection::vec((0..ACCESS.len(), 0..TAGS.len(), any::<[bool; 3]>(), any::<bool>()), 1..30),
    ) {
        let bed = Bed::new();
        let mut last = states(&bed);
        let mut changed = false;
        for (access, owner, up, ask) in steps {
            bed.lu.set_access(ACCESS[access]);
            let now = states(&bed);
            changed |= now != last;
            last = now;
            let mut up = up.into_iter();
            let list = TAGS.map(|tag| PortGroup { tag, up: up.next().unwrap_or_default() });
            bed.lu.set_port_groups(PortGroups::new(list.into(), TAGS[0], Some(TAGS[owner])));
            let now = states(&bed);
            changed |= now != last;
            last = now;
            if ask {
                let expected = if changed { vec![CHANGED.code()] } else { vec![] };
                prop_assert_eq!(told(&bed, &bed.nexus), expected);
                changed = false;
            }
        }
    }
}
