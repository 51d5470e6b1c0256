//! Linux: the kernel's initiator and its disk driver, dm-multipath, and QEMU's driver with libiscsi.

use lusd_scsi::{AccessState, PortGroup, PortGroups};

use super::wire::play;
use crate::atomic::sixteen;
use crate::gateway::{Gateway, TARGET, limits};
use crate::initiator::{Command, Initiator, pattern};

const HOST: &str = "iqn.1993-08.org.debian:01:abcdef";
const KEYS: &str = "InitialR2T=No\0ImmediateData=Yes\0FirstBurstLength=262144\0MaxBurstLength=16776192\0\
                    MaxRecvDataSegmentLength=262144\0";

fn reads(cdb: &[u8], reads: u32) -> Command {
    Command { reads, ..Command::new(cdb) }
}

/// `reads` bytes wanted, this data given.
#[track_caller]
fn gives(host: &mut Initiator, cdb: &[u8], wanted: u32, data: &[u8]) {
    let answer = host.run(&reads(cdb, wanted)).good();
    assert_eq!(answer.data, data, "{cdb:02x?}");
    assert_eq!((answer.underflow, answer.overflow), (wanted - data.len() as u32, 0), "{cdb:02x?}");
}

/// The order and the lengths of drivers/scsi/scsi_scan.c, scsi.c and sd.c (Linux 6.1): INQUIRY for 36 bytes, then for all that there is;
/// REPORT LUNS for 511; pages by their length first, then whole; the disk's questions after that.
#[test]
fn a_disk_is_probed() {
    let (gateway, unit) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.connect();
    host.login(HOST, TARGET, KEYS).unwrap();
    let identity = unit.scsi.identity();
    let mut standard = vec![0x00, 0x00, 0x06, 0x12, 91, 0x08, 0x10, 0x02];
    standard.extend_from_slice(b"CEPH    LUS             0001");
    gives(&mut host, &[0x12, 0, 0, 0, 36, 0], 36, &standard);
    standard.resize(58, 0);
    standard.extend_from_slice(&[0x00, 0xa0, 0x09, 0x60, 0x04, 0x60, 0x04, 0xc0]);
    standard.resize(96, 0);
    gives(&mut host, &[0x12, 0, 0, 0, 96, 0], 96, &standard);
    let luns = [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    gives(&mut host, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0], 4096, &luns);
    // Pages: which there are, then each with its header alone and with the length that the header tells.
    let pages = [0x00, 0x80, 0x83, 0x86, 0x87, 0x88, 0x8f, 0xb0, 0xb1, 0xb2];
    gives(&mut host, &[0x12, 1, 0, 0, 36, 0], 36, &[&[0, 0, 0, 10][..], &pages].concat());
    let serial = [&[0, 0x80, 0, 32][..], identity.serial().as_bytes()].concat();
    gives(&mut host, &[0x12, 1, 0x80, 0, 4, 0], 4, &serial[..4]);
    gives(&mut host, &[0x12, 1, 0x80, 0, 36, 0], 36, &serial);
    for page in [0x83, 0xb0, 0xb1, 0xb2] {
        let header = host.run(&reads(&[0x12, 1, page, 0, 4, 0], 4)).good().data;
        let len = 4 + u16::from_be_bytes([header[2], header[3]]);
        let [high, low] = len.to_be_bytes();
        let whole = host.run(&reads(&[0x12, 1, page, high, low, 0], len.into())).good();
        assert_eq!((whole.data.len(), whole.underflow), (usize::from(len), 0), "page {page:02x}");
        assert_eq!(whole.data[..4], header);
    }
    // A page that is not there: refused, and nothing else comes of it (ATA information).
    assert_eq!(host.fails(&reads(&[0x12, 1, 0x89, 2, 60, 0], 572)), (5, 0x24, 0x00));
    // TEST UNIT READY tells of the new nexus, once.
    assert_eq!(host.fails(&Command::test_unit_ready()), (6, 0x29, 0x00));
    host.run(&Command::test_unit_ready()).good();
    // READ CAPACITY (16): 131,072 blocks of 512 bytes; LBPME and LBPRZ.
    let mut capacity = [0; 32];
    capacity[5..12].copy_from_slice(&[0x01, 0xff, 0xff, 0, 0, 0x02, 0x00]);
    capacity[14] = 0xc0;
    gives(&mut host, &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0], 32, &capacity);
    // MODE SENSE (6) of all pages for 4 bytes: write protection and DPOFUA are in the header.
    let header = host.run(&reads(&[0x1a, 0, 0x3f, 0, 4, 0], 4)).good().data;
    assert_eq!((header[1], header[2], header[3]), (0, 0x10, 8));
    // The caching page: its header, then so much as that tells.
    let header = host.run(&reads(&[0x1a, 0, 0x08, 0, 4, 0], 4)).good().data;
    let len = header[0] + 1;
    let caching = host.run(&reads(&[0x1a, 0, 0x08, 0, len, 0], len.into())).good();
    assert_eq!((caching.data.len(), caching.underflow), (usize::from(len), 0));
    let page = &caching.data[4 + 8..];
    assert_eq!((page[0] & 0x3f, page[2] & 0x05), (0x08, 0), "no write cache, and reads may be cached");
    commands_are_looked_up(&mut host);
}

/// REPORT SUPPORTED OPERATION CODES, one at a time (scsi_report_opcode): 3 is supported, 1 is not.
fn commands_are_looked_up(host: &mut Initiator) {
    for (opcode, supported) in [(0x12, 3), (0x93, 3), (0x41, 3), (0x42, 3), (0xa2, 1), (0xb5, 1), (0x85, 1)] {
        let data = host.run(&reads(&[0xa3, 0x0c, 1, opcode, 0, 0, 0, 0, 2, 0, 0, 0], 512)).good().data;
        assert_eq!(data[1] & 7, supported, "opcode {opcode:02x}");
        if supported == 3 {
            assert_eq!(data.len(), 4 + usize::from(data[3]));
            assert_eq!(data[4], opcode, "the usage map begins with the operation code");
        }
    }
    // With a service action: WRITE (32), which is not there.
    let data = host.run(&reads(&[0xa3, 0x0c, 3, 0x7f, 0, 0x0b, 0, 0, 2, 0, 0, 0], 512)).good().data;
    assert_eq!(data, [0, 1, 0, 0]);
}

/// The ping of open-iscsi (every 5 s by default): NOP-Out, immediate, with a task tag, no data and no LUN; and a ping with data.
#[test]
fn pings_byte_for_byte() {
    let (gateway, _) = Gateway::with_ram(limits(), 1);
    play(
        &gateway,
        r#"
        > 43 87 0000 00 000065  00023d000007 0000  00000000 0000 0000  00000001 00000000 00*16
            "InitiatorName=iqn.1993-08.org.debian:01:abcdef\0TargetName=iqn.2026-11.io.lus:disk\0SessionType=Normal\0" pad
        < 23 87 0000 00 000037  00023d000007 ....  00000000 00000000  S+0 00000001 00000080  0000 00*10
            "TargetPortalGroupTag=1\0MaxRecvDataSegmentLength=262144\0" pad
        > 40 80 0000 00 000000  00*8  00000011 ffffffff  00000001 S+1 00*16
        < 20 80 0000 00 000000  00*8  00000011 ffffffff  S+1 00000001 00000080 00*12
        > 40 80 0000 00 000005  00*8  00000012 ffffffff  00000001 S+2 00*16  "ping!" pad
        < 20 80 0000 00 000005  00*8  00000012 ffffffff  S+2 00000001 00000080 00*12  "ping!" pad
        > 46 80 0000 00 000000  00*8  00000013 0000 0000  00000001 S+3 00*16
        < 26 80 0000 00 000000  00*8  00000013 00000000  S+3 00000001 00000080  00000000 0000 0000 00000000
        closed
        "#,
    );
}

/// blkdiscard and blkdiscard -z, mkfs: UNMAP; WRITE SAME (16) with UNMAP; WRITE SAME (10) of zeroes (drivers/scsi/sd.c, provisioning modes).
#[test]
fn blocks_are_given_up_in_every_mode() {
    let (gateway, _) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.session_of(HOST, KEYS);
    let data = pattern(1, 4096 * 512);
    let unmap = |lba: u64, blocks: u32| {
        let list = [&[0, 22, 0, 16, 0, 0, 0, 0][..], &lba.to_be_bytes(), &blocks.to_be_bytes(), &[0; 4]];
        Command { data: list.concat(), ..Command::new(&[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0]) }
    };
    let with_unmap = |lba: u64, blocks: u32| {
        let mut command = sixteen(0x93, lba, blocks, vec![0; 512]);
        command.cdb[1] = 0x08;
        command
    };
    let zeroes = |lba: u64, blocks: u32| Command::write_same(lba as u32, blocks as u16, &[0; 512]);
    let modes: [&dyn Fn(u64, u32) -> Command; 3] = [&unmap, &with_unmap, &zeroes];
    for mode in modes {
        host.run(&Command::write(0, &data)).good();
        host.run(&mode(7, 3000).all_immediate()).good();
        let found = host.run(&Command::read(0, 4096)).good().data;
        let (from, to) = (7 * 512, 3007 * 512);
        assert!(found[from..to].iter().all(|byte| *byte == 0));
        assert!(found[..from] == data[..from] && found[to..] == data[to..], "and nothing beside them");
    }
}

/// Two units of one target with different owners (github.com/ceph/ceph-iscsi-config/pull/54): what REPORT TARGET PORT GROUPS says is of the unit that
/// is asked. It is asked with the extended header first (drivers/scsi/device_handler/scsi_dh_alua.c), and the ids are those of page 83h.
#[test]
fn units_of_one_target_have_states_of_their_own() {
    let gateway = Gateway::start(limits(), 1);
    let (here, elsewhere) = (gateway.ram(), gateway.ram());
    let placed =
        |owner| PortGroups::new([1, 2].map(|tag| PortGroup { tag, up: true }).into(), 1, Some(owner));
    here.scsi.set_port_groups(placed(1));
    elsewhere.scsi.set_port_groups(placed(2));
    gateway.show(&[(0, &here), (1, &elsewhere)]);
    gateway.runtime.block_on(elsewhere.stop(AccessState::Standby)).expect("it was served");
    let mut host = gateway.connect();
    host.login(HOST, TARGET, KEYS).unwrap();
    let group = |state: u8, tag: u8| [state, 0x8d, 0, tag, 0, 2, 0, 1, 0, 0, 0, tag];
    for (lun, states) in [(0, [0x00, 0x02]), (1, [0x02, 0x00])] {
        host.clear_attentions(lun);
        let report = reads(&[0xa3, 0x2a, 0, 0, 0, 0, 0, 0, 0, 128, 0, 0], 128).on(lun);
        let answer = host.run(&report).good().data;
        let wanted =
            [&[0, 0, 0, 28, 0x10, 60, 0, 0][..], &group(states[0], 1), &group(states[1], 2)].concat();
        assert_eq!(answer, wanted, "LUN {lun}");
        let names = host.run(&reads(&[0x12, 1, 0x83, 0, 255, 0], 255).on(lun)).good().data;
        let designators = [[0x51, 0x94, 0, 4, 0, 0, 0, 1], [0x51, 0x95, 0, 4, 0, 0, 0, 1]];
        for designator in designators {
            assert!(names.windows(8).any(|bytes| bytes == designator), "{designator:02x?} of LUN {lun}");
        }
        let standard = host.run(&reads(&[0x12, 0, 0, 0, 36, 0], 36).on(lun)).good().data;
        assert_eq!(standard[5] & 0x30, 0x10, "TPGS: implicit");
    }
    host.run(&Command::read(0, 8)).good();
    assert_eq!(host.fails(&Command::read(0, 8).on(1)), (2, 0x04, 0x0b));
}

/// Nothing that a host sends to a path that is not the owner's makes the path the owner's: no command that is there, none that is not
/// (github.com/open-iscsi/tcmu-runner/issues/355).
#[test]
fn no_command_moves_a_unit() {
    let (gateway, unit) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.session_of(HOST, KEYS);
    let epoch = unit.gate.epoch();
    gateway.runtime.block_on(unit.stop(AccessState::Standby)).expect("it was served");
    for opcode in 0..=255 {
        // READ CAPACITY waits for a look at the image.
        if matches!(opcode, 0x25 | 0x9e) {
            continue;
        }
        host.run(&Command::new(&[opcode]));
        // With data, and as a write of a block.
        host.run(
            &Command { data: vec![0; 512], ..Command::new(&[opcode, 0, 0, 0, 0, 0, 0, 0, 1]) }
                .all_immediate(),
        );
        assert_eq!(
            (unit.scsi.access(), unit.gate.epoch()),
            (AccessState::Standby, epoch),
            "opcode {opcode:02x}"
        );
    }
    assert_eq!(host.fails(&Command::new(&[0x85])), (5, 0x20, 0x00));
    assert_eq!(host.fails(&Command::read(0, 8)), (2, 0x04, 0x0b));
    gateway.memory_is_back();
}

/// QEMU's driver when it opens a disk (block/iscsi.c): write protection by MODE SENSE (6) for 255 bytes, capacity, the pages that tell of zeroes; then
/// GET LBA STATUS from a block on, which it trusts for sparse copies.
#[test]
fn qemu_opens_a_disk() {
    let (gateway, _) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.connect();
    host.login("iqn.2008-11.org.linux-kvm:guest", TARGET, "SessionType=Normal\0HeaderDigest=None,CRC32C\0")
        .unwrap();
    host.clear_attentions(0);
    let modes = host.run(&reads(&[0x1a, 0x08, 0x3f, 0, 255, 0], 255)).good().data;
    assert_eq!((modes[2] & 0x80, usize::from(modes[0]) + 1), (0, modes.len()));
    for (page, len) in [(0x00, 255), (0xb0, 255), (0xb2, 255)] {
        let data = host.run(&reads(&[0x12, 1, page, 0, len, 0], len.into())).good().data;
        assert_eq!((data[1], 4 + usize::from(data[3])), (page, data.len()));
    }
    host.run(&Command::write(8192, &pattern(1, 512))).good();
    let status = |lba: u8| {
        let mut command = reads(&[0x9e, 0x12], 24);
        (command.cdb[8], command.cdb[13]) = (lba, 24);
        command
    };
    let data = host.run(&status(0)).good().data;
    // Of three descriptors there is room for one: nothing is mapped up to the object that was written to.
    assert_eq!(data[..4], [0, 0, 0, 52]);
    assert_eq!(data[8..24], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 1, 0, 0, 0]);
}
