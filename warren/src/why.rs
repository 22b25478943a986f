//! How `warren why` and `warren admin why` say what is known of two devices.

use std::net::{Ipv4Addr, SocketAddr};

use warren_proto::{EndpointKind, MappingBehaviour, NatReport, PathKind};

use crate::output::say;

/// A bare number is a TCP port; anything else is said as a policy says it.
pub(crate) fn port(text: String) -> String {
    if text.parse::<u16>().is_ok() { format!("tcp:{text}") } else { text }
}

/// Says whether one device has another's key; where that isn't known, says nothing.
pub(crate) fn key(one: &str, has: Option<bool>, other: &str) {
    let Some(has) = has else { return };
    let word = if has { "has" } else { "doesn't have" };
    say!("  {one} {word} {other}'s key");
}

/// One of the two devices, as far as it is known.
#[derive(Debug)]
pub(crate) struct Side<'a> {
    pub(crate) name: &'a str,
    pub(crate) ipv4: Option<Ipv4Addr>,
    /// Online, and what speaks against it.
    pub(crate) state: &'a str,
    pub(crate) nat: NatReport,
    /// Where it may be reached, how that is known, and what has become of it.
    pub(crate) candidates: Vec<(SocketAddr, EndpointKind, Option<String>)>,
    /// What it lets in, where that isn't everything.
    pub(crate) filter: Option<String>,
    pub(crate) relays: Vec<String>,
    /// How its traffic to the other goes.
    pub(crate) path: Option<String>,
}

impl Side<'_> {
    /// Prints it.
    pub(crate) fn print(&self) {
        let ipv4 = self.ipv4.map(|ipv4| format!(" ({ipv4})")).unwrap_or_default();
        say!("{}{ipv4}: {}", self.name, self.state);
        let NatReport { udp, ipv4, ipv6 } = self.nat;
        say!("  NAT         IPv4: {}; IPv6: {}", mapping(ipv4), mapping(ipv6));
        if udp == Some(false) {
            say!(
                "  !           no STUN server answers over UDP: it is blocked where this device is"
            );
        }
        for (endpoint, kind, fate) in &self.candidates {
            let fate = fate.as_ref().map(|fate| format!(": {fate}")).unwrap_or_default();
            say!("  candidate   {endpoint} ({}){fate}", endpoint_word(*kind));
        }
        if let Some(filter) = &self.filter {
            say!("  filter      {filter}");
        }
        if !self.relays.is_empty() {
            say!("  relays      {}", self.relays.join(", "));
        }
        if let Some(path) = &self.path {
            say!("  path        {path}");
        }
    }
}

/// How traffic to `other` goes.
pub(crate) fn path(
    other: &str,
    path: PathKind,
    endpoint: Option<SocketAddr>,
    relay: Option<&str>,
    reason: Option<&str>,
    rtt_ms: Option<f64>,
) -> String {
    let way = way(path, endpoint, relay, reason).map(|way| format!(" {way}")).unwrap_or_default();
    let rtt = rtt_ms.map(|ms| format!(", {ms:.1} ms")).unwrap_or_default();
    format!("to {other}: {}{way}{rtt}", path_word(path))
}

fn mapping(mapping: MappingBehaviour) -> &'static str {
    match mapping {
        MappingBehaviour::None => "none",
        MappingBehaviour::EndpointIndependent => "endpoint-independent mapping",
        MappingBehaviour::AddressDependent => "another mapping for each destination",
        MappingBehaviour::Unknown => "not known",
    }
}

pub(crate) fn endpoint_word(kind: EndpointKind) -> &'static str {
    match kind {
        EndpointKind::Host => "own interface",
        EndpointKind::Static => "static",
        EndpointKind::Mapped => "mapped by the router",
        EndpointKind::Reflexive => "seen by STUN",
        EndpointKind::Observed => "observed",
        EndpointKind::Other => "other",
    }
}

/// Which way a path goes, or why there is none.
pub(crate) fn way(
    path: PathKind,
    endpoint: Option<SocketAddr>,
    relay: Option<&str>,
    reason: Option<&str>,
) -> Option<String> {
    match (path, endpoint, relay, reason) {
        (PathKind::Direct, Some(endpoint), _, _) => Some(format!("via {endpoint}")),
        (PathKind::Relayed, _, Some(relay), None) => Some(format!("by {relay}")),
        (PathKind::Relayed, _, Some(relay), Some(reason)) => Some(format!("by {relay} ({reason})")),
        (_, _, _, reason) => reason.map(str::to_owned),
    }
}

pub(crate) fn path_word(path: PathKind) -> &'static str {
    match path {
        PathKind::Direct => "direct",
        PathKind::Relayed => "relayed",
        PathKind::Connecting => "connecting",
        PathKind::Idle => "idle",
        PathKind::Unreachable => "unreachable",
    }
}
