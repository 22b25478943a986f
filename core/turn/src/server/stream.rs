//! Connections: they may wait for an allocation, but neither many nor for long.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::expire::Timer;
use super::{ClientAddr, Event, Server, StreamId, canonical};

/// How long a connection may be without an allocation.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) remote: SocketAddr,
    /// When it is closed, unless it has an allocation.
    deadline: Option<Instant>,
}

/// A /24 of IPv4, or a /56 of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Prefix([u8; 8]);

impl Prefix {
    fn of(remote: SocketAddr) -> Self {
        let mut prefix = [0; 8];
        match remote.ip() {
            IpAddr::V4(ip) => {
                prefix[..3].copy_from_slice(&ip.octets()[..3]);
                // No IPv6 address has this last byte here.
                prefix[7] = 1;
            }
            IpAddr::V6(ip) => prefix[..7].copy_from_slice(&ip.octets()[..7]),
        }
        Self(prefix)
    }
}

impl Server {
    /// A connection was accepted. `false` when there are too many without an allocation, in all or from
    /// its prefix: close it, it is not known here.
    #[must_use]
    pub fn handle_stream(&mut self, stream: StreamId, remote: SocketAddr, now: Instant) -> bool {
        let remote = canonical(remote);
        let (quotas, prefix) = (self.config.quotas, Prefix::of(remote));
        let neighbours = self.waiting_by_prefix.get(&prefix).copied().unwrap_or(0);
        if self.waiting_streams >= quotas.waiting_streams
            || neighbours >= quotas.waiting_streams_per_prefix
        {
            return false;
        }
        self.streams.insert(stream, Stream { remote, deadline: None });
        self.await_allocation(stream, now);
        true
    }

    /// A connection has ended, from either side; its allocation ends with it.
    pub fn handle_stream_closed(&mut self, stream: StreamId, now: Instant) {
        if let Some(handle) = self.table.find(ClientAddr::Stream(stream)) {
            self.release(handle, now);
        }
        self.forget_stream(stream);
    }

    pub(super) fn await_allocation(&mut self, stream: StreamId, now: Instant) {
        let deadline = now + PATIENCE;
        if let Some(known) = self.streams.get_mut(&stream)
            && known.deadline.replace(deadline).is_none()
        {
            self.waiting_streams += 1;
            *self.waiting_by_prefix.entry(Prefix::of(known.remote)).or_default() += 1;
            self.timers.set(deadline, Timer::Stream(stream));
        }
    }

    pub(super) fn stream_has_allocation(&mut self, stream: StreamId) {
        if let Some(known) = self.streams.get_mut(&stream)
            && let Some(deadline) = known.deadline.take()
        {
            self.waiting_streams -= 1;
            let prefix = Prefix::of(known.remote);
            if let Some(neighbours) = self.waiting_by_prefix.get_mut(&prefix) {
                *neighbours -= 1;
                if *neighbours == 0 {
                    self.waiting_by_prefix.remove(&prefix);
                }
            }
            self.timers.remove(deadline, Timer::Stream(stream));
        }
    }

    pub(super) fn expire_stream(&mut self, stream: StreamId) {
        self.drop_stream(stream);
    }

    /// Has a connection closed.
    pub(super) fn drop_stream(&mut self, stream: StreamId) {
        if self.streams.contains_key(&stream) {
            self.forget_stream(stream);
            self.events.push_back(Event::CloseStream(stream));
        }
    }

    fn forget_stream(&mut self, stream: StreamId) {
        self.stream_has_allocation(stream);
        self.streams.remove(&stream);
    }
}
