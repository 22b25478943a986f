//! The Binding server through its public API.
#![expect(clippy::disallowed_methods, reason = "a test starts at some instant")]
#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::net::SocketAddr;
use std::time::Instant;

use proptest::prelude::*;
use warren_turn::codec::ChangeRequest;
use warren_turn::{
    Answer, AttributeType, BindingServer, Builder, Class, Fingerprint, Limits, Message, Method,
    ParseError, Refusal, TransactionId,
};

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Two addresses, two ports: A1:P1, A1:P2, A2:P1, A2:P2.
fn four_sockets() -> Vec<SocketAddr> {
    ["203.0.113.1:3478", "203.0.113.1:3479", "203.0.113.2:3478", "203.0.113.2:3479"]
        .map(addr)
        .to_vec()
}

fn server(sockets: Vec<SocketAddr>) -> (BindingServer, Instant) {
    let now = Instant::now();
    (BindingServer::new(sockets, Limits::default(), [1; 16], now), now)
}

fn request(build: impl FnOnce(&mut Builder<'_>)) -> Vec<u8> {
    let mut datagram = Vec::new();
    let id = TransactionId(*b"abcdefghijkl");
    build(&mut Builder::new(&mut datagram, Class::Request, Method::BINDING, id));
    datagram
}

const CLIENT: &str = "198.51.100.7:40000";

#[test]
fn a_request_is_answered_with_its_source() {
    let (mut server, now) = server(four_sockets());
    let mut reply = Vec::new();
    for client in [CLIENT, "[2001:db8::7]:5", "[::ffff:198.51.100.7]:40000"].map(addr) {
        let datagram = request(|b| {
            b.fingerprint();
        });
        let answer = server.handle_datagram(0, client, &datagram, &mut reply, now);
        assert_eq!(answer, Answer::Reply { socket: 0 });
        let message = Message::parse(&reply).unwrap();
        assert_eq!((message.class(), message.method()), (Class::Success, Method::BINDING));
        assert_eq!(message.transaction_id(), TransactionId(*b"abcdefghijkl"));
        let seen = SocketAddr::new(client.ip().to_canonical(), client.port());
        assert_eq!(message.xor_mapped_address(), Some(seen));
        assert_eq!(message.other_address(), Some(addr("203.0.113.2:3479")));
        assert_eq!(message.verify_fingerprint(), Fingerprint::Valid);
        assert_eq!(message.attribute(AttributeType::SOFTWARE), None);
    }
}

#[test]
fn change_request_is_answered_from_the_socket_that_differs_so() {
    let (mut server, now) = server(four_sockets());
    let mut reply = Vec::new();
    for (received_on, ip, port, answered_from) in [
        (0, false, false, 0),
        (0, false, true, 1),
        (0, true, false, 2),
        (0, true, true, 3),
        (3, true, true, 0),
    ] {
        let datagram = request(|b| {
            b.change_request(ChangeRequest { ip, port });
        });
        let answer = server.handle_datagram(received_on, addr(CLIENT), &datagram, &mut reply, now);
        assert_eq!(answer, Answer::Reply { socket: answered_from });
        let message = Message::parse(&reply).unwrap();
        assert_eq!(message.response_origin(), Some(four_sockets()[answered_from]));
    }
}

#[test]
fn what_cannot_be_served_is_refused_with_420() {
    let one_address = vec![addr("203.0.113.1:3478"), addr("203.0.113.1:3479")];
    let (mut server, now) = server(one_address);
    let mut reply = Vec::new();
    let response_port = AttributeType(0x0027);
    for (datagram, unknown) in [
        (
            request(|b| {
                b.change_request(ChangeRequest { ip: true, port: false });
            }),
            AttributeType::CHANGE_REQUEST,
        ),
        (
            request(|b| {
                b.attribute(response_port, &[0, 53, 0, 0]);
            }),
            response_port,
        ),
        (
            request(|b| {
                b.padding(100);
            }),
            AttributeType::PADDING,
        ),
    ] {
        let answer = server.handle_datagram(1, addr(CLIENT), &datagram, &mut reply, now);
        assert_eq!(answer, Answer::Reply { socket: 1 });
        let message = Message::parse(&reply).unwrap();
        assert_eq!(message.class(), Class::Error);
        assert_eq!(message.error_code(), Some(420));
        assert_eq!(message.unknown_attributes().collect::<Vec<_>>(), [unknown]);
    }
    let datagram = request(|_| {});
    let _ = server.handle_datagram(1, addr(CLIENT), &datagram, &mut reply, now);
    let message = Message::parse(&reply).unwrap();
    assert_eq!(message.other_address(), None, "one address is no RFC 5780 server");
}

#[test]
fn what_is_no_binding_request_gets_nothing() {
    let (mut server, now) = server(four_sockets());
    let mut reply = Vec::new();
    let id = TransactionId([0; 12]);
    let mut refused = |from: &str, datagram: &[u8]| match server.handle_datagram(
        0,
        addr(from),
        datagram,
        &mut reply,
        now,
    ) {
        Answer::Refused(refusal) => refusal,
        Answer::Reply { .. } => panic!("answered"),
    };
    for (class, method) in [
        (Class::Success, Method::BINDING),
        (Class::Error, Method::BINDING),
        (Class::Indication, Method::BINDING),
        (Class::Request, Method::ALLOCATE),
    ] {
        let mut datagram = Vec::new();
        Builder::new(&mut datagram, class, method, id);
        assert_eq!(refused(CLIENT, &datagram), Refusal::NotBinding);
    }
    assert_eq!(refused(CLIENT, b"hello"), Refusal::Malformed(ParseError::NotStun));
    let mut damaged = request(|b| {
        b.fingerprint();
    });
    damaged[10] ^= 1;
    assert_eq!(refused(CLIENT, &damaged), Refusal::Fingerprint);
    let plain = request(|_| {});
    for from in ["198.51.100.7:0", "0.0.0.0:5", "224.0.0.1:5", "[ff02::1]:5"] {
        assert_eq!(refused(from, &plain), Refusal::Source);
    }
}

#[test]
fn a_flood_from_one_prefix_leaves_others_their_answers() {
    let (mut server, now) = server(four_sockets());
    let mut reply = Vec::new();
    let datagram = request(|_| {});
    let limits = Limits::default();
    let mut answered = 0;
    for n in 0..10_000u32 {
        let from =
            SocketAddr::new([198, 51, 100, (n % 250) as u8].into(), 1000 + (n % 60_000) as u16);
        match server.handle_datagram(0, from, &datagram, &mut reply, now) {
            Answer::Reply { .. } => answered += 1,
            Answer::Refused(refusal) => assert_eq!(refusal, Refusal::PrefixLimit),
        }
    }
    assert!((limits.prefix_burst..=2 * limits.prefix_burst).contains(&answered), "{answered}");
    let answer = server.handle_datagram(0, addr("198.51.101.1:9"), &datagram, &mut reply, now);
    assert_eq!(answer, Answer::Reply { socket: 0 });
}

proptest! {
    #[test]
    fn no_reply_is_more_than_four_times_its_request(
        v6: bool,
        from_v6: bool,
        fingerprint: bool,
        change in prop::option::of((any::<bool>(), any::<bool>())),
        attributes in prop::collection::vec((any::<u16>(), prop::collection::vec(any::<u8>(), 0..9)), 0..20),
        socket in 0usize..4,
    ) {
        let sockets = if v6 {
            ["[2001:db8::1]:1", "[2001:db8::1]:2", "[2001:db8::2]:1", "[2001:db8::2]:2"]
                .map(addr).to_vec()
        } else {
            four_sockets()
        };
        let (mut server, now) = server(sockets);
        let datagram = request(|b| {
            if let Some((ip, port)) = change { b.change_request(ChangeRequest { ip, port }); }
            for (kind, value) in &attributes { b.attribute(AttributeType(*kind), value); }
            if fingerprint { b.fingerprint(); }
        });
        let from = if from_v6 { addr("[2001:db8::7]:5") } else { addr(CLIENT) };
        let mut reply = Vec::new();
        let _ = server.handle_datagram(socket, from, &datagram, &mut reply, now);
        prop_assert!(reply.len() <= 4 * datagram.len(), "{} > 4 * {}", reply.len(), datagram.len());
        prop_assert!(reply.is_empty() || Message::parse(&reply).is_ok());
    }
}
