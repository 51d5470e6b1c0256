//! Another host, which wants nothing but its due.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::gateway::{OTHER_HOST, TARGET};
use crate::initiator::{Command, Gone, Initiator, pattern};

/// How it was served.
#[derive(Default)]
pub(crate) struct Served {
    /// Logins, each with a write, a read, and a logout.
    pub(crate) count: u32,
    /// The one that took longest.
    pub(crate) longest: Duration,
}

pub(crate) struct Host {
    done: Arc<AtomicBool>,
    thread: JoinHandle<Served>,
}

impl Host {
    pub(crate) fn start(address: SocketAddr) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let stop = done.clone();
        let thread = std::thread::spawn(move || {
            let mut served = Served::default();
            // One that stays, and is served as those are that come.
            let mut stays = login(address);
            while !stop.load(SeqCst) {
                let begun = Instant::now();
                Self::serve_once(address);
                stays.run(&Command::read(0, 8)).good();
                served.longest = served.longest.max(begun.elapsed());
                served.count += 1;
            }
            stays.logout();
            served
        });
        Self { done, thread }
    }

    pub(crate) fn stop(self) -> Served {
        self.done.store(true, SeqCst);
        self.thread.join().expect("the other host was served")
    }

    /// Logs in, writes, reads back, logs out.
    pub(crate) fn serve_once(address: SocketAddr) {
        let mut host = login(address);
        let data = pattern(7, 4096);
        host.run(&Command::write(1000, &data).all_immediate()).good();
        assert!(host.run(&Command::read(1000, 8)).good().data == data);
        host.logout();
        assert_eq!(host.end(), Gone::Closed);
    }
}

fn login(address: SocketAddr) -> Initiator {
    let mut host = Initiator::connect(address);
    host.login(OTHER_HOST, TARGET, "InitialR2T=No\0").expect("the other host may log in");
    host.clear_attentions(0);
    host
}
