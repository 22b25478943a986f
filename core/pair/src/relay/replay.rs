//! Which proofs were seen.
//!
//! A proof counts while its time is within the window around the relay's clock, and only if its
//! time is later than that of every earlier one with the same nonce. A nonce is remembered until
//! its last proof has left the window, whatever has become of its seat.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::{Duration, Instant};

use super::Seeded;
use super::clock::Clock;
use crate::counters::Drop;
use crate::wire::{Nonce, Proof};

/// The most nonces remembered; each is some 60 bytes.
const MAX_NONCES: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct ProofMemory {
    window: Duration,
    /// Proofs of before are stale.
    floor: Duration,
    last_by_nonce: HashMap<Nonce, u64, Seeded>,
    /// One entry for each nonce, at or before the instant when it may be forgotten.
    forget: BinaryHeap<Reverse<(Instant, Nonce)>>,
}

impl ProofMemory {
    pub(super) fn new(window: Duration, floor: Duration, hasher: Seeded) -> Self {
        let last_by_nonce = HashMap::with_hasher(hasher);
        Self { window, floor, last_by_nonce, forget: BinaryHeap::new() }
    }

    /// Notes a proof that counts.
    pub(super) fn accept(&mut self, proof: &Proof, now: Instant, clock: Clock) -> Result<(), Drop> {
        let (time, unix) = (Duration::from_micros(proof.time), clock.unix(now));
        if time < self.floor || unix.abs_diff(time) > self.window {
            return Err(Drop::Stale);
        }
        if let Some(last) = self.last_by_nonce.get_mut(&proof.nonce) {
            if proof.time <= *last {
                return Err(Drop::Replayed);
            }
            *last = proof.time;
            return Ok(());
        }
        if self.last_by_nonce.len() >= MAX_NONCES {
            return Err(Drop::TotalLimit);
        }
        self.last_by_nonce.insert(proof.nonce, proof.time);
        self.forget.push(Reverse((self.forget_at(proof.time, now, clock), proof.nonce)));
        Ok(())
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.forget.peek().map(|Reverse((at, _))| *at)
    }

    pub(super) fn sweep(&mut self, now: Instant, clock: Clock) {
        while let Some(&Reverse((at, nonce))) = self.forget.peek()
            && at < now
        {
            self.forget.pop();
            let Some(&last) = self.last_by_nonce.get(&nonce) else { continue };
            let due = self.forget_at(last, now, clock);
            if due < now {
                self.last_by_nonce.remove(&nonce);
            } else {
                self.forget.push(Reverse((due, nonce)));
            }
        }
    }

    /// When a proof of this time leaves the window; in the past if it has left.
    fn forget_at(&self, time: u64, now: Instant, clock: Clock) -> Instant {
        let leaves = Duration::from_micros(time).saturating_add(self.window);
        let unix = clock.unix(now);
        match leaves.checked_sub(unix) {
            Some(left) => now + left,
            None => now.checked_sub(unix - leaves).unwrap_or(now),
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.last_by_nonce.is_empty() && self.forget.is_empty()
    }
}
