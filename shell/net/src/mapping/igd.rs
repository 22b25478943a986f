//! UPnP-IGD: found by SSDP, spoken to in SOAP.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::num::NonZeroU16;
use std::time::Duration;

use igd_next::aio::Gateway;
use igd_next::aio::tokio::{Tokio, search_gateway};
use igd_next::{AddPortError, GatewayIpVersion, PortMappingProtocol, SearchOptions};
use rand::RngExt;

use super::{LIFETIME, MappingError, Place};

const SEARCH: Duration = Duration::from_secs(5);
const DESCRIPTION: &str = "warren";
/// Other external ports that are tried where ours is taken.
const OTHER_PORTS: usize = 3;

/// A mapping by UPnP.
#[derive(Debug)]
pub(super) struct IgdMapping {
    gateway: Gateway<Tokio>,
    local: SocketAddrV4,
    external: SocketAddrV4,
    lifetime: Duration,
}

impl IgdMapping {
    pub(super) async fn create(place: Place, port: NonZeroU16) -> Result<Self, MappingError> {
        let mut options = SearchOptions::default();
        options.bind_addr = SocketAddr::from((place.local, 0));
        options.timeout = Some(SEARCH);
        options.single_search_timeout = Some(SEARCH);
        options.gateway_ip_version = GatewayIpVersion::V4;
        let gateway = search_gateway(options).await?;
        if gateway.addr.ip() != IpAddr::V4(place.gateway) {
            // Any device of the LAN may answer; only the router's word counts.
            return Err(MappingError::OtherDevice);
        }
        let local = SocketAddrV4::new(place.local, port.get());
        let (external_port, lifetime) = add(&gateway, local).await?;
        let mut mapping = Self {
            gateway,
            local,
            external: SocketAddrV4::new(place.gateway, external_port),
            lifetime,
        };
        match mapping.external_ip().await {
            Ok(ip) => {
                mapping.external.set_ip(ip);
                Ok(mapping)
            }
            Err(error) => {
                mapping.delete().await;
                Err(error)
            }
        }
    }

    async fn external_ip(&self) -> Result<std::net::Ipv4Addr, MappingError> {
        match self.gateway.get_external_ip().await? {
            IpAddr::V4(ip) if !ip.is_unspecified() => Ok(ip),
            IpAddr::V4(_) | IpAddr::V6(_) => Err(MappingError::NoAddress),
        }
    }

    pub(super) fn external(&self) -> SocketAddrV4 {
        self.external
    }

    pub(super) fn lifetime(&self) -> Duration {
        self.lifetime
    }

    pub(super) async fn renew(&mut self) -> Result<(), MappingError> {
        let lease = self.lifetime.as_secs() as u32;
        add_once(&self.gateway, self.external.port(), self.local, lease).await?;
        let ip = self.external_ip().await?;
        self.external.set_ip(ip);
        Ok(())
    }

    pub(super) async fn delete(self) {
        let port = self.external.port();
        if let Err(error) = self.gateway.remove_port(PortMappingProtocol::UDP, port).await {
            tracing::debug!(%error, "a port mapping wasn't deleted");
        }
    }
}

/// Returns the external port and the lease.
async fn add(
    gateway: &Gateway<Tokio>,
    local: SocketAddrV4,
) -> Result<(u16, Duration), MappingError> {
    let mut port = local.port();
    let mut lease = LIFETIME;
    let mut tries = 0;
    loop {
        match add_once(gateway, port, local, lease.as_secs() as u32).await {
            Ok(()) => return Ok((port, lease)),
            // Renewed all the same, as a router that restarts forgets it.
            Err(AddPortError::OnlyPermanentLeasesSupported) if !lease.is_zero() => {
                lease = Duration::ZERO;
            }
            Err(AddPortError::PortInUse) if tries < OTHER_PORTS => {
                tries += 1;
                port = rand::rng().random_range(49_152..=65_535);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

async fn add_once(
    gateway: &Gateway<Tokio>,
    external_port: u16,
    local: SocketAddrV4,
    lease: u32,
) -> Result<(), AddPortError> {
    let protocol = PortMappingProtocol::UDP;
    gateway.add_port(protocol, external_port, SocketAddr::V4(local), lease, DESCRIPTION).await
}
