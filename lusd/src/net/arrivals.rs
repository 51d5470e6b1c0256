//! How old what a connection has not looked at may be.
//!
//! The kernel does not say when bytes came. So the connection notes now and then how far the stream reaches, to the last byte that waits
//! in the socket: what lies before such a mark came before it was made, and what lies behind it came after.
//!
//! ```text
//!   ── looked at ──┤ read, not looked at ├── in the socket ──┤
//!                  ▲ since: nothing behind here came earlier ▲ the next mark
//! ```
//!
//! What stood longer than the stall bound may have been given up by its initiator, and repeated elsewhere: it is neither looked at nor read,
//! and its connection is reset. A stream that moves is never found old, though its socket is never empty; nor is one on which nothing comes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How often a mark is made, at most: by so much may the age of a byte be overstated while the connection runs.
const MARK_INTERVAL: Duration = Duration::from_millis(200);

/// See the module's text. Time and what waits in the socket are the caller's to say.
#[derive(Debug)]
pub struct Arrivals {
    /// Bytes of the stream that were read, and those of them that were looked at.
    read: u64,
    looked_at: u64,
    /// What was not looked at came after this.
    since: Instant,
    /// Oldest first; each reaches further than what was looked at, and than the one before it.
    marks: VecDeque<Mark>,
    noted: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    end: u64,
}

impl Arrivals {
    /// Of a connection that begins at `now`.
    pub fn new(now: Instant) -> Self {
        Self { read: 0, looked_at: 0, since: now, marks: VecDeque::new(), noted: now }
    }

    /// `n` bytes were read.
    pub fn received(&mut self, n: usize) {
        self.read += n as u64;
    }

    /// Everything that was read has been looked at.
    pub fn caught_up(&mut self) {
        self.looked_at = self.read;
        self.settle();
    }

    /// No byte that has not been looked at came before this.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Makes a mark, if it is time; `waits` says how many bytes wait in the socket.
    ///
    /// # Errors
    /// That of `waits`.
    pub fn note<E>(&mut self, now: Instant, waits: impl FnOnce() -> Result<u64, E>) -> Result<(), E> {
        if now.saturating_duration_since(self.noted) >= MARK_INTERVAL {
            self.mark(now, waits()?);
        }
        Ok(())
    }

    /// Whether anything that has not been looked at may have come more than `bound` before `now`. To be asked before a read.
    ///
    /// # Errors
    /// That of `waits`, which says how many bytes wait in the socket; it is asked only if there is a doubt.
    pub fn is_stale<E>(
        &mut self,
        now: Instant,
        bound: Duration,
        waits: impl FnOnce() -> Result<u64, E>,
    ) -> Result<bool, E> {
        if now.saturating_duration_since(self.since) <= bound {
            return Ok(false);
        }
        self.mark(now, waits()?);
        Ok(now.saturating_duration_since(self.since) > bound)
    }

    fn mark(&mut self, now: Instant, waits: u64) {
        self.noted = now;
        let mark = Mark { at: now, end: self.read + waits };
        match self.marks.back_mut() {
            // Nothing came since then.
            Some(last) if last.end == mark.end => *last = mark,
            _ => self.marks.push_back(mark),
        }
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(mark) = self.marks.pop_front_if(|mark| mark.end <= self.looked_at) {
            self.since = mark.at;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const BOUND: Duration = Duration::from_secs(3);

    /// A connection on a clock that is set by hand.
    struct Line {
        begun: Instant,
        arrivals: Arrivals,
        socket: u64,
    }

    impl Line {
        fn new() -> Self {
            let begun = Instant::now();
            Self { begun, arrivals: Arrivals::new(begun), socket: 0 }
        }

        /// A round at some milliseconds that reads and looks at up to `bytes`; whether what is there is too old.
        fn round(&mut self, ms: u64, bytes: u64) -> bool {
            let (now, socket) = (self.begun + Duration::from_millis(ms), self.socket);
            let waits = || Ok::<_, Infallible>(socket);
            let Ok(stale) = self.arrivals.is_stale(now, BOUND, waits);
            let Ok(()) = self.arrivals.note(now, waits);
            let n = bytes.min(self.socket);
            self.socket -= n;
            self.arrivals.received(usize::try_from(n).unwrap());
            if bytes > 0 {
                self.arrivals.caught_up();
            }
            stale
        }

        fn since(&self) -> u128 {
            self.arrivals.since().duration_since(self.begun).as_millis()
        }
    }

    #[test]
    fn what_is_read_as_it_comes_is_young() {
        let mut line = Line::new();
        for ms in (0..60_000).step_by(250) {
            line.socket = 100;
            assert!(!line.round(ms, u64::MAX));
        }
        assert!(line.arrivals.marks.len() <= 1);
        assert!(line.since() >= 59_500, "{}", line.since());
    }

    #[test]
    fn silence_is_not_old() {
        let mut line = Line::new();
        for ms in (0..60_000).step_by(250) {
            assert!(!line.round(ms, u64::MAX));
        }
        // Its task did not run for long, or was not asked: nothing came, so nothing is old. What comes is young.
        assert!(!line.round(90_000, u64::MAX));
        line.socket = 48;
        assert!(!line.round(92_900, u64::MAX));
    }

    #[test]
    fn a_stream_that_moves_is_young_though_its_socket_is_never_empty() {
        let mut line = Line::new();
        for ms in (0..60_000).step_by(10) {
            // Some 2 s of what is read lie in the socket.
            line.socket = line.socket.max(1000) + 5;
            assert!(!line.round(ms, 5), "at {ms} ms");
        }
        assert!((57_500..58_100).contains(&line.since()), "{}", line.since());
        assert!(line.arrivals.marks.len() < 20);
    }

    #[test]
    fn what_is_not_read_for_too_long_is_old() {
        let mut line = Line::new();
        assert!(!line.round(10_000, u64::MAX));
        line.socket = 48;
        let old: Vec<u64> = (10_000..16_000).step_by(250).filter(|ms| line.round(*ms, 0)).collect();
        assert_eq!(old.first(), Some(&13_250), "3 s are allowed");
        // It stays so, whatever else comes.
        line.socket += 48;
        assert!(line.round(16_000, u64::MAX));
    }

    #[test]
    fn what_was_read_but_not_looked_at_is_old_too() {
        let mut line = Line::new();
        line.arrivals.received(48);
        assert!(!line.round(2_900, 0));
        assert!(line.round(3_100, 0));
        line.arrivals.caught_up();
        assert!(!line.round(3_200, 0));
    }

    #[test]
    fn a_task_that_did_not_run_does_not_know_when_something_came() {
        let mut line = Line::new();
        assert!(!line.round(250, u64::MAX));
        line.socket = 48;
        assert!(line.round(3_500, u64::MAX), "it may have come at once");
    }

    #[test]
    fn too_slow_a_reader_is_found() {
        let mut line = Line::new();
        // Ever more lies in the socket: each byte waits longer than the one before it.
        let old = (0..60_000).step_by(10).find(|ms| {
            line.socket += 10;
            line.round(*ms, 5)
        });
        // A byte that came at T is read at 2 T.
        assert!(old.is_some_and(|ms| (5_500..6_100).contains(&ms)), "{old:?}");
    }
}
