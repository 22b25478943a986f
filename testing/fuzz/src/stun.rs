//! STUN: the codec on any datagram, the Binding server, and the Binding client's answers.

use std::net::SocketAddr;
use std::time::Duration;

use warren_turn::codec::Integrity;
use warren_turn::{
    Answer, AttributeType, BindingClient, BindingServer, Builder, Class, Handled, Limits, Message,
    Method, Sha1Key, Sha256Key, is_channel_data, is_stun,
};

use crate::input::Input;
use crate::world::{address, epoch};

/// One datagram: parsed, read by every accessor, given to the server as a request, and to the
/// client as an answer to what it has asked.
pub fn fuzz_stun(data: &[u8]) {
    let mut input = Input::new(data);
    let from = address(input.u8());
    let datagram = input.rest();
    read(datagram);
    serve(from, datagram);
    answer(datagram);
}

fn read(datagram: &[u8]) {
    assert!(!(is_stun(datagram) && is_channel_data(datagram)));
    let Ok(message) = Message::parse(datagram) else { return };
    assert!(is_stun(datagram));
    assert_eq!(message.as_bytes(), datagram);
    let mut total = 0;
    for attribute in message.attributes() {
        total += 4 + attribute.value.len();
        assert!(message.attribute(attribute.kind).is_some());
    }
    assert!(total <= datagram.len());
    let addresses = [
        message.xor_mapped_address(),
        message.mapped_address(),
        message.other_address(),
        message.response_origin(),
    ];
    let unknown = message.unknown_attributes().count();
    assert!(unknown <= datagram.len() && addresses.len() == 4);
    let _ = (message.username(), message.error_code(), message.change_request());
    let _ = message.unknown_required(&[AttributeType::USERNAME]).count();
    let _ = message.verify_fingerprint();
    for verified in [
        message.verify_sha1(&Sha1Key::new(b"a key that the fuzzer doesn't know")),
        message.verify_sha256(&Sha256Key::new(b"a key that the fuzzer doesn't know")),
    ] {
        assert_ne!(verified, Integrity::Valid);
    }
}

fn serve(from: SocketAddr, datagram: &[u8]) {
    let sockets = vec![address(0), address(7), address(14), address(21)];
    let mut server = BindingServer::new(sockets, Limits::default(), [1; 16], epoch());
    let mut reply = Vec::new();
    match server.handle_datagram(0, from, datagram, &mut reply, epoch()) {
        Answer::Reply { socket } => {
            assert!(socket < 4);
            assert!(reply.len() <= 4 * datagram.len(), "amplified");
            let request = Message::parse(datagram).expect("only STUN is answered");
            let reply = Message::parse(&reply).expect("our own reply parses");
            assert_eq!(reply.transaction_id(), request.transaction_id());
            assert!(matches!(reply.class(), Class::Success | Class::Error));
        }
        Answer::Refused(_) => {}
    }
}

/// The datagram's attributes in an answer with the right transaction id, and the datagram as it is.
fn answer(datagram: &[u8]) {
    let mut now = epoch();
    let mut client = BindingClient::new([9; 32]);
    let servers = [address(0), address(7), address(2)];
    client.handle_local_addresses(&[address(1).ip(), address(2).ip()], now);
    client.handle_servers(&servers, now);
    let mut asked = Vec::new();
    for round in 0..4 {
        while let Some(transmit) = client.poll_transmit() {
            asked.push(transmit);
        }
        for transmit in std::mem::take(&mut asked) {
            let request = Message::parse(&transmit.contents).expect("our own request parses");
            let mut buffer = Vec::new();
            let class = if round == 3 { Class::Error } else { Class::Success };
            Builder::new(&mut buffer, class, Method::BINDING, request.transaction_id());
            let attributes = datagram.get(20..).unwrap_or_default();
            let whole = &attributes[..attributes.len() / 4 * 4];
            buffer.extend_from_slice(whole);
            buffer[2..4].copy_from_slice(&(whole.len() as u16).to_be_bytes());
            for reply in [buffer.as_slice(), datagram] {
                let Ok(message) = Message::parse(reply) else { continue };
                let handled = client.handle_response(transmit.to, &message, now);
                assert!(handled != Handled::Answered || message.class() == Class::Success);
            }
        }
        while client.poll_event().is_some() {}
        now += Duration::from_millis(250);
        client.handle_timeout(now);
        if let Some((at, why)) = client.poll_timeout() {
            assert!(at > now, "{why} is due at once again");
        }
    }
    assert!(client.servers().count() <= 16);
}
