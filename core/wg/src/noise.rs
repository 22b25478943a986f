//! Noise_IKpsk2 as the paper uses it (§5.4.2, §5.4.3): the initiator knows the responder's static
//! key and sends its own, encrypted; the response binds a fresh secret and the pre-shared key.
//!
//! ```text
//! initiation: e, es, s, ss, timestamp          response: e, ee, se, psk, nothing
//! ```
//!
//! Nothing here knows of peers, indices or time: bytes and keys in, bytes and keys out.

use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{Zeroize, Zeroizing};

use crate::crypto::{Secret, hash, kdf, open_once, seal_once};
use crate::message::{self, INITIATION_LEN, RESPONSE_LEN, array, initiation, response};
use crate::tai64n::Tai64n;

const CONSTRUCTION: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";

/// The device's own key pair.
pub(crate) struct Identity {
    private: StaticSecret,
    pub(crate) public: [u8; 32],
}

impl Identity {
    pub(crate) fn new(mut bytes: [u8; 32]) -> Self {
        let private = StaticSecret::from(bytes);
        bytes.zeroize();
        let public = PublicKey::from(&private).to_bytes();
        Self { private, public }
    }

    /// The static-static secret with a peer; `None` if the peer's key is of small order.
    pub(crate) fn agree(&self, peer: &[u8; 32]) -> Option<Secret> {
        agree(&self.private, peer)
    }
}

fn agree(private: &StaticSecret, public: &[u8; 32]) -> Option<Secret> {
    let shared = private.diffie_hellman(&PublicKey::from(*public));
    shared.was_contributory().then(|| Zeroizing::new(shared.to_bytes()))
}

/// The keys of a session, from this side's view.
pub(crate) struct TransportKeys {
    pub(crate) sending: Secret,
    pub(crate) receiving: Secret,
}

/// Noise's symmetric state: chaining key and transcript hash.
#[derive(Clone)]
struct Symmetric {
    chaining: Secret,
    hash: [u8; 32],
}

impl Symmetric {
    /// The state of both sides before the first message to the holder of `responder`.
    fn new(responder: &[u8; 32]) -> Self {
        let chaining = hash(&[CONSTRUCTION]);
        let named = hash(&[&chaining, IDENTIFIER]);
        Self { chaining: Zeroizing::new(chaining), hash: hash(&[&named, responder]) }
    }

    fn mix_hash(&mut self, data: &[u8]) {
        self.hash = hash(&[&self.hash, data]);
    }

    fn mix_ephemeral(&mut self, public: &[u8]) {
        self.mix_hash(public);
        let [chaining] = kdf(&self.chaining, public);
        self.chaining = chaining;
    }

    fn mix_secret(&mut self, secret: &Secret) {
        let [chaining] = kdf(&self.chaining, secret.as_slice());
        self.chaining = chaining;
    }

    fn mix_secret_for_key(&mut self, secret: &Secret) -> Secret {
        let [chaining, key] = kdf(&self.chaining, secret.as_slice());
        self.chaining = chaining;
        key
    }

    fn mix_preshared(&mut self, preshared: &Secret) -> Secret {
        let [chaining, tau, key] = kdf(&self.chaining, preshared.as_slice());
        self.chaining = chaining;
        self.mix_hash(tau.as_slice());
        key
    }

    fn seal(&mut self, key: &Secret, field: &mut [u8]) {
        seal_once(key, &self.hash, field);
        self.mix_hash(field);
    }

    fn open(&mut self, key: &Secret, field: &mut [u8]) -> bool {
        let sealed_hash = hash(&[&self.hash, field]);
        let opened = open_once(key, &self.hash, field);
        self.hash = sealed_hash;
        opened
    }

    /// The two transport keys: initiator to responder, responder to initiator.
    fn split(&self) -> [Secret; 2] {
        kdf(&self.chaining, &[])
    }
}

/// What an initiator keeps until the response.
pub(crate) struct SentInitiation {
    state: Symmetric,
    ephemeral: StaticSecret,
}

/// Writes an initiation's fields from `sender` to the timestamp; the MACs stay zero. `None` if the
/// peer's key is of small order.
pub(crate) fn write_initiation(
    sender: u32,
    identity: &Identity,
    peer: &[u8; 32],
    static_static: &Secret,
    ephemeral: &Secret,
    timestamp: Tai64n,
) -> Option<([u8; INITIATION_LEN], SentInitiation)> {
    let mut bytes = [0; INITIATION_LEN];
    bytes[..4].copy_from_slice(&message::INITIATION.to_le_bytes());
    bytes[initiation::SENDER..][..4].copy_from_slice(&sender.to_le_bytes());

    let mut state = Symmetric::new(peer);
    let ephemeral = StaticSecret::from(**ephemeral);
    bytes[initiation::EPHEMERAL].copy_from_slice(PublicKey::from(&ephemeral).as_bytes());
    state.mix_ephemeral(&bytes[initiation::EPHEMERAL]);

    let key = state.mix_secret_for_key(&agree(&ephemeral, peer)?);
    bytes[initiation::STATIC][..32].copy_from_slice(&identity.public);
    state.seal(&key, &mut bytes[initiation::STATIC]);

    let key = state.mix_secret_for_key(static_static);
    bytes[initiation::TIMESTAMP][..12].copy_from_slice(&timestamp.0);
    state.seal(&key, &mut bytes[initiation::TIMESTAMP]);
    Some((bytes, SentInitiation { state, ephemeral }))
}

/// An initiation whose sender has been read but not proven yet.
pub(crate) struct ReadInitiation {
    state: Symmetric,
    ephemeral: [u8; 32],
    timestamp: [u8; 28],
    /// The static key that the sender claims.
    pub(crate) initiator: [u8; 32],
}

/// Reads who sent an initiation. `None` if it wasn't made for this identity.
pub(crate) fn read_initiation(
    bytes: &[u8; INITIATION_LEN],
    identity: &Identity,
) -> Option<ReadInitiation> {
    let mut state = Symmetric::new(&identity.public);
    let ephemeral: [u8; 32] = array(bytes, initiation::EPHEMERAL.start);
    state.mix_ephemeral(&ephemeral);

    let key = state.mix_secret_for_key(&identity.agree(&ephemeral)?);
    let mut initiator: [u8; 48] = array(bytes, initiation::STATIC.start);
    if !state.open(&key, &mut initiator) {
        return None;
    }
    let timestamp = array(bytes, initiation::TIMESTAMP.start);
    Some(ReadInitiation { state, ephemeral, timestamp, initiator: array(&initiator, 0) })
}

/// Opens the timestamp, which proves that the sender holds the static key that it claims.
pub(crate) fn prove_initiation(
    read: &mut ReadInitiation,
    static_static: &Secret,
) -> Option<Tai64n> {
    let key = read.state.mix_secret_for_key(static_static);
    let mut timestamp = read.timestamp;
    read.state.open(&key, &mut timestamp).then(|| Tai64n(array(&timestamp, 0)))
}

/// Writes the response to a proven initiation; the MACs stay zero. `None` if a key of the
/// initiator is of small order.
pub(crate) fn write_response(
    read: ReadInitiation,
    sender: u32,
    receiver: u32,
    ephemeral: &Secret,
    preshared: &Secret,
) -> Option<([u8; RESPONSE_LEN], TransportKeys)> {
    let mut bytes = [0; RESPONSE_LEN];
    bytes[..4].copy_from_slice(&message::RESPONSE.to_le_bytes());
    bytes[response::SENDER..][..4].copy_from_slice(&sender.to_le_bytes());
    bytes[response::RECEIVER..][..4].copy_from_slice(&receiver.to_le_bytes());

    let mut state = read.state;
    let ephemeral = StaticSecret::from(**ephemeral);
    bytes[response::EPHEMERAL].copy_from_slice(PublicKey::from(&ephemeral).as_bytes());
    state.mix_ephemeral(&bytes[response::EPHEMERAL]);
    state.mix_secret(&agree(&ephemeral, &read.ephemeral)?);
    state.mix_secret(&agree(&ephemeral, &read.initiator)?);
    let key = state.mix_preshared(preshared);
    state.seal(&key, &mut bytes[response::NOTHING]);
    let [receiving, sending] = state.split();
    Some((bytes, TransportKeys { sending, receiving }))
}

/// Reads the response to an initiation of ours. A wrong response leaves the initiation as it was.
pub(crate) fn read_response(
    bytes: &[u8; RESPONSE_LEN],
    sent: &SentInitiation,
    identity: &Identity,
    preshared: &Secret,
) -> Option<TransportKeys> {
    let mut state = sent.state.clone();
    let ephemeral: [u8; 32] = array(bytes, response::EPHEMERAL.start);
    state.mix_ephemeral(&ephemeral);
    state.mix_secret(&agree(&sent.ephemeral, &ephemeral)?);
    state.mix_secret(&identity.agree(&ephemeral)?);
    let key = state.mix_preshared(preshared);
    let mut nothing: [u8; 16] = array(bytes, response::NOTHING.start);
    if !state.open(&key, &mut nothing) {
        return None;
    }
    let [sending, receiving] = state.split();
    Some(TransportKeys { sending, receiving })
}
