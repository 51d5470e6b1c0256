//! Images of a pool: create, remove, list; features and mirroring.

use std::{
    ffi::{CStr, CString, c_int, c_void},
    fmt, ptr,
};

use lusd_ceph_sys as sys;

use crate::{
    Error, Pool, Result,
    error::{blocking, check, name_cstring},
};

/// Most images of a pool that are listed.
const IMAGES_MAX: usize = 1 << 20;

/// Features of an image, as bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Features(pub u64);

#[allow(missing_docs)]
impl Features {
    pub const LAYERING: Features = Features(sys::RBD_FEATURE_LAYERING);
    pub const STRIPINGV2: Features = Features(sys::RBD_FEATURE_STRIPINGV2);
    pub const EXCLUSIVE_LOCK: Features = Features(sys::RBD_FEATURE_EXCLUSIVE_LOCK);
    pub const OBJECT_MAP: Features = Features(sys::RBD_FEATURE_OBJECT_MAP);
    pub const FAST_DIFF: Features = Features(sys::RBD_FEATURE_FAST_DIFF);
    pub const DEEP_FLATTEN: Features = Features(sys::RBD_FEATURE_DEEP_FLATTEN);
    pub const JOURNALING: Features = Features(sys::RBD_FEATURE_JOURNALING);
    pub const DATA_POOL: Features = Features(sys::RBD_FEATURE_DATA_POOL);
    pub const OPERATIONS: Features = Features(sys::RBD_FEATURE_OPERATIONS);
    pub const MIGRATING: Features = Features(sys::RBD_FEATURE_MIGRATING);
    pub const NON_PRIMARY: Features = Features(sys::RBD_FEATURE_NON_PRIMARY);
    pub const DIRTY_CACHE: Features = Features(sys::RBD_FEATURE_DIRTY_CACHE);
}

const NAMES: [(Features, &str); 12] = [
    (Features::LAYERING, "layering"),
    (Features::STRIPINGV2, "striping"),
    (Features::EXCLUSIVE_LOCK, "exclusive-lock"),
    (Features::OBJECT_MAP, "object-map"),
    (Features::FAST_DIFF, "fast-diff"),
    (Features::DEEP_FLATTEN, "deep-flatten"),
    (Features::JOURNALING, "journaling"),
    (Features::DATA_POOL, "data-pool"),
    (Features::OPERATIONS, "operations"),
    (Features::MIGRATING, "migrating"),
    (Features::NON_PRIMARY, "non-primary"),
    (Features::DIRTY_CACHE, "dirty-cache"),
];

impl Features {
    /// All of `other` are set.
    pub const fn contains(self, other: Features) -> bool {
        self.0 & other.0 == other.0
    }

    /// The names that `rbd info` shows; bits without a name are left out.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.into_iter().filter(move |(feature, _)| self.contains(*feature)).map(|(_, name)| name)
    }
}

impl std::ops::BitOr for Features {
    type Output = Features;

    fn bitor(self, other: Features) -> Features {
        Features(self.0 | other.0)
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, name) in self.names().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            f.write_str(name)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Features({self}; {:#x})", self.0)
    }
}

/// An image in the view of rbd mirroring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MirrorState {
    /// Not mirrored.
    Disabled,
    /// Mirroring is being switched off.
    Disabling,
    /// Mirrored, and this copy may be written.
    Primary,
    /// Mirrored, and this is the other end's copy: not to be served.
    NonPrimary,
}

/// How to create an image; None leaves it to the cluster's defaults (`rbd_default_*`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CreateOptions {
    /// Bytes of an object: a power of two from 4 KiB to 32 MiB.
    pub object_size: Option<u64>,
    /// Features.
    pub features: Option<Features>,
    /// Bytes of a stripe unit, with `stripe_count`.
    pub stripe_unit: Option<u64>,
    /// Objects in a stripe, with `stripe_unit`.
    pub stripe_count: Option<u64>,
    /// Pool for the data, for instance an erasure-coded one.
    pub data_pool: Option<String>,
}

/// One image of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSpec {
    /// Its name.
    pub name: String,
    /// Its internal id.
    pub id: String,
}

struct RawOptions(sys::rbd_image_options_t);

impl Drop for RawOptions {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once.
        unsafe { sys::rbd_image_options_destroy(self.0) }
    }
}

impl RawOptions {
    fn new(options: &CreateOptions) -> Result<RawOptions> {
        let mut raw = ptr::null_mut();
        // SAFETY: a place for the options.
        unsafe { sys::rbd_image_options_create(&mut raw) };
        let raw = RawOptions(raw);
        let order = match options.object_size {
            Some(size) if size.is_power_of_two() => Some(u64::from(size.trailing_zeros())),
            Some(_) => return Err(Error::InvalidArgument { what: "object size" }),
            None => None,
        };
        let numbers = [
            (sys::RBD_IMAGE_OPTION_ORDER, order),
            (sys::RBD_IMAGE_OPTION_FEATURES, options.features.map(|f| f.0)),
            (sys::RBD_IMAGE_OPTION_STRIPE_UNIT, options.stripe_unit),
            (sys::RBD_IMAGE_OPTION_STRIPE_COUNT, options.stripe_count),
        ];
        for (name, value) in numbers {
            if let Some(value) = value {
                // SAFETY: live options.
                let rc = unsafe { sys::rbd_image_options_set_uint64(raw.0, name, value) };
                check("rbd_image_options_set_uint64", "", rc)?;
            }
        }
        if let Some(pool) = &options.data_pool {
            let c_pool = name_cstring("data pool", pool)?;
            // SAFETY: live options, terminated name.
            let rc = unsafe {
                sys::rbd_image_options_set_string(raw.0, sys::RBD_IMAGE_OPTION_DATA_POOL, c_pool.as_ptr())
            };
            check("rbd_image_options_set_string", pool, rc)?;
        }
        Ok(raw)
    }
}

impl Pool {
    /// Creates an image of `size` bytes.
    ///
    /// # Errors
    /// EEXIST; EINVAL for options that do not fit; ENOENT for a missing data pool.
    pub async fn create_image(&self, name: &str, size: u64, options: CreateOptions) -> Result<()> {
        let inner = self.inner.clone();
        let c_name = name_cstring("image name", name)?;
        blocking("rbd_create4", move || {
            let raw = RawOptions::new(&options)?;
            // SAFETY: live ioctx and options, terminated name.
            let rc = unsafe { sys::rbd_create4(inner.raw(), c_name.as_ptr(), size, raw.0) };
            check("rbd_create4", &c_name.to_string_lossy(), rc).map(drop)
        })
        .await
    }

    /// Removes an image and its data. `progress` gets (done, total) now and then, on a thread that must not block.
    ///
    /// # Errors
    /// ENOENT; EBUSY while somebody has it open for writing; ENOTEMPTY if it has snapshots.
    pub async fn remove_image(
        &self,
        name: &str,
        progress: impl FnMut(u64, u64) + Send + 'static,
    ) -> Result<()> {
        let inner = self.inner.clone();
        let c_name = name_cstring("image name", name)?;
        blocking("rbd_remove_with_progress", move || remove(&inner, &c_name, progress)).await
    }

    /// The images of this pool and namespace, by name.
    ///
    /// # Errors
    /// What librbd returns.
    pub async fn list_images(&self) -> Result<Vec<ImageSpec>> {
        let inner = self.inner.clone();
        let pool = self.name().to_owned();
        blocking("rbd_list2", move || list(inner.raw(), &pool)).await
    }
}

fn remove<F: FnMut(u64, u64)>(pool: &crate::pool::Inner, name: &CString, mut progress: F) -> Result<()> {
    extern "C" fn on_progress<F: FnMut(u64, u64)>(offset: u64, total: u64, arg: *mut c_void) -> c_int {
        // SAFETY: `arg` is the closure below; librbd calls from one thread at a time, and not after it has returned.
        unsafe { (*arg.cast::<F>())(offset, total) };
        0
    }
    // SAFETY: live ioctx, terminated name, a callback that takes its argument for what it is.
    let rc = unsafe {
        sys::rbd_remove_with_progress(
            pool.raw(),
            name.as_ptr(),
            Some(on_progress::<F>),
            (&raw mut progress).cast(),
        )
    };
    check("rbd_remove_with_progress", &name.to_string_lossy(), rc).map(drop)
}

fn list(io: sys::rados_ioctx_t, pool: &str) -> Result<Vec<ImageSpec>> {
    let mut room = 64;
    loop {
        let mut specs = vec![sys::rbd_image_spec_t { id: ptr::null_mut(), name: ptr::null_mut() }; room];
        let mut count = room;
        // SAFETY: live ioctx, room for `count` images.
        let rc = unsafe { sys::rbd_list2(io, specs.as_mut_ptr(), &mut count) };
        if rc == -libc::ERANGE && room < IMAGES_MAX {
            room = count.clamp(room * 2, IMAGES_MAX);
            continue;
        }
        check("rbd_list2", pool, rc)?;
        let filled = count.min(room);
        let text = |raw: *const std::ffi::c_char| {
            if raw.is_null() {
                return String::new();
            }
            // SAFETY: a terminated string from librbd, alive until cleaned up.
            unsafe { CStr::from_ptr(raw) }.to_string_lossy().into_owned()
        };
        let images =
            specs[..filled].iter().map(|s| ImageSpec { name: text(s.name), id: text(s.id) }).collect();
        // SAFETY: as librbd filled them, freed once.
        unsafe { sys::rbd_image_spec_list_cleanup(specs.as_mut_ptr(), filled) };
        return Ok(images);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn feature_names() {
        let features = Features::LAYERING | Features::EXCLUSIVE_LOCK;
        assert!(features.contains(Features::EXCLUSIVE_LOCK) && !features.contains(Features::JOURNALING));
        assert_eq!(features.to_string(), "layering, exclusive-lock");
        assert_eq!(format!("{features:?}"), "Features(layering, exclusive-lock; 0x5)");
        assert_eq!(Features(0).to_string(), "");
    }
}
