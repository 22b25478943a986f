use std::time::Instant;

use super::request::KNOWN_ATTRIBUTES;
use super::{ClientAddr, Dropped, Handled, Run, Server, canonical};
use crate::codec::{AttributeType, Message};

impl Server {
    /// A Send indication (RFC 8656 §11.2).
    pub(super) fn handle_send(
        &mut self,
        client: ClientAddr,
        message: &Message<'_>,
        now: Instant,
    ) -> Result<Handled, Dropped> {
        if message.unknown_required(KNOWN_ATTRIBUTES).next().is_some() {
            return Err(Dropped::Unexpected);
        }
        let range = message.attribute_range(AttributeType::DATA);
        let (Some(peer), Some(range)) = (message.xor_peer_address().map(canonical), range) else {
            return Err(Dropped::Malformed);
        };
        let handle = self.table.find(client).ok_or(Dropped::NoAllocation)?;
        let allocation = self.table.get(handle).ok_or(Dropped::NoAllocation)?;
        if peer.port() == 0 {
            return Err(Dropped::Peer);
        }
        if !allocation.peers.is_permitted(peer.ip(), self.seconds(now)) {
            return Err(Dropped::NoPermission);
        }
        let run = Run::one(range.len());
        let route = self.forward(handle, peer, message.has_dont_fragment(), run, now)?;
        Ok(Handled::Relay { route, range })
    }
}
