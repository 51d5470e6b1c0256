//! The task that drives one iSCSI connection: socket on one side, [`lusd_iscsi::Connection`] in the middle, the session's LUNs on the
//! other. Everything it owns stays on its shard.
//!
//! ```text
//!   readable ─► try_read_buf ─► proto.received ─► proto.poll ─► Event ─► Session (plan, gate, backend)
//!   inbox    ─► Outcome      ─► Session ─► proto.respond ─► fill_io_slices ─► try_write_vectored ─► writable
//! ```
//!
//! One round handles all that is there before it writes, so many answers leave in one system call.

mod end;
mod handover;
mod login;

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BufMut;
use lusd_iscsi::{AsyncEvent, CloseReason, Event, LoginStatus, LogoutReason, SessionType};
use lusd_scsi::InitiatorPort;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tracing::{Instrument, debug, info, info_span, warn};

use self::end::End;
use super::arrivals::Arrivals;
use super::memory::ConnectionMemory;
use super::shard::{Accepted, Begun, Inbox, Shard};
use crate::target::answer;
use crate::target::group::Group;
use crate::target::session::{Carrier, Flow, Session};
use crate::target::sessions::{ConnectionHandle, Nexus, Stop};

/// Slices handed to one write: enough for some thirty Data-In PDUs of header and data.
const IO_SLICES: usize = 128;

/// Reads in one round before others on the shard get their turn.
const READS_PER_ROUND: usize = 16;

/// How often timers are looked at. NOP and login times are whole seconds.
const TICK: Duration = Duration::from_millis(250);

/// How long a host that is asked to log out may take, seconds.
pub const LOGOUT_WITHIN_S: u16 = 2;

/// What a round has left.
enum Pace {
    /// Nothing that could be done now.
    Idle,
    /// Maybe more in the socket.
    Hurried,
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
            End::Eof | End::Asked | End::LoggedOut => info!(reason = %end, "connection ended"),
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
        let handle = service.sessions.enter(notify.clone(), peer.to_canonical());
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
            match self.round().await {
                Ok(Pace::Idle) => {}
                Ok(Pace::Hurried) => {
                    // Nothing below would be waited for, so nobody else on the shard, nor a timer, would have its turn.
                    tokio::task::yield_now().await;
                    self.proto.handle_timeout(Instant::now());
                    continue;
                }
                Err(end) => return end,
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

    /// Handles what is there now: outcomes, input, output.
    async fn round(&mut self) -> Result<Pace, End> {
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
            // It is about to end by itself, in order.
            Stop::LoggedOut if self.session.as_ref().is_some_and(Session::closes) => {}
            Stop::LoggedOut => return Err(End::LoggedOut),
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
            session.refresh(&self.shard, &mut self.proto).map_err(|_| End::Asked)?;
            session.resume(&mut carrier!(self, now));
        }
        self.outcomes()?;
        let mut pace = Pace::Hurried;
        for _ in 0..READS_PER_ROUND {
            self.events().await?;
            if !self.read()? {
                pace = Pace::Idle;
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
                session.follow_acknowledgements(&mut self.proto);
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
                return Ok(pace);
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
        let mut now = Instant::now();
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
                    if info.request.session_type == SessionType::Normal {
                        self.shard.service.sessions.end_login(&self.handle);
                    }
                    let membership = self.take_place(&info).await?;
                    // What was sent behind the login, without waiting for its answer, has grown old with it.
                    now = Instant::now();
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
                Event::Command(command) if command.bidi_read_length.is_some() => {
                    answer::refuse_bidirectional(&mut self.proto, command.tag);
                }
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
                Event::LogoutOther { initiator_task_tag, cid } => {
                    let others = self.end_others(Some(cid))?;
                    if let Some(session) = &mut self.session {
                        session.logout_other(initiator_task_tag, others, &mut self.proto);
                    }
                }
                Event::LogoutRequested { reason } => {
                    let is_all = reason == LogoutReason::CloseSession;
                    let others = if is_all { self.end_others(None)? } else { Vec::new() };
                    // What is in flight ends first: an answered logout means that nothing of the session lands later.
                    if let Some(session) = &mut self.session {
                        session.logout(others, &mut self.proto);
                    } else {
                        self.proto.logout_complete();
                    }
                }
                Event::Closed(reason) => {
                    if reason == CloseReason::Login(LoginStatus::AuthenticationFailure) {
                        self.has_failed(now);
                    }
                    self.linger();
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
}

/// The address of the other end; one that has gone meanwhile has none.
fn address_of(stream: &TcpStream) -> std::net::IpAddr {
    stream.peer_addr().map_or(std::net::Ipv4Addr::UNSPECIFIED.into(), |peer| peer.ip())
}
