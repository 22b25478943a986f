//! What people are shown.

use warren_proto::{CheckInState, DeviceId, EDGE, Peer as Entry, RelayTransport};
use warren_turn::Family;

use super::Mesh;
use crate::candidates::Candidate;
use crate::path::{Path, Rank, Via};
use crate::peer::Peer;
use crate::{
    CandidateStatus, Counters, Netcheck, PathState, PeerStatus, Reason, RelayStatus, RelayUse,
    StunStatus,
};

impl Mesh {
    /// All peers of the netmap, by id.
    pub fn peers(&self) -> impl Iterator<Item = PeerStatus> {
        self.netmap.iter().flat_map(|netmap| &netmap.peers).filter_map(|entry| self.status(entry))
    }

    /// One peer.
    pub fn peer(&self, id: DeviceId) -> Option<PeerStatus> {
        let netmap = self.netmap.as_ref()?;
        let at = netmap.peers.binary_search_by_key(&id, |entry| entry.id).ok()?;
        self.status(netmap.peers.get(at)?)
    }

    /// The ways to a peer that are known, and what has become of each; none where it isn't in the
    /// netmap.
    pub fn candidates(&self, id: DeviceId) -> Vec<CandidateStatus> {
        let Some(peer) = self.peers.by_id(id).and_then(|at| self.peers.get(at)) else {
            return Vec::new();
        };
        let status = |(path, candidate): (Path, &Candidate)| CandidateStatus {
            path,
            kind: candidate.kind,
            relay: path.via.relay().and_then(|it| Some(self.relays.get(it)?.info.name.clone())),
            asked: candidate.asked,
            answered: candidate.answered,
            rtt: candidate.rtt,
            in_use: peer.live() == Some(path),
        };
        peer.candidates.iter().map(status).collect()
    }

    fn status(&self, entry: &Entry) -> Option<PeerStatus> {
        let peer = self.peers.get(self.peers.by_id(entry.id)?)?;
        let stats = peer.tunnel.and_then(|tunnel| self.wg.stats(tunnel)).unwrap_or_default();
        let path = self.path_state(peer);
        Some(PeerStatus {
            id: entry.id,
            name: entry.name.clone(),
            ipv4: entry.ipv4,
            ipv6: entry.ipv6,
            online: peer.online,
            reason: self.status_reason(peer),
            relay: self.relay_in_use(peer),
            rtt: peer.rtt(),
            rx_bytes: stats.rx_bytes,
            tx_bytes: stats.tx_bytes,
            last_handshake: stats.last_handshake,
            established: peer.established,
            mtu: peer.path.as_ref().map_or(self.mtu, |path| path.mtu.confirmed()),
            path,
        })
    }

    fn path_state(&self, peer: &Peer) -> PathState {
        if let Some(path) = peer.live() {
            match path.rank(&self.outside.local) {
                rank @ (Rank::Lan | Rank::Direct) => PathState::Direct { path, rank },
                Rank::Relayed => PathState::Relayed { path },
            }
        } else if peer.failure.is_some() {
            PathState::Unreachable
        } else if peer.seek.is_some() {
            PathState::Connecting
        } else {
            PathState::Idle
        }
    }

    /// Why there is no path, or only a relayed one.
    fn status_reason(&self, peer: &Peer) -> Option<Reason> {
        if peer.live().is_some_and(Path::is_relayed) {
            peer.relaying.reason
        } else {
            peer.failure.map(|failure| failure.reason)
        }
    }

    fn relay_in_use(&self, peer: &Peer) -> Option<RelayUse> {
        let relay = match peer.live()?.via {
            Via::Direct => return None,
            Via::Relay(relay) => Some(relay),
            Via::PeersRelay => peer.relaying.named.map(|(relay, _)| relay),
        };
        let entry = self.relays.get(relay?)?;
        let transport = match peer.live()?.via {
            Via::Relay(_) => entry.transport(),
            Via::Direct | Via::PeersRelay => Some(RelayTransport::Udp),
        };
        Some(RelayUse {
            id: entry.info.id,
            name: entry.info.name.clone(),
            transport: transport.unwrap_or_default(),
        })
    }

    /// What this device would check in with at this moment.
    pub fn check_in_state(&self) -> CheckInState {
        let mut state = CheckInState {
            relay_rtts: self.relays.published.clone(),
            relay: self.relays.own.clone(),
            edge: self.edge.said().cloned(),
            ..self.outside.check_in_state()
        };
        if state.edge.is_some() {
            state.capabilities.push(EDGE.to_owned());
        }
        state
    }

    /// What is known of the own way out.
    pub fn netcheck(&self) -> Netcheck {
        let servers = self.outside.stun.servers().map(|status| StunStatus {
            server: status.server,
            rtt: status.rtt,
            mapped: status.mapped.map(|mapped| mapped.addr),
            silent: status.silent,
        });
        Netcheck {
            nat: self.outside.nat(),
            mapped_ipv4: self.outside.mapped(Family::V4),
            mapped_ipv6: self.outside.mapped(Family::V6),
            mapping_ipv4: self.outside.stun.mapping(Family::V4),
            mapping_ipv6: self.outside.stun.mapping(Family::V6),
            servers: servers.collect(),
            port_mapped: self.outside.port_mapped.clone(),
            relays: self.relay_statuses().collect(),
        }
    }

    fn relay_statuses(&self) -> impl Iterator<Item = RelayStatus> {
        self.relays.order.iter().filter_map(|relay| {
            let entry = self.relays.get(*relay)?;
            let published = self.relays.published.iter().find(|rtt| rtt.relay == entry.info.id);
            Some(RelayStatus {
                id: entry.info.id,
                name: entry.info.name.clone(),
                rtt: entry.measurement.rtt(),
                reached_by: published.map(|rtt| rtt.transport),
                in_use: entry.transport(),
                peers: entry.allocation.as_ref().map_or(0, |there| there.users.len()),
                problem: entry.problem,
            })
        })
    }

    /// The interface's MTU as it should be: fixed, or as discovered.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Totals, and drops by reason.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// WireGuard's totals, and drops by reason.
    pub fn wireguard_counters(&self) -> &warren_wg::Counters {
        self.wg.counters()
    }
}
