//! C declarations of librados and librbd, Ceph 16.2 and newer. No code: the safe layer is `lusd-ceph`.
//!
//! Two sources, one list. Functions that the crate `ceph` declares rightly are re-exported from it; what it lacks (the
//! `2` and `3` variants, the service map, `getaddrs`, all of librbd), and the few that it declares wrongly, are declared here.
//! `tests/headers.rs` reads both sources, redeclares in C everything that is listed here and has the C compiler
//! compare that with the installed headers, so a wrong argument or field does not survive the test run.
//!
//! Documentation of each call is in `<rados/librados.h>` and `<rbd/librbd.h>`; here only what is not said there.
#![allow(non_camel_case_types)]
#![allow(missing_docs)]

use std::ffi::{c_char, c_int, c_uchar, c_uint, c_void};

use libc::{iovec, size_t, ssize_t};

pub use ceph::rados::{
    rados_aio_get_return_value, rados_aio_read_op_operate, rados_aio_release, rados_aio_write_op_operate,
    rados_break_lock, rados_buffer_free, rados_callback_t, rados_cluster_fsid, rados_completion_t,
    rados_conf_get, rados_conf_parse_argv_remainder, rados_conf_parse_env, rados_conf_read_file,
    rados_conf_set, rados_connect, rados_create_read_op, rados_create_write_op, rados_create2,
    rados_get_instance_id, rados_getxattrs_end, rados_getxattrs_next, rados_ioctx_create,
    rados_ioctx_destroy, rados_ioctx_get_id, rados_ioctx_set_namespace, rados_ioctx_t, rados_list_ctx_t,
    rados_list_lockers, rados_mon_command, rados_nobjects_list_close, rados_nobjects_list_open,
    rados_notify_ack, rados_omap_get_end, rados_omap_iter_t, rados_pool_list, rados_read_op_assert_exists,
    rados_read_op_assert_version, rados_read_op_cmpxattr, rados_read_op_getxattrs, rados_read_op_read,
    rados_read_op_stat, rados_read_op_t, rados_release_read_op, rados_release_write_op, rados_shutdown,
    rados_t, rados_unwatch2, rados_version, rados_wait_for_latest_osdmap, rados_watch_check,
    rados_watch_flush, rados_watchcb2_t, rados_watcherrcb_t, rados_write_op_assert_exists,
    rados_write_op_assert_version, rados_write_op_cmpxattr, rados_write_op_create, rados_write_op_omap_clear,
    rados_write_op_remove, rados_write_op_rmxattr, rados_write_op_setxattr, rados_write_op_t,
    rados_write_op_truncate, rados_write_op_write, rados_write_op_write_full, rados_xattrs_iter_t,
};

/// `rados_write_op_create`: the object may exist already.
pub const LIBRADOS_CREATE_IDEMPOTENT: c_int = 0;
/// `rados_write_op_create`: EEXIST if the object exists.
pub const LIBRADOS_CREATE_EXCLUSIVE: c_int = 1;
/// `cmpxattr` and `omap_cmp`: equal, or the whole operation fails with ECANCELED.
pub const LIBRADOS_CMPXATTR_OP_EQ: c_int = 1;

// Of watchers.cc: librados lists watchers in C++ only.
unsafe extern "C" {
    pub fn lus_list_watchers(
        io: rados_ioctx_t,
        oid: *const c_char,
        addresses: *mut *mut c_char,
        len: *mut size_t,
    ) -> c_int;
    pub fn lus_buffer_free(buffer: *mut c_char);
}

#[link(name = "rados")]
unsafe extern "C" {
    pub fn rados_aio_create_completion2(
        cb_arg: *mut c_void,
        cb_complete: rados_callback_t,
        pc: *mut rados_completion_t,
    ) -> c_int;
    pub fn rados_aio_get_version(c: rados_completion_t) -> u64;
    pub fn rados_set_pool_full_try(io: rados_ioctx_t);
    pub fn rados_aio_notify(
        io: rados_ioctx_t,
        o: *const c_char,
        completion: rados_completion_t,
        buf: *const c_char,
        buf_len: c_int,
        timeout_ms: u64,
        reply_buffer: *mut *mut c_char,
        reply_buffer_len: *mut size_t,
    ) -> c_int;
    pub fn rados_blocklist_add(cluster: rados_t, client_address: *mut c_char, expire_seconds: u32) -> c_int;
    pub fn rados_getaddrs(cluster: rados_t, addrs: *mut *mut c_char) -> c_int;
    /// The crate `ceph` declares one level of indirection too many.
    pub fn rados_nobjects_list_next(
        ctx: rados_list_ctx_t,
        entry: *mut *const c_char,
        key: *mut *const c_char,
        nspace: *mut *const c_char,
    ) -> c_int;
    pub fn rados_omap_get_next2(
        iter: rados_omap_iter_t,
        key: *mut *mut c_char,
        val: *mut *mut c_char,
        key_len: *mut size_t,
        val_len: *mut size_t,
    ) -> c_int;
    pub fn rados_read_op_omap_cmp2(
        read_op: rados_read_op_t,
        key: *const c_char,
        comparison_operator: u8,
        val: *const c_char,
        key_len: size_t,
        val_len: size_t,
        prval: *mut c_int,
    );
    pub fn rados_read_op_omap_get_vals2(
        read_op: rados_read_op_t,
        start_after: *const c_char,
        filter_prefix: *const c_char,
        max_return: u64,
        iter: *mut rados_omap_iter_t,
        pmore: *mut c_uchar,
        prval: *mut c_int,
    );
    pub fn rados_read_op_omap_get_vals_by_keys2(
        read_op: rados_read_op_t,
        keys: *const *const c_char,
        num_keys: size_t,
        key_lens: *const size_t,
        iter: *mut rados_omap_iter_t,
        prval: *mut c_int,
    );
    pub fn rados_service_register(
        cluster: rados_t,
        service: *const c_char,
        daemon: *const c_char,
        metadata_dict: *const c_char,
    ) -> c_int;
    pub fn rados_service_update_status(cluster: rados_t, status_dict: *const c_char) -> c_int;
    pub fn rados_watch3(
        io: rados_ioctx_t,
        o: *const c_char,
        cookie: *mut u64,
        watchcb: rados_watchcb2_t,
        watcherrcb: rados_watcherrcb_t,
        timeout: u32,
        arg: *mut c_void,
    ) -> c_int;
    pub fn rados_write_op_omap_cmp2(
        write_op: rados_write_op_t,
        key: *const c_char,
        comparison_operator: u8,
        val: *const c_char,
        key_len: size_t,
        val_len: size_t,
        prval: *mut c_int,
    );
    pub fn rados_write_op_omap_rm_keys2(
        write_op: rados_write_op_t,
        keys: *const *const c_char,
        key_lens: *const size_t,
        keys_len: size_t,
    );
    pub fn rados_write_op_omap_set2(
        write_op: rados_write_op_t,
        keys: *const *const c_char,
        vals: *const *const c_char,
        key_lens: *const size_t,
        val_lens: *const size_t,
        num: size_t,
    );
}

pub type rbd_image_t = *mut c_void;
pub type rbd_image_options_t = *mut c_void;
pub type rbd_completion_t = *mut c_void;
pub type rbd_callback_t = Option<extern "C" fn(cb: rbd_completion_t, arg: *mut c_void)>;
pub type rbd_update_callback_t = Option<extern "C" fn(arg: *mut c_void)>;
pub type librbd_progress_fn_t = Option<extern "C" fn(offset: u64, total: u64, ptr: *mut c_void) -> c_int>;
/// A C enum: `RBD_LOCK_MODE_*`.
pub type rbd_lock_mode_t = c_uint;
/// A C enum: `RBD_MIRROR_IMAGE_*`.
pub type rbd_mirror_image_state_t = c_uint;
/// A C enum: `RBD_CONFIG_SOURCE_*`.
pub type rbd_config_source_t = c_uint;

pub const RBD_LOCK_MODE_EXCLUSIVE: rbd_lock_mode_t = 0;
pub const RBD_MIRROR_IMAGE_DISABLING: rbd_mirror_image_state_t = 0;
pub const RBD_MIRROR_IMAGE_ENABLED: rbd_mirror_image_state_t = 1;
pub const RBD_MIRROR_IMAGE_DISABLED: rbd_mirror_image_state_t = 2;
pub const RBD_CONFIG_SOURCE_CONFIG: rbd_config_source_t = 0;
pub const RBD_CONFIG_SOURCE_POOL: rbd_config_source_t = 1;
pub const RBD_CONFIG_SOURCE_IMAGE: rbd_config_source_t = 2;
pub const RBD_IMAGE_OPTION_FEATURES: c_int = 1;
pub const RBD_IMAGE_OPTION_ORDER: c_int = 2;
pub const RBD_IMAGE_OPTION_STRIPE_UNIT: c_int = 3;
pub const RBD_IMAGE_OPTION_STRIPE_COUNT: c_int = 4;
pub const RBD_IMAGE_OPTION_DATA_POOL: c_int = 10;
pub const RBD_WRITE_ZEROES_FLAG_THICK_PROVISION: c_int = 1;
pub const RBD_MAX_BLOCK_NAME_SIZE: usize = 24;
pub const RBD_MAX_IMAGE_NAME_SIZE: usize = 96;
pub const RBD_FEATURE_LAYERING: u64 = 1;
pub const RBD_FEATURE_STRIPINGV2: u64 = 2;
pub const RBD_FEATURE_EXCLUSIVE_LOCK: u64 = 4;
pub const RBD_FEATURE_OBJECT_MAP: u64 = 8;
pub const RBD_FEATURE_FAST_DIFF: u64 = 16;
pub const RBD_FEATURE_DEEP_FLATTEN: u64 = 32;
pub const RBD_FEATURE_JOURNALING: u64 = 64;
pub const RBD_FEATURE_DATA_POOL: u64 = 128;
pub const RBD_FEATURE_OPERATIONS: u64 = 256;
pub const RBD_FEATURE_MIGRATING: u64 = 512;
pub const RBD_FEATURE_NON_PRIMARY: u64 = 1024;
pub const RBD_FEATURE_DIRTY_CACHE: u64 = 2048;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct rbd_image_info_t {
    pub size: u64,
    pub obj_size: u64,
    pub num_objs: u64,
    pub order: c_int,
    pub block_name_prefix: [c_char; RBD_MAX_BLOCK_NAME_SIZE],
    pub parent_pool: i64,
    pub parent_name: [c_char; RBD_MAX_IMAGE_NAME_SIZE],
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct rbd_image_spec_t {
    pub id: *mut c_char,
    pub name: *mut c_char,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct rbd_mirror_image_info_t {
    pub global_id: *mut c_char,
    pub state: rbd_mirror_image_state_t,
    pub primary: bool,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct rbd_config_option_t {
    pub name: *mut c_char,
    pub value: *mut c_char,
    pub source: rbd_config_source_t,
}

#[link(name = "rbd")]
unsafe extern "C" {
    pub fn rbd_aio_create_completion(
        cb_arg: *mut c_void,
        complete_cb: rbd_callback_t,
        c: *mut rbd_completion_t,
    ) -> c_int;
    pub fn rbd_aio_discard(image: rbd_image_t, off: u64, len: u64, c: rbd_completion_t) -> c_int;
    pub fn rbd_aio_flush(image: rbd_image_t, c: rbd_completion_t) -> c_int;
    pub fn rbd_aio_get_return_value(c: rbd_completion_t) -> ssize_t;
    pub fn rbd_aio_read(
        image: rbd_image_t,
        off: u64,
        len: size_t,
        buf: *mut c_char,
        c: rbd_completion_t,
    ) -> c_int;
    pub fn rbd_aio_release(c: rbd_completion_t);
    pub fn rbd_aio_write(
        image: rbd_image_t,
        off: u64,
        len: size_t,
        buf: *const c_char,
        c: rbd_completion_t,
    ) -> c_int;
    pub fn rbd_aio_write_zeroes(
        image: rbd_image_t,
        off: u64,
        len: size_t,
        c: rbd_completion_t,
        zero_flags: c_int,
        op_flags: c_int,
    ) -> c_int;
    pub fn rbd_aio_writesame(
        image: rbd_image_t,
        off: u64,
        len: size_t,
        buf: *const c_char,
        data_len: size_t,
        c: rbd_completion_t,
        op_flags: c_int,
    ) -> c_int;
    pub fn rbd_aio_writev(
        image: rbd_image_t,
        iov: *const iovec,
        iovcnt: c_int,
        off: u64,
        c: rbd_completion_t,
    ) -> c_int;
    pub fn rbd_close(image: rbd_image_t) -> c_int;
    pub fn rbd_config_image_list(
        image: rbd_image_t,
        options: *mut rbd_config_option_t,
        max_options: *mut c_int,
    ) -> c_int;
    pub fn rbd_config_image_list_cleanup(options: *mut rbd_config_option_t, max_options: c_int);
    pub fn rbd_create4(io: rados_ioctx_t, name: *const c_char, size: u64, opts: rbd_image_options_t)
    -> c_int;
    pub fn rbd_diff_iterate2(
        image: rbd_image_t,
        fromsnapname: *const c_char,
        ofs: u64,
        len: u64,
        include_parent: u8,
        whole_object: u8,
        cb: Option<extern "C" fn(ofs: u64, len: size_t, exists: c_int, arg: *mut c_void) -> c_int>,
        arg: *mut c_void,
    ) -> c_int;
    pub fn rbd_get_data_pool_id(image: rbd_image_t) -> i64;
    pub fn rbd_get_features(image: rbd_image_t, features: *mut u64) -> c_int;
    pub fn rbd_get_id(image: rbd_image_t, id: *mut c_char, id_len: size_t) -> c_int;
    pub fn rbd_get_size(image: rbd_image_t, size: *mut u64) -> c_int;
    pub fn rbd_get_stripe_count(image: rbd_image_t, stripe_count: *mut u64) -> c_int;
    pub fn rbd_get_stripe_unit(image: rbd_image_t, stripe_unit: *mut u64) -> c_int;
    pub fn rbd_image_options_create(opts: *mut rbd_image_options_t);
    pub fn rbd_image_options_destroy(opts: rbd_image_options_t);
    pub fn rbd_image_options_set_string(
        opts: rbd_image_options_t,
        optname: c_int,
        optval: *const c_char,
    ) -> c_int;
    pub fn rbd_image_options_set_uint64(opts: rbd_image_options_t, optname: c_int, optval: u64) -> c_int;
    pub fn rbd_image_spec_list_cleanup(images: *mut rbd_image_spec_t, num_images: size_t);
    pub fn rbd_is_exclusive_lock_owner(image: rbd_image_t, is_owner: *mut c_int) -> c_int;
    pub fn rbd_list2(io: rados_ioctx_t, images: *mut rbd_image_spec_t, max_images: *mut size_t) -> c_int;
    pub fn rbd_lock_acquire(image: rbd_image_t, lock_mode: rbd_lock_mode_t) -> c_int;
    pub fn rbd_lock_get_owners(
        image: rbd_image_t,
        lock_mode: *mut rbd_lock_mode_t,
        lock_owners: *mut *mut c_char,
        max_lock_owners: *mut size_t,
    ) -> c_int;
    pub fn rbd_lock_get_owners_cleanup(lock_owners: *mut *mut c_char, lock_owner_count: size_t);
    pub fn rbd_lock_release(image: rbd_image_t) -> c_int;
    pub fn rbd_metadata_get(
        image: rbd_image_t,
        key: *const c_char,
        value: *mut c_char,
        val_len: *mut size_t,
    ) -> c_int;
    pub fn rbd_metadata_remove(image: rbd_image_t, key: *const c_char) -> c_int;
    pub fn rbd_metadata_set(image: rbd_image_t, key: *const c_char, value: *const c_char) -> c_int;
    pub fn rbd_mirror_image_get_info(
        image: rbd_image_t,
        mirror_image_info: *mut rbd_mirror_image_info_t,
        info_size: size_t,
    ) -> c_int;
    pub fn rbd_mirror_image_get_info_cleanup(mirror_image_info: *mut rbd_mirror_image_info_t);
    pub fn rbd_open(
        io: rados_ioctx_t,
        name: *const c_char,
        image: *mut rbd_image_t,
        snap_name: *const c_char,
    ) -> c_int;
    pub fn rbd_open_read_only(
        io: rados_ioctx_t,
        name: *const c_char,
        image: *mut rbd_image_t,
        snap_name: *const c_char,
    ) -> c_int;
    pub fn rbd_remove_with_progress(
        io: rados_ioctx_t,
        name: *const c_char,
        cb: librbd_progress_fn_t,
        cbdata: *mut c_void,
    ) -> c_int;
    pub fn rbd_resize2(
        image: rbd_image_t,
        size: u64,
        allow_shrink: bool,
        cb: librbd_progress_fn_t,
        cbdata: *mut c_void,
    ) -> c_int;
    pub fn rbd_stat(image: rbd_image_t, info: *mut rbd_image_info_t, infosize: size_t) -> c_int;
    pub fn rbd_update_features(image: rbd_image_t, features: u64, enabled: u8) -> c_int;
    pub fn rbd_update_unwatch(image: rbd_image_t, handle: u64) -> c_int;
    pub fn rbd_update_watch(
        image: rbd_image_t,
        handle: *mut u64,
        watch_cb: rbd_update_callback_t,
        arg: *mut c_void,
    ) -> c_int;
}
