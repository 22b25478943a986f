//! How traffic goes, as people are told.

use std::collections::BTreeMap;
use std::time::Duration;

use warren_coord::{Account, PathView, TrafficPoint};
use warren_proto::{DeviceId, DeviceName, PathKind, RelayId};
use warren_web::chart;

use super::relays::bytes;

/// A path in words.
pub(super) struct Line {
    pub(super) peer: String,
    pub(super) peer_id: DeviceId,
    pub(super) tone: &'static str,
    pub(super) how: String,
    pub(super) why: String,
    pub(super) endpoint: String,
    pub(super) rtt: String,
    pub(super) received: String,
    pub(super) sent: String,
}

/// The names of what paths lead to and through.
pub(super) struct Names {
    devices: BTreeMap<DeviceId, DeviceName>,
    relays: BTreeMap<RelayId, DeviceName>,
}

impl Names {
    pub(super) fn new(account: &Account, now: std::time::Instant, unix: Duration) -> Self {
        Self {
            devices: account.devices(now, unix).map(|it| (it.id, it.name)).collect(),
            relays: account.relays(now, unix).into_iter().map(|it| (it.id, it.name)).collect(),
        }
    }

    pub(super) fn device(&self, id: DeviceId) -> Option<&DeviceName> {
        self.devices.get(&id)
    }

    pub(super) fn relay(&self, id: Option<RelayId>) -> Option<&DeviceName> {
        self.relays.get(&id?)
    }

    /// A path in words; none to a device that is gone.
    pub(super) fn line(&self, path: PathView) -> Option<Line> {
        let how = match (path.path, self.relay(path.relay)) {
            (PathKind::Direct, _) => "Direct".to_owned(),
            (PathKind::Relayed, Some(relay)) => format!("Relayed by {relay}"),
            (PathKind::Relayed, None) => "Relayed".to_owned(),
            (PathKind::Connecting, _) => "Connecting".to_owned(),
            (PathKind::Idle, _) => "Idle".to_owned(),
            (PathKind::Unreachable, _) => "Unreachable".to_owned(),
        };
        Some(Line {
            peer: self.device(path.peer)?.to_string(),
            peer_id: path.peer,
            tone: tone(path.path),
            how,
            why: path.reason.unwrap_or_default(),
            endpoint: path.endpoint.map(|addr| addr.to_string()).unwrap_or_default(),
            rtt: path.rtt.map(round_trip).unwrap_or_default(),
            received: bytes(path.rx_bytes),
            sent: bytes(path.tx_bytes),
        })
    }
}

/// All paths of a device in a few words, as `2 direct, 1 relayed`; nothing while it talks to nobody.
pub(super) struct Sum {
    pub(super) text: String,
    pub(super) tone: &'static str,
}

impl Sum {
    pub(super) fn of(paths: impl Iterator<Item = PathView>) -> Self {
        let mut counts = [0_usize; 4];
        for path in paths {
            match path.path {
                PathKind::Direct => counts[0] += 1,
                PathKind::Relayed => counts[1] += 1,
                PathKind::Connecting => counts[2] += 1,
                PathKind::Unreachable => counts[3] += 1,
                PathKind::Idle => {}
            }
        }
        let words = ["direct", "relayed", "connecting", "unreachable"];
        let said: Vec<String> = counts
            .iter()
            .zip(words)
            .filter(|(count, _)| **count > 0)
            .map(|(count, word)| format!("{count} {word}"))
            .collect();
        let [direct, relayed, _, unreachable] = counts;
        let tone = match (unreachable > 0, relayed > 0, direct > 0) {
            (true, _, _) => tone(PathKind::Unreachable),
            (false, true, _) => tone(PathKind::Relayed),
            (false, false, true) => tone(PathKind::Direct),
            (false, false, false) => tone(PathKind::Idle),
        };
        Self { text: said.join(", "), tone }
    }
}

pub(super) fn tone(path: PathKind) -> &'static str {
    match path {
        PathKind::Direct => "good",
        PathKind::Relayed => "warn",
        PathKind::Connecting | PathKind::Idle => "idle",
        PathKind::Unreachable => "bad",
    }
}

/// A round trip: `0.4 ms`, `43 ms`.
pub(super) fn round_trip(rtt: Duration) -> String {
    let millis = rtt.as_secs_f64() * 1000.0;
    let digits = usize::from(millis < 9.95);
    format!("{millis:.digits$} ms")
}

/// A chart with what it shows in words.
pub(super) struct Chart {
    pub(super) title: &'static str,
    pub(super) now: String,
    pub(super) svg: String,
}

/// A device's last day: traffic and round trips.
pub(super) fn charts(points: &[TrafficPoint]) -> Vec<Chart> {
    let total: u64 = points.iter().map(|point| point.rx_bytes.saturating_add(point.tx_bytes)).sum();
    let traffic: Vec<Option<f64>> = points
        .iter()
        .map(|point| Some(point.rx_bytes.saturating_add(point.tx_bytes) as f64))
        .collect();
    let trips: Vec<Option<f64>> =
        points.iter().map(|point| point.rtt.map(|rtt| rtt.as_secs_f64())).collect();
    let last = points.iter().rev().find_map(|point| point.rtt).map(round_trip).unwrap_or_default();
    let label = format!("Traffic of the last day, {} in all", bytes(total));
    let traffic = chart::line(&traffic, &label);
    let trips = chart::line(&trips, &format!("Round trips of the last day, {last} at last"));
    let all = [("Traffic", bytes(total), traffic), ("Round trip", last, trips)];
    let drawn =
        all.into_iter().filter_map(|(title, now, svg)| Some(Chart { title, now, svg: svg? }));
    drawn.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_trip_has_the_digits_that_matter() {
        assert_eq!(round_trip(Duration::from_micros(420)), "0.4 ms");
        assert_eq!(round_trip(Duration::from_micros(9_949)), "9.9 ms");
        assert_eq!(round_trip(Duration::from_micros(43_400)), "43 ms");
    }
}
