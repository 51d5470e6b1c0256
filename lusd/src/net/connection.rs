//! The task that drives one iSCSI connection: socket on one side, [`lusd_iscsi::Connection`] in the middle, the session's LUNs on the
//! other. Everything it owns stays on its shard.
//!
//! ```text
//!   readable ─► try_read_buf ─► proto.received ─► proto.poll ─► Event ─► Session (plan, gate, backend)
//!   inbox    ─► Outcome      ─► Session ─► proto.respond ─► fill_io_slices ─► try_write_vectored ─► writable
//! ```
//!
//! One round handles all that is there before it writes, so many answers leave in one system call.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BufMut;
use lusd_iscsi::{
    AsyncEvent, Authentication, CloseReason, Event, LoginGrant, LoginRequest, LoginStatus, LogoutReason,
    SendTargetsRequest, SessionInfo, SessionType, TargetRecord,
};
use lusd_scsi::InitiatorPort;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tracing::{Instrument, debug, info, info_span, warn};

use super::arrivals::Arrivals;
use super::memory::ConnectionMemory;
use super::shard::{Accepted, Begun, Inbox, Shard};
use crate::target::group::{Group, Membership};
use crate::target::session::{Carrier, Flow, Session};
use crate::target::sessions::{ConnectionHandle, Nexus, Seat, Stop};
use crate::target::view::View;

/// Slices handed to one write: enough for some thirty Data-In PDUs of header and data.
const IO_SLICES: usize = 128;

/// Reads in one round before others on the shard get their turn.
const READS_PER_ROUND: usize = 16;

/// How often timers are looked at. NOP and login times are whole seconds.
const TICK: Duration = Duration::from_millis(250);

/// How long an orderly end may take to flush what is queued.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a peer may take to close its side after ours.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a host that is asked to log out may take, seconds.
pub const LOGOUT_WITHIN_S: u16 = 2;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("closed by the peer")]
    Eof,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0:?}")]
    Protocol(CloseReason),
    #[error("closed by the administrator, by another connection of its session, or because the daemon stops")]
    Asked,
    /// By a TCP reset, which leaves nothing behind.
    #[error("too many logins at once: this one took the longest")]
    Evicted,
    /// It goes on, on this shard.
    #[error("its session lives on shard {0}")]
    Elsewhere(usize),
    /// What it carried must not be answered: a TCP reset, not a FIN, so that the initiator does not take it for an orderly end.
    #[error("reset: {0}")]
    Reset(&'static str),
}

impl End {
    const LOST: Self = Self::Reset("a logical unit was lost with commands in flight");
}

/// Where a login leads.
enum Whereto {
    /// To a new session.
    New,
    /// Into one that lives here.
    Session(Rc<Group>),
    /// Into one that lives on this shard.
    Elsewhere(usize),
}

/// The parts of a connection that a session works with, beside the session itself.
macro_rules! carrier {
    ($connection:ident, $now:expr) => {
        Carrier {
            shard: &$connection.shard,
            inbox: &$connection.inbox,
            memory: &$connection.memory,
            proto: &mut $connection.proto,
            now: $now,
            since: $connection.arrivals.since(),
        }
    };
}

/// Serves one accepted connection to its end.
pub async fn serve(shard: &Rc<Shard>, accepted: Accepted) {
    let Accepted { stream, begun } = accepted;
    let peer = match stream.peer_addr() {
        Ok(peer) => peer,
        Err(err) => return debug!(%err, "a connection was gone before it was served"),
    };
    let span = info_span!("connection", %peer);
    async {
        let stream = match stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)) {
            Ok(stream) => stream,
            Err(err) => return warn!(%err, "cannot serve a connection"),
        };
        let mut connection = Connection::new(shard.clone(), stream, peer.ip(), begun);
        let end = connection.run().await;
        if let End::Elsewhere(shard) = end {
            return connection.hand_over(shard);
        }
        match &end {
            End::Eof | End::Asked => info!(reason = %end, "connection ended"),
            // There may be thousands; what lets them go says so.
            End::Evicted | End::Elsewhere(_) => debug!(reason = %end, "connection ended"),
            End::Protocol(CloseReason::Logout) => info!(reason = %end, "connection ended"),
            _ => warn!(reason = %end, "connection ended"),
        }
        connection.end(&end).await;
    }
    .instrument(span)
    .await;
}

struct Connection {
    shard: Rc<Shard>,
    stream: TcpStream,
    proto: lusd_iscsi::Connection,
    inbox: Rc<Inbox>,
    notify: Arc<Notify>,
    handle: Arc<ConnectionHandle>,
    memory: Arc<ConnectionMemory>,
    arrivals: Arrivals,
    session: Option<Session>,
    nexus: Option<Nexus>,
    /// It has to show who it is.
    authenticates: bool,
    /// Where it comes from.
    address: std::net::IpAddr,
    /// First StatSN.
    seed: u32,
    /// What was read and sent so far, until it is known on which shard the connection is to live.
    prologue: Option<(Vec<u8>, usize)>,
    /// The login as it was begun on another shard.
    begun: Option<Begun>,
    /// Shard on which its session lives, if that is another one.
    elsewhere: Option<usize>,
    /// The session that it joins.
    joins: Option<Rc<Group>>,
    /// When output was last seen to move, while there is some.
    output_since: Option<Instant>,
    /// The host was asked to log out.
    logout_asked: bool,
    /// Stalls of the shard before this connection.
    stalls: u64,
}

impl Connection {
    fn new(shard: Rc<Shard>, stream: TcpStream, peer: IpAddr, begun: Option<Begun>) -> Self {
        let service = &shard.service;
        let notify = Arc::new(Notify::new());
        let unknown = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let portal = stream.local_addr().unwrap_or(unknown);
        let handle = service.sessions.enter(notify.clone());
        service.sessions.begin_login(&handle, portal, peer, service.limits.logins);
        let now = Instant::now();
        let seed = begun.as_ref().map_or(handle.id as u32, |begun| begun.seed);
        Self {
            proto: lusd_iscsi::Connection::new(service.limits.iscsi.clone(), now, seed),
            arrivals: Arrivals::new(now),
            inbox: Inbox::new(notify.clone()),
            memory: ConnectionMemory::new(service.memory.clone(), service.limits.connection_memory),
            session: None,
            nexus: None,
            authenticates: false,
            address: address_of(&stream),
            seed,
            prologue: Some((Vec::new(), 0)),
            begun,
            elsewhere: None,
            joins: None,
            output_since: None,
            logout_asked: false,
            stalls: shard.note_running(now),
            notify,
            handle,
            stream,
            shard,
        }
    }

    async fn run(&mut self) -> End {
        if let Some(begun) = self.begun.take()
            && let Err(end) = self.begin_anew(&begun).await
        {
            return end;
        }
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if let Err(end) = self.round().await {
                return end;
            }
            let wants_input = self.proto.read_target().limit > 0;
            let waits_for_memory = self.session.as_ref().is_some_and(Session::waits_for_memory);
            let memory = self.memory.daemon().clone();
            tokio::select! {
                biased;
                () = self.notify.notified() => {}
                ready = self.stream.writable(), if self.has_output() => {
                    if let Err(err) = ready { return err.into() }
                }
                ready = self.stream.readable(), if wants_input => {
                    if let Err(err) = ready { return err.into() }
                }
                () = memory.freed(), if waits_for_memory => {}
                _ = tick.tick() => {
                    self.proto.handle_timeout(Instant::now());
                }
            }
        }
    }

    /// Goes on on another shard, where its session lives.
    fn hand_over(self, index: usize) {
        let Self { shard, stream, prologue, handle, seed, .. } = self;
        let (received, sent) = prologue.unwrap_or_default();
        let begun = Some(Begun { seed, received, sent });
        match stream.into_std() {
            Ok(stream) => shard.service.hand_over(index, Accepted { stream, begun }),
            Err(err) => warn!(%err, "a connection could not be handed over: closed"),
        }
        shard.service.sessions.hung_up();
        shard.service.sessions.leave(&handle, None);
    }

    /// Has the protocol go through what it has been through on another shard.
    async fn begin_anew(&mut self, begun: &Begun) -> Result<(), End> {
        let (mut rest, mut sent) = (&begun.received[..], begun.sent);
        while !rest.is_empty() {
            let target = self.proto.read_target();
            let n = target.limit.min(rest.len());
            if n == 0 {
                return Err(End::Reset("a login could not be handed over"));
            }
            target.buf.extend_from_slice(&rest[..n]);
            rest = &rest[n..];
            self.note_received(&begun.received[begun.received.len() - rest.len() - n..][..n]);
            self.proto.received(n);
            self.arrivals.received(n);
            self.events().await?;
            let again = sent.min(self.proto.output_len());
            self.proto.sent(again);
            sent -= again;
        }
        Ok(())
    }

    fn note_received(&mut self, bytes: &[u8]) {
        if let Some((received, _)) = &mut self.prologue {
            received.extend_from_slice(bytes);
        }
    }

    /// Handles everything that is there now: outcomes, input, output.
    async fn round(&mut self) -> Result<(), End> {
        let now = Instant::now();
        if self.shard.note_running(now) != self.stalls {
            return Err(End::Reset("the daemon stood still: what is in it may be given up by now"));
        }
        let waits = || rustix::io::ioctl_fionread(&self.stream).map_err(io::Error::from);
        if self.arrivals.is_stale(now, self.shard.service.limits.stall_bound, waits)? {
            return Err(End::Reset("what it has sent stood unread for too long: it may be given up by now"));
        }
        self.arrivals.note(now, waits)?;
        match self.handle.stop() {
            Stop::No => {}
            Stop::Logout => self.ask_for_logout(),
            Stop::Close => return Err(End::Asked),
            Stop::Evict => return Err(End::Evicted),
            Stop::Reset => {
                return Err(End::Reset(
                    "a newer login took the session's place, or nobody may be served now",
                ));
            }
        }
        if let Some(session) = &mut self.session {
            self.proto.set_window_closed(self.memory.daemon().is_tight());
            session.refresh(&self.shard).map_err(|_| End::Asked)?;
            session.resume(&mut carrier!(self, now));
        }
        self.outcomes()?;
        for _ in 0..READS_PER_ROUND {
            self.events().await?;
            if !self.read()? {
                break;
            }
        }
        loop {
            self.events().await?;
            if let Some(session) = &mut self.session {
                session.feed(&mut carrier!(self, now));
            }
            self.outcomes()?;
            if let Some(session) = &mut self.session {
                session.follow_order(&mut carrier!(self, now));
                if self.proto.wakes_others()
                    && let Some(membership) = session.membership()
                {
                    membership.wake_others();
                }
                if session.take_cold_reset() {
                    self.shard.service.sessions.close_target(session.target());
                }
            }
            // What is there already may have been held up by answers that waited to be sent.
            let held_up = self.proto.is_output_full();
            self.write()?;
            if !held_up || self.proto.is_output_full() {
                return Ok(());
            }
        }
    }

    /// Once, and only in a session: before its login has ended there is nothing to log out of.
    fn ask_for_logout(&mut self) {
        if self.session.is_some() && !self.logout_asked {
            self.logout_asked = true;
            self.proto.send_async(AsyncEvent::LogoutRequest { within_s: LOGOUT_WITHIN_S });
        }
    }

    fn has_output(&self) -> bool {
        self.proto.output_len() > 0
    }

    fn outcomes(&mut self) -> Result<(), End> {
        if self.inbox.is_revoked() {
            return Err(End::LOST);
        }
        while let Some((tag, outcome)) = self.inbox.pop() {
            let Some(session) = &mut self.session else { continue };
            session.outcome(tag, outcome, &mut self.proto).map_err(|_| End::LOST)?;
        }
        Ok(())
    }

    /// Reads once. False when the socket has no more, or the protocol takes no more now.
    fn read(&mut self) -> Result<bool, End> {
        let target = self.proto.read_target();
        if target.limit == 0 {
            return Ok(false);
        }
        match self.stream.try_read_buf(&mut (&mut *target.buf).limit(target.limit)) {
            Ok(0) => Err(End::Eof),
            Ok(n) => {
                if let Some((received, _)) = &mut self.prologue {
                    received.extend_from_slice(&target.buf[target.buf.len() - n..]);
                }
                self.proto.received(n);
                self.arrivals.received(n);
                Ok(true)
            }
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(err) => Err(err.into()),
        }
    }

    /// Writes until nothing is left or the socket takes no more.
    fn write(&mut self) -> Result<(), End> {
        let mut moved = false;
        while self.has_output() {
            let mut slices = [IoSlice::new(&[]); IO_SLICES];
            let n = self.proto.fill_io_slices(&mut slices);
            match self.stream.try_write_vectored(&slices[..n]) {
                Ok(n) => {
                    self.proto.sent(n);
                    if let Some((_, sent)) = &mut self.prologue {
                        *sent += n;
                    }
                    moved = true;
                }
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {
                    let now = Instant::now();
                    let since = if moved { now } else { self.output_since.unwrap_or(now) };
                    self.output_since = Some(since);
                    if now.duration_since(since) > self.shard.service.limits.send_timeout {
                        return Err(End::Reset("the peer takes no answers"));
                    }
                    return Ok(());
                }
                Err(err) => return Err(err.into()),
            }
        }
        self.output_since = None;
        Ok(())
    }

    async fn events(&mut self) -> Result<(), End> {
        let now = Instant::now();
        while let Some(event) = self.proto.poll(now) {
            match event {
                Event::Login(request) => {
                    self.login(request);
                    if let Some(shard) = self.elsewhere {
                        return Err(End::Elsewhere(shard));
                    }
                    self.prologue = None;
                }
                Event::LoggedIn(info) => {
                    self.shard.service.sessions.end_login(&self.handle);
                    let membership = self.take_place(&info).await?;
                    let request = info.request;
                    info!(initiator = %request.initiator_name, session = ?request.session_type, tsih = info.tsih, chap = self.authenticates, "logged in");
                    self.has_passed();
                    if let Some(nexus) = &self.nexus
                        && let Some(target) = nexus.target.clone()
                    {
                        let initiator = InitiatorPort { name: nexus.initiator.clone(), isid: nexus.isid };
                        self.session =
                            Some(Session::new(&self.shard, initiator, target, &info.params, membership));
                    }
                }
                Event::SendTargets(request) => self.send_targets(&request),
                Event::Command(command) => {
                    let Some(session) = &mut self.session else {
                        return Err(End::Reset("a SCSI command in a discovery session"));
                    };
                    match session.command(command, &mut carrier!(self, now)) {
                        Flow::Taken => {}
                        Flow::NoMemory => return Ok(()),
                    }
                }
                Event::DataOut { tag, data } => {
                    if let Some(session) = &mut self.session {
                        session.data_out(tag, data, &mut carrier!(self, now));
                    }
                }
                Event::DataOutFailed { tag, condition } => {
                    if let Some(session) = &mut self.session {
                        session.data_out_failed(tag, &condition, &mut self.proto);
                    }
                }
                Event::TaskManagement(request) => {
                    if let Some(session) = &mut self.session {
                        session.task_management(&request, &mut carrier!(self, now));
                    }
                }
                Event::LogoutOther { cid } => {
                    let found = self.end_others(Some(cid)).await;
                    self.proto.logout_other_complete(found);
                }
                Event::LogoutRequested { reason } => {
                    if reason == LogoutReason::CloseSession {
                        self.end_others(None).await;
                    }
                    // What is in flight ends first: an answered logout means that nothing of the session lands later.
                    if let Some(session) = &mut self.session {
                        session.logout(&mut self.proto);
                    } else {
                        self.proto.logout_complete();
                    }
                }
                Event::Closed(reason) => {
                    if reason == CloseReason::Login(LoginStatus::AuthenticationFailure) {
                        self.has_failed(now);
                    }
                    self.flush().await;
                    return Err(End::Protocol(reason));
                }
            }
        }
        if !self.proto.is_waiting() && !self.proto.is_output_full() {
            self.arrivals.caught_up();
        }
        Ok(())
    }

    /// What the initiator has to show.
    fn authentication(&mut self, request: &LoginRequest) -> Result<Authentication, LoginStatus> {
        let authenticator = &self.shard.service.authenticator;
        let (initiator, target) = (&request.initiator_name, request.target_name.as_deref());
        // Of a discovery session a TargetName says nothing.
        let target = target.filter(|_| request.session_type == SessionType::Normal);
        let wanted = authenticator.wanted(target, initiator)?;
        self.authenticates = wanted != Authentication::None;
        if self.authenticates && !authenticator.admits(self.address, initiator, Instant::now()) {
            // For a while only, so that the host tries again: 0x0201 would be the end for it.
            return Err(LoginStatus::ServiceUnavailable);
        }
        Ok(wanted)
    }

    fn has_passed(&self) {
        if let (true, Some(nexus)) = (self.authenticates, &self.nexus) {
            self.shard.service.authenticator.has_passed(self.address, &nexus.initiator);
        }
    }

    /// The login ended with an authentication failure.
    fn has_failed(&self, now: Instant) {
        let Some(Nexus { initiator, target, .. }) = &self.nexus else { return };
        let target = target.as_deref().unwrap_or("-");
        let portal = self.stream.local_addr().map_or_else(|_| "-".to_owned(), |at| at.to_string());
        if !self.authenticates {
            warn!(%initiator, target, portal, "login refused: it insists on CHAP, and no secrets are set for it");
            return;
        }
        warn!(%initiator, target, portal, "authentication failed");
        if self.shard.service.authenticator.has_failed(self.address, initiator, now) {
            warn!(%initiator, target, portal, "too many failures: its logins are refused for a while");
        }
    }

    fn login(&mut self, mut request: LoginRequest) {
        // iSCSI names are compared in lower case (RFC 7143 4.2.7.2); the map keeps them so.
        request.initiator_name.make_ascii_lowercase();
        if let Some(name) = &mut request.target_name {
            name.make_ascii_lowercase();
        }
        let view = self.shard.service.view();
        let nexus = Nexus {
            initiator: request.initiator_name.clone(),
            isid: request.isid.0,
            target: request.target_name.clone(),
        };
        let decision = if self.shard.service.is_isolated() {
            Err(LoginStatus::ServiceUnavailable)
        } else {
            decide(&view, &request)
        };
        if let (Ok(()), Some(address)) = (&decision, self.redirection(&request)) {
            info!(initiator = %request.initiator_name, %address, "login redirected");
            return self.proto.login_redirect(false, &address.to_string());
        }
        let decision = decision.and_then(|()| self.whereto(&nexus, &request));
        match decision {
            Ok(Whereto::Elsewhere(shard)) => self.elsewhere = Some(shard),
            Ok(whereto) => {
                let authentication = match self.authentication(&request) {
                    Ok(authentication) => authentication,
                    Err(status) => {
                        warn!(initiator = %request.initiator_name, ?status, "login refused before it could authenticate");
                        return self.proto.login_refuse(status);
                    }
                };
                let portal_group_tag = view.group_tag;
                let mut grant = LoginGrant { portal_group_tag, authentication, ..LoginGrant::default() };
                self.nexus = Some(nexus);
                match whereto {
                    Whereto::Session(group) => {
                        grant.tsih = request.tsih;
                        self.proto.login_join(grant, &group.session);
                        self.joins = Some(group);
                    }
                    Whereto::New | Whereto::Elsewhere(_) => {
                        grant.tsih = self.shard.service.sessions.next_tsih();
                        self.proto.login_grant(grant);
                    }
                }
            }
            Err(status) => {
                warn!(
                    initiator = %request.initiator_name, target = request.target_name.as_deref().unwrap_or("-"),
                    ?status, "login refused"
                );
                self.proto.login_refuse(status);
            }
        }
    }

    /// Whether the login begins a session, or is of one that there is (RFC 7143 6.3.4).
    fn whereto(&self, nexus: &Nexus, request: &LoginRequest) -> Result<Whereto, LoginStatus> {
        if request.tsih == 0 {
            return Ok(Whereto::New);
        }
        let shard = self.shard.service.sessions.find(nexus, request.tsih)?;
        if shard != self.shard.index {
            return Ok(Whereto::Elsewhere(shard));
        }
        let group = self.shard.group(request.tsih).ok_or(LoginStatus::SessionDoesNotExist)?;
        if group.has_room_for(request.cid) {
            Ok(Whereto::Session(group))
        } else {
            Err(LoginStatus::TooManyConnections)
        }
    }

    /// Where else this login is to go. Discovery stays here, and so does who was sent to this very portal.
    fn redirection(&self, request: &LoginRequest) -> Option<SocketAddr> {
        let address = self.shard.service.limits.redirect?;
        let here = self.stream.local_addr().ok()?;
        let is_here = (here.ip().to_canonical(), here.port()) == (address.ip(), address.port());
        (request.session_type == SessionType::Normal && !is_here).then_some(address)
    }

    /// Takes the place of an older session or connection, and waits until nothing of that can take effect any more, before the login's
    /// last answer leaves (RFC 7143, 6.3.4, 6.3.5).
    async fn take_place(&mut self, info: &SessionInfo) -> Result<Option<Membership>, End> {
        let Some(nexus) = self.nexus.clone().filter(|nexus| nexus.target.is_some()) else { return Ok(None) };
        let sessions = &self.shard.service.sessions;
        let seat = Seat { tsih: info.tsih, cid: info.request.cid, shard: self.shard.index };
        let gone = || End::Reset("the session that it was to join has ended");
        let (group, before) = match self.joins.take() {
            Some(group) => (group, sessions.join(&nexus, &self.handle, seat).ok_or_else(gone)?),
            None => {
                let group = Group::new(self.proto.session().ok_or_else(gone)?);
                self.shard.add_group(&group);
                (group, sessions.take(nexus, &self.handle, seat))
            }
        };
        let membership = group.enter(seat.cid, &self.handle);
        match self.wait_for(before).await {
            Ok(()) => Ok(Some(membership)),
            Err(end) => {
                Self::leave_group(&self.shard, &membership);
                Err(end)
            }
        }
    }

    fn leave_group(shard: &Shard, membership: &Membership) {
        if membership.leave() {
            shard.remove_group(&membership.group);
        }
    }

    /// Ends the other connections of the session, or the one with this identifier, and waits until nothing of them can take effect any
    /// more. False if there is none.
    async fn end_others(&mut self, cid: Option<u16>) -> bool {
        let membership = self.session.as_ref().and_then(Session::membership);
        let others = membership.map(|membership| membership.others(cid)).unwrap_or_default();
        for other in &others {
            other.ask(Stop::Close);
        }
        // Two that end each other wait for neither.
        if self.handle.stop() == Stop::No {
            let limit = self.shard.service.limits.iscsi.login_timeout;
            let ended = async {
                for other in &others {
                    other.gone().await;
                }
            };
            let _ = tokio::time::timeout(limit, ended).await;
        }
        !others.is_empty()
    }

    async fn wait_for(&self, before: Vec<Arc<ConnectionHandle>>) -> Result<(), End> {
        if before.is_empty() {
            return Ok(());
        }
        info!(sessions = before.len(), "waiting for what this initiator has left under way");
        let limit = self.shard.service.limits.iscsi.login_timeout;
        let ended = async {
            for handle in &before {
                handle.gone().await;
            }
        };
        match tokio::time::timeout(limit, ended).await {
            Ok(()) => Ok(()),
            Err(_) => Err(End::Reset("an older session of the initiator still has commands in RADOS")),
        }
    }

    fn send_targets(&mut self, request: &SendTargetsRequest) {
        let view = self.shard.service.view();
        let local = self.stream.local_addr().ok();
        let portals: Vec<(String, u16)> = local
            .map(|local| view.portals_for(local.ip()))
            .into_iter()
            .flatten()
            .map(|portal| (portal.address.to_string(), portal.group_tag))
            .collect();
        let initiator = self.nexus.as_ref().map_or("", |nexus| nexus.initiator.as_str());
        let own = self.nexus.as_ref().and_then(|nexus| nexus.target.as_deref());
        let records: Vec<TargetRecord> = view
            .targets
            .iter()
            .filter(|(name, target)| {
                target.admits(initiator)
                    && match request {
                        SendTargetsRequest::All => true,
                        SendTargetsRequest::This => Some(name.as_str()) == own,
                        SendTargetsRequest::Named(wanted) => *name == wanted,
                    }
            })
            .map(|(name, _)| TargetRecord { name: name.clone(), portals: portals.clone() })
            .collect();
        self.proto.send_targets(&records);
    }

    /// Writes what is queued, for a bounded time.
    async fn flush(&mut self) {
        let flushed = tokio::time::timeout(FLUSH_TIMEOUT, async {
            while self.has_output() {
                if self.write().is_err() || (self.has_output() && self.stream.writable().await.is_err()) {
                    return;
                }
            }
        });
        let _ = flushed.await;
    }

    /// Ends the connection. It is gone only when nothing of it can take effect any more.
    async fn end(mut self, end: &End) {
        if matches!(end, End::Asked) {
            self.finish_in_order().await;
        }
        if matches!(end, End::Reset(_) | End::Evicted) {
            // Linger of zero makes the close a reset.
            let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
        self.inbox.close();
        self.proto.close();
        if let Some(session) = &mut self.session {
            session.close();
        }
        if !matches!(end, End::Reset(_) | End::Evicted | End::Eof | End::Io(_)) {
            self.close_in_order().await;
        }
        drop(self.stream);
        if let Some(membership) = self.session.as_ref().and_then(Session::membership) {
            // One of them may have waited for what this one did not bring.
            membership.wake_others();
        }
        self.shard.service.sessions.hung_up();
        if let (Some(nexus), true) = (&self.nexus, self.inbox.in_flight() > 0) {
            self.shard.service.sessions.linger(&self.handle, nexus);
        }
        while self.inbox.in_flight() > 0 {
            self.notify.notified().await;
        }
        if let Some(membership) = self.session.as_ref().and_then(Session::membership) {
            Self::leave_group(&self.shard, membership);
        }
        self.shard.service.sessions.leave(&self.handle, self.nexus.as_ref());
    }

    /// Says that nothing more comes, and takes what the peer has still sent: closing a socket with unread bytes would be a reset, which can
    /// cost the peer the last answers.
    async fn close_in_order(&mut self) {
        let drained = async {
            self.stream.shutdown().await?;
            let mut sink = [0; 16 << 10];
            while self.stream.read(&mut sink).await? > 0 {}
            io::Result::Ok(())
        };
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, drained).await;
    }

    /// Answers what is in flight, then tells the initiator that the target goes.
    async fn finish_in_order(&mut self) {
        let ended = async {
            loop {
                if self.outcomes().is_err() || self.write().is_err() {
                    return;
                }
                if self.inbox.in_flight() == 0 {
                    return;
                }
                self.notify.notified().await;
            }
        };
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, ended).await;
        self.flush().await;
    }
}

/// The address of the other end; one that has gone meanwhile has none.
fn address_of(stream: &TcpStream) -> std::net::IpAddr {
    stream.peer_addr().map_or(std::net::Ipv4Addr::UNSPECIFIED.into(), |peer| peer.ip())
}

/// May this initiator log in here?
fn decide(view: &View, request: &LoginRequest) -> Result<(), LoginStatus> {
    if request.session_type == SessionType::Discovery {
        // They have one connection.
        return if request.tsih == 0 { Ok(()) } else { Err(LoginStatus::SessionDoesNotExist) };
    }
    let target = request.target_name.as_deref().and_then(|name| view.targets.get(name));
    let target = target.ok_or(LoginStatus::NotFound)?;
    if target.admits(&request.initiator_name) { Ok(()) } else { Err(LoginStatus::AuthorizationFailure) }
}
