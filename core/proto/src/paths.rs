//! How a device's traffic goes, as it tells the broker for people to see.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{DeviceId, RelayId};

/// The most entries that the broker reads of one [`PathReports`].
pub const MAX_PATH_REPORTS: usize = 256;

/// How traffic to a peer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum PathKind {
    /// From device to device.
    Direct,
    /// Through a relay, as ciphertext.
    Relayed,
    /// A path is being sought.
    Connecting,
    /// Nobody has wanted one lately.
    Idle,
    /// None was found.
    Unreachable,
}

/// `POST /v1/node/paths`: what changed of a device's paths since its last report, or, in the first one
/// of a control session, all that aren't idle. An idle device sends none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathReports {
    /// One entry for each peer; at most [`MAX_PATH_REPORTS`] are read.
    pub paths: Vec<PathReport>,
}

/// One path, seen from the device that reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathReport {
    /// To which peer.
    pub peer: DeviceId,
    /// How traffic goes.
    pub path: PathKind,
    /// Why it isn't direct, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Where the datagrams go, if to a real address of the peer's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddr>,
    /// The relay in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<RelayId>,
    /// The round trip in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u32>,
    /// Bytes of tunnelled packets received from the peer since the mesh came up.
    #[serde(default)]
    pub rx_bytes: u64,
    /// Bytes of tunnelled packets sent to the peer since the mesh came up.
    #[serde(default)]
    pub tx_bytes: u64,
}
