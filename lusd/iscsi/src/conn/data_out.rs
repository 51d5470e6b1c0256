//! Data from the initiator: immediate, unsolicited and asked for by R2T (RFC 7143 4.2.5, 11.7, 11.8, 7.7, 7.8).
//!
//! Data comes in order (we insist on DataPDUInOrder and DataSequenceInOrder), so a transfer is one buffer that grows at its end.
//! Invariant: while a transfer has not failed, `buf.len() == min(next_offset, want)` between PDUs.

use bytes::BytesMut;
use smallvec::SmallVec;

use super::{Connection, Current, Sink};
use crate::bhs::{Bhs, RESERVED_TAG};
use crate::error::{IscsiCondition, ProtocolError};
use crate::event::{Event, TaskTag};
use crate::pdu::{self, ReadyToTransfer};
use crate::serial::Serial;
use crate::session::Session;
use crate::session::tasks::{OutstandingR2t, TaskState, Transfer};

/// The transfer of a task that is known to receive.
pub(super) fn transfer(session: &mut Session, tag: TaskTag) -> &mut Transfer {
    match &mut session.tasks.expect(tag).state {
        TaskState::Receiving(transfer) => transfer,
        _ => panic!("{tag:?} receives no data"),
    }
}

impl Connection {
    /// The command of the current PDU wants data; `current` still names it.
    pub(super) fn start_transfer(&mut self, tag: TaskTag, len: u32, buf: BytesMut, held: bool) {
        assert!(buf.is_empty() && buf.capacity() >= len as usize, "the buffer of {tag:?} does not fit");
        let immediate = self.current_bhs.data_segment_length();
        let params = &self.params;
        let task = self.session.tasks.expect(tag);
        let expected = if task.write { task.expected_data_transfer_length } else { 0 };
        let mut transfer = Transfer {
            buf,
            want: len.min(expected),
            next_offset: 0,
            unsolicited: (!task.is_final).then_some(Serial(0)),
            r2ts: SmallVec::new(),
            held,
            r2t_offset: 0,
            failed: None,
            progress: self.now,
        };
        let unasked = immediate > 0 && !params.immediate_data || !task.is_final && params.initial_r2t;
        if unasked {
            transfer.fail(IscsiCondition::UnexpectedUnsolicitedData);
        } else if immediate > expected.min(params.first_burst_length) {
            transfer.fail(IscsiCondition::IncorrectAmountOfData);
        } else if immediate > 0 {
            self.sink = Sink::Task(tag, immediate.min(transfer.want));
        }
        self.session.tasks.receive(tag, transfer);
        self.timers.expect_data(self.now + self.config.data_out_timeout);
    }

    /// Asks for the rest of the data of a command that was accepted with [`crate::DataOut::Hold`].
    ///
    /// # Panics
    /// If the task has ended, or receives no data any more.
    pub fn solicit(&mut self, tag: TaskTag) {
        if self.is_closed() {
            return;
        }
        let now = self.now;
        let transfer = transfer(&mut self.session, tag);
        transfer.held = false;
        transfer.progress = now;
        // Before the end of its immediate data it is the end of that which asks.
        if !matches!(self.current, Current::Command(current) if current == tag) {
            self.advance(tag);
        }
    }

    /// Ends a task's wait for its data: its buffer is let go; what the initiator has promised is waited for and dropped, and then an
    /// [`Event::DataOutFailed`] follows (RFC 7143 4.2.3.3 a). False if nothing is promised: then none follows.
    ///
    /// # Panics
    /// If the task has ended, or receives no data any more.
    pub fn cut_off(&mut self, tag: TaskTag) -> bool {
        if self.is_closed() {
            return false;
        }
        let transfer = transfer(&mut self.session, tag);
        transfer.fail(IscsiCondition::IncorrectAmountOfData);
        transfer.buf = BytesMut::new();
        if matches!(self.sink, Sink::Task(current, _) if current == tag) {
            self.sink = Sink::Drop;
        }
        transfer.is_promised()
    }

    /// The data that came with a command is here.
    pub(super) fn end_immediate_data(&mut self, tag: TaskTag, digest_is_good: bool) {
        let immediate = self.current_bhs.data_segment_length();
        let TaskState::Receiving(transfer) = &mut self.session.tasks.expect(tag).state else { return };
        transfer.next_offset = immediate;
        transfer.progress = self.now;
        if !digest_is_good {
            transfer.fail(IscsiCondition::ProtocolServiceCrcError);
        }
        self.advance(tag);
    }

    pub(super) fn take_data_out(&mut self, bhs: &Bhs) -> Result<(), ProtocolError> {
        let pdu = pdu::DataOut::parse(bhs);
        let len = bhs.data_segment_length();
        let unsolicited_max = self.params.first_burst_length;
        // Data of a task that has ended, or that wants none, is dropped.
        let Some(tag) = self.session.tasks.find(pdu.initiator_task_tag) else { return Ok(()) };
        let task = self.session.tasks.expect(tag);
        let unsolicited_max = unsolicited_max.min(task.expected_data_transfer_length);
        let TaskState::Receiving(transfer) = &mut task.state else { return Ok(()) };
        transfer.progress = self.now;
        let (exp_data_sn, offset, room) = if pdu.target_transfer_tag == RESERVED_TAG {
            match transfer.unsolicited {
                Some(exp_data_sn) => {
                    let room = unsolicited_max.saturating_sub(transfer.next_offset);
                    (exp_data_sn, transfer.next_offset, room)
                }
                None => {
                    transfer.fail(IscsiCondition::UnexpectedUnsolicitedData);
                    self.current = Current::DataOut(tag, pdu);
                    return Ok(());
                }
            }
        } else {
            let r2t = transfer.r2ts.iter().position(|r2t| r2t.target_transfer_tag == pdu.target_transfer_tag);
            match r2t {
                None => return Err(ProtocolError::TargetTransferTag),
                Some(i) => {
                    if i > 0 {
                        // The sequence before it has not ended.
                        transfer.fail(IscsiCondition::DataOffsetError);
                    }
                    let r2t = &transfer.r2ts[i];
                    (r2t.exp_data_sn, r2t.buffer_offset + r2t.received, r2t.length - r2t.received)
                }
            }
        };
        if pdu.data_sn.is_before(exp_data_sn) {
            // It has come before (7.7).
            return Ok(());
        }
        self.current = Current::DataOut(tag, pdu);
        if pdu.data_sn != exp_data_sn {
            // One before it is missing, which is what a digest error looks like (7.7, 7.8).
            transfer.fail(IscsiCondition::ProtocolServiceCrcError);
        } else if pdu.buffer_offset != offset {
            transfer.fail(IscsiCondition::DataOffsetError);
        } else if len > room {
            transfer.fail(IscsiCondition::IncorrectAmountOfData);
        }
        if transfer.failed.is_none() {
            self.sink = Sink::Task(tag, len.min(transfer.want.saturating_sub(transfer.next_offset)));
        }
        Ok(())
    }

    /// The data of a Data-Out PDU is here.
    pub(super) fn end_data_out(&mut self, tag: TaskTag, pdu: &pdu::DataOut, digest_is_good: bool) {
        let len = self.current_bhs.data_segment_length();
        let transfer = transfer(&mut self.session, tag);
        transfer.progress = self.now;
        if !digest_is_good {
            transfer.fail(IscsiCondition::ProtocolServiceCrcError);
        }
        if transfer.failed.is_none() {
            transfer.next_offset += len;
        }
        if pdu.target_transfer_tag == RESERVED_TAG {
            transfer.unsolicited = transfer.unsolicited.filter(|_| !pdu.is_final).map(|_| pdu.data_sn.next());
        } else if let Some(i) =
            transfer.r2ts.iter().position(|r2t| r2t.target_transfer_tag == pdu.target_transfer_tag)
        {
            let r2t = &mut transfer.r2ts[i];
            r2t.exp_data_sn = pdu.data_sn.next();
            // A surplus has failed the transfer already.
            r2t.received = r2t.received.saturating_add(len).min(r2t.length);
            if pdu.is_final {
                if r2t.received < r2t.length {
                    transfer.fail(IscsiCondition::IncorrectAmountOfData);
                }
                transfer.r2ts.remove(i);
            }
        }
        self.advance(tag);
    }

    /// Asks for more, or hands over what is there, or gives up.
    fn advance(&mut self, tag: TaskTag) {
        loop {
            let transfer = transfer(&mut self.session, tag);
            if transfer.unsolicited.is_some() {
                return;
            }
            let idle = transfer.r2ts.is_empty();
            if let Some(condition) = transfer.failed {
                if idle {
                    self.session.tasks.received(tag);
                    self.events.push_back(Event::DataOutFailed { tag, condition });
                }
                return;
            }
            transfer.r2t_offset = transfer.r2t_offset.max(transfer.next_offset);
            if transfer.r2t_offset >= transfer.want {
                if idle {
                    let data = std::mem::take(&mut transfer.buf);
                    debug_assert_eq!(data.len(), transfer.want as usize);
                    self.session.tasks.received(tag);
                    self.events.push_back(Event::DataOut { tag, data });
                }
                return;
            }
            if transfer.held || transfer.r2ts.len() >= usize::from(self.params.max_outstanding_r2t) {
                return;
            }
            self.send_r2t(tag);
        }
    }

    fn send_r2t(&mut self, tag: TaskTag) {
        let target_transfer_tag = self.next_target_transfer_tag();
        let sns = self.sns_next();
        let task = self.session.tasks.expect(tag);
        let TaskState::Receiving(transfer) = &mut task.state else { return };
        let buffer_offset = transfer.r2t_offset;
        let length = (transfer.want - buffer_offset).min(self.params.max_burst_length);
        transfer.r2t_offset += length;
        transfer.r2ts.push(OutstandingR2t {
            target_transfer_tag,
            buffer_offset,
            length,
            received: 0,
            exp_data_sn: Serial(0),
        });
        let r2t = ReadyToTransfer {
            lun: task.lun,
            initiator_task_tag: task.initiator_task_tag,
            target_transfer_tag,
            sns,
            r2t_sn: task.r2t_sn,
            buffer_offset,
            desired_data_transfer_length: length,
        };
        task.r2t_sn = task.r2t_sn.next();
        self.out.push(r2t.to_bhs(), &[]);
    }
}
