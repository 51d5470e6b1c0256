//! `lus lu create` and `lus lu add`.

use lus_map::{Backend, ImageSpec, Lu, LuName, LusMap, change};
use lusd_ceph::{Errno, Pool};

use super::{Identity, caps, image};
use crate::error::{Failure, Result};
use crate::output::Reply;
use crate::session::{Changed, Session};
use crate::size::Size;

/// Creates the image, if there is to be one, and the unit.
///
/// # Errors
/// What the map refuses; what creating the image gives.
pub(super) async fn create(session: &Session, lu: &LuName, size: Size, identity: &Identity) -> Result<Reply> {
    size.in_blocks(identity.block_size).map_err(Failure::invalid)?;
    let backend = match lu {
        LuName::Rbd(spec) => return create_rbd(session, spec, size, identity).await,
        LuName::Ram(name) => Backend::Ram { name: name.clone(), size_bytes: size.0 },
        LuName::Null(name) => Backend::Null { name: name.clone(), size_bytes: size.0 },
    };
    let ask = identity.ask(backend);
    let changed = session.change(|map, origin| change::lu::add(map, origin, &ask)).await?;
    Ok(reply(&changed, lu, changed.said.replace("added", "created")))
}

async fn create_rbd(session: &Session, spec: &ImageSpec, size: Size, identity: &Identity) -> Result<Reply> {
    let name = LuName::Rbd(spec.clone());
    let map = session.map_to_change().await?;
    if let Some(lu) = map.lu_named(&name) {
        return existing(session, lu, spec, Some(size), identity).await;
    }
    let pool = image::pool(&session.cluster, spec).await?;
    caps::require(&session.cluster, &map, spec.pool(), spec.namespace()).await?;
    image::create(&pool, spec, size).await?;
    match offer(session, &pool, spec, identity).await {
        Ok(changed) => Ok(reply(&changed, &name, changed.said.replace("added", "created"))),
        Err(failure) => Err(undo(session, &pool, spec, failure).await),
    }
}

/// Puts the unit of an image that is fit to be served into the map.
async fn offer(session: &Session, pool: &Pool, spec: &ImageSpec, identity: &Identity) -> Result<Changed> {
    let image = image::look(pool, spec).await?;
    let checked = async {
        image::fit(&image, spec).await?;
        Size(image.size())
            .in_blocks(identity.block_size)
            .map_err(|why| Failure::invalid(format!("image {spec}: {why}")))
    };
    let checked = checked.await;
    let image_id = image.id().to_owned();
    image.close().await?;
    if checked? == 0 {
        return Err(Failure::invalid(format!(
            "image {spec} has no size; give it one with: rbd resize --size SIZE {spec}"
        )));
    }
    let ask = identity.ask(Backend::Rbd { image: spec.clone(), image_id });
    session.change(|map, origin| change::lu::add(map, origin, &ask)).await
}

/// Removes the image that this call created, where it is sure that the map does not have it.
async fn undo(session: &Session, pool: &Pool, spec: &ImageSpec, mut failure: Failure) -> Failure {
    let unknown = failure.errno == Errno::ETIMEDOUT;
    let in_map = match session.map_if_any().await {
        Ok(map) => map.is_some_and(|map| map.lu_named(&LuName::Rbd(spec.clone())).is_some()),
        Err(_) => true,
    };
    if unknown || in_map {
        failure.message +=
            &format!("; image {spec} was created and is left: see 'lus lu ls', then 'lus lu add {spec}'");
        return failure;
    }
    if let Err(error) = pool.remove_image(spec.image(), |_, _| {}).await {
        failure.message += &format!("; image {spec} was created and could not be removed again: {error}");
    }
    failure
}

/// Offers an existing image.
///
/// # Errors
/// ENOENT for a missing image, EINVAL for one that cannot be served, what the map refuses.
pub(super) async fn add(session: &Session, lu: &LuName, identity: &Identity) -> Result<Reply> {
    let LuName::Rbd(spec) = lu else {
        return Err(Failure::invalid(format!("{lu} is no image; create it with: lus lu create {lu} SIZE")));
    };
    let map = session.map_to_change().await?;
    if let Some(found) = map.lu_named(lu) {
        return existing(session, found, spec, None, identity).await;
    }
    let pool = image::pool(&session.cluster, spec).await?;
    caps::require(&session.cluster, &map, spec.pool(), spec.namespace()).await?;
    let changed = offer(session, &pool, spec, identity).await.map_err(|failure| match failure.errno {
        Errno::ENOENT => {
            Failure::not_found(format!("{}; to create it: lus lu create {spec} SIZE", failure.message))
        }
        _ => failure,
    })?;
    let mut said = reply(&changed, lu, changed.said.clone());
    for note in foreign_locks(&pool, &changed.map, lu).await? {
        said = said.note(note);
    }
    Ok(said)
}

/// What there is to say of clients that are using the image.
async fn foreign_locks(pool: &Pool, map: &LusMap, name: &LuName) -> Result<Vec<String>> {
    let Some(Backend::Rbd { image_id, .. }) = map.lu_named(name).map(|lu| &lu.backend) else {
        return Ok(Vec::new());
    };
    let locks = image::locks(pool, image_id, map, None).await?;
    Ok(locks
        .iter()
        .filter(|lock| lock.is_foreign())
        .map(|lock| format!("image {name} is in use by {lock}: it is served when that client lets go of it"))
        .collect())
}

/// The unit is there: fine if it is as asked for.
async fn existing(
    session: &Session,
    lu: &Lu,
    spec: &ImageSpec,
    size: Option<Size>,
    identity: &Identity,
) -> Result<Reply> {
    if let (Some(wanted), Backend::Rbd { image_id, .. }) = (size, &lu.backend) {
        let pool = image::pool(&session.cluster, spec).await?;
        let is = Size(image::size(&pool, image_id).await?);
        if is != wanted {
            return Err(Failure::new(
                Errno::EEXIST,
                format!(
                    "logical unit {spec} already exists with a size of {is}; change it with: lus lu resize {spec} SIZE"
                ),
            ));
        }
    }
    let ask = identity.ask(lu.backend.clone());
    let changed = session.change(|map, origin| change::lu::add(map, origin, &ask)).await?;
    Ok(reply(&changed, &lu.name(), changed.said.clone()))
}

/// What was done, and what is still missing before hosts see it.
fn reply(changed: &Changed, name: &LuName, said: String) -> Reply {
    let reply = Reply::done(said);
    let placed = changed.map.lu_named(name).and_then(|lu| changed.map.placement(&lu.id));
    match placed {
        Some(_) => reply,
        None => reply.note("no daemon is up: the first one that starts will own it"),
    }
}
