//! What an edge has in fact open, and sees of its LAN, as it says itself.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::{ForwardId, GatewayId, MacAddr, VirtualDeviceId};

/// What an edge has open at this moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct EdgeOpen {
    /// Port forwards by id, and where their device is now.
    pub forwards: BTreeMap<ForwardId, Ipv4Addr>,
    /// Virtual devices by id, and where they are now.
    pub virtual_devices: BTreeMap<VirtualDeviceId, Ipv4Addr>,
    /// Gateways by id, and their network's address.
    pub gateways: BTreeMap<GatewayId, Ipv4Addr>,
    /// What doesn't work, and what to do about it: all of it.
    pub problems: Vec<String>,
}

/// Which card stands at an address of a LAN, for whoever binds something to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CardAt {
    /// The card. Absent: none is known to be there now, or it is none to bind to: it answers for others, or
    /// its address is made up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// How that is known, or why it isn't, for people. Empty: there is nothing to say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}
