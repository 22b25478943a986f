use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use warren_proto::{EndpointKind, NatReport};

use super::message::RelayReport;
use super::status::{NodeStatus, PeerStatus};

/// Asks why two devices do or don't talk. One of them is this device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyRequest {
    /// Who asks: a name, full DNS name, or mesh address.
    pub from: String,
    /// Who is asked.
    pub to: String,
    /// Where, as in a policy: `tcp:22`; absent: anywhere.
    #[serde(default)]
    pub port: Option<String>,
}

/// What this device knows of whether and how it talks with a peer. It doesn't know the policy's rules,
/// nor what the peer lets in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WhyReport {
    /// Whether this device is the one that asks.
    pub this_asks: bool,
    /// Where, as it was asked.
    pub port: Option<String>,
    /// Where this device lets the peer in of its own accord, as in a policy; `*`: everywhere. None: it
    /// takes nothing but answers.
    pub lets_in: Vec<String>,
    /// Whether `port`, or anything, is among them.
    pub is_let_in: bool,
    /// How long ago the map was last known to be current, in seconds; 0 while connected.
    pub netmap_age_s: Option<u64>,
    /// This device.
    pub this: NodeStatus,
    /// The other one. That it is known means that this device has its key.
    pub peer: PeerStatus,
    /// What the peer knows of the NATs in front of it.
    pub peer_nat: NatReport,
    /// The ways to the peer, and what has become of each.
    pub candidates: Vec<CandidateReport>,
    /// The relays that this device may use, in order of preference.
    pub relays: Vec<RelayReport>,
}

/// One way to a peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CandidateReport {
    /// Where it leads.
    pub endpoint: SocketAddr,
    /// How the address is known.
    pub kind: EndpointKind,
    /// The relay that it leads through; the address means something only there.
    pub relay: Option<String>,
    /// What has become of it.
    pub fate: Fate,
    /// The round trip in milliseconds, where it answers.
    pub rtt_ms: Option<f64>,
    /// When it answered last, in seconds before now.
    pub answered_s_ago: Option<u64>,
}

/// What has become of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// Traffic goes there.
    InUse,
    /// It answers, or did when it was asked last.
    Answers,
    /// It was asked and hasn't answered.
    Silent,
    /// It wasn't asked: nothing wanted a path.
    Untried,
    /// This device can't send there, or won't: it has no such addresses, or they are the mesh's own.
    LeftOut,
    /// From a newer version.
    #[serde(other)]
    Other,
}
