//! The networks that this host stands in: interfaces, neighbours, the way to an address.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "rtnetlink's enums have dozens of kinds of which few matter, and grow"
)]

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteType};

use super::host::{has_alias, ip_of, link_name};
use super::netlink::Netlink;
use crate::error::Error;

/// An interface that is up, but loopback and those of the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LanInterface {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The card's address; absent where there is none, as of a PPP link.
    pub mac: Option<[u8; 6]>,
    /// Its addresses, each with the network that it is in.
    pub addresses: Vec<IpNet>,
}

/// A device of a network that this host stands in, as the kernel knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// By which interface.
    pub interface: u32,
    /// Its address.
    pub ip: IpAddr,
    /// Its card's address.
    pub mac: [u8; 6],
    /// Whether the kernel has made sure lately.
    pub confirmed: bool,
}

/// The way that a packet would take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LanRoute {
    /// By which interface.
    pub interface: u32,
    /// Through which router; absent where the destination is a neighbour.
    pub gateway: Option<Ipv4Addr>,
    /// Whether the destination is this host itself.
    pub local: bool,
}

/// Questions about them, in the network namespace of the thread that opened it. A question is
/// answered at once.
#[derive(Debug)]
pub struct Lan {
    netlink: Netlink,
}

impl Lan {
    /// Opens it.
    ///
    /// # Errors
    ///
    /// What the system says; none is usual.
    pub fn open() -> Result<Self, Error> {
        let netlink = Netlink::new().map_err(|error| Error::os("open rtnetlink", error))?;
        Ok(Self { netlink })
    }

    /// The interfaces that are up, by their number.
    ///
    /// # Errors
    ///
    /// What the system says; none is usual.
    pub fn interfaces(&mut self) -> Result<Vec<LanInterface>, Error> {
        self.read_interfaces().map_err(|error| Error::os("list the host's interfaces", error))
    }

    /// The number of the interface of that name.
    pub fn index(&mut self, name: &str) -> Option<u32> {
        let links = self.netlink.links().ok()?;
        let link = links.iter().find(|link| link_name(link) == Some(name))?;
        Some(link.header.index)
    }

    fn read_interfaces(&mut self) -> io::Result<Vec<LanInterface>> {
        let mut interfaces: Vec<LanInterface> =
            self.netlink.links()?.iter().filter_map(interface).collect();
        interfaces.sort_by_key(|interface| interface.index);
        for address in self.netlink.addresses()? {
            let net = ip_of(&address).and_then(|ip| IpNet::new(ip, address.header.prefix_len).ok());
            let interface = interfaces.iter_mut().find(|i| i.index == address.header.index);
            if let (Some(interface), Some(net)) = (interface, net) {
                interface.addresses.push(net);
            }
        }
        Ok(interfaces)
    }

    /// The neighbours that the kernel knows the card of.
    ///
    /// # Errors
    ///
    /// What the system says; none is usual.
    pub fn neighbours(&mut self) -> Result<Vec<Neighbour>, Error> {
        let found = self
            .netlink
            .neighbours()
            .map_err(|error| Error::os("list the host's neighbours", error))?;
        Ok(found.iter().filter_map(neighbour).collect())
    }

    /// The way that an unmarked packet to `destination` would take; absent where there is none.
    pub fn route(&mut self, destination: Ipv4Addr) -> Option<LanRoute> {
        let question =
            RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(destination, 32).build();
        let route = self.netlink.look_up(question).ok().flatten()?;
        let local = match route.header.kind {
            RouteType::Unicast => false,
            RouteType::Local => true,
            _ => return None,
        };
        let mut gateway = None;
        let mut interface = None;
        for attribute in route.attributes {
            match attribute {
                RouteAttribute::Gateway(RouteAddress::Inet(ip)) => gateway = Some(ip),
                RouteAttribute::Oif(index) => interface = Some(index),
                _ => {}
            }
        }
        Some(LanRoute { interface: interface?, gateway, local })
    }
}

fn interface(link: &LinkMessage) -> Option<LanInterface> {
    let flags = link.header.flags;
    if !flags.contains(LinkFlags::Up) || flags.contains(LinkFlags::Loopback) || has_alias(link) {
        return None;
    }
    let ethernet = link.header.link_layer_type == LinkLayerType::Ether;
    let mac = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) if ethernet => bytes.as_slice().try_into().ok(),
        _ => None,
    });
    let name = link_name(link)?.to_owned();
    Some(LanInterface { index: link.header.index, name, mac, addresses: Vec::new() })
}

fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let confirmed = match message.header.state {
        NeighbourState::Reachable | NeighbourState::Permanent => true,
        NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe => false,
        _ => return None,
    };
    let mut ip = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => ip = Some((*v4).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => ip = Some((*v6).into()),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    let mac: [u8; 6] = mac?;
    let is_card = mac != [0; 6] && mac[0] & 1 == 0;
    is_card.then_some(Neighbour { interface: message.header.ifindex, ip: ip?, mac, confirmed })
}
