//! How to reach a cluster, and the options without which images are not safe.

use std::path::PathBuf;

/// Options of a client that opens images, with the only value that is safe. They are set before the client connects and read back
/// afterwards (a monitor's configuration must not win), and compared once more with what the pool and the image override.
///
/// * `rbd_auto_exclusive_lock_until_manual_request`: a write on a handle without the lock would silently fetch it from its owner.
/// * `rbd_cache`: an acknowledged write would not yet be on the OSDs, and would be lost by a fence.
/// * `rbd_persistent_cache_mode`: the same of the write log on a local disk (`rbd_plugins = pwl_cache`).
/// * `rbd_blocklist_on_break_lock`: without it the loser's write in flight lands over the new owner's data.
/// * `rbd_blocklist_expire_seconds`: any other value makes breaking a lock fail with EINVAL (16.2.15), without a fence.
/// * `rbd_read_from_replica_policy`: a replica may answer with older data.
/// * `rbd_disable_zero_copy_writes`: without the copy a write completes only when the messenger has let go of its buffers, and one that is in flight when this client is
///   fenced never did within a minute (16.2.15; it would save 15 % of the CPU of a 256k write).
pub(crate) const IMAGE_SAFETY: [(&str, &str); 7] = [
    ("rbd_auto_exclusive_lock_until_manual_request", "false"),
    ("rbd_cache", "false"),
    ("rbd_persistent_cache_mode", "disabled"),
    ("rbd_blocklist_on_break_lock", "true"),
    ("rbd_blocklist_expire_seconds", "0"),
    ("rbd_read_from_replica_policy", "default"),
    ("rbd_disable_zero_copy_writes", "true"),
];

/// What [`Cluster::connect`](crate::Cluster::connect) needs. Later sources win: the file, `CEPH_ARGS`, `argv`, `keyring`, `options`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterOptions {
    /// The configuration file; None for `$CEPH_CONF`, else Ceph's default places.
    pub conf: Option<PathBuf>,
    /// The cluster's local name, `ceph` almost always; part of default paths.
    pub cluster: String,
    /// The whole cephx entity: `client.lus.a`.
    pub name: String,
    /// The file with the entity's key; None for what the configuration says.
    pub keyring: Option<PathBuf>,
    /// Options by name, set one by one; an unknown name is an error.
    pub options: Vec<(String, String)>,
    /// Ceph's own command line options (`--mon-host X`, `--debug-ms=1`); whatever Ceph does not know is an error.
    pub argv: Vec<String>,
    /// Set and check what images need.
    pub(crate) for_images: bool,
}

impl ClusterOptions {
    /// For the given cephx entity (`client.admin`), all else at Ceph's defaults.
    pub fn new(name: impl Into<String>) -> ClusterOptions {
        ClusterOptions {
            conf: None,
            cluster: "ceph".into(),
            name: name.into(),
            keyring: None,
            options: vec![("admin_socket".into(), String::new())],
            argv: Vec::new(),
            for_images: false,
        }
    }

    /// As the environment says: the entity, file and cluster that `CEPH_ARGS` names, else `client.admin`. (`CEPH_CONF`, `CEPH_KEYRING` and what else is in
    /// `CEPH_ARGS` is honoured by librados itself on every connect.)
    pub fn from_env() -> ClusterOptions {
        let mut options = ClusterOptions::new("client.admin");
        let args = std::env::var("CEPH_ARGS").unwrap_or_default();
        let rest = options.take_args(args.split_whitespace().map(str::to_owned));
        drop(rest);
        options
    }

    /// Makes it a client that may open images: sets what their safety needs, verified on connect.
    #[must_use]
    pub fn for_images(mut self) -> ClusterOptions {
        self.for_images = true;
        self
    }

    /// Tunes it for the data path: `threads` each for librados's callbacks and for its messenger (Ceph's defaults are 2 and 3).
    ///
    /// Measured on two cores: one thread each costs 28 us of CPU for a 4k read at depth 32 where the defaults cost 35 and fio's rbd engine 43; more than one pays only where one
    /// thread is full, beyond some 30,000 operations a second.
    #[must_use]
    pub fn tuned(self, threads: usize) -> ClusterOptions {
        let threads = threads.max(1).to_string();
        self.option("librados_thread_count", threads.clone()).option("ms_async_op_threads", threads)
    }

    /// Adds one option.
    #[must_use]
    pub fn option(mut self, name: impl Into<String>, value: impl Into<String>) -> ClusterOptions {
        self.options.push((name.into(), value.into()));
        self
    }

    /// Takes the options that say who and where we are, as every Ceph program has them, out of a command line: `--conf/-c FILE`, `--cluster NAME`,
    /// `--name/-n TYPE.ID`, `--id/--user ID`, `--keyring/-k FILE`; both `--conf=FILE` and `--conf FILE`. Returns the other arguments in order; an option that lacks
    /// its value is among them. Stops at `--`.
    pub fn take_args(&mut self, args: impl IntoIterator<Item = String>) -> Vec<String> {
        let mut rest = Vec::new();
        let mut args = args.into_iter().peekable();
        while let Some(arg) = args.next() {
            if arg == "--" {
                rest.push(arg);
                rest.extend(args);
                return rest;
            }
            let (key, inline) = match arg.split_once('=') {
                Some((key, value)) if key.starts_with("--") => (key, Some(value.to_owned())),
                _ => (arg.as_str(), None),
            };
            if !matches!(
                key,
                "--conf" | "-c" | "--cluster" | "--name" | "-n" | "--id" | "--user" | "--keyring" | "-k"
            ) {
                rest.push(arg);
                continue;
            }
            let Some(value) = inline.or_else(|| args.next()) else {
                rest.push(arg);
                continue;
            };
            match key {
                "--conf" | "-c" => self.conf = Some(value.into()),
                "--cluster" => self.cluster = value,
                "--name" | "-n" => self.name = value,
                "--keyring" | "-k" => self.keyring = Some(value.into()),
                _ => self.name = format!("client.{value}"),
            }
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(args: &[&str]) -> (ClusterOptions, Vec<String>) {
        let mut options = ClusterOptions::new("client.admin");
        let rest = options.take_args(args.iter().map(|a| a.to_string()));
        (options, rest)
    }

    #[test]
    fn who_and_where() {
        let (o, rest) = take(&[
            "-c",
            "/x/ceph.conf",
            "status",
            "--id",
            "lus.a",
            "--keyring=/k",
            "--debug-ms",
            "1",
            "--cluster",
            "blue",
        ]);
        assert_eq!(o.conf, Some("/x/ceph.conf".into()));
        assert_eq!(o.name, "client.lus.a");
        assert_eq!(o.keyring, Some("/k".into()));
        assert_eq!(o.cluster, "blue");
        assert_eq!(rest, ["status", "--debug-ms", "1"]);
        assert_eq!(take(&["-n", "client.x"]).0.name, "client.x");
        assert_eq!(take(&["--name=client.y", "--user", "z"]).0.name, "client.z");
    }

    #[test]
    fn what_is_left() {
        assert_eq!(take(&["--id"]).1, ["--id"]);
        let (o, rest) = take(&["a=b", "--", "--id", "x"]);
        assert_eq!(rest, ["a=b", "--", "--id", "x"]);
        assert_eq!(o.name, "client.admin");
    }
}
