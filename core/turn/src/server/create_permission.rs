use std::net::IpAddr;
use std::time::Instant;

use super::Server;
use super::auth::Proven;
use super::request::{Refused, Reply};
use crate::codec::Message;

impl Server {
    /// RFC 8656 §10.2: all of the addresses are permitted, or none.
    pub(super) fn create_permission(
        &mut self,
        reply: &Reply,
        message: &Message<'_>,
        proven: &Proven,
        now: Instant,
    ) -> Result<(), Refused> {
        let handle = self.own_allocation(reply.client(), proven)?;
        let allocation = self.table.get(handle).ok_or(Refused::Code(437))?;
        let mut ips: Vec<IpAddr> = Vec::new();
        for peer in message.xor_peer_addresses() {
            let ip = peer.ok_or(Refused::Code(400))?.ip().to_canonical();
            self.check_peer(allocation, ip)?;
            if !ips.contains(&ip) {
                ips.push(ip);
            }
        }
        if ips.is_empty() {
            return Err(Refused::Code(400));
        }
        let (seconds, most) = (self.seconds(now), self.config.quotas.peers);
        let Some(allocation) = self.table.get_mut(handle) else { return Err(Refused::Code(437)) };
        if !allocation.peers.has_room(&ips, most, seconds) {
            return Err(Refused::Code(508));
        }
        for ip in ips {
            allocation.peers.permit(ip, seconds);
        }
        self.succeed(reply, |_| {});
        Ok(())
    }
}
