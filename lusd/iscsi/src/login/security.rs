//! The security stage (RFC 7143 6.3.2, 12.1): AuthMethod, and CHAP where the daemon wants it. Who may come without is the daemon's
//! decision, taken before this stage is entered: an initiator that offers both gets the one that is wanted here.

use super::chap::Chap;
use super::keys::Place;
use super::negotiation::Asked;
use super::{Granted, Request, State, Step};
use crate::chap::ChapGrant;
use crate::error::LoginStatus;
use crate::event::Authentication;
use crate::pdu::{self, Stage};
use crate::text;

/// How the initiator shows who it is.
#[derive(Debug)]
enum Method {
    /// It need not.
    None,
    /// By CHAP; it has not agreed yet.
    Wanted(Box<ChapGrant>),
    /// By CHAP.
    Chap(Chap),
}

#[derive(Debug)]
pub(super) struct Security {
    granted: Granted,
    method: Method,
}

impl Security {
    pub(super) fn new(granted: Granted, authentication: Authentication) -> Self {
        let method = match authentication {
            Authentication::None => Method::None,
            Authentication::Chap(grant) => Method::Wanted(grant),
        };
        Self { granted, method }
    }

    pub(super) fn handle(self, request: &Request) -> Result<(State, Step), LoginStatus> {
        self.handle_with(request, Vec::new())
    }

    /// `text` is what the response starts with.
    pub(super) fn handle_with(
        self,
        request: &Request,
        mut text: Vec<u8>,
    ) -> Result<(State, Step), LoginStatus> {
        let Self { mut granted, mut method } = self;
        let pdu = request.pdu;
        if pdu.csg != Stage::SecurityNegotiation || pdu.nsg == Some(Stage::SecurityNegotiation) {
            return Err(LoginStatus::InitiatorError);
        }
        let mut pairs = text::pairs(&request.text)?;
        if let Method::Chap(chap) = method {
            method = Method::Chap(chap.handle(&mut pairs, &mut text)?);
        }
        let wanted = if matches!(method, Method::None) { "None" } else { "CHAP" };
        let (mut agreed, mut refused) = (false, false);
        granted.negotiation.answer(&pairs, Place::Security, &mut text, |asked| match asked {
            Asked::AuthMethod(methods) if methods.split(',').any(|m| m == wanted) => {
                agreed = true;
                Some(wanted)
            }
            Asked::AuthMethod(_) => {
                refused = true;
                None
            }
            Asked::SendTargets(_) => Some("Reject"),
        })?;
        if refused {
            // Nothing in common (11.13.5): the initiator insists on authentication here, or on going without.
            return Err(LoginStatus::AuthenticationFailure);
        }
        match method {
            Method::Wanted(grant) if agreed => method = Method::Chap(Chap::Agreed(grant)),
            // It wants to go on without having shown who it is.
            Method::Wanted(_) if pdu.nsg.is_some() => return Err(LoginStatus::AuthenticationFailure),
            _ => {}
        }
        let is_done = match &method {
            Method::None => true,
            Method::Wanted(_) => false,
            Method::Chap(chap) => chap.has_passed(),
        };
        // An initiator that would go on too early is kept in the stage (6.3.3: the target answers T=0).
        let pdu = if is_done { pdu } else { pdu::LoginRequest { nsg: None, ..pdu } };
        granted.conclude(&pdu, text, |granted| State::Security(Self { granted, method }))
    }
}
