use std::net::SocketAddr;
use std::time::Duration;

use warren_turn::{AttributeType, Builder, Class, Message, Method, Sha256Key, TransactionId};

use super::keys::Tag;

/// TUNNEL: one byte, 1 when the responder has a session with the requester that it could send
/// with, 0 when not. Comprehension-optional, from the range for private assignment in effect
/// (RFC 8489 §18.3: 0xC000–0xFFFF, first come first served).
pub(crate) const TUNNEL: AttributeType = AttributeType(0xC57A);

/// ASIDE: empty; in a request. The requester is trying direct paths beside a relayed one right now,
/// and asks that the receiver does the same. Comprehension-optional, as [`TUNNEL`].
pub(crate) const ASIDE: AttributeType = AttributeType(0xC57B);

/// ALLOCATION: empty; in a request. It goes out through the requester's allocation at a relay, so
/// where it comes from is a relayed address. Comprehension-optional, as [`TUNNEL`].
pub(crate) const ALLOCATION: AttributeType = AttributeType(0xC57C);

/// STAMP: eight bytes; in a request. The requester's clock that never goes back, in milliseconds since
/// 1970: what makes a request that was captured and is sent again later worthless.
/// Comprehension-optional, as [`TUNNEL`].
pub(crate) const STAMP: AttributeType = AttributeType(0xC57D);

/// What a request says beside who asks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Flags {
    /// [`ASIDE`].
    pub(crate) aside: bool,
    /// [`ALLOCATION`].
    pub(crate) allocation: bool,
}

impl Flags {
    pub(crate) fn of(message: &Message<'_>) -> Self {
        Self {
            aside: message.attribute(ASIDE).is_some(),
            allocation: message.attribute(ALLOCATION).is_some(),
        }
    }
}

/// The length of a request without padding: header, USERNAME, STAMP, MESSAGE-INTEGRITY-SHA256,
/// FINGERPRINT.
pub(crate) const REQUEST_LEN: usize = 20 + (4 + 16) + (4 + 8) + (4 + 32) + (4 + 4);

/// Writes a request of `len` bytes, as far as padding can make it that long: never less than
/// [`REQUEST_LEN`], a multiple of four.
pub(crate) fn request(
    id: TransactionId,
    tag: &Tag,
    stamp: Duration,
    key: &Sha256Key,
    flags: Flags,
    len: usize,
) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(len.max(REQUEST_LEN));
    let mut builder = Builder::new(&mut datagram, Class::Request, Method::BINDING, id);
    let milliseconds = u64::try_from(stamp.as_millis()).unwrap_or(u64::MAX);
    builder.username(tag).attribute(STAMP, &milliseconds.to_be_bytes());
    let len = len.saturating_sub(4 * (usize::from(flags.aside) + usize::from(flags.allocation)));
    if flags.aside {
        builder.attribute(ASIDE, &[]);
    }
    if flags.allocation {
        builder.attribute(ALLOCATION, &[]);
    }
    if let Some(padding) = len.checked_sub(REQUEST_LEN + 4) {
        builder.padding(u16::try_from(padding & !3).unwrap_or(0));
    }
    builder.integrity_sha256(key).fingerprint();
    datagram
}

/// Writes the answer to a request that came from `mapped`.
pub(crate) fn response(
    id: TransactionId,
    mapped: SocketAddr,
    tunnel: bool,
    key: &Sha256Key,
) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(REQUEST_LEN + 20);
    Builder::new(&mut datagram, Class::Success, Method::BINDING, id)
        .xor_mapped_address(mapped)
        .attribute(TUNNEL, &[u8::from(tunnel)])
        .integrity_sha256(key)
        .fingerprint();
    datagram
}

/// The tag of a request that has the form of a probe.
pub(crate) fn tag_of(message: &Message<'_>) -> Option<Tag> {
    message.username()?.try_into().ok()
}

/// When a request was made, by its maker's clock.
pub(crate) fn stamp_of(message: &Message<'_>) -> Option<Duration> {
    let bytes = message.attribute(STAMP)?.try_into().ok()?;
    Some(Duration::from_millis(u64::from_be_bytes(bytes)))
}

/// What a response says of the responder's tunnel, if anything.
pub(crate) fn tunnel_of(message: &Message<'_>) -> Option<bool> {
    match message.attribute(TUNNEL)? {
        [flag] => Some(*flag != 0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use warren_turn::{Fingerprint, Integrity};

    use super::*;

    const ID: TransactionId = TransactionId([7; 12]);
    const AT: Duration = Duration::from_millis(1_795_000_000_123);

    #[test]
    fn a_request_is_as_long_as_asked_for() {
        let key = Sha256Key::new(&[1; 32]);
        assert_eq!(request(ID, &[9; 16], AT, &key, Flags::default(), 0).len(), REQUEST_LEN);
        for len in [1312, 1440, 1472] {
            let datagram = request(ID, &[9; 16], AT, &key, Flags::default(), len);
            assert_eq!(datagram.len(), len);
            let message = Message::parse(&datagram).unwrap();
            assert_eq!(tag_of(&message), Some([9; 16]));
            assert_eq!(stamp_of(&message), Some(AT));
            assert_eq!(message.verify_sha256(&key), Integrity::Valid);
            assert_eq!(message.verify_fingerprint(), Fingerprint::Valid);
        }
    }

    #[test]
    fn what_a_request_says_is_read_and_its_length_stays() {
        let key = Sha256Key::new(&[1; 32]);
        for (aside, allocation) in [(false, false), (true, false), (false, true), (true, true)] {
            let flags = Flags { aside, allocation };
            let datagram = request(ID, &[9; 16], AT, &key, flags, 1440);
            assert_eq!(datagram.len(), 1440);
            let message = Message::parse(&datagram).unwrap();
            assert_eq!(Flags::of(&message), flags);
            assert_eq!(message.verify_sha256(&key), Integrity::Valid);
        }
    }

    #[test]
    fn a_response_is_no_longer_than_twice_its_request_and_tells_the_tunnel() {
        let key = Sha256Key::new(&[1; 32]);
        for (mapped, tunnel) in [("1.2.3.4:5", true), ("[2001:db8::1]:5", false)] {
            let datagram = response(ID, mapped.parse().unwrap(), tunnel, &key);
            assert!(datagram.len() <= 2 * REQUEST_LEN);
            let message = Message::parse(&datagram).unwrap();
            assert_eq!(message.xor_mapped_address(), Some(mapped.parse().unwrap()));
            assert_eq!(tunnel_of(&message), Some(tunnel));
            assert_eq!(message.verify_sha256(&Sha256Key::new(&[2; 32])), Integrity::Wrong);
        }
    }
}
