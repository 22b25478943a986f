//! What is known of a flow, and how many there may be.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use crate::connection::Connection;

/// A connection, or a pair of UDP addresses and ports. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId(pub(crate) u64);

/// What is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

/// Where an address and port of the mesh lead; `K` names what is open there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lead<K> {
    /// What is open.
    pub key: K,
    /// Where to.
    pub target: SocketAddrV4,
}

/// How much something was used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Packets from and to the mesh.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// How much is held at most.
#[derive(Debug, Clone)]
pub struct Limits {
    /// TCP connections of all peers.
    pub connections: usize,
    /// TCP connections of one peer.
    pub connections_per_peer: usize,
    /// Connections of one peer to which the LAN or the peer has not agreed yet.
    pub half_open_per_peer: usize,
    /// UDP flows of all peers.
    pub flows: usize,
    /// UDP flows of one peer; one more takes the place of the one that was idle longest.
    pub flows_per_peer: usize,
    /// Bytes that a connection holds for each direction.
    pub buffer: usize,
    /// Packets that wait to go to the mesh.
    pub queue: usize,
    /// How long a connection may take to be made, on either side.
    pub connect: Duration,
    /// How long a UDP flow may be idle that the LAN has never answered.
    pub unanswered: Duration,
    /// How long a UDP flow may be idle.
    pub idle: Duration,
    /// How often a silent peer is asked whether its connection lives.
    pub keepalive: Duration,
    /// How long a peer may leave unanswered what it should acknowledge.
    pub silence: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            connections_per_peer: 128,
            half_open_per_peer: 32,
            flows: 512,
            flows_per_peer: 128,
            buffer: 128 * 1024,
            queue: 256,
            connect: Duration::from_secs(30),
            // As Linux's connection tracking has had them.
            unanswered: Duration::from_secs(60),
            idle: Duration::from_secs(180),
            keepalive: Duration::from_secs(120),
            // About as long as Linux retransmits (tcp_retries2).
            silence: Duration::from_secs(900),
        }
    }
}

/// The addresses and ports of a flow, as the mesh knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Tuple {
    pub(crate) protocol: Protocol,
    pub(crate) peer: SocketAddrV4,
    pub(crate) local: SocketAddrV4,
}

/// What one peer has.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Share {
    pub(crate) connections: usize,
    pub(crate) half_open: usize,
    pub(crate) flows: usize,
}

/// What one peer has, by its address.
pub(crate) type Shares = BTreeMap<Ipv4Addr, Share>;

/// A flow.
#[derive(Debug)]
pub(crate) struct Flow<K> {
    pub(crate) tuple: Tuple,
    pub(crate) lead: Lead<K>,
    pub(crate) state: State,
    /// When it is looked at next, as the timers have it.
    pub(crate) due: Option<Instant>,
    /// Whether it waits to make packets.
    pub(crate) queued: bool,
    /// Whether the driver has been told that there is something, and hasn't looked yet.
    pub(crate) told: bool,
    /// Whether it is counted as half open.
    pub(crate) half: bool,
}

/// How far it is.
#[derive(Debug)]
pub(crate) enum State {
    /// The driver connects to the target; the SYN waits.
    Connecting { syn: Vec<u8> },
    /// Both sides are, or are about to be, connected.
    Connected(Box<Connection>),
    /// UDP: when it was last used, and whether the LAN has ever answered.
    Datagrams { used: Instant, answered: bool },
}

impl<K> Flow<K> {
    /// Whether either side has yet to agree to it.
    pub(crate) fn is_half_open(&self) -> bool {
        match &self.state {
            State::Connecting { .. } => true,
            State::Connected(connection) => !connection.is_established(),
            State::Datagrams { .. } => false,
        }
    }
}
