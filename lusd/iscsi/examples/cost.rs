//! What the protocol costs, without a socket: nanoseconds for each 4 KiB read and write at a depth of 32, as the median
//! over batches, so that a busy machine does little harm.
//!
//! `cargo run --release -p lusd-iscsi --example cost`

use std::io::{IoSlice, Write};
use std::sync::Arc;
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use lusd_iscsi::pdu::{Isid, LoginRequest, ScsiCommand, Stage};
use lusd_iscsi::{Config, Connection, DataOut, Event, LoginGrant, Response, Serial, TaskAttribute};

const DEPTH: u32 = 32;
const LEN: u32 = 4096;
const ROUNDS: u32 = 20_000;

fn feed(conn: &mut Connection, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let target = conn.read_target();
        let n = bytes.len().min(target.limit);
        target.buf.put_slice(&bytes[..n]);
        conn.received(n);
        bytes = &bytes[n..];
        if target_is_full(conn) {
            break;
        }
    }
}

fn target_is_full(conn: &mut Connection) -> bool {
    conn.read_target().limit == 0
}

fn drain(conn: &mut Connection) {
    loop {
        let mut slices = [IoSlice::new(&[]); 64];
        let n = conn.fill_io_slices(&mut slices);
        let len: usize = slices[..n].iter().map(|s| s.len()).sum();
        if len == 0 {
            return;
        }
        conn.sent(len);
    }
}

fn command(number: u32, is_write: bool) -> Vec<u8> {
    let pdu = ScsiCommand {
        immediate: false,
        is_final: true,
        read: !is_write,
        write: is_write,
        attribute: TaskAttribute::Simple,
        lun: 0,
        initiator_task_tag: number,
        expected_data_transfer_length: LEN,
        cmd_sn: Serial(number),
        exp_stat_sn: Serial(0),
        cdb: [0x28; 16],
    };
    let mut bhs = pdu.to_bhs();
    if is_write {
        bhs.set_data_segment_length(LEN);
    }
    let mut bytes = bhs.0.to_vec();
    if is_write {
        bytes.resize(bytes.len() + LEN as usize, 7);
    }
    bytes
}

fn logged_in(now: Instant) -> Connection {
    let mut conn = Connection::new(Arc::new(Config::default()), now, 0);
    let text =
        b"InitiatorName=iqn.a:b\0TargetName=iqn.a:c\0InitialR2T=No\0MaxRecvDataSegmentLength=262144\0\0\0";
    let mut bhs = LoginRequest {
        csg: Stage::LoginOperationalNegotiation,
        nsg: Some(Stage::FullFeaturePhase),
        continues: false,
        version_max: 0,
        version_min: 0,
        isid: Isid([0; 6]),
        tsih: 0,
        initiator_task_tag: 0,
        cid: 0,
        cmd_sn: Serial(0),
        exp_stat_sn: Serial(0),
    }
    .to_bhs();
    bhs.set_data_segment_length(text.len() as u32);
    feed(&mut conn, &[&bhs.0[..], text, &[0; 3][..text.len().wrapping_neg() & 3]].concat());
    while let Some(event) = conn.poll(now) {
        if matches!(event, Event::Login(_)) {
            conn.login_grant(LoginGrant { portal_group_tag: 1, tsih: 1, target_alias: None });
        }
    }
    drain(&mut conn);
    conn
}

/// Nanoseconds for each command.
fn run(is_write: bool) -> f64 {
    let now = Instant::now();
    let mut conn = logged_in(now);
    let data = Bytes::from(vec![1; LEN as usize]);
    let mut buffers: Vec<BytesMut> = (0..DEPTH).map(|_| BytesMut::with_capacity(LEN as usize)).collect();
    let mut number = 0;
    let mut costs = Vec::new();
    for _ in 0..ROUNDS {
        // Writes at this depth exceed the staging buffer, so they come in parts, as they would from a socket.
        let parts = if is_write { 4 } else { 1 };
        for _ in 0..parts {
            let mut bytes = Vec::new();
            for _ in 0..DEPTH / parts {
                bytes.extend(command(number, is_write));
                number += 1;
            }
            let start = Instant::now();
            feed(&mut conn, &bytes);
            while let Some(event) = conn.poll(now) {
                match event {
                    Event::Command(command) if is_write => {
                        let buf = buffers.pop().unwrap_or_default();
                        conn.accept(command.tag, DataOut::Receive { len: LEN, buf });
                    }
                    Event::Command(command) => {
                        conn.accept(command.tag, DataOut::None);
                        let data_in = data.clone();
                        let transfer_length = LEN.into();
                        conn.respond(
                            command.tag,
                            Response { data_in, transfer_length, ..Response::default() },
                        );
                    }
                    Event::DataOut { tag, mut data } => {
                        data.clear();
                        buffers.push(data);
                        conn.respond(tag, Response { transfer_length: LEN.into(), ..Response::default() });
                    }
                    _ => {}
                }
            }
            drain(&mut conn);
            costs.push(start.elapsed().as_nanos() as f64 / f64::from(DEPTH / parts));
        }
    }
    assert_eq!(number, ROUNDS * DEPTH);
    costs.sort_by(f64::total_cmp);
    costs[costs.len() / 2]
}

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "4 KiB read:  {:.0} ns", run(false))?;
    writeln!(out, "4 KiB write: {:.0} ns", run(true))
}
