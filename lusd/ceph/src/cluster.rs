//! A RADOS client: one connection to one cluster, with one address that a fence can name.

use std::{
    ffi::{CStr, CString, c_char, c_int},
    fmt,
    os::unix::ffi::OsStrExt,
    path::Path,
    ptr,
    sync::Arc,
    time::Duration,
};

use lusd_ceph_sys as sys;
use tokio::sync::watch;

use crate::{
    ClientAddr, ClusterOptions, Errno, Error, Pool, Result,
    error::{blocking, check, cstring, name_cstring},
    options::IMAGE_SAFETY,
    reaper,
};

/// Longest value of an option that is read.
const CONF_VALUE_MAX_BYTES: usize = 1 << 20;
/// Longest list of pool names that is read; Ceph's names are short and its pools are few thousand at most.
const POOL_LIST_MAX_BYTES: usize = 16 << 20;
/// Room for an fsid: 36 characters and a NUL.
const FSID_BYTES: usize = 37;

/// A connected RADOS client. Cheap to clone; the connection ends when the last clone, pool, watch and image is gone, or when
/// [`Cluster::shutdown`] says so.
///
/// All that is open on one client shares its fate: a fence names the client's [address](Cluster::address), and from then on every call on it fails
/// with [`Errno::ESHUTDOWN`]; the only cure is a new client.
///
/// The `async` functions of this crate run on tokio: where librados has no asynchronous form, on its blocking threads. Such a call runs to its end even if its future is
/// dropped, and holds up the end of the runtime (`Runtime::shutdown_timeout` does not wait).
#[derive(Clone)]
pub struct Cluster {
    pub(crate) inner: Arc<Inner>,
}

/// A `rados_t` that nobody shares yet.
struct Handle(sys::rados_t);

// SAFETY: librados locks inside; every call on a rados_t may come from any thread.
unsafe impl Send for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: created by rados_create2, shut down once, here; nothing else was made from it yet.
        unsafe { sys::rados_shutdown(self.0) }
    }
}

pub(crate) struct Inner {
    handle: sys::rados_t,
    name: String,
    address: ClientAddr,
    fsid: String,
    for_images: bool,
    closed: watch::Sender<bool>,
}

// SAFETY: librados locks inside; every call on a rados_t may come from any thread, several at a time.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        let handle = Handle(self.handle);
        let closed = self.closed.clone();
        reaper::run(move || {
            drop(handle);
            closed.send_replace(true);
        });
    }
}

impl Inner {
    pub(crate) fn raw(&self) -> sys::rados_t {
        self.handle
    }

    pub(crate) fn for_images(&self) -> bool {
        self.for_images
    }
}

impl Cluster {
    /// Connects. Takes about 20 ms; without a monitor to answer it ends after the option `client_mount_timeout` (5 minutes).
    ///
    /// # Errors
    /// What librados returns ([`Errno::EACCES`] for a wrong key, [`Errno::ETIMEDOUT`] without a monitor, [`Errno::ENOENT`] without file or key, `EINVAL` for a bad
    /// value), unknown arguments, and options that [`ClusterOptions::for_images`] needs and that do not have their value.
    pub async fn connect(options: ClusterOptions) -> Result<Cluster> {
        blocking("rados_connect", move || Cluster::connect_blocking(&options)).await
    }

    fn connect_blocking(options: &ClusterOptions) -> Result<Cluster> {
        reaper::start().map_err(|error| Error::Os {
            op: "pthread_create",
            object: "ceph-reaper".into(),
            errno: Errno::from_raw(error.raw_os_error().unwrap_or(libc::EAGAIN)),
        })?;
        let handle = create(options)?;
        configure(&handle, options)?;
        // SAFETY: the handle is live and not connected yet.
        check("rados_connect", &options.name, unsafe { sys::rados_connect(handle.0) })?;
        if options.for_images {
            // Read back when connected: by now the monitors' configuration is in, too.
            for (option, wanted) in IMAGE_SAFETY {
                let found = conf_get(handle.0, option)?;
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
        let address = address(&handle)?;
        let fsid = fsid(&handle)?;
        let inner = Inner {
            handle: handle.0,
            name: options.name.clone(),
            address,
            fsid,
            for_images: options.for_images,
            closed: watch::Sender::new(false),
        };
        std::mem::forget(handle); // `inner` shuts it down now
        Ok(Cluster { inner: Arc::new(inner) })
    }

    /// Ends this client: resolves when it is shut down, which waits for every clone, pool, watch and image on it to be dropped.
    pub async fn shutdown(self) {
        let mut closed = self.inner.closed.subscribe();
        drop(self);
        // The sender lives in the job until it has sent, so an error cannot be seen before that either.
        let _ = closed.wait_for(|closed| *closed).await;
    }

    /// The address under which this client is blocklisted. Fixed for the client's lifetime; another client gets another.
    pub fn address(&self) -> ClientAddr {
        self.inner.address
    }

    /// The cephx entity, `client.lus.a`.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The cluster's fsid, a UUID in text form.
    pub fn fsid(&self) -> &str {
        &self.inner.fsid
    }

    /// The global id that the monitors gave to this client, the 4711 of `client.4711`.
    pub fn instance_id(&self) -> u64 {
        // SAFETY: live, connected handle.
        unsafe { sys::rados_get_instance_id(self.inner.handle) }
    }

    /// The version of the C API of librados that is loaded (3.0.0 for Ceph 16.2), not Ceph's.
    pub fn librados_version() -> (u32, u32, u32) {
        let (mut major, mut minor, mut extra) = (0, 0, 0);
        // SAFETY: three writable ints.
        unsafe { sys::rados_version(&mut major, &mut minor, &mut extra) };
        (major.unsigned_abs(), minor.unsigned_abs(), extra.unsigned_abs())
    }

    /// The value in effect of an option of Ceph.
    ///
    /// # Errors
    /// [`Errno::ENOENT`] for an option that Ceph does not know; our own `lus_*` options are of that kind.
    pub fn conf_get(&self, option: &str) -> Result<String> {
        conf_get(self.inner.handle, option)
    }

    /// Sends a command to the monitors: JSON such as `{"prefix":"osd stat","format":"json"}`. Returns the output and the status text.
    ///
    /// # Errors
    /// [`Error::MonCommand`] with the monitor's text and number (`EACCES`: the caps do not allow it).
    pub async fn mon_command(&self, command: impl Into<String>) -> Result<(Vec<u8>, String)> {
        let inner = self.inner.clone();
        let command = command.into();
        blocking("rados_mon_command", move || mon_command(inner.handle, command)).await
    }

    /// Puts a client on the blocklist and waits until this client has the OSD map that says so: whatever this client sends from then on reaches no OSD before that OSD
    /// refuses the other one. `expire` is in whole seconds, at least 1 and at most 136 years.
    ///
    /// An address that is on the list already keeps its first expiry.
    ///
    /// # Errors
    /// [`Errno::EACCES`] when the caps do not allow it. On any error nobody is fenced.
    pub async fn blocklist_add(&self, client: &ClientAddr, expire: Duration) -> Result<()> {
        let inner = self.inner.clone();
        let client = client.to_string();
        let expire_s = u32::try_from(expire.as_secs()).unwrap_or(u32::MAX).max(1);
        blocking("rados_blocklist_add", move || {
            let address = cstring("client address", &client)?;
            // SAFETY: live handle; librados only reads the string, whatever its type says.
            let rc = unsafe { sys::rados_blocklist_add(inner.handle, address.as_ptr().cast_mut(), expire_s) };
            check("rados_blocklist_add", &client, rc).map(drop)
        })
        .await
    }

    /// Waits until this client has the newest OSD map that the monitors have.
    ///
    /// # Errors
    /// What librados returns.
    pub async fn wait_for_latest_osdmap(&self) -> Result<()> {
        let inner = self.inner.clone();
        blocking("rados_wait_for_latest_osdmap", move || {
            // SAFETY: live, connected handle.
            let rc = unsafe { sys::rados_wait_for_latest_osdmap(inner.handle) };
            check("rados_wait_for_latest_osdmap", &inner.name, rc).map(drop)
        })
        .await
    }

    /// The epoch of the monitors' newest OSD map. After [`Cluster::blocklist_add`] it is at or above the epoch that fenced the client.
    ///
    /// # Errors
    /// As [`Cluster::mon_command`]; [`Error::Malformed`] if the answer has no epoch.
    pub async fn osdmap_epoch(&self) -> Result<u32> {
        let (json, _) = self.mon_command(r#"{"prefix":"osd stat","format":"json"}"#).await?;
        let malformed = || Error::Malformed { object: "osd stat".into(), what: "epoch" };
        let value: serde_json::Value = serde_json::from_slice(&json).map_err(|_| malformed())?;
        value.get("epoch").and_then(|e| e.as_u64()).and_then(|e| u32::try_from(e).ok()).ok_or_else(malformed)
    }

    /// Registers in the service map, which `ceph -s` shows; `metadata` are pairs of name and value, `daemon_type` names the group. Once per client.
    ///
    /// # Errors
    /// [`Errno::EEXIST`] the second time on the same client; [`Error::InvalidArgument`] for empty names or a NUL inside.
    pub async fn service_register(
        &self,
        service: &str,
        daemon: &str,
        metadata: &[(&str, &str)],
    ) -> Result<()> {
        let inner = self.inner.clone();
        let (service, daemon) = (name_cstring("service", service)?, name_cstring("daemon", daemon)?);
        let metadata = dict(metadata)?;
        blocking("rados_service_register", move || {
            // SAFETY: live, connected handle, terminated strings; the dictionary ends with an empty name.
            let rc = unsafe {
                sys::rados_service_register(
                    inner.handle,
                    service.as_ptr(),
                    daemon.as_ptr(),
                    metadata.as_ptr().cast(),
                )
            };
            check("rados_service_register", &daemon.to_string_lossy(), rc).map(drop)
        })
        .await
    }

    /// Replaces the status in the service map; librados sends it with its next beacon (5 s). Only notes it, does not block.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] as for registering; [`Errno::ENOTCONN`] when not connected.
    pub fn service_update_status(&self, status: &[(&str, &str)]) -> Result<()> {
        let status = dict(status)?;
        // SAFETY: live, connected handle; the dictionary ends with an empty name.
        let rc = unsafe { sys::rados_service_update_status(self.inner.handle, status.as_ptr().cast()) };
        check("rados_service_update_status", &self.inner.name, rc).map(drop)
    }

    /// The names of all pools.
    ///
    /// # Errors
    /// What librados returns.
    pub async fn pool_list(&self) -> Result<Vec<String>> {
        let inner = self.inner.clone();
        blocking("rados_pool_list", move || {
            let mut buf = vec![0u8; 4096];
            loop {
                // SAFETY: `buf` has that many writable bytes.
                let rc = unsafe { sys::rados_pool_list(inner.handle, buf.as_mut_ptr().cast(), buf.len()) };
                let need = check("rados_pool_list", &inner.name, rc)? as usize;
                if need <= buf.len() {
                    return Ok(nul_separated(&buf).collect());
                }
                if need > POOL_LIST_MAX_BYTES {
                    return Err(Error::Malformed { object: "pool list".into(), what: "length" });
                }
                buf = vec![0u8; need];
            }
        })
        .await
    }

    /// Opens a pool, optionally with one of its namespaces.
    ///
    /// # Errors
    /// [`Errno::ENOENT`] when there is no such pool.
    pub async fn pool(&self, name: &str, namespace: Option<&str>) -> Result<Pool> {
        Pool::open(self.clone(), name.to_owned(), namespace.map(str::to_owned)).await
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cluster({} at {})", self.inner.name, self.inner.address)
    }
}

fn create(options: &ClusterOptions) -> Result<Handle> {
    let cluster = name_cstring("cluster name", &options.cluster)?;
    let name = name_cstring("client name", &options.name)?;
    let mut raw: sys::rados_t = ptr::null_mut();
    // SAFETY: a place for the handle and two terminated strings.
    let rc = unsafe { sys::rados_create2(&mut raw, cluster.as_ptr(), name.as_ptr(), 0) };
    check("rados_create2", &options.name, rc)?;
    Ok(Handle(raw))
}

fn configure(handle: &Handle, options: &ClusterOptions) -> Result<()> {
    read_conf(handle, options.conf.as_deref())?;
    // SAFETY: live handle; a null name means CEPH_ARGS.
    check("rados_conf_parse_env", "CEPH_ARGS", unsafe { sys::rados_conf_parse_env(handle.0, ptr::null()) })?;
    parse_argv(handle, &options.argv)?;
    if let Some(keyring) = &options.keyring {
        conf_set(handle, "keyring", &path_cstring("keyring", keyring)?)?;
    }
    for (option, value) in &options.options {
        conf_set(handle, option, &cstring("option value", value)?)?;
    }
    if options.for_images {
        for (option, value) in IMAGE_SAFETY {
            conf_set(handle, option, &cstring("option value", value)?)?;
        }
    }
    Ok(())
}

fn read_conf(handle: &Handle, conf: Option<&Path>) -> Result<()> {
    let path = conf.map(|conf| path_cstring("configuration file", conf)).transpose()?;
    // SAFETY: live handle; a terminated path, or null for CEPH_CONF and the default places.
    let rc =
        unsafe { sys::rados_conf_read_file(handle.0, path.as_ref().map_or(ptr::null(), |p| p.as_ptr())) };
    let named = conf.map(|p| p.display().to_string()).or_else(|| std::env::var("CEPH_CONF").ok());
    if rc == -libc::ENOENT && named.is_none() {
        return Ok(()); // no file in the default places: the monitors may be named by CEPH_ARGS or argv
    }
    check("rados_conf_read_file", &named.unwrap_or_else(|| "ceph.conf".into()), rc).map(drop)
}

fn parse_argv(handle: &Handle, argv: &[String]) -> Result<()> {
    let strings = argv.iter().map(|arg| cstring("argument", arg)).collect::<Result<Vec<CString>>>()?;
    // librados skips argv[0], the program's name, and hands it back.
    let program = c"lusd";
    let mut args: Vec<*const c_char> =
        std::iter::once(program.as_ptr()).chain(strings.iter().map(|s| s.as_ptr())).collect();
    let mut rest: Vec<*const c_char> = vec![ptr::null(); args.len()];
    let argc = c_int::try_from(args.len()).map_err(|_| Error::InvalidArgument { what: "arguments" })?;
    // SAFETY: two arrays of `argc` pointers to terminated strings, which live as long as `strings`; what comes back points into them.
    let rc =
        unsafe { sys::rados_conf_parse_argv_remainder(handle.0, argc, args.as_mut_ptr(), rest.as_mut_ptr()) };
    check("rados_conf_parse_argv_remainder", &argv.join(" "), rc)?;
    let unknown = rest.into_iter().take_while(|p| !p.is_null()).find(|&p| p != program.as_ptr());
    let Some(arg) = unknown else { return Ok(()) };
    // SAFETY: not null, one of the pointers that we passed in, all of which are alive.
    let arg = unsafe { CStr::from_ptr(arg) };
    Err(Error::UnknownArgument(arg.to_string_lossy().into_owned()))
}

fn path_cstring(what: &'static str, path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::InvalidArgument { what })
}

fn conf_set(handle: &Handle, option: &str, value: &CStr) -> Result<()> {
    let name = name_cstring("option name", option)?;
    // SAFETY: live handle, terminated strings.
    let rc = unsafe { sys::rados_conf_set(handle.0, name.as_ptr(), value.as_ptr()) };
    check("rados_conf_set", option, rc).map(drop)
}

fn conf_get(handle: sys::rados_t, option: &str) -> Result<String> {
    let name = name_cstring("option name", option)?;
    let mut buf = vec![0u8; 256];
    loop {
        // SAFETY: live handle, terminated name, `buf` has that many writable bytes.
        let rc = unsafe { sys::rados_conf_get(handle, name.as_ptr(), buf.as_mut_ptr().cast(), buf.len()) };
        if rc == -libc::ENAMETOOLONG && buf.len() < CONF_VALUE_MAX_BYTES {
            buf = vec![0u8; buf.len() * 8];
            continue;
        }
        check("rados_conf_get", option, rc)?;
        return text(&buf).ok_or_else(|| Error::Malformed { object: option.into(), what: "option value" });
    }
}

fn address(handle: &Handle) -> Result<ClientAddr> {
    let mut raw: *mut c_char = ptr::null_mut();
    // SAFETY: live, connected handle and a place for the string.
    check("rados_getaddrs", "", unsafe { sys::rados_getaddrs(handle.0, &mut raw) })?;
    // SAFETY: as returned by librados with malloc.
    let text = unsafe { take_cstring(raw) };
    text.as_deref()
        .and_then(|t| t.parse().ok())
        .ok_or_else(|| Error::Malformed { object: text.unwrap_or_default(), what: "own address" })
}

fn fsid(handle: &Handle) -> Result<String> {
    let mut buf = [0u8; FSID_BYTES];
    // SAFETY: live, connected handle, `buf` has that many writable bytes.
    let rc = unsafe { sys::rados_cluster_fsid(handle.0, buf.as_mut_ptr().cast(), buf.len()) };
    check("rados_cluster_fsid", "", rc)?;
    text(&buf).ok_or(Error::Malformed { object: "fsid".into(), what: "UUID" })
}

fn mon_command(handle: sys::rados_t, command: String) -> Result<(Vec<u8>, String)> {
    let c_command = cstring("mon command", &command)?;
    let mut commands = [c_command.as_ptr()];
    let (mut out, mut out_len, mut status, mut status_len) = (ptr::null_mut(), 0, ptr::null_mut(), 0);
    // SAFETY: live handle, one terminated command, no input, four places for the answer.
    let rc = unsafe {
        sys::rados_mon_command(
            handle,
            commands.as_mut_ptr(),
            commands.len(),
            ptr::null(),
            0,
            &mut out,
            &mut out_len,
            &mut status,
            &mut status_len,
        )
    };
    // SAFETY: as librados returned them: null, or that many bytes from malloc, not terminated.
    let (out, status) = unsafe { (take_bytes(out, out_len), take_bytes(status, status_len)) };
    let status = String::from_utf8_lossy(&status).into_owned();
    match crate::errno::checked(rc) {
        Ok(_) => Ok((out, status)),
        Err(errno) => Err(Error::MonCommand { command, status, errno }),
    }
}

/// Copies and frees a buffer that librados allocated.
///
/// # Safety
/// `raw` is null or points to `len` bytes from malloc that nobody else frees.
pub(crate) unsafe fn take_bytes(raw: *mut c_char, len: usize) -> Vec<u8> {
    if raw.is_null() {
        return Vec::new();
    }
    // SAFETY: by this function's contract.
    unsafe {
        let bytes = std::slice::from_raw_parts(raw.cast::<u8>(), len).to_vec();
        sys::rados_buffer_free(raw);
        bytes
    }
}

/// Copies and frees a string that librados allocated; None for null and for what is not UTF-8.
///
/// # Safety
/// `raw` is null or a terminated string from malloc that nobody else frees.
unsafe fn take_cstring(raw: *mut c_char) -> Option<String> {
    if raw.is_null() {
        return None;
    }
    // SAFETY: by this function's contract.
    unsafe {
        let text = CStr::from_ptr(raw).to_str().ok().map(str::to_owned);
        sys::rados_buffer_free(raw);
        text
    }
}

/// The text before the first NUL.
pub(crate) fn text(buf: &[u8]) -> Option<String> {
    CStr::from_bytes_until_nul(buf).ok()?.to_str().ok().map(str::to_owned)
}

/// Names, each ended by a NUL, up to an empty one or the end. What is not UTF-8 is shown as well as it goes.
pub(crate) fn nul_separated(buf: &[u8]) -> impl Iterator<Item = String> + '_ {
    buf.split(|&b| b == 0)
        .take_while(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).into_owned())
}

/// `name\0value\0...\0\0`, as the service map wants its dictionaries.
fn dict(pairs: &[(&str, &str)]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for (name, value) in pairs {
        if name.is_empty() || name.contains('\0') || value.contains('\0') {
            return Err(Error::InvalidArgument { what: "service dictionary" });
        }
        for text in [name, value] {
            bytes.extend_from_slice(text.as_bytes());
            bytes.push(0);
        }
    }
    bytes.extend_from_slice(&[0, 0]);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dictionaries() {
        assert_eq!(dict(&[]).unwrap(), b"\0\0");
        assert_eq!(dict(&[("a", "b"), ("c", "")]).unwrap(), b"a\0b\0c\0\0\0\0");
        for bad in [("", "x"), ("a\0", "x"), ("a", "x\0y")] {
            assert!(dict(&[bad]).is_err());
        }
    }

    #[test]
    fn lists() {
        assert_eq!(nul_separated(b"rbd\0.lus\0\0junk").collect::<Vec<_>>(), ["rbd", ".lus"]);
        assert_eq!(nul_separated(b"").count(), 0);
        assert_eq!(text(b"abc\0def"), Some("abc".into()));
        assert_eq!(text(b"abc"), None);
    }
}
