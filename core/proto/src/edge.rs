//! What an edge device opens of the LAN that it stands in.
//!
//! The broker owns it and gives each edge its [`EdgeDuty`] with the netmap, already decided: what is
//! disabled or out of its hours isn't in it. The other devices are told what stands behind an edge by
//! its [`EdgeOffer`]. The LAN side is IPv4: that is where addresses collide; a LAN device that has a
//! public IPv6 address needs no edge to be told apart.

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    DeviceId, DeviceName, ForwardId, GatewayId, LanAddress, Ports, Schedule, VirtualDeviceId,
};

/// The capability of a device whose owner has made it an edge (`warren edge enable`). Without it the
/// broker may know of forwards, but gives no duty: what is behind a device is opened by the device.
pub const EDGE: &str = "edge";

/// How a gateway to the internet is written, as the LAN and as the mesh knows it: every public IPv4
/// address ([`LanAddress::Public`]) and no other, whatever the prefix says.
pub const INTERNET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);

/// The most forwards of one edge.
pub const MAX_FORWARDS: usize = 4096;

/// The most virtual devices of one edge.
pub const MAX_VIRTUAL_DEVICES: usize = 1024;

/// The most gateways of one edge.
pub const MAX_GATEWAYS: usize = 64;

/// All that an edge shall open.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeDuty {
    /// Ports of its mesh address that lead to LAN devices. No two take one port of one protocol.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forwards: Vec<Forward>,
    /// LAN devices that have a mesh address of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub virtual_devices: Vec<VirtualDevice>,
    /// Networks behind it, as the mesh reaches them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<Gateway>,
    /// The devices, by id, whose people may change all this by asking the edge itself (its own pages).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub managers: Vec<DeviceId>,
}

impl EdgeDuty {
    /// What of it an edge believes: gateways between parts of the account's range and private networks
    /// outside of it, and those to the [`INTERNET`]. A broker that has been broken into can't draw other
    /// traffic into the tunnel by the rest.
    #[must_use]
    pub fn believed(&self, range: Ipv4Net) -> Self {
        let mut duty = self.clone();
        duty.gateways.retain(|gateway| {
            let (mesh, lan) = (gateway.mesh.trunc(), gateway.lan.trunc());
            let is_lan = range.contains(&mesh)
                && mesh.prefix_len() > range.prefix_len()
                && mesh.prefix_len() == lan.prefix_len()
                && LanAddress::of_network(lan) == LanAddress::Private
                && !range.contains(&lan)
                && !lan.contains(&range);
            is_lan || (mesh, lan) == (INTERNET, INTERNET)
        });
        duty
    }

    /// Whether it leads to the internet.
    pub fn leads_to_the_internet(&self) -> bool {
        self.gateways.iter().any(|gateway| gateway.lan == INTERNET)
    }

    /// What of it is open at a moment, given in seconds since the Unix epoch.
    #[must_use]
    pub fn at(&self, unix_seconds: u64) -> Self {
        let mut duty = self.clone();
        duty.forwards.retain(|forward| {
            forward.schedule.as_ref().is_none_or(|schedule| schedule.is_open(unix_seconds))
        });
        duty
    }
}

/// The ports of its mesh address that an edge uses itself, and for what: names, and its web pages.
pub const RESERVED_PORTS: [(u16, ForwardProtocol, &str); 2] = [
    (53, ForwardProtocol::Both, "its name server"),
    (80, ForwardProtocol::Tcp, "its own web pages"),
];

/// The first of [`RESERVED_PORTS`] among some ports, and what it is for.
pub fn reserved_port(
    ports: RangeInclusive<u16>,
    protocol: ForwardProtocol,
) -> Option<(u16, &'static str)> {
    let taken = RESERVED_PORTS
        .iter()
        .find(|(port, other, _)| ports.contains(port) && protocol.meets(*other));
    taken.map(|(port, _, whose)| (*port, *whose))
}

/// The query field of `POST /v1/node/edge` in which an edge says from which device it was asked: the
/// change is then that device's user's, if he may. Absent: the edge's own.
pub const ASKED_FROM: &str = "asked_from";

/// A port, or some in a row, of an edge's mesh address that leads to a LAN device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// Which one.
    pub id: ForwardId,
    /// What people call it.
    pub name: String,
    /// What it takes.
    pub protocol: ForwardProtocol,
    /// The first port on the mesh address, 1 to 65,535.
    pub port: u16,
    /// The last one, not below the first.
    pub last_port: u16,
    /// Where to.
    pub target: LanTarget,
    /// The target's port that the first one leads to; the others follow in order. Never so high that
    /// the last would pass 65,535.
    pub target_port: u16,
    /// What the LAN device sees as the source.
    #[serde(default)]
    pub source: LanSource,
    /// Whether [`LanSource::Transparent`] is opened without a look whether answers come back: somebody knows
    /// that they do.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub untested: bool,
    /// The hours that it is open in; the edge keeps them also while its broker is away. Absent: always.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::schedule::from_netmap"
    )]
    pub schedule: Option<Schedule>,
}

impl Forward {
    /// The port of its edge that it takes and that is the edge's own, if there is one, and what for.
    #[must_use]
    pub fn reserved(&self) -> Option<(u16, &'static str)> {
        reserved_port(self.port..=self.last_port, self.protocol)
    }
}

/// What a forward takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ForwardProtocol {
    /// TCP alone.
    Tcp,
    /// UDP alone.
    Udp,
    /// TCP and UDP.
    Both,
}

impl ForwardProtocol {
    /// Whether some traffic is of both.
    #[must_use]
    pub fn meets(self, other: Self) -> bool {
        self == other || self == Self::Both || other == Self::Both
    }
}

/// What a LAN device sees as the source of what comes through an edge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum LanSource {
    /// The edge's LAN address: answers find back by themselves.
    #[default]
    Masquerade,
    /// The mesh address of who asks: the LAN needs a route to the mesh by the edge.
    Transparent,
}

/// A device of the LAN, or of a network behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LanTarget {
    /// Its address, as of when it was chosen.
    pub ip: Ipv4Addr,
    /// What it is known by where its address changes with its lease. Absent across a router.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
}

/// A LAN device with a mesh address and a name of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualDevice {
    /// Which one.
    pub id: VirtualDeviceId,
    /// Its name, unique on its edge; in DNS `<name>.<edge>.<account>.<suffix>`.
    pub name: DeviceName,
    /// Its mesh address.
    pub ipv4: Ipv4Addr,
    /// The LAN device.
    pub target: LanTarget,
    /// What is let through. Absent: everything.
    #[serde(default = "all_ports", skip_serializing_if = "is_all_ports")]
    pub ports: Vec<Ports>,
    /// What the LAN device sees as the source.
    #[serde(default)]
    pub source: LanSource,
    /// Whether [`LanSource::Transparent`] is opened without a look whether answers come back: somebody knows
    /// that they do.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub untested: bool,
}

/// A network behind an edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    /// Which one.
    pub id: GatewayId,
    /// As the mesh knows it: a part of the account's range where sites collide, or the network itself.
    pub mesh: Ipv4Net,
    /// As the LAN knows it; as large, and address by address the same one.
    pub lan: Ipv4Net,
    /// What the LAN sees as the source.
    #[serde(default)]
    pub source: LanSource,
}

/// What the other devices are told of an edge: what they reach by it beside itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeOffer {
    /// The virtual devices that this device may see.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub virtual_devices: Vec<VirtualPeer>,
    /// The networks that this device may reach, as the mesh knows them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subnets: Vec<Ipv4Net>,
    /// That this device may use it as its exit node. Nothing goes there unless this device's own user
    /// has chosen it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internet: Option<InternetOffer>,
}

/// A way to the internet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InternetOffer {
    /// The edge for whose way to the internet this one stands by: whoever has chosen that one uses this
    /// one while it is away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby_for: Option<DeviceId>,
}

impl EdgeOffer {
    /// The networks that are believed: those inside the account's range, where a broker gives every
    /// address. Others would draw traffic into the tunnel that isn't the mesh's.
    pub fn routed(&self, range: Ipv4Net) -> impl Iterator<Item = Ipv4Net> + '_ {
        let is_inside =
            move |net: &Ipv4Net| range.contains(net) && net.prefix_len() > range.prefix_len();
        self.subnets.iter().map(Ipv4Net::trunc).filter(is_inside)
    }
}

/// A virtual device as the others know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualPeer {
    /// Its name, unique on its edge.
    pub name: DeviceName,
    /// Its mesh address.
    pub ipv4: Ipv4Addr,
}

/// What an edge says of itself with its check-ins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeState {
    /// When the last scan ended, in seconds since the Unix epoch. Absent: there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scanned_unix: Option<u64>,
    /// How many devices it found.
    #[serde(default)]
    pub devices: u32,
    /// What doesn't work, and what to do about it, for people; at most [`MAX_EDGE_PROBLEMS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// The networks that it stands in; at most [`MAX_EDGE_NETWORKS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<Ipv4Net>,
}

/// The most [`EdgeState::networks`] that are told.
pub const MAX_EDGE_NETWORKS: usize = 16;

/// The most [`EdgeState::problems`] that are told; each at most [`MAX_EDGE_PROBLEM`] bytes.
pub const MAX_EDGE_PROBLEMS: usize = 8;

/// The longest of [`EdgeState::problems`], in bytes.
pub const MAX_EDGE_PROBLEM: usize = 400;

/// Word to an edge to wake a device of its LAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WakeOrder {
    /// The device's card.
    pub mac: MacAddr,
}

fn all_ports() -> Vec<Ports> {
    vec![Ports::All]
}

fn is_all_ports(ports: &[Ports]) -> bool {
    ports == [Ports::All]
}

/// A text was no MAC address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a MAC address is written '3c:52:82:01:02:03'")]
pub struct ParseMacError;

/// The address of a network card (EUI-48), written in lower case with colons.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// Whether it was made up by its device, as telephones do for each network: the bit 'locally
    /// administered' is set (IEEE 802, clause 8.4).
    pub fn is_randomised(self) -> bool {
        self.0[0] & 2 != 0
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MacAddr({self})")
    }
}

impl FromStr for MacAddr {
    type Err = ParseMacError;

    /// Takes colons or hyphens between the bytes, and capitals.
    fn from_str(s: &str) -> Result<Self, ParseMacError> {
        let mut bytes = [0; 6];
        let mut parts = s.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(ParseMacError)?;
            if !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(ParseMacError);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| ParseMacError)?;
        }
        if parts.next().is_none() { Ok(Self(bytes)) } else { Err(ParseMacError) }
    }
}

impl TryFrom<String> for MacAddr {
    type Error = ParseMacError;

    fn try_from(s: String) -> Result<Self, ParseMacError> {
        s.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> Self {
        mac.to_string()
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for MacAddr {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "MacAddr".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "The address of a network card, with colons.",
            "pattern": "^([0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}$"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Weekday;

    #[test]
    fn mac_addresses_are_read_as_people_write_them() {
        let mac: MacAddr = "3C-52-82-01-02-Ff".parse().unwrap();
        assert_eq!(mac.to_string(), "3c:52:82:01:02:ff");
        assert!(!mac.is_randomised());
        assert!("da:a1:19:00:00:01".parse::<MacAddr>().unwrap().is_randomised());
        for text in
            ["", "3c:52:82:01:02", "3c:52:82:01:02:03:04", "3c:52:82:01:2:03", "+1:+2:+3:+4:+5:+6"]
        {
            assert_eq!(text.parse::<MacAddr>(), Err(ParseMacError), "{text}");
        }
    }

    #[test]
    fn of_a_duty_an_edge_believes_what_is_of_the_mesh_and_of_lans() {
        let range: Ipv4Net = "100.80.0.0/16".parse().unwrap();
        let gateway = |mesh: &str, lan: &str| Gateway {
            id: GatewayId(1),
            mesh: mesh.parse().unwrap(),
            lan: lan.parse().unwrap(),
            source: LanSource::Masquerade,
        };
        let forward = |port: u16, last_port: u16, protocol| Forward {
            id: ForwardId(1),
            name: "a".to_owned(),
            protocol,
            port,
            last_port,
            target: LanTarget { ip: Ipv4Addr::new(192, 168, 1, 9), mac: None },
            target_port: port,
            source: LanSource::Masquerade,
            untested: false,
            schedule: None,
        };
        let good = gateway("100.80.240.0/24", "192.168.1.0/24");
        let bad = [
            ("100.81.0.0/24", "192.168.1.0/24"),
            ("0.0.0.0/0", "192.168.1.0/24"),
            ("128.0.0.0/1", "128.0.0.0/1"),
            ("100.80.0.0/16", "0.0.0.0/0"),
            ("192.168.1.0/24", "192.168.1.0/24"),
            ("100.80.0.0/16", "10.0.0.0/16"),
            ("100.80.240.0/24", "192.168.1.0/25"),
            ("100.80.240.0/24", "169.254.169.0/24"),
            ("100.80.240.0/24", "8.8.8.0/24"),
            ("100.80.240.0/24", "127.0.0.0/24"),
            ("100.80.240.0/24", "100.80.1.0/24"),
        ];
        let mut gateways: Vec<Gateway> = bad.iter().map(|(mesh, lan)| gateway(mesh, lan)).collect();
        let internet = gateway("0.0.0.0/0", "0.0.0.0/0");
        gateways.extend([good.clone(), internet.clone()]);
        let duty = EdgeDuty { gateways, ..EdgeDuty::default() };
        assert_eq!(duty.believed(range).gateways, [good, internet]);
        let port = |port, last_port, protocol| {
            forward(port, last_port, protocol).reserved().map(|(port, _)| port)
        };
        assert_eq!(port(50, 60, ForwardProtocol::Udp), Some(53));
        assert_eq!(port(79, 80, ForwardProtocol::Both), Some(80));
        assert_eq!(port(80, 80, ForwardProtocol::Udp), None);
        assert_eq!(port(8080, 8090, ForwardProtocol::Tcp), None);
    }

    #[test]
    fn a_forward_that_has_hours_is_of_the_duty_in_these_alone() {
        let schedule = Schedule {
            days: [Weekday::Thursday].into(),
            from: "08:00".parse().unwrap(),
            to: "18:00".parse().unwrap(),
            utc_offset_minutes: 0,
        };
        let forward = |id, schedule| Forward {
            id: ForwardId(id),
            name: String::new(),
            protocol: ForwardProtocol::Tcp,
            port: 8080,
            last_port: 8080,
            target: LanTarget { ip: Ipv4Addr::new(192, 168, 1, 9), mac: None },
            target_port: 80,
            source: LanSource::Masquerade,
            untested: false,
            schedule,
        };
        let forwards = vec![forward(1, None), forward(2, Some(schedule))];
        let duty = EdgeDuty { forwards, ..EdgeDuty::default() };
        // 1970-01-01 was a Thursday.
        let open = |hour: u64| duty.at(hour * 3600).forwards.len();
        assert_eq!([7, 8, 17, 18, 24 + 9, 7 * 24 + 9].map(open), [1, 2, 2, 1, 1, 2]);
    }

    #[test]
    fn a_duty_says_no_more_than_it_must() {
        assert_eq!(serde_json::to_string(&EdgeDuty::default()).unwrap(), "{}");
        let device = VirtualDevice {
            id: VirtualDeviceId(1),
            name: DeviceName::from_free_text("camera"),
            ipv4: Ipv4Addr::new(100, 80, 7, 1),
            target: LanTarget { ip: Ipv4Addr::new(192, 168, 1, 9), mac: None },
            ports: vec![Ports::All],
            source: LanSource::Masquerade,
            untested: false,
        };
        let json = serde_json::to_value(&device).unwrap();
        assert_eq!(json["target"], serde_json::json!({ "ip": "192.168.1.9" }));
        assert!(json.get("ports").is_none());
        assert_eq!(serde_json::from_value::<VirtualDevice>(json).unwrap(), device);
    }
}
