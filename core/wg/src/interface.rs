//! All tunnels of one device.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::{Counters, DropReason, Sealer, Stats};

/// A peer's handle, valid from [`Interface::add_peer`] until [`Interface::remove_peer`]; a stale one
/// means nobody, and is never given to another peer within 4,096 removals of the same slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerIndex(u32);

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
#[derive(Debug)]
pub struct Interface {}

impl Interface {
    /// Creates an interface without peers.
    ///
    /// `seed` is 32 bytes of true randomness, never used twice. `unix` is the wall-clock time at
    /// `now`, as the time since 1970.
    pub fn new(private_key: [u8; 32], seed: [u8; 32], now: Instant, unix: Duration) -> Self {
        let _ = (private_key, seed, now, unix);
        unimplemented!()
    }

    /// Tells that the wall clock at `now` is at least `unix`; a clock that went back is ignored.
    pub fn raise_clock(&mut self, now: Instant, unix: Duration) {
        let _ = (now, unix);
    }

    /// What the next initiation's timestamp will be at least, as the time since 1970. Persisted, and
    /// given plus one second to `raise_clock` after a restart, it makes initiations acceptable
    /// although the machine lost its clock.
    pub fn clock(&self, now: Instant) -> Duration {
        let _ = now;
        unimplemented!()
    }

    /// The device's public key.
    pub fn public_key(&self) -> [u8; 32] {
        unimplemented!()
    }

    /// Starts handshakes' retries at `first` (then doubling up to WireGuard's REKEY_TIMEOUT of 5 s,
    /// which is the default). It must exceed the round trip or the first answer is wasted, since an
    /// initiation supersedes the one before.
    pub fn set_handshake_retry(&mut self, first: Duration) {
        let _ = first;
    }

    /// Adds a peer; if there is one with this key, changes its configuration and keeps the rest.
    pub fn add_peer(&mut self, key: [u8; 32], config: PeerConfig, now: Instant) -> PeerIndex {
        let _ = (key, config, now);
        unimplemented!()
    }

    /// Forgets a peer and its keys. What is queued for it is not sent.
    pub fn remove_peer(&mut self, peer: PeerIndex) {
        let _ = peer;
    }

    /// The peer with this public key.
    pub fn peer_by_key(&self, key: &[u8; 32]) -> Option<PeerIndex> {
        let _ = key;
        unimplemented!()
    }

    /// A peer's public key.
    pub fn key(&self, peer: PeerIndex) -> Option<[u8; 32]> {
        let _ = peer;
        unimplemented!()
    }

    /// What to seal packets to this peer with, asked for once per super-packet. `None`: no session to
    /// send with; the caller keeps the packet and calls [`Interface::initiate`].
    ///
    /// Begins a rekey if the session is due for it.
    pub fn sealer(&mut self, peer: PeerIndex, now: Instant) -> Option<Sealer<'_>> {
        let _ = (peer, now);
        unimplemented!()
    }

    /// Classifies a WireGuard datagram, authenticates it and decrypts data in place.
    pub fn handle_datagram(
        &mut self,
        source: SocketAddr,
        datagram: &mut [u8],
        now: Instant,
    ) -> Received {
        let _ = (source, datagram, now);
        unimplemented!()
    }

    /// Begins a handshake, unless one is under way. It is retried until it succeeds or
    /// REKEY_ATTEMPT_TIME has passed.
    pub fn initiate(&mut self, peer: PeerIndex, now: Instant) {
        let _ = (peer, now);
    }

    /// Sends an initiation at once even if another one is under way (a new path, the other one
    /// probably lost), superseding it, and begins its retries anew. Not within 50 ms of the one
    /// before: then it follows as soon as it may.
    pub fn initiate_now(&mut self, peer: PeerIndex, now: Instant) {
        let _ = (peer, now);
    }

    /// Gives a handshake under way up, without an event.
    pub fn cancel_initiation(&mut self, peer: PeerIndex) {
        let _ = peer;
    }

    /// Runs every timer that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// When to call [`Interface::handle_timeout`], and for which timer. It may turn out that the
    /// timer has been put off meanwhile.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        unimplemented!()
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        unimplemented!()
    }

    /// The next thing to know.
    pub fn poll_event(&mut self) -> Option<Event> {
        unimplemented!()
    }

    /// What is known of a peer.
    pub fn stats(&self, peer: PeerIndex) -> Option<Stats> {
        let _ = peer;
        unimplemented!()
    }

    /// Totals, drops by reason.
    pub fn counters(&self) -> &Counters {
        unimplemented!()
    }
}
