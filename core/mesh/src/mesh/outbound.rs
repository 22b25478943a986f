//! From a packet of the own host to a tunnel.

use std::net::IpAddr;
use std::time::Instant;

use super::Mesh;
use super::verify::silence_limit;
use crate::icmp::Problem;
use crate::ip::{self, Header};
use crate::peer::Wish;
use crate::relay::Carriage;
use crate::timers::{PeerTimer, Timer};
use crate::{CHANNEL_HEADROOM, Outbound, OutboundDrop, OutboundSealer, PeerHandle};

impl Mesh {
    /// Says where an IP packet from the own host goes: the hot path out.
    ///
    /// Only the header is read. `segment` is the length of the longest IP packet that it will be
    /// cut into (its own length, if it is no super-packet): one that the peer's path doesn't carry
    /// is refused with an ICMP 'too big' in [`Self::poll_tun`].
    pub fn handle_outbound(&mut self, packet: &[u8], segment: usize, now: Instant) -> Outbound<'_> {
        let handle = match self.route(packet) {
            Ok(handle) => handle,
            Err(reason) => {
                self.refuse(packet, reason, now);
                return Outbound::Dropped(reason);
            }
        };
        let Some(peer) = self.peers.get_mut(handle) else {
            return Outbound::Dropped(OutboundDrop::UnknownDestination);
        };
        peer.wanted = Some(now);
        peer.traffic = Some(now);
        if !peer.access.is_open()
            && let Some(header) = ip::parse(packet)
        {
            self.note_outbound(handle, packet, &header, now);
        }
        let Some(peer) = self.peers.get_mut(handle) else {
            return Outbound::Dropped(OutboundDrop::UnknownDestination);
        };
        let path = peer.path.as_mut().filter(|path| !path.dead);
        let (true, Some(tunnel), Some(path)) = (peer.established, peer.tunnel, path) else {
            return self.wake(handle, packet, now);
        };
        if !self.fixed_mtu && path.mtu.is_settled() && segment > usize::from(path.mtu.confirmed()) {
            let limit = path.mtu.confirmed();
            self.counters.drop_outbound(OutboundDrop::TooBig, 1);
            self.tell_host(packet, Problem::TooBig(limit), now);
            return Outbound::Dropped(OutboundDrop::TooBig);
        }
        // A stream takes bytes, not datagrams: each packet goes through the queue.
        let Some(Carriage::Datagram { remote, channel }) = self.relays.carriage(path.path) else {
            return Outbound::Wait(handle);
        };
        if path.note_sent(now) {
            let due = now + silence_limit(peer.patience());
            self.timers.set(Timer::Peer(handle, PeerTimer::Silence), due);
        }
        match self.wg.sealer(tunnel, now) {
            Some(sealer) => {
                self.counters.sealed += 1;
                let headroom = channel.map_or(0, |_| CHANNEL_HEADROOM);
                self.counters.relayed_out += u64::from(channel.is_some());
                Outbound::Seal { remote, headroom, sealer: OutboundSealer { sealer, channel } }
            }
            None => Outbound::Wait(handle),
        }
    }

    /// Keeps a packet that [`Outbound::Wait`] was said of until the tunnel stands: at most
    /// [`crate::QUEUE_PER_PEER`], the oldest is dropped. It is sealed into
    /// [`Self::poll_transmit`] then.
    pub fn enqueue(&mut self, peer: PeerHandle, packet: &[u8], now: Instant) {
        if self.peers.get(peer).is_none() {
            self.counters.drop_outbound(OutboundDrop::QueueFull, 1);
            return;
        }
        let dropped = self.queues.push(peer, packet);
        self.counters.drop_outbound(OutboundDrop::QueueFull, dropped);
        if let Some(peer) = self.peers.get_mut(peer)
            && let Some(tunnel) = peer.tunnel
            && self.wg.stats(tunnel).is_none_or(|stats| !stats.has_session)
        {
            peer.established = false;
        }
        self.flush(peer, now);
        self.begin_handshake_if_idle(peer, now);
        self.pump(now);
    }

    /// Which peer a packet is for.
    fn route(&self, packet: &[u8]) -> Result<PeerHandle, OutboundDrop> {
        let header = ip::parse(packet).ok_or(OutboundDrop::Malformed)?;
        if let Some(handle) = self.peers.by_address(header.destination) {
            return if self.is_self(header.source) || self.is_behind(header.source) {
                Ok(handle)
            } else {
                Err(OutboundDrop::ForeignSource)
            };
        }
        Err(self.unroutable(&header))
    }

    fn unroutable(&self, header: &Header) -> OutboundDrop {
        let destination = header.destination;
        if self.is_multicast(destination) {
            OutboundDrop::Multicast
        } else if self.is_self(destination) || self.is_behind(destination) {
            OutboundDrop::OwnAddress
        } else if self.ranges.contain(destination) && self.is_filtering() {
            OutboundDrop::Denied
        } else {
            OutboundDrop::UnknownDestination
        }
    }

    fn is_multicast(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => {
                ip.is_multicast()
                    || ip.is_broadcast()
                    || self
                        .ranges
                        .v4
                        .is_some_and(|range| ip == range.broadcast() || ip == range.network())
            }
            IpAddr::V6(ip) => ip.is_multicast(),
        }
    }

    /// Whether this device lets in less than everything; if not, no device is hidden from it.
    fn is_filtering(&self) -> bool {
        self.netmap.as_ref().is_some_and(|netmap| netmap.filter.is_some())
    }

    pub(super) fn is_self(&self, ip: IpAddr) -> bool {
        let Some(netmap) = &self.netmap else { return false };
        match ip {
            IpAddr::V4(ip) => ip == netmap.this.ipv4,
            IpAddr::V6(ip) => ip == netmap.this.ipv6,
        }
    }

    /// A packet wants a peer that has no tunnel: seeks what is missing.
    fn wake(&mut self, handle: PeerHandle, packet: &[u8], now: Instant) -> Outbound<'_> {
        let Some(peer) = self.peers.get(handle) else {
            return Outbound::Dropped(OutboundDrop::UnknownDestination);
        };
        if peer.failure.is_some_and(|failure| now < failure.retry) {
            self.refuse(packet, OutboundDrop::Unreachable, now);
            return Outbound::Dropped(OutboundDrop::Unreachable);
        }
        if peer.live_path().is_none() {
            if peer.seek.is_none_or(|seek| seek.wish == Wish::Theirs) {
                self.seek(handle, Wish::Ours, now);
            }
        } else {
            self.begin_handshake_if_idle(handle, now);
        }
        Outbound::Wait(handle)
    }

    /// Begins a handshake unless one goes on.
    fn begin_handshake_if_idle(&mut self, handle: PeerHandle, now: Instant) {
        let Some(peer) = self.peers.get_mut(handle) else { return };
        let Some(tunnel) = peer.tunnel else { return };
        if !self.wg.stats(tunnel).is_some_and(|stats| stats.initiating) {
            if peer.failure.is_some_and(|failure| failure.retry <= now) {
                peer.failure = None;
            }
            self.begin_handshake(handle, now);
        }
    }
}
