//! What the fuzz targets share: a gateway around the connections of one session, which answers in every way that it may, and an initiator
//! that sends PDUs as the input has them, with the numbers and digests that get them past the first check.

#![forbid(unsafe_code)]

mod end;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arbitrary::Unstructured;
use lusd_iscsi::bhs::{BHS_LEN, Bhs, field, pad_len};
use lusd_iscsi::pdu::{Isid, LoginRequest, Stage};
use lusd_iscsi::{Config, Serial, SessionHandle, digest};

use end::{End, Wish};

const TARGET: &str = "iqn.2026-11.io.lus:disk";
/// Of the one session that there is.
const TSIH: u16 = 1;
/// Connections of which something is left.
const ENDS_MAX: usize = 4;
/// So often connections may make others of their session go on, one after the other: what they have received is less than that.
const ROUNDS_MAX: usize = 2000;
/// Where a connection may stand when the input begins.
const LOGIN_TEXT: [&str; 5] = [
    "InitiatorName=iqn.2026-11.io.lus:host\0TargetName=iqn.2026-11.io.lus:disk\0MaxRecvDataSegmentLength=1024\0InitialR2T=No\0MaxOutstandingR2T=4\0",
    "InitiatorName=iqn.2026-11.io.lus:host\0TargetName=iqn.2026-11.io.lus:disk\0HeaderDigest=CRC32C\0DataDigest=CRC32C\0ImmediateData=Yes\0",
    "InitiatorName=iqn.2026-11.io.lus:host\0TargetName=iqn.2026-11.io.lus:disk\0iSCSIProtocolLevel=2\0MaxBurstLength=1024\0FirstBurstLength=512\0",
    "InitiatorName=iqn.2026-11.io.lus:host\0SessionType=Discovery\0",
    "InitiatorName=iqn.2026-11.io.lus:host\0TargetName=iqn.2026-11.io.lus:disk\0MaxConnections=4\0TaskReporting=FastAbort\0InitialR2T=No\0",
];
/// What a further connection brings: what the session has settled it cannot settle again.
const JOIN_TEXT: [&str; 2] = [
    "InitiatorName=iqn.2026-11.io.lus:host\0TargetName=iqn.2026-11.io.lus:disk\0",
    "InitiatorName=iqn.2026-11.io.lus:host\0TargetName=iqn.2026-11.io.lus:disk\0HeaderDigest=CRC32C\0MaxRecvDataSegmentLength=512\0",
];

/// Connections of a session with both their ends.
pub struct Gateway {
    config: Arc<Config>,
    now: Instant,
    cmd_sn: u32,
    /// The one that the initiator sends by.
    at: usize,
    ends: Vec<End>,
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
            max_connections: 4,
            ..Config::default()
        };
        let (config, now) = (Arc::new(config), Instant::now());
        let ends = vec![End::new(config.clone(), now, 0)];
        Self { config, now, cmd_sn: 0, at: 0, ends }
    }

    /// A session that is up, in one of several ways.
    pub fn logged_in(how: u8) -> Self {
        let mut gateway = Self::new();
        let text = LOGIN_TEXT[usize::from(how) % LOGIN_TEXT.len()];
        gateway.login(0, 0, text, &mut Unstructured::new(&[]));
        gateway
    }

    fn login(&mut self, tsih: u16, cid: u16, text: &str, input: &mut Unstructured<'_>) {
        let request = LoginRequest {
            csg: Stage::LoginOperationalNegotiation,
            nsg: Some(Stage::FullFeaturePhase),
            continues: false,
            version_max: 0,
            version_min: 0,
            isid: Isid([0, 2, 0x3d, 0, 0, 1]),
            tsih,
            initiator_task_tag: 0,
            cid,
            cmd_sn: Serial(self.cmd_sn),
            exp_stat_sn: Serial(0),
        };
        self.send(request.to_bhs(), &[], text.as_bytes(), input);
    }

    /// One PDU or some bytes, as the input says. False once there is no more input.
    pub fn step(&mut self, input: &mut Unstructured<'_>, opcodes: &[u8]) -> bool {
        if input.is_empty() || self.ends.iter().all(|end| end.closed) {
            return false;
        }
        if self.ends[self.at].closed {
            self.at = self.ends.iter().position(|end| !end.closed).unwrap_or(0);
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
                for end in &mut self.ends {
                    if end.conn.next_timeout().is_some_and(|at| at <= self.now) {
                        end.conn.handle_timeout(self.now);
                    }
                }
                self.serve_all(input);
            }
            2 => {
                self.ends[self.at].end_one(input);
                self.serve_all(input);
            }
            3 => self.ends[self.at].conn.set_window_closed(kind >> 4 & 1 == 1),
            4 => self.join(kind >> 4, input),
            5 => self.at = usize::from(kind >> 4) % self.ends.len(),
            6 => {
                self.ends[self.at].deed(input);
                self.serve_all(input);
            }
            _ => self.send_pdu(kind >> 4, input, opcodes),
        }
        true
    }

    /// Everything comes to an end, and the connections with it.
    pub fn finish(mut self) {
        let none = &mut Unstructured::new(&[]);
        for end in &mut self.ends {
            end.conn.close();
            end.serve(self.now, None, none);
            end.end_all(none);
            assert!(end.closed, "a connection that is closed says so");
            assert_eq!(end.conn.tasks_len(), 0, "tasks are left");
            assert_eq!(end.conn.next_timeout(), None, "a timer is left");
        }
        assert!(self.ends.iter().all(|end| !end.conn.wakes_others()), "somebody waits for nothing");
    }

    /// Another connection of the session, or one that comes again.
    fn join(&mut self, how: u8, input: &mut Unstructured<'_>) {
        self.ends.retain(|end| !end.is_over());
        if self.session().is_none() || self.ends.len() == ENDS_MAX {
            self.at = 0;
            return;
        }
        let cid = u16::from(how & 3);
        self.at = self.ends.len();
        self.ends.push(End::new(self.config.clone(), self.now, cid));
        self.login(TSIH, cid, JOIN_TEXT[usize::from(how >> 2 & 1)], input);
    }

    fn session(&self) -> Option<SessionHandle> {
        self.ends.iter().find_map(|end| end.conn.session())
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
            // That of a task, of an R2T, or of a text.
            let other_tag = bhs.u32_at(20);
            bhs.put_u32(20, if other_tag & 1 == 0 { u32::MAX } else { other_tag >> 1 & 31 });
        }
        let ahs_len = if wishes & 4 == 0 { 0 } else { usize::from(bhs.0[field::TOTAL_AHS_LENGTH]) * 4 };
        let mut ahs = vec![0; ahs_len];
        let _ = input.fill_buffer(&mut ahs);
        let len = usize::from(input.arbitrary::<u16>().unwrap_or(0)) % 3000;
        let data = input.bytes(len.min(input.len())).unwrap_or(&[]).to_vec();
        self.send(bhs, &ahs, &data, input);
    }

    fn send(&mut self, mut bhs: Bhs, ahs: &[u8], data: &[u8], input: &mut Unstructured<'_>) {
        let digests = self.ends[self.at].digests;
        bhs.0[field::TOTAL_AHS_LENGTH] = (ahs.len() / 4) as u8;
        bhs.set_data_segment_length(data.len() as u32);
        let mut bytes = [&bhs.0, ahs].concat();
        if digests.0 {
            bytes.extend(digest::of(&bytes));
        }
        if !data.is_empty() {
            let start = bytes.len();
            bytes.extend_from_slice(data);
            bytes.resize(bytes.len() + pad_len(data.len() as u32), 0);
            if digests.1 {
                let sum = digest::of(&bytes[start..]);
                bytes.extend(sum);
            }
        }
        self.feed(&bytes, input);
    }

    fn feed(&mut self, mut bytes: &[u8], input: &mut Unstructured<'_>) {
        loop {
            self.serve_all(input);
            let target = self.ends[self.at].conn.read_target();
            let room = target.buf.capacity() - target.buf.len();
            assert!(target.limit <= room, "the limit {} exceeds the capacity {room}", target.limit);
            let n = target.limit.min(bytes.len());
            if n == 0 {
                return;
            }
            target.buf.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            self.ends[self.at].conn.received(n);
        }
    }

    /// Serves all connections until none has anything more to do.
    fn serve_all(&mut self, input: &mut Unstructured<'_>) {
        for _ in 0..ROUNDS_MAX {
            let mut has_wished = false;
            for at in 0..self.ends.len() {
                let session = self.session();
                for wish in self.ends[at].serve(self.now, session.as_ref(), input) {
                    has_wished = true;
                    self.fulfil(at, &wish);
                }
            }
            if !has_wished && !self.ends.iter().any(|end| end.conn.wakes_others()) {
                return;
            }
        }
        panic!("connections wake each other for ever");
    }

    fn fulfil(&mut self, at: usize, wish: &Wish) {
        let own = self.ends[at].cid;
        let mut found = false;
        for (other, end) in self.ends.iter_mut().enumerate().filter(|(_, end)| !end.closed) {
            let is_meant = match wish {
                Wish::EndOthers => other != at,
                Wish::EndOther { cid, .. } => other != at && end.cid == *cid,
                Wish::TakePlace => other != at && end.cid == own && end.conn.session().is_some(),
            };
            if is_meant {
                found = true;
                end.conn.close();
            }
        }
        if let Wish::EndOther { initiator_task_tag, .. } = *wish {
            self.ends[at].conn.logout_other_complete(initiator_task_tag, found);
        }
    }
}
