//! How often a source may try to register.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use crate::server::{SITE, prefix};

/// Tokens of a source that was quiet: a fleet behind one address may join at once.
const BURST: f64 = 200.0;
/// Tokens a second that come back.
const RATE: f64 = 2.0;
/// What a failed attempt costs beyond the one token of each attempt.
const FAILURE: f64 = 19.0;
/// Sources remembered at most: beyond it, an IPv6 /48 is one source, and the one that was quiet the
/// longest is forgotten.
const SOURCES: usize = 10_000;

/// A token bucket per source. It never refuses a source for what others do.
#[derive(Default)]
pub(crate) struct Attempts {
    buckets: Mutex<Buckets>,
}

#[derive(Default)]
struct Buckets {
    by_source: HashMap<IpAddr, Bucket>,
    by_last: BTreeSet<(Instant, IpAddr)>,
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

impl Buckets {
    /// What a source is counted as, and its bucket, brought up to `now`.
    fn touch(&mut self, source: IpAddr, now: Instant) -> &mut Bucket {
        let known = self.by_source.contains_key(&source);
        let is_full = self.by_source.len() >= SOURCES;
        let source = if is_full && !known { prefix(source, SITE) } else { source };
        if is_full
            && !self.by_source.contains_key(&source)
            && let Some((_, quiet)) = self.by_last.pop_first()
        {
            self.by_source.remove(&quiet);
        }
        let bucket = self.by_source.entry(source).or_insert(Bucket { tokens: BURST, at: now });
        self.by_last.remove(&(bucket.at, source));
        bucket.refill(now);
        self.by_last.insert((now, source));
        bucket
    }
}

impl Attempts {
    /// Takes the token of one attempt; `false`: too many lately.
    pub(crate) fn take(&self, source: IpAddr, now: Instant) -> bool {
        let mut buckets = self.lock();
        let bucket = buckets.touch(source, now);
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }

    /// Makes a source pay for an attempt that failed for a reason that guessing has.
    pub(crate) fn punish(&self, source: IpAddr, now: Instant) {
        let mut buckets = self.lock();
        let bucket = buckets.touch(source, now);
        bucket.tokens = (bucket.tokens - FAILURE).max(0.0);
    }

    fn lock(&self) -> MutexGuard<'_, Buckets> {
        self.buckets.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;
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
                attempts.punish(ip(1), now);
                granted
            })
            .count();
        assert_eq!(guesses, 10);
        assert_eq!((0..300).filter(|_| attempts.take(ip(2), now)).count(), 200);
        assert!(attempts.take(ip(1), now + Duration::from_secs(1)));
    }

    #[test]
    fn memory_stays_bounded_and_nobody_is_refused_for_what_others_do() {
        let attempts = Attempts::default();
        let now = Instant::now();
        assert_eq!((0..300).filter(|_| attempts.take(ip(0), now)).count(), 200);
        for n in 0..2 * SOURCES as u32 {
            let at = now + Duration::from_micros(n.into());
            assert!(attempts.take(ip(1 + n), at));
            assert!(n % 100 != 0 || !attempts.take(ip(0), at), "who goes on isn't forgotten");
        }
        let buckets = attempts.lock();
        assert_eq!(buckets.by_source.len(), SOURCES);
        assert_eq!(buckets.by_last.len(), SOURCES);
    }

    #[test]
    fn many_nets_of_one_ipv6_site_do_not_push_everybody_else_out() {
        let attempts = Attempts::default();
        let now = Instant::now();
        let net = |n: u128| IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8_u128 << 96 | n << 64));
        for n in 0..SOURCES as u32 {
            assert!(attempts.take(ip(n), now));
        }
        assert_eq!((0..1000).filter(|n| attempts.take(net(*n), now)).count(), 200);
        let kept = (0..SOURCES as u32).filter(|n| attempts.lock().by_source.contains_key(&ip(*n)));
        assert_eq!(kept.count(), SOURCES - 1);
    }
}
