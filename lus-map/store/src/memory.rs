//! [`Objects`] in memory, with faults: for tests. Not a part of the product.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use lusd_ceph::{Errno, Error};
use tokio::sync::{mpsc, oneshot};

use crate::objects::{
    Acknowledge, Boxed, NotifyReply, ObjectEvent, ObjectWatch, Objects, Read, ReadReply, Write,
};

/// Events that a watch holds.
const EVENTS_MAX: usize = 64;

/// What is to go wrong with the next write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteFault {
    /// It is made, but the answer is lost: ETIMEDOUT.
    MadeUnanswered,
    /// It is not made, and the answer is lost: ETIMEDOUT.
    LostUnanswered,
    /// It is held back and made right before the next write: ETIMEDOUT now.
    Late,
    /// It fails so.
    Fails(Errno),
}

/// One object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Object {
    /// Its attributes.
    pub xattrs: BTreeMap<String, Bytes>,
    /// Its omap.
    pub omap: BTreeMap<String, Bytes>,
    /// Its data.
    pub data: Bytes,
}

/// Something that happens between two operations of those under test.
type Act = Box<dyn FnOnce(&Memory) + Send>;

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Object>,
    watchers: Vec<Watcher>,
    watchers_hidden: BTreeSet<String>,
    faults: VecDeque<WriteFault>,
    late: Vec<(String, Write)>,
    before_reads: VecDeque<Option<Act>>,
    page_max: Option<u64>,
    notifies_are_lost: bool,
    reads: usize,
}

struct Watcher {
    object: String,
    client: String,
    events: mpsc::Sender<Event>,
}

enum Event {
    Notify(oneshot::Sender<Bytes>),
    Broken,
}

/// Objects in memory; clones share them.
#[derive(Clone)]
pub struct Memory {
    state: Arc<Mutex<State>>,
    client: String,
}

impl Default for Memory {
    fn default() -> Self {
        Self { state: Arc::default(), client: "127.0.0.1:0/1".to_owned() }
    }
}

impl Memory {
    /// The same objects, as the client of this address.
    pub fn client(&self, address: impl Into<String>) -> Self {
        Self { state: Arc::clone(&self.state), client: address.into() }
    }

    /// Whether the watches of a client are not listed, as if it were silent for long.
    pub fn hide_watcher(&self, address: &str, hidden: bool) {
        let mut state = self.state();
        if hidden {
            state.watchers_hidden.insert(address.to_owned());
        } else {
            state.watchers_hidden.remove(address);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A copy of an object.
    pub fn object(&self, name: &str) -> Option<Object> {
        self.state().objects.get(name).cloned()
    }

    /// Changes an object behind everyone's back; a missing one is made.
    pub fn edit(&self, name: &str, edit: impl FnOnce(&mut Object)) {
        edit(self.state().objects.entry(name.to_owned()).or_default());
    }

    /// Lets the next writes go wrong, one after the other.
    pub fn fail_writes(&self, faults: impl IntoIterator<Item = WriteFault>) {
        self.state().faults.extend(faults);
    }

    /// Does something right before the read that comes after `skip` others.
    pub fn before_read(&self, skip: usize, act: impl FnOnce(&Self) + Send + 'static) {
        let mut state = self.state();
        state.before_reads.extend((0..skip).map(|_| None));
        state.before_reads.push_back(Some(Box::new(act)));
    }

    /// Returns pages of so many omap pairs at most, whatever is asked for.
    pub fn small_pages(&self, pairs: u64) {
        self.state().page_max = Some(pairs);
    }

    /// Whether notifies reach nobody.
    pub fn lose_notifies(&self, lost: bool) {
        self.state().notifies_are_lost = lost;
    }

    /// Breaks every watch.
    pub fn break_watches(&self) {
        for watcher in self.state().watchers.drain(..) {
            drop(watcher.events.try_send(Event::Broken));
        }
    }

    /// How many reads there have been.
    pub fn reads(&self) -> usize {
        self.state().reads
    }
}

fn error(op: &'static str, object: &str, errno: Errno) -> Error {
    Error::Os { op, object: object.to_owned(), errno }
}

impl State {
    fn write(&mut self, name: &str, write: Write) -> Result<(), Errno> {
        match self.objects.get(name) {
            Some(_) if write.create => return Err(Errno::EEXIST),
            None if !write.create => return Err(Errno::ENOENT),
            _ => {}
        }
        let mut object = self.objects.get(name).cloned().unwrap_or_default();
        for (name, value) in &write.compare {
            if object.xattrs.get(*name) != Some(value) {
                return Err(Errno::ECANCELED);
            }
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

    fn read(&self, name: &str, read: Read) -> Result<ReadReply, Errno> {
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
            let max = usize::try_from(range.max.min(self.page_max.unwrap_or(u64::MAX))).unwrap_or(usize::MAX);
            let behind = |key: &&String| **key > range.start_after && key.starts_with(&range.prefix);
            let mut found = object.omap.iter().filter(|(key, _)| behind(key));
            reply.omap.extend(found.by_ref().take(max).map(|(key, value)| (key.clone(), value.clone())));
            reply.more = found.next().is_some();
        }
        if let Some(max) = read.data {
            reply.data = object.data.slice(..object.data.len().min(max));
        }
        Ok(reply)
    }
}

impl Objects for Memory {
    fn read<'a>(&'a self, object: &'a str, read: Read) -> Boxed<'a, Result<ReadReply, Error>> {
        Box::pin(async move {
            let act = self.state().before_reads.pop_front().flatten();
            if let Some(act) = act {
                act(self);
            }
            let mut state = self.state();
            state.reads += 1;
            state.read(object, read).map_err(|errno| error("read", object, errno))
        })
    }

    fn write<'a>(&'a self, object: &'a str, write: Write) -> Boxed<'a, Result<(), Error>> {
        Box::pin(async move {
            let mut state = self.state();
            for (object, late) in std::mem::take(&mut state.late) {
                // It may fail, as another change came first; whoever sent it has gone on.
                let _ = state.write(&object, late);
            }
            let result = match state.faults.pop_front() {
                None => state.write(object, write),
                Some(WriteFault::MadeUnanswered) => state.write(object, write).and(Err(Errno::ETIMEDOUT)),
                Some(WriteFault::LostUnanswered) => Err(Errno::ETIMEDOUT),
                Some(WriteFault::Late) => {
                    state.late.push((object.to_owned(), write));
                    Err(Errno::ETIMEDOUT)
                }
                Some(WriteFault::Fails(errno)) => Err(errno),
            };
            result.map_err(|errno| error("write", object, errno))
        })
    }

    fn watch<'a>(&'a self, object: &'a str, _: Duration) -> Boxed<'a, Result<Box<dyn ObjectWatch>, Error>> {
        Box::pin(async move {
            let mut state = self.state();
            if !state.objects.contains_key(object) {
                return Err(error("watch", object, Errno::ENOENT));
            }
            let (sender, events) = mpsc::channel(EVENTS_MAX);
            let client = self.client.clone();
            state.watchers.push(Watcher { object: object.to_owned(), client, events: sender });
            Ok(Box::new(MemoryWatch { events, object: object.to_owned() }) as Box<dyn ObjectWatch>)
        })
    }

    fn watchers<'a>(&'a self, object: &'a str) -> Boxed<'a, Result<Vec<String>, Error>> {
        Box::pin(async move {
            let mut state = self.state();
            if !state.objects.contains_key(object) {
                return Err(error("list_watchers", object, Errno::ENOENT));
            }
            state.watchers.retain(|watcher| !watcher.events.is_closed());
            let seen = state.watchers.iter().filter(|watcher| {
                watcher.object == object && !state.watchers_hidden.contains(&watcher.client)
            });
            Ok(seen.map(|watcher| watcher.client.clone()).collect())
        })
    }

    fn notify<'a>(
        &'a self,
        object: &'a str,
        _: Bytes,
        timeout: Duration,
    ) -> Boxed<'a, Result<NotifyReply, Error>> {
        Box::pin(async move {
            let mut answers = Vec::new();
            {
                let mut state = self.state();
                if state.notifies_are_lost {
                    return Ok(NotifyReply::default());
                }
                state.watchers.retain(|watcher| !watcher.events.is_closed());
                for watcher in state.watchers.iter().filter(|watcher| watcher.object == object) {
                    let (sender, answer) = oneshot::channel();
                    drop(watcher.events.try_send(Event::Notify(sender)));
                    answers.push(answer);
                }
            }
            let mut reply = NotifyReply::default();
            for answer in answers {
                match tokio::time::timeout(timeout, answer).await {
                    Ok(Ok(payload)) => reply.acks.push(payload),
                    _ => reply.missing += 1,
                }
            }
            Ok(reply)
        })
    }
}

struct MemoryWatch {
    events: mpsc::Receiver<Event>,
    object: String,
}

impl ObjectWatch for MemoryWatch {
    fn next(&mut self) -> Boxed<'_, ObjectEvent> {
        Box::pin(async {
            match self.events.recv().await {
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
        if self.events.is_closed() { Err(error("watch", &self.object, Errno::ENOTCONN)) } else { Ok(()) }
    }
}
