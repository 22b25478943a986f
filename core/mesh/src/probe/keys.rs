use ring::hkdf;
use warren_turn::Sha256Key;
use x25519_dalek::{PublicKey, StaticSecret};

use crate::random::Length;

/// Names a pair, a direction and a day to the two that know their secret.
pub(crate) type Tag = [u8; 16];

const SALT: &[u8] = b"warren probe v1";
const TAG_LABEL: &[u8] = b"probe tag";
const KEY_LABEL: &[u8] = b"probe key";

/// What two devices share for their probes.
#[derive(Debug, Clone)]
pub(crate) struct PairKeys {
    prk: hkdf::Prk,
    pub(crate) integrity: Sha256Key,
}

impl PairKeys {
    /// Derives a pair's keys; `None` for a public key that contributes nothing (RFC 7748 §6.1).
    pub(crate) fn derive(secret: &StaticSecret, peer: [u8; 32]) -> Option<Self> {
        let shared = secret.diffie_hellman(&PublicKey::from(peer));
        if !shared.was_contributory() {
            return None;
        }
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(shared.as_bytes());
        let integrity = Sha256Key::new(&expand::<32>(&prk, &[KEY_LABEL])?);
        Some(Self { prk, integrity })
    }

    /// The tag of the probes that `sender` sends on `day`.
    pub(crate) fn tag(&self, sender: &[u8; 32], day: u32) -> Option<Tag> {
        expand(&self.prk, &[TAG_LABEL, sender, &day.to_be_bytes()])
    }
}

fn expand<const N: usize>(prk: &hkdf::Prk, info: &[&[u8]]) -> Option<[u8; N]> {
    let mut output = [0; N];
    prk.expand(info, Length(N)).ok()?.fill(&mut output).ok()?;
    Some(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (StaticSecret, StaticSecret) {
        (StaticSecret::from([1; 32]), StaticSecret::from([2; 32]))
    }

    #[test]
    fn both_sides_derive_the_same_tags() {
        let (a, b) = pair();
        let (a_public, b_public) = (PublicKey::from(&a).to_bytes(), PublicKey::from(&b).to_bytes());
        let at_a = PairKeys::derive(&a, b_public).unwrap();
        let at_b = PairKeys::derive(&b, a_public).unwrap();
        assert_eq!(at_a.tag(&a_public, 20_000), at_b.tag(&a_public, 20_000));
        assert_eq!(at_a.tag(&b_public, 20_000), at_b.tag(&b_public, 20_000));
    }

    #[test]
    fn tags_differ_by_direction_and_day() {
        let (a, b) = pair();
        let (a_public, b_public) = (PublicKey::from(&a).to_bytes(), PublicKey::from(&b).to_bytes());
        let keys = PairKeys::derive(&a, b_public).unwrap();
        assert_ne!(keys.tag(&a_public, 1), keys.tag(&b_public, 1));
        assert_ne!(keys.tag(&a_public, 1), keys.tag(&a_public, 2));
    }

    #[test]
    fn a_key_of_small_order_makes_no_pair() {
        assert!(PairKeys::derive(&StaticSecret::from([1; 32]), [0; 32]).is_none());
    }
}
