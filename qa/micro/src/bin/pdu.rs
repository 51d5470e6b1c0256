//! Instructions for PDUs, from bytes to a value and back, each with and without a header digest, and for CRC32C.
//!
//! `qa/bench/micro` runs it and says there what the counts depend on. `_x64` in a name: so many PDUs in one count.
#![forbid(unsafe_code)]
#![expect(missing_docs, reason = "what the macros of gungraun make public")]

use std::hint::black_box;

use gungraun::{Callgrind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main};
use lusd_iscsi::bhs::{BHS_LEN, Bhs, DIGEST_LEN, RESERVED_TAG};
use lusd_iscsi::pdu::{
    DataIn, DataInStatus, DataOut, ReadyToTransfer, Residual, ScsiCommand, ScsiResponse, ServiceResponse,
    TargetSns,
};
use lusd_iscsi::{Serial, TaskAttribute, digest};

const PDUS: u32 = 64;
const DATA_LEN: u32 = 4096;

/// A header and its digest on the wire.
type Wire = [u8; BHS_LEN + DIGEST_LEN];

fn sns(n: u32) -> TargetSns {
    TargetSns { stat_sn: Serial(n), exp_cmd_sn: Serial(n + 1), max_cmd_sn: Serial(n + 128) }
}

/// A PDU in both forms.
trait Pdu: Sized {
    fn sample(n: u32) -> Self;
    fn to_bhs(&self) -> Bhs;
    fn parse(bhs: &Bhs) -> Self;
}

impl Pdu for ScsiCommand {
    fn sample(n: u32) -> Self {
        Self {
            immediate: false,
            is_final: true,
            read: n.is_multiple_of(2),
            write: !n.is_multiple_of(2),
            attribute: TaskAttribute::Simple,
            lun: 0,
            initiator_task_tag: n,
            expected_data_transfer_length: DATA_LEN,
            cmd_sn: Serial(n),
            exp_stat_sn: Serial(n),
            cdb: [0x28; 16],
        }
    }

    fn to_bhs(&self) -> Bhs {
        self.to_bhs()
    }

    fn parse(bhs: &Bhs) -> Self {
        Self::parse(bhs).expect("a sample")
    }
}

impl Pdu for DataIn {
    fn sample(n: u32) -> Self {
        Self {
            is_final: true,
            status: Some(DataInStatus { status: 0, residual: Residual::None }),
            initiator_task_tag: n,
            sns: sns(n),
            data_sn: Serial(0),
            buffer_offset: 0,
        }
    }

    fn to_bhs(&self) -> Bhs {
        self.to_bhs()
    }

    fn parse(bhs: &Bhs) -> Self {
        Self::parse(bhs).expect("a sample")
    }
}

impl Pdu for DataOut {
    fn sample(n: u32) -> Self {
        Self {
            is_final: true,
            lun: 0,
            initiator_task_tag: n,
            target_transfer_tag: RESERVED_TAG,
            exp_stat_sn: Serial(n),
            data_sn: Serial(0),
            buffer_offset: 0,
        }
    }

    fn to_bhs(&self) -> Bhs {
        self.to_bhs()
    }

    fn parse(bhs: &Bhs) -> Self {
        Self::parse(bhs)
    }
}

impl Pdu for ReadyToTransfer {
    fn sample(n: u32) -> Self {
        Self {
            lun: 0,
            initiator_task_tag: n,
            target_transfer_tag: n,
            sns: sns(n),
            r2t_sn: Serial(0),
            buffer_offset: 0,
            desired_data_transfer_length: DATA_LEN,
        }
    }

    fn to_bhs(&self) -> Bhs {
        self.to_bhs()
    }

    fn parse(bhs: &Bhs) -> Self {
        Self::parse(bhs).expect("a sample")
    }
}

impl Pdu for ScsiResponse {
    fn sample(n: u32) -> Self {
        Self {
            response: ServiceResponse::Completed,
            status: 0,
            initiator_task_tag: n,
            sns: sns(n),
            exp_data_sn: Serial(0),
            residual: Residual::None,
            bidi_read_residual: Residual::None,
        }
    }

    fn to_bhs(&self) -> Bhs {
        self.to_bhs()
    }

    fn parse(bhs: &Bhs) -> Self {
        Self::parse(bhs).expect("a sample")
    }
}

fn values<T: Pdu>() -> Vec<T> {
    (0..PDUS).map(T::sample).collect()
}

fn wires<T: Pdu>() -> Vec<Wire> {
    let wire = |n| {
        let bhs = T::sample(n).to_bhs();
        let mut wire = [0; BHS_LEN + DIGEST_LEN];
        wire[..BHS_LEN].copy_from_slice(&bhs.0);
        wire[BHS_LEN..].copy_from_slice(&digest::of(&bhs.0));
        wire
    };
    (0..PDUS).map(wire).collect()
}

/// Builds the header of each value, with its length and, where it is asked for, its digest.
#[inline(always)]
fn build<T: Pdu>(values: Vec<T>, header_digest: bool) -> Vec<T> {
    for value in black_box(&values) {
        let mut bhs = value.to_bhs();
        bhs.set_data_segment_length(DATA_LEN);
        if header_digest {
            black_box(digest::of(&bhs.0));
        }
        black_box(&bhs);
    }
    values
}

/// Takes headers apart; where there are digests they are checked first.
#[inline(always)]
fn parse<T: Pdu>(wires: Vec<Wire>, header_digest: bool) -> Vec<Wire> {
    for wire in black_box(&wires) {
        if header_digest {
            assert!(digest::of(&wire[..BHS_LEN]) == wire[BHS_LEN..], "a digest is wrong");
        }
        let bhs = Bhs::from_prefix(wire).expect("a whole header");
        black_box(T::parse(&bhs));
    }
    wires
}

/// The benches of one PDU. What a bench returns is dropped outside of its count.
macro_rules! bench {
    ($pdu:ident, $build:ident, $parse:ident) => {
        #[library_benchmark]
        #[bench::plain(values(), false)]
        #[bench::header_digest(values(), true)]
        fn $build(values: Vec<$pdu>, header_digest: bool) -> Vec<$pdu> {
            build(values, header_digest)
        }

        #[library_benchmark]
        #[bench::plain(wires::<$pdu>(), false)]
        #[bench::header_digest(wires::<$pdu>(), true)]
        fn $parse(wires: Vec<Wire>, header_digest: bool) -> Vec<Wire> {
            parse::<$pdu>(wires, header_digest)
        }
    };
}

bench!(ScsiCommand, build_scsi_command_x64, parse_scsi_command_x64);
bench!(DataIn, build_data_in_x64, parse_data_in_x64);
bench!(DataOut, build_data_out_x64, parse_data_out_x64);
bench!(ReadyToTransfer, build_r2t_x64, parse_r2t_x64);
bench!(ScsiResponse, build_scsi_response_x64, parse_scsi_response_x64);

fn bytes(len: usize) -> Vec<u8> {
    // The first digest of a process looks at what the processor can.
    black_box(digest::of(&[0]));
    (0..len).map(|i| i as u8).collect()
}

#[library_benchmark]
#[bench::header(bytes(BHS_LEN))]
#[bench::of_4k(bytes(4 << 10))]
#[bench::of_256k(bytes(256 << 10))]
fn crc32c(bytes: Vec<u8>) -> Vec<u8> {
    black_box(digest::of(black_box(&bytes)));
    bytes
}

library_benchmark_group!(
    name = pdus,
    benchmarks = [
        build_scsi_command_x64,
        parse_scsi_command_x64,
        build_data_in_x64,
        parse_data_in_x64,
        build_data_out_x64,
        parse_data_out_x64,
        build_r2t_x64,
        parse_r2t_x64,
        build_scsi_response_x64,
        parse_scsi_response_x64
    ]
);
library_benchmark_group!(name = digests, benchmarks = [crc32c]);

main!(
    config = LibraryBenchmarkConfig::default()
        .pass_through_env("GLIBC_TUNABLES")
        .tool(Callgrind::with_args(["--cache-sim=no"])),
    library_benchmark_groups = [pdus, digests]
);
