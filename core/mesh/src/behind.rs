//! What stands behind a peer: who owns which addresses, and who is asked for them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use warren_proto::{EdgeOffer, LanAddress};

use crate::PeerHandle;

/// What stands behind one peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Behind {
    /// In order.
    pub(crate) addresses: Vec<Ipv4Addr>,
    pub(crate) networks: Vec<Ipv4Net>,
    /// Whether this device's traffic to the internet goes by the peer: by the user's choice alone.
    pub(crate) internet: Option<Exit>,
}

/// What an exit node is to this device, the better first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exit {
    /// The one that was chosen.
    Chosen,
    /// One that stands by for it.
    StandsBy,
}

impl Behind {
    /// Takes of an offer what lies inside the account's range, and the way to the internet if that is
    /// used.
    pub(crate) fn new(offer: &EdgeOffer, range: Ipv4Net, internet: Option<Exit>) -> Self {
        let devices = offer.virtual_devices.iter().map(|device| device.ipv4);
        let mut addresses: Vec<Ipv4Addr> = devices.filter(|ip| range.contains(ip)).collect();
        addresses.sort_unstable();
        Self { addresses, networks: offer.routed(range).collect(), internet }
    }

    pub(crate) fn has(&self, ip: Ipv4Addr) -> bool {
        self.addresses.binary_search(&ip).is_ok()
            || self.networks.iter().any(|net| net.contains(&ip))
            || (self.internet.is_some() && LanAddress::of(ip) == LanAddress::Public)
    }
}

/// Networks behind peers, to find the longest prefix in one step for each length that there is.
#[derive(Debug, Default)]
pub(crate) struct Networks {
    by_length: BTreeMap<u8, BTreeMap<Ipv4Addr, BTreeSet<PeerHandle>>>,
}

impl Networks {
    pub(crate) fn insert(&mut self, net: Ipv4Net, peer: PeerHandle) {
        let nets = self.by_length.entry(net.prefix_len()).or_default();
        nets.entry(net.network()).or_default().insert(peer);
    }

    pub(crate) fn remove(&mut self, net: Ipv4Net, peer: PeerHandle) {
        let Some(nets) = self.by_length.get_mut(&net.prefix_len()) else { return };
        if let Some(peers) = nets.get_mut(&net.network()) {
            peers.remove(&peer);
            if peers.is_empty() {
                nets.remove(&net.network());
            }
        }
        if nets.is_empty() {
            self.by_length.remove(&net.prefix_len());
        }
    }

    /// The peers behind which the smallest network is that has the address.
    pub(crate) fn find(&self, ip: Ipv4Addr) -> Option<&BTreeSet<PeerHandle>> {
        self.by_length
            .iter()
            .rev()
            .find_map(|(length, nets)| nets.get(&Ipv4Net::new(ip, *length).ok()?.network()))
    }
}
