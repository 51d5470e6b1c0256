//! A login that is found to belong to a session on another shard goes on there: the protocol is taken through the same bytes again.

use tracing::warn;

use super::{Connection, End};
use crate::net::shard::{Accepted, Begun};

impl Connection {
    /// Goes on on another shard, where its session lives.
    pub(super) fn hand_over(self, index: usize) {
        let Self { shard, stream, prologue, handle, seed, .. } = self;
        let (received, sent) = prologue.unwrap_or_default();
        let begun = Some(Begun { seed, received, sent });
        match stream.into_std() {
            Ok(stream) => shard.service.hand_over(index, Accepted { stream, begun }),
            Err(err) => warn!(%err, "a connection could not be handed over: closed"),
        }
        shard.service.sessions.hung_up();
        shard.service.sessions.leave(&handle, None);
    }

    /// Has the protocol go through what it has been through on another shard.
    pub(super) async fn begin_anew(&mut self, begun: &Begun) -> Result<(), End> {
        let (mut rest, mut sent) = (&begun.received[..], begun.sent);
        while !rest.is_empty() {
            let target = self.proto.read_target();
            let n = target.limit.min(rest.len());
            if n == 0 {
                return Err(End::Reset("a login could not be handed over"));
            }
            target.buf.extend_from_slice(&rest[..n]);
            rest = &rest[n..];
            self.note_received(&begun.received[begun.received.len() - rest.len() - n..][..n]);
            self.proto.received(n);
            self.arrivals.received(n);
            self.events().await?;
            let again = sent.min(self.proto.output_len());
            self.proto.sent(again);
            sent -= again;
        }
        Ok(())
    }

    pub(super) fn note_received(&mut self, bytes: &[u8]) {
        if let Some((received, _)) = &mut self.prologue {
            received.extend_from_slice(bytes);
        }
    }
}
