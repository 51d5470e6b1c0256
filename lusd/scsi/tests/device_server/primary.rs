//! Commands about the device and the session, absent logical units, access states, allocation lengths.

use lusd_scsi::*;

use crate::bed::*;

const TUR: [u8; 6] = [0; 6];

fn request_sense(desc: u8, allocation_length: u8) -> [u8; 6] {
    [0x03, desc, 0, 0, allocation_length, 0]
}

fn report_luns(select: u8, allocation_length: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[2]) = (0xa0, select);
    cdb[6..10].copy_from_slice(&allocation_length.to_be_bytes());
    cdb
}

fn read_capacity_16(allocation_length: u32) -> [u8; 16] {
    cdb16(0x9e, 0x10, 0, allocation_length)
}

fn task_management(repd: u8, allocation_length: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[..3].copy_from_slice(&[0xa3, 0x0d, repd]);
    cdb[6..10].copy_from_slice(&allocation_length.to_be_bytes());
    cdb
}

#[test]
fn every_reply_is_cut_to_its_allocation_length() {
    let bed = Bed::new();
    let with_u8 = |mut cdb: [u8; 16], at: usize, len: u32| {
        cdb[at] = len as u8;
        cdb
    };
    let with_u16 = |mut cdb: [u8; 16], at: usize, len: u32| {
        cdb[at..at + 2].copy_from_slice(&(len as u16).to_be_bytes());
        cdb
    };
    let opcodes = |options, len: u32| {
        let mut cdb = [0; 16];
        cdb[..4].copy_from_slice(&[0xa3, 0x0c, options, 0x28]);
        cdb[6..10].copy_from_slice(&len.to_be_bytes());
        cdb
    };
    let port_groups = |format: u8, len: u32| {
        let mut cdb = [0; 16];
        cdb[..2].copy_from_slice(&[0xa3, 0x0a | format]);
        cdb[6..10].copy_from_slice(&len.to_be_bytes());
        cdb
    };
    type Case<'a> = (&'a str, u32, Box<dyn Fn(u32) -> [u8; 16]>);
    let diagnostic = |len: u32| {
        let mut cdb = cdb6(0x1c, 1 << 16, 0);
        cdb[3..5].copy_from_slice(&(len as u16).to_be_bytes());
        cdb
    };
    let log_sense = move |page: u32, len| with_u16(cdb10(0x4d, 0, page << 16, 0), 7, len);
    let mut cases: Vec<Case<'_>> = vec![
        ("standard INQUIRY", 0xffff, Box::new(|len| cdb_inquiry(0, 0, len as u16))),
        ("REQUEST SENSE", 0xff, Box::new(move |len| with_u8(cdb6(0x03, 0, 0), 4, len))),
        ("REQUEST SENSE, DESC", 0xff, Box::new(move |len| with_u8(cdb6(0x03, 1 << 16, 0), 4, len))),
        ("MODE SENSE (6)", 0xff, Box::new(move |len| with_u8(cdb6(0x1a, 0x3fff, 0), 4, len))),
        ("MODE SENSE (10)", 0xffff, Box::new(move |len| with_u16(cdb10(0x5a, 0x10, 0x3fff_0000, 0), 7, len))),
        ("RECEIVE DIAGNOSTIC RESULTS", 0xffff, Box::new(diagnostic)),
        ("LOG SENSE, the list", 0xffff, Box::new(move |len| log_sense(0x00ff, len))),
        ("LOG SENSE", 0xffff, Box::new(move |len| log_sense(0x6f00, len))),
        ("READ CAPACITY (16)", u32::MAX, Box::new(read_capacity_16)),
        ("REPORT LUNS", u32::MAX, Box::new(|len| report_luns(0, len))),
        ("all operation codes", u32::MAX, Box::new(move |len| opcodes(0x80, len))),
        ("target port groups", u32::MAX, Box::new(move |len| port_groups(0, len))),
        ("target port groups, extended", u32::MAX, Box::new(move |len| port_groups(0x20, len))),
        ("one operation code", u32::MAX, Box::new(move |len| opcodes(0x81, len))),
    ];
    for page in vpd_pages() {
        cases.push(("VPD", 0xffff, Box::new(move |len| cdb_inquiry(1, page, len as u16))));
    }
    for (name, most, cdb) in cases {
        let full = bed.data(&cdb(most));
        assert!(full.len() >= 4, "{name}");
        for len in 0..=(full.len() as u32 + 1).min(most) {
            let expected = &full[..full.len().min(len as usize)];
            assert_eq!(bed.data(&cdb(len)), expected, "{name}, allocation length {len}");
        }
    }
    let full = bed.data(&task_management(0x80, u32::MAX));
    for len in 0..4 {
        assert_eq!(bed.error(&task_management(0x80, len)), in_cdb(6, None));
    }
    for len in 4..=17 {
        assert_eq!(bed.data(&task_management(0x80, len)), full[..full.len().min(len as usize)]);
    }
}

#[test]
fn read_capacity() {
    let bed = Bed::new();
    let mut ten = (BLOCKS as u32 - 1).to_be_bytes().to_vec();
    ten.extend(512u32.to_be_bytes());
    assert_eq!(bed.data(&cdb10(0x25, 0, 0, 0)), ten);
    let mut sixteen = (BLOCKS - 1).to_be_bytes().to_vec();
    sixteen.extend(512u32.to_be_bytes());
    sixteen.extend([0, 3, 0xc0, 0]);
    sixteen.resize(32, 0);
    assert_eq!(bed.data(&read_capacity_16(32)), sixteen);
    sixteen[14] = 0;
    assert_eq!(Bed::thick().data(&read_capacity_16(32)), sixteen);
    assert_eq!(Bed::b4096().data(&cdb10(0x25, 0, 0, 0))[4..], [0, 0, 0x10, 0]);
}

#[test]
fn large_units_need_read_capacity_16() {
    for (blocks, last) in [(1u64 << 32, u32::MAX), ((1 << 32) - 1, u32::MAX - 1), (1 << 33, u32::MAX)] {
        let bed = Bed::with(LogicalUnitConfig { capacity_bytes: blocks * 512, ..config() });
        assert_eq!(bed.data(&cdb10(0x25, 0, 0, 0))[..4], last.to_be_bytes());
        assert_eq!(bed.data(&read_capacity_16(8)), (blocks - 1).to_be_bytes());
    }
}

#[test]
fn a_unit_without_blocks_has_no_medium() {
    let bed = Bed::with(LogicalUnitConfig { capacity_bytes: 511, ..config() });
    for cdb in [cdb6(0, 0, 0), cdb10(0x25, 0, 0, 0), read_capacity_16(32)] {
        assert_eq!(bed.error(&cdb), fault(Fault::NoMedium));
    }
    assert_eq!(bed.error(&cdb10(0x28, 0, 0, 1)), CheckCondition::lba_out_of_range(0));
    // One that is not the owner may only not have seen it.
    let bed = Bed::with(LogicalUnitConfig { capacity_bytes: 0, thin: false, ..config() });
    bed.lu.set_access(AccessState::Standby);
    for cdb in [cdb10(0x25, 0, 0, 0), read_capacity_16(32)] {
        assert_eq!(Some(bed.error(&cdb).code), AccessState::Standby.code());
    }
}

#[test]
fn report_luns_lists_what_the_session_sees() {
    let bed = Bed::new();
    let mut all = vec![0, 0, 0, 24, 0, 0, 0, 0];
    all.extend([0; 8]);
    all.extend([0, 3, 0, 0, 0, 0, 0, 0]);
    all.extend([0x41, 0x2c, 0, 0, 0, 0, 0, 0]);
    for select in [0x00, 0x11] {
        assert_eq!(bed.data(&report_luns(select, 4096)), all, "{select:02x}");
    }
    let well_known = [0xc1, 1, 0, 0, 0, 0, 0, 0];
    assert_eq!(bed.data(&report_luns(1, 4096)), [&[0, 0, 0, 8, 0, 0, 0, 0], &well_known[..]].concat());
    let mut with_well_known = [&all[..], &well_known].concat();
    with_well_known[3] = 32;
    assert_eq!(bed.data(&report_luns(2, 4096)), with_well_known);
    for select in [0x10, 0x12] {
        assert_eq!(bed.data(&report_luns(select, 4096)), [0; 8], "{select:02x}");
    }
    for select in [0x03, 0x0f, 0x13, 0xf8, 0xff] {
        assert_eq!(bed.error(&report_luns(select, 4096)), in_cdb(2, None));
    }
    // Conglomerates are asked for at LUN 0 or the well-known one; what is in one, anywhere.
    let at_three =
        |select| plan(&report_luns(select, 4096), &bed.context(Lun::new(3)), Some(bed.unit())).map(data);
    for select in [0x10, 0x11] {
        assert_eq!(at_three(select), Err(in_cdb(2, None)));
    }
    assert_eq!((at_three(0x00), at_three(0x12)), (Ok(all.clone()), Ok(vec![0; 8])));
    // At LUN 0 without a logical unit too, elsewhere not.
    assert_eq!(data(bed.plan_absent(Some(Lun::ZERO), &report_luns(0, 4096)).unwrap()), all);
    for lun in [Lun::new(5), None] {
        let refused = bed.plan_absent(lun, &report_luns(0, 4096));
        assert_eq!(refused, Err(fault(Fault::LogicalUnitNotSupported)));
    }
}

#[test]
fn an_absent_unit_answers_what_it_must() {
    let bed = Bed::new();
    for lun in [Some(Lun::ZERO), Lun::new(5), None] {
        let inquiry = data(bed.plan_absent(lun, &cdb_inquiry(0, 0, 0xff)).unwrap());
        assert_eq!((inquiry.len(), inquiry[0], inquiry[2]), (96, 0x7f, 6));
        assert_eq!(inquiry[8..36], [b' '; 28]);
        assert_eq!(data(bed.plan_absent(lun, &vpd(0)).unwrap()), [0x7f, 0, 0, 1, 0]);
        assert_eq!(bed.plan_absent(lun, &vpd(0x83)), Err(in_cdb(2, None)));
        let sense = data(bed.plan_absent(lun, &request_sense(0, 18)).unwrap());
        assert_eq!((sense[0], sense[2], sense[12], sense[13]), (0x70, 5, 0x25, 0));
        let sense = data(bed.plan_absent(lun, &request_sense(1, 252)).unwrap());
        assert_eq!(sense, [0x72, 5, 0x25, 0, 0, 0, 0, 0]);
        // All others, known or not.
        for opcode in (0..=0xff).filter(|opcode| ![0x03, 0x12, 0xa0].contains(opcode)) {
            let mut cdb = [0; 16];
            cdb[0] = opcode;
            assert_eq!(
                bed.plan_absent(lun, &cdb),
                Err(fault(Fault::LogicalUnitNotSupported)),
                "{opcode:02x}"
            );
        }
        assert_eq!(bed.plan_absent(lun, &[0x12, 0x02, 0, 0, 36, 0]), Err(in_cdb(1, 1)));
    }
}

#[test]
fn what_is_answered_in_each_access_state() {
    const STATES: [(AccessState, u8); 5] = [
        (AccessState::Standby, 0x0b),
        (AccessState::Transitioning, 0x0a),
        (AccessState::BecomingReady, 0x01),
        (AccessState::ManualInterventionRequired, 0x03),
        (AccessState::Unavailable, 0x0c),
    ];
    const ALWAYS: [&str; 6] = [
        "INQUIRY",
        "REPORT LUNS",
        "REQUEST SENSE",
        "REPORT TARGET PORT GROUPS",
        "REPORT SUPPORTED OPERATION CODES",
        "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
    ];
    const STANDBY: [&str; 7] = [
        "MODE SENSE (6)",
        "MODE SENSE (10)",
        "LOG SENSE",
        "RECEIVE DIAGNOSTIC RESULTS",
        "SEND DIAGNOSTIC",
        "READ CAPACITY (10)",
        "READ CAPACITY (16)",
    ];
    let bed = Bed::new();
    for (state, ascq) in STATES {
        bed.lu.set_access(state);
        assert_eq!(bed.lu.access(), state);
        let nexus = NexusLu::new(&bed.lu, nexus(), None);
        for row in commands() {
            let unit = Unit { lu: &bed.lu, nexus: &nexus };
            let result = plan(&crate::table::accepted(row), &bed.context(Some(Lun::ZERO)), Some(unit));
            if ALWAYS.contains(&row.name) || state == AccessState::Standby && STANDBY.contains(&row.name) {
                assert!(result.is_ok(), "{state:?}: {}: {result:?}", row.name);
            } else {
                let code = result.unwrap_err().code;
                assert_eq!((code.key, code.asc, code.ascq), (SenseKey::NotReady, 0x04, ascq), "{}", row.name);
            }
        }
        // What changed was told to the other nexus.
        let pending = bed.data(&request_sense(0, 18));
        if (pending[2], pending[12], pending[13]) == (6, 0x2a, 0x06) {
            let sense = bed.data(&request_sense(0, 18));
            assert_eq!((sense[2], sense[12], sense[13]), (2, 4, ascq));
        } else {
            assert_eq!((pending[2], pending[12], pending[13]), (2, 4, ascq));
        }
    }
    let flagged = |flags| commands().iter().filter(move |row| row.flags.has(flags)).map(|row| row.name);
    assert!(flagged(Flags::NOT_SERVING).all(|name| ALWAYS.contains(&name)));
    assert!(flagged(Flags::STANDBY).all(|name| STANDBY.contains(&name)));
    bed.lu.set_access(AccessState::Serving);
    assert_eq!(bed.error(&TUR).code, UnitAttention::AsymmetricAccessStateChanged.code());
    assert!(bed.plan(&TUR).is_ok());
    assert_eq!(bed.data(&request_sense(0, 18)), [0x70, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bed.data(&request_sense(1, 18)), [0x72, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn task_management_functions_are_the_ports() {
    let mut bed = Bed::new();
    assert_eq!(bed.data(&task_management(0, 4)), [0xda, 0, 0, 0]);
    let mut extended = [0; 16];
    (extended[0], extended[3]) = (0xda, 12);
    assert_eq!(bed.data(&task_management(0x80, 64)), extended);
    bed.port.task_management =
        TaskManagementFunctions::QUERY_TASK.and(TaskManagementFunctions::I_T_NEXUS_RESET);
    assert_eq!(bed.data(&task_management(0, 4)), [0x04, 0x01, 0, 0]);
}

#[test]
fn medium_removal_is_a_matter_of_indifference() {
    let bed = Bed::new();
    for prevent in [0, 1] {
        assert_eq!(bed.data(&cdb6(0x1e, 0, prevent)), []);
    }
    for obsolete in [2, 3] {
        assert_eq!(bed.error(&cdb6(0x1e, 0, obsolete)), in_cdb(4, 1));
    }
}

#[test]
fn naca_is_refused() {
    let bed = Bed::new();
    for row in commands() {
        let mut cdb = crate::table::accepted(row);
        let control = row.usage.len() - 1;
        cdb[control] = 0x04;
        assert_eq!(bed.error(&cdb), in_cdb(control as u16, 2), "{}", row.name);
    }
}

#[test]
fn configurations_that_cannot_be_announced_are_refused() {
    let refused = |limits: Limits| {
        let config = LogicalUnitConfig { block_size: BlockSize::B4096, limits, ..config() };
        matches!(LogicalUnit::new(config, AccessState::Serving), Err(LogicalUnitError::Limits(_)))
    };
    let good = Limits::default();
    assert!(!refused(good));
    assert!(refused(Limits { object_bytes: 0, ..good }));
    assert!(refused(Limits { object_bytes: 4096 + 512, ..good }));
    assert!(refused(Limits { transfer_bytes_max: MAX_TRANSFER_BYTES + 4096, ..good }));
    assert!(refused(Limits { optimal_granularity_bytes: 1 << 28, ..good }));
    assert!(refused(Limits { unmap_bytes_max: 1 << 44, ..good }));
    assert!(refused(Limits { unmap_descriptors_max: 0, ..good }));
    assert!(refused(Limits { unmap_descriptors_max: 4096, ..good }));
    let config = LogicalUnitConfig { physical_block_exponent: 16, ..config() };
    let error = LogicalUnit::new(config, AccessState::Serving).unwrap_err();
    assert_eq!(error, LogicalUnitError::PhysicalBlockExponent(16));
    assert_eq!(BlockSize::from_bytes(1024), None);
    assert_eq!(BlockSize::from_bytes(512), Some(BlockSize::B512));
    assert_eq!(BlockSize::from_bytes(4096).unwrap().bytes(), 4096);
}
