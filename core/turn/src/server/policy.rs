//! Which peers may be reached at all (design.md §7).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{Config, Server};

/// Never reached unless allowed: this network, private (RFC 1918), shared (RFC 6598), loopback,
/// link-local, IETF assignments, documentation, 6to4 anycast, benchmarking, multicast, reserved
/// and broadcast (RFC 6890).
const DENIED_IPV4: &[(Ipv4Addr, u8)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 3),
];

/// What is denied of global unicast; everything else of IPv6 is: IETF assignments with Teredo and
/// documentation, 6to4 (both hide IPv4 addresses), documentation (RFC 9637).
const DENIED_IPV6: &[(Ipv6Addr, u8)] = &[
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

/// Global unicast (RFC 4291 §2.4), as far as IANA has begun to use it.
const GLOBAL_IPV6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

#[derive(Debug)]
pub(super) struct Policy {
    allowed: Vec<IpNet>,
    relayed: [Option<IpAddr>; 2],
    own: BTreeSet<IpAddr>,
}

impl Server {
    /// The host's addresses are these, instead of [`Config::own`]. What is permitted or bound to one
    /// that is new among them, and that the allow-list doesn't name, is so no more.
    pub fn set_own(&mut self, own: &[IpAddr]) {
        let lost = self.policy.set_own(own);
        if lost.is_empty() {
            return;
        }
        let mut channels = 0;
        for allocation in self.table.iter_mut().filter(|there| !there.relayed.is_virtual()) {
            let before = allocation.peers.channels();
            lost.iter().for_each(|ip| allocation.peers.forget(*ip));
            channels += before - allocation.peers.channels();
        }
        self.table.channels -= channels;
    }
}

impl Policy {
    pub(super) fn new(config: &Config) -> Self {
        let relayed = [config.relayed_ipv4.map(IpAddr::V4), config.relayed_ipv6.map(IpAddr::V6)];
        let allowed = config.allow_peers.clone();
        let mut policy = Self { allowed, relayed, own: BTreeSet::new() };
        policy.set_own(&config.own);
        policy
    }

    /// Gives those that could be reached before, and can't any more.
    fn set_own(&mut self, own: &[IpAddr]) -> Vec<IpAddr> {
        let named = own.iter().map(IpAddr::to_canonical);
        let own: BTreeSet<IpAddr> = named.chain(self.relayed.into_iter().flatten()).collect();
        let before: BTreeSet<IpAddr> = own.iter().copied().filter(|ip| self.allows(*ip)).collect();
        self.own = own;
        before.into_iter().filter(|ip| !self.allows(*ip)).collect()
    }

    /// Whether a peer may be reached, through a socket. The host's own addresses may only when the
    /// allow-list names them one by one: a range that holds the relay doesn't open its services.
    pub(super) fn allows(&self, ip: IpAddr) -> bool {
        if self.own.contains(&ip) {
            return self.allowed.contains(&IpNet::from(ip));
        }
        self.allowed.iter().any(|range| range.contains(&ip)) || !is_denied(ip)
    }
}

fn is_denied(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let bits = ip.to_bits();
            DENIED_IPV4.iter().any(|(net, len)| (bits ^ net.to_bits()) >> (32 - len) == 0)
        }
        IpAddr::V6(ip) => {
            let bits = ip.to_bits();
            let is_in = |(net, len): &(Ipv6Addr, u8)| (bits ^ net.to_bits()) >> (128 - len) == 0;
            !is_in(&GLOBAL_IPV6) || DENIED_IPV6.iter().any(is_in)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::*;

    fn policy(own: &[&str], allowed: &[&str]) -> Policy {
        let mut config = Config::private(Settings::default());
        config.own = own.iter().map(|ip| ip.parse().unwrap()).collect();
        config.allow_peers = allowed.iter().map(|net| net.parse().unwrap()).collect();
        Policy::new(&config)
    }

    fn allows(policy: &Policy, ip: &str) -> bool {
        policy.allows(ip.parse().unwrap())
    }

    #[test]
    fn only_the_internet_is_reached_by_default() {
        let policy = policy(&["8.8.8.8"], &[]);
        for ip in ["1.1.1.1", "223.255.255.255", "100.128.0.1", "2a00::1", "2606:4700::1111"] {
            assert!(allows(&policy, ip), "{ip}");
        }
        for ip in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.31.0.1",
            "192.0.0.8",
            "192.168.1.1",
            "198.19.0.1",
            "203.0.113.5",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "8.8.8.8",
            "::",
            "::1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "100::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "4000::1",
        ] {
            assert!(!allows(&policy, ip), "{ip}");
        }
    }

    #[test]
    fn an_allow_list_opens_ranges_but_the_relay_itself_only_by_name() {
        let policy_of = |allowed: &[&str]| policy(&["203.0.113.7"], allowed);
        let range = policy_of(&["203.0.113.0/24", "fd00::/8"]);
        assert!(allows(&range, "203.0.113.8") && allows(&range, "fd00::1"));
        assert!(!allows(&range, "203.0.113.7") && !allows(&range, "10.0.0.1"));
        assert!(allows(&policy_of(&["203.0.113.7/32"]), "203.0.113.7"));
    }
}
