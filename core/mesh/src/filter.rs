//! What each peer may send here without being asked.

use warren_proto::{DeviceId, Filter, Ports, Sources, Target};

/// What of the filter is about one peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Access {
    /// Anything: its packets are neither judged nor remembered.
    #[default]
    Open,
    /// These, and answers.
    Ports(Box<[Ports]>),
}

impl Access {
    pub(crate) fn of(filter: Option<&Filter>, peer: DeviceId) -> Self {
        let Some(filter) = filter else { return Self::Open };
        let about = |rule: &&warren_proto::FilterRule| match &rule.from {
            Sources::All => true,
            Sources::Devices(devices) => devices.contains(&peer),
        };
        let here = |target: &Target| matches!(target, Target::This | Target::Everything);
        let rules = filter.rules.iter().filter(about).filter(|rule| rule.to.iter().any(here));
        let ports: Box<[Ports]> = rules.flat_map(|rule| rule.ports.iter().copied()).collect();
        if ports.contains(&Ports::All) { Self::Open } else { Self::Ports(ports) }
    }

    pub(crate) fn is_open(&self) -> bool {
        *self == Self::Open
    }

    pub(crate) fn admits(&self, protocol: u8, port: u16) -> bool {
        match self {
            Self::Open => true,
            Self::Ports(ports) => ports.iter().any(|it| it.contains(protocol, port)),
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
        let first = Access::of(Some(&filter), DeviceId(1));
        assert!(first.admits(6, 22) && first.admits(1, 0));
        assert!(!first.admits(6, 23) && !first.admits(17, 22));
        assert!(Access::of(Some(&filter), DeviceId(2)).is_open());
        assert!(!Access::of(Some(&filter), DeviceId(3)).admits(6, 22));
        assert!(Access::of(None, DeviceId(3)).is_open());
        assert!(!Access::of(Some(&Filter::default()), DeviceId(3)).admits(1, 0));
    }
}
