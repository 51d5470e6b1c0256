//! Reads and writes: every way that data takes, residual counts, errors.

use lusd::lun::backend::Backend;
use lusd::lun::ram::RamStore;
use lusd_scsi::BlockSize;

use crate::gateway::{Gateway, HOST, OTHER_HOST, limits};
use crate::initiator::{Command, Initiator, pattern};

const UNASKED: &str = "InitialR2T=No\0ImmediateData=Yes\0FirstBurstLength=65536\0MaxBurstLength=131072\0\
                       MaxOutstandingR2T=2\0MaxRecvDataSegmentLength=65536\0";

#[test]
fn what_was_written_in_any_way_is_read() {
    let (gateway, _) = Gateway::with_ram(limits(), 1);
    // Data with the command, after it unasked for, and in all.
    let ways = [
        (512, 0, 512),
        (0, 512, 512),
        (0, 0, 512),
        (65_536, 0, 65_536),
        (4096, 61_440, 65_536),
        (1003, 1001, 12_288),
        (0, 65_536, 131_072),
        (8192, 0, 300_032),
        (0, 0, 1_000_448),
        (1024, 64_512, 2_097_152),
    ];
    for keys in [UNASKED, &format!("{UNASKED}MaxOutstandingR2T=1\0").replacen("MaxOutstandingR2T=2\0", "", 1)]
    {
        let mut host = gateway.session_of(HOST, keys);
        let mut lba = 1;
        for (seed, (immediate, unsolicited, len)) in ways.into_iter().enumerate() {
            let data = pattern(seed as u32, len);
            let write = Command { immediate, unsolicited, ..Command::write(lba, &data) };
            let answer = host.run(&write).good();
            assert_eq!((answer.underflow, answer.overflow, answer.data.len()), (0, 0, 0), "{len} bytes");
            let answer = host.run(&Command::read(lba, (len / 512) as u16)).good();
            assert!(answer.data == data, "{len} bytes at block {lba} differ");
            lba += (len / 512) as u32;
        }
        let whole: Vec<u8> =
            ways.iter().enumerate().flat_map(|(seed, way)| pattern(seed as u32, way.2)).collect();
        let answer = host.run(&Command::read(1, (whole.len() / 512) as u16)).good();
        assert!(answer.data == whole, "no write has touched another");
        assert!(host.run(&Command::read(0, 1)).good().data == [0; 512]);
    }
    gateway.memory_is_back();
}

#[test]
fn many_commands_at_once_are_answered_each_with_its_own() {
    let (gateway, _) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.session_of(HOST, UNASKED);
    let data = |i: u32| pattern(i, 16_384);
    let writes: Vec<_> = (0..32).map(|i| host.submit(&Command::write(i * 32, &data(i)))).collect();
    for tag in writes {
        host.answer(tag).good();
    }
    let reads: Vec<_> = (0..32).map(|i| (i, host.submit(&Command::read(i * 32, 32)))).collect();
    for (i, tag) in reads.into_iter().rev() {
        assert!(host.answer(tag).good().data == data(i), "command {i}");
    }
}

#[test]
fn what_was_written_is_mapped_and_what_was_unmapped_is_not() {
    let (gateway, unit) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.session();
    let mut status = |lba: u64, reads: u32| {
        let mut command = Command { reads, ..Command::new(&[0x9e, 0x12]) };
        command.cdb[2..10].copy_from_slice(&lba.to_be_bytes());
        command.cdb[10..14].copy_from_slice(&reads.to_be_bytes());
        host.run(&command).good()
    };
    let all = unit.scsi.blocks() as u32;
    let told = |answer: Vec<u8>| {
        let of = |entry: &[u8]| (u32::from_be_bytes(entry[4..8].try_into().unwrap()), entry[12]);
        answer[8..].chunks(16).map(of).collect::<Vec<_>>()
    };
    assert_eq!(told(status(0, 4096).data), [(0, 1)]);
    host.run(&Command::write(5000, &pattern(1, 512))).good();
    let mut command =
        Command { reads: 4096, ..Command::new(&[0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 16]) };
    let answer = host.run(&command).good();
    assert_eq!((answer.data.len(), answer.underflow), (8 + 3 * 16, 4096 - (8 + 3 * 16)));
    assert_eq!(told(answer.data), [(7, 1), (4096, 0), (6144, 1)]);
    assert_eq!(all, 131_072);
    // As much as the host takes.
    command.cdb[12..14].copy_from_slice(&[0, 24]);
    command.reads = 24;
    let answer = host.run(&command).good();
    assert_eq!(
        (answer.data[3], answer.data.len(), answer.underflow, answer.overflow),
        (4 + 3 * 16, 24, 0, 0)
    );
    host.run(&Command::write_same(4096, 2048, &[0; 512])).good();
    command.reads = 4096;
    command.cdb[12..14].copy_from_slice(&[16, 0]);
    assert_eq!(told(host.run(&command).good().data), [(7, 1)]);
}

#[test]
fn null_takes_everything_and_reads_zeros() {
    let gateway = Gateway::start(limits(), 1);
    gateway.show(&[(0, &gateway.null())]);
    let mut host = gateway.session_of(HOST, UNASKED);
    host.run(&Command::write(7, &pattern(1, 300_032))).good();
    assert!(host.run(&Command::read(7, 2048)).good().data == vec![0; 1 << 20]);
}

#[test]
fn residuals_are_counted() {
    let (gateway, _) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.session();
    let data = pattern(3, 8192);
    host.run(&Command::write(0, &data)).good();

    let answer = host.run(&Command { reads: 8192, ..Command::read(0, 8) }).good();
    assert_eq!((answer.underflow, answer.overflow), (4096, 0));
    assert_eq!(answer.data, data[..4096]);
    let answer = host.run(&Command { reads: 1024, ..Command::read(0, 8) }).good();
    assert_eq!((answer.underflow, answer.overflow), (0, 3072));
    assert_eq!(answer.data, data[..1024]);

    // The host has more, or less, than the CDB writes.
    let eight = |lba, data: &[u8]| Command { cdb: Command::write_cdb(lba, 8), ..Command::write(lba, data) };
    for immediate in [0, 1024] {
        let fresh = pattern(4 + immediate as u32, 8192);
        let answer = host.run(&eight(100, &fresh).immediate(immediate)).good();
        assert_eq!((answer.underflow, answer.overflow), (4096, 0));
        let read = host.run(&Command::read(100, 16)).good().data;
        assert_eq!((&read[..4096], &read[4096..]), (&fresh[..4096], &[0; 4096][..]));
        let answer = host.run(&eight(200, &fresh[..1024]).immediate(immediate)).good();
        assert_eq!((answer.underflow, answer.overflow), (0, 3072));
        let read = host.run(&Command::read(200, 8)).good().data;
        assert_eq!((&read[..1024], &read[1024..]), (&fresh[..1024], &[0; 3072][..]));
    }
    gateway.memory_is_back();
}

/// No blocks, no length, no direction, the wrong one: what the CDB would move beyond what is expected is overflow, what is expected beyond
/// that is underflow, and nothing moves that both do not want.
#[test]
fn transfers_of_nothing_and_of_the_wrong_direction() {
    let (gateway, _) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.session_of(HOST, UNASKED);
    let data = pattern(1, 4096);
    host.run(&Command::write(0, &data)).good();
    let residuals = |host: &mut Initiator, command: &Command| {
        let answer = host.run(command).good();
        assert!(answer.data.is_empty(), "{command:?}");
        (answer.underflow, answer.overflow)
    };
    let read = |blocks: u16, reads: u32| Command { reads, ..Command::read(0, blocks) };
    let write =
        |blocks: u16, data: &[u8]| Command { cdb: Command::write_cdb(0, blocks), ..Command::write(0, data) };
    assert_eq!(residuals(&mut host, &read(0, 0)), (0, 0));
    assert_eq!(residuals(&mut host, &read(0, 512)), (512, 0));
    assert_eq!(residuals(&mut host, &read(8, 0)), (0, 4096));
    assert_eq!(residuals(&mut host, &write(0, &[])), (0, 0));
    assert_eq!(residuals(&mut host, &write(8, &[])), (0, 4096));
    let other = pattern(2, 4096);
    for (immediate, unsolicited) in [(0, 0), (1024, 0), (1024, 3072), (4096, 0)] {
        let nothing = Command { unsolicited, ..write(0, &other).immediate(immediate) };
        assert_eq!(residuals(&mut host, &nothing), (4096, 0));
        // The other way round: a read that is marked as a write.
        let wrong = Command { unsolicited, ..Command::write(0, &other).immediate(immediate) };
        let wrong = Command { cdb: Command::read(0, 8).cdb, ..wrong };
        host.run(&wrong).good();
    }
    // A write that is marked as a read.
    let wrong = Command { reads: 4096, ..write(8, &[]) };
    assert!(host.run(&wrong).good().data.is_empty());
    assert!(host.run(&read(8, 4096)).good().data == data, "nothing was written");
    gateway.memory_is_back();
}

/// No command here moves data both ways (RFC 7143 11.3.1 leaves that to the CDB).
#[test]
fn bidirectional_commands_are_refused() {
    let (gateway, _) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.session();
    let data = pattern(1, 4096);
    for immediate in [0, 512, 4096] {
        let both = Command { reads: 4096, ..Command::write(0, &data).immediate(immediate) };
        assert_eq!(host.fails(&both), (5, 0x0e, 0x03), "INVALID FIELD IN COMMAND INFORMATION UNIT");
    }
    // XDWRITEREAD (10) would be one.
    let xdwriteread =
        Command { cdb: Command::new(&[0x53, 0, 0, 0, 0, 0, 0, 0, 8, 0]).cdb, ..Command::write(0, &data) };
    assert_eq!(host.fails(&xdwriteread), (5, 0x20, 0x00));
    assert!(host.run(&Command::read(0, 8)).good().data == [0; 4096]);
    gateway.memory_is_back();
}

#[test]
fn errors_say_what_is_wrong_and_change_nothing() {
    let (gateway, unit) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.session();
    let blocks = unit.scsi.blocks() as u32;
    let data = pattern(5, 4096);
    host.run(&Command::write(blocks - 8, &data).all_immediate()).good();

    const OUT_OF_RANGE: (u8, u8, u8) = (5, 0x21, 0x00);
    assert_eq!(host.fails(&Command::read(blocks - 7, 8)), OUT_OF_RANGE);
    for immediate in [0, 512, 4096] {
        let write = Command::write(blocks - 7, &pattern(6, 4096)).immediate(immediate);
        assert_eq!(host.fails(&write), OUT_OF_RANGE);
    }
    assert_eq!(host.run(&Command::read(blocks - 8, 8)).good().data, data);
    let invalid_opcode = (5, 0x20, 0x00);
    assert_eq!(host.fails(&Command::new(&[0xff])), invalid_opcode);
    let no_such_lun = (5, 0x25, 0x00);
    assert_eq!(host.fails(&Command::test_unit_ready().on(9)), no_such_lun);
    assert_eq!(host.fails(&Command::write(0, &data).all_immediate().on(9)), no_such_lun);

    // VERIFY (10) with BYTCHK compares: MISCOMPARE, with the byte's offset in INFORMATION.
    let mut verify = Command::write(blocks - 8, &data);
    (verify.cdb[0], verify.cdb[1]) = (0x2f, 0x02);
    host.run(&verify).good();
    verify.data[700] ^= 1;
    assert_eq!(host.fails(&verify), (0x0e, 0x1d, 0x00));
    gateway.memory_is_back();
}

#[test]
fn blocks_of_4096_bytes() {
    const CAPACITY: u64 = 16 << 20;
    let gateway = Gateway::start(limits(), 1);
    let unit = gateway.unit(CAPACITY, BlockSize::B4096, Backend::Ram(RamStore::new(CAPACITY)));
    gateway.show(&[(0, &unit)]);
    let mut host = gateway.session();
    let capacity = host.run(&Command { reads: 8, ..Command::new(&[0x25]) }).good().data;
    assert_eq!(capacity, [(CAPACITY as u32 / 4096 - 1).to_be_bytes(), 4096u32.to_be_bytes()].concat());
    let data = pattern(8, 5 * 4096);
    let write = Command { cdb: Command::write_cdb(3, 5), ..Command::write(3, &data) };
    host.run(&write).good();
    let read = |lba, blocks| Command { reads: u32::from(blocks) * 4096, ..Command::read(lba, blocks) };
    assert!(host.run(&read(3, 5)).good().data == data);
    assert!(host.run(&read(2, 1)).good().data == [0; 4096]);
    assert!(host.run(&read(7, 1)).good().data == data[4 * 4096..]);
    assert_eq!(host.fails(&read(4092, 5)), (5, 0x21, 0x00));
    // Half a block is never written: what comes behind the last whole one is dropped, and the overflow says so.
    for (len, immediate) in [(512, 512), (2048, 0), (2048, 2048), (6144, 0), (6144, 6144)] {
        host.run(&write).good();
        let fresh = pattern(9, len);
        let short = Command { cdb: Command::write_cdb(3, 2), ..Command::write(3, &fresh) };
        let answer = host.run(&short.immediate(immediate)).good();
        assert_eq!((answer.underflow, answer.overflow), (0, 8192 - len as u32));
        let whole = len / 4096 * 4096;
        assert!(host.run(&read(3, 5)).good().data == [&fresh[..whole], &data[whole..]].concat());
    }
    gateway.memory_is_back();
}

/// Connections go to the shards in turn: these four are on two.
#[test]
fn two_shards_serve_one_unit() {
    const ROUNDS: u32 = 25;
    const BLOCKS: u32 = 24;
    let (gateway, unit) = Gateway::with_ram(limits(), 2);
    let mut hosts: Vec<_> = (0..4).map(|i| gateway.session_of([HOST, OTHER_HOST][i % 2], UNASKED)).collect();
    std::thread::scope(|scope| {
        for (i, host) in hosts.iter_mut().enumerate() {
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let lba = (i as u32 * ROUNDS + round) * BLOCKS;
                    let data = pattern(lba, BLOCKS as usize * 512);
                    host.run(&Command::write(lba, &data).immediate(512)).good();
                    assert!(host.run(&Command::read(lba, BLOCKS as u16)).good().data == data);
                }
            });
        }
    });
    for (i, host) in hosts.iter_mut().enumerate() {
        let theirs = (i as u32 + 1) % 4 * ROUNDS * BLOCKS;
        for round in 0..ROUNDS {
            let lba = theirs + round * BLOCKS;
            let data = host.run(&Command::read(lba, BLOCKS as u16)).good().data;
            assert!(data == pattern(lba, BLOCKS as usize * 512), "block {lba} as the other shard wrote it");
        }
    }
    assert_eq!(unit.gate.inside(), 0);
    gateway.memory_is_back();
}
