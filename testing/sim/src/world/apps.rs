//! What applications do in the world: ping, and paced streams.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use warren_mesh::OutboundDrop;

use super::transfer::SENDER_PORT;
use super::{Happening, NodeId, World};
use crate::app::{Datagram, ECHO_PORT, STREAM_PORT, TRANSFER_PORT};

/// A ping that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PingId(usize);

/// A paced stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamId(usize);

#[derive(Debug)]
pub(super) struct Ping {
    from: NodeId,
    to: NodeId,
    ip: IpAddr,
    sent: Instant,
    answered: Option<Instant>,
    dropped: Option<OutboundDrop>,
}

#[derive(Debug)]
pub(super) struct Stream {
    from: NodeId,
    to: NodeId,
    interval: Duration,
    ends: Instant,
    sent: u64,
    received: u64,
    last_arrival: Instant,
    longest_gap: Duration,
}

/// What became of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamReport {
    /// Packets that were sent.
    pub sent: u64,
    /// Packets that arrived.
    pub received: u64,
    /// The longest time from one arrival to the next.
    pub longest_gap: Duration,
}

impl World {
    /// A node's mesh address.
    pub fn mesh_ip(&self, node: NodeId) -> IpAddr {
        self.nodes[node.0].mesh_ip
    }

    /// Sends one ping over the mesh.
    pub fn ping(&mut self, from: NodeId, to: NodeId) -> PingId {
        self.ping_behind(from, to, self.mesh_ip(to))
    }

    /// Sends one ping to an address that stands behind a node, which answers for it.
    pub fn ping_behind(&mut self, from: NodeId, to: NodeId, ip: IpAddr) -> PingId {
        let id = self.pings.len();
        self.pings.push(Ping { from, to, ip, sent: self.now, answered: None, dropped: None });
        let datagram = Datagram {
            src: self.mesh_ip(from),
            dst: ip,
            src_port: 1000,
            dst_port: ECHO_PORT,
            id: id as u64,
        };
        if let Err(Some(reason)) = self.inject(from, &datagram.packet(84)) {
            self.pings[id].dropped = Some(reason);
        }
        PingId(id)
    }

    /// Has a node be an edge from now on, or none.
    pub fn set_edge(&mut self, node: NodeId, is_edge: bool) {
        let now = self.now;
        self.nodes[node.0].is_edge = is_edge;
        self.nodes[node.0].tell_edge(now);
        self.settle(node, Vec::new());
    }

    /// How long a ping took, once it is answered.
    pub fn ping_time(&self, ping: PingId) -> Option<Duration> {
        let ping = &self.pings[ping.0];
        Some(ping.answered? - ping.sent)
    }

    /// Why the own node dropped a ping, if it did.
    pub fn ping_drop(&self, ping: PingId) -> Option<OutboundDrop> {
        self.pings[ping.0].dropped
    }

    /// Pings until the reply is there; how long that took.
    pub fn ping_until_answered(
        &mut self,
        from: NodeId,
        to: NodeId,
        limit: Duration,
    ) -> Option<Duration> {
        let ping = self.ping(from, to);
        self.run_until(limit, |world| world.pings[ping.0].answered.is_some())
    }

    /// Pings once a second until one is answered; how long that took from the first on.
    pub fn ping_repeatedly(
        &mut self,
        from: NodeId,
        to: NodeId,
        limit: Duration,
    ) -> Option<Duration> {
        let begin = self.now;
        while self.now - begin < limit {
            let ping = self.ping(from, to);
            let second = Duration::from_secs(1).min(limit - (self.now - begin));
            if self.run_until(second, |world| world.pings[ping.0].answered.is_some()).is_some() {
                return Some(self.now - begin);
            }
        }
        None
    }

    /// Begins a stream of packets from one node to another.
    pub fn stream(
        &mut self,
        from: NodeId,
        to: NodeId,
        interval: Duration,
        duration: Duration,
    ) -> StreamId {
        let id = self.streams.len();
        self.streams.push(Stream {
            from,
            to,
            interval,
            ends: self.now + duration,
            sent: 0,
            received: 0,
            last_arrival: self.now,
            longest_gap: Duration::ZERO,
        });
        self.at(self.now, Happening::Pace(id));
        StreamId(id)
    }

    /// What became of a stream so far; the time since the last arrival counts as a gap while the
    /// stream goes on.
    pub fn stream_report(&self, stream: StreamId) -> StreamReport {
        let Stream { sent, received, ends, last_arrival, longest_gap, .. } = self.streams[stream.0];
        let open = self.now.min(ends).saturating_duration_since(last_arrival);
        StreamReport { sent, received, longest_gap: longest_gap.max(open) }
    }

    pub(super) fn pace(&mut self, id: usize) {
        let stream = &mut self.streams[id];
        if self.now >= stream.ends {
            return;
        }
        let (from, to, next) = (stream.from, stream.to, self.now + stream.interval);
        stream.sent += 1;
        let datagram = Datagram {
            src: self.mesh_ip(from),
            dst: self.mesh_ip(to),
            src_port: STREAM_PORT,
            dst_port: STREAM_PORT,
            id: id as u64,
        };
        self.at(next, Happening::Pace(id));
        let _ = self.inject(from, &datagram.packet(500));
    }

    /// Gives an IP packet to a node, as its applications do.
    ///
    /// # Errors
    /// What the node says of a packet that it drops; `None` where no daemon runs.
    pub fn inject(&mut self, node: NodeId, packet: &[u8]) -> Result<(), Option<OutboundDrop>> {
        let now = self.now;
        let result = self.nodes[node.0].handle_tun(packet, &mut self.network, now);
        self.settle(node, Vec::new());
        result
    }

    /// An IP packet has come out of a node's tunnel.
    ///
    /// # Panics
    /// When it was meant for another node, or isn't what its sender sent.
    pub(super) fn delivered(&mut self, node: NodeId, packet: &[u8]) {
        let Some(datagram) = Datagram::parse(packet) else { return };
        let now = self.now;
        let own = self.mesh_ip(node);
        let is_behind = datagram.dst_port == ECHO_PORT && datagram.dst != own;
        assert!(datagram.dst == own || is_behind, "node {} got another one's packet", node.0);
        let index = usize::try_from(datagram.id).expect("an index");
        match datagram.dst_port {
            ECHO_PORT => {
                let ping = &self.pings[index];
                assert_eq!((ping.to, ping.ip), (node, datagram.dst), "a ping went astray");
                assert_eq!(datagram.src, self.mesh_ip(ping.from), "a ping's source was forged");
                let _ = self.inject(node, &datagram.reply().packet(packet.len()));
            }
            TRANSFER_PORT => self.transfer_delivered(node, index, datagram, packet.len()),
            STREAM_PORT => {
                let sender = self.mesh_ip(self.streams[index].from);
                assert_eq!(datagram.src, sender, "a packet's source was forged");
                let stream = &mut self.streams[index];
                assert_eq!(stream.to, node, "a stream went astray");
                stream.received += 1;
                let gap = now - stream.last_arrival;
                stream.longest_gap = stream.longest_gap.max(gap);
                stream.last_arrival = now;
            }
            SENDER_PORT => self.transfer_acknowledged(node, index),
            _ => {
                let ping = &mut self.pings[index];
                assert_eq!(ping.from, node, "a reply went astray");
                ping.answered.get_or_insert(now);
            }
        }
    }
}
