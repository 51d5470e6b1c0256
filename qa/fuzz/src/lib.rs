//! What the fuzz targets share: a gateway around one connection, which answers in every way that it may, and an initiator that sends PDUs
//! as the input has them, with the numbers and digests that get them past the first check.

#![forbid(unsafe_code)]

use std::io::IoSlice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arbitrary::Unstructured;
use bytes::{Bytes, BytesMut};
use lusd_iscsi::bhs::{BHS_LEN, Bhs, field, pad_len};
use lusd_iscsi::chap::{ChallengeKey, ChapGrant, Credentials, Secret};
use lusd_iscsi::pdu::{Isid, LoginRequest, Stage};
use lusd_iscsi::{
    Authentication, Config, Connection, DataOut, Event, LoginGrant, LoginStatus, Response, Serial,
    TargetRecord, TaskTag, TmfResponse, digest,
};

/// Longest data-out that the gateway asks for, bytes.
const DATA_MAX: u32 = 64 * 1024;
const TARGET: &str = "iqn.2026-11.io.lus:disk";
/// Where a connection may stand when the input begins.
const LOGIN_TEXT: [&str; 4] = [
    "InitiatorName=iqn.2026-11.io.lus:host\0TargetName=iqn.2026-11.io.lus:disk\0MaxRecvDataSegmentLength=1024\0InitialR2T=No\0MaxOutstandingR2T=4\0",
    "InitiatorName=iqn.2026-11.io.lus:host\0TargetName=iqn.2026-11.io.lus:disk\0HeaderDigest=CRC32C\0DataDigest=CRC32C\0ImmediateData=Yes\0",
    "InitiatorName=iqn.2026-11.io.lus:host\0TargetName=iqn.2026-11.io.lus:disk\0iSCSIProtocolLevel=2\0MaxBurstLength=1024\0FirstBurstLength=512\0",
    "InitiatorName=iqn.2026-11.io.lus:host\0SessionType=Discovery\0",
];

/// A connection with both its ends.
pub struct Gateway {
    conn: Connection,
    now: Instant,
    digests: (bool, bool),
    cmd_sn: u32,
    tags: Vec<TaskTag>,
    tmfs: Vec<u32>,
    closed: bool,
}

impl Default for Gateway {
    fn default() -> Self {
        Self::new()
    }
}

impl Gateway {
    /// A connection that was just accepted.
    pub fn new() -> Self {
        let config = Config {
            staging_bytes: 8192,
            output_bytes_high: 8192,
            command_window: 16,
            immediate_window: 4,
            ..Config::default()
        };
        let now = Instant::now();
        Self {
            conn: Connection::new(Arc::new(config), now, 0),
            now,
            digests: (false, false),
            cmd_sn: 0,
            tags: Vec::new(),
            tmfs: Vec::new(),
            closed: false,
        }
    }

    /// A session that is up, in one of several ways.
    pub fn logged_in(how: u8) -> Self {
        let mut gateway = Self::new();
        let request = LoginRequest {
            csg: Stage::LoginOperationalNegotiation,
            nsg: Some(Stage::FullFeaturePhase),
            continues: false,
            version_max: 0,
            version_min: 0,
            isid: Isid([0, 2, 0x3d, 0, 0, 1]),
            tsih: 0,
            initiator_task_tag: 0,
            cid: 0,
            cmd_sn: Serial(0),
            exp_stat_sn: Serial(0),
        };
        let text = LOGIN_TEXT[usize::from(how) % LOGIN_TEXT.len()];
        gateway.send(request.to_bhs(), &[], text.as_bytes(), &mut Unstructured::new(&[]));
        gateway
    }

    /// One PDU or some bytes, as the input says. False once there is no more input.
    pub fn step(&mut self, input: &mut Unstructured<'_>, opcodes: &[u8]) -> bool {
        if input.is_empty() || self.closed {
            return false;
        }
        let kind = input.arbitrary::<u8>().unwrap_or(0);
        match kind % 16 {
            0 => {
                let len = usize::from(input.arbitrary::<u8>().unwrap_or(0));
                let bytes = input.bytes(len.min(input.len())).unwrap_or(&[]).to_vec();
                self.feed(&bytes, input);
            }
            1 => {
                self.now += Duration::from_secs(u64::from(kind >> 4) * 4);
                if self.conn.next_timeout().is_some_and(|at| at <= self.now) {
                    self.conn.handle_timeout(self.now);
                }
                self.feed(&[], input);
            }
            2 => self.end_one(input),
            3 => self.conn.set_window_closed(kind >> 4 & 1 == 1),
            _ => self.send_pdu(kind >> 4, input, opcodes),
        }
        true
    }

    /// Everything comes to an end, and the connection with it.
    pub fn finish(mut self) {
        let none = &mut Unstructured::new(&[]);
        self.conn.close();
        self.feed(&[], none);
        while !self.tags.is_empty() {
            self.end_one(none);
        }
        assert!(self.closed, "a connection that is closed says so");
        assert_eq!(self.conn.tasks_len(), 0, "tasks are left");
        assert_eq!(self.conn.next_timeout(), None, "a timer is left");
    }

    fn send_pdu(&mut self, wishes: u8, input: &mut Unstructured<'_>, opcodes: &[u8]) {
        let mut bhs = Bhs([0; BHS_LEN]);
        let _ = input.fill_buffer(&mut bhs.0);
        if let Some(opcode) = opcodes.get(usize::from(bhs.0[0] & 0x3f) % opcodes.len().max(1)) {
            bhs.0[0] = bhs.0[0] & 0x40 | opcode;
        }
        // Numbers that are near the right ones, unless the input insists.
        if wishes & 1 == 0 {
            bhs.put_u32(field::CMD_SN, self.cmd_sn);
            if bhs.0[0] & 0x40 == 0 && !matches!(bhs.0[0] & 0x3f, 0x03 | 0x05 | 0x10) {
                self.cmd_sn = self.cmd_sn.wrapping_add(1);
            }
        }
        if wishes & 2 == 0 {
            bhs.put_u32(16, bhs.u32_at(16) % 16);
            let transfer_tag = bhs.u32_at(20);
            bhs.put_u32(20, if transfer_tag & 1 == 0 { u32::MAX } else { transfer_tag % 64 });
        }
        let ahs_len = if wishes & 4 == 0 { 0 } else { usize::from(bhs.0[field::TOTAL_AHS_LENGTH]) * 4 };
        let mut ahs = vec![0; ahs_len];
        let _ = input.fill_buffer(&mut ahs);
        let len = usize::from(input.arbitrary::<u16>().unwrap_or(0)) % 3000;
        let data = input.bytes(len.min(input.len())).unwrap_or(&[]).to_vec();
        self.send(bhs, &ahs, &data, input);
    }

    fn send(&mut self, mut bhs: Bhs, ahs: &[u8], data: &[u8], input: &mut Unstructured<'_>) {
        bhs.0[field::TOTAL_AHS_LENGTH] = (ahs.len() / 4) as u8;
        bhs.set_data_segment_length(data.len() as u32);
        let mut bytes = [&bhs.0, ahs].concat();
        if self.digests.0 {
            bytes.extend(digest::of(&bytes));
        }
        if !data.is_empty() {
            let start = bytes.len();
            bytes.extend_from_slice(data);
            bytes.resize(bytes.len() + pad_len(data.len() as u32), 0);
            if self.digests.1 {
                let sum = digest::of(&bytes[start..]);
                bytes.extend(sum);
            }
        }
        self.feed(&bytes, input);
    }

    fn feed(&mut self, mut bytes: &[u8], input: &mut Unstructured<'_>) {
        loop {
            self.serve(input);
            let target = self.conn.read_target();
            let room = target.buf.capacity() - target.buf.len();
            assert!(target.limit <= room, "the limit {} exceeds the capacity {room}", target.limit);
            let n = target.limit.min(bytes.len());
            if n == 0 {
                return;
            }
            target.buf.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            self.conn.received(n);
        }
    }

    fn serve(&mut self, input: &mut Unstructured<'_>) {
        loop {
            while let Some(event) = self.conn.poll(self.now) {
                assert!(!self.closed, "{event:?} after the end");
                self.handle(event, input);
            }
            if self.flush() == 0 {
                return;
            }
        }
    }

    /// Takes what the connection has to send; how many bytes that were.
    fn flush(&mut self) -> usize {
        let mut all = 0;
        loop {
            let mut slices = [IoSlice::new(&[]); 16];
            let n = self.conn.fill_io_slices(&mut slices);
            let bytes: usize = slices[..n].iter().map(|slice| slice.len()).sum();
            if bytes == 0 {
                return all;
            }
            self.conn.sent(bytes);
            all += bytes;
        }
    }

    fn handle(&mut self, event: Event, input: &mut Unstructured<'_>) {
        let choice = input.arbitrary::<u8>().unwrap_or(0);
        let conn = &mut self.conn;
        match event {
            Event::Login(_) if choice % 16 == 15 => conn.login_refuse(LoginStatus::ServiceUnavailable),
            Event::Login(_) => conn.login_grant(grant(choice)),
            Event::LoggedIn(info) => self.digests = (info.params.header_digest, info.params.data_digest),
            Event::Command(command) => {
                let len = command.expected_data_transfer_length.min(DATA_MAX);
                match choice % 6 {
                    0 => return conn.respond(command.tag, Response { status: 8, ..Response::default() }),
                    1 => conn.accept(command.tag, DataOut::None),
                    2 => return conn.abandon(command.tag),
                    _ => conn.accept(
                        command.tag,
                        DataOut::Receive { len, buf: BytesMut::with_capacity(len as usize) },
                    ),
                }
                self.tags.push(command.tag);
            }
            Event::DataOut { tag, data } => {
                assert!(self.tags.contains(&tag) && data.len() <= DATA_MAX as usize)
            }
            Event::DataOutFailed { tag, .. } => assert!(self.tags.contains(&tag)),
            Event::TaskManagement(request) => self.tmfs.push(request.initiator_task_tag),
            Event::SendTargets(_) => {
                let portals = vec![("192.0.2.1:3260".to_owned(), 1); usize::from(choice % 4)];
                let target = TargetRecord { name: TARGET.into(), portals };
                conn.send_targets(&vec![target; usize::from(choice % 64)]);
            }
            Event::LogoutRequested { .. } => {
                while !self.tags.is_empty() {
                    self.end_one(input);
                }
                self.conn.logout_complete();
            }
            Event::LogoutOther { .. } => self.conn.logout_other_complete(choice & 1 == 1),
            Event::Closed(_) => self.closed = true,
        }
    }

    fn end_one(&mut self, input: &mut Unstructured<'_>) {
        if let Some(tag) = self.tmfs.pop() {
            self.conn.tmf_response(tag, TmfResponse::FunctionComplete);
        }
        if self.tags.is_empty() {
            return;
        }
        let (which, len) = (input.arbitrary::<u8>().unwrap_or(0), input.arbitrary::<u8>().unwrap_or(0));
        let tag = self.tags.swap_remove(usize::from(which) % self.tags.len());
        if len == 255 {
            return self.conn.abandon(tag);
        }
        let data_in = Bytes::from(vec![which; usize::from(len) * 40]);
        let transfer_length = data_in.len() as u64;
        self.conn.respond(tag, Response { data_in, transfer_length, ..Response::default() });
    }
}

fn grant(choice: u8) -> LoginGrant {
    let secret = |bytes: &[u8]| Secret::new(bytes).expect("long enough");
    let chap = || {
        Authentication::Chap(Box::new(ChapGrant {
            initiator: Credentials { name: "host".into(), secret: secret(b"twelve bytes") },
            target: (choice & 4 == 4)
                .then(|| Credentials { name: "disk".into(), secret: secret(b"other twelve") }),
            identifier: 7,
            nonce: [7; 16],
            key: ChallengeKey::new([9; 32]),
        }))
    };
    let authentication = if choice & 3 == 3 { chap() } else { Authentication::None };
    LoginGrant { portal_group_tag: 1, tsih: 1, authentication, ..LoginGrant::default() }
}
