use std::collections::BTreeMap;

use super::{Dropped, Run};

/// Data that was forwarded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Datagrams.
    pub packets: u64,
    /// Their payload.
    pub bytes: u64,
}

impl Traffic {
    pub(super) fn add(&mut self, run: Run) {
        self.packets += u64::from(run.packets);
        self.bytes += run.bytes;
    }
}

/// What has happened since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// From clients to peers.
    pub to_peers: Traffic,
    /// From peers to clients.
    pub to_clients: Traffic,
    /// From clients to clients of this server.
    pub between_clients: Traffic,
    /// Allocations made.
    pub allocated: u64,
    /// Allocations that ended.
    pub released: u64,
    /// Binding requests answered.
    pub bindings: u64,
    /// Requests whose credential or integrity is wrong.
    pub auth_failures: u64,
    /// Requests refused, by error code.
    pub refused: BTreeMap<u16, u64>,
    /// Ports that somebody else had.
    pub ports_taken: u64,
    dropped: [u64; Dropped::ALL.len()],
}

impl Counters {
    pub(super) fn count_drop(&mut self, reason: Dropped, packets: u32) {
        self.dropped[reason as usize] += u64::from(packets);
    }

    pub(super) fn refuse(&mut self, code: u16) {
        *self.refused.entry(code).or_default() += 1;
    }

    /// Datagrams dropped, by reason.
    pub fn drops(&self) -> impl Iterator<Item = (Dropped, u64)> + '_ {
        Dropped::ALL.into_iter().map(|reason| (reason, self.dropped[reason as usize]))
    }
}

/// What there is at the moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Allocations, virtual ones included.
    pub allocations: usize,
    /// Allocations with a virtual address.
    pub virtual_allocations: usize,
    /// Channels, expired ones perhaps included for a while.
    pub channels: usize,
    /// Credentials with an allocation.
    pub credentials: usize,
    /// Connections.
    pub streams: usize,
}
