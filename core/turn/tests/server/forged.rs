//! A member of a warren has a nonce that isn't bound to an address: what he makes a server send to an
//! address that he forges is no more than he has sent from it.

use std::net::SocketAddr;

use warren_turn::server::{ClientAddr, Dropped, RelayedPort, Run};
use warren_turn::{Family, Message, Method, rest, virtual_relayed};

use crate::world::{SECRET, UNIX, Who, World, addr, client, config, number, relayed};

/// The most that is put in front of a datagram.
const HEAD: u64 = 64;

/// Somebody with a broker's nonce who hears nothing of what is sent to `at`.
fn forger(at: ClientAddr) -> Who {
    Who { nonce: Some(rest::nonce(SECRET, UNIX).into_bytes()), ..Who::rest("forger", at) }
}

/// Sends a request of `who`; gives its length, and the answer.
fn ask(world: &mut World, who: &Who, request: &[u8]) -> (u64, Vec<u8>) {
    let answer = world.exchange(who, request).unwrap();
    assert!(answer.len() <= request.len(), "amplified");
    (request.len() as u64, answer)
}

fn allocate(world: &mut World, who: &mut Who, is_virtual: bool) -> (u64, Vec<u8>) {
    let request = world.signed(who, Method::ALLOCATE, |b| {
        b.requested_transport(17);
        if is_virtual {
            b.requested_address_family(Family::V6).virtual_address();
        }
    });
    ask(world, who, &request)
}

fn bind(world: &mut World, who: &mut Who, peer: SocketAddr) -> u64 {
    let request = world.signed(who, Method::CHANNEL_BIND, |b| {
        b.channel_number(number(1)).xor_peer_address(peer);
    });
    ask(world, who, &request).0
}

/// How many bytes are let through before something is held back.
fn let_through(mut send: impl FnMut(Run) -> Result<(), Dropped>) -> u64 {
    let mut bytes = 0;
    for _ in 0..10_000 {
        match send(Run::one(10)) {
            Ok(()) => bytes += 10 + HEAD,
            Err(reason) => {
                assert_eq!(reason, Dropped::Unproven);
                return bytes;
            }
        }
    }
    u64::MAX
}

#[test]
fn data_of_another_client_is_held_back_until_the_address_is_proved() {
    let mut world = World::new(config());
    let mut forger = forger(client(1));
    let (mut sent, answer) = allocate(&mut world, &mut forger, true);
    sent += bind(&mut world, &mut forger, virtual_relayed("accomplice"));
    let mut accomplice = Who::rest("accomplice", client(2));
    world.allocated_virtual(&mut accomplice);
    world.bind(&mut accomplice, number(1), virtual_relayed("forger")).unwrap();
    let (at, now) = (accomplice.at, world.now);
    let send = |world: &mut World| {
        let_through(|run| world.server.route_channel(at, number(1), run, now).map(drop))
    };
    let first = send(&mut world);
    assert!(0 < first && first <= sent, "{first} of {sent}");
    // What comes from there may go back.
    let data = Run { packets: 1, bytes: 1000 };
    world.server.route_channel(forger.at, number(1), data, now).unwrap();
    let more = send(&mut world);
    assert!(0 < more && first + more <= sent + data.bytes, "{more}");
    let drops: u64 = world.server.counters().drops().map(|(_, count)| count).sum();
    assert_eq!(drops, 2);
    // Whoever hears the answers has a nonce of the server's own.
    forger.nonce = Message::parse(&answer).unwrap().nonce().map(<[u8]>::to_vec);
    world.refresh(&mut forger, None).unwrap();
    assert_eq!(send(&mut world), u64::MAX);
    // For good, whatever nonce comes later.
    forger.nonce = Some(rest::nonce(SECRET, UNIX).into_bytes());
    world.refresh(&mut forger, None).unwrap();
    assert_eq!(send(&mut world), u64::MAX);
}

#[test]
fn data_of_a_peer_is_held_back_too() {
    let mut world = World::new(config());
    let mut forger = forger(client(1));
    let (mut sent, answer) = allocate(&mut world, &mut forger, false);
    let peer = addr("8.8.8.8:53");
    sent += bind(&mut world, &mut forger, peer);
    let port = RelayedPort { family: Family::V4, port: relayed(&answer).port() };
    let now = world.now;
    let send = |world: &mut World| {
        let_through(|run| world.server.route_peer(port, peer, run, now).map(drop))
    };
    let first = send(&mut world);
    assert!(0 < first && first <= sent, "{first} of {sent}");
    forger.nonce = Message::parse(&answer).unwrap().nonce().map(<[u8]>::to_vec);
    world.permit(&mut forger, &[peer]).unwrap();
    assert_eq!(send(&mut world), u64::MAX);
}

#[test]
fn somebody_elses_proof_counts_for_nothing() {
    let mut world = World::new(config());
    let mut forger = forger(client(1));
    let (sent, _) = allocate(&mut world, &mut forger, true);
    // The host at the forged address talks to the server too, by a credential of its own.
    let mut host = Who::rest("host", client(1));
    assert_eq!(world.refresh(&mut host, None), Err(441));
    let mut accomplice = Who::rest("accomplice", client(2));
    world.allocated_virtual(&mut accomplice);
    world.bind(&mut accomplice, number(1), virtual_relayed("forger")).unwrap();
    let permitted = bind(&mut world, &mut forger, virtual_relayed("accomplice"));
    let (at, now) = (accomplice.at, world.now);
    let through = let_through(|run| world.server.route_channel(at, number(1), run, now).map(drop));
    assert!(through <= sent + permitted, "{through}");
}

#[test]
fn over_a_connection_the_address_is_proved_by_itself() {
    let mut world = World::new(config());
    let id = warren_turn::server::StreamId(7);
    assert!(world.server.handle_stream(id, addr("198.51.100.1:9"), world.now));
    let mut who = forger(ClientAddr::Stream(id));
    let (_, answer) = allocate(&mut world, &mut who, true);
    assert_eq!(Message::parse(&answer).unwrap().nonce(), None);
    let mut other = Who::rest("other", client(2));
    world.allocated_virtual(&mut other);
    world.bind(&mut other, number(1), virtual_relayed("forger")).unwrap();
    bind(&mut world, &mut who, virtual_relayed("other"));
    let (at, now) = (other.at, world.now);
    let through = let_through(|run| world.server.route_channel(at, number(1), run, now).map(drop));
    assert_eq!(through, u64::MAX);
}
