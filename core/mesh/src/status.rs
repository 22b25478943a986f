use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use warren_proto::{DeviceId, DeviceName, EndpointKind, NatReport, RelayId, RelayTransport};
use warren_turn::Mapping;
use warren_turn::client::Failure;

use crate::{Path, Rank, Reason};

/// How a peer is reached at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathState {
    /// Nothing is sent, because nobody wants to.
    Idle,
    /// A path is being sought.
    Connecting,
    /// Directly.
    Direct {
        /// The path in use.
        path: Path,
        /// Its class.
        rank: Rank,
    },
    /// Through a relay, as ciphertext; direct paths are tried beside it.
    Relayed {
        /// The path in use.
        path: Path,
    },
    /// A path was sought in vain, and is sought again when traffic wants it.
    Unreachable,
}

/// One peer, for `status` and `ping`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// The device.
    pub id: DeviceId,
    /// Its name.
    pub name: DeviceName,
    /// Its mesh IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Its mesh IPv6 address.
    pub ipv6: Ipv6Addr,
    /// Whether it has a control session, as far as the netmap knows.
    pub online: bool,
    /// How it is reached.
    pub path: PathState,
    /// Why there is no path, or only a relayed one; kept until one is found.
    pub reason: Option<Reason>,
    /// The relay in use.
    pub relay: Option<RelayUse>,
    /// The smoothed round-trip time of the path in use.
    pub rtt: Option<Duration>,
    /// Bytes received in its tunnel, as WireGuard counts them.
    pub rx_bytes: u64,
    /// Bytes sent in its tunnel, as WireGuard counts them.
    pub tx_bytes: u64,
    /// When the last handshake completed.
    pub last_handshake: Option<Instant>,
    /// Whether a tunnel stands that can send.
    pub established: bool,
    /// The longest IP packet that its path carries, in bytes.
    pub mtu: u16,
}

/// One way to a peer that is known, and what has become of it, for `why`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CandidateStatus {
    /// Where it leads.
    pub path: Path,
    /// How the address is known; of a way through a relay it says nothing.
    pub kind: EndpointKind,
    /// The name of the relay that this device would use.
    pub relay: Option<String>,
    /// When it was probed last.
    pub asked: Option<Instant>,
    /// When a probe was answered last.
    pub answered: Option<Instant>,
    /// The smoothed round trip.
    pub rtt: Option<Duration>,
    /// Whether it is the path in use.
    pub in_use: bool,
}

/// The relay of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayUse {
    /// Which.
    pub id: RelayId,
    /// Its name.
    pub name: String,
    /// How this device reaches it.
    pub transport: RelayTransport,
}

/// One relay of the netmap, for `netcheck`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayStatus {
    /// Which.
    pub id: RelayId,
    /// Its name.
    pub name: String,
    /// The round trip of a datagram to it, if it answers those.
    pub rtt: Option<Duration>,
    /// The best way to it that is known to work, or that is left.
    pub reached_by: Option<RelayTransport>,
    /// How this device's allocation there is carried, if it has one.
    pub in_use: Option<RelayTransport>,
    /// How many peers need that allocation.
    pub peers: usize,
    /// Why it failed last, until it works again.
    pub problem: Option<Failure>,
}

/// One STUN server, as seen from the data socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StunStatus {
    /// The server.
    pub server: SocketAddr,
    /// The round-trip time of its last answer.
    pub rtt: Option<Duration>,
    /// The address that it saw in its last answer.
    pub mapped: Option<SocketAddr>,
    /// Whether it was asked and lets all repetitions go by.
    pub silent: bool,
}

/// What this device knows of its own way out, for `netcheck`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netcheck {
    /// The report as it is published.
    pub nat: NatReport,
    /// The public address of the data socket over IPv4.
    pub mapped_ipv4: Option<SocketAddr>,
    /// The public address of the data socket over IPv6.
    pub mapped_ipv6: Option<SocketAddr>,
    /// How the NATs map over IPv4, as far as the servers can tell.
    pub mapping_ipv4: Mapping,
    /// How the NATs map over IPv6, as far as the servers can tell.
    pub mapping_ipv6: Mapping,
    /// Every STUN server of the netmap.
    pub servers: Vec<StunStatus>,
    /// Endpoints that the port mapper opened.
    pub port_mapped: Vec<SocketAddr>,
    /// The relays, in order of preference.
    pub relays: Vec<RelayStatus>,
}
