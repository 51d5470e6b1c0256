//! Logout (RFC 7143 11.14, 11.15): of the session, of this connection, or of another one of the session. At error recovery level 0 there is
//! no recovery to remove a connection for.

use super::{Connection, Phase};
use crate::bhs::{Bhs, RESERVED_TAG};
use crate::error::{CloseReason, ProtocolError};
use crate::event::Event;
use crate::params::SessionType;
use crate::pdu::{LogoutReason, LogoutRequest, LogoutResponse, LogoutResult};

impl Connection {
    pub(super) fn take_logout(&mut self, bhs: &Bhs) -> Result<(), ProtocolError> {
        let pdu = LogoutRequest::parse(bhs)?;
        if pdu.initiator_task_tag == RESERVED_TAG {
            return Err(ProtocolError::ReservedTag);
        }
        self.check_tag(pdu.initiator_task_tag)?;
        if self.session_type == SessionType::Discovery && pdu.reason != LogoutReason::CloseSession {
            return Err(ProtocolError::DiscoverySession);
        }
        let refusal = match pdu.reason {
            LogoutReason::CloseSession => None,
            LogoutReason::RemoveConnectionForRecovery => Some(LogoutResult::RecoveryNotSupported),
            LogoutReason::CloseConnection if pdu.cid != self.cid && self.params.max_connections > 1 => {
                self.check_immediate()?;
                let initiator_task_tag = pdu.initiator_task_tag;
                self.unanswered.push(initiator_task_tag);
                self.events.push_back(Event::LogoutOther { initiator_task_tag, cid: pdu.cid });
                return Ok(());
            }
            LogoutReason::CloseConnection if pdu.cid != self.cid => Some(LogoutResult::CidNotFound),
            LogoutReason::CloseConnection => None,
        };
        if let Some(refusal) = refusal {
            self.send_logout_response(pdu.initiator_task_tag, refusal);
            return Ok(());
        }
        self.phase = Phase::LoggingOut { initiator_task_tag: pdu.initiator_task_tag };
        self.timers.logging_out();
        self.events.push_back(Event::LogoutRequested { reason: pdu.reason });
        Ok(())
    }

    /// Answers an [`Event::LogoutRequested`]: the tasks of the session have ended. [`Event::Closed`] follows.
    ///
    /// # Panics
    /// If no logout waits for an answer.
    pub fn logout_complete(&mut self) {
        match self.phase {
            Phase::Closed => {}
            Phase::LoggingOut { initiator_task_tag } => {
                self.send_logout_response(initiator_task_tag, LogoutResult::Closed);
                self.close_for(CloseReason::Logout);
            }
            Phase::Login | Phase::FullFeature => panic!("no logout waits for an answer"),
        }
    }

    /// Answers an [`Event::LogoutOther`]: that connection has ended with its tasks, or there was none.
    ///
    /// # Panics
    /// If no logout of that initiator task tag waits for an answer.
    pub fn logout_other_complete(&mut self, initiator_task_tag: u32, found: bool) {
        if self.phase == Phase::Closed {
            return;
        }
        self.has_answered(initiator_task_tag);
        let result = if found { LogoutResult::Closed } else { LogoutResult::CidNotFound };
        self.send_logout_response(initiator_task_tag, result);
    }

    fn send_logout_response(&mut self, initiator_task_tag: u32, response: LogoutResult) {
        let sns = self.sns_own();
        let (time_2_wait_s, time_2_retain_s) = match response {
            // Come back at once if you like: nothing is kept.
            LogoutResult::Closed => (0, 0),
            _ => (self.params.default_time_2_wait_s, self.params.default_time_2_retain_s),
        };
        let response = LogoutResponse { response, initiator_task_tag, sns, time_2_wait_s, time_2_retain_s };
        self.out.push(response.to_bhs(), &[]);
    }
}
