//! Mode pages: sensed, and changed where they can be.

use lusd_scsi::*;

use crate::bed::*;

const CACHING: [u8; 20] = [0x08, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const ERROR_RECOVERY: [u8; 12] = [0x01, 10, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const CONTROL: [u8; 12] = [0x0a, 10, 0x22, 0x10, 0, 0, 0, 0, 0, 0, 0, 0];
const EXCEPTIONS: [u8; 12] = [0x1c, 10, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// SITUA=0; enabled, a percentage, armed decreasing; of the available percentage; 20.
const PROVISIONING: [u8; 24] =
    [0x5c, 0x02, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x88, 0x03, 0, 0, 0, 0, 0, 20];

fn control_extension() -> Vec<u8> {
    let mut page = vec![0x4a, 0x01, 0, 28, 0x01];
    page.resize(32, 0);
    page
}

fn sense_6(dbd: bool, page_control: u8, page: u8, subpage: u8) -> [u8; 6] {
    [0x1a, u8::from(dbd) << 3, page_control << 6 | page, subpage, 0xff, 0]
}

fn sense_10(flags: u8, page: u8, subpage: u8) -> [u8; 10] {
    [0x5a, flags, page, subpage, 0, 0, 0, 0xff, 0xff, 0]
}

/// Pages only, without header and block descriptors.
fn pages(bed: &Bed, page_control: u8, page: u8, subpage: u8) -> Vec<u8> {
    let data = bed.data(&sense_6(true, page_control, page, subpage));
    assert_eq!((usize::from(data[0]), data[3]), (data.len() - 1, 0));
    data[4..].to_vec()
}

#[test]
fn each_page_alone_and_all_together() {
    let bed = Bed::new();
    let extension = control_extension();
    assert_eq!(pages(&bed, 0, 0x01, 0), ERROR_RECOVERY);
    assert_eq!(pages(&bed, 0, 0x08, 0), CACHING);
    assert_eq!(pages(&bed, 0, 0x0a, 0), CONTROL);
    assert_eq!(pages(&bed, 0, 0x0a, 1), extension);
    assert_eq!(pages(&bed, 0, 0x1c, 0), EXCEPTIONS);
    assert_eq!(pages(&bed, 0, 0x1c, 2), PROVISIONING);
    assert_eq!(pages(&bed, 0, 0x0a, 0xff), [&CONTROL[..], &extension].concat());
    assert_eq!(pages(&bed, 0, 0x08, 0xff), CACHING);
    assert_eq!(pages(&bed, 0, 0x3f, 0), [&ERROR_RECOVERY[..], &CACHING, &CONTROL, &EXCEPTIONS].concat());
    let all = [&ERROR_RECOVERY[..], &CACHING, &CONTROL, &extension, &EXCEPTIONS, &PROVISIONING].concat();
    assert_eq!(pages(&bed, 0, 0x3f, 0xff), all);
    assert_eq!(bed.data(&sense_10(0x08, 0x3f, 0xff))[8..], all);
    let mut not_asymmetric = extension;
    not_asymmetric[4] = 0;
    assert_eq!(pages(&Bed::thick(), 0, 0x0a, 1), not_asymmetric, "IALUAE goes with target port groups");
    // What is told of is what is served.
    let served: Vec<_> = mode_pages().collect();
    assert_eq!(served, [(0x01, 0), (0x08, 0), (0x0a, 0), (0x0a, 1), (0x1c, 0), (0x1c, 2)]);
}

#[test]
fn pages_that_do_not_exist_are_refused() {
    let bed = Bed::new();
    for page in (0..0x3f).filter(|page| ![0x01, 0x08, 0x0a, 0x1c].contains(page)) {
        assert_eq!(bed.error(&sense_6(false, 0, page, 0)), in_cdb(2, 5), "{page:02x}");
        assert_eq!(bed.error(&sense_10(0, page, 0xff)), in_cdb(2, 5), "{page:02x}");
    }
    for (page, subpage) in [(0x01, 1), (0x0a, 2), (0x08, 1), (0x1c, 1), (0x3f, 1), (0x3f, 2), (0x3f, 0xfe)] {
        assert_eq!(bed.error(&sense_6(false, 0, page, subpage)), in_cdb(3, None));
        assert_eq!(bed.error(&sense_10(0, page, subpage)), in_cdb(3, None));
    }
}

#[test]
fn page_controls() {
    let bed = Bed::with(LogicalUnitConfig { write_cache: true, ..config() });
    let mut caching = CACHING;
    caching[2] = 0x04;
    assert_eq!(pages(&bed, 0, 0x08, 0), caching, "WCE");
    assert_eq!(pages(&bed, 2, 0x08, 0), caching, "WCE by default");
    assert_eq!(pages(&bed, 1, 0x08, 0), CACHING, "WCE cannot be changed");
    let mut changeable = [0; 12];
    changeable[..6].copy_from_slice(&[0x0a, 10, 0x04, 0, 0x08, 0x40]);
    assert_eq!(pages(&bed, 1, 0x0a, 0), changeable, "D_SENSE, SWP and TAS");
    let mut nothing = control_extension();
    nothing[4] = 0;
    assert_eq!(pages(&bed, 1, 0x0a, 1), nothing);
    let saved = fault(Fault::SavingParametersNotSupported);
    assert_eq!(bed.error(&sense_6(false, 3, 0x3f, 0)), saved);
    assert_eq!(bed.error(&sense_10(0, 3 << 6 | 0x0a, 0)), saved);
    assert_eq!(bed.error(&sense_6(false, 3, 0x02, 0)), in_cdb(2, 5), "an unknown page is unknown first");
    for page_control in 0..3 {
        assert_eq!(
            bed.data(&sense_10(0x08, page_control << 6 | 0x3f, 0xff))[8..],
            pages(&bed, page_control, 0x3f, 0xff)
        );
    }
}

#[test]
fn headers_and_block_descriptors() {
    let bed = Bed::new();
    let blocks = (BLOCKS as u32).to_be_bytes();
    let short = [&blocks[..], &[0, 0, 2, 0]].concat();
    let long = [&[0; 4][..], &blocks, &[0; 4], &[0, 0, 2, 0]].concat();
    let data = bed.data(&sense_6(false, 0, 0x0a, 0));
    assert_eq!(data, [&[23, 0, 0x10, 8][..], &short, &CONTROL].concat());
    let data = bed.data(&sense_10(0, 0x0a, 0));
    assert_eq!(data, [&[0, 26, 0, 0x10, 0, 0, 0, 8][..], &short, &CONTROL].concat());
    let data = bed.data(&sense_10(0x10, 0x0a, 0));
    assert_eq!(data, [&[0, 34, 0, 0x10, 1, 0, 0, 16][..], &long, &CONTROL].concat());
    for dbd in [0x08, 0x18] {
        let data = bed.data(&sense_10(dbd, 0x0a, 0));
        assert_eq!(data, [&[0, 18, 0, 0x10, 0, 0, 0, 0][..], &CONTROL].concat());
    }
    let large = Bed::with(LogicalUnitConfig { capacity_bytes: 1 << 50, ..config() });
    assert_eq!(large.data(&sense_6(false, 0, 0x0a, 0))[4..8], [0xff; 4]);
    let protected = Bed::with(LogicalUnitConfig { read_only: true, ..config() });
    assert_eq!(protected.data(&sense_6(false, 0, 0x0a, 0))[2], 0x90, "WP, DPOFUA");
    assert_eq!(protected.data(&sense_10(0, 0x0a, 0))[3], 0x90);
}

fn select_6(bed: &Bed, list: &[u8]) -> Result<After, CheckCondition> {
    bed.finish(&[0x15, 0x10, 0, 0, list.len() as u8, 0], list)
}

fn select_10(bed: &Bed, list: &[u8]) -> Result<After, CheckCondition> {
    let [high, low] = (list.len() as u16).to_be_bytes();
    bed.finish(&[0x55, 0x10, 0, 0, 0, 0, 0, high, low, 0], list)
}

fn control(d_sense: bool, swp: bool) -> Vec<u8> {
    let mut page = CONTROL.to_vec();
    page[2] |= u8::from(d_sense) << 2;
    page[4] = u8::from(swp) << 3;
    page
}

fn list_6(pages: &[&[u8]]) -> Vec<u8> {
    [&[0; 4], pages.concat().as_slice()].concat()
}

#[test]
fn d_sense_changes_the_sense_format() {
    let bed = Bed::new();
    assert_eq!(bed.lu.sense_format(), SenseFormat::Fixed);
    assert_eq!(select_6(&bed, &list_6(&[&control(true, false)])), Ok(After::Done));
    assert_eq!(bed.lu.sense_format(), SenseFormat::Descriptor);
    assert_eq!(pages(&bed, 0, 0x0a, 0), control(true, false));
    assert_eq!(pages(&bed, 2, 0x0a, 0), CONTROL, "defaults stay");
    let list = [&[0; 8][..], &control(false, false)].concat();
    assert_eq!(select_10(&bed, &list), Ok(After::Done));
    assert_eq!(bed.lu.sense_format(), SenseFormat::Fixed);
}

#[test]
fn swp_protects_the_unit() {
    let bed = Bed::new();
    select_6(&bed, &list_6(&[&control(false, true)])).unwrap();
    assert!(bed.lu.is_write_protected());
    assert_eq!(bed.error(&cdb10(0x2a, 0, 0, 1)), fault(Fault::SoftwareWriteProtected));
    assert!(bed.plan(&cdb10(0x28, 0, 0, 1)).is_ok());
    assert_eq!(bed.data(&sense_6(false, 0, 0x3f, 0))[2], 0x90);
    select_6(&bed, &list_6(&[&control(false, false)])).unwrap();
    assert!(bed.plan(&cdb10(0x2a, 0, 0, 1)).is_ok());
}

#[test]
fn tas_has_ended_tasks_answered() {
    let bed = Bed::new();
    assert!(!bed.lu.task_aborted_status());
    let mut page = CONTROL;
    page[5] = 0x40;
    select_6(&bed, &list_6(&[&page])).unwrap();
    assert!(bed.lu.task_aborted_status());
    assert_eq!(pages(&bed, 0, 0x0a, 0), page);
    bed.lu.reset(UnitAttention::DeviceReset, None);
    assert!(!bed.lu.task_aborted_status());
}

#[test]
fn what_was_sensed_can_be_sent_back() {
    let bed = Bed::new();
    for cdb in [sense_6(false, 0, 0x3f, 0xff), sense_6(true, 0, 0x3f, 0), sense_6(false, 2, 0x0a, 1)] {
        assert_eq!(select_6(&bed, &bed.data(&cdb)), Ok(After::Done));
    }
    for flags in [0x00, 0x08, 0x10] {
        assert_eq!(select_10(&bed, &bed.data(&sense_10(flags, 0x3f, 0xff))), Ok(After::Done));
    }
    assert_eq!(select_6(&bed, &[]), Ok(After::Done));
    assert_eq!(select_10(&bed, &[]), Ok(After::Done));
    assert_eq!(select_6(&bed, &[0; 4]), Ok(After::Done), "a header alone");
}

#[test]
fn page_format_and_saving() {
    let bed = Bed::new();
    assert_eq!(bed.error(&[0x15, 0x00, 0, 0, 16, 0]), in_cdb(1, 4));
    assert_eq!(bed.error(&[0x15, 0x11, 0, 0, 16, 0]), in_cdb(1, 0));
    assert_eq!(bed.error(&[0x55, 0x11, 0, 0, 0, 0, 0, 0, 16, 0]), in_cdb(1, 0));
}

#[test]
fn every_bit_that_cannot_be_changed_is_refused_with_its_place() {
    let bed = Bed::new();
    let extension = control_extension();
    for page in [&ERROR_RECOVERY[..], &CACHING, &CONTROL, &extension, &EXCEPTIONS] {
        let header = if page[0] & 0x40 == 0 { 2 } else { 4 };
        let code = (page[0] & 0x3f, if header == 4 { page[1] } else { 0 });
        let changeable = pages(&bed, 1, code.0, code.1);
        for byte in header..page.len() {
            for bit in 0..8 {
                let mut changed = page.to_vec();
                changed[byte] ^= 1 << bit;
                let result = select_6(&bed, &list_6(&[&changed]));
                if changeable[byte] & 1 << bit != 0 {
                    assert_eq!(result, Ok(After::Done));
                    select_6(&bed, &list_6(&[page])).unwrap();
                } else {
                    assert_eq!(result, Err(in_list(4 + byte as u16, bit)), "page {code:02x?}");
                }
            }
        }
    }
}

#[test]
fn a_list_is_taken_whole_or_not_at_all() {
    let bed = Bed::new();
    let mut caching = CACHING;
    caching[2] = 0x04;
    let result = select_6(&bed, &list_6(&[&control(true, true), &caching]));
    assert_eq!(result, Err(in_list(4 + 12 + 2, 2)));
    assert_eq!(pages(&bed, 0, 0x0a, 0), CONTROL);
    assert_eq!(select_6(&bed, &list_6(&[&control(true, true), &CACHING])), Ok(After::Done));
    assert_eq!(pages(&bed, 0, 0x0a, 0), control(true, true));
}

#[test]
fn malformed_lists_are_refused() {
    let bed = Bed::new();
    let short = Err(fault(Fault::ParameterListLength));
    let whole = bed.data(&sense_6(false, 0, 0x0a, 0xff));
    let ends = [0, 4 + 8, 4 + 8 + 12, whole.len()];
    for len in 1..whole.len() {
        let result = select_6(&bed, &whole[..len]);
        if ends.contains(&len) {
            assert_eq!(result, Ok(After::Done), "{len}");
        } else {
            assert_eq!(result, short, "{len}");
        }
    }
    let page_at = |at: usize, value: u8| {
        let mut list = whole.clone();
        list[at] = value;
        select_6(&bed, &list)
    };
    assert_eq!(page_at(1, 1), Err(in_list(1, None)), "MEDIUM TYPE");
    assert_eq!(page_at(3, 7), Err(in_list(3, None)), "BLOCK DESCRIPTOR LENGTH");
    assert_eq!(page_at(3, 16), Err(in_list(3, None)), "a long descriptor without LONGLBA");
    assert_eq!(page_at(7, 0), Err(in_list(4, None)), "NUMBER OF LOGICAL BLOCKS");
    assert_eq!(page_at(8, 1), Err(in_list(8, None)), "reserved");
    assert_eq!(page_at(10, 4), Err(in_list(10, None)), "LOGICAL BLOCK LENGTH");
    assert_eq!(page_at(12, 0x8a), Err(in_list(12, 7)), "PS");
    assert_eq!(page_at(12, 0x02), Err(in_list(12, 5)), "an unknown page");
    assert_eq!(page_at(13, 11), Err(in_list(13, None)), "PAGE LENGTH");
    assert_eq!(page_at(25, 0x02), Err(in_list(24, 5)), "an unknown subpage");
    assert_eq!(page_at(25, 0x00), Err(in_list(24, 5)), "SPF with subpage 0");
    assert_eq!(page_at(27, 27), Err(in_list(27, None)), "PAGE LENGTH of a subpage");
    // The count may be 0 (as it is) or all ones (the largest possible).
    for count in [0x00, 0xff] {
        let mut list = whole.clone();
        list[4..8].fill(count);
        assert_eq!(select_6(&bed, &list), Ok(After::Done));
    }
    // Long descriptors.
    let mut long = bed.data(&sense_10(0x10, 0x0a, 0));
    long[15] ^= 1;
    assert_eq!(select_10(&bed, &long), Err(in_list(8, None)));
    long[15] ^= 1;
    long[4] = 0;
    assert_eq!(select_10(&bed, &long), Err(in_list(6, None)), "16 bytes without LONGLBA");
    long[2] = 1;
    assert_eq!(select_10(&bed, &long), Err(in_list(2, None)), "MEDIUM TYPE");
}

#[test]
fn a_change_is_told_to_the_others_only() {
    let bed = Bed::new();
    let other = NexusLu::new(&bed.lu, nexus(), None);
    let tell = |nexus| {
        let unit = Unit { lu: &bed.lu, nexus };
        plan(&[0; 6], &bed.context(Some(Lun::ZERO)), Some(unit)).err().map(|check| check.code)
    };
    select_6(&bed, &list_6(&[&CONTROL])).unwrap();
    assert_eq!((tell(&bed.nexus), tell(&other)), (None, None), "nothing changed");
    select_6(&bed, &list_6(&[&control(true, false)])).unwrap();
    assert_eq!(tell(&bed.nexus), None);
    assert_eq!(tell(&other), Some(UnitAttention::ModeParametersChanged.code()));
    assert_eq!(tell(&other), None);
}

#[test]
fn a_reset_restores_the_defaults() {
    let bed = Bed::new();
    select_6(&bed, &list_6(&[&control(true, true)])).unwrap();
    bed.lu.reset(UnitAttention::DeviceReset, None);
    assert_eq!(bed.error(&[0; 6]).code, UnitAttention::DeviceReset.code());
    assert_eq!(pages(&bed, 0, 0x0a, 0), CONTROL);
    assert!(!bed.lu.is_write_protected());
}
