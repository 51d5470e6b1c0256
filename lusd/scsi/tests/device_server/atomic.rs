//! Commands that must be alone on their blocks.

use lusd_scsi::*;

use crate::bed::*;

const LAST: u64 = BLOCKS - 1;
/// Blocks of an object.
const OBJECT: u64 = (4 << 20) / 512;

fn range(lba: u64, blocks: u64) -> Range {
    Range { offset: lba * 512, len: blocks * 512 }
}

fn compare_and_write(flags: u8, lba: u64, blocks: u8) -> [u8; 16] {
    cdb16(0x89, flags, lba, blocks.into())
}

fn write_atomic(lba: u64, blocks: u16) -> [u8; 16] {
    cdb16(0x9c, 0, lba, blocks.into())
}

#[test]
fn compare_and_write_takes_twice_its_blocks() {
    let bed = Bed::new();
    for (lba, blocks) in [(0, 1), (7, 255), (LAST, 1), (BLOCKS - 255, 255)] {
        let op = BlockOp::CompareAndWrite(range(lba, blocks));
        assert!(op.modifies());
        assert_eq!(op.alone(), Some(range(lba, blocks)));
        for flags in [0, 0x08, 0x10, 0x18] {
            let cdb = compare_and_write(flags, lba, blocks as u8);
            assert_eq!(bed.op(&cdb), (op.clone(), 2 * blocks * 512, 0), "DPO and FUA are taken");
        }
    }
    assert_eq!(bed.error(&compare_and_write(0, LAST, 2)), CheckCondition::lba_out_of_range(BLOCKS));
    assert_eq!(bed.error(&compare_and_write(0, u64::MAX, 1)), CheckCondition::lba_out_of_range(u64::MAX));
    assert_eq!(bed.error(&compare_and_write(0, BLOCKS + 1, 0)), CheckCondition::lba_out_of_range(BLOCKS + 1));
    assert_eq!(bed.data(&compare_and_write(0, BLOCKS, 0)), [], "no blocks");
}

#[test]
fn data_of_another_length_is_refused_whole() {
    let bed = Bed::new();
    let cases = [
        (compare_and_write(0, 0, 2), 13, 2048),
        (compare_and_write(0, 0, 0), 13, 0),
        (cdb16(0x8b, 0, 0, 4), 10, 2048),
        (write_atomic(0, 4), 12, 2048),
    ];
    for (cdb, at, len) in cases {
        for available in [0, 512, 1024, 2047, 2048, 2049, 4096] {
            let mut plan = bed.plan(&cdb).unwrap();
            let expected = if available == len { Ok(len) } else { Err(in_cdb(at, None)) };
            assert_eq!(plan.limit_data_out(&bed.lu, available), expected, "{cdb:02x?} {available}");
        }
    }
}

#[test]
fn compare_and_write_is_bounded_as_announced() {
    let small = Limits { object_bytes: 64 << 10, ..Limits::default() };
    for (config, max) in [
        (config(), 255),
        (LogicalUnitConfig { limits: small, ..config() }, 128),
        (LogicalUnitConfig { block_size: BlockSize::B4096, physical_block_exponent: 0, ..config() }, 255),
    ] {
        let bed = Bed::with(config);
        assert_eq!(bed.data(&vpd(0xb0))[5], max);
        assert!(bed.plan(&compare_and_write(0, 0, max)).is_ok());
        if max < u8::MAX {
            assert_eq!(bed.error(&compare_and_write(0, 0, max + 1)), in_cdb(13, None));
        }
    }
}

#[test]
fn orwrite_moves_what_a_write_moves() {
    let bed = Bed::new();
    let op = BlockOp::OrWrite(range(5, 9));
    assert_eq!((op.modifies(), op.alone()), (true, Some(range(5, 9))));
    assert_eq!(bed.op(&cdb16(0x8b, 0x18, 5, 9)), (op, 9 * 512, 0));
    assert_eq!(bed.data(&cdb16(0x8b, 0, BLOCKS, 0)), []);
    let max = (MAX_TRANSFER_BYTES / 512) as u32;
    assert!(bed.plan(&cdb16(0x8b, 0, 0, max)).is_ok());
    assert_eq!(bed.error(&cdb16(0x8b, 0, 0, max + 1)), in_cdb(10, None));
    assert_eq!(bed.error(&cdb16(0x8b, 0, LAST, 2)), CheckCondition::lba_out_of_range(BLOCKS));
}

#[test]
fn an_atomic_write_lies_in_one_object() {
    let bed = Bed::new();
    for (lba, blocks) in [(0, 1), (0, OBJECT), (OBJECT - 1, 1), (OBJECT, OBJECT), (OBJECT - 8, 8), (LAST, 1)]
    {
        let op = BlockOp::WriteAtomic(range(lba, blocks));
        assert_eq!((op.modifies(), op.alone()), (true, Some(range(lba, blocks))));
        assert_eq!(bed.op(&write_atomic(lba, blocks as u16)), (op, blocks * 512, 0));
    }
    assert_eq!(bed.error(&write_atomic(OBJECT - 1, 2)), in_cdb(2, None), "two objects");
    assert_eq!(bed.error(&write_atomic(1, OBJECT as u16)), in_cdb(2, None), "two objects");
    assert_eq!(bed.error(&write_atomic(0, OBJECT as u16 + 1)), in_cdb(12, None), "more than announced");
    assert_eq!(bed.error(&write_atomic(LAST, 2)), CheckCondition::lba_out_of_range(BLOCKS));
    assert_eq!(bed.data(&write_atomic(3, 0)), []);
    let mut boundary = write_atomic(0, 8);
    boundary[11] = 8;
    assert_eq!(bed.error(&boundary), in_cdb(11, 3), "ATOMIC BOUNDARY");
}

#[test]
fn ranges_overlap_where_they_share_a_byte() {
    for (other, expected) in
        [((0, 8), false), ((0, 9), true), ((8, 1), true), ((15, 9), true), ((16, 1), false)]
    {
        assert_eq!(range(8, 8).overlaps(&range(other.0, other.1)), expected);
        assert_eq!(range(other.0, other.1).overlaps(&range(8, 8)), expected);
    }
}
