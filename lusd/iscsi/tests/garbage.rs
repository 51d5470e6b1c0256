//! Whatever comes in, in whatever state: no panic, no growth, and at most one end.

mod common;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use common::{INITIATOR, Peer, TARGET, pattern};
use lusd_iscsi::bhs::{Bhs, Opcode};
use lusd_iscsi::{
    Config, DataOut, Event, LoginGrant, LoginStatus, Response, TargetRecord, TaskTag, TmfResponse,
};
use proptest::prelude::*;

/// A daemon that answers everything in some way, by a stream of numbers.
struct Daemon {
    peer: Peer,
    tags: Vec<TaskTag>,
    tmfs: Vec<u32>,
    choices: std::vec::IntoIter<u8>,
    closed: u32,
    ended: usize,
    offered: usize,
}

impl Daemon {
    fn new(peer: Peer, choices: Vec<u8>) -> Self {
        Self {
            peer,
            tags: Vec::new(),
            tmfs: Vec::new(),
            choices: choices.into_iter(),
            closed: 0,
            ended: 0,
            offered: 0,
        }
    }

    fn choose(&mut self, n: u8) -> u8 {
        self.choices.next().unwrap_or(0) % n
    }

    fn serve(&mut self) {
        while let Some(event) = self.peer.try_event() {
            assert_eq!(self.closed, 0, "{event:?} after the end");
            self.handle(event);
        }
        let _ = self.peer.pdus();
        if self.choose(3) == 0 {
            self.end_one();
        }
    }

    fn handle(&mut self, event: Event) {
        let conn = &mut self.peer.conn;
        match event {
            Event::Login(_) => {
                if self.choices.next().unwrap_or(0) % 16 == 15 {
                    conn.login_refuse(LoginStatus::ServiceUnavailable);
                } else {
                    conn.login_grant(LoginGrant {
                        portal_group_tag: 1,
                        tsih: 1,
                        target_alias: Some("a".into()),
                        ..LoginGrant::default()
                    });
                }
            }
            Event::LoggedIn(info) => self.peer.digests = (info.params.header_digest, info.params.data_digest),
            Event::Command(command) => {
                self.offered += 1;
                assert!(command.tag.slot() < 160);
                let len = command.expected_data_transfer_length.min(70_000);
                match self.choices.next().unwrap_or(0) % 5 {
                    0 => {
                        conn.respond(command.tag, Response { status: 8, ..Response::default() });
                        self.ended += 1;
                        return;
                    }
                    1 => conn.accept(command.tag, DataOut::None),
                    2 => {
                        conn.abandon(command.tag);
                        self.ended += 1;
                        return;
                    }
                    _ => {
                        let buf = BytesMut::with_capacity(len as usize);
                        conn.accept(command.tag, DataOut::Receive { len, buf });
                    }
                }
                self.tags.push(command.tag);
            }
            Event::DataOut { tag, data } => {
                assert!(self.tags.contains(&tag) && data.len() <= 70_000);
            }
            Event::DataOutFailed { tag, condition } => {
                assert!(self.tags.contains(&tag));
                assert_eq!(condition.sense().0, 0x0b);
            }
            Event::TaskManagement(request) => self.tmfs.push(request.initiator_task_tag),
            Event::SendTargets(_) => {
                let portals = vec![("192.0.2.1:3260".to_owned(), 1)];
                conn.send_targets(&vec![TargetRecord { name: TARGET.into(), portals }; 30]);
            }
            Event::LogoutRequested { .. } => {
                while !self.tags.is_empty() {
                    self.end_one();
                }
                self.peer.conn.logout_complete();
            }
            Event::LogoutOther { initiator_task_tag, .. } => {
                self.peer.conn.logout_other_complete(initiator_task_tag, false);
            }
            Event::Closed(_) => self.closed += 1,
        }
    }

    fn end_one(&mut self) {
        if let Some(tag) = self.tmfs.pop() {
            self.peer.conn.tmf_response(tag, TmfResponse::FunctionComplete);
        }
        if self.tags.is_empty() {
            return;
        }
        let i = usize::from(self.choose(255)) % self.tags.len();
        let tag = self.tags.swap_remove(i);
        self.ended += 1;
        if self.choose(2) == 0 {
            self.peer.conn.abandon(tag);
        } else {
            let data_in = Bytes::from(pattern(usize::from(self.choose(255)) * 40));
            let transfer_length = data_in.len() as u64;
            self.peer.conn.respond(tag, Response { data_in, transfer_length, ..Response::default() });
        }
    }

    /// Everything comes to an end, and every task did so once.
    fn finish(mut self) {
        for _ in 0..50 {
            self.peer.pass(Duration::from_secs(20));
            self.serve();
        }
        self.peer.conn.close();
        self.serve();
        while !self.tags.is_empty() {
            self.end_one();
        }
        assert_eq!((self.closed, self.peer.conn.tasks_len()), (1, 0));
        assert_eq!(self.ended, self.offered);
        assert_eq!(self.peer.conn.next_timeout(), None);
    }
}

fn small() -> Config {
    Config {
        staging_bytes: 8192,
        output_bytes_high: 8192,
        command_window: 16,
        immediate_window: 4,
        ..Config::default()
    }
}

const SESSION_TEXT: &str =
    "InitialR2T=No\0MaxBurstLength=4096\0MaxOutstandingR2T=3\0MaxRecvDataSegmentLength=1024\0";

/// A connection in some state: nothing came, in the middle of a login, in the full feature phase, with digests, discovery, with a
/// write in the middle of its data, logging out.
fn state(which: u8, choices: Vec<u8>) -> Daemon {
    let digests = format!("{SESSION_TEXT}HeaderDigest=CRC32C\0DataDigest=CRC32C\0");
    let peer = match which {
        0 | 1 => Peer::new(small()),
        2 => Peer::discovery(small()),
        3 => Peer::logged_in(small(), &digests),
        _ => Peer::logged_in(small(), SESSION_TEXT),
    };
    let mut daemon = Daemon::new(peer, choices);
    daemon.peer.is_liar = true;
    match which {
        1 => {
            let request = lusd_iscsi::pdu::LoginRequest { nsg: None, ..daemon.peer.login_request() };
            let text = format!("InitiatorName={INITIATOR}\0TargetName={TARGET}\0");
            daemon.peer.send(request.to_bhs(), text.as_bytes());
        }
        5 => {
            let command = daemon.peer.write_command(60_000);
            let bytes = common::encode(command.to_bhs(), &[], &pattern(40_000), (false, false));
            daemon.peer.send_bytes(&bytes[..20_000]);
        }
        6 => {
            let logout = daemon.peer.logout(lusd_iscsi::LogoutReason::CloseSession);
            daemon.peer.send(logout.to_bhs(), &[]);
        }
        _ => {}
    }
    daemon
}

/// A PDU that makes some sense: a known opcode, numbers near the right ones, data of the length it says.
#[derive(Clone, Debug)]
struct Plausible {
    opcode: Opcode,
    flags: u8,
    immediate: bool,
    tag: u32,
    transfer_tag: u32,
    number: i8,
    words: [u8; 6],
    data: usize,
}

fn plausible() -> impl Strategy<Value = Plausible> {
    use Opcode::{
        DataOut, LoginRequest, LogoutRequest, NopOut, ScsiCommand, SnackRequest, TaskManagementRequest,
        TextRequest,
    };
    let opcode = prop_oneof![
        6 => Just(ScsiCommand),
        6 => Just(DataOut),
        1 => Just(NopOut),
        1 => Just(TaskManagementRequest),
        1 => Just(LoginRequest),
        1 => Just(TextRequest),
        1 => Just(SnackRequest),
        1 => (0..20u8).prop_map(|n| if n == 0 { LogoutRequest } else { NopOut }),
    ];
    let data = prop_oneof![3 => Just(0), 3 => 0..600usize, 1 => 0..30_000usize];
    let number = prop_oneof![8 => Just(0), 1 => -3..4i8];
    let transfer_tag = prop_oneof![Just(u32::MAX), 0..8u32];
    (opcode, any::<u8>(), any::<bool>(), 0..12u32, transfer_tag, number, any::<[u8; 6]>(), data).prop_map(
        |(opcode, flags, immediate, tag, transfer_tag, number, words, data)| Plausible {
            opcode,
            flags,
            immediate,
            tag,
            transfer_tag,
            number,
            words,
            data,
        },
    )
}

impl Plausible {
    fn bytes(&self, peer: &mut Peer) -> Vec<u8> {
        let mut bhs = Bhs::new(self.opcode, self.flags);
        bhs.put_u32(16, self.tag);
        bhs.put_u32(
            20,
            if self.opcode == Opcode::ScsiCommand { self.transfer_tag << 10 } else { self.transfer_tag },
        );
        let numbered = !matches!(self.opcode, Opcode::DataOut | Opcode::SnackRequest | Opcode::LoginRequest);
        if self.immediate {
            bhs.0[0] |= 0x40;
        }
        bhs.put_u32(24, peer.cmd_sn.0.wrapping_add_signed(self.number.into()));
        if numbered && !self.immediate && self.number == 0 {
            peer.number();
        }
        for (i, word) in self.words.into_iter().enumerate() {
            bhs.0[36 + 2 * i + 1] = word & if i < 2 { 3 } else { 0xff };
        }
        let text = b"SendTargets=\0X-a=1\0MaxRecvDataSegmentLength=700\0";
        let data = match self.opcode {
            Opcode::TextRequest | Opcode::LoginRequest if self.words[0] > 60 => {
                text[..self.data.min(text.len())].to_vec()
            }
            _ => pattern(self.data),
        };
        common::encode(bhs, &[], &data, peer.digests)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes(
        which in 0..7u8,
        chunk in 1..9000usize,
        bytes in proptest::collection::vec(any::<u8>(), 0..3000),
        choices in proptest::collection::vec(any::<u8>(), 60),
    ) {
        let mut daemon = state(which, choices);
        daemon.peer.chunk = chunk;
        for part in bytes.chunks(500) {
            daemon.peer.send_bytes(part);
            daemon.serve();
        }
        daemon.finish();
    }

    #[test]
    fn random_pdus(
        which in 0..7u8,
        chunk in 1..9000usize,
        pdus in proptest::collection::vec(plausible(), 0..60),
        choices in proptest::collection::vec(any::<u8>(), 400),
        flips in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..2),
    ) {
        let mut daemon = state(which, choices);
        daemon.peer.chunk = chunk;
        for (i, pdu) in pdus.iter().enumerate() {
            let mut bytes = pdu.bytes(&mut daemon.peer);
            for (at, bits) in &flips {
                if usize::from(*at) % pdus.len() == i {
                    let at = usize::from(*at) % bytes.len();
                    bytes[at] ^= bits;
                }
            }
            daemon.peer.send_bytes(&bytes);
            daemon.serve();
        }
        daemon.finish();
    }

    /// Every command of a good initiator is answered once, whatever the daemon does in between, across the wrap of the numbers.
    #[test]
    fn good_writes(
        start in prop_oneof![Just(u32::MAX - 5), any::<u32>()],
        sizes in proptest::collection::vec((1..40_000u32, any::<bool>(), 1..9000usize), 1..20),
        chunk in 1..20_000usize,
        digests in any::<bool>(),
    ) {
        let text = format!("{SESSION_TEXT}{}", if digests { "HeaderDigest=CRC32C\0DataDigest=CRC32C\0" } else { "" });
        let (mut peer, info) = Peer::logged_in_at(small(), &text, start, !start);
        peer.chunk = chunk;
        let first_burst = info.params.first_burst_length;
        for (len, immediate, step) in sizes {
            let whole = pattern(len as usize);
            let command = peer.write_command(len);
            let now = if immediate { len.min(first_burst).min(step as u32) as usize } else { 0 };
            let tag = peer.start(&command, &whole[..now]);
            peer.accept(tag, len);
            loop {
                let r2ts: Vec<_> = peer.pdus().iter().map(|pdu| pdu.r2t()).collect();
                if r2ts.is_empty() {
                    break;
                }
                for r2t in r2ts {
                    peer.answer(&r2t, &whole, step);
                }
            }
            let (got, data) = peer.data_out_event();
            prop_assert_eq!(got, tag);
            prop_assert_eq!(&data[..], &whole[..]);
            peer.good(tag);
            prop_assert_eq!(peer.pdu().response().initiator_task_tag, command.initiator_task_tag);
            peer.no_event();
            peer.no_pdu();
        }
    }
}
