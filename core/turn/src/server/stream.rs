//! Connections: they may wait for an allocation, but neither many nor for long.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::expire::Timer;
use super::{ClientAddr, Event, Server, StreamId, canonical};
use crate::prefix::Prefix;

/// How long a connection may be without an allocation.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) remote: SocketAddr,
    /// When it is closed, unless it has an allocation.
    deadline: Option<Instant>,
}

/// The connections without an allocation.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    count: u32,
    /// The oldest first.
    by_prefix: BTreeMap<Prefix, BTreeSet<(Instant, StreamId)>>,
    /// How many a prefix has, and since when: the one that has most is the last, and of such as have
    /// equally many the one with the oldest.
    fullest: BTreeSet<(usize, Reverse<Instant>, Prefix)>,
}

impl Waiting {
    fn of(&self, prefix: Prefix) -> usize {
        self.by_prefix.get(&prefix).map_or(0, BTreeSet::len)
    }

    fn insert(&mut self, prefix: Prefix, entry: (Instant, StreamId)) {
        self.change(prefix, |entries| entries.insert(entry));
        self.count += 1;
    }

    fn remove(&mut self, prefix: Prefix, entry: (Instant, StreamId)) {
        self.change(prefix, |entries| entries.remove(&entry));
        self.count -= 1;
    }

    fn change(
        &mut self,
        prefix: Prefix,
        act: impl FnOnce(&mut BTreeSet<(Instant, StreamId)>) -> bool,
    ) {
        let mut entries = self.by_prefix.remove(&prefix).unwrap_or_default();
        let figure = |entries: &BTreeSet<(Instant, StreamId)>| {
            entries.first().map(|(oldest, _)| (entries.len(), Reverse(*oldest), prefix))
        };
        if let Some(before) = figure(&entries) {
            self.fullest.remove(&before);
        }
        act(&mut entries);
        if let Some(after) = figure(&entries) {
            self.fullest.insert(after);
            self.by_prefix.insert(prefix, entries);
        }
    }

    /// The oldest of the prefix that has most.
    fn victim(&self) -> Option<StreamId> {
        let (_, _, prefix) = self.fullest.last()?;
        self.by_prefix.get(prefix)?.first().map(|(_, stream)| *stream)
    }
}

impl Server {
    /// A connection was accepted. `false` when there are too many of its prefix without an allocation:
    /// close it, it is not known here. When there are too many in all, the oldest of the prefix that has
    /// most gives way ([`Event::CloseStream`]): so nobody keeps others out, from however many prefixes.
    #[must_use]
    pub fn handle_stream(&mut self, stream: StreamId, remote: SocketAddr, now: Instant) -> bool {
        let remote = canonical(remote);
        let quotas = self.config.quotas;
        let most = quotas.waiting_streams_per_prefix.min(quotas.waiting_streams) as usize;
        if self.waiting.of(Prefix::of(remote.ip())) >= most {
            return false;
        }
        if self.waiting.count >= quotas.waiting_streams
            && let Some(victim) = self.waiting.victim()
        {
            self.drop_stream(victim);
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
            && known.deadline.is_none()
        {
            known.deadline = Some(deadline);
            self.waiting.insert(Prefix::of(known.remote.ip()), (deadline, stream));
            self.timers.set(deadline, Timer::Stream(stream));
        }
    }

    pub(super) fn stream_has_allocation(&mut self, stream: StreamId) {
        if let Some(known) = self.streams.get_mut(&stream)
            && let Some(deadline) = known.deadline.take()
        {
            self.waiting.remove(Prefix::of(known.remote.ip()), (deadline, stream));
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
