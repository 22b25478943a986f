//! Token buckets for those who have proved nothing.
//!
//! One bucket per /24 or /56, so that a botnet behind one prefix or a spoofer of one victim gets
//! little, and one in total. The buckets are two rows of a fixed size, indexed by a keyed hash: a
//! prefix may draw from its cell in either row and takes from the fuller one. Memory never grows,
//! a stranger can't choose whose cells he shares, and to starve a neighbour he would have to share
//! both.

use std::hash::Hasher as _;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use siphasher::sip::SipHasher13;

use crate::prefix::Prefix;

/// How many replies the unauthenticated get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Replies a second to one /24 (IPv4) or /56 (IPv6), in the long run.
    pub prefix_rate: u32,
    /// Replies at once to one prefix that was quiet before.
    pub prefix_burst: u32,
    /// Replies a second to all together, in the long run.
    pub total_rate: u32,
    /// Replies at once to all together.
    pub total_burst: u32,
}

impl Default for Limits {
    /// Enough for some thousand nodes behind one carrier's prefix, each asking twice in 25 s.
    fn default() -> Self {
        Self { prefix_rate: 200, prefix_burst: 600, total_rate: 10_000, total_burst: 20_000 }
    }
}

const CELLS: usize = 4096;

/// The buckets.
#[derive(Debug)]
pub struct Limiter {
    prefix: Rate,
    total_rate: Rate,
    /// Two rows of [`CELLS`].
    cells: Vec<Bucket>,
    total: Bucket,
    key: (u64, u64),
    start: Instant,
}

/// Whether somebody gets a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Yes.
    Granted,
    /// No: the prefix has had its share.
    PrefixExhausted,
    /// No: all together have had theirs.
    TotalExhausted,
}

impl Limiter {
    /// Full buckets. `seed` keys the hash and must be random in production.
    pub fn new(limits: Limits, seed: [u8; 16], now: Instant) -> Self {
        let (low, high) = seed.split_at(8);
        let word = |bytes: &[u8]| {
            u64::from_le_bytes(bytes.try_into().expect("half of a 16-byte seed is 8 bytes"))
        };
        Self {
            prefix: Rate::new(limits.prefix_rate, limits.prefix_burst),
            total_rate: Rate::new(limits.total_rate, limits.total_burst),
            cells: vec![Bucket::FULL; 2 * CELLS],
            total: Bucket::FULL,
            key: (word(low), word(high)),
            start: now,
        }
    }

    /// Takes a token of the source's prefix and one of all together's.
    pub fn admit(&mut self, source: IpAddr, now: Instant) -> Admission {
        let elapsed = now.saturating_duration_since(self.start);
        let cell = self.fuller_cell(source);
        if !self.cells[cell].has_token(elapsed, self.prefix) {
            return Admission::PrefixExhausted;
        }
        if !self.total.take(elapsed, self.total_rate) {
            return Admission::TotalExhausted;
        }
        self.cells[cell].take(elapsed, self.prefix);
        Admission::Granted
    }

    /// Whether the source's prefix has had its share; takes nothing.
    pub fn is_exhausted(&self, source: IpAddr, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.start);
        !self.cells[self.fuller_cell(source)].has_token(elapsed, self.prefix)
    }

    fn fuller_cell(&self, source: IpAddr) -> usize {
        let mut hasher = SipHasher13::new_with_keys(self.key.0, self.key.1);
        hasher.write(Prefix::of(source).bytes());
        let hash = hasher.finish().to_le_bytes();
        let index = |low: u8, high: u8| usize::from(u16::from_le_bytes([low, high])) % CELLS;
        let (first, second) = (index(hash[0], hash[1]), CELLS + index(hash[2], hash[3]));
        if self.cells[first].full_at <= self.cells[second].full_at { first } else { second }
    }
}

#[derive(Debug, Clone, Copy)]
struct Rate {
    /// Time for one token to come back.
    interval: Duration,
    /// Time for an empty bucket to fill.
    window: Duration,
}

impl Rate {
    fn new(per_second: u32, burst: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self { interval, window: interval * burst.max(1) }
    }
}

/// A token bucket as one instant (since the limiter's start): when it would be full again.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    full_at: Duration,
}

impl Bucket {
    const FULL: Self = Self { full_at: Duration::ZERO };

    fn has_token(self, now: Duration, rate: Rate) -> bool {
        self.full_at.max(now) + rate.interval <= now + rate.window
    }

    fn take(&mut self, now: Duration, rate: Rate) -> bool {
        let granted = self.has_token(now, rate);
        if granted {
            self.full_at = self.full_at.max(now) + rate.interval;
        }
        granted
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test starts at some instant")]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { prefix_rate: 10, prefix_burst: 5, total_rate: 100, total_burst: 50 };

    fn granted(limiter: &mut Limiter, source: &str, now: Instant, tries: usize) -> usize {
        let source = source.parse().unwrap();
        (0..tries).filter(|_| limiter.admit(source, now) == Admission::Granted).count()
    }

    #[test]
    fn a_prefix_gets_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let mut limiter = Limiter::new(LIMITS, [7; 16], start);
        // Its cells in both rows.
        assert_eq!(granted(&mut limiter, "192.0.2.1", start, 100), 10);
        assert_eq!(granted(&mut limiter, "192.0.2.99", start, 100), 0);
        assert_eq!(granted(&mut limiter, "192.0.3.1", start, 100), 10);
        let later = start + Duration::from_secs(60);
        assert_eq!(granted(&mut limiter, "192.0.2.1", later, 100), 10);
        assert_eq!(granted(&mut limiter, "2001:db8::1", later, 100), 10);
        assert_eq!(granted(&mut limiter, "2001:db8:0:ff:1::", later, 100), 0);
        assert_eq!(granted(&mut limiter, "2001:db8:0:100::", later, 100), 10);
    }

    #[test]
    fn all_prefixes_together_are_bounded() {
        let start = Instant::now();
        let mut limiter = Limiter::new(LIMITS, [7; 16], start);
        let all = |limiter: &mut Limiter, now| {
            (0..100).map(|n| granted(limiter, &format!("10.0.{n}.1"), now, 1)).sum::<usize>()
        };
        assert_eq!(all(&mut limiter, start), 50);
        assert_eq!(all(&mut limiter, start + Duration::from_millis(200)), 20);
    }
}
