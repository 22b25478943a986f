use std::hash::{BuildHasher, DefaultHasher, Hasher};

use ring::{hkdf, hmac};
use warren_turn::TransactionId;

/// Randomness out of the seed: HMAC-SHA-256 of a counter.
#[derive(Debug)]
pub(crate) struct Random {
    key: hmac::Key,
    counter: u64,
}

impl Random {
    pub(crate) fn new(seed: &[u8; 32]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, seed), counter: 0 }
    }

    pub(crate) fn transaction_id(&mut self) -> TransactionId {
        TransactionId(self.bytes())
    }

    pub(crate) fn seed(&mut self) -> [u8; 32] {
        self.bytes()
    }

    pub(crate) fn number(&mut self) -> u64 {
        u64::from_be_bytes(self.bytes())
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        const { assert!(N <= 32, "one HMAC-SHA-256 output") };
        self.counter += 1;
        let tag = hmac::sign(&self.key, &self.counter.to_be_bytes());
        let mut bytes = [0; N];
        bytes.copy_from_slice(&tag.as_ref()[..N]);
        bytes
    }
}

/// Derives an independent seed for one purpose.
pub(crate) fn derive_seed(seed: &[u8; 32], purpose: &str) -> [u8; 32] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, seed);
    let tag = hmac::sign(&key, purpose.as_bytes());
    let mut derived = [0; 32];
    derived.copy_from_slice(tag.as_ref());
    derived
}

/// The length of an HKDF output.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Length(pub(crate) usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// SipHash with a secret prefix out of the seed: outsiders can't aim collisions at a table, and one
/// seed gives one trace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seeded([u64; 2]);

impl Seeded {
    pub(crate) fn new(random: &mut Random) -> Self {
        Self([random.number(), random.number()])
    }
}

impl BuildHasher for Seeded {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0[0]);
        hasher.write_u64(self.0[1]);
        hasher
    }
}
