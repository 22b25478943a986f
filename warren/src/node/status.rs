use std::time::Duration;

use warren_node::local::{NodeState, PathKind, PeerStatus, Status};

use crate::cli::{self, Global};
use crate::output::{self, say};

/// `warren status`.
pub(crate) async fn status(global: &Global, args: &cli::Status) -> anyhow::Result<()> {
    let status = super::client(global).status().await?;
    if global.json {
        return output::json(&status);
    }
    print(&status, args.all);
    Ok(())
}

fn print(status: &Status, all: bool) {
    let node = &status.node;
    say!("{}  {}", node.name, state_word(node.state));
    if let (Some(ipv4), Some(ipv6)) = (node.ipv4, node.ipv6) {
        say!("  addresses  {ipv4}, {ipv6}");
    }
    if let Some(dns_name) = &node.dns_name {
        say!("  name       {dns_name}");
    }
    say!("  UDP port   {}", node.listen_port);
    for (number, endpoint) in node.endpoints.iter().enumerate() {
        let label = if number == 0 { "endpoints" } else { "" };
        say!("  {label:<9}  {} ({})", endpoint.addr, endpoint_word(endpoint.kind));
    }
    say!("  broker     {}", broker_line(status));
    for health in &status.health {
        say!("  ! {}", health.text);
    }
    print_peers(status, all);
}

fn print_peers(status: &Status, all: bool) {
    let is_shown = |peer: &&PeerStatus| all || peer.online || peer.path != PathKind::Idle;
    let shown: Vec<&PeerStatus> = status.peers.iter().filter(is_shown).collect();
    let hidden = status.peers.len() - shown.len();
    if !shown.is_empty() {
        say!("");
        let mut table = output::table(&["PEER", "ADDRESS", "", "PATH", "RTT", "RECEIVED", "SENT"]);
        for peer in shown {
            table.add_row([
                peer.name.clone(),
                peer.ipv4.to_string(),
                if peer.online { "online" } else { "offline" }.to_owned(),
                path_text(peer),
                peer.rtt_ms.map(|rtt| format!("{rtt:.1} ms")).unwrap_or_default(),
                output::bytes(peer.rx_bytes),
                output::bytes(peer.tx_bytes),
            ]);
        }
        output::print_table(&table);
    }
    match (status.peers.len(), hidden) {
        (0, _) if matches!(status.node.state, NodeState::Connected | NodeState::Offline) => {
            say!("\nNo other device has joined this account yet.");
        }
        (_, 0) => {}
        (_, hidden) => say!("{hidden} more offline (--all shows them)"),
    }
}

fn path_text(peer: &PeerStatus) -> String {
    let word = path_word(peer.path);
    match (peer.path, peer.endpoint, &peer.relay, &peer.reason) {
        (PathKind::Direct, Some(endpoint), _, _) => format!("{word} {endpoint}"),
        (PathKind::Relayed, _, Some(relay), _) => format!("{word} by {relay}"),
        (_, _, _, Some(reason)) => format!("{word}: {reason}"),
        (_, _, _, None) => word.to_owned(),
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

fn state_word(state: NodeState) -> &'static str {
    match state {
        NodeState::NotJoined => "has joined no account: warren up --join LINK",
        NodeState::Joining => "joining",
        NodeState::MustJoinAgain => "was removed from its account: warren up --join LINK",
        NodeState::Down => "down: warren up connects",
        NodeState::Connecting => "connecting",
        NodeState::Connected => "connected",
        NodeState::Offline => "working without its broker",
    }
}

fn endpoint_word(kind: warren_proto::EndpointKind) -> &'static str {
    use warren_proto::EndpointKind;
    match kind {
        EndpointKind::Host => "own interface",
        EndpointKind::Static => "static",
        EndpointKind::Mapped => "mapped by the router",
        EndpointKind::Reflexive => "seen by STUN",
        EndpointKind::Observed => "observed",
        EndpointKind::Other => "other",
    }
}

fn broker_line(status: &Status) -> String {
    let broker = &status.broker;
    let Some(url) = &broker.url else { return "none yet".to_owned() };
    if broker.connected {
        let rtt = broker.rtt_ms.map(|rtt| format!(", {rtt:.1} ms")).unwrap_or_default();
        return format!("{url}, connected{rtt}");
    }
    let age = broker
        .netmap_age_s
        .map(|age| format!(", map is {} old", output::age(Duration::from_secs(age))))
        .unwrap_or_default();
    let error = broker.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    format!("{url}, not connected{age}{error}")
}
