use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;

/// The SHA-256 of a token or join key: what is kept of it.
///
/// The secrets are random and at least 192 bits long, so a plain hash can't be searched.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretHash(pub [u8; 32]);

impl SecretHash {
    /// Hashes a secret's text.
    pub fn of(secret: &str) -> Self {
        let digest = digest::digest(&digest::SHA256, secret.as_bytes());
        Self(digest.as_ref().try_into().expect("SHA-256 gives 32 bytes"))
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretHash({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

/// Writes a secret's bytes as text that fits a URL's fragment and a header.
pub(crate) fn secret_text(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
