//! The mesh interface's addresses and routes, and the policy rule that sends packets to them.
//!
//! All routes stand in tables of the interface's own (their numbers are derived from the interface's
//! index), and rules lead there everything *but* what carries the daemons' mark:
//!
//! ```text
//! 5180: not from all fwmark 0x77000000/0xff000000 lookup MESH proto 119
//! ```
//!
//! So marked sockets see the host's routing as if there were no mesh, and neither an exit node nor a
//! gateway for the host's own network can swallow the tunnel (protocols.md §6). The interface
//! vanishes with its process and takes addresses and routes along; only the rules stay after a
//! crash. They are recognised by their protocol number, and removed by the next start of any
//! instance when their table belongs to no living mesh interface.
//!
//! With an exit node there are more, behind those of all instances, so that another account's mesh
//! on the same host stays reachable:
//!
//! ```text
//! 5181: from all fwmark 0x77000000/0xff000000 goto 5183 proto 119
//! 5182: from all dport 53  lookup NAMES proto 119
//! 5182: from all dport 853 lookup NAMES proto 119
//! 5183: not from all fwmark 0x77000000/0xff000000 lookup EXIT proto 119
//! ```
//!
//! EXIT passes over the LANs that the host stands in, NAMES over those of its own containers and virtual
//! machines alone: who asks a resolver in the LAN asks nobody. Both have a default route into the mesh, and
//! below it one that leads nowhere, which stays after a crash like the rules: until the next start nothing
//! leaves by the host's own network. IPv6, of which nothing goes there, is refused by the rules of the names
//! themselves. What binds itself to an interface passes all that by; [`guard`] holds it.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "rtnetlink's enums have dozens of kinds of which few matter, and grow"
)]

pub(super) mod guard;
mod reverse_path;
mod stale;
pub(super) mod tables;
mod wanted;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use rtnetlink::AddressMessageBuilder;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::rule::RuleMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::Netlink;
use super::tun::Tun;
use crate::config::{Finding, HostConfig, InterfaceConfig, Spare};
use crate::error::Error;

use tables::{Route, Rule, Way};

/// The families in which there are routes and rules.
const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];
/// Alias by which mesh interfaces of all instances know each other.
pub(super) const ALIAS: &str = "warren mesh";

/// The mesh interface's place in the host's network.
#[derive(Debug)]
pub struct HostNetwork {
    index: u32,
    config: HostConfig,
    routes: BTreeSet<Route>,
    has_ipv6: bool,
    /// Whether what a crashed instance had blocked is still to be let go.
    spared: bool,
    /// Whether what blocks is to outlive this value.
    held: bool,
    guarded: Guarded,
}

/// Whether there is a table that judges what leaves the host by another interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guarded {
    /// One of an interface that had the same index.
    Perhaps,
    Yes,
    No,
}

impl HostNetwork {
    /// Takes charge of the interface, and removes rules that a crashed instance left behind: those that
    /// keep traffic from leaving beside an exit node once the interface is configured.
    ///
    /// # Errors
    ///
    /// [`Error::NoPrivilege`], or what else the system says.
    pub fn new(tun: &Tun, config: HostConfig) -> Result<Self, Error> {
        let mut netlink = open()?;
        let index = tun.index();
        stale::remove(&mut netlink, Some(index), Spare::Blocks)?;
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes.push(LinkAttribute::IfAlias(ALIAS.to_owned()));
        link.attributes.push(LinkAttribute::Group(guard::GROUP));
        netlink
            .change(RouteNetlinkMessage::SetLink(link))
            .map_err(|error| Error::os("name the mesh interface", error))?;
        Ok(Self {
            index,
            config,
            routes: BTreeSet::new(),
            has_ipv6: true,
            spared: true,
            held: false,
            guarded: Guarded::Perhaps,
        })
    }

    /// Removes policy rules that crashed instances left behind, and their routes; returns how many
    /// rules there were.
    ///
    /// # Errors
    ///
    /// [`Error::NoPrivilege`], or what else the system says.
    pub fn clean_up(spare: Spare) -> Result<usize, Error> {
        stale::remove(&mut open()?, None, spare)
    }

    /// Keeps everything from leaving beside the exit node when this value is dropped, until the next
    /// one is configured. Without an exit node it does nothing.
    pub fn hold(&mut self) {
        self.held = self.routes.iter().any(|route| route.way == Way::Nowhere);
    }

    /// Makes addresses, MTU, routes and rules what `wanted` says, and the interface up. May be
    /// called again at any time, and should be when the host's addresses have changed: a clash
    /// with the account's range may have come or gone.
    ///
    /// # Errors
    ///
    /// [`Error::NoPrivilege`], or what else the system says.
    pub fn configure(&mut self, wanted: &InterfaceConfig) -> Result<Vec<Finding>, Error> {
        let mut netlink = open()?;
        let mut findings = BTreeSet::new();
        self.bring_up(&mut netlink, wanted.mtu)?;
        self.set_addresses(&mut netlink, wanted, &mut findings)?;
        let clashes = self.clashes(&mut netlink, wanted)?;
        self.set_routes(&mut netlink, wanted, !clashes.is_empty(), &mut findings)?;
        if wanted.exit.is_some() {
            findings.extend(reverse_path::finding(&mut netlink));
        }
        if std::mem::take(&mut self.spared) {
            stale::remove(&mut netlink, None, Spare::Nothing)?;
        }
        // Another node of the account on this host is told of by nobody: it is meant to be there.
        findings.extend(clashes.into_iter().filter(|clash| !is_peer(clash, wanted)));
        Ok(findings.into_iter().collect())
    }

    /// Undoes everything; the interface stays, down and without addresses.
    ///
    /// # Errors
    ///
    /// The first refusal of the system; the rest is undone all the same.
    pub fn down(&mut self) -> Result<(), Error> {
        let mut netlink = open()?;
        let guard = self.let_go();
        let rules = self.set_rules(&mut netlink, &BTreeSet::new());
        let routes = self.remove_routes(&mut netlink, |_| true);
        self.held = false;
        let mut link = LinkMessage::default();
        link.header.index = self.index;
        link.header.change_mask = LinkFlags::Up;
        let link = netlink.change(RouteNetlinkMessage::SetLink(link));
        let addresses = netlink.addresses().map(|addresses| {
            for address in addresses.into_iter().filter(|a| a.header.index == self.index) {
                let _ = netlink.change(RouteNetlinkMessage::DelAddress(address));
            }
        });
        guard.and(rules).and(routes)?;
        link.or_else(ignore_missing)
            .and(addresses)
            .map_err(|error| Error::os("take the mesh interface down", error))
    }

    fn bring_up(&self, netlink: &mut Netlink, mtu: u16) -> Result<(), Error> {
        let mut link = LinkMessage::default();
        link.header.index = self.index;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        link.attributes.push(LinkAttribute::Mtu(u32::from(mtu)));
        netlink
            .change(RouteNetlinkMessage::SetLink(link))
            .map_err(|error| Error::os("bring the mesh interface up", error))
    }

    fn set_addresses(
        &mut self,
        netlink: &mut Netlink,
        wanted: &InterfaceConfig,
        findings: &mut BTreeSet<Finding>,
    ) -> Result<(), Error> {
        let present =
            netlink.addresses().map_err(|error| Error::os("read the host's addresses", error))?;
        let (ipv4, ipv6) = (IpAddr::V4(wanted.ipv4), IpAddr::V6(wanted.ipv6));
        let mut missing = BTreeSet::from([ipv4, ipv6]);
        for address in present.into_iter().filter(|a| a.header.index == self.index) {
            let Some(ip) = ip_of(&address) else { continue };
            let host_route = address.header.prefix_len == if ip.is_ipv4() { 32 } else { 128 };
            if host_route && missing.remove(&ip) || is_link_local(ip) {
                continue;
            }
            netlink
                .change(RouteNetlinkMessage::DelAddress(address))
                .or_else(ignore_missing)
                .map_err(|error| Error::os("remove an old mesh address", error))?;
        }
        if missing.contains(&ipv4) {
            let message =
                AddressMessageBuilder::<Ipv4Addr>::new().index(self.index).address(wanted.ipv4, 32);
            netlink
                .replace(RouteNetlinkMessage::NewAddress(message.build()))
                .map_err(|error| Error::os("set the IPv4 mesh address", error))?;
        }
        if missing.contains(&ipv6) {
            let mut message = AddressMessageBuilder::<std::net::Ipv6Addr>::new()
                .index(self.index)
                .address(wanted.ipv6, 128)
                .build();
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            self.has_ipv6 = netlink.replace(RouteNetlinkMessage::NewAddress(message)).is_ok();
        }
        if !self.has_ipv6 {
            findings.insert(Finding::NoIpv6);
        }
        Ok(())
    }

    /// Interfaces of the host that use addresses of the account's range.
    fn clashes(
        &self,
        netlink: &mut Netlink,
        wanted: &InterfaceConfig,
    ) -> Result<BTreeSet<Finding>, Error> {
        let failed = |error| Error::os("read the host's addresses", error);
        let addresses = netlink.addresses().map_err(failed)?;
        let links = netlink.links().map_err(failed)?;
        let clashing = addresses.iter().filter_map(|address| {
            let network = network_of(address)?;
            if address.header.index == self.index || !overlaps(network, wanted.range4) {
                return None;
            }
            let link = links.iter().find(|link| link.header.index == address.header.index)?;
            let interface = link_name(link)?.to_owned();
            Some(Finding::AddressClash { interface, network, range: wanted.range4.into() })
        });
        Ok(clashing.collect())
    }

    /// The rules come after the routes and go before them, so that no packet leaves beside the tunnel
    /// meanwhile.
    fn set_routes(
        &mut self,
        netlink: &mut Netlink,
        wanted: &InterfaceConfig,
        clash: bool,
        findings: &mut BTreeSet<Finding>,
    ) -> Result<(), Error> {
        let mut surround = wanted::Surround {
            clash,
            has_ipv6: self.has_ipv6,
            lans: BTreeSet::new(),
            inside: BTreeSet::new(),
            router: super::watch::default_gateway4(netlink),
        };
        if wanted.exit.is_some() {
            self.look_at_lans(netlink, &mut surround)?;
        }
        // Before the rules: what leaves meanwhile is refused for a moment, and doesn't go beside the tunnel.
        if let Some(exit) = wanted.exit {
            match guard::set(self.index, &self.config, exit, &surround) {
                Ok(()) => self.guarded = Guarded::Yes,
                Err(error) => {
                    findings.insert(Finding::ExitPassable { reason: error.to_string() });
                }
            }
        }
        let routes = wanted::routes(wanted, &surround);
        // All of them, not only the new ones: the preferred source may have changed, and taking
        // the interface down by hand has removed them.
        let mut refused = BTreeSet::new();
        for route in &routes {
            match netlink
                .replace(RouteNetlinkMessage::NewRoute(route.new_message(self.index, wanted)))
            {
                Ok(()) => {
                    self.routes.insert(*route);
                }
                // The mesh interface has no IPv6; others may, and must be kept from it then.
                Err(_) if route.is_ipv6() && !self.has_ipv6 => {
                    refused.insert(*route);
                }
                Err(error) => return Err(Error::os("add a mesh route", error)),
            }
        }
        let let_go = if wanted.exit.is_none() { self.let_go() } else { Ok(()) };
        let rules = wanted::rules(wanted, routes.difference(&refused));
        self.set_rules(netlink, &rules)?;
        self.remove_routes(netlink, |route| !routes.contains(route)).and(let_go)
    }

    /// Lets bound sockets send what they like.
    fn let_go(&mut self) -> Result<(), Error> {
        let removed = match self.guarded {
            Guarded::No => Ok(()),
            Guarded::Yes => guard::remove(self.index),
            // Without nftables there is none.
            Guarded::Perhaps => {
                let _ = guard::remove(self.index);
                Ok(())
            }
        };
        if removed.is_ok() {
            self.guarded = Guarded::No;
        }
        removed
    }

    fn remove_routes(
        &mut self,
        netlink: &mut Netlink,
        which: impl Fn(&Route) -> bool,
    ) -> Result<(), Error> {
        for route in self.routes.iter().copied().filter(which).collect::<Vec<_>>() {
            netlink
                .change(RouteNetlinkMessage::DelRoute(route.message(self.index)))
                .or_else(ignore_missing)
                .map_err(|error| Error::os("remove a mesh route", error))?;
            self.routes.remove(&route);
        }
        Ok(())
    }

    /// Makes this interface's rules those, each with its family.
    fn set_rules(
        &self,
        netlink: &mut Netlink,
        wanted: &BTreeSet<(bool, Rule)>,
    ) -> Result<(), Error> {
        for family in FAMILIES {
            let of_family = |(ipv6, _): &&(bool, Rule)| *ipv6 == (family == AddressFamily::Inet6);
            let wanted: BTreeSet<Rule> =
                wanted.iter().filter(of_family).map(|(_, it)| *it).collect();
            let present = match netlink.rules(family) {
                Ok(present) => present,
                // A kernel without IPv6.
                Err(_) if wanted.is_empty() => continue,
                Err(error) => return Err(Error::os("read the policy rules", error)),
            };
            let (have, messages): (BTreeSet<Rule>, Vec<(Rule, RuleMessage)>) = present
                .into_iter()
                .filter_map(|message| Some((Rule::find(&message)?, message)))
                .filter(|((_, index), _)| *index == self.index)
                .map(|((rule, _), message)| (rule, (rule, message)))
                .unzip();
            for rule in wanted.difference(&have) {
                let message = rule.message(family, self.index, &self.config);
                match netlink.create(RouteNetlinkMessage::NewRule(message)) {
                    Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
                    result => result.map_err(|error| Error::os("add a policy rule", error))?,
                }
            }
            for (_, message) in messages.into_iter().filter(|(rule, _)| !wanted.contains(rule)) {
                netlink
                    .change(RouteNetlinkMessage::DelRule(message))
                    .or_else(ignore_missing)
                    .map_err(|error| Error::os("remove a policy rule", error))?;
            }
        }
        Ok(())
    }

    /// The networks that the host stands in, but meshes.
    fn look_at_lans(
        &self,
        netlink: &mut Netlink,
        surround: &mut wanted::Surround,
    ) -> Result<(), Error> {
        let failed = |error| Error::os("read the host's addresses", error);
        let links = netlink.links().map_err(failed)?;
        let default = super::watch::default_interface4(netlink);
        for address in netlink.addresses().map_err(failed)? {
            let index = address.header.index;
            let Some(link) = links.iter().find(|link| link.header.index == index) else { continue };
            let Some(network) = network_of(&address) else { continue };
            if index == self.index || has_alias(link) {
                continue;
            }
            surround.lans.insert(network);
            if is_bridge(link) && default != Some(index) {
                surround.inside.insert(network);
            }
        }
        Ok(())
    }
}

impl Drop for HostNetwork {
    fn drop(&mut self) {
        if self.held {
            return;
        }
        let result = open().and_then(|mut netlink| {
            let guard = if self.guarded == Guarded::Yes { self.let_go() } else { Ok(()) };
            let rules = self.set_rules(&mut netlink, &BTreeSet::new());
            // The others go with the interface.
            let routes = self.remove_routes(&mut netlink, |route| route.way != Way::Mesh);
            guard.and(rules).and(routes)
        });
        if let Err(error) = result {
            tracing::debug!(%error, "the policy rules stay until the next start");
        }
    }
}

fn open() -> Result<Netlink, Error> {
    Netlink::new().map_err(|error| Error::os("talk to the kernel by netlink", error))
}

fn ignore_missing(error: io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ESRCH | libc::EADDRNOTAVAIL | libc::ENODEV) => Ok(()),
        _ => Err(error),
    }
}

pub(super) fn has_alias(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|a| matches!(a, LinkAttribute::IfAlias(alias) if alias == ALIAS))
}

pub(super) fn link_name(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

/// Whether it joins containers or virtual machines, as Docker's, libvirt's and systemd's do; or cables.
fn is_bridge(link: &LinkMessage) -> bool {
    let kind = |info: &LinkInfo| matches!(info, LinkInfo::Kind(InfoKind::Bridge));
    link.attributes
        .iter()
        .any(|a| matches!(a, LinkAttribute::LinkInfo(infos) if infos.iter().any(kind)))
}

/// The interface's own address; `IFA_ADDRESS` is the other end's on a point-to-point link.
pub(super) fn ip_of(address: &AddressMessage) -> Option<IpAddr> {
    let mut found = None;
    for attribute in &address.attributes {
        match attribute {
            AddressAttribute::Local(ip) => return Some(*ip),
            AddressAttribute::Address(ip) => found = Some(*ip),
            _ => {}
        }
    }
    found
}

/// The network that the address makes reachable.
fn network_of(address: &AddressMessage) -> Option<IpNet> {
    let ip = address.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    });
    IpNet::new(ip.or_else(|| ip_of(address))?, address.header.prefix_len)
        .ok()
        .map(|net| net.trunc())
}

/// Whether the clash is with another device of the account, which then runs on this host too.
fn is_peer(clash: &Finding, wanted: &InterfaceConfig) -> bool {
    let Finding::AddressClash { network: IpNet::V4(network), .. } = clash else { return false };
    network.prefix_len() == 32 && wanted.peers4.contains(&network.addr())
}

fn overlaps(network: IpNet, range: Ipv4Net) -> bool {
    match network {
        IpNet::V4(network) => network.contains(&range) || range.contains(&network),
        IpNet::V6(_) => false,
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_overlap_when_either_holds_the_other() {
        let range: Ipv4Net = "100.72.0.0/16".parse().unwrap();
        for network in ["100.64.0.0/10", "100.72.3.0/24", "100.72.9.9/32", "100.72.0.0/16"] {
            assert!(overlaps(network.parse().unwrap(), range), "{network}");
        }
        for network in ["100.73.0.0/16", "10.0.0.0/8", "192.168.1.0/24"] {
            assert!(!overlaps(network.parse().unwrap(), range), "{network}");
        }
        let ula: ipnet::Ipv6Net = "fd00::/48".parse().unwrap();
        assert!(!overlaps(ula.into(), range));
    }
}
