use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use crate::codec::TransactionId;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Transaction(TransactionId),
    Refresh,
    Channel(SocketAddr),
    Permission(IpAddr),
    Keepalive,
}

/// What is due when. Whoever sets a timer keeps the instant, to remove it by.
#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(Instant, Timer)>);

impl Timers {
    pub(super) fn set(&mut self, at: Instant, timer: Timer) {
        self.0.insert((at, timer));
    }

    pub(super) fn remove(&mut self, at: Instant, timer: Timer) {
        self.0.remove(&(at, timer));
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        if self.0.first()?.0 > now {
            return None;
        }
        self.0.pop_first().map(|(_, timer)| timer)
    }

    pub(super) fn next(&self) -> Option<(Instant, &'static str)> {
        let (at, timer) = self.0.first()?;
        let why = match timer {
            Timer::Transaction(_) => "request to the relay",
            Timer::Refresh => "refresh of the allocation",
            Timer::Channel(_) => "refresh of a channel",
            Timer::Permission(_) => "refresh of a permission",
            Timer::Keepalive => "keepalive to the relay",
        };
        Some((*at, why))
    }
}
