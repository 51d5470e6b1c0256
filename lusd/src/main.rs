//! `lusd`: see `lusd --help`.
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use lusd::app::{self, Ended};
use lusd::config::{self, Config, ConfigError, Environment, cli};
use lusd::map::register::Over;
use lusd::observe::log;
use lusd::process::{self, Detached, EarlierLife, PidFile};
use tracing::{error, info, warn};

/// Threads of the control side; connections have their shards.
const CONTROL_THREADS: usize = 2;
/// Blocking calls of librados that hang must not hold up the end.
const RUNTIME_SHUTDOWN: Duration = Duration::from_millis(500);
/// The exit code of what has no error number.
const EXIT_OTHER: u8 = 1;
/// A newer start of the same daemon took its place: whoever restarts daemons leaves this one alone.
const EXIT_SUPERSEDED: u8 = 17;

fn main() -> ExitCode {
    match prepare() {
        Ok(Start::Print(text)) => {
            // A closed pipe is the reader's business.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Ok(Start::Run(config, environment)) => match start(*config, &environment) {
            Ok(code) => code,
            Err(error) => fail(exit_code(&error), &format!("{error:#}")),
        },
        Err(error) => fail(error.exit_code(), &error.to_string()),
    }
}

enum Start {
    Print(String),
    Run(Box<Config>, Environment),
}

fn version() -> String {
    format!("lusd version {}\n", env!("CARGO_PKG_VERSION"))
}

fn prepare() -> Result<Start, ConfigError> {
    let environment = Environment::of_process();
    let args = std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned());
    let cli = config::arguments(args, &environment)?;
    if cli.help {
        return Ok(Start::Print(cli::help()));
    }
    if cli.version {
        return Ok(Start::Print(version()));
    }
    let config = Config::local(cli, &environment)?;
    Ok(Start::Run(Box::new(config), environment))
}

fn start(config: Config, environment: &Environment) -> anyhow::Result<ExitCode> {
    let folder = std::env::current_dir().ok();
    let earlier = EarlierLife::of_process();
    let detached = match earlier {
        Some(_) => (!config.run.foreground).then(Detached::again),
        None => Detached::enter()?,
    };
    if !config.run.foreground && detached.is_none() {
        return process::detach();
    }
    process::become_user(config.run.setuser.as_deref(), config.run.setgroup.as_deref())?;
    let log = log::start(&config.run)?;
    info!("{}, process lusd, pid {}, {}", version().trim_end(), std::process::id(), config.name);
    match process::raise_open_files() {
        Some(limit) => info!(limit, "open files"),
        None => info!("open files: no limit"),
    }
    let pid_file = config.run.pid_file.as_deref().map(PidFile::write).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("lus-control")
        .enable_all()
        .build()?;
    let ended = runtime.block_on(app::run(config, environment, log, detached, earlier));
    if let Ok(Ended::Again(life)) = &ended {
        warn!("runs itself again, in the same process");
        let error = process::run_again(*life, folder.as_deref());
        error!(%error, "cannot run itself again");
        return Err(error.into());
    }
    if let Err(error) = &ended {
        error!("{error:#}");
    }
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN);
    drop(pid_file);
    if ended.is_ok() {
        info!("ended");
    } else {
        warn!("ended");
    }
    ended.map(|_| ExitCode::SUCCESS)
}

/// The error number that Ceph or the system gave, as Ceph's programs do.
fn exit_code(error: &anyhow::Error) -> u8 {
    if matches!(error.downcast_ref(), Some(Over::Superseded { .. })) {
        return EXIT_SUPERSEDED;
    }
    let number = error.chain().find_map(|cause| {
        cause
            .downcast_ref::<lusd_ceph::Error>()
            .map(|error| error.errno().raw())
            .or_else(|| cause.downcast_ref::<lus_map_store::StoreError>().map(|error| error.errno()))
            .or_else(|| cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error))
    });
    number.and_then(|number| u8::try_from(number).ok()).filter(|number| *number != 0).unwrap_or(EXIT_OTHER)
}

fn fail(code: u8, text: &str) -> ExitCode {
    // Standard error may be closed; the exit code says it too.
    let _ = writeln!(std::io::stderr(), "lusd: {text}");
    ExitCode::from(code)
}
