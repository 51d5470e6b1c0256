//! A connection: what [`Connection`] holds, the loop that takes PDUs, and the small public calls. The files beside this one
//! have one subject each.
//!
//! ```text
//! Login --final response--> FullFeature --logout answered--> Closed
//!   \______ error, timeout ________\________ error, timeout ____^
//! ```

mod command;
mod data_in;
mod data_out;
mod login;
mod logout;
mod nop;
mod output;
mod text;
mod timer;
mod tmf;

use std::collections::VecDeque;
use std::io::IoSlice;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use smallvec::SmallVec;

use crate::bhs::{Bhs, IMMEDIATE, Opcode, field};
use crate::config::Config;
use crate::error::{CloseReason, ProtocolError};
use crate::event::{AsyncEvent, Event, TaskInfo, TaskTag};
use crate::framer::{Framer, Head};
use crate::login::Login;
use crate::params::{Params, SessionType};
use crate::pdu::{self, AsyncCode, RejectReason, TargetSns};
use crate::serial::Serial;
use crate::session::shared::Place;
use crate::session::{Session, SessionHandle, tasks, window::Admission};
use output::Output;
use timer::Timers;

/// Greatest length of sense data, bytes (SPC-4 4.5.1: fixed and descriptor format end at 252).
pub const SENSE_LEN_MAX: usize = 252;

/// From how much on the rest of a data segment is received straight into its task's buffer, bytes: below this, one read more
/// costs more than the copy.
const DIRECT_BYTES_MIN: u32 = 8 * 1024;

/// First StatSN of a connection: any number.
pub type ConnectionSeed = u32;

/// Where the next bytes of the socket go.
#[derive(Debug)]
pub struct ReadTarget<'a> {
    /// Append to this, within its capacity.
    pub buf: &'a mut BytesMut,
    /// At most so many bytes. 0 says not to read now.
    pub limit: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Login,
    FullFeature,
    /// A logout waits for the daemon; nothing more is taken in.
    LoggingOut {
        initiator_task_tag: u32,
    },
    Closed,
}

/// Whose answer is awaited before more PDUs are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Nothing,
    Login,
    Command(TaskTag),
    SendTargets,
    /// Not for the daemon: for a command that another connection of the session is to bring (RFC 7143 4.2.2.1).
    Turn,
}

/// The PDU whose data segment is being taken.
#[derive(Debug)]
enum Current {
    /// Nobody wants the data.
    Ignored,
    Command(TaskTag),
    DataOut(TaskTag, pdu::DataOut),
    NopOut(pdu::NopOut),
    Text(pdu::TextRequest),
    Login(pdu::LoginRequest),
}

/// Where the data of the current PDU goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sink {
    Drop,
    /// Into `gathered`.
    Gather,
    /// So many bytes into a task's buffer; what comes after them is dropped.
    Task(TaskTag, u32),
}

/// An iSCSI connection of a target.
#[derive(Debug)]
pub struct Connection {
    config: Arc<Config>,
    now: Instant,
    phase: Phase,
    wait: Wait,
    framer: Framer,
    out: Output,
    events: VecDeque<Event>,
    current: Current,
    /// Header of the current PDU, for a Reject.
    current_bhs: Bhs,
    sink: Sink,
    gathered: BytesMut,
    /// The last [`ReadTarget`] was a task's buffer.
    direct: bool,
    /// The last login response must not go out before its event was taken.
    hold_output: bool,
    login: Option<Box<Login>>,
    session_type: SessionType,
    params: Params,
    cid: u16,
    session: Session,
    tsih: u16,
    /// The PDU that waits for its turn.
    parked: Option<Head>,
    stat_sn: Serial,
    /// What the initiator has acknowledged: recovery would let go of what is before it.
    exp_stat_sn: Serial,
    next_target_transfer_tag: u32,
    /// Task management functions, and logouts of other connections, that the daemon has not answered.
    unanswered: SmallVec<[u32; 4]>,
    text: text::TextState,
    timers: Timers,
}

impl Connection {
    /// A connection that was just accepted.
    ///
    /// # Panics
    /// If the configuration is not valid: see [`Config::validate`].
    #[must_use]
    pub fn new(config: Arc<Config>, now: Instant, seed: ConnectionSeed) -> Self {
        if let Err(error) = config.validate() {
            panic!("the configuration is not valid: {error}");
        }
        Self {
            now,
            phase: Phase::Login,
            wait: Wait::Nothing,
            framer: Framer::new(config.staging_bytes),
            out: Output::default(),
            events: VecDeque::new(),
            current: Current::Ignored,
            current_bhs: Bhs([0; crate::bhs::BHS_LEN]),
            sink: Sink::Drop,
            gathered: BytesMut::new(),
            direct: false,
            hold_output: false,
            login: Some(Box::new(Login::new(config.clone()))),
            session_type: SessionType::Normal,
            params: Params::default(),
            cid: 0,
            session: Session::new(&config),
            tsih: 0,
            parked: None,
            stat_sn: Serial(seed),
            exp_stat_sn: Serial(seed),
            next_target_transfer_tag: 0,
            unanswered: SmallVec::new(),
            text: text::TextState::default(),
            timers: Timers::new(now, now + config.login_timeout),
            config,
        }
    }

    /// Where the next bytes go and how many at most. [`Connection::received`] must be the next call after bytes were added.
    pub fn read_target(&mut self) -> ReadTarget<'_> {
        if let Sink::Task(tag, store) = self.sink {
            let limit = store.min(self.framer.direct_remaining());
            if limit >= DIRECT_BYTES_MIN && self.wait == Wait::Nothing {
                self.direct = true;
                let transfer = data_out::transfer(&mut self.session, tag);
                return ReadTarget { buf: &mut transfer.buf, limit: limit as usize };
            }
        }
        self.direct = false;
        let (buf, limit) = self.framer.staging();
        ReadTarget { buf, limit }
    }

    /// `n` bytes were appended to the last [`ReadTarget`].
    pub fn received(&mut self, n: usize) {
        if n > 0 {
            self.timers.has_received = true;
        }
        if std::mem::take(&mut self.direct) {
            let Sink::Task(tag, store) = &mut self.sink else {
                panic!("the task was ended between read_target and received");
            };
            let buf = &data_out::transfer(&mut self.session, *tag).buf;
            self.framer.received_direct(&buf[buf.len() - n..]);
            *store -= n as u32;
        } else if matches!(self.phase, Phase::LoggingOut { .. } | Phase::Closed) {
            self.framer.discard();
        }
    }

    /// The next event. None: more input is needed, or an answer is ([`Connection::is_waiting`]), or output has to be sent first.
    pub fn poll(&mut self, now: Instant) -> Option<Event> {
        self.now = now;
        if std::mem::take(&mut self.timers.has_received) {
            self.timers.last_received = now;
        }
        loop {
            if let Some(event) = self.events.pop_front() {
                if matches!(event, Event::LoggedIn(_)) {
                    self.hold_output = false;
                }
                return Some(event);
            }
            if self.wait == Wait::Turn {
                match self.take_parked() {
                    Ok(true) => continue,
                    Ok(false) => return None,
                    Err(reason) => {
                        self.close_for(reason);
                        continue;
                    }
                }
            }
            let open = matches!(self.phase, Phase::Login | Phase::FullFeature);
            if !open || self.is_waiting() || self.is_output_full() {
                return None;
            }
            match self.step() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(reason) => self.close_for(reason),
            }
        }
    }

    /// Takes the PDU that waited for its turn, if that has come; says whether it has.
    fn take_parked(&mut self) -> Result<bool, CloseReason> {
        let comes = |head: &mut Head| !self.session.window.keeps_waiting(Place::of(&head.bhs));
        let Some(head) = self.parked.take_if(comes) else { return Ok(false) };
        self.session.window.unpark(Place::of(&head.bhs));
        self.wait = Wait::Nothing;
        self.take_head(head)?;
        Ok(true)
    }

    /// True if another connection of the session waits for what this one has brought, or for its end: it is to be polled again.
    #[must_use]
    #[inline]
    pub fn wakes_others(&self) -> bool {
        self.session.window.wakes_others()
    }

    /// The session, for further connections to join. None before the login is done, and in discovery sessions.
    #[must_use]
    pub fn session(&self) -> Option<SessionHandle> {
        let is_up = matches!(self.phase, Phase::FullFeature) && self.session_type == SessionType::Normal;
        is_up.then(|| SessionHandle {
            window: self.session.window.clone(),
            params: Rc::new(self.params.clone()),
            tsih: self.tsih,
        })
    }

    /// True if the daemon has to answer before anything more is read, or another connection of the session has to bring a command:
    /// back pressure.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.wait != Wait::Nothing
    }

    /// True if so much output waits that no input is taken: send first, then poll again.
    #[must_use]
    pub fn is_output_full(&self) -> bool {
        self.out.overhead() >= self.config.output_bytes_high
    }

    /// True once [`Event::Closed`] was queued.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// What is to be written next, as slices for one vectored write; returns how many were filled.
    pub fn fill_io_slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        if self.hold_output { 0 } else { self.out.fill(slices) }
    }

    /// `n` bytes of what [`Connection::fill_io_slices`] gave were written.
    ///
    /// # Panics
    /// If that is more than was queued.
    pub fn sent(&mut self, n: usize) {
        self.out.sent(n);
    }

    /// Bytes that wait to be written; 0 while the last login response is held back.
    #[must_use]
    pub fn output_len(&self) -> usize {
        if self.hold_output { 0 } else { self.out.queued() }
    }

    /// Statuses that were sent and that the initiator has not acknowledged.
    #[must_use]
    pub fn statuses_unacknowledged(&self) -> u32 {
        self.stat_sn.since(self.exp_stat_sn)
    }

    /// The number that the next status will have.
    #[must_use]
    pub fn next_stat_sn(&self) -> Serial {
        self.stat_sn
    }

    /// Whether the initiator has acknowledged all statuses before this one.
    #[must_use]
    pub fn is_acknowledged(&self, stat_sn: Serial) -> bool {
        !self.exp_stat_sn.is_before(stat_sn)
    }

    /// What was negotiated so far.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// A task in progress; None if it has ended.
    #[must_use]
    pub fn task(&self, tag: TaskTag) -> Option<TaskInfo> {
        self.session.tasks.get(tag).map(|task| tasks::info(tag, task))
    }

    /// The tasks in progress, in no order.
    pub fn tasks(&self) -> impl Iterator<Item = TaskInfo> + '_ {
        self.session.tasks.iter()
    }

    /// How many tasks are in progress.
    #[must_use]
    pub fn tasks_len(&self) -> usize {
        self.session.tasks.len()
    }

    /// While the window is closed MaxCmdSN stands still: the initiator may send what it was allowed to, and no more.
    pub fn set_window_closed(&mut self, closed: bool) {
        self.session.window.set_closed(closed);
        self.announce_window();
    }

    /// Ends the connection from the daemon's side. Nothing is said to the initiator; send an [`AsyncEvent`] before, for that.
    pub fn close(&mut self) {
        self.close_for(CloseReason::Daemon);
    }

    /// Tells the initiator something that it did not ask for. Nothing happens outside of the full feature phase of a normal session.
    ///
    /// # Panics
    /// If the sense data is longer than [`SENSE_LEN_MAX`].
    pub fn send_async(&mut self, event: AsyncEvent<'_>) {
        if self.phase != Phase::FullFeature || self.session_type == SessionType::Discovery {
            return;
        }
        // At error recovery level 0 no task outlives its connection: there is nothing to retain.
        let (wait, retain) = (self.params.default_time_2_wait_s, 0);
        let (event, lun, parameters, sense) = match event {
            AsyncEvent::Scsi { lun, sense } => (AsyncCode::ScsiEvent, lun, [0; 3], sense),
            AsyncEvent::LogoutRequest { within_s } => {
                self.timers.expect_logout(self.now, within_s);
                (AsyncCode::LogoutRequest, 0, [0, 0, within_s], &[][..])
            }
            AsyncEvent::ConnectionDrop => (AsyncCode::ConnectionDrop, 0, [self.cid, wait, retain], &[][..]),
            AsyncEvent::SessionDrop => (AsyncCode::SessionDrop, 0, [0, wait, retain], &[][..]),
            AsyncEvent::NegotiationRequest { within_s } => {
                (AsyncCode::NegotiationRequest, 0, [0, 0, within_s], &[][..])
            }
            AsyncEvent::TaskTermination { lun } => (AsyncCode::TaskTermination, lun, [0; 3], &[][..]),
        };
        let sns = self.sns_own();
        let bhs = pdu::AsyncMessage { event, vendor_code: 0, lun, sns, parameters }.to_bhs();
        self.out.push(bhs, &data_in::sense_segment(sense));
    }

    /// Takes one step with the input: false if there is not enough of it.
    fn step(&mut self) -> Result<bool, CloseReason> {
        if self.framer.in_segment() {
            self.take_data();
            match self.framer.end_segment() {
                Some(good) => self.end_data(good)?,
                None => return Ok(false),
            }
        } else {
            match self.framer.next_head() {
                Ok(Some(head)) => self.take_head(head)?,
                Ok(None) => return Ok(false),
                Err(_) => return Err(CloseReason::HeaderDigest),
            }
        }
        Ok(true)
    }

    /// Moves what is here of the current data segment to where it belongs.
    fn take_data(&mut self) {
        match &mut self.sink {
            Sink::Drop => {}
            Sink::Gather => self.gathered.extend_from_slice(self.framer.take_data(usize::MAX)),
            Sink::Task(tag, store) => {
                let bytes = self.framer.take_data(*store as usize);
                data_out::transfer(&mut self.session, *tag).buf.extend_from_slice(bytes);
                *store -= bytes.len() as u32;
                if *store == 0 {
                    self.sink = Sink::Drop;
                }
            }
        }
        if self.sink == Sink::Drop {
            self.framer.take_data(usize::MAX);
        }
    }

    fn take_head(&mut self, head: Head) -> Result<(), CloseReason> {
        let bhs = head.bhs;
        tracing::trace!(?bhs, "PDU");
        self.current_bhs = bhs;
        self.current = Current::Ignored;
        self.sink = Sink::Drop;
        if self.phase == Phase::Login {
            self.take_login(&bhs)?;
        } else {
            let data = bhs.data_segment_length();
            if data > self.config.max_recv_data_segment_length {
                self.reject(RejectReason::InvalidPduField);
                return Err(CloseReason::DataSegmentTooLong(data));
            }
            if let Err(error) = self.take_request(head)? {
                tracing::debug!(?bhs, %error, "PDU rejected");
                self.reject((&error).into());
            }
        }
        if !self.framer.in_segment() && self.wait == Wait::Nothing {
            self.end_data(true)?;
        }
        Ok(())
    }

    /// A PDU of the full feature phase. The inner error is answered with a Reject.
    fn take_request(&mut self, head: Head) -> Result<Result<(), ProtocolError>, CloseReason> {
        let bhs = &head.bhs;
        let Some(opcode) = bhs.opcode().filter(|opcode| (*opcode as u8) < Opcode::NopIn as u8) else {
            return Ok(Err(ProtocolError::Opcode(bhs.0[field::OPCODE] & !IMMEDIATE)));
        };
        self.note_exp_stat_sn(Serial(bhs.u32_at(field::EXP_STAT_SN)));
        match opcode {
            Opcode::DataOut => return Ok(self.take_data_out(bhs)),
            Opcode::SnackRequest => return Ok(Err(ProtocolError::Snack)),
            Opcode::LoginRequest => return Ok(Err(ProtocolError::LoginInFullFeaturePhase)),
            _ => {}
        }
        // All others are numbered.
        if !bhs.immediate() {
            match self.session.window.admit(Serial(bhs.u32_at(field::CMD_SN))) {
                Admission::InOrder => {}
                Admission::Ignore => return Ok(Ok(())),
                Admission::Gap if self.session.window.has_others() => {
                    self.park(head);
                    return Ok(Ok(()));
                }
                Admission::Gap => {
                    self.reject(RejectReason::ProtocolError);
                    return Err(CloseReason::CmdSnGap);
                }
            }
        }
        if opcode == Opcode::TaskManagementRequest && self.waits_for_commands(bhs) {
            self.park(head);
            return Ok(Ok(()));
        }
        if self.session_type == SessionType::Discovery
            && !matches!(opcode, Opcode::TextRequest | Opcode::LogoutRequest)
        {
            return Ok(Err(ProtocolError::DiscoverySession));
        }
        Ok(match opcode {
            Opcode::ScsiCommand => self.take_command(head),
            Opcode::TaskManagementRequest => self.take_tmf(bhs),
            Opcode::NopOut => self.take_nop_out(bhs),
            Opcode::TextRequest => self.take_text(bhs),
            Opcode::LogoutRequest => self.take_logout(bhs),
            _ => unreachable!("{opcode:?} was dealt with above"),
        })
    }

    /// The request waits until other connections of the session have brought what comes before it.
    fn park(&mut self, head: Head) {
        self.session.window.park(Place::of(&head.bhs));
        self.wait = Wait::Turn;
        self.parked = Some(head);
    }

    /// Takes an acknowledgement of statuses: one that goes back, or that is of what was never sent, says nothing (4.2.2.2).
    fn note_exp_stat_sn(&mut self, exp_stat_sn: Serial) {
        if !exp_stat_sn.is_before(self.exp_stat_sn) && !exp_stat_sn.is_after(self.stat_sn) {
            self.exp_stat_sn = exp_stat_sn;
        }
    }

    /// The current PDU is complete.
    fn end_data(&mut self, digest_is_good: bool) -> Result<(), CloseReason> {
        self.sink = Sink::Drop;
        if !digest_is_good {
            tracing::debug!(bhs = ?self.current_bhs, "data digest error");
            self.reject((&ProtocolError::DataDigest).into());
        }
        match std::mem::replace(&mut self.current, Current::Ignored) {
            Current::Ignored => {}
            Current::Command(tag) => self.end_immediate_data(tag, digest_is_good),
            Current::DataOut(tag, pdu) => self.end_data_out(tag, &pdu, digest_is_good),
            Current::Login(pdu) => self.end_login(pdu)?,
            // A PDU whose data was not as sent counts as not received (RFC 7143 7.8).
            _ if !digest_is_good => self.gathered.clear(),
            Current::NopOut(pdu) => self.end_nop_out(&pdu),
            Current::Text(pdu) => self.end_text(&pdu),
        }
        Ok(())
    }

    /// Answers the current PDU with a Reject.
    fn reject(&mut self, reason: RejectReason) {
        let sns = self.sns_own();
        let bhs = pdu::Reject { reason, sns, data_sn: Serial(0) }.to_bhs();
        let rejected = self.current_bhs.0;
        self.out.push(bhs, &rejected);
    }

    /// Numbers of a PDU that has a StatSN of its own.
    fn sns_own(&mut self) -> TargetSns {
        let sns = self.sns_next();
        self.stat_sn = self.stat_sn.next();
        sns
    }

    /// Numbers of a PDU that only says what the next StatSN is.
    fn sns_next(&mut self) -> TargetSns {
        let (exp_cmd_sn, max_cmd_sn) = self.session.window.stamp();
        TargetSns { stat_sn: self.stat_sn, exp_cmd_sn, max_cmd_sn }
    }

    fn next_target_transfer_tag(&mut self) -> u32 {
        let tag = self.next_target_transfer_tag;
        let next = tag.wrapping_add(1);
        self.next_target_transfer_tag = if next == crate::bhs::RESERVED_TAG { 0 } else { next };
        tag
    }

    /// Tells an initiator that stands before a shut window that it has opened.
    fn announce_window(&mut self) {
        if self.phase == Phase::FullFeature && self.session.window.must_announce() {
            self.send_nop_in(crate::bhs::RESERVED_TAG);
        }
    }

    fn close_for(&mut self, reason: CloseReason) {
        if self.phase == Phase::Closed {
            return;
        }
        tracing::debug!(%reason, "connection ends");
        if reason.is_told() {
            self.send_async(AsyncEvent::ConnectionDrop);
        }
        self.phase = Phase::Closed;
        self.wait = Wait::Nothing;
        self.current = Current::Ignored;
        self.sink = Sink::Drop;
        self.login = None;
        self.gathered = BytesMut::new();
        self.text = text::TextState::default();
        self.unanswered.clear();
        self.timers.stop();
        if let Some(head) = self.parked.take() {
            self.session.window.unpark(Place::of(&head.bhs));
        }
        self.session.leave();
        for task in self.session.tasks.iter_mut() {
            if matches!(task.state, tasks::TaskState::Receiving(_)) {
                task.state = tasks::TaskState::Running;
            }
        }
        self.events.push_back(Event::Closed(reason));
    }
}
