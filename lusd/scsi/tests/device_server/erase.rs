//! SANITIZE, FORMAT UNIT, and what is answered meanwhile; READ DEFECT DATA.

use bytes::Bytes;
use lusd_scsi::*;

use crate::bed::*;

const OVERWRITE: u8 = 0x01;
const BLOCK_ERASE: u8 = 0x02;
const EXIT_FAILURE_MODE: u8 = 0x1f;

fn sanitize(byte_1: u8, len: u16) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1]) = (0x48, byte_1);
    cdb[7..9].copy_from_slice(&len.to_be_bytes());
    cdb
}

fn erasure(kind: EraseKind, immediate: bool, overwrite: Option<Overwrite>) -> BlockOp {
    BlockOp::Erase(Box::new(Erasure { kind, immediate, overwrite }))
}

fn overwrite(bed: &Bed, byte_1: u8, list: &[u8]) -> Result<After, CheckCondition> {
    bed.finish(&sanitize(byte_1 | OVERWRITE, list.len() as u16), list)
}

#[test]
fn a_pattern_is_repeated_to_a_block() {
    for (bed, block) in [(Bed::new(), 512), (Bed::b4096(), 4096)] {
        let list = [&[0x83, 0, 0, 3][..], b"abc"].concat();
        let pattern: Bytes = b"abc".iter().copied().cycle().take(block).collect();
        let expected = Overwrite { block: pattern, count: 3, invert: true };
        for (byte_1, immediate, may_exit) in [(0, false, false), (0x80, true, false), (0xa0, true, true)] {
            let op = erasure(EraseKind::Sanitize { may_exit }, immediate, Some(expected.clone()));
            assert!(op.modifies() && op.ranges().is_empty());
            assert_eq!(overwrite(&bed, byte_1, &list), Ok(After::Block(op)));
        }
        let [high, low] = (block as u16).to_be_bytes();
        let whole = [&[0x1f, 0, high, low][..], &vec![7; block]].concat();
        assert!(overwrite(&bed, 0, &whole).is_ok());
        // The list is longer than its pattern's length says.
        assert!(overwrite(&bed, 0, &[1, 0, 0, 1, 9, 9, 9]).is_ok());
    }
}

#[test]
fn overwrites_that_make_no_sense_are_refused() {
    let bed = Bed::new();
    for len in [0, 1, 4, 517, 0xffff] {
        assert_eq!(bed.error(&sanitize(OVERWRITE, len)), in_cdb(7, None), "{len}");
    }
    for (list, expected) in [
        ([0, 0, 0, 1, 9], in_list(0, 4)),
        ([0x81, 0, 0, 0, 9], in_list(2, None)),
        ([1, 0, 0, 2, 9], in_list(2, None)),
        ([1, 0, 2, 1, 9], in_list(2, None)),
        ([0x21, 0, 0, 1, 9], in_list(0, 6)),
        ([0x41, 0, 0, 1, 9], in_list(0, 6)),
    ] {
        assert_eq!(overwrite(&bed, 0, &list), Err(expected), "{list:02x?}");
    }
    assert_eq!(bed.error(&sanitize(BLOCK_ERASE, 1)), in_cdb(8, 0), "no list");
    assert_eq!(bed.error(&sanitize(0x03, 0)), in_cdb(1, 4), "CRYPTOGRAPHIC ERASE");
    assert_eq!(bed.error(&sanitize(0x40 | BLOCK_ERASE, 0)), in_cdb(1, 6), "ZNR");
}

#[test]
fn block_erase_and_format_give_space_back() {
    let bed = Bed::new();
    let op = bed.op(&sanitize(0xa0 | BLOCK_ERASE, 0));
    assert_eq!(op, (erasure(EraseKind::Sanitize { may_exit: true }, true, None), 0, 0));
    let format = |immediate| erasure(EraseKind::Format, immediate, None);
    assert_eq!(bed.op(&[4, 0, 0, 0, 0, 0]), (format(false), 0, 0));
    let short = |list: [u8; 4]| bed.finish(&[4, 0x10, 0, 0, 0, 0], &list);
    assert_eq!(short([0; 4]), Ok(After::Block(format(false))));
    assert_eq!(short([0, 0x02, 0, 0]), Ok(After::Block(format(true))));
    assert_eq!(short([0, 0xf2, 0, 0]), Ok(After::Block(format(true))), "FOV");
    assert_eq!(short([0, 0x40, 0, 0]), Err(in_list(1, 6)), "DPRY without FOV");
    assert_eq!(short([0, 0x88, 0, 0]), Err(in_list(1, 3)), "IP");
    assert_eq!(short([1, 0, 0, 0]), Err(in_list(0, 2)), "protection information");
    assert_eq!(short([0, 0, 0, 8]), Err(in_list(2, None)), "a defect list");
    let long = |list: [u8; 8]| bed.finish(&[4, 0x38, 0, 0, 0, 0], &list);
    assert_eq!(long([0, 0x02, 0, 0, 0, 0, 0, 0]), Ok(After::Block(format(true))));
    assert_eq!(long([0, 0, 0, 1, 0, 0, 0, 0]), Err(in_list(3, None)));
    assert_eq!(long([0, 0, 0, 0, 0, 0, 0, 8]), Err(in_list(4, None)));
    // Less comes than the header takes: nothing is erased, also where it is as long as the other header.
    for (flags, lengths) in [(0x10, 0..4), (0x30, 0..8)] {
        for len in lengths {
            let Step::Parameters(parameters) = bed.plan(&[4, flags, 0, 0, 0, 0]).unwrap().step else {
                panic!()
            };
            let refused = parameters.finish(bed.unit(), &[0; 8][..len]);
            assert_eq!(refused, Err(fault(Fault::ParameterListLength)), "{flags:02x}, {len} bytes");
        }
    }
}

/// Sense key, ASC, ASCQ and progress of REQUEST SENSE.
fn request_sense(bed: &Bed) -> (u8, u8, u8, [u8; 3]) {
    let sense = bed.data(&[3, 0, 0, 0, 252, 0]);
    (sense[2], sense[12], sense[13], sense[15..18].try_into().unwrap())
}

#[test]
fn while_it_goes_on_only_those_that_ask_are_answered() {
    for (operation, ascq, kind) in [
        (Operation::Sanitizing as fn(u16) -> Operation, 0x1b, EraseKind::Sanitize { may_exit: false }),
        (Operation::Formatting, 0x04, EraseKind::Format),
    ] {
        let bed = Bed::new();
        let (read, admitted) = (bed.op(&cdb10(0x28, 0, 0, 1)).0, erasure(kind, false, None));
        bed.lu.begin_operation(operation(0)).unwrap();
        bed.lu.set_operation(operation(0x8000));
        for row in commands() {
            let result = bed.plan(&crate::table::accepted(row));
            if row.flags.has(Flags::NOT_SERVING) {
                assert!(result.is_ok(), "{}", row.name);
            } else {
                let check = result.unwrap_err();
                assert_eq!((check.code.key, check.code.asc, check.code.ascq), (SenseKey::NotReady, 4, ascq));
                assert_eq!(check.specific, Some(KeySpecific::Progress(0x8000)), "{}", row.name);
            }
        }
        let malformed = [0x1b, 1, 0, 0, 0x13, 0];
        assert_eq!(bed.error(&malformed).code.ascq, ascq, "nothing is looked at any closer");
        bed.lu.raise(UnitAttention::DeviceReset, None);
        assert_eq!(bed.error(&malformed).code, UnitAttention::DeviceReset.code(), "told first");
        assert_eq!(bed.error(&malformed).code.ascq, ascq);
        assert_eq!(request_sense(&bed), (2, 4, ascq, [0x80, 0x80, 0]));
        for op in [&read, &admitted] {
            assert_eq!(bed.lu.admit(op).unwrap_err().code.ascq, ascq, "what was planned before");
        }
        assert!(bed.lu.begin_operation(Operation::Sanitizing(0)).is_err(), "one at a time");
        bed.lu.set_operation(Operation::None);
        assert_eq!(request_sense(&bed), (0, 0, 0, [0; 3]));
        assert_eq!((bed.lu.admit(&read), bed.lu.admit(&admitted)), (Ok(()), Ok(())));
    }
}

#[test]
fn what_has_failed_is_to_be_put_right() {
    let bed = Bed::new();
    let read = cdb10(0x28, 0, 0, 1);
    let code = |cdb: &[u8]| bed.error(cdb).code;
    let (sanitize_failed, format_failed) = ((3, 0x31, 3), (3, 0x31, 1));
    let told = |cdb: &[u8]| (code(cdb).key as u8, code(cdb).asc, code(cdb).ascq);
    let (erase, format) = (sanitize(BLOCK_ERASE, 0), [4, 0, 0, 0, 0, 0]);
    for may_exit in [false, true] {
        bed.lu.set_operation(Operation::SanitizeFailed { may_exit });
        assert_eq!(told(&read), sanitize_failed);
        assert_eq!(told(&[0; 6]), sanitize_failed, "TEST UNIT READY");
        assert_eq!(told(&format), sanitize_failed);
        assert_eq!(request_sense(&bed), (3, 0x31, 3, [0; 3]));
        bed.lu.admit(&bed.op(&erase).0).unwrap();
        if may_exit {
            let exit = erasure(EraseKind::ExitFailureMode, false, None);
            assert_eq!(bed.op(&sanitize(EXIT_FAILURE_MODE, 0)).0, exit);
            assert_eq!(bed.lu.admit(&exit), Ok(()));
        } else {
            assert_eq!(bed.error(&sanitize(EXIT_FAILURE_MODE, 0)), in_cdb(1, 4));
        }
    }
    bed.lu.set_operation(Operation::FormatFailed);
    assert_eq!(told(&read), format_failed);
    bed.lu.admit(&bed.op(&erase).0).unwrap();
    bed.lu.admit(&bed.op(&format).0).unwrap();
    bed.lu.set_operation(Operation::None);
    assert_eq!(bed.data(&sanitize(EXIT_FAILURE_MODE, 0)), [], "nothing has failed");
    // Of a medium that is protected nothing is put right.
    bed.lu.set_operation(Operation::SanitizeFailed { may_exit: true });
    bed.lu.set_read_only(true);
    while code(&[0; 6]).key == SenseKey::UnitAttention {}
    for service in [BLOCK_ERASE, EXIT_FAILURE_MODE] {
        assert_eq!(told(&sanitize(service, 0)), (7, 0x27, 0));
    }
}

#[test]
fn there_are_no_defects() {
    let bed = Bed::new();
    for format in [0, 0x0d, 0x1f] {
        let ten = [0x37, 0, format, 0, 0, 0, 0, 0, 255, 0];
        assert_eq!(bed.data(&ten), [0, format, 0, 0]);
        let twelve = [0xb7, format, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0];
        assert_eq!(bed.data(&twelve), [0, format, 0, 0, 0, 0, 0, 0]);
    }
}
