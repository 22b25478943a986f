//! The TURN server as a process, or as a part of one.
//!
//! One thread forwards: it waits for all UDP sockets at once, asks the state machine
//! (`warren_turn::server`) once for each run, and sends the run on from where it lies. Connections
//! are served by tokio's threads. Both share the state behind one lock, which is taken for a batch.

mod forward;
mod hub;
mod link;
mod listeners;
mod mint;
mod observe;
mod outbox;
mod sockets;
mod streams;
mod tls;
mod worker;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Ipv6V6Only;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinSet;
use warren_proto::RelayLoad;
pub use warren_turn::server::{Config as ServerConfig, Counters, Gauges, Quotas, Settings, User};

use crate::Stop;
use crate::metrics;
use hub::Hub;
pub use link::BrokerConfig;
use link::Link;
pub use mint::Mint;
pub use sockets::{interface_addresses, relayed_address};
pub use streams::Connection;
pub use tls::pin_of;
pub use warren_control::{BrokerUrl, Pins, RelayLinkConfig};
pub use warren_tls::AcmeConfig;
use worker::Worker;

/// How often the end of a drain is looked for.
const DRAIN_CHECK: Duration = Duration::from_millis(200);

/// How often it is noted what goes on, for the broker.
const LOOK_AROUND: Duration = Duration::from_secs(20);

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// What a TURN server is told.
#[derive(Debug, Clone)]
pub struct TurnConfig {
    /// UDP addresses that clients send to. Those of [`ServerConfig::stun`] belong to them by their
    /// order.
    pub udp: Vec<SocketAddr>,
    /// TCP addresses.
    pub tcp: Vec<SocketAddr>,
    /// TLS addresses, and the certificate.
    pub tls: Option<TlsConfig>,
    /// The state machine's part.
    pub server: ServerConfig,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// Who may have credentials made by HTTP, beside the metrics.
    pub mint: Option<Mint>,
    /// How long a drain may take.
    pub drain_timeout: Duration,
}

/// TURN over TLS.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    /// TCP addresses.
    pub listen: Vec<SocketAddr>,
    /// Where the certificate comes from.
    pub certificate: CertificateSource,
}

/// Where a certificate comes from.
#[derive(Debug, Clone)]
pub enum CertificateSource {
    /// Files, PEM; read again when they change.
    Files {
        /// The certificate chain.
        chain: PathBuf,
        /// Its key.
        key: PathBuf,
    },
    /// An ACME authority, which must find one of the TLS addresses at port 443 of the name.
    Acme {
        /// The name that the certificate is for.
        name: String,
        /// What is kept of account and certificates.
        folder: PathBuf,
        /// The authority.
        config: AcmeConfig,
    },
}

/// A TURN server that runs; it ends when this is dropped.
#[derive(Debug)]
pub struct Turn {
    hub: Arc<Hub>,
    tasks: JoinSet<()>,
    _worker: Worker,
}

impl Turn {
    /// Opens its sockets and begins to serve. To be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// If something can't be listened at, the certificate can't be read, or a thread can't be
    /// started; the text says what to do.
    pub async fn start(config: &TurnConfig) -> anyhow::Result<Self> {
        if let Err(error) = warren_net::raise_open_file_limit() {
            tracing::debug!(%error, "the limit of open files stays");
        }
        let hub = Arc::new(Hub::new(config, Instant::now(), unix_time())?);
        let mut tasks = JoinSet::new();
        streams::listen(config, &hub, &mut tasks).await?;
        let worker = Worker::start(Arc::clone(&hub))?;
        Ok(Self { hub, tasks, _worker: worker })
    }

    /// The UDP addresses that it listens at, in the order of the configuration.
    pub fn udp_addresses(&self) -> Vec<SocketAddr> {
        self.hub.udp_addresses()
    }

    /// Takes other credentials, live.
    pub fn set_settings(&self, settings: Settings) {
        self.hub.with(|state, now| state.server.set_settings(settings, now));
    }

    /// Corrects the wall clock by which credentials expire: the time since 1970, now.
    pub fn set_clock(&self, unix: Duration) {
        self.hub.with(|state, now| state.server.set_clock(unix, now));
    }

    /// Says whether it serves anybody, to those who ask whether it is ready.
    pub fn set_serving(&self, is_serving: bool) {
        self.hub.set_serving(is_serving);
    }

    /// From now on takes nothing new.
    pub fn drain(&self) {
        self.hub.with(|state, _| state.server.drain());
        self.hub.set_draining();
    }

    /// What there is at the moment.
    pub fn gauges(&self) -> Gauges {
        self.hub.with(|state, _| state.server.gauges())
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.hub.with(|state, _| state.server.counters().clone())
    }

    /// What it carries.
    pub fn load(&self) -> RelayLoad {
        let (gauges, counters) = (self.gauges(), self.counters());
        let all = [counters.to_peers, counters.to_clients, counters.between_clients];
        RelayLoad {
            allocations: gauges.allocations as u64,
            bytes: all.iter().map(|traffic| traffic.bytes).sum(),
            packets: all.iter().map(|traffic| traffic.packets).sum(),
        }
    }

    /// Serves a connection that somebody else has accepted, such as a web server that shares its
    /// port. Returns when it has ended.
    pub fn serve_connection(
        &self,
        connection: impl Connection,
        remote: SocketAddr,
    ) -> impl Future<Output = ()> + Send + 'static {
        streams::serve(Arc::clone(&self.hub), connection, remote)
    }
}

/// Who says whom a TURN server serves.
#[derive(Debug)]
pub enum Master {
    /// Its configuration. Settings that come here count from then on.
    Nobody(Receiver<Settings>),
    /// A broker; the settings of the configuration are empty.
    Broker(Box<BrokerConfig>),
}

/// Runs a TURN server until `stops` says so, or has no sender any more.
///
/// # Errors
///
/// As [`Turn::start`]; or the broker wants no more of it.
pub async fn run(
    config: TurnConfig,
    master: Master,
    mut stops: Receiver<Stop>,
) -> anyhow::Result<()> {
    let mut turn = Turn::start(&config).await?;
    let (mut settings, mut link) = match master {
        Master::Nobody(settings) => (Some(settings), None),
        Master::Broker(broker) => {
            turn.set_serving(false);
            (None, Some(Link::new(*broker, &config)))
        }
    };
    if let Some(address) = config.metrics {
        let watched = Arc::new(observe::Observed::new(Arc::clone(&turn.hub), config.mint.clone()));
        let served = metrics::listen(address, watched).await?;
        turn.tasks.spawn(async move {
            let _ = served.await;
        });
    }
    for address in turn.udp_addresses() {
        tracing::info!(%address, "TURN over UDP");
    }
    let mut draining_until: Option<tokio::time::Instant> = None;
    let mut checks = tokio::time::interval(DRAIN_CHECK);
    let mut looks = tokio::time::interval(LOOK_AROUND);
    loop {
        tokio::select! {
            told = stops.recv() => match told.unwrap_or(Stop::Now) {
                Stop::Now => {
                    tracing::info!("the TURN server ends");
                    break;
                }
                Stop::Drain if draining_until.is_none() => {
                    turn.drain();
                    if let Some(link) = &mut link {
                        link.drain();
                    }
                    let allocations = turn.gauges().allocations;
                    tracing::info!(allocations, "draining: nothing new, ends with the last one");
                    draining_until = Some(tokio::time::Instant::now() + config.drain_timeout);
                }
                Stop::Drain => {}
            },
            Some(settings) = next_settings(&mut settings) => turn.set_settings(settings),
            news = next_news(&mut link) => match (news, &mut link) {
                (Some(news), Some(link)) => link.take(news, &turn)?,
                (None, _) | (_, None) => bail!("the broker wants no more of this relay"),
            },
            _ = looks.tick() => {
                if let Some(link) = &mut link {
                    link.look_around(&turn);
                }
            }
            _ = checks.tick(), if draining_until.is_some() => {
                let allocations = turn.gauges().allocations;
                let is_late = draining_until.is_some_and(|until| until.elapsed() > Duration::ZERO);
                if allocations == 0 || is_late {
                    tracing::info!(allocations, "drained, the TURN server ends");
                    break;
                }
            }
        }
    }
    if let Some(link) = &mut link {
        link.farewell().await;
    }
    Ok(())
}

async fn next_settings(settings: &mut Option<Receiver<Settings>>) -> Option<Settings> {
    match settings {
        Some(settings) => settings.recv().await,
        None => None,
    }
}

async fn next_news(link: &mut Option<Link>) -> Option<warren_control::RelayNews> {
    match link {
        Some(link) => link.next().await,
        None => std::future::pending().await,
    }
}

fn unix_time() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

fn listening(what: &str, address: SocketAddr) -> impl FnOnce() -> String {
    let what = what.to_owned();
    move || format!("can't listen for {what} at {address}")
}

/// As with UDP, IPv6's unspecified address means IPv6 alone: IPv4's may have a listener beside it.
fn bind_tcp(what: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bind = || -> std::io::Result<TcpListener> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        if address.is_ipv6() {
            setsockopt(&socket, Ipv6V6Only, &true)?;
        }
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().with_context(listening(what, address))
}
