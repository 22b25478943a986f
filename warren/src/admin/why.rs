use warren_broker::admin::{Client, WhyDevice, WhyQuery, WhyRule};
use warren_proto::{EndpointKind, MappingBehaviour};

use super::device::admission_word;
use crate::cli::Why;
use crate::node::status::{path_word, way};
use crate::output::say;

pub(crate) async fn run(client: &Client, args: Why, json: bool) -> anyhow::Result<()> {
    let Why { account, from, to, port } = args;
    let query = WhyQuery { from, to, port: port.map(as_policy_says) };
    super::show(client.why(&account.account, &query), json, print).await
}

/// A bare number is a TCP port.
fn as_policy_says(port: String) -> String {
    if port.parse::<u16>().is_ok() { format!("tcp:{port}") } else { port }
}

fn print(why: &warren_broker::admin::Why) {
    let (from, to) = (&why.from, &why.to);
    let at = why.port.as_deref().map(|port| format!(" at {port}")).unwrap_or_default();
    say!("Policy (version {}):", why.policy_version);
    match why.allowed_by.as_slice() {
        [] => say!("  {} may not reach {}{at}: no rule allows it", from.name, to.name),
        rules => say!("  {} may reach {}{at}: {}", from.name, to.name, list(rules)),
    }
    match why.back_allowed_by.as_slice() {
        [] => say!("  {} may only answer {}", to.name, from.name),
        rules => say!("  {} may reach {}: {}", to.name, from.name, list(rules)),
    }
    if !why.see_each_other {
        say!("  so neither is told of the other: no name, no key, no address");
    }
    say!("Keys:");
    for (one, other) in [(from, to), (to, from)] {
        let word = if one.has_key_of_other { "has" } else { "doesn't have" };
        say!("  {} {word} {}'s key", one.name, other.name);
    }
    for (one, other) in [(from, to), (to, from)] {
        side(one, other);
    }
}

fn mapping(mapping: MappingBehaviour) -> &'static str {
    match mapping {
        MappingBehaviour::None => "none",
        MappingBehaviour::EndpointIndependent => "endpoint-independent mapping",
        MappingBehaviour::AddressDependent => "another mapping for each destination",
        MappingBehaviour::Unknown => "not known",
    }
}

fn kind(kind: EndpointKind) -> &'static str {
    match kind {
        EndpointKind::Host => "own address",
        EndpointKind::Static => "set by an admin",
        EndpointKind::Mapped => "mapped by the router",
        EndpointKind::Reflexive => "as STUN sees it",
        EndpointKind::Observed => "as a peer saw it",
        EndpointKind::Other => "of a newer kind",
    }
}

fn list(rules: &[WhyRule]) -> String {
    let one = |rule: &WhyRule| {
        let name = rule.name.as_deref().map(|name| format!("'{name}' ")).unwrap_or_default();
        format!("rule {name}in line {} ({})", rule.line, rule.ports.join(", "))
    };
    rules.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn side(one: &WhyDevice, other: &WhyDevice) {
    let state = match (one.admission.is_member(), one.online) {
        (false, _) => admission_word(one.admission),
        (true, true) => "online",
        (true, false) => "offline",
    };
    say!("{} ({}): {state}", one.name, one.ipv4);
    say!("  NAT         IPv4: {}; IPv6: {}", mapping(one.nat.ipv4), mapping(one.nat.ipv6));
    if one.nat.udp == Some(false) {
        say!("  !           no STUN server answers over UDP: it is blocked where this device is");
    }
    for endpoint in &one.endpoints {
        say!("  candidate   {} ({})", endpoint.addr, kind(endpoint.kind));
    }
    if one.is_filtering {
        say!("  filter      lets in what the policy allows, and answers");
    }
    let relays: Vec<&str> = one.relays.iter().map(String::as_str).collect();
    if !relays.is_empty() {
        say!("  relays      {}", relays.join(", "));
    }
    match &one.path {
        Some(path) => {
            let relay = path.relay.as_ref().map(warren_proto::DeviceName::as_str);
            let way = way(path.path, path.endpoint, relay, path.reason.as_deref());
            let way = way.map(|way| format!(" {way}")).unwrap_or_default();
            let rtt = path.rtt_ms.map(|ms| format!(", {ms:.1} ms")).unwrap_or_default();
            say!("  path        to {}: {}{way}{rtt}", other.name, path_word(path.path));
        }
        None => say!("  path        to {}: none, nothing was sent lately", other.name),
    }
}
