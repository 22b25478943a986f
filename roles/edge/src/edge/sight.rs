//! What this host sees of the networks that it stands in.

use std::net::Ipv4Addr;

use warren_net::{Lan, LanInterface};
use warren_proto::LanTarget;

use crate::follow::{Follower, Place};
use crate::kernel::resolve::{Surroundings, Way};

/// A look at the host's interfaces and routes.
#[derive(Debug)]
pub(super) struct Sight {
    lan: Lan,
    interfaces: Vec<LanInterface>,
    mesh: Option<u32>,
}

impl Sight {
    /// Looks.
    pub(super) fn look(mesh: &str) -> anyhow::Result<Self> {
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

    /// Together with where devices are.
    pub(super) fn with<'a>(&'a mut self, follower: &'a Follower) -> Seen<'a> {
        Seen { sight: self, follower }
    }
}

/// A look, and where devices are.
pub(super) struct Seen<'a> {
    sight: &'a mut Sight,
    follower: &'a Follower,
}

impl Surroundings for Seen<'_> {
    fn way(&mut self, to: Ipv4Addr) -> Way {
        let Some(route) = self.sight.lan.route(to) else { return Way::Nowhere };
        if route.local {
            return Way::Host;
        }
        let interface = self.sight.interfaces.iter().find(|i| i.index == route.interface);
        match interface {
            Some(interface) => {
                Way::Lan { interface: interface.name.clone(), adjacent: route.gateway.is_none() }
            }
            None if self.sight.mesh == Some(route.interface) => Way::Mesh,
            None => Way::Nowhere,
        }
    }

    fn place(&self, target: &LanTarget) -> Place {
        self.follower.place(target)
    }
}
