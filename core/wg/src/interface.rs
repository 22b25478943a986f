//! All tunnels of one device: struct, public API and dispatch. Beside it: `handshake` (the four
//! handshake steps and cookies), `data` (the hot path in), `timeout` (what timers do).

mod data;
mod handshake;
mod timeout;

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::constants::{INITIATION_GAP, REJECT_AFTER_MESSAGES, REKEY_TIMEOUT, SEALER_PACKETS};
use crate::cookie::CookieJar;
use crate::crypto::Random;
use crate::indices::Indices;
use crate::load::Load;
use crate::message;
use crate::noise::Identity;
use crate::peer::{Peer, Peers};
use crate::tai64n::Clock;
use crate::timers::{Timer, Timers};
use crate::{Counters, DropReason, Sealer, Stats};

/// A peer's handle, valid from [`Interface::add_peer`] until [`Interface::remove_peer`]; a stale one
/// means nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerIndex {
    pub(crate) slot: u32,
    /// How many peers were in this slot before.
    pub(crate) generation: u32,
}

/// What may be set per peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerConfig {
    /// The pre-shared key, mixed in besides the public keys (paper §5.2); `None` is all zeros.
    pub preshared_key: Option<[u8; 32]>,
    /// Sends something at least this often, for NATs (paper §6.5 leaves it to the user). Off in a
    /// mesh that keeps its paths open itself.
    pub persistent_keepalive: Option<Duration>,
}

/// A datagram to send: handshake, keepalive or cookie reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: Destination,
    /// The whole datagram.
    pub contents: Vec<u8>,
}

/// Where a [`Transmit`] goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Destination {
    /// To a peer, on whatever path the caller has to it.
    Peer(PeerIndex),
    /// Back to where the datagram just handled came from (a cookie reply).
    Source(SocketAddr),
}

/// What became of a received datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Received {
    /// An authenticated IP packet.
    Data {
        /// From whom.
        peer: PeerIndex,
        /// Where in the datagram's buffer the packet is, without padding.
        range: Range<usize>,
    },
    /// An authenticated empty packet.
    Keepalive {
        /// From whom.
        peer: PeerIndex,
    },
    /// An authenticated handshake initiation or response.
    Handshake {
        /// From whom.
        peer: PeerIndex,
    },
    /// A valid cookie reply: it proves only that the sender saw our handshake message.
    Cookie {
        /// From whom (or from someone on the path to whom).
        peer: PeerIndex,
    },
    /// Nothing to do with it.
    Dropped(DropReason),
}

/// What the caller should know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A new session can be sent with: the first one, or one that replaces another. Emitted at each
    /// rekey too.
    Established {
        /// With whom.
        peer: PeerIndex,
    },
    /// The last session died of age; the next packet needs a new handshake.
    Expired {
        /// With whom.
        peer: PeerIndex,
    },
    /// No response within REKEY_ATTEMPT_TIME (90 s): gave up until `initiate` is called again.
    HandshakeFailed {
        /// With whom.
        peer: PeerIndex,
    },
}

/// All tunnels of one device: its peers, sessions, receiver indices, cookies and timers.
pub struct Interface {
    identity: Identity,
    random: Random,
    clock: Clock,
    first_retry: Duration,
    peers: Peers,
    indices: Indices,
    timers: Timers,
    jar: CookieJar,
    load: Load,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    counters: Counters,
}

impl fmt::Debug for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interface").field("counters", &self.counters).finish_non_exhaustive()
    }
}

impl Interface {
    /// Creates an interface without peers.
    ///
    /// `seed` is 32 bytes of true randomness, never used twice. `unix` is the wall-clock time at
    /// `now`, as the time since 1970.
    pub fn new(private_key: [u8; 32], seed: [u8; 32], now: Instant, unix: Duration) -> Self {
        let identity = Identity::new(private_key);
        let mut random = Random::new(seed);
        Self {
            jar: CookieJar::new(&identity.public),
            load: Load::new(now, random.bytes()),
            identity,
            random,
            clock: Clock::new(now, unix),
            first_retry: REKEY_TIMEOUT,
            peers: Peers::default(),
            indices: Indices::default(),
            timers: Timers::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Tells that the wall clock at `now` is at least `unix`; a clock that went back is ignored.
    pub fn raise_clock(&mut self, now: Instant, unix: Duration) {
        self.clock.raise(now, unix);
    }

    /// What the next initiation's timestamp will be at least, as the time since 1970. Persisted, and
    /// given plus one second to `raise_clock` after a restart, it makes initiations acceptable
    /// although the machine lost its clock.
    pub fn clock(&self, now: Instant) -> Duration {
        self.clock.unix(now)
    }

    /// The device's public key.
    pub fn public_key(&self) -> [u8; 32] {
        self.identity.public
    }

    /// Lets the retries of handshakes begin at `first` (50 ms to 5 s) and double up to WireGuard's
    /// REKEY_TIMEOUT of 5 s, which is the default. An initiation supersedes the one before, whose
    /// answer is then ignored; the doubling gets over a round trip that is longer than `first`.
    pub fn set_handshake_retry(&mut self, first: Duration) {
        self.first_retry = first.clamp(INITIATION_GAP, REKEY_TIMEOUT);
    }

    /// Adds a peer; if there is one with this key, changes its configuration and keeps the rest (a
    /// new pre-shared key holds from the next handshake on).
    pub fn add_peer(&mut self, key: [u8; 32], config: PeerConfig, now: Instant) -> PeerIndex {
        let index = match self.peers.by_key(&key) {
            Some(index) => index,
            None => self.peers.insert(Peer::new(key, self.identity.agree(&key), config)),
        };
        if let Some(peer) = self.peers.get_mut(index) {
            peer.configure(config);
            self.timers.disarm(index, &mut peer.deadlines, Timer::PersistentKeepalive);
            if peer.persistent_keepalive.is_some() {
                self.persistent_keepalive(index, now);
            }
        }
        index
    }

    /// Forgets a peer and its keys. What is queued for it is not sent.
    pub fn remove_peer(&mut self, peer: PeerIndex) {
        let Some(mut gone) = self.peers.remove(peer) else { return };
        for local in gone.keypairs.locals() {
            self.indices.free(local);
        }
        if let Some(pending) = gone.attempt.take().and_then(|attempt| attempt.pending) {
            self.indices.free(pending.local);
        }
        self.timers.forget(peer, &gone.deadlines);
        self.transmits.retain(|transmit| transmit.to != Destination::Peer(peer));
        self.events.retain(|event| event.peer() != peer);
    }

    /// The peer with this public key.
    pub fn peer_by_key(&self, key: &[u8; 32]) -> Option<PeerIndex> {
        self.peers.by_key(key)
    }

    /// A peer's public key.
    pub fn key(&self, peer: PeerIndex) -> Option<[u8; 32]> {
        self.peers.get(peer).map(|peer| peer.key)
    }

    /// What to seal packets to this peer with, asked for once per super-packet. `None`: no session to
    /// send with; the caller keeps the packet and calls [`Interface::initiate`].
    ///
    /// Begins a rekey if the session is due for it, so it is to be asked for only by who has
    /// something to send.
    pub fn sealer(&mut self, peer: PeerIndex, now: Instant) -> Option<Sealer<'_>> {
        let keypair = self.peers.get(peer)?.keypairs.current.as_deref()?;
        let is_used_up = keypair.counter >= REJECT_AFTER_MESSAGES - SEALER_PACKETS;
        if is_used_up || !keypair.is_alive(now) {
            return None;
        }
        if keypair.is_due_when_sending(now) {
            self.initiate(peer, now);
        }
        Sealer::new(peer, self.peers.get_mut(peer)?, &mut self.timers, now)
    }

    /// Classifies a WireGuard datagram, authenticates it and decrypts data in place.
    pub fn handle_datagram(
        &mut self,
        source: SocketAddr,
        datagram: &mut [u8],
        now: Instant,
    ) -> Received {
        let result = match message::classify(datagram) {
            Some(message::DATA) => self.handle_data(datagram, now),
            Some(message::INITIATION) => self.handle_initiation(source, datagram, now),
            Some(message::RESPONSE) => self.handle_response(datagram, now),
            Some(message::COOKIE_REPLY) => self.handle_cookie_reply(datagram, now),
            _ => Err(DropReason::Malformed),
        };
        result.unwrap_or_else(|reason| {
            self.counters.drop(reason);
            Received::Dropped(reason)
        })
    }

    /// Begins a handshake, unless one is under way. It is retried until it succeeds or
    /// REKEY_ATTEMPT_TIME (90 s) has passed.
    pub fn initiate(&mut self, peer: PeerIndex, now: Instant) {
        if self.peers.get(peer).is_some_and(|peer| peer.attempt.is_none()) {
            self.begin_attempt(peer, now);
        }
    }

    /// Sends an initiation at once even if another one is under way (a new path, the other one
    /// probably lost), superseding it, and lets the retries start over; REKEY_ATTEMPT_TIME goes on
    /// counting. Not within 50 ms of the one before: then it follows as soon as it may.
    pub fn initiate_now(&mut self, peer: PeerIndex, now: Instant) {
        self.begin_attempt(peer, now);
    }

    /// Gives a handshake under way up, without an event.
    pub fn cancel_initiation(&mut self, peer: PeerIndex) {
        self.end_attempt(peer);
    }

    /// Runs every timer that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((index, timer)) = self.timers.pop(now) {
            let Some(peer) = self.peers.get_mut(index) else { continue };
            if self.timers.settle(index, &mut peer.deadlines, timer, now) {
                self.timer_expired(index, timer, now);
            }
        }
    }

    /// When to call [`Interface::handle_timeout`], and for which timer. It may turn out that the
    /// timer was put off meanwhile.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.timers.next()
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next thing to know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What is known of a peer.
    pub fn stats(&self, peer: PeerIndex) -> Option<Stats> {
        let peer = self.peers.get(peer)?;
        Some(Stats {
            has_session: peer.keypairs.current.is_some(),
            initiating: peer.attempt.is_some(),
            ..peer.stats
        })
    }

    /// Totals, drops by reason.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn send_to_peer(&mut self, to: PeerIndex, contents: Vec<u8>, now: Instant) {
        let Some(peer) = self.peers.get_mut(to) else { return };
        peer.stats.tx_bytes += contents.len() as u64;
        if let Some(every) = peer.persistent_keepalive {
            let deadlines = &mut peer.deadlines;
            self.timers.arm(to, deadlines, Timer::PersistentKeepalive, now + every);
        }
        self.transmits.push_back(Transmit { to: Destination::Peer(to), contents });
    }
}

impl Event {
    /// Whom it is about.
    pub fn peer(&self) -> PeerIndex {
        match *self {
            Event::Established { peer }
            | Event::Expired { peer }
            | Event::HandshakeFailed { peer } => peer,
        }
    }
}
