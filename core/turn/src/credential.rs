//! Long-term credentials (RFC 8489 §9.2): how a password becomes the key of a message's integrity.

use md5::{Digest as _, Md5};
use ring::digest;

use crate::codec::{Builder, Integrity, Message, PasswordAlgorithm, Sha1Key, Sha256Key};

/// What a nonce begins with that says which of RFC 8489's features the server has: the cookie, and
/// 24 bits in base64, of which the leftmost stands for password algorithms (RFC 8489 §9.2, §18.1).
pub(crate) const NONCE_COOKIE: &[u8; 9] = b"obMatJos2";

/// [`NONCE_COOKIE`] with password algorithms and without anonymous user names: base64 of 80 00 00.
pub(crate) const NONCE_PREFIX: &[u8; 13] = b"obMatJos2gAAA";

/// The content of PASSWORD-ALGORITHMS that our servers send: SHA-256, MD5.
pub(crate) const PASSWORD_ALGORITHMS: [u8; 8] = {
    let [a, b, c, d] = PasswordAlgorithm::Sha256.encode();
    let [e, f, g, h] = PasswordAlgorithm::Md5.encode();
    [a, b, c, d, e, f, g, h]
};

/// Whether a nonce says that its server sends PASSWORD-ALGORITHMS.
pub(crate) fn nonce_has_password_algorithms(nonce: &[u8]) -> bool {
    let Some(features) = nonce.strip_prefix(NONCE_COOKIE) else { return false };
    // The first bit of the first base64 digit.
    match features.first() {
        Some(&digit) => base64_value(digit).is_some_and(|value| value & 0x20 != 0),
        None => false,
    }
}

/// What a digit of base64 stands for.
pub(crate) fn base64_value(digit: u8) -> Option<u8> {
    Some(match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    })
}

/// Which attribute proves a message's integrity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IntegrityKind {
    Sha1,
    Sha256,
}

/// A key that is ready to sign and check messages.
#[derive(Debug, Clone)]
pub(crate) enum MessageKey {
    Sha1(Sha1Key),
    Sha256(Sha256Key),
}

impl MessageKey {
    pub(crate) fn new(key: &LongTermKey, kind: IntegrityKind) -> Self {
        match kind {
            IntegrityKind::Sha1 => Self::Sha1(Sha1Key::new(key.as_bytes())),
            IntegrityKind::Sha256 => Self::Sha256(Sha256Key::new(key.as_bytes())),
        }
    }

    pub(crate) fn sign(&self, builder: &mut Builder<'_>) {
        match self {
            Self::Sha1(key) => builder.integrity_sha1(key),
            Self::Sha256(key) => builder.integrity_sha256(key),
        };
    }

    pub(crate) fn verify(&self, message: &Message<'_>) -> Integrity {
        match self {
            Self::Sha1(key) => message.verify_sha1(key),
            Self::Sha256(key) => message.verify_sha256(key),
        }
    }
}

/// The hash of user name, realm and password (RFC 8489 §9.2.2).
#[derive(Clone)]
pub(crate) struct LongTermKey {
    bytes: [u8; 32],
    len: usize,
}

impl LongTermKey {
    /// User name, realm and password are taken as they are: what comes from our own broker, and
    /// nearly everything else, is ASCII, which OpaqueString leaves alone (RFC 8265 §4.2).
    pub(crate) fn new(
        algorithm: PasswordAlgorithm,
        username: &[u8],
        realm: &[u8],
        password: &[u8],
    ) -> Self {
        let parts = [username, b":", realm, b":", password];
        let mut bytes = [0; 32];
        let len = match algorithm {
            PasswordAlgorithm::Md5 => {
                let mut context = Md5::new();
                parts.iter().for_each(|part| context.update(part));
                let hash = context.finalize();
                bytes[..16].copy_from_slice(&hash);
                16
            }
            PasswordAlgorithm::Sha256 => {
                let mut context = digest::Context::new(&digest::SHA256);
                parts.iter().for_each(|part| context.update(part));
                bytes.copy_from_slice(context.finish().as_ref());
                32
            }
        };
        Self { bytes, len }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 5389 §15.4.
    #[test]
    fn the_rfcs_key_comes_out() {
        let key = LongTermKey::new(PasswordAlgorithm::Md5, b"user", b"realm", b"pass");
        let hex: String = key.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "8493fbc53ba582fb4c044c456bdc40eb");
    }

    #[test]
    fn a_nonce_tells_whether_there_are_password_algorithms() {
        assert!(nonce_has_password_algorithms(NONCE_PREFIX));
        assert!(nonce_has_password_algorithms(b"obMatJos2gAAAxyz"));
        assert!(!nonce_has_password_algorithms(b"obMatJos2AAAAxyz"));
        assert!(!nonce_has_password_algorithms(b"obMatJos2QAAAxyz"));
        assert!(!nonce_has_password_algorithms(b"obMatJos2"));
        assert!(!nonce_has_password_algorithms(b"f//499k954d6OL34oL9FSTvy64sA"));
    }
}
