//! Text requests in the full feature phase (RFC 7143 11.10, 11.11, appendix C): SendTargets, and the few keys that may be said again.
//!
//! One negotiation at a time. A request that does not name the tag of our last response starts a new one.

use bytes::Bytes;

use super::{Connection, Current, Phase, Sink, Wait};
use crate::bhs::{Bhs, RESERVED_TAG};
use crate::error::ProtocolError;
use crate::event::{Event, SendTargetsRequest, TargetRecord};
use crate::login::keys::Place;
use crate::login::negotiation::{Asked, Negotiation};
use crate::params::SessionType;
use crate::pdu::{TextRequest, TextResponse};
use crate::text;

/// A negotiation in the full feature phase.
#[derive(Debug, Default)]
pub(super) struct TextState {
    pub negotiation: Option<Box<Negotiation>>,
    /// The tag that the next request of this negotiation must name.
    target_transfer_tag: Option<u32>,
    /// Text of requests that continue.
    gathered: Vec<u8>,
    /// What is left of an answer that did not fit one response.
    answer: Bytes,
    /// The initiator is done once it has had the whole answer.
    is_final: bool,
    /// Of the request that waits for the daemon.
    initiator_task_tag: u32,
    /// The answer so far, while the daemon is asked for targets.
    started: Vec<u8>,
}

impl Connection {
    pub(super) fn take_text(&mut self, bhs: &Bhs) -> Result<(), ProtocolError> {
        let pdu = TextRequest::parse(bhs)?;
        if pdu.initiator_task_tag == RESERVED_TAG {
            return Err(ProtocolError::ReservedTag);
        }
        self.check_tag(pdu.initiator_task_tag)?;
        if pdu.target_transfer_tag == RESERVED_TAG {
            self.reset_text();
        } else if self.text.target_transfer_tag != Some(pdu.target_transfer_tag) {
            return Err(ProtocolError::TargetTransferTag);
        }
        let len = self.text.gathered.len() + bhs.data_segment_length() as usize;
        if len > self.config.text_bytes_max {
            self.reset_text();
            return Err(ProtocolError::TextTooLong);
        }
        self.current = Current::Text(pdu);
        self.sink = Sink::Gather;
        Ok(())
    }

    fn reset_text(&mut self) {
        let mut negotiation = self.text.negotiation.take();
        if let Some(negotiation) = &mut negotiation {
            negotiation.start_again();
            // What was said in a negotiation that came to nothing does not count.
            negotiation.params.max_send_data_segment_length = self.params.max_send_data_segment_length;
        }
        self.text = TextState { negotiation, ..TextState::default() };
    }

    pub(super) fn end_text(&mut self, pdu: &TextRequest) {
        let bytes = self.gathered.split();
        let state = &mut self.text;
        state.initiator_task_tag = pdu.initiator_task_tag;
        state.gathered.extend_from_slice(&bytes);
        if pdu.continues || !state.answer.is_empty() {
            // Either there is more to come, or this asks for the rest of the answer.
            state.is_final |= pdu.is_final;
            return self.send_text();
        }
        state.is_final = pdu.is_final;
        if let Err(error) = self.answer_text() {
            self.reset_text();
            self.reject((&error).into());
        }
    }

    /// The text is complete: answers it, or asks the daemon.
    fn answer_text(&mut self) -> Result<(), ProtocolError> {
        let gathered = std::mem::take(&mut self.text.gathered);
        let pairs = text::pairs(&gathered)?;
        let Some(negotiation) = &mut self.text.negotiation else { return Ok(()) };
        let is_discovery = self.session_type == SessionType::Discovery;
        let mut targets = None;
        let mut answer = Vec::new();
        negotiation.answer(&pairs, Place::FullFeature, &mut answer, |asked| match asked {
            Asked::AuthMethod(_) => Some("Reject"),
            // Appendix C: "All" is for discovery sessions, the session's own target for the others.
            Asked::SendTargets("All") if is_discovery => {
                targets = Some(SendTargetsRequest::All);
                None
            }
            Asked::SendTargets("") if !is_discovery => {
                targets = Some(SendTargetsRequest::This);
                None
            }
            Asked::SendTargets("All" | "") => Some("Reject"),
            Asked::SendTargets(name) => {
                targets = Some(SendTargetsRequest::Named(name.to_owned()));
                None
            }
        })?;
        self.params.max_send_data_segment_length = negotiation.params.max_send_data_segment_length;
        if let Some(targets) = targets {
            self.text.started = answer;
            self.wait = Wait::SendTargets;
            self.events.push_back(Event::SendTargets(targets));
        } else {
            self.text.answer = answer.into();
            self.send_text();
        }
        Ok(())
    }

    /// Answers an [`Event::SendTargets`] with the targets that the initiator may see; none is an answer too.
    ///
    /// # Panics
    /// If no such request waits for an answer.
    pub fn send_targets(&mut self, records: &[TargetRecord]) {
        if self.phase == Phase::Closed {
            return;
        }
        assert_eq!(self.wait, Wait::SendTargets, "nobody asked for targets");
        self.wait = Wait::Nothing;
        let mut answer = std::mem::take(&mut self.text.started);
        for record in records {
            text::push(&mut answer, "TargetName", &record.name);
            for (address, portal_group_tag) in &record.portals {
                text::push(&mut answer, "TargetAddress", &format!("{address},{portal_group_tag}"));
            }
        }
        self.text.answer = answer.into();
        self.send_text();
    }

    /// Sends the answer, or as much of it as the initiator takes at once.
    fn send_text(&mut self) {
        let len_max = self.params.max_send_data_segment_length as usize;
        let n = self.text.answer.len().min(len_max);
        let part = self.text.answer.split_to(n);
        let continues = !self.text.answer.is_empty();
        let is_final = self.text.is_final && !continues;
        let target_transfer_tag = if is_final { RESERVED_TAG } else { self.next_target_transfer_tag() };
        let sns = self.sns_own();
        let initiator_task_tag = self.text.initiator_task_tag;
        let pdu = TextResponse { is_final, continues, initiator_task_tag, target_transfer_tag, sns };
        self.out.push_own(pdu.to_bhs(), part);
        if is_final {
            self.reset_text();
        } else {
            self.text.target_transfer_tag = Some(target_transfer_tag);
        }
    }
}
