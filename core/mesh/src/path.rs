//! Which way a peer's packets go, and which of two ways is better.
//!
//! A path is a remote address and what stands between (`via`). Paths are ranked by class first
//! (LAN, then direct, then relayed), and by round-trip time within a class. A new path replaces the
//! one in use only when it is of a better class, or quicker by a margin ([`HYSTERESIS`]), so that
//! two nearly equal paths don't flap. Among relayed paths that work none is better: which relay a
//! pair uses is chosen before (module `relay`), not raced for.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::LocalAddress;

/// A path of the same class must be quicker by this share of the present RTT (1/4) and by
/// [`HYSTERESIS_FLOOR`] to replace it.
const HYSTERESIS: u32 = 4;

/// See [`HYSTERESIS`].
const HYSTERESIS_FLOOR: Duration = Duration::from_millis(5);

/// Names a relay of the netmap for as long as the mesh lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayHandle(pub(crate) u16);

/// What stands between this device and a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Via {
    /// Nothing: datagrams go straight to the peer's endpoint.
    Direct,
    /// This device's allocation at a relay.
    Relay(RelayHandle),
    /// The peer's allocation at a relay that gives ordinary addresses: datagrams go there as they
    /// are.
    PeersRelay,
}

impl Via {
    /// The bytes of channel header before each datagram.
    pub fn headroom(self) -> usize {
        match self {
            Self::Direct | Self::PeersRelay => 0,
            Self::Relay(_) => crate::CHANNEL_HEADROOM,
        }
    }

    /// The relay at which this device has an allocation for it.
    pub(crate) fn relay(self) -> Option<RelayHandle> {
        match self {
            Self::Relay(relay) => Some(relay),
            Self::Direct | Self::PeersRelay => None,
        }
    }

    /// Whether a relay stands between.
    pub fn is_relayed(self) -> bool {
        match self {
            Self::Direct => false,
            Self::Relay(_) | Self::PeersRelay => true,
        }
    }
}

/// One way to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path {
    /// Where datagrams go; through [`Via::Relay`], where the relay passes them on to.
    pub remote: SocketAddr,
    /// What stands between.
    pub via: Via,
}

/// The class of a path; the smaller is the better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// The peer is on a prefix of one of the own interfaces.
    Lan,
    /// Direct, over whatever is between.
    Direct,
    /// Through a relay.
    Relayed,
}

impl Path {
    pub(crate) fn direct(remote: SocketAddr) -> Self {
        Self { remote, via: Via::Direct }
    }

    pub(crate) fn relayed(remote: SocketAddr, relay: RelayHandle) -> Self {
        Self { remote, via: Via::Relay(relay) }
    }

    pub(crate) fn is_relayed(self) -> bool {
        self.via.is_relayed()
    }

    /// The path's class, given the own interfaces.
    pub(crate) fn rank(self, local: &[LocalAddress]) -> Rank {
        match self.via {
            Via::Direct if local.iter().any(|address| is_on_link(*address, self.remote.ip())) => {
                Rank::Lan
            }
            Via::Direct => Rank::Direct,
            Via::Relay(_) | Via::PeersRelay => Rank::Relayed,
        }
    }
}

/// Whether a path with `new` figures should replace a working one with `present` figures.
pub(crate) fn is_better(new: (Rank, Duration), present: (Rank, Duration)) -> bool {
    if new.0 != present.0 {
        return new.0 < present.0;
    }
    if new.0 == Rank::Relayed {
        return false;
    }
    let margin = (present.1 / HYSTERESIS).max(HYSTERESIS_FLOOR);
    new.1 + margin < present.1
}

/// Whether `ip` is on the link of an own interface. A host route (/32, /128) has no link.
pub(crate) fn is_on_link(local: LocalAddress, ip: IpAddr) -> bool {
    match (local.ip, ip) {
        (IpAddr::V4(own), IpAddr::V4(ip)) => {
            let bits = u32::from(local.prefix_len);
            (1..32).contains(&bits) && (u32::from(own) ^ u32::from(ip)) >> (32 - bits) == 0
        }
        (IpAddr::V6(own), IpAddr::V6(ip)) => {
            let bits = u32::from(local.prefix_len);
            (1..128).contains(&bits) && (u128::from(own) ^ u128::from(ip)) >> (128 - bits) == 0
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(ip: &str, prefix_len: u8) -> LocalAddress {
        LocalAddress { ip: ip.parse().unwrap(), prefix_len }
    }

    fn rank(remote: &str, local: &[LocalAddress]) -> Rank {
        Path::direct(remote.parse().unwrap()).rank(local)
    }

    #[test]
    fn an_address_on_an_own_prefix_is_lan() {
        let own = [local("192.168.1.7", 24), local("2001:db8:1::7", 64)];
        assert_eq!(rank("192.168.1.200:1", &own), Rank::Lan);
        assert_eq!(rank("192.168.2.200:1", &own), Rank::Direct);
        assert_eq!(rank("[2001:db8:1::9]:1", &own), Rank::Lan);
        assert_eq!(rank("[2001:db8:2::9]:1", &own), Rank::Direct);
    }

    #[test]
    fn a_host_route_and_a_zero_prefix_have_no_link() {
        assert_eq!(rank("192.168.1.7:1", &[local("192.168.1.7", 32)]), Rank::Direct);
        assert_eq!(rank("8.8.8.8:1", &[local("192.168.1.7", 0)]), Rank::Direct);
    }

    #[test]
    fn lan_beats_a_quicker_direct_path() {
        let slow_lan = (Rank::Lan, Duration::from_millis(90));
        let quick = (Rank::Direct, Duration::from_millis(1));
        assert!(is_better(slow_lan, quick));
        assert!(!is_better(quick, slow_lan));
    }

    #[test]
    fn a_direct_path_beats_any_relayed_one_and_relayed_ones_do_not_race() {
        let relayed = (Rank::Relayed, Duration::from_millis(1));
        assert!(is_better((Rank::Direct, Duration::from_millis(300)), relayed));
        assert!(!is_better(relayed, (Rank::Direct, Duration::from_millis(300))));
        assert!(!is_better(relayed, (Rank::Relayed, Duration::from_millis(300))));
    }

    #[test]
    fn a_slightly_quicker_path_of_the_same_class_replaces_nothing() {
        let present = (Rank::Direct, Duration::from_millis(40));
        assert!(!is_better((Rank::Direct, Duration::from_millis(33)), present));
        assert!(is_better((Rank::Direct, Duration::from_millis(25)), present));
        let near = (Rank::Direct, Duration::from_millis(4));
        assert!(!is_better((Rank::Direct, Duration::ZERO), near));
    }
}
