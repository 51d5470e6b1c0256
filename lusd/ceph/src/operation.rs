//! Operations on one object: lists of steps that take effect together, or not at all.

use bytes::Bytes;

/// Changes to one object, atomic: the steps run in the order in which they were added; if one fails (a comparison that does not hold, an `assert`), nothing is changed.
/// Put comparisons first.
///
/// Run by [`Pool::write`](crate::Pool::write). The OSDs refuse more than `osd_max_write_size` (90 MiB) in one operation with EMSGSIZE.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct WriteOp {
    pub(crate) steps: Vec<WriteStep>,
}

#[derive(Clone, Debug)]
pub(crate) enum WriteStep {
    AssertExists,
    AssertVersion(u64),
    CmpXattrEq(String, Bytes),
    OmapCmpEq(String, Bytes),
    Create { exclusive: bool },
    WriteFull(Bytes),
    Write(u64, Bytes),
    Truncate(u64),
    SetXattr(String, Bytes),
    RmXattr(String),
    OmapSet(Vec<(String, Bytes)>),
    OmapRmKeys(Vec<String>),
    OmapClear,
    Remove,
}

impl WriteOp {
    /// An operation without a step.
    pub fn new() -> WriteOp {
        WriteOp::default()
    }

    fn step(mut self, step: WriteStep) -> WriteOp {
        self.steps.push(step);
        self
    }

    /// Fails with ENOENT if the object does not exist.
    pub fn assert_exists(self) -> WriteOp {
        self.step(WriteStep::AssertExists)
    }

    /// Fails with ERANGE if the object is newer than `version`, with EOVERFLOW if it is older or missing.
    pub fn assert_version(self, version: u64) -> WriteOp {
        self.step(WriteStep::AssertVersion(version))
    }

    /// Fails with ECANCELED unless the attribute exists and has this value.
    pub fn cmpxattr_eq(self, name: impl Into<String>, value: impl Into<Bytes>) -> WriteOp {
        self.step(WriteStep::CmpXattrEq(name.into(), value.into()))
    }

    /// Fails with ECANCELED unless the omap key has this value; a missing key counts as an empty value.
    pub fn omap_cmp_eq(self, key: impl Into<String>, value: impl Into<Bytes>) -> WriteOp {
        self.step(WriteStep::OmapCmpEq(key.into(), value.into()))
    }

    /// Creates the object; `exclusive` fails with EEXIST if it exists.
    pub fn create(self, exclusive: bool) -> WriteOp {
        self.step(WriteStep::Create { exclusive })
    }

    /// Replaces the object's data.
    pub fn write_full(self, data: impl Into<Bytes>) -> WriteOp {
        self.step(WriteStep::WriteFull(data.into()))
    }

    /// Writes at an offset in bytes.
    pub fn write(self, offset: u64, data: impl Into<Bytes>) -> WriteOp {
        self.step(WriteStep::Write(offset, data.into()))
    }

    /// Cuts or extends the object's data to `size` bytes.
    pub fn truncate(self, size: u64) -> WriteOp {
        self.step(WriteStep::Truncate(size))
    }

    /// Sets an attribute.
    pub fn setxattr(self, name: impl Into<String>, value: impl Into<Bytes>) -> WriteOp {
        self.step(WriteStep::SetXattr(name.into(), value.into()))
    }

    /// Removes an attribute.
    pub fn rmxattr(self, name: impl Into<String>) -> WriteOp {
        self.step(WriteStep::RmXattr(name.into()))
    }

    /// Sets omap keys.
    pub fn omap_set<K: Into<String>, V: Into<Bytes>>(
        self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> WriteOp {
        let pairs: Vec<_> = pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        if pairs.is_empty() { self } else { self.step(WriteStep::OmapSet(pairs)) }
    }

    /// Removes omap keys; missing ones are no error.
    pub fn omap_rm_keys<K: Into<String>>(self, keys: impl IntoIterator<Item = K>) -> WriteOp {
        let keys: Vec<_> = keys.into_iter().map(Into::into).collect();
        if keys.is_empty() { self } else { self.step(WriteStep::OmapRmKeys(keys)) }
    }

    /// Removes all omap keys.
    pub fn omap_clear(self) -> WriteOp {
        self.step(WriteStep::OmapClear)
    }

    /// Removes the object; ENOENT if there is none.
    pub fn remove(self) -> WriteOp {
        self.step(WriteStep::Remove)
    }
}

/// A consistent look at one object: all steps see the same version.
///
/// Run by [`Pool::read`](crate::Pool::read). The results of several omap steps are merged into one map.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct ReadOp {
    pub(crate) steps: Vec<ReadStep>,
}

#[derive(Clone, Debug)]
pub(crate) enum ReadStep {
    AssertExists,
    AssertVersion(u64),
    CmpXattrEq(String, Bytes),
    OmapCmpEq(String, Bytes),
    Stat,
    Xattrs,
    Read { offset: u64, len: usize },
    OmapVals { start_after: String, prefix: String, max: u64 },
    OmapValsByKeys(Vec<String>),
}

impl ReadOp {
    /// An operation without a step.
    pub fn new() -> ReadOp {
        ReadOp::default()
    }

    fn step(mut self, step: ReadStep) -> ReadOp {
        self.steps.push(step);
        self
    }

    /// Fails with ENOENT if the object does not exist (as every other step does).
    pub fn assert_exists(self) -> ReadOp {
        self.step(ReadStep::AssertExists)
    }

    /// Fails with ERANGE if the object is newer than `version`, with EOVERFLOW if it is older.
    pub fn assert_version(self, version: u64) -> ReadOp {
        self.step(ReadStep::AssertVersion(version))
    }

    /// Fails with ECANCELED unless the attribute exists and has this value.
    pub fn cmpxattr_eq(self, name: impl Into<String>, value: impl Into<Bytes>) -> ReadOp {
        self.step(ReadStep::CmpXattrEq(name.into(), value.into()))
    }

    /// Fails with ECANCELED unless the omap key has this value.
    pub fn omap_cmp_eq(self, key: impl Into<String>, value: impl Into<Bytes>) -> ReadOp {
        self.step(ReadStep::OmapCmpEq(key.into(), value.into()))
    }

    /// Size and time of the last change, into [`ReadReply::stat`].
    pub fn stat(self) -> ReadOp {
        self.step(ReadStep::Stat)
    }

    /// All attributes, into [`ReadReply::xattrs`]. (librados's C interface has no single one in an operation.)
    pub fn xattrs(self) -> ReadOp {
        self.step(ReadStep::Xattrs)
    }

    /// Up to `len` bytes of data from `offset`, into [`ReadReply::data`]; shorter at the object's end. The last such step wins.
    pub fn read(self, offset: u64, len: usize) -> ReadOp {
        self.step(ReadStep::Read { offset, len })
    }

    /// Up to `max` omap pairs in order of their keys, those behind `start_after` that begin with `prefix` (both may be empty), into [`ReadReply::omap`]. An OSD
    /// returns at most 1024 of them (`osd_max_omap_entries_per_request`), fewer if they are big; [`ReadReply::more`] tells that there are further ones.
    pub fn omap_vals(self, start_after: impl Into<String>, prefix: impl Into<String>, max: u64) -> ReadOp {
        self.step(ReadStep::OmapVals { start_after: start_after.into(), prefix: prefix.into(), max })
    }

    /// The pairs of those of these keys that exist, into [`ReadReply::omap`].
    pub fn omap_vals_by_keys<K: Into<String>>(self, keys: impl IntoIterator<Item = K>) -> ReadOp {
        self.step(ReadStep::OmapValsByKeys(keys.into_iter().map(Into::into).collect()))
    }
}

/// What the steps of a [`ReadOp`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadReply {
    /// Version of the object, for `assert_version`.
    pub version: u64,
    /// Set by [`ReadOp::stat`].
    pub stat: Option<Stat>,
    /// Filled by [`ReadOp::xattrs`].
    pub xattrs: std::collections::BTreeMap<String, Bytes>,
    /// Filled by the omap steps.
    pub omap: std::collections::BTreeMap<String, Bytes>,
    /// Some [`ReadOp::omap_vals`] step did not reach the end.
    pub more: bool,
    /// Filled by [`ReadOp::read`].
    pub data: Bytes,
}

/// Size and age of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Bytes of data (without attributes and omap).
    pub size: u64,
    /// Last change, seconds since 1970.
    pub mtime: i64,
}

/// A whole object but its data, at one version: see [`Pool::snapshot`](crate::Pool::snapshot).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Version of the object.
    pub version: u64,
    /// All attributes.
    pub xattrs: std::collections::BTreeMap<String, Bytes>,
    /// All omap pairs.
    pub omap: std::collections::BTreeMap<String, Bytes>,
}
