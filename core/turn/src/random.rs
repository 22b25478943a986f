//! Randomness from a seed: HMAC-SHA256 over a counter.

use ring::hmac;

use crate::codec::TransactionId;

#[derive(Debug)]
pub(crate) struct Random {
    key: hmac::Key,
    counter: u64,
}

impl Random {
    /// `seed` must be secret and random in production.
    pub(crate) fn new(seed: &[u8]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, seed), counter: 0 }
    }

    /// At most 32 bytes that nobody can guess who doesn't know the seed.
    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        const { assert!(N <= 32, "one tag has 32 bytes") };
        self.counter += 1;
        let tag = hmac::sign(&self.key, &self.counter.to_be_bytes());
        let mut bytes = [0; N];
        bytes.copy_from_slice(&tag.as_ref()[..N]);
        bytes
    }

    pub(crate) fn transaction_id(&mut self) -> TransactionId {
        TransactionId(self.bytes())
    }

    pub(crate) fn number(&mut self) -> u32 {
        u32::from_be_bytes(self.bytes())
    }
}
