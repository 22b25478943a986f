//! What a device lets in.
//!
//! The broker works it out from the account's policy and gives it with the netmap; the node holds
//! itself to it. Ports are written as in a policy's text (`tcp:22`, `tcp:8000-8100`, `udp:53`,
//! `icmp`, `protocol:47`, `*`), targets as `self`, `virtual:camera`, `subnet:192.168.7.0/24`,
//! `internet`, `*`.
//! What a node doesn't understand lets nothing in.

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{DeviceId, DeviceName};

/// ICMP's number in the IPv4 header (RFC 792).
const ICMP: u8 = 1;
/// TCP's protocol number (RFC 9293).
const TCP: u8 = 6;
/// UDP's protocol number (RFC 768).
const UDP: u8 = 17;
/// ICMPv6's number in the IPv6 header (RFC 4443).
const ICMPV6: u8 = 58;

/// All that a device lets in without having asked for it. A netmap without a filter lets in
/// everything; a filter without rules lets in nothing but answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Whoever one of them admits is let in.
    #[serde(default)]
    pub rules: Vec<FilterRule>,
    /// Ports of the device itself that are for some alone, whatever the rules admit. They came with
    /// edges, which alone have them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<FilterLimit>,
}

/// Whom ports of a device are for, if the rules admit them there, too.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FilterLimit {
    /// Who, and nobody else.
    pub from: Vec<DeviceId>,
    /// Which protocols and ports.
    pub ports: Vec<Ports>,
}

impl Filter {
    /// Whether a device may use this one as its exit node, at least for something.
    pub fn opens_the_internet_to(&self, peer: DeviceId) -> bool {
        self.rules.iter().any(|rule| {
            let is_meant = match &rule.from {
                Sources::All => true,
                Sources::Devices(devices) => devices.contains(&peer),
            };
            let leads = |to: &Target| matches!(to, Target::Internet | Target::Everything);
            is_meant
                && rule.to.iter().any(leads)
                && rule.ports.iter().any(|ports| *ports != Ports::Unknown)
        })
    }
}

/// Who may reach what on this device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterRule {
    /// Who.
    pub from: Sources,
    /// Which protocols and ports. Absent: all.
    #[serde(default = "Ports::everything", skip_serializing_if = "is_everything")]
    pub ports: Vec<Ports>,
    /// What. Absent: the device itself, and nothing behind it.
    #[serde(default = "Target::this_alone", skip_serializing_if = "is_this_alone")]
    pub to: Vec<Target>,
}

/// The devices that a rule admits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sources {
    /// Every device that this one sees.
    All,
    /// These.
    #[serde(untagged)]
    Devices(Vec<DeviceId>),
}

/// What a rule gives access to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Target {
    /// The device itself.
    This,
    /// A virtual device behind it.
    Virtual(DeviceName),
    /// A part of the networks behind it.
    Subnet(IpNet),
    /// The internet, by this device.
    Internet,
    /// The device and everything behind it, the internet too.
    Everything,
    /// From a newer version: nothing.
    Unknown,
}

impl Target {
    fn this_alone() -> Vec<Self> {
        vec![Self::This]
    }
}

fn is_this_alone(targets: &[Target]) -> bool {
    targets == [Target::This]
}

impl From<String> for Target {
    fn from(text: String) -> Self {
        match text.split_once(':') {
            None if text == "self" => Self::This,
            None if text == "internet" => Self::Internet,
            None if text == "*" => Self::Everything,
            Some(("virtual", name)) => name.parse().map_or(Self::Unknown, Self::Virtual),
            Some(("subnet", net)) => net.parse().map_or(Self::Unknown, Self::Subnet),
            None | Some(_) => Self::Unknown,
        }
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        match target {
            Target::This => "self".to_owned(),
            Target::Virtual(name) => format!("virtual:{name}"),
            Target::Subnet(net) => format!("subnet:{net}"),
            Target::Internet => "internet".to_owned(),
            Target::Everything => "*".to_owned(),
            Target::Unknown => "unknown".to_owned(),
        }
    }
}

/// A protocol and a range of its ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Ports {
    /// Every protocol and port.
    All,
    /// TCP from the first to the last of these ports.
    Tcp(u16, u16),
    /// UDP from the first to the last of these ports.
    Udp(u16, u16),
    /// ICMP, in both versions.
    Icmp,
    /// Another protocol, by its number (IANA's 'Protocol Numbers').
    Protocol(u8),
    /// From a newer version: nothing.
    Unknown,
}

/// A text names no protocol and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "ports are written as 'tcp:22', 'tcp:8000-8100', 'tcp', 'udp:53', 'icmp', 'protocol:47' or '*'"
)]
pub struct InvalidPorts;

impl Ports {
    /// Whether a packet of that protocol and destination port is meant. What has no ports has port 0.
    pub fn contains(self, protocol: u8, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::Tcp(first, last) => protocol == TCP && (first..=last).contains(&port),
            Self::Udp(first, last) => protocol == UDP && (first..=last).contains(&port),
            Self::Icmp => matches!(protocol, ICMP | ICMPV6),
            Self::Protocol(number) => protocol == number,
            Self::Unknown => false,
        }
    }

    /// What is meant, as protocols with their first and last port; what has no ports has them all.
    pub fn ranges(self) -> impl Iterator<Item = (u8, u16, u16)> {
        let (protocols, first, last) = match self {
            Self::All => (Some(0..=u8::MAX), 0, u16::MAX),
            Self::Tcp(first, last) => (Some(TCP..=TCP), first, last),
            Self::Udp(first, last) => (Some(UDP..=UDP), first, last),
            Self::Icmp => (Some(ICMP..=ICMP), 0, u16::MAX),
            Self::Protocol(number) => (Some(number..=number), 0, u16::MAX),
            Self::Unknown => (None, 0, 0),
        };
        let v6 = (self == Self::Icmp).then_some(ICMPV6);
        protocols.into_iter().flatten().chain(v6).map(move |protocol| (protocol, first, last))
    }

    /// Whether all that `other` means is meant.
    pub fn covers(self, other: Self) -> bool {
        match (self, other) {
            (Self::All, _) => true,
            (Self::Tcp(a, z), Self::Tcp(b, y)) | (Self::Udp(a, z), Self::Udp(b, y)) => {
                a <= b && y <= z
            }
            _ => self == other,
        }
    }

    fn everything() -> Vec<Self> {
        vec![Self::All]
    }
}

fn is_everything(ports: &[Ports]) -> bool {
    ports == [Ports::All]
}

impl FromStr for Ports {
    type Err = InvalidPorts;

    fn from_str(s: &str) -> Result<Self, InvalidPorts> {
        let (protocol, ports) = s.split_once(':').unwrap_or((s, "*"));
        match protocol {
            "*" if s == "*" => Ok(Self::All),
            "tcp" => port_range(ports).map(|(first, last)| Self::Tcp(first, last)),
            "udp" => port_range(ports).map(|(first, last)| Self::Udp(first, last)),
            "icmp" if s == "icmp" => Ok(Self::Icmp),
            "protocol" => match ports.parse().map_err(|_| InvalidPorts)? {
                ICMP | ICMPV6 => Ok(Self::Icmp),
                TCP => Ok(Self::Tcp(0, u16::MAX)),
                UDP => Ok(Self::Udp(0, u16::MAX)),
                number => Ok(Self::Protocol(number)),
            },
            _ => Err(InvalidPorts),
        }
    }
}

fn port_range(text: &str) -> Result<(u16, u16), InvalidPorts> {
    if text == "*" {
        return Ok((0, u16::MAX));
    }
    let port = |text: &str| text.parse::<u16>().map_err(|_| InvalidPorts);
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    if first <= last { Ok((first, last)) } else { Err(InvalidPorts) }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut range = |protocol: &str, first: u16, last: u16| match (first, last) {
            (0, u16::MAX) => f.write_str(protocol),
            _ if first == last => write!(f, "{protocol}:{first}"),
            _ => write!(f, "{protocol}:{first}-{last}"),
        };
        match *self {
            Self::All => f.write_str("*"),
            Self::Tcp(first, last) => range("tcp", first, last),
            Self::Udp(first, last) => range("udp", first, last),
            Self::Icmp => f.write_str("icmp"),
            Self::Protocol(number) => write!(f, "protocol:{number}"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

impl From<String> for Ports {
    fn from(text: String) -> Self {
        text.parse().unwrap_or(Self::Unknown)
    }
}

impl From<Ports> for String {
    fn from(ports: Ports) -> Self {
        ports.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_they_are_written() {
        for text in ["*", "tcp", "tcp:22", "tcp:8000-8100", "udp:53", "udp", "icmp", "protocol:47"]
        {
            assert_eq!(text.parse::<Ports>().unwrap().to_string(), text);
        }
        assert_eq!("protocol:6".parse(), Ok(Ports::Tcp(0, u16::MAX)));
        assert_eq!("tcp:*".parse(), Ok(Ports::Tcp(0, u16::MAX)));
        for text in ["", "22", "tcp:", "tcp:9-8", "tcp:65536", "tcp:-1", "sctp:1", "icmp:8", "*:22"]
        {
            assert_eq!(text.parse::<Ports>(), Err(InvalidPorts), "{text}");
        }
    }

    #[test]
    fn ports_mean_protocols_of_both_ip_versions() {
        let ports = |text: &str| text.parse::<Ports>().unwrap();
        assert!(ports("tcp:22").contains(6, 22));
        assert!(!ports("tcp:22").contains(17, 22));
        assert!(ports("udp:8000-8100").contains(17, 8100));
        assert!(!ports("udp:8000-8100").contains(17, 8101));
        assert!(ports("icmp").contains(1, 0) && ports("icmp").contains(58, 0));
        assert!(ports("*").contains(132, 0));
        assert!(ports("tcp:1-9").covers(ports("tcp:3-9")));
        assert!(!ports("tcp:1-9").covers(ports("tcp:3-10")));
        assert!(!ports("udp").covers(ports("tcp:3")));
    }

    #[test]
    fn what_a_newer_broker_says_lets_nothing_in() {
        let json = r#"{"rules":[{"from":"all","ports":["quic:1","tcp:22"],"to":["moon","self"]}]}"#;
        let filter: Filter = serde_json::from_str(json).unwrap();
        assert_eq!(filter.rules[0].ports, [Ports::Unknown, Ports::Tcp(22, 22)]);
        assert_eq!(filter.rules[0].to, [Target::Unknown, Target::This]);
        assert!(!Ports::Unknown.contains(6, 22));
    }

    #[test]
    fn a_rule_about_the_whole_device_says_nothing_but_who() {
        let rule = FilterRule {
            from: Sources::Devices(vec![DeviceId(1)]),
            ports: vec![Ports::All],
            to: vec![Target::This],
        };
        let json = serde_json::to_string(&rule).unwrap();
        assert_eq!(json, r#"{"from":["0000000000000001"]}"#);
        assert_eq!(serde_json::from_str::<FilterRule>(&json).unwrap(), rule);
    }
}
