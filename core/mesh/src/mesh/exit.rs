//! The exit node: by which peer this device's traffic to the internet goes, if its user has chosen one.

use std::time::Instant;

use warren_proto::{DeviceId, EdgeOffer};

use super::Mesh;
use crate::behind::{Behind, Exit};
use crate::{PeerHandle, PeerStatus};

impl Mesh {
    /// Takes the user's choice: the internet is reached by this peer, or by one that stands by for it,
    /// as far as they offer it; `None`: not by the mesh. Packets from there are taken from nobody else.
    /// While none of them can be reached, packets to the internet are dropped.
    pub fn handle_exit(&mut self, exit: Option<DeviceId>, now: Instant) {
        self.exit = exit;
        let entries = self.netmap.iter().flat_map(|netmap| &netmap.peers);
        let behind: Vec<(PeerHandle, Behind)> = entries
            .filter_map(|entry| Some((self.peers.by_id(entry.id)?, self.behind(entry))))
            .collect();
        for (handle, behind) in behind {
            self.peers.set_behind(handle, behind);
        }
        self.pump(now);
    }

    /// The peer by which traffic to the internet goes at present, or would if it could be reached.
    pub fn exit_in_use(&self) -> Option<PeerStatus> {
        let peer = self.peers.get(self.peers.exit()?)?;
        self.peer(peer.id)
    }

    /// What a peer with such an offer is to this device.
    pub(super) fn as_exit(&self, id: DeviceId, offer: &EdgeOffer) -> Option<Exit> {
        let (chosen, internet) = self.exit.zip(offer.internet)?;
        if id == chosen {
            return Some(Exit::Chosen);
        }
        (internet.standby_for == Some(chosen)).then_some(Exit::StandsBy)
    }
}
