//! Who comes, where it belongs, and what it has to show before its login is answered.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use lusd_iscsi::{
    Authentication, LoginGrant, LoginRequest, LoginStatus, SendTargetsRequest, SessionInfo, SessionType,
    TargetRecord,
};
use tracing::{info, warn};

use super::{Connection, End};
use crate::net::shard::Shard;
use crate::service::{Redirect, Service};
use crate::target::group::{Group, Membership};
use crate::target::sessions::{ConnectionHandle, Nexus, Seat};
use crate::target::view::View;

/// Where a login leads.
enum Whereto {
    /// To a new session.
    New,
    /// Into one that lives here.
    Session(Rc<Group>),
    /// Into one that lives on this shard.
    Elsewhere(usize),
}

impl Connection {
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

    pub(super) fn has_passed(&self) {
        if let (true, Some(nexus)) = (self.authenticates, &self.nexus) {
            self.shard.service.authenticator.has_passed(self.address, &nexus.initiator);
        }
    }

    /// The login ended with an authentication failure.
    pub(super) fn has_failed(&self, now: Instant) {
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

    pub(super) fn login(&mut self, mut request: LoginRequest) {
        // iSCSI names are compared in lower case (RFC 7143 4.2.7.2); the map keeps them so.
        request.initiator_name.make_ascii_lowercase();
        if let Some(name) = &mut request.target_name {
            name.make_ascii_lowercase();
        }
        let view = self.shard.service.view();
        let nexus = Nexus {
            initiator: request.initiator_name.clone(),
            isid: request.isid.0,
            // Of a discovery session a TargetName says nothing.
            target: request.target_name.clone().filter(|_| request.session_type == SessionType::Normal),
        };
        let decision = if self.shard.service.is_isolated() {
            Err(LoginStatus::ServiceUnavailable)
        } else {
            decide(&view, &request)
        };
        if let (Ok(()), Some(Redirect { address, permanently })) = (&decision, self.redirection(&request)) {
            info!(initiator = %request.initiator_name, %address, permanently, "login redirected");
            return self.proto.login_redirect(permanently, &address.to_string());
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
        let Service { sessions, limits, .. } = &*self.shard.service;
        if request.tsih == 0 {
            let is_full = nexus.target.is_some() && sessions.is_full(nexus, limits.sessions);
            return if is_full { Err(LoginStatus::OutOfResources) } else { Ok(Whereto::New) };
        }
        let shard = sessions.find(nexus, request.tsih)?;
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
    fn redirection(&self, request: &LoginRequest) -> Option<Redirect> {
        let redirect @ Redirect { address, .. } = self.shard.service.limits.redirect?;
        let here = self.stream.local_addr().ok()?;
        let is_here = (here.ip().to_canonical(), here.port()) == (address.ip(), address.port());
        (request.session_type == SessionType::Normal && !is_here).then_some(redirect)
    }

    /// Takes the place of an older session or connection, and waits until nothing of that can take effect any more, before the login's
    /// last answer leaves (RFC 7143, 6.3.4, 6.3.5).
    pub(super) async fn take_place(&mut self, info: &SessionInfo) -> Result<Option<Membership>, End> {
        let Some(nexus) = self.nexus.clone().filter(|nexus| nexus.target.is_some()) else { return Ok(None) };
        let sessions = &self.shard.service.sessions;
        let seat = Seat { tsih: info.tsih, cid: info.request.cid, shard: self.shard.index };
        let gone = || End::Reset("the session that it was to join has ended");
        let (group, before) = match self.joins.take() {
            // Others may have come in since it was looked at.
            Some(group) if !group.has_room_for(seat.cid) => {
                return Err(End::Reset("its session has as many connections as it may have"));
            }
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

    pub(super) fn leave_group(shard: &Shard, membership: &Membership) {
        if membership.leave() {
            shard.remove_group(&membership.group);
        }
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

    pub(super) fn send_targets(&mut self, request: &SendTargetsRequest) {
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
                        // Names are compared in lower case (RFC 7143 4.2.7.2).
                        SendTargetsRequest::Named(wanted) => name.eq_ignore_ascii_case(wanted),
                    }
            })
            .map(|(name, _)| TargetRecord { name: name.clone(), portals: portals.clone() })
            .collect();
        self.proto.send_targets(&records);
    }
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
