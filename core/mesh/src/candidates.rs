//! The ways by which a peer might be reached, and what each has answered so far.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use warren_proto::{Endpoint, EndpointKind, MAX_ENDPOINTS};

use crate::path::{Path, Via};

/// The most addresses of a peer that only its own probes showed, besides the one in use: whoever
/// replays such a probe from many addresses gains nothing.
const MAX_OBSERVED: usize = 6;

/// One way to a peer.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) kind: EndpointKind,
    pub(crate) added: Instant,
    /// When our last probe left.
    pub(crate) asked: Option<Instant>,
    /// When one of our probes was answered last.
    pub(crate) answered: Option<Instant>,
    /// Smoothed as in RFC 6298: 7/8 old, 1/8 new.
    pub(crate) rtt: Option<Duration>,
    /// The slowest answer of late: falls by 1/16 with each quicker one. What silence is judged by,
    /// so that a full buffer on the way is not taken for death.
    pub(crate) slowest: Option<Duration>,
    /// The longest IP packet that it was seen to carry, from an earlier use.
    pub(crate) mtu: Option<u16>,
}

impl Candidate {
    fn new(kind: EndpointKind, now: Instant) -> Self {
        Self { kind, added: now, asked: None, answered: None, rtt: None, slowest: None, mtu: None }
    }

    pub(crate) fn measure(&mut self, rtt: Duration, now: Instant) {
        self.answered = Some(now);
        self.slowest = Some(rtt.max(self.slowest.unwrap_or_default() * 15 / 16));
        self.rtt = Some(match self.rtt {
            Some(smoothed) => (smoothed * 7 + rtt) / 8,
            None => rtt,
        });
    }
}

/// All candidates of a peer: at most [`MAX_ENDPOINTS`] published, [`MAX_OBSERVED`] observed, one
/// through each relay that is used for it, and the one in use.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    by_path: BTreeMap<Path, Candidate>,
}

impl Candidates {
    /// Takes the published endpoints; forgets earlier ones that are gone and never answered.
    /// Returns whether there is a new one.
    pub(crate) fn publish(
        &mut self,
        endpoints: &[Endpoint],
        usable: impl Fn(SocketAddr) -> bool,
        in_use: Option<Path>,
        now: Instant,
    ) -> bool {
        let published: Vec<Endpoint> = endpoints
            .iter()
            .take(MAX_ENDPOINTS)
            .map(|endpoint| Endpoint {
                addr: canonical(endpoint.addr),
                // Observed is what we see ourselves, and outlives a list.
                kind: if endpoint.kind == EndpointKind::Observed {
                    EndpointKind::Other
                } else {
                    endpoint.kind
                },
            })
            .filter(|endpoint| usable(endpoint.addr))
            .collect();
        self.by_path.retain(|path, candidate| {
            candidate.kind == EndpointKind::Observed
                || path.is_relayed()
                || in_use == Some(*path)
                || published.iter().any(|endpoint| endpoint.addr == path.remote)
        });
        let mut new = false;
        for endpoint in published {
            let path = Path::direct(endpoint.addr);
            let candidate = self.by_path.entry(path).or_insert_with(|| {
                new = true;
                Candidate::new(endpoint.kind, now)
            });
            candidate.kind = endpoint.kind;
        }
        new
    }

    /// Takes an address that a valid probe or an authenticated packet came from, in place of the
    /// one that has been silent the longest if there are too many. Returns whether it is new.
    pub(crate) fn observe(&mut self, path: Path, in_use: Option<Path>, now: Instant) -> bool {
        if self.by_path.contains_key(&path) {
            return false;
        }
        let observed = || {
            self.by_path.iter().filter(|(path, candidate)| {
                candidate.kind == EndpointKind::Observed && in_use != Some(**path)
            })
        };
        let oldest = observed()
            .min_by_key(|(path, candidate)| (candidate.answered, candidate.added, **path))
            .map(|(path, _)| *path);
        if observed().count() >= MAX_OBSERVED
            && let Some(oldest) = oldest
        {
            self.by_path.remove(&oldest);
        }
        self.by_path.insert(path, Candidate::new(EndpointKind::Observed, now));
        true
    }

    /// Takes a way through a relay; it stays until it is removed.
    pub(crate) fn add_relayed(&mut self, path: Path, now: Instant) {
        self.by_path.entry(path).or_insert_with(|| Candidate::new(EndpointKind::Other, now));
    }

    /// Removes the ways through relays that `is_meant` names.
    pub(crate) fn remove_relayed(&mut self, is_meant: impl Fn(Path) -> bool) {
        self.by_path.retain(|path, _| !(path.is_relayed() && is_meant(*path)));
    }

    pub(crate) fn get(&self, path: &Path) -> Option<&Candidate> {
        self.by_path.get(path)
    }

    pub(crate) fn get_mut(&mut self, path: &Path) -> Option<&mut Candidate> {
        self.by_path.get_mut(path)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Path, &Candidate)> {
        self.by_path.iter().map(|(path, candidate)| (*path, candidate))
    }

    /// How many there are without a relay.
    pub(crate) fn direct(&self) -> usize {
        self.by_path.keys().filter(|path| path.via == Via::Direct).count()
    }

    pub(crate) fn clear(&mut self) {
        self.by_path.clear();
    }

    /// Forgets all observed addresses but those in use or heard lately.
    pub(crate) fn forget_stale(&mut self, in_use: Option<Path>, now: Instant, age: Duration) {
        self.by_path.retain(|path, candidate| {
            candidate.kind != EndpointKind::Observed
                || in_use == Some(*path)
                || candidate
                    .answered
                    .is_some_and(|answered| now.saturating_duration_since(answered) < age)
                || now.saturating_duration_since(candidate.added) < age
        });
    }
}

/// An address as it is compared: IPv4-mapped IPv6 is IPv4; flow and scope are no part of it.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::start;

    fn endpoint(addr: &str) -> Endpoint {
        Endpoint { addr: addr.parse().unwrap(), kind: EndpointKind::Host }
    }

    #[test]
    fn published_endpoints_come_and_go_with_the_list() {
        let mut candidates = Candidates::default();
        let (a, b) = (endpoint("10.0.0.1:1"), endpoint("10.0.0.2:1"));
        assert!(candidates.publish(&[a, b], |_| true, None, start()));
        assert!(!candidates.publish(&[a], |_| true, None, start()));
        assert_eq!(candidates.direct(), 1);
        candidates.publish(&[], |_| true, Some(Path::direct(a.addr)), start());
        assert_eq!(candidates.direct(), 1, "the one in use stays");
        candidates.publish(&[b], |addr| addr != b.addr, None, start());
        assert_eq!(candidates.direct(), 0, "an unusable one is not taken");
    }

    #[test]
    fn no_more_than_twelve_published_endpoints_are_taken() {
        let endpoints: Vec<_> = (1..100).map(|i| endpoint(&format!("10.0.0.{i}:1"))).collect();
        let mut candidates = Candidates::default();
        candidates.publish(&endpoints, |_| true, None, start());
        assert_eq!(candidates.direct(), MAX_ENDPOINTS);
    }

    #[test]
    fn observed_addresses_that_answered_nothing_push_one_another_out() {
        let mut candidates = Candidates::default();
        for i in 0..100 {
            let path = Path::direct(format!("10.0.0.{i}:1").parse().unwrap());
            assert!(candidates.observe(path, None, start() + Duration::from_millis(i)));
            assert!(candidates.direct() <= MAX_OBSERVED);
        }
        assert!(candidates.get(&Path::direct("10.0.0.99:1".parse().unwrap())).is_some());
    }
}
