use std::net::SocketAddr;
use std::ops::Range;

use warren_turn::ChannelNumber;
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
        /// Where the datagrams go: to the peer, or to a relay.
        remote: SocketAddr,
        /// The bytes of each slot before the WireGuard header: [`CHANNEL_HEADROOM`] where a relay's
        /// channel header goes there, 0 when direct.
        headroom: usize,
        /// Seals one segment after the other.
        sealer: OutboundSealer<'a>,
    },
    /// There is no tunnel yet, and one is being built: hand each segment to
    /// [`crate::Mesh::enqueue`].
    Wait(PeerHandle),
    /// Nothing is sent. An ICMP error for the own host may be waiting in
    /// [`crate::Mesh::poll_tun`].
    Dropped(OutboundDrop),
}

/// Seals packets of one peer, and puts a relay's channel header before them where one is needed.
#[derive(Debug)]
pub struct OutboundSealer<'a> {
    pub(crate) sealer: Sealer<'a>,
    pub(crate) channel: Option<ChannelNumber>,
}

impl OutboundSealer<'_> {
    /// Seals the packet of `len` bytes in a slot: headroom as [`Outbound::Seal`] says, 16 bytes for
    /// WireGuard's header, the packet, [`TAILROOM`]. Returns the length of the datagram, which
    /// begins with the slot; 0 when nothing can be sealed.
    pub fn seal(&mut self, slot: &mut [u8], len: usize) -> usize {
        let Some(channel) = self.channel else { return self.sealer.seal(slot, len) };
        let Some((header, rest)) = slot.split_first_chunk_mut::<CHANNEL_HEADROOM>() else {
            return 0;
        };
        let sealed = self.sealer.seal(rest, len);
        match u16::try_from(sealed) {
            Ok(1..) => {
                *header = channel.header(sealed as u16);
                CHANNEL_HEADROOM + sealed
            }
            Ok(0) | Err(_) => 0,
        }
    }
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
    /// No peer has that address of the mesh, or the policy hides it: which of them, nobody is told.
    Denied,
    /// It waited for a tunnel as the oldest in a full queue, or its peer was removed.
    QueueFull,
}

impl OutboundDrop {
    /// All reasons, in order.
    pub const ALL: [Self; 9] = [
        Self::Malformed,
        Self::ForeignSource,
        Self::Multicast,
        Self::OwnAddress,
        Self::UnknownDestination,
        Self::Unreachable,
        Self::TooBig,
        Self::Denied,
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
    /// It is STUN, TURN or ChannelData of somebody else's allocation: for the TURN server, where
    /// this device is a relay ([`warren_proto::RelayDuty`]).
    Relay,
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
    /// A probe that is much older than another one of its maker.
    Replayed,
    /// Too many probes from that peer.
    ProbeRate,
    /// ChannelData, but from no relay of ours, or of a channel that isn't bound.
    NoRelay,
    /// Through a relay came what only a relay sends: nothing is unwrapped twice.
    Nested,
    /// A relay's message that answers nothing, or is damaged.
    RelayMessage,
    /// WireGuard refused it; its own counters say why.
    WireGuard,
    /// Decrypted, but not an IP packet.
    MalformedPacket,
    /// Decrypted, but its source address isn't the peer's.
    ForeignSource,
    /// Decrypted, but its destination isn't this device.
    ForeignDestination,
    /// The policy doesn't let the peer send it, and it answers nothing.
    Filtered,
}

impl InboundDrop {
    /// All reasons, in order.
    pub const ALL: [Self; 17] = [
        Self::Unknown,
        Self::MalformedStun,
        Self::UnknownTransaction,
        Self::NotAProbe,
        Self::UnknownTag,
        Self::BadIntegrity,
        Self::UnusableSource,
        Self::Replayed,
        Self::ProbeRate,
        Self::NoRelay,
        Self::Nested,
        Self::RelayMessage,
        Self::WireGuard,
        Self::MalformedPacket,
        Self::ForeignSource,
        Self::ForeignDestination,
        Self::Filtered,
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
