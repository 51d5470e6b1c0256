//! The other end: a scripted initiator on a virtual clock, which sends what it is told, keeps the numbers that initiators keep, and
//! checks the numbers that targets send.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses its own part of this")]

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use lusd_iscsi::bhs::{BHS_LEN, Bhs, DIGEST_LEN, Opcode, RESERVED_TAG, field, pad_len};
use lusd_iscsi::pdu::{
    DataIn, DataOut as DataOutPdu, Isid, LoginRequest, LogoutRequest, NopOut, ReadyToTransfer, ScsiCommand,
    ScsiResponse, Stage, TargetSns, TaskManagementRequest, TextRequest,
};
use lusd_iscsi::{
    Config, Connection, DataOut, Event, LoginGrant, LogoutReason, Response, Serial, SessionInfo,
    TaskAttribute, TaskTag, TmfFunction, digest, text,
};

pub const INITIATOR: &str = "iqn.2026-11.io.lus:host";
pub const TARGET: &str = "iqn.2026-11.io.lus:disk";
pub const LUN_0: u64 = 0;

/// A PDU that the target sent.
#[derive(Clone, Debug)]
pub struct Pdu {
    pub bhs: Bhs,
    pub data: Vec<u8>,
}

impl Pdu {
    pub fn opcode(&self) -> Opcode {
        self.bhs.opcode().expect("targets send known opcodes")
    }

    pub fn text(&self) -> Vec<(String, String)> {
        let pairs = text::pairs(&self.data).expect("targets send good text");
        pairs.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    pub fn r2t(&self) -> ReadyToTransfer {
        assert_eq!(self.opcode(), Opcode::ReadyToTransfer);
        ReadyToTransfer::parse(&self.bhs).unwrap()
    }

    pub fn data_in(&self) -> DataIn {
        assert_eq!(self.opcode(), Opcode::DataIn);
        DataIn::parse(&self.bhs).unwrap()
    }

    pub fn response(&self) -> ScsiResponse {
        assert_eq!(self.opcode(), Opcode::ScsiResponse, "{self:?}");
        ScsiResponse::parse(&self.bhs).unwrap()
    }

    pub fn sns(&self) -> TargetSns {
        TargetSns {
            stat_sn: Serial(self.bhs.u32_at(24)),
            exp_cmd_sn: Serial(self.bhs.u32_at(28)),
            max_cmd_sn: Serial(self.bhs.u32_at(32)),
        }
    }

    /// True if the PDU has a StatSN of its own.
    fn has_stat_sn(&self) -> bool {
        match self.opcode() {
            Opcode::ReadyToTransfer => false,
            Opcode::DataIn => self.bhs.has_flag(1),
            Opcode::NopIn => self.bhs.initiator_task_tag() != RESERVED_TAG,
            _ => true,
        }
    }
}

/// The bytes of a PDU.
pub fn encode(mut bhs: Bhs, ahs: &[u8], data: &[u8], digests: (bool, bool)) -> Vec<u8> {
    bhs.0[field::TOTAL_AHS_LENGTH] = (ahs.len() / 4) as u8;
    bhs.set_data_segment_length(data.len() as u32);
    let mut out = [&bhs.0, ahs].concat();
    if digests.0 {
        out.extend(digest::of(&out));
    }
    if !data.is_empty() {
        let start = out.len();
        out.extend_from_slice(data);
        out.resize(out.len() + pad_len(data.len() as u32), 0);
        if digests.1 {
            out.extend(digest::of(&out[start..]));
        }
    }
    out
}

pub struct Peer {
    pub conn: Connection,
    pub now: Instant,
    /// Bytes on their way to the target.
    wire: VecDeque<u8>,
    /// At most so many bytes go into the target at once, and come out of it.
    pub chunk: usize,
    /// At most so many slices are asked for at once.
    pub slices: usize,
    events: VecDeque<Event>,
    received: Vec<u8>,
    inbox: VecDeque<Pdu>,
    pub digests: (bool, bool),
    pub cmd_sn: Serial,
    pub exp_stat_sn: Option<Serial>,
    max_cmd_sn: Option<Serial>,
    pub next_tag: u32,
    pub read_directly: usize,
    /// It sends CmdSNs that are not the next ones, so it cannot know which ones are expected of it.
    pub is_liar: bool,
}

impl Peer {
    pub fn new(config: Config) -> Self {
        Self::at(config, 0, 0)
    }

    /// With the first CmdSN and the first StatSN.
    pub fn at(config: Config, cmd_sn: u32, stat_sn: u32) -> Self {
        let now = Instant::now();
        Self {
            conn: Connection::new(Arc::new(config), now, stat_sn),
            now,
            wire: VecDeque::new(),
            chunk: usize::MAX,
            slices: 64,
            events: VecDeque::new(),
            received: Vec::new(),
            inbox: VecDeque::new(),
            digests: (false, false),
            cmd_sn: Serial(cmd_sn),
            exp_stat_sn: None,
            max_cmd_sn: None,
            next_tag: 1,
            read_directly: 0,
            is_liar: false,
        }
    }

    /// A session that is up: `text` is added to what the only login request says.
    pub fn logged_in(config: Config, text: &str) -> Self {
        Self::logged_in_at(config, text, 0, 0).0
    }

    pub fn logged_in_at(config: Config, text: &str, cmd_sn: u32, stat_sn: u32) -> (Self, SessionInfo) {
        let mut peer = Self::at(config, cmd_sn, stat_sn);
        let names = format!("InitiatorName={INITIATOR}\0TargetName={TARGET}\0{text}");
        let info = peer.login(&names);
        (peer, info)
    }

    pub fn discovery(config: Config) -> Self {
        let mut peer = Self::new(config);
        peer.login(&format!("InitiatorName={INITIATOR}\0SessionType=Discovery\0"));
        peer
    }

    fn login(&mut self, text: &str) -> SessionInfo {
        self.send(self.login_request().to_bhs(), text.as_bytes());
        assert!(matches!(self.event(), Event::Login(_)));
        self.conn.login_grant(LoginGrant { portal_group_tag: 1, tsih: 1, ..LoginGrant::default() });
        let Event::LoggedIn(info) = self.event() else { panic!("not logged in") };
        let reply = self.pdu();
        assert_eq!(reply.opcode(), Opcode::LoginResponse);
        assert_eq!(reply.bhs.u16_at(36), 0);
        self.digests = (info.params.header_digest, info.params.data_digest);
        info
    }

    pub fn login_request(&self) -> LoginRequest {
        LoginRequest {
            csg: Stage::LoginOperationalNegotiation,
            nsg: Some(Stage::FullFeaturePhase),
            continues: false,
            version_max: 0,
            version_min: 0,
            isid: Isid([0, 2, 0x3d, 0, 0, 1]),
            tsih: 0,
            initiator_task_tag: 0,
            cid: 0,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: Serial(0),
        }
    }

    pub fn exp_stat_sn(&self) -> Serial {
        self.exp_stat_sn.unwrap_or_default()
    }

    pub fn tag(&mut self) -> u32 {
        let tag = self.next_tag;
        self.next_tag += 1;
        tag
    }

    /// The next CmdSN.
    pub fn number(&mut self) -> Serial {
        let number = self.cmd_sn;
        self.cmd_sn = number.next();
        number
    }

    // ---- to the target

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.wire.extend(bytes);
        self.pump();
    }

    pub fn send(&mut self, bhs: Bhs, data: &[u8]) {
        let bytes = encode(bhs, &[], data, self.digests);
        self.send_bytes(&bytes);
    }

    /// Moves bytes into the target as far as it takes them.
    pub fn pump(&mut self) {
        loop {
            while let Some(event) = self.conn.poll(self.now) {
                self.events.push_back(event);
            }
            let target = self.conn.read_target();
            let room = target.buf.capacity() - target.buf.len();
            assert!(target.limit <= room, "the limit {} exceeds the capacity {room}", target.limit);
            let n = target.limit.min(self.chunk).min(self.wire.len());
            if n == 0 {
                return;
            }
            if target.buf.capacity() != Config::default().staging_bytes {
                self.read_directly += n;
            }
            let bytes: Vec<u8> = self.wire.drain(..n).collect();
            target.buf.put_slice(&bytes);
            self.conn.received(n);
        }
    }

    /// True if bytes wait that the target does not take.
    pub fn is_blocked(&self) -> bool {
        !self.wire.is_empty()
    }

    // ---- from the target

    /// Reads what the target has to send, and checks its numbers.
    pub fn collect(&mut self) {
        loop {
            let mut slices = vec![IoSlice::new(&[]); self.slices];
            let n = self.conn.fill_io_slices(&mut slices);
            let bytes: Vec<u8> =
                slices[..n].iter().flat_map(|s| s.iter().copied()).take(self.chunk).collect();
            if bytes.is_empty() {
                break;
            }
            self.conn.sent(bytes.len());
            self.received.extend(bytes);
            self.pump();
        }
        while let Some((pdu, len)) = decode(&self.received, self.digests) {
            self.received.drain(..len);
            self.check_numbers(&pdu);
            self.inbox.push_back(pdu);
        }
    }

    fn check_numbers(&mut self, pdu: &Pdu) {
        let sns = pdu.sns();
        if pdu.has_stat_sn() {
            if let Some(expected) = self.exp_stat_sn {
                assert_eq!(sns.stat_sn, expected, "StatSN of {pdu:?}");
            }
            self.exp_stat_sn = Some(sns.stat_sn.next());
        } else if pdu.opcode() != Opcode::DataIn {
            assert_eq!(Some(sns.stat_sn), self.exp_stat_sn, "next StatSN of {pdu:?}");
        }
        assert!(self.is_liar || !sns.exp_cmd_sn.is_after(self.cmd_sn), "ExpCmdSN of {pdu:?}");
        assert!(!sns.max_cmd_sn.next().is_before(sns.exp_cmd_sn), "MaxCmdSN of {pdu:?}");
        if let Some(last) = self.max_cmd_sn {
            assert!(!sns.max_cmd_sn.is_before(last), "MaxCmdSN went back");
        }
        self.max_cmd_sn = Some(sns.max_cmd_sn);
    }

    /// The last MaxCmdSN that came.
    pub fn max_cmd_sn(&mut self) -> Serial {
        self.collect();
        self.max_cmd_sn.expect("a PDU has come")
    }

    /// The next PDU; there must be one.
    pub fn pdu(&mut self) -> Pdu {
        self.collect();
        self.inbox.pop_front().expect("the target sent nothing")
    }

    pub fn no_pdu(&mut self) {
        self.collect();
        assert!(self.inbox.is_empty(), "{:?}", self.inbox);
    }

    pub fn pdus(&mut self) -> Vec<Pdu> {
        self.collect();
        self.inbox.drain(..).collect()
    }

    /// The next event; there must be one.
    pub fn event(&mut self) -> Event {
        self.try_event().expect("nothing happened")
    }

    pub fn try_event(&mut self) -> Option<Event> {
        self.pump();
        self.events.pop_front()
    }

    pub fn no_event(&mut self) {
        let event = self.try_event();
        assert!(event.is_none(), "{event:?}");
    }

    // ---- time

    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        self.pump();
        if self.conn.next_timeout().is_some_and(|at| at <= self.now) {
            self.conn.handle_timeout(self.now);
        }
        self.pump();
    }

    // ---- requests

    pub fn command(&mut self) -> ScsiCommand {
        ScsiCommand {
            immediate: false,
            is_final: true,
            read: false,
            write: false,
            attribute: TaskAttribute::Simple,
            lun: LUN_0,
            initiator_task_tag: self.tag(),
            expected_data_transfer_length: 0,
            cmd_sn: self.number(),
            exp_stat_sn: self.exp_stat_sn(),
            cdb: [0; 16],
        }
    }

    pub fn read_command(&mut self, len: u32) -> ScsiCommand {
        ScsiCommand { read: true, expected_data_transfer_length: len, ..self.command() }
    }

    pub fn write_command(&mut self, len: u32) -> ScsiCommand {
        ScsiCommand { write: true, expected_data_transfer_length: len, ..self.command() }
    }

    pub fn tmf(&mut self, function: TmfFunction) -> TaskManagementRequest {
        TaskManagementRequest {
            immediate: true,
            function: Some(function),
            lun: LUN_0,
            initiator_task_tag: self.tag(),
            referenced_task_tag: RESERVED_TAG,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn(),
            ref_cmd_sn: Serial(0),
            exp_data_sn: Serial(0),
        }
    }

    pub fn nop_out(&mut self) -> NopOut {
        NopOut {
            immediate: true,
            lun: 0,
            initiator_task_tag: self.tag(),
            target_transfer_tag: RESERVED_TAG,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn(),
        }
    }

    pub fn text_request(&mut self) -> TextRequest {
        TextRequest {
            immediate: true,
            is_final: true,
            continues: false,
            lun: 0,
            initiator_task_tag: self.tag(),
            target_transfer_tag: RESERVED_TAG,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn(),
        }
    }

    pub fn logout(&mut self, reason: LogoutReason) -> LogoutRequest {
        LogoutRequest {
            immediate: true,
            reason,
            initiator_task_tag: self.tag(),
            cid: 0,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn(),
        }
    }

    /// Sends a command and takes its event.
    pub fn start(&mut self, command: &ScsiCommand, data: &[u8]) -> TaskTag {
        self.send(command.to_bhs(), data);
        self.command_event()
    }

    pub fn command_event(&mut self) -> TaskTag {
        match self.event() {
            Event::Command(command) => command.tag,
            other => panic!("not a command: {other:?}"),
        }
    }

    /// A command that is in progress and wants no data.
    pub fn run(&mut self, command: &ScsiCommand) -> TaskTag {
        let tag = self.start(command, &[]);
        self.conn.accept(tag, DataOut::None);
        self.pump();
        tag
    }

    pub fn accept(&mut self, tag: TaskTag, len: u32) {
        self.conn.accept(tag, DataOut::Receive { len, buf: BytesMut::with_capacity(len as usize) });
        self.pump();
    }

    pub fn good(&mut self, tag: TaskTag) {
        self.conn.respond(tag, Response::default());
        self.pump();
    }

    pub fn read_good(&mut self, tag: TaskTag, data: Vec<u8>) {
        let transfer_length = data.len() as u64;
        self.conn
            .respond(tag, Response { data_in: Bytes::from(data), transfer_length, ..Response::default() });
        self.pump();
    }

    /// Data of a task that must be complete.
    pub fn data_out_event(&mut self) -> (TaskTag, BytesMut) {
        match self.event() {
            Event::DataOut { tag, data } => (tag, data),
            other => panic!("no data: {other:?}"),
        }
    }

    pub fn data_out(&mut self, pdu: &DataOutPdu, data: &[u8]) {
        self.send(pdu.to_bhs(), data);
    }

    /// Answers an R2T with PDUs of `step` bytes.
    pub fn answer(&mut self, r2t: &ReadyToTransfer, whole: &[u8], step: usize) {
        let start = r2t.buffer_offset as usize;
        let data = &whole[start..start + r2t.desired_data_transfer_length as usize];
        for (i, part) in data.chunks(step).enumerate() {
            let pdu = DataOutPdu {
                is_final: (i + 1) * step >= data.len(),
                lun: r2t.lun,
                initiator_task_tag: r2t.initiator_task_tag,
                target_transfer_tag: r2t.target_transfer_tag,
                exp_stat_sn: self.exp_stat_sn(),
                data_sn: Serial(i as u32),
                buffer_offset: (start + i * step) as u32,
            };
            self.data_out(&pdu, part);
        }
    }
}

/// An unsolicited Data-Out PDU.
pub fn unsolicited(command: &ScsiCommand, data_sn: u32, buffer_offset: u32, is_final: bool) -> DataOutPdu {
    DataOutPdu {
        is_final,
        lun: command.lun,
        initiator_task_tag: command.initiator_task_tag,
        target_transfer_tag: RESERVED_TAG,
        exp_stat_sn: Serial(0),
        data_sn: Serial(data_sn),
        buffer_offset,
    }
}

/// The first PDU of some bytes and its length, if it is whole.
fn decode(bytes: &[u8], digests: (bool, bool)) -> Option<(Pdu, usize)> {
    let bhs = Bhs::from_prefix(bytes)?;
    assert_eq!(bhs.total_ahs_length(), 0, "targets send no additional headers");
    let mut at = BHS_LEN;
    if digests.0 {
        assert_eq!(bytes.get(at..at + DIGEST_LEN)?, digest::of(&bhs.0), "header digest of {bhs:?}");
        at += DIGEST_LEN;
    }
    let len = bhs.data_segment_length();
    let data = bytes.get(at..at + len as usize)?.to_vec();
    if len > 0 {
        let padded = at + len as usize + pad_len(len);
        if digests.1 {
            let sent = bytes.get(padded..padded + DIGEST_LEN)?;
            assert_eq!(sent, digest::of(&bytes[at..padded]), "data digest of {bhs:?}");
            at = padded + DIGEST_LEN;
        } else {
            bytes.get(at..padded)?;
            at = padded;
        }
    }
    Some((Pdu { bhs, data }, at))
}

/// Bytes that differ from place to place.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect()
}
