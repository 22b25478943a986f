//! Where an account's devices may be told to probe.
//!
//! A `connect` signal makes the peer send packets to addresses that the sender names. So that one
//! device can't aim all the others at a victim, each account has a budget per destination net
//! (an IPv4 /24, an IPv6 /56): a small one for addresses that the sender has not checked in with,
//! which nobody else knows of, and a larger one for the rest.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::limit::Bucket;

/// Signals to one net at once, and how often one more: an office behind one address may start up.
const KNOWN_AT_ONCE: u32 = 512;
const KNOWN_INTERVAL: Duration = Duration::from_millis(50);

/// The same for addresses that only the signal names: a device that has just moved.
const HEARSAY_AT_ONCE: u32 = 32;
const HEARSAY_INTERVAL: Duration = Duration::from_secs(1);

/// Nets remembered at most; those whose budgets are whole again are forgotten first.
const MAX_NETS: usize = 16_384;

/// What an account may still send to which net.
#[derive(Debug, Default)]
pub(super) struct Aim {
    by_net: BTreeMap<IpAddr, Budget>,
    /// When it was last looked which budgets are whole again: a look at all of them isn't had for each signal.
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Budget {
    all: Bucket,
    hearsay: Bucket,
}

impl Aim {
    /// Whether one more signal may name this address; `known`: its sender has checked in with it.
    pub(super) fn permits(&mut self, addr: &SocketAddr, known: bool, now: Instant) -> bool {
        let net = net_of(addr.ip());
        if self.by_net.len() >= MAX_NETS && !self.by_net.contains_key(&net) {
            if self.swept.is_some_and(|swept| now < swept + KNOWN_INTERVAL) {
                return false;
            }
            self.swept = Some(now);
            let is_whole = |it: &Budget| it.all.is_full(now) && it.hearsay.is_full(now);
            self.by_net.retain(|_, budget| !is_whole(budget));
            if self.by_net.len() >= MAX_NETS {
                return false;
            }
        }
        let budget = self
            .by_net
            .entry(net)
            .or_insert(Budget { all: Bucket::full(), hearsay: Bucket::full() });
        (known || budget.hearsay.take(HEARSAY_AT_ONCE, HEARSAY_INTERVAL, now))
            && budget.all.take(KNOWN_AT_ONCE, KNOWN_INTERVAL, now)
    }
}

/// The first address of the /24 or /56 that one is in.
fn net_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() & (!0 << 8))),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & (!0 << 72))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test needs some instant to begin with")]
    fn a_net_is_one_destination_and_memory_stays_bounded() {
        let mut aim = Aim::default();
        let now = Instant::now();
        let addr = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let at = |n: u32| SocketAddr::from((Ipv4Addr::from_bits(n << 8), 1));
        let hearsay = (0..100).filter(|n| {
            let addr = SocketAddr::from(([203, 0, 113, *n], 1));
            aim.permits(&addr, false, now)
        });
        assert_eq!(hearsay.count(), HEARSAY_AT_ONCE as usize);
        assert!(aim.permits(&addr("203.0.113.1:1"), true, now));
        assert!(!aim.permits(&addr("[::ffff:203.0.113.1]:1"), false, now));
        for port in 1..=HEARSAY_AT_ONCE as u16 {
            let ip = format!("2001:db8:0:{port:x}::1");
            assert!(aim.permits(&SocketAddr::new(ip.parse().unwrap(), 1), false, now));
        }
        assert!(!aim.permits(&addr("[2001:db8:0:ff::1]:1"), false, now));
        assert!(aim.permits(&addr("[2001:db8:0:100::1]:1"), false, now));

        let granted = (0..2 * MAX_NETS as u32).filter(|n| aim.permits(&at(1 + n), true, now));
        assert!(granted.count() < MAX_NETS);
        assert!(aim.permits(&at(0xff_ffff), true, now + KNOWN_INTERVAL));
        assert!(aim.by_net.len() < 10, "only what isn't whole yet stays: {}", aim.by_net.len());
    }
}
