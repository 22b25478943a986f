//! PCP and NAT-PMP: one port of the gateway, told apart by the first byte.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU16;
use std::time::Duration;

use crab_nat::{
    GatewayAddress, InternetProtocol, PortMapping, PortMappingOptions, PortMappingType,
    TimeoutConfig, natpmp, pcp,
};

use super::{LIFETIME, MappingError, MappingProtocol, Place};

/// Three tries within less than two seconds: a router is near or absent.
const PATIENCE: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 2,
    max_retry_timeout: None,
};

/// A mapping by PCP or NAT-PMP.
#[derive(Debug)]
pub(super) struct PmpMapping {
    mapping: PortMapping,
    external: SocketAddrV4,
    protocol: MappingProtocol,
}

impl PmpMapping {
    pub(super) async fn create(
        place: Place,
        port: NonZeroU16,
        nonce: [u32; 3],
    ) -> Result<Self, MappingError> {
        let gateway = GatewayAddress::IpV4(place.gateway);
        let client = IpAddr::V4(place.local);
        let request = pcp::BaseMapRequest::new(gateway, client, InternetProtocol::Udp, port);
        let mapping = match pcp::port_mapping(request, Some(nonce), None, options(port)).await {
            Ok(mapping) => mapping,
            Err(error) => {
                tracing::debug!(%error, "no mapping by PCP");
                natpmp::port_mapping(gateway, InternetProtocol::Udp, port, options(port)).await?
            }
        };
        Self::of(mapping).await
    }

    async fn of(mapping: PortMapping) -> Result<Self, MappingError> {
        let (ip, protocol) = match mapping.mapping_type() {
            PortMappingType::Pcp { external_ip, .. } => {
                (external_ip.to_canonical(), MappingProtocol::Pcp)
            }
            PortMappingType::NatPmp => {
                let ip = natpmp::external_address(mapping.gateway(), Some(PATIENCE)).await?;
                (IpAddr::V4(ip), MappingProtocol::NatPmp)
            }
        };
        let external = match ip {
            IpAddr::V4(ip) if !ip.is_unspecified() => {
                SocketAddrV4::new(ip, mapping.external_port().get())
            }
            IpAddr::V4(Ipv4Addr { .. }) | IpAddr::V6(_) => return Err(MappingError::NoAddress),
        };
        Ok(Self { mapping, external, protocol })
    }

    pub(super) fn external(&self) -> SocketAddrV4 {
        self.external
    }

    pub(super) fn protocol(&self) -> MappingProtocol {
        self.protocol
    }

    pub(super) fn lifetime(&self) -> Duration {
        Duration::from_secs(self.mapping.lifetime().into())
    }

    pub(super) async fn renew(&mut self) -> Result<(), MappingError> {
        let mut mapping = self.mapping.clone();
        mapping.renew().await?;
        *self = Self::of(mapping).await?;
        Ok(())
    }

    pub(super) async fn delete(self) {
        if let Err((error, _)) = self.mapping.try_drop().await {
            tracing::debug!(%error, "a port mapping wasn't deleted");
        }
    }
}

fn options(port: NonZeroU16) -> PortMappingOptions {
    PortMappingOptions {
        external_port: Some(port),
        lifetime_seconds: Some(LIFETIME.as_secs() as u32),
        timeout_config: Some(PATIENCE),
    }
}
