//! What a device says of itself: its endpoints, its NATs, what it can do.

use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use warren_proto::{
    CheckIn, CheckInReply, CheckInState, DeviceId, EdgeState, Endpoint, EndpointKind,
    MAX_EDGE_NETWORKS, MAX_EDGE_PROBLEM, MAX_EDGE_PROBLEMS, MAX_ENDPOINTS, NatReport, RelayRtt,
    RelayState, WIREGUARD_ONLY, is_usable_endpoint,
};

use super::register::short;
use super::relay::are_alike;
use super::{Account, Subject};
use crate::{AccountRecord, Refused};

const MAX_CAPABILITIES: usize = 16;
const MAX_CAPABILITY: usize = 32;
const MAX_PROBLEM: usize = 200;

/// A device that changes its state more often than this is told to wait: each change costs a delta
/// to everybody.
const CHANGES_AT_ONCE: u32 = 30;
const CHANGE_INTERVAL: Duration = Duration::from_secs(1);

/// A device's own state, cleaned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reported {
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) nat: NatReport,
    pub(super) capabilities: Vec<String>,
    /// The relays that it reaches.
    pub(super) relays: Vec<RelayRtt>,
    /// How it does its duty as a relay.
    pub(super) relay: Option<RelayState>,
    /// How it does its duty as an edge.
    pub(super) edge: Option<EdgeState>,
}

impl Account {
    /// Takes a device's check-in; what changed goes out to the peers.
    ///
    /// # Errors
    /// [`Refused::Revoked`], or [`Refused::RateLimited`] when the state changes too often; it must
    /// be sent again then.
    pub fn handle_check_in(
        &mut self,
        device: DeviceId,
        check_in: &CheckIn,
        now: Instant,
    ) -> Result<CheckInReply, Refused> {
        self.registered(device)?;
        self.note_seen(device, now);
        let state = check_in.state.as_ref().map(|state| self.clean(state));
        let known = self.registered_mut(device)?;
        let Some(mut state) = state else {
            return Ok(CheckInReply { resend: known.resend || known.reported.is_none() });
        };
        known.resend = false;
        if known.reported.as_ref() == Some(&state) {
            return Ok(CheckInReply::default());
        }
        if !known.changes.take(CHANGES_AT_ONCE, CHANGE_INTERVAL, now) {
            known.resend = true;
            return Err(Refused::RateLimited);
        }
        let old = known.reported.take();
        let (moved, new_capabilities, new_reach) = match &old {
            Some(old) => {
                let reach = !are_alike(&old.relays, &state.relays);
                if !reach {
                    state.relays.clone_from(&old.relays);
                }
                let moved = (&old.endpoints, old.nat) != (&state.endpoints, state.nat);
                (moved, old.capabilities != state.capabilities, reach)
            }
            None => (true, !state.capabilities.is_empty(), !state.relays.is_empty()),
        };
        let edge_news = old.as_ref().and_then(|old| old.edge.as_ref()) != state.edge.as_ref();
        known.reported = Some(state);
        if edge_news {
            self.revise();
        }
        self.note_consent(device, now);
        if moved || new_capabilities {
            self.touch_device(device, new_capabilities, now);
        }
        if new_reach {
            self.touch(Subject::Reach(device), now);
        }
        if moved {
            self.relay_device_moved(device, now);
        }
        Ok(CheckInReply::default())
    }

    fn clean(&self, state: &CheckInState) -> Reported {
        let mut capabilities: Vec<String> = state
            .capabilities
            .iter()
            .filter(|word| is_capability(word) && *word != WIREGUARD_ONLY)
            .take(MAX_CAPABILITIES)
            .cloned()
            .collect();
        capabilities.dedup();
        let relay = state.relay.clone().map(|relay| RelayState {
            problem: relay.problem.map(|text| short(&text, MAX_PROBLEM)),
            ..relay
        });
        Reported {
            endpoints: clean_endpoints(&self.record, &state.endpoints),
            nat: state.nat,
            capabilities,
            relays: self.clean_rtts(&state.relay_rtts),
            relay,
            edge: state.edge.as_ref().map(clean_edge),
        }
    }
}

fn clean_edge(state: &EdgeState) -> EdgeState {
    let problems = state.problems.iter().take(MAX_EDGE_PROBLEMS);
    EdgeState {
        problems: problems.map(|text| short(text, MAX_EDGE_PROBLEM)).collect(),
        networks: state.networks.iter().take(MAX_EDGE_NETWORKS).map(Ipv4Net::trunc).collect(),
        ..state.clone()
    }
}

/// Words that need no escape in JSON: whoever counts bytes can count characters.
fn is_capability(word: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
    (1..=MAX_CAPABILITY).contains(&word.len()) && word.bytes().all(is_plain)
}

/// Drops what no peer should ever send to: unusable addresses, the account's own mesh addresses,
/// duplicates, and what is too much.
pub(super) fn clean_endpoints(account: &AccountRecord, endpoints: &[Endpoint]) -> Vec<Endpoint> {
    let mut clean: Vec<Endpoint> = Vec::new();
    for endpoint in endpoints {
        let mut addr = endpoint.addr;
        addr.set_ip(addr.ip().to_canonical());
        let mesh = match addr.ip() {
            std::net::IpAddr::V4(ip) => account.ipv4_range.contains(&ip),
            std::net::IpAddr::V6(ip) => account.ipv6_range.contains(&ip),
        };
        let known = clean.iter().any(|other| other.addr == addr);
        let learned = endpoint.kind == EndpointKind::Observed;
        if is_usable_endpoint(&addr) && !mesh && !known && !learned {
            clean.push(Endpoint { addr, kind: endpoint.kind });
        }
        if clean.len() == MAX_ENDPOINTS {
            break;
        }
    }
    clean
}
