//! What is open, with every address decided, and which packet it leads where.

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
pub struct Translation<'a> {
    opening: &'a Opening,
    forward_by_first_port: BTreeMap<(u8, u16), &'a OpenForward>,
    device_by_address: BTreeMap<Ipv4Addr, &'a OpenDevice>,
}

impl<'a> Translation<'a> {
    /// Of what is open.
    pub fn new(opening: &'a Opening) -> Self {
        let forwards = opening.forwards.iter();
        let forward_by_first_port = forwards
            .flat_map(|forward| {
                forward.protocols().iter().map(move |p| ((*p, forward.port), forward))
            })
            .collect();
        let device_by_address =
            opening.devices.iter().map(|device| (device.ipv4, device)).collect();
        Self { opening, forward_by_first_port, device_by_address }
    }

    /// The LAN's address and port of a new connection to a mesh address; absent where it leads
    /// nowhere. The port of a protocol without ports is 0.
    pub fn target(&self, protocol: u8, address: Ipv4Addr, port: u16) -> Option<(Ipv4Addr, u16)> {
        if address == self.opening.mesh {
            let until = (protocol, 0)..=(protocol, port);
            let (_, forward) = self.forward_by_first_port.range(until).next_back()?;
            let offset = port - forward.port;
            return (port <= forward.last_port)
                .then(|| (forward.target, forward.target_port.saturating_add(offset)));
        }
        if let Some(device) = self.device_by_address.get(&address) {
            let open = device.ports.iter().any(|ports| ports.contains(protocol, port));
            return open.then_some((device.target, port));
        }
        let gateways = self.opening.gateways.iter();
        let narrowest = gateways
            .filter(|gateway| gateway.mesh.contains(&address))
            .max_by_key(|gateway| gateway.mesh.prefix_len())?;
        narrowest.translate(address).map(|target| (target, port))
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
}
