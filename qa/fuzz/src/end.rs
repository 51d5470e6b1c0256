//! The target's end of one connection, and a daemon behind it that answers in every way that it may.

use std::io::IoSlice;
use std::sync::Arc;
use std::time::Instant;

use arbitrary::Unstructured;
use bytes::{Bytes, BytesMut};
use lusd_iscsi::chap::{ChallengeKey, ChapGrant, Credentials, Secret};
use lusd_iscsi::{
    AsyncEvent, Authentication, Config, Connection, DataOut, Event, LoginGrant, LoginStatus, LogoutReason,
    Referenced, Response, ScsiCommand, SendTargetsRequest, SessionHandle, TargetRecord, TaskTag, TmfFunction,
    TmfRequest, TmfResponse,
};

use crate::{TARGET, TSIH};

/// Longest data-out that the daemon asks for, bytes.
const DATA_MAX: u32 = 64 * 1024;

/// What one connection wants of the others of its session.
pub(crate) enum Wish {
    /// All others end.
    EndOthers,
    /// The one of this identifier ends, and then a logout is answered.
    EndOther { initiator_task_tag: u32, cid: u16 },
    /// It has come again: the one that was there before ends.
    TakePlace,
}

pub(crate) struct End {
    pub(crate) conn: Connection,
    pub(crate) cid: u16,
    pub(crate) digests: (bool, bool),
    pub(crate) closed: bool,
    tasks_max: usize,
    tags: Vec<TaskTag>,
    /// Those of them whose data has not come.
    receiving: Vec<TaskTag>,
    /// Those of them whose data was not asked for.
    held: Vec<TaskTag>,
    tmfs: Vec<u32>,
    logging_out: bool,
}

impl End {
    pub(crate) fn new(config: Arc<Config>, now: Instant, cid: u16) -> Self {
        Self {
            tasks_max: (config.command_window + config.immediate_window) as usize,
            conn: Connection::new(config, now, 0),
            cid,
            digests: (false, false),
            closed: false,
            tags: Vec::new(),
            receiving: Vec::new(),
            held: Vec::new(),
            tmfs: Vec::new(),
            logging_out: false,
        }
    }

    /// Whether nothing is left of it.
    pub(crate) fn is_over(&self) -> bool {
        self.closed && self.tags.is_empty()
    }

    /// Takes all events, and what is to be sent.
    pub(crate) fn serve(
        &mut self,
        now: Instant,
        session: Option<&SessionHandle>,
        input: &mut Unstructured<'_>,
    ) -> Vec<Wish> {
        let mut wishes = Vec::new();
        loop {
            while let Some(event) = self.conn.poll(now) {
                assert!(!self.closed, "{event:?} after the end");
                wishes.extend(self.handle(event, session, input));
                assert!(self.conn.tasks_len() <= self.tasks_max, "{} tasks", self.conn.tasks_len());
            }
            if self.flush() == 0 {
                return wishes;
            }
        }
    }

    /// Takes what the connection has to send; how many bytes that were.
    fn flush(&mut self) -> usize {
        let mut all = 0;
        loop {
            let mut slices = [IoSlice::new(&[]); 16];
            let n = self.conn.fill_io_slices(&mut slices);
            let bytes: usize = slices[..n].iter().map(|slice| slice.len()).sum();
            if bytes == 0 {
                return all;
            }
            self.conn.sent(bytes);
            all += bytes;
        }
    }

    fn handle(
        &mut self,
        event: Event,
        session: Option<&SessionHandle>,
        input: &mut Unstructured<'_>,
    ) -> Option<Wish> {
        let choice = input.arbitrary::<u8>().unwrap_or(0);
        let conn = &mut self.conn;
        match event {
            Event::Login(_) if choice % 16 == 15 => conn.login_refuse(LoginStatus::ServiceUnavailable),
            Event::Login(_) if choice % 16 == 14 => conn.login_redirect(choice & 16 == 0, "192.0.2.1:3260,1"),
            Event::Login(request) => {
                self.cid = request.cid;
                match session {
                    Some(session) if request.tsih == TSIH => conn.login_join(grant(choice), session),
                    _ => conn.login_grant(grant(choice)),
                }
            }
            Event::LoggedIn(info) => {
                self.digests = (info.params.header_digest, info.params.data_digest);
                return Some(Wish::TakePlace);
            }
            Event::Command(command) => self.command(&command, choice),
            Event::DataOut { tag, data } => {
                assert!(self.receives_no_more(tag) && data.len() <= DATA_MAX as usize);
            }
            // It may have been cut off.
            Event::DataOutFailed { tag, .. } => {
                self.receives_no_more(tag);
                assert!(self.tags.contains(&tag));
            }
            Event::TaskManagement(request) => self.task_management(&request, choice),
            Event::SendTargets(request) => {
                let name = match request {
                    SendTargetsRequest::Named(name) => name,
                    SendTargetsRequest::All | SendTargetsRequest::This => TARGET.into(),
                };
                let portals = vec![("192.0.2.1:3260".to_owned(), 1); usize::from(choice % 4)];
                conn.send_targets(&vec![TargetRecord { name, portals }; usize::from(choice % 64)]);
            }
            Event::LogoutRequested { reason } => {
                self.logging_out = true;
                if choice & 1 == 0 {
                    self.end_all(input);
                }
                return (reason == LogoutReason::CloseSession).then_some(Wish::EndOthers);
            }
            Event::LogoutOther { initiator_task_tag, cid } => {
                return Some(Wish::EndOther { initiator_task_tag, cid });
            }
            Event::Closed(_) => self.closed = true,
        }
        None
    }

    fn command(&mut self, command: &ScsiCommand, choice: u8) {
        let (tag, len) = (command.tag, command.expected_data_transfer_length.min(DATA_MAX));
        let buf = BytesMut::with_capacity(len as usize);
        match choice % 8 {
            0 => return self.conn.respond(tag, Response { status: 8, ..Response::default() }),
            1 => return self.conn.abandon(tag),
            2 => self.conn.accept(tag, DataOut::None),
            kind => {
                self.receiving.push(tag);
                if kind < 5 {
                    self.held.push(tag);
                    self.conn.accept(tag, DataOut::Hold { len, buf });
                } else {
                    self.conn.accept(tag, DataOut::Receive { len, buf });
                }
            }
        }
        self.tags.push(tag);
    }

    /// Whether it did.
    fn receives_no_more(&mut self, tag: TaskTag) -> bool {
        self.held.retain(|held| *held != tag);
        let before = self.receiving.len();
        self.receiving.retain(|receiving| *receiving != tag);
        self.receiving.len() < before
    }

    /// Some are answered at once, all others when a task ends.
    fn task_management(&mut self, request: &TmfRequest, choice: u8) {
        match (request.function, request.referenced) {
            (TmfFunction::AbortTask, Referenced::Task(tag)) if choice & 1 == 0 => {
                assert!(self.tags.contains(&tag));
                self.abandon(tag);
            }
            (TmfFunction::AbortTask | TmfFunction::QueryTask, _) => {}
            _ if choice & 3 == 0 => {
                for tag in self.tags.clone() {
                    self.abandon(tag);
                }
            }
            _ if choice & 3 == 1 => {
                for tag in self.receiving.clone() {
                    self.cut_off(tag);
                }
            }
            _ => {}
        }
        let response =
            [TmfResponse::FunctionComplete, TmfResponse::TaskDoesNotExist, TmfResponse::FunctionRejected]
                [usize::from(choice >> 2) % 3];
        if choice & 0x80 == 0 {
            self.conn.tmf_response(request.initiator_task_tag, response);
        } else {
            self.tmfs.push(request.initiator_task_tag);
        }
    }

    fn cut_off(&mut self, tag: TaskTag) {
        self.receives_no_more(tag);
        self.conn.cut_off(tag);
    }

    fn abandon(&mut self, tag: TaskTag) {
        self.receives_no_more(tag);
        self.tags.retain(|other| *other != tag);
        self.conn.abandon(tag);
    }

    /// Something that the daemon does unasked.
    pub(crate) fn deed(&mut self, input: &mut Unstructured<'_>) {
        let what = input.arbitrary::<u8>().unwrap_or(0);
        let which = usize::from(what >> 3);
        match what % 8 {
            0 | 1 if !self.held.is_empty() => {
                let tag = self.held.swap_remove(which % self.held.len());
                self.conn.solicit(tag);
            }
            2 if !self.receiving.is_empty() => self.cut_off(self.receiving[which % self.receiving.len()]),
            3 => self.conn.send_async(AsyncEvent::Scsi { lun: 0, sense: &[0x70; 18] }),
            4 => self.conn.send_async(AsyncEvent::LogoutRequest { within_s: u16::from(what >> 3) }),
            5 => self.conn.send_async(AsyncEvent::NegotiationRequest { within_s: u16::from(what >> 3) }),
            6 => self.conn.send_async(AsyncEvent::TaskTermination { lun: 1 << 48 }),
            7 if which == 0 => {
                self.conn.send_async(AsyncEvent::ConnectionDrop);
                self.conn.close();
            }
            _ => {}
        }
    }

    /// Answers a function, and ends a task.
    pub(crate) fn end_one(&mut self, input: &mut Unstructured<'_>) {
        if let Some(tag) = self.tmfs.pop() {
            self.conn.tmf_response(tag, TmfResponse::FunctionComplete);
        }
        if !self.tags.is_empty() {
            let (which, len) = (input.arbitrary::<u8>().unwrap_or(0), input.arbitrary::<u8>().unwrap_or(0));
            let tag = self.tags[usize::from(which) % self.tags.len()];
            if len == 255 {
                self.abandon(tag);
            } else {
                self.receives_no_more(tag);
                self.tags.retain(|other| *other != tag);
                let data_in = Bytes::from(vec![which; usize::from(len) * 40]);
                let transfer_length = data_in.len() as u64;
                self.conn.respond(tag, Response { data_in, transfer_length, ..Response::default() });
            }
        }
        if self.tags.is_empty() && std::mem::take(&mut self.logging_out) {
            self.conn.logout_complete();
        }
    }

    pub(crate) fn end_all(&mut self, input: &mut Unstructured<'_>) {
        self.end_one(input);
        while !self.tags.is_empty() || !self.tmfs.is_empty() {
            self.end_one(input);
        }
    }
}

fn grant(choice: u8) -> LoginGrant {
    let secret = |bytes: &[u8]| Secret::new(bytes).expect("long enough");
    let chap = || {
        Authentication::Chap(Box::new(ChapGrant {
            initiator: Credentials { name: "host".into(), secret: secret(b"twelve bytes") },
            target: (choice & 4 == 4)
                .then(|| Credentials { name: "disk".into(), secret: secret(b"other twelve") }),
            identifier: 7,
            nonce: [7; 16],
            key: ChallengeKey::new([9; 32]),
        }))
    };
    let authentication = if choice & 3 == 3 { chap() } else { Authentication::None };
    LoginGrant { portal_group_tag: 1, tsih: TSIH, authentication, ..LoginGrant::default() }
}
