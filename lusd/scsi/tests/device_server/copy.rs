//! EXTENDED COPY (LID1), RECEIVE COPY RESULTS and the Third-party Copy page.

use lusd_scsi::*;

use crate::bed::*;

const TARGETS_MAX: usize = 8;
const SEGMENTS_MAX: usize = 16;

/// An identification descriptor with the NAA designator of the unit on the bench.
fn target(bed: &Bed) -> [u8; 32] {
    let mut descriptor = [0; 32];
    let naa = bed.lu.identity().naa();
    let naa = naa.as_bytes();
    (descriptor[0], descriptor[4], descriptor[5], descriptor[7]) = (0xe4, 1, 3, naa.len() as u8);
    descriptor[8..8 + naa.len()].copy_from_slice(naa);
    descriptor[30] = 2; // DISK BLOCK LENGTH 512
    descriptor
}

fn segment(source: u16, destination: u16, blocks: u16, from: u64, to: u64) -> [u8; 28] {
    let mut descriptor = [0; 28];
    (descriptor[0], descriptor[3]) = (0x02, 24);
    descriptor[4..6].copy_from_slice(&source.to_be_bytes());
    descriptor[6..8].copy_from_slice(&destination.to_be_bytes());
    descriptor[10..12].copy_from_slice(&blocks.to_be_bytes());
    descriptor[12..20].copy_from_slice(&from.to_be_bytes());
    descriptor[20..].copy_from_slice(&to.to_be_bytes());
    descriptor
}

fn list(identifier: u8, targets: &[[u8; 32]], segments: &[[u8; 28]]) -> Vec<u8> {
    let (targets, segments) = (targets.concat(), segments.concat());
    let mut list = vec![0; 16];
    list[0] = identifier;
    list[2..4].copy_from_slice(&(targets.len() as u16).to_be_bytes());
    list[8..12].copy_from_slice(&(segments.len() as u32).to_be_bytes());
    [list, targets, segments].concat()
}

fn cdb(service_action: u8, opcode: u8, list: u8, length: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1], cdb[2]) = (opcode, service_action, list);
    cdb[10..14].copy_from_slice(&length.to_be_bytes());
    cdb
}

fn send(bed: &Bed, list: &[u8]) -> Result<ExtendedCopy, CheckCondition> {
    match bed.finish(&cdb(0, 0x83, 0, list.len() as u32), list)? {
        After::Copy(copy) => Ok(*copy),
        other => panic!("{other:?} is no copy"),
    }
}

/// Without a list identifier: it can be sent again while the first is under way.
fn anonymous(targets: &[[u8; 32]], segments: &[[u8; 28]]) -> Vec<u8> {
    let mut list = list(0, targets, segments);
    list[1] = 0x18;
    list
}

fn one(bed: &Bed, segment: [u8; 28]) -> ExtendedCopy {
    send(bed, &anonymous(&[target(bed)], &[segment])).unwrap()
}

#[test]
fn a_segment_names_bytes_of_its_units() {
    let bed = Bed::new();
    let copy = one(&bed, segment(0, 0, 8, 10, 1000));
    assert!(copy.targets[0].is(&bed.lu, &bed.port));
    let other = Bed::with(LogicalUnitConfig::new(Identity::new([9; 16]), 1 << 20));
    assert!(!copy.targets[0].is(&other.lu, &bed.port), "another unit");
    let bytes = |lba: u64| Range { offset: lba * 512, len: 8 * 512 };
    let step = CopyStep { source: 0, from: bytes(10), destination: 0, to: bytes(1000) };
    assert_eq!(copy.segment(0, &[Some(&bed.lu)]), Ok(Some(step)));
    assert_eq!(copy.segments(), 1);
    assert_eq!(one(&bed, segment(0, 0, 0, 10, 1000)).segment(0, &[Some(&bed.lu)]), Ok(None));
}

#[test]
fn a_unit_is_named_by_any_of_its_designators() {
    let bed = Bed::new();
    let mut uuid = target(&bed);
    (uuid[5], uuid[7], uuid[8], uuid[9]) = (0x0a, 18, 0x10, 0);
    uuid[10..26].copy_from_slice(&ID);
    let mut port = target(&bed);
    (port[5], port[7]) = (0x14, 4);
    port[8..12].copy_from_slice(&[0, 0, 0, TAGS[0] as u8]);
    let mut text = target(&bed);
    text[4] = 2;
    let copy = send(&bed, &list(1, &[uuid, port, text], &[])).unwrap();
    let named: Vec<_> = copy.targets.iter().map(|target| target.is(&bed.lu, &bed.port)).collect();
    assert_eq!(named, [true, false, false], "a port is no logical unit");
}

#[test]
fn different_blocks_are_counted_by_one_side() {
    let (small, large) = (Bed::new(), Bed::b4096());
    let mut second = target(&small);
    second[8] ^= 1;
    second[29..32].copy_from_slice(&[0, 0x10, 0]);
    let units = [Some(&small.lu), Some(&large.lu)];
    let copy = |segment| send(&small, &anonymous(&[target(&small), second], &[segment])).unwrap();
    let step = copy(segment(0, 1, 16, 0, 3)).segment(0, &units).unwrap().unwrap();
    assert_eq!((step.from.len, step.to), (8192, Range { offset: 3 * 4096, len: 8192 }));
    let mut by_destination = segment(0, 1, 2, 0, 3);
    by_destination[1] = 0x02;
    assert_eq!(copy(by_destination).segment(0, &units).unwrap().unwrap().from.len, 8192);
    let inexact = copy(segment(0, 1, 9, 0, 3)).segment(0, &units);
    assert_eq!(inexact, Err(fault(Fault::UnexpectedInexactSegment)));
}

#[test]
fn segments_that_cannot_be_copied_abort() {
    let bed = Bed::new();
    let unit = [Some(&bed.lu)];
    for (segment, expected) in [
        (segment(0, 1, 1, 0, 0), Fault::UnreachableCopyTarget),
        (segment(0xffff, 0, 1, 0, 0), Fault::UnreachableCopyTarget),
        (segment(0, 0, 2, BLOCKS - 1, 0), Fault::CopyAborted),
        (segment(0, 0, 2, 0, BLOCKS - 1), Fault::CopyAborted),
        (segment(0, 0, 1, u64::MAX, 0), Fault::CopyAborted),
    ] {
        assert_eq!(one(&bed, segment).segment(0, &unit), Err(fault(expected)));
    }
    let good = segment(0, 0, 1, 0, 0);
    assert_eq!(one(&bed, good).segment(0, &[None]), Err(fault(Fault::CopyTargetNotReachable)));
    let with = |at: usize, value: u8| {
        let mut target = target(&bed);
        target[at] = value;
        send(&bed, &anonymous(&[target], &[good])).unwrap().segment(0, &unit)
    };
    assert_eq!(with(1, 0x20), Err(fault(Fault::CopyTargetNotReachable)), "NUL");
    assert_eq!(with(1, 0x01), Err(fault(Fault::IncorrectCopyTarget)), "a tape");
    assert_eq!(with(30, 0x10), Err(fault(Fault::IncorrectCopyTarget)), "blocks of 4096 bytes");
    let copy = one(&bed, good);
    bed.lu.set_read_only(true);
    assert_eq!(copy.segment(0, &unit), Err(fault(Fault::ThirdPartyDeviceFailure)));
    bed.lu.set_access(AccessState::Standby);
    assert_eq!(copy.segment(0, &unit), Err(fault(Fault::CopyTargetNotReachable)));
    // More than a segment may move: 65535 blocks of 4096 bytes.
    let large = Bed::with(LogicalUnitConfig {
        block_size: BlockSize::B4096,
        physical_block_exponent: 0,
        capacity_bytes: 1 << 40,
        ..config()
    });
    let mut descriptor = target(&large);
    descriptor[30] = 0x10;
    let copy = send(&large, &list(1, &[descriptor], &[segment(0, 0, 0xffff, 0, 0)])).unwrap();
    assert_eq!(copy.segment(0, &[Some(&large.lu)]), Err(fault(Fault::CopyAborted)));
}

#[test]
fn lists_that_do_not_add_up_are_refused() {
    let bed = Bed::new();
    let refused = |list: &[u8], expected: CheckCondition| assert_eq!(send(&bed, list).unwrap_err(), expected);
    let (target, segment) = (target(&bed), segment(0, 0, 1, 0, 0));
    let whole = list(1, &[target], &[segment]);
    for len in 1..whole.len() {
        refused(&whole[..len], fault(Fault::ParameterListLength));
    }
    assert_eq!(bed.data(&cdb(0, 0x83, 0, 0)), [], "no list");
    let too_many = [target; TARGETS_MAX + 1];
    refused(&list(1, &too_many, &[segment]), fault(Fault::TooManyTargetDescriptors));
    let too_many = [segment; SEGMENTS_MAX + 1];
    refused(&list(1, &[target], &too_many), fault(Fault::TooManySegmentDescriptors));
    let most = list(1, &[target; TARGETS_MAX], &[segment; SEGMENTS_MAX]);
    assert_eq!(send(&bed, &most).unwrap().segments(), SEGMENTS_MAX);
    let longer = cdb(0, 0x83, 0, most.len() as u32 + 1);
    assert_eq!(bed.error(&longer), fault(Fault::ParameterListLength));
    let with = |at: usize, value: u8| {
        let mut list = list(9, &[target], &[segment]);
        list[at] = value;
        list
    };
    refused(&with(15, 1), fault(Fault::InlineDataLengthExceeded));
    refused(&with(16, 0xe0), fault(Fault::UnsupportedTargetDescriptor));
    assert!(send(&bed, &with(17, 0xc0)).is_ok(), "LU ID TYPE");
    refused(&with(23, 21), in_list(23, None));
    refused(&with(48, 0x03), fault(Fault::UnsupportedSegmentDescriptor));
    refused(&with(51, 23), fault(Fault::ParameterListLength));
    refused(&with(1, 0x08), in_list(1, 4));
    refused(&with(1, 0x18), in_list(0, None));
    let nameless = anonymous(&[target], &[segment]);
    assert!(send(&bed, &nameless).is_ok() && send(&bed, &nameless).is_ok());
}

#[test]
fn results_are_kept_by_list_identifier() {
    let bed = Bed::new();
    let status = |list| bed.plan(&cdb(0, 0x84, list, 0xffff)).map(data);
    assert_eq!(status(7), Err(in_cdb(2, None)), "never heard of");
    let copy = send(&bed, &list(7, &[target(&bed)], &[segment(0, 0, 8, 0, 100)])).unwrap();
    assert_eq!(status(7), Ok(vec![0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0]), "in progress");
    let again = list(7, &[target(&bed)], &[]);
    assert_eq!(send(&bed, &again).unwrap_err(), fault(Fault::OperationInProgress));
    copy.record.moved(4096);
    copy.record.segment_done();
    copy.record.end(Ok(()));
    assert_eq!(status(7), Ok(vec![0, 0, 0, 8, 1, 0, 1, 0, 0, 0, 0x10, 0]));
    let details = |list| bed.data(&cdb(4, 0x84, list, 0xffff));
    assert_eq!(details(7), [0; 4], "nothing failed");
    // The identifier can be used again; a failure tells its sense.
    let copy = send(&bed, &again).unwrap();
    copy.record.moved(5 << 30);
    copy.record.end(Err(fault(Fault::CopyTargetNotReachable)));
    assert_eq!(status(7), Ok(vec![0, 0, 0, 8, 2, 0, 0, 1, 0, 0x50, 0, 0]), "in KiB");
    let details = details(7);
    assert_eq!(details[..4], (details.len() as u32 - 4).to_be_bytes());
    assert_eq!(details[56..60], [2, 0, 0, 18]);
    assert_eq!((details[62], details[72], details[73]), (0x0a, 0x0d, 0x02));
    // What is kept is bounded.
    for identifier in 100..140 {
        send(&bed, &list(identifier, &[], &[])).unwrap().record.end(Ok(()));
    }
    assert_eq!(status(7), Err(in_cdb(2, None)), "forgotten");
    assert!(status(139).is_ok());
}

#[test]
fn what_is_announced_is_what_is_taken() {
    let bed = Bed::new();
    let parameters = bed.data(&cdb(3, 0x84, 0, 0xffff));
    assert_eq!(parameters[..4], (parameters.len() as u32 - 4).to_be_bytes());
    assert_eq!(parameters[8..12], [0, TARGETS_MAX as u8, 0, SEGMENTS_MAX as u8]);
    let bytes = (TARGETS_MAX * 32 + SEGMENTS_MAX * 28) as u32;
    assert_eq!(parameters[12..16], bytes.to_be_bytes());
    assert_eq!(parameters[16..20], (64u32 << 20).to_be_bytes());
    assert_eq!((parameters[37], &parameters[43..]), (9, &[2, 0x02, 0xe4][..]));
    let page = bed.data(&vpd(0x8f));
    let mut rest = &page[4..];
    let mut kinds = Vec::new();
    while let [high, low, 0, len, after @ ..] = rest {
        assert_eq!(len % 4, 0);
        kinds.push(u16::from_be_bytes([*high, *low]));
        rest = &after[usize::from(*len)..];
    }
    assert_eq!((kinds, rest.len()), (vec![0x0001, 0x0004, 0x0008, 0x8001], 0));
    assert_eq!(page[8..17], [8, 0x83, 1, 0, 0x84, 3, 0, 3, 4]);
    for row in commands().iter().filter(|row| matches!(row.opcode(), 0x83 | 0x84)) {
        assert!(page[9..17].contains(&row.service_action_code()), "{}", row.name);
    }
    assert_eq!(bed.data(&cdb_inquiry(0, 0, 96))[5] & 0x08, 0x08, "3PC");
}
