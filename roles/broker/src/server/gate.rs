//! Counts connections, in total and per source, so that no stranger takes them all.
//!
//! A stranger is a connection on which no valid token was shown yet. Each device begins as one, so
//! strangers who only wait must not keep devices out: when all places for strangers are taken, the
//! one who has waited longest goes.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use warren_proto::{AccountId, ApiTokenId, DeviceId, RelayId, WebSessionId};

use super::flow::Flow;
use crate::config::Limits;

/// An IPv4 address, or an IPv6 /64: what one subscriber has at least.
pub(crate) fn source_of(ip: IpAddr) -> IpAddr {
    prefix(ip.to_canonical(), SUBSCRIBER)
}

/// The first bits of an IPv6 address; an IPv4 address stays as it is.
pub(crate) fn prefix(ip: IpAddr, bits: u32) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & mask))
        }
    }
}

/// What one IPv6 subscriber has at least, ...
const SUBSCRIBER: u32 = 64;
/// ... what providers give to a home (RFC 6177) ...
const HOME: u32 = 56;
/// ... and to a site or whoever asks (RFC 6177).
pub(crate) const SITE: u32 = 48;
/// A site has as many places as this many homes.
const HOMES_PER_SITE: usize = 4;

/// The nets that a source is counted in, and how many times the places of one source each has.
fn nets(ip: IpAddr) -> impl Iterator<Item = (Net, usize)> {
    let ip = ip.to_canonical();
    let all = match ip {
        IpAddr::V4(_) => &[(32, 1)][..],
        IpAddr::V6(_) => &[(SUBSCRIBER, 1), (HOME, 1), (SITE, HOMES_PER_SITE)][..],
    };
    all.iter().map(move |(bits, share)| ((prefix(ip, *bits), *bits), *share))
}

/// Connections of one token at once; one more ends the oldest.
const CONNECTIONS_PER_HOLDER: usize = 8;

/// Whose token was shown on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Holder {
    Device(AccountId, DeviceId),
    Relay(RelayId),
    /// A browser in which somebody is signed in.
    Browser(WebSessionId),
    /// A program with an API token.
    Token(ApiTokenId),
}

/// An address and the length of the prefix that it stands for.
type Net = (IpAddr, u32);

/// Admits connections.
#[derive(Clone)]
pub(crate) struct Gate {
    limits: Arc<Limits>,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Default)]
struct Counts {
    total: usize,
    by_net: HashMap<Net, Count>,
    /// Those who may be sent away, by when they came.
    strangers: BTreeMap<u64, Arc<Flow>>,
    /// Those who have shown a token, by whose and by when they came.
    known: BTreeMap<(Holder, u64), Arc<Flow>>,
    admitted: u64,
}

#[derive(Default)]
struct Count {
    connections: usize,
    strangers: usize,
}

impl Counts {
    fn for_each(&mut self, source: Option<IpAddr>, change: impl Fn(&mut Count)) {
        for (net, _) in source.into_iter().flat_map(nets) {
            if let Some(count) = self.by_net.get_mut(&net) {
                change(count);
                if count.connections == 0 {
                    self.by_net.remove(&net);
                }
            }
        }
    }

    fn introduce(&mut self, holder: Holder, number: u64, flow: &Arc<Flow>) {
        let of_holder = (holder, 0)..=(holder, u64::MAX);
        if self.known.range(of_holder.clone()).count() >= CONNECTIONS_PER_HOLDER
            && let Some((&oldest, _)) = self.known.range(of_holder).next()
            && let Some(flow) = self.known.remove(&oldest)
        {
            flow.end();
        }
        self.known.insert((holder, number), flow.clone());
    }
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
        let source = (!trusted).then_some(ip);
        let is_full = |(net, share): (Net, usize)| {
            counts.by_net.get(&net).is_some_and(|count| {
                count.connections >= share * self.limits.connections_per_source
                    || count.strangers >= share * self.limits.strangers_per_source
            })
        };
        if source.into_iter().flat_map(nets).any(is_full) {
            return None;
        }
        for (net, _) in source.into_iter().flat_map(nets) {
            let count = counts.by_net.entry(net).or_default();
            count.connections += 1;
            count.strangers += 1;
        }
        counts.total += 1;
        counts.admitted += 1;
        let number = counts.admitted;
        let flow = Arc::<Flow>::default();
        if !trusted {
            if counts.strangers.len() >= self.limits.strangers
                && let Some((_, longest)) = counts.strangers.pop_first()
            {
                longest.end();
            }
            counts.strangers.insert(number, flow.clone());
        }
        let counts = self.counts.clone();
        Some(Permit { counts, source, number, flow, holder: OnceLock::new() })
    }
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// One admitted connection, until dropped.
pub(crate) struct Permit {
    counts: Arc<Mutex<Counts>>,
    /// `None` for a trusted proxy.
    source: Option<IpAddr>,
    number: u64,
    flow: Arc<Flow>,
    holder: OnceLock<Holder>,
}

impl Permit {
    /// Notes that whoever is there has shown a valid token.
    pub(crate) fn set_known(&self, holder: Holder) {
        if self.holder.set(holder).is_err() {
            return;
        }
        let mut counts = lock(&self.counts);
        counts.strangers.remove(&self.number);
        // A trusted proxy's connection carries the requests of many.
        if self.source.is_some() {
            counts.introduce(holder, self.number, &self.flow);
        }
        counts.for_each(self.source, |count| count.strangers -= 1);
    }

    /// Whether a valid token was shown.
    pub(crate) fn is_known(&self) -> bool {
        self.holder.get().is_some()
    }

    /// What ends the connection when another is to have its place.
    pub(crate) fn flow(&self) -> &Arc<Flow> {
        &self.flow
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let known = self.is_known();
        let mut counts = lock(&self.counts);
        counts.total -= 1;
        match self.holder.get() {
            Some(holder) => counts.known.remove(&(*holder, self.number)),
            None => counts.strangers.remove(&self.number),
        };
        counts.for_each(self.source, |count| {
            count.connections -= 1;
            count.strangers -= usize::from(!known);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::super::flow::Watch;
    use super::*;

    fn gate(connections: usize, per_source: usize, strangers: usize) -> Gate {
        Gate::new(Arc::new(Limits {
            connections,
            connections_per_source: per_source,
            strangers_per_source: strangers,
            ..Limits::default()
        }))
    }

    fn device(id: u64) -> Holder {
        Holder::Device(AccountId(1), DeviceId(id))
    }

    #[test]
    fn a_token_has_a_few_connections_and_the_newest_stay() {
        let gate = gate(100, 100, 100);
        let permits: Vec<_> = (0..=CONNECTIONS_PER_HOLDER)
            .map(|_| gate.admit(ip("192.0.2.1"), false).unwrap())
            .collect();
        let other = gate.admit(ip("192.0.2.1"), false).unwrap();
        other.set_known(device(2));
        for permit in &permits {
            permit.set_known(device(1));
        }
        let gone = permits.iter().map(|permit| permit.flow().is_over()).collect::<Vec<_>>();
        assert!(gone[0] && !gone[1..].contains(&true) && !other.flow().is_over());
        drop((permits, other));
        assert!(lock(&gate.counts).known.is_empty());
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
        first.set_known(device(1));
        first.set_known(device(1));
        let third = gate.admit(ip("192.0.2.1"), false).unwrap();
        third.set_known(device(3));
        assert!(gate.admit(ip("192.0.2.1"), false).is_none(), "three connections are enough");
        drop(third);
        drop(first);
        assert!(gate.admit(ip("192.0.2.1"), false).is_some());
    }

    #[test]
    fn an_ipv6_home_is_one_source_and_a_site_four() {
        let gate = gate(100, 2, 2);
        let admit = |text: &str| gate.admit(ip(text), false);
        let _held: Vec<_> = ["2001:db8::1", "2001:db8:0:ff::1"].map(|a| admit(a).unwrap()).into();
        assert!(admit("2001:db8::ffff:1:2:3").is_none(), "the same /64");
        assert!(admit("2001:db8:0:7::1").is_none(), "the same /56");
        let homes = (1..9).map(|home| format!("2001:db8:0:{home:x}00::1"));
        let neighbours: Vec<_> = homes.filter_map(|home| admit(&home)).collect();
        assert_eq!(neighbours.len(), 6, "the same /48");
        assert!(admit("2001:db8:1::1").is_some(), "another /48");
    }

    #[tokio::test]
    async fn strangers_give_way_to_those_who_come_after_them_and_devices_stay() {
        let gate = Gate::new(Arc::new(Limits { strangers: 3, ..Limits::default() }));
        let admit = |n: u8| gate.admit(IpAddr::from([192, 0, 2, n]), false).unwrap();
        let is_sent_away = |permit: &Permit| {
            let watch = Watch::new(permit.flow().clone(), Duration::from_secs(9));
            watch.now_or_never().is_some()
        };
        let known = admit(0);
        known.set_known(device(1));
        let permits: Vec<_> = (1..=5).map(admit).collect();
        let gone: Vec<bool> = permits.iter().map(is_sent_away).collect();
        assert_eq!(gone, [true, true, false, false, false]);
        assert!(!is_sent_away(&known));
        drop(permits);
        assert!(lock(&gate.counts).strangers.is_empty());
    }

    #[test]
    fn a_trusted_proxy_is_bounded_by_the_total_alone() {
        let gate = gate(3, 1, 1);
        let held: Vec<_> = (0..3).map(|_| gate.admit(ip("10.0.0.1"), true).unwrap()).collect();
        assert!(gate.admit(ip("10.0.0.1"), true).is_none());
        drop(held);
        assert!(lock(&gate.counts).by_net.is_empty());
        assert_eq!(lock(&gate.counts).total, 0);
    }
}
