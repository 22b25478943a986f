//! Whether a pair can have a direct path at all, as far as is known: a verdict that says when a relay
//! is due, and what `status` gives as the reason. Direct paths are sought whatever it says.

use std::time::{Duration, Instant};

use warren_proto::MappingBehaviour;
use warren_turn::Family;

use super::Mesh;
use super::seek::blame;
use crate::path::{Path, Rank, Via};
use crate::peer::{Peer, is_recent};
use crate::{PeerHandle, Reason};

/// A relay's datagram proves for so long that UDP isn't blocked, whatever STUN says.
const RELAY_PROVEN: Duration = Duration::from_secs(60);

impl Mesh {
    /// Why a direct path can't be, as far as both sides' reports tell; it is sought all the same.
    pub(super) fn hopeless(&self, peer: &Peer, now: Instant) -> Option<Reason> {
        let same_nat = Family::ALL
            .into_iter()
            .filter_map(|family| self.outside.mapped(family))
            .any(|mapped| peer.endpoints.iter().any(|there| there.addr.ip() == mapped.ip()));
        if same_nat {
            return None;
        }
        if self.is_udp_blocked(now) {
            return Some(Reason::UdpBlockedHere);
        }
        if peer.nat.udp == Some(false) {
            return Some(Reason::UdpBlockedThere);
        }
        if self.outside.is_opened() || peer.endpoints.iter().any(is_opened) {
            return None;
        }
        let own = self.outside.nat();
        let mut verdict = None;
        for (family, here, there) in
            [(Family::V4, own.ipv4, peer.nat.ipv4), (Family::V6, own.ipv6, peer.nat.ipv6)]
        {
            let in_family = |(path, _): (Path, _)| {
                path.via == Via::Direct && Family::of(&path.remote.ip()) == family
            };
            if !peer.candidates.iter().any(in_family) {
                continue;
            }
            match (here, there) {
                (MappingBehaviour::AddressDependent, MappingBehaviour::AddressDependent) => {
                    verdict = blame(here, there);
                }
                (
                    MappingBehaviour::Unknown
                    | MappingBehaviour::None
                    | MappingBehaviour::EndpointIndependent
                    | MappingBehaviour::AddressDependent,
                    _,
                ) => return None,
            }
        }
        verdict
    }

    /// Whether the peer has an address in a prefix of an own interface: on the same link, or in one
    /// of the many other homes with 192.168.1.0/24.
    pub(super) fn seems_near(&self, peer: &Peer) -> bool {
        let local = &self.outside.local;
        let is_near = |path: Path| path.via == Via::Direct && path.rank(local) == Rank::Lan;
        peer.candidates.iter().any(|(path, _)| is_near(path))
    }

    /// Whether no datagram leaves: no STUN server answers, and no relay or peer has of late. When
    /// relays are asked and all are silent too, it counts little what a peer did minutes ago.
    pub(super) fn is_udp_blocked(&self, now: Instant) -> bool {
        let is_proven = is_recent(self.answered, super::seek::UDP_PROVEN, now);
        self.outside.nat().udp == Some(false)
            && !is_recent(self.relays.heard, RELAY_PROVEN, now)
            && (!is_proven || self.relays.are_silent())
    }

    /// Whether a direct path was sought in vain, and neither side's endpoints have changed since.
    pub(super) fn is_relay_only(&self, peer: &Peer) -> bool {
        peer.relaying.relay_only == Some(self.relays.generation)
    }

    /// The search for a direct path beside a relayed one has ended in vain. False when there is no
    /// relayed path.
    pub(super) fn learn_relay_only(&mut self, handle: PeerHandle, reason: Reason) -> bool {
        let generation = self.relays.generation;
        let Some(peer) = self.peers.get_mut(handle) else { return false };
        if !peer.live().is_some_and(Path::is_relayed) {
            return false;
        }
        peer.relaying.relay_only = Some(generation);
        peer.relaying.reason = Some(reason);
        true
    }
}

/// Whether an endpoint is one that somebody has opened in the router.
fn is_opened(endpoint: &warren_proto::Endpoint) -> bool {
    use warren_proto::EndpointKind::{Host, Mapped, Observed, Other, Reflexive, Static};
    match endpoint.kind {
        Static | Mapped => true,
        Host | Reflexive | Observed | Other => false,
    }
}
