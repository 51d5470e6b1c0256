//! The inner watchdog of a daemon: `lusd::observe::watchdog::Pulses`, asked as there.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use lus_map::{LusMap, MAP_OBJECT};
use lus_map_store::MapWatch;
use lusd::observe::watchdog::{Findings, Pulses, Who};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::clients::addr_of;
use crate::daemon::Daemon;

const ASK_INTERVAL: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(250);
const QUESTIONS: usize = 64;

/// Runs until it finds, after an isolation, that the map does not say any more that this start is up: that map.
pub(crate) async fn run(daemon: Arc<Daemon>, follow: Arc<MapWatch>) -> Arc<LusMap> {
    let mut pulses = Pulses::new(Instant::now());
    let (answers_sender, mut answers) = mpsc::channel(QUESTIONS);
    let (maps_sender, mut maps) = mpsc::channel::<Option<Arc<LusMap>>>(1);
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ask_at = Instant::now();
    let mut findings = Findings::default();
    let mut reading = false;
    loop {
        tokio::select! {
            biased;
            _ = tick.tick() => {}
            Some(who) = answers.recv() => {
                pulses.answered(&who, Instant::now());
                continue;
            }
            Some(read) = maps.recv() => {
                reading = false;
                match read {
                    Some(map) if daemon.is_up(&map) => daemon.isolated.store(false, SeqCst),
                    Some(map) => return map,
                    None => {}
                }
                continue;
            }
        }
        let now = Instant::now();
        let found = pulses.look(now, daemon.completions.load(SeqCst));
        if found.stuck != findings.stuck {
            daemon.note(|| format!("stuck: {:?}", found.stuck));
            follow.hold_watch(found.stuck.is_none());
        }
        if found.isolated && !findings.isolated {
            daemon.note(|| "isolated".to_owned());
            daemon.isolated.store(true, SeqCst);
            daemon.reset_sessions();
        }
        if !found.isolated && daemon.isolated.load(SeqCst) && !reading {
            reading = true;
            let (store, sender) = (daemon.store.clone(), maps_sender.clone());
            daemon.process.spawn(async move {
                let _ = sender.send(store.latest().await.ok()).await;
            });
        }
        findings = found;
        if now >= ask_at {
            ask_at = now + ASK_INTERVAL;
            ask(&daemon, &mut pulses, &answers_sender, now);
        }
    }
}

fn ask(daemon: &Daemon, pulses: &mut Pulses, answers: &mpsc::Sender<Who>, now: Instant) {
    for shard in &daemon.shards {
        let who = Who::Shard(shard.index);
        if pulses.ask(&who, now) {
            let answers = answers.clone();
            daemon.process.spawn(shard.thread.gate(async move {
                let _ = answers.send(who).await;
            }));
        }
    }
    let clients = daemon.clients.current();
    pulses.retain(|who| match who {
        Who::Data(addr) => clients.iter().any(|client| addr_of(client) == *addr),
        _ => true,
    });
    let data = clients.into_iter().map(|client| (Who::Data(addr_of(&client)), client));
    for (who, client) in data.chain([(Who::Control, daemon.control.clone())]) {
        if pulses.ask(&who, now) {
            let (answers, stat) = (answers.clone(), client.submit(MAP_OBJECT, |_| Ok(())));
            daemon.process.spawn(async move {
                let _ = stat.await;
                let _ = answers.send(who).await;
            });
        }
    }
    if pulses.ask(&Who::Monitors, now) {
        let (answers, control) = (answers.clone(), daemon.control.clone());
        daemon.process.spawn(async move {
            control.wait_for_latest_osdmap().await;
            let _ = answers.send(Who::Monitors).await;
        });
    }
}
