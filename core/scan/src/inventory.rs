//! What is known of a LAN, and what a scan changes in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use macaddr_ouidb::OUI_DB_BUNDLED;
use serde::{Deserialize, Serialize};
use warren_proto::MacAddr;

use crate::plan::UdpService;
use crate::scan::{Finding, ScanEvent};

/// The most devices that are kept: those seen longest ago go first.
const MAX_DEVICES: usize = 70_000;
/// How long a device that isn't seen any more is kept.
const FORGET: Duration = Duration::from_secs(90 * 24 * 3600);

/// Who says a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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

/// Over what a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What serves a port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// What it says first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub banner: Option<String>,
    /// The title of its page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
}

/// What a device seems to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its card's address; absent across a router.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Who made the card, by the IEEE's registers of address blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// Whether the card's address is made up.
    #[serde(default)]
    pub randomised: bool,
    /// Its names, each by who says so.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub names: BTreeMap<NameSource, String>,
    /// What it seems to be.
    #[serde(default)]
    pub kind: Kind,
    /// Its open ports, as `tcp:80`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub services: BTreeMap<String, Service>,
    /// How long it took to answer, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u64>,
    /// Whether the last scan of its network found it.
    #[serde(default)]
    pub present: bool,
    /// When it was first seen, in seconds since the Unix epoch.
    pub first_seen_unix: u64,
    /// When it was last seen.
    pub last_seen_unix: u64,
}

/// What a scan has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum Change {
    /// A device that wasn't there.
    New {
        /// Its address.
        ip: Ipv4Addr,
    },
    /// A device that was there at the last scan.
    Gone {
        /// Its address.
        ip: Ipv4Addr,
    },
    /// A device with another address.
    Moved {
        /// Its address before.
        from: Ipv4Addr,
        /// Its address.
        ip: Ipv4Addr,
    },
    /// A port that was closed.
    Opened {
        /// Whose.
        ip: Ipv4Addr,
        /// Which, as `tcp:80`.
        port: String,
    },
    /// A port that was open.
    Closed {
        /// Whose.
        ip: Ipv4Addr,
        /// Which.
        port: String,
    },
}

/// The devices that are known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// When the last scan ended, in seconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scanned_unix: Option<u64>,
    /// The devices, by address.
    #[serde(default)]
    pub devices: BTreeMap<Ipv4Addr, Device>,
    /// What the last scan changed.
    #[serde(default)]
    pub changes: Vec<Change>,
}

impl Inventory {
    /// Takes what a scan tells, as of `unix` seconds since the epoch.
    pub fn take(&mut self, event: &ScanEvent, unix: u64) {
        match event {
            ScanEvent::Device { ip, mac, rtt } => {
                let device = self.seen(*ip, unix);
                device.mac = mac.or(device.mac);
                device.randomised = device.mac.is_some_and(MacAddr::is_randomised);
                device.vendor = device.mac.and_then(vendor);
                device.rtt_us =
                    rtt.map_or(device.rtt_us, |rtt| u64::try_from(rtt.as_micros()).ok());
            }
            ScanEvent::Service { ip, transport, port, finding } => {
                let Finding { banner, title, .. } = finding.clone();
                let device = self.seen(*ip, unix);
                device.services.insert(port_name(*transport, *port), Service { banner, title });
            }
            ScanEvent::Name { ip, source, name } => {
                self.seen(*ip, unix).names.insert(*source, name.clone());
            }
            ScanEvent::Ended { .. } => return,
        }
        if let ScanEvent::Device { ip, .. }
        | ScanEvent::Service { ip, .. }
        | ScanEvent::Name { ip, .. } = event
            && let Some(device) = self.devices.get_mut(ip)
        {
            device.kind = guess(device);
        }
    }

    /// Brings what a whole scan of `networks` found (`fresh`) into what was known, and notes what has
    /// changed.
    pub fn merge(&mut self, fresh: Self, networks: &[Ipv4Net], unix: u64) {
        self.changes.clear();
        // One card may have several addresses: only one that is silent now has been left.
        let left = self.devices.values().filter(|device| !fresh.devices.contains_key(&device.ip));
        let mut before: BTreeMap<MacAddr, Ipv4Addr> =
            left.filter_map(|device| Some((device.mac?, device.ip))).collect();
        let present: BTreeSet<MacAddr> =
            fresh.devices.values().filter_map(|device| device.mac).collect();
        let scanned = |ip: Ipv4Addr| networks.iter().any(|network| network.contains(&ip));
        for device in self.devices.values_mut() {
            let moved = device.mac.is_some_and(|mac| present.contains(&mac));
            let missing = scanned(device.ip) && !moved && !fresh.devices.contains_key(&device.ip);
            if missing && std::mem::replace(&mut device.present, false) {
                self.changes.push(Change::Gone { ip: device.ip });
            }
        }
        for (ip, mut device) in fresh.devices {
            let here = self
                .devices
                .remove(&ip)
                .filter(|old| old.mac == device.mac || device.mac.is_none());
            let from = device.mac.filter(|_| here.is_none()).and_then(|mac| before.remove(&mac));
            let earlier = match from {
                Some(from) => {
                    self.changes.push(Change::Moved { from, ip });
                    self.devices.remove(&from)
                }
                None => here,
            };
            match earlier {
                None => self.changes.push(Change::New { ip }),
                Some(earlier) if !earlier.present => {
                    self.changes.push(Change::New { ip });
                    device.first_seen_unix = earlier.first_seen_unix;
                }
                Some(earlier) => self.compare(&earlier, &mut device),
            }
            self.devices.insert(ip, device);
        }
        self.scanned_unix = Some(unix);
        self.forget(unix);
    }

    /// The device with this card, seen last if it was seen at several addresses.
    pub fn by_mac(&self, mac: MacAddr) -> Option<&Device> {
        let devices = self.devices.values().filter(|device| device.mac == Some(mac));
        devices.max_by_key(|device| (device.present, device.last_seen_unix))
    }

    /// The devices that somebody may mean: by address, by their card's, or by one of their names,
    /// whole or up to its first dot, whatever the case.
    pub fn find(&self, text: &str) -> Vec<&Device> {
        if let Ok(ip) = text.parse() {
            return self.devices.get(&ip).into_iter().collect();
        }
        if let Ok(mac) = text.parse() {
            return self.by_mac(mac).into_iter().collect();
        }
        let means = |name: &String| {
            let first = name.split('.').next().unwrap_or_default();
            name.eq_ignore_ascii_case(text) || first.eq_ignore_ascii_case(text)
        };
        self.devices.values().filter(|device| device.names.values().any(means)).collect()
    }

    /// The devices as a table for spreadsheets.
    pub fn to_csv(&self) -> String {
        let mut csv = String::from(
            "ip,mac,vendor,randomised,names,kind,services,rtt_ms,first_seen,last_seen\n",
        );
        for device in self.devices.values() {
            let names: Vec<&str> = device.names.values().map(String::as_str).collect();
            let services: Vec<String> = device.services.iter().map(describe).collect();
            let fields = [
                device.ip.to_string(),
                device.mac.map(|mac| mac.to_string()).unwrap_or_default(),
                device.vendor.clone().unwrap_or_default(),
                device.randomised.to_string(),
                names.join(" | "),
                format!("{:?}", device.kind).to_lowercase(),
                services.join(" | "),
                device
                    .rtt_us
                    .map(|us| format!("{}.{:03}", us / 1000, us % 1000))
                    .unwrap_or_default(),
                device.first_seen_unix.to_string(),
                device.last_seen_unix.to_string(),
            ];
            let line: Vec<String> = fields.iter().map(|field| quoted(field)).collect();
            // Writing to a string doesn't fail.
            let _ = writeln!(csv, "{}", line.join(","));
        }
        csv
    }

    fn seen(&mut self, ip: Ipv4Addr, unix: u64) -> &mut Device {
        let device = self.devices.entry(ip).or_insert_with(|| Device {
            ip,
            mac: None,
            vendor: None,
            randomised: false,
            names: BTreeMap::new(),
            kind: Kind::Unknown,
            services: BTreeMap::new(),
            rtt_us: None,
            present: true,
            first_seen_unix: unix,
            last_seen_unix: unix,
        });
        device.last_seen_unix = unix;
        device.present = true;
        device
    }

    fn compare(&mut self, earlier: &Device, device: &mut Device) {
        let ip = device.ip;
        device.first_seen_unix = earlier.first_seen_unix;
        device.mac = device.mac.or(earlier.mac);
        for (source, name) in &earlier.names {
            device.names.entry(*source).or_insert_with(|| name.clone());
        }
        let opened = device.services.keys().filter(|port| !earlier.services.contains_key(*port));
        self.changes.extend(opened.map(|port| Change::Opened { ip, port: port.clone() }));
        let closed = earlier.services.keys().filter(|port| !device.services.contains_key(*port));
        self.changes.extend(closed.map(|port| Change::Closed { ip, port: port.clone() }));
    }

    fn forget(&mut self, unix: u64) {
        let horizon = unix.saturating_sub(FORGET.as_secs());
        self.devices.retain(|_, device| device.last_seen_unix >= horizon);
        if self.devices.len() > MAX_DEVICES {
            let mut seen: Vec<u64> = self.devices.values().map(|d| d.last_seen_unix).collect();
            seen.sort_unstable();
            let oldest = seen[seen.len() - MAX_DEVICES];
            self.devices.retain(|_, device| device.last_seen_unix >= oldest);
        }
    }
}

/// A port as people write it.
fn port_name(transport: Transport, port: u16) -> String {
    match transport {
        Transport::Tcp => format!("tcp:{port}"),
        Transport::Udp => format!("udp:{port}"),
    }
}

fn describe((port, service): (&String, &Service)) -> String {
    match service.title.as_ref().or(service.banner.as_ref()) {
        Some(text) => format!("{port} {text}"),
        None => port.clone(),
    }
}

/// What its ports and names tell; the most telling first.
fn guess(device: &Device) -> Kind {
    let serves = |port: u16| device.services.contains_key(&port_name(Transport::Tcp, port));
    let answers = |service: UdpService| {
        device.services.contains_key(&port_name(Transport::Udp, service.port()))
    };
    let texts = || {
        let services = device.services.values().flat_map(|s| s.banner.iter().chain(&s.title));
        device.names.values().chain(&device.vendor).chain(services).map(|text| text.to_lowercase())
    };
    let says = |words: &[&str]| texts().any(|text| words.iter().any(|word| text.contains(word)));
    if serves(554) || says(&["camera", "ipcam", "hikvision", "dahua", "axis", "nvr"]) {
        Kind::Camera
    } else if serves(9100) || serves(631) || serves(515) || says(&["printer", "laserjet"]) {
        Kind::Printer
    } else if serves(502) || answers(UdpService::BacNet) || says(&["plc", "simatic", "modbus"]) {
        Kind::Controller
    } else if serves(53) || says(&["router", "fritz!box", "openwrt", "routeros", "gateway"]) {
        Kind::Router
    } else if says(&["synology", "qnap", "truenas", "diskstation"]) {
        Kind::Storage
    } else if answers(UdpService::Sip) || says(&["iphone", "ipad", "android", "pixel", "galaxy"]) {
        Kind::Phone
    } else if serves(3389) || serves(445) || serves(22) {
        Kind::Computer
    } else {
        Kind::Unknown
    }
}

/// Who made a card; nobody has registered those that devices make up.
fn vendor(mac: MacAddr) -> Option<String> {
    let entry = OUI_DB_BUNDLED.lookup(&mac.0).filter(|_| !mac.is_randomised())?;
    Some(entry.name().to_owned()).filter(|name| !name.is_empty())
}

/// A field of CSV (RFC 4180). What a spreadsheet would take for a formula is kept from it.
fn quoted(field: &str) -> String {
    let guard = if field.starts_with(['=', '+', '-', '@']) { "'" } else { "" };
    format!("\"{guard}{}\"", field.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([0x3c, 0, 0, 0, 0, 1]);

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 1, last)
    }

    fn found(last: u8, mac: Option<MacAddr>, ports: &[u16], unix: u64) -> Inventory {
        let mut fresh = Inventory::default();
        fresh.take(&ScanEvent::Device { ip: ip(last), mac, rtt: None }, unix);
        for port in ports {
            let finding = Finding::default();
            let (ip, transport) = (ip(last), Transport::Tcp);
            fresh.take(&ScanEvent::Service { ip, transport, port: *port, finding }, unix);
        }
        fresh
    }

    #[test]
    fn a_card_tells_who_made_it_unless_its_address_is_made_up() {
        let device = |mac: &str| {
            let mut found = found(9, Some(mac.parse().unwrap()), &[], 1);
            found.devices.remove(&ip(9)).unwrap()
        };
        let camera = device("54:8c:81:01:02:03");
        let maker = camera.vendor.as_deref().unwrap_or_default();
        assert!(maker.contains("Hikvision"), "{maker}");
        assert_eq!(camera.kind, Kind::Camera, "its maker makes cameras");
        let made_up = device("56:8c:81:01:02:03");
        assert_eq!((made_up.vendor, made_up.randomised), (None, true));
        let mut known = Inventory::default();
        known.devices.insert(ip(9), camera);
        assert!(known.to_csv().contains("Hikvision"));
    }

    #[test]
    fn a_scan_tells_what_has_changed_since_the_last() {
        let networks = ["192.168.1.0/24".parse().unwrap()];
        let mut known = Inventory::default();
        known.merge(found(9, Some(MAC), &[80], 100), &networks, 110);
        assert_eq!(known.changes, [Change::New { ip: ip(9) }]);
        known.merge(found(77, Some(MAC), &[80, 554], 200), &networks, 210);
        let port = "tcp:554".to_owned();
        let moved = Change::Moved { from: ip(9), ip: ip(77) };
        assert_eq!(known.changes, [moved, Change::Opened { ip: ip(77), port }]);
        let device = &known.devices[&ip(77)];
        assert_eq!((device.first_seen_unix, device.last_seen_unix), (100, 200));
        assert_eq!(device.kind, Kind::Camera);
        known.merge(found(20, None, &[], 300), &networks, 310);
        assert_eq!(known.changes, [Change::Gone { ip: ip(77) }, Change::New { ip: ip(20) }]);
        known.merge(found(20, None, &[], 400), &networks, 410);
        assert_eq!(known.changes, []);
    }

    #[test]
    fn a_card_with_two_addresses_moves_to_neither_and_keeps_their_names_apart() {
        let networks = ["192.168.1.0/24".parse().unwrap()];
        let both = |unix| {
            let mut both = found(5, Some(MAC), &[9100], unix);
            both.take(&ScanEvent::Device { ip: ip(9), mac: Some(MAC), rtt: None }, unix);
            let name = "camera".to_owned();
            both.take(&ScanEvent::Name { ip: ip(9), source: NameSource::Mdns, name }, unix);
            both
        };
        let mut known = Inventory::default();
        known.merge(both(100), &networks, 110);
        known.merge(both(200), &networks, 210);
        assert_eq!(known.changes, []);
        assert!(known.devices[&ip(5)].names.is_empty(), "{:?}", known.devices);
        assert_eq!(known.devices[&ip(9)].names[&NameSource::Mdns], "camera");
        assert_eq!(known.devices[&ip(9)].first_seen_unix, 100);
    }

    #[test]
    fn a_device_is_found_by_whatever_it_is_called() {
        let mut known = found(9, Some(MAC), &[], 1);
        known.take(&ScanEvent::Device { ip: ip(10), mac: Some(MAC), rtt: None }, 5);
        for (last, name) in [(9, "Front-Door.local"), (20, "front-door"), (21, "nas")] {
            let name = name.to_owned();
            known.take(&ScanEvent::Name { ip: ip(last), source: NameSource::Mdns, name }, 2);
        }
        let found = |text: &str| -> Vec<Ipv4Addr> {
            known.find(text).into_iter().map(|device| device.ip).collect()
        };
        assert_eq!(found("front-door"), [ip(9), ip(20)]);
        assert_eq!(found("FRONT-DOOR.local"), [ip(9)]);
        assert_eq!(found("3C-00-00-00-00-01"), [ip(10)]);
        assert_eq!(found("192.168.1.21"), [ip(21)]);
        assert!(found("192.168.1.22").is_empty() && found("front").is_empty());
    }

    #[test]
    fn a_table_is_no_place_for_formulas() {
        let mut known = found(9, Some(MAC), &[], 1);
        let (ip, source) = (ip(9), NameSource::Ptr);
        known.take(&ScanEvent::Name { ip, source, name: "=cmd(\"x\")".to_owned() }, 1);
        let csv = known.to_csv();
        assert!(csv.contains("\"'=cmd(\"\"x\"\")\""), "{csv}");
        let json = serde_json::to_string(&known).unwrap();
        assert_eq!(serde_json::from_str::<Inventory>(&json).unwrap(), known);
    }
}
