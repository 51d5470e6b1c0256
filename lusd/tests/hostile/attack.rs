//! What hostile peers do. Each attack goes on until a moment, and gives back the connections that it still holds.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::gateway::{HOST, TARGET};
use crate::initiator::{Command, Pdu};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// What an attack may cost at most, bytes.
#[derive(Clone, Copy)]
pub(crate) struct Bound {
    pub(crate) resident: usize,
    pub(crate) data: usize,
}

/// What is there besides: threads, allocator, tables.
const BESIDES: usize = 24 * MIB;
/// `lus_connection_memory`, and the daemon's one reserve.
const CONNECTION_DATA: usize = 32 * MIB;
const RESERVE: usize = lusd::net::memory::RESERVE_BYTES;

/// `connections` that take `each` bytes beside data, of which `with_data` hold as much data as they may.
const fn bound(connections: usize, each: usize, with_data: usize) -> Bound {
    // The other host has its blocks, too.
    let data = with_data * CONNECTION_DATA + RESERVE;
    let held = if with_data == 0 { 0 } else { data };
    Bound { resident: connections * each + held + BESIDES, data }
}

/// What a connection takes before it has logged in: its buffer for what is received, of which little is touched, and its state.
const LOGIN: usize = 64 * KIB;
/// A session at its most: what is received, what waits to be sent, its tasks (`lusd::service::Limits::sessions`).
const SESSION: usize = 400 * KIB;
/// `lus_logins_max`, and as many again that are on their way out while others come.
const LOGINS: usize = 2 * 512;

pub(crate) type Attack = fn(SocketAddr, Instant) -> Vec<TcpStream>;

pub(crate) const ATTACKS: &[(&str, Bound, Attack)] = &[
    ("10,000 silent connections", bound(LOGINS, LOGIN, 0), silent),
    ("500 logins that drip", bound(500, LOGIN, 0), drips),
    ("logins without an end, again", bound(LOGINS, LOGIN, 0), endless_logins),
    ("2,000 discovery sessions", bound(LOGINS, LOGIN, 0), discovery),
    ("1,000 sessions of one name", bound(1000, LOGIN, 0), isids),
    ("text requests without an end", bound(SESSIONS, SESSION, 0), endless_text),
    ("pings with data, unread", bound(SESSIONS, SESSION, 0), pings),
    ("task management, unread", bound(SESSIONS, SESSION, 0), task_management),
    ("command numbers out of range", bound(SESSIONS, SESSION, 0), numbers),
    ("longest headers and segments", bound(SESSIONS, SESSION, 0), lengths),
    ("R2Ts that are not answered", bound(FEW, SESSION, FEW), unanswered),
    ("reads that are not read", bound(FEW, SESSION, FEW), unread),
    ("half-closed with reads under way", bound(FEW, SESSION, FEW), half_closed),
];

/// Sessions of an attack that keep the target busy, and of one that holds memory.
const SESSIONS: usize = 16;
const FEW: usize = 4;

/// A connection from an address that is not that of the other host.
fn connect(to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let from: SocketAddr = "127.0.0.2:0".parse().unwrap();
    socket.bind(&from.into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.set_write_timeout(Some(Duration::from_millis(20))).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    socket.into()
}

/// False once the target has closed, or takes nothing more for now.
fn push(mut stream: &TcpStream, bytes: &[u8]) -> bool {
    stream.write_all(bytes).is_ok()
}

/// Logs in; `None` where the target did not let it.
fn login(to: SocketAddr, isid: u32, keys: &str) -> Option<TcpStream> {
    let mut stream = connect(to);
    let pdu = Pdu::new(0x43, 0x87)
        .put(8, &[0x80, 0])
        .put_u32(10, isid)
        .put_u32(24, 1)
        .with(format!("InitiatorName={HOST}\0{keys}").as_bytes());
    let mut header = [0; 48];
    if !push(&stream, &pdu.encode()) || stream.read_exact(&mut header).is_err() {
        return None;
    }
    let len = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
    stream.read_exact(&mut vec![0; len.next_multiple_of(4)]).ok()?;
    (header[36] == 0).then_some(stream)
}

fn session(to: SocketAddr, isid: u32) -> Option<TcpStream> {
    login(
        to,
        isid,
        &format!(
            "TargetName={TARGET}\0InitialR2T=No\0FirstBurstLength=262144\0MaxRecvDataSegmentLength=262144\0"
        ),
    )
}

fn sessions(to: SocketAddr, count: usize) -> Vec<TcpStream> {
    (0..count).map(|i| session(to, i as u32).expect("it is let in at first")).collect()
}

/// Sends what `next` makes by one connection after the other. One that the target has closed, or that takes nothing more, is replaced.
fn flood(
    to: SocketAddr,
    until: Instant,
    mut streams: Vec<TcpStream>,
    again: impl Fn(SocketAddr, u32) -> Option<TcpStream>,
    mut next: impl FnMut(u32) -> Vec<u8>,
) -> Vec<TcpStream> {
    let mut count = 0;
    while Instant::now() < until {
        for (i, stream) in streams.iter_mut().enumerate() {
            count += 1;
            if !push(stream, &next(count))
                && let Some(other) = again(to, i as u32)
            {
                *stream = other;
            }
        }
    }
    streams
}

fn silent(to: SocketAddr, _: Instant) -> Vec<TcpStream> {
    let half = [0x43; 24];
    let open = |i: usize| {
        let stream = connect(to);
        if i.is_multiple_of(2) {
            push(&stream, &half);
        }
        stream
    };
    (0..10_000).map(open).collect()
}

fn drips(to: SocketAddr, until: Instant) -> Vec<TcpStream> {
    let bytes = Pdu::new(0x43, 0x87).with(&[b'x'; 4096]).encode();
    let streams: Vec<_> = (0..500).map(|_| connect(to)).collect();
    let mut at = 0;
    while Instant::now() < until {
        for stream in &streams {
            push(stream, &bytes[at % bytes.len()..][..1]);
        }
        at += 1;
    }
    streams
}

/// The text of a login that always goes on.
fn endless_logins(to: SocketAddr, until: Instant) -> Vec<TcpStream> {
    let begun = Pdu::new(0x43, 0x44).put(8, &[0x80]).with(&[b'x'; 7 * KIB]).encode();
    let streams = (0..64).map(|_| connect(to)).collect();
    flood(to, until, streams, |to, _| Some(connect(to)), |_| begun.clone())
}

fn discovery(to: SocketAddr, until: Instant) -> Vec<TcpStream> {
    let open = |i| login(to, i, "SessionType=Discovery\0");
    let streams: Vec<_> = (0..2000).filter_map(open).collect();
    let ask = |i: u32| {
        let text = Pdu::new(0x44, 0x80).put_u32(16, i).put_u32(20, u32::MAX).put_u32(24, 1);
        text.with(b"SendTargets=All\0").encode()
    };
    flood(to, until, streams, |to, i| login(to, i, "SessionType=Discovery\0"), ask)
}

fn isids(to: SocketAddr, _: Instant) -> Vec<TcpStream> {
    sessions(to, 1000)
}

fn endless_text(to: SocketAddr, until: Instant) -> Vec<TcpStream> {
    let ask = |_| {
        let text = Pdu::new(0x44, 0x40).put_u32(16, 1).put_u32(20, u32::MAX).put_u32(24, 1);
        text.with(&[b'x'; 7 * KIB]).encode()
    };
    flood(to, until, sessions(to, SESSIONS), session, ask)
}

fn pings(to: SocketAddr, until: Instant) -> Vec<TcpStream> {
    let ping = |i| {
        let ping = Pdu::new(0x40, 0x80).put_u32(16, i).put_u32(20, u32::MAX).put_u32(24, 1);
        ping.with(&[7; 64 * KIB]).encode()
    };
    flood(to, until, sessions(to, SESSIONS), session, ping)
}

/// ABORT TASK for tasks that never were, and ABORT TASK SET.
fn task_management(to: SocketAddr, until: Instant) -> Vec<TcpStream> {
    let function = |i: u32| {
        let function = Pdu::new(0x42, 0x80 | (1 + (i & 1) as u8));
        function.put_u32(16, i).put_u32(20, i.wrapping_mul(7)).put_u32(24, 1).encode()
    };
    let many = move |i: u32| (0..64).flat_map(|j| function(i * 64 + j)).collect();
    flood(to, until, sessions(to, SESSIONS), session, many)
}

/// Commands before, in and far beyond the window.
fn numbers(to: SocketAddr, until: Instant) -> Vec<TcpStream> {
    let command = |i: u32| {
        let pdu = Pdu::new(0x01, 0xc1).put_u32(16, i).put_u32(20, 512);
        pdu.put_u32(24, i.wrapping_mul(0x1000_0001)).put(32, &Command::read(0, 1).cdb).encode()
    };
    let many = move |i: u32| (0..64).flat_map(|j| command(i * 64 + j)).collect();
    flood(to, until, sessions(to, SESSIONS), session, many)
}

/// 255 words of additional headers before 256 KiB of data, and now and then a segment of 16 MiB, of which nothing comes.
fn lengths(to: SocketAddr, until: Instant) -> Vec<TcpStream> {
    let long = |i: u32| {
        let mut bytes = Pdu::new(0x40, 0x80).put_u32(16, i).put_u32(20, u32::MAX).put_u32(24, 1).bhs.to_vec();
        bytes[4] = 255;
        if i % 64 == 63 {
            bytes[5..8].fill(0xff);
        } else {
            bytes[5..8].copy_from_slice(&(256 * KIB as u32).to_be_bytes()[1..]);
            bytes.resize(48 + 1020 + 256 * KIB, 7);
        }
        bytes
    };
    flood(to, until, sessions(to, SESSIONS), session, long)
}

/// As many writes of 1 MiB as the window takes, a quarter of their data with them or behind them unasked, and never what is asked for.
fn unanswered(to: SocketAddr, until: Instant) -> Vec<TcpStream> {
    let streams = sessions(to, FEW);
    for stream in &streams {
        stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
        for i in 0..128_u32 {
            let pdu = Pdu::new(0x01, 0xa1).put_u32(16, i).put_u32(20, MIB as u32).put_u32(24, 1 + i);
            let pdu = pdu.put(32, &Command::write_cdb(i * 2048 % 65_536, 2048)).with(&[i as u8; 256 * KIB]);
            assert!(push(stream, &pdu.encode()), "the target takes what it has let come");
        }
    }
    wait(until);
    streams
}

/// Reads of 1 MiB, of which nothing is taken.
fn unread(to: SocketAddr, until: Instant) -> Vec<TcpStream> {
    let streams = sessions(to, FEW);
    streams.iter().for_each(read_much);
    wait(until);
    streams
}

fn read_much(stream: &TcpStream) {
    for i in 0..128_u32 {
        let pdu = Pdu::new(0x01, 0xc1).put_u32(16, i).put_u32(20, MIB as u32).put_u32(24, 1 + i);
        push(stream, &pdu.put(32, &Command::read(i * 2048 % 65_536, 2048).cdb).encode());
    }
}

/// The same, with a FIN behind the commands, over and over; the other half stays open.
fn half_closed(to: SocketAddr, until: Instant) -> Vec<TcpStream> {
    let mut held = Vec::new();
    while Instant::now() < until {
        for i in 0..FEW as u32 {
            if let Some(stream) = session(to, i) {
                read_much(&stream);
                let _ = stream.shutdown(Shutdown::Write);
                held.push(stream);
            }
        }
    }
    held
}

#[expect(clippy::disallowed_methods, reason = "blocks a test's own thread, not a shard")]
fn wait(until: Instant) {
    std::thread::sleep(until.saturating_duration_since(Instant::now()));
}
