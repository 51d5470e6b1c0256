//! Task management functions (RFC 7143 11.5, 11.6). They are judged and carried out by the daemon; here their task is found.

use super::{Connection, Phase};
use crate::bhs::{Bhs, RESERVED_TAG};
use crate::error::ProtocolError;
use crate::event::{Event, Referenced, TmfRequest};
use crate::pdu::{TaskManagementRequest, TaskManagementResponse, TmfFunction, TmfResponse};
use crate::session::shared::Place;

impl Connection {
    /// A function that is about many tasks is about all with lower numbers, also those that another connection of the session is to bring
    /// (RFC 7143 11.5.1).
    pub(super) fn waits_for_commands(&self, bhs: &Bhs) -> bool {
        let function = TaskManagementRequest::parse(bhs).function;
        bhs.immediate()
            && function.is_some_and(|function| !function.names_a_task())
            && self.session.window.keeps_waiting(Place::of(bhs))
    }

    pub(super) fn take_tmf(&mut self, bhs: &Bhs) -> Result<(), ProtocolError> {
        let pdu = TaskManagementRequest::parse(bhs);
        if pdu.initiator_task_tag == RESERVED_TAG {
            return Err(ProtocolError::ReservedTag);
        }
        self.check_tag(pdu.initiator_task_tag)?;
        self.check_immediate()?;
        if pdu.function == Some(TmfFunction::AbortTask) && self.unanswered.contains(&pdu.referenced_task_tag)
        {
            // No function aborts another one (11.5.1).
            self.send_tmf_response(pdu.initiator_task_tag, TmfResponse::FunctionRejected, [0; 3]);
            return Ok(());
        }
        let function = match pdu.function {
            // Allegiance moves between connections only (11.5.6), at error recovery level 2.
            Some(TmfFunction::TaskReassign) => {
                let response = TmfResponse::TaskAllegianceReassignmentNotSupported;
                self.send_tmf_response(pdu.initiator_task_tag, response, [0; 3]);
                return Ok(());
            }
            Some(function) if function.protocol_level_min() <= self.params.protocol_level => function,
            _ => {
                let response = TmfResponse::FunctionNotSupported;
                self.send_tmf_response(pdu.initiator_task_tag, response, [0; 3]);
                return Ok(());
            }
        };
        let referenced =
            if function.names_a_task() { self.referenced(&pdu, function) } else { Referenced::Nothing };
        self.unanswered.push(pdu.initiator_task_tag);
        self.events.push_back(Event::TaskManagement(TmfRequest {
            initiator_task_tag: pdu.initiator_task_tag,
            function,
            lun: pdu.lun,
            referenced,
            referenced_task_tag: pdu.referenced_task_tag,
            ref_cmd_sn: pdu.ref_cmd_sn,
            cmd_sn: pdu.cmd_sn,
            immediate: pdu.immediate,
        }));
        Ok(())
    }

    /// RFC 7143 11.5.5: a task that is not here may still be on its way; an abort then makes its number count as received.
    fn referenced(&mut self, pdu: &TaskManagementRequest, function: TmfFunction) -> Referenced {
        if let Some(tag) = self.session.tasks.find(pdu.referenced_task_tag) {
            return Referenced::Task(tag);
        }
        let window = &self.session.window;
        if window.holds(pdu.ref_cmd_sn) && pdu.ref_cmd_sn.is_before(pdu.cmd_sn) {
            if function == TmfFunction::AbortTask {
                window.give_up(pdu.ref_cmd_sn);
            }
            return Referenced::CmdSnNotReceived;
        }
        Referenced::NotInTask
    }

    /// Answers an [`Event::TaskManagement`]: after the tasks that it concerns were ended.
    ///
    /// # Panics
    /// If no function of that initiator task tag waits for an answer.
    pub fn tmf_response(&mut self, initiator_task_tag: u32, response: TmfResponse) {
        self.tmf_response_with(initiator_task_tag, response, [0; 3]);
    }

    /// As [`Connection::tmf_response`], with the additional response information of QUERY ASYNCHRONOUS EVENT.
    ///
    /// # Panics
    /// As that.
    pub fn tmf_response_with(&mut self, initiator_task_tag: u32, response: TmfResponse, additional: [u8; 3]) {
        if self.phase == Phase::Closed {
            return;
        }
        self.has_answered(initiator_task_tag);
        self.send_tmf_response(initiator_task_tag, response, additional);
    }

    pub(super) fn has_answered(&mut self, initiator_task_tag: u32) {
        let Some(i) = self.unanswered.iter().position(|tag| *tag == initiator_task_tag) else {
            panic!("request {initiator_task_tag:#x} was answered already");
        };
        self.unanswered.swap_remove(i);
    }

    fn send_tmf_response(&mut self, initiator_task_tag: u32, response: TmfResponse, additional: [u8; 3]) {
        let sns = self.sns_own();
        let pdu = TaskManagementResponse { response, additional, initiator_task_tag, sns };
        self.out.push(pdu.to_bhs(), &[]);
    }
}
