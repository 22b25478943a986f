//! Who a receiver index belongs to: the look-up of each packet.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};

use crate::crypto::Random;
use crate::interface::PeerIndex;

/// The peers by the indices that we gave them for handshakes and sessions.
#[derive(Debug, Default)]
pub(crate) struct Indices {
    peer_by_index: HashMap<u32, PeerIndex, BuildHasherDefault<Spread>>,
}

impl Indices {
    pub(crate) fn peer(&self, index: u32) -> Option<PeerIndex> {
        self.peer_by_index.get(&index).copied()
    }

    /// Gives the peer a new random index.
    pub(crate) fn allocate(&mut self, peer: PeerIndex, random: &mut Random) -> u32 {
        loop {
            if let Entry::Vacant(vacant) = self.peer_by_index.entry(random.u32()) {
                let index = *vacant.key();
                vacant.insert(peer);
                return index;
            }
        }
    }

    pub(crate) fn free(&mut self, index: u32) {
        self.peer_by_index.remove(&index);
    }
}

/// Spreads 32 bits over 64. The keys in the table are random and of our own choosing, so nobody
/// can aim at its buckets.
#[derive(Debug, Default)]
pub(crate) struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(byte.into());
        }
    }

    fn write_u32(&mut self, index: u32) {
        self.0 = (self.0 ^ u64::from(index)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}
