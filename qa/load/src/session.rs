//! One session after its login: commands out, answers in, without a socket or a clock of its own.
//!
//! Every answer is checked: numbers (StatSN, DataSN), places, lengths, residual and status. What is not as it must be is an error,
//! and an error is the end.

use std::time::Instant;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use lusd_iscsi::bhs::{Bhs, Opcode, RESERVED_TAG, field};
use lusd_iscsi::pdu::{
    DataIn, DataOut, LogoutReason, LogoutRequest, NopIn, NopOut, ReadyToTransfer, Residual, ScsiCommand,
    ScsiResponse, ServiceResponse, TargetSns,
};
use lusd_iscsi::{Serial, TaskAttribute};

use crate::login::Agreed;
use crate::wire::{Input, Output, Piece};

/// Commands in flight at most. A task tag is a slot in its low bits and a count above.
pub const TASKS_MAX: u32 = 512;
const SLOT_BITS: u32 = 10;
const _: () = assert!(TASKS_MAX < (1 << SLOT_BITS) - 1, "no tag may be the reserved one");

/// Longest sense data and the like that is kept, bytes.
const GATHERED_MAX: usize = 8192;

/// SCSI status GOOD.
pub const GOOD: u8 = 0;

/// A command to send.
#[derive(Clone, Debug)]
pub struct Command {
    /// Its CDB.
    pub cdb: [u8; 16],
    /// Bytes that it reads.
    pub reads: u32,
    /// What it writes.
    pub writes: Bytes,
    /// Keep what is read.
    pub keeps_data: bool,
    /// For whoever gets the answer: where on the unit, bytes.
    pub offset: u64,
}

impl Command {
    /// A CDB of at most 16 bytes that moves no data.
    #[must_use]
    pub fn new(cdb: &[u8]) -> Self {
        let mut whole = [0; 16];
        whole[..cdb.len()].copy_from_slice(cdb);
        Self { cdb: whole, reads: 0, writes: Bytes::new(), keeps_data: false, offset: 0 }
    }

    /// READ (16) or WRITE (16).
    #[must_use]
    pub fn transfer(opcode: u8, lba: u64, blocks: u32) -> Self {
        let mut command = Self::new(&[opcode]);
        command.cdb[2..10].copy_from_slice(&lba.to_be_bytes());
        command.cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
        command
    }
}

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The command; its data was let go.
    pub command: Command,
    /// When it was submitted.
    pub begun: Instant,
    /// SCSI status.
    pub status: u8,
    /// Sense data, without its length.
    pub sense: Vec<u8>,
    /// What was read, if it was to be kept.
    pub data: Vec<u8>,
}

impl Answer {
    /// Nothing if the status is good.
    ///
    /// # Errors
    /// The status, with what its sense data says.
    pub fn good(&self) -> anyhow::Result<()> {
        if self.status == GOOD {
            return Ok(());
        }
        let what = format!(
            "command {:02x} at byte {}: status {:02x}h",
            self.command.cdb[0], self.command.offset, self.status
        );
        match self.sense_code() {
            Some((key, asc, ascq)) => bail!("{what}, sense {key:x}/{asc:02x}/{ascq:02x}"),
            None => bail!("{what}"),
        }
    }

    /// Sense key, additional sense code and qualifier of fixed or descriptor format sense data (SPC-4 4.5).
    #[must_use]
    pub fn sense_code(&self) -> Option<(u8, u8, u8)> {
        let at = |i: usize| self.sense.get(i).copied();
        match at(0)? & 0x7f {
            0x70 | 0x71 => Some((at(2)? & 0x0f, at(12)?, at(13)?)),
            0x72 | 0x73 => Some((at(1)? & 0x0f, at(2)?, at(3)?)),
            _ => None,
        }
    }
}

#[derive(Debug)]
struct Task {
    tag: u32,
    command: Command,
    begun: Instant,
    /// Bytes of Data-In that have come.
    received: u32,
    /// DataSN or R2TSN of the next Data-In or R2T.
    data_sn: Serial,
    data: Vec<u8>,
}

/// The PDU whose data comes in.
#[derive(Debug)]
enum Current {
    /// Its data means nothing.
    Ignored,
    /// Data of a task, and its status if this PDU brings it.
    DataIn {
        slot: usize,
        status: Option<u8>,
    },
    /// The end of a task; sense data comes.
    Response {
        slot: usize,
        status: u8,
    },
    R2t(ReadyToTransfer),
    Reject,
}

/// See the module's text.
#[derive(Debug)]
pub struct Session {
    agreed: Agreed,
    lun: u64,
    cmd_sn: Serial,
    max_cmd_sn: Serial,
    exp_stat_sn: Serial,
    tasks: Vec<Option<Task>>,
    free: Vec<usize>,
    count: u32,
    current: Current,
    gathered: Vec<u8>,
    logged_out: bool,
    /// What is to be sent.
    pub output: Output,
    /// Ended commands, in the order of their answers.
    pub answers: Vec<Answer>,
}

impl Session {
    /// A session whose login has ended, with the numbers of its last answer.
    #[must_use]
    pub fn new(agreed: Agreed, lun: u64, depth: u32, cmd_sn: Serial, sns: TargetSns, output: Output) -> Self {
        let depth = depth.min(TASKS_MAX) as usize;
        Self {
            agreed,
            lun,
            cmd_sn,
            max_cmd_sn: sns.max_cmd_sn,
            exp_stat_sn: sns.stat_sn.next(),
            tasks: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            count: 0,
            current: Current::Ignored,
            gathered: Vec::new(),
            logged_out: false,
            output,
            answers: Vec::new(),
        }
    }

    /// What was agreed on.
    #[must_use]
    pub fn agreed(&self) -> &Agreed {
        &self.agreed
    }

    /// Commands in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.tasks.len() - self.free.len()
    }

    /// True if one more command may be sent: by our depth, and by the target's window.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.free.is_empty() && !self.cmd_sn.is_after(self.max_cmd_sn)
    }

    /// True once the target has answered the logout.
    #[must_use]
    pub fn is_logged_out(&self) -> bool {
        self.logged_out
    }

    /// Queues a command.
    ///
    /// # Panics
    /// If there is no room for it.
    pub fn submit(&mut self, command: Command, now: Instant) {
        assert!(self.has_room(), "more commands than there is room for");
        let slot = self.free.pop().expect("there is room");
        let tag = self.count << SLOT_BITS | slot as u32;
        self.count = self.count.wrapping_add(1);
        let len = command.writes.len() as u32;
        let (immediate, follows) = self.agreed.unsolicited(len);
        let request = ScsiCommand {
            immediate: false,
            is_final: follows == 0,
            read: command.reads > 0,
            write: len > 0,
            attribute: TaskAttribute::Simple,
            lun: self.lun,
            initiator_task_tag: tag,
            expected_data_transfer_length: command.reads.max(len),
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            cdb: command.cdb,
        };
        self.cmd_sn = self.cmd_sn.next();
        self.output.push(request.to_bhs(), &command.writes.slice(..immediate as usize));
        if follows > 0 {
            self.send_data(&command.writes, tag, RESERVED_TAG, immediate, follows);
        }
        self.tasks[slot] =
            Some(Task { tag, command, begun: now, received: 0, data_sn: Serial(0), data: Vec::new() });
    }

    /// One sequence of Data-Out PDUs.
    fn send_data(&mut self, data: &Bytes, tag: u32, target_transfer_tag: u32, offset: u32, len: u32) {
        let end = offset + len;
        let (mut at, mut data_sn) = (offset, Serial(0));
        while at < end {
            let part = (end - at).min(self.agreed.max_send_data_segment_length);
            let pdu = DataOut {
                is_final: at + part == end,
                lun: self.lun,
                initiator_task_tag: tag,
                target_transfer_tag,
                exp_stat_sn: self.exp_stat_sn,
                data_sn,
                buffer_offset: at,
            };
            self.output.push(pdu.to_bhs(), &data.slice(at as usize..(at + part) as usize));
            at += part;
            data_sn = data_sn.next();
        }
    }

    /// Queues the request to end the session.
    pub fn log_out(&mut self) {
        let request = LogoutRequest {
            immediate: true,
            reason: LogoutReason::CloseSession,
            initiator_task_tag: self.count << SLOT_BITS | TASKS_MAX,
            cid: 0,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
        };
        self.output.push(request.to_bhs(), &Bytes::new());
    }

    /// Takes all that is there of `input`; ended commands are in `answers`, what the target asked for is in `output`.
    ///
    /// # Errors
    /// Whatever a target must not say, and whatever says that the session is over.
    pub fn take_input(&mut self, input: &mut Input) -> anyhow::Result<()> {
        while let Some(piece) = input.take()? {
            match piece {
                Piece::Header(bhs) => self.take_header(&bhs).with_context(|| format!("{bhs:?}"))?,
                Piece::Data(data) => self.take_data(data)?,
                Piece::End => self.end_pdu()?,
            }
        }
        Ok(())
    }

    fn take_header(&mut self, bhs: &Bhs) -> anyhow::Result<()> {
        self.gathered.clear();
        self.take_window(bhs);
        let len = bhs.data_segment_length();
        self.current = match bhs.opcode() {
            Some(Opcode::DataIn) => self.take_data_in(DataIn::parse(bhs)?, len)?,
            Some(Opcode::ScsiResponse) => self.take_response(&ScsiResponse::parse(bhs)?)?,
            Some(Opcode::ReadyToTransfer) => Current::R2t(ReadyToTransfer::parse(bhs)?),
            Some(Opcode::NopIn) => {
                self.take_nop_in(&NopIn::parse(bhs));
                Current::Ignored
            }
            Some(Opcode::LogoutResponse) => {
                self.logged_out = true;
                Current::Ignored
            }
            Some(Opcode::Reject) => Current::Reject,
            Some(Opcode::AsyncMessage) => {
                bail!("the target wants to end the session, or tells of something (event {})", bhs.0[36])
            }
            _ => bail!("a PDU that nobody asked for"),
        };
        Ok(())
    }

    /// MaxCmdSN, which every PDU of a target has in its place (RFC 7143 4.2.2.1: lower values are of older PDUs).
    fn take_window(&mut self, bhs: &Bhs) {
        let max_cmd_sn = Serial(bhs.u32_at(field::MAX_CMD_SN));
        if max_cmd_sn.is_after(self.max_cmd_sn) {
            self.max_cmd_sn = max_cmd_sn;
        }
    }

    fn take_stat_sn(&mut self, stat_sn: Serial) -> anyhow::Result<()> {
        ensure!(stat_sn == self.exp_stat_sn, "StatSN {stat_sn} came, {} is the next", self.exp_stat_sn);
        self.exp_stat_sn = stat_sn.next();
        Ok(())
    }

    fn slot(&self, tag: u32) -> anyhow::Result<usize> {
        let slot = (tag & ((1 << SLOT_BITS) - 1)) as usize;
        match self.tasks.get(slot) {
            Some(Some(task)) if task.tag == tag => Ok(slot),
            _ => bail!("task tag {tag:#x} is not in use"),
        }
    }

    fn task(&mut self, slot: usize) -> &mut Task {
        self.tasks[slot].as_mut().expect("looked up by its tag")
    }

    fn take_data_in(&mut self, pdu: DataIn, len: u32) -> anyhow::Result<Current> {
        let slot = self.slot(pdu.initiator_task_tag)?;
        let task = self.task(slot);
        ensure!(pdu.data_sn == task.data_sn, "DataSN {} is the next", task.data_sn);
        ensure!(pdu.buffer_offset == task.received, "data is expected from byte {}", task.received);
        ensure!(
            task.received + len <= task.command.reads,
            "more data than the {} bytes asked for",
            task.command.reads
        );
        task.data_sn = task.data_sn.next();
        task.received += len;
        let status = match pdu.status {
            Some(status) => {
                check_residual(status.residual, task)?;
                self.take_stat_sn(pdu.sns.stat_sn)?;
                Some(status.status)
            }
            None => None,
        };
        Ok(Current::DataIn { slot, status })
    }

    fn take_response(&mut self, pdu: &ScsiResponse) -> anyhow::Result<Current> {
        let slot = self.slot(pdu.initiator_task_tag)?;
        ensure!(pdu.response == ServiceResponse::Completed, "the target failed");
        if pdu.status == GOOD {
            check_residual(pdu.residual, self.task(slot))?;
        }
        self.take_stat_sn(pdu.sns.stat_sn)?;
        Ok(Current::Response { slot, status: pdu.status })
    }

    /// Answers a ping (RFC 7143 11.18, 11.19).
    fn take_nop_in(&mut self, pdu: &NopIn) {
        if pdu.target_transfer_tag == RESERVED_TAG {
            return;
        }
        let answer = NopOut {
            immediate: true,
            lun: pdu.lun,
            initiator_task_tag: RESERVED_TAG,
            target_transfer_tag: pdu.target_transfer_tag,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
        };
        self.output.push(answer.to_bhs(), &Bytes::new());
    }

    fn take_data(&mut self, data: &[u8]) -> anyhow::Result<()> {
        match self.current {
            Current::DataIn { slot, .. } => {
                let task = self.task(slot);
                if task.command.keeps_data {
                    task.data.extend_from_slice(data);
                }
            }
            Current::Response { .. } => {
                ensure!(
                    self.gathered.len() + data.len() <= GATHERED_MAX,
                    "more than {GATHERED_MAX} bytes of sense data"
                );
                self.gathered.extend_from_slice(data);
            }
            _ => {}
        }
        Ok(())
    }

    fn end_pdu(&mut self) -> anyhow::Result<()> {
        match std::mem::replace(&mut self.current, Current::Ignored) {
            Current::DataIn { slot, status: Some(status) } => self.end_task(slot, status),
            Current::Response { slot, status } => self.end_task(slot, status),
            Current::R2t(r2t) => self.answer_r2t(&r2t),
            Current::Reject => bail!("the target rejects a PDU of ours"),
            Current::DataIn { status: None, .. } | Current::Ignored => Ok(()),
        }
    }

    fn answer_r2t(&mut self, r2t: &ReadyToTransfer) -> anyhow::Result<()> {
        let slot = self.slot(r2t.initiator_task_tag)?;
        let (max_burst, task) = (self.agreed.max_burst_length, self.task(slot));
        let (offset, len) = (r2t.buffer_offset, r2t.desired_data_transfer_length);
        let end = u64::from(offset) + u64::from(len);
        ensure!(r2t.r2t_sn == task.data_sn, "R2TSN {} came, {} is the next", r2t.r2t_sn, task.data_sn);
        ensure!(
            len <= max_burst && end <= task.command.writes.len() as u64,
            "an R2T for {len} bytes from byte {offset}"
        );
        task.data_sn = task.data_sn.next();
        let (data, tag) = (task.command.writes.clone(), task.tag);
        self.send_data(&data, tag, r2t.target_transfer_tag, offset, len);
        Ok(())
    }

    fn end_task(&mut self, slot: usize, status: u8) -> anyhow::Result<()> {
        let task = self.tasks[slot].take().expect("looked up by its tag");
        self.free.push(slot);
        let Task { mut command, begun, received, data, .. } = task;
        if status == GOOD {
            ensure!(received == command.reads, "a good answer with {received} of {} bytes", command.reads);
        }
        command.writes = Bytes::new();
        let sense = match self.gathered.split_first_chunk::<2>() {
            Some((len, sense)) => sense[..sense.len().min(usize::from(u16::from_be_bytes(*len)))].to_vec(),
            None => Vec::new(),
        };
        self.gathered.clear();
        self.answers.push(Answer { command, begun, status, sense, data });
        Ok(())
    }
}

/// We only ask for as much as there is.
fn check_residual(residual: Residual, task: &Task) -> anyhow::Result<()> {
    let is_ours = matches!(task.command.cdb[0], op::READ_16 | op::WRITE_16);
    ensure!(residual == Residual::None || !is_ours, "a residual: {residual:?}");
    Ok(())
}

/// Operation codes (SBC-3 table 36).
#[expect(missing_docs, reason = "the names are the standard's")]
pub mod op {
    pub const TEST_UNIT_READY: u8 = 0x00;
    pub const READ_16: u8 = 0x88;
    pub const WRITE_16: u8 = 0x8a;
    pub const SERVICE_ACTION_IN_16: u8 = 0x9e;
}

#[cfg(test)]
mod tests;
