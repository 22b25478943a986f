//! From a datagram to a packet for the own host.

use std::net::SocketAddr;
use std::time::Instant;

use warren_wg::{PeerIndex, Received};

use super::Mesh;
use crate::candidates::canonical;
use crate::demux::{Kind, classify};
use crate::path::Path;
use crate::timers::{PeerTimer, Timer};
use crate::{Inbound, InboundDrop, PeerHandle, ip};

impl Mesh {
    /// Takes a datagram from the data socket (one segment of a GRO batch) and decrypts it in
    /// place: the hot path in.
    pub fn handle_datagram(
        &mut self,
        remote: SocketAddr,
        datagram: &mut [u8],
        now: Instant,
    ) -> Inbound {
        let remote = canonical(remote);
        let inbound = match classify(datagram) {
            Kind::WireGuard => self.handle_wireguard(Path::direct(remote), datagram, now),
            Kind::Stun => self.handle_stun(remote, datagram, now),
            Kind::ChannelData => self.handle_channel_data(remote, datagram, now),
            Kind::Unknown => Inbound::Dropped(InboundDrop::Unknown),
        };
        match &inbound {
            Inbound::Deliver { .. } => self.counters.delivered += 1,
            Inbound::Consumed | Inbound::Relay => {}
            Inbound::Dropped(reason) => self.counters.drop_inbound(*reason),
        }
        self.pump(now);
        inbound
    }

    pub(super) fn handle_wireguard(
        &mut self,
        from: Path,
        datagram: &mut [u8],
        now: Instant,
    ) -> Inbound {
        self.inbound = Some(from);
        let (tunnel, packet) = match self.wg.handle_datagram(from.remote, datagram, now) {
            Received::Data { peer, range } => (peer, Some(range)),
            Received::Keepalive { peer } => (peer, None),
            Received::Handshake { peer } => {
                self.shaken_hands(peer, now);
                (peer, None)
            }
            Received::Cookie { peer: _ } => return Inbound::Consumed,
            Received::Dropped(_) => return Inbound::Dropped(InboundDrop::WireGuard),
        };
        let Some(handle) = self.peers.by_tunnel_of_run(tunnel) else {
            return Inbound::Dropped(InboundDrop::WireGuard);
        };
        let Some(peer) = self.peers.get(handle) else {
            return Inbound::Dropped(InboundDrop::WireGuard);
        };
        let from = peer.resolve(from);
        self.heard(handle, from, now);
        let Some(range) = packet else { return Inbound::Consumed };
        match self.admit(handle, &mut datagram[range.clone()], now) {
            Ok(()) => Inbound::Deliver { range },
            Err(reason) => {
                if reason == InboundDrop::Filtered {
                    self.reject(handle, &datagram[range], now);
                }
                Inbound::Dropped(reason)
            }
        }
    }

    /// The peer initiates: no need to do the same.
    fn shaken_hands(&mut self, tunnel: PeerIndex, now: Instant) {
        let Some(handle) = self.peers.by_tunnel(tunnel) else { return };
        let glare = Timer::Peer(handle, PeerTimer::Glare);
        if self.timers.is_set(glare) {
            self.timers.set(glare, now + super::tunnel::GLARE_AGAIN);
        }
    }

    /// Whether a decrypted packet may go to the own host.
    fn admit(
        &mut self,
        handle: PeerHandle,
        packet: &mut [u8],
        now: Instant,
    ) -> Result<(), InboundDrop> {
        let header = ip::parse(packet).ok_or(InboundDrop::MalformedPacket)?;
        if !self.is_self(header.destination) && !self.is_behind(header.destination) {
            return Err(InboundDrop::ForeignDestination);
        }
        let peer = self.peers.get_mut(handle).ok_or(InboundDrop::ForeignSource)?;
        if !peer.owns(header.source) {
            return Err(InboundDrop::ForeignSource);
        }
        peer.traffic = Some(now);
        if !peer.access.is_open() {
            self.judge(handle, packet, &header, now)?;
        }
        let peer = self.peers.get_mut(handle).ok_or(InboundDrop::ForeignSource)?;
        if let Some(path) = &peer.path
            && !self.fixed_mtu
            && path.mtu.is_settled()
            && path.mtu.confirmed() < self.mtu
        {
            ip::clamp_mss(packet, &header, path.mtu.confirmed());
        }
        Ok(())
    }
}
