//! ESXi's software initiator, and hardware initiators below it.

use super::wire::play;
use crate::atomic::{MISCOMPARE, compare_and_write, sixteen};
use crate::copy;
use crate::gateway::{Gateway, TARGET, limits};
use crate::initiator::{Command, Initiator, Pdu, pattern};
use crate::reservations::conflicts;

const HOST: &str = "iqn.1998-01.com.vmware:wdc-tse-h171-3c00d9ce";

fn session(gateway: &Gateway) -> Initiator {
    gateway.session_of(
        HOST,
        "HeaderDigest=None\0DataDigest=None\0InitialR2T=No\0ImmediateData=Yes\0FirstBurstLength=262144\0",
    )
}

fn inquiry(evpd: u8, page: u8, len: u8) -> Command {
    Command { reads: len.into(), ..Command::new(&[0x12, evpd, page, 0, len]) }
}

/// Dynamic discovery as captured from ESX (elatov.github.io, 2012-06, "iSCSI login packet capture", frames 7 to 19): the header and the text of a
/// request come in segments of their own; SendTargets is not immediate; then it logs out. The target there is another one; its
/// answers had the same keys.
#[test]
fn dynamic_discovery_byte_for_byte() {
    let (gateway, _) = Gateway::with_ram(limits(), 1);
    play(
        &gateway,
        r#"
        > 43 87 0000 00 0000e7  00023d000000 0000  00000000 0000 0000  00000001 00000000 00*16
        > "InitiatorName=iqn.1998-01.com.vmware:wdc-tse-h171-3c00d9ce\0SessionType=Discovery\0HeaderDigest=None\0"
            "DataDigest=None\0DefaultTime2Wait=0\0DefaultTime2Retain=0\0IFMarker=No\0OFMarker=No\0"
            "ErrorRecoveryLevel=0\0MaxRecvDataSegmentLength=32768\0" pad
        < 23 87 0000 00 000097  00023d000000 ....  00000000 00000000  S+0 00000001 00000080  0000 00*10
            "HeaderDigest=None\0DataDigest=None\0DefaultTime2Wait=2\0DefaultTime2Retain=0\0IFMarker=No\0"
            "OFMarker=No\0ErrorRecoveryLevel=0\0MaxRecvDataSegmentLength=262144\0" pad
        > 04 80 0000 00 000010  00*8  00000001 ffffffff  00000001 S+1 00*16
        > "SendTargets=All\0"
        < 24 80 0000 00 0000..  00*8  00000001 ffffffff  S+1 00000002 00000081 00*12
            "TargetName=iqn.2026-11.io.lus:disk\0TargetAddress=@,1\0" pad
        > 46 80 0000 00 000000  00*8  00000002 0000 0000  00000002 S+2 00*16
        < 26 80 0000 00 000000  00*8  00000002 00000000  S+2 00000002 00000081  00000000 0000 0000 00000000
        closed
        "#,
    );
}

/// The order of the first commands at a LUN by a target's log (github.com/spdk/spdk/issues/405): TEST UNIT READY, INQUIRY, pages 00h, 80h,
/// 83h. What it asks of every target and takes a refusal for: ATA PASS-THROUGH (16) and LOG SENSE for the temperature, of its SMART daemon.
#[test]
fn a_device_is_claimed() {
    let (gateway, unit) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.connect();
    host.login(HOST, TARGET, "DefaultTime2Wait=0\0").unwrap();
    assert_eq!(host.fails(&Command::test_unit_ready()), (6, 0x29, 0x00));
    host.run(&Command::test_unit_ready()).good();
    let standard = host.run(&inquiry(0, 0, 96)).good().data;
    // Claim rules go by vendor and product, for which CEPH and LUS stand.
    assert_eq!(standard[..8], [0x00, 0x00, 0x06, 0x12, 91, 0x08, 0x10, 0x02]);
    assert_eq!(&standard[8..36], b"CEPH    LUS             0001");
    assert_eq!(standard[58..66], [0x00, 0xa0, 0x09, 0x60, 0x04, 0x60, 0x04, 0xc0]);
    let pages = host.run(&inquiry(1, 0x00, 255)).good().data;
    assert_eq!(pages, [0, 0, 0, 10, 0x00, 0x80, 0x83, 0x86, 0x87, 0x88, 0x8f, 0xb0, 0xb1, 0xb2]);
    let serial = host.run(&inquiry(1, 0x80, 255)).good().data;
    assert_eq!(serial[4..], *unit.scsi.identity().serial().as_bytes());
    // The name of the device is naa. and the first designator of association 0 and type 3.
    let names = host.run(&inquiry(1, 0x83, 255)).good().data;
    assert_eq!((names[5] & 0x3f, &names[8..16]), (0x03, unit.scsi.identity().naa().as_bytes()));
    for refused in [
        Command { reads: 512, ..Command::new(&[0x85, 0x08, 0x0e, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xec, 0]) },
        Command { reads: 64, ..Command::new(&[0x4d, 0, 0x4d, 0, 0, 0, 0, 0, 64, 0]) },
    ] {
        let answer = host.run(&refused);
        assert_eq!(answer.code(), (5, if refused.cdb[0] == 0x85 { 0x20 } else { 0x24 }, 0x00));
        assert_eq!((answer.underflow, answer.data.len()), (refused.reads, 0));
    }
    host.run(&Command::test_unit_ready()).good();
}

/// VMFS is made with RESERVE (6) where a device has failed the test for ATS (github.com/spdk/spdk/issues/1414).
#[test]
fn a_datastore_is_made_under_reserve_6() {
    let (gateway, _) = Gateway::with_ram(limits(), 2);
    let (mut host, mut other) = (session(&gateway), gateway.session_of("iqn.1998-01.com.vmware:other", ""));
    let (reserve, release) = (Command::new(&[0x16, 0, 0, 0, 0, 0]), Command::new(&[0x17, 0, 0, 0, 0, 0]));
    for lba in [0, 2048, 100_000] {
        let answer = host.run(&reserve).good();
        assert_eq!((answer.underflow, answer.overflow, answer.data.len()), (0, 0, 0));
        assert!(conflicts(&other.run(&reserve)) && conflicts(&other.run(&Command::read(lba, 8))));
        // A write of 34 blocks, of which 8 KiB come with the command (github.com/spdk/spdk/issues/405).
        let data = pattern(lba, 34 * 512);
        let answer = host.run(&Command::write(lba, &data).immediate(8192)).good();
        assert_eq!((answer.underflow, answer.overflow), (0, 0), "an underflow would be an error to it");
        host.run(&release).good();
        assert!(other.run(&Command::read(lba, 34)).good().data == data);
    }
}

/// An Emulex adapter sends what an R2T asks for in PDUs of 2848 and 6368 bytes: neither is whole blocks
/// (github.com/spdk/spdk/issues/1781).
#[test]
fn data_out_pdus_that_end_inside_a_block() {
    let (gateway, _) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.session_of(HOST, "InitialR2T=Yes\0");
    host.answers_r2t = false;
    let data = pattern(7, 34 * 512);
    let tag = host.submit(&Command::write(3, &data).immediate(8192));
    host.ping();
    let r2t = host.r2ts.pop().expect("an R2T");
    assert_eq!((r2t.tag(), r2t.u32_at(36), r2t.u32_at(40), r2t.u32_at(44)), (tag, 0, 8192, 9216));
    for (data_sn, (at, len)) in [(8192, 2848), (8192 + 2848, 6368)].into_iter().enumerate() {
        let data_out = Pdu::new(0x05, if data_sn == 1 { 0x80 } else { 0 })
            .put_u32(16, tag)
            .put_u32(20, r2t.u32_at(20))
            .put_u32(36, data_sn as u32)
            .put_u32(40, at as u32)
            .with(&data[at..at + len]);
        host.send(&data_out);
    }
    host.answer(tag).good();
    assert!(host.run(&Command::read(3, 34)).good().data == data);
    gateway.memory_is_back();
}

/// ATS: COMPARE AND WRITE of one block, which it looks for in page B0h; of two hosts that take a lock one is told MISCOMPARE, and where.
#[test]
fn locks_are_taken_by_ats() {
    let (gateway, _) = Gateway::with_ram(limits(), 2);
    let (mut host, mut other) = (session(&gateway), session(&gateway));
    let limits = host.run(&inquiry(1, 0xb0, 64)).good().data;
    assert!(limits[5] >= 1, "MAXIMUM COMPARE AND WRITE LENGTH");
    let (free, mine, theirs) = (vec![0; 512], pattern(1, 512), pattern(2, 512));
    host.run(&compare_and_write(70, &free, &mine).all_immediate()).good();
    let lost = other.run(&compare_and_write(70, &free, &theirs).all_immediate());
    assert_eq!(lost.code(), MISCOMPARE);
    // Fixed format, valid, the offset of the first byte that differs in INFORMATION.
    assert_eq!((lost.sense[0], lost.sense[3..7].to_vec()), (0xf0, vec![0; 4]));
    assert!(other.run(&Command::read(70, 1)).good().data == mine);
    // The heartbeat, over and over.
    let mut before = mine;
    for beat in 10..40 {
        let after = pattern(beat, 512);
        host.run(&compare_and_write(70, &before, &after).all_immediate()).good();
        before = after;
    }
}

/// Zeroing of a new disk: WRITE SAME (16) of a block of zeroes, 1 MiB at a time, without UNMAP. Whatever the granularity, zeroes are read.
#[test]
fn blocks_are_zeroed_by_write_same() {
    let (gateway, _) = Gateway::with_ram(limits(), 1);
    let mut host = session(&gateway);
    host.run(&Command::write(0, &pattern(1, 8192 * 512))).good();
    for lba in [1, 2049, 4097] {
        host.run(&sixteen(0x93, lba, 2048, vec![0; 512]).all_immediate()).good();
    }
    let data = host.run(&Command::read(0, 8192)).good().data;
    assert!(data[512..(1 + 3 * 2048) * 512].iter().all(|byte| *byte == 0), "zeroes that were promised");
    assert!(
        data[..512] == pattern(1, 512)
            && data[(1 + 3 * 2048) * 512..] == pattern(1, 8192 * 512)[(1 + 3 * 2048) * 512..]
    );
}

/// UNMAP of what a datastore has given up, in ranges that are no whole objects nor granules: page B2h promises zeroes (LBPRZ), so
/// nothing may be skipped as a discard would.
#[test]
fn what_is_unmapped_reads_as_zeroes_to_the_block() {
    let (gateway, _) = Gateway::with_ram(limits(), 1);
    let mut host = session(&gateway);
    assert_eq!(host.run(&inquiry(1, 0xb2, 8)).good().data, [0, 0xb2, 0, 4, 0, 0xe4, 2, 0]);
    let data = pattern(3, 4096 * 512);
    host.run(&Command::write(0, &data)).good();
    let mut list = vec![0, 38, 0, 32, 0, 0, 0, 0];
    for (lba, blocks) in [(3_u64, 1_u32), (100, 1777)] {
        list.extend([&lba.to_be_bytes()[..], &blocks.to_be_bytes(), &[0; 4]].concat());
    }
    let unmap = Command { data: list, ..Command::new(&[0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0]) };
    host.run(&unmap.all_immediate()).good();
    let mut wanted = data;
    wanted[3 * 512..4 * 512].fill(0);
    wanted[100 * 512..1877 * 512].fill(0);
    assert!(host.run(&Command::read(0, 4096)).good().data == wanted);
}

/// A clone within a datastore: EXTENDED COPY (LID1) by NAA designators, 4 MiB a segment, after it has read what the copy manager takes.
#[test]
fn a_disk_is_cloned_by_extended_copy() {
    let (gateway, unit) = Gateway::with_ram(limits(), 1);
    let mut host = session(&gateway);
    let parameters = Command { reads: 44, ..Command::new(&[0x84, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 44]) };
    let parameters = host.run(&parameters).good().data;
    let be16 = |at: usize| u16::from_be_bytes([parameters[at], parameters[at + 1]]);
    assert!(be16(8) >= 2 && be16(10) >= 1, "targets and segments: {parameters:02x?}");
    let data = pattern(9, 8192 * 512);
    host.run(&Command::write(0, &data)).good();
    host.run(&copy::copy(&[&unit], &[(8192, 0, 50_000)])).good();
    assert!(host.run(&Command::read(50_000, 8192)).good().data == data);
    assert_eq!(copy::status(&mut host), (1, 1, 8192 * 512));
}
