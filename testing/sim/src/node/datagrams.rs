use std::net::SocketAddr;
use std::time::Instant;

use warren_mesh::{HEADROOM, Inbound, Outbound, OutboundDrop, TAILROOM};

use super::{Node, Want};
use crate::net::Network;

impl Node {
    /// Takes an IP packet from the host's applications, as from a TUN device.
    ///
    /// # Errors
    /// What the core says of a packet that it drops, or `None` where no daemon runs.
    pub(crate) fn handle_tun(
        &mut self,
        packet: &[u8],
        network: &mut Network,
        now: Instant,
    ) -> Result<(), Option<OutboundDrop>> {
        let Some(daemon) = &mut self.daemon else { return Err(None) };
        let peer = match daemon.mesh.handle_outbound(packet, packet.len(), now) {
            Outbound::Seal { remote, headroom, mut sealer } => {
                let offset = headroom + HEADROOM - warren_mesh::CHANNEL_HEADROOM;
                let mut slot = vec![0; offset + packet.len() + TAILROOM];
                slot[offset..offset + packet.len()].copy_from_slice(packet);
                let len = sealer.seal(&mut slot, packet.len());
                slot.truncate(len);
                network.send(self.host, self.port, remote, slot, now);
                return Ok(());
            }
            Outbound::Wait(peer) => peer,
            Outbound::Dropped(reason) => return Err(Some(reason)),
        };
        daemon.mesh.enqueue(peer, packet, now);
        Ok(())
    }

    /// Takes a datagram from the network.
    pub(crate) fn handle_datagram(
        &mut self,
        from: SocketAddr,
        mut payload: Vec<u8>,
        wants: &mut Vec<Want>,
        now: Instant,
    ) {
        let Some(daemon) = &mut self.daemon else { return };
        match daemon.mesh.handle_datagram(from, &mut payload, now) {
            Inbound::Deliver { range } => wants.push(Want::Deliver(payload[range].to_vec())),
            Inbound::Consumed | Inbound::Relay | Inbound::Dropped(_) => {}
        }
    }
}
