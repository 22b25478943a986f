use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use warren_proto::{DeviceName, RelayId, RelayLimits, RelayLoad};

pub use warren_coord::RelayOrigin;

use super::Time;

/// A relay that an account's devices use or could use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Relay {
    /// Its id.
    pub id: RelayId,
    /// Its name; a device's own.
    pub name: DeviceName,
    /// What it is.
    pub origin: RelayOrigin,
    /// Whether it is offered to all accounts.
    pub shared: bool,
    /// Its place among those that the account's devices use: smaller is preferred, equal ones are
    /// chosen by their round-trip times. Absent: they don't use it.
    #[serde(default)]
    pub rank: Option<u16>,
    /// Where it takes datagrams.
    pub udp: Vec<SocketAddr>,
    /// Where it takes TCP.
    pub tcp: Vec<SocketAddr>,
    /// Where it takes TLS: `HOST:PORT`.
    pub tls: Vec<String>,
    /// A TURN server's URL.
    #[serde(default)]
    pub url: Option<String>,
    /// Whether it is connected to the broker; absent where it never is.
    #[serde(default)]
    pub online: Option<bool>,
    /// When it was heard of last.
    #[serde(default)]
    pub last_heard: Option<Time>,
    /// How many of the account's devices that are online reach it ...
    pub reached_by: usize,
    /// ... of how many.
    pub devices: usize,
    /// What it allows.
    pub limits: RelayLimits,
    /// What it carries.
    pub load: RelayLoad,
    /// Why it can't help, or not everybody; each says what to do.
    pub warnings: Vec<String>,
    /// When it was created.
    #[serde(default)]
    pub created: Option<Time>,
}

/// Asks for a relay server's token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRelay {
    /// Its name: lower-case letters, digits and inner hyphens.
    pub name: DeviceName,
}

/// A new relay server; the token is nowhere else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RelayCreated {
    /// Its id.
    pub id: RelayId,
    /// Its name.
    pub name: DeviceName,
    /// What `warren relay` shows to the broker: a secret.
    pub token: String,
    /// Where it reaches the broker.
    pub url: String,
    /// The key by which it knows the broker; none under ACME or behind a proxy.
    #[serde(default)]
    pub pin: Option<warren_proto::Pin>,
}

/// Takes somebody's TURN server in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTurn {
    /// `turn:HOST[:PORT][?transport=tcp]` or `turns:HOST[:PORT]` (RFC 7065).
    pub url: String,
    /// Its name; its host's unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<DeviceName>,
    /// The user that all devices are; absent: the secret makes a credential for each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The secret that the server shares, or the user's password.
    pub secret: String,
}

impl std::fmt::Debug for NewTurn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewTurn")
            .field("url", &self.url)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// Names an account's connection relays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetRelays {
    /// Devices and relays by name or id, in order of preference; those in one group are equal.
    /// Empty: whatever relays there are.
    pub relays: Vec<Vec<String>>,
}

/// A device was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceRemoved {
    /// Whether it was a connection relay of its account.
    #[serde(default)]
    pub was_relay: bool,
    /// How many relays the account's devices have left.
    #[serde(default)]
    pub relays_left: usize,
}
