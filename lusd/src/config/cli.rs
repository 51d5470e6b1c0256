//! The command line, as every Ceph daemon has it. What is not ours is kept for librados, which refuses what it does not know.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::options::{self, OPTIONS, OptionSpec};

/// What the arguments ask for.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Cli {
    /// `-h`, `--help`.
    pub help: bool,
    /// `-v`, `--version`.
    pub version: bool,
    /// `-f`: stay in the foreground; log where it is configured.
    pub foreground: bool,
    /// `-d`: stay in the foreground and log to stderr.
    pub debug: bool,
    /// `-c`, `--conf`.
    pub conf: Option<PathBuf>,
    /// `--cluster`.
    pub cluster: Option<String>,
    /// `-n`, `--name`, or what `-i`, `--id` makes of it: the whole cephx entity.
    pub name: Option<String>,
    /// `-k`, `--keyring`.
    pub keyring: Option<PathBuf>,
    /// `-m`, `--mon-host`.
    pub mon_host: Option<String>,
    /// `--setuser`.
    pub setuser: Option<String>,
    /// `--setgroup`.
    pub setgroup: Option<String>,
    /// Options of our own, as texts; a later one counts.
    pub options: Vec<(&'static str, String)>,
    /// Everything else: Ceph's own options.
    pub rest: Vec<String>,
}

/// Why the arguments cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadArgument {
    /// It needs a value.
    #[error("option {0} requires an argument")]
    NoValue(String),
    /// It takes none.
    #[error("option {0} takes no argument")]
    Value(String),
    /// Begins with `--lus-`, but is none.
    #[error("unknown option {0}")]
    Unknown(String),
    /// Neither an option nor a value of one.
    #[error("unexpected argument '{0}'")]
    Positional(String),
}

/// Which flag a word is.
enum Flag {
    Help,
    Version,
    Foreground,
    Debug,
    Conf,
    Cluster,
    Name,
    Id,
    Keyring,
    MonHost,
    SetUser,
    SetGroup,
    Own(&'static OptionSpec),
}

impl Flag {
    fn of(word: &str) -> Option<Self> {
        Some(match word {
            "-h" => Self::Help,
            "-v" => Self::Version,
            "-f" => Self::Foreground,
            "-d" => Self::Debug,
            "-c" => Self::Conf,
            "-n" => Self::Name,
            "-i" => Self::Id,
            "-k" => Self::Keyring,
            "-m" => Self::MonHost,
            _ => match options::canonical(word.strip_prefix("--")?).as_str() {
                "help" => Self::Help,
                "version" => Self::Version,
                "foreground" => Self::Foreground,
                "conf" => Self::Conf,
                "cluster" => Self::Cluster,
                "name" => Self::Name,
                "id" | "user" => Self::Id,
                "keyring" => Self::Keyring,
                "mon_host" => Self::MonHost,
                "setuser" => Self::SetUser,
                "setgroup" => Self::SetGroup,
                name => Self::Own(options::find(name)?),
            },
        })
    }

    fn takes_value(&self) -> bool {
        !matches!(self, Self::Help | Self::Version | Self::Foreground | Self::Debug)
    }
}

impl Cli {
    /// Parses arguments, the program's name not among them.
    ///
    /// # Errors
    /// [`BadArgument`] for the first that cannot be used.
    pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Self, BadArgument> {
        let mut cli = Self::default();
        let mut args = args.into_iter().peekable();
        while let Some(arg) = args.next() {
            let (word, inline) = match arg.split_once('=') {
                Some((word, value)) if word.starts_with("--") => (word, Some(value.to_owned())),
                _ => (arg.as_str(), None),
            };
            let Some(flag) = Flag::of(word) else {
                cli.foreign(&arg, word, inline.is_some(), &mut args)?;
                continue;
            };
            let value = if flag.takes_value() {
                match inline.or_else(|| args.next()) {
                    Some(value) => value,
                    None => return Err(BadArgument::NoValue(word.to_owned())),
                }
            } else if inline.is_some() {
                return Err(BadArgument::Value(word.to_owned()));
            } else {
                String::new()
            };
            cli.set(flag, value);
        }
        Ok(cli)
    }

    fn set(&mut self, flag: Flag, value: String) {
        match flag {
            Flag::Help => self.help = true,
            Flag::Version => self.version = true,
            Flag::Foreground => self.foreground = true,
            Flag::Debug => self.debug = true,
            Flag::Conf => self.conf = Some(value.into()),
            Flag::Cluster => self.cluster = Some(value),
            Flag::Name => self.name = Some(value),
            // `-i a` and `-i lus.a` are the same daemon: other Ceph daemons have their type in front by themselves.
            Flag::Id => {
                self.name = Some(format!("client.lus.{}", value.strip_prefix("lus.").unwrap_or(&value)));
            }
            Flag::Keyring => self.keyring = Some(value.into()),
            Flag::MonHost => self.mon_host = Some(value),
            Flag::SetUser => self.setuser = Some(value),
            Flag::SetGroup => self.setgroup = Some(value),
            Flag::Own(row) => self.options.push((row.name, value)),
        }
    }

    /// Keeps an argument for librados: `--name=value`, or `--name` and the value that follows.
    fn foreign(
        &mut self,
        arg: &str,
        word: &str,
        has_value: bool,
        args: &mut std::iter::Peekable<impl Iterator<Item = String>>,
    ) -> Result<(), BadArgument> {
        let Some(name) = word.strip_prefix("--").filter(|name| !name.is_empty()) else {
            return Err(if word.starts_with('-') {
                BadArgument::Unknown(arg.to_owned())
            } else {
                BadArgument::Positional(arg.to_owned())
            });
        };
        if options::canonical(name).starts_with("lus_") {
            return Err(BadArgument::Unknown(word.to_owned()));
        }
        self.rest.push(arg.to_owned());
        if !has_value && let Some(value) = args.next_if(|next| !next.starts_with('-')) {
            self.rest.push(value);
        }
        Ok(())
    }
}

/// What `--help` prints.
pub fn help() -> String {
    let mut text = String::from(
        "usage: lusd -i ID [options] [--OPTION-OF-CEPH=VALUE ...]\n\
         \n\
         Serves RBD images of a Ceph cluster as iSCSI disks. Its cephx entity is client.lus.ID; what it serves\n\
         says the LUS map: see `lus --help`.\n\
         \n\
         \x20 -i, --id ID            the daemon's id\n\
         \x20 -n, --name NAME        the whole entity, client.lus.ID\n\
         \x20 -c, --conf FILE        ceph.conf; else $CEPH_CONF, else Ceph's usual places\n\
         \x20 --cluster NAME         local name of the cluster (ceph)\n\
         \x20 -k, --keyring FILE     else /var/lib/ceph/lus/$cluster-$id/keyring, else Ceph's usual places\n\
         \x20 -m, --mon-host ADDRS   monitors\n\
         \x20 -f                     stay in the foreground, log as configured\n\
         \x20 -d                     stay in the foreground, log to stderr\n\
         \x20 --setuser USER         run as USER (name or number)\n\
         \x20 --setgroup GROUP       run as GROUP (name or number)\n\
         \x20 -v, --version          print the version\n\
         \x20 -h, --help             print this text\n\
         \n\
         Options of lusd. They count in this order: command line, `ceph config set client.lus.ID NAME VALUE --force`,\n\
         ceph.conf ([client.lus.ID], [client.lus], [client], [global]), default. Dashes, underscores and (in\n\
         ceph.conf) blanks in a name are the same. What concerns logs and the pid file is needed before the monitors\n\
         can be asked, and not read from there.\n\n",
    );
    for row in OPTIONS {
        let default = if row.default.is_empty() { "none" } else { row.default };
        let name = row.name.replace('_', "-");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  --{name} {}\n        {} [default: {default}]", row.range(), row.doc);
    }
    text.push_str(
        "\nexamples:\n\
         \x20 lusd -i a                                       as a daemon\n\
         \x20 lusd -f -i a --lus-portal 192.0.2.10:3260       in the foreground, on one address\n\
         \x20 ceph config set client.lus lus_data_memory 4G --force\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(args: &str) -> Result<Cli, BadArgument> {
        Cli::parse(args.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn ours_and_cephs() {
        let cli = parse(
            "-f -i a -c /x/ceph.conf --keyring=/k --lus-portal 127.0.0.1:1 --lus_shards=2 --debug-ms 1 --rbd_cache=false \
             --log-file /l --setuser ceph --cluster blue -m 10.0.0.1 --debug_rados --pid-file=/p",
        )
        .unwrap();
        assert!(cli.foreground && !cli.debug && !cli.help);
        assert_eq!(cli.name.as_deref(), Some("client.lus.a"));
        assert_eq!((cli.conf, cli.keyring), (Some("/x/ceph.conf".into()), Some("/k".into())));
        assert_eq!((cli.cluster.as_deref(), cli.mon_host.as_deref()), (Some("blue"), Some("10.0.0.1")));
        assert_eq!(cli.setuser.as_deref(), Some("ceph"));
        let options: Vec<_> = cli.options.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(options, ["lus_portal=127.0.0.1:1", "lus_shards=2", "log_file=/l", "pid_file=/p"]);
        assert_eq!(cli.rest, ["--debug-ms", "1", "--rbd_cache=false", "--debug_rados"]);
        assert_eq!(parse("-i lus.b").unwrap().name.as_deref(), Some("client.lus.b"));
        assert_eq!(parse("-n client.lus.c -d").unwrap().name.as_deref(), Some("client.lus.c"));
    }

    #[test]
    fn what_cannot_be_used() {
        for (args, wanted) in [
            ("-i", BadArgument::NoValue("-i".into())),
            ("--lus-shards", BadArgument::NoValue("--lus-shards".into())),
            ("--lus-shard 1", BadArgument::Unknown("--lus-shard".into())),
            ("--version=1", BadArgument::Value("--version".into())),
            ("-x", BadArgument::Unknown("-x".into())),
            ("foo", BadArgument::Positional("foo".into())),
            ("--debug-ms 1 foo", BadArgument::Positional("foo".into())),
        ] {
            assert_eq!(parse(args), Err(wanted), "{args}");
        }
    }

    #[test]
    fn help_names_every_option() {
        let help = help();
        for row in OPTIONS {
            assert!(help.contains(&format!("--{} ", row.name.replace('_', "-"))), "{}", row.name);
            assert!(help.contains(row.doc));
        }
    }

    proptest! {
        #[test]
        fn no_arguments_panic(args in proptest::collection::vec("-{0,3}[a-z=_-]{0,8}", 0..6)) {
            let _ = Cli::parse(args);
        }
    }
}
