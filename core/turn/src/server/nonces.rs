use std::net::SocketAddr;

use super::Settings;
use crate::nonce::{Freshness, Nonce, NonceKey};

/// What a fresh nonce proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// Whoever sent it receives what goes to its address.
    Address,
    /// A broker made it; nothing is proved.
    Nothing,
}

#[derive(Debug)]
pub(super) struct Nonces {
    own: NonceKey,
    minted: Vec<NonceKey>,
}

impl Nonces {
    pub(super) fn new(seed: [u8; 32], settings: &Settings) -> Self {
        let mut nonces = Self { own: NonceKey::new(&seed), minted: Vec::new() };
        nonces.set_secrets(settings);
        nonces
    }

    pub(super) fn set_secrets(&mut self, settings: &Settings) {
        self.minted = settings.secrets.iter().map(|secret| NonceKey::minted(secret)).collect();
    }

    pub(super) fn issue(&self, remote: SocketAddr, unix: u64) -> Nonce {
        self.own.issue(unix, Some(remote))
    }

    /// `None` for a stale one.
    pub(super) fn check(&self, nonce: &[u8], remote: SocketAddr, unix: u64) -> Option<Proof> {
        let is_fresh = |key: &NonceKey, remote| key.check(nonce, unix, remote) == Freshness::Fresh;
        if is_fresh(&self.own, Some(remote)) {
            Some(Proof::Address)
        } else if self.minted.iter().any(|key| is_fresh(key, None)) {
            Some(Proof::Nothing)
        } else {
            None
        }
    }
}
