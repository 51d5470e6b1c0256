//! Commands on blocks: ranges, limits, flags, parameter lists.

use lusd_scsi::*;

use crate::bed::*;

const LAST: u64 = BLOCKS - 1;

fn range(lba: u64, blocks: u64) -> Range {
    Range { offset: lba * 512, len: blocks * 512 }
}

type Build = fn(u64, u64) -> [u8; 16];

/// (name, CDB from LBA and blocks, most blocks the CDB has room for, whether the medium is written)
const TRANSFERS: [(&str, Build, u64, bool); 14] = [
    ("READ (10)", |lba, n| cdb10(0x28, 0, lba as u32, n as u16), 0xffff, false),
    ("READ (12)", |lba, n| cdb12(0xa8, 0, lba as u32, n as u32), 0xffff_ffff, false),
    ("READ (16)", |lba, n| cdb16(0x88, 0, lba, n as u32), 0xffff_ffff, false),
    ("WRITE (10)", |lba, n| cdb10(0x2a, 0, lba as u32, n as u16), 0xffff, true),
    ("WRITE (12)", |lba, n| cdb12(0xaa, 0, lba as u32, n as u32), 0xffff_ffff, true),
    ("WRITE (16)", |lba, n| cdb16(0x8a, 0, lba, n as u32), 0xffff_ffff, true),
    ("WRITE AND VERIFY (10)", |lba, n| cdb10(0x2e, 0, lba as u32, n as u16), 0xffff, true),
    ("WRITE AND VERIFY (12)", |lba, n| cdb12(0xae, 0, lba as u32, n as u32), 0xffff_ffff, true),
    ("WRITE AND VERIFY (16)", |lba, n| cdb16(0x8e, 0, lba, n as u32), 0xffff_ffff, true),
    ("VERIFY (10)", |lba, n| cdb10(0x2f, 0, lba as u32, n as u16), 0xffff, false),
    ("VERIFY (12)", |lba, n| cdb12(0xaf, 0, lba as u32, n as u32), 0xffff_ffff, false),
    ("VERIFY (16)", |lba, n| cdb16(0x8f, 0, lba, n as u32), 0xffff_ffff, false),
    ("READ (6)", |lba, n| cdb6(0x08, lba as u32, n as u8), 0xff, false),
    ("WRITE (6)", |lba, n| cdb6(0x0a, lba as u32, n as u8), 0xff, true),
];

fn length_at(name: &str) -> u16 {
    match name {
        name if name.ends_with("(6)") => 4,
        name if name.ends_with("(10)") => 7,
        name if name.ends_with("(12)") => 6,
        _ => 10,
    }
}

#[test]
fn ranges_are_checked_against_the_capacity() {
    for (bed, bytes) in [(Bed::new(), 512), (Bed::b4096(), 4096)] {
        let end = bed.lu.blocks();
        for (name, cdb, _, writes) in TRANSFERS {
            for (lba, blocks) in [(0, 1), (1, 8), (end - 1, 1), (end - 2, 2)] {
                let (op, transfer_out, transfer_in) = bed.op(&cdb(lba, blocks));
                assert_eq!(op.ranges(), [Range { offset: lba * bytes, len: blocks * bytes }], "{name}");
                assert_eq!(op.modifies(), writes, "{name}");
                let moved = if name.starts_with("VERIFY") { 0 } else { blocks * bytes };
                assert_eq!(transfer_out, if writes { moved } else { 0 }, "{name}");
                assert_eq!(transfer_in, if writes { 0 } else { moved }, "{name}");
            }
            // What is out of range is told by the first LBA that does not exist.
            assert_eq!(bed.error(&cdb(end, 1)), CheckCondition::lba_out_of_range(end), "{name}");
            assert_eq!(bed.error(&cdb(end - 1, 2)), CheckCondition::lba_out_of_range(end), "{name}");
            assert_eq!(bed.error(&cdb(end + 9, 1)), CheckCondition::lba_out_of_range(end + 9), "{name}");
        }
    }
}

#[test]
fn no_blocks_is_good_up_to_the_end_and_an_error_beyond() {
    let bed = Bed::new();
    for (name, cdb, _, _) in TRANSFERS.iter().filter(|case| !case.0.ends_with("(6)")) {
        for lba in [0, LAST, BLOCKS] {
            assert_eq!(data(bed.plan(&cdb(lba, 0)).unwrap()), [], "{name}");
        }
        for lba in [BLOCKS + 1, 0x8000_0000, 0xffff_ffff] {
            assert_eq!(bed.error(&cdb(lba, 0)), CheckCondition::lba_out_of_range(lba), "{name}");
        }
    }
    assert_eq!(bed.op(&cdb6(0x08, 5, 0)), (BlockOp::Read(range(5, 256)), 0, 256 * 512));
    assert_eq!(bed.op(&cdb6(0x0a, 5, 0)).1, 256 * 512);
}

#[test]
fn lbas_use_all_their_bits() {
    let bed = Bed::with(LogicalUnitConfig { capacity_bytes: u64::MAX, ..config() });
    let blocks = bed.lu.blocks();
    assert_eq!(blocks, (1 << 55) - 1, "the last part is no whole block");
    assert_eq!(bed.op(&cdb6(0x08, 0x1f_ffff, 1)).0, BlockOp::Read(range(0x1f_ffff, 1)));
    assert_eq!(bed.op(&cdb10(0x28, 0, u32::MAX, 1)).0, BlockOp::Read(range(u32::MAX.into(), 1)));
    assert_eq!(bed.op(&cdb12(0xa8, 0, u32::MAX, 1)).0, BlockOp::Read(range(u32::MAX.into(), 1)));
    assert_eq!(bed.op(&cdb16(0x88, 0, blocks - 1, 1)).0, BlockOp::Read(range(blocks - 1, 1)));
    assert_eq!(bed.error(&cdb16(0x88, 0, u64::MAX, u32::MAX)), CheckCondition::lba_out_of_range(u64::MAX));
    assert_eq!(bed.error(&cdb16(0x88, 0, blocks, 1)), CheckCondition::lba_out_of_range(blocks));
}

#[test]
fn transfers_beyond_the_announced_maximum_are_refused() {
    for (bed, bytes) in [(Bed::new(), 512), (Bed::b4096(), 4096)] {
        let most = MAX_TRANSFER_BYTES / bytes;
        for (name, cdb, room, _) in TRANSFERS {
            if most < room {
                assert!(bed.plan(&cdb(0, most)).is_ok(), "{name}");
                assert_eq!(bed.error(&cdb(0, most + 1)), in_cdb(length_at(name), None), "{name}");
            }
        }
    }
}

#[test]
fn blocks_of_4096_bytes() {
    let bed = Bed::b4096();
    assert_eq!(bed.lu.blocks(), BLOCKS / 8);
    let expected = Range { offset: 3 << 12, len: 2 << 12 };
    assert_eq!(bed.op(&cdb10(0x28, 0, 3, 2)), (BlockOp::Read(expected), 0, 2 << 12));
    let end = BLOCKS / 8;
    assert_eq!(bed.error(&cdb10(0x28, 0, end as u32, 1)), CheckCondition::lba_out_of_range(end));
    assert_eq!(bed.plan(&cdb16(0x93, 0, 0, 1)).unwrap().transfer_out, 4096);
    let zeroes = bed.finish(&cdb16(0x93, 0, 5, 3), &[0; 4096]);
    let range = Range { offset: 5 << 12, len: 3 << 12 };
    assert_eq!(zeroes, Ok(After::Block(BlockOp::WriteZeroes { range, may_unmap: true })));
    assert_eq!(bed.finish(&cdb16(0x93, 0, 5, 3), &[1; 4096]), Ok(After::Block(BlockOp::WriteSame(range))));
    let unmapped = send_unmap(&bed, &unmap_list(&[(5, 3)]));
    assert_eq!(unmapped, Ok(After::Block(BlockOp::Unmap([range].into_iter().collect()))));
    let (compare, moved, _) = bed.op(&cdb10(0x2f, 0b110, 5, 3));
    assert_eq!((compare.ranges(), moved), (&[range][..], 4096));
    // Of a write that ends inside a block only what is whole blocks, not of 512 bytes, is wanted.
    for (available, wanted) in [(4096 + 512, 4096), (4096, 4096), (512, 0)] {
        let mut plan = bed.plan(&cdb10(0x2a, 0, 0, 2)).unwrap();
        assert_eq!(plan.limit_data_out(&bed.lu, available), Ok(wanted));
        let written = match &plan.step {
            Step::Block(BlockOp::Write { range, .. }) => range.len,
            Step::Reply(data) if data.is_empty() => 0,
            other => panic!("{other:?}"),
        };
        assert_eq!((written, plan.transfer_out), (wanted, 2 << 12));
    }
}

#[test]
fn fua_and_dpo_are_known_protection_is_not() {
    let bed = Bed::new();
    let write = |cdb: [u8; 16]| match bed.op(&cdb).0 {
        BlockOp::Write { fua, .. } => fua,
        op => panic!("{op:?}"),
    };
    for (flags, fua) in [(0x00, false), (0x08, true), (0x10, false), (0x18, true)] {
        assert_eq!(write(cdb10(0x2a, flags, 0, 1)), fua);
        assert_eq!(write(cdb12(0xaa, flags, 0, 1)), fua);
        assert_eq!(write(cdb16(0x8a, flags, 0, 1)), fua);
        assert!(bed.plan(&cdb10(0x28, flags, 0, 1)).is_ok());
    }
    for protect in 1..8u8 {
        let high_bit = 7 - (protect << 5).leading_zeros() as u8;
        for opcode in [0x28, 0x2a, 0x2e, 0x2f, 0x41] {
            assert_eq!(bed.error(&cdb10(opcode, protect << 5, 0, 1)), in_cdb(1, high_bit), "{opcode:02x}");
        }
    }
    // GROUP NUMBER is taken and ignored.
    let mut cdb = cdb10(0x28, 0, 0, 1);
    cdb[6] = 0x1f;
    assert!(bed.plan(&cdb).is_ok());
}

#[test]
fn verify_compares_what_bytchk_says() {
    let bed = Bed::new();
    for verify in
        [|flags| cdb10(0x2f, flags, 4, 3), |flags| cdb12(0xaf, flags, 4, 3), |flags| cdb16(0x8f, flags, 4, 3)]
            as [fn(u8) -> [u8; 16]; 3]
    {
        let range = range(4, 3);
        assert_eq!(bed.op(&verify(0)), (BlockOp::VerifyMedium(range), 0, 0));
        let blocks = BlockOp::Compare { range, comparand: Comparand::Blocks };
        assert_eq!(bed.op(&verify(0b010)), (blocks, 3 * 512, 0));
        assert_eq!(bed.error(&verify(0b100)), in_cdb(1, 2));
        let one = BlockOp::Compare { range, comparand: Comparand::OneBlock };
        assert_eq!(bed.op(&verify(0b110)), (one, 512, 0));
    }
    for write_and_verify in
        [|flags| cdb10(0x2e, flags, 4, 3), |flags| cdb12(0xae, flags, 4, 3), |flags| cdb16(0x8e, flags, 4, 3)]
            as [fn(u8) -> [u8; 16]; 3]
    {
        for (flags, compare) in [(0, false), (0b010, true), (0x10, false)] {
            let op = BlockOp::WriteVerify { range: range(4, 3), compare };
            assert_eq!(bed.op(&write_and_verify(flags)), (op, 3 * 512, 0));
        }
        assert_eq!(bed.error(&write_and_verify(0b100)), in_cdb(1, 2));
        assert_eq!(bed.error(&write_and_verify(0b110)), in_cdb(1, 2));
    }
}

#[test]
fn caches_and_the_medium_as_a_whole() {
    let bed = Bed::new();
    for (ten, sixteen, flushes) in [(0x35, 0x91, true), (0x34, 0x90, false)] {
        for (lba, blocks) in [(0, 0), (5, 7), (LAST, 1), (BLOCKS, 0)] {
            for plan in [
                bed.plan(&cdb10(ten, 0x02, lba as u32, blocks)),
                bed.plan(&cdb16(sixteen, 0x02, lba, blocks.into())),
            ] {
                let step = plan.unwrap().step;
                assert_eq!(step == Step::Block(BlockOp::Flush), flushes);
                assert_eq!(step == Step::Reply(bytes::Bytes::new()), !flushes);
            }
        }
        let beyond = CheckCondition::lba_out_of_range(BLOCKS);
        assert_eq!(bed.error(&cdb10(ten, 0, LAST as u32, 2)), beyond);
        assert_eq!(bed.error(&cdb16(sixteen, 0, LAST, 2)), beyond);
    }
    // SYNC_NV
    assert_eq!(bed.op(&cdb10(0x35, 0x04, 0, 0)).0, BlockOp::Flush);
    let start_stop = |immed: u8, byte_4| cdb6(0x1b, u32::from(immed) << 16, byte_4);
    assert_eq!(bed.op(&start_stop(0, 0)).0, BlockOp::Flush, "stop");
    assert_eq!(bed.op(&start_stop(1, 0)).0, BlockOp::Flush, "stop, IMMED");
    assert_eq!(bed.data(&start_stop(0, 0x01)), [], "start");
    assert_eq!(bed.data(&start_stop(0, 0x04)), [], "stop, NO_FLUSH");
    assert_eq!(bed.error(&start_stop(0, 0x02)), in_cdb(4, 1), "eject");
    assert_eq!(bed.error(&start_stop(0, 0x03)), in_cdb(4, 1), "load");
    for power_condition in 1..16u8 {
        let high_bit = 7 - (power_condition << 4).leading_zeros() as u8;
        assert_eq!(bed.error(&start_stop(0, power_condition << 4)), in_cdb(4, high_bit));
    }
    assert!(bed.plan(&cdb6(0x00, 0, 0)).is_ok(), "a stopped unit stays ready");
}

#[test]
fn write_same_writes_zeroes_where_it_can() {
    let bed = Bed::new();
    let zeroes = |may_unmap| After::Block(BlockOp::WriteZeroes { range: range(8, 16), may_unmap });
    let mut pattern = [0; 512];
    for unmap in [0, 0x08] {
        for cdb in [cdb10(0x41, unmap, 8, 16), cdb16(0x93, unmap, 8, 16)] {
            pattern[511] = 0;
            assert_eq!(bed.finish(&cdb, &pattern), Ok(zeroes(true)));
            pattern[511] = 1;
            let same = After::Block(BlockOp::WriteSame(range(8, 16)));
            assert_eq!(bed.finish(&cdb, &pattern), Ok(same));
        }
    }
    for unmap in [0, 0x08] {
        let op = BlockOp::WriteZeroes { range: range(8, 16), may_unmap: true };
        assert_eq!(bed.op(&cdb16(0x93, unmap | 0x01, 8, 16)), (op, 0, 0), "NDOB");
    }
    let thick = Bed::thick();
    assert_eq!(thick.finish(&cdb16(0x93, 0, 8, 16), &[0; 512]), Ok(zeroes(false)));
    assert_eq!(thick.error(&cdb16(0x93, 0x08, 8, 16)), in_cdb(1, 3));
    assert_eq!(thick.error(&cdb10(0x41, 0x08, 8, 16)), in_cdb(1, 3));
    assert_eq!(bed.error(&cdb16(0x93, 0x10, 8, 16)), in_cdb(1, 4), "ANCHOR");
    assert_eq!(bed.error(&cdb10(0x41, 0x01, 8, 16)), in_cdb(1, 0), "no NDOB in 10 bytes");
}

#[test]
fn write_same_has_edges() {
    let bed = Bed::new();
    let max = bed.lu.limits().write_same_bytes_max / 512;
    let big = Bed::with(LogicalUnitConfig { capacity_bytes: 1 << 40, ..config() });
    assert!(big.plan(&cdb16(0x93, 0, 0, max as u32)).is_ok());
    assert_eq!(big.error(&cdb16(0x93, 0, 0, max as u32 + 1)), in_cdb(10, None));
    assert_eq!(big.plan(&cdb10(0x41, 0, 0, max as u16)).unwrap().transfer_out, 512);
    // WSNZ: zero blocks, but the range is looked at first.
    assert_eq!(bed.error(&cdb10(0x41, 0, 0, 0)), in_cdb(7, None));
    assert_eq!(bed.error(&cdb16(0x93, 0, 0, 0)), in_cdb(10, None));
    for lba in [BLOCKS as u32 + 1, 0x8000_0000, u32::MAX] {
        assert_eq!(bed.error(&cdb10(0x41, 0, lba, 0)), CheckCondition::lba_out_of_range(lba.into()));
    }
    assert_eq!(bed.error(&cdb10(0x41, 0, LAST as u32, 2)), CheckCondition::lba_out_of_range(BLOCKS));
    // Data-out that is not one block, if the daemon ever hands it over.
    let Step::Parameters(parameters) = bed.plan(&cdb10(0x41, 0, 0, 1)).unwrap().step else { panic!() };
    let wrong = fault(Fault::InvalidFieldInInformationUnit);
    assert_eq!(parameters.finish(bed.unit(), &[0; 511]), Err(wrong));
}

fn unmap(len: u16) -> [u8; 16] {
    cdb10(0x42, 0, 0, len)
}

fn unmap_list(descriptors: &[(u64, u32)]) -> Vec<u8> {
    let bytes = 16 * descriptors.len() as u16;
    let mut list = [&(bytes + 6).to_be_bytes()[..], &bytes.to_be_bytes(), &[0; 4]].concat();
    for (lba, blocks) in descriptors {
        list.extend(lba.to_be_bytes());
        list.extend(blocks.to_be_bytes());
        list.extend([0; 4]);
    }
    list
}

fn send_unmap(bed: &Bed, list: &[u8]) -> Result<After, CheckCondition> {
    bed.finish(&unmap(list.len() as u16), list)
}

#[test]
fn unmap_takes_its_descriptors_all_or_none() {
    let bed = Bed::new();
    let ranges = |ranges: &[Range]| Ok(After::Block(BlockOp::Unmap(ranges.iter().copied().collect())));
    assert_eq!(send_unmap(&bed, &unmap_list(&[(4, 2)])), ranges(&[range(4, 2)]));
    assert_eq!(
        send_unmap(&bed, &unmap_list(&[(4, 2), (9, 0), (LAST, 1)])),
        ranges(&[range(4, 2), range(LAST, 1)])
    );
    assert_eq!(send_unmap(&bed, &unmap_list(&[(0, 0), (BLOCKS, 0)])), Ok(After::Done));
    assert_eq!(send_unmap(&bed, &unmap_list(&[])), Ok(After::Done));
    assert_eq!(send_unmap(&bed, &[]), Ok(After::Done), "no parameter list");
    let beyond = CheckCondition::lba_out_of_range(BLOCKS);
    assert_eq!(send_unmap(&bed, &unmap_list(&[(0, 1), (LAST, 2)])), Err(beyond));
    assert_eq!(
        send_unmap(&bed, &unmap_list(&[(u64::MAX, u32::MAX)])),
        Err(CheckCondition::lba_out_of_range(u64::MAX))
    );
    // 256 descriptors, not 257.
    let many = vec![(1, 1); 257];
    assert!(send_unmap(&bed, &unmap_list(&many[1..])).is_ok());
    assert_eq!(send_unmap(&bed, &unmap_list(&many)), Err(in_list(2, None)));
}

#[test]
fn unmap_is_bounded_in_blocks() {
    let bed = Bed::with(LogicalUnitConfig { capacity_bytes: 1 << 40, ..config() });
    let max = (bed.lu.limits().unmap_bytes_max / 512) as u32;
    assert!(send_unmap(&bed, &unmap_list(&[(0, max)])).is_ok());
    assert_eq!(send_unmap(&bed, &unmap_list(&[(0, max + 1)])), Err(in_list(16, None)));
    assert_eq!(send_unmap(&bed, &unmap_list(&[(0, max), (max.into(), 1)])), Err(in_list(32, None)));
}

#[test]
fn unmap_lists_that_do_not_add_up_are_refused() {
    let bed = Bed::new();
    let short = Err(fault(Fault::ParameterListLength));
    for len in 1..8 {
        assert_eq!(bed.error(&unmap(len)), fault(Fault::ParameterListLength));
    }
    // Every truncation of what was sent.
    let list = unmap_list(&[(4, 2), (9, 1)]);
    for len in 8..list.len() {
        assert_eq!(send_unmap(&bed, &list[..len]), short, "{len}");
    }
    // Fewer bytes than the CDB said (the transport came up short).
    for len in 0..list.len() {
        let Step::Parameters(parameters) = bed.plan(&unmap(list.len() as u16)).unwrap().step else {
            panic!()
        };
        assert_eq!(parameters.finish(bed.unit(), &list[..len]), short, "{len}");
    }
    // More bytes than the list says are ignored.
    let mut long = list.clone();
    long.extend([0xff; 16]);
    assert!(matches!(send_unmap(&bed, &long), Ok(After::Block(BlockOp::Unmap(ranges))) if ranges.len() == 2));
    // A last descriptor that is not whole is ignored.
    let mut partial = list.clone();
    partial[3] -= 8;
    assert!(
        matches!(send_unmap(&bed, &partial), Ok(After::Block(BlockOp::Unmap(ranges))) if ranges.len() == 1)
    );
    // UNMAP DATA LENGTH below its parts.
    let mut lying = list;
    lying[1] -= 1;
    assert_eq!(send_unmap(&bed, &lying), Err(in_list(0, None)));
}

#[test]
fn a_thick_unit_has_no_unmap() {
    let bed = Bed::thick();
    assert_eq!(bed.error(&unmap(24)), fault(Fault::InvalidOperationCode));
    let mut anchor = unmap(24);
    anchor[1] = 1;
    assert_eq!(Bed::new().error(&anchor), in_cdb(1, 0));
}

#[test]
fn a_protected_unit_refuses_whatever_writes() {
    let bed = Bed::with(LogicalUnitConfig { read_only: true, ..config() });
    for row in commands() {
        let result = bed.plan(&crate::table::accepted(row));
        if row.flags.has(Flags::WRITES) {
            assert_eq!(result, Err(fault(Fault::WriteProtected)), "{}", row.name);
        } else {
            assert!(result.is_ok(), "{}: {result:?}", row.name);
        }
    }
    bed.lu.set_read_only(false);
    assert_eq!(bed.error(&cdb10(0x2a, 0, 0, 1)).code, UnitAttention::ModeParametersChanged.code());
    assert!(bed.plan(&cdb10(0x2a, 0, 0, 1)).is_ok());
}

#[test]
fn every_operation_that_modifies_is_marked_so_in_the_table() {
    let bed = Bed::new();
    for row in commands() {
        let mut cdb = crate::table::accepted(row);
        // One block, one parameter list, where the CDB has a length.
        match (row.name, row.usage.len()) {
            ("UNMAP", _) => cdb[8] = 24,
            ("SANITIZE, OVERWRITE" | "SANITIZE, BLOCK ERASE", _) => {}
            (_, 10) if row.flags.has(Flags::READS) || row.flags.has(Flags::WRITES) => cdb[8] = 1,
            (_, 12) if row.flags.has(Flags::READS) || row.flags.has(Flags::WRITES) => cdb[9] = 1,
            (_, 16) if row.flags.has(Flags::READS) || row.flags.has(Flags::WRITES) => cdb[13] = 1,
            _ => {}
        }
        let plan = bed.plan(&cdb).unwrap();
        let op = match plan.step {
            Step::Block(op) => Some(op),
            Step::Reply(_) | Step::Reserve(_) | Step::Status(_) => None,
            Step::Parameters(parameters) => {
                let mut list = vec![0; plan.transfer_out as usize];
                if row.name == "UNMAP" {
                    list = unmap_list(&[(0, 1)]);
                }
                if row.name == "SANITIZE, OVERWRITE" {
                    list = vec![1, 0, 0, 1, 0];
                }
                match parameters.finish(bed.unit(), &list) {
                    Ok(After::Block(op)) => Some(op),
                    Ok(After::Done | After::Copy(_) | After::Reserve(_) | After::Status(_)) | Err(_) => None,
                }
            }
        };
        assert_eq!(op.is_some_and(|op| op.modifies()), row.flags.has(Flags::WRITES), "{}", row.name);
    }
}

#[test]
fn what_changed_since_the_plan_is_seen_when_it_is_submitted() {
    let bed = Bed::new();
    let write = bed.op(&cdb10(0x2a, 0, LAST as u32, 1)).0;
    let read = bed.op(&cdb10(0x28, 0, LAST as u32, 1)).0;
    let flush = bed.op(&cdb10(0x35, 0, 0, 0)).0;
    assert_eq!(bed.lu.admit(&write), Ok(()));
    bed.lu.set_capacity_bytes(LAST * 512 + 511);
    assert_eq!(bed.lu.admit(&write), Err(CheckCondition::lba_out_of_range(LAST)));
    assert_eq!(bed.lu.admit(&read), Err(CheckCondition::lba_out_of_range(LAST)));
    assert_eq!(bed.lu.admit(&flush), Ok(()));
    bed.lu.set_capacity_bytes(BLOCKS * 512);
    bed.lu.set_read_only(true);
    assert_eq!(bed.lu.admit(&write), Err(fault(Fault::WriteProtected)));
    assert_eq!(bed.lu.admit(&read), Ok(()));
    bed.lu.set_access(AccessState::Standby);
    for op in [&write, &read, &flush] {
        assert_eq!(bed.lu.admit(op).unwrap_err().code, AccessState::Standby.code().unwrap());
    }
}

#[test]
fn parameters_are_not_taken_once_the_unit_is_not_served() {
    let bed = Bed::new();
    let Step::Parameters(parameters) = bed.plan(&unmap(24)).unwrap().step else { panic!() };
    bed.lu.set_access(AccessState::Standby);
    let result = parameters.finish(bed.unit(), &unmap_list(&[(0, 1)]));
    assert_eq!(result.unwrap_err().code, UnitAttention::AsymmetricAccessStateChanged.code());
}

#[test]
fn plans_fit_the_data_that_the_transport_moves() {
    let bed = Bed::new();
    let limited = |cdb: [u8; 16], available| {
        let mut plan = bed.plan(&cdb).unwrap();
        plan.limit_data_out(&bed.lu, available).map(|wanted| (plan, wanted))
    };
    let refused = Err(fault(Fault::InvalidFieldInInformationUnit));
    let two = cdb10(0x2a, 0, 8, 2);
    for available in [1024, 1025, 10_000] {
        assert_eq!(limited(two, available), Ok((bed.plan(&two).unwrap(), 1024)));
    }
    let cut = |step| Plan { transfer_out: 1024, transfer_in: 0, step, exact_at: None };
    for available in [512, 513, 1023] {
        let one = cut(Step::Block(BlockOp::Write { range: range(8, 1), fua: false }));
        assert_eq!(limited(two, available), Ok((one, 512)));
    }
    for available in [0, 1, 200, 511] {
        let none = cut(Step::Reply(bytes::Bytes::new()));
        assert_eq!(limited(two, available), Ok((none, 0)), "no whole block");
    }
    // One block exactly: WRITE SAME and VERIFY with BYTCHK 11b.
    for cdb in [cdb10(0x41, 0, 0, 4), cdb16(0x93, 0, 0, 4), cdb10(0x2f, 0x06, 0, 4)] {
        assert!(limited(cdb, 512).is_ok());
        for available in [0, 256, 511, 513, 1024] {
            assert_eq!(limited(cdb, available), refused);
        }
    }
    // Comparisons of fewer blocks.
    let (plan, wanted) = limited(cdb10(0x2f, 0x02, 0, 4), 1024 + 500).unwrap();
    let op = BlockOp::Compare { range: range(0, 2), comparand: Comparand::Blocks };
    assert_eq!((plan.step, wanted), (Step::Block(op), 1024));
    // Nothing to send: nothing changes.
    for cdb in
        [cdb10(0x28, 0, 0, 1), cdb10(0x35, 0, 0, 0), cdb10(0x2f, 0, 0, 1), cdb16(0x93, 1, 0, 1), unmap(24)]
    {
        assert_eq!(limited(cdb, 0), Ok((bed.plan(&cdb).unwrap(), 0)));
    }
}

#[test]
fn reads_are_not_longer_than_what_is_taken() {
    let bed = Bed::new();
    let limited = |available| {
        let mut plan = bed.plan(&cdb10(0x28, 0, 8, 4)).unwrap();
        plan.limit_data_in(&bed.lu, available);
        assert_eq!(plan.transfer_in, 2048, "the residual is counted from the CDB");
        match plan.step {
            Step::Block(BlockOp::Read(range)) => range.len,
            Step::Reply(data) => data.len() as u64,
            other => panic!("{other:?}"),
        }
    };
    for (available, len) in
        [(0, 0), (1, 512), (512, 512), (513, 1024), (2047, 2048), (2048, 2048), (9999, 2048)]
    {
        assert_eq!(limited(available), len);
    }
    // Replies are left to the transport.
    let mut plan = bed.plan(&cdb_inquiry(0, 0, 96)).unwrap();
    plan.limit_data_in(&bed.lu, 5);
    assert_eq!(plan.transfer_in, 96);
}

#[test]
fn backend_errors_have_their_answers() {
    use BackendError::*;
    let size = BlockSize::B512;
    let at = 512 * 7;
    let check = |check: CheckCondition| (Status::CheckCondition, Some(check));
    let not_ready = |state: AccessState| check(CheckCondition::new(state.code().unwrap()));
    for (error, answer) in [
        (Busy, (Status::Busy, None)),
        (TaskSetFull, (Status::TaskSetFull, None)),
        (MediumRead, check(fault(Fault::UnrecoveredRead).with_information(7))),
        (MediumWrite, check(fault(Fault::Write).with_information(7))),
        (NoSpace, check(fault(Fault::SpaceAllocationFailed))),
        (WriteProtected, check(fault(Fault::WriteProtected))),
        (NotOwner, not_ready(AccessState::Standby)),
        (Transitioning, not_ready(AccessState::Transitioning)),
        (Miscompare(513), check(fault(Fault::Miscompare).with_information(513))),
        (OutOfRange, check(CheckCondition::lba_out_of_range(7))),
        (Aborted, check(fault(Fault::Aborted))),
        (Internal, check(fault(Fault::InternalTargetFailure))),
    ] {
        assert_eq!(error.answer(size, at), answer);
    }
    let sense = Fault::SpaceAllocationFailed.code();
    assert_eq!((sense.key as u8, sense.asc, sense.ascq), (0x07, 0x27, 0x07));
}

#[test]
fn everything_is_mapped_on_a_thick_unit() {
    let bed = Bed::thick();
    for lba in [0, 7, LAST] {
        let mut expected = vec![0, 0, 0, 20, 0, 0, 0, 0];
        expected.extend(lba.to_be_bytes());
        expected.extend(((BLOCKS - lba) as u32).to_be_bytes());
        expected.extend([0; 4]);
        assert_eq!(bed.data(&cdb16(0x9e, 0x12, lba, 24)), expected);
        assert_eq!(bed.data(&cdb16(0x9e, 0x12, lba, 12)), expected[..12]);
    }
    assert_eq!(bed.error(&cdb16(0x9e, 0x12, BLOCKS, 24)), CheckCondition::lba_out_of_range(BLOCKS));
}

#[test]
fn a_thin_unit_asks_what_is_mapped() {
    let bed = Bed::new();
    for lba in [0, 7, LAST] {
        let op = BlockOp::LbaStatus { range: range(lba, BLOCKS - lba), allocation_length: 99 };
        assert!(!op.modifies());
        assert_eq!(bed.op(&cdb16(0x9e, 0x12, lba, 99)), (op, 0, 0));
    }
    assert_eq!(bed.error(&cdb16(0x9e, 0x12, BLOCKS, 24)), CheckCondition::lba_out_of_range(BLOCKS));
    // Bounded in objects.
    let large = Bed::with(LogicalUnitConfig { capacity_bytes: 1 << 40, ..config() });
    let op = large.op(&cdb16(0x9e, 0x12, 1, 24)).0;
    assert_eq!(op.ranges(), [Range { offset: 512, len: 1 << 30 }]);
}

#[test]
fn what_is_mapped_is_told_in_order_and_without_gaps() {
    let descriptors = |range, mapped: &[Range]| {
        let data = lba_status(BlockSize::B512, range, mapped, u32::MAX);
        assert_eq!(data[..4], (data.len() as u32 - 4).to_be_bytes());
        let of = |entry: &[u8]| {
            let lba = u64::from_be_bytes(entry[..8].try_into().unwrap());
            (lba, u32::from_be_bytes(entry[8..12].try_into().unwrap()), entry[12])
        };
        data[8..].chunks(16).map(of).collect::<Vec<_>>()
    };
    const DEALLOCATED: u8 = 1;
    assert_eq!(descriptors(range(5, 10), &[]), [(5, 10, DEALLOCATED)]);
    assert_eq!(descriptors(range(5, 10), &[range(0, 100)]), [(5, 10, 0)]);
    assert_eq!(
        descriptors(range(5, 10), &[range(2, 4), range(8, 2), range(14, 9)]),
        [(5, 1, 0), (6, 2, DEALLOCATED), (8, 2, 0), (10, 4, DEALLOCATED), (14, 1, 0)]
    );
    // A block that holds data in part is mapped.
    let part = Range { offset: 7 * 512 + 100, len: 10 };
    assert_eq!(descriptors(range(5, 10), &[part])[1], (7, 1, 0));
    let whole = lba_status(BlockSize::B512, range(5, 10), &[part], u32::MAX);
    for len in 0..=whole.len() + 1 {
        let expected = &whole[..len.min(whole.len())];
        assert_eq!(lba_status(BlockSize::B512, range(5, 10), &[part], len as u32), expected);
    }
}
