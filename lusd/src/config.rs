//! Configuration: `Cli > monitors > ceph.conf > default`, each option checked once, and from here on a typed value.
//!
//! The daemon starts with what it knows without a cluster ([`Config::local`]: command line and file), connects with that, and then
//! adds what the monitors say ([`Config::with_central`]).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lus_map::DaemonId;
use lusd_ceph::ClusterOptions;

use crate::service::{Limits, Redirect};

pub mod cli;
pub mod ini;
pub mod options;

use cli::Cli;
use ini::Ini;
use options::{BadValue, OPTIONS, Value};

/// Longest answer of the monitors to `config get` that is read, bytes.
const CENTRAL_BYTES_MAX: usize = 4 << 20;
/// Of our entity's name, what stands before the id.
const ENTITY_PREFIX: &str = "client.lus.";
/// More shards than this do not pay by default.
const SHARDS_DEFAULT_MAX: usize = 8;

/// Where a value comes from. A later one wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The table's default.
    Default,
    /// ceph.conf.
    File,
    /// The monitors' configuration database.
    Monitors,
    /// The command line, or `CEPH_ARGS`.
    CommandLine,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::File => "ceph.conf",
            Self::Monitors => "the monitors' configuration",
            Self::CommandLine => "command line",
        })
    }
}

/// Why there is no configuration to start with.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The command line.
    #[error(transparent)]
    Argument(#[from] cli::BadArgument),
    /// Neither `-i` nor `-n`.
    #[error("no id: start with -i ID, for the cephx entity client.lus.ID")]
    NoId,
    /// Not `client.lus.ID`.
    #[error("name '{0}' is not of the form client.lus.ID")]
    Name(String),
    /// The id is no id.
    #[error(transparent)]
    Id(#[from] lus_map::BadName),
    /// The file cannot be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file is malformed.
    #[error("{path}: {error}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        error: ini::BadLine,
    },
    /// A value is.
    #[error("{name} = '{text}' ({from}): {error}")]
    Value {
        /// The option.
        name: &'static str,
        /// As given.
        text: String,
        /// Where.
        from: Source,
        /// Why.
        error: BadValue,
    },
    /// Two values do not go together.
    #[error("{0}")]
    Conflict(String),
    /// What the monitors answered is not what `config get` answers.
    #[error("malformed answer to 'config get'")]
    Central,
}

impl ConfigError {
    /// The exit code, as Ceph's programs have it: the error number.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Read { error, .. } => error.raw_os_error().and_then(|n| u8::try_from(n).ok()).unwrap_or(5),
            _ => 22,
        }
    }
}

/// Everything that was configured, before it gets types: to read central values on top.
#[derive(Clone, Debug)]
struct Settings {
    values: BTreeMap<&'static str, (Value, String, Source)>,
    unknown: Vec<String>,
}

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Config {
    /// The daemon's id.
    pub id: DaemonId,
    /// The cephx entity, `client.lus.ID`.
    pub name: String,
    /// The cluster's local name.
    pub cluster: String,
    /// How the daemon runs.
    pub run: Run,
    /// Where iSCSI is accepted.
    pub portals: Vec<SocketAddr>,
    /// Pool of the map.
    pub pool: String,
    /// Threads that carry connections.
    pub shards: usize,
    /// RADOS clients for images.
    pub data_clients: usize,
    /// Threads of each of these, for its messenger and for its callbacks. With one, librados costs least CPU for an operation.
    pub data_client_threads: usize,
    /// Life of blocklist entries.
    pub blocklist_expire: Duration,
    /// What SIGTERM waits for at most.
    pub drain_timeout: Duration,
    /// LUs opened or closed at the same time.
    pub open_parallel: usize,
    /// Percent of its pool's room that is available when hosts of a thin LU are told; 0 for never.
    pub soft_threshold_percent: u8,
    /// How often the monitors are asked for that.
    pub pool_usage_interval: Duration,
    /// Bounds of the data path.
    pub limits: Limits,
    /// Name of the machine.
    pub hostname: String,
    settings: Settings,
    conf: Option<PathBuf>,
    keyring: Option<PathBuf>,
    mon_host: Option<String>,
    rest: Vec<String>,
}

/// How the daemon runs and where it writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// Do not detach.
    pub foreground: bool,
    /// Log to stderr whatever is configured.
    pub debug: bool,
    /// Log file; `None` is stderr.
    pub log_file: Option<PathBuf>,
    /// The log file was asked for: to start without it is an error.
    pub log_file_given: bool,
    /// Ceph's log-line form.
    pub log_ceph: bool,
    /// What is logged.
    pub log_filter: String,
    /// librados' own log.
    pub librados_log_file: String,
    /// Gets the process id.
    pub pid_file: Option<PathBuf>,
    /// Run as this user.
    pub setuser: Option<String>,
    /// Run as this group.
    pub setgroup: Option<String>,
}

/// What the process was started with, beside its arguments.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `CEPH_ARGS`.
    pub ceph_args: String,
    /// `CEPH_CONF`.
    pub ceph_conf: Option<String>,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// The kernel's name of this machine.
    pub hostname: String,
    /// Cores that this process may use.
    pub cores: usize,
}

impl Environment {
    /// This process's.
    pub fn of_process() -> Self {
        Self {
            ceph_args: std::env::var("CEPH_ARGS").unwrap_or_default(),
            ceph_conf: std::env::var("CEPH_CONF").ok(),
            home: std::env::var_os("HOME").map(PathBuf::from),
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// Arguments with those of `CEPH_ARGS` in front, so that the command line wins. Of `CEPH_ARGS`, what is not ours is librados' own to read.
///
/// # Errors
/// As [`Cli::parse`].
pub fn arguments(
    args: impl IntoIterator<Item = String>,
    environment: &Environment,
) -> Result<Cli, ConfigError> {
    let mut inherited =
        Cli::parse(environment.ceph_args.split_whitespace().map(str::to_owned)).unwrap_or_default();
    let own = Cli::parse(args)?;
    inherited.options.extend(own.options);
    Ok(Cli {
        options: inherited.options,
        conf: own.conf.or(inherited.conf),
        cluster: own.cluster.or(inherited.cluster),
        // A name in CEPH_ARGS is that of another program unless it is one of ours.
        name: own.name.or(inherited.name.filter(|name| name.starts_with(ENTITY_PREFIX))),
        keyring: own.keyring.or(inherited.keyring),
        mon_host: own.mon_host.or(inherited.mon_host),
        setuser: own.setuser,
        setgroup: own.setgroup,
        ..own
    })
}

impl Config {
    /// What command line and file say.
    ///
    /// # Errors
    /// [`ConfigError`], with the option and where it was found.
    pub fn local(cli: Cli, environment: &Environment) -> Result<Self, ConfigError> {
        let name = cli.name.clone().ok_or(ConfigError::NoId)?;
        let id = name.strip_prefix(ENTITY_PREFIX).ok_or_else(|| ConfigError::Name(name.clone()))?;
        let id: DaemonId = id.parse()?;
        let cluster = cli.cluster.clone().unwrap_or_else(|| "ceph".to_owned());
        let conf = find_conf(&cli, environment, &cluster);
        let ini = match &conf {
            Some(path) => read_ini(path)?,
            None => Ini::default(),
        };
        let expand = |text: &str| {
            let host = &environment.hostname;
            expand(
                text,
                &[
                    ("cluster", &cluster),
                    ("name", &name),
                    ("id", id.as_str()),
                    ("type", "client"),
                    ("host", host),
                ],
            )
        };
        let mut settings = Settings { values: BTreeMap::new(), unknown: Vec::new() };
        for row in OPTIONS {
            let of_cli = cli.options.iter().rev().find(|(option, _)| *option == row.name);
            let (text, from) = match (of_cli, ini.find(&name, row.name)) {
                (Some((_, text)), _) => (text.as_str(), Source::CommandLine),
                (None, Some(text)) => (text, Source::File),
                (None, None) => (row.default, Source::Default),
            };
            settings.put(row.name, expand(text), from)?;
        }
        settings.unknown =
            ini.names(&name, "lus_").into_iter().filter(|name| options::find(name).is_none()).collect();
        let keyring = cli.keyring.clone().or_else(|| {
            let path = PathBuf::from(format!("/var/lib/ceph/lus/{cluster}-{id}/keyring"));
            path.exists().then_some(path)
        });
        let run = Run {
            foreground: cli.foreground || cli.debug,
            debug: cli.debug,
            setuser: cli.setuser.clone(),
            setgroup: cli.setgroup.clone(),
            ..Run::default()
        };
        Self {
            id,
            name,
            cluster,
            run,
            portals: Vec::new(),
            pool: String::new(),
            shards: 1,
            data_clients: 1,
            data_client_threads: 1,
            blocklist_expire: Duration::ZERO,
            drain_timeout: Duration::ZERO,
            open_parallel: 1,
            soft_threshold_percent: 0,
            pool_usage_interval: Duration::ZERO,
            limits: Limits::default(),
            hostname: environment.hostname.clone(),
            settings,
            conf: cli.conf.clone().or(conf).map(absolute),
            keyring: keyring.map(absolute),
            mon_host: cli.mon_host,
            rest: cli.rest,
        }
        .typed(environment.cores)
    }

    /// The same with what the monitors say: `json` is their answer to `config get` for our entity.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn with_central(mut self, json: &[u8], cores: usize) -> Result<Self, ConfigError> {
        for (name, text) in central_values(json)? {
            match options::find(&name) {
                Some(row) => self.settings.put(row.name, text, Source::Monitors)?,
                None => self.settings.unknown.push(name),
            }
        }
        self.typed(cores)
    }

    /// Names that begin with `lus_` and that nobody knows: misspelled, or of another version.
    pub fn unknown(&self) -> &[String] {
        &self.settings.unknown
    }

    /// What differs from the defaults, for the log.
    pub fn differences(&self) -> impl Iterator<Item = (&'static str, &str, Source)> {
        self.settings
            .values
            .iter()
            .filter(|(_, (_, _, from))| *from != Source::Default)
            .map(|(name, (_, text, from))| (*name, text.as_str(), *from))
    }

    /// How to connect.
    pub fn cluster_options(&self) -> ClusterOptions {
        let mut options = ClusterOptions::new(self.name.clone())
            // librados must not take the path of our own socket, nor write into our log.
            .option("admin_socket", "")
            .option("log_file", self.run.librados_log_file.clone())
            .option("log_to_stderr", "false")
            .option("err_to_stderr", "false")
            .option("pid_file", "")
            // Watches are kept up by a ping with each tick; the default of 5 s is as long as the watch on the map may be silent.
            .option("objecter_tick_interval", "1");
        options.conf.clone_from(&self.conf);
        options.cluster.clone_from(&self.cluster);
        options.keyring.clone_from(&self.keyring);
        options.argv.clone_from(&self.rest);
        if let Some(mon_host) = &self.mon_host {
            options.options.push(("mon_host".to_owned(), mon_host.clone()));
        }
        options
    }

    /// Puts the settings' values into their typed places and checks what must fit together.
    fn typed(mut self, cores: usize) -> Result<Self, ConfigError> {
        let s = &self.settings;
        let debug = self.run.debug;
        self.portals = s.portals("lus_portal");
        self.pool = s.text("lus_pool").to_owned();
        self.shards = match s.number("lus_shards") {
            0 => cores.clamp(1, SHARDS_DEFAULT_MAX),
            n => n,
        };
        self.data_clients = s.number("lus_data_clients");
        self.data_client_threads = s.number("lus_data_client_threads");
        self.blocklist_expire = s.time("lus_blocklist_expire");
        self.drain_timeout = s.time("lus_drain_timeout");
        self.open_parallel = s.number("lus_open_parallel");
        self.soft_threshold_percent = match s.number("lus_thin_threshold") {
            0 => 0,
            in_use => 100 - in_use as u8,
        };
        self.pool_usage_interval = s.time("lus_pool_usage_interval");
        if !s.text("lus_host_name").is_empty() {
            self.hostname = s.text("lus_host_name").to_owned();
        }
        self.run.log_ceph = s.text("lus_log_format") == "ceph";
        self.run.log_filter = s.text("lus_log").to_owned();
        self.run.librados_log_file = s.text("lus_librados_log_file").to_owned();
        self.run.pid_file = path(s.text("pid_file"));
        self.run.log_file_given = !debug && s.source("log_file") != Source::Default;
        self.run.log_file = if debug { None } else { path(s.text("log_file")) };
        let iscsi = lusd_iscsi::Config {
            max_recv_data_segment_length: s.number32("lus_max_recv_data_segment_length"),
            first_burst_length: s.number32("lus_first_burst_length"),
            max_burst_length: s.number32("lus_max_burst_length"),
            command_window: s.number32("lus_command_window"),
            max_connections: s.number32("lus_session_connections_max") as u16,
            login_timeout: s.time("lus_login_timeout"),
            nop_interval: s.time("lus_nop_interval"),
            nop_timeout: s.time("lus_nop_timeout"),
            ..lusd_iscsi::Config::default()
        };
        self.limits = Limits {
            data_memory: s.number("lus_data_memory"),
            connection_memory: s.number("lus_connection_memory"),
            connections: s.number("lus_connections_max"),
            logins: s.number("lus_logins_max"),
            sessions: s.number("lus_sessions_max"),
            redirect: redirect(s.text("lus_login_redirect"))?,
            send_timeout: s.time("lus_send_timeout"),
            iscsi: Arc::new(iscsi),
            ..Limits::default()
        };
        self.check()?;
        Ok(self)
    }

    /// What must fit together.
    fn check(&self) -> Result<(), ConfigError> {
        let limits = &self.limits;
        let conflict = |text: String| Err(ConfigError::Conflict(text));
        if self.pool.is_empty() {
            return conflict("lus_pool: a pool has a name".to_owned());
        }
        // RFC 7143, 13.14: FirstBurstLength MUST NOT exceed MaxBurstLength.
        if limits.iscsi.first_burst_length > limits.iscsi.max_burst_length {
            return conflict("lus_first_burst_length must not exceed lus_max_burst_length".to_owned());
        }
        if let Err(error) = limits.iscsi.validate() {
            return conflict(error.to_string());
        }
        // A command's data is charged in one piece: less would never let the longest one in.
        let longest = lusd_scsi::MAX_TRANSFER_BYTES as usize;
        if limits.connection_memory < longest || limits.data_memory < longest {
            return conflict(format!(
                "lus_data_memory and lus_connection_memory must hold the longest transfer, {longest} bytes"
            ));
        }
        if limits.connection_memory > limits.data_memory {
            return conflict("lus_connection_memory must not exceed lus_data_memory".to_owned());
        }
        Ok(())
    }
}

/// The value of `lus_login_redirect`.
fn redirect(text: &str) -> Result<Option<Redirect>, ConfigError> {
    if text.is_empty() {
        return Ok(None);
    }
    let (address, permanently) = match text.strip_prefix("permanent:") {
        Some(address) => (address, true),
        None => (text, false),
    };
    match address.parse() {
        Ok(address) => Ok(Some(Redirect { address, permanently })),
        Err(_) => Err(ConfigError::Conflict(format!(
            "lus_login_redirect: {text} is neither ADDRESS:PORT nor permanent:ADDRESS:PORT"
        ))),
    }
}

impl Settings {
    fn put(&mut self, name: &'static str, text: String, from: Source) -> Result<(), ConfigError> {
        if self.values.get(name).is_some_and(|(_, _, before)| *before > from) {
            return Ok(());
        }
        let row = options::find(name).expect("names of the table only");
        match row.parse(&text) {
            Ok(value) => drop(self.values.insert(name, (value, text, from))),
            Err(error) => return Err(ConfigError::Value { name, text, from, error }),
        }
        Ok(())
    }

    fn value(&self, name: &str) -> &Value {
        &self.values.get(name).expect("every row of the table has a value").0
    }

    fn source(&self, name: &str) -> Source {
        self.values.get(name).expect("every row of the table has a value").2
    }

    fn text(&self, name: &str) -> &str {
        match self.value(name) {
            Value::Text(text) => text,
            _ => unreachable!("{name} is a text in the table"),
        }
    }

    fn number(&self, name: &str) -> usize {
        match self.value(name) {
            Value::Number(n) => usize::try_from(*n).unwrap_or(usize::MAX),
            _ => unreachable!("{name} is a number in the table"),
        }
    }

    fn number32(&self, name: &str) -> u32 {
        u32::try_from(self.number(name)).unwrap_or(u32::MAX)
    }

    fn time(&self, name: &str) -> Duration {
        match self.value(name) {
            Value::Time(time) => *time,
            _ => unreachable!("{name} is a time in the table"),
        }
    }

    fn portals(&self, name: &str) -> Vec<SocketAddr> {
        match self.value(name) {
            Value::Portals(portals) => portals.clone(),
            _ => unreachable!("{name} is a list of portals in the table"),
        }
    }
}

fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| absolute(text.into()))
}

/// Independent of the working directory, which a daemon leaves.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// The file to read: `-c`, `$CEPH_CONF`, or the first of the usual places that is there.
fn find_conf(cli: &Cli, environment: &Environment, cluster: &str) -> Option<PathBuf> {
    if let Some(conf) = &cli.conf {
        return Some(conf.clone());
    }
    if let Some(conf) = &environment.ceph_conf {
        return conf.split([',', ' ']).find(|path| !path.is_empty()).map(PathBuf::from);
    }
    let mut places = vec![PathBuf::from(format!("/etc/ceph/{cluster}.conf"))];
    places.extend(environment.home.as_ref().map(|home| home.join(format!(".ceph/{cluster}.conf"))));
    places.push(PathBuf::from(format!("{cluster}.conf")));
    places.into_iter().find(|path| path.exists())
}

fn read_ini(path: &Path) -> Result<Ini, ConfigError> {
    use std::io::Read;
    let read = |error| ConfigError::Read { path: path.to_owned(), error };
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(read)?;
    file.take(ini::FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(read)?;
    if text.len() as u64 > ini::FILE_BYTES_MAX {
        return Err(read(std::io::Error::from_raw_os_error(27))); // EFBIG
    }
    Ini::parse(&String::from_utf8_lossy(&text))
        .map_err(|error| ConfigError::File { path: path.to_owned(), error })
}

/// `$name`, `${name}`: Ceph's metavariables. Unknown ones stay.
fn expand(text: &str, variables: &[(&str, &str)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let (word, end) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some((word, _)) => (word, word.len() + 2),
            None => {
                let len = after.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
                (&after[..len], len)
            }
        };
        match variables.iter().find(|(name, _)| *name == word) {
            Some((_, value)) => out.push_str(value),
            None if word == "pid" => out.push_str(&std::process::id().to_string()),
            None => out.push_str(&rest[at..at + 1 + end]),
        }
        rest = &after[end..];
    }
    out + rest
}

/// Our options in the monitors' answer: `{"lus_shards":{"value":"3","section":"client.lus.a",...},...}`.
fn central_values(json: &[u8]) -> Result<Vec<(String, String)>, ConfigError> {
    if json.len() > CENTRAL_BYTES_MAX {
        return Err(ConfigError::Central);
    }
    let json: serde_json::Value = serde_json::from_slice(json).map_err(|_| ConfigError::Central)?;
    let object = json.as_object().ok_or(ConfigError::Central)?;
    object
        .iter()
        .filter(|(name, _)| name.starts_with("lus_"))
        .map(|(name, entry)| {
            let value = entry.get("value").unwrap_or(entry).as_str().ok_or(ConfigError::Central)?;
            Ok((name.clone(), value.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        Environment { hostname: "gw1".to_owned(), cores: 4, ..Environment::default() }
    }

    fn config(args: &str, file: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ceph.conf");
        std::fs::write(&path, file).unwrap();
        let args = format!("-c {} {args}", path.display());
        let environment = environment();
        let cli = arguments(args.split_whitespace().map(str::to_owned), &environment)?;
        Config::local(cli, &environment)
    }

    #[test]
    fn precedence() {
        let file = "[client]\nlus data clients = 2\nlus_shards = 3\nlus_pool = p1\n[client.lus.a]\nlus-command-window = 5";
        let config = config("-i a --lus-shards 5", file).unwrap();
        assert_eq!((config.shards, config.data_clients, config.pool.as_str()), (5, 2, "p1"));
        assert_eq!((config.limits.iscsi.command_window, config.drain_timeout), (5, Duration::from_secs(30)));
        let json = br#"{"lus_shards":{"value":"7","section":"client"},"lus_pool":{"value":"p2"},"rbd_cache":{"value":"x"},
            "lus_new":{"value":"1"}}"#;
        let config = config.with_central(json, 4).unwrap();
        assert_eq!((config.shards, config.data_clients, config.pool.as_str()), (5, 2, "p2"));
        assert_eq!(config.unknown(), ["lus_new"]);
        let from: Vec<_> = config.differences().map(|(name, _, from)| (name, from)).collect();
        assert!(
            from.contains(&("lus_pool", Source::Monitors))
                && from.contains(&("lus_shards", Source::CommandLine))
        );
        assert!(from.contains(&("lus_data_clients", Source::File)) && from.len() == 4, "{from:?}");
    }

    #[test]
    fn who_and_where() {
        let config = config("-i a", "[global]\nlog file = /var/log/$cluster/${name}-$host.$x.log\n").unwrap();
        assert_eq!((config.id.as_str(), config.name.as_str(), config.shards), ("a", "client.lus.a", 4));
        assert_eq!(config.run.log_file, Some("/var/log/ceph/client.lus.a-gw1.$x.log".into()));
        assert!(config.run.log_file_given && !config.run.foreground);
        let options = config.cluster_options();
        assert_eq!(options.name, "client.lus.a");
        assert!(options.options.contains(&("admin_socket".to_owned(), String::new())));
    }

    #[test]
    fn where_logins_are_sent() {
        let redirect = |value: &str| config("-i a", &format!("[client]\nlus_login_redirect = {value}\n"));
        let to = |value: &str| redirect(value).unwrap().limits.redirect;
        assert_eq!(to(""), None);
        let address = "[2001:db8::1]:3261".parse().unwrap();
        assert_eq!(to("[2001:db8::1]:3261"), Some(Redirect { address, permanently: false }));
        assert_eq!(to("permanent:[2001:db8::1]:3261"), Some(Redirect { address, permanently: true }));
        for wrong in ["192.0.2.1", "permanent:", "forever:192.0.2.1:3260", "host:3260"] {
            assert!(redirect(wrong).unwrap_err().to_string().starts_with("lus_login_redirect: "), "{wrong}");
        }
    }

    #[test]
    fn in_the_foreground() {
        let debug = config("-i a -d", "[global]\nlog file = /l\n").unwrap();
        assert_eq!((debug.run.foreground, debug.run.log_file.clone()), (true, None));
        assert_eq!(debug.with_central(b"{}", 1).unwrap().run.log_file, None);
        let quiet = config("-i a -f", "").unwrap();
        assert_eq!(quiet.run.log_file, Some("/var/log/ceph/ceph-client.lus.a.log".into()));
        assert!(!quiet.run.log_file_given);
    }

    #[test]
    fn ceph_args_come_first_and_name_another_program() {
        let mut environment = environment();
        environment.ceph_args = "--name client.admin --keyring /admin --debug-ms 1 --lus-shards 3".to_owned();
        let args = |text: &str| arguments(text.split_whitespace().map(str::to_owned), &environment).unwrap();
        let cli = args("-i a --lus-shards 4");
        assert_eq!((cli.name.as_deref(), cli.keyring.clone()), (Some("client.lus.a"), Some("/admin".into())));
        assert_eq!(cli.options, [("lus_shards", "3".to_owned()), ("lus_shards", "4".to_owned())]);
        assert!(cli.rest.is_empty(), "librados reads CEPH_ARGS itself");
        assert!(matches!(Config::local(args(""), &environment), Err(ConfigError::NoId)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |args: &str, file: &str| config(args, file).unwrap_err().to_string();
        assert_eq!(error("-n client.admin", ""), "name 'client.admin' is not of the form client.lus.ID");
        assert_eq!(
            error("-i a --lus-shards x", ""),
            "lus_shards = 'x' (command line): expected a whole number"
        );
        assert_eq!(
            error("-i a", "[client.lus]\nlus_shards = 65"),
            "lus_shards = '65' (ceph.conf): not within 0 and 64"
        );
        assert!(error("-i a", "x").contains("ceph.conf: line 1: "));
        assert!(
            error("-i a --lus-first-burst-length 2M", "").contains("must not exceed lus_max_burst_length")
        );
        assert!(error("-i a --lus-data-memory 16M", "").contains("must not exceed lus_data_memory"));
        assert!(error("-i a/b", "").contains("invalid daemon id"));
        assert!(matches!(config("-i a", "").unwrap().with_central(b"[]", 1), Err(ConfigError::Central)));
        let missing = Cli::parse(["-i", "a", "-c", "/nonexistent/x"].map(str::to_owned)).unwrap();
        let missing = Config::local(missing, &environment()).unwrap_err();
        assert_eq!(missing.exit_code(), 2);
    }
}
