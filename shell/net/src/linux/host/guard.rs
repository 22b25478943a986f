//! What keeps a socket that is bound to an interface from passing an exit node by.
//!
//! For such a socket (`SO_BINDTODEVICE`, `IP_UNICAST_IF`, `IP_PKTINFO`) the kernel takes it over IPv4 that the
//! address is on that link where all routes and rules refuse, and over IPv6 passes over routes that lead
//! nowhere. So a table of nftables judges what leaves the host once more, by the interface that it leaves by:
//!
//! ```text
//! table inet warren-exit-7 {
//!     chain output {
//!         type filter hook output priority filter; policy accept;
//!         meta mark & 0xff000000 == 0x77000000 accept      # the daemons'
//!         oiftype loopback accept
//!         oifgroup 119 accept                              # meshes
//!         … th dport { 53, 853 } reject                    # names, with exit.names
//!         … accept                                         # a link's upkeep, the LAN with exit.lan
//!         reject
//!     }
//! }
//! ```
//!
//! It stays after a crash as the routes do that lead nowhere.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::super::netfilter::{Nftables, OutputRule, Test, Verdict};
use super::wanted::{NAME_PORTS, Surround, beside};
use super::{Error, Netlink, Spare};
use crate::config::{ExitRoutes, HostConfig};

/// The group of all mesh interfaces, as the kernel keeps one for each interface.
pub(super) const GROUP: u32 = 119;
const PREFIX: &str = "warren-exit-";

/// What only a bound socket sends to a LAN: broadcast, and IPv6's multicast of the link and the site (RFC 919,
/// RFC 4291 §2.7).
const NEAR: [IpNet; 3] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::BROADCAST, 32)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0), 16)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 0), 16)),
];

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP6: u8 = 58;
/// Ports of DHCP's two sides, for each version (RFC 2131, RFC 8415).
const DHCP: [[u16; 2]; 2] = [[67, 68], [546, 547]];

/// Has it judge what leaves the host while this interface's exit node is chosen.
pub(super) fn set(
    index: u32,
    config: &HostConfig,
    exit: ExitRoutes,
    surround: &Surround,
) -> Result<(), Error> {
    Nftables::open()?.replace_output(&name(index), &rules(config, exit, surround))
}

/// Lets everything leave.
pub(super) fn remove(index: u32) -> Result<(), Error> {
    Nftables::open()?.delete_table(&name(index)).map(drop)
}

/// The interfaces that have such a table; none without nftables or privilege.
pub(in super::super) fn indices(nftables: &mut Nftables) -> Vec<u32> {
    let tables = nftables.tables().unwrap_or_default();
    tables.iter().filter_map(|table| table.strip_prefix(PREFIX)?.parse().ok()).collect()
}

/// Removes the tables of interfaces that are gone, unless they are spared.
pub(super) fn remove_stale(netlink: &mut Netlink, fresh: Option<u32>, spare: Spare) {
    if spare == Spare::Blocks {
        return;
    }
    let Ok(mut nftables) = Nftables::open() else { return };
    for index in indices(&mut nftables) {
        if super::stale::is_stale(netlink, fresh, index)
            && let Err(error) = nftables.delete_table(&name(index))
        {
            tracing::debug!(%error, "an old table of the exit node's stays");
        }
    }
}

fn name(index: u32) -> String {
    format!("{PREFIX}{index}")
}

fn rules(config: &HostConfig, exit: ExitRoutes, surround: &Surround) -> Vec<OutputRule> {
    let accept = |tests| OutputRule { tests, verdict: Verdict::Accept };
    let reject = |tests| OutputRule { tests, verdict: Verdict::Reject };
    let mark = Test::Mark { mark: config.mark, mask: config.mark_mask };
    let mut rules = vec![
        accept(vec![mark]),
        accept(vec![Test::OutLoopback]),
        accept(vec![Test::OutGroup(GROUP)]),
    ];
    if exit.names {
        for (protocol, port) in [TCP, UDP].into_iter().flat_map(|it| NAME_PORTS.map(|at| (it, at)))
        {
            let ask = [Test::Protocol(protocol), Test::ToPort(port)];
            let inside = surround.inside.iter().map(|network| Test::To(*network));
            rules.extend(inside.map(|to| accept([to].into_iter().chain(ask.clone()).collect())));
            rules.push(reject(ask.to_vec()));
        }
    }
    rules.extend(upkeep().map(accept));
    let near = if exit.lan { NEAR.as_slice() } else { &[] };
    let beside = beside(exit, surround).into_iter().chain(near.iter().copied());
    rules.extend(beside.map(|network| accept(vec![Test::To(network)])));
    rules.push(reject(Vec::new()));
    rules
}

/// Without these a link of the host's has no addresses or no neighbours, which the tunnel itself needs:
/// DHCP's two sides, neighbour discovery, and who listens to which multicast (RFC 4861, RFC 2710, RFC 3810).
fn upkeep() -> impl Iterator<Item = Vec<Test>> {
    let dhcp = DHCP.into_iter().flat_map(|[one, other]| [(one, other), (other, one)]);
    let dhcp =
        dhcp.map(|(from, to)| vec![Test::Protocol(UDP), Test::FromPort(from), Test::ToPort(to)]);
    let link = [130..=137, 143..=143].map(|it| vec![Test::Protocol(ICMP6), Test::Icmp(it)]);
    dhcp.chain(link)
}
