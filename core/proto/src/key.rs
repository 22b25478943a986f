use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A key was not 32 bytes in base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a key is 32 bytes in base64 (44 characters)")]
pub struct ParseKeyError;

/// A device's static X25519 public key, written in base64 as WireGuard's tools do.
///
/// A device's key never changes: a new key is a new device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(pub [u8; 32]);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = ParseKeyError;

    fn from_str(s: &str) -> Result<Self, ParseKeyError> {
        let bytes = STANDARD.decode(s).map_err(|_| ParseKeyError)?;
        bytes.try_into().map(Self).map_err(|_| ParseKeyError)
    }
}

impl TryFrom<String> for PublicKey {
    type Error = ParseKeyError;

    fn try_from(s: String) -> Result<Self, ParseKeyError> {
        s.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}
