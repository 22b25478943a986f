//! What this host sees of the networks that it stands in.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};
use warren_net::{Lan, LanInterface};
use warren_proto::LanTarget;

use super::ways_back::WaysBack;
use crate::follow::{Follower, Place};
use crate::kernel::resolve::{Surroundings, Way, WayBack};

/// A look at the host's interfaces and routes.
#[derive(Debug)]
pub(crate) struct Sight {
    lan: Lan,
    interfaces: Vec<LanInterface>,
    mesh: Option<u32>,
}

impl Sight {
    /// Looks.
    pub(crate) fn look(mesh: &str) -> Result<Self, warren_net::Error> {
        let mut lan = Lan::open()?;
        let mut interfaces = lan.interfaces()?;
        let index = lan.index(mesh);
        interfaces.retain(|interface| interface.name != mesh);
        Ok(Self { lan, interfaces, mesh: index })
    }

    /// The interfaces but the mesh's.
    pub(super) fn interfaces(&self) -> &[LanInterface] {
        &self.interfaces
    }

    /// The networks of the host's cards.
    pub(super) fn networks(&self) -> BTreeSet<Ipv4Net> {
        let cards = self.interfaces.iter().filter(|interface| interface.mac.is_some());
        let networks = cards.flat_map(|interface| &interface.addresses);
        let networks = networks.filter_map(|network| match network {
            IpNet::V4(network) => Some(network.trunc()),
            IpNet::V6(_) => None,
        });
        networks.filter(|network| network.prefix_len() < 31).collect()
    }

    /// By what way packets to an address would go.
    pub(crate) fn way(&mut self, to: Ipv4Addr) -> Way {
        let Some(route) = self.lan.route(to) else { return Way::Nowhere };
        if route.local {
            return Way::Host;
        }
        let interface = self.interfaces.iter().find(|i| i.index == route.interface);
        match interface {
            Some(interface) => {
                Way::Lan { interface: interface.name.clone(), adjacent: route.gateway.is_none() }
            }
            None if self.mesh == Some(route.interface) => Way::Mesh,
            None => Way::Nowhere,
        }
    }

    /// Together with where devices are.
    pub(super) fn with<'a>(
        &'a mut self,
        follower: &'a Follower,
        ways_back: Option<&'a WaysBack>,
    ) -> Seen<'a> {
        Seen { sight: self, follower, ways_back }
    }
}

/// A look, and where devices are.
pub(super) struct Seen<'a> {
    sight: &'a mut Sight,
    follower: &'a Follower,
    /// Absent: they don't matter.
    ways_back: Option<&'a WaysBack>,
}

impl Surroundings for Seen<'_> {
    fn way(&mut self, to: Ipv4Addr) -> Way {
        self.sight.way(to)
    }

    fn place(&self, target: &LanTarget) -> Place {
        self.follower.place(target)
    }

    fn way_back(&self, from: Ipv4Addr) -> WayBack {
        self.ways_back.map_or(WayBack::Here, |ways| ways.of(from))
    }
}
