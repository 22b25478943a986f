//! What each peer may send here without being asked.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use warren_proto::{
    DeviceId, DeviceName, Filter, FilterLimit, FilterRule, LanAddress, Ports, Sources, Target,
};

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

    /// Whether a packet to this device of that protocol and destination port is let in. What has no
    /// ports has port 0. Whoever may go out by this device may ask it for names.
    pub(crate) fn admits(&self, protocol: u8, port: u16) -> bool {
        match self {
            Self::Open => true,
            Self::Ports(admitted) => {
                let is_here = admitted.here.contains(protocol, port)
                    && !admitted.closed.contains(protocol, port);
                is_here || (is_name_service(protocol, port) && !admitted.out.0.is_empty())
            }
        }
    }

    /// Whether a packet to what stands behind this device is let through.
    pub(crate) fn admits_behind(&self, destination: IpAddr, protocol: u8, port: u16) -> bool {
        match self {
            Self::Open => true,
            Self::Ports(admitted) => admitted.behind(destination, protocol, port),
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

/// What is let in to this device, and to what stands behind it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Admitted {
    here: PortTable,
    /// Ports of this device that are for others alone.
    closed: PortTable,
    /// By length of the prefix and network, so that a look-up takes one step for each length.
    behind: BTreeMap<u8, BTreeMap<Ipv4Addr, PortTable>>,
    /// On the internet.
    out: PortTable,
}

impl Admitted {
    fn behind(&self, destination: IpAddr, protocol: u8, port: u16) -> bool {
        let IpAddr::V4(ip) = destination else { return false };
        if LanAddress::of(ip) == LanAddress::Public && self.out.contains(protocol, port) {
            return true;
        }
        self.behind.iter().any(|(length, nets)| {
            let net = Ipv4Net::new(ip, *length).map(|net| net.network());
            let ports = net.ok().and_then(|net| nets.get(&net));
            ports.is_some_and(|ports| ports.contains(protocol, port))
        })
    }
}

/// Whether a packet asks a name server (RFC 1035 §4.2).
fn is_name_service(protocol: u8, port: u16) -> bool {
    matches!(protocol, crate::ip::TCP | crate::transport::UDP) && port == 53
}

/// Ports to look up quickly: for each protocol, ranges in order and apart from each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct PortTable(Vec<(u8, u16, u16)>);

impl PortTable {
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
    all: Granted,
    by_device: BTreeMap<DeviceId, Granted>,
    limits: Vec<FilterLimit>,
    /// Whether anything stands behind this device: only then it matters whether rules lead there.
    is_edge: bool,
    /// Whether it leads to the internet.
    is_exit: bool,
}

/// What rules give access to.
#[derive(Debug, Default)]
struct Granted {
    here: Vec<Ports>,
    behind: BTreeMap<Ipv4Net, Vec<Ports>>,
    out: Vec<Ports>,
}

impl Granted {
    fn add(&mut self, to: &[Target], behind: &[Ipv4Net], ports: &[Ports]) {
        if to.iter().any(|it| matches!(it, Target::This | Target::Everything)) {
            self.here.extend(ports);
        }
        if to.iter().any(|it| matches!(it, Target::Internet | Target::Everything)) {
            self.out.extend(ports);
        }
        for net in behind {
            self.behind.entry(*net).or_default().extend(ports);
        }
    }
}

/// All that stands behind a device.
const EVERYTHING: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);

impl Rules {
    /// Sorts a filter. `virtual_devices` are those behind this device, `is_edge` says whether
    /// anything is, `is_exit` whether it leads to the internet.
    pub(crate) fn new(
        filter: &Filter,
        virtual_devices: &BTreeMap<DeviceName, Ipv4Addr>,
        is_edge: bool,
        is_exit: bool,
    ) -> Self {
        let limits = filter.limits.clone();
        let mut rules = Self { is_edge, is_exit, limits, ..Self::default() };
        for FilterRule { from, ports, to } in &filter.rules {
            let behind: Vec<Ipv4Net> = to
                .iter()
                .filter_map(|target| match target {
                    Target::Everything => Some(EVERYTHING),
                    Target::Subnet(IpNet::V4(net)) => Some(net.trunc()),
                    Target::Virtual(name) => virtual_devices.get(name).map(|ip| (*ip).into()),
                    Target::Subnet(IpNet::V6(_))
                    | Target::Internet
                    | Target::This
                    | Target::Unknown => None,
                })
                .collect();
            match from {
                Sources::All => rules.all.add(to, &behind, ports),
                Sources::Devices(devices) => {
                    for device in devices {
                        rules.by_device.entry(*device).or_default().add(to, &behind, ports);
                    }
                }
            }
        }
        rules
    }

    pub(crate) fn access(&self, peer: DeviceId) -> Access {
        let granted = || [Some(&self.all), self.by_device.get(&peer)].into_iter().flatten();
        let here: Vec<Ports> = granted().flat_map(|it| &it.here).copied().collect();
        let mut behind: BTreeMap<Ipv4Net, Vec<Ports>> = BTreeMap::new();
        for (net, ports) in granted().flat_map(|it| &it.behind) {
            behind.entry(*net).or_default().extend(ports);
        }
        let all_behind = behind.get(&EVERYTHING).is_some_and(|it| it.contains(&Ports::All));
        let closed = self.limits.iter().filter(|limit| !limit.from.contains(&peer));
        let closed: Vec<Ports> = closed.flat_map(|limit| &limit.ports).copied().collect();
        if here.contains(&Ports::All) && (all_behind || !self.is_edge) && closed.is_empty() {
            return Access::Open;
        }
        let mut admitted = Admitted {
            here: PortTable::new(&here),
            closed: PortTable::new(&closed),
            ..Admitted::default()
        };
        for (net, ports) in behind.iter().filter(|_| self.is_edge) {
            let nets = admitted.behind.entry(net.prefix_len()).or_default();
            nets.insert(net.network(), PortTable::new(ports));
        }
        if self.is_exit {
            let out: Vec<Ports> = granted().flat_map(|it| &it.out).copied().collect();
            admitted.out = PortTable::new(&out);
        }
        Access::Ports(Box::new(admitted))
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
        let rules = Rules::new(&filter, &BTreeMap::new(), false, false);
        let first = rules.access(DeviceId(1));
        assert!(first.admits(6, 22) && first.admits(1, 0));
        assert!(!first.admits(6, 23) && !first.admits(17, 22));
        assert!(rules.access(DeviceId(2)).is_open());
        assert!(!rules.access(DeviceId(3)).admits(6, 22));
        assert!(
            !Rules::new(&Filter::default(), &BTreeMap::new(), false, false)
                .access(DeviceId(3))
                .admits(1, 0)
        );
    }

    #[test]
    fn what_leads_behind_a_device_is_apart_from_what_leads_to_it() {
        let json = r#"{"rules":[{"from":"all"},{"from":["0000000000000001"],"to":["*"]},
            {"from":["0000000000000002"],"to":["virtual:camera"],"ports":["tcp:80"]},
            {"from":["0000000000000002"],"to":["subnet:100.80.254.0/25"],"ports":["icmp"]}]}"#;
        let filter: Filter = serde_json::from_str(json).unwrap();
        let camera = Ipv4Addr::new(100, 80, 1, 9);
        let names = BTreeMap::from([(DeviceName::from_free_text("camera"), camera)]);
        let rules = Rules::new(&filter, &names, true, false);
        assert!(rules.access(DeviceId(1)).is_open());
        let second = rules.access(DeviceId(2));
        assert!(!second.is_open() && second.admits(6, 22), "the edge itself is open to all");
        let behind = |ip: [u8; 4], protocol, port| second.admits_behind(ip.into(), protocol, port);
        assert!(behind(camera.octets(), 6, 80));
        assert!(!behind(camera.octets(), 6, 81) && !behind([100, 80, 1, 10], 6, 80));
        assert!(behind([100, 80, 254, 9], 1, 0) && !behind([100, 80, 254, 9], 6, 80));
        assert!(!behind([100, 80, 254, 200], 1, 0));
        assert!(!rules.access(DeviceId(3)).admits_behind(camera.into(), 6, 80));
        assert!(Rules::new(&filter, &names, false, false).access(DeviceId(3)).is_open());
    }

    #[test]
    fn the_internet_is_what_is_public_and_comes_with_names() {
        let json = r#"{"rules":[{"from":["0000000000000001"],"to":["internet"],"ports":["tcp:443"]},
            {"from":["0000000000000002"],"ports":["tcp:22"]},
            {"from":["0000000000000003"],"to":["*"],"ports":["tcp:22"]}]}"#;
        let filter: Filter = serde_json::from_str(json).unwrap();
        let exit = Rules::new(&filter, &BTreeMap::new(), true, true);
        let first = exit.access(DeviceId(1));
        assert!(first.admits_behind([198, 51, 100, 7].into(), 6, 443));
        assert!(!first.admits_behind([198, 51, 100, 7].into(), 6, 80));
        for private in [[192, 168, 1, 9], [10, 0, 0, 1], [100, 80, 1, 9], [169, 254, 169, 254]] {
            assert!(!first.admits_behind(private.into(), 6, 443), "{private:?}");
        }
        assert!(first.admits(17, 53) && first.admits(6, 53), "its names come by the exit, too");
        assert!(!first.admits(17, 54) && !first.admits(6, 443));
        let second = exit.access(DeviceId(2));
        assert!(!second.admits(17, 53) && !second.admits_behind([9, 9, 9, 9].into(), 6, 22));
        assert!(exit.access(DeviceId(3)).admits_behind([9, 9, 9, 9].into(), 6, 22));
        let edge = Rules::new(&filter, &BTreeMap::new(), true, false).access(DeviceId(1));
        assert!(!edge.admits_behind([9, 9, 9, 9].into(), 6, 443) && !edge.admits(17, 53));
        let opens = [1, 2, 3].map(|id| filter.opens_the_internet_to(DeviceId(id)));
        assert_eq!(opens, [true, false, true]);
    }

    #[test]
    fn a_port_that_is_for_some_alone_is_closed_to_all_others_whatever_the_rules_say() {
        let json = r#"{"rules":[{"from":"all","to":["*"]}],
            "limits":[{"from":["0000000000000001"],"ports":["tcp:8080-8089"]}]}"#;
        let filter: Filter = serde_json::from_str(json).unwrap();
        let rules = Rules::new(&filter, &BTreeMap::new(), true, false);
        assert!(rules.access(DeviceId(1)).is_open());
        let other = rules.access(DeviceId(2));
        assert!(!other.is_open() && !other.admits(6, 8085));
        assert!(other.admits(6, 8090) && other.admits(17, 8085) && other.admits(1, 0));
        assert!(other.admits_behind([100, 80, 1, 9].into(), 6, 8085));
    }

    #[test]
    fn ranges_that_touch_are_one() {
        let words =
            ["tcp:20-22", "tcp:80", "udp:53", "tcp:21-30", "tcp:81", "protocol:47", "tcp:5"];
        let ports: Vec<Ports> = words.iter().map(|word| word.parse().unwrap()).collect();
        let admitted = PortTable::new(&ports);
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
