//! A [`SessionEvent`] as the three fields of a server-sent event: `event`, `id` and `data`.

use serde::Serialize;
use thiserror::Error;

use crate::{MapVersion, SessionEvent};

/// An event of the stream could not be read.
#[derive(Debug, Error)]
pub enum ParseEventError {
    /// An event that this build doesn't know: from a newer broker, to be ignored.
    #[error("an event of the unknown kind '{0}'")]
    Unknown(String),
    /// The event's data isn't what its name promises.
    #[error("the data of a '{name}' event is malformed: {source}")]
    Data {
        /// The event's name.
        name: &'static str,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

const NETMAP: &str = "netmap";
const DELTA: &str = "delta";
const CURRENT: &str = "current";
const CONNECT: &str = "connect";
const REACH: &str = "reach";
const WAKE: &str = "wake";
const REVOKED: &str = "revoked";

impl SessionEvent {
    /// The event's name: the field `event`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Netmap(_) => NETMAP,
            Self::Delta(_) => DELTA,
            Self::Current(_) => CURRENT,
            Self::Connect(_) => CONNECT,
            Self::Reach(_) => REACH,
            Self::Wake(_) => WAKE,
            Self::Revoked => REVOKED,
        }
    }

    /// The version that the node's map has after this event: the field `id`, for those that set it.
    pub fn version(&self) -> Option<MapVersion> {
        match self {
            Self::Netmap(netmap) => Some(netmap.version),
            Self::Delta(delta) => Some(delta.version),
            Self::Current(_)
            | Self::Connect(_)
            | Self::Reach(_)
            | Self::Wake(_)
            | Self::Revoked => None,
        }
    }

    /// The content in JSON on one line: the field `data`. `null` where there is none.
    pub fn data(&self) -> String {
        let mut bytes = Vec::new();
        self.write_data(&mut bytes);
        String::from_utf8(bytes).expect("JSON is UTF-8")
    }

    /// Appends [`Self::data`] to a buffer: a whole map is large, and is there once this way.
    pub fn write_data(&self, buffer: &mut Vec<u8>) {
        match self {
            Self::Netmap(netmap) => write_json(buffer, netmap),
            Self::Delta(delta) => write_json(buffer, delta),
            Self::Current(version) => write_json(buffer, version),
            Self::Connect(signal) => write_json(buffer, signal),
            Self::Reach(check) => write_json(buffer, check),
            Self::Wake(order) => write_json(buffer, order),
            Self::Revoked => buffer.extend_from_slice(b"null"),
        }
    }

    /// Reads an event from the fields `event` and `data`.
    ///
    /// # Errors
    /// An unknown name (ignore it: a newer broker), or data that doesn't fit the name.
    pub fn parse(name: &str, data: &str) -> Result<Self, ParseEventError> {
        let malformed = |name| move |source| ParseEventError::Data { name, source };
        match name {
            NETMAP => serde_json::from_str(data).map(Self::Netmap).map_err(malformed(NETMAP)),
            DELTA => serde_json::from_str(data).map(Self::Delta).map_err(malformed(DELTA)),
            CURRENT => serde_json::from_str(data).map(Self::Current).map_err(malformed(CURRENT)),
            CONNECT => serde_json::from_str(data).map(Self::Connect).map_err(malformed(CONNECT)),
            REACH => serde_json::from_str(data).map(Self::Reach).map_err(malformed(REACH)),
            WAKE => serde_json::from_str(data).map(Self::Wake).map_err(malformed(WAKE)),
            REVOKED => Ok(Self::Revoked),
            other => Err(ParseEventError::Unknown(other.chars().take(64).collect())),
        }
    }
}

fn write_json(buffer: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(buffer, value)
        .expect("these types have string keys and no failing serializer, and a buffer takes all");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MacAddr, WakeOrder};

    #[test]
    fn an_event_survives_writing_and_reading() {
        let version = MapVersion { epoch: 0xbeef, sequence: 7 };
        let wake = SessionEvent::Wake(WakeOrder { mac: MacAddr([2, 0, 0, 0, 0, 9]) });
        assert_eq!(wake.data(), r#"{"mac":"02:00:00:00:00:09"}"#);
        for event in [SessionEvent::Current(version), wake, SessionEvent::Revoked] {
            assert_eq!(SessionEvent::parse(event.name(), &event.data()).unwrap(), event);
        }
    }

    #[test]
    fn an_unknown_event_is_told_from_a_malformed_one() {
        assert!(matches!(SessionEvent::parse("sing", "{}"), Err(ParseEventError::Unknown(_))));
        assert!(matches!(
            SessionEvent::parse("delta", "{}"),
            Err(ParseEventError::Data { name: "delta", .. })
        ));
    }
}
