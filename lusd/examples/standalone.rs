//! Serves one `null:` and one `ram:` logical unit without a cluster, to profile the target itself:
//!
//!     cargo run --release -p lusd --example standalone -- 127.0.0.1:3270 [SHARDS]
//!     iscsi-ls -s iscsi://127.0.0.1:3270
//!
//! LUN 0 is `null:` (1 TiB), LUN 1 `ram:` (1 GiB). Nothing of the map, the lock or the gate's epochs is exercised beyond one opening.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::sync::Arc;

use lusd::lun::backend::Backend;
use lusd::lun::gate::LuEpoch;
use lusd::lun::ram::RamStore;
use lusd::lun::reserve;
use lusd::lun::unit::Unit;
use lusd::net::shard::ShardHandle;
use lusd::service::{Limits, Service};
use lusd::target::view::{Portal, TargetView, View};
use lusd_scsi::{AccessState, Identity, LogicalUnit, LogicalUnitConfig, Lun};

const TARGET: &str = "iqn.2026-11.io.lus:standalone";

fn unit(name: &str, bytes: u64, backend: Backend, shards: usize) -> anyhow::Result<Arc<Unit>> {
    let id = lus_map::LuId(uuid::Uuid::new_v4());
    let identity = Identity::new(*id.0.as_bytes());
    let scsi = LogicalUnit::new(LogicalUnitConfig::new(identity, bytes), AccessState::BecomingReady)?;
    let unit = Unit::new(id, name.to_owned(), scsi, shards);
    unit.serve(LuEpoch(1), Arc::new(backend));
    Ok(unit)
}

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let mut args = std::env::args().skip(1);
    let address: SocketAddr = args.next().as_deref().unwrap_or("127.0.0.1:3270").parse()?;
    let shards: usize = args.next().as_deref().unwrap_or("1").parse()?;
    let service = Service::new(Limits::default(), shards);
    let luns = [
        (Lun::ZERO, unit("null:n", 1 << 40, Backend::Null, shards)?),
        (
            Lun::new(1).expect("a small number"),
            unit("ram:r", 1 << 30, Backend::Ram(RamStore::new(1 << 30)), shards)?,
        ),
    ];
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build()?;
    for (_, unit) in &luns {
        runtime.spawn(reserve::serve_volatile(unit.clone(), service.clone()));
    }
    let target = TargetView { open: true, luns: luns.into_iter().collect(), ..Default::default() };
    service.publish(View {
        group_tag: 1,
        targets: [(TARGET.to_owned(), target)].into(),
        portals: vec![Portal { address, group_tag: 1 }],
    });
    let handles =
        (0..shards).map(|i| ShardHandle::start(i, service.clone())).collect::<Result<Vec<_>, _>>()?;
    let listener = std::net::TcpListener::bind(address)?;
    eprintln!("iscsi://{address}/{TARGET}/0");
    for i in 0.. {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        runtime.block_on(handles[i % shards].accept(stream));
    }
    Ok(())
}
