use std::net::SocketAddr;

use warren_turn::{AttributeType, Builder, Class, Message, Method, Sha256Key, TransactionId};

use super::keys::Tag;

/// TUNNEL: one byte, 1 when the responder has a session with the requester that it could send
/// with, 0 when not. Comprehension-optional, from the range for private assignment in effect
/// (RFC 8489 §18.3: 0xC000–0xFFFF, first come first served).
pub(crate) const TUNNEL: AttributeType = AttributeType(0xC57A);

/// The length of a request without padding: header, USERNAME, MESSAGE-INTEGRITY-SHA256,
/// FINGERPRINT.
pub(crate) const REQUEST_LEN: usize = 20 + (4 + 16) + (4 + 32) + (4 + 4);

/// Writes a request of `len` bytes, as far as padding can make it that long: never less than
/// [`REQUEST_LEN`], a multiple of four.
pub(crate) fn request(id: TransactionId, tag: &Tag, key: &Sha256Key, len: usize) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(len.max(REQUEST_LEN));
    let mut builder = Builder::new(&mut datagram, Class::Request, Method::BINDING, id);
    builder.username(tag);
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

    #[test]
    fn a_request_is_as_long_as_asked_for() {
        let key = Sha256Key::new(&[1; 32]);
        assert_eq!(request(ID, &[9; 16], &key, 0).len(), REQUEST_LEN);
        for len in [1312, 1440, 1472] {
            let datagram = request(ID, &[9; 16], &key, len);
            assert_eq!(datagram.len(), len);
            let message = Message::parse(&datagram).unwrap();
            assert_eq!(tag_of(&message), Some([9; 16]));
            assert_eq!(message.verify_sha256(&key), Integrity::Valid);
            assert_eq!(message.verify_fingerprint(), Fingerprint::Valid);
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
