//! The login phase of a connection: requests to [`crate::login`], its steps to responses. The one place where a [`LoginStatus`]
//! becomes an answer.

use super::{Connection, Current, Phase, Sink, Wait};
use crate::bhs::{Bhs, Opcode};
use crate::error::{CloseReason, LoginStatus};
use crate::event::{Event, LoginGrant};
use crate::login::Step;
use crate::pdu::{self, Stage};
use crate::session::SessionHandle;
use crate::session::shared::Window;
use crate::session::window::CommandWindow;
use crate::text;

/// Longest TargetAddress of a redirection, bytes (RFC 7143 6.1: a text value).
const ADDRESS_LEN_MAX: usize = 255;

impl Connection {
    /// Lets the initiator of the last [`Event::Login`] in.
    ///
    /// # Panics
    /// If no login waits for an answer; if the TSIH is 0 or the alias too long.
    pub fn login_grant(&mut self, grant: LoginGrant) {
        if self.end_login_wait() {
            let step = self.login.as_mut().map(|login| login.grant(grant));
            let Some(step) = step else { return };
            if let Err(reason) = self.take_step(step) {
                self.close_for(reason);
            }
        }
    }

    /// Lets the initiator of the last [`Event::Login`], which names a TSIH, bring another connection into `session`: what that has
    /// settled stands.
    ///
    /// # Panics
    /// If no login waits for an answer; if `grant` is of another session.
    pub fn login_join(&mut self, grant: LoginGrant, session: &SessionHandle) {
        if self.phase != Phase::Closed {
            assert_eq!(grant.tsih, session.tsih, "a session has one TSIH");
            self.session.join(&session.window);
            if let Some(login) = &mut self.login {
                login.join(session.params());
            }
        }
        self.login_grant(grant);
    }

    /// Turns the initiator of the last [`Event::Login`] away; the connection ends.
    ///
    /// # Panics
    /// If no login waits for an answer; if the status is success.
    pub fn login_refuse(&mut self, status: LoginStatus) {
        assert_ne!(status, LoginStatus::Success, "a refusal needs a reason");
        if self.end_login_wait() {
            let reason = self.refuse(status, &[]);
            self.close_for(reason);
        }
    }

    /// Sends the initiator of the last [`Event::Login`] to another address, `host:port` or `host:port,tag`; the connection ends.
    ///
    /// # Panics
    /// If no login waits for an answer; if the address has more than 255 bytes.
    pub fn login_redirect(&mut self, permanently: bool, address: &str) {
        assert!(address.len() <= ADDRESS_LEN_MAX, "an address of {} bytes", address.len());
        if self.end_login_wait() {
            let status = if permanently {
                LoginStatus::TargetMovedPermanently
            } else {
                LoginStatus::TargetMovedTemporarily
            };
            let mut text = Vec::new();
            text::push(&mut text, "TargetAddress", address);
            let reason = self.refuse(status, &text);
            self.close_for(reason);
        }
    }

    /// False if the connection has ended meanwhile.
    fn end_login_wait(&mut self) -> bool {
        if self.phase == Phase::Closed {
            return false;
        }
        assert_eq!(self.wait, Wait::Login, "no login waits for an answer");
        self.wait = Wait::Nothing;
        true
    }

    pub(super) fn take_login(&mut self, bhs: &Bhs) -> Result<(), CloseReason> {
        if bhs.opcode() != Some(Opcode::LoginRequest) {
            return Err(self.refuse(LoginStatus::InvalidDuringLogin, &[]));
        }
        if bhs.data_segment_length() as usize > self.config.text_bytes_max {
            return Err(self.refuse(LoginStatus::InitiatorError, &[]));
        }
        match pdu::LoginRequest::parse(bhs) {
            Ok(pdu) => {
                if self.login.as_ref().is_some_and(|login| login.first().is_none()) {
                    let window = CommandWindow::new(pdu.cmd_sn, self.config.command_window);
                    self.session.window = Window::new(window);
                    self.cid = pdu.cid;
                }
                // That of the first request of a login has no meaning (11.12.9).
                if self.login.as_ref().is_some_and(|login| login.first().is_some()) {
                    self.note_exp_stat_sn(pdu.exp_stat_sn);
                }
                self.current = Current::Login(pdu);
                self.sink = Sink::Gather;
                Ok(())
            }
            Err(error) => Err(self.refuse(error.into(), &[])),
        }
    }

    pub(super) fn end_login(&mut self, pdu: pdu::LoginRequest) -> Result<(), CloseReason> {
        let text = self.gathered.split();
        let Some(login) = &mut self.login else { return Ok(()) };
        let step = login.handle(pdu, &text);
        self.take_step(step)
    }

    fn take_step(&mut self, step: Result<Step, LoginStatus>) -> Result<(), CloseReason> {
        match step {
            Ok(Step::Reply(reply)) => self.reply(&reply),
            Ok(Step::Ask(request)) => {
                self.wait = Wait::Login;
                self.events.push_back(Event::Login(request));
            }
            Ok(Step::Done(reply, done)) => {
                let (info, mut negotiation) = *done;
                self.reply(&reply);
                self.hold_output = true;
                self.login = None;
                self.params = info.params.clone();
                self.session_type = info.request.session_type;
                self.tsih = info.tsih;
                let Self { params, framer, out, .. } = self;
                framer.set_digests(params.header_digest, params.data_digest);
                out.set_digests(params.header_digest, params.data_digest);
                negotiation.start_again();
                self.text.negotiation = Some(Box::new(negotiation));
                self.phase = Phase::FullFeature;
                self.timers.logged_in(self.now, &self.config, self.session_type);
                self.events.push_back(Event::LoggedIn(info));
            }
            Err(status) => return Err(self.refuse(status, &[])),
        }
        Ok(())
    }

    fn reply(&mut self, reply: &crate::login::Reply) {
        let response = self.response(reply.csg, reply.nsg, reply.tsih, LoginStatus::Success);
        self.out.push(response, &reply.text);
    }

    /// Queues the response that ends a login, and says why the connection ends.
    fn refuse(&mut self, status: LoginStatus, text: &[u8]) -> CloseReason {
        let first = self.login.as_ref().and_then(|login| login.first());
        let tsih = first.map_or(0, |pdu| pdu.tsih);
        let csg =
            pdu::LoginRequest::parse(&self.current_bhs).map_or(Stage::SecurityNegotiation, |pdu| pdu.csg);
        let response = self.response(csg, None, tsih, status);
        self.out.push(response, text);
        CloseReason::Login(status)
    }

    /// The header of a response to the current request.
    fn response(&mut self, csg: Stage, nsg: Option<Stage>, tsih: u16, status: LoginStatus) -> Bhs {
        let mut isid = [0; 6];
        isid.copy_from_slice(&self.current_bhs.0[8..14]);
        let response = pdu::LoginResponse {
            csg,
            nsg,
            continues: false,
            isid: pdu::Isid(isid),
            tsih,
            initiator_task_tag: self.current_bhs.initiator_task_tag(),
            sns: self.sns_own(),
            status,
        };
        response.to_bhs()
    }
}
