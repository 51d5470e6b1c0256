//! Deadlines. They are looked at lazily: a deadline that has moved on is found out when the old one comes, so that traffic costs
//! no timer.

use std::time::{Duration, Instant};

use super::{Connection, Phase};
use crate::config::Config;
use crate::error::CloseReason;
use crate::params::SessionType;
use crate::session::tasks::TaskState;

/// What an initiator gets on top of the time within which it was asked to log out.
const LOGOUT_GRACE: Duration = Duration::from_secs(1);

/// A ping that is not answered.
#[derive(Clone, Copy, Debug)]
struct Ping {
    target_transfer_tag: u32,
    sent: Instant,
}

#[derive(Debug)]
pub(super) struct Timers {
    /// Bytes have come since the last poll.
    pub has_received: bool,
    /// When bytes last came.
    pub last_received: Instant,
    login: Option<Instant>,
    quiet: Option<Instant>,
    ping: Option<Ping>,
    data_out: Option<Instant>,
    logout: Option<Instant>,
}

impl Timers {
    pub(super) fn new(now: Instant, login: Instant) -> Self {
        Self {
            has_received: false,
            last_received: now,
            login: Some(login),
            quiet: None,
            ping: None,
            data_out: None,
            logout: None,
        }
    }

    pub(super) fn stop(&mut self) {
        (self.login, self.quiet, self.ping, self.data_out, self.logout) = (None, None, None, None, None);
    }

    pub(super) fn logged_in(&mut self, now: Instant, config: &Config, session_type: SessionType) {
        self.login = None;
        self.last_received = now;
        self.quiet = Some(now + quiet_time(config, session_type));
    }

    /// What is still to come is the daemon's to do.
    pub(super) fn logging_out(&mut self) {
        self.stop();
    }

    pub(super) fn expect_logout(&mut self, now: Instant, within_s: u16) {
        let at = now + Duration::from_secs(within_s.into()) + LOGOUT_GRACE;
        self.logout = Some(self.logout.map_or(at, |earlier| earlier.min(at)));
    }

    pub(super) fn expect_data(&mut self, at: Instant) {
        self.data_out.get_or_insert(at);
    }

    /// A NOP-Out came with this tag.
    pub(super) fn answered(&mut self, target_transfer_tag: u32) {
        self.ping.take_if(|ping| ping.target_transfer_tag == target_transfer_tag);
    }
}

fn quiet_time(config: &Config, session_type: SessionType) -> Duration {
    match session_type {
        SessionType::Normal => config.nop_interval,
        SessionType::Discovery => config.discovery_timeout,
    }
}

impl Connection {
    /// When [`Connection::handle_timeout`] is to be called at the latest, if nothing else happens.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let Timers { login, quiet, data_out, logout, .. } = &self.timers;
        [login, quiet, data_out, logout].into_iter().flatten().min().copied()
    }

    /// Does what is due. Read what the socket has first: what waits there would count as silence.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        if std::mem::take(&mut self.timers.has_received) || self.is_waiting() || self.is_output_full() {
            // While we do not listen, silence says nothing.
            self.timers.last_received = now;
        }
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.timers.login) && self.phase == Phase::Login {
            return self.close_for(CloseReason::LoginTimeout);
        }
        if due(self.timers.logout) {
            return self.close_for(CloseReason::LogoutTimeout);
        }
        if due(self.timers.quiet) {
            self.handle_quiet();
        }
        if due(self.timers.data_out) {
            self.handle_data_out_timeout();
        }
    }

    fn handle_quiet(&mut self) {
        let now = self.now;
        let last = self.timers.last_received;
        let quiet_at = last + quiet_time(&self.config, self.session_type);
        if let Some(ping) = self.timers.ping {
            if last >= ping.sent {
                // Something came: the connection lives, whether the answer did or not.
                self.timers.ping = None;
            } else if now >= ping.sent + self.config.nop_timeout {
                return self.close_for(CloseReason::NopTimeout);
            } else {
                self.timers.quiet = Some(ping.sent + self.config.nop_timeout);
                return;
            }
        }
        if now < quiet_at {
            self.timers.quiet = Some(quiet_at);
        } else if self.session_type == SessionType::Discovery {
            self.close_for(CloseReason::DiscoveryTimeout);
        } else {
            self.send_ping();
        }
    }

    /// Asks the initiator for an answer now, unless it is asked already: it acknowledges what it has received.
    pub fn ping(&mut self) {
        if self.phase == Phase::FullFeature && self.timers.ping.is_none() {
            self.send_ping();
        }
    }

    fn send_ping(&mut self) {
        let target_transfer_tag = self.next_target_transfer_tag();
        self.timers.ping = Some(Ping { target_transfer_tag, sent: self.now });
        self.timers.quiet = Some(self.now + self.config.nop_timeout);
        self.send_nop_in(target_transfer_tag);
    }

    fn handle_data_out_timeout(&mut self) {
        let (now, timeout) = (self.now, self.config.data_out_timeout);
        let blocked = self.is_waiting() || self.is_output_full();
        let mut oldest: Option<Instant> = None;
        for task in self.session.tasks.iter_mut() {
            if let TaskState::Receiving(transfer) = &mut task.state {
                if blocked || !transfer.is_promised() {
                    transfer.progress = now;
                }
                oldest = Some(oldest.map_or(transfer.progress, |at| at.min(transfer.progress)));
            }
        }
        match oldest.map(|at| at + timeout) {
            Some(at) if at <= now => self.close_for(CloseReason::DataOutTimeout),
            next => self.timers.data_out = next,
        }
    }
}
