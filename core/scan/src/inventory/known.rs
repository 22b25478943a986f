//! What is known while a scan goes on.
//!
//! What a scan comes across is known at once, and stays so if it is cancelled. A whole scan replaces what
//! was known: a port that it didn't find open is closed. So that in the end what it found can be told from
//! what was known before, and yet neither is held twice, it is noted of each device that was known what the
//! scan has seen of it, without the texts. Of a device that wasn't known, everything is the scan's.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use warren_proto::MacAddr;

use super::few::Few;
use super::guess::guess;
use super::{Device, Inventory, NameSource, Port, Scope, Service};
use crate::scan::{Ipv6Neighbour, ScanEvent};

/// What is known, and what the scan under way has seen of it.
#[derive(Debug, Default)]
pub struct Known {
    inventory: Inventory,
    /// By device that it has seen; nothing, where that wasn't known before.
    seen: BTreeMap<Ipv4Addr, Option<Box<Sighting>>>,
    neighbours: Vec<Ipv6Neighbour>,
}

/// What a scan has seen of a device, and what was known of it before.
#[derive(Debug)]
struct Sighting {
    mac: Option<MacAddr>,
    is_timed: bool,
    names: Vec<NameSource>,
    ports: Vec<Port>,
    since_unix: u64,
    before: Before,
}

#[derive(Debug)]
struct Before {
    mac: Option<MacAddr>,
    present: bool,
    ports: Box<[Port]>,
    first_seen_unix: u64,
}

impl Known {
    /// What earlier scans have found.
    pub fn new(inventory: Inventory) -> Self {
        Self { inventory, ..Self::default() }
    }

    /// All that is known at this moment.
    pub fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// Takes what the scan under way tells, as of `unix` seconds since the epoch. Who has IPv6 is known at
    /// its end.
    pub fn take(&mut self, event: ScanEvent, unix: u64) {
        let ip = match event {
            ScanEvent::Device { ip, .. }
            | ScanEvent::Service { ip, .. }
            | ScanEvent::Name { ip, .. } => ip,
            ScanEvent::Ipv6(neighbours) => return self.neighbours.extend(neighbours),
            ScanEvent::Ended { .. } => return,
        };
        let device = self.inventory.devices.get(&ip.into());
        let sighting = self.seen.entry(ip);
        let sighting = sighting.or_insert_with(|| Some(Box::new(Sighting::of(device?, unix))));
        if let Some(sighting) = sighting {
            sighting.note(&event);
        }
        self.inventory.take(event, unix);
    }

    /// The scan was cancelled: what it found is added, and nobody is gone.
    pub fn cancel(&mut self) {
        *self = Self::new(std::mem::take(&mut self.inventory));
    }

    /// The scan has ended, after all that is in its scope: what it found replaces what was known, and what
    /// has changed is noted ([`Inventory::merge`]). `leases`: names by card, of a DHCP server.
    pub fn end(&mut self, scope: &Scope, leases: Vec<(MacAddr, String)>, unix: u64) {
        let mut fresh = self.split();
        fresh.take(ScanEvent::Ipv6(std::mem::take(&mut self.neighbours)), unix);
        for (mac, name) in leases {
            let mut devices = fresh.devices.values().filter(|device| device.mac == Some(mac));
            if let Some(ip) = devices.find_map(Device::ipv4) {
                fresh.take(ScanEvent::Name { ip, source: NameSource::Dhcp, name }, unix);
            }
        }
        self.inventory.merge(fresh, scope, unix);
    }

    /// Leaves what was known before, and returns what the scan has found.
    fn split(&mut self) -> Inventory {
        let mut fresh = Inventory::default();
        for (ip, sighting) in std::mem::take(&mut self.seen) {
            let Some(device) = self.inventory.devices.remove(&ip.into()) else { continue };
            let found = match sighting {
                None => device,
                Some(sighting) => {
                    let (before, found) = sighting.split(device);
                    self.inventory.devices.insert(before.ip, before);
                    found
                }
            };
            fresh.devices.insert(found.ip, found);
        }
        fresh
    }
}

impl Sighting {
    fn of(device: &Device, unix: u64) -> Self {
        let before = Before {
            mac: device.mac,
            present: device.present,
            ports: device.services.keys().copied().collect(),
            first_seen_unix: device.first_seen_unix,
        };
        let (names, ports) = (Vec::new(), Vec::new());
        Self { mac: None, is_timed: false, names, ports, since_unix: unix, before }
    }

    fn note(&mut self, event: &ScanEvent) {
        match event {
            ScanEvent::Device { mac, rtt, .. } => {
                self.mac = mac.or(self.mac);
                self.is_timed |= rtt.is_some();
            }
            ScanEvent::Service { transport, port: number, .. } => {
                self.ports.push(Port { transport: *transport, number: *number });
            }
            ScanEvent::Name { source, .. } => self.names.push(*source),
            ScanEvent::Ipv6(_) | ScanEvent::Ended { .. } => {}
        }
    }

    /// What was known of a device before, as far as [`Inventory::merge`] looks at it, and what the scan has
    /// found.
    fn split(self, device: Device) -> (Device, Device) {
        let Self { mac, is_timed, names, ports, since_unix, before } = self;
        let (found_names, old_names) = device.names.partition(|source| names.contains(source));
        let (found_services, _) = device.services.partition(|port| ports.contains(port));
        let mut found = Device {
            mac,
            names: found_names,
            services: found_services,
            rtt_us: device.rtt_us.filter(|_| is_timed),
            first_seen_unix: since_unix,
            last_seen_unix: device.last_seen_unix,
            ..Device::new(device.ip, since_unix)
        };
        found.kind = guess(&found);
        let silent = |port: &Port| (*port, Service::default());
        let before = Device {
            ipv6: device.ipv6,
            link: device.link,
            mac: before.mac,
            names: old_names,
            services: before.ports.iter().map(silent).collect::<Few<_, _>>(),
            present: before.present,
            first_seen_unix: before.first_seen_unix,
            ..Device::new(device.ip, device.last_seen_unix)
        };
        (before, found)
    }
}
