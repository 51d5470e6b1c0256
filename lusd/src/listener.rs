//! Accepts iSCSI connections and spreads them over the shards.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Context;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::net::shard::ShardHandle;
use crate::service::Service;

/// Connections that the kernel keeps for us: all hosts of a rack at once after a restart.
const BACKLOG: i32 = 1024;
/// Pause after an accept that failed for lack of files or memory: who waits is not lost, and the processor is not burnt.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// At most one line in this time about connections that were refused, or could not be accepted.
const LOG_INTERVAL: Duration = Duration::from_secs(5);
/// A connection on which nothing is heard for so long is probed (the target's NOP-In asks earlier; this is for logins and the like).
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// Between probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Probes before it is given up.
const KEEPALIVE_RETRIES: u32 = 3;

/// Sockets that are bound: nobody else has these ports, and nobody is let in yet.
pub struct Bound {
    sockets: Vec<(SocketAddr, Socket)>,
}

impl Bound {
    /// Binds every portal.
    ///
    /// # Errors
    /// For the first that cannot be bound.
    pub fn bind(portals: &[SocketAddr]) -> anyhow::Result<Self> {
        let bind = |portal: &SocketAddr| Ok((*portal, bind(portal)?));
        Ok(Self { sockets: portals.iter().map(bind).collect::<anyhow::Result<_>>()? })
    }

    /// Lets initiators connect. Must be called inside a runtime.
    ///
    /// # Errors
    /// When another process was faster.
    pub fn listen(self) -> anyhow::Result<Listeners> {
        let listen = |(portal, socket): (SocketAddr, Socket)| {
            let listening = socket.listen(BACKLOG).and_then(|()| TcpListener::from_std(socket.into()));
            listening.with_context(|| format!("cannot listen on {portal}"))
        };
        Ok(Listeners { listeners: self.sockets.into_iter().map(listen).collect::<anyhow::Result<_>>()? })
    }
}

/// Sockets that listen.
pub struct Listeners {
    listeners: Vec<TcpListener>,
}

impl Listeners {
    /// The addresses, with the ports that were bound.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Accepts until `stop` says so (or its sender is gone).
    pub async fn run(
        self,
        service: Arc<Service>,
        shards: Arc<Vec<ShardHandle>>,
        stop: watch::Receiver<bool>,
    ) {
        let next = Arc::new(AtomicUsize::new(0));
        let mut tasks = tokio::task::JoinSet::new();
        for listener in self.listeners {
            tasks.spawn(accept(listener, service.clone(), shards.clone(), next.clone(), stop.clone()));
        }
        while tasks.join_next().await.is_some() {}
    }
}

fn bind(portal: &SocketAddr) -> anyhow::Result<Socket> {
    let context = || format!("cannot listen on {portal}");
    let socket =
        Socket::new(Domain::for_address(*portal), Type::STREAM, Some(Protocol::TCP)).with_context(context)?;
    // A restart must not wait for the old connections' TIME_WAIT.
    socket.set_reuse_address(true).with_context(context)?;
    if portal.is_ipv6() {
        socket.set_only_v6(true).with_context(context)?;
    }
    socket.set_nonblocking(true).with_context(context)?;
    socket.bind(&(*portal).into()).with_context(context)?;
    Ok(socket)
}

async fn accept(
    listener: TcpListener,
    service: Arc<Service>,
    shards: Arc<Vec<ShardHandle>>,
    next: Arc<AtomicUsize>,
    mut stop: watch::Receiver<bool>,
) {
    let mut quiet_until = Instant::now();
    // Says whether a line may be logged now.
    let mut may_log = move || {
        let now = Instant::now();
        let may = now >= quiet_until;
        if may {
            quiet_until = now + LOG_INTERVAL;
        }
        may
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if may_log() {
                    error!(%error, "cannot accept a connection");
                }
                // ECONNABORTED and the like concern one connection; EMFILE, ENFILE, ENOBUFS, ENOMEM stay for a while.
                if !matches!(
                    error.kind(),
                    std::io::ErrorKind::ConnectionAborted | std::io::ErrorKind::Interrupted
                ) {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                continue;
            }
        };
        let max = service.limits.connections;
        if service.sessions.refuses(peer.ip().to_canonical(), max) {
            if may_log() {
                warn!(%peer, max, "too many connections: closed");
            }
            continue;
        }
        let give_up = service.limits.iscsi.nop_timeout;
        match stream.into_std().and_then(|stream| prepare(&stream, give_up).map(|()| stream)) {
            Ok(stream) => {
                let shard = next.fetch_add(1, Relaxed) % shards.len();
                shards[shard].accept(stream).await;
            }
            // The peer is gone already, most likely.
            Err(error) if may_log() => info!(%peer, %error, "cannot set up a connection: closed"),
            Err(_) => {}
        }
    }
}

/// No delay for small answers, and a dead peer is noticed: by the kernel when sent data stays unacknowledged for `give_up`, the time
/// that a NOP-In is waited for, and by probes when nothing is sent.
fn prepare(stream: &TcpStream, give_up: Duration) -> std::io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(give_up))
}

/// The portals as the map is to name them: what is unspecified becomes every address of this machine's interfaces that others can reach,
/// or the loopback address where there is none.
pub fn announced(portals: &[SocketAddr]) -> Vec<SocketAddr> {
    let interfaces: Vec<IpAddr> = nix::ifaddrs::getifaddrs()
        .map(|all| all.filter_map(|interface| address_of(interface.address?)).collect())
        .unwrap_or_default();
    resolve(portals, &interfaces)
}

fn address_of(address: nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

fn resolve(portals: &[SocketAddr], interfaces: &[IpAddr]) -> Vec<SocketAddr> {
    let reachable = |ip: &&IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local() && !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local() && !ip.is_unspecified(),
    };
    let mut announced = Vec::new();
    for portal in portals {
        if !portal.ip().is_unspecified() {
            announced.push(*portal);
            continue;
        }
        let same_family = |ip: &&IpAddr| ip.is_ipv4() == portal.is_ipv4();
        let before = announced.len();
        let found = interfaces.iter().filter(same_family).filter(reachable);
        announced.extend(found.map(|ip| SocketAddr::new(*ip, portal.port())));
        if announced.len() == before {
            let loopback = if portal.is_ipv4() {
                IpAddr::V4(Ipv4Addr::LOCALHOST)
            } else {
                std::net::Ipv6Addr::LOCALHOST.into()
            };
            announced.push(SocketAddr::new(loopback, portal.port()));
        }
    }
    let mut seen = std::collections::HashSet::new();
    announced.retain(|address| seen.insert(*address));
    announced.truncate(lus_map::PORTALS_MAX);
    announced
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unspecified_portals_become_addresses() {
        let portals: Vec<SocketAddr> =
            ["0.0.0.0:3260", "10.0.0.9:3261", "[::]:3260"].map(|p| p.parse().unwrap()).into();
        let interfaces: Vec<IpAddr> = ["127.0.0.1", "10.0.0.1", "10.0.0.2", "169.254.1.1", "fe80::1", "::1"]
            .map(|ip| ip.parse().unwrap())
            .into();
        let shown: Vec<_> = resolve(&portals, &interfaces).iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.0.0.1:3260", "10.0.0.2:3260", "10.0.0.9:3261", "[::1]:3260"]);
        let alone = resolve(
            &["0.0.0.0:1".parse().unwrap(), "127.0.0.1:1".parse().unwrap()],
            &["127.0.0.1".parse().unwrap()],
        );
        assert_eq!(alone, ["127.0.0.1:1".parse::<SocketAddr>().unwrap()]);
        assert!(!announced(&["0.0.0.0:3260".parse().unwrap()]).iter().any(|a| a.ip().is_unspecified()));
    }

    #[tokio::test]
    async fn a_taken_port_is_an_error_that_names_it() {
        let first = Bound::bind(&["127.0.0.1:0".parse().unwrap()]).unwrap().listen().unwrap();
        let address = first.addresses()[0];
        let error = Bound::bind(&[address]).err().expect("the port is taken");
        assert_eq!(error.to_string(), format!("cannot listen on {address}"));
        let stream = TcpStream::connect(address).unwrap();
        prepare(&stream, Duration::from_secs(3)).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(3)));
    }
}
