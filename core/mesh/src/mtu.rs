//! How long a packet each path carries (RFC 8899, by padded probes).
//!
//! Sizes here are lengths of IP packets inside the tunnel. On the wire WireGuard adds 32 bytes and
//! pads to a multiple of 16, UDP and IP add 28 or 48; so only multiples of 16 are worth trying, and
//! a probe for `n` is a datagram of `n + 32` bytes with Don't Fragment set.
//!
//! The search begins at the size that fits Ethernet, which most paths carry, and halves the rest if
//! that is lost three times. Until it ends nothing is concluded; data datagrams go without Don't
//! Fragment, so that they arrive meanwhile. A proven size is proven again with each refresh of the
//! path, and when something seems lost, so that a path that became narrower is noticed.

use std::time::Duration;

use crate::path::{Path, Via};

/// What every path must carry (RFC 8200 §5), and what the interface has until more is proven.
pub(crate) const BASE: u16 = 1280;

/// WireGuard's header and tag.
const OVERHEAD: u16 = 32;

/// How often a size is tried before it counts as too long (RFC 8899 §5.1.2, MAX_PROBES).
const TRIES: u8 = 3;

/// How long until a longer size is tried again (RFC 8899 §5.1.1, PMTU_RAISE_TIMER).
pub(crate) const RAISE: Duration = Duration::from_secs(600);

/// The length of the datagram that proves `size`.
pub(crate) fn probe_len(size: u16) -> usize {
    usize::from(size + OVERHEAD)
}

/// The longest IP packet whose datagram fits 1,500 bytes along this path. Of a relayed one only one
/// of its two legs is known, so both are taken for the longer: IPv6 and a channel header.
fn ceiling(path: Path) -> u16 {
    let headers = match path.via {
        Via::Direct if path.remote.is_ipv4() => 20 + 8,
        Via::Direct => 40 + 8,
        Via::Relay(_) | Via::PeersRelay => 40 + 8 + 4,
    };
    (1500 - headers - OVERHEAD) & !15
}

/// What is known of one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PathMtu {
    /// Proven.
    confirmed: u16,
    ceiling: u16,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not begun.
    Fresh,
    /// `confirmed` passes, `too_big` doesn't, `size` has been tried so often.
    Searching { size: u16, too_big: u16, tries: u8 },
    /// Nothing to prove at the moment.
    Settled,
    /// The proven size is proven again.
    Confirming { tries: u8 },
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send a probe for this size, and call again when its time is over.
    Probe(u16),
    /// The search has ended; what is confirmed may have changed.
    Done,
}

impl PathMtu {
    /// A path that has carried `known` before, if so.
    pub(crate) fn new(path: Path, known: Option<u16>) -> Self {
        let ceiling = ceiling(path).max(BASE);
        Self { confirmed: known.unwrap_or(BASE).clamp(BASE, ceiling), ceiling, state: State::Fresh }
    }

    pub(crate) fn confirmed(&self) -> u16 {
        self.confirmed
    }

    /// Whether a search has ended, so that `confirmed` is all that the path carries.
    pub(crate) fn is_settled(&self) -> bool {
        match self.state {
            State::Settled | State::Confirming { .. } => true,
            State::Fresh | State::Searching { .. } => false,
        }
    }

    pub(crate) fn is_busy(&self) -> bool {
        match self.state {
            State::Searching { .. } | State::Confirming { .. } => true,
            State::Fresh | State::Settled => false,
        }
    }

    /// Begins to look for a longer size than the confirmed one.
    pub(crate) fn search(&mut self) -> Step {
        self.search_below(self.ceiling + 16)
    }

    fn search_below(&mut self, too_big: u16) -> Step {
        if too_big <= self.confirmed + 16 {
            self.state = State::Settled;
            return Step::Done;
        }
        let size = if too_big > self.ceiling {
            self.ceiling
        } else {
            (self.confirmed + (too_big - self.confirmed) / 2) & !15
        };
        let size = if size <= self.confirmed { self.confirmed + 16 } else { size };
        if size >= too_big {
            self.state = State::Settled;
            return Step::Done;
        }
        self.state = State::Searching { size, too_big, tries: 1 };
        Step::Probe(size)
    }

    /// Proves the confirmed size again, unless that is the base or a search goes on.
    pub(crate) fn confirm(&mut self) -> Option<Step> {
        if self.confirmed == BASE || self.state != State::Settled {
            return None;
        }
        self.state = State::Confirming { tries: 1 };
        Some(Step::Probe(self.confirmed))
    }

    /// A probe for `size` was answered.
    pub(crate) fn answered(&mut self, size: u16) -> Option<Step> {
        match self.state {
            State::Searching { too_big, .. } if size > self.confirmed && size < too_big => {
                self.confirmed = size;
                Some(self.search_below(too_big))
            }
            State::Confirming { .. } if size >= self.confirmed => {
                self.state = State::Settled;
                Some(Step::Done)
            }
            State::Fresh | State::Settled | State::Searching { .. } | State::Confirming { .. } => {
                None
            }
        }
    }

    /// The last probe's time is over.
    pub(crate) fn timed_out(&mut self) -> Option<Step> {
        match self.state {
            State::Fresh => Some(self.search()),
            State::Searching { size, too_big, tries } if tries < TRIES => {
                self.state = State::Searching { size, too_big, tries: tries + 1 };
                Some(Step::Probe(size))
            }
            State::Searching { size, .. } => Some(self.search_below(size)),
            State::Confirming { tries } if tries < TRIES => {
                self.state = State::Confirming { tries: tries + 1 };
                Some(Step::Probe(self.confirmed))
            }
            State::Confirming { .. } => {
                let too_big = self.confirmed;
                self.confirmed = BASE;
                Some(self.search_below(too_big))
            }
            State::Settled => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle(mtu: &mut PathMtu, first: Step, carries: u16) -> u32 {
        let mut step = first;
        let mut probes = 0;
        while let Step::Probe(size) = step {
            probes += 1;
            assert!(probes < 100, "the search ends");
            let next = if size <= carries { mtu.answered(size) } else { mtu.timed_out() };
            step = next.expect("a busy search goes on");
        }
        assert!(mtu.is_settled());
        probes
    }

    fn path(remote: &str) -> PathMtu {
        PathMtu::new(Path::direct(remote.parse().unwrap()), None)
    }

    #[test]
    fn ethernet_is_proven_with_one_probe() {
        let mut mtu = path("192.0.2.1:1");
        let first = mtu.search();
        assert_eq!(settle(&mut mtu, first, 1500), 1);
        assert_eq!(mtu.confirmed(), 1440);

        let mut mtu = path("[2001:db8::1]:1");
        let first = mtu.search();
        assert_eq!(settle(&mut mtu, first, 1500), 1);
        assert_eq!(mtu.confirmed(), 1408);
    }

    #[test]
    fn a_relayed_datagram_fits_ethernet_on_either_leg() {
        let relayed = Path::relayed("[100::1]:9".parse().unwrap(), crate::RelayHandle(0));
        let mut mtu = PathMtu::new(relayed, None);
        let first = mtu.search();
        settle(&mut mtu, first, 1500);
        assert!(probe_len(mtu.confirmed()) + 40 + 8 + 4 <= 1500);
        assert_eq!(mtu.confirmed(), 1408);
    }

    #[test]
    fn every_narrower_path_is_found_to_the_last_multiple_of_16() {
        for carries in 1280..=1440 {
            let mut mtu = path("192.0.2.1:1");
            let first = mtu.search();
            settle(&mut mtu, first, carries);
            assert_eq!(mtu.confirmed(), carries & !15, "carries {carries}");
        }
    }

    #[test]
    fn a_path_that_becomes_narrower_is_noticed_and_searched_anew() {
        let mut mtu = path("192.0.2.1:1");
        let first = mtu.search();
        settle(&mut mtu, first, 1440);
        let first = mtu.confirm().unwrap();
        settle(&mut mtu, first, 1350);
        assert_eq!(mtu.confirmed(), 1344);
        let first = mtu.confirm().unwrap();
        assert_eq!(settle(&mut mtu, first, 1350), 1);
    }

    #[test]
    fn a_path_that_becomes_wider_is_found_when_searched_again() {
        let mut mtu = path("192.0.2.1:1");
        let first = mtu.search();
        settle(&mut mtu, first, 1300);
        assert_eq!(mtu.confirmed(), 1296);
        let first = mtu.search();
        settle(&mut mtu, first, 1400);
        assert_eq!(mtu.confirmed(), 1392);
    }

    #[test]
    fn at_the_base_there_is_nothing_to_confirm() {
        let mut mtu = path("192.0.2.1:1");
        let first = mtu.search();
        settle(&mut mtu, first, 1280);
        assert_eq!((mtu.confirmed(), mtu.confirm()), (1280, None));
    }
}
