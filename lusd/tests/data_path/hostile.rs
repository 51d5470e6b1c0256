//! Peers that mean harm: what they can take is bounded, and others are served meanwhile.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use lusd::service::Limits;

use crate::gateway::{Gateway, HOST, OTHER_HOST, TARGET, limits, limits_with, until};
use crate::initiator::{Command, Gone, Initiator, Pdu, pattern};

/// A connection from another address than that of the others here.
fn connect_from(peer: &str, to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let from: SocketAddr = format!("{peer}:0").parse().unwrap();
    socket.bind(&from.into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.into()
}

/// Connections that say nothing, one after the other, all left open: they do not keep others out.
#[test]
fn ten_thousand_half_open_logins() {
    const FLOOD: usize = 10_000;
    const LOGINS: usize = 64;
    lusd::process::raise_open_files();
    let (gateway, _) = Gateway::with_ram(Limits { logins: LOGINS, ..limits() }, 2);
    let mut host = gateway.session();
    let mut flood = Vec::new();
    for i in 0..FLOOD {
        let stream = connect_from("127.0.0.2", gateway.address);
        if i % 2 == 0 {
            // Half a header, then nothing.
            use std::io::Write as _;
            let _ = (&stream).write_all(&[0x43; 24]);
        }
        flood.push(stream);
        if i % 1000 == 999 {
            // Who is in stays in, and who comes gets in.
            host.run(&Command::test_unit_ready()).good();
            let mut other = gateway.session_of(OTHER_HOST, "");
            other.run(&Command::read(0, 8)).good();
            other.logout();
            let held = gateway.service.sessions.connections();
            assert!(held < LOGINS + 600, "{held} connections: what is accepted and let go, and no more");
        }
    }
    until("the rest is let go", || gateway.service.sessions.connections() <= LOGINS + 2);
    assert!(gateway.service.sessions.logins() <= LOGINS);
    drop(flood);
}

/// Discovery sessions last no longer than a login, so they are bounded with these: who keeps them open takes nobody's place.
#[test]
fn discovery_sessions_that_stay() {
    const LOGINS: usize = 8;
    let (gateway, _) = Gateway::with_ram(Limits { logins: LOGINS, ..limits() }, 2);
    let mut host = gateway.session();
    let mut held: Vec<_> = (0..5 * LOGINS)
        .map(|_| {
            let mut discovery = gateway.connect();
            discovery.login(HOST, "", "").unwrap();
            discovery
        })
        .collect();
    until("the older ones are let go", || gateway.service.sessions.connections() <= LOGINS + 1);
    assert_eq!(held[0].end(), Gone::Reset);
    assert_eq!(held.last_mut().unwrap().send_targets("All").len(), 2);
    host.run(&Command::read(0, 8)).good();
    gateway.session_of(OTHER_HOST, "").run(&Command::read(0, 8)).good();
}

/// One peer under as many names and ISIDs as it likes does not get the last quarter of the connections.
#[test]
fn one_peer_leaves_places_for_others() {
    const CONNECTIONS: usize = 16;
    let (gateway, _) = Gateway::with_ram(Limits { connections: CONNECTIONS, ..limits() }, 2);
    let mut greedy = Vec::new();
    loop {
        let mut initiator = Initiator::over(connect_from("127.0.0.2", gateway.address));
        initiator.send_login(&format!("InitiatorName={HOST}-{}\0TargetName={TARGET}\0", greedy.len()));
        if initiator.receive().is_err() {
            break;
        }
        greedy.push(initiator);
        assert!(greedy.len() < CONNECTIONS, "it was never refused");
    }
    assert_eq!(greedy.len(), CONNECTIONS / 4 * 3);
    let mut others: Vec<_> = (0..CONNECTIONS / 4).map(|_| gateway.session_of(OTHER_HOST, "")).collect();
    others.iter_mut().for_each(|other| drop(other.run(&Command::read(0, 8)).good()));
    // One goes, one comes, whoever it is.
    others.pop().unwrap().logout();
    until("it is gone", || gateway.service.sessions.connections() == CONNECTIONS - 1);
    gateway.session_of(OTHER_HOST, "").run(&Command::read(0, 8)).good();
}

/// A byte now and then: a login has its time, however busy it looks.
#[test]
fn a_login_that_drips() {
    const TIMEOUT: Duration = Duration::from_secs(2);
    let (gateway, _) = Gateway::with_ram(limits_with(|iscsi| iscsi.login_timeout = TIMEOUT), 1);
    let begun = Instant::now();
    let mut drip = gateway.connect();
    until("it is there", || gateway.service.sessions.connections() == 1);
    let text = format!("InitiatorName={HOST}\0TargetName={TARGET}\0");
    let bytes = Pdu::new(0x43, 0x87).with(text.as_bytes()).encode();
    #[expect(clippy::disallowed_methods, reason = "blocks a test's own thread, not a shard")]
    for byte in bytes {
        if drip.send_bytes(&[byte]).is_err() || gateway.service.sessions.connections() == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    until("it is let go", || gateway.service.sessions.connections() == 0);
    assert!(begun.elapsed() >= TIMEOUT);
}

/// The longest additional headers, the longest data segment, and one byte more.
#[test]
fn lengths_at_their_limits() {
    let (gateway, _) = Gateway::with_ram(limits(), 1);
    let mut host = gateway.session();
    // 255 words of an additional header of a type that nobody knows, before a data segment as long as was declared.
    let mut ping = Pdu::new(0x40, 0x80).put_u32(16, 0x4711).put_u32(20, u32::MAX).put_u32(24, host.cmd_sn);
    ping.bhs[4] = 255;
    let mut bytes = ping.bhs.to_vec();
    bytes[5..8].copy_from_slice(&(256_u32 << 10).to_be_bytes()[1..]);
    bytes.extend([0; 1020]);
    bytes.extend(vec![7; 256 << 10]);
    host.send_bytes(&bytes).unwrap();
    let answer = host.receive().unwrap();
    assert_eq!((answer.opcode(), answer.tag(), answer.data.len()), (0x20, 0x4711, 8192));
    // Additional headers of a command that say that they are longer than they are.
    let mut command = Pdu::new(0x01, 0x81).put_u32(16, 9).put_u32(24, host.cmd_sn);
    command.bhs[4] = 1;
    let mut bytes = command.bhs.to_vec();
    bytes.extend([0xff, 0xff, 1, 0]);
    host.cmd_sn += 1;
    host.send_bytes(&bytes).unwrap();
    let reject = host.receive().unwrap();
    assert_eq!((reject.opcode(), reject.bhs[2]), (0x3f, 0x09), "Reject: invalid PDU field");
    host.run(&Command::test_unit_ready()).good();
    // A data segment longer than declared ends the connection before any of it is taken.
    let mut bytes = ping.bhs.to_vec();
    bytes[4] = 0;
    bytes[5..8].copy_from_slice(&0x00ff_ffff_u32.to_be_bytes()[1..]);
    host.send_bytes(&bytes).unwrap();
    assert_eq!(host.receive().unwrap().opcode(), 0x3f);
    assert_eq!(host.end(), Gone::Closed);
    gateway.memory_is_back();
}

/// More commands than the window takes, and numbers that are none: what is outside is not looked at.
#[test]
fn a_flood_of_command_numbers() {
    let (gateway, unit) = Gateway::with_ram(limits_with(|iscsi| iscsi.command_window = 8), 1);
    let mut host = gateway.session();
    let mut other = gateway.session_of(OTHER_HOST, "");
    let barrier = gateway.runtime.block_on(unit.gate.barrier()).unwrap();
    let start = host.cmd_sn;
    let mut bytes = Vec::new();
    for i in 0..10_000_u32 {
        let command = Pdu::new(0x01, 0x81 | 0x40)
            .put_u32(16, 0x1_0000 + i)
            .put_u32(20, 512)
            .put_u32(24, start.wrapping_add(i))
            .put(32, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        bytes.extend(command.encode());
    }
    host.send_bytes(&bytes).unwrap();
    other.run(&Command::test_unit_ready()).good();
    host.cmd_sn = start + 8;
    host.quiet();
    drop(barrier);
    gateway.service.sessions.wake_all();
    for i in 0..8 {
        host.answer(0x1_0000 + i).good();
    }
    host.quiet();
    host.run(&Command::read(0, 8)).good();
    gateway.memory_is_back();
}

/// Who asks for much and takes nothing is reset, and holds no more than its share until then.
#[test]
fn a_socket_that_is_not_read() {
    let limits = Limits { send_timeout: Duration::from_millis(500), ..limits() };
    let (gateway, _) = Gateway::with_ram(limits, 1);
    let mut other = gateway.session_of(OTHER_HOST, "");
    let mut mute = gateway.session();
    for i in 0..64 {
        mute.submit(&Command::read(i * 2048, 2048));
    }
    let share = gateway.service.limits.connection_memory + lusd::net::memory::RESERVE_BYTES;
    until("it is reset", || {
        assert!(gateway.service.memory.used() <= share);
        gateway.service.sessions.sockets() == 1
    });
    other.run(&Command::write(0, &pattern(1, 4096))).good();
    gateway.memory_is_back();
}

/// Pings that want no answer, from a host that sends them faster than they are looked at: its socket is never empty. Others on its shard,
/// and its own timers, have their turn all the same.
#[test]
fn a_socket_that_is_never_empty() {
    const ROUNDS: u32 = 20;
    let limits = limits_with(|iscsi| iscsi.data_out_timeout = Duration::from_millis(500));
    let (gateway, _) = Gateway::with_ram(limits, 1);
    let mut host = gateway.session_of(OTHER_HOST, "");
    let mut greedy = gateway.session();
    // A write whose data never comes.
    greedy.answers_r2t = false;
    greedy.submit(&Command::write(0, &pattern(0, 4096)));
    greedy.ping();
    let ping = Pdu::new(0x40, 0x80).put_u32(16, u32::MAX).put_u32(20, u32::MAX).put_u32(24, greedy.cmd_sn);
    let flood = ping.encode().repeat(20_000);
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let begun = Instant::now();
            while greedy.send_bytes(&flood).is_ok() {}
            begun.elapsed()
        });
        let begun = Instant::now();
        for _ in 0..ROUNDS {
            host.run(&Command::read(0, 8)).good();
        }
        let (served, ended) = (begun.elapsed(), sender.join().unwrap());
        assert!(served < Duration::from_secs(10), "{ROUNDS} reads took {served:?}");
        assert!(ended < Duration::from_secs(10), "its write was let stand for {ended:?}");
    });
}
