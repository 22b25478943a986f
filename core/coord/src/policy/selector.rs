use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use warren_proto::DeviceName;

use crate::{Email, Role, Tag};

/// Words that mean devices.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// `*`: every device.
    Everyone,
    /// `user:E-MAIL`: the devices of a person, but those with tags.
    User(Email),
    /// `group:NAME`: what the text says under `[groups]`.
    Group(String),
    /// `tag:TAG`: devices with a tag.
    Tag(Tag),
    /// `device:NAME`: one device.
    Device(DeviceName),
    /// `role:ROLE`: the devices of the people with that role in the account, but those with tags.
    Role(Role),
}

/// What a rule leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selector {
    /// Devices; `*` means all that stands behind them, too.
    Subject(Subject),
    /// `own`: the devices of the person whose device asks.
    Own,
    /// `virtual:NAME.EDGE`: a virtual device.
    Virtual {
        /// Its own name.
        name: DeviceName,
        /// The edge device that has it.
        edge: DeviceName,
    },
    /// `subnet:CIDR` or `subnet:CIDR@EDGE`: networks behind one or all edge devices.
    Subnet {
        /// Which addresses.
        net: IpNet,
        /// Behind whom; `None`: whoever is a gateway to them.
        edge: Option<DeviceName>,
    },
    /// `internet` or `internet@EDGE`: the internet by one or all edge devices that are a gateway to it.
    Internet {
        /// By whom; `None`: by any of them.
        edge: Option<DeviceName>,
    },
}

const SUBJECTS: &str = "'*', 'user:anna@example.org', 'group:NAME', 'tag:NAME', 'device:NAME' or \
                        'role:admin'";

impl FromStr for Subject {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let Some((kind, name)) = s.split_once(':') else {
            return match s {
                "*" => Ok(Self::Everyone),
                _ if s.contains('@') => Err(format!("'{s}': write 'user:{s}'")),
                _ => Err(format!("'{s}' says no devices: write {SUBJECTS}")),
            };
        };
        let wrong = |error: &dyn fmt::Display| format!("'{s}': {error}");
        match kind {
            "user" => name.parse().map(Self::User).map_err(|error| wrong(&error)),
            "group" if !name.is_empty() => Ok(Self::Group(name.to_owned())),
            "tag" => name.parse().map(Self::Tag).map_err(|error| wrong(&error)),
            "device" => name.parse().map(Self::Device).map_err(|error| wrong(&error)),
            "role" => name.parse().map(Self::Role).map_err(|error| wrong(&error)),
            _ => Err(format!("'{s}' says no devices: write {SUBJECTS}")),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everyone => f.write_str("*"),
            Self::User(email) => write!(f, "user:{email}"),
            Self::Group(name) => write!(f, "group:{name}"),
            Self::Tag(tag) => write!(f, "tag:{tag}"),
            Self::Device(name) => write!(f, "device:{name}"),
            Self::Role(role) => write!(f, "role:{role}"),
        }
    }
}

impl FromStr for Selector {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s.split_once(':') {
            None if s == "own" => Ok(Self::Own),
            None if s == "internet" => Ok(Self::Internet { edge: None }),
            None if s.starts_with("internet@") => match s["internet@".len()..].parse() {
                Ok(edge) => Ok(Self::Internet { edge: Some(edge) }),
                Err(_) => Err(format!("'{s}': an exit node is written 'internet@EDGE'")),
            },
            Some(("virtual", name)) => {
                let parts = name.split_once('.').and_then(|(name, edge)| {
                    Some(Self::Virtual { name: name.parse().ok()?, edge: edge.parse().ok()? })
                });
                parts.ok_or_else(|| {
                    format!("'{s}': a virtual device is written 'virtual:NAME.EDGE'")
                })
            }
            Some(("subnet", rest)) => subnet(rest).ok_or_else(|| {
                format!(
                    "'{s}': a network is written 'subnet:192.168.7.0/24' or with '@EDGE' behind"
                )
            }),
            None | Some(_) => s.parse().map(Self::Subject),
        }
    }
}

fn subnet(text: &str) -> Option<Selector> {
    let (net, edge) = match text.split_once('@') {
        Some((net, edge)) => (net, Some(edge.parse().ok()?)),
        None => (text, None),
    };
    let net: IpNet = net.parse().ok()?;
    (net.addr() == net.network()).then_some(Selector::Subnet { net, edge })
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subject(subject) => subject.fmt(f),
            Self::Own => f.write_str("own"),
            Self::Virtual { name, edge } => write!(f, "virtual:{name}.{edge}"),
            Self::Subnet { net, edge: None } => write!(f, "subnet:{net}"),
            Self::Subnet { net, edge: Some(edge) } => write!(f, "subnet:{net}@{edge}"),
            Self::Internet { edge: None } => f.write_str("internet"),
            Self::Internet { edge: Some(edge) } => write!(f, "internet@{edge}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_read_as_they_are_written() {
        for text in [
            "*",
            "user:anna@example.org",
            "group:family",
            "tag:server",
            "device:kitchen-pi",
            "role:admin",
            "own",
            "virtual:camera.attic",
            "subnet:192.168.7.0/24",
            "subnet:fd12::/64@attic",
            "subnet:0.0.0.0/0@attic",
            "internet",
            "internet@attic",
        ] {
            assert_eq!(text.parse::<Selector>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "anna",
            "user:anna",
            "tag:Server",
            "device:a b",
            "role:king",
            "group:",
            "people:x",
            "virtual:camera",
            "subnet:192.168.7.1/24",
            "subnet:192.168.7.0/24@",
            "internet@",
            "internet@a b",
            "internet:attic",
        ] {
            assert!(text.parse::<Selector>().is_err(), "{text}");
        }
        assert!("own".parse::<Subject>().is_err(), "it means nobody by itself");
        let error = "anna@example.org".parse::<Subject>().unwrap_err();
        assert!(error.contains("user:anna@example.org"), "{error}");
    }
}
