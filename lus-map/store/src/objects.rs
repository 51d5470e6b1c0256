//! What the stores need of an object store: RADOS, or memory in tests.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use lusd_ceph::Error;

/// A future without a name: this is the control path, a box per call does not matter.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A page of an object's omap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OmapRange {
    /// Keys behind this one.
    pub start_after: String,
    /// Keys that begin so.
    pub prefix: String,
    /// So many at most; fewer may come, see [`ReadReply::more`].
    pub max: u64,
}

/// A look at one object: all of it at one moment.
#[derive(Debug, Clone, Default)]
pub struct Read {
    /// Fails with ECANCELED unless the attribute has this value.
    pub compare: Option<(&'static str, Bytes)>,
    /// Wants all attributes.
    pub xattrs: bool,
    /// Wants the values of these omap keys, those that exist.
    pub keys: Vec<String>,
    /// Wants a page of the omap.
    pub omap: Option<OmapRange>,
    /// Wants so many bytes of data at most, from the start.
    pub data: Option<usize>,
}

/// What a [`Read`] found.
#[derive(Debug, Clone, Default)]
pub struct ReadReply {
    /// The attributes.
    pub xattrs: BTreeMap<String, Bytes>,
    /// What was wanted of the omap, by keys and by page together.
    pub omap: BTreeMap<String, Bytes>,
    /// Whether there is more behind the page.
    pub more: bool,
    /// The data.
    pub data: Bytes,
}

/// A change of one object: all of it or nothing.
#[derive(Debug, Clone, Default)]
pub struct Write {
    /// Fails with EEXIST if the object exists; without it the object must exist, or ENOENT.
    pub create: bool,
    /// Fails with ECANCELED unless each attribute has its value.
    pub compare: Vec<(&'static str, Bytes)>,
    /// Attributes to set.
    pub set_xattrs: Vec<(&'static str, Bytes)>,
    /// Omap pairs to set.
    pub set_omap: Vec<(String, Bytes)>,
    /// Omap keys to remove, there or not.
    pub remove_omap: Vec<String>,
    /// What the data is to be.
    pub data: Option<Bytes>,
    /// Removes the object, after the comparisons and instead of all else.
    pub remove: bool,
}

/// Sends the acknowledgement of a notify. Dropped, it sends an empty one.
pub type Acknowledge = Box<dyn FnOnce(&[u8]) + Send>;

/// What a watch has seen.
pub enum ObjectEvent {
    /// Somebody notified the object.
    Notify(Acknowledge),
    /// Notifies were lost.
    Lost,
    /// The watch is broken and must be made anew.
    Broken(Error),
}

/// A watch on an object; ends when dropped.
pub trait ObjectWatch: Send {
    /// The next event. Safe to drop while pending.
    fn next(&mut self) -> Boxed<'_, ObjectEvent>;

    /// Whether the watch still stands.
    ///
    /// # Errors
    /// ENOTCONN mostly, for a broken one.
    fn check(&self) -> Result<(), Error>;
}

/// What a notify brought back: what each watcher acknowledged with, and how many did not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NotifyReply {
    /// The payloads of the acknowledgements.
    pub acks: Vec<Bytes>,
    /// Watchers that did not acknowledge in time.
    pub missing: usize,
}

/// The objects of one pool.
pub trait Objects: Send + Sync + 'static {
    /// Looks at an object.
    fn read<'a>(&'a self, object: &'a str, read: Read) -> Boxed<'a, Result<ReadReply, Error>>;

    /// Changes an object. ETIMEDOUT: it is not known whether it was or will be changed.
    fn write<'a>(&'a self, object: &'a str, write: Write) -> Boxed<'a, Result<(), Error>>;

    /// Watches an object. `timeout` is how long a silent client keeps its watch.
    fn watch<'a>(
        &'a self,
        object: &'a str,
        timeout: Duration,
    ) -> Boxed<'a, Result<Box<dyn ObjectWatch>, Error>>;

    /// The addresses of the clients that watch an object, as RADOS writes them: those that are silent for less than their
    /// timeout too.
    fn watchers<'a>(&'a self, object: &'a str) -> Boxed<'a, Result<Vec<String>, Error>>;

    /// Notifies the watchers of an object and waits for their acknowledgements, `timeout` at most.
    fn notify<'a>(
        &'a self,
        object: &'a str,
        payload: Bytes,
        timeout: Duration,
    ) -> Boxed<'a, Result<NotifyReply, Error>>;
}
