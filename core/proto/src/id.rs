use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// An id was not 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("an id is 16 hexadecimal digits")]
pub struct ParseIdError;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Random, 64 bits, written as 16 lower-case hexadecimal digits.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:016x})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(s: &str) -> Result<Self, ParseIdError> {
                if s.len() != 16 || !s.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(ParseIdError);
                }
                u64::from_str_radix(s, 16).map(Self).map_err(|_| ParseIdError)
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseIdError;

            fn try_from(s: String) -> Result<Self, ParseIdError> {
                s.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    };
}

id! {
    /// Names an account: one tenant, one private network.
    AccountId
}
id! {
    /// Names a device for its whole life.
    DeviceId
}
id! {
    /// Names a join key without being it: safe to show and log.
    JoinKeyId
}
id! {
    /// Names a relay: a private one, a relay server, or a TURN server of somebody else's.
    RelayId
}
id! {
    /// Names a person, broker-wide: one user may belong to several accounts.
    UserId
}
id! {
    /// Names an invitation to an account without being it: safe to show and log.
    InvitationId
}
id! {
    /// Names a browser's session: safe to show and log.
    WebSessionId
}
id! {
    /// Names an API token without being it: safe to show and log.
    ApiTokenId
}
id! {
    /// Names a webhook: safe to show and log.
    WebhookId
}
id! {
    /// Names one message to a webhook.
    DeliveryId
}
id! {
    /// Names a port forward of an edge.
    ForwardId
}
id! {
    /// Names a virtual device behind an edge.
    VirtualDeviceId
}
id! {
    /// Names a gateway: a network behind an edge.
    GatewayId
}
id! {
    /// Names one look at whether a device is reached at an endpoint.
    ReachId
}
id! {
    /// Names one run of a node: drawn anew each time the process starts, sent in
    /// [`crate::INSTANCE_HEADER`]. An instance that comes back after another one took its place
    /// betrays two machines with one identity.
    InstanceId
}
