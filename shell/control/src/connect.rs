//! A TCP (and TLS) connection to the broker, over whichever of its addresses answers first.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustls::CertificateError;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::error::ControlError;
use crate::proxy::Proxy;
use crate::tls::Tls;
use crate::url::{BrokerUrl, Host};

/// From one attempt to the next while none has answered (RFC 8305 §5).
const STAGGER: Duration = Duration::from_millis(250);
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const TLS_TIMEOUT: Duration = Duration::from_secs(10);

/// A byte stream to the broker.
#[derive(Debug)]
pub enum Transport {
    /// Without TLS: to this machine.
    Plain(TcpStream),
    /// Over TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

/// A [`Transport`] and what was learned on the way.
#[derive(Debug)]
pub(crate) struct Dialled {
    pub(crate) transport: Transport,
    pub(crate) local: SocketAddr,
    /// The address that answered, then the others.
    pub(crate) addresses: Vec<SocketAddr>,
    /// One round trip: what the TCP handshake took.
    pub(crate) rtt: Duration,
}

/// Connects to the broker. `known` are addresses that worked before, for when names don't resolve.
pub(crate) async fn dial(
    url: &BrokerUrl,
    tls: &Tls,
    known: &[SocketAddr],
) -> Result<Dialled, ControlError> {
    if let Some(proxy) = Proxy::for_host(&url.host.bare()) {
        return dial_through(&proxy, url, tls).await;
    }
    let addresses = resolve(url, known).await?;
    let authority = url.authority();
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, race(&addresses)).await;
    let (stream, remote, rtt) = connected
        .map_err(|_| ControlError::Timeout(CONNECT_TIMEOUT.as_secs()))?
        .map_err(|source| ControlError::Connect { authority: authority.clone(), source })?;
    let local = stream
        .local_addr()
        .map_err(|source| ControlError::Connect { authority: authority.clone(), source })?;
    let mut ordered = vec![remote];
    ordered.extend(addresses.into_iter().filter(|address| *address != remote));
    let transport = if url.tls {
        Transport::Tls(Box::new(handshake(url, tls, stream).await?))
    } else {
        Transport::Plain(stream)
    };
    Ok(Dialled { transport, local, addresses: ordered, rtt })
}

/// The same through an HTTP proxy, which resolves the broker's name itself.
async fn dial_through(proxy: &Proxy, url: &BrokerUrl, tls: &Tls) -> Result<Dialled, ControlError> {
    let failed = |source| ControlError::Connect { authority: url.authority(), source };
    let (stream, rtt) = proxy.open(&url.host.bare(), url.port).await.map_err(failed)?;
    let local = stream.local_addr().map_err(failed)?;
    let transport = if url.tls {
        Transport::Tls(Box::new(handshake(url, tls, stream).await?))
    } else {
        Transport::Plain(stream)
    };
    Ok(Dialled { transport, local, addresses: Vec::new(), rtt })
}

/// A TCP connection to whichever address of a host answers first, marked as all of the daemon's
/// sockets are; through an HTTP proxy where the environment names one for that host.
///
/// # Errors
/// What the system or the proxy says, or that it took too long.
pub async fn dial_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    match Proxy::for_host(host) {
        Some(proxy) => proxy.open(host, port).await.map(|(stream, _)| stream),
        None => dial_directly(host, port).await,
    }
}

pub(crate) async fn dial_directly(host: &str, port: u16) -> io::Result<TcpStream> {
    let timed_out = |_| io::Error::from(io::ErrorKind::TimedOut);
    let addresses = match host.parse::<IpAddr>() {
        Ok(ip) => vec![SocketAddr::new(ip, port)],
        Err(_) => {
            let lookup = tokio::net::lookup_host((host, port));
            let found = tokio::time::timeout(RESOLVE_TIMEOUT, lookup).await.map_err(timed_out)?;
            interleave(found?.collect())
        }
    };
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, race(&addresses)).await;
    connected.map_err(timed_out)?.map(|(stream, _, _)| stream)
}

async fn resolve(url: &BrokerUrl, known: &[SocketAddr]) -> Result<Vec<SocketAddr>, ControlError> {
    let name = match &url.host {
        Host::Ip(ip) => return Ok(vec![SocketAddr::new(*ip, url.port)]),
        Host::Name(name) => name,
    };
    let lookup = tokio::net::lookup_host((name.as_str(), url.port));
    let resolved = match tokio::time::timeout(RESOLVE_TIMEOUT, lookup).await {
        Ok(Ok(addresses)) => Ok(addresses.collect::<Vec<_>>()),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
    };
    let mut addresses = match resolved {
        Ok(addresses) => interleave(addresses),
        Err(source) if known.is_empty() => {
            return Err(ControlError::Resolve { host: name.clone(), source });
        }
        Err(error) => {
            tracing::debug!(%error, "the broker's name doesn't resolve, trying known addresses");
            Vec::new()
        }
    };
    for address in known {
        if !addresses.contains(address) {
            addresses.push(*address);
        }
    }
    Ok(addresses)
}

/// Families by turns, the resolver's first choice first (RFC 8305 §4).
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut first, mut second): (VecDeque<_>, VecDeque<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let mut ordered = Vec::with_capacity(first.len() + second.len());
    while !first.is_empty() || !second.is_empty() {
        ordered.extend(first.pop_front());
        ordered.extend(second.pop_front());
    }
    ordered
}

/// Happy eyeballs: a further attempt each [`STAGGER`], or as soon as one fails; the first to
/// connect wins and the others are dropped.
async fn race(addresses: &[SocketAddr]) -> io::Result<(TcpStream, SocketAddr, Duration)> {
    let mut waiting = addresses.iter().copied();
    let mut attempts = JoinSet::new();
    let mut last_error = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        match waiting.next() {
            Some(address) => {
                attempts.spawn(async move { (address, connect(address).await) });
            }
            None if attempts.is_empty() => return Err(last_error),
            None => {}
        }
        let more = waiting.len() > 0;
        let next = tokio::select! {
            finished = attempts.join_next() => finished,
            () = tokio::time::sleep(STAGGER), if more => None,
        };
        match next {
            Some(Ok((address, Ok((stream, rtt))))) => return Ok((stream, address, rtt)),
            Some(Ok((_, Err(error)))) => last_error = error,
            Some(Err(error)) => last_error = io::Error::other(error),
            None => {}
        }
    }
}

async fn connect(address: SocketAddr) -> io::Result<(TcpStream, Duration)> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Without privilege there is no mark, nor a mesh that could swallow the connection.
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(&socket).set_mark(warren_net::HostConfig::MARK);
    let begun = Instant::now();
    let stream = socket.connect(address).await?;
    let rtt = begun.elapsed();
    stream.set_nodelay(true)?;
    Ok((stream, rtt))
}

async fn handshake(
    url: &BrokerUrl,
    tls: &Tls,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, ControlError> {
    let name = match &url.host {
        Host::Name(name) => ServerName::try_from(name.clone()).map_err(|_| ControlError::Tls {
            authority: url.authority(),
            reason: "the host is no valid DNS name".to_owned(),
        })?,
        Host::Ip(ip) => ServerName::from(*ip),
    };
    let connecting = TlsConnector::from(Arc::clone(&tls.config)).connect(name, stream);
    match tokio::time::timeout(TLS_TIMEOUT, connecting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(tls_error(url, &error)),
        Err(_) => Err(ControlError::Timeout(TLS_TIMEOUT.as_secs())),
    }
}

fn tls_error(url: &BrokerUrl, error: &io::Error) -> ControlError {
    let authority = url.authority();
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(
            CertificateError::ApplicationVerificationFailure,
        )) => ControlError::WrongPin { authority },
        _ => ControlError::Tls { authority, reason: error.to_string() },
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
