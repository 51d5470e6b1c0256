//! RBD images: opening and closing, facts, the exclusive lock, changes. Reads and writes are in `io`.

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    fmt, mem, ptr,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use lusd_ceph_sys as sys;
use tokio::sync::watch;

use crate::{
    Error, Features, MirrorState, Pool, Result,
    cluster::text,
    error::{blocking, check, cstring, name_cstring},
    options::IMAGE_SAFETY,
    reaper,
};

/// Longest id of an image that is read (librbd's own are 12 to 20 characters).
const ID_MAX_BYTES: usize = 256;
/// Room for a value of an image's metadata, with its end.
const METADATA_MAX_BYTES: usize = 256;
/// Most options that librbd lists for an image (16.2 has 64 or so).
const IMAGE_OPTIONS_MAX: usize = 4096;
/// Most lock owners that are listed: the exclusive lock has one at most.
const LOCK_OWNERS_MAX: usize = 16;

/// For what an image is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// For I/O by the owner, and for changes. Registers a watch on the header object, which others see. Only on a client
    /// [for images](crate::ClusterOptions::for_images). **One such handle per image and client**: a second one cannot write ([`EROFS`](crate::Errno::EROFS)) while the first has the lock.
    ReadWrite,
    /// For looking at it: no watch, so nobody waits for this handle, and [`Image::size`] stays what it was. Not for serving reads: only the owner's reads are
    /// in order with its writes.
    ReadOnly,
}

/// An open image. Cheap to clone; closes when the last clone and the last operation (in flight, or completed and not drained yet) are gone, in the background, or awaited with
/// [`Image::close`].
#[derive(Clone)]
pub struct Image {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    raw: sys::rbd_image_t,
    /// Bytes; kept up to date by the header watch, so that the data path need not ask librbd.
    size: AtomicU64,
    updates: watch::Sender<u64>,
    refresh_queued: AtomicBool,
    update_watch: OnceLock<UpdateWatch>,
    name: String,
    id: String,
    layout: Layout,
    data_pool_id: i64,
    mode: OpenMode,
    /// None in unit tests only.
    pool: Option<Pool>,
    closed: watch::Sender<Option<c_int>>,
}

// SAFETY: librbd locks inside; an image handle may be used from any thread, several at a time.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

/// How the image is spread over objects; fixed when the image is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of an object, a power of two (4 MiB by default).
    pub object_size: u64,
    /// Bytes that are together in one object; the object size without fancy striping.
    pub stripe_unit: u64,
    /// Objects over which stripes go round; 1 without fancy striping.
    pub stripe_count: u64,
}

impl Layout {
    /// Bytes of the image that are together in one object, from each multiple of it on.
    pub fn contiguous(&self) -> u64 {
        if self.stripe_count > 1 { self.stripe_unit } else { self.object_size }
    }
}

/// Changes of an image's header, from [`Image::watch_update`] on; several at once count as one.
#[derive(Debug)]
pub struct ImageUpdates {
    /// Not handed out: whoever holds a borrow of it would block the image's refresh and close.
    sizes: watch::Receiver<u64>,
}

impl ImageUpdates {
    /// The size in bytes after the next change; None when the image is closed. May be dropped while it waits: nothing is lost.
    pub async fn next(&mut self) -> Option<u64> {
        self.sizes.changed().await.ok()?;
        Some(*self.sizes.borrow_and_update())
    }
}

struct UpdateWatch {
    handle: u64,
    arg: *mut Weak<Inner>,
}

/// A handle on its way to be closed.
struct Closing {
    raw: sys::rbd_image_t,
    update_watch: Option<UpdateWatch>,
    /// Outlives the handle: librbd uses its client.
    _pool: Option<Pool>,
}

// SAFETY: sole owner of the handle and of the watch's argument.
unsafe impl Send for Closing {}

impl Closing {
    /// Blocks until everything of the image has ended.
    fn close(self) -> c_int {
        if let Some(update_watch) = &self.update_watch {
            // SAFETY: live handle, registered watch. Returns when no callback runs any more, so that nobody uses `arg`, which is freed once.
            unsafe {
                let rc = sys::rbd_update_unwatch(self.raw, update_watch.handle);
                if rc != 0 {
                    tracing::debug!(rc, "rbd_update_unwatch");
                }
                drop(Box::from_raw(update_watch.arg));
            }
        }
        // SAFETY: live handle; the last reference to it is ours, nothing is in flight.
        unsafe { sys::rbd_close(self.raw) }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.raw.is_null() {
            return; // unit tests
        }
        let closing =
            Closing { raw: self.raw, update_watch: self.update_watch.take(), _pool: self.pool.take() };
        let closed = self.closed.clone();
        reaper::run(move || {
            let rc = closing.close();
            closed.send_replace(Some(rc));
        });
    }
}

impl Inner {
    pub(crate) fn raw(&self) -> sys::rbd_image_t {
        self.raw
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    /// Asks librbd for the size, which may ask the cluster: not on a thread of librbd, nor in async code.
    fn refresh(&self) -> Result<u64> {
        let mut size = 0;
        // SAFETY: live handle and a place for the size.
        let rc = unsafe { sys::rbd_get_size(self.raw, &mut size) };
        let result = check("rbd_get_size", &self.name, rc);
        if result.is_ok() {
            self.size.store(size, Ordering::Relaxed);
        }
        self.updates.send_replace(self.size());
        result.map(|_| size)
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> Arc<Inner> {
        Arc::new(Inner::new(ptr::null_mut(), String::new(), String::new(), OpenMode::ReadOnly, None))
    }

    fn new(raw: sys::rbd_image_t, name: String, id: String, mode: OpenMode, pool: Option<Pool>) -> Inner {
        Inner {
            raw,
            size: AtomicU64::new(0),
            updates: watch::Sender::new(0),
            refresh_queued: AtomicBool::new(false),
            update_watch: OnceLock::new(),
            name,
            id,
            layout: Layout { object_size: 0, stripe_unit: 0, stripe_count: 0 },
            data_pool_id: -1,
            mode,
            pool,
            closed: watch::Sender::new(None),
        }
    }
}

/// librbd's callback for a change of the header (size, snapshots, lock), on one of its threads: must not block, nor call librbd.
extern "C" fn on_update(arg: *mut c_void) {
    // SAFETY: `arg` is the box given with the watch; it lives until rbd_update_unwatch has returned, which waits for this callback.
    let weak = unsafe { &*arg.cast::<Weak<Inner>>() };
    if let Some(inner) = weak.upgrade()
        && !inner.refresh_queued.swap(true, Ordering::AcqRel)
    {
        reaper::run(move || {
            inner.refresh_queued.store(false, Ordering::Release);
            if let Err(error) = inner.refresh() {
                tracing::debug!(%error, "cannot read the size of a changed image");
            }
        });
    }
}

impl Image {
    /// Opens an image. About 15 ms.
    ///
    /// # Errors
    /// ENOENT for a missing image, ESHUTDOWN for a fenced client; [`Error::UnsafeOption`] if it is to be written and the client is not
    /// [for images](crate::ClusterOptions::for_images), or the image or its pool overrides what that sets (`rbd config image|pool set`).
    pub async fn open(pool: &Pool, name: &str, mode: OpenMode) -> Result<Image> {
        let pool = pool.clone();
        let name = name.to_owned();
        blocking("rbd_open", move || Image::open_blocking(pool, name, mode)).await
    }

    fn open_blocking(pool: Pool, name: String, mode: OpenMode) -> Result<Image> {
        let writes = mode == OpenMode::ReadWrite;
        if writes && !pool.cluster().inner.for_images() {
            for (option, wanted) in IMAGE_SAFETY {
                let found = pool.cluster().conf_get(option)?;
                if found != wanted {
                    return Err(Error::UnsafeOption {
                        option: option.into(),
                        found,
                        wanted,
                        level: "client",
                    });
                }
            }
        }
        let c_name = name_cstring("image name", &name)?;
        let mut raw: sys::rbd_image_t = ptr::null_mut();
        let (io, snap) = (pool.inner.raw(), ptr::null());
        // SAFETY: live ioctx, terminated name, a place for the handle, no snapshot.
        let rc = unsafe {
            if writes {
                sys::rbd_open(io, c_name.as_ptr(), &mut raw, snap)
            } else {
                sys::rbd_open_read_only(io, c_name.as_ptr(), &mut raw, snap)
            }
        };
        check(if writes { "rbd_open" } else { "rbd_open_read_only" }, &name, rc)?;
        // From here on dropping `inner` closes the handle.
        let mut inner = Inner::new(raw, name, String::new(), mode, Some(pool));
        inner.id = read_id(&inner)?;
        inner.layout = read_layout(&inner)?;
        // SAFETY: live handle.
        inner.data_pool_id = unsafe { sys::rbd_get_data_pool_id(inner.raw) };
        if writes {
            check_image_options(&inner)?;
        }
        let inner = Arc::new(inner);
        if writes {
            watch_updates(&inner)?;
        }
        inner.refresh()?; // behind the watch, so that no change falls in between
        Ok(Image { inner })
    }

    /// Closes the image: resolves when the handle is closed, which waits for all clones and operations of it to be dropped. Gives up the exclusive lock if it is held.
    ///
    /// # Errors
    /// What librbd returns; the handle is gone in any case.
    pub async fn close(self) -> Result<()> {
        let name = self.inner.name.clone();
        let mut closed = self.inner.closed.subscribe();
        drop(self);
        // The sender lives in the job until it has sent, so the error cannot happen.
        let rc = closed.wait_for(Option::is_some).await.ok().and_then(|rc| *rc).unwrap_or(0);
        check("rbd_close", &name, rc).map(drop)
    }

    /// The image's name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The image's internal id, which survives renaming.
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// The object that holds the image's metadata and its lock `rbd_lock`.
    pub fn header_object(&self) -> String {
        format!("rbd_header.{}", self.inner.id)
    }

    /// How it was opened.
    pub fn mode(&self) -> OpenMode {
        self.inner.mode
    }

    /// How it is spread over objects.
    pub fn layout(&self) -> Layout {
        self.inner.layout
    }

    /// The number of the pool that holds its data: the image's own, unless it was created with another one for data. `None` if that pool is gone.
    pub fn data_pool_id(&self) -> Option<i64> {
        Some(self.inner.data_pool_id).filter(|id| *id >= 0)
    }

    /// Size in bytes, as of the last change of the header that this handle has seen. Free of cost.
    pub fn size(&self) -> u64 {
        self.inner.size()
    }

    /// Tells changes of the header: the size (perhaps unchanged) after a resize, a snapshot, and when the lock was broken. An owner that is told asks
    /// [`Image::is_lock_owner`]. Silent for [`OpenMode::ReadOnly`]. Does not keep the image open.
    pub fn watch_update(&self) -> ImageUpdates {
        ImageUpdates { sizes: self.inner.updates.subscribe() }
    }

    /// Runs a blocking call on the open handle.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        op: &'static str,
        call: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = self.inner.clone();
        blocking(op, move || call(&inner)).await
    }

    /// The features of the image, which can change while it is open.
    ///
    /// # Errors
    /// What librbd returns.
    pub async fn features(&self) -> Result<Features> {
        self.call("rbd_get_features", |inner| {
            let mut bits = 0;
            // SAFETY: live handle and a place for the bits.
            let rc = unsafe { sys::rbd_get_features(inner.raw, &mut bits) };
            check("rbd_get_features", &inner.name, rc).map(|_| Features(bits))
        })
        .await
    }

    /// Switches features on or off.
    ///
    /// # Errors
    /// EINVAL for what cannot be changed or lacks what it depends on (object-map needs exclusive-lock).
    pub async fn update_features(&self, features: Features, enabled: bool) -> Result<()> {
        self.call("rbd_update_features", move |inner| {
            // SAFETY: live handle.
            let rc = unsafe { sys::rbd_update_features(inner.raw, features.0, enabled.into()) };
            check("rbd_update_features", &inner.name, rc).map(drop)
        })
        .await
    }

    /// Changes the size, in bytes. Done by the lock's owner if there is one (librbd asks it), and seen by it as an update.
    ///
    /// # Errors
    /// EINVAL for a smaller size without `allow_shrink`, and what else librbd returns.
    pub async fn resize(&self, size: u64, allow_shrink: bool) -> Result<()> {
        self.call("rbd_resize2", move |inner| {
            // SAFETY: live handle; the callback needs no argument. (librbd calls it always.)
            let rc = unsafe {
                sys::rbd_resize2(inner.raw, size, allow_shrink, Some(no_progress), ptr::null_mut())
            };
            check("rbd_resize2", &inner.name, rc)?;
            inner.refresh().map(drop)
        })
        .await
    }

    /// A value of the image's metadata, if it is there: at most 255 bytes.
    ///
    /// # Errors
    /// What librbd returns; ERANGE for a longer value, EIO for one that is no text.
    pub async fn metadata(&self, key: &'static str) -> Result<Option<String>> {
        self.call("rbd_metadata_get", move |inner| {
            let c_key = name_cstring("metadata key", key)?;
            let mut value = [0u8; METADATA_MAX_BYTES];
            let mut len = value.len();
            // SAFETY: live handle, terminated key, room for `len` bytes.
            let rc = unsafe {
                sys::rbd_metadata_get(inner.raw, c_key.as_ptr(), value.as_mut_ptr().cast(), &mut len)
            };
            if rc == -libc::ENOENT {
                return Ok(None);
            }
            check("rbd_metadata_get", &inner.name, rc)?;
            let text = text(&value);
            text.map(Some)
                .ok_or_else(|| Error::Malformed { object: inner.name.clone(), what: "image metadata" })
        })
        .await
    }

    /// Sets a value of the image's metadata, or removes it. It is there for whoever opens the image next.
    ///
    /// # Errors
    /// What librbd returns. It is no error to remove what is not there.
    pub async fn set_metadata(&self, key: &'static str, value: Option<&str>) -> Result<()> {
        let value = value.map(|value| cstring("metadata value", value)).transpose()?;
        self.call("rbd_metadata_set", move |inner| {
            let c_key = name_cstring("metadata key", key)?;
            // SAFETY: live handle, terminated key and value.
            let rc = unsafe {
                match &value {
                    Some(value) => sys::rbd_metadata_set(inner.raw, c_key.as_ptr(), value.as_ptr()),
                    None => sys::rbd_metadata_remove(inner.raw, c_key.as_ptr()),
                }
            };
            if value.is_none() && rc == -libc::ENOENT {
                return Ok(());
            }
            check("rbd_metadata_set", &inner.name, rc).map(drop)
        })
        .await
    }

    /// Whether the image is mirrored, and whether this is the copy that may be written.
    ///
    /// # Errors
    /// What librbd returns.
    pub async fn mirror_state(&self) -> Result<MirrorState> {
        self.call("rbd_mirror_image_get_info", mirror_state).await
    }

    /// Takes the exclusive lock. A holder that took it this way keeps it ([`EROFS`](crate::Errno::EROFS)); an *idle* handle of a program that lets librbd manage the lock is asked to
    /// give it up. A dead holder is waited for (30 s) and then fenced by librbd itself: fence and [break](Pool::break_lock) before, to be fast and sure.
    ///
    /// # Errors
    /// EROFS: somebody holds it. EACCES: no right to fence. ESHUTDOWN: this client is fenced.
    pub async fn lock_acquire(&self) -> Result<()> {
        self.call("rbd_lock_acquire", |inner| {
            // SAFETY: live handle.
            let rc = unsafe { sys::rbd_lock_acquire(inner.raw, sys::RBD_LOCK_MODE_EXCLUSIVE) };
            check("rbd_lock_acquire", &inner.name, rc).map(drop)
        })
        .await
    }

    /// Gives up the exclusive lock, when the writes in flight have ended.
    ///
    /// # Errors
    /// EINVAL if it is not held.
    pub async fn lock_release(&self) -> Result<()> {
        self.call("rbd_lock_release", |inner| {
            // SAFETY: live handle.
            let rc = unsafe { sys::rbd_lock_release(inner.raw) };
            check("rbd_lock_release", &inner.name, rc).map(drop)
        })
        .await
    }

    /// Asks the cluster (half a millisecond) whether this handle holds the lock.
    ///
    /// # Errors
    /// ESHUTDOWN for a fenced client. Anything but `Ok(true)` means: stop.
    pub async fn is_lock_owner(&self) -> Result<bool> {
        self.call("rbd_is_exclusive_lock_owner", |inner| {
            let mut owner = 0;
            // SAFETY: live handle and a place for the answer.
            let rc = unsafe { sys::rbd_is_exclusive_lock_owner(inner.raw, &mut owner) };
            check("rbd_is_exclusive_lock_owner", &inner.name, rc).map(|_| owner != 0)
        })
        .await
    }

    /// Who holds the exclusive lock, in librbd's words (`address` of the client); empty if nobody does. [`Pool::list_lockers`] on the header object tells more.
    ///
    /// # Errors
    /// What librbd returns.
    pub async fn lock_owners(&self) -> Result<Vec<String>> {
        self.call("rbd_lock_get_owners", lock_owners).await
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pool = self.inner.pool.as_ref().map_or("", |pool| pool.name());
        write!(f, "Image({pool}/{}, {:?}, {} bytes)", self.inner.name, self.inner.mode, self.size())
    }
}

extern "C" fn no_progress(_offset: u64, _total: u64, _arg: *mut c_void) -> c_int {
    0
}

fn read_id(inner: &Inner) -> Result<String> {
    let mut buf = [0u8; ID_MAX_BYTES];
    // SAFETY: live handle, `buf` has that many writable bytes.
    check("rbd_get_id", &inner.name, unsafe {
        sys::rbd_get_id(inner.raw, buf.as_mut_ptr().cast(), buf.len())
    })?;
    text(&buf).ok_or_else(|| Error::Malformed { object: inner.name.clone(), what: "image id" })
}

fn read_layout(inner: &Inner) -> Result<Layout> {
    // SAFETY: a plain C struct of numbers.
    let mut info: sys::rbd_image_info_t = unsafe { mem::zeroed() };
    let (mut stripe_unit, mut stripe_count) = (0, 0);
    let name = &inner.name;
    // SAFETY: live handle, and places for the results.
    unsafe {
        check("rbd_stat", name, sys::rbd_stat(inner.raw, &mut info, size_of_val(&info)))?;
        check("rbd_get_stripe_unit", name, sys::rbd_get_stripe_unit(inner.raw, &mut stripe_unit))?;
        check("rbd_get_stripe_count", name, sys::rbd_get_stripe_count(inner.raw, &mut stripe_count))?;
    }
    Ok(Layout { object_size: info.obj_size, stripe_unit, stripe_count })
}

/// What the image and its pool override wins over the client's options: compare what is in effect.
fn check_image_options(inner: &Inner) -> Result<()> {
    let mut room = 128;
    loop {
        let empty = sys::rbd_config_option_t { name: ptr::null_mut(), value: ptr::null_mut(), source: 0 };
        let mut options = vec![empty; room];
        let mut count = c_int::try_from(room).unwrap_or(c_int::MAX);
        // SAFETY: live handle, room for `count` options.
        let rc = unsafe { sys::rbd_config_image_list(inner.raw, options.as_mut_ptr(), &mut count) };
        if rc == -libc::ERANGE && room < IMAGE_OPTIONS_MAX {
            room = usize::try_from(count).unwrap_or(0).clamp(room * 2, IMAGE_OPTIONS_MAX);
            continue;
        }
        check("rbd_config_image_list", &inner.name, rc)?;
        let filled = &options[..usize::try_from(count).unwrap_or(0).min(room)];
        let result = filled.iter().try_for_each(check_image_option);
        // SAFETY: as librbd filled them, freed once.
        unsafe { sys::rbd_config_image_list_cleanup(options.as_mut_ptr(), count) };
        return result;
    }
}

fn check_image_option(option: &sys::rbd_config_option_t) -> Result<()> {
    if option.name.is_null() || option.value.is_null() {
        return Ok(());
    }
    // SAFETY: terminated strings from librbd, alive until the list is cleaned up.
    let (name, found) = unsafe { (CStr::from_ptr(option.name), CStr::from_ptr(option.value)) };
    let Some((name, wanted)) = IMAGE_SAFETY.into_iter().find(|(safe, _)| safe.as_bytes() == name.to_bytes())
    else {
        return Ok(());
    };
    if found.to_bytes() == wanted.as_bytes() {
        return Ok(());
    }
    let level = match option.source {
        sys::RBD_CONFIG_SOURCE_POOL => "pool",
        sys::RBD_CONFIG_SOURCE_IMAGE => "image",
        _ => "client",
    };
    Err(Error::UnsafeOption {
        option: name.into(),
        found: found.to_string_lossy().into_owned(),
        wanted,
        level,
    })
}

fn watch_updates(inner: &Arc<Inner>) -> Result<()> {
    let arg = Box::into_raw(Box::new(Arc::downgrade(inner)));
    let mut handle = 0;
    // SAFETY: live handle, a callback that takes `arg` for what it is, which lives until the watch is ended.
    let rc = unsafe { sys::rbd_update_watch(inner.raw, &mut handle, Some(on_update), arg.cast()) };
    if let Err(error) = check("rbd_update_watch", &inner.name, rc) {
        // SAFETY: not registered, so still ours.
        drop(unsafe { Box::from_raw(arg) });
        return Err(error);
    }
    let first = inner.update_watch.set(UpdateWatch { handle, arg }).is_ok();
    assert!(first, "one update watch per handle");
    Ok(())
}

fn mirror_state(inner: &Inner) -> Result<MirrorState> {
    let mut info = sys::rbd_mirror_image_info_t { global_id: ptr::null_mut(), state: 0, primary: false };
    // SAFETY: live handle, and a place for the result of that size.
    let rc = unsafe { sys::rbd_mirror_image_get_info(inner.raw, &mut info, size_of_val(&info)) };
    if rc == -libc::ENOENT || rc == -libc::EOPNOTSUPP {
        return Ok(MirrorState::Disabled);
    }
    check("rbd_mirror_image_get_info", &inner.name, rc)?;
    let state = match info.state {
        sys::RBD_MIRROR_IMAGE_DISABLED => MirrorState::Disabled,
        sys::RBD_MIRROR_IMAGE_DISABLING => MirrorState::Disabling,
        _ if info.primary => MirrorState::Primary,
        _ => MirrorState::NonPrimary,
    };
    // SAFETY: as librbd filled it, freed once.
    unsafe { sys::rbd_mirror_image_get_info_cleanup(&mut info) };
    Ok(state)
}

fn lock_owners(inner: &Inner) -> Result<Vec<String>> {
    let mut mode = 0;
    let mut owners: [*mut c_char; LOCK_OWNERS_MAX] = [ptr::null_mut(); LOCK_OWNERS_MAX];
    let mut count = LOCK_OWNERS_MAX;
    // SAFETY: live handle, room for `count` strings.
    let rc = unsafe { sys::rbd_lock_get_owners(inner.raw, &mut mode, owners.as_mut_ptr(), &mut count) };
    if rc == -libc::ENOENT {
        return Ok(Vec::new());
    }
    check("rbd_lock_get_owners", &inner.name, rc)?;
    let count = count.min(LOCK_OWNERS_MAX);
    let names = owners[..count]
        .iter()
        .filter(|owner| !owner.is_null())
        // SAFETY: terminated strings from librbd, alive until cleaned up.
        .map(|&owner| unsafe { CStr::from_ptr(owner) }.to_string_lossy().into_owned())
        .collect();
    // SAFETY: as librbd filled them, freed once.
    unsafe { sys::rbd_lock_get_owners_cleanup(owners.as_mut_ptr(), count) };
    Ok(names)
}
