//! The mesh's interface, sockets and everything that lives as long as they do.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use warren_mesh::{BrokerState, LocalAddress, MapSource};
use warren_net::{
    Error, Finding, HostNetwork, InterfaceConfig, NetworkState, Spare, Tun, TunConfig, UdpConfig,
};
use warren_proto::Netmap;
use zeroize::Zeroizing;

use super::orders::health_of;
use super::{Daemon, Wake};
use crate::control::Command;
use crate::data::{DataClient, DataConfig, DataEvent, DataThread};
use crate::local::HealthCode;

/// Between two attempts to bring the mesh up.
const RETRY: Duration = Duration::from_secs(10);

/// What runs only at the beginning has run when the first check-ins are answered.
const RELEASES: u8 = 2;

/// A running mesh.
#[derive(Debug)]
pub(super) struct MeshUp {
    data: DataThread,
    events: mpsc::UnboundedReceiver<DataEvent>,
    host: HostNetwork,
    configured: Option<InterfaceConfig>,
    /// Whether the exit node can be passed by: another try may mend that.
    passable: bool,
    pub(super) interface: String,
    pub(super) index: u32,
    pub(super) port: u16,
    mtu: u16,
    /// How often the code of starting up is still given back.
    releases: u8,
    /// Whether it will be made anew in a moment: nothing is to leave beside an exit node until then.
    is_held: bool,
}

impl MeshUp {
    pub(super) fn client(&self) -> &DataClient {
        self.data.client()
    }

    /// Lets go of the memory of what ran at the start, after the first check-ins.
    pub(super) fn settle(&mut self) {
        if let Some(left) = self.releases.checked_sub(1) {
            self.releases = left;
            warren_net::release_idle_code();
        }
    }

    /// Whether the interface is still the right one for this map.
    pub(super) fn fits(&self, netmap: &Netmap) -> bool {
        self.configured.as_ref().is_none_or(|configured| {
            (configured.ipv4, configured.ipv6, configured.range4, configured.range6)
                == (netmap.this.ipv4, netmap.this.ipv6, netmap.ipv4_range, netmap.ipv6_range)
        })
    }
}

pub(super) async fn next_event(mesh: &mut Option<MeshUp>) -> Wake {
    match mesh {
        Some(mesh) => Wake::Data(mesh.events.recv().await.unwrap_or_else(|| {
            DataEvent::Failed("the data thread has ended by itself".to_owned())
        })),
        None => std::future::pending().await,
    }
}

impl Daemon {
    /// Makes the interface, opens the sockets and starts the mesh from the map at hand.
    ///
    /// # Errors
    /// The system's refusal, which is health too; another attempt follows.
    pub(super) async fn bring_up(&mut self) -> Result<(), Error> {
        if self.mesh.is_some() {
            return Ok(());
        }
        let Some(map) = &self.map else { return Ok(()) };
        let netmap = map.netmap.clone();
        self.retry_mesh = None;
        let result = self.open_mesh(netmap).await;
        match &result {
            Ok(()) => {
                self.healths.clear(HealthCode::Interface);
                tracing::info!("the mesh is up");
            }
            Err(error) => {
                self.healths.set(health_of(error), error.to_string());
                self.retry_mesh = Some(Instant::now() + RETRY);
            }
        }
        result
    }

    /// Whether an interface can be had at all; it is gone again at once.
    pub(super) fn try_interface(&self) -> Result<(), Error> {
        Tun::open(&TunConfig { name: self.config.tun.clone(), ..TunConfig::default() }).map(drop)
    }

    async fn open_mesh(&mut self, netmap: Netmap) -> Result<(), Error> {
        let source = if self.broker.connected { MapSource::Broker } else { MapSource::Cache };
        let unix = self.start_clock();
        let config = |daemon: &Self, port| DataConfig {
            private_key: Zeroizing::new(daemon.identity.private_key().to_bytes()),
            unix,
            mtu: daemon.config.mtu,
            tun: TunConfig { name: daemon.config.tun.clone(), ..TunConfig::default() },
            udp: UdpConfig { port, ..UdpConfig::default() },
            netmap: netmap.clone(),
            source,
            diverted: daemon.config.edge.as_ref().map(|link| link.diverted.clone()),
        };
        let wanted = self.identity.listen_port;
        let started = match DataThread::start(config(self, wanted)).await {
            // A chosen port may be anybody's after a restart; reachable beats constant.
            Err(Error::PortInUse { port }) if self.identity.listen_port_auto => {
                self.healths.set(
                    HealthCode::ListenPort,
                    format!(
                        "UDP port {port} is in use by another program; another one is used until the next start"
                    ),
                );
                DataThread::start(config(self, None)).await?
            }
            other => {
                let started = other?;
                self.healths.clear(HealthCode::ListenPort);
                started
            }
        };
        let (data, opened, events) = started;
        if wanted.is_none() {
            self.identity.choose_port(opened.port);
            self.save_identity();
        }
        self.note_findings(&opened.findings);
        self.mesh = Some(MeshUp {
            data,
            events,
            host: opened.host,
            configured: None,
            passable: false,
            interface: opened.interface,
            index: opened.index,
            port: opened.port,
            mtu: opened.mtu,
            releases: RELEASES,
            is_held: false,
        });
        if let Err(error) = self.try_configure_host() {
            self.take_down_for_now().await;
            return Err(error);
        }
        self.tell_mesh_all().await;
        self.start_names().await;
        self.start_mapping();
        self.judge_exit().await;
        Ok(())
    }

    /// What a new mesh must know beside the map.
    async fn tell_mesh_all(&mut self) {
        let Some(mesh) = &self.mesh else { return };
        let network = self.network.as_ref().map(|watch| watch.state()).unwrap_or_default();
        mesh.client().local_addresses(local_addresses(&network)).await;
        if self.broker.connected {
            let rtt = self.broker.rtt.unwrap_or_default();
            mesh.client().broker(BrokerState::Connected { rtt }).await;
        } else if self.broker.lost {
            mesh.client().broker(BrokerState::Lost).await;
        }
        self.tell_mesh_edge().await;
        self.tell_mesh_exit().await;
    }

    /// The same as [`Self::take_down`] when the mesh will be made anew in a moment: until then nothing
    /// leaves beside an exit node.
    pub(super) async fn take_down_for_now(&mut self) {
        let Some(mesh) = &mut self.mesh else { return };
        mesh.is_held = self.identity.exit.is_some();
        self.take_down().await;
    }

    /// Ends the mesh and undoes what it did to the host.
    pub(super) async fn take_down(&mut self) {
        self.retry_mesh = None;
        self.stop_names().await;
        self.stop_mapping();
        self.close_edge().await;
        let Some(mut mesh) = self.mesh.take() else {
            // What a mesh that was to come back has left, so that nothing leaks, goes now.
            return super::undo(self.folder.path(), Spare::Nothing);
        };
        if mesh.is_held {
            mesh.host.hold();
        } else if let Err(error) = mesh.host.down() {
            tracing::warn!(%error, "the interface's routes were not undone");
        }
        mesh.data.stop().await;
        drop(mesh.host);
        self.settle_clock();
        for code in [
            HealthCode::RangeClash,
            HealthCode::NoIpv6,
            HealthCode::NoSocketMark,
            HealthCode::UdpBlocked,
            HealthCode::ListenPort,
            HealthCode::Interface,
            HealthCode::ExitNodeAway,
            HealthCode::StrictReversePath,
            HealthCode::ExitNodePassable,
        ] {
            self.healths.clear(code);
        }
        tracing::info!("the mesh is down");
    }

    /// Brings addresses and routes in line with the map and the host's other networks.
    pub(super) fn configure_host(&mut self) {
        match self.try_configure_host() {
            Ok(()) => self.healths.clear(HealthCode::Interface),
            Err(error) => self.healths.set(HealthCode::Interface, error.to_string()),
        }
    }

    /// Tries again what went wrong.
    pub(super) fn retry_host(&mut self) {
        if self.mesh.as_ref().is_some_and(|mesh| mesh.configured.is_none() || mesh.passable) {
            self.configure_host();
        }
    }

    fn try_configure_host(&mut self) -> Result<(), Error> {
        let exit = self.exit_routes();
        let (Some(map), Some(mesh)) = (&self.map, &mut self.mesh) else { return Ok(()) };
        let netmap = &map.netmap;
        let wanted = InterfaceConfig {
            ipv4: netmap.this.ipv4,
            ipv6: netmap.this.ipv6,
            range4: netmap.ipv4_range,
            range6: netmap.ipv6_range,
            mtu: mesh.mtu,
            peers4: addresses(netmap),
            exit,
        };
        if mesh.configured.as_ref() == Some(&wanted) && !mesh.passable {
            return Ok(());
        }
        // Whatever comes of it: what was there before isn't there any more.
        mesh.configured = None;
        let findings = mesh.host.configure(&wanted)?;
        mesh.configured = Some(wanted);
        mesh.passable = findings.iter().any(|it| matches!(it, Finding::ExitPassable { .. }));
        self.healths.clear(HealthCode::RangeClash);
        self.healths.clear(HealthCode::StrictReversePath);
        self.healths.clear(HealthCode::ExitNodePassable);
        self.note_findings(&findings);
        Ok(())
    }

    fn note_findings(&mut self, findings: &[Finding]) {
        for finding in findings {
            let code = match finding {
                Finding::AddressClash { .. } => HealthCode::RangeClash,
                Finding::NoIpv6 => HealthCode::NoIpv6,
                Finding::NoMark => HealthCode::NoSocketMark,
                Finding::StrictReversePath { .. } => HealthCode::StrictReversePath,
                Finding::ExitPassable { .. } => HealthCode::ExitNodePassable,
                // Nothing fails for it, and in a namespace it can't be helped.
                Finding::SmallBuffers { granted } => {
                    tracing::info!(granted, "the socket buffers are small: {finding}");
                    continue;
                }
                _ => HealthCode::Other,
            };
            self.healths.set(code, finding.to_string());
        }
    }

    pub(super) async fn take_data_event(&mut self, event: DataEvent) {
        let event = match event {
            DataEvent::Mesh(event) => event,
            DataEvent::Failed(text) => {
                self.take_down_for_now().await;
                self.healths.set(HealthCode::Interface, text);
                self.retry_mesh = Some(Instant::now() + RETRY);
                return;
            }
        };
        match event {
            warren_mesh::Event::CheckIn(state) => {
                let blocked = (state.nat.udp == Some(false)).then(|| {
                    "no STUN server answers over UDP: a firewall on the way seems to block it, and direct paths may be impossible".to_owned()
                });
                self.healths.put(HealthCode::UdpBlocked, blocked);
                self.tell_broker(Command::CheckIn(state));
            }
            warren_mesh::Event::Connect(request) => self.tell_broker(Command::Connect(request)),
            warren_mesh::Event::FetchNetmap => self.tell_broker(Command::FetchNetmap),
            warren_mesh::Event::Mtu(mtu) => {
                if let Some(mesh) = &mut self.mesh {
                    mesh.mtu = mtu;
                }
                // The data thread has set it at once; this is for a configuration that came between.
                self.configure_host();
            }
            warren_mesh::Event::PathChanged { peer, path } => {
                tracing::debug!(%peer, ?path, "path changed");
                self.paths.note(Instant::now());
            }
            warren_mesh::Event::Unreachable { peer, reason } => {
                tracing::debug!(%peer, %reason, "no path");
                self.paths.note(Instant::now());
            }
            warren_mesh::Event::Established { peer } => {
                tracing::debug!(%peer, "tunnel established");
            }
            // The data thread's own business.
            warren_mesh::Event::OpenStream { .. } | warren_mesh::Event::CloseStream { .. } => {}
        }
    }

    /// The host's network changed.
    pub(super) async fn take_network(&mut self, state: &NetworkState) {
        tracing::info!(addresses = state.addresses.len(), "the network changed");
        if let Some(mesh) = &mut self.mesh {
            // Another network of the host may clash with ours, or no longer.
            mesh.configured = None;
            mesh.client().local_addresses(local_addresses(state)).await;
            self.configure_host();
            if let Some(names) = &mut self.names {
                names.look_now();
            }
            self.refresh_names().await;
        }
        self.tell_broker(Command::NetworkChanged(self.host_addresses()));
    }

    /// The addresses that connections of this host can have.
    pub(super) fn host_addresses(&self) -> Vec<std::net::IpAddr> {
        let state = self.network.as_ref().map(|watch| watch.state()).unwrap_or_default();
        state.addresses.iter().map(|address| address.ip).collect()
    }
}

/// The addresses that peers have, or what stands behind them.
fn addresses(netmap: &Netmap) -> Vec<std::net::Ipv4Addr> {
    let behind = netmap.peers.iter().flat_map(|peer| &peer.edge);
    let virtual_devices = behind.flat_map(|offer| &offer.virtual_devices);
    let peers = netmap.peers.iter().map(|peer| peer.ipv4);
    peers.chain(virtual_devices.map(|device| device.ipv4)).collect()
}

fn local_addresses(state: &NetworkState) -> Vec<LocalAddress> {
    let addresses = state.addresses.iter();
    addresses
        .map(|address| LocalAddress { ip: address.ip, prefix_len: address.prefix_len })
        .collect()
}
