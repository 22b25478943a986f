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
//!         th dport { 53, 853 } jump names                  # with exit.names
//!         … accept                                         # a link's upkeep, the LAN with exit.lan
//!         reject
//!     }
//!     chain names {
//!         … accept                                         # inside the host
//!         reject
//!     }
//! }
//! ```
//!
//! It stays after a crash as the routes do that lead nowhere.

use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};

use super::super::netfilter::{Nftables, OutputChain, OutputRule, Test, Verdict};
use super::wanted::{LINK_LOCAL6, NAME_PORTS, Surround, beside, is_lan};
use super::{Error, Netlink, Spare};
use crate::config::{ExitRoutes, HostConfig};

/// The group of all mesh interfaces, as the kernel keeps one for each interface.
pub(super) const GROUP: u32 = 119;
const PREFIX: &str = "warren-exit-";

/// Goes to everybody on a link (RFC 919).
const BROADCAST: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::BROADCAST, 32));
const OUTPUT: &str = "output";
const NAMES: &str = "names";

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP6: u8 = 58;
/// Ports of DHCP's servers and clients, for each version (RFC 2131, RFC 8415).
const DHCP: [[u16; 2]; 2] = [[67, 68], [547, 546]];

/// Has it judge what leaves the host while this interface's exit node is chosen.
pub(super) fn set(
    index: u32,
    config: &HostConfig,
    exit: ExitRoutes,
    surround: &Surround,
) -> Result<(), Error> {
    Nftables::open()?.replace_output(&name(index), &chains(config, exit, surround))
}

/// Lets everything leave.
pub(super) fn remove(index: u32) -> Result<(), Error> {
    Nftables::open()?.delete_table(&name(index)).map(drop)
}

/// The interfaces that have such a table, with rules in it.
///
/// # Errors
///
/// What the system says; that somebody changed something meanwhile is usual.
pub(in super::super) fn indices(nftables: &mut Nftables) -> Result<Vec<u32>, Error> {
    let mut found = Vec::new();
    for table in nftables.tables()? {
        if let Some(index) = index(&table)
            && nftables.mark(&table)?.has_rules(OUTPUT)
        {
            found.push(index);
        }
    }
    Ok(found)
}

fn index(table: &str) -> Option<u32> {
    table.strip_prefix(PREFIX)?.parse().ok()
}

/// Removes the tables of interfaces that are gone, unless they are spared.
pub(super) fn remove_stale(netlink: &mut Netlink, fresh: Option<u32>, spare: Spare) {
    if spare == Spare::Blocks {
        return;
    }
    let Ok(mut nftables) = Nftables::open() else { return };
    for index in nftables.tables().unwrap_or_default().iter().filter_map(|table| index(table)) {
        if super::stale::is_stale(netlink, fresh, index)
            && let Err(error) = nftables.delete_table(&name(index))
        {
            let table = name(index);
            tracing::warn!(%error, "what a crashed node has left lets nothing out: `nft delete table inet {table}` ends that");
        }
    }
}

fn name(index: u32) -> String {
    format!("{PREFIX}{index}")
}

fn chains(config: &HostConfig, exit: ExitRoutes, surround: &Surround) -> Vec<OutputChain> {
    let accept = |tests| OutputRule { tests, verdict: Verdict::Accept };
    let reject = || OutputRule { tests: Vec::new(), verdict: Verdict::Reject };
    let mark = Test::Mark { mark: config.mark, mask: config.mark_mask };
    let to = |network: IpNet| accept(vec![Test::To(network)]);
    let mut rules = vec![
        accept(vec![mark]),
        accept(vec![Test::OutLoopback]),
        accept(vec![Test::OutGroup(GROUP)]),
    ];
    // A link's own addresses are the LAN's, too; what a link can't do without comes below.
    let mut beside = beside(exit, surround);
    beside.retain(|network| exit.lan || *network != IpNet::V6(LINK_LOCAL6));
    let (inside, outside): (Vec<IpNet>, Vec<IpNet>) =
        beside.into_iter().partition(|network| surround.inside.contains(network));
    rules.extend(inside.into_iter().map(to));
    let mut names = Vec::new();
    if exit.names {
        let ports = [TCP, UDP].into_iter().flat_map(|it| NAME_PORTS.map(|port| (it, port)));
        rules.extend(ports.map(|(protocol, port)| OutputRule {
            tests: vec![Test::Protocol(protocol), Test::ToPort(port)],
            verdict: Verdict::Ask(NAMES),
        }));
        // With the LAN they are let go above, but for public ones.
        let others = surround.inside.iter().filter(|network| !exit.lan || !is_lan(network));
        names.extend(others.copied().map(to));
        names.push(reject());
    }
    rules.extend(upkeep().map(accept));
    rules.extend(outside.into_iter().map(to));
    if exit.lan {
        rules.extend([to(BROADCAST), accept(vec![Test::ToSite])]);
    }
    rules.push(reject());
    vec![OutputChain { name: OUTPUT, rules }, OutputChain { name: NAMES, rules: names }]
}

/// Without these a link of the host's has no addresses or no neighbours, which the tunnel itself needs:
/// DHCP's sides and relays, neighbour discovery, and who listens to which multicast (RFC 4861, RFC 2710, RFC 3810).
fn upkeep() -> impl Iterator<Item = Vec<Test>> {
    let dhcp = DHCP
        .into_iter()
        .flat_map(|[server, client]| [(server, client), (client, server), (server, server)]);
    let dhcp =
        dhcp.map(|(from, to)| vec![Test::Protocol(UDP), Test::FromPort(from), Test::ToPort(to)]);
    let link = [130..=137, 143..=143].map(|it| vec![Test::Protocol(ICMP6), Test::Icmp(it)]);
    dhcp.chain(link)
}
