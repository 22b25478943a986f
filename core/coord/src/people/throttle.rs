//! How often somebody may try to sign in, from where, as whom.
//!
//! Guessing must be slow, and nobody may be kept out by what strangers do. So nothing is ever
//! locked: each source has an allowance of its own, and each source has one for each user besides.
//! When a user's failures from anywhere add up (somebody guesses from many sources), what each
//! *unknown* source may try on him shrinks to one attempt in ten minutes; sources that he signed in
//! from before keep theirs. A source's first attempt on a user is always heard.
//!
//! Users are known by the hash of the address that was typed, whether there is such a user or not:
//! the answers are the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::limit::Bucket;
use crate::{Refused, SecretHash};

/// Attempts of one source: twenty at once, one more each 15 s.
const SOURCE: (u32, Duration) = (20, Duration::from_secs(15));
/// Attempts of one source on one user: five at once, one more each minute.
const PAIR: (u32, Duration) = (5, Duration::from_secs(60));
/// ... while many guess.
const PAIR_UNDER_ATTACK: (u32, Duration) = (1, Duration::from_secs(600));
/// Failures of a user, from anywhere, before many are said to guess: twenty at once, one more each
/// ten minutes.
const USER: (u32, Duration) = (20, Duration::from_secs(600));
/// Entries of each kind at most; beyond it, the one that was touched the longest ago is forgotten.
const ENTRIES: usize = 10_000;

/// Allowances for attempts to sign in.
#[derive(Debug, Default)]
pub struct SignInThrottle {
    sources: Buckets<IpAddr>,
    pairs: Buckets<(IpAddr, SecretHash)>,
    users: Buckets<SecretHash>,
    /// Where users signed in from, the newest last.
    known: Recent<(IpAddr, SecretHash)>,
}

impl SignInThrottle {
    /// Takes an attempt of a source (an IPv4 address or an IPv6 /64) on a user.
    ///
    /// # Errors
    /// [`Refused::RateLimited`]: too many lately.
    pub fn attempt(&mut self, source: IpAddr, user: &str, now: Instant) -> Result<(), Refused> {
        let user = SecretHash::of(user);
        if !self.sources.touch(source, now).take(SOURCE.0, SOURCE.1, now) {
            return Err(Refused::RateLimited);
        }
        let is_known = self.known.contains(&(source, user));
        let is_attacked = self.users.peek(&user).is_some_and(|bucket| {
            let mut bucket = *bucket;
            !bucket.take(USER.0, USER.1, now)
        });
        let (burst, interval) = if is_attacked && !is_known { PAIR_UNDER_ATTACK } else { PAIR };
        let granted = self.pairs.touch((source, user), now).take(burst, interval, now);
        if granted { Ok(()) } else { Err(Refused::RateLimited) }
    }

    /// Notes that an attempt failed.
    pub fn failed(&mut self, user: &str, now: Instant) {
        self.users.touch(SecretHash::of(user), now).take(USER.0, USER.1, now);
    }

    /// Notes that an attempt succeeded: it costs nothing, and the source is one of the user's.
    pub fn succeeded(&mut self, source: IpAddr, user: &str) {
        let pair = (source, SecretHash::of(user));
        // What others were tried from there still counts.
        if let Some((bucket, _)) = self.sources.bucket_by_key.get_mut(&source) {
            bucket.give_back(SOURCE.1);
        }
        self.pairs.forget(&pair);
        self.known.note(pair);
    }
}

#[derive(Debug)]
struct Buckets<K> {
    bucket_by_key: BTreeMap<K, (Bucket, Instant)>,
    by_last: BTreeSet<(Instant, K)>,
}

impl<K> Default for Buckets<K> {
    fn default() -> Self {
        Self { bucket_by_key: BTreeMap::new(), by_last: BTreeSet::new() }
    }
}

impl<K: Ord + Copy> Buckets<K> {
    fn touch(&mut self, key: K, now: Instant) -> &mut Bucket {
        if let Some((_, last)) = self.bucket_by_key.get(&key) {
            self.by_last.remove(&(*last, key));
        } else if self.bucket_by_key.len() >= ENTRIES
            && let Some((_, quiet)) = self.by_last.pop_first()
        {
            self.bucket_by_key.remove(&quiet);
        }
        self.by_last.insert((now, key));
        let entry = self.bucket_by_key.entry(key).or_insert((Bucket::full(), now));
        entry.1 = now;
        &mut entry.0
    }

    fn peek(&self, key: &K) -> Option<&Bucket> {
        self.bucket_by_key.get(key).map(|(bucket, _)| bucket)
    }

    fn forget(&mut self, key: &K) {
        if let Some((_, last)) = self.bucket_by_key.remove(key) {
            self.by_last.remove(&(last, *key));
        }
    }
}

#[derive(Debug)]
struct Recent<K> {
    number_by_key: BTreeMap<K, u64>,
    key_by_number: BTreeMap<u64, K>,
}

impl<K> Default for Recent<K> {
    fn default() -> Self {
        Self { number_by_key: BTreeMap::new(), key_by_number: BTreeMap::new() }
    }
}

impl<K: Ord + Copy> Recent<K> {
    fn contains(&self, key: &K) -> bool {
        self.number_by_key.contains_key(key)
    }

    fn note(&mut self, key: K) {
        let number = self.key_by_number.last_key_value().map_or(0, |(newest, _)| newest + 1);
        if let Some(old) = self.number_by_key.insert(key, number) {
            self.key_by_number.remove(&old);
        }
        self.key_by_number.insert(number, key);
        if self.number_by_key.len() > ENTRIES
            && let Some((_, oldest)) = self.key_by_number.pop_first()
        {
            self.number_by_key.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[expect(clippy::disallowed_methods, reason = "virtual time begins at some instant")]
    fn start() -> (SignInThrottle, Instant) {
        (SignInThrottle::default(), Instant::now())
    }

    fn guess(throttle: &mut SignInThrottle, source: u32, user: &str, now: Instant) -> bool {
        let heard = throttle.attempt(ip(source), user, now).is_ok();
        if heard {
            throttle.failed(user, now);
        }
        heard
    }

    #[test]
    fn who_guesses_is_slowed_down() {
        let (mut throttle, now) = start();
        let heard = (0..100).filter(|_| guess(&mut throttle, 1, "bob", now)).count();
        assert_eq!(heard, 5);
        let heard = (0..100).filter(|n| guess(&mut throttle, 2, &format!("u{n}"), now)).count();
        assert_eq!(heard, 20, "one password on many users");
        let day = (0..24 * 60).filter(|minute| {
            guess(&mut throttle, 3, "bob", now + Duration::from_secs(60 * minute))
        });
        assert!(day.count() < 350, "while attacked, one in ten minutes");
    }

    #[test]
    fn no_stranger_locks_a_user_out() {
        let (mut throttle, now) = start();
        throttle.succeeded(ip(7), "bob");
        for source in 100..5_000 {
            guess(&mut throttle, source, "bob", now);
        }
        let known = (0..10).filter(|_| throttle.attempt(ip(7), "bob", now).is_ok()).count();
        assert_eq!(known, 5, "where he signed in before nothing has changed");
        assert!(throttle.attempt(ip(8), "bob", now).is_ok(), "a new place is heard");
        assert!(throttle.attempt(ip(8), "bob", now).is_err(), "once in a while");
        let later = now + Duration::from_secs(601);
        assert!(throttle.attempt(ip(8), "bob", later).is_ok());
    }

    #[test]
    fn success_gives_the_allowance_back() {
        let (mut throttle, now) = start();
        for _ in 0..50 {
            assert!(guess(&mut throttle, 1, "bob", now));
            throttle.succeeded(ip(1), "bob");
        }
    }

    #[test]
    fn who_signs_in_himself_does_not_get_more_guesses_at_others() {
        let (mut throttle, now) = start();
        let mut heard = 0;
        for n in 0..100 {
            heard += usize::from(guess(&mut throttle, 1, &format!("u{n}"), now));
            if throttle.attempt(ip(1), "mallory", now).is_ok() {
                throttle.succeeded(ip(1), "mallory");
            }
        }
        assert_eq!(heard, 20);
    }

    #[test]
    fn memory_stays_bounded() {
        let (mut throttle, now) = start();
        for n in 0..3 * ENTRIES as u32 {
            guess(&mut throttle, n, &format!("u{n}"), now + Duration::from_micros(n.into()));
            throttle.succeeded(ip(n), "bob");
            guess(&mut throttle, n, &format!("u{n}"), now + Duration::from_micros(n.into()));
        }
        assert!(throttle.sources.bucket_by_key.len() <= ENTRIES);
        assert_eq!(throttle.users.by_last.len(), throttle.users.bucket_by_key.len());
        assert!(throttle.pairs.bucket_by_key.len() <= ENTRIES);
        assert_eq!(throttle.known.key_by_number.len(), ENTRIES);
    }
}
