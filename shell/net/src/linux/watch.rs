//! What the host's network looks like, and when it changes (rtnetlink's multicast groups).

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "rtnetlink's enums have dozens of kinds of which few matter, and grow"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use rtnetlink::{MulticastGroup, RouteMessageBuilder};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::host::tables::Rule;
use super::host::{guard, has_alias, ip_of};
use super::netfilter::Nftables;
use super::netlink::Netlink;
use crate::config::{HostConfig, LocalAddress, NetworkState};
use crate::error::Error;

/// Changes come in bursts: this long after the first one, the host is looked at.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// The route towards these tells the default gateway: the PCP anycast addresses (RFC 7723 §2),
/// which belong to no network of one's own. Nothing is sent there.
const PROBE4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 9);
const PROBE6: Ipv6Addr = Ipv6Addr::new(0x2001, 1, 0, 0, 0, 0, 0, 1);

const GROUPS: [MulticastGroup; 7] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];

/// `NFNLGRP_NFTABLES`: changes of nftables.
const NFTABLES_GROUP: u32 = 7;

/// Watches the host's addresses and default routes.
#[derive(Debug)]
pub struct NetworkWatch {
    state: watch::Receiver<NetworkState>,
    task: JoinHandle<()>,
}

impl NetworkWatch {
    /// Looks once, and from then on at every change. Mesh interfaces (of any instance) and
    /// loopback don't count.
    ///
    /// Must be called within a tokio runtime, on a thread in the network namespace to be watched.
    ///
    /// # Errors
    ///
    /// What the system says; none is usual.
    pub fn start() -> Result<Self, Error> {
        let failed = |error| Error::os("watch the host's network", error);
        let mut socket = TokioSocket::new(NETLINK_ROUTE).map_err(failed)?;
        socket.socket_mut().bind(&SocketAddr::new(0, 0)).map_err(failed)?;
        for group in GROUPS {
            socket.socket_mut().add_membership(group as u32).map_err(failed)?;
        }
        // Subscribed before the first look, so that no change falls between.
        let mut eyes = Eyes { netlink: Netlink::new().map_err(failed)?, filter: None };
        let rules = eyes.mesh_rules(&BTreeSet::new()).map_err(failed)?;
        let (sender, state) = watch::channel(look(&mut eyes.netlink).map_err(failed)?);
        let task = tokio::spawn(follow(socket, eyes, rules, sender));
        Ok(Self { state, task })
    }

    /// The host's network as it was last seen.
    pub fn state(&self) -> NetworkState {
        self.state.borrow().clone()
    }

    /// Waits for a change; several in a row are one.
    pub async fn changed(&mut self) -> NetworkState {
        if self.state.changed().await.is_err() {
            // The task ends only with the runtime.
            std::future::pending::<()>().await;
        }
        self.state.borrow_and_update().clone()
    }

    /// Another receiver of the same changes.
    pub fn subscribe(&self) -> watch::Receiver<NetworkState> {
        self.state.clone()
    }
}

impl Drop for NetworkWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(
    socket: TokioSocket,
    mut eyes: Eyes,
    mut rules: MeshRules,
    sender: watch::Sender<NetworkState>,
) {
    let mut lost_rules = 0;
    loop {
        // Whatever was said, even that something was lost: look anew.
        let (mut heard, said) = word(&socket, eyes.filter.as_ref()).await;
        if let Err(error) = said {
            tracing::trace!(%error, "missed some network changes");
        }
        tokio::time::sleep(DEBOUNCE).await;
        while let Ok((more, Ok(()))) =
            tokio::time::timeout(Duration::ZERO, word(&socket, eyes.filter.as_ref())).await
        {
            heard = heard.max(more);
        }
        // Firewalls change all the time.
        if heard == Word::Filter && eyes.guarded(&rules.guarded) == rules.guarded {
            continue;
        }
        if let Ok(now) = eyes.mesh_rules(&rules.guarded) {
            if rules.lost(&now) {
                lost_rules += 1;
            }
            rules = now;
        }
        match look(&mut eyes.netlink) {
            Ok(state) => {
                let state = NetworkState { lost_rules, ..state };
                sender.send_if_modified(|old| {
                    let changed = *old != state;
                    *old = state;
                    changed
                });
            }
            Err(error) => tracing::debug!(%error, "couldn't look at the host's network"),
        }
    }
}

/// What something was heard of; the last asks for more to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Word {
    /// nftables.
    Filter,
    /// Interfaces, addresses, routes, rules.
    Network,
}

/// Waits for a change.
async fn word(network: &TokioSocket, filter: Option<&Filter>) -> (Word, io::Result<()>) {
    let filter = async {
        match filter {
            Some(filter) => filter.changes.recv_from_full().await,
            None => std::future::pending().await,
        }
    };
    let (word, heard) = tokio::select! {
        heard = network.recv_from_full() => (Word::Network, heard),
        heard = filter => (Word::Filter, heard),
    };
    (word, heard.map(drop))
}

/// With what the host is looked at.
struct Eyes {
    netlink: Netlink,
    /// While something of ours stands there.
    filter: Option<Filter>,
}

/// The host's packet filter.
struct Filter {
    changes: TokioSocket,
    nftables: Nftables,
}

impl Filter {
    /// `None` where there is none, or no privilege.
    fn open() -> Option<Self> {
        let mut changes = TokioSocket::new(NETLINK_NETFILTER).ok()?;
        changes.socket_mut().bind(&SocketAddr::new(0, 0)).ok()?;
        changes.socket_mut().add_membership(NFTABLES_GROUP).ok()?;
        Some(Self { changes, nftables: Nftables::open().ok()? })
    }
}

/// Mesh interfaces that are up, and what others' tools could remove of theirs.
#[derive(Debug, Default)]
struct MeshRules {
    up: BTreeSet<u32>,
    /// The policy rules that lead to one, each with its family and interface.
    rules: BTreeSet<(u8, Rule, u32)>,
    /// The interfaces with an exit node whose packet filter judges what leaves the host.
    guarded: BTreeSet<u32>,
}

impl MeshRules {
    /// Whether a rule or a table has gone whose interface is up as before.
    fn lost(&self, now: &Self) -> bool {
        let rules = self.rules.difference(&now.rules).map(|(.., index)| index);
        let mut gone = rules.chain(self.guarded.difference(&now.guarded));
        gone.any(|index| self.up.contains(index) && now.up.contains(index))
    }
}

impl Eyes {
    fn mesh_rules(&mut self, guarded: &BTreeSet<u32>) -> io::Result<MeshRules> {
        let links = self.netlink.links()?;
        let is_up =
            |link: &&LinkMessage| has_alias(link) && link.header.flags.contains(LinkFlags::Up);
        let up = links.iter().filter(is_up).map(|link| link.header.index).collect();
        let mut rules = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            // A kernel without IPv6 has no such rules.
            for rule in self.netlink.rules(family).unwrap_or_default() {
                rules.extend(Rule::find(&rule).map(|(own, index)| (u8::from(family), own, index)));
            }
        }
        // Without an exit node there is no such table.
        if !rules.iter().any(|(_, rule, _)| rule.is_exits()) {
            self.filter = None;
            return Ok(MeshRules { up, rules, guarded: BTreeSet::new() });
        }
        // Subscribed before the look.
        self.filter = self.filter.take().or_else(Filter::open);
        let guarded = self.guarded(guarded);
        Ok(MeshRules { up, rules, guarded })
    }

    /// The interfaces that have such a table; as before where that can't be read.
    fn guarded(&mut self, before: &BTreeSet<u32>) -> BTreeSet<u32> {
        let Some(filter) = &mut self.filter else { return BTreeSet::new() };
        match guard::indices(&mut filter.nftables) {
            Ok(indices) => indices.into_iter().collect(),
            Err(error) => {
                tracing::trace!(%error, "couldn't look at nftables");
                before.clone()
            }
        }
    }
}

fn look(netlink: &mut Netlink) -> io::Result<NetworkState> {
    let links: BTreeMap<u32, LinkMessage> =
        netlink.links()?.into_iter().map(|link| (link.header.index, link)).collect();
    let is_up = |index: u32| {
        links.get(&index).is_some_and(|link| {
            let flags = link.header.flags;
            flags.contains(LinkFlags::Up)
                && flags.contains(LinkFlags::LowerUp)
                && !flags.contains(LinkFlags::Loopback)
                && !has_alias(link)
        })
    };
    let mut addresses: Vec<LocalAddress> = netlink
        .addresses()?
        .iter()
        .filter(|address| is_up(address.header.index))
        .filter_map(usable)
        .collect();
    addresses.sort();
    addresses.dedup();
    let route4 = default_route(netlink, question4());
    let route6 = default_route(netlink, question6());
    Ok(NetworkState {
        addresses,
        gateway4: route4.and_then(|(gateway, _)| match gateway {
            Some(IpAddr::V4(ip)) => Some(ip),
            Some(IpAddr::V6(_)) | None => None,
        }),
        gateway6: route6.and_then(|(gateway, _)| match gateway {
            Some(IpAddr::V6(ip)) => Some(ip),
            Some(IpAddr::V4(_)) | None => None,
        }),
        default_interface4: route4.map(|(_, index)| index).filter(|index| is_up(*index)),
        default_interface6: route6.map(|(_, index)| index).filter(|index| is_up(*index)),
        lost_rules: 0,
    })
}

fn usable(address: &AddressMessage) -> Option<LocalAddress> {
    let ip = ip_of(address)?;
    let flags = address
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Flags(flags) => Some(*flags),
            _ => None,
        })
        .unwrap_or(AddressFlags::empty());
    let unusable = AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Deprecated;
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    (!flags.intersects(unusable) && !link_local && !ip.is_loopback()).then_some(LocalAddress {
        ip,
        prefix_len: address.header.prefix_len,
        interface: address.header.index,
    })
}

fn question4() -> RouteMessage {
    let mut question =
        RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(PROBE4, 32).build();
    question.attributes.push(RouteAttribute::Mark(HostConfig::MARK));
    question
}

fn question6() -> RouteMessage {
    let mut question =
        RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(PROBE6, 128).build();
    question.attributes.push(RouteAttribute::Mark(HostConfig::MARK));
    question
}

/// The default gateway of IPv4 as marked packets see it.
pub(super) fn default_gateway4(netlink: &mut Netlink) -> Option<Ipv4Addr> {
    match default_route(netlink, question4())?.0? {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}

/// The interface of IPv4's default route as marked packets see it.
pub(super) fn default_interface4(netlink: &mut Netlink) -> Option<u32> {
    default_route(netlink, question4()).map(|(_, index)| index)
}

/// Gateway and interface that marked packets to the rest of the world take.
fn default_route(netlink: &mut Netlink, question: RouteMessage) -> Option<(Option<IpAddr>, u32)> {
    let route = netlink.look_up(question).ok().flatten()?;
    let mut gateway = None;
    let mut interface = None;
    for attribute in route.attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => gateway = Some(IpAddr::V4(ip)),
            RouteAttribute::Gateway(RouteAddress::Inet6(ip)) => gateway = Some(IpAddr::V6(ip)),
            RouteAttribute::Oif(index) => interface = Some(index),
            _ => {}
        }
    }
    Some((gateway, interface?))
}
