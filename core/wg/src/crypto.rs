//! The primitives by the paper's names (§5.4): Hash, Mac, Hmac, Kdf, Aead, Xaead.

use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput, KeyInit, Mac, Update};
use blake2::{Blake2s256, Blake2sMac, Digest};
use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{Tag as XTag, XChaCha20Poly1305, XNonce};
use hmac::SimpleHmac;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

/// A secret of 32 bytes that is wiped when dropped.
pub(crate) type Secret = Zeroizing<[u8; 32]>;

/// HASH: BLAKE2s-256 over the parts in order.
pub(crate) fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut state = Blake2s256::new();
    for part in parts {
        Digest::update(&mut state, part);
    }
    state.finalize().into()
}

/// MAC: keyed BLAKE2s of 16 bytes over the parts in order. The key has at most 32 bytes.
pub(crate) fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let mut state = <Blake2sMac<U16> as KeyInit>::new_from_slice(key)
        .expect("BLAKE2s takes keys of up to 32 bytes, and ours have 16 or 32");
    for part in parts {
        Update::update(&mut state, part);
    }
    state.finalize_fixed().into()
}

/// Whether two MACs are equal, in constant time.
pub(crate) fn mac_eq(a: &[u8; 16], b: &[u8; 16]) -> bool {
    a.ct_eq(b).into()
}

fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> Secret {
    let mut state = <SimpleHmac<Blake2s256> as KeyInit>::new_from_slice(key)
        .expect("HMAC takes keys of any length");
    for part in parts {
        Mac::update(&mut state, part);
    }
    Zeroizing::new(state.finalize().into_bytes().into())
}

/// KDF_N: HKDF with HMAC-BLAKE2s, N outputs of 32 bytes (1 to 3).
pub(crate) fn kdf<const N: usize>(key: &[u8; 32], input: &[u8]) -> [Secret; N] {
    let prk = hmac(key, &[input]);
    let mut outputs: [Secret; N] = std::array::from_fn(|_| Secret::default());
    for i in 0..N {
        let ordinal = [i as u8 + 1];
        outputs[i] = match i {
            0 => hmac(&prk, &[&ordinal]),
            _ => hmac(&prk, &[outputs[i - 1].as_slice(), &ordinal]),
        };
    }
    outputs
}

/// A ChaCha20-Poly1305 key.
pub(crate) fn aead_key(key: &Secret) -> LessSafeKey {
    let key = UnboundKey::new(&CHACHA20_POLY1305, key.as_slice());
    LessSafeKey::new(key.expect("a ChaCha20-Poly1305 key has 32 bytes"))
}

/// The nonce of a counter: four zero bytes, then the counter in little endian.
pub(crate) fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// AEAD with counter 0 under a key used once: seals `N` bytes followed by room for the tag.
pub(crate) fn seal_once(key: &Secret, aad: &[u8; 32], buffer: &mut [u8]) {
    let split = buffer.len() - crate::TAG;
    let (content, tag_room) = buffer.split_at_mut(split);
    let tag = aead_key(key)
        .seal_in_place_separate_tag(nonce(0), Aad::from(aad), content)
        .expect("a handshake field is far shorter than the AEAD's limit");
    tag_room.copy_from_slice(tag.as_ref());
}

/// The reverse of [`seal_once`]: opens in place, the content is all but the last 16 bytes.
pub(crate) fn open_once(key: &Secret, aad: &[u8; 32], buffer: &mut [u8]) -> bool {
    aead_key(key).open_in_place(nonce(0), Aad::from(aad), buffer).is_ok()
}

/// XAEAD: seals a cookie.
pub(crate) fn seal_cookie(
    key: &[u8; 32],
    nonce: &[u8; 24],
    aad: &[u8; 16],
    cookie: &[u8; 16],
) -> [u8; 32] {
    let mut sealed = [0; 32];
    let (content, tag_room) = sealed.split_at_mut(16);
    content.copy_from_slice(cookie);
    let tag = XChaCha20Poly1305::new(&(*key).into())
        .encrypt_inout_detached(&XNonce::from(*nonce), aad, content.into())
        .expect("a cookie is far shorter than the AEAD's limit");
    tag_room.copy_from_slice(&tag);
    sealed
}

/// XAEAD: opens a cookie.
pub(crate) fn open_cookie(
    key: &[u8; 32],
    nonce: &[u8; 24],
    aad: &[u8; 16],
    sealed: &[u8; 32],
) -> Option<[u8; 16]> {
    let (content, tag) = sealed.split_at(16);
    let mut cookie: [u8; 16] = content.try_into().ok()?;
    let tag = XTag::try_from(tag).ok()?;
    XChaCha20Poly1305::new(&(*key).into())
        .decrypt_inout_detached(&XNonce::from(*nonce), aad, cookie.as_mut_slice().into(), &tag)
        .ok()?;
    Some(cookie)
}

/// Randomness out of one seed, by a ratchet: a draw replaces the state, so that who reads the
/// memory later can't find out which ephemeral keys were drawn before.
pub(crate) struct Random(Secret);

impl Random {
    pub(crate) fn new(mut seed: [u8; 32]) -> Self {
        let [state] = kdf(&seed, b"warren wg random v1");
        seed.zeroize();
        Self(state)
    }

    pub(crate) fn secret(&mut self) -> Secret {
        let [state, output] = kdf(&self.0, b"draw");
        self.0 = state;
        output
    }

    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        const { assert!(N <= 32) };
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.secret()[..N]);
        bytes
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    /// Uniform between 0 and `max`.
    pub(crate) fn up_to(&mut self, max: std::time::Duration) -> std::time::Duration {
        max * (self.u32() >> 16) / (1 << 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
            .collect()
    }

    #[test]
    fn hash_is_blake2s_of_rfc_7693_appendix_b() {
        let digest = "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982";
        assert_eq!(hash(&[b"a", b"bc"]).as_slice(), hex(digest));
    }

    #[test]
    fn the_initial_chaining_key_is_the_one_every_implementation_hard_codes() {
        // wireguard-go, boringtun and the kernel compute or carry this value.
        let construction = hash(&[b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"]);
        let expected = "60e26daef327efc02ec335e2a025d2d016eb4206f87277f52d38d1988b78cd36";
        assert_eq!(construction.as_slice(), hex(expected));
    }

    #[test]
    fn a_cookie_opens_only_with_its_key_nonce_and_message() {
        let sealed = seal_cookie(&[1; 32], &[2; 24], &[3; 16], &[4; 16]);
        assert_eq!(open_cookie(&[1; 32], &[2; 24], &[3; 16], &sealed), Some([4; 16]));
        assert_eq!(open_cookie(&[9; 32], &[2; 24], &[3; 16], &sealed), None);
        assert_eq!(open_cookie(&[1; 32], &[9; 24], &[3; 16], &sealed), None);
        assert_eq!(open_cookie(&[1; 32], &[2; 24], &[9; 16], &sealed), None);
    }

    #[test]
    fn draws_never_repeat_and_follow_the_seed() {
        let (mut a, mut b, mut c) =
            (Random::new([1; 32]), Random::new([1; 32]), Random::new([2; 32]));
        let draws: Vec<_> = (0..8).map(|_| *a.secret()).collect();
        assert_eq!(draws, (0..8).map(|_| *b.secret()).collect::<Vec<_>>());
        assert_ne!(draws[0], *c.secret());
        let unique: std::collections::BTreeSet<_> = draws.iter().collect();
        assert_eq!(unique.len(), draws.len());
    }
}
