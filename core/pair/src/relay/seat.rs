use std::time::{Duration, Instant};

use super::ClientSocket;
use crate::wire::{Guid, Nonce};

/// A slot of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PairIndex(pub(super) u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    First,
    Second,
}

/// Where a client talks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) pair: PairIndex,
    pub(super) side: Side,
}

#[derive(Debug)]
pub(super) struct Pair {
    pub(super) guid: Guid,
    pub(super) first: Seat,
    pub(super) second: Option<Seat>,
    /// When either said something; while the second seat is empty, when the first was taken.
    pub(super) active: Instant,
    pub(super) datagrams: u64,
    pub(super) bytes: u64,
}

impl Pair {
    pub(super) fn new(guid: Guid, first: Seat, now: Instant) -> Self {
        Self { guid, first, second: None, active: now, datagrams: 0, bytes: 0 }
    }

    pub(super) fn seats(&self) -> impl Iterator<Item = (Side, &Seat)> {
        let second = self.second.as_ref().map(|seat| (Side::Second, seat));
        std::iter::once((Side::First, &self.first)).chain(second)
    }

    pub(super) fn seat_mut(&mut self, side: Side) -> Option<&mut Seat> {
        match side {
            Side::First => Some(&mut self.first),
            Side::Second => self.second.as_mut(),
        }
    }

    /// The seat at `side` and that of the partner, when the pair is complete.
    pub(super) fn own_and_other(&mut self, side: Side) -> Option<(&mut Seat, &mut Seat)> {
        let second = self.second.as_mut()?;
        Some(match side {
            Side::First => (&mut self.first, second),
            Side::Second => (second, &mut self.first),
        })
    }
}

/// One half of a pair.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) client: ClientSocket,
    /// By which the client proves that the seat is its own.
    pub(super) nonce: Option<Nonce>,
    /// Datagrams heard from it; two stands for more.
    heard: u8,
    allowance: Allowance,
}

impl Seat {
    pub(super) fn new(
        client: ClientSocket,
        nonce: Option<Nonce>,
        heard: u8,
        grace_ends: Instant,
    ) -> Self {
        let allowance = Allowance { grace_ends, full_at: grace_ends };
        Self { client, nonce, heard, allowance }
    }

    pub(super) fn hear(&mut self) {
        if self.heard < 2 {
            self.heard += 1;
        }
    }

    /// Whether it has said so little that one forged datagram could be behind it.
    pub(super) fn is_silent(&self) -> bool {
        self.heard < 2 && self.nonce.is_none()
    }

    /// Whether so many bytes may go to it although it is silent.
    pub(super) fn allows(&mut self, bytes: usize, rate: u32, now: Instant) -> bool {
        self.allowance.take(bytes, rate, now)
    }

    pub(super) fn start_grace(&mut self, grace_ends: Instant) {
        self.allowance.grace_ends = grace_ends;
    }
}

/// A token bucket that holds what comes in during one second; it counts from the grace's end on.
#[derive(Debug)]
struct Allowance {
    grace_ends: Instant,
    full_at: Instant,
}

impl Allowance {
    const BURST: Duration = Duration::from_secs(1);

    fn take(&mut self, bytes: usize, rate: u32, now: Instant) -> bool {
        if now < self.grace_ends {
            return true;
        }
        let cost = Duration::from_secs(1).mul_f64(bytes as f64 / f64::from(rate.max(1)));
        let full_at = self.full_at.max(now) + cost;
        let granted = full_at <= now + Self::BURST;
        if granted {
            self.full_at = full_at;
        }
        granted
    }
}
