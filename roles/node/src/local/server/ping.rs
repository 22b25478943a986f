use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::watch::Receiver;
use tokio::time::Instant;
use warren_mesh::OutboundDrop;
use warren_proto::{Netmap, PathKind, Peer};

use super::Replies;
use crate::daemon::{Failure, View, peer_status};
use crate::data::DataClient;
use crate::local::message::{FailureCode, PingReport, PingRequest, Reply};
use crate::local::status::{NodeState, PeerStatus};

/// Between two looks at a path that is being sought.
const LOOK: Duration = Duration::from_millis(50);

/// Pings a peer until the count is reached, the path is direct, or the client goes.
pub(super) async fn ping(
    view: &Receiver<View>,
    request: &PingRequest,
    replies: &mut Replies,
) -> std::io::Result<()> {
    let mut seq = 0;
    loop {
        seq += 1;
        let begun = Instant::now();
        let current = view.borrow().clone();
        let report = match Target::find(&current, &request.peer) {
            Ok(target) => target.attempt(request, seq).await,
            Err(failure) => return replies.send(&failure.into()).await,
        };
        let direct = report.path == PathKind::Direct && report.rtt_ms.is_some();
        replies.send(&Reply::Ping(report)).await?;
        if request.count.is_some_and(|count| seq >= count) || (request.until_direct && direct) {
            return replies.send(&Reply::Done).await;
        }
        tokio::time::sleep_until(begun + Duration::from_millis(request.interval_ms.max(10))).await;
    }
}

/// A peer that is pinged.
struct Target<'v> {
    data: &'v DataClient,
    netmap: &'v Netmap,
    peer: &'v Peer,
    source: IpAddr,
    address: IpAddr,
}

impl<'v> Target<'v> {
    fn find(view: &'v View, name: &str) -> Result<Self, Failure> {
        let (Some(data), Some(netmap)) = (&view.data, &view.netmap) else {
            return Err(not_up(view.state));
        };
        let this = &netmap.this;
        if is_self(netmap, name) {
            let text = "that is this device itself; 'warren status' lists the others";
            return Err(Failure::new(FailureCode::Invalid, text));
        }
        let Some((peer, ipv6)) = find_peer(netmap, name) else {
            let text = format!("there is no device '{name}' here; 'warren status' lists them");
            return Err(Failure::new(FailureCode::UnknownPeer, text));
        };
        let (source, address) = if ipv6 {
            (this.ipv6.into(), peer.ipv6.into())
        } else {
            (this.ipv4.into(), peer.ipv4.into())
        };
        Ok(Self { data, netmap, peer, source, address })
    }

    async fn attempt(&self, request: &PingRequest, seq: u32) -> PingReport {
        let patience = Duration::from_millis(request.timeout_ms.max(10));
        let stood = self.status().await.is_some_and(|status| stands(status.path));
        self.data.seek(self.peer.id).await;
        let echo = tokio::time::timeout(patience, self.echo_or_give_up()).await;
        let status = self.status().await;
        let rtt = match &echo {
            Ok(Ok(rtt)) => Some(*rtt),
            Ok(Err(_)) | Err(_) => None,
        };
        let path = status.as_ref().map_or(PathKind::Unreachable, |status| status.path);
        let path_rtt_ms = status.as_ref().and_then(|status| status.rtt_ms);
        let found_after_ms = match (stood, rtt, path_rtt_ms) {
            (false, Some(rtt), Some(path_rtt)) => Some((millis(rtt) - path_rtt).max(0.0)),
            (true, _, _) | (_, None, _) | (_, _, None) => None,
        };
        let reason = match echo {
            Ok(Ok(_)) => status.as_ref().and_then(|status| status.reason.clone()),
            Ok(Err(reason)) => Some(reason),
            Err(_) if path == PathKind::Direct => Some(
                "a path stands, but the device does not answer pings; does its firewall drop ICMP?"
                    .to_owned(),
            ),
            Err(_) => Some(
                status
                    .as_ref()
                    .and_then(|status| status.reason.clone())
                    .unwrap_or_else(|| "still seeking a path".to_owned()),
            ),
        };
        PingReport {
            peer: self.peer.name.to_string(),
            address: self.address,
            seq,
            rtt_ms: rtt.map(millis),
            found_after_ms,
            path,
            endpoint: status.as_ref().and_then(|status| status.endpoint),
            relay: status.as_ref().and_then(|status| status.relay.clone()),
            path_rtt_ms,
            reason,
        }
    }

    /// An echo through the tunnel; ends early when the mesh has sought a path in vain.
    async fn echo_or_give_up(&self) -> Result<Duration, String> {
        let echo = self.data.echo(self.source, self.address);
        tokio::pin!(echo);
        loop {
            tokio::select! {
                answer = &mut echo => return match answer {
                    Ok(Ok(rtt)) => Ok(rtt),
                    Ok(Err(OutboundDrop::Unreachable)) => Err(self.why_unreachable().await),
                    Ok(Err(reason)) => Err(why_not_sent(reason).to_owned()),
                    Err(gone) => Err(gone.to_string()),
                },
                () = tokio::time::sleep(LOOK) => {
                    let status = self.status().await;
                    if status.is_none_or(|status| status.path == PathKind::Unreachable) {
                        return Err(self.why_unreachable().await);
                    }
                }
            }
        }
    }

    async fn why_unreachable(&self) -> String {
        let status = self.status().await;
        status.and_then(|status| status.reason).unwrap_or_else(|| "no path was found".to_owned())
    }

    async fn status(&self) -> Option<PeerStatus> {
        let peers = self.data.snapshot().await.ok()?.peers;
        let peer = peers.iter().find(|peer| peer.id == self.peer.id)?;
        Some(peer_status(peer, &self.netmap.dns.domain))
    }
}

/// By name, full name or address; and whether by the IPv6 address.
pub(super) fn find_peer<'n>(netmap: &'n Netmap, name: &str) -> Option<(&'n Peer, bool)> {
    if let Ok(ip) = name.parse::<IpAddr>() {
        let by_address = |peer: &&Peer| ip == peer.ipv4 || ip == peer.ipv6;
        return netmap.peers.iter().find(by_address).map(|peer| (peer, ip.is_ipv6()));
    }
    let label = label(netmap, name);
    netmap.peers.iter().find(|peer| peer.name.as_str() == label).map(|peer| (peer, false))
}

/// Whether this device is called so, or has that address.
pub(super) fn is_self(netmap: &Netmap, name: &str) -> bool {
    let this = &netmap.this;
    this.name.as_str() == label(netmap, name)
        || name.parse().is_ok_and(|ip: IpAddr| ip == this.ipv4 || ip == this.ipv6)
}

/// A name without the account's domain.
fn label(netmap: &Netmap, name: &str) -> String {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    match name.strip_suffix(&format!(".{}", netmap.dns.domain)) {
        Some(label) => label.to_owned(),
        None => name,
    }
}

/// Whether datagrams go that way already.
fn stands(path: PathKind) -> bool {
    match path {
        PathKind::Direct | PathKind::Relayed => true,
        PathKind::Connecting | PathKind::Idle | PathKind::Unreachable => false,
    }
}

fn why_not_sent(reason: OutboundDrop) -> &'static str {
    match reason {
        OutboundDrop::Unreachable => "no path was found",
        OutboundDrop::TooBig => "the packet is longer than the path carries",
        OutboundDrop::QueueFull => "too much waits for this path already; try again in a moment",
        OutboundDrop::Denied => "the policy hides it, or no device has that address",
        OutboundDrop::UnknownDestination => "the device has just left the account",
        OutboundDrop::Malformed
        | OutboundDrop::ForeignSource
        | OutboundDrop::Multicast
        | OutboundDrop::OwnAddress => {
            "this device's address has just changed; try again in a moment"
        }
    }
}

/// Why there is nothing to ping with.
pub(super) fn not_up(state: NodeState) -> Failure {
    match state {
        NodeState::NotJoined | NodeState::MustJoinAgain | NodeState::Joining => Failure::new(
            FailureCode::NotJoined,
            "this device belongs to no account: warren up --join LINK",
        ),
        NodeState::Down => {
            Failure::new(FailureCode::Down, "this device is disconnected: 'warren up' connects it")
        }
        NodeState::Connecting | NodeState::Connected | NodeState::Offline => Failure::new(
            FailureCode::Down,
            "the mesh is not up yet; 'warren status' says what is missing",
        ),
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
