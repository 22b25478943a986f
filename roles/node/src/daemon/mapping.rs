//! The router's port mapping.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use warren_net::{Mapping, PortMapper, PortMapperConfig};

use super::Daemon;
use crate::local::MappingReport;

/// Waits for another mapping, or for none.
pub(super) async fn changed(mapper: &mut Option<PortMapper>) -> Option<Mapping> {
    match mapper {
        Some(mapper) => mapper.changed().await,
        None => std::future::pending().await,
    }
}

impl Daemon {
    /// Asks the router to lead the listen port to this host, for as long as the mesh is up.
    pub(super) fn start_mapping(&mut self) {
        let (Some(mesh), Some(network)) = (&self.mesh, &self.network) else { return };
        let Some(port) = NonZeroU16::new(mesh.port) else { return };
        let config = PortMapperConfig { port, nonce: self.identity.mapping_nonce };
        self.mapper = Some(PortMapper::start(config, network.subscribe()));
    }

    /// Has the router forget the mapping, which may take seconds and happens beside everything
    /// else.
    pub(super) fn stop_mapping(&mut self) {
        if let Some(mapper) = self.mapper.take() {
            self.farewells.spawn(mapper.stop());
        }
        while self.farewells.try_join_next().is_some() {}
    }

    /// Follows the listen port to another number.
    pub(super) fn remap(&mut self) {
        self.stop_mapping();
        self.start_mapping();
    }

    pub(super) async fn take_mapping(&mut self, mapping: Option<Mapping>) {
        tracing::debug!(?mapping, "the router's mapping changed");
        if let Some(mesh) = &self.mesh {
            let mapped = mapping.map(|mapping| SocketAddr::V4(mapping.external));
            mesh.client().mapping(mapped.into_iter().collect()).await;
        }
    }

    pub(super) fn mapping_reports(&self) -> Vec<MappingReport> {
        let mapping = self.mapper.as_ref().and_then(PortMapper::mapping);
        let report = mapping.map(|mapping| MappingReport {
            protocol: mapping.protocol.name().to_owned(),
            external: SocketAddr::V4(mapping.external),
            gateway: Some(IpAddr::V4(mapping.gateway)),
        });
        report.into_iter().collect()
    }

    pub(super) fn mapping_note(&self) -> Option<String> {
        let mapper = self.mapper.as_ref()?;
        let network = self.network.as_ref()?.state();
        if mapper.mapping().is_some() {
            return None;
        }
        Some(match network.gateway4 {
            Some(gateway) => {
                format!("the router {gateway} offers (so far) neither PCP, NAT-PMP nor UPnP-IGD")
            }
            None => "there is no IPv4 router to ask".to_owned(),
        })
    }
}
