//! `lus`, the admin command.
//!
//! ```text
//!   arguments ──args──► a noun's verb ──session──► map store, records, images (RADOS)
//!       └─usage─► Ceph's form of a syntax error        │
//!   stdout: data, stderr: sentences ◄──output── Reply ◄┘──► Failure: `Error E...: ...`, exit code = errno
//! ```
//!
//! Everything goes by RADOS, so it works when no daemon is up. A change is an intent, asked of the newest map until its
//! increment is committed.
#![forbid(unsafe_code)]

mod args;
mod auth;
mod completion;
mod daemon;
mod dump;
mod error;
mod events;
mod flag;
mod health;
mod host;
mod lu;
mod lun;
mod output;
#[cfg(test)]
mod reference;
mod session;
mod size;
mod status;
mod table;
mod target;
#[cfg(test)]
mod testing;
mod usage;

use std::process::ExitCode;

use clap::FromArgMatches;
use lusd_ceph::{Cluster, Errno};

use crate::args::{Cli, Command, Global};
use crate::error::{Failure, Result};
use crate::output::Reply;
use crate::session::Session;

fn main() -> ExitCode {
    let words: Vec<String> =
        std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let root = args::command();
    let parsed = root.clone().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return explain(usage::answer(&root, &words, &error)),
    };
    let done = run(&cli).and_then(|reply| {
        reply.print(cli.global.format).map_err(|error| Failure::new(Errno::EIO, format!("stdout: {error}")))
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Says what help was asked for, or what is wrong with the arguments.
fn explain(answer: usage::Answer) -> ExitCode {
    match answer {
        usage::Answer::Asked(text) => match Reply::text(text).print(output::Format::Plain) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        usage::Answer::Invalid(text) => {
            eprint!("{text}");
            ExitCode::from(Failure::invalid("").exit_code())
        }
    }
}

fn run(cli: &Cli) -> Result<Reply> {
    if cli.global.version {
        let (major, minor, patch) = Cluster::librados_version();
        let version = env!("CARGO_PKG_VERSION");
        return Ok(Reply::text(format!("lus version {version} (librados {major}.{minor}.{patch})\n")));
    }
    let command = match (&cli.command, cli.global.status) {
        (Some(Command::Completion(args)), _) => return Ok(args.run()),
        (Some(command), false) => Some(command),
        (Some(_), true) => return Err(Failure::invalid("-s stands alone, without a command")),
        (None, true) => None,
        (None, false) => return Ok(Reply::text(args::command().render_long_help().to_string())),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Errno::EIO, format!("cannot start: {error}")))?;
    runtime.block_on(with_session(&cli.global, command))
}

async fn with_session(global: &Global, command: Option<&Command>) -> Result<Reply> {
    let session = Session::open(global).await?;
    let reply = match command {
        None | Some(Command::Status(_)) => status::run(&session).await,
        Some(Command::Health(args)) => args.run(&session).await,
        Some(Command::Dump(args)) => args.run(&session).await,
        Some(Command::Events(args)) => args.run(&session, global.format).await,
        Some(Command::Set(args)) => args.run(&session).await,
        Some(Command::Unset(args)) => args.run(&session).await,
        Some(Command::Daemon(command)) => command.run(&session).await,
        Some(Command::Target(command)) => command.run(&session).await,
        Some(Command::Lu(command)) => command.run(&session).await,
        Some(Command::Host(command)) => command.run(&session).await,
        Some(Command::Lun(command)) => command.run(&session).await,
        Some(Command::Discovery(command)) => command.run(&session).await,
        Some(Command::Completion(args)) => Ok(args.run()),
    };
    session.close().await;
    reply
}
