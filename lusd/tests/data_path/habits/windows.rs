//! Microsoft's software initiator.

use super::wire::play;
use crate::gateway::{Gateway, limits};

/// The first login request and the first command as in Wireshark's sample captures (Windows Server 2003: initiator "win2003s"; connection identifier 1, an ISID
/// of the form for enterprise numbers), and the answer to the request as the target there gave it, but for its numbers. What lies between is the registry's
/// defaults. REPORT LUNS has room for one LUN at first; it comes again with as much as it was told of.
#[test]
fn a_login_and_the_first_commands() {
    let gateway = Gateway::start(limits(), 1);
    let (first, second) = (gateway.ram(), gateway.ram());
    gateway.show(&[(0, &first), (5, &second)]);
    play(
        &gateway,
        r#"
        > 43 81 0000 00 000077  400001370000 0000  00000001 0001 0000  00000001 00000000 00*16
            "InitiatorName=iqn.1991-05.com.microsoft:win2003s\0SessionType=Normal\0"
            "TargetName=iqn.2026-11.io.lus:disk\0AuthMethod=None\0" pad
        < 23 81 0000 00 000027  400001370000 0000  00000001 00000000  S+0 00000001 00000080  0000 00*10
            "TargetPortalGroupTag=1\0AuthMethod=None\0" pad
        > 43 87 0000 00 00012b  400001370000 0000  00000001 0001 0000  00000001 S+1 00*16
            "HeaderDigest=None,CRC32C\0DataDigest=None,CRC32C\0ErrorRecoveryLevel=2\0InitialR2T=No\0"
            "ImmediateData=Yes\0MaxRecvDataSegmentLength=65536\0MaxBurstLength=262144\0FirstBurstLength=65536\0"
            "MaxConnections=1\0DataPDUInOrder=Yes\0DataSequenceInOrder=Yes\0DefaultTime2Wait=0\0"
            "DefaultTime2Retain=60\0MaxOutstandingR2T=16\0" pad
        < 23 87 0000 00 00011c  400001370000 ....  00000001 00000000  S+1 00000001 00000080  0000 00*10
            "HeaderDigest=None\0DataDigest=None\0ErrorRecoveryLevel=0\0InitialR2T=No\0"
            "ImmediateData=Yes\0MaxBurstLength=262144\0FirstBurstLength=65536\0"
            "MaxConnections=1\0DataPDUInOrder=Yes\0DataSequenceInOrder=Yes\0DefaultTime2Wait=2\0"
            "DefaultTime2Retain=0\0MaxOutstandingR2T=4\0MaxRecvDataSegmentLength=262144\0" pad
        # REPORT LUNS for 16 bytes, untagged.
        > 01 c0 0000 00 000000  00*8  00000001 00000010  00000001 S+2  a0 00*5 00000010 00*6
        < 25 81 0000 00 000010  00*8  00000001 ffffffff  S+2 00000002 00000081  00*12
            00000010 00000000  0000000000000000
        > 01 c0 0000 00 000000  00*8  00000002 00000018  00000002 S+3  a0 00*5 00000018 00*6
        < 25 81 0000 00 000018  00*8  00000002 ffffffff  S+3 00000003 00000082  00*12
            00000010 00000000  0000000000000000 0005000000000000
        "#,
    );
}

/// Bytes of an INQUIRY page: Windows asks with 255 bytes for each and takes the rest as an underflow that it expects.
#[test]
fn identification_is_asked_for_with_room_to_spare() {
    use crate::initiator::Command;
    let (gateway, unit) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.connect();
    host.login("iqn.1991-05.com.microsoft:win2003s", crate::gateway::TARGET, "ErrorRecoveryLevel=2\0")
        .unwrap();
    // INQUIRY is answered before the unit attention of the login is told.
    let page = |code: u8| Command { reads: 255, ..Command::new(&[0x12, 1, code, 0, 255]) };
    let serial = host.run(&page(0x80)).good();
    assert_eq!(serial.data, [&[0, 0x80, 0, 32][..], unit.scsi.identity().serial().as_bytes()].concat());
    assert_eq!((serial.underflow, serial.overflow), (255 - 36, 0));
    let names = host.run(&page(0x83)).good();
    // The first designator is of the unit, NAA: MPIO joins paths by it.
    let identity = unit.scsi.identity();
    assert_eq!(names.data[4..8], [0x01, 0x03, 0, 8]);
    assert_eq!(&names.data[8..16], identity.naa().as_bytes());
    assert_eq!(names.underflow as usize, 255 - names.data.len());
    assert_eq!(host.fails(&Command::test_unit_ready()), (6, 0x29, 0x00));
    host.run(&Command::test_unit_ready()).good();
    // READ CAPACITY (10), then MODE SENSE (6) for the caching page with 192 bytes of room: no write cache, so nothing is flushed in vain.
    let capacity =
        host.run(&Command { reads: 8, ..Command::new(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0]) }).good().data;
    assert_eq!(capacity, [0, 0x01, 0xff, 0xff, 0, 0, 2, 0]);
    let caching = host.run(&Command { reads: 192, ..Command::new(&[0x1a, 0, 0x08, 0, 192]) }).good();
    let page = &caching.data[4 + usize::from(caching.data[3])..];
    assert_eq!((page[0] & 0x3f, page[1], page[2] & 0x04), (0x08, 0x12, 0));
    assert_eq!(caching.underflow as usize, 192 - caching.data.len());
}
