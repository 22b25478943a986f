//! The HTTPS server: accepts, bounds, hands requests to a router.

mod connection;
mod flow;
mod gate;
mod stream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use ipnet::IpNet;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::config::{FALLBACK_HTTPS_PORT, HTTPS_PORT, Limits, TlsMode};
use crate::embedded::RunningRelay;
use crate::tls::Acceptor;
pub(crate) use connection::{Peer, client_of};
pub(crate) use flow::Flow;
use gate::Gate;
pub(crate) use gate::{Holder, SITE, prefix, source_of};

const BACKLOG: i32 = 1024;
/// How long to wait when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// An unacknowledged byte older than this ends the connection: a dead peer is no control session.
const DEAD_PEER: Duration = Duration::from_secs(60);

/// A bound listener with what it needs to serve.
pub(crate) struct Server {
    pub(crate) listener: TcpListener,
    pub(crate) acceptor: Acceptor,
    pub(crate) router: Router,
    pub(crate) limits: Arc<Limits>,
    pub(crate) trusted_proxies: Arc<[IpNet]>,
    /// Serves TURN on the same port.
    pub(crate) relay: Option<Arc<dyn RunningRelay>>,
}

impl Server {
    /// Serves until `shutdown` turns true, then asks every connection to end and waits for them,
    /// at most `grace`.
    pub(crate) async fn run(self, mut shutdown: watch::Receiver<bool>, grace: Duration) {
        let gate = Gate::new(self.limits.clone());
        let connections = connection::Context::new(&self, shutdown.clone());
        let mut tasks = tokio::task::JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
                _ = shutdown.wait_for(|stop| *stop) => break,
            };
            let (socket, source) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    debug!(%error, "can't accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let source = SocketAddr::new(source.ip().to_canonical(), source.port());
            let trusted = self.trusted_proxies.iter().any(|net| net.contains(&source.ip()));
            let Some(permit) = gate.admit(source.ip(), trusted) else {
                debug!("refused a connection: too many");
                continue;
            };
            if let Err(error) = tune(&socket) {
                debug!(%error, "can't set socket options");
            }
            tasks.spawn(connections.clone().run(socket, source, permit));
        }
        drop(self.listener);
        let all_done = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, all_done).await.is_err() {
            debug!("connections left open at shutdown");
        }
    }
}

fn tune(socket: &TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let socket = SockRef::from(socket);
    socket.set_tcp_user_timeout(Some(DEAD_PEER))?;
    // For a peer that has died while it had nothing to acknowledge.
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(2 * DEAD_PEER))
}

/// Binds the HTTPS port.
///
/// # Errors
/// The address is taken or not permitted; the text says what to do.
pub(crate) fn bind(listen: Option<SocketAddr>, tls: &TlsMode) -> Result<TcpListener> {
    if let Some(addr) = listen {
        return bind_to(addr).map_err(|error| {
            let advice = advice(&error);
            anyhow::Error::new(error).context(format!("can't listen on {addr}{advice}"))
        });
    }
    let first = bind_any(HTTPS_PORT);
    let error = match first {
        Ok(listener) => return Ok(listener),
        Err(error) => error,
    };
    if matches!(tls, TlsMode::Acme(_)) {
        return Err(error).context(
            "can't listen on port 443, which ACME needs: run as root, or \
             `setcap cap_net_bind_service=+ep` the binary, or free the port",
        );
    }
    warn!(%error, "port 443 can't be used; taking {FALLBACK_HTTPS_PORT}");
    bind_any(FALLBACK_HTTPS_PORT).with_context(|| {
        format!(
            "neither port 443 nor {FALLBACK_HTTPS_PORT} is free; choose one: --listen [::]:PORT"
        )
    })
}

/// What to do about a port that can't be had.
#[expect(clippy::wildcard_enum_match_arm, reason = "the standard library's enum, ever growing")]
fn advice(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::AddrInUse => {
            "; another program has that port: stop it, or choose another with --listen"
        }
        ErrorKind::AddrNotAvailable => {
            "; this machine has no such address: `ip address` shows those it has, and [::] means all"
        }
        ErrorKind::PermissionDenied => {
            "; ports below 1024 are for root: use sudo, or a port from 1024 up"
        }
        _ => "",
    }
}

/// All addresses of both families, or of IPv4 where there is no IPv6.
fn bind_any(port: u16) -> std::io::Result<TcpListener> {
    let v6 = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port));
    let v4 = SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, port));
    match bind_to(v6) {
        Err(error) if crate::stun::is_family_missing(&error) => bind_to(v4),
        other => other,
    }
}

fn bind_to(addr: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(!addr.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
