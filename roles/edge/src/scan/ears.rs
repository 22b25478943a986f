//! Ears on the links of the networks that are scanned: ARP, and neighbour discovery.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use warren_net::{ArpSocket, DiscoverySocket, Heard, HeardIpv6, LanInterface, Neighbour};

/// How many words may wait.
const QUEUE: usize = 1024;
/// By how many of its own addresses the edge calls at most, each of another network.
const MAX_CALLS: usize = 4;

/// What was heard.
#[derive(Debug)]
pub(super) enum Word {
    Arp(Heard),
    /// On the link that this network stands for.
    Ipv6(Ipv4Net, HeardIpv6),
}

/// All ears.
#[derive(Debug)]
pub(super) struct Ears {
    links: Vec<Link>,
    heard: mpsc::Receiver<Word>,
    _tasks: JoinSet<()>,
    // Keeps the channel open where there is no interface.
    _sender: mpsc::Sender<Word>,
}

#[derive(Debug)]
struct Link {
    near: Vec<Ipv4Net>,
    arp: Arc<ArpSocket>,
    ipv6: Option<Ipv6Link>,
}

/// A link of which everything is scanned.
#[derive(Debug)]
struct Ipv6Link {
    interface: u32,
    networks: Vec<Ipv4Net>,
    discovery: Arc<DiscoverySocket>,
    own: Vec<Ipv6Net>,
}

impl Ears {
    pub(super) fn open(
        interfaces: &[LanInterface],
        networks: &[Ipv4Net],
    ) -> Result<Self, warren_net::Error> {
        let (sender, heard) = mpsc::channel(QUEUE);
        let mut ears =
            Self { links: Vec::new(), heard, _tasks: JoinSet::new(), _sender: sender.clone() };
        for interface in interfaces {
            let near: Vec<Ipv4Net> = networks_of(interface)
                .filter(|net| networks.iter().any(|wanted| net.contains(wanted)))
                .collect();
            let Some(mac) = interface.mac.filter(|_| !near.is_empty()) else { continue };
            let arp = Arc::new(ArpSocket::open(interface.index, mac)?);
            let (ear, sender) = (Arc::clone(&arp), sender.clone());
            ears._tasks.spawn(async move {
                while let Ok(heard) = ear.hear().await {
                    if sender.send(Word::Arp(heard)).await.is_err() {
                        return;
                    }
                }
            });
            let ipv6 = ears.open_ipv6(interface, mac, networks);
            ears.links.push(Link { near, arp, ipv6 });
        }
        Ok(ears)
    }

    /// Listens to IPv6, too, where all IPv4 networks of a link are scanned: only then is it known which of
    /// its devices have no IPv4.
    fn open_ipv6(
        &mut self,
        interface: &LanInterface,
        mac: [u8; 6],
        wanted: &[Ipv4Net],
    ) -> Option<Ipv6Link> {
        let networks: Vec<Ipv4Net> = networks_of(interface).map(|net| net.trunc()).collect();
        let is_whole = networks.iter().all(|net| wanted.iter().any(|wanted| wanted.contains(net)));
        let own = ipv6_networks_of(interface);
        let has_ipv6 = own.iter().any(|net| net.addr().is_unicast_link_local());
        let network = *networks.first().filter(|_| is_whole && has_ipv6)?;
        let discovery = match DiscoverySocket::open(interface.index, mac) {
            Ok(socket) => Arc::new(socket),
            Err(error) => {
                tracing::debug!(%error, "nobody is looked for by IPv6");
                return None;
            }
        };
        let (ear, sender) = (Arc::clone(&discovery), self._sender.clone());
        let near = own.clone();
        self._tasks.spawn(async move {
            while let Ok(heard) = ear.hear().await {
                let is_near = is_on_link(&near, heard.ip);
                if is_near && sender.send(Word::Ipv6(network, heard)).await.is_err() {
                    return;
                }
            }
        });
        Some(Ipv6Link { interface: interface.index, networks, discovery, own })
    }

    pub(super) fn covers(&self, network: &Ipv4Net) -> bool {
        self.links.iter().any(|link| link.near.iter().any(|net| net.contains(network)))
    }

    /// The networks of each link on which IPv6 is listened to, with the addresses there that the kernel has
    /// talked to.
    pub(super) fn ipv6_links<'a>(
        &'a self,
        known: &'a [Neighbour],
    ) -> impl Iterator<Item = (Vec<Ipv4Net>, Vec<Ipv6Addr>)> {
        self.links.iter().filter_map(|link| link.ipv6.as_ref()).map(|link| {
            let known = known.iter().filter(|it| it.interface == link.interface);
            let known = known.filter_map(|it| match it.ip {
                std::net::IpAddr::V6(ip) if is_on_link(&link.own, ip) => Some(ip),
                std::net::IpAddr::V6(_) | std::net::IpAddr::V4(_) => None,
            });
            (link.networks.clone(), known.collect())
        })
    }

    /// Asks by ARP who has an address.
    pub(super) fn ask(&self, ip: Ipv4Addr) {
        for Link { near, arp, .. } in &self.links {
            if let Some(own) = near.iter().find(|net| net.contains(&ip)) {
                // A lost question is asked again in the second round.
                let _ = arp.ask(own.addr(), ip);
            }
        }
    }

    /// Calls all on a link, by an address of each network: they answer from one of the same.
    pub(super) fn call(&self, network: Ipv4Net) {
        let Some(link) = self.ipv6_link(network) else { return };
        let mut called = Vec::new();
        for own in &link.own {
            if called.len() < MAX_CALLS && !called.contains(&own.trunc()) {
                called.push(own.trunc());
                // They are called twice.
                let _ = link.discovery.call(own.addr());
            }
        }
    }

    /// Asks who has an address of a link, in the name of one of the same network.
    pub(super) fn solicit(&self, network: Ipv4Net, ip: Ipv6Addr) {
        let Some(link) = self.ipv6_link(network) else { return };
        let local = link.own.iter().filter(|own| own.addr().is_unicast_link_local());
        let mut near = link.own.iter().filter(|own| own.contains(&ip)).chain(local);
        if let Some(own) = near.next() {
            // Lost, it is as if nobody had answered.
            let _ = link.discovery.ask(own.addr(), ip);
        }
    }

    pub(super) async fn next(&mut self) -> Word {
        match self.heard.recv().await {
            Some(word) => word,
            // Unreachable while a sender is kept; and no reason to spin.
            None => std::future::pending().await,
        }
    }

    fn ipv6_link(&self, network: Ipv4Net) -> Option<&Ipv6Link> {
        let mut links = self.links.iter().filter_map(|link| link.ipv6.as_ref());
        links.find(|link| link.networks.first() == Some(&network))
    }
}

/// Whether an address is one of the link on which an interface has these, and not its own.
fn is_on_link(own: &[Ipv6Net], ip: Ipv6Addr) -> bool {
    let is_near = ip.is_unicast_link_local() || own.iter().any(|net| net.contains(&ip));
    is_near && own.iter().all(|net| net.addr() != ip)
}

/// An interface's own addresses, each with its network.
pub(super) fn networks_of(interface: &LanInterface) -> impl Iterator<Item = Ipv4Net> {
    interface.addresses.iter().filter_map(|net| match net {
        IpNet::V4(net) => Some(*net),
        IpNet::V6(_) => None,
    })
}

fn ipv6_networks_of(interface: &LanInterface) -> Vec<Ipv6Net> {
    let addresses = interface.addresses.iter().filter_map(|net| match net {
        IpNet::V6(net) => Some(*net),
        IpNet::V4(_) => None,
    });
    addresses.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_link_are_believed_and_none_of_our_own() {
        let own = ["fe80::1/64", "fd00:1::1/64"].map(|net| net.parse().unwrap());
        let is_near = |ip: &str| is_on_link(&own, ip.parse().unwrap());
        for ip in ["fe80::2", "fe80:0:0:1::2", "fd00:1::9"] {
            assert!(is_near(ip), "{ip}");
        }
        for ip in ["fd00:2::9", "2001:db8::9", "fe80::1", "fd00:1::1"] {
            assert!(!is_near(ip), "{ip}");
        }
        assert!(!is_on_link(&["2001:db8::1/128".parse().unwrap()], "2001:db8::2".parse().unwrap()));
    }
}
