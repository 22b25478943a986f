use std::collections::HashMap;
use std::net::IpAddr;

use super::{ClientSocket, Seeded};

/// An IPv4 address, or an IPv6 /64: what one customer of a network has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Source {
    V4(u32),
    V6(u64),
}

impl Source {
    fn of(client: ClientSocket) -> Self {
        match client.address().ip() {
            IpAddr::V4(ip) => Self::V4(ip.to_bits()),
            IpAddr::V6(ip) => Self::V6((ip.to_bits() >> 64) as u64),
        }
    }
}

/// How many seats each source holds.
#[derive(Debug)]
pub(super) struct Sources {
    limit: u32,
    seats_by_source: HashMap<Source, u32, Seeded>,
}

impl Sources {
    pub(super) fn new(limit: u32, hasher: Seeded) -> Self {
        Self { limit, seats_by_source: HashMap::with_hasher(hasher) }
    }

    /// Takes a seat for `client`'s source, unless it holds enough.
    pub(super) fn take(&mut self, client: ClientSocket) -> bool {
        let seats = self.seats_by_source.entry(Source::of(client)).or_default();
        let granted = *seats < self.limit;
        if granted {
            *seats += 1;
        } else if *seats == 0 {
            self.seats_by_source.remove(&Source::of(client));
        }
        granted
    }

    pub(super) fn release(&mut self, client: ClientSocket) {
        let source = Source::of(client);
        if let Some(seats) = self.seats_by_source.get_mut(&source) {
            *seats -= 1;
            if *seats == 0 {
                self.seats_by_source.remove(&source);
            }
        }
    }

    /// Gives `old`'s seat up for one of `new`, or keeps it if `new`'s source holds enough.
    pub(super) fn exchange(&mut self, old: ClientSocket, new: ClientSocket) -> bool {
        if Source::of(old) == Source::of(new) {
            return true;
        }
        let granted = self.take(new);
        if granted {
            self.release(old);
        }
        granted
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.seats_by_source.is_empty()
    }
}
