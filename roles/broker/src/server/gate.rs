//! Counts connections, in total and per source, so that no stranger takes them all.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::config::Limits;

/// An IPv4 address, or an IPv6 /64: what one subscriber has at least.
pub(crate) fn source_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & (!0 << 64))),
    }
}

/// Admits connections.
#[derive(Clone)]
pub(crate) struct Gate {
    limits: Arc<Limits>,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Default)]
struct Counts {
    total: usize,
    by_source: HashMap<IpAddr, Count>,
}

#[derive(Default)]
struct Count {
    connections: usize,
    strangers: usize,
}

impl Gate {
    pub(crate) fn new(limits: Arc<Limits>) -> Self {
        Self { limits, counts: Arc::default() }
    }

    /// Admits a connection, or doesn't. A trusted proxy speaks for many, so only the total
    /// bounds it.
    pub(crate) fn admit(&self, ip: IpAddr, trusted: bool) -> Option<Permit> {
        let mut counts = lock(&self.counts);
        if counts.total >= self.limits.connections {
            return None;
        }
        let source = (!trusted).then(|| source_of(ip));
        if let Some(source) = source {
            let full = counts.by_source.get(&source).is_some_and(|count| {
                count.connections >= self.limits.connections_per_source
                    || count.strangers >= self.limits.strangers_per_source
            });
            if full {
                return None;
            }
            let count = counts.by_source.entry(source).or_default();
            count.connections += 1;
            count.strangers += 1;
        }
        counts.total += 1;
        Some(Permit { counts: self.counts.clone(), source, known: AtomicBool::new(false) })
    }
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// One admitted connection, until dropped.
pub(crate) struct Permit {
    counts: Arc<Mutex<Counts>>,
    source: Option<IpAddr>,
    known: AtomicBool,
}

impl Permit {
    /// Notes that whoever is there has shown a valid token.
    pub(crate) fn set_known(&self) {
        if self.known.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Some(source) = self.source
            && let Some(count) = lock(&self.counts).by_source.get_mut(&source)
        {
            count.strangers -= 1;
        }
    }

    /// Whether a valid token was shown.
    pub(crate) fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let known = self.is_known();
        let mut counts = lock(&self.counts);
        counts.total -= 1;
        let Some(source) = self.source else { return };
        let Some(count) = counts.by_source.get_mut(&source) else { return };
        count.connections -= 1;
        if !known {
            count.strangers -= 1;
        }
        if count.connections == 0 {
            counts.by_source.remove(&source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(connections: usize, per_source: usize, strangers: usize) -> Gate {
        Gate::new(Arc::new(Limits {
            connections,
            connections_per_source: per_source,
            strangers_per_source: strangers,
            ..Limits::default()
        }))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_source_has_its_share_and_no_more() {
        let gate = gate(10, 3, 2);
        let first = gate.admit(ip("192.0.2.1"), false).unwrap();
        let _second = gate.admit(ip("192.0.2.1"), false).unwrap();
        assert!(gate.admit(ip("192.0.2.1"), false).is_none(), "two strangers are enough");
        assert!(gate.admit(ip("192.0.2.2"), false).is_some(), "another source isn't touched");
        first.set_known();
        first.set_known();
        let third = gate.admit(ip("192.0.2.1"), false).unwrap();
        third.set_known();
        assert!(gate.admit(ip("192.0.2.1"), false).is_none(), "three connections are enough");
        drop(third);
        drop(first);
        assert!(gate.admit(ip("192.0.2.1"), false).is_some());
    }

    #[test]
    fn a_slash_64_is_one_source() {
        let gate = gate(10, 1, 1);
        let _one = gate.admit(ip("2001:db8::1"), false).unwrap();
        assert!(gate.admit(ip("2001:db8::ffff:1:2:3"), false).is_none());
        assert!(gate.admit(ip("2001:db8:0:1::1"), false).is_some());
    }

    #[test]
    fn a_trusted_proxy_is_bounded_by_the_total_alone() {
        let gate = gate(3, 1, 1);
        let held: Vec<_> = (0..3).map(|_| gate.admit(ip("10.0.0.1"), true).unwrap()).collect();
        assert!(gate.admit(ip("10.0.0.1"), true).is_none());
        drop(held);
        assert!(lock(&gate.counts).by_source.is_empty());
        assert_eq!(lock(&gate.counts).total, 0);
    }
}
