//! Relays as nodes see them, what a relay is told, and what it says of itself.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{AccountId, DeviceId, DeviceName, Pin, RelayId};

/// The ALPN protocol by which TURN shares a TCP port with HTTPS (RFC 7443 §3).
pub const TURN_ALPN: &str = "stun.turn";

/// The capability by which a node says that its UDP port was chosen by its user, not by itself: what a
/// firewall can be opened for.
pub const FIXED_PORT: &str = "fixed-port";

/// A relay that a node may use: an entry of [`crate::Netmap::relays`], which stand in order of
/// preference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relay {
    /// Names it in [`RelayRtt`] and [`RelayChoice`].
    pub id: RelayId,
    /// Its name, for people.
    pub name: String,
    /// Smaller is preferred. Among equal ones that both sides of a pair reach, the one with the
    /// smallest sum of their round-trip times is used.
    #[serde(default)]
    pub rank: u16,
    /// The device that it is, for a private relay. Policy may hide the device, never the relay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    /// Where it takes datagrams: at most one address of each family.
    #[serde(default)]
    pub udp: Vec<SocketAddr>,
    /// Where it takes TCP: at most one address of each family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tcp: Vec<SocketAddr>,
    /// Where it takes TLS, for networks that block UDP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tls: Vec<RelayTls>,
    /// Whether it gives out virtual relayed addresses: ours do, other TURN servers don't.
    #[serde(default)]
    pub virtual_addresses: bool,
    /// What this device shows to be let in.
    pub credential: RelayCredential,
}

/// Where a relay takes TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayTls {
    /// A host name, or an address without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// The name that the certificate is for, where it isn't `host`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// The key that the chain ends in; then neither names nor dates matter. Without one the
    /// system's authorities decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<Pin>,
}

impl fmt::Display for RelayTls {
    /// `HOST:PORT`, with brackets around an IPv6 address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{open}{}{close}:{}", self.host, self.port)
    }
}

/// A TURN user name and password (RFC 8489 §9.2).
///
/// For our relays, and for others that share a secret with the broker: `<expiry>:<device id>` and
/// the base64 of HMAC-SHA1(secret, user name), the TURN REST convention.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayCredential {
    /// The user name.
    pub username: String,
    /// The password: a secret.
    pub password: String,
    /// The realm, if it is known before the server says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub realm: Option<String>,
    /// A nonce that the server takes: saves the round trip of the first 401. It may have grown
    /// stale since; then the server says so (438).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// Until when a new allocation may be made by it, in seconds since the Unix epoch; a live
    /// allocation goes on. `None`: it doesn't end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_unix: Option<u64>,
}

impl fmt::Debug for RelayCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayCredential")
            .field("username", &self.username)
            .field("expires_unix", &self.expires_unix)
            .finish_non_exhaustive()
    }
}

/// To the device that is a connection relay of its account: what it needs to serve.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayDuty {
    /// The realm of its credentials.
    pub realm: String,
    /// The secrets that credentials are made with: the present one, then (while it is being
    /// changed) the one before. One or two.
    pub secrets: Vec<String>,
    /// The addresses that the others know it by; the ports may differ from the one listened on.
    #[serde(default)]
    pub public: Vec<SocketAddr>,
    /// Devices that were removed while credentials of theirs are still valid: refuse them, and
    /// end their allocations.
    #[serde(default)]
    pub revoked: Vec<DeviceId>,
}

impl fmt::Debug for RelayDuty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayDuty")
            .field("realm", &self.realm)
            .field("public", &self.public)
            .field("revoked", &self.revoked)
            .finish_non_exhaustive()
    }
}

/// How a relay is reached.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum RelayTransport {
    /// Datagrams.
    #[default]
    Udp,
    /// A TCP connection.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// From a newer version.
    #[serde(other)]
    Other,
}

/// That a node reaches a relay, and how quickly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayRtt {
    /// The relay.
    pub relay: RelayId,
    /// The round-trip time in microseconds.
    pub rtt_us: u32,
    /// The best way to it that works.
    #[serde(default, skip_serializing_if = "is_udp")]
    pub transport: RelayTransport,
}

fn is_udp(transport: &RelayTransport) -> bool {
    *transport == RelayTransport::Udp
}

/// The relay that the initiator of a connection has chosen; the peer follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayChoice {
    /// The relay.
    pub relay: RelayId,
    /// Where the initiator is reached at a relay without virtual addresses: the peer sends plain
    /// UDP there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relayed: Option<SocketAddr>,
}

/// How a private relay does its duty: part of its device's check-in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayState {
    /// Whether it takes allocations.
    #[serde(default)]
    pub serving: bool,
    /// Why it can't help, or not everybody, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// `POST /v1/relay/report`: what a relay server says of itself, at its start, at every change and
/// each minute. Authenticated by its token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayReport {
    /// The relay's protocol version.
    pub protocol: u32,
    /// The account that it is meant for, where its operator said so: a token of another scope is
    /// then refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<DeviceName>,
    /// Where it takes datagrams, as the outside should know it. With an unspecified address: as
    /// the broker sees it come, at this port.
    pub udp: Vec<SocketAddr>,
    /// Where it takes TCP, likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tcp: Vec<SocketAddr>,
    /// Where it takes TLS. An empty host: as the broker sees it come.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tls: Vec<RelayTls>,
    /// What it allows.
    #[serde(default)]
    pub limits: RelayLimits,
    /// What it carries.
    #[serde(default)]
    pub load: RelayLoad,
    /// Its software's version.
    #[serde(default)]
    pub software: String,
    /// Whether it is ending: it takes no new allocations, and is named to nobody any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
}

/// Bounds of a relay server; absent: none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RelayLimits {
    /// Allocations in total.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocations: Option<u64>,
    /// Allocations of one credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocations_per_user: Option<u64>,
    /// Bytes a second of one credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_per_user: Option<u64>,
}

/// What a relay server carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RelayLoad {
    /// Allocations at this moment.
    #[serde(default)]
    pub allocations: u64,
    /// Bytes relayed since it started.
    #[serde(default)]
    pub bytes: u64,
    /// Packets relayed since it started.
    #[serde(default)]
    pub packets: u64,
}

/// The broker's answer to a [`RelayReport`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayReported {
    /// Its id.
    pub id: RelayId,
    /// Its name.
    pub name: DeviceName,
    /// Why it can't help, or not everybody, for people: e.g. that the broker can't reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Whom a relay server serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum RelayScope {
    /// The devices of one account.
    Account {
        /// The account.
        id: AccountId,
        /// Its name.
        name: DeviceName,
    },
    /// The devices of all accounts of the broker.
    Operator,
    /// From a newer version: don't serve.
    #[serde(other)]
    Other,
}

/// What a relay server must know before it serves.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayInit {
    /// Its id.
    pub id: RelayId,
    /// Its name.
    pub name: DeviceName,
    /// Whom it serves.
    pub scope: RelayScope,
    /// The realm of its credentials.
    pub realm: String,
    /// As [`RelayDuty::secrets`].
    pub secrets: Vec<String>,
    /// The broker's clock as it wrote this, in milliseconds since the Unix epoch: credentials
    /// expire by it.
    pub clock_unix_ms: u64,
    /// As [`RelayDuty::revoked`]: all of them.
    #[serde(default)]
    pub revoked: Vec<DeviceId>,
}

impl fmt::Debug for RelayInit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayInit")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("scope", &self.scope)
            .field("clock_unix_ms", &self.clock_unix_ms)
            .field("revoked", &self.revoked)
            .finish_non_exhaustive()
    }
}

/// One event of a relay server's stream (`GET /v1/relay/events`, server-sent events).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelayEvent {
    /// Everything: first in each stream, and again whenever something of it changes.
    Init(RelayInit),
    /// These devices were removed, besides those known: refuse them, and end their allocations.
    Revoke(Vec<DeviceId>),
    /// The token is void: end all allocations and stop serving. The stream ends.
    Revoked,
}
