//! What others may see of the daemon.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use warren_mesh::PathState;
use warren_proto::{Netmap, PublicKey};

use super::{Daemon, join::host_name, wall_clock};
use crate::data::{DataClient, Snapshot};
use crate::local::{
    BrokerStatus, FailureCode, Health, MappingReport, NodeState, NodeStatus, PathKind, PeerStatus,
    SCHEMA, Status,
};
use crate::state::{ExitChoice, Identity};

/// The daemon at one moment, but for what only the data thread knows.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) state: NodeState,
    pub(crate) netmap: Option<Arc<Netmap>>,
    pub(crate) data: Option<DataClient>,
    pub(crate) health: Vec<Health>,
    pub(crate) broker: BrokerStatus,
    /// Why the last registration was refused, until the next one.
    pub(crate) join_failure: Option<(FailureCode, String)>,
    /// Whether an attempt to reach the broker has failed since it was last connected.
    pub(crate) lost: bool,
    pub(crate) network: warren_net::NetworkState,
    pub(crate) mappings: Vec<MappingReport>,
    pub(crate) mapping_note: Option<String>,
    /// When the map was last known to be current, in seconds since the epoch.
    current_at: Option<u64>,
    name: String,
    listen_port: u16,
    public_key: PublicKey,
    interface: Option<String>,
    exit: Option<ExitChoice>,
}

impl View {
    pub(super) fn new(identity: &Identity) -> Self {
        Self {
            state: NodeState::NotJoined,
            netmap: None,
            data: None,
            health: Vec::new(),
            broker: BrokerStatus {
                url: None,
                connected: false,
                last_check_in: None,
                netmap_version: None,
                netmap_age_s: None,
                rtt_ms: None,
                error: None,
            },
            join_failure: None,
            lost: false,
            network: warren_net::NetworkState::default(),
            mappings: Vec::new(),
            mapping_note: None,
            current_at: None,
            name: host_name(),
            listen_port: identity.listen_port.unwrap_or(0),
            public_key: identity.public_key(),
            interface: None,
            exit: None,
        }
    }

    /// What `status` shows.
    pub(crate) async fn status(&self) -> Status {
        let snapshot = match &self.data {
            Some(data) => data.snapshot().await.ok(),
            None => None,
        };
        let this = self.netmap.as_ref().map(|netmap| &netmap.this);
        let domain = self.netmap.as_ref().map(|netmap| netmap.dns.domain.as_str());
        let (endpoints, nat) = match &snapshot {
            Some(snapshot) => (snapshot.state.endpoints.clone(), snapshot.state.nat),
            None => Default::default(),
        };
        let node = NodeStatus {
            name: this.map_or_else(|| self.name.clone(), |this| this.name.to_string()),
            ipv4: this.map(|this| this.ipv4),
            ipv6: this.map(|this| this.ipv6),
            dns_name: this.zip(domain).map(|(this, domain)| format!("{}.{domain}", this.name)),
            listen_port: self.listen_port,
            public_key: self.public_key,
            state: self.state,
            endpoints,
            nat,
            interface: self.interface.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            exit_node: self.exit.as_ref().map(|choice| {
                let exit = snapshot.as_ref().and_then(|snapshot| snapshot.exit.as_ref());
                super::exit::status(choice, self.data.is_some(), exit)
            }),
        };
        let mut broker = self.broker.clone();
        broker.netmap_age_s = self
            .current_at
            .map(|at| if broker.connected { 0 } else { wall_clock().as_secs().saturating_sub(at) });
        let peers = self.peers(snapshot.as_ref());
        Status { schema: SCHEMA, node, broker, peers, health: self.health.clone() }
    }

    fn peers(&self, snapshot: Option<&Snapshot>) -> Vec<PeerStatus> {
        let Some(netmap) = &self.netmap else { return Vec::new() };
        let domain = &netmap.dns.domain;
        let mut peers: Vec<PeerStatus> = match snapshot {
            Some(snapshot) => snapshot.peers.iter().map(|peer| peer_status(peer, domain)).collect(),
            None => netmap.peers.iter().map(|peer| idle_peer(peer, domain)).collect(),
        };
        peers.sort_by(|a, b| a.name.cmp(&b.name));
        peers
    }
}

/// A path in a word, and where its datagrams go if that says something to anybody.
pub(super) fn path_kind(path: &PathState) -> (PathKind, Option<SocketAddr>) {
    match path {
        PathState::Idle => (PathKind::Idle, None),
        PathState::Connecting => (PathKind::Connecting, None),
        PathState::Direct { path, rank: _ } => (PathKind::Direct, Some(path.remote)),
        PathState::Relayed { path } => {
            // A virtual address says nothing to anybody.
            let told = (path.via == warren_mesh::Via::PeersRelay).then_some(path.remote);
            (PathKind::Relayed, told)
        }
        PathState::Unreachable => (PathKind::Unreachable, None),
    }
}

/// A peer as the mesh sees it, for people.
pub(crate) fn peer_status(peer: &warren_mesh::PeerStatus, domain: &str) -> PeerStatus {
    let (path, endpoint) = path_kind(&peer.path);
    let handshake = peer.last_handshake.and_then(|at| {
        let wall = SystemTime::now().checked_sub(Instant::now().saturating_duration_since(at))?;
        Some(wall.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs())
    });
    PeerStatus {
        name: peer.name.to_string(),
        ipv4: peer.ipv4,
        ipv6: peer.ipv6,
        dns_name: format!("{}.{domain}", peer.name),
        online: peer.online,
        path,
        reason: match path {
            PathKind::Direct => None,
            PathKind::Relayed | PathKind::Connecting | PathKind::Idle | PathKind::Unreachable => {
                peer.reason.map(|reason| reason.to_string())
            }
        },
        endpoint,
        relay: peer.relay.as_ref().map(|relay| relay.name.clone()),
        rtt_ms: peer.rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
        rx_bytes: peer.rx_bytes,
        tx_bytes: peer.tx_bytes,
        last_handshake: handshake,
    }
}

/// A peer while the mesh is down.
fn idle_peer(peer: &warren_proto::Peer, domain: &str) -> PeerStatus {
    PeerStatus {
        name: peer.name.to_string(),
        ipv4: peer.ipv4,
        ipv6: peer.ipv6,
        dns_name: format!("{}.{domain}", peer.name),
        online: peer.online,
        path: PathKind::Idle,
        reason: None,
        endpoint: None,
        relay: None,
        rtt_ms: None,
        rx_bytes: 0,
        tx_bytes: 0,
        last_handshake: None,
    }
}

impl Daemon {
    fn state(&self) -> NodeState {
        if self.identity.joining.is_some() {
            return NodeState::Joining;
        }
        if self.identity.revoked {
            return NodeState::MustJoinAgain;
        }
        if self.identity.joined.is_none() {
            return NodeState::NotJoined;
        }
        match (self.identity.up, &self.mesh, self.broker.connected) {
            (false, ..) => NodeState::Down,
            (true, None, _) => NodeState::Connecting,
            (true, Some(_), true) => NodeState::Connected,
            // Until the first attempt has ended, 'offline' would be a guess.
            (true, Some(_), false) if self.broker.lost => NodeState::Offline,
            (true, Some(_), false) => NodeState::Connecting,
        }
    }

    /// Shows the present state to everybody who looks.
    pub(super) fn publish(&self) {
        let joined = self.identity.joined.as_ref().filter(|_| !self.identity.revoked);
        let unix = |at: SystemTime| Some(at.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs());
        let state = self.state();
        let before = self.view.borrow().netmap.clone();
        let netmap = match (&self.map, before) {
            (Some(map), Some(before)) if before.version == map.netmap.version => Some(before),
            (Some(map), _) => Some(Arc::new(map.netmap.clone())),
            (None, _) => None,
        };
        let name = self.identity.name.clone().unwrap_or_else(host_name);
        self.view.send_replace(View {
            state,
            broker: BrokerStatus {
                url: joined.map(|joined| joined.url.clone()),
                connected: self.broker.connected,
                last_check_in: self.broker.last_check_in.and_then(unix),
                netmap_version: netmap.as_ref().map(|netmap| netmap.version.to_string()),
                netmap_age_s: None,
                rtt_ms: self.broker.rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
                error: self.broker.error.clone(),
            },
            netmap,
            data: self.mesh.as_ref().map(|mesh| mesh.client().clone()),
            health: self.healths.list(),
            join_failure: self.broker.join_failure.clone(),
            lost: self.broker.lost,
            network: self.network.as_ref().map(|watch| watch.state()).unwrap_or_default(),
            mappings: self.mapping_reports(),
            mapping_note: self.mapping_note(),
            current_at: self.map.as_ref().map(|map| map.current_at),
            name,
            listen_port: self
                .mesh
                .as_ref()
                .map_or(self.identity.listen_port.unwrap_or(0), |mesh| mesh.port),
            public_key: self.identity.public_key(),
            interface: self.mesh.as_ref().map(|mesh| mesh.interface.clone()),
            exit: self.identity.exit.clone(),
        });
    }
}
