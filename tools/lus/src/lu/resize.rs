//! `lus lu resize`.

use lus_map::{Backend, ImageSpec, LuName, change};
use lusd_ceph::{Errno, Image, OpenMode};

use super::{image, no_such_lu};
use crate::error::{Failure, Result};
use crate::output::Reply;
use crate::session::Session;
use crate::size::Size;

/// Gives a unit another size: an image by librbd, which asks the daemon that holds its lock; a volatile unit in the map.
///
/// # Errors
/// ENOENT; EPERM for a smaller size without `really`; EINVAL for a size that is no multiple of the block size.
pub(super) async fn resize(session: &Session, name: &LuName, size: Size, really: bool) -> Result<Reply> {
    let map = session.map_if_any().await?;
    let lu = map.as_ref().and_then(|map| map.lu_named(name)).ok_or_else(|| no_such_lu(name))?;
    size.in_blocks(lu.block_size).map_err(Failure::invalid)?;
    match &lu.backend {
        Backend::Rbd { image, image_id } => resize_rbd(session, image, image_id, size, really).await,
        Backend::Ram { size_bytes, .. } | Backend::Null { size_bytes, .. } => {
            may_shrink(name, Size(*size_bytes), size, really)?;
            let changed =
                session.change(|map, origin| change::lu::resize_volatile(map, origin, name, size.0)).await?;
            Ok(changed.granted())
        }
    }
}

async fn resize_rbd(
    session: &Session,
    spec: &ImageSpec,
    image_id: &str,
    size: Size,
    really: bool,
) -> Result<Reply> {
    let pool = image::pool(&session.cluster, spec).await?;
    let name = LuName::Rbd(spec.clone());
    let is = Size(image::size(&pool, image_id).await?);
    if is == size {
        return Ok(Reply::done(format!("logical unit '{name}' already has a size of {size}")));
    }
    may_shrink(&name, is, size, really)?;
    let image = Image::open(&pool, spec.image(), OpenMode::ReadWrite).await?;
    let resized = image.resize(size.0, really).await;
    let closed = image.close().await;
    resized.map_err(|error| match error.errno() {
        Errno::EROFS => Failure::new(
            Errno::EROFS,
            format!("the holder of the lock of image {spec} does not change its size: {error}; see 'lus lu info {spec}'"),
        ),
        _ => error.into(),
    })?;
    closed?;
    Ok(Reply::done(format!("logical unit '{name}' resized from {is} to {size}")))
}

fn may_shrink(name: &LuName, is: Size, size: Size, really: bool) -> Result<()> {
    if size >= is || really {
        return Ok(());
    }
    Err(Failure::new(
        Errno::EPERM,
        format!(
            "WARNING: this will *PERMANENTLY DESTROY* what is stored in {name} beyond {size}; it has {is}.  If you are \
             certain that is what you want, pass --yes-i-really-mean-it."
        ),
    ))
}
