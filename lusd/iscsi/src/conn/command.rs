//! SCSI commands: in, accepted, ended.

use super::{Connection, Current, Phase, Sink, Wait};
use crate::bhs::RESERVED_TAG;
use crate::error::ProtocolError;
use crate::event::{DataOut, Event, Response, ScsiCommand, TaskTag};
use crate::framer::Head;
use crate::pdu;
use crate::session::tasks::{Task, TaskState};

impl Connection {
    pub(super) fn take_command(&mut self, head: Head) -> Result<(), ProtocolError> {
        let pdu = pdu::ScsiCommand::parse(&head.bhs)?;
        let ahs = match &head.ahs {
            Some(bytes) => pdu::parse_ahs(bytes)?,
            None => pdu::Ahs::default(),
        };
        if pdu.initiator_task_tag == RESERVED_TAG {
            return Err(ProtocolError::ReservedTag);
        }
        self.check_tag(pdu.initiator_task_tag)?;
        if pdu.immediate {
            self.check_immediate()?;
        } else {
            self.session.window.task_started();
        }
        let bidi_read_length = (pdu.read && pdu.write).then(|| ahs.bidi_read_length.unwrap_or(0));
        let tag = self.session.tasks.insert(Task::new(&pdu, bidi_read_length));
        self.current = Current::Command(tag);
        self.wait = Wait::Command(tag);
        self.events.push_back(Event::Command(ScsiCommand {
            tag,
            initiator_task_tag: pdu.initiator_task_tag,
            lun: pdu.lun,
            cdb: ahs.cdb(&pdu.cdb),
            attribute: pdu.attribute,
            read: pdu.read,
            write: pdu.write,
            expected_data_transfer_length: pdu.expected_data_transfer_length,
            unsolicited_length: if !pdu.write {
                0
            } else if pdu.is_final {
                head.bhs.data_segment_length().min(pdu.expected_data_transfer_length)
            } else {
                self.params.first_burst_length.min(pdu.expected_data_transfer_length)
            },
            bidi_read_length,
            immediate: pdu.immediate,
            cmd_sn: pdu.cmd_sn,
        }));
        Ok(())
    }

    /// An initiator task tag names one thing at a time.
    pub(super) fn check_tag(&self, initiator_task_tag: u32) -> Result<(), ProtocolError> {
        if self.session.tasks.find(initiator_task_tag).is_some()
            || self.unanswered.contains(&initiator_task_tag)
        {
            return Err(ProtocolError::TaskTagInUse);
        }
        Ok(())
    }

    /// Immediate requests pass the window by, so they have a bound of their own.
    pub(super) fn check_immediate(&self) -> Result<(), ProtocolError> {
        if self.session.tasks.immediate() + self.unanswered.len() as u32 >= self.config.immediate_window {
            return Err(ProtocolError::TooManyImmediate);
        }
        Ok(())
    }

    /// Says what a command wants of its initiator. Reading goes on.
    ///
    /// With [`DataOut::Receive`], and with [`DataOut::Hold`] after [`Connection::solicit`], an [`Event::DataOut`] or [`Event::DataOutFailed`] follows.
    ///
    /// # Panics
    /// If the task has ended or was accepted before; if the buffer is not empty or too small, or more is asked for than
    /// [`crate::Config::task_data_bytes_max`].
    pub fn accept(&mut self, tag: TaskTag, data_out: DataOut) {
        let task = self.session.tasks.expect(tag);
        assert!(matches!(task.state, TaskState::Offered), "{tag:?} was accepted before");
        task.state = TaskState::Running;
        if self.phase == Phase::Closed {
            return;
        }
        self.wait = Wait::Nothing;
        let held = matches!(data_out, DataOut::Hold { .. });
        if let DataOut::Receive { len, buf } | DataOut::Hold { len, buf } = data_out {
            assert!(len <= self.config.task_data_bytes_max, "{len} bytes for one task");
            self.start_transfer(tag, len, buf, held);
        }
        if !self.framer.in_segment() {
            self.current = Current::Ignored;
            self.end_immediate_data(tag, true);
        }
    }

    /// Ends a task with a status. A task that was not accepted is dropped with its data; data still to come is dropped too.
    ///
    /// # Panics
    /// If the task has ended; if the sense data is longer than [`super::SENSE_LEN_MAX`].
    pub fn respond(&mut self, tag: TaskTag, response: Response<'_>) {
        let task = self.end_task(tag);
        if matches!(self.phase, Phase::FullFeature | Phase::LoggingOut { .. }) {
            self.send_response(&task, response);
        }
    }

    /// Ends a task without an answer: it was aborted. Data still to come is dropped.
    ///
    /// # Panics
    /// If the task has ended.
    pub fn abandon(&mut self, tag: TaskTag) {
        self.end_task(tag);
        self.announce_window();
    }

    fn end_task(&mut self, tag: TaskTag) -> Task {
        let task = self.session.tasks.remove(tag);
        if !task.immediate {
            self.session.window.task_ended();
        }
        if self.wait == Wait::Command(tag) {
            self.wait = Wait::Nothing;
        }
        let is_current = match &self.current {
            Current::Command(current) | Current::DataOut(current, _) => *current == tag,
            _ => false,
        };
        if is_current {
            self.current = Current::Ignored;
            self.sink = Sink::Drop;
        }
        task
    }
}
