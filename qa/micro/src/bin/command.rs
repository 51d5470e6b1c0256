//! Instructions for whole commands on a `null:` unit: from the bytes of the command to the slices of its answer, through everything
//! that lusd does for it (framer, codec, session, plan, gate, backend, Data-In and Response), without a socket.
//!
//! [`Rig::round`] stands for `lusd::net::connection`'s own round, whose reads and writes are system calls. What the kernel would copy
//! is copied here by [`from_the_kernel`], which does not count: `--toggle-collect` stops the count while it runs.
//!
//! `qa/bench/micro` runs it and says there what the counts depend on. `_x32` in a name: so many commands in one round.
#![forbid(unsafe_code)]
#![expect(missing_docs, reason = "what the macros of gungraun make public")]

use std::hint::black_box;
use std::io::IoSlice;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::{BufMut, BytesMut};
use gungraun::{Callgrind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main};
use lusd::lun::backend::Backend;
use lusd::lun::gate::LuEpoch;
use lusd::lun::unit::Unit;
use lusd::net::memory::ConnectionMemory;
use lusd::net::shard::{Inbox, Shard};
use lusd::service::{Limits, Service};
use lusd::target::session::{Carrier, Flow, Session};
use lusd::target::sessions::{ConnectionHandle, Stop};
use lusd::target::view::{TargetView, View};
use lusd_iscsi::pdu::{DataOut, Isid, LoginRequest, ReadyToTransfer, ScsiCommand, Stage};
use lusd_iscsi::{Connection, Event, LoginGrant, Serial, TaskAttribute, bhs, digest, text};
use lusd_scsi::{AccessState, Identity, InitiatorPort, LogicalUnit, LogicalUnitConfig, Lun};
use tokio::sync::Notify;

const TARGET: &str = "iqn.2026-11.io.lus:bench";
const HOST: &str = "iqn.2026-11.io.lus:host";
const BLOCK: u32 = 512;
/// As in `lusd::net::connection`.
const IO_SLICES: usize = 128;
/// Commands before those that count, so that tables and buffers have the size that they keep.
const WARM_UP: u32 = 128;

/// One logged-in connection with all that its task would hold.
struct Rig {
    shard: Rc<Shard>,
    proto: Connection,
    inbox: Rc<Inbox>,
    memory: Arc<ConnectionMemory>,
    handle: Arc<ConnectionHandle>,
    session: Option<Session>,
    now: Instant,
    header_digest: bool,
    cmd_sn: u32,
    /// What the initiator has to send, and how much of it was taken.
    input: Vec<u8>,
    taken: usize,
    /// What the target sent last.
    sent: Vec<u8>,
    /// What runs now counts: input comes [`from_the_kernel`], output is not kept.
    counts: bool,
}

/// The parts of a connection that a session works with.
macro_rules! carrier {
    ($rig:ident) => {
        Carrier {
            shard: &$rig.shard,
            inbox: &$rig.inbox,
            memory: &$rig.memory,
            proto: &mut $rig.proto,
            now: $rig.now,
            since: $rig.now,
        }
    };
}

/// What a read of the socket would copy into our memory. Called within a count only: elsewhere it would start one.
#[inline(never)]
fn from_the_kernel(buf: &mut BytesMut, bytes: &[u8]) {
    buf.put_slice(bytes);
}

fn null_unit() -> Arc<Unit> {
    let id = lus_map::LuId(uuid::Uuid::from_u128(7));
    let config = LogicalUnitConfig::new(Identity::new(*id.0.as_bytes()), 1 << 40);
    let scsi = LogicalUnit::new(config, AccessState::BecomingReady).expect("a unit");
    let unit = Unit::new(id, "null:bench".to_owned(), scsi, 1);
    unit.serve(LuEpoch(1), Arc::new(Backend::Null));
    unit
}

impl Rig {
    fn new(header_digest: bool) -> Self {
        let service = Service::new(Limits::default(), 1);
        let target = TargetView { open: true, luns: [(Lun::ZERO, null_unit())].into(), ..Default::default() };
        service.publish(View {
            group_tag: 1,
            targets: [(TARGET.to_owned(), target)].into(),
            ..Default::default()
        });
        let queue = lusd_ceph::CompletionQueue::new().expect("an eventfd");
        let notify = Arc::new(Notify::new());
        let now = Instant::now();
        let mut rig = Self {
            proto: Connection::new(service.limits.iscsi.clone(), now, 1),
            inbox: Inbox::new(notify.clone()),
            memory: ConnectionMemory::new(service.memory.clone(), service.limits.connection_memory),
            handle: service.sessions.enter(notify, std::net::Ipv4Addr::LOCALHOST.into()),
            shard: Shard::new(0, service, queue),
            session: None,
            now,
            header_digest: false,
            cmd_sn: 1,
            input: Vec::new(),
            taken: 0,
            sent: Vec::new(),
            counts: false,
        };
        rig.login(header_digest);
        rig
    }

    fn login(&mut self, header_digest: bool) {
        let mut keys = Vec::new();
        for (key, value) in [
            ("InitiatorName", HOST),
            ("TargetName", TARGET),
            ("HeaderDigest", if header_digest { "CRC32C" } else { "None" }),
            ("InitialR2T", "No"),
            ("ImmediateData", "Yes"),
            ("MaxRecvDataSegmentLength", "262144"),
            ("FirstBurstLength", "262144"),
            ("MaxBurstLength", "1048576"),
        ] {
            text::push(&mut keys, key, value);
        }
        let request = LoginRequest {
            csg: Stage::LoginOperationalNegotiation,
            nsg: Some(Stage::FullFeaturePhase),
            continues: false,
            version_max: 0,
            version_min: 0,
            isid: Isid([0x80, 0, 0, 0, 0, 1]),
            tsih: 0,
            initiator_task_tag: 0,
            cid: 0,
            cmd_sn: Serial(self.cmd_sn),
            exp_stat_sn: Serial(0),
        };
        self.push(request.to_bhs(), &keys);
        self.round();
        assert!(self.session.is_some(), "the login failed");
        self.header_digest = header_digest;
        self.sent.clear();
        // The unit attention of a new session.
        self.command([0; 16], 0, None);
        self.round();
        assert_eq!(self.statuses(), [2]);
    }

    /// A PDU for the target to read.
    fn push(&mut self, mut bhs: bhs::Bhs, data: &[u8]) {
        bhs.set_data_segment_length(data.len() as u32);
        self.input.extend(bhs.0);
        if self.header_digest {
            self.input.extend(digest::of(&bhs.0));
        }
        self.input.extend(data);
        self.input.resize(self.input.len() + bhs::pad_len(data.len() as u32), 0);
    }

    fn command(&mut self, cdb: [u8; 16], len: u32, data: Option<&[u8]>) {
        let command = ScsiCommand {
            immediate: false,
            is_final: true,
            read: len > 0 && data.is_none(),
            write: data.is_some(),
            attribute: TaskAttribute::Simple,
            lun: 0,
            initiator_task_tag: self.cmd_sn,
            expected_data_transfer_length: len,
            cmd_sn: Serial(self.cmd_sn),
            exp_stat_sn: Serial(self.cmd_sn),
            cdb,
        };
        self.cmd_sn += 1;
        self.push(command.to_bhs(), data.unwrap_or_default());
    }

    /// READ (10) or WRITE (10), with as much immediate data as is allowed.
    fn transfer(&mut self, write: bool, len: u32) {
        let mut cdb = [0; 16];
        cdb[0] = if write { 0x2a } else { 0x28 };
        cdb[2..6].copy_from_slice(&(self.cmd_sn.wrapping_mul(len / BLOCK) % (1 << 20)).to_be_bytes());
        cdb[7..9].copy_from_slice(&((len / BLOCK) as u16).to_be_bytes());
        let data = vec![7; len.min(self.proto.params().first_burst_length) as usize];
        self.command(cdb, len, write.then_some(&data));
    }

    /// The data that the R2Ts in `sent` ask for.
    fn answer_r2ts(&mut self) {
        let sent = std::mem::take(&mut self.sent);
        for (bhs, _) in pdus(&sent, self.header_digest) {
            let Ok(r2t) = ReadyToTransfer::parse(&bhs) else { continue };
            assert_eq!(bhs.opcode(), Some(bhs::Opcode::ReadyToTransfer));
            let end = r2t.buffer_offset + r2t.desired_data_transfer_length;
            let mut at = r2t.buffer_offset;
            for data_sn in 0.. {
                let len = (end - at).min(self.shard.service.limits.iscsi.max_recv_data_segment_length);
                let data_out = DataOut {
                    is_final: at + len == end,
                    lun: r2t.lun,
                    initiator_task_tag: r2t.initiator_task_tag,
                    target_transfer_tag: r2t.target_transfer_tag,
                    exp_stat_sn: Serial(self.cmd_sn),
                    data_sn: Serial(data_sn),
                    buffer_offset: at,
                };
                self.push(data_out.to_bhs(), &vec![7; len as usize]);
                at += len;
                if at == end {
                    break;
                }
            }
        }
    }

    /// The status of each answer in `sent`.
    fn statuses(&mut self) -> Vec<u8> {
        let sent = std::mem::take(&mut self.sent);
        let ends = |bhs: &bhs::Bhs| match bhs.opcode() {
            Some(bhs::Opcode::ScsiResponse) => true,
            Some(bhs::Opcode::DataIn) => bhs.has_flag(1),
            _ => false,
        };
        pdus(&sent, self.header_digest).iter().filter(|(bhs, _)| ends(bhs)).map(|(bhs, _)| bhs.0[3]).collect()
    }

    /// As `lusd::net::connection`: handles all that is there now.
    fn round(&mut self) {
        assert_eq!(self.handle.stop(), Stop::No);
        if let Some(session) = &mut self.session {
            self.proto.set_window_closed(self.memory.daemon().is_tight());
            session.refresh(&self.shard, &mut self.proto).expect("the host has access");
            session.resume(&mut carrier!(self));
        }
        self.outcomes();
        loop {
            self.events();
            if !self.read() {
                break;
            }
        }
        loop {
            self.events();
            if let Some(session) = &mut self.session {
                session.feed(&mut carrier!(self));
            }
            self.outcomes();
            let held_up = self.proto.is_output_full();
            self.write();
            if !held_up || self.proto.is_output_full() {
                return;
            }
        }
    }

    fn outcomes(&mut self) {
        assert!(!self.inbox.is_revoked(), "the unit was lost");
        while let Some((tag, outcome)) = self.inbox.pop() {
            if let Some(session) = &mut self.session {
                session.outcome(tag, outcome, &mut self.proto).expect("the unit was lost");
            }
        }
    }

    fn events(&mut self) {
        while let Some(event) = self.proto.poll(self.now) {
            match event {
                Event::Login(_) => {
                    self.proto.login_grant(LoginGrant {
                        portal_group_tag: 1,
                        tsih: 1,
                        ..LoginGrant::default()
                    });
                }
                Event::LoggedIn(_) => {
                    let host = InitiatorPort { name: HOST.to_owned(), isid: [0; 6] };
                    let params = lusd_iscsi::Params::default();
                    self.session = Some(Session::new(&self.shard, host, TARGET.to_owned(), &params, None));
                }
                Event::Command(command) => {
                    let session = self.session.as_mut().expect("logged in");
                    assert_eq!(session.command(command, &mut carrier!(self)), Flow::Taken);
                }
                Event::DataOut { tag, data } => {
                    let session = self.session.as_mut().expect("logged in");
                    session.data_out(tag, data, &mut carrier!(self));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// False when there is nothing to read.
    fn read(&mut self) -> bool {
        let left = &self.input[self.taken..];
        let target = self.proto.read_target();
        let n = left.len().min(target.limit);
        if n == 0 {
            assert!(left.is_empty(), "the target does not read on");
            return false;
        }
        if self.counts {
            from_the_kernel(target.buf, &left[..n]);
        } else {
            target.buf.put_slice(&left[..n]);
        }
        self.proto.received(n);
        self.taken += n;
        true
    }

    fn write(&mut self) {
        while self.proto.output_len() > 0 {
            let mut slices = [IoSlice::new(&[]); IO_SLICES];
            let n = self.proto.fill_io_slices(&mut slices);
            let len = slices[..n].iter().map(|slice| slice.len()).sum();
            if self.counts {
                black_box(&slices);
            } else {
                slices[..n].iter().for_each(|slice| self.sent.extend_from_slice(slice));
            }
            self.proto.sent(len);
        }
    }

    /// Takes the input away, as read.
    fn next_input(&mut self) {
        assert_eq!(self.taken, self.input.len());
        self.input.clear();
        self.taken = 0;
    }
}

/// Headers and data of a stream of a target.
fn pdus(mut bytes: &[u8], header_digest: bool) -> Vec<(bhs::Bhs, Vec<u8>)> {
    let mut pdus = Vec::new();
    while let Some(bhs) = bhs::Bhs::from_prefix(bytes) {
        let start = bhs::BHS_LEN + if header_digest { bhs::DIGEST_LEN } else { 0 };
        let len = bhs.data_segment_length();
        pdus.push((bhs, bytes[start..start + len as usize].to_vec()));
        bytes = &bytes[start + len as usize + bhs::pad_len(len)..];
    }
    assert!(bytes.is_empty(), "a PDU is cut short");
    pdus
}

/// A connection on which `count` commands of `len` bytes were answered rightly, and as many more wait to be read.
fn rig(header_digest: bool, write: bool, len: u32, count: u32) -> Rig {
    let mut rig = Rig::new(header_digest);
    for _ in 0..WARM_UP.div_ceil(count) {
        rig.next_input();
        (0..count).for_each(|_| rig.transfer(write, len));
        rig.round();
        if write && len > rig.proto.params().first_burst_length {
            rig.next_input();
            rig.answer_r2ts();
            rig.round();
        }
        assert_eq!(rig.statuses(), vec![0; count as usize]);
    }
    rig.next_input();
    rig.counts = true;
    (0..count).for_each(|_| rig.transfer(write, len));
    rig
}

/// A connection on which the first burst of a write of 1 MiB was taken, and the data for its R2Ts waits to be read.
fn rig_after_r2t() -> Rig {
    let mut rig = rig(false, true, 1 << 20, 1);
    rig.counts = false;
    rig.round();
    rig.next_input();
    rig.answer_r2ts();
    rig.counts = true;
    rig
}

// The rig is returned, so that it is dropped outside of the count.

#[library_benchmark]
#[bench::one(rig(false, false, 4 << 10, 1))]
fn read_4k(mut rig: Rig) -> Rig {
    rig.round();
    rig
}

#[library_benchmark]
#[bench::plain(rig(false, false, 4 << 10, 32))]
#[bench::header_digest(rig(true, false, 4 << 10, 32))]
fn read_4k_x32(mut rig: Rig) -> Rig {
    rig.round();
    rig
}

#[library_benchmark]
#[bench::one(rig(false, false, 256 << 10, 1))]
fn read_256k(mut rig: Rig) -> Rig {
    rig.round();
    rig
}

#[library_benchmark]
#[bench::one(rig(false, true, 4 << 10, 1))]
fn write_4k(mut rig: Rig) -> Rig {
    rig.round();
    rig
}

#[library_benchmark]
#[bench::plain(rig(false, true, 4 << 10, 32))]
#[bench::header_digest(rig(true, true, 4 << 10, 32))]
fn write_4k_x32(mut rig: Rig) -> Rig {
    rig.round();
    rig
}

#[library_benchmark]
#[bench::immediate(rig(false, true, 256 << 10, 1))]
fn write_256k(mut rig: Rig) -> Rig {
    rig.round();
    rig
}

#[library_benchmark]
#[bench::after_r2t(rig_after_r2t())]
fn write_1m(mut rig: Rig) -> Rig {
    rig.round();
    rig
}

library_benchmark_group!(
    name = null,
    benchmarks = [read_4k, read_4k_x32, read_256k, write_4k, write_4k_x32, write_256k, write_1m]
);

main!(
    config = LibraryBenchmarkConfig::default()
        .pass_through_env("GLIBC_TUNABLES")
        .tool(Callgrind::with_args(["--cache-sim=no", "--toggle-collect=command::from_the_kernel"])),
    library_benchmark_groups = [null]
);
