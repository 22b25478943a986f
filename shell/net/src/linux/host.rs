//! The mesh interface's addresses and routes, and the policy rule that sends packets to them.
//!
//! All routes stand in a table of the interface's own (its number is derived from the interface's
//! index), and one rule per family leads there everything *but* what carries the daemons' mark:
//!
//! ```text
//! 5180: not from all fwmark 0x77000000/0xff000000 lookup TABLE proto 119
//! ```
//!
//! So marked sockets see the host's routing as if there were no mesh, and neither an exit node nor a
//! gateway for the host's own network can swallow the tunnel (protocols.md §6). The interface
//! vanishes with its process and takes addresses and routes along; only the rules stay after a
//! crash. They are recognised by their protocol number, and removed by the next start of any
//! instance when their table belongs to no living mesh interface.
//!
//! With an exit node the table has a default route, too, and below it one that leads nowhere, which
//! stays after a crash like the rule: until the next start nothing leaves by the host's own network.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "rtnetlink's enums have dozens of kinds of which few matter, and grow"
)]

mod exceptions;
mod reverse_path;
mod stale;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{AddressMessageBuilder, RouteMessageBuilder};

use super::netlink::Netlink;
use super::tun::Tun;
use crate::config::{Finding, HostConfig, InterfaceConfig, Spare};
use crate::error::Error;

/// Marks rules and routes as ours: a number that no registered routing daemon uses.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(119);
/// Table of the interface with index 0.
const FIRST_TABLE: u32 = 0x7700_0000;
const ANYWHERE4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);
const ANYWHERE6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0);
/// Alias by which mesh interfaces of all instances know each other.
pub(super) const ALIAS: &str = "warren mesh";

/// The mesh interface's place in the host's network.
#[derive(Debug)]
pub struct HostNetwork {
    index: u32,
    config: HostConfig,
    routes: BTreeSet<IpNet>,
    exceptions: BTreeSet<IpNet>,
    has_ipv6: bool,
    /// Whether what a crashed instance had blocked is still to be let go.
    spared: bool,
    /// Whether what blocks is to outlive this value.
    held: bool,
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
        netlink
            .change(RouteNetlinkMessage::SetLink(link))
            .map_err(|error| Error::os("name the mesh interface", error))?;
        Ok(Self {
            index,
            config,
            routes: BTreeSet::new(),
            exceptions: BTreeSet::new(),
            has_ipv6: true,
            spared: true,
            held: false,
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
        let Ok(mut netlink) = open() else { return };
        let exceptions = std::mem::take(&mut self.exceptions);
        self.held = exceptions.iter().any(|net| net.prefix_len() == 0);
        for exception in exceptions.iter().filter(|net| !self.held || net.prefix_len() > 0) {
            let _ = netlink.change(RouteNetlinkMessage::DelRoute(self.exception(*exception)));
        }
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
        self.set_routes(&mut netlink, wanted, !clashes.is_empty())?;
        self.set_rules(&mut netlink)?;
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
        let rules = self.remove_rules(&mut netlink);
        let exceptions = self.remove_exceptions(&mut netlink);
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
        self.routes.clear();
        rules.and(exceptions)?;
        link.or_else(ignore_missing)
            .and(addresses)
            .map_err(|error| Error::os("take the mesh interface down", error))
    }

    fn table(&self) -> u32 {
        FIRST_TABLE.wrapping_add(self.index)
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

    fn set_routes(
        &mut self,
        netlink: &mut Netlink,
        wanted: &InterfaceConfig,
        clash: bool,
    ) -> Result<(), Error> {
        self.set_exceptions(netlink, wanted)?;
        let mut routes: BTreeSet<IpNet> = wanted.routes.iter().map(IpNet::trunc).collect();
        if clash {
            let peers = wanted.peers4.iter().filter(|peer| **peer != wanted.ipv4);
            routes.extend(peers.map(|peer| IpNet::from(IpAddr::V4(*peer))));
        } else {
            routes.insert(wanted.range4.trunc().into());
        }
        routes.insert(wanted.range6.trunc().into());
        if wanted.exit.is_some() {
            routes.insert(IpNet::V4(ANYWHERE4));
        }
        if !self.has_ipv6 {
            routes.retain(|route| matches!(route, IpNet::V4(_)));
        }
        for route in self.routes.difference(&routes) {
            netlink
                .change(RouteNetlinkMessage::DelRoute(self.route(*route, wanted)))
                .or_else(ignore_missing)
                .map_err(|error| Error::os("remove a mesh route", error))?;
        }
        // All of them, not only the new ones: the preferred source may have changed, and taking
        // the interface down by hand has removed them.
        for route in &routes {
            netlink
                .replace(RouteNetlinkMessage::NewRoute(self.route(*route, wanted)))
                .map_err(|error| Error::os("add a mesh route", error))?;
        }
        self.routes = routes;
        Ok(())
    }

    fn route(&self, network: IpNet, wanted: &InterfaceConfig) -> RouteMessage {
        match network {
            IpNet::V4(network) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(network.addr(), network.prefix_len())
                .output_interface(self.index)
                .pref_source(wanted.ipv4)
                .scope(RouteScope::Link)
                .protocol(PROTOCOL)
                .table_id(self.table())
                .build(),
            IpNet::V6(network) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                .destination_prefix(network.addr(), network.prefix_len())
                .output_interface(self.index)
                .pref_source(wanted.ipv6)
                .protocol(PROTOCOL)
                .table_id(self.table())
                .build(),
        }
    }

    fn rule(&self, family: AddressFamily) -> RuleMessage {
        let mut rule = RuleMessage::default();
        rule.header.family = family;
        rule.header.action = RuleAction::ToTable;
        rule.header.flags = RuleFlags::Invert;
        rule.attributes = vec![
            RuleAttribute::FwMark(self.config.mark),
            RuleAttribute::FwMask(self.config.mark_mask),
            RuleAttribute::Priority(self.config.rule_priority),
            RuleAttribute::Table(self.table()),
            RuleAttribute::Protocol(PROTOCOL),
        ];
        rule
    }

    fn families(&self) -> impl Iterator<Item = AddressFamily> + use<> {
        let blocks_ipv6 = self.exceptions.contains(&IpNet::V6(ANYWHERE6));
        let ipv6 = (self.has_ipv6 || blocks_ipv6).then_some(AddressFamily::Inet6);
        [Some(AddressFamily::Inet), ipv6].into_iter().flatten()
    }

    fn set_rules(&self, netlink: &mut Netlink) -> Result<(), Error> {
        for family in self.families() {
            let present =
                netlink.rules(family).map_err(|error| Error::os("read the policy rules", error))?;
            if present.iter().any(|rule| table_of_ours(rule) == Some(self.table())) {
                continue;
            }
            match netlink.create(RouteNetlinkMessage::NewRule(self.rule(family))) {
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
                result => result.map_err(|error| Error::os("add a policy rule", error))?,
            }
        }
        Ok(())
    }

    fn remove_rules(&self, netlink: &mut Netlink) -> Result<(), Error> {
        let needed: Vec<AddressFamily> = self.families().collect();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let removed = netlink
                .change(RouteNetlinkMessage::DelRule(self.rule(family)))
                .or_else(ignore_missing);
            // An exit node may have been in use that needed IPv6's; a host without IPv6 refuses the question.
            if needed.contains(&family) {
                removed.map_err(|error| Error::os("remove a policy rule", error))?;
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
            let exceptions = self.remove_exceptions(&mut netlink);
            self.remove_rules(&mut netlink).and(exceptions)
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

/// Index of the mesh interface to which one of our rules leads; `None` for others' rules.
pub(super) fn interface_of_rule(rule: &RuleMessage) -> Option<u32> {
    table_of_ours(rule).map(|table| table.wrapping_sub(FIRST_TABLE))
}

fn table_of_ours(rule: &RuleMessage) -> Option<u32> {
    let ours = rule.attributes.contains(&RuleAttribute::Protocol(PROTOCOL));
    let table = rule.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Table(table) => Some(*table),
        _ => None,
    });
    table.filter(|_| ours)
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
