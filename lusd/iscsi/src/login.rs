//! Login (RFC 7143 6.3): from the first request to the full feature phase.
//!
//! ```text
//! First --names--> Asked --grant--> Security --T--> Operational --T--> done
//!                    |                  \________________T,NSG=3_______^
//!                    +---- CSG=1 first ------------> Operational
//! ```
//!
//! Each state is a type that is consumed by what happens to it. Any error is a [`LoginStatus`] and ends the login; it becomes
//! a response in one place, `conn::login`.

mod chap;
pub(crate) mod keys;
pub(crate) mod negotiation;
mod operational;
mod security;

use std::sync::Arc;

use crate::config::Config;
use crate::error::LoginStatus;
use crate::event::{Authentication, LoginGrant, LoginRequest, SessionInfo};
use crate::params::{Params, SessionType};
use crate::pdu::{self, ISCSI_VERSION, Stage};
use crate::text;
use keys::{ALIAS_LEN_MAX, NAME_LEN_MAX};
use negotiation::Negotiation;
use operational::Operational;
use security::Security;

/// Most requests that one login may take. Real ones take two to four; CHAP with long texts a few more.
const REQUESTS_MAX: u32 = 32;

/// What the login wants done next.
#[derive(Debug)]
pub(crate) enum Step {
    /// Send this response.
    Reply(Reply),
    /// Ask the daemon.
    Ask(LoginRequest),
    /// Send this response: it is the last one.
    Done(Reply, Box<(SessionInfo, Negotiation)>),
}

/// A successful response.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub csg: Stage,
    pub nsg: Option<Stage>,
    pub tsih: u16,
    pub text: Vec<u8>,
}

/// A request whose text is complete.
#[derive(Debug)]
pub(crate) struct Request {
    pub pdu: pdu::LoginRequest,
    pub text: Vec<u8>,
}

/// What is known of a login once it was granted.
#[derive(Debug)]
pub(crate) struct Granted {
    request: LoginRequest,
    tsih: u16,
    negotiation: Negotiation,
}

#[derive(Debug)]
enum State {
    First(First),
    Asked(Asked),
    Security(Security),
    Operational(Operational),
    Ended,
}

/// A login in progress.
#[derive(Debug)]
pub(crate) struct Login {
    state: State,
    /// Text of requests that continue.
    gathered: Vec<u8>,
    text_bytes_max: usize,
    requests: u32,
    /// What must stay the same over all requests.
    first: Option<pdu::LoginRequest>,
    /// What the session has settled that the connection joins.
    joined: Option<Params>,
}

impl Login {
    pub(crate) fn new(config: Arc<Config>) -> Self {
        let text_bytes_max = config.text_bytes_max;
        Self {
            state: State::First(First { config }),
            gathered: Vec::new(),
            text_bytes_max,
            requests: 0,
            first: None,
            joined: None,
        }
    }

    /// The grant that follows lets the connection into a session with these parameters.
    pub(crate) fn join(&mut self, params: &Params) {
        self.joined = Some(params.clone());
    }

    /// Takes a request.
    ///
    /// # Errors
    /// The status to refuse it with.
    pub(crate) fn handle(&mut self, pdu: pdu::LoginRequest, text: &[u8]) -> Result<Step, LoginStatus> {
        self.requests += 1;
        let first = *self.first.get_or_insert(pdu);
        let same = (pdu.isid, pdu.tsih, pdu.cid) == (first.isid, first.tsih, first.cid);
        if !same || self.requests > REQUESTS_MAX || self.gathered.len() + text.len() > self.text_bytes_max {
            return Err(LoginStatus::InitiatorError);
        }
        if pdu.version_min > ISCSI_VERSION {
            return Err(LoginStatus::UnsupportedVersion);
        }
        self.gathered.extend_from_slice(text);
        if pdu.continues {
            return Ok(Step::Reply(Reply { csg: pdu.csg, nsg: None, tsih: first.tsih, text: Vec::new() }));
        }
        let request = Request { pdu, text: std::mem::take(&mut self.gathered) };
        let (state, step) = match std::mem::replace(&mut self.state, State::Ended) {
            State::First(state) => state.handle(request)?,
            State::Security(state) => state.handle(&request)?,
            State::Operational(state) => state.handle(&request)?,
            State::Asked(_) | State::Ended => return Err(LoginStatus::InvalidDuringLogin),
        };
        self.state = state;
        Ok(step)
    }

    /// Takes the daemon's answer to [`Step::Ask`].
    ///
    /// # Errors
    /// The status to refuse the request that waits with.
    ///
    /// # Panics
    /// If nothing was asked.
    pub(crate) fn grant(&mut self, grant: LoginGrant) -> Result<Step, LoginStatus> {
        let State::Asked(asked) = std::mem::replace(&mut self.state, State::Ended) else {
            panic!("a login was granted that was not asked for");
        };
        let (state, step) = asked.grant(grant, self.joined.take())?;
        self.state = state;
        Ok(step)
    }

    /// The last thing that is known of the request, for a response that refuses it.
    pub(crate) fn first(&self) -> Option<&pdu::LoginRequest> {
        self.first.as_ref()
    }
}

/// Nothing has come.
#[derive(Debug)]
struct First {
    config: Arc<Config>,
}

impl First {
    fn handle(self, request: Request) -> Result<(State, Step), LoginStatus> {
        let pairs = text::pairs(&request.text)?;
        let find = |name| {
            let mut values = pairs.iter().filter(|(key, _)| *key == name).map(|(_, value)| *value);
            match (values.next(), values.next()) {
                (_, Some(_)) => Err(LoginStatus::InitiatorError),
                (value, None) => Ok(value),
            }
        };
        let name_of = |value: Option<&str>| match value {
            Some(name) if !is_name(name) => Err(LoginStatus::InitiatorError),
            name => Ok(name.map(str::to_owned)),
        };
        let session_type = match find("SessionType")? {
            None | Some("Normal") => SessionType::Normal,
            Some("Discovery") => SessionType::Discovery,
            Some(_) => return Err(LoginStatus::SessionTypeNotSupported),
        };
        let initiator_name = name_of(find("InitiatorName")?)?.ok_or(LoginStatus::MissingParameter)?;
        let target_name = name_of(find("TargetName")?)?;
        if target_name.is_none() && session_type == SessionType::Normal {
            return Err(LoginStatus::MissingParameter);
        }
        let initiator_alias = find("InitiatorAlias")?.filter(|a| a.len() <= ALIAS_LEN_MAX).map(str::to_owned);
        let asked = LoginRequest {
            initiator_name,
            initiator_alias,
            target_name,
            session_type,
            isid: request.pdu.isid,
            tsih: request.pdu.tsih,
            cid: request.pdu.cid,
        };
        let state = Asked { config: self.config, request, asked: asked.clone() };
        Ok((State::Asked(state), Step::Ask(asked)))
    }
}

/// A name that could be one; whether it is known is the daemon's to say.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_LEN_MAX && !name.contains(char::is_whitespace)
}

/// The daemon is thinking about the first request.
#[derive(Debug)]
struct Asked {
    config: Arc<Config>,
    request: Request,
    asked: LoginRequest,
}

impl Asked {
    fn grant(self, grant: LoginGrant, joined: Option<Params>) -> Result<(State, Step), LoginStatus> {
        if self.asked.tsih != 0 && joined.is_none() {
            // A further connection where there may be none.
            return Err(LoginStatus::TooManyConnections);
        }
        assert_ne!(grant.tsih, 0, "a session needs a TSIH (RFC 7143 11.13.3)");
        let mut text = Vec::new();
        if self.asked.session_type == SessionType::Normal {
            text::push(&mut text, "TargetPortalGroupTag", &grant.portal_group_tag.to_string());
            if let Some(alias) = grant.target_alias {
                assert!(alias.len() <= ALIAS_LEN_MAX, "a TargetAlias of {} bytes", alias.len());
                text::push(&mut text, "TargetAlias", &alias);
            }
        }
        let negotiation = Negotiation::new(self.config, self.asked.session_type, joined);
        let granted = Granted { request: self.asked, tsih: grant.tsih, negotiation };
        match self.request.pdu.csg {
            Stage::SecurityNegotiation => {
                Security::new(granted, grant.authentication).handle_with(&self.request, text)
            }
            // It left out the stage in which it would have to show who it is.
            _ if grant.authentication != Authentication::None => Err(LoginStatus::AuthenticationFailure),
            Stage::LoginOperationalNegotiation => Operational::new(granted).handle_with(&self.request, text),
            Stage::FullFeaturePhase => Err(LoginStatus::InitiatorError),
        }
    }
}

impl Granted {
    /// The end of a stage, or not: the response, and the state that follows.
    fn conclude(
        self,
        pdu: &pdu::LoginRequest,
        text: Vec<u8>,
        stay: impl FnOnce(Self) -> State,
    ) -> Result<(State, Step), LoginStatus> {
        let reply = Reply { csg: pdu.csg, nsg: pdu.nsg, tsih: self.request.tsih, text };
        match (pdu.csg, pdu.nsg) {
            (_, None) => Ok((stay(self), Step::Reply(reply))),
            (Stage::SecurityNegotiation, Some(Stage::LoginOperationalNegotiation)) => {
                Ok((State::Operational(Operational::new(self)), Step::Reply(reply)))
            }
            (_, Some(Stage::FullFeaturePhase)) if !self.negotiation.is_acceptable() => {
                Err(LoginStatus::InitiatorError)
            }
            (_, Some(Stage::FullFeaturePhase)) => {
                let mut request = self.request;
                if let Some(alias) = self.negotiation.initiator_alias.clone() {
                    request.initiator_alias = Some(alias);
                }
                let info = SessionInfo { request, tsih: self.tsih, params: self.negotiation.params.clone() };
                let reply = Reply { tsih: self.tsih, ..reply };
                Ok((State::Ended, Step::Done(reply, Box::new((info, self.negotiation)))))
            }
            (_, Some(_)) => Err(LoginStatus::InitiatorError),
        }
    }
}
