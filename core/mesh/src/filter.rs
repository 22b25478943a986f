//! What each peer may send here without being asked.

use std::collections::BTreeMap;

use warren_proto::{DeviceId, Filter, FilterRule, Ports, Sources, Target};

/// What of the filter is about one peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Access {
    /// Anything: its packets are neither judged nor remembered.
    #[default]
    Open,
    /// These, and answers.
    Ports(Box<Admitted>),
}

impl Access {
    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Self::Open)
    }

    /// Whether a packet of that protocol and destination port is let in. What has no ports has port
    /// 0.
    pub(crate) fn admits(&self, protocol: u8, port: u16) -> bool {
        match self {
            Self::Open => true,
            Self::Ports(admitted) => admitted.contains(protocol, port),
        }
    }
}

/// Who has watched the flows with a peer begin that is now restricted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watched {
    /// Nobody: until now it could send everything, so what runs may be its own.
    Never,
    /// The filter of an earlier run, if there was one: what is sent is as likely new. Only
    /// connections that were begun here are taken up again.
    LastRun,
}

/// Ports to look up quickly: for each protocol, ranges in order and apart from each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Admitted(Vec<(u8, u16, u16)>);

impl Admitted {
    fn new(ports: &[Ports]) -> Self {
        let mut ranges: Vec<(u8, u16, u16)> = ports.iter().flat_map(|it| it.ranges()).collect();
        ranges.sort_unstable();
        ranges.dedup_by(|next, last| {
            let touches = next.0 == last.0 && next.1 <= last.2.saturating_add(1);
            if touches {
                last.2 = last.2.max(next.2);
            }
            touches
        });
        Self(ranges)
    }

    fn contains(&self, protocol: u8, port: u16) -> bool {
        let after = self.0.partition_point(|(of, first, _)| (*of, *first) <= (protocol, port));
        let last = after.checked_sub(1).and_then(|at| self.0.get(at));
        last.is_some_and(|(of, _, last)| *of == protocol && port <= *last)
    }
}

/// A filter, sorted by whom it is about.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    all: Vec<Ports>,
    ports_by_device: BTreeMap<DeviceId, Vec<Ports>>,
}

impl Rules {
    pub(crate) fn new(filter: &Filter) -> Self {
        let mut rules = Self::default();
        let here = |target: &Target| matches!(target, Target::This | Target::Everything);
        for FilterRule { from, ports, to } in &filter.rules {
            if !to.iter().any(here) {
                continue;
            }
            match from {
                Sources::All => rules.all.extend(ports),
                Sources::Devices(devices) => {
                    for device in devices {
                        rules.ports_by_device.entry(*device).or_default().extend(ports);
                    }
                }
            }
        }
        rules
    }

    pub(crate) fn access(&self, peer: DeviceId) -> Access {
        let own = self.ports_by_device.get(&peer).into_iter().flatten();
        let ports: Vec<Ports> = self.all.iter().chain(own).copied().collect();
        if ports.contains(&Ports::All) {
            Access::Open
        } else {
            Access::Ports(Box::new(Admitted::new(&ports)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_about_those_whom_its_rules_name() {
        let json = r#"{"rules":[{"from":["0000000000000001"],"ports":["tcp:22"]},
            {"from":"all","ports":["icmp"]},{"from":["0000000000000002"]},
            {"from":"all","to":["subnet:10.0.0.0/8"]}]}"#;
        let filter: Filter = serde_json::from_str(json).unwrap();
        let rules = Rules::new(&filter);
        let first = rules.access(DeviceId(1));
        assert!(first.admits(6, 22) && first.admits(1, 0));
        assert!(!first.admits(6, 23) && !first.admits(17, 22));
        assert!(rules.access(DeviceId(2)).is_open());
        assert!(!rules.access(DeviceId(3)).admits(6, 22));
        assert!(!Rules::new(&Filter::default()).access(DeviceId(3)).admits(1, 0));
    }

    #[test]
    fn ranges_that_touch_are_one() {
        let words =
            ["tcp:20-22", "tcp:80", "udp:53", "tcp:21-30", "tcp:81", "protocol:47", "tcp:5"];
        let ports: Vec<Ports> = words.iter().map(|word| word.parse().unwrap()).collect();
        let admitted = Admitted::new(&ports);
        let expected = [(6, 5, 5), (6, 20, 30), (6, 80, 81), (17, 53, 53), (47, 0, u16::MAX)];
        assert_eq!(admitted.0, expected);
        for protocol in [1, 6, 17, 47, 58] {
            for port in 0..100 {
                let meant = ports.iter().any(|it| it.contains(protocol, port));
                assert_eq!(admitted.contains(protocol, port), meant, "{protocol} {port}");
            }
        }
    }
}
