//! Finding, keeping and replacing paths.

mod common;

use common::*;
use warren_mesh::{Event, PathState};

#[test]
fn the_first_packet_arrives_after_probe_and_handshake() {
    let mut world = World::new(2);
    world.send(0, 1, b"ping");
    let took = world.run_until(secs(1), |world| !world.nodes[1].received.is_empty());
    // A round trip each for the probe and the handshake, and one way for the packet.
    assert_eq!(took, DELAY * 5);
    assert_eq!(world.payloads(1), [b"ping".to_vec()]);
    assert!(matches!(world.path(0, 1), PathState::Direct { .. }));
}

#[test]
fn a_packet_asks_the_broker_to_tell_the_peer_at_once() {
    let mut world = World::new(2);
    world.nodes[0].events.clear();
    world.send(0, 1, b"ping");
    let Some((at, Event::Connect(request))) = world.nodes[0].events.first() else {
        panic!("{:?}", world.nodes[0].events)
    };
    assert_eq!((*at, request.peer), (world.now, id(1)));
    assert_eq!(request.endpoints[0].addr, world.nodes[0].addr);
}
