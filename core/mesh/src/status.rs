use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use warren_proto::{DeviceId, DeviceName, NatReport};
use warren_turn::Mapping;

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
    /// Why there is no path; kept until one is found.
    pub reason: Option<Reason>,
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

/// One STUN server, as seen from the data socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StunStatus {
    /// The server.
    pub server: SocketAddr,
    /// The round-trip time of its last answer.
    pub rtt: Option<Duration>,
    /// The address that it saw in its last answer.
    pub mapped: Option<SocketAddr>,
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
}
