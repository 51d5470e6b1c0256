//! The REPORT LUNS well-known logical unit.

use lusd_scsi::*;

use crate::bed::*;

fn at(bed: &Bed, cdb: &[u8]) -> Result<Plan, CheckCondition> {
    bed.plan_absent(Some(Lun::REPORT_LUNS), cdb)
}

fn reply(bed: &Bed, cdb: &[u8]) -> Vec<u8> {
    data(at(bed, cdb).unwrap())
}

#[test]
fn it_is_a_unit_of_its_own_type_with_the_targets_name() {
    let bed = Bed::new();
    let inquiry = reply(&bed, &cdb_inquiry(0, 0, 0xff));
    assert_eq!((inquiry.len(), inquiry[0], inquiry[2]), (96, 0x1e, 6));
    assert_eq!(reply(&bed, &vpd(0)), [0x1e, 0, 0, 2, 0, 0x83]);
    let page = reply(&bed, &vpd(0x83));
    assert_eq!((page[0], page[1]), (0x1e, 0x83));
    // SCSI names of port and device, and nothing about a logical unit.
    assert_eq!(page[4..6], [0x53, 0x98]);
    let device = 8 + usize::from(page[7]);
    assert_eq!(page[device..device + 2], [0x53, 0xa8]);
    assert!(page[device + 4..].starts_with(bed.port.target_name.as_bytes()));
    assert_eq!(usize::from(page[device + 3]), page.len() - device - 4);
    for other in (0..=0xff).filter(|page| ![0, 0x83].contains(page)) {
        assert_eq!(at(&bed, &vpd(other)), Err(in_cdb(2, None)), "{other:02x}");
    }
}

#[test]
fn it_is_ready_and_lists_the_inventory() {
    let bed = Bed::new();
    assert_eq!(reply(&bed, &[0; 6]), []);
    assert_eq!(reply(&bed, &[0x03, 1, 0, 0, 0xff, 0]), [0x72, 0, 0, 0, 0, 0, 0, 0]);
    for select in [0x00, 0x01, 0x02, 0x10, 0x11, 0x12] {
        let mut cdb = [0; 16];
        (cdb[0], cdb[2], cdb[9]) = (0xa0, select, 0xff);
        assert_eq!(reply(&bed, &cdb), bed.data(&cdb), "as LUN 0 does: {select:02x}");
    }
    // The nexus's other units need not tell any more.
    bed.nexus.establish(UnitAttention::ReportedLunsDataHasChanged);
    reply(&bed, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0]);
    assert!(bed.plan(&[0; 6]).is_ok());
}

#[test]
fn it_has_four_commands() {
    let bed = Bed::new();
    for opcode in (0..=0xff).filter(|opcode| ![0x00, 0x03, 0x12, 0xa0].contains(opcode)) {
        let mut cdb = [0; 16];
        cdb[0] = opcode;
        let error = at(&bed, &cdb).unwrap_err();
        if [0x48, 0x9e, 0xa3].contains(&opcode) {
            assert!(error == in_cdb(1, 4) || error == fault(Fault::InvalidOperationCode));
        } else {
            assert_eq!(error, fault(Fault::InvalidOperationCode), "{opcode:02x}");
        }
    }
    assert_eq!(at(&bed, &[0, 1, 0, 0, 0, 0]), Err(in_cdb(1, 0)));
    assert_eq!(at(&bed, &[0x12, 1, 0]), Err(in_cdb(3, None)));
}
