//! The target, in a process of its own: this program again.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use lusd::service::Limits;

use crate::gateway::{Gateway, PATIENCE};

/// The word by which this program is the target.
pub(crate) const SERVE: &str = "--serve-as-target";

/// Serves until nothing more is asked: an address first, then for each line how things stand.
#[expect(clippy::disallowed_methods, reason = "a thread that only looks on")]
pub(crate) fn serve() {
    lusd::process::raise_open_files();
    // The scripts do not answer pings.
    let hour = Duration::from_secs(3600);
    let iscsi = lusd_iscsi::Config { nop_interval: hour, nop_timeout: hour, ..Default::default() };
    let limits = Limits { iscsi: Arc::new(iscsi), ..Default::default() };
    let (gateway, _) = Gateway::with_ram(limits, 2);
    println!("{}", gateway.address);
    let (peak, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(SeqCst) {
                peak.fetch_max(gateway.service.memory.used(), SeqCst);
                most.fetch_max(gateway.service.sessions.connections(), SeqCst);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        for _ in std::io::stdin().lock().lines() {
            let (memory, sessions) = (&gateway.service.memory, &gateway.service.sessions);
            let (peak, most) = (peak.load(SeqCst), most.load(SeqCst));
            println!("{peak} {} {most} {}", memory.used(), sessions.connections());
        }
        done.store(true, SeqCst);
    });
}

/// How things stand at a target.
pub(crate) struct State {
    /// Most data memory so far, bytes.
    pub(crate) data_peak: usize,
    /// Now.
    pub(crate) data: usize,
    /// Most connections at once.
    pub(crate) connections_peak: usize,
    /// Connections now, logged in or not.
    pub(crate) connections: usize,
}

pub(crate) struct Target {
    child: Child,
    asks: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    pub(crate) address: SocketAddr,
}

impl Target {
    pub(crate) fn start() -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg(SERVE).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut answers = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        let address = line.trim().parse().expect("the target's address");
        Self { asks: child.stdin.take(), child, answers, address }
    }

    pub(crate) fn state(&mut self) -> State {
        writeln!(self.asks.as_ref().expect("it serves"), "?").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        let numbers: Vec<usize> = line.split_whitespace().map(|word| word.parse().unwrap()).collect();
        let [data_peak, data, connections_peak, connections] = numbers[..] else {
            panic!("the target has ended: {line}")
        };
        State { data_peak, data, connections_peak, connections }
    }

    /// Forgets the peak so far: bytes that are resident now.
    pub(crate) fn reset_peak(&self) -> usize {
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").unwrap();
        self.status("VmRSS:")
    }

    /// Most bytes that were resident.
    pub(crate) fn peak(&self) -> usize {
        self.status("VmHWM:")
    }

    fn status(&self, name: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of the kernel's");
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    }

    /// Waits until the attacker's connections and data are gone, without an end of the target.
    #[expect(clippy::disallowed_methods, reason = "blocks a test's own thread, not a shard")]
    pub(crate) fn is_free_again(&mut self, name: &str) {
        let begun = Instant::now();
        loop {
            let state = self.state();
            if (state.connections, state.data) == (0, 0) {
                break;
            }
            let (connections, data) = (state.connections, state.data);
            assert!(
                begun.elapsed() < PATIENCE,
                "{name}: {connections} connections, {data} bytes of data are left"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        // It ends as a daemon does, and says if anything is left over.
        self.asks = None;
        assert!(self.child.wait().unwrap().success(), "{name}: the target has failed");
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
