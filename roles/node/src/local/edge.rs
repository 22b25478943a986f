use serde::{Deserialize, Serialize};
use warren_proto::{EdgeChange, EdgeChanged, EdgeSpec, EdgeState};

/// What is asked of a device as an edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EdgeRequest {
    /// Become one: what the account sets for it is opened from now on. [`EdgeReply::Status`].
    Enable,
    /// Be none any more: nothing is open. [`EdgeReply::Status`].
    Disable,
    /// How things are. [`EdgeReply::Status`].
    Status,
    /// All that is set. The broker is asked. [`EdgeReply::Spec`].
    Spec,
    /// Change something of it. The broker decides. [`EdgeReply::Changed`].
    Change(EdgeChange),
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
}

/// This device as an edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeStatus {
    /// Whether it is one.
    pub enabled: bool,
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
