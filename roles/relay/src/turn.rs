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
mod run;
mod sockets;
mod streams;
mod tls;
mod worker;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use tokio::task::JoinSet;
use warren_proto::{Pin, RelayLoad};
pub use warren_turn::is_public;
pub use warren_turn::server::{Config as ServerConfig, Counters, Gauges, Quotas, Settings, User};

use crate::metrics;
use hub::Hub;
pub use link::{BrokerConfig, settings_of};
pub use mint::Mint;
pub use run::{Master, run};
pub use sockets::{interface_addresses, relayed_address};
pub use streams::Connection;
pub use tls::pin_of;
pub use warren_control::{BrokerUrl, Pins, RelayLinkConfig};
pub use warren_tls::AcmeConfig;
use worker::Worker;

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
    /// Of the certificate, where it comes out of files.
    pin: Option<watch::Receiver<Pin>>,
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
        let pin = streams::listen(config, &hub, &mut tasks)?;
        let worker = Worker::start(Arc::clone(&hub))?;
        Ok(Self { hub, tasks, pin, _worker: worker })
    }

    #[cfg(test)]
    fn of(hub: Arc<Hub>, worker: Worker) -> Self {
        Self { hub, tasks: JoinSet::new(), pin: None, _worker: worker }
    }

    fn serve_metrics(&mut self, config: &TurnConfig) -> anyhow::Result<()> {
        let Some(address) = config.metrics else { return Ok(()) };
        let observed = observe::Observed::new(Arc::clone(&self.hub), config.mint.clone());
        let served = metrics::listen(address, Arc::new(observed))?;
        self.tasks.spawn(async move {
            let _ = served.await;
        });
        Ok(())
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

    /// The host's addresses are these, instead of [`ServerConfig::own`].
    pub fn set_own(&self, own: &[IpAddr]) {
        self.hub.with(|state, _| state.server.set_own(own));
    }

    /// The key that the certificate's chain ends in, and the next ones; `None` where it doesn't come
    /// out of files.
    fn pin(&self) -> Option<watch::Receiver<Pin>> {
        self.pin.clone()
    }

    /// Waits until it forwards no more, which it never should before it is dropped: nothing but an
    /// end of the whole helps then.
    pub fn failed(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut forwarding = self.hub.forwarding();
        async move {
            let _ = forwarding.wait_for(|forwarding| !*forwarding).await;
        }
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

fn unix_time() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
