use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use warren_coord::policy::Report;
use warren_proto::{Admission, DeviceName, Endpoint, NatReport};

use super::DevicePath;

/// An account's policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyText {
    /// Grows by one with every change; also the `ETag`.
    pub version: u64,
    /// The text, as it was written.
    pub text: String,
}

/// A text to check or to save.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyCheck {
    /// The text.
    pub text: String,
}

/// A policy is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicySaved {
    /// Its version.
    pub version: u64,
    /// Warnings, tests, and what it has changed.
    #[serde(flatten)]
    pub report: Report,
}

/// Asks whether and how two devices talk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WhyQuery {
    /// Who asks: a device's name or id.
    pub from: String,
    /// Who is asked.
    pub to: String,
    /// Where, as in a policy: `tcp:22`; absent: anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
}

/// Why two devices do or don't talk, as far as the broker knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Why {
    /// Where, as it was asked.
    pub port: Option<String>,
    /// The policy that counts.
    pub policy_version: u64,
    /// The rules that let `from` reach `to` there. None: it may not.
    pub allowed_by: Vec<WhyRule>,
    /// The rules that let `to` reach `from`, anywhere.
    pub back_allowed_by: Vec<WhyRule>,
    /// Whether policy tells the two of each other.
    pub see_each_other: bool,
    /// Who asks.
    pub from: WhyDevice,
    /// Who is asked.
    pub to: WhyDevice,
}

/// A rule that decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WhyRule {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// The line of the text that it begins at.
    pub line: usize,
    /// What it allows.
    pub ports: Vec<String>,
}

/// One of the two devices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WhyDevice {
    /// Its name.
    pub name: DeviceName,
    /// Its mesh address.
    pub ipv4: Ipv4Addr,
    /// Whether it is connected to the broker.
    pub online: bool,
    /// Whether it is in the mesh, and if not, why.
    pub admission: Admission,
    /// Whether its map has the other's key.
    pub has_key_of_other: bool,
    /// Whether it lets in less than everything.
    pub is_filtering: bool,
    /// What it knows of the NATs in front of it.
    pub nat: NatReport,
    /// Where the other looks for it: the candidates.
    pub endpoints: Vec<Endpoint>,
    /// The relays that it may use, in order of preference.
    pub relays: Vec<String>,
    /// How its traffic to the other goes, as it reported; none: there was none.
    pub path: Option<DevicePath>,
}
