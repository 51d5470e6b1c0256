//! What cluster software does with persistent reservations: Windows failover clusters and their validation (PetaSAN's kernel patches ps-04, ps-05, ps-12 tell
//! what fails there), and hosts whose initiator port changes (github.com/spdk/spdk/issues/989).

use crate::gateway::{Gateway, HOST, OTHER_HOST, TARGET, limits};
use crate::initiator::{Command, Initiator, pattern};
use crate::reservations::{CLEAR, PREEMPT, REGISTER, REGISTRANTS_ONLY, RESERVE, conflicts, keys, out};

const REGISTER_AND_IGNORE_EXISTING: u8 = 6;
const PREEMPTED: (u8, u8, u8) = (6, 0x2a, 0x05);

/// PERSISTENT RESERVE IN with an allocation length.
fn read_in(host: &mut Initiator, service: u8, len: u8) -> Vec<u8> {
    let command = Command { reads: len.into(), ..Command::new(&[0x5e, service, 0, 0, 0, 0, 0, 0, len, 0]) };
    host.run(&command).good().data
}

/// READ RESERVATION where there is one: generation, key, SCOPE and TYPE.
fn reservation(generation: u32, key: u64, kind: u8) -> Vec<u8> {
    [&generation.to_be_bytes()[..], &[0, 0, 0, 16], &key.to_be_bytes(), &[0; 5], &[kind, 0, 0]].concat()
}

#[test]
fn a_failover_cluster_is_validated() {
    let (gateway, _) = Gateway::with_ram(limits(), 2);
    let (mut host, mut other) = (gateway.session(), gateway.session_of(OTHER_HOST, ""));
    // Each node registers whatever was there before, twice.
    for _ in 0..2 {
        host.run(&out(REGISTER_AND_IGNORE_EXISTING, 0, 0, 0x1111)).good();
        other.run(&out(REGISTER_AND_IGNORE_EXISTING, 0, 0, 0x2222)).good();
    }
    assert_eq!(keys(&mut host), (4, vec![0x1111, 0x2222]));
    assert_eq!(read_in(&mut host, 1, 64), [0, 0, 0, 4, 0, 0, 0, 0], "no reservation");
    host.run(&out(RESERVE, REGISTRANTS_ONLY, 0x1111, 0)).good();
    assert_eq!(read_in(&mut other, 1, 64), reservation(4, 0x1111, REGISTRANTS_ONLY));
    // The holder takes another key: the reservation's key changes with it, and stays reserved.
    host.run(&out(REGISTER, 0, 0x1111, 0x3333)).good();
    assert_eq!(read_in(&mut other, 1, 64), reservation(5, 0x3333, REGISTRANTS_ONLY));
    assert!(conflicts(&other.run(&out(PREEMPT, REGISTRANTS_ONLY, 0x1111, 0x3333))), "not its own key");
    // The other node takes over. Who was thrown out is told, and may only read.
    other.run(&out(PREEMPT, REGISTRANTS_ONLY, 0x2222, 0x3333)).good();
    assert_eq!(host.fails(&Command::test_unit_ready()), PREEMPTED);
    assert!(conflicts(&host.run(&Command::write(0, &pattern(1, 512)).all_immediate())));
    host.run(&Command::read(0, 1)).good();
    assert!(conflicts(&host.run(&out(RESERVE, REGISTRANTS_ONLY, 0x3333, 0))));
    assert_eq!(read_in(&mut host, 1, 64), reservation(6, 0x2222, REGISTRANTS_ONLY));
    // The holder preempts its own key: allowed, and it stays the holder.
    other.run(&out(PREEMPT, REGISTRANTS_ONLY, 0x2222, 0x2222)).good();
    assert_eq!(read_in(&mut host, 1, 64), reservation(7, 0x2222, REGISTRANTS_ONLY));
    other.run(&Command::write(0, &pattern(2, 512)).all_immediate()).good();
    // Back, and away with everything.
    host.run(&out(REGISTER, 0, 0, 0x1111)).good();
    host.run(&out(CLEAR, 0, 0x1111, 0)).good();
    assert_eq!(other.fails(&Command::test_unit_ready()), (6, 0x2a, 0x03));
    assert_eq!(keys(&mut other), (9, vec![]));
}

/// READ KEYS with less room than there are keys: ADDITIONAL LENGTH counts all of them, the buffer ends anywhere.
#[test]
fn keys_that_are_not_returned_are_counted() {
    const NODES: u32 = 40;
    let (gateway, _) = Gateway::with_ram(limits(), 2);
    let mut nodes: Vec<_> = (0..NODES)
        .map(|i| gateway.session_of(&format!("{HOST}-{i}"), "MaxRecvDataSegmentLength=512\0"))
        .collect();
    for (i, node) in nodes.iter_mut().enumerate() {
        node.run(&out(REGISTER_AND_IGNORE_EXISTING, 0, 0, i as u64 + 1)).good();
    }
    let whole: Vec<u8> = (1..=u64::from(NODES)).flat_map(u64::to_be_bytes).collect();
    let header = [0, 0, 0, NODES as u8, 0, 0, 0x01, 0x40];
    for len in [0, 4, 8, 12, 16, 200] {
        let data = read_in(&mut nodes[0], 0, len);
        assert_eq!(data, [&header[..], &whole].concat()[..usize::from(len)]);
    }
}

/// open-iscsi may come back with another ISID: another initiator port, for which the registration of the old one says nothing. The host
/// registers again and preempts what it has left behind.
#[test]
fn a_host_that_comes_back_with_another_isid() {
    let (gateway, _) = Gateway::with_ram(limits(), 2);
    let login = |isid: u8| {
        let mut host = gateway.connect();
        host.isid = [0x00, 0x02, 0x3d, 0, 0, isid];
        host.login(HOST, TARGET, "").unwrap();
        host.clear_attentions(0);
        host
    };
    let mut host = login(1);
    host.run(&out(REGISTER, 0, 0, 7)).good();
    host.run(&out(RESERVE, REGISTRANTS_ONLY, 7, 0)).good();
    host.logout();
    let mut host = login(2);
    assert!(conflicts(&host.run(&Command::write(0, &pattern(1, 512)).all_immediate())));
    host.run(&out(REGISTER, 0, 0, 8)).good();
    host.run(&Command::write(0, &pattern(1, 512)).all_immediate()).good();
    host.run(&out(PREEMPT, REGISTRANTS_ONLY, 8, 7)).good();
    assert_eq!(keys(&mut host), (3, vec![8]));
    assert_eq!(read_in(&mut host, 1, 64), reservation(3, 8, REGISTRANTS_ONLY));
    // The old port is somebody else now.
    let mut old = login(1);
    assert!(conflicts(&old.run(&Command::write(0, &pattern(2, 512)).all_immediate())));
    // A release is told to who is registered only.
    host.run(&out(2, REGISTRANTS_ONLY, 8, 0)).good();
    old.run(&Command::test_unit_ready()).good();
}
