//! Limits on probes to addresses that have not answered any.
//!
//! Endpoints are hearsay: a device publishes what it likes. So that nobody can aim the nodes of an
//! account at a victim, each node sends only so many unanswered probes to one address, and so many
//! in total. An endpoint that has answered (it wants us) is free.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use warren_turn::is_public;

/// To one destination (an IPv4 address, an IPv6 /64): at once, and per second after.
const PER_DESTINATION: Rate = Rate { burst: 64, per_second: 10 };

/// To one public network (an IPv4 /24, an IPv6 /48): many addresses there may be one victim.
const PER_NETWORK: Rate = Rate { burst: 256, per_second: 64 };

/// To all destinations together.
const IN_TOTAL: Rate = Rate { burst: 1024, per_second: 256 };

/// The most destinations that are remembered.
const MAX_DESTINATIONS: usize = 4096;

/// A full table is swept this often at most.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// How much may happen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    pub(crate) burst: u32,
    pub(crate) per_second: u32,
}

impl Rate {
    fn time_to_fill(self) -> Duration {
        Duration::from_secs(u64::from(self.burst.div_ceil(self.per_second)))
    }
}

/// A token bucket, in millitokens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    rate: Rate,
    millitokens: u64,
    at: Instant,
}

impl Bucket {
    pub(crate) fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, millitokens: u64::from(rate.burst) * 1000, at: now }
    }

    /// Takes one token if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        match self.millitokens.checked_sub(1000) {
            Some(rest) => {
                self.millitokens = rest;
                true
            }
            None => false,
        }
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at);
        let gained = elapsed.as_millis().min(3_600_000) as u64 * u64::from(self.rate.per_second);
        if gained > 0 {
            self.millitokens = (self.millitokens + gained).min(u64::from(self.rate.burst) * 1000);
            self.at = now;
        }
    }
}

/// What may still be sent.
#[derive(Debug)]
pub(crate) struct Budget {
    total: Bucket,
    /// When the table was last swept because it was full.
    swept: Option<Instant>,
    bucket_by_destination: BTreeMap<IpNet, Bucket>,
}

impl Budget {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            total: Bucket::new(IN_TOTAL, now),
            swept: None,
            bucket_by_destination: BTreeMap::new(),
        }
    }

    /// Whether one more probe to an unproven address may be sent; counts it.
    pub(crate) fn take(&mut self, destination: IpAddr, now: Instant) -> bool {
        let (host, network) = aggregates(destination);
        self.take_of(host, PER_DESTINATION, now)
            && network.is_none_or(|network| self.take_of(network, PER_NETWORK, now))
            && self.total.take(now)
    }

    fn take_of(&mut self, destination: IpNet, rate: Rate, now: Instant) -> bool {
        if !self.bucket_by_destination.contains_key(&destination)
            && self.bucket_by_destination.len() >= MAX_DESTINATIONS
        {
            self.forget_full(now);
            if self.bucket_by_destination.len() >= MAX_DESTINATIONS {
                return false;
            }
        }
        let bucket = self.bucket_by_destination.entry(destination);
        bucket.or_insert_with(|| Bucket::new(rate, now)).take(now)
    }

    /// A bucket that had the time to fill says no more than none.
    fn forget_full(&mut self, now: Instant) {
        if self.swept.is_some_and(|swept| now.saturating_duration_since(swept) < SWEEP_PAUSE) {
            return;
        }
        self.swept = Some(now);
        self.bucket_by_destination.retain(|_, bucket| {
            now.saturating_duration_since(bucket.at) < bucket.rate.time_to_fill()
        });
    }
}

/// The destination, and the public network that it lies in.
fn aggregates(ip: IpAddr) -> (IpNet, Option<IpNet>) {
    let (host, network) = match ip {
        IpAddr::V4(_) => (32, 24),
        IpAddr::V6(_) => (64, 48),
    };
    let net = |prefix| IpNet::new_assert(ip, prefix).trunc();
    (net(host), is_public(&ip).then(|| net(network)))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;
    use crate::testing::start;

    #[test]
    fn one_destination_gets_its_burst_and_then_its_rate() {
        let now = start();
        let mut budget = Budget::new(now);
        let victim: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!((0..1000).filter(|_| budget.take(victim, now)).count(), 64);
        let later = now + Duration::from_secs(1);
        assert_eq!((0..1000).filter(|_| budget.take(victim, later)).count(), 10);
        assert!(budget.take("192.0.2.2".parse().unwrap(), later));
    }

    #[test]
    fn addresses_of_one_ipv6_prefix_share_a_budget() {
        let now = start();
        let mut budget = Budget::new(now);
        let sent = (0..1000u128)
            .filter(|i| budget.take(Ipv6Addr::from(0x2001_0db8 << 96 | i).into(), now))
            .count();
        assert_eq!(sent, 64);
    }

    #[test]
    fn a_public_network_is_spared_as_a_whole_and_a_lan_is_not() {
        let now = start();
        let mut budget = Budget::new(now);
        let mut sent = |net: u32| {
            (0..512).filter(|i| budget.take(IpAddr::V4((net + i % 256).into()), now)).count()
        };
        assert_eq!(sent(0x0808_0800), 256);
        assert_eq!(sent(0xC0A8_0100), 512);
    }

    #[test]
    fn all_destinations_together_are_limited_and_memory_is_bounded() {
        let now = start();
        let mut budget = Budget::new(now);
        let sent = (0..100_000u32)
            .filter(|i| budget.take(IpAddr::V4((0x0A00_0000 + i).into()), now))
            .count();
        assert_eq!(sent, 1024);
        assert!(budget.bucket_by_destination.len() <= MAX_DESTINATIONS);
    }
}
