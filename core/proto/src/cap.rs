//! What a device's owner lets it open as an edge: the one notion of node, edge and scan.

use std::fmt;

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::INTERNET;

/// The networks that a device may open, scan or call into, by its owner's word; all, if none is named. The
/// [`INTERNET`] among them is being an exit node, and no network.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LanCap(Vec<Ipv4Net>);

impl LanCap {
    /// These alone.
    pub fn only(networks: impl IntoIterator<Item = Ipv4Net>) -> Self {
        let (internet, mut lans): (Vec<Ipv4Net>, Vec<Ipv4Net>) =
            networks.into_iter().partition(|network| *network == INTERNET);
        let merged = Ipv4Net::aggregate(&lans);
        // All networks together are written as the internet is, and aren't that.
        if !merged.contains(&INTERNET) {
            lans = merged;
        }
        lans.sort_unstable();
        lans.extend(internet.first());
        Self(lans)
    }

    /// Whether there is no limit.
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// The networks; none: all.
    pub fn networks(&self) -> &[Ipv4Net] {
        &self.0
    }

    /// Whether an address may be led to.
    pub fn admits(&self, ip: Ipv4Addr) -> bool {
        self.admits_network(ip.into())
    }

    /// Whether all of a network, or the [`INTERNET`], may be.
    pub fn admits_network(&self, network: Ipv4Net) -> bool {
        if network == INTERNET {
            return self.is_everything() || self.0.contains(&INTERNET);
        }
        self.is_everything() || self.lans().any(|lan| lan.contains(&network))
    }

    /// The parts of a network that may be.
    pub fn within(&self, network: Ipv4Net) -> Vec<Ipv4Net> {
        if self.admits_network(network) {
            return vec![network];
        }
        self.lans().filter(|lan| network.contains(*lan)).copied().collect()
    }

    fn lans(&self) -> impl Iterator<Item = &Ipv4Net> {
        self.0.iter().filter(|network| **network != INTERNET)
    }
}

/// `192.168.1.0/24, the internet`.
impl fmt::Display for LanCap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_everything() {
            return f.write_str("everything");
        }
        for (count, network) in self.0.iter().enumerate() {
            f.write_str(if count == 0 { "" } else { ", " })?;
            match *network == INTERNET {
                true => f.write_str("the internet")?,
                false => write!(f, "{network}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn only_what_is_named_is_admitted_and_without_names_everything() {
        let cap = LanCap::only(["192.168.1.0/25", "192.168.1.128/25", "10.1.0.7/32"].map(net));
        assert_eq!(cap.to_string(), "10.1.0.7/32, 192.168.1.0/24");
        assert!(cap.admits([192, 168, 1, 9].into()) && cap.admits([10, 1, 0, 7].into()));
        assert!(!cap.admits([192, 168, 2, 9].into()) && !cap.admits([10, 1, 0, 8].into()));
        assert!(cap.admits_network(net("192.168.1.0/24")));
        for outside in ["192.168.0.0/23", "10.1.0.0/24", "0.0.0.0/0", "8.8.8.8/32"] {
            assert!(!cap.admits_network(net(outside)), "{outside}");
        }
        assert_eq!(cap.within(net("192.168.0.0/16")), [net("192.168.1.0/24")]);
        assert_eq!(cap.within(net("192.168.1.64/26")), [net("192.168.1.64/26")]);
        assert!(cap.within(net("172.16.0.0/24")).is_empty());
        let all = LanCap::default();
        assert!(all.admits([8, 8, 8, 8].into()) && all.admits_network(INTERNET));
    }

    #[test]
    fn to_be_an_exit_node_is_no_right_to_every_network() {
        let cap = LanCap::only([INTERNET, net("192.168.1.0/24")]);
        assert!(cap.admits_network(INTERNET) && !cap.admits([10, 0, 0, 1].into()));
        assert!(!cap.admits([8, 8, 8, 8].into()));
        assert_eq!(cap.to_string(), "192.168.1.0/24, the internet");
        let halves = LanCap::only(["0.0.0.0/1", "128.0.0.0/1"].map(net));
        assert!(!halves.admits_network(INTERNET) && halves.admits([10, 0, 0, 1].into()));
        let json = serde_json::to_string(&cap).unwrap();
        assert_eq!(json, r#"["192.168.1.0/24","0.0.0.0/0"]"#);
        assert_eq!(serde_json::from_str::<LanCap>(&json).unwrap(), cap);
    }
}
