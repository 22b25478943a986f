//! Keeps a UDP port of the router mapped to this host: PCP (RFC 6887), else NAT-PMP (RFC 6886),
//! else UPnP-IGD, against the default gateway of IPv4.
//!
//! Everything runs in a task of its own with bounded waits; the daemon only reads the result.

mod igd;
mod pmp;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU16;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use crate::config::{LocalAddress, NetworkState};

/// Lifetime that is asked for. A router that restarts forgets its mappings, so they are renewed
/// much sooner than they would have to be.
const LIFETIME: Duration = Duration::from_secs(3_600);
const RENEW_AT_MOST: Duration = Duration::from_secs(600);
const RENEW_AT_LEAST: Duration = Duration::from_secs(15);
/// After a failure; doubled each time up to the second.
const FIRST_RETRY: Duration = Duration::from_secs(30);
const LAST_RETRY: Duration = Duration::from_secs(1_800);
/// For one whole attempt with all protocols.
const ATTEMPT: Duration = Duration::from_secs(20);
/// For deleting a mapping when the daemon stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// What to map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortMapperConfig {
    /// The UDP port here; the same one is asked for outside.
    pub port: NonZeroU16,
    /// PCP's mapping nonce (RFC 6887 §11.2): random once and kept, so that a restarted daemon may
    /// renew its own mapping.
    pub nonce: [u32; 3],
}

/// How a port was mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MappingProtocol {
    /// Port Control Protocol, RFC 6887.
    Pcp,
    /// NAT Port Mapping Protocol, RFC 6886.
    NatPmp,
    /// UPnP Internet Gateway Device.
    Upnp,
}

impl MappingProtocol {
    /// As users know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pcp => "PCP",
            Self::NatPmp => "NAT-PMP",
            Self::Upnp => "UPnP-IGD",
        }
    }
}

/// A mapping that holds at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// What leads to us from outside the router. Not necessarily public: the router may itself sit
    /// behind another NAT.
    pub external: SocketAddrV4,
    /// How it was made.
    pub protocol: MappingProtocol,
    /// The router.
    pub gateway: Ipv4Addr,
}

/// Maps a port and keeps it mapped.
#[derive(Debug)]
pub struct PortMapper {
    mapping: watch::Receiver<Option<Mapping>>,
    refresh: Arc<Notify>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

/// Where and for whom to map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    gateway: Ipv4Addr,
    local: Ipv4Addr,
}

/// A mapping with what it takes to renew and delete it.
#[derive(Debug)]
enum Held {
    Pmp(pmp::PmpMapping),
    Igd(igd::IgdMapping),
}

impl PortMapper {
    /// Maps a UDP port at the default gateway, now and whenever `network` changes.
    ///
    /// Must be called within a tokio runtime.
    pub fn start(config: PortMapperConfig, network: watch::Receiver<NetworkState>) -> Self {
        let (sender, mapping) = watch::channel(None);
        let (stop, stopped) = oneshot::channel();
        let refresh = Arc::new(Notify::new());
        let task = tokio::spawn(run(config, network, sender, Arc::clone(&refresh), stopped));
        Self { mapping, refresh, stop: Some(stop), task }
    }

    /// The mapping that holds at present.
    pub fn mapping(&self) -> Option<Mapping> {
        *self.mapping.borrow()
    }

    /// Waits for another mapping, or for none.
    pub async fn changed(&mut self) -> Option<Mapping> {
        if self.mapping.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        *self.mapping.borrow_and_update()
    }

    /// Renews the mapping, or tries again to get one, at once.
    pub fn refresh(&self) {
        self.refresh.notify_one();
    }

    /// Another receiver of the same changes.
    pub fn subscribe(&self) -> watch::Receiver<Option<Mapping>> {
        self.mapping.clone()
    }

    /// Deletes the mapping; takes four seconds at most.
    pub async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        let _ = timeout(2 * FAREWELL, &mut self.task).await;
    }
}

impl Drop for PortMapper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    config: PortMapperConfig,
    mut network: watch::Receiver<NetworkState>,
    sender: watch::Sender<Option<Mapping>>,
    refresh: Arc<Notify>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut held: Option<(Place, Held)> = None;
    let mut retry = FIRST_RETRY;
    loop {
        let place = Place::of(&network.borrow_and_update());
        let mut stopping = false;
        {
            let mut work = pin!(advance(config, place, &mut held));
            tokio::select! {
                _ = &mut stopped => {
                    stopping = true;
                    // What is just being made should be known, so that it can be deleted.
                    let _ = timeout(FAREWELL / 2, work).await;
                }
                () = &mut work => {}
            }
        }
        if stopping {
            break;
        }
        let mapping = held.as_ref().map(|(place, held)| held.mapping(place.gateway));
        let wait = match &held {
            Some((_, held)) => {
                retry = FIRST_RETRY;
                held.renewal()
            }
            None => {
                let wait = retry;
                retry = (retry * 2).min(LAST_RETRY);
                wait
            }
        };
        sender.send_if_modified(|old| {
            let changed = *old != mapping;
            *old = mapping;
            changed
        });
        match sleep(Instant::now() + wait, place, &mut network, &refresh, &mut stopped).await {
            Wake::Time => {}
            Wake::Asked => retry = FIRST_RETRY,
            Wake::Stop => break,
        }
    }
    if let Some((_, held)) = held {
        let _ = timeout(FAREWELL, held.delete()).await;
    }
}

/// Why the task goes on.
enum Wake {
    Time,
    Asked,
    Stop,
}

/// Until the time has come, the router is another one, or somebody asks.
async fn sleep(
    until: Instant,
    place: Option<Place>,
    network: &mut watch::Receiver<NetworkState>,
    refresh: &Notify,
    stopped: &mut oneshot::Receiver<()>,
) -> Wake {
    loop {
        tokio::select! {
            _ = &mut *stopped => return Wake::Stop,
            () = sleep_until(until) => return Wake::Time,
            () = refresh.notified() => return Wake::Asked,
            changed = network.changed() => {
                if changed.is_err() {
                    return Wake::Stop;
                }
                if Place::of(&network.borrow_and_update()) != place {
                    return Wake::Asked;
                }
            }
        }
    }
}

/// Renews what is held, or maps anew.
async fn advance(config: PortMapperConfig, place: Option<Place>, held: &mut Option<(Place, Held)>) {
    if let Some((old, mapping)) = held {
        if Some(*old) == place {
            match timeout(ATTEMPT, mapping.renew()).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => tracing::debug!(%error, "a port mapping wasn't renewed"),
                Err(_) => tracing::debug!("a port mapping wasn't renewed in time"),
            }
            *held = None;
        } else if let Some((_, mapping)) = held.take() {
            // The old router may still be there (a second one, another address of ours).
            let _ = timeout(FAREWELL, mapping.delete()).await;
        }
    }
    if let Some(place) = place
        && let Ok(Some(mapping)) = timeout(ATTEMPT, map(config, place)).await
    {
        *held = Some((place, mapping));
    }
}

async fn map(config: PortMapperConfig, place: Place) -> Option<Held> {
    match pmp::PmpMapping::create(place, config.port, config.nonce).await {
        Ok(mapping) => return Some(Held::Pmp(mapping)),
        Err(error) => tracing::debug!(%error, "no mapping by PCP or NAT-PMP"),
    }
    match igd::IgdMapping::create(place, config.port).await {
        Ok(mapping) => Some(Held::Igd(mapping)),
        Err(error) => {
            tracing::debug!(%error, "no mapping by UPnP-IGD");
            None
        }
    }
}

impl Place {
    fn of(network: &NetworkState) -> Option<Self> {
        let gateway = network.gateway4?;
        let interface = network.default_interface4?;
        let own = |address: &&LocalAddress| address.interface == interface;
        let mut candidates = network.addresses.iter().filter(own).filter_map(|address| {
            let std::net::IpAddr::V4(ip) = address.ip else { return None };
            let network = ipnet::Ipv4Net::new(ip, address.prefix_len).ok()?;
            Some((network.contains(&gateway), ip))
        });
        let first = candidates.next()?;
        let best = if first.0 { first } else { candidates.find(|c| c.0).unwrap_or(first) };
        Some(Self { gateway, local: best.1 })
    }
}

impl Held {
    fn mapping(&self, gateway: Ipv4Addr) -> Mapping {
        match self {
            Self::Pmp(mapping) => {
                Mapping { external: mapping.external(), protocol: mapping.protocol(), gateway }
            }
            Self::Igd(mapping) => {
                Mapping { external: mapping.external(), protocol: MappingProtocol::Upnp, gateway }
            }
        }
    }

    /// How long to wait before renewing: half the lifetime, within bounds.
    fn renewal(&self) -> Duration {
        let lifetime = match self {
            Self::Pmp(mapping) => mapping.lifetime(),
            Self::Igd(mapping) => mapping.lifetime(),
        };
        (lifetime / 2).clamp(RENEW_AT_LEAST, RENEW_AT_MOST)
    }

    async fn renew(&mut self) -> Result<(), MappingError> {
        match self {
            Self::Pmp(mapping) => mapping.renew().await,
            Self::Igd(mapping) => mapping.renew().await,
        }
    }

    async fn delete(self) {
        match self {
            Self::Pmp(mapping) => mapping.delete().await,
            Self::Igd(mapping) => mapping.delete().await,
        }
    }
}

/// Why a router didn't map.
#[derive(Debug, thiserror::Error)]
enum MappingError {
    #[error("{0}")]
    Pmp(#[from] crab_nat::MappingFailure),
    #[error("{0}")]
    NatPmp(#[from] crab_nat::natpmp::Failure),
    #[error("{0}")]
    Search(#[from] igd_next::SearchError),
    #[error("{0}")]
    Add(#[from] igd_next::AddPortError),
    #[error("{0}")]
    External(#[from] igd_next::GetExternalIpError),
    #[error("the router names no IPv4 address")]
    NoAddress,
    #[error("another device than the default gateway answered")]
    OtherDevice,
}
