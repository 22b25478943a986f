use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use warren_proto::{NatReport, PathKind, RelayTransport};

use super::edge::{EdgeReply, EdgeRequest};
use super::exit::{ExitNodeChange, ExitNodes};
use super::status::Status;
use super::why::{WhyReport, WhyRequest};

/// What the command line asks of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// One [`Reply::Status`].
    Status,
    /// A [`Reply::Status`] at once and whenever something other than a byte counter changes, until
    /// the client closes.
    Watch,
    /// Connect, and join first if there is a link. [`Reply::Status`] once connected, or
    /// [`Reply::Error`]. Joining again with another link leaves the old account.
    Up {
        /// The join link's text: a secret.
        #[serde(default)]
        join: Option<String>,
        /// What to be called; the host's name otherwise.
        #[serde(default)]
        name: Option<String>,
    },
    /// Disconnect, and stay so over restarts. [`Reply::Done`].
    Down,
    /// Leave the account. [`Reply::Done`].
    Logout {
        /// Make a new key pair: this machine becomes a new device. The broker isn't told, because
        /// the old identity may live on in the machine that this one was cloned from; an admin
        /// removes it where it doesn't.
        #[serde(default)]
        new_identity: bool,
    },
    /// Seek a path to a peer and measure it. A [`Reply::Ping`] for each attempt, then
    /// [`Reply::Done`].
    Ping(PingRequest),
    /// What can be known of the network around. [`Reply::Netcheck`].
    Netcheck,
    /// Why this device and another one do or don't talk. [`Reply::Why`].
    Why(WhyRequest),
    /// Show or set the UDP listen port. [`Reply::ListenPort`].
    ListenPort {
        /// What to set, if anything.
        #[serde(default)]
        set: Option<ListenPort>,
    },
    /// Show or change by whom traffic to the internet goes. [`Reply::ExitNodes`].
    ExitNode {
        /// What to change, if anything.
        #[serde(default)]
        set: Option<ExitNodeChange>,
    },
    /// This device as an edge. [`Reply::Edge`].
    Edge {
        /// What is asked.
        edge: EdgeRequest,
    },
    /// Internal counters. [`Reply::Counters`].
    Counters,
    /// Change what is logged, in `tracing`'s filter syntax (`debug`, `warren_mesh=trace`).
    /// [`Reply::Done`].
    Log {
        /// The new filter.
        filter: String,
    },
}

/// The listen port to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ListenPort {
    /// Chosen by the node, once, and kept.
    Auto,
    /// This one.
    Fixed(u16),
}

/// A peer to ping, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingRequest {
    /// Its name, full DNS name, or mesh address.
    pub peer: String,
    /// How many attempts at most; unlimited otherwise.
    #[serde(default)]
    pub count: Option<u32>,
    /// From one attempt to the next, in milliseconds.
    #[serde(default = "default_interval")]
    pub interval_ms: u64,
    /// How long to wait for each answer, in milliseconds.
    #[serde(default = "default_timeout")]
    pub timeout_ms: u64,
    /// End as soon as an answer has come over a direct path.
    #[serde(default)]
    pub until_direct: bool,
}

fn default_interval() -> u64 {
    1_000
}

fn default_timeout() -> u64 {
    5_000
}

impl PingRequest {
    /// A ping of `peer` once a second with five seconds' patience, until it is direct.
    pub fn new(peer: impl Into<String>) -> Self {
        Self {
            peer: peer.into(),
            count: None,
            interval_ms: default_interval(),
            timeout_ms: default_timeout(),
            until_direct: true,
        }
    }
}

/// One attempt of a ping: an ICMP echo through the tunnel, answered by the peer's own kernel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PingReport {
    /// The peer's name.
    pub peer: String,
    /// Its mesh address that was pinged.
    pub address: IpAddr,
    /// Counts from 1.
    pub seq: u32,
    /// From sending to the answer in milliseconds, a wait for the tunnel included; `None` when no
    /// answer came in time.
    pub rtt_ms: Option<f64>,
    /// How much of `rtt_ms` the search for a path took, in milliseconds, where one had to be found.
    #[serde(default)]
    pub found_after_ms: Option<f64>,
    /// How traffic to the peer goes at the end of the attempt.
    pub path: PathKind,
    /// Where datagrams to it go.
    pub endpoint: Option<SocketAddr>,
    /// The relay in use.
    pub relay: Option<String>,
    /// The path's own round trip, by the latest probe, in milliseconds.
    pub path_rtt_ms: Option<f64>,
    /// Why it isn't direct, or why there was no answer, for people.
    pub reason: Option<String>,
}

/// A STUN server in a [`NetcheckReport`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StunReport {
    /// The server.
    pub server: SocketAddr,
    /// How it sees this device; `None` without an answer.
    pub mapped: Option<SocketAddr>,
    /// The round trip in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Whether it was asked and has not answered; the further servers are asked only where they
    /// would tell something new.
    #[serde(default)]
    pub silent: bool,
}

/// A relay in a [`NetcheckReport`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RelayReport {
    /// Its name.
    pub name: String,
    /// The round trip of a datagram to it in milliseconds; `None` when it answers none.
    pub rtt_ms: Option<f64>,
    /// The best way to it that works, or is left: `udp`, `tcp` or `tls`.
    pub reached_by: Option<RelayTransport>,
    /// How this device's allocation there is carried, if a pair needs one at present.
    pub in_use: Option<RelayTransport>,
    /// How many peers are reached through it.
    pub peers: usize,
    /// Why it failed last, until it works again, for people.
    pub problem: Option<String>,
}

/// A router's port mapping in a [`NetcheckReport`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappingReport {
    /// `UPnP-IGD`, `NAT-PMP` or `PCP`.
    pub protocol: String,
    /// The public address and port that it leads from.
    pub external: SocketAddr,
    /// The router.
    pub gateway: Option<IpAddr>,
}

/// What can be known of the network around: no more than was measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NetcheckReport {
    /// UDP reachability and mapping behaviour per family.
    pub nat: NatReport,
    /// The mapping behaviour per family in words, as far as it is known.
    pub mapping_ipv4: String,
    /// See `mapping_ipv4`.
    pub mapping_ipv6: String,
    /// Whether the host has a usable IPv4 address and default route of its own.
    pub ipv4: bool,
    /// Whether the host has a global IPv6 address.
    pub ipv6: bool,
    /// The public IPv4 address and port, as STUN saw it.
    pub public_ipv4: Option<SocketAddr>,
    /// The public IPv6 address and port, as STUN saw it.
    pub public_ipv6: Option<SocketAddr>,
    /// Each STUN server asked.
    pub stun: Vec<StunReport>,
    /// Each relay that this device may use, in order of preference.
    #[serde(default)]
    pub relays: Vec<RelayReport>,
    /// The router's port mappings.
    pub mappings: Vec<MappingReport>,
    /// Why there is no port mapping, for people.
    pub mapping_note: Option<String>,
    /// The round trip to the broker in milliseconds.
    pub broker_rtt_ms: Option<f64>,
    /// What the measurements mean, for people.
    pub notes: Vec<String>,
}

/// The listen port, as `warren lport` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenPortChange {
    /// The port in use (or to be used, once up).
    pub port: u16,
    /// Whether the node chose it.
    pub auto: bool,
    /// Whether the request changed it.
    pub changed: bool,
}

/// Internal counters, for tests and for people who look for a fault.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebugCounters {
    /// Packets read from the TUN: a TSO super-packet counts once.
    pub tun_reads: u64,
    /// Packets read from the TUN after segmentation.
    pub tun_read_segments: u64,
    /// Writes to the TUN.
    pub tun_writes: u64,
    /// Packets in those writes before they were coalesced.
    pub tun_write_segments: u64,
    /// `recvmsg` calls (or equal) that returned datagrams.
    pub udp_reads: u64,
    /// Datagrams in them.
    pub udp_read_segments: u64,
    /// `sendmsg` calls of tunnel data.
    pub udp_sends: u64,
    /// Datagrams in those.
    pub udp_send_segments: u64,
    /// Datagrams that the socket did not take.
    pub udp_send_errors: u64,
    /// Packets that the TUN did not take.
    pub tun_write_errors: u64,
    /// Drops and other counts of the core, by name.
    #[serde(default)]
    pub core: std::collections::BTreeMap<String, u64>,
    /// Resident memory of the process, in KiB.
    #[serde(default)]
    pub rss_kib: u64,
}

/// Why a request failed, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureCode {
    /// The request was not understood.
    Invalid,
    /// The device belongs to no account: join first.
    NotJoined,
    /// Disconnected: `warren up` first.
    Down,
    /// No such peer.
    UnknownPeer,
    /// The broker refused the join key.
    JoinRefused,
    /// The broker can't be reached (and it must be, for this).
    BrokerAway,
    /// The broker's certificate isn't the pinned one.
    WrongPin,
    /// The port is in use.
    PortInUse,
    /// The interface could not be set up: `/dev/net/tun` missing, no privilege.
    Interface,
    /// The state folder can't be written.
    State,
    /// It did not happen in time; the daemon goes on trying.
    Timeout,
    /// Something else; the text says what.
    #[serde(other)]
    Other,
}

/// What the daemon answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// For [`Request::Status`], [`Request::Watch`], [`Request::Up`].
    Status(Box<Status>),
    /// For [`Request::Ping`].
    Ping(PingReport),
    /// For [`Request::Netcheck`].
    Netcheck(NetcheckReport),
    /// For [`Request::Why`].
    Why(Box<WhyReport>),
    /// For [`Request::ListenPort`].
    ListenPort(ListenPortChange),
    /// For [`Request::ExitNode`].
    ExitNodes(ExitNodes),
    /// For [`Request::Edge`].
    Edge {
        /// The answer.
        edge: Box<EdgeReply>,
    },
    /// For [`Request::Counters`].
    Counters(DebugCounters),
    /// For [`Request::Logout`].
    LoggedOut {
        /// Why the broker could not be told, and what to do, for people; absent where it was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        untold: Option<String>,
    },
    /// It is done, or the stream is at its end.
    Done,
    /// It failed.
    Error {
        /// Why, for programs.
        code: FailureCode,
        /// Why and what to do next, for people.
        text: String,
    },
}
