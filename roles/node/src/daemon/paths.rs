//! Telling the broker how this device's traffic goes, so that people can look at it.
//!
//! A change of a path is told a moment later, counters once a minute; an idle device tells nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use warren_mesh::{PathState, PeerStatus};
use warren_proto::{DeviceId, MAX_PATH_REPORTS, PathKind, PathReport, PathReports};

use super::Daemon;
use super::view::path_kind;
use crate::control::Command;

/// Changes come in bursts: a path is sought, found, replaced by a better one.
const SETTLE: Duration = Duration::from_millis(300);
/// Between two reports at least.
const PAUSE: Duration = Duration::from_secs(1);
/// How often counters are looked at.
const INTERVAL: Duration = Duration::from_secs(60);

/// What the broker was told in this control session, and when to tell it more.
#[derive(Debug)]
pub(super) struct PathNews {
    told: BTreeMap<DeviceId, PathReport>,
    due: Instant,
    last: Instant,
}

impl PathNews {
    pub(super) fn new(now: Instant) -> Self {
        Self { told: BTreeMap::new(), due: now + INTERVAL, last: now }
    }

    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Something changed.
    pub(super) fn note(&mut self, now: Instant) {
        self.due = self.due.min((now + SETTLE).max(self.last + PAUSE));
    }

    /// A new control session: the broker knows nothing.
    pub(super) fn begin(&mut self, now: Instant) {
        self.told.clear();
        self.note(now);
    }

    /// What is to be told now.
    fn take(
        &mut self,
        reports: impl IntoIterator<Item = PathReport>,
        now: Instant,
    ) -> Vec<PathReport> {
        (self.last, self.due) = (now, now + INTERVAL);
        let mut news = Vec::new();
        for report in reports {
            let told = self.told.get(&report.peer);
            let is_known = match told {
                Some(told) => is_as_told(told, &report),
                None => report.path == PathKind::Idle,
            };
            if is_known {
                continue;
            }
            if news.len() == MAX_PATH_REPORTS {
                self.due = now + PAUSE;
                break;
            }
            if report.path == PathKind::Idle {
                self.told.remove(&report.peer);
            } else {
                self.told.insert(report.peer, report.clone());
            }
            news.push(report);
        }
        news
    }
}

/// A round trip is measured all the time; it is told along with what else there is to tell.
fn is_as_told(told: &PathReport, report: &PathReport) -> bool {
    let rtt_us = report.rtt_us;
    PathReport { rtt_us, ..told.clone() } == *report
}

impl Daemon {
    /// Tells the broker what is due.
    pub(super) async fn report_paths(&mut self) {
        if Instant::now() < self.paths.due() {
            return;
        }
        let peers = match &self.mesh {
            Some(mesh) if self.broker.connected => {
                mesh.client().snapshot().await.map(|snapshot| snapshot.peers).unwrap_or_default()
            }
            Some(_) | None => Vec::new(),
        };
        let paths = self.paths.take(peers.iter().map(report), Instant::now());
        if !paths.is_empty() {
            self.tell_broker(Command::Paths(PathReports { paths }));
        }
    }
}

fn report(peer: &PeerStatus) -> PathReport {
    let (path, endpoint) = path_kind(&peer.path);
    PathReport {
        peer: peer.id,
        path,
        reason: peer.reason.filter(|_| path != PathKind::Direct).map(|it| it.to_string()),
        endpoint,
        relay: peer
            .relay
            .as_ref()
            .filter(|_| matches!(peer.path, PathState::Relayed { .. }))
            .map(|it| it.id),
        rtt_us: peer.rtt.map(|rtt| u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX)),
        rx_bytes: peer.rx_bytes,
        tx_bytes: peer.tx_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(peer: u64, path: PathKind, bytes: u64, rtt: u32) -> PathReport {
        PathReport {
            peer: DeviceId(peer),
            path,
            reason: None,
            endpoint: None,
            relay: None,
            rtt_us: Some(rtt),
            rx_bytes: bytes,
            tx_bytes: 0,
        }
    }

    #[test]
    fn an_idle_device_tells_nothing_and_another_only_what_changed() {
        let now = Instant::now();
        let mut news = PathNews::new(now);
        let mut take = |report: &PathReport| news.take([report.clone()], now);
        let idle = path(1, PathKind::Idle, 0, 0);
        assert!(take(&idle).is_empty());
        let used = path(1, PathKind::Direct, 10, 5);
        assert_eq!(take(&used), std::slice::from_ref(&used));
        assert!(take(&path(1, PathKind::Direct, 10, 6)).is_empty(), "another round trip alone");
        let more = path(1, PathKind::Direct, 20, 6);
        assert_eq!(take(&more), std::slice::from_ref(&more));
        assert_eq!(take(&idle), std::slice::from_ref(&idle));
        assert!(take(&idle).is_empty());
        assert_eq!(take(&more), std::slice::from_ref(&more));
        news.begin(now);
        assert_eq!(news.take([more.clone()], now), [more], "another session");
    }

    #[test]
    fn changes_are_told_soon_but_not_in_a_storm() {
        let begin = Instant::now();
        let mut news = PathNews::new(begin);
        let now = begin + PAUSE;
        news.note(now);
        assert_eq!(news.due(), now + SETTLE);
        let now = now + SETTLE;
        news.take([], now);
        news.note(now);
        assert_eq!(news.due(), now + PAUSE);
        let many = (0..1000).map(|peer| path(peer, PathKind::Direct, 1, 1));
        assert_eq!(news.take(many.clone(), now).len(), MAX_PATH_REPORTS);
        assert_eq!(news.due(), now + PAUSE, "the others follow");
        assert_eq!(news.take(many, now)[0].peer, DeviceId(MAX_PATH_REPORTS as u64));
    }
}
