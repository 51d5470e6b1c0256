//! Pings both ways (RFC 7143 11.18, 11.19).

use super::{Connection, Current, Sink};
use crate::bhs::{Bhs, RESERVED_TAG};
use crate::error::ProtocolError;
use crate::pdu::{NopIn, NopOut};

impl Connection {
    pub(super) fn take_nop_out(&mut self, bhs: &Bhs) -> Result<(), ProtocolError> {
        let pdu = NopOut::parse(bhs);
        if pdu.initiator_task_tag == RESERVED_TAG {
            if !pdu.immediate {
                return Err(ProtocolError::NotImmediate);
            }
            // It answers a ping of ours, maybe one that other traffic has answered before, or only says what ExpStatSN is.
            self.timers.answered(pdu.target_transfer_tag);
            return Ok(());
        }
        self.check_tag(pdu.initiator_task_tag)?;
        self.current = Current::NopOut(pdu);
        self.sink = Sink::Gather;
        Ok(())
    }

    /// Echoes a ping, with as much of its data as the initiator takes.
    pub(super) fn end_nop_out(&mut self, pdu: &NopOut) {
        let mut data = self.gathered.split().freeze();
        data.truncate(self.params.max_send_data_segment_length as usize);
        let sns = self.sns_own();
        let nop_in = NopIn {
            lun: pdu.lun,
            initiator_task_tag: pdu.initiator_task_tag,
            target_transfer_tag: RESERVED_TAG,
            sns,
        };
        self.out.push_own(nop_in.to_bhs(), data);
    }

    /// A NOP-In of our own: with a tag it wants an answer, without one it only carries the numbers.
    pub(super) fn send_nop_in(&mut self, target_transfer_tag: u32) {
        let sns = self.sns_next();
        let nop_in = NopIn { lun: 0, initiator_task_tag: RESERVED_TAG, target_transfer_tag, sns };
        self.out.push(nop_in.to_bhs(), &[]);
    }
}
