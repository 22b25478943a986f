//! What of the host's own network is looked up further on though the mesh's table would lead there, and
//! what leads nowhere.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType};

use super::super::netlink::Netlink;
use super::{ANYWHERE4, ANYWHERE6, HostNetwork, PROTOCOL, has_alias, ignore_missing, network_of};
use crate::config::InterfaceConfig;
use crate::error::Error;

/// Where routers are searched for (UPnP Device Architecture).
const SSDP: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 250);

/// Behind every other route, of which the lowest number counts.
const LAST: u32 = 1 << 31;

/// What a LAN's devices have (RFC 1918, RFC 6598, RFC 3927; RFC 4193). A network of other addresses,
/// whoever says that it is the LAN, is the internet: else a stranger's access point could draw traffic
/// out of the tunnel by the addresses that it gives (CVE-2023-36672).
const LANS4: [Ipv4Net; 5] = [
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10),
    Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),
];
const LANS6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7);

/// Speaks on one link alone: neighbours, routers, DHCPv6 (RFC 4291 §2.5.6).
const LINK_LOCAL6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);

/// Multicast (RFC 5771): a LAN's devices are found by it.
const MULTICAST4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4);

impl HostNetwork {
    /// Where networks are routed into the mesh, the router and SSDP's group are looked up further
    /// on, in the host's own tables: port mapping talks to them without a mark. With an exit node also
    /// the LANs that the host stands in, if they are to stay reachable; and whatever isn't routed
    /// otherwise leads nowhere, all of IPv6 among it.
    pub(super) fn set_exceptions(
        &mut self,
        netlink: &mut Netlink,
        wanted: &InterfaceConfig,
    ) -> Result<(), Error> {
        let lan = wanted.exit.is_none_or(|exit| exit.lan);
        let mut exceptions = BTreeSet::new();
        if lan && (!wanted.routes.is_empty() || wanted.exit.is_some()) {
            exceptions.insert(single(SSDP));
            let router = super::super::watch::default_gateway4(netlink).map(single);
            // Whoever says by DHCP what the router is doesn't choose what goes beside an exit node.
            exceptions.extend(router.filter(|router| wanted.exit.is_none() || is_lan(router)));
        }
        if wanted.exit.is_some() {
            exceptions.extend([IpNet::V4(ANYWHERE4), ANYWHERE6.into(), LINK_LOCAL6.into()]);
            if lan {
                exceptions.insert(MULTICAST4.into());
                exceptions.extend(self.lans(netlink)?);
            }
        }
        for gone in self.exceptions.difference(&exceptions) {
            netlink
                .change(RouteNetlinkMessage::DelRoute(self.exception(*gone)))
                .or_else(ignore_missing)
                .map_err(|error| Error::os("remove a mesh route", error))?;
        }
        self.exceptions.retain(|exception| exceptions.contains(exception));
        for exception in exceptions {
            let route = RouteNetlinkMessage::NewRoute(self.exception(exception));
            match netlink.replace(route) {
                Ok(()) => {
                    self.exceptions.insert(exception);
                }
                // The mesh interface has no IPv6; others may, and must be kept from it then.
                Err(_) if matches!(exception, IpNet::V6(_)) && !self.has_ipv6 => {}
                Err(error) => return Err(Error::os("add a mesh route", error)),
            }
        }
        Ok(())
    }

    /// The LANs that the host stands in.
    fn lans(&self, netlink: &mut Netlink) -> Result<BTreeSet<IpNet>, Error> {
        let failed = |error| Error::os("read the host's addresses", error);
        let links = netlink.links().map_err(failed)?;
        let is_mesh =
            |index| links.iter().any(|link| link.header.index == index && has_alias(link));
        let addresses = netlink.addresses().map_err(failed)?;
        let others = addresses
            .iter()
            .filter(|address| address.header.index != self.index && !is_mesh(address.header.index));
        Ok(others.filter_map(network_of).filter(is_lan).collect())
    }

    /// `throw`, or for all addresses `unreachable`.
    pub(super) fn exception(&self, network: IpNet) -> RouteMessage {
        let kind =
            if network.prefix_len() == 0 { RouteType::Unreachable } else { RouteType::Throw };
        let mut route = match network {
            IpNet::V4(network) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(network.addr(), network.prefix_len())
                .kind(kind)
                .protocol(PROTOCOL)
                .table_id(self.table())
                .build(),
            IpNet::V6(network) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(network.addr(), network.prefix_len())
                .kind(kind)
                .protocol(PROTOCOL)
                .table_id(self.table())
                .build(),
        };
        if kind == RouteType::Unreachable {
            route.attributes.push(RouteAttribute::Priority(LAST));
        }
        route
    }

    /// Unlike the other routes these don't go with the interface.
    pub(super) fn remove_exceptions(&mut self, netlink: &mut Netlink) -> Result<(), Error> {
        for exception in std::mem::take(&mut self.exceptions) {
            netlink
                .change(RouteNetlinkMessage::DelRoute(self.exception(exception)))
                .or_else(ignore_missing)
                .map_err(|error| Error::os("remove a mesh route", error))?;
        }
        Ok(())
    }
}

fn single(ip: Ipv4Addr) -> IpNet {
    IpNet::from(IpAddr::V4(ip))
}

fn is_lan(network: &IpNet) -> bool {
    match network {
        IpNet::V4(network) => LANS4.iter().any(|lan| lan.contains(network)),
        IpNet::V6(network) => LANS6.contains(network),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_private_networks_are_lans_whatever_an_access_point_says() {
        let is_lan = |text: &str| is_lan(&text.parse().unwrap());
        for lan in ["192.168.1.0/24", "10.0.0.0/8", "172.17.0.0/16", "100.64.3.0/24", "fd12::/64"] {
            assert!(is_lan(lan), "{lan}");
        }
        for public in ["198.51.100.0/24", "0.0.0.0/1", "0.0.0.0/0", "10.0.0.0/7", "2001:db8::/64"] {
            assert!(!is_lan(public), "{public}");
        }
    }
}
