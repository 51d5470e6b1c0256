//! Log pages and diagnostic pages.

use lusd_scsi::*;

use crate::bed::*;

fn log_sense(page: u8, subpage: u8, pointer: u16) -> [u8; 10] {
    let [high, low] = pointer.to_be_bytes();
    [0x4d, 0, page, subpage, 0, high, low, 0xff, 0xff, 0]
}

#[test]
fn the_lists_name_what_is_served() {
    let bed = Bed::new();
    assert_eq!(bed.data(&log_sense(0, 0, 0)), [0, 0, 0, 3, 0x00, 0x0c, 0x2f]);
    assert_eq!(bed.data(&log_sense(0, 0xff, 0)), [0x40, 0xff, 0, 8, 0, 0, 0, 0xff, 0x0c, 0, 0x2f, 0]);
    for (page, subpage) in log_pages() {
        assert!(bed.plan(&log_sense(page, subpage, 0)).is_ok(), "{page:02x}/{subpage:02x}");
    }
    for page in 0..0x40 {
        for subpage in 0..=0xff {
            if !log_pages().any(|known| known == (page, subpage)) {
                let known = log_pages().any(|(known, _)| known == page);
                let place = if known { in_cdb(3, None) } else { in_cdb(2, 5) };
                assert_eq!(bed.error(&log_sense(page, subpage, 0)), place, "{page:02x}/{subpage:02x}");
            }
        }
    }
}

#[test]
fn informational_exceptions_has_nothing_to_report() {
    let bed = Bed::new();
    let page = [0xaf, 0, 0, 7, 0, 0, 0x03, 3, 0, 0, 0xff];
    for page_control in 0..4 {
        assert_eq!(bed.data(&log_sense(page_control << 6 | 0x2f, 0, 0)), page);
    }
}

#[test]
fn parameter_pointers_are_bounded_and_nothing_is_saved() {
    let bed = Bed::new();
    assert_eq!(bed.error(&log_sense(0x2f, 0, 1)), in_cdb(5, None), "past the last parameter");
    assert_eq!(bed.error(&log_sense(0, 0, 1)), in_cdb(5, None));
    let mut saving = log_sense(0x2f, 0, 0);
    saving[1] = 1;
    assert_eq!(bed.error(&saving), in_cdb(1, 0), "SP");
    let mut log_select = [0; 10];
    log_select[0] = 0x4c;
    assert_eq!(bed.error(&log_select), fault(Fault::InvalidOperationCode));
}

#[test]
fn the_default_self_test_and_nothing_else() {
    let bed = Bed::new();
    for flags in [0x00, 0x04, 0x14, 0x07] {
        assert_eq!(bed.data(&[0x1d, flags, 0, 0, 0, 0]), [], "{flags:02x}");
    }
    for bit in 5..8 {
        assert_eq!(bed.error(&[0x1d, 1 << bit, 0, 0, 0, 0]), in_cdb(1, bit), "SELF-TEST CODE");
    }
    assert_eq!(bed.error(&[0x1d, 0x14, 0, 0, 4, 0]), in_cdb(3, None), "a self-test takes no page");
    assert_eq!(bed.error(&[0x1d, 0x00, 0, 0, 4, 0]), in_cdb(1, 4), "PF");
}

#[test]
fn the_list_of_diagnostic_pages_is_the_only_one() {
    let bed = Bed::new();
    let send = |list: &[u8]| bed.finish(&[0x1d, 0x10, 0, 0, list.len() as u8, 0], list);
    assert_eq!(send(&[0, 0, 0, 0]), Ok(After::Done));
    assert_eq!(send(&[0x40, 0, 0, 0]), Err(in_list(0, None)));
    assert_eq!(send(&[0, 0, 0, 1, 0]), Err(in_list(2, None)));
    for wrong in [&[0][..], &[0, 0, 0], &[0; 5]] {
        assert_eq!(send(wrong), Err(fault(Fault::ParameterListLength)));
    }
    for pcv in [0, 1] {
        assert_eq!(bed.data(&[0x1c, pcv, 0, 0xff, 0xff, 0]), [0, 0, 0, 1, 0]);
    }
    assert_eq!(bed.error(&[0x1c, 1, 0x01, 0, 255, 0]), in_cdb(2, None));
    // In standby too, up to its parameters.
    bed.lu.set_access(AccessState::Standby);
    bed.data(&[0x03, 0, 0, 0, 18, 0]);
    assert_eq!(send(&[0, 0, 0, 0]), Ok(After::Done));
}
