//! What stands behind this device, if it is an edge.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use ipnet::Ipv4Net;
use warren_proto::{DeviceName, EdgeDuty, EdgeState, INTERNET, LanAddress};

use super::Mesh;

/// What this device has said of being an edge, and what it opens.
#[derive(Debug, Default)]
pub(super) struct State {
    /// None: it is none, whatever its netmap says.
    said: Option<EdgeState>,
    pub(super) virtual_devices: BTreeMap<DeviceName, Ipv4Addr>,
    addresses: Vec<Ipv4Addr>,
    networks: Vec<Ipv4Net>,
    is_exit: bool,
}

impl State {
    pub(super) fn said(&self) -> Option<&EdgeState> {
        self.said.as_ref()
    }

    pub(super) fn opens_anything(&self) -> bool {
        !self.addresses.is_empty() || !self.networks.is_empty() || self.is_exit
    }

    /// Whether it leads to the internet.
    pub(super) fn is_exit(&self) -> bool {
        self.is_exit
    }

    fn has(&self, ip: Ipv4Addr) -> bool {
        self.addresses.binary_search(&ip).is_ok()
            || self.networks.iter().any(|net| net.contains(&ip))
            || (self.is_exit && LanAddress::of(ip) == LanAddress::Public)
    }

    /// Takes what is to be open; only a device that is an edge opens anything.
    fn take(&mut self, duty: Option<EdgeDuty>) {
        *self = Self { said: self.said.take(), ..Self::default() };
        let Some(duty) = duty.filter(|_| self.said.is_some()) else { return };
        for device in &duty.virtual_devices {
            self.virtual_devices.insert(device.name.clone(), device.ipv4);
            self.addresses.push(device.ipv4);
        }
        self.addresses.sort_unstable();
        let lans = duty.gateways.iter().filter(|gateway| gateway.lan != INTERNET);
        self.networks.extend(lans.map(|gateway| gateway.mesh.trunc()));
        self.is_exit = duty.leads_to_the_internet();
    }
}

impl Mesh {
    /// Takes the own word on being an edge: `None`, it is none and opens nothing, whatever its netmap
    /// says. The broker is told with the next check-in, which is at once.
    pub fn handle_edge(&mut self, state: Option<EdgeState>, now: Instant) {
        self.edge.said = state;
        self.take_duty(now);
        self.publish_changes(now);
        self.pump(now);
    }

    /// Brings what stands behind this device in line with its netmap.
    pub(super) fn take_duty(&mut self, now: Instant) {
        let before = std::mem::take(&mut self.edge.virtual_devices);
        let opened = (self.edge.opens_anything(), self.edge.is_exit());
        let netmap = self.netmap.as_ref();
        self.edge.take(netmap.and_then(|map| Some(map.edge.as_ref()?.believed(map.ipv4_range))));
        let opens = (self.edge.opens_anything(), self.edge.is_exit());
        if (&before, opened) != (&self.edge.virtual_devices, opens) {
            let filter = self.netmap.as_ref().and_then(|netmap| netmap.filter.clone());
            self.take_filter(filter.as_ref(), now);
        }
    }

    /// Whether an address is of something that stands behind this device. One of its own, public ones too,
    /// is none: what is for the device itself is judged as that.
    pub(super) fn is_behind(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.edge.has(ip) && !self.has_local(ip.into()),
            IpAddr::V6(_) => false,
        }
    }

    fn has_local(&self, ip: IpAddr) -> bool {
        self.outside.local.iter().any(|own| own.ip == ip)
    }
}
