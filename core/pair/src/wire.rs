//! The wire format.
//!
//! A handshake, all numbers big-endian; everything else is data and goes as it is:
//!
//! ```text
//!  0        4      6     8                24                           56
//!  | magic  | len  |flags| GUID (16)      | MAC (32)                   | extensions …
//! ```
//!
//! *magic* is [`MAGIC`] unless both sides agree on another. *len* counts the extensions' bytes; one
//! that disagrees with the datagram is accepted, as the original accepts it. *flags* mean nothing
//! so far. The GUID isn't zero. The MAC is HMAC-SHA256 over the whole datagram with the MAC's own
//! bytes zero.
//!
//! One extension has a meaning, a [`Proof`] that the handshake is fresh:
//!
//! ```text
//! | type 0xb5c7 | length 32 | magic (8)  | time (8)   | nonce (16) |
//! ```
//!
//! Extensions follow each other as type, length and value. What can't be read so is somebody
//! else's and ignored.

mod authenticator;
mod parts;

use std::fmt;

pub use authenticator::{Authenticator, NotHandshake};
pub use parts::{Kind, Part, Parts};

/// The first four bytes of a handshake, unless another is agreed on.
pub const MAGIC: u32 = 0x04b2_8000;
/// Bytes of a handshake before its extensions.
pub const HEADER_BYTES: usize = 56;
/// The longest datagram that is relayed: what fits an Ethernet frame over IPv4.
pub const MAX_DATAGRAM: usize = 1472;

/// Type of the extension that carries a [`Proof`]; chosen at random.
pub const PROOF_TYPE: u16 = 0xb5c7;
/// First bytes of the extension's value, chosen at random: the original's tester fills extensions
/// with bytes of its own, which must not read as a proof.
pub const PROOF_MAGIC: [u8; 8] = [0x57, 0x9d, 0xe1, 0x0c, 0x92, 0x6b, 0xf4, 0x38];
/// Bytes of the extension with its type and length.
pub const PROOF_BYTES: usize = 4 + PROOF_VALUE_BYTES;
const PROOF_VALUE_BYTES: usize = 8 + 8 + 16;

const GUID_AT: usize = 8;
const MAC_AT: usize = 24;

/// What two clients have agreed on outside the relay; never zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guid([u8; 16]);

impl Guid {
    /// From its bytes on the wire; `None` for zeros.
    pub fn new(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(Self(bytes))
    }

    /// From four words, as the original writes it; `None` for zeros.
    pub fn from_words(words: [u32; 4]) -> Option<Self> {
        let mut bytes = [0; 16];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        Self::new(bytes)
    }

    /// Its bytes on the wire.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for Guid {
    /// Only the beginning: who knows a GUID may take its second seat.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}{:02x}…", self.0[0], self.0[1])
    }
}

/// What a client calls its seat; random, kept as long as the client lives.
pub type Nonce = [u8; 16];

/// Says that a handshake is fresh, and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// Microseconds since the Unix epoch by the client's clock; greater in each handshake.
    pub time: u64,
    /// The same in every handshake of one client for one GUID, and in nobody else's.
    pub nonce: Nonce,
}

impl Proof {
    /// The extension, to be appended to a handshake.
    pub fn to_bytes(&self) -> [u8; PROOF_BYTES] {
        let mut bytes = [0; PROOF_BYTES];
        bytes[..2].copy_from_slice(&PROOF_TYPE.to_be_bytes());
        bytes[2..4].copy_from_slice(&(PROOF_VALUE_BYTES as u16).to_be_bytes());
        bytes[4..12].copy_from_slice(&PROOF_MAGIC);
        bytes[12..20].copy_from_slice(&self.time.to_be_bytes());
        bytes[20..].copy_from_slice(&self.nonce);
        bytes
    }

    /// Looks for the extension among others.
    pub(crate) fn find(mut extensions: &[u8]) -> Option<Self> {
        while let Some((head, rest)) = extensions.split_first_chunk::<4>() {
            let kind = u16::from_be_bytes([head[0], head[1]]);
            let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
            let (value, after) = rest.split_at_checked(length)?;
            if kind == PROOF_TYPE
                && let Some(proof) = Self::from_value(value)
            {
                return Some(proof);
            }
            extensions = after;
        }
        None
    }

    fn from_value(value: &[u8]) -> Option<Self> {
        let value: &[u8; PROOF_VALUE_BYTES] = value.try_into().ok()?;
        let (magic, rest) = value.split_first_chunk::<8>()?;
        let (time, nonce) = rest.split_first_chunk::<8>()?;
        if *magic != PROOF_MAGIC {
            return None;
        }
        Some(Self { time: u64::from_be_bytes(*time), nonce: nonce.try_into().ok()? })
    }
}

/// A genuine handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handshake {
    /// Which pair it is for.
    pub guid: Guid,
    /// That it is fresh, from clients that say so; never without MACs, as it would prove nothing.
    pub proof: Option<Proof>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROOF: Proof = Proof { time: 7, nonce: [9; 16] };

    #[test]
    fn a_proof_is_found_behind_other_extensions() {
        let mut extensions = vec![0, 1, 0, 3, 1, 2, 3];
        extensions.extend(PROOF.to_bytes());
        extensions.extend([0xff; 3]);
        assert_eq!(Proof::find(&extensions), Some(PROOF));
    }

    #[test]
    fn bytes_that_are_no_extensions_hold_no_proof() {
        assert_eq!(Proof::find(&[]), None);
        assert_eq!(Proof::find(&[1, 2, 3]), None);
        assert_eq!(Proof::find(&[0xff; 64]), None);
        let mut other_magic = PROOF.to_bytes();
        other_magic[4] ^= 1;
        assert_eq!(Proof::find(&other_magic), None);
        assert_eq!(Proof::find(&PROOF.to_bytes()[..PROOF_BYTES - 1]), None);
    }

    #[test]
    fn a_guid_of_zeros_is_none() {
        assert_eq!(Guid::from_words([0; 4]), None);
        assert_eq!(Guid::from_words([1, 2, 3, 4]).unwrap().as_bytes()[3], 1);
    }
}
