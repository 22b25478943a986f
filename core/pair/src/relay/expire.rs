//! Timers: each pair has one entry in a heap, at or before the instant when it may end. Traffic
//! doesn't touch the heap; a pair that turns out to have been active gets a later entry.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use super::seat::{PairIndex, Place};
use super::{Event, Relay};

/// An entry of the heap: when, which slot, and which of the pairs that lay in it.
pub(super) type Due = Reverse<(Instant, PairIndex, u32)>;

impl Relay {
    /// Ends what has been idle for too long.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.proofs.sweep(now, self.clock);
        while let Some(&Reverse((at, index, generation))) = self.due.peek()
            && at < now
        {
            self.due.pop();
            if self.table.generation(index) != generation {
                continue;
            }
            let Some(pair) = self.table.pair(index) else { continue };
            let due = pair.active + self.config.idle_timeout;
            if due < now {
                self.end(index);
            } else {
                self.due.push(Reverse((due, index, generation)));
            }
        }
    }

    /// The first sweep at which something may have to end.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let pair = self.due.peek().map(|Reverse((at, _, _))| (*at, "a pair may be idle"));
        let proof = self.proofs.next().map(|at| (at, "a proof may be forgotten"));
        let (at, why) = pair.into_iter().chain(proof).min_by_key(|(at, _)| *at)?;
        Some((self.sweep_after(at), why))
    }

    pub(super) fn watch(&mut self, index: PairIndex, now: Instant) {
        let generation = self.table.generation(index);
        self.due.push(Reverse((now + self.config.idle_timeout, index, generation)));
    }

    pub(super) fn end_waiting(&mut self) {
        for index in self.table.waiting() {
            self.end(index);
        }
    }

    fn end(&mut self, index: PairIndex) {
        let Some(pair) = self.table.remove(index) else { return };
        self.pair_by_guid.remove(&pair.guid);
        for (side, seat) in pair.seats() {
            self.sources.release(seat.client);
            self.leave(seat.client, Place { pair: index, side });
        }
        if pair.second.is_none() {
            self.counters.waited += 1;
            self.events.push_back(Event::Waited { guid: pair.guid });
            return;
        }
        self.paired -= 1;
        self.counters.ended += 1;
        let (guid, datagrams, bytes) = (pair.guid, pair.datagrams, pair.bytes);
        self.events.push_back(Event::Ended { guid, datagrams, bytes });
        self.note_drained();
    }

    /// The first sweep after `at`.
    fn sweep_after(&self, at: Instant) -> Instant {
        let interval = self.config.sweep_interval.max(Duration::from_millis(1)).as_nanos();
        let elapsed = at.saturating_duration_since(self.start).as_nanos();
        let sweeps = elapsed / interval + 1;
        self.start + Duration::from_nanos(u64::try_from(sweeps * interval).unwrap_or(u64::MAX))
    }
}
