use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};
use warren_proto::{Endpoint, NatReport, PublicKey};

/// The version of [`Status`] as scripts see it; grows when a field changes its meaning.
pub const SCHEMA: u32 = 1;

/// What `warren status --json` prints: scripts rely on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// This device.
    pub node: NodeStatus,
    /// The broker, as this node sees it.
    pub broker: BrokerStatus,
    /// The devices that this one may see, by name.
    pub peers: Vec<PeerStatus>,
    /// What a person should know or mend, the worst first.
    pub health: Vec<Health>,
}

/// What the daemon is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// It belongs to no account: `warren up --join LINK`.
    NotJoined,
    /// It is registering with the broker.
    Joining,
    /// It was removed from its account, or expired: it must join again.
    MustJoinAgain,
    /// `warren down`: it stays disconnected until `warren up`.
    Down,
    /// It wants to connect and has no netmap yet.
    Connecting,
    /// The mesh is up, and the control session with the broker too.
    Connected,
    /// The mesh is up from the cached netmap; the broker is out of reach.
    Offline,
}

/// This device in a [`Status`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name, unique in the account; before joining what it would like to be called.
    pub name: String,
    /// Its mesh IPv4 address, once it has one.
    pub ipv4: Option<Ipv4Addr>,
    /// Its mesh IPv6 address, once it has one.
    pub ipv6: Option<Ipv6Addr>,
    /// Its full DNS name, without a trailing dot.
    pub dns_name: Option<String>,
    /// The UDP port that it listens on.
    pub listen_port: u16,
    /// Its public key.
    pub public_key: PublicKey,
    /// What the daemon is doing.
    pub state: NodeState,
    /// Where peers may reach it, the most promising first.
    pub endpoints: Vec<Endpoint>,
    /// What is known of the NATs in front of it.
    pub nat: NatReport,
    /// The name of its TUN device while the mesh is up.
    #[serde(default)]
    pub interface: Option<String>,
    /// The daemon's version.
    #[serde(default)]
    pub version: String,
}

/// The broker in a [`Status`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BrokerStatus {
    /// Its base URL, once this device has joined.
    pub url: Option<String>,
    /// Whether the control session is alive; a stale one is never shown as connected.
    pub connected: bool,
    /// When it last answered, seconds since the Unix epoch.
    pub last_check_in: Option<u64>,
    /// The netmap's version.
    pub netmap_version: Option<String>,
    /// How long ago the netmap was last known to be current, in seconds: 0 while connected.
    pub netmap_age_s: Option<u64>,
    /// The round trip to the broker, in milliseconds.
    #[serde(default)]
    pub rtt_ms: Option<f64>,
    /// Why it is not connected.
    #[serde(default)]
    pub error: Option<String>,
}

/// How traffic to a peer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathKind {
    /// From device to device.
    Direct,
    /// Through a relay, as ciphertext.
    Relayed,
    /// A path is being sought.
    Connecting,
    /// Nobody has wanted one lately.
    Idle,
    /// None was found; [`PeerStatus::reason`] says why.
    Unreachable,
}

/// A peer in a [`Status`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its name.
    pub name: String,
    /// Its mesh IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Its mesh IPv6 address.
    pub ipv6: Ipv6Addr,
    /// Its full DNS name, without a trailing dot.
    pub dns_name: String,
    /// Whether it has a control session with the broker, as of the netmap.
    pub online: bool,
    /// How traffic to it goes.
    pub path: PathKind,
    /// Why it isn't direct, for people.
    pub reason: Option<String>,
    /// Where its datagrams go at present.
    pub endpoint: Option<SocketAddr>,
    /// The relay in use.
    pub relay: Option<String>,
    /// The path's round trip in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Bytes of tunnelled packets received from it since the mesh came up.
    pub rx_bytes: u64,
    /// Bytes of tunnelled packets sent to it since the mesh came up.
    pub tx_bytes: u64,
    /// The last WireGuard handshake, seconds since the Unix epoch.
    pub last_handshake: Option<u64>,
}

/// What a [`Health`] entry is about, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthCode {
    /// The device was removed from its account, or expired.
    MustJoinAgain,
    /// Joining failed; the text says why.
    JoinFailed,
    /// The broker shows another certificate than the pinned one.
    WrongPin,
    /// The broker no longer speaks this version's protocol.
    UpgradeRequired,
    /// The interface could not be set up: `/dev/net/tun` missing, no privilege.
    Interface,
    /// The listen port is in use by another program.
    ListenPort,
    /// The broker is out of reach; the mesh works from the cached map.
    BrokerAway,
    /// The state folder can't be written (disk full, read-only).
    StateNotSaved,
    /// Names: port 53 of the mesh address is taken.
    DnsPortTaken,
    /// Names: the host's resolver could not be told.
    DnsNotWired,
    /// An interface of the host uses a part of the account's range.
    RangeClash,
    /// No STUN server answers over UDP.
    UdpBlocked,
    /// The system's clock disagrees with the broker's by more than an hour.
    ClockOff,
    /// IPv6 is switched off on this host: peers have IPv4 mesh addresses only.
    NoIpv6,
    /// The daemon's sockets couldn't be marked: a gateway could swallow the tunnel.
    NoSocketMark,
    /// A second machine uses this device's identity.
    DuplicateIdentity,
    /// From a newer version.
    #[serde(other)]
    Other,
}

/// Something that a person should know or mend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// What it is about, for programs.
    pub code: HealthCode,
    /// What is wrong and what to do, for people.
    pub text: String,
}
