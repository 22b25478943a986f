use std::time::Instant;

use super::auth::Proven;
use super::peers::Refused as NotBound;
use super::request::{Refused, Reply};
use super::{Server, canonical};
use crate::codec::Message;

impl Server {
    /// RFC 8656 §12.2.
    pub(super) fn channel_bind(
        &mut self,
        reply: &Reply,
        message: &Message<'_>,
        proven: &Proven,
        now: Instant,
    ) -> Result<(), Refused> {
        let handle = self.own_allocation(reply.client(), proven)?;
        let (Some(number), Some(peer)) =
            (message.channel_number(), message.xor_peer_address().map(canonical))
        else {
            return Err(Refused::Code(400));
        };
        if peer.port() == 0 {
            return Err(Refused::Code(400));
        }
        let allocation = self.table.get(handle).ok_or(Refused::Code(437))?;
        self.check_peer(allocation, peer.ip())?;
        let (seconds, most) = (self.seconds(now), self.config.quotas.peers);
        let Some(allocation) = self.table.get_mut(handle) else { return Err(Refused::Code(437)) };
        if !allocation.peers.has_room(&[peer.ip()], most, seconds) {
            return Err(Refused::Code(508));
        }
        let before = allocation.peers.channels();
        let bound = allocation.peers.bind(number, peer, most, seconds);
        let after = allocation.peers.channels();
        if bound.is_ok() {
            allocation.peers.permit(peer.ip(), seconds);
        }
        self.table.channels = self.table.channels + after - before;
        match bound {
            Ok(()) => {
                self.succeed(reply, |_| {});
                Ok(())
            }
            Err(NotBound::Conflict) => Err(Refused::Code(400)),
            Err(NotBound::Full) => Err(Refused::Code(508)),
        }
    }
}
