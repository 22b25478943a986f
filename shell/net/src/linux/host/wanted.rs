//! Which routes and rules an interface's configuration wants, given what the host's network is like.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::tables::{Route, Rule, Table, Way, What};
use crate::config::{ExitRoutes, InterfaceConfig};

/// Where routers are searched for (UPnP Device Architecture).
const SSDP: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 250);

/// DNS, and DNS over TLS and QUIC (RFC 1035, RFC 7858, RFC 9250).
pub(super) const NAME_PORTS: [u16; 2] = [53, 853];

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
pub(super) const LINK_LOCAL6: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);

/// Multicast (RFC 5771): a LAN's devices are found by it.
const MULTICAST4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4);

const ANYWHERE4: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));
const ANYWHERE6: IpNet = IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0));

/// What the host's network is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Surround {
    /// Whether the host uses addresses of the account's range otherwise.
    pub(super) clash: bool,
    /// Whether the mesh interface has an IPv6 address.
    pub(super) has_ipv6: bool,
    /// The networks that the host stands in.
    pub(super) lans: BTreeSet<IpNet>,
    /// Those of them that are inside it: of its containers and virtual machines.
    pub(super) inside: BTreeSet<IpNet>,
    /// Its router.
    pub(super) router: Option<Ipv4Addr>,
}

/// The routes.
pub(super) fn routes(wanted: &InterfaceConfig, surround: &Surround) -> BTreeSet<Route> {
    let mut routes = BTreeSet::new();
    let mut into_mesh = |network: IpNet| {
        let table = Table::Mesh;
        if surround.has_ipv6 || matches!(network, IpNet::V4(_)) {
            routes.insert(Route { table, network, way: Way::Mesh });
        }
    };
    if surround.clash {
        for peer in wanted.peers4.iter().filter(|peer| **peer != wanted.ipv4) {
            into_mesh(single(*peer));
        }
    } else {
        into_mesh(wanted.range4.trunc().into());
    }
    into_mesh(wanted.range6.trunc().into());
    if let Some(exit) = wanted.exit {
        let further =
            |table, network: &IpNet| Route { table, network: *network, way: Way::Further };
        routes.extend(beside(exit, surround).iter().map(|it| further(Table::Exit, it)));
        routes.insert(Route { table: Table::Exit, network: ANYWHERE6, way: Way::Nowhere });
        let mut tables = vec![Table::Exit];
        if exit.names {
            tables.push(Table::Names);
            routes.extend(surround.inside.iter().map(|it| further(Table::Names, it)));
        }
        for table in tables {
            routes.insert(Route { table, network: ANYWHERE4, way: Way::Mesh });
            routes.insert(Route { table, network: ANYWHERE4, way: Way::Nowhere });
        }
    }
    routes
}

/// The rules for these routes, each with whether it is IPv6's.
pub(super) fn rules<'a>(
    wanted: &InterfaceConfig,
    routes: impl Iterator<Item = &'a Route>,
) -> BTreeSet<(bool, Rule)> {
    let tables: BTreeSet<(bool, Table)> =
        routes.map(|route| (route.is_ipv6(), route.table)).collect();
    let mut rules = BTreeSet::new();
    for (is_ipv6, table) in tables {
        match table {
            Table::Mesh => rules.insert((is_ipv6, Rule { table, what: What::Unmarked })),
            Table::Names => continue,
            Table::Exit => {
                if wanted.exit.is_some_and(|exit| exit.names) {
                    rules.insert((is_ipv6, Rule { table: Table::Names, what: What::Marked }));
                    let names = |port| Rule { table: Table::Names, what: What::Port(port) };
                    rules.extend(NAME_PORTS.map(|port| (is_ipv6, names(port))));
                }
                rules.insert((is_ipv6, Rule { table, what: What::Unmarked }))
            }
        };
    }
    rules
}

/// What stays reachable beside an exit node.
pub(super) fn beside(exit: ExitRoutes, surround: &Surround) -> BTreeSet<IpNet> {
    let mut networks = BTreeSet::from([IpNet::V6(LINK_LOCAL6)]);
    if exit.lan {
        networks.insert(MULTICAST4.into());
        networks.extend(surround.lans.iter().filter(|network| is_lan(network)));
        networks.insert(single(SSDP));
        // Whoever says by DHCP what the router is doesn't choose what goes beside an exit node.
        networks.extend(surround.router.map(single).filter(is_lan));
    }
    networks
}

fn single(ip: Ipv4Addr) -> IpNet {
    IpNet::from(IpAddr::V4(ip))
}

pub(super) fn is_lan(network: &IpNet) -> bool {
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

    fn config(exit: Option<ExitRoutes>) -> InterfaceConfig {
        InterfaceConfig {
            ipv4: [100, 72, 0, 1].into(),
            ipv6: "fd00:72::1".parse().unwrap(),
            range4: "100.72.0.0/16".parse().unwrap(),
            range6: "fd00:72::/48".parse().unwrap(),
            mtu: 1280,
            peers4: vec![[100, 72, 0, 1].into(), [100, 72, 0, 2].into()],
            exit,
        }
    }

    fn surround() -> Surround {
        let lans = ["192.168.7.0/24", "198.51.100.0/24", "fd77::/64", "2001:db8:7::/64"];
        Surround {
            clash: false,
            has_ipv6: true,
            lans: lans.map(|lan| lan.parse().unwrap()).into(),
            inside: ["172.17.0.0/16".parse().unwrap()].into(),
            router: Some([192, 168, 7, 1].into()),
        }
    }

    fn further(routes: &BTreeSet<Route>, table: Table) -> Vec<String> {
        let it = routes.iter().filter(|route| route.table == table && route.way == Way::Further);
        it.map(|route| route.network.to_string()).collect()
    }

    #[test]
    fn without_an_exit_node_there_is_one_table() {
        let wanted = config(None);
        let routes = routes(&wanted, &surround());
        let networks: Vec<String> = routes.iter().map(|it| it.network.to_string()).collect();
        assert_eq!(networks, ["100.72.0.0/16", "fd00:72::/48"]);
        let rule = Rule { table: Table::Mesh, what: What::Unmarked };
        assert_eq!(rules(&wanted, routes.iter()), [(false, rule), (true, rule)].into());
    }

    #[test]
    fn names_pass_over_no_lan() {
        let exit = ExitRoutes { lan: true, names: true };
        let wanted = config(Some(exit));
        let routes = super::routes(&wanted, &surround());
        let lans = [
            "192.168.7.0/24",
            "192.168.7.1/32",
            "224.0.0.0/4",
            "239.255.255.250/32",
            "fd77::/64",
            "fe80::/10",
        ];
        assert_eq!(further(&routes, Table::Exit), lans);
        assert_eq!(further(&routes, Table::Names), ["172.17.0.0/16"], "the host's own containers");
        assert!(further(&routes, Table::Mesh).is_empty());
        assert_eq!(rules(&wanted, routes.iter()).len(), 10);
        // Who has names off asks whom he asked before.
        let wanted = config(Some(ExitRoutes { names: false, ..exit }));
        let routes = super::routes(&wanted, &surround());
        assert!(routes.iter().all(|it| it.table != Table::Names));
        assert_eq!(rules(&wanted, routes.iter()).len(), 4);
    }

    #[test]
    fn a_mesh_interface_without_ipv6_keeps_others_ipv6_back() {
        let wanted = config(Some(ExitRoutes { lan: true, names: true }));
        let routes = routes(&wanted, &Surround { has_ipv6: false, ..surround() });
        assert!(routes.iter().all(|it| !it.is_ipv6() || it.way != Way::Mesh));
        assert!(routes.iter().any(|it| it.is_ipv6() && it.way == Way::Nowhere));
        // A kernel without IPv6 refuses those routes, and then gets no rule of it.
        let rules = rules(&wanted, routes.iter().filter(|it| !it.is_ipv6()));
        assert!(rules.iter().all(|(is_ipv6, _)| !is_ipv6));
    }
}
