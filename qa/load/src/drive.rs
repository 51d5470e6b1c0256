//! Sockets and the clock: connects, logs in, loads, logs out.

use std::io::{ErrorKind, Read};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use lusd_iscsi::bhs::Opcode;
use lusd_iscsi::pdu::{Isid, LoginRequest, LoginResponse, Stage};
use lusd_iscsi::{LoginStatus, Serial};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::login::{self, Agreed};
use crate::options::{IO_BYTES_MAX, Options};
use crate::pattern::{self, Random};
use crate::report::Report;
use crate::session::{Answer, Command, Session, op};
use crate::wire::{Input, Output, Piece};

/// Exchanges of one login at most; two are needed.
const LOGIN_ROUNDS_MAX: u32 = 16;
/// Text of one login answer at most, bytes.
const LOGIN_TEXT_MAX: usize = 64 << 10;
/// Unit attentions, one after the other, that are read away before the load.
const ATTENTIONS_MAX: u32 = 16;
/// How often the bound on waiting is looked at.
const TICK: Duration = Duration::from_millis(200);
/// Longest latency that is told apart, nanoseconds, and significant decimal digits.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;
const LATENCY_DIGITS: u8 = 3;
/// First CmdSN of a session: any number.
const CMD_SN: Serial = Serial(1);

/// A session with its socket's other half.
struct Lane {
    session: Session,
    input: Input,
    random: Random,
    /// The next I/O of a sequential load.
    next: u64,
    /// When the last answer came.
    heard: Instant,
}

/// What to do, in numbers that fit the unit.
struct Job {
    writes: bool,
    random: bool,
    bs: u64,
    /// Length of a logical block, bytes.
    block: u64,
    /// I/Os that fit into the range.
    places: u64,
    verify: bool,
    seed: u64,
    /// What is written without `verify`.
    data: Bytes,
}

/// Size of a logical unit, as READ CAPACITY (16) says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Length of a block, bytes.
    pub block: u64,
    /// Number of blocks.
    pub blocks: u64,
}

/// Runs the load that `options` ask for.
///
/// # Errors
/// Whatever goes wrong; nothing is tried again.
pub fn run(options: &Options) -> anyhow::Result<Report> {
    let mut streams = Vec::new();
    let mut lanes = Vec::new();
    let mut job = None;
    for index in 0..options.sessions {
        let connected =
            connect(options).with_context(|| format!("cannot connect to {}", options.url.portal))?;
        let mut lane = log_in(options, &connected, index).context("cannot log in")?;
        let capacity = probe(&mut lane, &connected).context("the unit is not ready")?;
        if job.is_none() {
            job = Some(Job::new(options, capacity)?);
        }
        connected.set_nonblocking(true)?;
        streams.push(connected);
        lanes.push(lane);
    }
    let job = job.context("no session")?;
    let report = load(options, &job, &streams, &mut lanes)?;
    for (stream, lane) in streams.iter().zip(&mut lanes) {
        stream.set_nonblocking(false)?;
        log_out(stream, lane).context("cannot log out")?;
    }
    Ok(report)
}

fn connect(options: &Options) -> anyhow::Result<TcpStream> {
    let addresses = options.url.portal.to_socket_addrs()?;
    let mut last = None;
    for address in addresses {
        match TcpStream::connect_timeout(&address, options.patience) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                // Until the load begins, sockets block for so long at most.
                stream.set_read_timeout(Some(options.patience))?;
                stream.set_write_timeout(Some(options.patience))?;
                return Ok(stream);
            }
            Err(err) => last = Some(err),
        }
    }
    match last {
        Some(err) => Err(err.into()),
        None => bail!("no such host"),
    }
}

// Before and after the load: one thing after the other.

/// Sends all that waits on a socket that blocks.
fn send_all(stream: &TcpStream, output: &mut Output) -> anyhow::Result<()> {
    while !output.is_empty() {
        output
            .write_with(|slices| std::io::Write::write_vectored(&mut &*stream, slices))
            .context("cannot send")?;
    }
    Ok(())
}

/// Receives something from a socket that blocks.
fn receive(mut stream: &TcpStream, input: &mut Input) -> anyhow::Result<()> {
    let n = stream.read(input.room()).context("no answer")?;
    ensure!(n > 0, "the target closed the connection");
    input.received(n);
    Ok(())
}

fn log_in(options: &Options, stream: &TcpStream, index: u32) -> anyhow::Result<Lane> {
    let (mut input, mut output, mut agreed) = (Input::default(), Output::default(), Agreed::default());
    let [.., p1, p0] = std::process::id().to_be_bytes();
    let [.., i1, i0] = index.to_be_bytes();
    let mut request = LoginRequest {
        csg: Stage::SecurityNegotiation,
        nsg: Some(Stage::LoginOperationalNegotiation),
        continues: false,
        version_max: 0,
        version_min: 0,
        // The random format (RFC 7143 11.12.5): one of its own for each session of each process.
        isid: Isid([0x80, 0x4c, p1, p0, i1, i0]),
        tsih: 0,
        initiator_task_tag: 1,
        cid: 0,
        cmd_sn: CMD_SN,
        exp_stat_sn: Serial(0),
    };
    let mut text = login::who(&options.initiator, &options.url.target);
    for _ in 0..LOGIN_ROUNDS_MAX {
        output.push(request.to_bhs(), &Bytes::from(std::mem::take(&mut text)));
        send_all(stream, &mut output)?;
        let (answer, said) = login_answer(stream, &mut input)?;
        ensure!(answer.status == LoginStatus::Success, "the target refuses: {:?}", answer.status);
        agreed.take(&said, options.header_digest)?;
        request.exp_stat_sn = answer.sns.stat_sn.next();
        if answer.continues {
            request.nsg = None;
            continue;
        }
        match answer.nsg {
            Some(Stage::LoginOperationalNegotiation) => {
                request.csg = Stage::LoginOperationalNegotiation;
                request.nsg = Some(Stage::FullFeaturePhase);
                text = login::how(options.header_digest);
            }
            Some(Stage::FullFeaturePhase) => {
                ensure!(
                    agreed.header_digest == options.header_digest,
                    "the target says nothing to HeaderDigest"
                );
                if agreed.header_digest {
                    input.expect_header_digest();
                    output.send_header_digest();
                }
                let now = Instant::now();
                return Ok(Lane {
                    session: Session::new(
                        agreed,
                        options.url.wire_lun(),
                        options.iodepth,
                        CMD_SN,
                        answer.sns,
                        output,
                    ),
                    input,
                    random: Random::new(options.seed.wrapping_add(u64::from(index) << 32)),
                    next: 0,
                    heard: now,
                });
            }
            Some(Stage::SecurityNegotiation) => bail!("the target goes back to the security stage"),
            None => request.nsg = Some(next_of(request.csg)),
        }
    }
    bail!("no end after {LOGIN_ROUNDS_MAX} exchanges")
}

const fn next_of(stage: Stage) -> Stage {
    match stage {
        Stage::SecurityNegotiation => Stage::LoginOperationalNegotiation,
        _ => Stage::FullFeaturePhase,
    }
}

fn login_answer(stream: &TcpStream, input: &mut Input) -> anyhow::Result<(LoginResponse, Vec<u8>)> {
    let (mut answer, mut text) = (None, Vec::new());
    loop {
        match input.take()? {
            None => receive(stream, input)?,
            Some(Piece::Header(bhs)) => {
                ensure!(
                    bhs.opcode() == Some(Opcode::LoginResponse),
                    "a PDU that is no login response: {bhs:?}"
                );
                answer = Some(LoginResponse::parse(&bhs)?);
            }
            Some(Piece::Data(data)) => {
                ensure!(
                    text.len() + data.len() <= LOGIN_TEXT_MAX,
                    "more than {LOGIN_TEXT_MAX} bytes of text"
                );
                text.extend_from_slice(data);
            }
            Some(Piece::End) => return Ok((answer.context("no header")?, text)),
        }
    }
}

/// Carries one command out on a socket that blocks.
fn execute(lane: &mut Lane, stream: &TcpStream, command: Command) -> anyhow::Result<Answer> {
    lane.session.submit(command, Instant::now());
    loop {
        send_all(stream, &mut lane.session.output)?;
        receive(stream, &mut lane.input)?;
        lane.session.take_input(&mut lane.input)?;
        if let Some(answer) = lane.session.answers.pop() {
            return Ok(answer);
        }
    }
}

/// Reads unit attentions away, and the capacity.
fn probe(lane: &mut Lane, stream: &TcpStream) -> anyhow::Result<Capacity> {
    for _ in 0..ATTENTIONS_MAX {
        let answer = execute(lane, stream, Command::new(&[op::TEST_UNIT_READY]))?;
        if !matches!(answer.sense_code(), Some((6, _, _))) {
            answer.good()?;
            break;
        }
    }
    let mut cdb = [0; 16];
    (cdb[0], cdb[1], cdb[13]) = (op::SERVICE_ACTION_IN_16, 0x10, 32);
    let answer = execute(lane, stream, Command { reads: 32, keeps_data: true, ..Command::new(&cdb) })?;
    answer.good()?;
    Capacity::parse(&answer.data)
}

impl Capacity {
    /// The data of READ CAPACITY (16) (SBC-3 5.16.2).
    ///
    /// # Errors
    /// Too little of it, or numbers that make no sense.
    pub fn parse(data: &[u8]) -> anyhow::Result<Self> {
        let (last, rest) = data.split_first_chunk::<8>().context("READ CAPACITY (16) is too short")?;
        let block = rest.first_chunk::<4>().context("READ CAPACITY (16) is too short")?;
        let block = u64::from(u32::from_be_bytes(*block));
        let blocks = u64::from_be_bytes(*last).checked_add(1).context("a unit of 2^64 blocks")?;
        ensure!(block.is_power_of_two() && (512..=65536).contains(&block), "blocks of {block} bytes");
        ensure!(blocks.checked_mul(block).is_some(), "a unit of more than 2^64 bytes");
        Ok(Self { block, blocks })
    }
}

fn log_out(stream: &TcpStream, lane: &mut Lane) -> anyhow::Result<()> {
    lane.session.log_out();
    while !lane.session.is_logged_out() {
        send_all(stream, &mut lane.session.output)?;
        receive(stream, &mut lane.input)?;
        lane.session.take_input(&mut lane.input)?;
    }
    Ok(())
}

// The load.

impl Job {
    fn new(options: &Options, capacity: Capacity) -> anyhow::Result<Self> {
        let (bs, block, whole) = (options.bs, capacity.block, capacity.block * capacity.blocks);
        ensure!(
            bs.is_multiple_of(block),
            "--bs {bs} is not a multiple of the unit's blocks of {block} bytes"
        );
        ensure!(bs <= IO_BYTES_MAX, "--bs {bs} is more than {IO_BYTES_MAX}");
        let range = options.size.unwrap_or(whole);
        ensure!(range <= whole, "--size {range} is more than the unit's {whole} bytes");
        ensure!(range >= bs, "the range of {range} bytes is shorter than --bs {bs}");
        let mut data = vec![0; bs as usize];
        pattern::fill(&mut data, options.seed, 0);
        Ok(Self {
            writes: options.rw.writes(),
            random: options.rw.is_random(),
            bs,
            block,
            places: range / bs,
            verify: options.verify,
            seed: options.seed,
            data: data.into(),
        })
    }

    /// The next command of a lane.
    fn next(&self, lane: &mut Lane) -> Command {
        let place = if self.random { lane.random.below(self.places) } else { lane.next };
        lane.next = (place + 1) % self.places;
        let offset = place * self.bs;
        let opcode = if self.writes { op::WRITE_16 } else { op::READ_16 };
        let command = Command::transfer(opcode, offset / self.block, (self.bs / self.block) as u32);
        if !self.writes {
            return Command { reads: self.bs as u32, keeps_data: self.verify, offset, ..command };
        }
        let writes = if self.verify {
            let mut data = vec![0; self.bs as usize];
            pattern::fill(&mut data, self.seed, offset);
            data.into()
        } else {
            self.data.clone()
        };
        Command { writes, offset, ..command }
    }

    /// Whether an answer is as it must be.
    fn check(&self, answer: &Answer) -> anyhow::Result<()> {
        answer.good()?;
        if answer.command.keeps_data
            && let Some(at) = pattern::difference(&answer.data, self.seed, answer.command.offset)
        {
            bail!("byte {at} is not what was written with seed {}", self.seed);
        }
        Ok(())
    }
}

fn load(options: &Options, job: &Job, streams: &[TcpStream], lanes: &mut [Lane]) -> anyhow::Result<Report> {
    let mut latency_ns = Histogram::new_with_bounds(1, LATENCY_NS_MAX, LATENCY_DIGITS)?;
    let mut left = options.number_ios.unwrap_or(u64::MAX);
    let mut fds: Vec<PollFd<'_>> =
        streams.iter().map(|stream| PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::IN)).collect();
    let before = processor_time()?;
    let begun = Instant::now();
    let end = begun + options.runtime;
    let (mut last_answer, mut now) = (begun, begun);
    let mut answers = Vec::new();
    for lane in lanes.iter_mut() {
        lane.heard = now;
        fill(job, lane, &mut left, now);
    }
    loop {
        for ((stream, lane), fd) in streams.iter().zip(lanes.iter_mut()).zip(&mut fds) {
            send(stream, lane)?;
            let flags =
                if lane.session.output.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
            *fd = PollFd::from_borrowed_fd(stream.as_fd(), flags);
        }
        if (left == 0 || now >= end) && lanes.iter().all(|lane| lane.session.in_flight() == 0) {
            break;
        }
        let tick = Timespec { tv_sec: 0, tv_nsec: TICK.subsec_nanos().into() };
        match rustix::event::poll(&mut fds, Some(&tick)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(err) => return Err(err).context("cannot wait for the sockets"),
        }
        for ((stream, lane), fd) in streams.iter().zip(lanes.iter_mut()).zip(&fds) {
            if fd.revents().intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                take(stream, lane)?;
            }
            now = Instant::now();
            std::mem::swap(&mut answers, &mut lane.session.answers);
            for answer in answers.drain(..) {
                job.check(&answer)?;
                latency_ns.saturating_record((now - answer.begun).as_nanos() as u64);
                last_answer = now;
                lane.heard = now;
            }
            if now < end {
                fill(job, lane, &mut left, now);
            }
            let waits = lane.session.in_flight() > 0 || (left > 0 && now < end);
            ensure!(
                !waits || now - lane.heard < options.patience,
                "{} commands in flight, and no answer for {:.0} s",
                lane.session.in_flight(),
                (now - lane.heard).as_secs_f64()
            );
        }
    }
    let after = processor_time()?;
    let (user, system) = (after.0 - before.0, after.1 - before.1);
    ensure!(!latency_ns.is_empty(), "not a single I/O ended in time");
    Ok(Report {
        writes: job.writes,
        bs: job.bs,
        took: last_answer - begun,
        latency_ns,
        user,
        system,
        sessions: options.sessions,
        iodepth: options.iodepth,
    })
}

/// Submits as many commands as there is room for.
fn fill(job: &Job, lane: &mut Lane, left: &mut u64, now: Instant) {
    while *left > 0 && lane.session.has_room() {
        let command = job.next(lane);
        lane.session.submit(command, now);
        *left -= 1;
    }
}

/// Sends until nothing is left or the socket takes no more.
fn send(mut stream: &TcpStream, lane: &mut Lane) -> anyhow::Result<()> {
    while !lane.session.output.is_empty() {
        match lane.session.output.write_with(|slices| std::io::Write::write_vectored(&mut stream, slices)) {
            Ok(()) => {}
            Err(err) if matches!(err.kind(), ErrorKind::WouldBlock) => return Ok(()),
            Err(err) if matches!(err.kind(), ErrorKind::Interrupted) => {}
            Err(err) => return Err(err).context("cannot send"),
        }
    }
    Ok(())
}

/// Receives once and takes it.
fn take(mut stream: &TcpStream, lane: &mut Lane) -> anyhow::Result<()> {
    match stream.read(lane.input.room()) {
        Ok(0) => bail!("the target closed the connection"),
        Ok(n) => lane.input.received(n),
        Err(err) if matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(()),
        Err(err) => return Err(err).context("cannot receive"),
    }
    lane.session.take_input(&mut lane.input)
}

/// What this process has used of the processor so far, in user code and in the kernel.
fn processor_time() -> anyhow::Result<(Duration, Duration)> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).context("getrusage")?;
    let duration =
        |time: nix::sys::time::TimeVal| Duration::from_micros(time.num_microseconds().unsigned_abs());
    Ok((duration(usage.user_time()), duration(usage.system_time())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn job(words: &[&str], capacity: Capacity) -> anyhow::Result<Job> {
        let words = [&["lus-load", "iscsi://127.0.0.1:1/iqn.a:b/0"], words].concat();
        Job::new(&Options::try_parse_from(words)?, capacity)
    }

    #[test]
    fn capacities() {
        let data = |last: u64, block: u32| [&last.to_be_bytes()[..], &block.to_be_bytes(), &[0; 20]].concat();
        assert_eq!(Capacity::parse(&data(2047, 512)).unwrap(), Capacity { block: 512, blocks: 2048 });
        for bad in [data(u64::MAX, 512), data(1, 0), data(1, 513), data(1 << 60, 4096), vec![0; 11], vec![]] {
            assert!(Capacity::parse(&bad).is_err());
        }
    }

    #[test]
    fn a_job_must_fit_the_unit() {
        let capacity = Capacity { block: 4096, blocks: 256 };
        assert_eq!(job(&["--bs=64k"], capacity).unwrap().places, 16);
        assert_eq!(job(&["--size=100k"], capacity).unwrap().places, 25);
        for bad in [["--bs=512"], ["--bs=2m"], ["--size=2m"], ["--size=2k"], ["--bs=32m"]] {
            assert!(job(&bad, capacity).is_err(), "{bad:?}");
        }
    }
}
