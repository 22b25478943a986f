//! What the driver does with a connection: its bytes, both ways.

use std::time::Instant;

use super::Proxy;
use crate::connection::{Connection, Stream};
use crate::flow::{FlowId, State};

impl<K: Copy + Ord> Proxy<K> {
    /// Looks at a connection; `None`: it is gone, or was broken off. [`Event::Ready`](super::Event)
    /// says when another look is worth it.
    pub fn stream(&mut self, id: FlowId, now: Instant) -> Option<Stream> {
        let flow = self.flows.get_mut(&id)?;
        flow.told = false;
        let State::Connected(connection) = &mut flow.state else { return None };
        let stream = (!connection.is_broken()).then(|| connection.look())?;
        if stream.ended {
            self.settle(id, now);
        }
        Some(stream)
    }

    /// Shows what the peer has sent, as far as it lies in one piece; `take` says how much it took.
    /// How much that was.
    pub fn take(&mut self, id: FlowId, now: Instant, take: impl FnOnce(&[u8]) -> usize) -> usize {
        self.with(id, now, |connection| connection.take(take)).unwrap_or(0)
    }

    /// Shows the room for what goes to the peer, as far as it lies in one piece; `fill` says how much
    /// it wrote. How much that was.
    pub fn give(
        &mut self,
        id: FlowId,
        now: Instant,
        fill: impl FnOnce(&mut [u8]) -> usize,
    ) -> usize {
        self.with(id, now, |connection| connection.give(fill)).unwrap_or(0)
    }

    /// The LAN sends no more: the peer is told, after what is on its way.
    pub fn finish(&mut self, id: FlowId, now: Instant) {
        self.with(id, now, Connection::finish);
    }

    fn with<R>(
        &mut self,
        id: FlowId,
        now: Instant,
        work: impl FnOnce(&mut Connection) -> R,
    ) -> Option<R> {
        let flow = self.flows.get_mut(&id)?;
        let State::Connected(connection) = &mut flow.state else { return None };
        let result = work(connection);
        self.settle(id, now);
        Some(result)
    }
}
