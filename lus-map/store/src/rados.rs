//! [`Objects`] of a RADOS pool.

use std::time::Duration;

use bytes::Bytes;
use lusd_ceph::{Error, Pool, ReadOp, Watch, WatchEvent, WriteOp};

use crate::objects::{
    Acknowledge, Boxed, NotifyReply, ObjectEvent, ObjectWatch, Objects, Read, ReadReply, Write,
};

/// The objects of a RADOS pool.
#[derive(Clone)]
pub struct RadosObjects(Pool);

impl RadosObjects {
    /// Those of `pool`.
    pub fn new(pool: Pool) -> Self {
        Self(pool)
    }
}

fn read_op(read: Read) -> ReadOp {
    let mut op = ReadOp::new().assert_exists();
    if let Some((name, value)) = read.compare {
        op = op.cmpxattr_eq(name, value);
    }
    if read.xattrs {
        op = op.xattrs();
    }
    if !read.keys.is_empty() {
        op = op.omap_vals_by_keys(read.keys);
    }
    if let Some(range) = read.omap {
        op = op.omap_vals(range.start_after, range.prefix, range.max);
    }
    match read.data {
        Some(len) => op.read(0, len),
        None => op,
    }
}

fn write_op(write: Write) -> WriteOp {
    let op = if write.create { WriteOp::new().create(true) } else { WriteOp::new().assert_exists() };
    let op = write.compare.into_iter().fold(op, |op, (name, value)| op.cmpxattr_eq(name, value));
    if write.remove {
        return op.remove();
    }
    let mut op = write.set_xattrs.into_iter().fold(op, |op, (name, value)| op.setxattr(name, value));
    if let Some(data) = write.data {
        op = op.write_full(data);
    }
    if !write.set_omap.is_empty() {
        op = op.omap_set(write.set_omap);
    }
    if !write.remove_omap.is_empty() {
        op = op.omap_rm_keys(write.remove_omap);
    }
    op
}

impl Objects for RadosObjects {
    fn read<'a>(&'a self, object: &'a str, read: Read) -> Boxed<'a, Result<ReadReply, Error>> {
        Box::pin(async move {
            let reply = self.0.read(object, read_op(read)).await?;
            Ok(ReadReply { xattrs: reply.xattrs, omap: reply.omap, more: reply.more, data: reply.data })
        })
    }

    fn write<'a>(&'a self, object: &'a str, write: Write) -> Boxed<'a, Result<(), Error>> {
        Box::pin(async move { self.0.write(object, write_op(write)).await.map(drop) })
    }

    fn watch<'a>(
        &'a self,
        object: &'a str,
        timeout: Duration,
    ) -> Boxed<'a, Result<Box<dyn ObjectWatch>, Error>> {
        Box::pin(async move {
            let watch = self.0.watch(object, timeout).await?;
            let object = object.to_owned();
            Ok(Box::new(RadosWatch { watch, object }) as Box<dyn ObjectWatch>)
        })
    }

    fn watchers<'a>(&'a self, object: &'a str) -> Boxed<'a, Result<Vec<String>, Error>> {
        Box::pin(self.0.list_watchers(object))
    }

    fn notify<'a>(
        &'a self,
        object: &'a str,
        payload: Bytes,
        timeout: Duration,
    ) -> Boxed<'a, Result<NotifyReply, Error>> {
        Box::pin(async move {
            let reply = self.0.notify(object, payload, timeout).await?;
            let acks = reply.acks.into_iter().map(|ack| ack.payload).collect();
            Ok(NotifyReply { acks, missing: reply.timeouts.len() })
        })
    }
}

struct RadosWatch {
    watch: Watch,
    object: String,
}

impl ObjectWatch for RadosWatch {
    fn next(&mut self) -> Boxed<'_, ObjectEvent> {
        Box::pin(async {
            match self.watch.next().await {
                WatchEvent::Notify(notify) => {
                    let acknowledge: Acknowledge = Box::new(move |payload| {
                        if let Err(error) = notify.ack(payload) {
                            tracing::debug!(%error, "cannot acknowledge a notify");
                        }
                    });
                    ObjectEvent::Notify(acknowledge)
                }
                WatchEvent::Lost(_) => ObjectEvent::Lost,
                WatchEvent::Error(errno) => {
                    let object = self.object.clone();
                    ObjectEvent::Broken(Error::Os { op: "rados_watch3", object, errno })
                }
            }
        })
    }

    fn check(&self) -> Result<(), Error> {
        self.watch.check().map(drop)
    }
}
