//! Which parts of an image hold data.

use std::ffi::{c_int, c_void};
use std::ptr;

use lusd_ceph_sys as sys;

use crate::{Image, Result, error::check};

/// Most bytes that are looked at in one call: with objects of the least size (4 KiB) and without an object map each object costs an
/// operation.
const EXTENTS_MAX_BYTES: u64 = 64 << 30;

/// What a callback of librbd fills.
#[derive(Default)]
struct Found(Vec<(u64, u64)>);

/// On the thread that calls `rbd_diff_iterate2`.
extern "C" fn on_extent(offset: u64, len: usize, exists: c_int, arg: *mut c_void) -> c_int {
    // SAFETY: `arg` is the `Found` that was given to the call, which is under way and uses it nowhere else.
    let found = unsafe { &mut *arg.cast::<Found>() };
    if exists != 0 {
        match found.0.last_mut() {
            Some((start, before)) if *start + *before == offset => *before += len as u64,
            _ => found.0.push((offset, len as u64)),
        }
    }
    0
}

impl Image {
    /// The parts of `len` bytes at `offset` that hold data, in order, as (offset, bytes), by whole objects; of a clone also those that are
    /// its parent's. What is written meanwhile may be there or not. Fast with the feature fast-diff: else each object is asked for.
    ///
    /// # Errors
    /// What librbd returns.
    pub async fn extents(&self, offset: u64, len: u64) -> Result<Vec<(u64, u64)>> {
        let len = len.min(EXTENTS_MAX_BYTES);
        self.call("rbd_diff_iterate2", move |inner| {
            let mut found = Found::default();
            let (include_parent, whole_object) = (1, 1);
            // SAFETY: live handle, no snapshot; the callback takes `found` for what it is, and runs during the call only.
            let rc = unsafe {
                sys::rbd_diff_iterate2(
                    inner.raw(),
                    ptr::null(),
                    offset,
                    len,
                    include_parent,
                    whole_object,
                    Some(on_extent),
                    (&raw mut found).cast(),
                )
            };
            check("rbd_diff_iterate2", inner.name(), rc)?;
            Ok(found.0)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_and_holes_are_none() {
        let mut found = Found::default();
        for (offset, len, exists) in [(0, 4, 1), (4, 4, 1), (8, 4, 0), (12, 4, 1), (20, 4, 1)] {
            assert_eq!(on_extent(offset, len, exists, (&raw mut found).cast()), 0);
        }
        assert_eq!(found.0, [(0, 8), (12, 4), (20, 4)]);
    }
}
