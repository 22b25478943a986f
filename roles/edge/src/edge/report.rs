//! How the edge does, for people and for the broker.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use ipnet::Ipv4Net;
use tokio::sync::watch;
use warren_net::Counter;
use warren_proto::{EdgeOpen, EdgeState, MAX_EDGE_NETWORKS, MAX_EDGE_PROBLEM, MAX_EDGE_PROBLEMS};

use crate::kernel::opening::Opened;
use crate::kernel::render::{device_counter, forward_counter, gateway_counter};
use crate::problem::Problem;

/// How much something was used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Use {
    /// Packets in both directions, since the edge was started.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When it was last used, in seconds since the Unix epoch, as far as was seen since the start.
    pub last_unix: Option<u64>,
}

/// How the edge does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EdgeReport {
    /// How often what is open was put in force since the start, repairs included.
    pub applied: u64,
    /// How long the last time took.
    pub took: Duration,
    /// How often another program's doing was repaired.
    pub repaired: u64,
    /// What is open, and where its target is; a gateway's is its network's address.
    pub open: BTreeMap<Opened, Ipv4Addr>,
    /// What was used.
    pub uses: BTreeMap<Opened, Use>,
    /// What doesn't work.
    pub problems: BTreeSet<Problem>,
    /// The networks that it stands in.
    pub networks: BTreeSet<Ipv4Net>,
}

impl EdgeReport {
    /// What is open, and what isn't, as others are told.
    pub fn opened(&self) -> EdgeOpen {
        let problems = self.problems.iter().map(ToString::to_string).collect();
        let mut opened = EdgeOpen { problems, ..EdgeOpen::default() };
        for (it, at) in &self.open {
            match *it {
                Opened::Forward(id) => drop(opened.forwards.insert(id, *at)),
                Opened::Device(id) => drop(opened.virtual_devices.insert(id, *at)),
                Opened::Gateway(id) => drop(opened.gateways.insert(id, *at)),
            }
        }
        opened
    }

    /// What the broker is told of it.
    pub(super) fn state(&self) -> EdgeState {
        let networks = self.networks.iter().take(MAX_EDGE_NETWORKS).copied().collect();
        let mut state = EdgeState { networks, ..EdgeState::default() };
        for problem in &self.problems {
            add_problem(&mut state, problem);
        }
        state
    }
}

/// Tells the broker of one more, as far as there is room.
pub(super) fn add_problem(state: &mut EdgeState, problem: &Problem) {
    if state.problems.len() < MAX_EDGE_PROBLEMS {
        let mut text = problem.to_string();
        text.truncate(text.floor_char_boundary(MAX_EDGE_PROBLEM));
        state.problems.push(text);
    }
}

/// A failed engine has closed everything; so say that until it runs again.
pub(super) fn note_failure(report: &watch::Sender<EdgeReport>) {
    report.send_modify(|report| {
        report.open.clear();
        let reason = "the edge has failed; it begins again by itself".to_owned();
        report.problems = BTreeSet::from([Problem::Nothing { reason }]);
    });
}

/// The counter that the kernel has for it.
pub(super) fn name(opened: Opened) -> String {
    match opened {
        Opened::Forward(id) => forward_counter(id),
        Opened::Device(id) => device_counter(id),
        Opened::Gateway(id) => gateway_counter(id),
    }
}

/// Notes what was used of what is open.
pub(super) fn count(report: &mut EdgeReport, counts: &BTreeMap<Opened, Counter>) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    for opened in report.open.keys() {
        let Some(counter) = counts.get(opened) else { continue };
        let used = report.uses.entry(*opened).or_default();
        if counter.packets > used.packets {
            used.last_unix = Some(now.as_secs());
        }
        used.packets = counter.packets;
        used.bytes = counter.bytes;
    }
}
