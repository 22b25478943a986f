use std::net::IpAddr;

use warren_mesh::{Mapping, Netcheck, RelayStatus};
use warren_net::NetworkState;

use super::ping::not_up;
use crate::daemon::{Failure, View};
use crate::local::message::{NetcheckReport, RelayReport, StunReport};

/// What the mesh has measured, and what that means.
pub(super) async fn netcheck(view: &View) -> Result<NetcheckReport, Failure> {
    let snapshot = match &view.data {
        Some(data) => data.snapshot().await.ok(),
        None => None,
    };
    let Some(snapshot) = snapshot else { return Err(not_up(view.state)) };
    let netcheck = snapshot.netcheck;
    let has = |matches: fn(&IpAddr) -> bool| {
        view.network.addresses.iter().any(|address| matches(&address.ip))
    };
    Ok(NetcheckReport {
        nat: netcheck.nat,
        mapping_ipv4: words(netcheck.mapping_ipv4).to_owned(),
        mapping_ipv6: words(netcheck.mapping_ipv6).to_owned(),
        ipv4: has(IpAddr::is_ipv4),
        ipv6: has(|ip| match ip {
            IpAddr::V4(_) => false,
            // 2000::/3 is what is global; ULAs lead nowhere.
            IpAddr::V6(ip) => ip.segments()[0] & 0xe000 == 0x2000,
        }),
        public_ipv4: netcheck.mapped_ipv4,
        public_ipv6: netcheck.mapped_ipv6,
        stun: netcheck
            .servers
            .iter()
            .map(|server| StunReport {
                server: server.server,
                mapped: server.mapped,
                rtt_ms: server.rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
                silent: server.silent,
            })
            .collect(),
        relays: netcheck.relays.iter().map(relay).collect(),
        mappings: view.mappings.clone(),
        mapping_note: view.mapping_note.clone(),
        broker_rtt_ms: view.broker.rtt_ms,
        notes: notes(&netcheck, &view.network),
    })
}

pub(super) fn relay(status: &RelayStatus) -> RelayReport {
    RelayReport {
        name: status.name.clone(),
        rtt_ms: status.rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
        reached_by: status.reached_by,
        in_use: status.in_use,
        peers: status.peers,
        problem: status.problem.map(|problem| problem.to_string()),
    }
}

/// The mapping behaviour (RFC 4787 §4.1), in no more words than were measured.
fn words(mapping: Mapping) -> &'static str {
    match mapping {
        Mapping::Unknown => "unknown",
        Mapping::None => "no NAT",
        Mapping::EndpointIndependent => "endpoint-independent",
        Mapping::EndpointIndependentOrAddressDependent => {
            "endpoint-independent or address-dependent (a second STUN address would tell)"
        }
        Mapping::AddressDependent => "address-dependent, or address- and port-dependent",
    }
}

fn notes(netcheck: &Netcheck, network: &NetworkState) -> Vec<String> {
    let mut notes = Vec::new();
    if netcheck.servers.is_empty() {
        notes.push("the broker names no STUN server: the public address can't be learned".into());
    } else if netcheck.nat.udp == Some(false) {
        notes.push(
            "no STUN server answered over UDP: it is blocked here, or they are down".to_owned(),
        );
    }
    if network.addresses.is_empty() {
        notes.push("this machine has no address of its own: is it online?".to_owned());
    }
    let private = netcheck
        .servers
        .iter()
        .filter_map(|server| server.mapped)
        .any(|mapped| matches!(mapped.ip(), IpAddr::V4(ip) if ip.is_private()));
    if private {
        notes.push(
            "a STUN server sees a private address: the broker is on the same LAN, which says nothing about the way out; set --stun-public at the broker"
                .to_owned(),
        );
    }
    notes
}
