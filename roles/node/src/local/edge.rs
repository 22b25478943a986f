use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};
use warren_proto::{
    CardAt, EdgeChange, EdgeChanged, EdgeOpen, EdgeSpec, EdgeState, ForwardId, LanCap,
};
use warren_scan::{Inventory, Looked, Rescan, RescanStatus, ScanPlan, ScanStatus, Woken};

/// What is asked of a device as an edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EdgeRequest {
    /// Become one, or be one otherwise: all of it, or nothing changes. [`EdgeReply::Status`].
    Enable(Enabling),
    /// Be none any more: nothing is open. [`EdgeReply::Status`].
    Disable,
    /// How things are. [`EdgeReply::Status`].
    Status,
    /// All that is set. The broker is asked. [`EdgeReply::Spec`].
    Spec,
    /// Change something of it. The broker decides. [`EdgeReply::Changed`].
    Change(EdgeChange),
    /// Something for the edge role itself, with or without the broker. [`EdgeReply::Found`].
    Work(EdgeWork),
}

/// As what kind of edge, and what it may open.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enabling {
    /// Absent: as it is one already; one that is none: [`EdgeKind::Plain`].
    #[serde(default)]
    pub kind: Option<EdgeKind>,
    /// What it may open, as long as it isn't said otherwise. Absent: what it might before.
    #[serde(default)]
    pub only: Option<LanCap>,
}

/// When a device is an edge, and by what way it leads packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EdgeKind {
    /// From now on; by the kernel, as far as it can.
    Plain,
    /// While the account asks for it.
    WhenAsked,
    /// From now on, by the userspace proxy, whatever the kernel could do.
    Userspace,
}

/// What the edge role does when it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EdgeWork {
    /// Begin a scan; without networks, of those that this device stands in. [`EdgeFound::Scanning`].
    Scan(ScanPlan),
    /// The same, and repeat it from now on; what is refused isn't repeated either.
    /// [`EdgeFound::Scanning`].
    ScanAndRepeat(Rescan),
    /// End the scan that is under way. [`EdgeFound::Scanning`].
    CancelScan,
    /// How far a scan is. [`EdgeFound::Scanning`].
    Scanning,
    /// The scan that is repeated. [`EdgeFound::Rescan`].
    Rescan,
    /// Repeat no scan any more. [`EdgeFound::Rescan`].
    EndRescan,
    /// The devices that are known, those after this one: as many as are told at once.
    /// [`EdgeFound::Devices`].
    Devices(Option<IpAddr>),
    /// Wake a device: a name, an address, or a card's address. [`EdgeFound::Woken`].
    Wake(String),
    /// Whether what a port forward leads to answers. [`EdgeFound::Looked`].
    Check(ForwardId),
    /// What is in fact open. [`EdgeFound::Open`].
    Open,
    /// Which card something at an address of a LAN is to be bound to. [`EdgeFound::Card`].
    Card(Ipv4Addr),
}

/// What the edge role has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EdgeFound {
    /// How a scan goes.
    Scanning(ScanStatus),
    /// The scan that is repeated, if one is.
    Rescan(Option<RescanStatus>),
    /// Devices that are known, by address; with the last of them, what has changed.
    Devices {
        /// They.
        part: Inventory,
        /// Whether there are more after them.
        more: bool,
    },
    /// A device was called to wake.
    Woken(Woken),
    /// Whether something answers.
    Looked(Looked),
    /// What is open.
    Open(EdgeOpen),
    /// Which card.
    Card(CardAt),
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EdgeReply {
    /// How things are.
    Status(EdgeStatus),
    /// All that is set.
    Spec(EdgeSpec),
    /// It is changed.
    Changed(EdgeChanged),
    /// What the edge role has found.
    Found(EdgeFound),
}

/// This device as an edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeStatus {
    /// Whether it is one.
    pub enabled: bool,
    /// Whether its owner leaves that to the account.
    #[serde(default)]
    pub when_asked: bool,
    /// Whether the account asks for it.
    #[serde(default)]
    pub asked: bool,
    /// What its owner lets it open.
    #[serde(default)]
    pub only: LanCap,
    /// Whether the broker has given it something to do, or nothing, as one.
    pub accepted: bool,
    /// Whether the broker is connected: without it nothing can be changed.
    pub broker_connected: bool,
    /// How many port forwards are open.
    pub forwards: usize,
    /// How many virtual devices.
    pub virtual_devices: usize,
    /// How many gateways.
    pub gateways: usize,
    /// What the edge role says of itself.
    pub state: EdgeState,
}
