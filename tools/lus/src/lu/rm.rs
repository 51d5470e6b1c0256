//! `lus lu rm`: the map first, then, when the daemon has let go of it, the image.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use lus_map::{Backend, ImageSpec, LuId, LuName, LusMap, change};
use lusd_ceph::{Errno, Pool};
use tokio::time::Instant;

use super::state::Lock;
use super::{image, no_such_lu};
use crate::error::{Failure, Result};
use crate::output::{Reply, count};
use crate::session::{Changed, Heard, Session};

/// A daemon has so long to drain a unit and let go of its image: its own drain limit and some seconds.
const RELEASE_WAIT: Duration = Duration::from_secs(45);
/// Between two looks at the lock.
const RELEASE_POLL: Duration = Duration::from_millis(250);

/// Removes a unit, and its image unless it is to be kept.
///
/// # Errors
/// ENOENT; EBUSY while it is mapped or its image is in a foreign client's hands, EPERM for data, without `really`.
pub(super) async fn remove(
    session: &Session,
    name: &LuName,
    keep_image: bool,
    really: bool,
) -> Result<Reply> {
    let map = session.map_if_any().await?;
    let found = map.as_ref().and_then(|map| Some((map, map.lu_named(name)?)));
    let (map, lu) = found.ok_or_else(|| no_such_lu(name))?;
    let backend = lu.backend.clone();
    let id = lu.id;
    if !really {
        ask_for_certainty(map, id, name, &backend, keep_image)?;
    }
    let doomed = match &backend {
        Backend::Rbd { image, image_id } if !keep_image => {
            Some(Doomed::find(session, image, image_id, map, id).await?)
        }
        _ => None,
    };
    let changed = session.change(|map, origin| change::lu::remove(map, origin, name, really)).await?;
    if let Some(doomed) = doomed {
        doomed.remove(session, &changed, id).await?;
        session.remove_record(&id).await?;
    }
    Ok(changed.revoked())
}

/// Refuses what is in use, and what holds data.
fn ask_for_certainty(
    map: &LusMap,
    id: LuId,
    name: &LuName,
    backend: &Backend,
    keep_image: bool,
) -> Result<()> {
    let destroys = match backend {
        Backend::Rbd { .. } => !keep_image,
        Backend::Ram { .. } => true,
        Backend::Null { .. } => false,
    };
    let mapped: Vec<_> = map.all_luns().filter(|mapping| mapping.lu == id).collect();
    let destruction = format!("this will *PERMANENTLY DESTROY* all data stored in {name}");
    let flag = "If you are *ABSOLUTELY CERTAIN* that is what you want, pass --yes-i-really-mean-it";
    let hint =
        if matches!(backend, Backend::Rbd { .. }) { ", or --keep-image to leave the image" } else { "" };
    match (mapped.first(), destroys) {
        (Some(first), _) => {
            let data = if destroys { format!("  WARNING: {destruction}.  {flag}.") } else { String::new() };
            Err(Failure::new(
                Errno::EBUSY,
                format!(
                    "logical unit {name} is mapped as {}, first as LUN {} of target {}; take it away with 'lus lun \
                     unmap' first, or pass --yes-i-really-mean-it.{data}",
                    count(mapped.len(), "LUN"),
                    first.lun,
                    first.target
                ),
            ))
        }
        (None, true) => Err(Failure::new(Errno::EPERM, format!("WARNING: {destruction}.  {flag}{hint}."))),
        (None, false) => Ok(()),
    }
}

/// An image that is to go.
struct Doomed<'a> {
    pool: Pool,
    spec: &'a ImageSpec,
    image_id: &'a str,
}

impl<'a> Doomed<'a> {
    /// Looks at the image before anything is changed.
    ///
    /// # Errors
    /// EBUSY if a client that is no daemon of ours holds its lock.
    async fn find(
        session: &Session,
        spec: &'a ImageSpec,
        image_id: &'a str,
        map: &LusMap,
        id: LuId,
    ) -> Result<Self> {
        let pool = image::pool(&session.cluster, spec).await?;
        let doomed = Self { pool, spec, image_id };
        let record = session.record(&id).await?;
        let locks = match image::locks(&doomed.pool, image_id, map, record.as_ref()).await {
            Err(failure) if failure.errno == Errno::ENOENT => Vec::new(),
            locks => locks?,
        };
        match locks.iter().find(|lock| lock.is_foreign()) {
            None => Ok(doomed),
            Some(lock) => Err(Failure::new(
                Errno::EBUSY,
                format!(
                    "image {spec} is in use by {lock}; stop that client, or pass --keep-image to leave the image"
                ),
            )),
        }
    }

    /// Waits until the daemon has let go of the image, then removes it.
    async fn remove(&self, session: &Session, changed: &Changed, id: LuId) -> Result<()> {
        let map = &changed.map;
        let deadline = Instant::now() + RELEASE_WAIT;
        // A holder that is gone lets go of nothing; librbd fences it when it takes the lock to remove the image. That it still
        // watches the image for some seconds is EBUSY below.
        let record = session.record(&id).await?;
        let holder = record.as_ref().and_then(|record| record.state.holder());
        let is_up = holder.is_some_and(|holder| {
            map.instance(&holder.daemon, holder.up_from).is_some_and(|instance| instance.state.is_up())
        });
        let lives = is_up && changed.heard != Heard::default();
        while lives && Instant::now() < deadline && !self.locks(map).await?.is_empty() {
            tokio::time::sleep(RELEASE_POLL).await;
        }
        loop {
            let progress = Progress::new();
            match self.pool.remove_image(self.spec.image(), progress.report()).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_not_found() => return Ok(()),
                Err(error) if error.errno() == Errno::EBUSY && Instant::now() < deadline => {
                    tokio::time::sleep(RELEASE_POLL).await;
                }
                Err(error) => return Err(self.left(map, error).await),
            }
        }
    }

    async fn locks(&self, map: &LusMap) -> Result<Vec<Lock>> {
        match image::locks(&self.pool, self.image_id, map, None).await {
            Err(failure) if failure.errno == Errno::ENOENT => Ok(Vec::new()),
            locks => locks,
        }
    }

    /// The failure when the unit is gone and its image is not.
    async fn left(&self, map: &LusMap, error: lusd_ceph::Error) -> Failure {
        let spec = self.spec;
        let why = match error.errno() {
            Errno::ENOTEMPTY => {
                format!("it has snapshots; remove it with: rbd snap purge {spec} && rbd rm {spec}")
            }
            Errno::EBUSY => match self.locks(map).await.unwrap_or_default().first() {
                Some(lock) => format!("it is still in use by {lock}; remove it later with: rbd rm {spec}"),
                None => format!("it is still in use; remove it later with: rbd rm {spec}"),
            },
            _ => format!("{error}; remove it with: rbd rm {spec}"),
        };
        Failure::new(error.errno(), format!("logical unit {spec} is removed, but its image is not: {why}"))
    }
}

/// `Removing image: 42% complete...` on a terminal, as rbd has it.
struct Progress {
    shows: bool,
}

impl Progress {
    fn new() -> Self {
        Self { shows: std::io::stderr().is_terminal() }
    }

    fn report(&self) -> impl FnMut(u64, u64) + Send + 'static {
        let shows = self.shows;
        let mut last = None;
        move |done, total| {
            let percent = done.saturating_mul(100).checked_div(total).unwrap_or(100);
            if !shows || last.replace(percent) == Some(percent) {
                return;
            }
            let end = if percent >= 100 { "done.\n" } else { "" };
            let _ = write!(std::io::stderr(), "\rRemoving image: {percent}% complete...{end}");
        }
    }
}
