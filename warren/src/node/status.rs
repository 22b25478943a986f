use std::time::Duration;

use warren_node::local::{HealthCode, NodeState, PathKind, PeerStatus, Status};

use crate::cli::{self, Global};
use crate::output::{self, say};
use crate::why::{endpoint_word, path_word, way};

/// `warren status`.
pub(crate) async fn status(global: &Global, args: &cli::Status) -> anyhow::Result<()> {
    if args.counters {
        return counters(global).await;
    }
    let status = super::client(global).status().await?;
    if global.json {
        return output::json(&status);
    }
    print(&status, args.all);
    Ok(())
}

/// Names and values as the daemon has them: they mean something to whoever looks for a fault.
async fn counters(global: &Global) -> anyhow::Result<()> {
    let counters = super::client(global).counters().await?;
    if global.json {
        return output::json(&counters);
    }
    if let serde_json::Value::Object(fields) = serde_json::to_value(&counters)? {
        for (name, value) in fields {
            say!("{name:<28} {value}");
        }
    }
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
    if node.exit_node.is_some() {
        let sentence = super::exit_node::sentence(node.exit_node.as_ref());
        say!("  internet   {}", &output::wrapped(&sentence, "             ")[13..]);
    }
    say!("  broker     {}", broker_line(status));
    for health in &status.health {
        say!("  !{}", &output::wrapped(&health.text, "    ")[3..]);
    }
    print_peers(status, all);
}

fn print_peers(status: &Status, all: bool) {
    let is_shown = |peer: &&PeerStatus| all || peer.online || peer.path != PathKind::Idle;
    let shown: Vec<&PeerStatus> = status.peers.iter().filter(is_shown).collect();
    let hidden = status.peers.len() - shown.len();
    if !shown.is_empty() {
        say!("");
        say!("{}", peers_table(status, &shown));
    }
    match (status.peers.len(), hidden) {
        // Why there is none is said above.
        (0, _) if is_outside(status) => {}
        (0, _) if matches!(status.node.state, NodeState::Connected | NodeState::Offline) => {
            say!("\nNo other device has joined this account yet.");
        }
        (_, 0) => {}
        (_, hidden) => say!("{hidden} more offline (--all shows them)"),
    }
}

/// Whether the device isn't in the mesh.
fn is_outside(status: &Status) -> bool {
    let outside =
        [HealthCode::MembershipExpired, HealthCode::WaitsForApproval, HealthCode::AccountSuspended];
    status.health.iter().any(|health| outside.contains(&health.code))
}

/// A row for each peer, and below it, where there is more to say, how it is reached or why not: 80
/// columns hold it.
fn peers_table(status: &Status, peers: &[&PeerStatus]) -> String {
    let mut table = output::table(&["PEER", "ADDRESS", "STATE", "PATH", "RTT"]);
    for peer in peers {
        table.add_row([
            peer.name.clone(),
            peer.ipv4.to_string(),
            presence(status, peer),
            path_word(peer.path).to_owned(),
            peer.rtt_ms.map(|rtt| format!("{rtt:.1} ms")).unwrap_or_default(),
        ]);
    }
    let rows = output::table_lines(&table);
    let details = peers.iter().map(|peer| details(peer));
    let mut lines: Vec<String> = Vec::new();
    for (row, details) in rows.into_iter().zip(std::iter::once(Vec::new()).chain(details)) {
        lines.push(row);
        lines.extend(details);
    }
    lines.join("\n")
}

/// As of the last map: without the broker nobody knows better.
fn presence(status: &Status, peer: &PeerStatus) -> String {
    let word = if peer.online { "online" } else { "offline" };
    match status.broker.netmap_age_s {
        Some(seconds) if !status.broker.connected => {
            format!("{word} {} ago", output::age(Duration::from_secs(seconds)))
        }
        Some(_) | None => word.to_owned(),
    }
}

/// How it is reached or why not, and what went over it.
fn details(peer: &PeerStatus) -> Vec<String> {
    let way = way(peer.path, peer.endpoint, peer.relay.as_deref(), peer.reason.as_deref());
    let traffic = (peer.rx_bytes > 0 || peer.tx_bytes > 0).then(|| {
        let (received, sent) = (output::bytes(peer.rx_bytes), output::bytes(peer.tx_bytes));
        format!("received {received}, sent {sent}")
    });
    way.into_iter().chain(traffic).map(|text| output::wrapped(&text, "    ")).collect()
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
    // Where a note below says the same, once is enough.
    let is_noted =
        |error: &&String| !status.health.iter().any(|it| it.text.contains(error.as_str()));
    let error = broker.error.as_ref().filter(is_noted);
    let error = error.map(|error| format!(": {error}")).unwrap_or_default();
    format!("{url}, not connected{age}{error}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Long, but as they come: the widest addresses, a long reason.
    fn status(connected: bool) -> Status {
        let peer = |name: &str, path: &str, reason: Option<&str>, endpoint: Option<&str>| {
            json!({
                "name": name, "ipv4": "100.127.255.254", "ipv6": "fd00::2", "dns_name": "x",
                "online": true, "path": path, "reason": reason, "endpoint": endpoint, "relay": null,
                "rtt_ms": endpoint.map(|_| 1234.5), "rx_bytes": 123_456_789, "tx_bytes": 987_654_321,
                "last_handshake": null,
            })
        };
        let why = "both NATs map each destination to another port, and neither maps by UPnP-IGD, \
                   NAT-PMP or PCP; a relay would help, or a static endpoint";
        serde_json::from_value(json!({
            "schema": 1,
            "node": {
                "name": "laptop", "ipv4": null, "ipv6": null, "dns_name": null, "listen_port": 1,
                "public_key": warren_proto::PublicKey([1; 32]), "state": "offline", "endpoints": [],
                "nat": warren_proto::NatReport::default(),
            },
            "broker": {
                "url": "https://broker.example.org", "connected": connected, "last_check_in": 1,
                "netmap_version": null, "netmap_age_s": 754, "error": "connection refused",
            },
            "peers": [
                peer("kitchen-pi", "direct", None, Some("[2001:db8:1111:2222:3333:4444:5555:6666]:65535")),
                peer("living-room-tv", "unreachable", Some(why), None),
            ],
            "health": [{ "code": "broker-away", "text": "the broker is away: connection refused" }],
        }))
        .unwrap()
    }

    #[test]
    fn rows_fit_80_columns_and_reasons_stand_below_them() {
        let status = status(true);
        let peers: Vec<&PeerStatus> = status.peers.iter().collect();
        let text = peers_table(&status, &peers);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("STATE"), "{text}");
        assert!(lines[1].starts_with("kitchen-pi") && lines[1].contains("direct"), "{text}");
        assert!(lines[2].starts_with("    via [2001:db8:"), "{text}");
        assert_eq!(lines[3], "    received 117.7 MiB, sent 941.9 MiB");
        assert!(lines[4].starts_with("living-room-tv"), "{text}");
        assert!(lines[5].starts_with("    both NATs"), "{text}");
    }

    #[test]
    fn without_the_broker_presence_is_as_old_as_the_map() {
        let (connected, lost) = (status(true), status(false));
        assert_eq!(presence(&connected, &connected.peers[0]), "online");
        assert_eq!(presence(&lost, &lost.peers[0]), "online 12m ago");
    }

    #[test]
    fn the_brokers_error_is_said_once() {
        assert!(!broker_line(&status(false)).contains("refused"));
        let mut lone = status(false);
        lone.health.clear();
        assert!(broker_line(&lone).contains("refused"));
    }
}
