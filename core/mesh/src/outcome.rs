use std::net::SocketAddr;
use std::ops::Range;

use warren_wg::Sealer;

/// Room that a caller leaves before an outgoing packet: the channel header of a relay and the
/// WireGuard header.
pub const HEADROOM: usize = CHANNEL_HEADROOM + warren_wg::HEADROOM;

/// Room that a caller leaves behind an outgoing packet: WireGuard's padding and tag.
pub const TAILROOM: usize = warren_wg::TAILROOM;

/// The part of [`HEADROOM`] that belongs to a relay's ChannelData header (RFC 8656 §12.4).
pub const CHANNEL_HEADROOM: usize = 4;

/// The most packets that wait for one peer's tunnel.
pub const QUEUE_PER_PEER: usize = 128;

/// Names a peer for as long as it stays in the netmap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerHandle(pub(crate) u32);

impl PeerHandle {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where an outgoing packet goes.
#[derive(Debug)]
#[must_use]
pub enum Outbound<'a> {
    /// Seal each segment in its slot and send it.
    Seal {
        /// Where the datagrams go.
        remote: SocketAddr,
        /// The bytes of channel header to be written before each datagram: 0 when direct.
        headroom: usize,
        /// Seals one segment after the other.
        sealer: Sealer<'a>,
    },
    /// There is no tunnel yet, and one is being built: hand each segment to
    /// [`crate::Mesh::enqueue`].
    Wait(PeerHandle),
    /// Nothing is sent. An ICMP error for the own host may be waiting in
    /// [`crate::Mesh::poll_tun`].
    Dropped(OutboundDrop),
}

/// Why an outgoing packet was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OutboundDrop {
    /// Not an IP packet, or shorter than its header says.
    Malformed,
    /// Its source isn't this device's mesh address.
    ForeignSource,
    /// Multicast and broadcast wake nobody.
    Multicast,
    /// It is addressed to this device itself.
    OwnAddress,
    /// No peer has that address.
    UnknownDestination,
    /// A path was sought and not found, and the next attempt isn't due; `status` says why.
    Unreachable,
    /// A segment is longer than the peer's path carries.
    TooBig,
    /// It waited for a tunnel as the oldest in a full queue, or its peer was removed.
    QueueFull,
}

impl OutboundDrop {
    /// All reasons, in order.
    pub const ALL: [Self; 8] = [
        Self::Malformed,
        Self::ForeignSource,
        Self::Multicast,
        Self::OwnAddress,
        Self::UnknownDestination,
        Self::Unreachable,
        Self::TooBig,
        Self::QueueFull,
    ];
}

/// What became of an incoming datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Inbound {
    /// An IP packet for the own host lies at `range` of the datagram's buffer.
    Deliver {
        /// Where.
        range: Range<usize>,
    },
    /// It was protocol, and is dealt with.
    Consumed,
    /// It was dropped, and counted.
    Dropped(InboundDrop),
}

/// Why an incoming datagram was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum InboundDrop {
    /// It is neither WireGuard, STUN nor ChannelData.
    Unknown,
    /// It has STUN's cookie, but can't be parsed.
    MalformedStun,
    /// A STUN response to no request of ours, or from another address than was asked.
    UnknownTransaction,
    /// A STUN request that is no probe: this device is no relay.
    NotAProbe,
    /// A probe whose tag belongs to no peer, today, yesterday or tomorrow.
    UnknownTag,
    /// A probe or its response whose integrity is wrong.
    BadIntegrity,
    /// A probe from an address that can't be a peer's endpoint.
    UnusableSource,
    /// Too many probes from that peer.
    ProbeRate,
    /// ChannelData, but no relay of ours sends any.
    NoRelay,
    /// WireGuard refused it; its own counters say why.
    WireGuard,
    /// Decrypted, but not an IP packet.
    MalformedPacket,
    /// Decrypted, but its source address isn't the peer's.
    ForeignSource,
    /// Decrypted, but its destination isn't this device.
    ForeignDestination,
}

impl InboundDrop {
    /// All reasons, in order.
    pub const ALL: [Self; 13] = [
        Self::Unknown,
        Self::MalformedStun,
        Self::UnknownTransaction,
        Self::NotAProbe,
        Self::UnknownTag,
        Self::BadIntegrity,
        Self::UnusableSource,
        Self::ProbeRate,
        Self::NoRelay,
        Self::WireGuard,
        Self::MalformedPacket,
        Self::ForeignSource,
        Self::ForeignDestination,
    ];
}

/// A datagram that the core wants sent: the cold path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// Where it goes.
    pub remote: SocketAddr,
    /// The whole UDP payload.
    pub contents: Vec<u8>,
    /// Send it with Don't Fragment (an MTU probe); everything else goes without.
    pub dont_fragment: bool,
}
