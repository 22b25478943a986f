//! From one scan to the next.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::Ipv4Net;
use warren_proto::MacAddr;

use super::{Change, Device, Inventory};

/// The most devices that are kept: those seen longest ago go first.
const MAX_DEVICES: usize = 70_000;
/// How long a device that isn't seen any more is kept.
const FORGET: Duration = Duration::from_secs(90 * 24 * 3600);

/// What a whole scan went through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// The networks.
    pub networks: Vec<Ipv4Net>,
    /// Those that stand for a link on which it looked for IPv6.
    pub links: Vec<Ipv4Net>,
}

impl Scope {
    /// Whether it would have found a device where it was.
    fn covers(&self, device: &Device) -> bool {
        match device.ip {
            IpAddr::V4(ip) => self.networks.iter().any(|network| network.contains(&ip)),
            IpAddr::V6(_) => device.link.is_some_and(|link| self.links.contains(&link)),
        }
    }

    /// Whether it would have found its IPv6 addresses.
    fn covers_ipv6(&self, device: &Device) -> bool {
        match device.ip {
            IpAddr::V4(ip) => self.links.iter().any(|link| link.contains(&ip)),
            IpAddr::V6(_) => self.covers(device),
        }
    }
}

impl Inventory {
    /// Brings what a whole scan found (`fresh`) into what was known, and notes what has changed.
    pub fn merge(&mut self, mut fresh: Self, scope: &Scope, unix: u64) {
        self.changes.clear();
        self.join_elsewhere(&mut fresh, scope);
        let mut before = self.left(&fresh, scope);
        let found: BTreeSet<IpAddr> = fresh.devices.keys().copied().collect();
        let mut changes = Vec::new();
        for (ip, mut device) in fresh.devices {
            let here = self
                .devices
                .remove(&ip)
                .filter(|old| old.mac == device.mac || device.mac.is_none());
            let from = device.mac.filter(|_| here.is_none()).and_then(|mac| before.remove(&mac));
            let earlier = match from {
                Some(from) => {
                    changes.push(Change::Moved { from, ip });
                    self.devices.remove(&from)
                }
                None => here,
            };
            match earlier {
                None => changes.push(Change::New { ip }),
                Some(earlier) if !earlier.present => {
                    changes.push(Change::New { ip });
                    device.first_seen_unix = earlier.first_seen_unix;
                }
                Some(earlier) => compare(&earlier, &mut device, scope, &mut changes),
            }
            self.devices.insert(ip, device);
        }
        for device in self.devices.values_mut() {
            let missing = scope.covers(device) && !found.contains(&device.ip);
            if missing && std::mem::replace(&mut device.present, false) {
                self.changes.push(Change::Gone { ip: device.ip });
            }
        }
        self.changes.append(&mut changes);
        self.scanned_unix = Some(unix);
        self.forget(unix);
    }

    /// By card, devices that the scan would have found where they were: one card may have several
    /// addresses, and only one that is silent has been left.
    fn left(&self, fresh: &Self, scope: &Scope) -> BTreeMap<MacAddr, IpAddr> {
        let silent = self
            .devices
            .values()
            .filter(|device| scope.covers(device) && !fresh.devices.contains_key(&device.ip));
        silent.filter_map(|device| Some((device.mac?, device.ip))).collect()
    }

    /// What seems to have no IPv4 may have it in a network that wasn't scanned.
    fn join_elsewhere(&mut self, fresh: &mut Self, scope: &Scope) {
        let cards = self.cards(|device| device.present && !scope.covers(device));
        fresh.devices.retain(|ip, device| {
            let known = device.mac.filter(|_| ip.is_ipv6()).and_then(|mac| cards.get(&mac));
            let Some(Some(known)) = known else { return true };
            if let Some(known) = self.devices.get_mut(&IpAddr::V4(*known)) {
                known.ipv6 = std::mem::take(&mut device.ipv6);
            }
            false
        });
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

fn compare(earlier: &Device, device: &mut Device, scope: &Scope, changes: &mut Vec<Change>) {
    let ip = device.ip;
    device.first_seen_unix = earlier.first_seen_unix;
    device.mac = device.mac.or(earlier.mac);
    if device.ipv6.is_empty() && !scope.covers_ipv6(device) {
        device.ipv6.clone_from(&earlier.ipv6);
    }
    for (source, name) in earlier.names.iter() {
        if !device.names.contains_key(source) {
            device.names.insert(*source, name.clone());
        }
    }
    let opened = device.services.keys().filter(|port| !earlier.services.contains_key(*port));
    changes.extend(opened.map(|port| Change::Opened { ip, port: *port }));
    let closed = earlier.services.keys().filter(|port| !device.services.contains_key(*port));
    changes.extend(closed.map(|port| Change::Closed { ip, port: *port }));
}
