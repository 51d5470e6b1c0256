//! Measures the data path: random 4k operations of one image, 32 deep, through a [`CompletionQueue`] and tokio.
//!
//! ```text
//! eval "$(tools/vstart env)"
//! cargo run --release -p lusd-ceph --example randread -- rbd/IMAGE [read|write] [DEPTH] [SECONDS] [BYTES] [OPTION=VALUE ...]
//! ```
//!
//! Prints operations a second and the process's CPU time for each: librbd's threads are in it. To compare with fio on the same image:
//! `fio --name=x --ioengine=rbd --clientname=ID --pool=rbd --rbdname=IMAGE --rw=randread --bs=4k --iodepth=32 --runtime=10 --time_based`.
#![allow(clippy::print_stdout)]

use std::{
    error::Error,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use lusd_ceph::{Cluster, ClusterOptions, CompletionQueue, Image, OpBuffers, OpenMode, QueueWaiter};
use smallvec::smallvec;

fn cpu() -> Duration {
    let clock = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(clock.tv_sec.unsigned_abs(), clock.tv_nsec as u32)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let (settings, args): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|arg| arg.contains('='));
    let arg = |n: usize, default: &str| args.get(n).cloned().unwrap_or_else(|| default.to_owned());
    let spec = arg(0, "rbd/bench");
    let (pool, name) = spec.split_once('/').ok_or("POOL/IMAGE")?;
    let writes = arg(1, "read") == "write";
    let (depth, seconds, block): (u64, u64, usize) =
        (arg(2, "32").parse()?, arg(3, "10").parse()?, arg(4, "4096").parse()?);

    let mut options = ClusterOptions::from_env().for_images();
    for setting in &settings {
        let (option, value) = setting.split_once('=').unwrap_or((setting, ""));
        options = options.option(option, value);
    }
    let cluster = Cluster::connect(options).await?;
    let image = Image::open(&cluster.pool(pool, None).await?, name, OpenMode::ReadWrite).await?;
    image.lock_acquire().await?;
    let queue = CompletionQueue::new()?;
    let waiter = QueueWaiter::new(queue.clone())?;
    let blocks = image.size() / block as u64;
    let data = Bytes::from(vec![0x5A; block]);

    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut submit = |token: u64, buf: OpBuffers| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let offset = random % blocks * block as u64;
        if writes {
            return image.write(&queue, token, offset, smallvec![data.clone()]);
        }
        let buf = match buf {
            OpBuffers::Read(mut buf) => {
                buf.clear();
                buf
            }
            _ => BytesMut::with_capacity(block),
        };
        image.read(&queue, token, offset, buf, block)
    };
    for token in 0..depth {
        submit(token, OpBuffers::None)?;
    }
    let (start, cpu_start, end) = (Instant::now(), cpu(), Instant::now() + Duration::from_secs(seconds));
    let (mut done, mut wakes, mut in_flight) = (0u64, 0u64, depth);
    while in_flight > 0 {
        waiter.wait().await?;
        wakes += 1;
        let more = Instant::now() < end;
        let mut failed = None;
        queue.drain(|completed| {
            in_flight -= 1;
            match completed.result {
                Ok(_) => done += 1,
                Err(errno) => failed = Some(errno),
            }
            if more && failed.is_none() {
                match submit(completed.token, completed.buffers) {
                    Ok(()) => in_flight += 1,
                    Err(error) => failed = Some(error.errno),
                }
            }
        });
        if let Some(errno) = failed {
            return Err(format!("an operation failed: {errno}").into());
        }
    }
    let (elapsed, cpu) = (start.elapsed(), cpu() - cpu_start);
    println!(
        "{} {block} bytes, depth {depth}: {:.0} IOPS, {:.1} us CPU per operation, {:.2} wakes per operation",
        if writes { "write" } else { "read" },
        done as f64 / elapsed.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / done as f64,
        wakes as f64 / done as f64,
    );
    drop(waiter);
    image.close().await?;
    cluster.shutdown().await;
    Ok(())
}
