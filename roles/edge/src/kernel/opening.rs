//! What is open, with every address decided, and which packet it leads where.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use warren_proto::{
    Forward, ForwardId, ForwardProtocol, Gateway, GatewayId, LanSource, Ports, VirtualDeviceId,
};

/// TCP, UDP (IANA's 'Protocol Numbers').
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;

/// What is open, by its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Opened {
    /// A forward.
    Forward(ForwardId),
    /// A virtual device.
    Device(VirtualDeviceId),
    /// A gateway.
    Gateway(GatewayId),
}

/// All that an edge has open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// The edge's mesh address.
    pub mesh: Ipv4Addr,
    /// No two take one port of one protocol.
    pub forwards: Vec<OpenForward>,
    /// No two have one mesh address.
    pub devices: Vec<OpenDevice>,
    /// No mesh side of one overlaps another's, but the internet's.
    pub gateways: Vec<OpenGateway>,
}

/// A forward whose target's address is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenForward {
    /// Which one.
    pub id: ForwardId,
    /// What it takes.
    pub protocol: ForwardProtocol,
    /// The first port on the mesh address.
    pub port: u16,
    /// The last one, not below the first.
    pub last_port: u16,
    /// Where to.
    pub target: Ipv4Addr,
    /// The port that the first one leads to; the last doesn't pass 65,535.
    pub target_port: u16,
    /// What the target sees as the source.
    pub source: LanSource,
}

/// A virtual device whose target's address is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenDevice {
    /// Which one.
    pub id: VirtualDeviceId,
    /// Its mesh address.
    pub ipv4: Ipv4Addr,
    /// Where to.
    pub target: Ipv4Addr,
    /// What is let through.
    pub ports: Vec<Ports>,
    /// What the target sees as the source.
    pub source: LanSource,
}

/// A gateway whose way is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenGateway {
    /// Which one.
    pub id: GatewayId,
    /// As the mesh knows it.
    pub mesh: Ipv4Net,
    /// As the LAN knows it, as large.
    pub lan: Ipv4Net,
    /// What the LAN sees as the source.
    pub source: LanSource,
}

impl Opening {
    /// Nothing.
    pub fn nothing(mesh: Ipv4Addr) -> Self {
        Self { mesh, forwards: Vec::new(), devices: Vec::new(), gateways: Vec::new() }
    }

    /// Whether all that is open in `other` is so in this one, to the same places.
    pub fn covers(&self, other: &Self) -> bool {
        self.mesh == other.mesh
            && other.forwards.iter().all(|it| self.forwards.contains(it))
            && other.devices.iter().all(|it| self.devices.contains(it))
            && other.gateways.iter().all(|it| self.gateways.contains(it))
    }

    /// This one, and what is in another beside it.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        let mut both = self.clone();
        both.forwards.extend(other.forwards.iter().cloned());
        both.devices.extend(other.devices.iter().cloned());
        both.gateways.extend(&other.gateways);
        both
    }

    /// What of it is open in another, too, to the same places.
    #[must_use]
    pub fn also_in(&self, other: &Self) -> Self {
        let mut common = self.clone();
        common.forwards.retain(|it| other.forwards.contains(it));
        common.devices.retain(|it| other.devices.contains(it));
        common.gateways.retain(|it| other.gateways.contains(it));
        common
    }

    /// What of it the userspace proxy can open, without what is so in `kept`: no gateways, nor anything
    /// that shows the LAN who asks.
    pub fn for_userspace(&self, kept: Option<&Self>) -> Self {
        let is_masked = |source| source == LanSource::Masquerade;
        let mut opening = Self { gateways: Vec::new(), ..self.clone() };
        opening.forwards.retain(|forward| {
            is_masked(forward.source) && !kept.is_some_and(|kept| kept.forwards.contains(forward))
        });
        opening.devices.retain(|device| {
            is_masked(device.source) && !kept.is_some_and(|kept| kept.devices.contains(device))
        });
        opening
    }

    /// All that is open, and where its target is; a gateway's is its network's address.
    pub fn places(&self) -> impl Iterator<Item = (Opened, Ipv4Addr)> {
        let forwards = self.forwards.iter().map(|f| (Opened::Forward(f.id), f.target));
        let devices = self.devices.iter().map(|d| (Opened::Device(d.id), d.target));
        let gateways = self.gateways.iter().map(|g| (Opened::Gateway(g.id), g.lan.network()));
        forwards.chain(devices).chain(gateways)
    }

    /// Whether nothing is open.
    pub fn is_empty(&self) -> bool {
        self.forwards.is_empty() && self.devices.is_empty() && self.gateways.is_empty()
    }
}

impl OpenForward {
    /// With its target at `target`.
    pub fn new(forward: &Forward, target: Ipv4Addr) -> Self {
        Self {
            id: forward.id,
            protocol: forward.protocol,
            port: forward.port,
            last_port: forward.last_port,
            target,
            target_port: forward.target_port,
            source: forward.source,
        }
    }

    /// The protocols that it takes, by number.
    pub fn protocols(&self) -> &'static [u8] {
        match self.protocol {
            ForwardProtocol::Tcp => &[TCP],
            ForwardProtocol::Udp => &[UDP],
            ForwardProtocol::Both => &[TCP, UDP],
        }
    }
}

impl OpenGateway {
    /// With all that it says.
    pub fn new(gateway: &Gateway) -> Self {
        let Gateway { id, mesh, lan, source, .. } = *gateway;
        Self { id, mesh: mesh.trunc(), lan: lan.trunc(), source }
    }

    /// Whether it leads to the internet.
    pub fn is_internet(&self) -> bool {
        self.mesh.prefix_len() == 0
    }

    /// Whether mesh and LAN know it by the same addresses.
    pub fn is_plain(&self) -> bool {
        self.mesh == self.lan && !self.is_internet()
    }

    /// The LAN's address of one of the mesh's, if that is one of its.
    pub fn translate(&self, address: Ipv4Addr) -> Option<Ipv4Addr> {
        let host = address.to_bits() & self.mesh.hostmask().to_bits();
        let inside = self.mesh.contains(&address);
        inside.then(|| Ipv4Addr::from_bits(self.lan.network().to_bits() | host))
    }
}

/// Looks up where a packet from the mesh leads.
#[derive(Debug)]
pub struct Translation<O> {
    opening: O,
    /// Places in the opening.
    forward_by_first_port: BTreeMap<(u8, u16), usize>,
    device_by_address: BTreeMap<Ipv4Addr, usize>,
}

/// Where a packet leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lead {
    /// By what.
    pub by: Opened,
    /// The LAN's address.
    pub target: Ipv4Addr,
    /// Its port; 0 for a protocol without ports.
    pub port: u16,
}

impl<O: Borrow<Opening>> Translation<O> {
    /// Of what is open.
    pub fn new(opening: O) -> Self {
        let open: &Opening = opening.borrow();
        let forwards = open.forwards.iter().enumerate();
        let forward_by_first_port = forwards
            .flat_map(|(index, forward)| {
                forward.protocols().iter().map(move |p| ((*p, forward.port), index))
            })
            .collect();
        let devices = open.devices.iter().enumerate();
        let device_by_address = devices.map(|(index, device)| (device.ipv4, index)).collect();
        Self { opening, forward_by_first_port, device_by_address }
    }

    /// What is open.
    pub fn opening(&self) -> &Opening {
        self.opening.borrow()
    }

    /// The LAN's address and port of a new connection to a mesh address; absent where it leads
    /// nowhere. The port of a protocol without ports is 0.
    pub fn target(&self, protocol: u8, address: Ipv4Addr, port: u16) -> Option<(Ipv4Addr, u16)> {
        self.lead(protocol, address, port).map(|lead| (lead.target, lead.port))
    }

    /// As [`Self::target`], and what it is that leads there.
    pub fn lead(&self, protocol: u8, address: Ipv4Addr, port: u16) -> Option<Lead> {
        let opening: &Opening = self.opening.borrow();
        if address == opening.mesh {
            let until = (protocol, 0)..=(protocol, port);
            let (_, index) = self.forward_by_first_port.range(until).next_back()?;
            let forward = opening.forwards.get(*index)?;
            let offset = port - forward.port;
            return (port <= forward.last_port).then(|| Lead {
                by: Opened::Forward(forward.id),
                target: forward.target,
                port: forward.target_port.saturating_add(offset),
            });
        }
        if let Some(index) = self.device_by_address.get(&address) {
            let device = opening.devices.get(*index)?;
            let open = device.ports.iter().any(|ports| ports.contains(protocol, port));
            let by = Opened::Device(device.id);
            return open.then_some(Lead { by, target: device.target, port });
        }
        let gateways = opening.gateways.iter();
        let narrowest = gateways
            .filter(|gateway| gateway.mesh.contains(&address))
            .max_by_key(|gateway| gateway.mesh.prefix_len())?;
        let by = Opened::Gateway(narrowest.id);
        narrowest.translate(address).map(|target| Lead { by, target, port })
    }

    /// Whether nobody but what is open here has to do with packets to an address: all of a virtual
    /// device's, and of the edge's own those to a port that leads somewhere.
    pub fn claims(&self, protocol: u8, address: Ipv4Addr, port: u16) -> bool {
        self.device_by_address.contains_key(&address)
            || self.lead(protocol, address, port).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening() -> Opening {
        let forward = |id, protocol, port, last_port, target_port| OpenForward {
            id: ForwardId(id),
            protocol,
            port,
            last_port,
            target: Ipv4Addr::new(192, 168, 1, 9),
            target_port,
            source: LanSource::Masquerade,
        };
        Opening {
            mesh: Ipv4Addr::new(100, 80, 0, 1),
            forwards: vec![
                forward(1, ForwardProtocol::Both, 9000, 9010, 65_525),
                forward(2, ForwardProtocol::Tcp, 80, 80, 8080),
            ],
            devices: vec![OpenDevice {
                id: VirtualDeviceId(1),
                ipv4: Ipv4Addr::new(100, 80, 7, 1),
                target: Ipv4Addr::new(192, 168, 1, 20),
                ports: vec![Ports::Tcp(80, 90), Ports::Icmp],
                source: LanSource::Masquerade,
            }],
            gateways: vec![OpenGateway {
                id: GatewayId(1),
                mesh: "100.80.16.0/24".parse().unwrap(),
                lan: "192.168.1.0/24".parse().unwrap(),
                source: LanSource::Masquerade,
            }],
        }
    }

    #[test]
    fn a_packet_leads_where_the_kernel_sends_it() {
        let opening = opening();
        let translation = Translation::new(&opening);
        let mesh = opening.mesh;
        let camera = Ipv4Addr::new(192, 168, 1, 9);
        assert_eq!(translation.target(TCP, mesh, 9000), Some((camera, 65_525)));
        assert_eq!(translation.target(UDP, mesh, 9010), Some((camera, 65_535)));
        assert_eq!(translation.target(UDP, mesh, 9011), None);
        assert_eq!(translation.target(TCP, mesh, 80), Some((camera, 8080)));
        assert_eq!(translation.target(UDP, mesh, 80), None);
        let device = Ipv4Addr::new(100, 80, 7, 1);
        let printer = Ipv4Addr::new(192, 168, 1, 20);
        assert_eq!(translation.target(TCP, device, 85), Some((printer, 85)));
        assert_eq!(translation.target(1, device, 0), Some((printer, 0)));
        assert_eq!(translation.target(TCP, device, 91), None);
        let through = Ipv4Addr::new(100, 80, 16, 77);
        let there = Ipv4Addr::new(192, 168, 1, 77);
        assert_eq!(translation.target(UDP, through, 5), Some((there, 5)));
        assert_eq!(translation.target(UDP, Ipv4Addr::new(8, 8, 8, 8), 53), None);
    }

    #[test]
    fn the_userspace_proxy_has_no_gateways_nothing_transparent_and_nothing_twice() {
        let mut opening = opening();
        opening.forwards[1].source = LanSource::Transparent;
        let proxied = opening.for_userspace(None);
        assert_eq!(proxied.forwards, opening.forwards[..1]);
        assert_eq!(proxied.devices, opening.devices);
        assert!(proxied.gateways.is_empty());
        let kept = Opening { devices: Vec::new(), ..opening.clone() };
        let proxied = opening.for_userspace(Some(&kept));
        assert!(proxied.forwards.is_empty() && proxied.devices.len() == 1);
        // A target that has moved isn't the same.
        opening.forwards[0].target = Ipv4Addr::new(192, 168, 1, 77);
        assert_eq!(opening.for_userspace(Some(&kept)).forwards.len(), 1);
    }

    #[test]
    fn all_of_a_virtual_device_is_claimed_and_of_the_edge_what_leads_somewhere() {
        let opening = opening().for_userspace(None);
        let translation = Translation::new(&opening);
        let device = Ipv4Addr::new(100, 80, 7, 1);
        assert!(translation.claims(TCP, device, 91) && translation.claims(50, device, 0));
        assert!(translation.claims(TCP, opening.mesh, 80));
        assert!(!translation.claims(UDP, opening.mesh, 80));
        assert!(!translation.claims(TCP, Ipv4Addr::new(100, 80, 16, 77), 80));
    }
}
