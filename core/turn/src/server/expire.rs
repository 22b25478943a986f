//! What ends by itself, and how allocations end.

use std::time::Instant;

use super::owner::OwnerId;
use super::table::Handle;
use super::{ClientAddr, Event, RelayedPort, Server, StreamId};
use crate::binding::Family;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Allocation(Handle),
    Reservation([u8; 8]),
    Owner(OwnerId),
    Stream(StreamId),
}

impl Timer {
    pub(super) fn why(self) -> &'static str {
        match self {
            Self::Allocation(_) => "an allocation expires",
            Self::Reservation(_) => "a reserved port is let go",
            Self::Owner(_) => "a credential's bandwidth is full again",
            Self::Stream(_) => "a connection without an allocation is closed",
        }
    }
}

impl Server {
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Allocation(handle) => self.release(handle, now),
                Timer::Reservation(token) => self.expire_reservation(token, now),
                Timer::Owner(owner) => {
                    self.owners.stop_waiting(owner);
                    self.let_go_of_owner(owner, now);
                }
                Timer::Stream(stream) => self.expire_stream(stream),
            }
        }
    }

    /// Ends an allocation and everything that belongs to it.
    pub(super) fn release(&mut self, handle: Handle, now: Instant) {
        let Some(allocation) = self.table.remove(handle) else { return };
        self.timers.remove(allocation.expires, Timer::Allocation(handle));
        for family in Family::ALL {
            let Some(port) = allocation.relayed.port(family) else { continue };
            match &allocation.opening {
                Some(opening) => self.abandon_opening(opening, family, port, now),
                None => self.close_port(RelayedPort { family, port }, now),
            }
        }
        self.owners.remove_allocation(allocation.owner);
        self.let_go_of_owner(allocation.owner, now);
        if let ClientAddr::Stream(stream) = allocation.client {
            self.await_allocation(stream, now);
        }
        self.counters.released += 1;
    }

    pub(super) fn close_port(&mut self, port: RelayedPort, now: Instant) {
        self.rest_port(port, now);
        self.events.push_back(Event::ClosePort(port));
    }

    /// Forgets a credential that has no allocation, once it could spend its bandwidth afresh
    /// anyway: who allocates again and again doesn't get more of it.
    pub(super) fn let_go_of_owner(&mut self, owner: OwnerId, now: Instant) {
        let elapsed = self.elapsed(now);
        if let Some(wait) = self.owners.let_go(owner, elapsed) {
            self.timers.set(now + wait, Timer::Owner(owner));
        }
    }

    /// Ends the allocations of those who may no longer have one.
    pub(super) fn remove_revoked(&mut self, now: Instant) {
        let unwelcome: Vec<(Handle, ClientAddr)> = self
            .table
            .iter()
            .filter(|(_, allocation)| {
                self.owners
                    .identity(allocation.owner)
                    .is_some_and(|identity| !self.credentials.is_welcome(identity))
            })
            .map(|(handle, allocation)| (handle, allocation.client))
            .collect();
        for (handle, client) in unwelcome {
            self.release(handle, now);
            if let ClientAddr::Stream(stream) = client {
                self.drop_stream(stream);
            }
        }
    }
}
