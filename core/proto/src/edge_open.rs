//! What an edge has in fact open, as it says itself.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::{ForwardId, GatewayId, VirtualDeviceId};

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
