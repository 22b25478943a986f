//! A device of a LAN. There may be many thousands: what it has is held in as little as it takes, and who
//! made its card is looked up when somebody asks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize, Serializer};
use warren_proto::MacAddr;

use super::few::Few;
use super::guess::vendor;
use super::port::Port;

/// Who says a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum NameSource {
    /// A lease of a DHCP server on the edge itself.
    Dhcp,
    /// The DNS server's reverse zone.
    Ptr,
    /// The device, by multicast DNS (RFC 6762).
    Mdns,
    /// The device, by LLMNR (RFC 4795).
    Llmnr,
    /// The device, by NetBIOS (RFC 1002).
    NetBios,
    /// The device, by UPnP's SSDP.
    Ssdp,
}

impl NameSource {
    /// Those that are asked for one address.
    pub const ASKED: [Self; 5] = [Self::Ptr, Self::Mdns, Self::Llmnr, Self::NetBios, Self::Ssdp];
}

/// What serves a port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Service {
    /// What it says first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub banner: Option<Box<str>>,
    /// The title of its page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<Box<str>>,
}

/// What a device seems to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Nothing tells.
    #[default]
    Unknown,
    /// It serves video.
    Camera,
    /// It prints.
    Printer,
    /// It routes.
    Router,
    /// It stores files.
    Storage,
    /// An industrial controller.
    Controller,
    /// A telephone or tablet.
    Phone,
    /// A computer.
    Computer,
}

/// A device of a LAN.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(transform = with_its_card))]
pub struct Device {
    /// Its address: an IPv4 one if it has any.
    pub ip: IpAddr,
    /// Its IPv6 addresses in order; not all, if it has many. Of a device without IPv4, its address is one
    /// of them.
    #[serde(default)]
    pub ipv6: Box<[Ipv6Addr]>,
    /// On which link a device without IPv4 is: that of this IPv4 network.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub link: Option<Ipv4Net>,
    /// Its card's address; absent across a router.
    #[serde(default)]
    pub mac: Option<MacAddr>,
    /// Its names, each by who says so.
    #[serde(default)]
    pub names: Few<NameSource, Box<str>>,
    /// What it seems to be.
    #[serde(default)]
    pub kind: Kind,
    /// Its open ports.
    #[serde(default)]
    pub services: Few<Port, Service>,
    /// How long it took to answer, in microseconds.
    #[serde(default)]
    pub rtt_us: Option<u32>,
    /// Whether the last scan of its network found it.
    #[serde(default)]
    pub present: bool,
    /// When it was first seen, in seconds since the Unix epoch.
    pub first_seen_unix: u64,
    /// When it was last seen.
    pub last_seen_unix: u64,
}

impl Device {
    /// One that was seen at this moment.
    pub(super) fn new(ip: IpAddr, unix: u64) -> Self {
        Self {
            ip,
            ipv6: Box::default(),
            link: None,
            mac: None,
            names: Few::default(),
            kind: Kind::Unknown,
            services: Few::default(),
            rtt_us: None,
            present: true,
            first_seen_unix: unix,
            last_seen_unix: unix,
        }
    }

    /// Its IPv4 address, if it has one: what forwards, virtual devices and checks lead to.
    pub fn ipv4(&self) -> Option<Ipv4Addr> {
        match self.ip {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        }
    }

    /// Who made the card, by the IEEE's registers of address blocks.
    pub fn vendor(&self) -> Option<String> {
        self.mac.and_then(vendor)
    }

    /// Whether the card's address is made up.
    pub fn is_randomised(&self) -> bool {
        self.mac.is_some_and(MacAddr::is_randomised)
    }
}

/// Adds what is told of the card, and looked up for that.
#[cfg(feature = "schema")]
fn with_its_card(schema: &mut schemars::Schema) {
    let vendor = serde_json::json!({
        "type": "string",
        "description": "Who made the card, by the IEEE's registers of address blocks.",
    });
    let randomised = serde_json::json!({
        "type": "boolean",
        "description": "Whether the card's address is made up.",
    });
    if let Some(properties) = schema.get_mut("properties").and_then(|it| it.as_object_mut()) {
        properties.insert("vendor".to_owned(), vendor);
        properties.insert("randomised".to_owned(), randomised);
    }
}

impl Serialize for Device {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shown<'a> {
            ip: IpAddr,
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            ipv6: &'a [Ipv6Addr],
            #[serde(skip_serializing_if = "Option::is_none")]
            link: Option<Ipv4Net>,
            #[serde(skip_serializing_if = "Option::is_none")]
            mac: Option<MacAddr>,
            #[serde(skip_serializing_if = "Option::is_none")]
            vendor: Option<String>,
            randomised: bool,
            #[serde(skip_serializing_if = "Few::is_empty")]
            names: &'a Few<NameSource, Box<str>>,
            kind: Kind,
            #[serde(skip_serializing_if = "Few::is_empty")]
            services: &'a Few<Port, Service>,
            #[serde(skip_serializing_if = "Option::is_none")]
            rtt_us: Option<u32>,
            present: bool,
            first_seen_unix: u64,
            last_seen_unix: u64,
        }

        let Self { ip, ipv6, link, mac, names, kind, services, .. } = self;
        let shown = Shown {
            ip: *ip,
            ipv6,
            link: *link,
            mac: *mac,
            vendor: self.vendor(),
            randomised: self.is_randomised(),
            names,
            kind: *kind,
            services,
            rtt_us: self.rtt_us,
            present: self.present,
            first_seen_unix: self.first_seen_unix,
            last_seen_unix: self.last_seen_unix,
        };
        shown.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_small_and_written_as_it_always_was() {
        assert!(size_of::<Device>() <= 112, "{}", size_of::<Device>());
        assert!(size_of::<(Port, Service)>() <= 40 && size_of::<super::super::Change>() <= 40);
        let json = r#"{"ip":"192.168.1.9","ipv6":["fd00::1","fe80::1"],"mac":"54:8c:81:01:02:03","vendor":"Hangzhou Hikvision Digital Technology","randomised":false,"names":{"mdns":"cam.local","net-bios":"CAM"},"kind":"camera","services":{"tcp:80":{"banner":"lighttpd","title":"IP camera"},"udp:161":{}},"rtt_us":800,"present":true,"first_seen_unix":1,"last_seen_unix":2}"#;
        let device: Device = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&device).unwrap(), json);
        assert!(device.services.contains_key(&Port::udp(161)));
        let least = r#"{"ip":"fe80::1","link":"192.168.1.0/24","randomised":false,"kind":"unknown","present":false,"first_seen_unix":1,"last_seen_unix":2}"#;
        let device: Device = serde_json::from_str(least).unwrap();
        assert_eq!(serde_json::to_string(&device).unwrap(), least);
    }
}
