//! Edges as they are stored: devices that open the LAN they stand in, and what each of them opens.

use std::fmt;

use serde::{Deserialize, Serialize};
use warren_proto::{
    DeviceId, ForwardId, ForwardSpec, GatewayId, GatewaySpec, VirtualDeviceId, VirtualDeviceSpec,
};

use crate::UnixTime;

/// A device that is an edge, or was one.
///
/// That it is one is its own word, by the capability that it checks in with. The word is kept: an edge
/// that is offline, or a broker that has just started, changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EdgeRecord {
    /// The device.
    pub device: DeviceId,
    /// Whether it is one at present: without that it is given no duty.
    pub enabled: bool,
    /// Whether the account wants it to be one. That makes it one where its owner has left it to the account.
    pub asked: bool,
}

/// Something that an edge opens, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeItemRecord {
    /// The edge.
    pub edge: DeviceId,
    /// What.
    pub item: EdgeItem,
    /// When it was made.
    pub created: UnixTime,
}

/// Something that an edge opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EdgeItem {
    /// Ports of its own that lead into the LAN.
    Forward(ForwardSpec),
    /// A LAN device with an address of its own.
    VirtualDevice(VirtualDeviceSpec),
    /// A network.
    Gateway(GatewaySpec),
}

impl EdgeItem {
    /// Its id.
    pub fn id(&self) -> EdgeItemId {
        match self {
            Self::Forward(spec) => EdgeItemId::Forward(spec.id),
            Self::VirtualDevice(spec) => EdgeItemId::VirtualDevice(spec.id),
            Self::Gateway(spec) => EdgeItemId::Gateway(spec.id),
        }
    }

    /// Whether it is in force.
    pub fn is_enabled(&self) -> bool {
        match self {
            Self::Forward(spec) => spec.enabled,
            Self::VirtualDevice(spec) => spec.enabled,
            Self::Gateway(spec) => spec.enabled,
        }
    }

    /// What people call it.
    pub fn name(&self) -> String {
        match self {
            Self::Forward(spec) => spec.name.clone(),
            Self::VirtualDevice(spec) => spec.name.to_string(),
            Self::Gateway(spec) => spec.network(),
        }
    }
}

/// Names something that an edge opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EdgeItemId {
    /// A port forward.
    Forward(ForwardId),
    /// A virtual device.
    VirtualDevice(VirtualDeviceId),
    /// A gateway.
    Gateway(GatewayId),
}

impl EdgeItemId {
    /// What it is, in a word.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Forward(_) => "forward",
            Self::VirtualDevice(_) => "virtual-device",
            Self::Gateway(_) => "gateway",
        }
    }
}

impl fmt::Display for EdgeItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forward(id) => id.fmt(f),
            Self::VirtualDevice(id) => id.fmt(f),
            Self::Gateway(id) => id.fmt(f),
        }
    }
}
