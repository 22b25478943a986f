//! The four messages on the wire (paper §5.4), all integers in little endian.
//!
//! ```text
//! initiation (148)  01 000000  sender 4  ephemeral 32  static 32+16  timestamp 12+16  mac1 16  mac2 16
//! response (92)     02 000000  sender 4  receiver 4  ephemeral 32  nothing 0+16  mac1 16  mac2 16
//! cookie reply (64) 03 000000  receiver 4  nonce 24  cookie 16+16
//! data (32 + n)     04 000000  receiver 4  counter 8  packet n+16
//! ```

use std::ops::Range;

use crate::{HEADROOM, TAG};

pub(crate) const INITIATION: u32 = 1;
pub(crate) const RESPONSE: u32 = 2;
pub(crate) const COOKIE_REPLY: u32 = 3;
pub(crate) const DATA: u32 = 4;

pub(crate) const INITIATION_LEN: usize = 148;
pub(crate) const RESPONSE_LEN: usize = 92;
pub(crate) const COOKIE_REPLY_LEN: usize = 64;
pub(crate) const DATA_MIN_LEN: usize = HEADROOM + TAG;

/// Where the fields of an initiation are.
pub(crate) mod initiation {
    use super::Range;
    pub(crate) const SENDER: usize = 4;
    pub(crate) const EPHEMERAL: Range<usize> = 8..40;
    pub(crate) const STATIC: Range<usize> = 40..88;
    pub(crate) const TIMESTAMP: Range<usize> = 88..116;
}

/// Where the fields of a response are.
pub(crate) mod response {
    use super::Range;
    pub(crate) const SENDER: usize = 4;
    pub(crate) const RECEIVER: usize = 8;
    pub(crate) const EPHEMERAL: Range<usize> = 12..44;
    pub(crate) const NOTHING: Range<usize> = 44..60;
}

/// Where the fields of a cookie reply are.
pub(crate) mod cookie_reply {
    pub(crate) const RECEIVER: usize = 4;
    pub(crate) const NONCE: usize = 8;
    pub(crate) const COOKIE: usize = 32;
}

/// `N` bytes from offset `at` on, which the caller knows to be there.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

/// The integer at offset `at`, which the caller knows to be there.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

/// A message's type, if its length fits the type and the reserved bytes are zero.
pub(crate) fn classify(datagram: &[u8]) -> Option<u32> {
    if datagram.len() < DATA_MIN_LEN {
        return None;
    }
    let kind = u32_at(datagram, 0);
    let fits = match kind {
        INITIATION => datagram.len() == INITIATION_LEN,
        RESPONSE => datagram.len() == RESPONSE_LEN,
        COOKIE_REPLY => datagram.len() == COOKIE_REPLY_LEN,
        DATA => true,
        _ => false,
    };
    fits.then_some(kind)
}

/// The length of the IP packet at the start of a decrypted, padded plaintext; `None` if there is
/// no IP packet, or one that says it is longer.
pub(crate) fn ip_packet_len(plaintext: &[u8]) -> Option<usize> {
    let be16 = |at: usize| usize::from(u16::from_be_bytes(array(plaintext, at)));
    let len = match plaintext.first()? >> 4 {
        4 if plaintext.len() >= 20 => be16(2),
        6 if plaintext.len() >= 40 => be16(4) + 40,
        _ => return None,
    };
    (len >= 20 && len <= plaintext.len()).then_some(len)
}
