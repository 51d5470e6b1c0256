//! How a connection ends: in order, by a reset, or by going on elsewhere.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use lusd_iscsi::{AsyncEvent, CloseReason};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Connection;
use crate::target::session::Session;
use crate::target::sessions::{ConnectionHandle, Stop};

/// How long an orderly end may take to flush what is queued.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a peer may take to close its side after ours.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("closed by the peer")]
    Eof,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0:?}")]
    Protocol(CloseReason),
    #[error("closed by the administrator, by a target cold reset, or because the daemon stops")]
    Asked,
    #[error("logged out by another connection of its session")]
    LoggedOut,
    /// By a TCP reset, which leaves nothing behind.
    #[error("too many logins at once: this one took the longest")]
    Evicted,
    /// It goes on, on this shard.
    #[error("its session lives on shard {0}")]
    Elsewhere(usize),
    /// What it carried must not be answered: a TCP reset, not a FIN, so that the initiator does not take it for an orderly end.
    #[error("reset: {0}")]
    Reset(&'static str),
}

impl End {
    pub(super) const LOST: Self = Self::Reset("a logical unit was lost with commands in flight");
}

impl Connection {
    /// Asks the other connections of the session, or the one with this identifier, to end; returns them.
    ///
    /// # Errors
    /// One of them has asked this one before: of two that end each other one does.
    pub(super) fn end_others(&self, cid: Option<u16>) -> Result<Vec<Arc<ConnectionHandle>>, End> {
        if self.handle.stop() == Stop::LoggedOut {
            return Err(End::LoggedOut);
        }
        let membership = self.session.as_ref().and_then(Session::membership);
        let others = membership.map(|membership| membership.others(cid)).unwrap_or_default();
        for other in &others {
            other.ask(Stop::LoggedOut);
        }
        Ok(others)
    }

    /// What is still under way will not be answered: from now on every login of the initiator waits for it.
    pub(super) fn linger(&self) {
        if let (Some(nexus), true) = (&self.nexus, self.inbox.in_flight() > 0) {
            self.shard.service.sessions.linger(&self.handle, nexus);
        }
    }

    /// Writes what is queued, for a bounded time.
    pub(super) async fn flush(&mut self) {
        let flushed = tokio::time::timeout(FLUSH_TIMEOUT, async {
            while self.has_output() {
                if self.write().is_err() || (self.has_output() && self.stream.writable().await.is_err()) {
                    return;
                }
            }
        });
        let _ = flushed.await;
    }

    /// Ends the connection. It is gone only when nothing of it can take effect any more.
    pub(super) async fn end(mut self, end: &End) {
        if matches!(end, End::Asked | End::LoggedOut) {
            self.finish_in_order(end).await;
        }
        if matches!(end, End::Reset(_) | End::Evicted) {
            // Linger of zero makes the close a reset.
            let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
        self.inbox.close();
        self.proto.close();
        self.linger();
        let held = self.session.as_mut().map(Session::close);
        if !matches!(end, End::Reset(_) | End::Evicted | End::Eof | End::Io(_)) {
            self.close_in_order().await;
        }
        drop(self.stream);
        if let Some(membership) = self.session.as_ref().and_then(Session::membership) {
            // One of them may have waited for what this one did not bring.
            membership.wake_others();
        }
        self.shard.service.sessions.hung_up();
        while self.inbox.in_flight() > 0 {
            self.notify.notified().await;
        }
        drop(held);
        if let Some(membership) = self.session.as_ref().and_then(Session::membership) {
            Self::leave_group(&self.shard, membership);
        }
        self.shard.service.sessions.leave(&self.handle, self.nexus.as_ref());
    }

    /// Says that nothing more comes, and takes what the peer has still sent: closing a socket with unread bytes would be a reset, which can
    /// cost the peer the last answers.
    async fn close_in_order(&mut self) {
        let drained = async {
            self.stream.shutdown().await?;
            let mut sink = [0; 16 << 10];
            while self.stream.read(&mut sink).await? > 0 {}
            io::Result::Ok(())
        };
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, drained).await;
    }

    /// Answers what is in flight, then tells the initiator, unless it wanted this itself, that its connections are dropped (RFC 7143
    /// 11.9.1): it need not find out by what becomes of its commands.
    async fn finish_in_order(&mut self, end: &End) {
        let ended = async {
            loop {
                if self.outcomes().is_err() || self.write().is_err() {
                    return;
                }
                if self.inbox.in_flight() == 0 {
                    return;
                }
                self.notify.notified().await;
            }
        };
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, ended).await;
        self.linger();
        if matches!(end, End::Asked) {
            self.proto.send_async(AsyncEvent::SessionDrop);
        }
        self.flush().await;
    }
}
