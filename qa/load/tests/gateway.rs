//! The load against lusd's data path in this process: what is written with a pattern is read back, and what is wrong is told.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use lus_load::drive::run;
use lus_load::options::Options;
use lus_load::report::Report;
use lusd::lun::backend::Backend;
use lusd::lun::gate::LuEpoch;
use lusd::lun::ram::RamStore;
use lusd::lun::unit::Unit;
use lusd::net::shard::ShardHandle;
use lusd::service::{Limits, Service};
use lusd::target::view::{TargetView, View};
use lusd_scsi::{AccessState, BlockSize, Identity, LogicalUnit, LogicalUnitConfig, Lun};

const TARGET: &str = "iqn.2026-11.io.lus:load-test";
const CAPACITY: u64 = 4 << 20;

/// lusd with a `ram:` unit as LUN 0 and a `null:` unit with blocks of 4096 bytes as LUN 1. It serves until the process ends.
fn gateway(iscsi: lusd_iscsi::Config) -> SocketAddr {
    let service = Service::new(Limits { iscsi: Arc::new(iscsi), ..Limits::default() }, 1);
    let unit = |name: &str, block_size, backend| {
        let id = lus_map::LuId(uuid::Uuid::new_v4());
        let config = LogicalUnitConfig {
            block_size,
            physical_block_exponent: 0,
            ..LogicalUnitConfig::new(Identity::new(*id.0.as_bytes()), CAPACITY)
        };
        let scsi = LogicalUnit::new(config, AccessState::BecomingReady).unwrap();
        let unit = Unit::new(id, name.to_owned(), scsi, 1);
        unit.serve(LuEpoch(1), Arc::new(backend));
        unit
    };
    let luns = [
        (Lun::ZERO, unit("ram:test", BlockSize::B512, Backend::Ram(RamStore::new(CAPACITY)))),
        (Lun::new(1).unwrap(), unit("null:test", BlockSize::B4096, Backend::Null)),
    ];
    let target = TargetView { open: true, luns: luns.into_iter().collect(), ..Default::default() };
    service.publish(View {
        group_tag: 1,
        targets: [(TARGET.to_owned(), target)].into(),
        ..Default::default()
    });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let shard = ShardHandle::start(0, service).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            runtime.block_on(shard.accept(stream));
        }
    });
    address
}

fn load(address: SocketAddr, lun: u16, words: &str) -> anyhow::Result<Report> {
    let url = format!("iscsi://{address}/{TARGET}/{lun}");
    run(&Options::try_parse_from(["lus-load", &url].into_iter().chain(words.split_whitespace()))?)
}

#[track_caller]
fn error(address: SocketAddr, lun: u16, words: &str) -> String {
    format!("{:#}", load(address, lun, words).expect_err("it must not go well"))
}

/// The whole unit once, in order: as many I/Os as fit.
fn once(rw: &str, bs: u64, more: &str) -> String {
    format!("--rw={rw} --bs={bs} --number-ios={} --verify --runtime=60 {more}", CAPACITY / bs)
}

#[test]
fn what_was_written_is_read() {
    let address = gateway(lusd_iscsi::Config::default());
    for (seed, more) in [(1, "--iodepth=8"), (2, "--iodepth=32 --header-digest"), (3, "--iodepth=2")] {
        let more = format!("{more} --seed={seed}");
        // More than the first burst, so that there are R2Ts.
        let written = load(address, 0, &once("write", 1 << 20, &more)).unwrap();
        assert_eq!((written.total_ios(), written.writes), (CAPACITY >> 20, true));
        let read = load(address, 0, &once("read", 64 << 10, &more)).unwrap();
        assert_eq!((read.total_ios(), read.writes), (CAPACITY >> 16, false));
        let some = format!("--number-ios=500 --verify --runtime=60 --sessions=3 {more}");
        load(address, 0, &format!("--rw=randread --bs=4k {some}")).unwrap();
        load(address, 0, &format!("--rw=randwrite --bs=512 {some}")).unwrap();
        load(address, 0, &once("read", 1 << 20, &more)).unwrap();
    }
    assert!(error(address, 0, &once("read", 4096, "--seed=9")).contains("is not what was written"));
}

#[test]
fn every_way_that_data_may_go() {
    let default = lusd_iscsi::Config::default;
    for (initial_r2t, immediate_data, segment, burst) in [
        (true, true, 8192, 65_536),
        (true, false, 8192, 65_536),
        (false, false, 8192, 65_536),
        (false, true, 4096, 16_384),
    ] {
        let address = gateway(lusd_iscsi::Config {
            initial_r2t,
            immediate_data,
            max_recv_data_segment_length: segment,
            first_burst_length: burst,
            max_burst_length: burst * 2,
            ..default()
        });
        for bs in [512, 8192, 65_536, 1 << 20] {
            let words = |rw| {
                format!("--rw={rw} --bs={bs} --size={bs} --iodepth=4 --number-ios=8 --verify --runtime=60")
            };
            load(address, 0, &words("write")).unwrap();
            load(address, 0, &words("read")).unwrap();
        }
    }
}

#[test]
fn it_ends_in_time_and_counts() {
    let address = gateway(lusd_iscsi::Config::default());
    let report = load(address, 1, "--iodepth=32 --sessions=2 --runtime=0.3").unwrap();
    assert!(
        report.took >= Duration::from_millis(290) && report.took < Duration::from_secs(20),
        "{:?}",
        report.took
    );
    assert!(
        report.total_ios() > 100 && report.latency_ns.min() > 0 && report.latency_ns.max() < 20_000_000_000
    );
    assert!(report.user + report.system > Duration::ZERO);
}

#[test]
fn what_is_wrong_is_told() {
    let address = gateway(lusd_iscsi::Config::default());
    assert!(error(address, 7, "").contains("the unit is not ready"), "{}", error(address, 7, ""));
    assert!(error(address, 1, "--bs=512").contains("not a multiple of the unit's blocks of 4096 bytes"));
    assert!(error(address, 0, "--size=5m").contains("more than the unit's"));
    let url = format!("iscsi://{address}/iqn.2026-11.io.lus:other/0");
    let text = format!("{:#}", run(&Options::try_parse_from(["lus-load", &url]).unwrap()).unwrap_err());
    assert!(text.contains("the target refuses: NotFound"), "{text}");
    // Nobody listens there any more.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert!(error(gone, 0, "").contains("cannot connect"));
    // Somebody who listens and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let text = error(silent.local_addr().unwrap(), 0, "--patience=0.2");
    assert!(text.contains("cannot log in: no answer"), "{text}");
    let only_none = lusd_iscsi::DigestOffer { none: true, crc32c: false };
    let without = gateway(lusd_iscsi::Config { header_digest: only_none, ..Default::default() });
    let text = error(without, 0, "--header-digest");
    assert!(text.contains("cannot log in"), "{text}");
}

#[test]
fn the_program_ends_with_its_result() {
    let address = gateway(lusd_iscsi::Config::default());
    let run = |words: &[&str]| {
        std::process::Command::new(env!("CARGO_BIN_EXE_lus-load")).args(words).output().unwrap()
    };
    let url = format!("iscsi://{address}/{TARGET}/0");
    let good = run(&[&url, "--rw=randwrite", "--number-ios=100", "-f", "json"]);
    assert!(good.status.success(), "{good:?}");
    let json: serde_json::Value = serde_json::from_slice(&good.stdout).unwrap();
    assert_eq!((&json["jobs"][0]["write"]["total_ios"], &json["jobs"][0]["error"]), (&100.into(), &0.into()));
    let bad = run(&[&format!("iscsi://{address}/{TARGET}/9")]);
    assert!(
        !bad.status.success() && bad.stdout.is_empty() && bad.stderr.starts_with(b"lus-load: "),
        "{bad:?}"
    );
}
