//! The command line: the options that every command has, and the nouns.

use std::path::PathBuf;

use clap::builder::styling::Styles;
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand};

use lus_map::{BadName, DaemonId};

use crate::output::Format;
use crate::{auth, completion, daemon, dump, events, flag, health, host, lu, lun, status, target};

/// The pool of the LUS map where `--lus-pool` names no other.
pub(crate) const POOL_DEFAULT: &str = ".lus";

const LONG_ABOUT: &str = "\
Administers LUS, the Logical Unit Server of a Ceph cluster: RBD images as iSCSI disks.

Everything is kept in the cluster, in the LUS map (pool .lus), and this command reads and changes it there. No daemon \
needs to run for that: the daemons follow the map as soon as they are up.

    target   an iSCSI name that hosts log in to
    host     an initiator that may log in to a target
    lu       a logical unit: an RBD image offered as a SCSI disk
    lun      the number under which the hosts of a target see a logical unit
    daemon   a running lusd";

const EXAMPLES: &str = "\
A disk of 10 GiB for one Linux, Windows or ESXi host:
    lus target create iqn.2026-11.com.example:store
    lus host add iqn.2026-11.com.example:store iqn.1994-05.com.redhat:web1
    lus lu create rbd/web1 10G
    lus lun map iqn.2026-11.com.example:store rbd/web1

What is there, and is it well:
    lus -s
    lus lu ls
    lus lun ls iqn.2026-11.com.example:store

Data goes to stdout (-f json for programs), sentences go to stderr. A command that fails says `Error ENOENT: ...` and \
its exit code is that error number; one that finds its work done already says so and succeeds.";

/// Administers LUS, the Logical Unit Server of a Ceph cluster.
#[derive(Debug, Parser)]
#[command(
    name = "lus",
    long_about = LONG_ABOUT,
    after_long_help = EXAMPLES,
    after_help = "lus --help says more, with examples; so does lus COMMAND --help.",
    disable_version_flag = true,
    infer_subcommands = false,
    subcommand_required = false,
    styles = Styles::plain(),
    max_term_width = 100
)]
pub(crate) struct Cli {
    /// The options before the command.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// Options that stand before or after any command, named as `ceph` names them.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Ceph configuration file [default: $CEPH_CONF, else /etc/ceph/CLUSTER.conf]
    #[arg(short, long, value_name = "FILE", global = true)]
    pub(crate) conf: Option<PathBuf>,
    /// Name of the client for authentication, such as client.admin [default: the one in $CEPH_ARGS, else client.admin]
    #[arg(short, long, value_name = "NAME", global = true)]
    pub(crate) name: Option<String>,
    /// Id of the client for authentication: --id admin is --name client.admin
    #[arg(long, visible_alias = "user", value_name = "ID", global = true, conflicts_with = "name")]
    pub(crate) id: Option<String>,
    /// Name of the cluster [default: ceph]
    #[arg(long, value_name = "CLUSTER", global = true)]
    pub(crate) cluster: Option<String>,
    /// File with the client's key [default: as the configuration says]
    #[arg(short, long, value_name = "FILE", global = true)]
    pub(crate) keyring: Option<PathBuf>,
    /// Form of the data: plain, json or json-pretty
    #[arg(
        short,
        long,
        value_name = "FORMAT",
        value_enum,
        default_value_t,
        global = true,
        hide_possible_values = true
    )]
    pub(crate) format: Format,
    /// Show the status, as `lus status` does
    #[arg(short, long)]
    pub(crate) status: bool,
    /// Give up when the cluster cannot be reached for so long [default: Ceph's client_mount_timeout, 300]
    #[arg(long, value_name = "SECONDS", global = true, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) connect_timeout: Option<u32>,
    /// Pool of the LUS map
    #[arg(long, value_name = "POOL", global = true, env = "LUS_POOL", default_value = POOL_DEFAULT)]
    pub(crate) lus_pool: String,
    /// Print the version
    #[arg(short, long, action = ArgAction::SetTrue)]
    pub(crate) version: bool,
}

/// The nouns, and the words without one.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the state of everything on one screen.
    Status(status::StatusArgs),
    /// Say whether all is well, and what is not.
    Health(health::HealthArgs),
    /// Show the whole LUS map, now or as it was.
    Dump(dump::DumpArgs),
    /// Show what happened: daemons that failed, leaders, fences, moves, with their reasons.
    Events(events::EventsArgs),
    /// Set a flag: keep something from happening by itself.
    Set(flag::SetArgs),
    /// Unset a flag.
    Unset(flag::UnsetArgs),
    /// See the daemons, and say which of them have logical units.
    #[command(subcommand)]
    Daemon(daemon::DaemonCommand),
    /// Make and remove the iSCSI names that hosts log in to.
    #[command(subcommand)]
    Target(target::TargetCommand),
    /// Make, resize, move and remove logical units.
    #[command(subcommand)]
    Lu(lu::LuCommand),
    /// Say which initiators may log in to a target.
    #[command(subcommand)]
    Host(host::HostCommand),
    /// Give logical units to the hosts of a target.
    #[command(subcommand)]
    Lun(lun::LunCommand),
    /// Say who may ask which targets there are.
    #[command(subcommand)]
    Discovery(auth::DiscoveryCommand),
    /// Print a completion script for a shell.
    Completion(completion::CompletionArgs),
}

/// `--yes-i-really-mean-it`, for what is in use or costs data.
#[derive(Debug, Args)]
pub(crate) struct Really {
    /// Do it although it is in use, or destroys data.
    #[arg(long = "yes-i-really-mean-it")]
    pub(crate) yes: bool,
}

/// A daemon by its id, `a`, or as it is shown, `lus.a`.
///
/// # Errors
/// What is no id of a daemon.
pub(crate) fn daemon_id(text: &str) -> Result<DaemonId, BadName> {
    text.strip_prefix("lus.").unwrap_or(text).parse()
}

/// Help of a command: the examples stand before the long list of options.
const HELP_TEMPLATE: &str = "{about-with-newline}\n{usage-heading} {usage}\n{after-help}\n\n{all-args}";

/// The whole tree.
pub(crate) fn command() -> clap::Command {
    fn examples_first(command: clap::Command) -> clap::Command {
        command.help_template(HELP_TEMPLATE).mut_subcommands(examples_first)
    }
    Cli::command().mut_subcommands(examples_first)
}

#[cfg(test)]
mod tests {
    use super::{command, daemon_id};

    #[test]
    fn tree_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn daemons_by_id_or_as_shown() {
        assert_eq!(daemon_id("a").unwrap(), daemon_id("lus.a").unwrap());
        assert_eq!(daemon_id("lus.lus.a").unwrap().as_str(), "lus.a");
        assert!(daemon_id("lus.").is_err() && daemon_id("").is_err());
    }
}
