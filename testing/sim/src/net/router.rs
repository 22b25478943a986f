use std::net::SocketAddr;

use ipnet::IpNet;

use super::nat::{FirewallState, Nat};
use super::{Firewall, IfaceId, Link, Loss, NatConfig, Network, Owner, Packet, SegmentId};

/// A router between two segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouterId(usize);

impl RouterId {
    pub(super) fn index(self) -> usize {
        self.0
    }
}

/// What a router is built from. It is the gateway of its inside segment.
#[derive(Debug, Clone)]
pub struct RouterConfig {
    /// The LAN.
    pub inside: SegmentId,
    /// Its addresses there.
    pub inside_addrs: Vec<IpNet>,
    /// The internet, or a carrier's network.
    pub outside: SegmentId,
    /// Its addresses there; the first IPv4 one is what the NAT translates to.
    pub outside_addrs: Vec<IpNet>,
    /// Its line to the outside.
    pub line: Link,
    /// How IPv4 is translated; `None`: not forwarded at all.
    pub nat: Option<NatConfig>,
    /// The IPv6 prefix that lies inside, and the firewall before it; `None`: no IPv6.
    pub ipv6: Option<(IpNet, Firewall)>,
    /// Drops every UDP packet.
    pub udp_blocked: bool,
}

#[derive(Debug)]
pub(super) struct Router {
    inside: IfaceId,
    pub(super) outside: IfaceId,
    nat: Option<Nat>,
    firewall: Option<FirewallState>,
    udp_blocked: bool,
    /// What stands behind this router is neither sent to nor heard.
    fence: Option<RouterId>,
}

impl Network {
    /// Adds a router.
    pub fn add_router(&mut self, config: &RouterConfig) -> RouterId {
        let id = RouterId(self.routers.len());
        let inside =
            self.add_iface(Owner::Inside(id), config.inside, &config.inside_addrs, Link::LAN);
        let outside =
            self.add_iface(Owner::Outside(id), config.outside, &config.outside_addrs, config.line);
        self.segments[config.inside.0].gateway = Some(inside);
        let firewall = config.ipv6.map(|(prefix, firewall)| {
            self.ifaces[outside.0].routes.push(prefix);
            FirewallState::new(firewall)
        });
        self.routers.push(Router {
            inside,
            outside,
            nat: config.nat.map(Nat::new),
            firewall,
            udp_blocked: config.udp_blocked,
            fence: None,
        });
        id
    }

    /// Makes a router forget every mapping and open filter, as after a power cut.
    pub fn reboot_router(&mut self, router: RouterId) {
        let router = &mut self.routers[router.0];
        router.nat = router.nat.take().map(|nat| Nat::new(nat.config));
        router.firewall = router.firewall.take().map(|state| FirewallState::new(state.config()));
    }

    /// Opens a port of a router's NAT towards a host behind it, as a port mapper asks it to; the
    /// outside address.
    pub fn forward(
        &mut self,
        router: RouterId,
        port: u16,
        inside: SocketAddr,
    ) -> Option<SocketAddr> {
        let router = &mut self.routers[router.0];
        router.nat.as_mut()?.forward(port, inside);
        let outside = &self.ifaces[router.outside.0];
        let addr = outside.addrs.iter().find(|addr| addr.addr().is_ipv4())?;
        Some(SocketAddr::new(addr.addr(), port))
    }

    /// Changes a router's line to the outside.
    pub fn set_line(&mut self, router: RouterId, line: Link) {
        let outside = self.routers[router.0].outside;
        self.ifaces[outside.0].link = line;
    }

    /// Starts or stops dropping every UDP packet.
    pub fn set_udp_blocked(&mut self, router: RouterId, blocked: bool) {
        self.routers[router.0].udp_blocked = blocked;
    }

    /// Drops all that goes to or comes from another router's outside address, or lets it pass.
    pub fn set_fence(&mut self, router: RouterId, against: Option<RouterId>) {
        self.routers[router.0].fence = against;
    }

    fn is_fenced(&self, router: RouterId, ip: std::net::IpAddr) -> bool {
        self.routers[router.0].fence.is_some_and(|other| {
            let outside = &self.ifaces[self.routers[other.0].outside.0];
            outside.addrs.iter().any(|addr| addr.addr() == ip)
        })
    }

    pub(super) fn route_out(&mut self, id: RouterId, mut packet: Packet) {
        let Some(hops) = packet.hops.checked_sub(1) else {
            self.lose(Loss::HopLimit);
            return;
        };
        packet.hops = hops;
        if self.is_fenced(id, packet.dst.ip()) {
            self.lose(Loss::Filtered);
            return;
        }
        let router = &mut self.routers[id.0];
        let outside = router.outside;
        if router.udp_blocked {
            self.lose(Loss::UdpBlocked);
            return;
        }
        let now = self.now;
        match (packet.dst, &mut router.nat, &mut router.firewall) {
            (SocketAddr::V6(_), _, Some(firewall)) => {
                firewall.passes_out(packet.src, packet.dst, now);
                self.emit(outside, &packet);
            }
            (SocketAddr::V4(_), Some(nat), _) => {
                let external =
                    self.ifaces[outside.0].addrs.iter().find(|addr| addr.addr().is_ipv4());
                let port = nat.translate_out(packet.src, packet.dst, now, &mut self.rng);
                let (Some(external), Some(port)) = (external, port) else {
                    self.lose(Loss::NoMapping);
                    return;
                };
                packet.src = SocketAddr::new(external.addr(), port);
                if packet.dst.ip() != external.addr() {
                    self.emit(outside, &packet);
                } else if nat.config.hairpin {
                    self.route_in(id, packet);
                } else {
                    self.lose(Loss::NoHairpin);
                }
            }
            (SocketAddr::V4(_) | SocketAddr::V6(_), _, _) => self.lose(Loss::NoRoute),
        }
    }

    pub(super) fn route_in(&mut self, id: RouterId, mut packet: Packet) {
        if self.is_fenced(id, packet.src.ip()) {
            self.lose(Loss::Filtered);
            return;
        }
        let router = &mut self.routers[id.0];
        let inside = router.inside;
        if router.udp_blocked {
            self.lose(Loss::UdpBlocked);
            return;
        }
        let now = self.now;
        match (packet.dst, &mut router.nat, &mut router.firewall) {
            (SocketAddr::V6(_), _, Some(firewall)) => {
                if firewall.lets_in(packet.dst, packet.src, now) {
                    self.emit(inside, &packet);
                } else {
                    self.lose(Loss::Filtered);
                }
            }
            (SocketAddr::V4(dst), Some(nat), _) => {
                match nat.translate_in(dst.port(), packet.src, now) {
                    Ok(host) => {
                        packet.dst = host;
                        self.emit(inside, &packet);
                    }
                    Err(loss) => self.lose(loss),
                }
            }
            (SocketAddr::V4(_) | SocketAddr::V6(_), _, _) => self.lose(Loss::NoRoute),
        }
    }
}
