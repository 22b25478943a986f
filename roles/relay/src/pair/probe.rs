//! Whether a pair relay works: two sockets of our own are joined by it and talk.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::net::UdpSocket;
use tokio::time::{timeout, timeout_at};
use warren_pair::{Authenticator, Guid, Proof};

/// How long an answer is waited for before a handshake is sent again.
const RETRY: Duration = Duration::from_millis(200);

/// What to probe.
#[derive(Debug, Clone)]
pub struct ProbeConfig {
    /// The relay.
    pub relay: SocketAddr,
    /// Magic and key.
    pub authenticator: Authenticator,
    /// How long it may take.
    pub timeout: Duration,
}

/// What a probe saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeReport {
    /// From the first handshake until both sides knew that they are joined.
    pub joined: Duration,
    /// One datagram to the other side and one back, through the relay.
    pub round_trip: Duration,
}

/// Joins two sockets of this machine through the relay, and sends a datagram each way.
///
/// # Errors
///
/// If that doesn't succeed within the time; the text says how far it came.
pub async fn probe(config: &ProbeConfig) -> anyhow::Result<ProbeReport> {
    let ends = (end(config).await?, end(config).await?);
    let deadline = tokio::time::Instant::now() + config.timeout;
    let guid = Guid::new(rand::random()).context("a random GUID is not zero")?;
    let start = Instant::now();
    let joined = timeout_at(deadline, join(config, guid, &ends)).await;
    let Ok(joined) = joined else {
        bail!(
            "{} joined no two sockets within {:.1} s: is it running, is the key the same, is it \
             draining or full?",
            config.relay,
            config.timeout.as_secs_f64()
        )
    };
    joined?;
    let joined = start.elapsed();
    let Ok(round_trip) = timeout_at(deadline, echo(&ends)).await else {
        bail!("{} joined two sockets, but forwards nothing between them", config.relay)
    };
    Ok(ProbeReport { joined, round_trip: round_trip? })
}

async fn end(config: &ProbeConfig) -> anyhow::Result<UdpSocket> {
    let any: SocketAddr = if config.relay.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any).await.context("can't open a socket")?;
    let relay = config.relay;
    socket.connect(relay).await.with_context(|| format!("there is no way to {relay}"))?;
    Ok(socket)
}

/// Says hello from both ends until both have heard the other.
async fn join(
    config: &ProbeConfig,
    guid: Guid,
    ends: &(UdpSocket, UdpSocket),
) -> anyhow::Result<()> {
    let nonces: [[u8; 16]; 2] = [rand::random(), rand::random()];
    let hello = |nonce| {
        let time = u64::try_from(super::unix_time().as_micros()).unwrap_or(u64::MAX);
        config.authenticator.write(guid, &Proof { time, nonce }.to_bytes())
    };
    let (mut first, mut second) = (false, false);
    while !(first && second) {
        send(&ends.0, &hello(nonces[0]), config.relay).await?;
        send(&ends.1, &hello(nonces[1]), config.relay).await?;
        first |= hears(&ends.0, guid, &config.authenticator, config.relay).await?;
        // The second's handshake has joined them, so this one goes across.
        send(&ends.0, &hello(nonces[0]), config.relay).await?;
        second |= hears(&ends.1, guid, &config.authenticator, config.relay).await?;
    }
    Ok(())
}

/// A refusal (ICMP port unreachable) says at once that nobody listens there.
async fn send(end: &UdpSocket, datagram: &[u8], relay: SocketAddr) -> anyhow::Result<()> {
    end.send(datagram).await.map(drop).or_else(|error| refused(error, relay))
}

fn refused(error: io::Error, relay: SocketAddr) -> anyhow::Result<()> {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        bail!("nothing listens at {relay}");
    }
    Err(error).with_context(|| format!("can't reach {relay}"))
}

async fn hears(
    end: &UdpSocket,
    guid: Guid,
    authenticator: &Authenticator,
    relay: SocketAddr,
) -> anyhow::Result<bool> {
    let mut buffer = [0; 2048];
    let until = tokio::time::Instant::now() + RETRY;
    while let Ok(received) = timeout_at(until, end.recv(&mut buffer)).await {
        match received {
            Ok(length) => {
                let heard = authenticator.read(&buffer[..length]);
                if heard.is_ok_and(|handshake| handshake.guid == guid) {
                    return Ok(true);
                }
            }
            Err(error) => refused(error, relay)?,
        }
    }
    Ok(false)
}

async fn echo((first, second): &(UdpSocket, UdpSocket)) -> anyhow::Result<Duration> {
    let token: [u8; 32] = rand::random();
    loop {
        let start = Instant::now();
        first.send(&token).await?;
        if !arrives(second, &token).await? {
            continue;
        }
        second.send(&token).await?;
        if arrives(first, &token).await? {
            return Ok(start.elapsed());
        }
    }
}

async fn arrives(end: &UdpSocket, token: &[u8]) -> anyhow::Result<bool> {
    let mut buffer = [0; 2048];
    let found = async {
        loop {
            let length = end.recv(&mut buffer).await?;
            if buffer[..length] == *token {
                return io::Result::Ok(());
            }
        }
    };
    match timeout(RETRY, found).await {
        Ok(found) => Ok(found.map(|()| true)?),
        Err(_) => Ok(false),
    }
}
