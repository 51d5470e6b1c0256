//! What the commands need of RBD images.

use lus_map::{ImageSpec, LuRecord, LusMap};
use lusd_ceph::{
    Cluster, CreateOptions, Errno, Features, Image, Locker, MirrorState, OpenMode, Pool, ReadOp,
};

use crate::error::{Failure, Result};
use crate::lu::state::Lock;
use crate::size::Size;

/// The name of the exclusive lock on an image's header object.
const LOCK_NAME: &str = "rbd_lock";
/// Where a header object keeps the image's size: 8 bytes, little endian (rbd's format 2).
const SIZE_KEY: &str = "size";

/// The pool and namespace of an image.
///
/// # Errors
/// ENOENT in Ceph's words for a missing pool.
pub(super) async fn pool(cluster: &Cluster, spec: &ImageSpec) -> Result<Pool> {
    let namespace = Some(spec.namespace()).filter(|namespace| !namespace.is_empty());
    cluster.pool(spec.pool(), namespace).await.map_err(|error| match error.is_not_found() {
        true => Failure::not_found(format!("unrecognized pool '{}'", spec.pool())),
        false => error.into(),
    })
}

/// Opens an image for a look at it: without a watch, without the lock.
///
/// # Errors
/// ENOENT naming the image.
pub(super) async fn look(pool: &Pool, spec: &ImageSpec) -> Result<Image> {
    Image::open(pool, spec.image(), OpenMode::ReadOnly).await.map_err(|error| match error.is_not_found() {
        true => Failure::not_found(format!("no such image {spec}")),
        false => error.into(),
    })
}

/// Creates an image with the cluster's default features and the exclusive lock.
///
/// # Errors
/// EEXIST with the way to offer the image that is there.
pub(super) async fn create(pool: &Pool, spec: &ImageSpec, size: Size) -> Result<()> {
    // None takes `rbd_default_features`, which have the lock unless somebody configured them away.
    let create = |features| {
        pool.create_image(spec.image(), size.0, CreateOptions { features, ..CreateOptions::default() })
    };
    let configured = default_features(pool.cluster());
    let features = configured.filter(|features| !features.contains(Features::EXCLUSIVE_LOCK));
    create(features.map(|features| features | Features::EXCLUSIVE_LOCK)).await.map_err(|error| {
        match error.errno() {
            Errno::EEXIST => Failure::new(
                Errno::EEXIST,
                format!("image {spec} already exists; to offer it as it is: lus lu add {spec}"),
            ),
            Errno::ENOENT if !spec.namespace().is_empty() => Failure::not_found(format!(
                "no namespace '{}' in pool '{}'; create it with: rbd namespace create {1}/{0}",
                spec.namespace(),
                spec.pool()
            )),
            _ => error.into(),
        }
    })
}

/// What `rbd_default_features` says; none where it is neither a number nor names that are known.
fn default_features(cluster: &Cluster) -> Option<Features> {
    let text = cluster.conf_get("rbd_default_features").ok()?;
    if let Ok(bits) = text.trim().parse() {
        return Some(Features(bits));
    }
    text.split(',').try_fold(Features(0), |all, name| {
        let bit =
            (0..u64::BITS).map(|bit| Features(1 << bit)).find(|bit| bit.names().any(|n| n == name.trim()))?;
        Some(all | bit)
    })
}

/// Refuses what a daemon would refuse to serve, with the way out.
///
/// # Errors
/// EINVAL for an image without the exclusive lock, EROFS for a mirror's copy.
pub(super) async fn fit(image: &Image, spec: &ImageSpec) -> Result<()> {
    if !image.features().await?.contains(Features::EXCLUSIVE_LOCK) {
        return Err(Failure::invalid(format!(
            "image {spec} lacks the feature exclusive-lock; enable it with: rbd feature enable {spec} exclusive-lock"
        )));
    }
    if image.mirror_state().await? == MirrorState::NonPrimary {
        return Err(Failure::new(
            Errno::EROFS,
            format!(
                "image {spec} is the copy of a mirror that is primary elsewhere; make this one primary with: \
                 rbd mirror image promote {spec}"
            ),
        ));
    }
    Ok(())
}

/// The size in bytes, read from the header: a thousandth of what opening the image costs.
///
/// # Errors
/// What reading gives; ENOENT for a missing image; EIO for a header in no known form.
pub(super) async fn size(pool: &Pool, image_id: &str) -> Result<u64> {
    let header = header(image_id);
    let reply = pool.read(&header, ReadOp::new().omap_vals_by_keys([SIZE_KEY])).await?;
    let bytes = reply.omap.get(SIZE_KEY).and_then(|raw| raw.as_ref().try_into().ok());
    bytes.map(u64::from_le_bytes).ok_or_else(|| Failure::new(Errno::EIO, format!("{header}: malformed size")))
}

/// Who holds the lock of an image, and which daemon that is as far as the map knows.
///
/// # Errors
/// What listing gives; ENOENT for a missing image.
pub(super) async fn locks(
    pool: &Pool,
    image_id: &str,
    map: &LusMap,
    record: Option<&LuRecord>,
) -> Result<Vec<Lock>> {
    let lockers = lockers(pool, image_id).await?;
    Ok(lockers.iter().map(|locker| Lock::of(locker, map, record)).collect())
}

/// Who holds the lock of an image.
///
/// # Errors
/// What listing gives; ENOENT for a missing image.
pub(super) async fn lockers(pool: &Pool, image_id: &str) -> Result<Vec<Locker>> {
    Ok(pool.list_lockers(&header(image_id), LOCK_NAME).await?)
}

fn header(image_id: &str) -> String {
    format!("rbd_header.{image_id}")
}
