//! The objects of pool `.lus` for one client: compare-and-set, omap, watches that time out, notifies that may be lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use lus_map::MAP_OBJECT;
use lus_map::record::RECORD_PREFIX;
use lus_map_store::{
    Acknowledge, Boxed, NotifyReply, ObjectEvent, ObjectWatch, Objects, Read, ReadReply, Write,
};
use lusd_ceph::{Errno, Error};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use crate::oracle::Oracle;
use crate::rados::{Client, Pending, Reply, State};
use crate::rules::Rule;
use crate::world::Site;

/// Events that a watch holds.
const EVENTS_MAX: usize = 64;

/// One object.
#[derive(Clone, Default)]
pub(crate) struct Object {
    pub(crate) xattrs: BTreeMap<String, Bytes>,
    pub(crate) omap: BTreeMap<String, Bytes>,
    pub(crate) data: Bytes,
}

pub(crate) enum Event {
    Notify(oneshot::Sender<Bytes>),
    Broken,
}

/// What a watch tells its client of.
#[derive(Clone)]
pub(crate) enum Tell {
    Events(mpsc::Sender<Event>, Arc<AtomicBool>),
    /// Of an image's header: that something is to be looked at.
    Hint(Arc<Notify>),
}

/// A watch, as the OSD has it.
pub(crate) struct Watch {
    pub(crate) id: u64,
    pub(crate) object: String,
    pub(crate) client: Client,
    pub(crate) timeout: Duration,
    pub(crate) heard: Instant,
    /// Not listed until then.
    pub(crate) hidden_until: Option<Instant>,
    pub(crate) tell: Tell,
}

impl Watch {
    /// The OSD has dropped it; the client hears of it some time later.
    pub(crate) fn broken(self) {
        let sim = self.client.rados.sim.clone();
        sim.note(|| format!("watch of {} on {} is gone", self.client.addr, self.object));
        let late = sim.ms(0..=3000);
        tokio::spawn(async move {
            sleep(late).await;
            self.client.process.machine.link.pass().await;
            match self.tell {
                Tell::Events(events, broken) => {
                    broken.store(true, SeqCst);
                    let _ = events.try_send(Event::Broken);
                }
                Tell::Hint(hint) => hint.notify_one(),
            }
        });
    }
}

impl State {
    /// The clients that watch an object.
    pub(crate) fn watchers(&self, object: &str) -> Vec<String> {
        let now = Instant::now();
        let listed =
            |watch: &&Watch| watch.object == object && watch.hidden_until.is_none_or(|until| until <= now);
        self.watches.iter().filter(listed).map(|watch| watch.client.addr.to_string()).collect()
    }

    fn write_object(&mut self, name: &str, write: Write) -> Reply<()> {
        match self.objects.get(name) {
            Some(_) if write.create => return Err(Errno::EEXIST),
            None if !write.create => return Err(Errno::ENOENT),
            _ => {}
        }
        let mut object = self.objects.get(name).cloned().unwrap_or_default();
        if write.compare.iter().any(|(name, value)| object.xattrs.get(*name) != Some(value)) {
            return Err(Errno::ECANCELED);
        }
        if write.remove {
            self.objects.remove(name);
            return Ok(());
        }
        object.xattrs.extend(write.set_xattrs.into_iter().map(|(name, value)| (name.to_owned(), value)));
        object.omap.extend(write.set_omap);
        write.remove_omap.iter().for_each(|key| drop(object.omap.remove(key)));
        object.data = write.data.unwrap_or(object.data);
        self.objects.insert(name.to_owned(), object);
        Ok(())
    }

    fn read_object(&self, name: &str, read: Read) -> Reply<ReadReply> {
        let object = self.objects.get(name).ok_or(Errno::ENOENT)?;
        if read.compare.is_some_and(|(name, value)| object.xattrs.get(name) != Some(&value)) {
            return Err(Errno::ECANCELED);
        }
        let mut reply = ReadReply::default();
        if read.xattrs {
            reply.xattrs = object.xattrs.clone();
        }
        for key in read.keys {
            if let Some(value) = object.omap.get(&key) {
                reply.omap.insert(key, value.clone());
            }
        }
        if let Some(range) = read.omap {
            let max = usize::try_from(range.max).unwrap_or(usize::MAX);
            let behind = object.omap.range::<str, _>((
                std::ops::Bound::Excluded(range.start_after.as_str()),
                std::ops::Bound::Unbounded,
            ));
            let mut found = behind.filter(|(key, _)| key.starts_with(&range.prefix));
            reply.omap.extend(found.by_ref().take(max).map(|(key, value)| (key.clone(), value.clone())));
            reply.more = found.next().is_some();
        }
        if let Some(max) = read.data {
            reply.data = object.data.slice(..object.data.len().min(max));
        }
        Ok(reply)
    }
}

/// See the module's text.
pub(crate) struct SimObjects {
    pub(crate) client: Client,
    pub(crate) oracle: Arc<Oracle>,
    /// Where it runs, if it is a daemon's.
    pub(crate) site: Option<Arc<Site>>,
}

fn error(op: &'static str, object: &str, errno: Errno) -> Error {
    Error::Os { op, object: object.to_owned(), errno }
}

impl SimObjects {
    /// Waits for the reply in a process that may be stopped.
    async fn done<T: Send + 'static>(
        &self,
        op: &'static str,
        object: &str,
        reply: Pending<T>,
    ) -> Result<T, Error> {
        let reply = reply.await;
        self.client.process.runs().await;
        reply.map_err(|errno| error(op, object, errno))
    }

    fn change(&self, object: &str, mut write: Write) -> Pending<()> {
        let (name, client, oracle) = (object.to_owned(), self.client.clone(), self.oracle.clone());
        let sim = &self.client.rados.sim;
        if name.starts_with(RECORD_PREFIX) && sim.breaks(Rule::RecordCompared) {
            write.compare.clear();
        }
        self.client.submit(object, move |state| {
            let written = state.write_object(&name, write);
            if written.is_ok() {
                if name == MAP_OBJECT {
                    oracle.map_written(state, &client);
                } else {
                    oracle.record_written(state, &name, &client);
                }
            }
            written
        })
    }
}

impl Objects for SimObjects {
    fn read<'a>(&'a self, object: &'a str, read: Read) -> Boxed<'a, Result<ReadReply, Error>> {
        Box::pin(async move {
            self.client.process.runs().await;
            let name = object.to_owned();
            let reply = self.client.submit(object, move |state| state.read_object(&name, read));
            self.done("read", object, reply).await
        })
    }

    fn write<'a>(&'a self, object: &'a str, write: Write) -> Boxed<'a, Result<(), Error>> {
        Box::pin(async move {
            self.client.process.runs().await;
            // A lease is no step.
            let changes_map = object == MAP_OBJECT && !write.set_omap.is_empty();
            if changes_map && self.site.as_ref().is_some_and(|site| site.reached("map:write")) {
                self.client.process.runs().await;
            }
            let sim = self.client.rados.sim.clone();
            if !sim.chance(sim.weather().unanswered) {
                return self.done("write", object, self.change(object, write)).await;
            }
            match sim.index(3) {
                0 => drop(self.change(object, write).await),
                1 => {}
                _ => {
                    let (client, oracle) = (self.client.clone(), self.oracle.clone());
                    let late = Self { client, oracle, site: None };
                    let name = object.to_owned();
                    tokio::spawn(async move {
                        sleep(late.client.rados.sim.ms(1..=8000)).await;
                        let _ = late.change(&name, write).await;
                    });
                }
            }
            sleep(sim.ms(1..=300)).await;
            self.client.process.runs().await;
            Err(error("write", object, Errno::ETIMEDOUT))
        })
    }

    fn watch<'a>(
        &'a self,
        object: &'a str,
        timeout: Duration,
    ) -> Boxed<'a, Result<Box<dyn ObjectWatch>, Error>> {
        Box::pin(async move {
            self.client.process.runs().await;
            let (sender, events) = mpsc::channel(EVENTS_MAX);
            let broken = Arc::new(AtomicBool::new(false));
            let tell = Tell::Events(sender, broken.clone());
            let (name, client) = (object.to_owned(), self.client.clone());
            let reply = self.client.submit(object, move |state| {
                if !state.objects.contains_key(&name) {
                    return Err(Errno::ENOENT);
                }
                let (id, heard) = (state.id(), Instant::now());
                state.watches.push(Watch {
                    id,
                    object: name,
                    client,
                    timeout,
                    heard,
                    hidden_until: None,
                    tell,
                });
                Ok(id)
            });
            let id = self.done("watch", object, reply).await?;
            let (client, object) = (self.client.clone(), object.to_owned());
            Ok(Box::new(SimWatch { id, client, object, events, broken, event: None }) as Box<dyn ObjectWatch>)
        })
    }

    fn watchers<'a>(&'a self, object: &'a str) -> Boxed<'a, Result<Vec<String>, Error>> {
        Box::pin(async move {
            self.client.process.runs().await;
            let name = object.to_owned();
            let reply = self.client.submit(object, move |state| Ok(state.watchers(&name)));
            self.done("list_watchers", object, reply).await
        })
    }

    fn notify<'a>(
        &'a self,
        object: &'a str,
        _: Bytes,
        time: Duration,
    ) -> Boxed<'a, Result<NotifyReply, Error>> {
        Box::pin(async move {
            self.client.process.runs().await;
            let name = object.to_owned();
            let reply = self.client.submit(object, move |state| {
                let of_object = state.watches.iter().filter(|watch| watch.object == name);
                Ok(of_object.map(|watch| (watch.client.clone(), watch.tell.clone())).collect::<Vec<_>>())
            });
            let watches = self.done("notify", object, reply).await?;
            let (mut reply, mut answers) = (NotifyReply::default(), Vec::new());
            for (client, tell) in watches {
                let Tell::Events(events, _) = tell else { continue };
                let (sender, answer) = oneshot::channel();
                answers.push(answer);
                let sim = client.rados.sim.clone();
                if sim.chance(sim.weather().lost_notifies) {
                    continue;
                }
                tokio::spawn(async move {
                    sleep(sim.latency()).await;
                    client.process.machine.link.pass().await;
                    let _ = events.try_send(Event::Notify(sender));
                });
            }
            for answer in answers {
                match timeout(time, answer).await {
                    Ok(Ok(payload)) => reply.acks.push(payload),
                    _ => reply.missing += 1,
                }
            }
            self.client.process.runs().await;
            Ok(reply)
        })
    }
}

struct SimWatch {
    id: u64,
    client: Client,
    object: String,
    events: mpsc::Receiver<Event>,
    broken: Arc<AtomicBool>,
    /// Came, and waits for the process to run.
    event: Option<Event>,
}

impl ObjectWatch for SimWatch {
    fn next(&mut self) -> Boxed<'_, ObjectEvent> {
        Box::pin(async {
            if self.event.is_none() {
                // The sender is a part of the watch, which may be dropped before its end is told.
                match self.events.recv().await {
                    Some(event) => self.event = Some(event),
                    None => std::future::pending().await,
                }
            }
            self.client.process.runs().await;
            match self.event.take() {
                Some(Event::Notify(sender)) => {
                    let acknowledge: Acknowledge =
                        Box::new(move |payload| drop(sender.send(Bytes::copy_from_slice(payload))));
                    ObjectEvent::Notify(acknowledge)
                }
                Some(Event::Broken) | None => {
                    ObjectEvent::Broken(error("watch", &self.object, Errno::ENOTCONN))
                }
            }
        })
    }

    fn check(&self) -> Result<(), Error> {
        if self.broken.load(SeqCst) { Err(error("watch", &self.object, Errno::ENOTCONN)) } else { Ok(()) }
    }
}

impl Drop for SimWatch {
    fn drop(&mut self) {
        if !self.client.process.is_dead() {
            let id = self.id;
            let unwatch = self.client.submit(&*self.object, move |state| {
                state.watches.retain(|watch| watch.id != id);
                Ok(())
            });
            drop(unwatch);
        }
    }
}
