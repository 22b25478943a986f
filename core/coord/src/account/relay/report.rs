//! What is heard of relays: soft, it ends with the process.

use std::net::SocketAddr;
use std::time::Instant;

use warren_proto::{RelayId, RelayReport, RelayRtt};

use crate::account::{Account, Subject};

/// A round-trip time that changed by less than this is told to nobody, in microseconds ...
const SAME_RTT_US: u32 = 5_000;
/// ... and by less than this share of the one before.
const SAME_RTT_SHARE: u32 = 4;

/// The most relays whose round-trip times a device may report.
pub(in crate::account) const MAX_RTTS: usize = 32;

/// What is known of a relay besides what is stored.
#[derive(Debug, Default)]
pub(super) struct Live {
    pub(super) report: Option<(Instant, RelayReport)>,
    pub(super) probes: Vec<RelayProbe>,
}

/// Whether the broker itself got an answer from a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayProbe {
    /// Where it asked.
    pub addr: SocketAddr,
    /// Whether an answer came.
    pub answered: bool,
}

impl Account {
    /// Takes a relay server's report. Where it is reached is durable:
    /// [`Account::prepare_relay_face`].
    pub fn handle_relay_report(&mut self, id: RelayId, report: RelayReport, now: Instant) {
        if !self.relays.records.contains_key(&id) {
            return;
        }
        let was_draining = self.is_draining(id);
        let draining = report.draining;
        self.relays.live.entry(id).or_default().report = Some((now, report));
        if draining != was_draining {
            self.touch(Subject::Relays, now);
        }
    }

    /// Takes what asking a relay for a Binding has shown.
    pub fn handle_relay_probes(&mut self, id: RelayId, probes: Vec<RelayProbe>) {
        if self.any_relay(id).is_some() {
            self.relays.live.entry(id).or_default().probes = probes;
        }
    }

    /// Whether a relay server has reported to this process.
    pub fn is_relay_heard(&self, id: RelayId) -> bool {
        self.relays.live.get(&id).is_some_and(|live| live.report.is_some())
    }

    /// What asking a relay has shown last.
    pub fn relay_probes(&self, id: RelayId) -> &[RelayProbe] {
        self.relays.live.get(&id).map_or(&[], |live| &live.probes)
    }

    pub(super) fn is_draining(&self, id: RelayId) -> bool {
        let report = self.relays.live.get(&id).and_then(|live| live.report.as_ref());
        report.is_some_and(|(_, report)| report.draining)
    }

    /// The round-trip times that are worth remembering: of relays that devices of this account use.
    pub(in crate::account) fn clean_rtts(&self, given: &[RelayRtt]) -> Vec<RelayRtt> {
        let mut clean: Vec<RelayRtt> = Vec::new();
        for rtt in given.iter().take(MAX_RTTS) {
            let is_new = clean.iter().all(|other| other.relay != rtt.relay);
            if is_new && self.any_relay(rtt.relay).is_some() {
                clean.push(*rtt);
            }
        }
        clean.sort_by_key(|rtt| rtt.relay);
        clean
    }
}

/// Whether two measurements differ so little that nobody would choose otherwise.
pub(in crate::account) fn are_alike(old: &[RelayRtt], new: &[RelayRtt]) -> bool {
    old.len() == new.len()
        && old.iter().zip(new).all(|(old, new)| {
            let tolerance = SAME_RTT_US.max(old.rtt_us / SAME_RTT_SHARE);
            (old.relay, old.transport) == (new.relay, new.transport)
                && old.rtt_us.abs_diff(new.rtt_us) <= tolerance
        })
}
