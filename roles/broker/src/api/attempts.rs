//! How often a source may try to register.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

/// Tokens of a source that was quiet: a fleet behind one address may join at once.
const BURST: f64 = 200.0;
/// Tokens a second that come back.
const RATE: f64 = 2.0;
/// What a failed attempt costs beyond the one token of each attempt.
const FAILURE: f64 = 19.0;
/// Sources remembered at most; beyond it the emptiest-looking ones stay, full ones are forgotten.
const SOURCES: usize = 10_000;

/// A token bucket per source.
#[derive(Default)]
pub(crate) struct Attempts {
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
}

struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + elapsed * RATE).min(BURST);
        self.at = now;
    }
}

impl Attempts {
    /// Takes the token of one attempt; `false`: too many lately.
    pub(crate) fn take(&self, source: IpAddr, now: Instant) -> bool {
        let mut buckets = self.lock();
        if buckets.len() >= SOURCES && !buckets.contains_key(&source) {
            buckets.retain(|_, bucket| {
                bucket.refill(now);
                bucket.tokens < BURST
            });
            if buckets.len() >= SOURCES {
                return false;
            }
        }
        let bucket = buckets.entry(source).or_insert(Bucket { tokens: BURST, at: now });
        bucket.refill(now);
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }

    /// Makes a source pay for an attempt that failed for a reason that guessing has.
    pub(crate) fn punish(&self, source: IpAddr) {
        if let Some(bucket) = self.lock().get_mut(&source) {
            bucket.tokens = (bucket.tokens - FAILURE).max(0.0);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Bucket>> {
        self.buckets.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ip(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[test]
    fn who_guesses_is_slowed_and_who_joins_is_not() {
        let attempts = Attempts::default();
        let now = Instant::now();
        let guesses = (0..100)
            .take_while(|_| {
                let granted = attempts.take(ip(1), now);
                attempts.punish(ip(1));
                granted
            })
            .count();
        assert_eq!(guesses, 10);
        assert_eq!((0..300).filter(|_| attempts.take(ip(2), now)).count(), 200);
        assert!(attempts.take(ip(1), now + Duration::from_secs(1)));
    }

    #[test]
    fn memory_stays_bounded_and_quiet_sources_are_forgotten() {
        let attempts = Attempts::default();
        let now = Instant::now();
        for n in 0..SOURCES as u32 {
            assert!(attempts.take(ip(n), now));
        }
        assert!(!attempts.take(ip(u32::MAX), now));
        assert!(attempts.take(ip(u32::MAX), now + Duration::from_secs(1)));
        assert!(attempts.lock().len() <= SOURCES);
    }
}
