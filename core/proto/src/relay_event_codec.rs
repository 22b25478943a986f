//! A [`RelayEvent`] as the fields `event` and `data` of a server-sent event.

use serde::{Deserialize, Serialize};

use crate::{DeviceId, ParseEventError, RelayEvent};

const INIT: &str = "init";
const REVOKE: &str = "revoke";
const REVOKED: &str = "revoked";

/// The data of a `revoke` event.
#[derive(Serialize, Deserialize)]
struct Revoke {
    devices: Vec<DeviceId>,
}

impl RelayEvent {
    /// The event's name: the field `event`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Init(_) => INIT,
            Self::Revoke(_) => REVOKE,
            Self::Revoked => REVOKED,
        }
    }

    /// The content in JSON on one line: the field `data`. `null` where there is none.
    pub fn data(&self) -> String {
        let json = match self {
            Self::Init(init) => serde_json::to_string(init),
            Self::Revoke(devices) => serde_json::to_string(&Revoke { devices: devices.clone() }),
            Self::Revoked => Ok("null".to_owned()),
        };
        json.expect("these types have string keys and no failing serializer")
    }

    /// Reads an event from the fields `event` and `data`.
    ///
    /// # Errors
    /// An unknown name (ignore it: a newer broker), or data that doesn't fit the name.
    pub fn parse(name: &str, data: &str) -> Result<Self, ParseEventError> {
        let malformed = |name| move |source| ParseEventError::Data { name, source };
        match name {
            INIT => serde_json::from_str(data).map(Self::Init).map_err(malformed(INIT)),
            REVOKE => serde_json::from_str(data)
                .map(|revoke: Revoke| Self::Revoke(revoke.devices))
                .map_err(malformed(REVOKE)),
            REVOKED => Ok(Self::Revoked),
            other => Err(ParseEventError::Unknown(other.chars().take(64).collect())),
        }
    }
}
