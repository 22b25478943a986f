//! What a hundred thousand allocations cost: memory, and work that doesn't grow.
#![expect(clippy::disallowed_methods, reason = "a test starts at some instant")]
#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::alloc::System;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use warren_turn::codec::{PasswordAlgorithm, UDP_TRANSPORT};
use warren_turn::server::{ClientAddr, Config, Handled, Listener, Route, Run, Server, Settings};
use warren_turn::{
    AttributeType, Builder, ChannelNumber, Class, Family, Message, Method, Sha256Key,
    TransactionId, rest, virtual_relayed,
};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const SECRET: &[u8] = b"secret";
const REALM: &str = "warren";
const UNIX: u64 = 1_795_000_000;

fn at(n: u32) -> ClientAddr {
    let [_, a, b, c] = n.to_be_bytes();
    let addr = SocketAddr::from((Ipv4Addr::new(11, a, b, c), 5000));
    ClientAddr::Udp { listener: Listener(0), addr }
}

fn id(n: u32) -> String {
    format!("dev_{n:032x}")
}

fn request(n: u32, method: Method, nonce: &[u8], fill: impl FnOnce(&mut Builder<'_>)) -> Vec<u8> {
    let (username, password) = rest::mint(SECRET, UNIX + 600, &id(n));
    let text = format!("{username}:{REALM}:{password}");
    let key = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    let mut datagram = Vec::new();
    let mut transaction = [0; 12];
    transaction[..4].copy_from_slice(&n.to_be_bytes());
    transaction[4..6].copy_from_slice(&method.number().to_be_bytes());
    let mut builder =
        Builder::new(&mut datagram, Class::Request, method, TransactionId(transaction));
    fill(&mut builder);
    builder
        .username(username.as_bytes())
        .realm(REALM.as_bytes())
        .nonce(nonce)
        .attribute(AttributeType::PASSWORD_ALGORITHMS, &[0, 2, 0, 0, 0, 1, 0, 0])
        .password_algorithm(PasswordAlgorithm::Sha256)
        .integrity_sha256(&Sha256Key::new(key.as_ref()));
    datagram
}

fn allocate(n: u32) -> Vec<u8> {
    request(n, Method::ALLOCATE, rest::nonce(SECRET, UNIX).as_bytes(), |b| {
        b.requested_transport(UDP_TRANSPORT).requested_address_family(Family::V6).virtual_address();
    })
}

/// `nonce` is the server's own: it proves the address.
fn bind(n: u32, nonce: &[u8]) -> Vec<u8> {
    request(n, Method::CHANNEL_BIND, nonce, |b| {
        b.channel_number(ChannelNumber::MIN).xor_peer_address(virtual_relayed(&id(n ^ 1)));
    })
}

fn granted(server: &mut Server, from: ClientAddr, request: &[u8], now: Instant) -> Vec<u8> {
    assert_eq!(server.handle_datagram(from, request, now), Handled::Consumed);
    let answer = server.poll_transmit().unwrap();
    assert_eq!(Message::parse(&answer.contents).unwrap().class(), Class::Success);
    answer.contents
}

/// One test, because the allocator counts for the whole process.
#[test]
fn an_allocation_with_a_channel_takes_less_than_a_kilobyte_and_gives_it_back() {
    const COUNT: u32 = 20_000;
    let now = Instant::now();
    let settings =
        Settings { realm: REALM.to_owned(), secrets: vec![SECRET.to_vec()], ..Settings::default() };
    let unix = Duration::from_secs(UNIX);
    let mut server = Server::new(Config::private(settings), [1; 32], now, unix);
    let region = Region::new(ALLOCATOR);
    for n in 0..COUNT {
        let answer = granted(&mut server, at(n), &allocate(n), now);
        let nonce = Message::parse(&answer).unwrap().nonce().unwrap();
        granted(&mut server, at(n), &bind(n, nonce), now);
    }
    let stats = region.change();
    let held = stats.bytes_allocated - stats.bytes_deallocated;
    let each = held / COUNT as usize;
    assert!(each < 1024, "{each} bytes each");

    let run = Run { packets: 30, bytes: 9000 };
    for n in 0..COUNT {
        let before = region.change().allocations;
        let route = server.route_channel(at(n), ChannelNumber::MIN, run, now).unwrap();
        assert_eq!(region.change().allocations, before, "forwarding allocates nothing");
        let Route::Client(delivery) = route else { panic!("{route:?}") };
        assert_eq!(delivery.to, at(n ^ 1));
    }

    let end = now + Duration::from_secs(600);
    assert_eq!(server.poll_timeout().unwrap().0, end);
    server.handle_timeout(end);
    assert_eq!(server.gauges().allocations, 0);
    assert_eq!(server.poll_timeout(), None);
    println!("{each} bytes for each allocation with its channel");
}
