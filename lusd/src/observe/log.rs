//! Logging: tracing's own text form, or lines as Ceph's daemons write them, to stderr or to a file that is opened again on SIGHUP and
//! when somebody renamed it (logrotate does not know us).
//!
//! What peers can cause is bounded here, too: of each kind of line (a place in the source) so many are written in a second, and of the rest
//! only how many they were.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::Zoned;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::config::Run;

/// How often a renamed log file is noticed.
pub const RENAME_CHECK: Duration = Duration::from_secs(1);

/// Lines of one kind that are written between two looks of [`Log::tell_left_out`], a second. A thousand hosts that come back at once are a few of
/// these, a flood is many.
const LINES_MAX: u32 = 500;

/// Where lines go. Clones write to the same place.
#[derive(Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

struct Inner {
    path: Option<PathBuf>,
    file: Mutex<Option<File>>,
    /// Since the last look, by kind.
    kinds: Mutex<HashMap<Identifier, Kind>>,
}

/// Lines of one kind.
#[derive(Default)]
struct Kind {
    written: u32,
    left_out: u64,
    /// File and line, once there is something to tell.
    place: String,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn open(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

impl Log {
    /// A log in `path`, or to stderr.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: Option<PathBuf>) -> io::Result<Self> {
        let file = path.as_ref().map(open).transpose()?;
        Ok(Self { inner: Arc::new(Inner { path, file: Mutex::new(file), kinds: Mutex::default() }) })
    }

    /// Opens the file again. On failure the old one is kept.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn reopen(&self) -> io::Result<()> {
        if let Some(path) = &self.inner.path {
            let file = open(path)?;
            *lock(&self.inner.file) = Some(file);
        }
        Ok(())
    }

    /// Opens the file again if what stands under its name is not what we write to.
    ///
    /// # Errors
    /// As [`Log::reopen`].
    pub fn reopen_if_renamed(&self) -> io::Result<bool> {
        let Some(path) = &self.inner.path else { return Ok(false) };
        let named = std::fs::metadata(path).ok().map(|named| (named.dev(), named.ino()));
        let ours =
            lock(&self.inner.file).as_ref().and_then(|file| file.metadata().ok()).map(|m| (m.dev(), m.ino()));
        if named.is_some() && named == ours {
            return Ok(false);
        }
        self.reopen().map(|()| true)
    }

    /// Says of which kinds lines were left out since the last call, and lets them be written again. To be called each second.
    pub fn tell_left_out(&self) {
        let kinds = std::mem::take(&mut *lock(&self.inner.kinds));
        for Kind { left_out, place, .. } in kinds.into_values().filter(|kind| kind.left_out > 0) {
            tracing::warn!(left_out, %place, "more lines of one kind than are written in a second");
        }
    }

    /// Whether a line of this kind is to be written. Errors are, and what somebody has asked for by `lus_log`.
    fn admits(&self, meta: &Metadata<'_>) -> bool {
        if !matches!(*meta.level(), Level::WARN | Level::INFO) {
            return true;
        }
        let mut kinds = lock(&self.inner.kinds);
        let kind = kinds.entry(meta.callsite()).or_default();
        if kind.written < LINES_MAX {
            kind.written += 1;
            return true;
        }
        if kind.left_out == 0 {
            kind.place = format!("{}:{}", meta.file().unwrap_or("-"), meta.line().unwrap_or(0));
        }
        kind.left_out += 1;
        false
    }
}

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match lock(&self.inner.file).as_mut() {
            Some(file) => file.write(line),
            None => io::stderr().write(line),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where one line goes; `None`: nowhere.
pub struct Line(Option<Log>);

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.as_mut().map_or(Ok(line.len()), |log| log.write(line))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(Some(self.clone()))
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line {
        Line(self.admits(meta).then(|| self.clone()))
    }
}

/// Ceph's log line: `2026-11-21T01:34:06.792+0000 1f2a  0 lusd::app(lu{lu=rbd/x}) text field=value`.
///
/// Levels: error -1, warn 0, info 1, debug 10, trace 20, as Ceph's daemons use them.
#[derive(Clone, Copy, Debug, Default)]
pub struct CephFormat;

/// Ceph's number for a level.
fn ceph_level(level: &Level) -> i32 {
    match *level {
        Level::ERROR => -1,
        Level::WARN => 0,
        Level::INFO => 1,
        Level::DEBUG => 10,
        Level::TRACE => 20,
    }
}

/// The text of an event, then its fields.
#[derive(Default)]
struct CephFields {
    message: String,
    fields: String,
}

impl Visit for CephFields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }
}

impl<S, N> FormatEvent<S, N> for CephFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let thread = rustix::thread::gettid().as_raw_nonzero();
        let meta = event.metadata();
        write!(
            writer,
            "{} {thread:x} {:2} {}",
            stamp(&Zoned::now()),
            ceph_level(meta.level()),
            meta.target()
        )?;
        if let Some(scope) = ctx.event_scope() {
            writer.write_char('(')?;
            for (n, span) in scope.from_root().enumerate() {
                let extensions = span.extensions();
                let fields =
                    extensions.get::<FormattedFields<N>>().map_or("", |fields| fields.fields.as_str());
                write!(writer, "{}{}{{{fields}}}", if n == 0 { "" } else { " " }, span.name())?;
            }
            writer.write_char(')')?;
        }
        let mut fields = CephFields::default();
        event.record(&mut fields);
        // One event, one line.
        writeln!(writer, " {}{}", fields.message.replace('\n', "\\n"), fields.fields.replace('\n', "\\n"))
    }
}

/// Local time, milliseconds, numeric offset without a colon.
fn stamp(now: &Zoned) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%S%.3f%z").to_string()
}

/// Starts logging as configured. Returns the log, to open it again.
///
/// # Errors
/// When a file that was asked for cannot be opened, the filter is malformed, or logging has been started before.
pub fn start(run: &Run) -> anyhow::Result<Log> {
    use anyhow::Context;
    let (log, fallback) = match Log::open(run.log_file.clone()) {
        Ok(log) => (log, None),
        Err(error) if run.log_file_given => {
            let path = run.log_file.clone().unwrap_or_default();
            return Err(error).with_context(|| format!("cannot open log file {}", path.display()));
        }
        Err(error) => (Log::open(None)?, Some(error)),
    };
    let filter = EnvFilter::try_new(&run.log_filter).context("lus_log")?;
    let to_file = log.inner.path.is_some();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(log.clone()).with_ansi(false);
    let started = if run.log_ceph {
        builder.event_format(CephFormat).try_init()
    } else {
        let terminal = !to_file && io::IsTerminal::is_terminal(&io::stderr());
        builder.with_timer(Clock).with_ansi(terminal).try_init()
    };
    started.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))?;
    if let Some(error) = fallback {
        let path = run.log_file.clone().unwrap_or_default();
        tracing::warn!(path = %path.display(), %error, "cannot open the default log file: logging to stderr");
    }
    Ok(log)
}

/// The time of tracing's own form: as Ceph's.
struct Clock;

impl tracing_subscriber::fmt::time::FormatTime for Clock {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        writer.write_str(&stamp(&Zoned::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cephs_form() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = Log::open(Some(path.clone())).unwrap();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(log.clone())
            .with_ansi(false)
            .event_format(CephFormat)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("no span");
            let _lu = tracing::info_span!("lu", lu = "rbd/x", epoch = 3).entered();
            tracing::error!(holder = %"10.0.0.1:0/7", "two\nlines");
        });
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        let (stamp, rest) = lines[0].split_once(' ').unwrap();
        let form: String = stamp.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert!(
            ["0000-00-00T00:00:00.000+0000", "0000-00-00T00:00:00.000-0000"].contains(&form.as_str()),
            "{stamp}"
        );
        let (thread, rest) = rest.split_once(' ').unwrap();
        assert!(u64::from_str_radix(thread, 16).is_ok());
        assert_eq!(rest, " 1 lusd::observe::log::tests no span");
        assert!(
            lines[1].ends_with(
                "-1 lusd::observe::log::tests(lu{lu=\"rbd/x\" epoch=3}) two\\nlines holder=10.0.0.1:0/7"
            ),
            "{}",
            lines[1]
        );
    }

    #[test]
    fn a_flood_of_lines_is_cut_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = Log::open(Some(path.clone())).unwrap();
        let subscriber = tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false).finish();
        let lines = |of: &str| {
            let text = std::fs::read_to_string(&path).unwrap();
            text.lines().filter(|line| line.contains(of)).map(str::to_owned).collect::<Vec<_>>()
        };
        tracing::subscriber::with_default(subscriber, || {
            let flood = |count| (0..count).for_each(|i| tracing::info!(i, "login refused"));
            flood(LINES_MAX + 7);
            tracing::info!("something else");
            assert_eq!(lines("login refused").len(), LINES_MAX as usize);
            assert_eq!(lines("something else").len(), 1);
            (0..=LINES_MAX).for_each(|_| tracing::error!("trouble"));
            assert_eq!(lines("trouble").len(), LINES_MAX as usize + 1, "errors are all there");
            log.tell_left_out();
            let told = lines("left_out=7");
            assert!(told.len() == 1 && told[0].contains("log.rs:"), "{told:?}");
            flood(3);
            log.tell_left_out();
            assert_eq!(lines("login refused").len(), LINES_MAX as usize + 3);
            assert_eq!(lines("left_out=").len(), 1, "nothing more");
        });
    }

    #[test]
    fn a_renamed_file_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let (path, rotated) = (dir.path().join("log"), dir.path().join("log.1"));
        let mut log = Log::open(Some(path.clone())).unwrap();
        assert!(!log.reopen_if_renamed().unwrap());
        log.write_all(b"1\n").unwrap();
        std::fs::rename(&path, &rotated).unwrap();
        assert!(log.reopen_if_renamed().unwrap());
        log.write_all(b"2\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"2\n");
        assert_eq!(std::fs::read(&rotated).unwrap(), b"1\n");
        std::fs::remove_file(&path).unwrap();
        log.reopen().unwrap();
        log.write_all(b"3\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"3\n");
        assert!(!Log::open(None).unwrap().reopen_if_renamed().unwrap());
        assert!(Log::open(Some(dir.path().join("no/such"))).is_err());
    }
}
