//! Tokens that only our own forms carry.
//!
//! A token is an HMAC of the address that its form is sent to, keyed with the secret of the
//! browser's cookie: it needs no memory here, survives a restart of the server, and is good for one
//! form of one session. A fresh mask on each use keeps it apart from what compression could tell of
//! a repeated text (BREACH).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac::{HMAC_SHA256, Key, sign};
use ring::rand::{SecureRandom as _, SystemRandom};

const LENGTH: usize = 32;

/// Makes and checks the tokens of one browser.
#[derive(Clone)]
pub struct Csrf(Key);

impl std::fmt::Debug for Csrf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Csrf")
    }
}

impl Csrf {
    /// For the browser whose cookie has that secret.
    pub fn new(secret: &str) -> Self {
        Self(Key::new(HMAC_SHA256, secret.as_bytes()))
    }

    /// The token of a form that is sent to a path of ours.
    pub fn token(&self, path: &str) -> String {
        let mut both = [0; 2 * LENGTH];
        let (mask, masked) = both.split_at_mut(LENGTH);
        // Without randomness the token is as good, only not masked.
        let _ = SystemRandom::new().fill(mask);
        let tag = self.tag(path);
        for ((out, mask), tag) in masked.iter_mut().zip(&*mask).zip(&tag) {
            *out = mask ^ tag;
        }
        URL_SAFE_NO_PAD.encode(both)
    }

    /// Whether a token is that of a form sent to this path.
    pub fn admits(&self, path: &str, token: &str) -> bool {
        let Ok(both) = URL_SAFE_NO_PAD.decode(token) else { return false };
        let Some((mask, masked)) = both.split_at_checked(LENGTH) else { return false };
        let tag = self.tag(path);
        if masked.len() != LENGTH {
            return false;
        }
        // Every byte is looked at, whatever the first ones say.
        let differing = mask
            .iter()
            .zip(masked)
            .zip(&tag)
            .fold(0, |sum, ((mask, out), tag)| sum | (mask ^ out ^ tag));
        differing == 0
    }

    fn tag(&self, path: &str) -> [u8; LENGTH] {
        let mut tag = [0; LENGTH];
        tag.copy_from_slice(sign(&self.0, path.as_bytes()).as_ref());
        tag
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_form_and_browser_alone() {
        let (mine, other) = (Csrf::new("mine"), Csrf::new("other"));
        let (one, two) = (mine.token("/a"), mine.token("/a"));
        assert_ne!(one, two, "each is masked anew");
        assert!(mine.admits("/a", &one) && mine.admits("/a", &two));
        assert!(!mine.admits("/b", &one));
        assert!(!other.admits("/a", &one));
        assert!(!mine.admits("/a", ""));
        assert!(!mine.admits("/a", &one[..one.len() - 4]));
        assert!(!mine.admits("/a", &URL_SAFE_NO_PAD.encode([0; 64])));
    }
}
