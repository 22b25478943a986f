//! What the command line prints as JSON, as far as scripts may rely on it. Words stay text: the lab
//! reads as a script does, not with the types of the program under test.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::Deserialize;
use serde_json::Value;

/// `warren status --json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// This device.
    pub node: NodeView,
    /// The broker, as this device sees it.
    pub broker: BrokerView,
    /// The other devices.
    pub peers: Vec<PeerView>,
    /// What needs a person's attention.
    pub health: Vec<HealthView>,
}

impl Status {
    /// The peer of that name.
    #[must_use]
    pub fn peer(&self, name: &str) -> Option<&PeerView> {
        self.peers.iter().find(|peer| peer.name == name)
    }

    /// The text of the first complaint with that code.
    #[must_use]
    pub fn health(&self, code: &str) -> Option<&str> {
        self.health.iter().find(|entry| entry.code == code).map(|entry| entry.text.as_str())
    }
}

/// `node` in a [`Status`].
#[derive(Clone, Debug, Deserialize)]
pub struct NodeView {
    /// Its name in the account.
    pub name: String,
    /// Its mesh address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its mesh address.
    pub ipv6: Option<Ipv6Addr>,
    /// Its full name.
    pub dns_name: Option<String>,
    /// Its UDP port.
    pub listen_port: u16,
    /// Its public key in text.
    pub public_key: String,
    /// `connected`, `offline`, …
    pub state: String,
    /// Where it may be reached.
    pub endpoints: Vec<Value>,
    /// What is known of its NATs.
    pub nat: Value,
}

/// `broker` in a [`Status`].
#[derive(Clone, Debug, Deserialize)]
pub struct BrokerView {
    /// Its URL.
    pub url: Option<String>,
    /// Whether the control session lives.
    pub connected: bool,
    /// Age of the netmap in seconds.
    pub netmap_age_s: Option<u64>,
}

/// One of `peers` in a [`Status`].
#[derive(Clone, Debug, Deserialize)]
pub struct PeerView {
    /// Its name in the account.
    pub name: String,
    /// Its mesh address.
    pub ipv4: Ipv4Addr,
    /// Its mesh address.
    pub ipv6: Ipv6Addr,
    /// Whether it has a control session.
    pub online: bool,
    /// `direct`, `relayed`, `connecting`, `idle` or `unreachable`.
    pub path: String,
    /// Why it isn't direct.
    pub reason: Option<String>,
    /// Where its datagrams go.
    pub endpoint: Option<SocketAddr>,
    /// The relay in use.
    pub relay: Option<String>,
    /// Round trip in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Bytes from it.
    pub rx_bytes: u64,
    /// Bytes to it.
    pub tx_bytes: u64,
}

/// One of `health` in a [`Status`].
#[derive(Clone, Debug, Deserialize)]
pub struct HealthView {
    /// For programs.
    pub code: String,
    /// For people.
    pub text: String,
}

/// A line of `warren ping --json`.
#[derive(Clone, Debug, Deserialize)]
pub struct PingReply {
    /// From sending to the answer, a wait for the tunnel included; none: no answer.
    pub rtt_ms: Option<f64>,
    /// The path's own round trip.
    pub path_rtt_ms: Option<f64>,
    /// As in [`PeerView::path`].
    pub path: String,
    /// Where datagrams to the peer go.
    pub endpoint: Option<SocketAddr>,
    /// The relay in use.
    pub relay: Option<String>,
    /// Why it isn't direct, or why no answer came.
    pub reason: Option<String>,
}
