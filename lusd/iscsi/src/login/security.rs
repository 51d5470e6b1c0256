//! The security stage (RFC 7143 6.3.2). AuthMethod=None for now: who may come without authentication is the daemon's decision, taken
//! before this stage is entered.

use super::keys::Place;
use super::negotiation::Asked;
use super::{Granted, Request, State, Step};
use crate::error::LoginStatus;
use crate::pdu::Stage;
use crate::text;

#[derive(Debug)]
pub(super) struct Security {
    granted: Granted,
}

impl Security {
    pub(super) const fn new(granted: Granted) -> Self {
        Self { granted }
    }

    pub(super) fn handle(self, request: &Request) -> Result<(State, Step), LoginStatus> {
        self.handle_with(request, Vec::new())
    }

    /// `text` is what the response starts with.
    pub(super) fn handle_with(
        mut self,
        request: &Request,
        mut text: Vec<u8>,
    ) -> Result<(State, Step), LoginStatus> {
        if request.pdu.csg != Stage::SecurityNegotiation {
            return Err(LoginStatus::InitiatorError);
        }
        let mut refused = false;
        let pairs = text::pairs(&request.text)?;
        self.granted.negotiation.answer(&pairs, Place::Security, &mut text, |asked| match asked {
            Asked::AuthMethod(methods) if methods.split(',').any(|m| m == "None") => Some("None"),
            Asked::AuthMethod(_) => {
                refused = true;
                None
            }
            Asked::SendTargets(_) => Some("Reject"),
        })?;
        if refused {
            // Nothing in common: the initiator insists on authentication that we do not do (11.13.5).
            return Err(LoginStatus::AuthenticationFailure);
        }
        self.granted.conclude(&request.pdu, text, |granted| State::Security(Self::new(granted)))
    }
}
