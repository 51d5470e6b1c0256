//! A host: one write or read at a time on blocks of its own, each write a newer number, on whatever path says that it is optimized.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lusd_scsi::AccessState;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::target::{Answer, Ask, Connection, Message};
use crate::world::{Site, World};

/// How long it waits for the answer to a login, or to a question about paths.
const PATH_TIMEOUT: Duration = Duration::from_secs(2);

struct Host {
    world: Arc<World>,
    lu: usize,
    blocks: Vec<usize>,
    connections: BTreeMap<usize, Connection>,
    number: u64,
    tag: u64,
    path: usize,
    /// The last command on this path was answered.
    settled: bool,
}

/// Runs for as long as the simulation does.
pub(crate) async fn run(world: Arc<World>, lu: usize, blocks: Vec<usize>) {
    let mut host =
        Host { world, lu, blocks, connections: BTreeMap::new(), number: 0, tag: 0, path: 0, settled: false };
    loop {
        sleep(host.world.sim.ms(10..=300)).await;
        match host.find_path().await {
            Some(path) => host.does_io(path).await,
            None => sleep(host.world.sim.ms(50..=300)).await,
        }
    }
}

impl Host {
    /// A path whose daemon says that it serves the LU.
    async fn find_path(&mut self) -> Option<usize> {
        if self.settled && self.connections.contains_key(&self.path) && !self.world.sim.chance(100) {
            return Some(self.path);
        }
        let sites = self.world.sites();
        for turn in 0..sites.len() {
            let at = (self.path + turn) % sites.len();
            if !self.connections.contains_key(&at) {
                match timeout(PATH_TIMEOUT, login(&sites[at], &self.world)).await {
                    Ok(Some(connection)) => drop(self.connections.insert(at, connection)),
                    Ok(None) | Err(_) => continue,
                }
            }
            let answer = self.ask(at, Ask::Access, PATH_TIMEOUT).await;
            if answer == Some(Answer::Access(AccessState::Serving)) {
                self.path = at;
                return Some(at);
            }
        }
        None
    }

    /// Sends a command and waits for its answer; without one the connection is closed.
    async fn ask(&mut self, path: usize, ask: Ask, patience: Duration) -> Option<Answer> {
        self.tag += 1;
        let (tag, lu) = (self.tag, self.lu);
        let end = Instant::now() + patience;
        sleep(Duration::from_millis(1)).await;
        let connection = self.connections.get_mut(&path)?;
        let sent = connection.commands.try_send(Message::Command { tag, lu, ask });
        let mut answer = None;
        while sent.is_ok() {
            match timeout_at(end, connection.answers.recv()).await {
                Ok(Some((_, Answer::Reset))) | Ok(None) => break,
                Ok(Some((of, found))) if of == tag => {
                    answer = Some(found);
                    break;
                }
                Ok(Some(_)) => {}
                Err(_) => break,
            }
        }
        if answer.is_none()
            && let Some(connection) = self.connections.remove(&path)
        {
            // Behind all that was sent before.
            let _ = connection.commands.try_send(Message::Close);
        }
        answer
    }

    async fn does_io(&mut self, path: usize) {
        let sim = self.world.sim.clone();
        let block = self.blocks[sim.index(self.blocks.len())];
        let patience = sim.ms(5000..=6000);
        let lu = self.lu;
        if sim.chance(200) {
            let least = self.world.oracle.newest(lu, block);
            let answer = self.ask(path, Ask::Read { block }, patience).await;
            self.settled = matches!(answer, Some(Answer::Data(_)));
            if let Some(Answer::Data(number)) = answer {
                self.world.oracle.was_read(lu, block, number, least);
            }
            return;
        }
        self.number += 1;
        let number = self.number;
        let answer = self.ask(path, Ask::Write { block, number }, patience).await;
        self.settled = answer == Some(Answer::Good);
        match answer {
            Some(Answer::Good) => self.world.oracle.acked(&self.world.rados.state(), lu, block, number),
            Some(_) => {}
            None => {
                sim.note(|| format!("host of lu{lu}: no answer to {number} from path {path}"));
                self.path += 1;
            }
        }
    }
}

/// A login is answered by a process that runs, after some messages.
async fn login(site: &Arc<Site>, world: &World) -> Option<Connection> {
    let daemon = site.daemon()?;
    for _ in 0..2 {
        daemon.process.runs().await;
        sleep(world.sim.ms(1..=3)).await;
    }
    daemon.process.runs().await;
    daemon.login().await
}
