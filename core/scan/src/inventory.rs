//! What is known of a LAN, and what a scan changes in it.

mod device;
mod few;
mod guess;
mod known;
mod listing;
mod merge;
mod port;
mod table;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Bound::{Excluded, Unbounded};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use warren_proto::MacAddr;

use crate::scan::{Finding, Ipv6Neighbour, ScanEvent};

pub use device::{Device, Kind, NameSource, Service};
pub use few::Few;
use guess::guess;
pub use known::Known;
pub use listing::Listing;
pub use merge::Scope;
pub use port::{NoPort, Port, Transport};

/// What a scan has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum Change {
    /// A device that wasn't there.
    New {
        /// Its address.
        ip: IpAddr,
    },
    /// A device that was there at the last scan.
    Gone {
        /// Its address.
        ip: IpAddr,
    },
    /// A device with another address.
    Moved {
        /// Its address before.
        from: IpAddr,
        /// Its address.
        ip: IpAddr,
    },
    /// A port that was closed.
    Opened {
        /// Whose.
        ip: IpAddr,
        /// Which.
        port: Port,
    },
    /// A port that was open.
    Closed {
        /// Whose.
        ip: IpAddr,
        /// Which.
        port: Port,
    },
}

/// The devices that are known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Inventory {
    /// When the last scan ended, in seconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scanned_unix: Option<u64>,
    /// The devices, by address.
    #[serde(default)]
    pub devices: BTreeMap<IpAddr, Device>,
    /// What the last scan changed.
    #[serde(default)]
    pub changes: Vec<Change>,
}

impl Inventory {
    /// Takes what a scan tells, as of `unix` seconds since the epoch.
    pub fn take(&mut self, event: ScanEvent, unix: u64) {
        let device = match event {
            ScanEvent::Device { ip, mac, rtt } => {
                let device = self.seen(ip.into(), unix);
                device.mac = mac.or(device.mac);
                device.rtt_us =
                    rtt.map_or(device.rtt_us, |rtt| u32::try_from(rtt.as_micros()).ok());
                device
            }
            ScanEvent::Service { ip, transport, port: number, finding } => {
                let Finding { banner, title, .. } = finding;
                let text = |text: Option<String>| text.map(String::into_boxed_str);
                let service = Service { banner: text(banner), title: text(title) };
                let device = self.seen(ip.into(), unix);
                device.services.insert(Port { transport, number }, service);
                device
            }
            ScanEvent::Name { ip, source, name } => {
                let device = self.seen(ip.into(), unix);
                device.names.insert(source, name.into_boxed_str());
                device
            }
            ScanEvent::Ipv6(neighbours) => return self.take_ipv6(neighbours, unix),
            ScanEvent::Ended { .. } => return,
        };
        device.kind = guess(device);
    }

    /// At most so many devices, those after this one, and whether there are more; with the last, what has
    /// changed.
    pub fn part(&self, after: Option<IpAddr>, most: usize) -> (Self, bool) {
        let from = after.map_or(Unbounded, Excluded);
        let mut rest = self.devices.range((from, Unbounded)).map(|(ip, it)| (*ip, it.clone()));
        let devices = rest.by_ref().take(most).collect();
        let more = rest.next().is_some();
        let changes = if more { Vec::new() } else { self.changes.clone() };
        (Self { scanned_unix: self.scanned_unix, devices, changes }, more)
    }

    /// The device with this card, seen last if it was seen at several addresses.
    pub fn by_mac(&self, mac: MacAddr) -> Option<&Device> {
        let devices = self.devices.values().filter(|device| device.mac == Some(mac));
        devices.max_by_key(|device| (device.present, device.last_seen_unix))
    }

    /// The device with this address, be it one of several.
    pub fn by_ip(&self, ip: IpAddr) -> Option<&Device> {
        self.devices.get(&ip).or_else(|| match ip {
            IpAddr::V4(_) => None,
            IpAddr::V6(ip) => self.devices.values().find(|device| device.ipv6.contains(&ip)),
        })
    }

    /// The IPv6 addresses of what is, or was, in one of these networks.
    pub fn ipv6_in(&self, networks: &[Ipv4Net]) -> Vec<Ipv6Addr> {
        let is_in = |device: &&Device| match device.ip {
            IpAddr::V4(ip) => networks.iter().any(|network| network.contains(&ip)),
            IpAddr::V6(_) => device.link.is_some_and(|link| networks.contains(&link)),
        };
        self.devices.values().filter(is_in).flat_map(|device| device.ipv6.iter().copied()).collect()
    }

    /// The devices that somebody may mean: by address, by their card's, or by one of their names,
    /// whole or up to its first dot, whatever the case.
    pub fn find(&self, text: &str) -> Vec<&Device> {
        if let Ok(ip) = text.parse() {
            return self.by_ip(ip).into_iter().collect();
        }
        if let Ok(mac) = text.parse() {
            return self.by_mac(mac).into_iter().collect();
        }
        let means = |name: &str| {
            let first = name.split('.').next().unwrap_or_default();
            name.eq_ignore_ascii_case(text) || first.eq_ignore_ascii_case(text)
        };
        self.devices.values().filter(|device| device.names.values().any(|it| means(it))).collect()
    }

    /// Joins what was heard by IPv6 with what has the same card. A card with several IPv4 addresses answers
    /// for others, perhaps: which of them has the IPv6 ones isn't known, so it is a device of its own.
    fn take_ipv6(&mut self, neighbours: Vec<Ipv6Neighbour>, unix: u64) {
        let cards = self.cards(|device| device.present);
        for Ipv6Neighbour { link, mac, addresses } in neighbours {
            if let Some(Some(ip)) = cards.get(&mac) {
                if let Some(device) = self.devices.get_mut(&IpAddr::V4(*ip)) {
                    device.ipv6 = addresses.into_iter().collect();
                }
                continue;
            }
            let is_free = |ip: &&Ipv6Addr| {
                let device = self.devices.get(&IpAddr::V6(**ip));
                device.is_none_or(|device| device.mac == Some(mac))
            };
            // The link-local one is what it keeps longest.
            let local = addresses.iter().filter(|ip| ip.is_unicast_link_local());
            let Some(ip) = local.chain(&addresses).find(is_free).copied() else { continue };
            let device = self.seen(ip.into(), unix);
            device.mac = Some(mac);
            device.ipv6 = addresses.into_iter().collect();
            device.link = Some(link);
            device.kind = guess(device);
        }
    }

    /// The IPv4 address of each card of such devices; `None` where there are several.
    fn cards(&self, such: impl Fn(&Device) -> bool) -> BTreeMap<MacAddr, Option<Ipv4Addr>> {
        let mut cards = BTreeMap::new();
        for device in self.devices.values().filter(|device| such(device)) {
            if let (Some(mac), IpAddr::V4(ip)) = (device.mac, device.ip) {
                cards.entry(mac).and_modify(|ip| *ip = None).or_insert(Some(ip));
            }
        }
        cards
    }

    fn seen(&mut self, ip: IpAddr, unix: u64) -> &mut Device {
        let device = self.devices.entry(ip).or_insert_with(|| Device::new(ip, unix));
        device.last_seen_unix = unix;
        device.present = true;
        device
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([0x3c, 0, 0, 0, 0, 1]);

    fn v4(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 1, last)
    }

    fn ip(last: u8) -> IpAddr {
        v4(last).into()
    }

    fn network() -> Scope {
        let networks = vec!["192.168.1.0/24".parse().unwrap()];
        Scope { links: networks.clone(), networks }
    }

    fn found(last: u8, mac: Option<MacAddr>, ports: &[u16], unix: u64) -> Inventory {
        let mut fresh = Inventory::default();
        fresh.take(ScanEvent::Device { ip: v4(last), mac, rtt: None }, unix);
        for port in ports {
            let finding = Finding::default();
            let (ip, transport) = (v4(last), Transport::Tcp);
            fresh.take(ScanEvent::Service { ip, transport, port: *port, finding }, unix);
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
        let maker = camera.vendor().unwrap_or_default();
        assert!(maker.contains("Hikvision"), "{maker}");
        assert_eq!(camera.kind, Kind::Camera, "its maker makes cameras");
        let made_up = device("56:8c:81:01:02:03");
        assert_eq!((made_up.vendor(), made_up.is_randomised()), (None, true));
        let mut known = Inventory::default();
        known.devices.insert(ip(9), camera);
        assert!(known.to_csv().contains("Hikvision"));
    }

    #[test]
    fn a_scan_tells_what_has_changed_since_the_last() {
        let scope = network();
        let mut known = Inventory::default();
        known.merge(found(9, Some(MAC), &[80], 100), &scope, 110);
        assert_eq!(known.changes, [Change::New { ip: ip(9) }]);
        known.merge(found(77, Some(MAC), &[80, 554], 200), &scope, 210);
        let port = Port::tcp(554);
        let moved = Change::Moved { from: ip(9), ip: ip(77) };
        assert_eq!(known.changes, [moved, Change::Opened { ip: ip(77), port }]);
        let device = &known.devices[&ip(77)];
        assert_eq!((device.first_seen_unix, device.last_seen_unix), (100, 200));
        assert_eq!(device.kind, Kind::Camera);
        known.merge(found(20, None, &[], 300), &scope, 310);
        assert_eq!(known.changes, [Change::Gone { ip: ip(77) }, Change::New { ip: ip(20) }]);
        known.merge(found(20, None, &[], 400), &scope, 410);
        assert_eq!(known.changes, []);
    }

    #[test]
    fn a_card_with_two_addresses_moves_to_neither_and_keeps_their_names_apart() {
        let scope = network();
        let both = |unix| {
            let mut both = found(5, Some(MAC), &[9100], unix);
            both.take(ScanEvent::Device { ip: v4(9), mac: Some(MAC), rtt: None }, unix);
            let name = "camera".to_owned();
            both.take(ScanEvent::Name { ip: v4(9), source: NameSource::Mdns, name }, unix);
            both
        };
        let mut known = Inventory::default();
        known.merge(both(100), &scope, 110);
        known.merge(both(200), &scope, 210);
        assert_eq!(known.changes, []);
        assert!(known.devices[&ip(5)].names.is_empty(), "{:?}", known.devices);
        let name = known.devices[&ip(9)].names.get(&NameSource::Mdns);
        assert_eq!(name.map(|it| &**it), Some("camera"));
        assert_eq!(known.devices[&ip(9)].first_seen_unix, 100);
    }

    fn hears(found: &mut Inventory, mac: MacAddr, addresses: &[&str]) {
        let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        let link = network().links[0];
        found.take(ScanEvent::Ipv6(vec![Ipv6Neighbour { link, mac, addresses }]), 500);
    }

    #[test]
    fn ipv6_belongs_to_the_device_with_the_same_card_and_without_one_to_a_device_of_its_own() {
        let other = MacAddr([0x3c, 0, 0, 0, 0, 2]);
        let local: IpAddr = "fe80::2".parse().unwrap();
        let scan = || {
            let mut fresh = found(9, Some(MAC), &[], 500);
            hears(&mut fresh, MAC, &["fe80::1", "fd00::1"]);
            hears(&mut fresh, other, &["fd00::2", "fe80::2"]);
            fresh
        };
        let mut known = Inventory::default();
        known.merge(scan(), &network(), 510);
        assert_eq!(known.changes, [Change::New { ip: ip(9) }, Change::New { ip: local }]);
        assert_eq!(known.devices[&ip(9)].ipv6.len(), 2);
        let lone = &known.devices[&local];
        assert_eq!((lone.mac, lone.ipv4(), lone.ipv6.len()), (Some(other), None, 2));
        assert_eq!(known.find("fd00::1")[0].ip, ip(9), "by any of its addresses");
        let csv = known.to_csv();
        assert!(csv.contains("\"fd00::1 | fe80::1\"") && csv.contains("\n\"fe80::2\""), "{csv}");
        let json = serde_json::to_string(&known).unwrap();
        assert_eq!(serde_json::from_str::<Inventory>(&json).unwrap(), known);

        known.merge(scan(), &network(), 520);
        assert_eq!(known.changes, []);
        let elsewhere = Scope { networks: vec!["10.0.0.0/24".parse().unwrap()], links: Vec::new() };
        known.merge(Inventory::default(), &elsewhere, 530);
        assert!(known.changes.is_empty() && known.devices[&local].present, "not looked for");
        known.merge(found(9, Some(MAC), &[], 540), &network(), 540);
        assert_eq!(known.changes, [Change::Gone { ip: local }]);
        assert!(known.devices[&ip(9)].ipv6.is_empty(), "it has none any more");
        known.merge(found(20, Some(other), &[], 550), &network(), 550);
        assert!(known.changes.contains(&Change::Moved { from: local, ip: ip(20) }));
    }

    #[test]
    fn what_has_ipv4_elsewhere_or_several_times_is_not_mistaken() {
        let mut known = Inventory::default();
        known.merge(found(9, Some(MAC), &[], 500), &network(), 500);
        let second = Scope {
            networks: vec!["192.168.2.0/24".parse().unwrap()],
            links: vec!["192.168.2.0/24".parse().unwrap()],
        };
        let mut fresh = Inventory::default();
        hears(&mut fresh, MAC, &["fe80::1"]);
        known.merge(fresh, &second, 510);
        assert_eq!((known.changes.len(), known.devices.len()), (0, 1), "{:?}", known.changes);
        assert_eq!(known.devices[&ip(9)].ipv6.len(), 1);

        let mut fresh = found(9, Some(MAC), &[], 520);
        fresh.take(ScanEvent::Device { ip: v4(5), mac: Some(MAC), rtt: None }, 520);
        hears(&mut fresh, MAC, &["fe80::1"]);
        assert!(fresh.devices[&ip(9)].ipv6.is_empty() && fresh.devices[&ip(5)].ipv6.is_empty());
        assert!(fresh.devices.contains_key(&"fe80::1".parse::<IpAddr>().unwrap()));
    }

    #[test]
    fn a_card_with_two_addresses_that_leaves_one_is_gone_from_there() {
        let mut both = found(9, Some(MAC), &[], 100);
        both.take(ScanEvent::Device { ip: v4(5), mac: Some(MAC), rtt: None }, 100);
        let mut known = Inventory::default();
        known.merge(both, &network(), 100);
        known.merge(found(9, Some(MAC), &[], 200), &network(), 200);
        assert_eq!(known.changes, [Change::Gone { ip: ip(5) }]);
        let other = Scope { networks: vec!["10.0.0.0/24".parse().unwrap()], links: Vec::new() };
        let mut router = Inventory::default();
        let ip: Ipv4Addr = [10, 0, 0, 1].into();
        router.take(ScanEvent::Device { ip, mac: Some(MAC), rtt: None }, 300);
        known.merge(router, &other, 300);
        assert_eq!(known.changes, [Change::New { ip: ip.into() }], "a router is in both networks");
    }

    #[test]
    fn a_device_is_found_by_whatever_it_is_called() {
        let mut known = found(9, Some(MAC), &[], 1);
        known.take(ScanEvent::Device { ip: v4(10), mac: Some(MAC), rtt: None }, 5);
        for (last, name) in [(9, "Front-Door.local"), (20, "front-door"), (21, "nas")] {
            let name = name.to_owned();
            known.take(ScanEvent::Name { ip: v4(last), source: NameSource::Mdns, name }, 2);
        }
        let found = |text: &str| -> Vec<IpAddr> {
            known.find(text).into_iter().map(|device| device.ip).collect()
        };
        assert_eq!(found("front-door"), [ip(9), ip(20)]);
        assert_eq!(found("FRONT-DOOR.local"), [ip(9)]);
        assert_eq!(found("3C-00-00-00-00-01"), [ip(10)]);
        assert_eq!(found("192.168.1.21"), [ip(21)]);
        assert!(found("192.168.1.22").is_empty() && found("front").is_empty());
    }

    #[test]
    fn all_parts_together_are_the_inventory() {
        let mut known = Inventory::default();
        for last in 1..=9 {
            known.take(ScanEvent::Device { ip: v4(last), mac: None, rtt: None }, 1);
        }
        known.merge(known.clone(), &network(), 5);
        known.changes = vec![Change::Gone { ip: ip(77) }];
        for most in [1, 3, 4, 9, 99] {
            let (mut all, mut more, mut asked) = (Inventory::default(), true, 0);
            while more {
                let last = all.devices.keys().next_back().copied();
                let (part, goes_on) = known.part(last, most);
                assert!(part.devices.len() <= most && part.changes.is_empty() == goes_on);
                all.devices.extend(part.devices);
                (all.scanned_unix, all.changes) = (part.scanned_unix, part.changes);
                (more, asked) = (goes_on, asked + 1);
            }
            assert_eq!((all, asked), (known.clone(), 9_usize.div_ceil(most)));
        }
    }

    #[test]
    fn a_table_is_no_place_for_formulas() {
        let mut known = found(9, Some(MAC), &[], 1);
        let (ip, source) = (v4(9), NameSource::Ptr);
        known.take(ScanEvent::Name { ip, source, name: "=cmd(\"x\")".to_owned() }, 1);
        let csv = known.to_csv();
        assert!(csv.contains("\"'=cmd(\"\"x\"\")\""), "{csv}");
        let json = serde_json::to_string(&known).unwrap();
        assert_eq!(serde_json::from_str::<Inventory>(&json).unwrap(), known);
    }
}
