use std::time::Instant;

use warren_mesh::CandidateStatus;
use warren_proto::{DeviceId, Filter, Netmap, Peer, Ports, Sources, Target};

use super::netcheck::relay;
use super::ping::{find_peer, is_self, not_up};
use crate::daemon::{Failure, View, peer_status};
use crate::local::message::FailureCode;
use crate::local::why::{CandidateReport, Fate, WhyReport, WhyRequest};

/// What this device knows of itself and a peer: its map, its filter, its mesh.
pub(super) async fn why(view: &View, request: WhyRequest) -> Result<WhyReport, Failure> {
    let (Some(data), Some(netmap)) = (&view.data, &view.netmap) else {
        return Err(not_up(view.state));
    };
    let port = request
        .port
        .as_deref()
        .map(str::parse::<Ports>)
        .transpose()
        .map_err(|error| Failure::new(FailureCode::Invalid, format!("the port: {error}")))?;
    let (this_asks, peer) = sides(netmap, &request)?;
    let gone = |_| not_up(view.state);
    let candidates = data.candidates(peer.id).await.map_err(gone)?;
    let snapshot = data.snapshot().await.map_err(gone)?;
    let Some(status) = snapshot.peers.iter().find(|status| status.id == peer.id) else {
        return Err(unknown(peer.name.as_str()));
    };
    let lets_in = lets_in(netmap.filter.as_ref(), peer.id);
    let node = view.status().await;
    Ok(WhyReport {
        this_asks,
        is_let_in: lets_in.iter().any(|ports| port.is_none_or(|port| ports.covers(port))),
        lets_in: lets_in.iter().map(Ports::to_string).collect(),
        port: port.map(|port| port.to_string()),
        netmap_age_s: node.broker.netmap_age_s,
        this: node.node,
        peer: peer_status(status, &netmap.dns.domain),
        peer_nat: peer.nat,
        candidates: report(peer, &candidates, Instant::now()),
        relays: snapshot.netcheck.relays.iter().map(relay).collect(),
    })
}

/// Whether this device is the one that asks, and who the other one is.
fn sides<'n>(netmap: &'n Netmap, request: &WhyRequest) -> Result<(bool, &'n Peer), Failure> {
    let WhyRequest { from, to, .. } = request;
    let other = match (is_self(netmap, from), is_self(netmap, to)) {
        (true, false) => to,
        (false, true) => from,
        (true, true) => {
            let text = "a device reaches itself without a tunnel: name two";
            return Err(Failure::new(FailureCode::Invalid, text));
        }
        (false, false) => {
            let text = format!(
                "this device is {}, and knows only how it talks with others itself: name it as one \
                 of the two, or have an admin run `warren admin why {from} {to}`",
                netmap.this.name
            );
            return Err(Failure::new(FailureCode::Invalid, text));
        }
    };
    let (peer, _) = find_peer(netmap, other).ok_or_else(|| unknown(other))?;
    Ok((other == to, peer))
}

fn unknown(name: &str) -> Failure {
    let text = format!(
        "this device was told of no '{name}': there is none, or the policy lets neither reach the \
         other, and then neither gets the other's key or addresses; an admin sees which of the two \
         by `warren admin why`"
    );
    Failure::new(FailureCode::UnknownPeer, text)
}

/// Where the filter admits a peer to this device itself.
fn lets_in(filter: Option<&Filter>, peer: DeviceId) -> Vec<Ports> {
    let Some(filter) = filter else { return vec![Ports::All] };
    let is_meant = |from: &Sources| match from {
        Sources::All => true,
        Sources::Devices(devices) => devices.contains(&peer),
    };
    let is_this = |to: &Target| matches!(to, Target::This | Target::Everything);
    let mut ports: Vec<Ports> = filter
        .rules
        .iter()
        .filter(|rule| is_meant(&rule.from) && rule.to.iter().any(is_this))
        .flat_map(|rule| rule.ports.iter().copied())
        .collect();
    ports.sort();
    ports.dedup();
    if ports.contains(&Ports::All) { vec![Ports::All] } else { ports }
}

/// Each way to the peer; those of its addresses that the mesh hasn't taken, too.
fn report(peer: &Peer, candidates: &[CandidateStatus], now: Instant) -> Vec<CandidateReport> {
    let taken = candidates.iter().map(|candidate| CandidateReport {
        endpoint: candidate.path.remote,
        kind: candidate.kind,
        relay: candidate.relay.clone(),
        fate: match (candidate.in_use, candidate.answered, candidate.asked) {
            (true, ..) => Fate::InUse,
            (false, Some(_), _) => Fate::Answers,
            (false, None, Some(_)) => Fate::Silent,
            (false, None, None) => Fate::Untried,
        },
        rtt_ms: candidate.rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
        answered_s_ago: candidate.answered.map(|at| now.saturating_duration_since(at).as_secs()),
    });
    let is_taken = |endpoint: std::net::SocketAddr| {
        candidates.iter().any(|it| it.path.remote == endpoint && !it.path.via.is_relayed())
    };
    let left_out =
        peer.endpoints.iter().filter(|it| !is_taken(it.addr)).map(|endpoint| CandidateReport {
            endpoint: endpoint.addr,
            kind: endpoint.kind,
            relay: None,
            fate: Fate::LeftOut,
            rtt_ms: None,
            answered_s_ago: None,
        });
    taken.chain(left_out).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use warren_mesh::{Path, Via};
    use warren_proto::{Endpoint, EndpointKind, FilterRule, NatReport, PublicKey};

    use super::*;

    #[test]
    fn a_filter_says_where_a_peer_is_let_in() {
        let rule = |from, ports: &[Ports], to| FilterRule { from, ports: ports.to_vec(), to };
        let (ssh, web) = (Ports::Tcp(22, 22), Ports::Tcp(80, 80));
        let one = |id| Sources::Devices(vec![DeviceId(id)]);
        let filter = Filter {
            rules: vec![
                rule(one(1), &[ssh], vec![Target::This]),
                rule(Sources::All, &[web], vec![Target::Everything]),
                rule(one(2), &[Ports::All], vec![Target::Subnet("10.0.0.0/8".parse().unwrap())]),
                rule(one(3), &[Ports::All], vec![Target::This]),
            ],
            limits: Vec::new(),
        };
        let of = |id| lets_in(Some(&filter), DeviceId(id));
        assert_eq!(of(1), [ssh, web]);
        assert_eq!(of(2), [web], "what is behind it isn't it");
        assert_eq!(of(3), [Ports::All]);
        assert_eq!(lets_in(None, DeviceId(9)), [Ports::All]);
        assert!(lets_in(Some(&Filter::default()), DeviceId(1)).is_empty());
    }

    #[test]
    fn every_candidate_has_a_fate() {
        let now = Instant::now();
        let addr = |port| ([203, 0, 113, 7], port).into();
        let kind = EndpointKind::Host;
        let status = |port, asked: bool, answered: bool, in_use| CandidateStatus {
            path: Path { remote: addr(port), via: Via::Direct },
            kind,
            relay: None,
            asked: asked.then_some(now),
            answered: answered.then(|| now - Duration::from_secs(3)),
            rtt: answered.then(|| Duration::from_millis(12)),
            in_use,
        };
        let peer = Peer {
            id: DeviceId(1),
            name: "nas".parse().unwrap(),
            key: PublicKey([1; 32]),
            ipv4: [100, 81, 0, 2].into(),
            ipv6: std::net::Ipv6Addr::LOCALHOST,
            endpoints: vec![Endpoint { addr: addr(1), kind }, Endpoint { addr: addr(5), kind }],
            nat: NatReport::default(),
            online: true,
            capabilities: Vec::new(),
            relays: Vec::new(),
            edge: None,
            signature: None,
        };
        let candidates = [
            status(1, true, true, true),
            status(2, true, true, false),
            status(3, true, false, false),
            status(4, false, false, false),
        ];
        let found = report(&peer, &candidates, now);
        let fates: Vec<Fate> = found.iter().map(|it| it.fate).collect();
        assert_eq!(fates, [Fate::InUse, Fate::Answers, Fate::Silent, Fate::Untried, Fate::LeftOut]);
        assert_eq!((found[1].rtt_ms, found[1].answered_s_ago), (Some(12.0), Some(3)));
    }
}
