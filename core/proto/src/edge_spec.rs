//! What people set of an edge: asked for by the edge itself (`/v1/node/edge`), its local socket, the
//! admin API and the portal, in the same words.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::{
    DeviceId, DeviceName, Forward, ForwardId, ForwardProtocol, Gateway, GatewayId, INTERNET,
    LanSource, LanTarget, Ports, Schedule, VirtualDevice, VirtualDeviceId,
};

/// A port forward as it is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ForwardSpec {
    /// Its id.
    pub id: ForwardId,
    /// What people call it, unique on its edge.
    pub name: String,
    /// Whether it is in force.
    pub enabled: bool,
    /// What it takes.
    pub protocol: ForwardProtocol,
    /// The first port on the edge's mesh address.
    pub port: u16,
    /// The last one.
    pub last_port: u16,
    /// Where to.
    pub target: LanTarget,
    /// The target's port that the first one leads to.
    pub target_port: u16,
    /// What the LAN device sees as the source.
    #[serde(default)]
    pub source: LanSource,
    /// Opens a `transparent` one without a look whether answers come back by the edge: whoever sets it knows
    /// that they do, though the device answers no test.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub untested: bool,
    /// Who may use it, of those whom the policy lets reach that port: people, groups, tags, devices,
    /// roles, as a policy writes them. Empty: all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// The hours in which it is in force. Absent: always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// What people want to remember of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// A new port forward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NewForward {
    /// What people call it, unique on its edge. Absent: by its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it takes.
    pub protocol: ForwardProtocol,
    /// The port on the edge's mesh address, or the first of them.
    pub port: u16,
    /// The last port. Absent: there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_port: Option<u16>,
    /// Where to.
    pub target: LanTarget,
    /// The target's port that the first one leads to. Absent: the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_port: Option<u16>,
    /// What the LAN device sees as the source. Absent: the edge.
    #[serde(default)]
    pub source: LanSource,
    /// Opens a `transparent` one without a look whether answers come back by the edge: whoever sets it knows
    /// that they do, though the device answers no test.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub untested: bool,
    /// Whether it is in force. Absent: it is.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Who may use it, of those whom the policy lets reach that port: people, groups, tags, devices,
    /// roles, as a policy writes them. Empty: all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// The hours in which it is in force. Absent: always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// What people want to remember of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// Takes a target that has a public address, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_public: bool,
}

/// What to change of a port forward; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ForwardEdit {
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether it is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// What it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<ForwardProtocol>,
    /// The first port; without `last_port` the only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The last port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_port: Option<u16>,
    /// Where to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<LanTarget>,
    /// The target's port that the first one leads to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_port: Option<u16>,
    /// What the LAN device sees as the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<LanSource>,
    /// Whether a `transparent` one is opened without a look whether answers come back by the edge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untested: Option<bool>,
    /// Who may use it; an empty list: whoever the policy lets reach that port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<String>>,
    /// The hours in which it is in force; `null` or absent: as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// Whether it is to be in force at all hours.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub always: bool,
    /// What people want to remember of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Takes a target that has a public address, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_public: bool,
}

/// A virtual device as it is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VirtualDeviceSpec {
    /// Its id.
    pub id: VirtualDeviceId,
    /// Its name, unique on its edge.
    pub name: DeviceName,
    /// Its mesh address, for life.
    pub ipv4: Ipv4Addr,
    /// Whether it is in force.
    pub enabled: bool,
    /// The LAN device.
    pub target: LanTarget,
    /// What is let through, as in a policy: `tcp:80`, `udp:53`, `icmp`, `*`.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
    pub ports: Vec<Ports>,
    /// What the LAN device sees as the source.
    #[serde(default)]
    pub source: LanSource,
    /// Opens a `transparent` one without a look whether answers come back by the edge: whoever sets it knows
    /// that they do, though the device answers no test.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub untested: bool,
    /// What people want to remember of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// A new virtual device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NewVirtualDevice {
    /// Its name, unique on its edge.
    pub name: DeviceName,
    /// The LAN device.
    pub target: LanTarget,
    /// What is let through, as in a policy: `tcp:80`, `udp:53`, `icmp`. Absent: everything.
    #[serde(default = "all_ports")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
    pub ports: Vec<Ports>,
    /// What the LAN device sees as the source. Absent: the edge.
    #[serde(default)]
    pub source: LanSource,
    /// Opens a `transparent` one without a look whether answers come back by the edge: whoever sets it knows
    /// that they do, though the device answers no test.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub untested: bool,
    /// Whether it is in force. Absent: it is.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// What people want to remember of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// Takes a target that has a public address, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_public: bool,
}

/// What to change of a virtual device; what is absent stays. Its address is for life.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct VirtualDeviceEdit {
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<DeviceName>,
    /// Whether it is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// The LAN device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<LanTarget>,
    /// What is let through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<String>>"))]
    pub ports: Option<Vec<Ports>>,
    /// What the LAN device sees as the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<LanSource>,
    /// Whether a `transparent` one is opened without a look whether answers come back by the edge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untested: Option<bool>,
    /// What people want to remember of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Takes a target that has a public address, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_public: bool,
}

/// A gateway as it is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct GatewaySpec {
    /// Its id.
    pub id: GatewayId,
    /// The network as the LAN knows it, unique on its edge; `0.0.0.0/0` is the internet: every public
    /// IPv4 address, for devices that have chosen this edge as their exit node.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub lan: Ipv4Net,
    /// The network as the mesh knows it: a part of the account's range, as large, for life.
    /// Gateways that stand by for one another share it. The internet is `0.0.0.0/0` here, too.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub mesh: Ipv4Net,
    /// Whether it is in force.
    pub enabled: bool,
    /// What the LAN sees as the source.
    #[serde(default)]
    pub source: LanSource,
    /// The edge for whose gateway to the internet this one stands by, by id. Of other gateways the shared
    /// network says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby_for: Option<DeviceId>,
    /// What people want to remember of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

impl GatewaySpec {
    /// Whether it leads to the internet.
    pub fn is_internet(&self) -> bool {
        self.lan == INTERNET
    }

    /// What it leads to, for people.
    pub fn network(&self) -> String {
        if self.is_internet() { "the internet".to_owned() } else { self.lan.to_string() }
    }
}

/// A new gateway. The mesh knows the network by a part of the account's range that the broker gives,
/// so that sites may have the same one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NewGateway {
    /// The network as the LAN knows it; `0.0.0.0/0` is the internet.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub lan: Ipv4Net,
    /// What the LAN sees as the source. Absent: the edge.
    #[serde(default)]
    pub source: LanSource,
    /// Whether it is in force. Absent: it is.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// The edge for whose gateway to the same network this one stands by: both are reached by the same
    /// part of the range, through the one that answers. Both are of one person and have the same tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby_for: Option<DeviceName>,
    /// What people want to remember of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

impl NewGateway {
    /// Reads the network as people write it; `internet` is the internet.
    pub fn parse_network(text: &str) -> Option<Ipv4Net> {
        match text.trim() {
            "internet" | "the internet" => Some(INTERNET),
            text => text.parse().ok(),
        }
    }
}

/// What to change of a gateway; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct GatewayEdit {
    /// Whether it is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// What the LAN sees as the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<LanSource>,
    /// What people want to remember of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// All that is set of an edge.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EdgeSpec {
    /// Its port forwards, by port.
    pub forwards: Vec<ForwardSpec>,
    /// Its virtual devices, by name.
    pub virtual_devices: Vec<VirtualDeviceSpec>,
    /// Its gateways, by network.
    pub gateways: Vec<GatewaySpec>,
}

/// One thing that is to become otherwise of what an edge opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "change")]
pub enum EdgeChange {
    /// A port forward more.
    AddForward(NewForward),
    /// Another port forward.
    SetForward {
        /// Which one.
        id: ForwardId,
        /// What of it.
        edit: ForwardEdit,
    },
    /// A port forward less.
    RemoveForward {
        /// Which one.
        id: ForwardId,
    },
    /// A virtual device more.
    AddVirtualDevice(NewVirtualDevice),
    /// Another virtual device.
    SetVirtualDevice {
        /// Which one.
        id: VirtualDeviceId,
        /// What of it.
        edit: VirtualDeviceEdit,
    },
    /// A virtual device less.
    RemoveVirtualDevice {
        /// Which one.
        id: VirtualDeviceId,
    },
    /// A gateway more.
    AddGateway(NewGateway),
    /// Another gateway.
    SetGateway {
        /// Which one.
        id: GatewayId,
        /// What of it.
        edit: GatewayEdit,
    },
    /// A gateway less.
    RemoveGateway {
        /// Which one.
        id: GatewayId,
    },
}

/// What there is after an [`EdgeChange`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "what")]
pub enum EdgeChanged {
    /// This port forward.
    Forward(ForwardSpec),
    /// This virtual device.
    VirtualDevice(VirtualDeviceSpec),
    /// This gateway.
    Gateway(GatewaySpec),
    /// Nothing: it was removed.
    Removed,
}

impl From<&ForwardSpec> for Forward {
    fn from(spec: &ForwardSpec) -> Self {
        Self {
            id: spec.id,
            name: spec.name.clone(),
            protocol: spec.protocol,
            port: spec.port,
            last_port: spec.last_port,
            target: spec.target,
            target_port: spec.target_port,
            source: spec.source,
            untested: spec.untested,
            schedule: spec.schedule.clone(),
        }
    }
}

impl From<&VirtualDeviceSpec> for VirtualDevice {
    fn from(spec: &VirtualDeviceSpec) -> Self {
        Self {
            id: spec.id,
            name: spec.name.clone(),
            ipv4: spec.ipv4,
            target: spec.target,
            ports: spec.ports.clone(),
            source: spec.source,
            untested: spec.untested,
        }
    }
}

impl From<&GatewaySpec> for Gateway {
    fn from(spec: &GatewaySpec) -> Self {
        Self { id: spec.id, mesh: spec.mesh, lan: spec.lan, source: spec.source }
    }
}

fn yes() -> bool {
    true
}

fn all_ports() -> Vec<Ports> {
    vec![Ports::All]
}
