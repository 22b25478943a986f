use std::fmt;

use crc::{CRC_32_ISO_HDLC, Crc};
use ring::hmac;

use super::header::HEADER_LEN;

/// What an integrity attribute says of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Integrity {
    /// There is none.
    Absent,
    /// Whoever wrote the message holds the key.
    Valid,
    /// Forged, damaged, or made with another key.
    Wrong,
}

/// What FINGERPRINT says of a message (RFC 8489 §14.7). It authenticates nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Fingerprint {
    /// There is none.
    Absent,
    /// The datagram is STUN, undamaged.
    Valid,
    /// It is damaged, or something else that looks like STUN.
    Wrong,
}

/// A key for MESSAGE-INTEGRITY, ready for use (RFC 8489 §9.1.1, §9.2.2 say how it is made).
#[derive(Clone)]
pub struct Sha1Key(hmac::Key);

/// A key for MESSAGE-INTEGRITY-SHA256, ready for use.
#[derive(Clone)]
pub struct Sha256Key(hmac::Key);

impl Sha1Key {
    /// Bytes in the attribute.
    pub const TAG_LEN: usize = 20;

    /// Prepares a key.
    pub fn new(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key))
    }

    pub(crate) fn tag(&self, message: &[u8], length: u16) -> hmac::Tag {
        tag(&self.0, message, length)
    }
}

impl Sha256Key {
    /// Bytes in the attribute, unless it was truncated.
    pub const TAG_LEN: usize = 32;
    /// The fewest bytes that it may be truncated to (RFC 8489 §14.6).
    pub const MIN_TAG_LEN: usize = 16;

    /// Prepares a key.
    pub fn new(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    pub(crate) fn tag(&self, message: &[u8], length: u16) -> hmac::Tag {
        tag(&self.0, message, length)
    }
}

impl fmt::Debug for Sha1Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sha1Key(…)")
    }
}

impl fmt::Debug for Sha256Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sha256Key(…)")
    }
}

/// The HMAC over a message up to its integrity attribute, as if the header's length field said
/// `length`, the end of that attribute (RFC 8489 §14.5).
fn tag(key: &hmac::Key, message: &[u8], length: u16) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    feed(message, length, |bytes| context.update(bytes));
    context.sign()
}

/// The CRC over a message up to FINGERPRINT, with the header's length field set (RFC 8489 §14.7).
pub(crate) fn fingerprint(message: &[u8], length: u16) -> u32 {
    const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);
    let mut digest = CRC.digest();
    feed(message, length, |bytes| digest.update(bytes));
    digest.finalize() ^ 0x5354_554E
}

fn feed(message: &[u8], length: u16, mut update: impl FnMut(&[u8])) {
    debug_assert!(message.len() >= HEADER_LEN);
    update(&message[..2]);
    update(&length.to_be_bytes());
    update(&message[4..]);
}
