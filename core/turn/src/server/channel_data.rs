use std::time::Instant;

use super::{ClientAddr, Dropped, Route, Run, Server};
use crate::codec::ChannelNumber;

impl Server {
    /// RFC 8656 §12.6. A channel carries to its peer as long as it is bound, whatever became of the
    /// permission, which is about the other direction.
    pub(super) fn find_channel_route(
        &mut self,
        client: ClientAddr,
        channel: ChannelNumber,
        run: Run,
        now: Instant,
    ) -> Result<Route, Dropped> {
        let handle = self.table.find(client).ok_or(Dropped::NoAllocation)?;
        let allocation = self.table.get(handle).ok_or(Dropped::NoAllocation)?;
        let peer = allocation.peers.peer(channel, self.seconds(now)).ok_or(Dropped::NoChannel)?;
        self.forward(handle, peer, false, run, now)
    }
}
