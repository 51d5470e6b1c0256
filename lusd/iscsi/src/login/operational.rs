//! The operational stage (RFC 7143 6.3.3).

use super::keys::Place;
use super::{Granted, Request, State, Step};
use crate::error::LoginStatus;
use crate::pdu::Stage;
use crate::text;

#[derive(Debug)]
pub(super) struct Operational {
    granted: Granted,
}

impl Operational {
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
        if request.pdu.csg != Stage::LoginOperationalNegotiation {
            return Err(LoginStatus::InitiatorError);
        }
        let pairs = text::pairs(&request.text)?;
        let negotiation = &mut self.granted.negotiation;
        negotiation.answer(&pairs, Place::Operational, &mut text, |_| Some("Reject"))?;
        negotiation.declare(&mut text);
        self.granted.conclude(&request.pdu, text, |granted| State::Operational(Self::new(granted)))
    }
}
