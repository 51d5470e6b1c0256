//! Data to the initiator, and the status of a command (RFC 7143 11.4, 11.7).

use smallvec::SmallVec;

use super::{Connection, SENSE_LEN_MAX};
use crate::event::Response;
use crate::pdu::{DataIn, DataInStatus, Residual, ScsiResponse, ServiceResponse, TargetSns};
use crate::serial::Serial;
use crate::session::tasks::Task;

/// SCSI status GOOD.
const GOOD: u8 = 0;

/// The data segment of a response with sense data: its length, then the data (RFC 7143 11.4.7). Empty without any.
pub(super) fn sense_segment(sense: &[u8]) -> SmallVec<[u8; 32]> {
    assert!(sense.len() <= SENSE_LEN_MAX, "sense data of {} bytes", sense.len());
    let mut segment = SmallVec::new();
    if !sense.is_empty() {
        segment.extend_from_slice(&(sense.len() as u16).to_be_bytes());
        segment.extend_from_slice(sense);
    }
    segment
}

impl Connection {
    pub(super) fn send_response(&mut self, task: &Task, response: Response<'_>) {
        let Response { status, sense, mut data_in, transfer_length } = response;
        let residual = Residual::of(transfer_length, task.expected_data_transfer_length);
        let (room, bidi_read_residual) = match (task.bidi_read_length, task.read) {
            (Some(room), _) => (room, Residual::of(data_in.len() as u64, room)),
            (None, true) => (task.expected_data_transfer_length, Residual::None),
            (None, false) => (0, Residual::None),
        };
        data_in.truncate(room as usize);
        let collapse = status == GOOD && sense.is_empty() && task.bidi_read_length.is_none();
        let len = data_in.len() as u32;
        let (mut at, mut data_sn) = (0, Serial(0));
        while at < len {
            let burst = self.params.max_burst_length;
            let left = (len - at).min(burst - at % burst);
            let n = left.min(self.params.max_send_data_segment_length);
            let is_last = at + n == len;
            let with_status = is_last && collapse;
            let sns = if with_status { self.sns_own() } else { self.sns_next() };
            let pdu = DataIn {
                is_final: n == left,
                status: with_status.then_some(DataInStatus { status, residual }),
                initiator_task_tag: task.initiator_task_tag,
                sns,
                data_sn,
                buffer_offset: at,
            };
            self.out.push_data(pdu.to_bhs(), data_in.split_to(n as usize));
            at += n;
            data_sn = data_sn.next();
        }
        if len == 0 || !collapse {
            let sns: TargetSns = self.sns_own();
            let pdu = ScsiResponse {
                response: ServiceResponse::Completed,
                status,
                initiator_task_tag: task.initiator_task_tag,
                sns,
                exp_data_sn: data_sn.add(task.r2t_sn.0),
                residual,
                bidi_read_residual,
            };
            self.out.push(pdu.to_bhs(), &sense_segment(sense));
        }
    }
}
