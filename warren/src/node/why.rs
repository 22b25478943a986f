use warren_node::local::{CandidateReport, Fate, RelayReport, WhyReport, WhyRequest};

use crate::cli::{self, Global};
use crate::output::{self, say};
use crate::why::{Side, key, path, port};

/// `warren why A B [PORT]`, where one of the two is this device.
pub(crate) async fn why(global: &Global, args: cli::WhyHere) -> anyhow::Result<()> {
    let cli::WhyHere { from, to, port: at } = args;
    let report = super::client(global).why(WhyRequest { from, to, port: at.map(port) }).await?;
    if global.json {
        return output::json(&report);
    }
    print(&report);
    Ok(())
}

fn print(why: &WhyReport) {
    let (this, peer) = (why.this.name.as_str(), why.peer.name.as_str());
    say!("Policy, as far as {this} knows it:");
    say!("  {}", let_in(why));
    say!("  what {peer} lets {this} reach is known there and to the broker alone");
    say!("  which rule says so an admin is told: warren admin why {}", asked(why));
    if let Some(age) = why.netmap_age_s.filter(|age| *age > 0) {
        let age = output::age(std::time::Duration::from_secs(age));
        say!("  !           the broker is away: this is what was true {age} ago");
    }
    say!("Keys:");
    key(this, Some(true), peer);
    this_side(why).print();
    peer_side(why).print();
}

fn asked(why: &WhyReport) -> String {
    let (this, peer) = (why.this.name.as_str(), why.peer.name.as_str());
    let (from, to) = if why.this_asks { (this, peer) } else { (peer, this) };
    let port = why.port.as_ref().map(|port| format!(" {port}")).unwrap_or_default();
    format!("{from} {to}{port}")
}

/// What this device lets the peer in for.
fn let_in(why: &WhyReport) -> String {
    let (this, peer) = (why.this.name.as_str(), why.peer.name.as_str());
    let places = why.lets_in.join(", ");
    // The port is one of this device's only where it is the one that is asked.
    match (&why.port, why.this_asks, why.lets_in.as_slice()) {
        (_, _, []) => format!("{peer} may only answer {this}"),
        (Some(port), false, _) if !why.is_let_in => {
            format!("{peer} may not reach {this} at {port}, only at {places}")
        }
        (Some(port), false, _) => format!("{peer} may reach {this} at {port}"),
        (_, _, [all]) if all == "*" => format!("{peer} may reach {this} at every port"),
        (_, _, _) => format!("{peer} may reach {this} at {places}"),
    }
}

fn this_side(why: &WhyReport) -> Side<'_> {
    let (node, peer) = (&why.this, &why.peer);
    let way = path(
        &peer.name,
        peer.path,
        peer.endpoint,
        peer.relay.as_deref(),
        peer.reason.as_deref(),
        peer.rtt_ms,
    );
    let is_open = why.lets_in == ["*"];
    Side {
        name: &node.name,
        ipv4: node.ipv4,
        state: "this device",
        nat: node.nat,
        candidates: node.endpoints.iter().map(|it| (it.addr, it.kind, None)).collect(),
        filter: (!is_open).then(|| "lets in what the policy allows, and answers".to_owned()),
        relays: why.relays.iter().map(relay).collect(),
        path: Some(way),
    }
}

fn peer_side(why: &WhyReport) -> Side<'_> {
    let candidate = |it: &CandidateReport| (it.endpoint, it.kind, Some(fate(it)));
    Side {
        name: &why.peer.name,
        ipv4: Some(why.peer.ipv4),
        state: if why.peer.online { "online" } else { "offline" },
        nat: why.peer_nat,
        candidates: why.candidates.iter().map(candidate).collect(),
        filter: None,
        relays: Vec::new(),
        path: None,
    }
}

/// What has become of a candidate.
fn fate(candidate: &CandidateReport) -> String {
    let rtt = candidate.rtt_ms.map(|ms| format!(" in {ms:.1} ms")).unwrap_or_default();
    let fate = match (candidate.fate, candidate.answered_s_ago) {
        (Fate::InUse, _) => format!("in use, answers{rtt}"),
        (Fate::Answers, Some(age)) if age >= 30 => {
            let age = output::age(std::time::Duration::from_secs(age));
            format!("answered{rtt}, {age} ago")
        }
        (Fate::Answers, _) => format!("answers{rtt}"),
        (Fate::Silent, _) => "asked, no answer".to_owned(),
        (Fate::Untried, _) => "not tried: nothing wanted a path; `warren ping` does".to_owned(),
        (Fate::LeftOut, _) => "left out: this device can't or won't send there".to_owned(),
        (Fate::Other, _) => "unknown to this version".to_owned(),
    };
    match &candidate.relay {
        Some(relay) => format!("{fate}, through {relay}"),
        None => fate,
    }
}

fn relay(relay: &RelayReport) -> String {
    match (relay.rtt_ms, &relay.problem) {
        (_, Some(problem)) => format!("{} ({problem})", relay.name),
        (Some(rtt), None) => format!("{} ({rtt:.1} ms)", relay.name),
        (None, None) => relay.name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report(this_asks: bool, port: Option<&str>, lets_in: &[&str], is_let_in: bool) -> WhyReport {
        serde_json::from_value(json!({
            "this_asks": this_asks, "port": port, "lets_in": lets_in, "is_let_in": is_let_in,
            "netmap_age_s": 0,
            "this": {
                "name": "laptop", "ipv4": null, "ipv6": null, "dns_name": null, "listen_port": 1,
                "public_key": warren_proto::PublicKey([1; 32]), "state": "connected",
                "endpoints": [], "nat": warren_proto::NatReport::default(),
            },
            "peer": {
                "name": "nas", "ipv4": "100.81.0.2", "ipv6": "fd00::2", "dns_name": "x",
                "online": true, "path": "idle", "reason": null, "endpoint": null, "relay": null,
                "rtt_ms": null, "rx_bytes": 0, "tx_bytes": 0, "last_handshake": null,
            },
            "peer_nat": warren_proto::NatReport::default(), "candidates": [], "relays": [],
        }))
        .unwrap()
    }

    #[test]
    fn a_port_is_judged_where_this_device_is_asked_and_only_there() {
        let say = |asks, port, ports, is_in| let_in(&report(asks, port, ports, is_in));
        let at = Some("tcp:22");
        assert_eq!(say(false, at, &["tcp:22"], true), "nas may reach laptop at tcp:22");
        assert_eq!(
            say(false, at, &["tcp:80", "icmp"], false),
            "nas may not reach laptop at tcp:22, only at tcp:80, icmp"
        );
        assert_eq!(say(true, at, &["tcp:80"], false), "nas may reach laptop at tcp:80");
        assert_eq!(say(true, None, &["*"], true), "nas may reach laptop at every port");
        assert_eq!(say(false, at, &[], false), "nas may only answer laptop");
        assert_eq!(asked(&report(false, at, &[], false)), "nas laptop tcp:22");
    }

    #[test]
    fn a_candidate_says_what_has_become_of_it() {
        let say = |fate, rtt, ago: Option<u64>, relay: Option<&str>| {
            let candidate = json!({
                "endpoint": "192.0.2.1:1", "kind": "host", "relay": relay, "fate": fate,
                "rtt_ms": rtt, "answered_s_ago": ago,
            });
            super::fate(&serde_json::from_value(candidate).unwrap())
        };
        assert_eq!(say("in-use", Some(3.12), Some(1), None), "in use, answers in 3.1 ms");
        assert_eq!(say("answers", Some(3.0), Some(1), None), "answers in 3.0 ms");
        assert_eq!(say("answers", Some(3.0), Some(60), None), "answered in 3.0 ms, 1m ago");
        assert_eq!(say("silent", None, None, Some("fra")), "asked, no answer, through fra");
        assert_eq!(say("moonlight", None, None, None), "unknown to this version");
    }
}
