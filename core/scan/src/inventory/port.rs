//! A port of a device, as people write it: `tcp:80`.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// Over what a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Where a service is; as text, and in JSON, `tcp:80`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Over what.
    pub transport: Transport,
    /// Its number.
    pub number: u16,
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Port {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Port".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^(tcp|udp):[0-9]{1,5}$" })
    }
}

impl Port {
    /// A port of TCP.
    pub const fn tcp(number: u16) -> Self {
        Self { transport: Transport::Tcp, number }
    }

    /// A port of UDP.
    pub const fn udp(number: u16) -> Self {
        Self { transport: Transport::Udp, number }
    }
}

/// A text is no port.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("'{0}' is no port: write tcp:80 or udp:161")]
pub struct NoPort(String);

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.transport {
            Transport::Tcp => write!(f, "tcp:{}", self.number),
            Transport::Udp => write!(f, "udp:{}", self.number),
        }
    }
}

impl FromStr for Port {
    type Err = NoPort;

    fn from_str(text: &str) -> Result<Self, NoPort> {
        let tcp = text.strip_prefix("tcp:").map(|number| number.parse().map(Self::tcp));
        let udp = || text.strip_prefix("udp:").map(|number| number.parse().map(Self::udp));
        tcp.or_else(udp).and_then(Result::ok).ok_or_else(|| NoPort(text.to_owned()))
    }
}

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_written_as_people_do() {
        for (text, port) in [("tcp:80", Port::tcp(80)), ("udp:47808", Port::udp(47_808))] {
            assert_eq!((text.parse(), port.to_string()), (Ok(port), text.to_owned()));
        }
        for text in ["", "80", "tcp:", "tcp:65536", "udp:x", "sctp:80"] {
            assert!(text.parse::<Port>().is_err(), "{text}");
        }
    }
}
