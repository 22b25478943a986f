//! Joining by approval: a device asks without a join key, and somebody who is signed in lets it in.
//!
//! The device may know nothing of the broker but its URL. So that nobody between them can have his own
//! device let in, both show a code made of the broker's identity as the device sees it and of a random
//! number from each side; the device commits to its number before it hears the broker's (as in ZRTP,
//! RFC 6189 §4.4.1), so nobody can try numbers until a code fits.

use serde::{Deserialize, Serialize};

use crate::BrokerIdentity;
use crate::possession::framed;

/// Seconds for which a request is open.
pub const JOIN_REQUEST_LIFETIME: u64 = 600;

/// `POST /v1/node/join-requests`: a device wants to join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinAsk {
    /// The node's protocol version.
    pub protocol: u32,
    /// The SHA-256 of [`JoinReveal::nonce`], in base64url without padding.
    pub commitment: String,
    /// What the device calls itself, as free text.
    pub name: String,
    /// Its operating system, e.g. `linux`.
    #[serde(default)]
    pub os: String,
    /// Its software's version.
    #[serde(default)]
    pub software: String,
}

/// The answer to a [`JoinAsk`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinAsked {
    /// Stands for the request, as the bearer token of those that follow: a secret.
    pub ticket: String,
    /// The broker's random number, in base64url without padding.
    pub nonce: String,
    /// Seconds for which the request is open.
    pub expires_in: u64,
}

impl std::fmt::Debug for JoinAsked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JoinAsked({} s)", self.expires_in)
    }
}

/// `PUT /v1/node/join-requests/nonce`: what the device has committed to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinReveal {
    /// The device's random number: 32 bytes in base64url without padding.
    pub nonce: String,
}

/// `GET /v1/node/join-requests`: what has become of the request.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum JoinDecision {
    /// Nobody has decided yet.
    Waiting,
    /// The device may join.
    Approved {
        /// By this join link, once.
        link: String,
    },
    /// It may not.
    Denied,
}

impl std::fmt::Debug for JoinDecision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Waiting => "Waiting",
            Self::Approved { .. } => "Approved",
            Self::Denied => "Denied",
        })
    }
}

/// The bytes whose SHA-256 is the code of a request ([`join_code`]).
pub fn join_code_message(broker: &BrokerIdentity, device_nonce: &str, nonce: &str) -> Vec<u8> {
    let (kind, identity) = broker.parts();
    let parts = [kind, identity, device_nonce.as_bytes(), nonce.as_bytes()];
    framed(b"warren join code v1\0", &parts)
}

/// Crockford's alphabet: no letter that looks like a digit.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// The first 40 bits of a hash as people compare them: `K7QF-2M9T`.
pub fn join_code(hash: &[u8; 32]) -> String {
    let bits = hash[..5].iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
    let mut code = String::with_capacity(9);
    for place in (0..8).rev() {
        code.push(char::from(ALPHABET[(bits >> (5 * place)) as usize & 31]));
        if place == 4 {
            code.push('-');
        }
    }
    code
}

/// A code as it was typed, in the form of [`join_code`]: in any case, with or without hyphen or
/// space, `O` for 0, `I` and `L` for 1.
pub fn read_join_code(typed: &str) -> Option<String> {
    let mut code: Vec<u8> = Vec::with_capacity(8);
    for letter in typed.bytes().filter(|it| !b"- ".contains(it)) {
        let letter = match letter.to_ascii_uppercase() {
            b'O' => b'0',
            b'I' | b'L' => b'1',
            other => other,
        };
        if !ALPHABET.contains(&letter) || code.len() == 8 {
            return None;
        }
        code.push(letter);
    }
    let code = String::from_utf8(code).ok().filter(|code| code.len() == 8)?;
    Some(format!("{}-{}", &code[..4], &code[4..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pin;

    #[test]
    fn a_code_is_read_however_people_type_it() {
        let mut hash = [0; 32];
        hash[..5].copy_from_slice(&[0x9f, 0x12, 0x34, 0x56, 0x78]);
        let code = join_code(&hash);
        assert_eq!(code, "KW93-8NKR");
        for typed in ["KW93-8NKR", "kw938nkr", " kw93 8nkr "] {
            assert_eq!(read_join_code(typed).as_deref(), Some("KW93-8NKR"));
        }
        assert_eq!(read_join_code("OIL0-0000").as_deref(), Some("0110-0000"));
        for wrong in ["", "KW93-8NK", "KW93-8NKRR", "KW93-8NKU", "KW93/8NKR", "кw948nkr"] {
            assert_eq!(read_join_code(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn another_broker_or_number_makes_another_code() {
        let messages = [
            join_code_message(&BrokerIdentity::Pin(Pin([1; 32])), "a", "b"),
            join_code_message(&BrokerIdentity::Pin(Pin([2; 32])), "a", "b"),
            join_code_message(&BrokerIdentity::host("example.org"), "a", "b"),
            join_code_message(&BrokerIdentity::Pin(Pin([1; 32])), "ab", ""),
            join_code_message(&BrokerIdentity::Pin(Pin([1; 32])), "", "ab"),
        ];
        for (n, message) in messages.iter().enumerate() {
            assert!(messages[..n].iter().all(|other| other != message));
        }
    }
}
