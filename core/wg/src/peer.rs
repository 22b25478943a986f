//! What is kept of each peer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::Stats;
use crate::cookie::MacWriter;
use crate::crypto::Secret;
use crate::interface::{PeerConfig, PeerIndex};
use crate::keypair::Keypairs;
use crate::noise::SentInitiation;
use crate::tai64n::Tai64n;
use crate::timers::Deadlines;

/// A handshake that we have begun, with all its retries.
pub(crate) struct Attempt {
    pub(crate) began: Instant,
    /// How long to wait after the next initiation.
    pub(crate) interval: Duration,
    /// Whether a cookie has been answered by an initiation out of turn.
    pub(crate) cookie_answered: bool,
    pub(crate) pending: Option<Pending>,
}

/// The last initiation that we have sent.
pub(crate) struct Pending {
    pub(crate) local: u32,
    pub(crate) sent_at: Instant,
    pub(crate) sent: SentInitiation,
    /// How many responses to it were forged.
    pub(crate) forged: u32,
}

pub(crate) struct Peer {
    pub(crate) key: [u8; 32],
    /// The secret of both static keys; `None` if the peer's key is of small order.
    pub(crate) static_static: Option<Secret>,
    pub(crate) preshared: Secret,
    pub(crate) persistent_keepalive: Option<Duration>,
    pub(crate) macs: MacWriter,
    pub(crate) keypairs: Keypairs,
    pub(crate) attempt: Option<Attempt>,
    pub(crate) last_initiation_sent: Option<Instant>,
    pub(crate) last_stamp_sent: Tai64n,
    pub(crate) last_initiation_accepted: Option<Instant>,
    pub(crate) last_stamp_accepted: Tai64n,
    pub(crate) deadlines: Deadlines,
    /// What the peer's timers that need jitter add; drawn anew at each handshake.
    pub(crate) jitter: Duration,
    /// Whether more data came while the keepalive for earlier data was pending.
    pub(crate) needs_another_keepalive: bool,
    pub(crate) stats: Stats,
}

impl Peer {
    pub(crate) fn new(key: [u8; 32], static_static: Option<Secret>, config: PeerConfig) -> Self {
        let mut peer = Self {
            key,
            static_static,
            preshared: Secret::default(),
            persistent_keepalive: None,
            macs: MacWriter::new(&key),
            keypairs: Keypairs::default(),
            attempt: None,
            last_initiation_sent: None,
            last_stamp_sent: Tai64n::default(),
            last_initiation_accepted: None,
            last_stamp_accepted: Tai64n::default(),
            deadlines: Deadlines::default(),
            jitter: Duration::ZERO,
            needs_another_keepalive: false,
            stats: Stats::default(),
        };
        peer.configure(config);
        peer
    }

    pub(crate) fn configure(&mut self, config: PeerConfig) {
        self.preshared = Zeroizing::new(config.preshared_key.unwrap_or_default());
        let at_least = Duration::from_secs(1);
        self.persistent_keepalive = config.persistent_keepalive.map(|every| every.max(at_least));
    }
}

/// The peers by handle and by key.
#[derive(Default)]
pub(crate) struct Peers {
    slots: Vec<Place>,
    free: Vec<u32>,
    index_by_key: BTreeMap<[u8; 32], PeerIndex>,
}

#[derive(Default)]
struct Place {
    generation: u32,
    peer: Option<Box<Peer>>,
}

impl Peers {
    pub(crate) fn get(&self, index: PeerIndex) -> Option<&Peer> {
        let place = self.slots.get(index.slot as usize)?;
        place.peer.as_deref().filter(|_| place.generation == index.generation)
    }

    pub(crate) fn get_mut(&mut self, index: PeerIndex) -> Option<&mut Peer> {
        let place = self.slots.get_mut(index.slot as usize)?;
        place.peer.as_deref_mut().filter(|_| place.generation == index.generation)
    }

    pub(crate) fn by_key(&self, key: &[u8; 32]) -> Option<PeerIndex> {
        self.index_by_key.get(key).copied()
    }

    pub(crate) fn insert(&mut self, peer: Peer) -> PeerIndex {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Place::default());
            (self.slots.len() - 1) as u32
        });
        let place = &mut self.slots[slot as usize];
        let index = PeerIndex { slot, generation: place.generation };
        self.index_by_key.insert(peer.key, index);
        place.peer = Some(Box::new(peer));
        index
    }

    pub(crate) fn remove(&mut self, index: PeerIndex) -> Option<Box<Peer>> {
        let place = self.slots.get_mut(index.slot as usize)?;
        if place.generation != index.generation {
            return None;
        }
        let peer = place.peer.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(index.slot);
        self.index_by_key.remove(&peer.key);
        Some(peer)
    }
}
