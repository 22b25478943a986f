//! Whatever is built is read back; whatever comes in neither panics nor lies about lengths.

use std::net::SocketAddr;

use proptest::prelude::*;
use warren_turn::codec::{ChangeRequest, HEADER_LEN, MAX_ATTRIBUTES};
use warren_turn::{
    AttributeType, Builder, Class, Fingerprint, Integrity, Message, Method, ParseError, Sha1Key,
    Sha256Key, TransactionId, is_channel_data, is_stun,
};

fn class() -> impl Strategy<Value = Class> {
    prop_oneof![
        Just(Class::Request),
        Just(Class::Indication),
        Just(Class::Success),
        Just(Class::Error)
    ]
}

/// Types that mean nothing to the parser itself.
fn plain_type() -> impl Strategy<Value = AttributeType> {
    any::<u16>().prop_map(AttributeType).prop_filter("integrity ends the attributes", |kind| {
        ![
            AttributeType::MESSAGE_INTEGRITY,
            AttributeType::MESSAGE_INTEGRITY_SHA256,
            AttributeType::FINGERPRINT,
        ]
        .contains(kind)
    })
}

fn attributes() -> impl Strategy<Value = Vec<(AttributeType, Vec<u8>)>> {
    prop::collection::vec((plain_type(), prop::collection::vec(any::<u8>(), 0..70)), 0..12)
}

proptest! {
    #[test]
    fn a_built_message_is_read_back(
        prefix in prop::collection::vec(any::<u8>(), 0..8),
        class in class(),
        method in 0u16..0x1000,
        id: [u8; 12],
        attributes in attributes(),
        key: [u8; 32],
        tag_len in (4usize..=8).prop_map(|words| words * 4),
        (sha1, sha256, fingerprint) in any::<(bool, bool, bool)>(),
    ) {
        let method = Method::new(method).unwrap();
        let (sha1_key, sha256_key) = (Sha1Key::new(&key), Sha256Key::new(&key));
        let mut buffer = prefix.clone();
        let mut builder = Builder::new(&mut buffer, class, method, TransactionId(id));
        for (kind, value) in &attributes {
            builder.attribute(*kind, value);
        }
        if sha1 { builder.integrity_sha1(&sha1_key); }
        if sha256 { builder.integrity_sha256_truncated(&sha256_key, tag_len); }
        if fingerprint { builder.fingerprint(); }
        prop_assert_eq!(&buffer[..prefix.len()], &prefix[..]);

        let message = Message::parse(&buffer[prefix.len()..]).unwrap();
        prop_assert!(is_stun(message.as_bytes()));
        prop_assert!(!is_channel_data(message.as_bytes()));
        prop_assert_eq!((message.class(), message.method()), (class, method));
        prop_assert_eq!(message.transaction_id(), TransactionId(id));
        let read: Vec<_> = message.attributes().map(|a| (a.kind, a.value.to_vec())).collect();
        prop_assert_eq!(read, attributes);
        let (absent, valid) = (Integrity::Absent, Integrity::Valid);
        prop_assert_eq!(message.verify_sha1(&sha1_key), if sha1 { valid } else { absent });
        prop_assert_eq!(message.verify_sha256(&sha256_key), if sha256 { valid } else { absent });
        let expected = if fingerprint { Fingerprint::Valid } else { Fingerprint::Absent };
        prop_assert_eq!(message.verify_fingerprint(), expected);
    }

    #[test]
    fn addresses_survive(addr: SocketAddr, other: SocketAddr, id: [u8; 12]) {
        // Flow label and scope are of no concern to the wire.
        let addr = SocketAddr::new(addr.ip(), addr.port());
        let other = SocketAddr::new(other.ip(), other.port());
        let mut buffer = Vec::new();
        Builder::new(&mut buffer, Class::Success, Method::BINDING, TransactionId(id))
            .xor_mapped_address(addr)
            .mapped_address(addr)
            .other_address(other)
            .response_origin(other);
        let message = Message::parse(&buffer).unwrap();
        prop_assert_eq!(message.xor_mapped_address(), Some(addr));
        prop_assert_eq!(message.mapped_address(), Some(addr));
        prop_assert_eq!(message.other_address(), Some(other));
        prop_assert_eq!(message.response_origin(), Some(other));
    }

    #[test]
    fn an_attribute_behind_the_integrity_does_not_count(name in prop::collection::vec(any::<u8>(), 0..40)) {
        let key = Sha256Key::new(b"k");
        let mut buffer = Vec::new();
        Builder::new(&mut buffer, Class::Request, Method::BINDING, TransactionId([0; 12]))
            .integrity_sha256(&key)
            .username(&name);
        let message = Message::parse(&buffer).unwrap();
        prop_assert_eq!(message.verify_sha256(&key), Integrity::Valid);
        prop_assert_eq!(message.username(), None);
        prop_assert_eq!(message.attributes().count(), 0);
    }

    #[test]
    fn garbage_neither_panics_nor_yields_more_than_there_is(
        mut datagram in prop::collection::vec(any::<u8>(), 0..300),
        stun_like: bool,
        fitting: bool,
    ) {
        if stun_like && datagram.len() >= HEADER_LEN {
            datagram[0] &= 0x3F;
            datagram[4..8].copy_from_slice(&0x2112_A442u32.to_be_bytes());
            if fitting {
                datagram.truncate(datagram.len() / 4 * 4);
                let length = (datagram.len() - HEADER_LEN) as u16;
                datagram[2..4].copy_from_slice(&length.to_be_bytes());
            }
        }
        read_everything(&datagram);
    }

    #[test]
    fn a_damaged_message_neither_panics_nor_passes(
        attributes in attributes(),
        at: prop::sample::Index,
        flip in 1u8..,
    ) {
        let key = Sha256Key::new(b"k");
        let mut buffer = Vec::new();
        let mut builder =
            Builder::new(&mut buffer, Class::Request, Method::BINDING, TransactionId([1; 12]));
        for (kind, value) in &attributes {
            builder.attribute(*kind, value);
        }
        builder.integrity_sha256(&key).fingerprint();
        let at = at.index(buffer.len());
        buffer[at] ^= flip;
        read_everything(&buffer);
        if let Ok(message) = Message::parse(&buffer) {
            prop_assert_ne!(message.verify_fingerprint(), Fingerprint::Valid);
            if at < buffer.len() - 8 {
                prop_assert_ne!(message.verify_sha256(&key), Integrity::Valid);
            }
        }
    }
}

fn read_everything(datagram: &[u8]) {
    let _ = is_channel_data(datagram);
    let Ok(message) = Message::parse(datagram) else { return };
    let total: usize = message.attributes().map(|a| 4 + a.value.len()).sum();
    assert!(HEADER_LEN + total <= datagram.len());
    assert!(message.attributes().count() <= MAX_ATTRIBUTES);
    let _ = (message.xor_mapped_address(), message.mapped_address(), message.other_address());
    let _ = (message.response_origin(), message.change_request(), message.error_code());
    let _ = (message.username(), message.unknown_attributes().count());
    let _ = message.verify_sha1(&Sha1Key::new(b"k"));
    let _ = message.verify_sha256(&Sha256Key::new(b"k"));
    let _ = message.verify_fingerprint();
}

#[test]
fn small_attributes_are_read_back() {
    let mut buffer = Vec::new();
    let change = ChangeRequest { ip: true, port: false };
    Builder::new(&mut buffer, Class::Error, Method::BINDING, TransactionId([3; 12]))
        .change_request(change)
        .error_code(420)
        .unknown_attributes(&[AttributeType(0x7FFF), AttributeType::PADDING])
        .username(b"u")
        .padding(1000);
    let message = Message::parse(&buffer).unwrap();
    assert_eq!(message.change_request(), Some(change));
    assert_eq!(message.error_code(), Some(420));
    let unknown: Vec<_> = message.unknown_attributes().collect();
    assert_eq!(unknown, [AttributeType(0x7FFF), AttributeType::PADDING]);
    assert_eq!(message.attribute(AttributeType::PADDING).unwrap().len(), 1000);
}

#[test]
fn wrong_lengths_are_told_apart() {
    let id = TransactionId([0; 12]);
    let parse = |build: &dyn Fn(&mut Builder<'_>)| {
        let mut buffer = Vec::new();
        build(&mut Builder::new(&mut buffer, Class::Request, Method::BINDING, id));
        Message::parse(&buffer).map(|_| ())
    };
    let short_tag = parse(&|b| {
        b.attribute(AttributeType::MESSAGE_INTEGRITY_SHA256, &[0; 12]);
    });
    assert_eq!(short_tag, Err(ParseError::AttributeLength));
    let odd_tag = parse(&|b| {
        b.attribute(AttributeType::MESSAGE_INTEGRITY_SHA256, &[0; 18]);
    });
    assert_eq!(odd_tag, Err(ParseError::AttributeLength));
    let after = parse(&|b| {
        b.fingerprint().username(b"x");
    });
    assert_eq!(after, Err(ParseError::AfterFingerprint));
    let many = parse(&|b| {
        for _ in 0..=MAX_ATTRIBUTES {
            b.username(b"");
        }
    });
    assert_eq!(many, Err(ParseError::TooManyAttributes));
    let mut beyond = Vec::new();
    Builder::new(&mut beyond, Class::Request, Method::BINDING, id).username(b"four");
    beyond[HEADER_LEN + 3] = 5;
    assert_eq!(Message::parse(&beyond).map(|_| ()), Err(ParseError::AttributeLength));
}
