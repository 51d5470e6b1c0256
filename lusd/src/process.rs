//! The process: detaching, user and group, open-file limit, pid file, notifying whoever waits for the daemon to be ready.
//!
//! A daemon is started by a second run of the program in a session of its own: so nothing is forked while threads run. The first one stays
//! until the second says that it is ready, or ends with its exit code.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use lus_map::Epoch;
use rustix::process::{Resource, Rlimit};

/// Set for the second run. Its value is the process id of the first, so that an inherited one does not count.
const DETACHED_ENV: &str = "LUSD_DETACHED_BY";
/// Set when the program runs itself again in place: `PID COUNT UP_FROM`. The process id makes that an inherited one does not count.
const RESTARTED_ENV: &str = "LUSD_RESTARTED";
/// Longest pause before the daemon registers again after restarts that follow upon one another.
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(30);
/// After so long a life a restart does not count as one of a series.
const SETTLED: Duration = Duration::from_secs(300);
/// What the detached daemon writes when it is ready.
const READY: &[u8] = b"ready\n";
/// Open files that a daemon wants: a socket per connection, and what librados needs per OSD.
const OPEN_FILES_WANTED: u64 = 1 << 20;

/// Runs the program again, detached, and waits until it is ready.
///
/// # Errors
/// When it cannot be started.
pub fn detach() -> anyhow::Result<ExitCode> {
    let program = std::env::current_exe().context("cannot find the own program")?;
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let mut child = Command::new(program)
        .args(args)
        .env(DETACHED_ENV, std::process::id().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the detached daemon")?;
    let mut said = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        // It ends with the daemon's life or, once it is ready, with its standard output.
        stdout.take(READY.len() as u64).read_to_end(&mut said).context("cannot wait for the daemon")?;
    }
    if said == READY {
        return Ok(ExitCode::SUCCESS);
    }
    let status = child.wait().context("cannot wait for the daemon")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0);
    Ok(ExitCode::from(code.unwrap_or(1)))
}

/// The life of the daemon before this one, in the same process. See doc/decisions/0008-restart-by-exec.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EarlierLife {
    /// Restarts that followed upon one another; 1 for the first.
    pub count: u32,
    /// The start of the daemon that is over.
    pub up_from: Epoch,
}

impl EarlierLife {
    /// Out of the environment; `None` in a first life.
    pub fn of_process() -> Option<Self> {
        Self::parse(&std::env::var(RESTARTED_ENV).ok()?, std::process::id())
    }

    fn parse(text: &str, pid: u32) -> Option<Self> {
        let mut words = text.split(' ');
        let mut next = || words.next()?.parse::<u64>().ok();
        let (of, count, up_from) = (next()?, next()?, next()?);
        (of == u64::from(pid))
            .then(|| Self { count: u32::try_from(count).unwrap_or(u32::MAX), up_from: Epoch(up_from) })
    }

    /// How long to wait before going on: a second, doubled with each restart of a series.
    pub fn pause(&self) -> Duration {
        let exponent = self.count.saturating_sub(1).min(u32::BITS - 1);
        Duration::from_secs(1 << u64::from(exponent)).min(RESTART_PAUSE_MAX)
    }

    /// What is told to the next life, after a life of `lived` as the start `up_from`.
    pub fn next(earlier: Option<Self>, lived: Duration, up_from: Epoch) -> Self {
        let series = earlier.filter(|_| lived < SETTLED).map_or(0, |earlier| earlier.count);
        Self { count: series.saturating_add(1), up_from }
    }
}

/// Runs the program again in this process, with its own arguments, from the folder that it was started in. Every file but the standard
/// ones is closed by that, and every thread is gone. Returns only if that fails.
pub fn run_again(life: EarlierLife, folder: Option<&Path>) -> std::io::Error {
    let program = match own_program() {
        Ok(program) => program,
        Err(error) => return error,
    };
    let mut command = Command::new(program);
    let mut args = std::env::args_os();
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    command.args(args).env_remove(DETACHED_ENV);
    command.env(RESTARTED_ENV, format!("{} {} {}", std::process::id(), life.count, life.up_from.0));
    if let Some(folder) = folder.filter(|folder| folder.is_dir()) {
        command.current_dir(folder);
    }
    // While a thread is in execve, the kernel refuses new threads (EAGAIN) to those that share its working directory, and librados aborts where
    // it cannot have one. So this thread stops sharing; should that fail, it is as likely as before that nobody wants a thread just now.
    if let Err(error) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS) {
        tracing::debug!(%error, "unshare");
    }
    command.exec()
}

/// The file of this program: the new one where an upgrade has put another in its place.
fn own_program() -> std::io::Result<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    const SELF: &str = "/proc/self/exe";
    let program = std::fs::read_link(SELF)?;
    let replaced = program.as_os_str().as_bytes().strip_suffix(b" (deleted)");
    let program = replaced.map_or(program.clone(), |path| std::ffi::OsStr::from_bytes(path).into());
    Ok(if program.exists() { program } else { SELF.into() })
}

/// What a process that was started by [`detach`] owes to it.
#[derive(Debug)]
pub struct Detached {
    /// Somebody waits for the daemon to be ready.
    awaited: bool,
}

impl Detached {
    /// In the second run: leaves the session of the first. `None` in a first run.
    ///
    /// # Errors
    /// When there is no session to be had.
    pub fn enter() -> anyhow::Result<Option<Self>> {
        let Ok(by) = std::env::var(DETACHED_ENV) else { return Ok(None) };
        let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().to_string());
        if parent.as_ref() != Some(&by) {
            return Ok(None);
        }
        rustix::process::setsid().context("setsid")?;
        Ok(Some(Self { awaited: true }))
    }

    /// Of a daemon that was detached in an earlier life: nobody waits.
    pub fn again() -> Self {
        Self { awaited: false }
    }

    /// The daemon is ready: tells the first run, and lets go of terminal and working directory.
    ///
    /// # Errors
    /// When /dev/null cannot be opened.
    pub fn ready(self) -> anyhow::Result<()> {
        std::env::set_current_dir("/").context("cannot change to /")?;
        if !self.awaited {
            return Ok(());
        }
        let null =
            std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").context("/dev/null")?;
        // Nobody may wait any more; that is not the daemon's trouble.
        let _ = std::io::stdout().write_all(READY).and_then(|()| std::io::stdout().flush());
        rustix::stdio::dup2_stdin(&null).context("stdin")?;
        rustix::stdio::dup2_stdout(&null).context("stdout")?;
        rustix::stdio::dup2_stderr(&null).context("stderr")?;
        Ok(())
    }
}

/// Becomes `user` and `group` (names or numbers; the user's own group when none is given).
///
/// # Errors
/// Unknown names; no permission.
pub fn become_user(user: Option<&str>, group: Option<&str>) -> anyhow::Result<()> {
    use nix::unistd::{Gid, Group, Uid, User};
    let found = match user {
        Some(name) => match name.parse() {
            Ok(uid) => User::from_uid(Uid::from_raw(uid)),
            Err(_) => User::from_name(name),
        }
        .with_context(|| format!("cannot look up user '{name}'"))?,
        None => None,
    };
    let uid = match (user, &found) {
        (Some(_), Some(found)) => Some(found.uid),
        (Some(name), None) => {
            Some(Uid::from_raw(name.parse().ok().with_context(|| format!("no such user '{name}'"))?))
        }
        (None, _) => None,
    };
    let gid = match group {
        Some(name) => match name.parse() {
            Ok(gid) => Some(Gid::from_raw(gid)),
            Err(_) => {
                let group =
                    Group::from_name(name).with_context(|| format!("cannot look up group '{name}'"))?;
                Some(group.with_context(|| format!("no such group '{name}'"))?.gid)
            }
        },
        None => found.as_ref().map(|found| found.gid),
    };
    // Who is that user already has nothing to change, and may not.
    if uid.is_none_or(|uid| uid == Uid::effective()) && gid.is_none_or(|gid| gid == Gid::effective()) {
        return Ok(());
    }
    if let Some(gid) = gid {
        nix::unistd::setgroups(&[gid]).context("setgroups")?;
        nix::unistd::setgid(gid).with_context(|| format!("setgid {gid}"))?;
    }
    if let Some(uid) = uid {
        nix::unistd::setuid(uid).with_context(|| format!("setuid {uid}"))?;
    }
    Ok(())
}

/// Raises the soft limit of open files to what is allowed. Returns it.
pub fn raise_open_files() -> Option<u64> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(OPEN_FILES_WANTED);
    let wanted = hard.min(OPEN_FILES_WANTED).max(limit.current.unwrap_or(0));
    let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
    match rustix::process::setrlimit(Resource::Nofile, raised) {
        Ok(()) => Some(wanted),
        Err(_) => limit.current,
    }
}

/// The pid file: held by a lock for as long as the daemon lives, so that neither a number that is somebody else's by now nor a killed
/// daemon that its parent has not buried yet keeps a new one from starting. Removed when it goes, if it is still ours.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    _locked: std::fs::File,
}

impl PidFile {
    /// Writes it. One that another living daemon holds is left alone.
    ///
    /// # Errors
    /// When it cannot be written, or another daemon runs.
    pub fn write(path: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("cannot write pid file {}", path.display());
        let options = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(path);
        let mut file = options.with_context(cannot)?;
        if file.try_lock().is_err() {
            match read_pid(&mut file) {
                Some(pid) => bail!("{}: lusd runs already, pid {pid}", path.display()),
                None => bail!("{}: lusd runs already", path.display()),
            }
        }
        file.set_len(0)
            .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()))
            .with_context(cannot)?;
        Ok(Self { path: path.to_owned(), _locked: file })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let ours = std::fs::File::open(&self.path)
            .is_ok_and(|mut file| read_pid(&mut file) == Some(std::process::id()));
        if ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn read_pid(file: &mut std::fs::File) -> Option<u32> {
    /// A pid has at most 10 digits.
    const TEXT_BYTES_MAX: u64 = 16;
    let mut text = String::new();
    file.take(TEXT_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Tells the service manager (sd_notify(3)): `READY=1`, `STOPPING=1`, `STATUS=...`.
pub fn notify_service_manager(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let sent = UnixDatagram::unbound().and_then(|socket| {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::ffi::OsStrExt;
        let address = match path.as_bytes().strip_prefix(b"@") {
            Some(name) => std::os::unix::net::SocketAddr::from_abstract_name(name)?,
            None => std::os::unix::net::SocketAddr::from_pathname(&path)?,
        };
        socket.send_to_addr(state.as_bytes(), &address)
    });
    if let Err(error) = sent {
        tracing::debug!(%error, "cannot notify the service manager");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_lives_as_long_as_its_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        std::fs::write(&path, "not a number").unwrap();
        let file = PidFile::write(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        drop(file);
        assert!(!path.exists());
        let file = PidFile::write(&path).unwrap();
        let refused = PidFile::write(&path).unwrap_err().to_string();
        assert!(refused.ends_with(&format!("lusd runs already, pid {}", std::process::id())), "{refused}");
        std::fs::write(&path, "1\n").unwrap();
        drop(file);
        assert!(path.exists(), "it is another's now");
        assert!(PidFile::write(&path).is_ok(), "nobody holds it");
    }

    #[test]
    fn restarts_that_follow_upon_one_another_wait_longer() {
        let mut life = EarlierLife::next(None, Duration::from_secs(1), Epoch(7));
        let mut pauses = vec![life.pause().as_secs()];
        for _ in 0..6 {
            life = EarlierLife::next(Some(life), Duration::from_secs(20), Epoch(8));
            pauses.push(life.pause().as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        let settled = EarlierLife::next(Some(life), SETTLED, Epoch(9));
        assert_eq!((settled.pause().as_secs(), settled.up_from), (1, Epoch(9)));
        assert_eq!(EarlierLife { count: u32::MAX, up_from: Epoch(1) }.pause(), RESTART_PAUSE_MAX);
    }

    #[test]
    fn only_the_same_process_has_an_earlier_life() {
        assert_eq!(EarlierLife::parse("17 2 40", 17), Some(EarlierLife { count: 2, up_from: Epoch(40) }));
        for (text, pid) in [("17 2 40", 18), ("17 2", 17), ("", 17), ("17 x 1", 17)] {
            assert_eq!(EarlierLife::parse(text, pid), None, "{text}");
        }
    }

    #[test]
    fn unknown_users_are_refused() {
        assert!(
            become_user(Some("no-such-user-here"), None).unwrap_err().to_string().contains("no such user")
        );
        assert!(
            become_user(None, Some("no-such-group-here")).unwrap_err().to_string().contains("no such group")
        );
        assert!(become_user(None, None).is_ok());
    }

    #[test]
    fn the_limit_never_sinks() {
        let before = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        assert!(raise_open_files().is_none_or(|now| now >= before.min(OPEN_FILES_WANTED)));
    }
}
