use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use thiserror::Error;

/// The key that the original relay falls back to, in base64: everybody knows it.
pub const WELL_KNOWN_KEY: &str = "Zkw2SThGM2VndjZBcEMxNWZrSk85VTd4S2VERDZYdXI=";

/// The secret that a relay shares with all its clients.
#[derive(Clone)]
pub struct Key {
    hmac: hmac::Key,
    well_known: bool,
}

/// Why a text is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyError {
    /// There is nothing in it.
    #[error("the key is empty")]
    Empty,
    /// It isn't base64.
    #[error("the key is not base64")]
    NotBase64,
}

impl Key {
    /// Reads a key in base64, with or without padding; white space around it doesn't count.
    ///
    /// # Errors
    ///
    /// [`KeyError`].
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        let text = text.trim().trim_end_matches('=');
        let padded = format!("{text}{}", "=".repeat((4 - text.len() % 4) % 4));
        let bytes = STANDARD.decode(padded).map_err(|_| KeyError::NotBase64)?;
        Self::from_bytes(&bytes)
    }

    /// Takes the key's bytes.
    ///
    /// # Errors
    ///
    /// [`KeyError::Empty`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        if bytes.is_empty() {
            return Err(KeyError::Empty);
        }
        let well_known = STANDARD.decode(WELL_KNOWN_KEY).is_ok_and(|known| known == bytes);
        Ok(Self { hmac: hmac::Key::new(hmac::HMAC_SHA256, bytes), well_known })
    }

    /// Whether it is [`WELL_KNOWN_KEY`], which protects nothing.
    pub fn is_well_known(&self) -> bool {
        self.well_known
    }

    /// HMAC-SHA256 over these pieces, one after the other (RFC 2104).
    pub(crate) fn mac(&self, pieces: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.hmac);
        for piece in pieces {
            context.update(piece);
        }
        let mut mac = [0; 32];
        mac.copy_from_slice(context.sign().as_ref());
        mac
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("well_known", &self.well_known).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_key_and_what_is_not_base64_are_refused() {
        assert_eq!(Key::from_base64("").err(), Some(KeyError::Empty));
        assert_eq!(Key::from_base64(" \n").err(), Some(KeyError::Empty));
        assert_eq!(Key::from_base64("!").err(), Some(KeyError::NotBase64));
        assert_eq!(Key::from_base64("Zkw2=").err(), None);
    }

    #[test]
    fn the_well_known_key_is_known_with_and_without_its_padding() {
        assert!(Key::from_base64(WELL_KNOWN_KEY).unwrap().is_well_known());
        let bare = WELL_KNOWN_KEY.trim_end_matches('=');
        assert!(Key::from_base64(&format!("{bare}\n")).unwrap().is_well_known());
        assert!(!Key::from_base64("c2VjcmV0").unwrap().is_well_known());
    }

    #[test]
    fn a_key_is_never_printed() {
        let key = Key::from_base64("c2VjcmV0").unwrap();
        assert!(!format!("{key:?}").contains("c2VjcmV0"), "{key:?}");
    }
}
