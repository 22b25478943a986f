//! What to scan, and what is refused.

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use warren_proto::LanAddress;

/// The most addresses of one scan: a /16.
pub const MAX_ADDRESSES: u64 = 65_536;

/// The prefix of a network with so many.
const LARGEST: u8 = 16;

/// The most probes in a second.
pub const MAX_RATE: u32 = 1000;

/// The most ports that are tried at each device.
const MAX_PORTS: usize = 200;

/// What devices of a LAN usually serve.
pub const COMMON_PORTS: [u16; 20] = [
    21, 22, 23, 53, 80, 139, 443, 445, 502, 515, 554, 631, 1883, 3389, 5000, 8000, 8080, 8123,
    8443, 9100,
];

/// A service over UDP that answers a question of its own protocol, and no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum UdpService {
    /// Names (RFC 1035).
    Dns,
    /// Time (RFC 5905).
    Ntp,
    /// Management (RFC 1157): printers, switches, power supplies.
    Snmp,
    /// Telephones (RFC 3261).
    Sip,
    /// Small things (RFC 7252).
    Coap,
    /// Buildings (ANSI/ASHRAE 135).
    BacNet,
}

impl UdpService {
    /// Those that each device is asked for.
    pub const ALL: [Self; 6] =
        [Self::Dns, Self::Ntp, Self::Snmp, Self::Sip, Self::Coap, Self::BacNet];

    /// Where it is served.
    pub fn port(self) -> u16 {
        match self {
            Self::Dns => 53,
            Self::Ntp => 123,
            Self::Snmp => 161,
            Self::Sip => 5060,
            Self::Coap => 5683,
            Self::BacNet => 47_808,
        }
    }
}

/// What to scan, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ScanPlan {
    /// The networks.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
    pub networks: Vec<Ipv4Net>,
    /// TCP ports that are tried at each device.
    pub ports: Vec<u16>,
    /// Probes in a second, at most [`MAX_RATE`].
    pub rate: u32,
    /// Whether somebody has confirmed that addresses of the internet are to be scanned.
    pub public_confirmed: bool,
}

/// Why a plan isn't followed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refused {
    /// There is nothing to scan.
    #[error("there is no network to scan: name one, as 192.168.1.0/24")]
    Nothing,
    /// Addresses of the internet, or link-local ones.
    #[error("{0} is no private network, and scanning it may be forbidden: confirm that you may")]
    Public(Ipv4Net),
    /// Addresses that no device has.
    #[error("{0} is no network of devices")]
    Special(Ipv4Net),
    /// More than [`MAX_ADDRESSES`].
    #[error("{0} addresses are too many for one scan: at most 65,536, a /16")]
    TooMany(u64),
    /// Too many ports.
    #[error("{0} ports are too many: at most 200")]
    TooManyPorts(usize),
    /// No rate, or too high a one.
    #[error("{0} probes in a second: choose 1 to 1,000")]
    Rate(u32),
    /// Too often or too seldom.
    #[error("each {0} seconds: a scan is repeated each 15 minutes (900) to 30 days (2592000)")]
    Every(u64),
}

impl ScanPlan {
    /// The common ports of these networks, gently.
    pub fn of(networks: Vec<Ipv4Net>) -> Self {
        Self { networks, ports: COMMON_PORTS.to_vec(), rate: 300, public_confirmed: false }
    }

    /// Sees whether the plan may be followed.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn check(&self) -> Result<(), Refused> {
        if self.networks.is_empty() {
            return Err(Refused::Nothing);
        }
        for network in &self.networks {
            match LanAddress::of_network(*network) {
                LanAddress::Special => return Err(Refused::Special(*network)),
                LanAddress::LinkLocal | LanAddress::Public if !self.public_confirmed => {
                    return Err(Refused::Public(*network));
                }
                LanAddress::Private | LanAddress::LinkLocal | LanAddress::Public => {}
            }
        }
        let addresses = self.addresses();
        if addresses > MAX_ADDRESSES {
            return Err(Refused::TooMany(addresses));
        }
        self.check_manner()
    }

    /// The same but for the networks.
    pub(crate) fn check_manner(&self) -> Result<(), Refused> {
        if self.ports.len() > MAX_PORTS {
            return Err(Refused::TooManyPorts(self.ports.len()));
        }
        if !(1..=MAX_RATE).contains(&self.rate) {
            return Err(Refused::Rate(self.rate));
        }
        Ok(())
    }

    /// What to type for a scan of this network; of one that is too large for a scan, of its first part.
    pub fn command(network: Ipv4Net) -> String {
        let part = Ipv4Net::new(network.network(), network.prefix_len().max(LARGEST));
        format!("warren edge scan {}", part.unwrap_or(network))
    }

    /// How many addresses it has.
    pub fn addresses(&self) -> u64 {
        self.networks.iter().map(|network| 1 << (32 - network.prefix_len())).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_type_for_a_network_is_a_scan_that_is_allowed() {
        let command = |net: &str| ScanPlan::command(net.parse().unwrap());
        assert_eq!(command("10.5.0.0/16"), "warren edge scan 10.5.0.0/16");
        assert_eq!(command("10.5.0.0/20"), "warren edge scan 10.5.0.0/20");
        assert_eq!(command("10.5.0.0/8"), "warren edge scan 10.0.0.0/16", "the first part of it");
    }

    fn check(network: &str) -> Result<(), Refused> {
        ScanPlan::of(vec![network.parse().unwrap()]).check()
    }

    #[test]
    fn only_private_networks_are_scanned_unasked() {
        for network in ["192.168.1.0/24", "10.2.0.0/16", "172.31.0.0/24", "100.80.0.0/24"] {
            assert_eq!(check(network), Ok(()), "{network}");
        }
        assert!(matches!(check("8.8.8.0/24"), Err(Refused::Public(_))));
        assert!(matches!(check("172.0.0.0/8"), Err(Refused::Public(_))));
        assert!(matches!(check("169.254.0.0/16"), Err(Refused::Public(_))));
        assert!(matches!(check("10.0.0.0/8"), Err(Refused::TooMany(_))));
        for network in ["127.0.0.0/8", "224.0.0.0/24", "0.0.0.0/0", "240.0.0.0/24"] {
            assert!(matches!(check(network), Err(Refused::Special(_))), "{network}");
        }
        let mut plan = ScanPlan::of(vec!["8.8.8.0/24".parse().unwrap()]);
        plan.public_confirmed = true;
        assert_eq!(plan.check(), Ok(()));
        plan.rate = MAX_RATE + 1;
        assert!(plan.check().is_err());
    }
}
