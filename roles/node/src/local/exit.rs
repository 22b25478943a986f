use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// By whom this device's traffic to the internet is to go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitNodeChange {
    /// By this device's own network.
    Off,
    /// By an exit node, and by nothing else while that is away.
    Use {
        /// The exit node's name, full DNS name, or mesh address.
        name: String,
        /// Whether the private networks that this device stands in stay reachable beside it.
        #[serde(default = "yes")]
        lan: bool,
    },
}

fn yes() -> bool {
    true
}

/// The exit nodes that this device may use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitNodes {
    /// The one that was chosen.
    pub chosen: Option<ExitNodeStatus>,
    /// Those that offer themselves, by name.
    pub offered: Vec<ExitNode>,
}

/// An edge that leads to the internet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitNode {
    /// Its name.
    pub name: String,
    /// Its mesh address.
    pub ipv4: Ipv4Addr,
    /// Whether it has a control session with the broker, as of the netmap.
    pub online: bool,
    /// The one that it stands by for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby_for: Option<String>,
}

/// What becomes of traffic to the internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitState {
    /// It goes by the exit node.
    InUse,
    /// It is held back: the exit node, and whoever stands by for it, can't be reached.
    Away,
    /// It is held back: the exit node is none any more, or not for this device.
    NotOffered,
    /// The mesh is down: it goes by this device's own network until that is up.
    Down,
    /// From a newer version.
    #[serde(other)]
    Other,
}

/// The exit node that was chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitNodeStatus {
    /// Its name.
    pub name: String,
    /// What becomes of traffic to the internet.
    pub state: ExitState,
    /// The one by which it goes, where that isn't the chosen one but one that stands by for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Whether the private networks that this device stands in stay reachable beside it.
    pub lan: bool,
}
