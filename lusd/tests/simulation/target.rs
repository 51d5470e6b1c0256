//! The path of a host's command through a daemon: shard, session, gate twice, image. Reduced to one block, and to the order of things.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use lusd::lun::gate::{Permit, Refused, Verdict};
use lusd::lun::unit::Unit;
use lusd_ceph::Errno;
use lusd_scsi::AccessState;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use crate::daemon::Daemon;
use crate::image::Image;
use crate::process::Process;
use crate::rules::Rule;
use crate::sim::{Sim, lock};

/// The stall bound of the data path: what a thread may stand still before its connections are reset.
const STALL_BOUND: Duration = Duration::from_secs(3);
/// How often a shard runs at least.
const SHARD_TICK: Duration = Duration::from_millis(500);
/// How often a parked command is tried again.
const PARKED_POLL: Duration = Duration::from_millis(20);
/// What a connection holds.
const INBOX: usize = 64;

/// An LU as a daemon offers it.
pub(crate) struct Offered {
    pub(crate) lu: usize,
    pub(crate) unit: Arc<Unit>,
    image: Mutex<Option<Arc<Image>>>,
}

impl Offered {
    pub(crate) fn new(lu: usize, unit: Arc<Unit>) -> Self {
        Self { lu, unit, image: Mutex::default() }
    }

    pub(crate) fn put(&self, image: Option<Arc<Image>>) {
        *lock(&self.image) = image;
    }
}

/// A thread that serves connections.
pub(crate) struct Shard {
    pub(crate) index: usize,
    pub(crate) thread: Arc<Process>,
    /// Commands that have passed the gate, and are not submitted.
    pub(crate) between: AtomicU64,
    ran: Mutex<Instant>,
    stalls: AtomicU64,
}

impl Shard {
    pub(crate) fn new(index: usize, process: &Process) -> Arc<Self> {
        let thread = Process::new(format!("{} shard {index}", process.name), process.machine.clone());
        Arc::new(Self {
            index,
            thread,
            between: AtomicU64::new(0),
            ran: Mutex::new(Instant::now()),
            stalls: AtomicU64::new(0),
        })
    }

    /// As `lusd::net::shard::Shard::note_running`.
    fn note_running(&self, sim: &Sim) -> u64 {
        let now = Instant::now();
        let before = std::mem::replace(&mut *lock(&self.ran), now);
        if now.duration_since(before) > STALL_BOUND && !sim.breaks(Rule::StallBound) {
            self.stalls.fetch_add(1, SeqCst);
        }
        self.stalls.load(SeqCst)
    }

    pub(crate) async fn tick(self: Arc<Self>, sim: Arc<Sim>) {
        loop {
            self.note_running(&sim);
            sleep(SHARD_TICK).await;
        }
    }
}

/// What a host asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ask {
    /// REPORT TARGET PORT GROUPS.
    Access,
    Write {
        block: usize,
        number: u64,
    },
    Read {
        block: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Access(AccessState),
    Good,
    Data(u64),
    /// CHECK CONDITION, not ready: nothing was done.
    NotReady,
    /// The connection was reset.
    Reset,
}

pub(crate) enum Message {
    Command { tag: u64, lu: usize, ask: Ask },
    Close,
}

/// A connection's two ends, as the host has them.
pub(crate) struct Connection {
    pub(crate) commands: mpsc::Sender<Message>,
    pub(crate) answers: mpsc::Receiver<(u64, Answer)>,
}

pub(crate) struct Session {
    id: u64,
    shard: Arc<Shard>,
    /// Stalls of the shard before this session.
    stalls: OnceLock<u64>,
    over: AtomicBool,
    answers: mpsc::Sender<(u64, Answer)>,
}

impl Session {
    /// Its end, by whichever side: nothing of it is answered, nothing more of it is submitted.
    fn end(&self) {
        if !self.over.swap(true, SeqCst) {
            let _ = self.answers.try_send((0, Answer::Reset));
        }
    }

    /// Whether it may go on: what every round of a connection begins with.
    fn goes_on(&self, sim: &Sim) -> bool {
        let stalls = self.shard.note_running(sim);
        if stalls != *self.stalls.get_or_init(|| stalls) {
            self.end();
        }
        !self.over.load(SeqCst)
    }

    fn answer(&self, tag: u64, answer: Answer) {
        let _ = self.answers.try_send((tag, answer));
    }
}

/// A permit that is given back when its task is dropped with its process.
struct Inside {
    unit: Arc<Unit>,
    permit: Option<Permit>,
}

impl Inside {
    fn leave(mut self) -> Verdict {
        self.permit.take().map_or(Verdict::Revoked, |permit| self.unit.gate.leave(permit))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            self.unit.gate.leave(permit);
        }
    }
}

/// All sessions of a daemon.
#[derive(Default)]
pub(crate) struct Sessions {
    next: AtomicU64,
    all: Mutex<BTreeMap<u64, Arc<Session>>>,
}

impl Daemon {
    /// A login, in the process. `None`: refused.
    pub(crate) async fn login(self: &Arc<Self>) -> Option<Connection> {
        if self.isolated.load(SeqCst) || !self.listening.load(SeqCst) {
            return None;
        }
        let (commands, inbox) = mpsc::channel(INBOX);
        let (answers, received) = mpsc::channel(INBOX);
        let id = self.sessions.next.fetch_add(1, SeqCst);
        let shard = self.shards[self.sim.index(self.shards.len())].clone();
        let stalls = OnceLock::new();
        let session = Arc::new(Session { id, shard, stalls, over: AtomicBool::new(false), answers });
        lock(&self.sessions.all).insert(id, session.clone());
        let (thread, (granted, grant)) = (session.shard.thread.clone(), oneshot::channel());
        self.process.spawn(thread.gate(self.clone().serve_session(session, inbox, granted)));
        grant.await.ok()?;
        Some(Connection { commands, answers: received })
    }

    /// Resets every session.
    pub(crate) fn reset_sessions(&self) {
        let all = std::mem::take(&mut *lock(&self.sessions.all));
        all.values().for_each(|session| session.end());
    }

    async fn serve_session(
        self: Arc<Self>,
        session: Arc<Session>,
        mut inbox: mpsc::Receiver<Message>,
        granted: oneshot::Sender<()>,
    ) {
        // Its shard answers the login.
        session.goes_on(&self.sim);
        let _ = granted.send(());
        while let Some(message) = inbox.recv().await {
            if !session.goes_on(&self.sim) {
                break;
            }
            match message {
                Message::Close => break,
                Message::Command { tag, lu, ask: Ask::Access } => {
                    let access = self.offered(lu).unit.scsi.access();
                    session.answer(tag, Answer::Access(access));
                }
                Message::Command { tag, lu, ask } => {
                    let thread = session.shard.thread.clone();
                    // What is read is begun before more is read.
                    let begun = self.begin(&self.offered(lu), &session);
                    let command = self.clone().command(session.clone(), begun, tag, lu, ask);
                    self.process.spawn(thread.gate(command));
                }
            }
        }
        session.end();
        lock(&self.sessions.all).remove(&session.id);
    }

    /// First passage of the gate.
    fn begin(&self, offered: &Offered, session: &Session) -> Result<Inside, Refused> {
        if self.isolated.load(SeqCst) {
            return Err(Refused::Held);
        }
        let permit = offered.unit.gate.enter(session.shard.index)?;
        session.shard.between.fetch_add(1, SeqCst);
        Ok(Inside { unit: offered.unit.clone(), permit: Some(permit) })
    }

    async fn command(
        self: Arc<Self>,
        session: Arc<Session>,
        mut begun: Result<Inside, Refused>,
        tag: u64,
        lu: usize,
        ask: Ask,
    ) {
        let offered = self.offered(lu);
        let came = Instant::now();
        let inside = loop {
            match begun {
                Ok(inside) => break inside,
                Err(Refused::Held) => {}
                Err(Refused::Shut) => return session.answer(tag, Answer::NotReady),
            }
            // A write that was held off for long may be given up, and is never carried out.
            let late = matches!(ask, Ask::Write { .. }) && came.elapsed() > STALL_BOUND / 3 * 2;
            if late && !self.sim.breaks(Rule::StallBound) {
                return session.answer(tag, Answer::NotReady);
            }
            sleep(PARKED_POLL).await;
            if !session.goes_on(&self.sim) {
                return;
            }
            begun = self.begin(&offered, &session);
        };
        let epoch = inside.permit.as_ref().map(Permit::epoch).unwrap_or_default();
        // Between gate and submit: the process may be stopped here.
        sleep(self.sim.ms(0..=1)).await;
        if self.site.reached("submit") {
            tokio::task::yield_now().await;
        }
        session.shard.between.fetch_sub(1, SeqCst);
        let image = lock(&offered.image).clone();
        let outcome = match (&image, ask) {
            (Some(image), Ask::Write { block, number }) => {
                image.write(block, number, epoch.0).await.map(|()| Answer::Good)
            }
            (Some(image), Ask::Read { block }) => image.read(block).await.map(Answer::Data),
            (None, _) | (_, Ask::Access) => Err(Errno::EROFS),
        };
        if outcome.is_ok() {
            self.completions.fetch_add(1, SeqCst);
        } else {
            offered.unit.lost(epoch, false);
        }
        let verdict = inside.leave();
        let (Ok(answer), Verdict::Answer, Some(image)) = (outcome, verdict, image) else {
            return session.end();
        };
        if session.goes_on(&self.sim) && !self.isolated.load(SeqCst) {
            let start = self.me.to_string();
            self.oracle.good(&self.rados.state(), lu, epoch.0, &start, &image.client.addr);
            session.answer(tag, answer);
        }
    }
}
