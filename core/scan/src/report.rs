//! What an edge tells those who have asked it for something.

use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use warren_proto::MacAddr;

use crate::Progress;

/// How scanning goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ScanStatus {
    /// Whether a scan is under way.
    pub running: bool,
    /// How far it is, or was in the end.
    pub progress: Progress,
    /// When the last whole scan ended, in seconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scanned_unix: Option<u64>,
    /// The networks in which the edge stands that the scan leaves out, or has left out, as nobody has named
    /// them: they are large.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
    pub left_out: Vec<Ipv4Net>,
}

/// A device was called to wake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Woken {
    /// Its card's address.
    pub mac: MacAddr,
    /// On which interfaces of the edge it was called.
    pub interfaces: Vec<String>,
}

/// Whether a port answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum PortAnswer {
    /// It does.
    Answers {
        /// How long it took, in microseconds.
        us: u64,
    },
    /// The device is there, but nothing serves the port.
    Closed,
    /// Nobody has answered. Of a UDP port that is usual: few services answer a question they don't know.
    Silent,
}

/// What a look at an address and port has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Looked {
    /// The address.
    pub target: Ipv4Addr,
    /// The port.
    pub port: u16,
    /// By TCP, if that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<PortAnswer>,
    /// By UDP, if that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp: Option<PortAnswer>,
}

impl fmt::Display for Looked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, port, tcp, udp } = self;
        let mut separator = "";
        for (protocol, answer) in [("TCP", tcp), ("UDP", udp)] {
            let Some(answer) = answer else { continue };
            write!(
                f,
                "{separator}{target} port {port} ({protocol}): {}",
                Words(protocol, *answer)
            )?;
            separator = "; ";
        }
        Ok(())
    }
}

struct Words(&'static str, PortAnswer);

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self(_, PortAnswer::Answers { us }) => {
                write!(f, "it answers, after {}.{:03} ms", us / 1000, us % 1000)
            }
            Self(_, PortAnswer::Closed) => {
                f.write_str("the device is there, nothing serves the port")
            }
            Self("UDP", PortAnswer::Silent) => {
                f.write_str("no answer, which is usual of UDP and tells nothing")
            }
            Self(_, PortAnswer::Silent) => f.write_str("nobody answers"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_told_in_a_sentence() {
        let (tcp, udp) = (Some(PortAnswer::Answers { us: 1_250 }), Some(PortAnswer::Silent));
        let looked = Looked { target: Ipv4Addr::new(192, 168, 1, 9), port: 80, tcp, udp };
        assert_eq!(
            looked.to_string(),
            "192.168.1.9 port 80 (TCP): it answers, after 1.250 ms; 192.168.1.9 port 80 (UDP): no \
             answer, which is usual of UDP and tells nothing"
        );
        assert_eq!(
            serde_json::to_string(&Looked { udp: None, ..looked }).unwrap(),
            r#"{"target":"192.168.1.9","port":80,"tcp":{"answer":"answers","us":1250}}"#
        );
    }
}
