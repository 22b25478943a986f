//! How devices say their traffic goes: for people to look at, soft, and no part of any map.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use warren_proto::{DeviceId, MAX_PATH_REPORTS, PathKind, PathReport, PathReports, RelayId};

use super::Account;
use super::housekeeping::wall_clock;
use super::register::short;
use crate::limit::Bucket;
use crate::{Refused, UnixTime};

/// How long one point of a device's traffic lasts.
pub const TRAFFIC_STEP: Duration = Duration::from_secs(300);

/// How many points are kept: a day of them.
pub const TRAFFIC_STEPS: usize = 288;

const REPORTS_AT_ONCE: u32 = 30;
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
const MAX_REASON: usize = 200;

/// A path as the device at one end sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathView {
    /// The device at the other end.
    pub peer: DeviceId,
    /// How traffic goes.
    pub path: PathKind,
    /// Why it isn't direct.
    pub reason: Option<String>,
    /// Where the datagrams go.
    pub endpoint: Option<SocketAddr>,
    /// The relay in use.
    pub relay: Option<RelayId>,
    /// The round trip.
    pub rtt: Option<Duration>,
    /// Bytes received from the peer since the device's mesh came up.
    pub rx_bytes: u64,
    /// Bytes sent to the peer since the device's mesh came up.
    pub tx_bytes: u64,
}

/// A device's traffic during one [`TRAFFIC_STEP`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrafficPoint {
    /// When the step began.
    pub since: UnixTime,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// The mean of the round trips that were reported.
    pub rtt: Option<Duration>,
}

/// What a device has reported.
#[derive(Debug)]
pub(super) struct Paths {
    by_peer: BTreeMap<DeviceId, PathReport>,
    /// Bytes received and sent as of the last report.
    counters_by_peer: BTreeMap<DeviceId, (u64, u64)>,
    /// Made with the first traffic: most devices are idle.
    traffic: Option<Box<Traffic>>,
    reports: Bucket,
}

impl Paths {
    pub(super) fn none() -> Self {
        Self {
            by_peer: BTreeMap::new(),
            counters_by_peer: BTreeMap::new(),
            traffic: None,
            reports: Bucket::full(),
        }
    }

    /// How the device's traffic goes is unknown, as it went offline or begins a session; how it went is
    /// not.
    pub(super) fn forget(&mut self) {
        self.by_peer.clear();
    }

    pub(super) fn forget_peer(&mut self, peer: DeviceId) {
        self.by_peer.remove(&peer);
        self.counters_by_peer.remove(&peer);
    }

    /// By how much the counters have grown. The first word of a peer is where counting begins: what
    /// was before may have been counted by the broker process before this one.
    fn count(&mut self, report: &PathReport) -> (u64, u64) {
        let now = (report.rx_bytes, report.tx_bytes);
        let Some(before) = self.counters_by_peer.insert(report.peer, now) else { return (0, 0) };
        // A counter that went back has begun anew.
        let grown = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
        (grown(now.0, before.0), grown(now.1, before.1))
    }

    /// Whether anything but counters changed.
    fn take(&mut self, report: PathReport, now: Instant) -> bool {
        let (rx, tx) = self.count(&report);
        if rx > 0 || tx > 0 {
            let traffic = self.traffic.get_or_insert_with(|| Box::new(Traffic::new(now)));
            traffic.add(rx, tx, report.rtt_us, now);
        }
        let face = |it: &PathReport| (it.path, it.endpoint, it.relay);
        let is_news = self.by_peer.get(&report.peer).map(face) != Some(face(&report));
        match report.path {
            PathKind::Idle => self.by_peer.remove(&report.peer).is_some(),
            PathKind::Direct | PathKind::Relayed | PathKind::Connecting | PathKind::Unreachable => {
                self.by_peer.insert(report.peer, report);
                is_news
            }
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Step {
    rx: u64,
    tx: u64,
    rtt_sum: u64,
    rtts: u32,
}

/// The last [`TRAFFIC_STEPS`] steps, the first of which began at `begin`.
#[derive(Debug)]
struct Traffic {
    begin: Instant,
    steps: VecDeque<Step>,
}

impl Traffic {
    fn new(now: Instant) -> Self {
        Self { begin: now, steps: VecDeque::new() }
    }

    fn add(&mut self, rx: u64, tx: u64, rtt_us: Option<u32>, now: Instant) {
        let step = self.present(now);
        step.rx = step.rx.saturating_add(rx);
        step.tx = step.tx.saturating_add(tx);
        if let Some(rtt) = rtt_us {
            step.rtt_sum += u64::from(rtt);
            step.rtts += 1;
        }
    }

    /// The step of this moment; those that went by in silence are zero.
    fn present(&mut self, now: Instant) -> &mut Step {
        let step = TRAFFIC_STEP.as_secs();
        let index = now.duration_since(self.begin).as_secs() / step;
        let excess = (index + 1).saturating_sub(TRAFFIC_STEPS as u64);
        let gone = usize::try_from(excess).unwrap_or(usize::MAX).min(self.steps.len());
        self.steps.drain(..gone);
        self.begin += Duration::from_secs(excess * step);
        let length = usize::try_from(index - excess + 1).unwrap_or(TRAFFIC_STEPS);
        self.steps.resize(length, Step::default());
        &mut self.steps[length - 1]
    }
}

impl Account {
    /// Takes a device's word on how its traffic goes.
    ///
    /// # Errors
    /// [`Refused::Revoked`], or [`Refused::RateLimited`] for more than a report a second.
    pub fn handle_paths(
        &mut self,
        device: DeviceId,
        reports: PathReports,
        now: Instant,
    ) -> Result<(), Refused> {
        self.registered(device)?;
        let known: Vec<PathReport> = reports
            .paths
            .into_iter()
            .take(MAX_PATH_REPORTS)
            .filter(|report| report.peer != device && self.devices.contains_key(&report.peer))
            .map(|report| PathReport {
                reason: report.reason.map(|text| short(&text, MAX_REASON)),
                ..report
            })
            .collect();
        let paths = &mut self.registered_mut(device)?.paths;
        if !paths.reports.take(REPORTS_AT_ONCE, REPORT_INTERVAL, now) {
            return Err(Refused::RateLimited);
        }
        let mut is_news = false;
        for report in known {
            is_news |= paths.take(report, now);
        }
        if is_news {
            self.revise();
        }
        Ok(())
    }

    /// The paths that a device uses or seeks, by peer, as it sees them; none while it is offline.
    pub fn paths(&self, device: DeviceId) -> impl Iterator<Item = PathView> {
        let paths = self.devices.get(&device).map(|device| &device.paths.by_peer);
        paths.into_iter().flatten().map(|(peer, report)| PathView {
            peer: *peer,
            path: report.path,
            reason: report.reason.clone(),
            endpoint: report.endpoint,
            relay: report.relay,
            rtt: report.rtt_us.map(|micros| Duration::from_micros(micros.into())),
            rx_bytes: report.rx_bytes,
            tx_bytes: report.tx_bytes,
        })
    }

    /// A device's traffic of the last day, the oldest step first. `unix` is the wall clock at `now`,
    /// as time since the Unix epoch.
    pub fn traffic(
        &self,
        device: DeviceId,
        now: Instant,
        unix: Duration,
    ) -> impl Iterator<Item = TrafficPoint> {
        let traffic = self.devices.get(&device).and_then(|device| device.paths.traffic.as_deref());
        traffic.into_iter().flat_map(move |traffic| {
            let begin = wall_clock(unix, now.duration_since(traffic.begin));
            traffic.steps.iter().enumerate().map(move |(index, step)| TrafficPoint {
                since: UnixTime(begin.0 + index as u64 * TRAFFIC_STEP.as_secs()),
                rx_bytes: step.rx,
                tx_bytes: step.tx,
                rtt: step
                    .rtt_sum
                    .checked_div(step.rtts.into())
                    .filter(|_| step.rtts > 0)
                    .map(Duration::from_micros),
            })
        })
    }
}
