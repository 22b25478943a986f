//! The state machine: seats, pairs and their timers.
//!
//! A pair lies in a slot of [`Table`]; `pair_by_guid` finds it for a handshake, `place_by_client`
//! for data. A socket has one *place*, the pair that it talks in, though it may also hold seats
//! elsewhere: the first seat of pairs that wait, and that of a pair that it has left. The pair that
//! it left still sends to it until idleness ends it, as in the original.
//!
//! `join.rs` gives out seats, `forward.rs` is the hot path, `expire.rs` ends what is idle.

mod clock;
mod expire;
mod forward;
mod join;
mod replay;
mod seat;
mod sources;
mod table;

use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use siphasher::sip::SipHasher13;

use crate::counters::{Counters, Drop};
use crate::wire::{Guid, Kind, Part};
use clock::Clock;
use expire::Due;
use replay::ProofMemory;
use seat::{PairIndex, Place};
use sources::Sources;
use table::Table;

/// How a relay behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// The most pairs at once, those that wait for their second socket included.
    pub max_pairs: usize,
    /// The most seats that one IPv4 address or IPv6 /64 holds at once.
    pub max_seats_per_source: u32,
    /// A pair in which neither has said anything for longer than this ends at the next sweep; so
    /// does a first socket that has waited for longer.
    pub idle_timeout: Duration,
    /// How often idle pairs are looked for; not zero.
    pub sweep_interval: Duration,
    /// How far a proof's time may be off, either way.
    pub proof_window: Duration,
    /// Bytes a second to a socket that has said no more than one datagram, so that one forged
    /// datagram doesn't aim a stream at whoever has that address; it holds from
    /// [`silent_grace`](Self::silent_grace) on. `None` for any number.
    pub silent_rate: Option<u32>,
    /// How long after it was joined a socket may be silent.
    pub silent_grace: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_pairs: 100_000,
            max_seats_per_source: 10_000,
            idle_timeout: Duration::from_secs(30),
            sweep_interval: Duration::from_millis(1800),
            proof_window: Duration::from_secs(30),
            silent_rate: Some(125_000),
            silent_grace: Duration::from_secs(10),
        }
    }
}

/// Where a client is reached: its address as the relay sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientSocket(SocketAddr);

impl ClientSocket {
    /// From the source of a datagram; an IPv4 address in IPv6's clothes is the same client.
    pub fn new(address: SocketAddr) -> Self {
        match (address, address.ip().to_canonical()) {
            (SocketAddr::V6(_), IpAddr::V4(ip)) => Self(SocketAddr::from((ip, address.port()))),
            (address, _) => Self(address),
        }
    }

    /// The address to send to.
    pub fn address(self) -> SocketAddr {
        self.0
    }

    /// Whether something sent there can arrive at one host.
    fn is_possible(self) -> bool {
        let ip = self.0.ip();
        let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
        self.0.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !broadcast
    }
}

/// What becomes of the datagrams of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// They go there as they are.
    Forward(ClientSocket),
    /// It was a handshake of a client that waits for its partner; nothing is sent.
    Waits,
    /// They go nowhere.
    Dropped(Drop),
}

/// What happened, for logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A first socket waits for the second.
    Waits {
        /// Its pair.
        guid: Guid,
        /// The socket.
        client: ClientSocket,
    },
    /// A pair is complete.
    Paired {
        /// Which.
        guid: Guid,
        /// Both sockets, the one that waited first.
        clients: [ClientSocket; 2],
    },
    /// A client proved that it is the one of a seat, from another address.
    Rebound {
        /// Its pair.
        guid: Guid,
        /// Where it was.
        from: ClientSocket,
        /// Where it is.
        to: ClientSocket,
    },
    /// A pair ended after idleness.
    Ended {
        /// Which.
        guid: Guid,
        /// Datagrams that it has carried.
        datagrams: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// A first socket waited in vain.
    Waited {
        /// Its pair.
        guid: Guid,
    },
    /// The relay is draining and its last pair has ended.
    Drained,
}

/// A pair relay.
#[derive(Debug)]
pub struct Relay {
    config: Config,
    table: Table,
    pair_by_guid: HashMap<Guid, PairIndex, Seeded>,
    place_by_client: HashMap<ClientSocket, Place, Seeded>,
    due: BinaryHeap<Due>,
    sources: Sources,
    proofs: ProofMemory,
    clock: Clock,
    /// Sweeps happen at this instant and at each whole number of intervals after it.
    start: Instant,
    paired: usize,
    draining: bool,
    counters: Counters,
    events: VecDeque<Event>,
}

impl Relay {
    /// A relay without pairs. `seed` keys its hash tables and must be random in production; `unix`
    /// is the time since the Unix epoch at `now`. Proofs that were made before it are stale: an
    /// earlier relay may have seen them.
    pub fn new(config: Config, seed: [u8; 16], now: Instant, unix: Duration) -> Self {
        let hasher = Seeded::new(seed);
        let clock = Clock::new(now, unix);
        Self {
            config,
            table: Table::default(),
            pair_by_guid: HashMap::with_hasher(hasher),
            place_by_client: HashMap::with_hasher(hasher),
            due: BinaryHeap::new(),
            sources: Sources::new(config.max_seats_per_source, hasher),
            proofs: ProofMemory::new(config.proof_window, unix, hasher),
            clock,
            start: now,
            paired: 0,
            draining: false,
            counters: Counters::default(),
            events: VecDeque::new(),
        }
    }

    /// Handles a part of what `from` sent; see [`Authenticator::parts`](crate::Authenticator::parts).
    pub fn handle_part(&mut self, from: ClientSocket, part: &Part, now: Instant) -> Verdict {
        let bytes = part.range.len();
        let outcome = match part.kind {
            Kind::Handshake(handshake) => self.handle_handshake(from, &handshake, bytes, now),
            Kind::Other(reason) => self.handle_data(from, reason, part.datagrams, bytes, now),
        };
        outcome.unwrap_or_else(|reason| {
            self.counters.drop(reason, part.datagrams);
            Verdict::Dropped(reason)
        })
    }

    /// Corrects the wall clock, by which proofs are judged.
    pub fn handle_clock(&mut self, now: Instant, unix: Duration) {
        self.clock = Clock::new(now, unix);
    }

    /// Makes no new pairs from now on; those that wait end at once, those that are complete end by
    /// themselves, and the last of them with [`Event::Drained`].
    pub fn handle_drain(&mut self) {
        if !self.draining {
            self.draining = true;
            self.end_waiting();
            self.note_drained();
        }
    }

    /// Whether [`handle_drain`](Self::handle_drain) was called.
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How many pairs are complete.
    pub fn pairs(&self) -> usize {
        self.paired
    }

    /// How many first sockets wait for the second.
    pub fn waiting(&self) -> usize {
        self.table.len() - self.paired
    }

    fn note_drained(&mut self) {
        if self.draining && self.paired == 0 {
            self.events.push_back(Event::Drained);
        }
    }
}

/// Hashes by SipHash with a key that nobody outside knows, so that nobody can aim at a bucket.
#[derive(Debug, Clone, Copy)]
struct Seeded {
    key: (u64, u64),
}

impl Seeded {
    fn new(seed: [u8; 16]) -> Self {
        let seed = u128::from_le_bytes(seed);
        Self { key: (seed as u64, (seed >> 64) as u64) }
    }
}

impl BuildHasher for Seeded {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.key.0, self.key.1)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test starts at some instant")]
mod tests {
    use super::*;
    use crate::wire::{Authenticator, Proof};

    #[test]
    fn nothing_is_left_of_pairs_that_have_ended() {
        let (mut now, unix) = (Instant::now(), Duration::from_secs(1_800_000_000));
        let mut relay = Relay::new(Config::default(), [1; 16], now, unix);
        let key = crate::Key::from_base64("c2VjcmV0").unwrap();
        let authenticator = Authenticator::new(Some(key));
        for number in 1..=201_u64 {
            let guid = Guid::from_words([1, 2, 3, number as u32 / 3]).unwrap();
            let nonce = u128::from(number % 7).to_be_bytes();
            let time = u64::try_from(unix.as_micros()).unwrap() + number;
            let datagram = authenticator.write(guid, &Proof { time, nonce }.to_bytes());
            let from = ClientSocket::new(([192, 0, 2, number as u8], 9).into());
            for part in authenticator.parts(&datagram, datagram.len()) {
                let _ = relay.handle_part(from, &part, now);
            }
        }
        assert!(relay.pairs() > 50 && relay.waiting() > 0);
        assert!(relay.counters().rebound > 0 || relay.counters().dropped(Drop::Full) > 0);
        while let Some((at, _)) = relay.poll_timeout() {
            now = at;
            relay.handle_timeout(now);
        }
        assert_eq!((relay.pairs(), relay.waiting()), (0, 0));
        assert!(relay.pair_by_guid.is_empty() && relay.place_by_client.is_empty());
        assert!(relay.sources.is_empty() && relay.proofs.is_empty() && relay.due.is_empty());
    }
}
