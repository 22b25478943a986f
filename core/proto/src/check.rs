//! What a netmap may say. A node believes its broker in what concerns the mesh and in nothing else:
//! a map can't draw traffic for other networks into the tunnel.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use thiserror::Error;

use crate::{Apply, Change, Delta, DeviceName, Netmap, Peer};

/// The prefix length of an account's IPv6 range (RFC 4193 §3.1).
pub const IPV6_PREFIX: u8 = 48;

/// The longest domain, in bytes (RFC 1035 §2.3.4).
const MAX_DOMAIN: usize = 253;

/// An address range was not usable for an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidRange {
    /// Too large or too small.
    #[error("an account's range has a prefix length of 8 to 22")]
    Length,
    /// Bits are set behind the prefix.
    #[error("the range's address has bits set behind its prefix")]
    HostBits,
    /// It belongs to the public internet.
    #[error(
        "an account's range lies in 100.64.0.0/10, 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16"
    )]
    Public,
}

/// Why a netmap, or a change of one, is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidMap {
    /// The account's IPv4 range.
    #[error("its range {0} is none for a mesh: {1}")]
    Range4(Ipv4Net, InvalidRange),
    /// The account's IPv6 range.
    #[error("its range {0} is no /48 of fd00::/8")]
    Range6(Ipv6Net),
    /// A device's address lies outside the account's range.
    #[error("{0} has the address {1}, which is not in the account's range")]
    Outside(DeviceName, IpAddr),
    /// Two devices, or networks behind them, have one address.
    #[error("{0} and {1} have one address")]
    Shared(DeviceName, DeviceName),
    /// The domain is no domain of at least two labels.
    #[error("'{0}' is no domain for the names of an account")]
    Domain(String),
}

/// Checks whether an account may have this IPv4 range.
///
/// # Errors
/// Says what is wrong with it.
pub fn check_range(range: Ipv4Net) -> Result<(), InvalidRange> {
    if range.addr() != range.network() {
        return Err(InvalidRange::HostBits);
    }
    if !(8..=22).contains(&range.prefix_len()) {
        return Err(InvalidRange::Length);
    }
    let homes = [
        Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10),
        Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
        Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
        Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
    ];
    if homes.iter().any(|home| home.contains(&range)) { Ok(()) } else { Err(InvalidRange::Public) }
}

impl Netmap {
    /// Checks that the map speaks of a mesh and of nothing beyond it: a private IPv4 range, a unique
    /// local /48, every device's addresses inside them and its own, a domain of two labels or more.
    ///
    /// # Errors
    /// Names the first thing that can't be.
    pub fn check(&self) -> Result<(), InvalidMap> {
        check_range(self.ipv4_range).map_err(|why| InvalidMap::Range4(self.ipv4_range, why))?;
        let unique_local = Ipv6Net::new_assert(Ipv6Addr::new(0xFD00, 0, 0, 0, 0, 0, 0, 0), 8);
        let range = self.ipv6_range;
        if !unique_local.contains(&range)
            || range.prefix_len() != IPV6_PREFIX
            || range.addr() != range.network()
        {
            return Err(InvalidMap::Range6(range));
        }
        check_domain(&self.dns.domain)?;
        let mut known = BTreeMap::new();
        let this = (&self.this.name, self.this.ipv4, self.this.ipv6);
        let peers = self.peers.iter().map(|peer| (&peer.name, peer.ipv4, peer.ipv6));
        for (name, ipv4, ipv6) in std::iter::once(this).chain(peers) {
            self.check_addresses(name, ipv4, ipv6)?;
            for address in [IpAddr::V4(ipv4), IpAddr::V6(ipv6)] {
                if let Some(other) = known.insert(address, name) {
                    return Err(InvalidMap::Shared(other.clone(), name.clone()));
                }
            }
        }
        self.check_edges(known)
    }

    /// Checks what stands behind edges: `known` are the devices' own addresses. Networks outside the
    /// account's range are no error: nobody routes them.
    fn check_edges<'a>(
        &'a self,
        mut known: BTreeMap<IpAddr, &'a DeviceName>,
    ) -> Result<(), InvalidMap> {
        let duty = self.edge.iter().flat_map(|duty| &duty.virtual_devices);
        let own = duty.map(|device| (&device.name, device.ipv4));
        let offered = self.peers.iter().filter_map(|peer| Some((peer, peer.edge.as_ref()?)));
        let theirs = offered.clone().flat_map(|(_, offer)| &offer.virtual_devices);
        for (name, ipv4) in own.chain(theirs.map(|device| (&device.name, device.ipv4))) {
            self.check_address(name, IpNet::V4(self.ipv4_range), ipv4.into())?;
            if let Some(other) = known.insert(ipv4.into(), name) {
                return Err(InvalidMap::Shared(other.clone(), name.clone()));
            }
        }
        let mut nets: Vec<(Ipv4Net, &DeviceName)> = offered
            .flat_map(|(peer, offer)| {
                offer.routed(self.ipv4_range).map(move |net| (net, &peer.name))
            })
            .collect();
        nets.sort();
        for (net, name) in &nets {
            let addresses = IpAddr::V4(net.network())..=IpAddr::V4(net.broadcast());
            if let Some((_, other)) = known.range(addresses).next() {
                return Err(InvalidMap::Shared((*other).clone(), (*name).clone()));
            }
        }
        // Two edges may lead to one network, but not to parts of each other's.
        for pair in nets.windows(2) {
            let [(net, name), (next, other)] = pair else { continue };
            if net != next && net.contains(next) {
                return Err(InvalidMap::Shared((*name).clone(), (*other).clone()));
            }
        }
        Ok(())
    }

    /// Checks what a delta would bring, as [`Self::check`] does for a whole map.
    ///
    /// # Errors
    /// Names the first thing that can't be.
    pub fn check_delta(&self, delta: &Delta) -> Result<(), InvalidMap> {
        let is_about_edges = |change: &Change| {
            matches!(change, Change::Peer { peer } if peer.edge.is_some())
                || matches!(change, Change::Edge { duty: Some(_), .. })
        };
        if delta.changes.iter().any(is_about_edges) {
            let mut after = self.clone();
            return match after.apply(delta) {
                Apply::Applied => after.check(),
                Apply::BaseMismatch => Ok(()),
            };
        }
        for change in &delta.changes {
            match change {
                Change::Peer { peer } => self.check_peer(peer, &delta.changes)?,
                Change::This { this } => self.check_addresses(&this.name, this.ipv4, this.ipv6)?,
                Change::Dns { dns } => check_domain(&dns.domain)?,
                Change::Removed { .. }
                | Change::Presence { .. }
                | Change::Stun { .. }
                | Change::NextPin { .. }
                | Change::Relays { .. }
                | Change::RelayDuty { .. }
                | Change::PeerRelays { .. }
                | Change::Filter { .. }
                | Change::Edge { .. }
                | Change::Unknown => {}
            }
        }
        Ok(())
    }

    fn check_peer(&self, peer: &Peer, changes: &[Change]) -> Result<(), InvalidMap> {
        self.check_addresses(&peer.name, peer.ipv4, peer.ipv6)?;
        let is_removed = |id| {
            changes
                .iter()
                .any(|change| matches!(change, Change::Removed { id: gone } if *gone == id))
        };
        let same = |ipv4: Ipv4Addr, ipv6: Ipv6Addr| ipv4 == peer.ipv4 || ipv6 == peer.ipv6;
        if same(self.this.ipv4, self.this.ipv6) {
            return Err(InvalidMap::Shared(self.this.name.clone(), peer.name.clone()));
        }
        let stands_behind = |other: &Peer| {
            let behind = other.edge.iter().flat_map(|offer| &offer.virtual_devices);
            behind.into_iter().any(|device| device.ipv4 == peer.ipv4)
        };
        let other = self.peers.iter().find(|other| {
            let shares = same(other.ipv4, other.ipv6) || stands_behind(other);
            other.id != peer.id && shares && !is_removed(other.id)
        });
        other.map_or(Ok(()), |other| Err(InvalidMap::Shared(other.name.clone(), peer.name.clone())))
    }

    fn check_addresses(
        &self,
        name: &DeviceName,
        ipv4: Ipv4Addr,
        ipv6: Ipv6Addr,
    ) -> Result<(), InvalidMap> {
        self.check_address(name, IpNet::V4(self.ipv4_range), ipv4.into())?;
        self.check_address(name, IpNet::V6(self.ipv6_range), ipv6.into())
    }

    fn check_address(
        &self,
        name: &DeviceName,
        range: IpNet,
        address: IpAddr,
    ) -> Result<(), InvalidMap> {
        if range.contains(&address) && ![range.network(), range.broadcast()].contains(&address) {
            Ok(())
        } else {
            Err(InvalidMap::Outside(name.clone(), address))
        }
    }
}

fn check_domain(domain: &str) -> Result<(), InvalidMap> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let plain = domain.len() <= MAX_DOMAIN && domain.split('.').all(label);
    if plain && domain.contains('.') {
        Ok(())
    } else {
        let shown = domain.chars().take(64).filter(|c| !c.is_control()).collect();
        Err(InvalidMap::Domain(shown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        AccountId, Admission, DeviceId, DnsConfig, EdgeOffer, MapVersion, PublicKey, SelfEntry,
        VirtualPeer,
    };

    fn map() -> Netmap {
        let name = DeviceName::from_free_text;
        Netmap {
            version: MapVersion { epoch: 5, sequence: 1 },
            account: AccountId(1),
            account_name: name("home"),
            ipv4_range: "100.80.0.0/16".parse().unwrap(),
            ipv6_range: "fd00:1:2::/48".parse().unwrap(),
            this: SelfEntry {
                id: DeviceId(1),
                name: name("pi"),
                ipv4: "100.80.1.1".parse().unwrap(),
                ipv6: "fd00:1:2::101".parse().unwrap(),
                static_endpoint: None,
                admission: Admission::Member,
                expires_unix: None,
                approvers: Vec::new(),
            },
            peers: vec![Peer {
                id: DeviceId(2),
                name: name("laptop"),
                key: PublicKey([7; 32]),
                ipv4: "100.80.1.2".parse().unwrap(),
                ipv6: "fd00:1:2::102".parse().unwrap(),
                endpoints: Vec::new(),
                nat: Default::default(),
                online: true,
                capabilities: Vec::new(),
                relays: Vec::new(),
                edge: None,
                signature: None,
            }],
            stun: Vec::new(),
            dns: DnsConfig { domain: "home.warren.internal".to_owned() },
            next_pin: None,
            relays: Vec::new(),
            relay_duty: None,
            filter: None,
            edge: None,
            edge_asked: false,
        }
    }

    fn range(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_that_are_not_ours_to_give_are_refused() {
        assert_eq!(check_range(range("10.7.0.0/16")), Ok(()));
        assert_eq!(check_range(range("100.72.0.0/16")), Ok(()));
        assert_eq!(check_range(range("10.7.0.1/16")), Err(InvalidRange::HostBits));
        assert_eq!(check_range(range("10.7.0.0/24")), Err(InvalidRange::Length));
        assert_eq!(check_range(range("8.8.0.0/16")), Err(InvalidRange::Public));
        assert_eq!(check_range(range("100.0.0.0/8")), Err(InvalidRange::Public));
    }

    #[test]
    fn a_map_can_not_draw_other_networks_into_the_tunnel() {
        let good = map();
        assert_eq!(good.check(), Ok(()));
        let spoiled = |spoil: fn(&mut Netmap)| {
            let mut map = good.clone();
            spoil(&mut map);
            map.check().unwrap_err()
        };
        let everything = spoiled(|map| map.ipv6_range = "::/0".parse().unwrap());
        assert!(matches!(everything, InvalidMap::Range6(_)));
        let public = spoiled(|map| map.ipv4_range = "8.0.0.0/8".parse().unwrap());
        assert!(matches!(public, InvalidMap::Range4(..)));
        let bank = spoiled(|map| map.peers[0].ipv4 = Ipv4Addr::new(203, 0, 113, 5));
        assert!(matches!(bank, InvalidMap::Outside(..)));
        let bank = spoiled(|map| map.peers[0].ipv6 = "2001:db8::1".parse().unwrap());
        assert!(matches!(bank, InvalidMap::Outside(..)));
        let mine = spoiled(|map| map.peers[0].ipv4 = map.this.ipv4);
        assert!(matches!(mine, InvalidMap::Shared(..)));
        for domain in ["com", "", "a..b", "a b.c", "home.warren.internal\n"] {
            let mut map = good.clone();
            map.dns.domain = domain.to_owned();
            assert!(matches!(map.check(), Err(InvalidMap::Domain(_))), "{domain:?}");
        }
    }

    #[test]
    fn what_stands_behind_edges_is_inside_the_range_and_nobody_elses() {
        let offering = |virtual_device: &str, subnets: &[&str]| {
            let mut map = map();
            let mut second = map.peers[0].clone();
            second.id = DeviceId(3);
            (second.ipv4, second.ipv6) =
                ("100.80.1.3".parse().unwrap(), "fd00:1:2::103".parse().unwrap());
            second.edge = Some(EdgeOffer {
                virtual_devices: Vec::new(),
                subnets: vec![range("100.80.240.0/24")],
                internet: None,
            });
            map.peers.push(second);
            map.peers[0].edge = Some(EdgeOffer {
                virtual_devices: vec![VirtualPeer {
                    name: DeviceName::from_free_text("camera"),
                    ipv4: virtual_device.parse().unwrap(),
                }],
                subnets: subnets.iter().map(|net| range(net)).collect(),
                internet: None,
            });
            map.check()
        };
        assert_eq!(offering("100.80.1.9", &["100.80.250.0/24", "100.80.240.0/24"]), Ok(()));
        assert_eq!(offering("100.80.1.9", &["192.168.7.0/24", "0.0.0.0/0"]), Ok(()), "not routed");
        for outside in ["192.168.7.9", "100.80.0.0", "100.80.255.255"] {
            assert!(matches!(offering(outside, &[]), Err(InvalidMap::Outside(..))), "{outside}");
        }
        for taken in ["100.80.1.1", "100.80.1.2", "100.80.1.3"] {
            assert!(matches!(offering(taken, &[]), Err(InvalidMap::Shared(..))), "{taken}");
        }
        for taken in ["100.80.1.0/24", "100.80.240.0/25", "100.80.240.0/23"] {
            let shared = offering("100.80.9.9", &[taken]);
            assert!(matches!(shared, Err(InvalidMap::Shared(..))), "{taken}");
        }
        let behind_a_net = offering("100.80.240.9", &[]);
        assert!(matches!(behind_a_net, Err(InvalidMap::Shared(..))));
    }

    #[test]
    fn nor_can_a_delta() {
        let map = map();
        let delta = |changes| Delta {
            base: map.version,
            version: MapVersion { sequence: map.version.sequence + 1, ..map.version },
            changes,
        };
        let peer = map.peers[0].clone();
        assert_eq!(map.check_delta(&delta(vec![Change::Peer { peer: peer.clone() }])), Ok(()));
        let moved = Peer { ipv4: Ipv4Addr::new(8, 8, 8, 8), ..peer.clone() };
        let outside = map.check_delta(&delta(vec![Change::Peer { peer: moved }]));
        assert!(matches!(outside, Err(InvalidMap::Outside(..))));
        let double = Peer { id: DeviceId(9), ..peer.clone() };
        let shared = map.check_delta(&delta(vec![Change::Peer { peer: double.clone() }]));
        assert!(matches!(shared, Err(InvalidMap::Shared(..))));
        let behind = EdgeOffer {
            virtual_devices: vec![VirtualPeer { name: peer.name.clone(), ipv4: map.this.ipv4 }],
            ..EdgeOffer::default()
        };
        let edge = Peer { edge: Some(behind), ..peer.clone() };
        let shared = map.check_delta(&delta(vec![Change::Peer { peer: edge }]));
        assert!(matches!(shared, Err(InvalidMap::Shared(..))));
        // An address may pass from a removed device to another.
        let passed = vec![Change::Removed { id: peer.id }, Change::Peer { peer: double }];
        assert_eq!(map.check_delta(&delta(passed)), Ok(()));
    }
}
