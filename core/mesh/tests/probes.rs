//! What probes, replayed, forged and aimed at others, can and can't do.

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::*;
use warren_mesh::{Event, Inbound, InboundDrop, PathState};
use warren_proto::{Change, ConnectSignal, Endpoint, EndpointKind};

/// A captured probe request from the first node to the second.
fn captured(world: &World) -> Vec<u8> {
    let (from, to) = (world.nodes[0].addr, world.nodes[1].addr);
    let is_request = |contents: &[u8]| contents[..2] == [0, 1];
    let mut log = world.log.iter();
    let found = log.find(|(_, f, t, contents)| *f == from && *t == to && is_request(contents));
    found.expect("the log has one").3.clone()
}

fn inject(world: &mut World, from: &str, datagram: &[u8]) -> Inbound {
    let mut datagram = datagram.to_vec();
    let now = world.now;
    let inbound =
        world.nodes[1].mesh.handle_datagram(from.parse().expect("an address"), &mut datagram, now);
    world.drain(1);
    inbound
}

#[test]
fn a_replayed_probe_moves_nothing() {
    let mut world = World::new(2);
    world.join(0, 1);
    let path = world.remote(1, 0);
    let probe = captured(&world);
    world.nodes[1].events.clear();
    world.log.clear();
    assert_eq!(inject(&mut world, "198.51.100.66:666", &probe), Inbound::Consumed);
    world.send(1, 0, b"secret");
    world.run(secs(10));
    assert_eq!(world.remote(1, 0), path);
    assert!(!world.nodes[1].events.iter().any(|(_, e)| matches!(e, Event::PathChanged { .. })));
    // The attacker gets an answer and a probe, nothing of WireGuard's, and nothing more.
    let attacker: SocketAddr = "198.51.100.66:666".parse().unwrap();
    let got: Vec<_> = world.log.iter().filter(|(_, _, to, _)| *to == attacker).collect();
    assert!(got.iter().all(|(_, _, _, contents)| contents[4..8] == [0x21, 0x12, 0xA4, 0x42]));
    assert!(got.len() <= 2, "{}", got.len());
}

#[test]
fn a_probe_replayed_from_a_thousand_addresses_costs_each_at_most_one_answer_and_one_probe() {
    let mut world = World::new(2);
    world.join(0, 1);
    let probe = captured(&world);
    world.log.clear();
    for i in 0..1000u32 {
        let from = format!("198.51.{}.{}:99", 100 + i / 250, i % 250 + 1);
        let _ = inject(&mut world, &from, &probe);
    }
    world.run(secs(5));
    let victims = world.log.iter().filter(|(_, _, to, _)| to.port() == 99).count();
    assert!(victims <= 2 * 64 + 600, "{victims}");
    assert!(world.nodes[1].mesh.counters().inbound(InboundDrop::ProbeRate) > 0);
    world.send(1, 0, b"still fine");
    world.run(DELAY);
    assert!(world.payloads(0).contains(&b"still fine".to_vec()));
}

#[test]
fn a_probe_replayed_later_is_dropped_and_does_not_use_up_the_peers_share() {
    let mut world = World::new(2);
    world.join(0, 1);
    let probe = captured(&world);
    for _ in 0..4 {
        world.send(0, 1, b"on");
        world.send(1, 0, b"and on");
        world.run(secs(20));
    }
    world.log.clear();
    for i in 0..10_000 {
        let from = format!("198.51.100.{}:{}", i % 250 + 1, 1000 + i);
        let replayed = Inbound::Dropped(InboundDrop::Replayed);
        assert_eq!(inject(&mut world, &from, &probe), replayed);
    }
    assert!(world.log.is_empty(), "nobody gets an answer");
    world.set_address(0, "203.0.113.77:7");
    world.send(0, 1, b"from elsewhere");
    world.run(secs(5));
    assert!(world.payloads(1).contains(&b"from elsewhere".to_vec()), "a roam is still noticed");
}

#[test]
fn a_probe_with_wrong_integrity_is_dropped_and_not_answered() {
    let mut world = World::new(2);
    world.join(0, 1);
    let mut probe = captured(&world);
    probe[60] ^= 1;
    world.log.clear();
    let inbound = inject(&mut world, "198.51.100.66:666", &probe);
    assert_eq!(inbound, Inbound::Dropped(InboundDrop::BadIntegrity));
    assert!(world.log.is_empty());
}

#[test]
fn an_answer_from_elsewhere_or_to_nothing_is_dropped() {
    let mut world = World::new(2);
    world.join(0, 1);
    let from = world.nodes[1].addr;
    let answer = world
        .log
        .iter()
        .rfind(|(_, f, _, contents)| *f == from && contents[..2] == [1, 1])
        .unwrap()
        .3
        .clone();
    let now = world.now;
    let unknown = Inbound::Dropped(InboundDrop::UnknownTransaction);
    assert_eq!(world.nodes[0].mesh.handle_datagram(from, &mut answer.clone(), now), unknown);

    world.nodes[0].mesh.connect(id(1), now);
    let request = world.nodes[0].mesh.poll_transmit().unwrap();
    let mut forged = answer;
    forged[8..20].copy_from_slice(&request.contents[8..20]);
    let elsewhere = "198.51.100.66:666".parse().unwrap();
    assert_eq!(world.nodes[0].mesh.handle_datagram(elsewhere, &mut forged.clone(), now), unknown);
    let bad = Inbound::Dropped(InboundDrop::BadIntegrity);
    assert_eq!(world.nodes[0].mesh.handle_datagram(request.remote, &mut forged, now), bad);
}

#[test]
fn tags_change_every_day_and_yesterdays_are_accepted() {
    let mut world = World::new(2);
    world.join(0, 1);
    let first = captured(&world);
    let to_midnight = secs(43_200);
    world.run(to_midnight - secs(2));
    world.join(0, 1);
    world.run(secs(4));
    world.log.clear();
    world.nodes[0].mesh.connect(id(1), world.now);
    world.drain(0);
    world.run(secs(1));
    let second = captured(&world);
    assert_ne!(first[24..40], second[24..40], "another day, another tag");
    assert!(world.remote(0, 1).is_some());
    let replayed = Inbound::Dropped(InboundDrop::Replayed);
    assert_eq!(inject(&mut world, "192.0.2.1:4000", &first), replayed, "the tag still holds");

    world.run(secs(86_400));
    let unknown = Inbound::Dropped(InboundDrop::UnknownTag);
    assert_eq!(inject(&mut world, "192.0.2.1:4000", &first), unknown);
    assert_eq!(inject(&mut world, "192.0.2.1:4000", &second), replayed, "yesterday's tag holds");
}

#[test]
fn clocks_a_day_apart_still_meet() {
    for skew in [86_400i64, -86_400] {
        let mut world = World::new(2);
        let now = world.now;
        let unix = NOON.as_secs() as i64 + skew;
        let config = warren_mesh::Config {
            unix: Duration::from_secs(unix as u64),
            ..common::config(1, Some(1280), 99)
        };
        world.nodes[1].mesh = warren_mesh::Mesh::new(config, now);
        world.set_address(1, "192.0.2.2:4000");
        let map = world.map_of(1);
        world.nodes[1].mesh.handle_netmap(map, warren_mesh::MapSource::Broker, now);
        world.drain(1);
        world.join(0, 1);
    }
}

#[test]
fn the_brokers_clock_mends_one_that_is_far_off_either_way() {
    for unix in [Duration::ZERO, NOON + secs(40 * 86_400)] {
        let mut world = World::new(2);
        let now = world.now;
        let config = warren_mesh::Config { unix, ..common::config(1, Some(1280), 99) };
        world.nodes[1].mesh = warren_mesh::Mesh::new(config, now);
        world.set_address(1, "192.0.2.2:4000");
        let map = world.map_of(1);
        world.nodes[1].mesh.handle_netmap(map, warren_mesh::MapSource::Broker, now);
        world.nodes[1].mesh.raise_clock(NOON, now);
        world.drain(1);
        world.join(0, 1);
        // WireGuard's timestamps never go back.
        assert!(world.nodes[1].mesh.clock(world.now) >= unix.max(NOON));
    }
}

#[test]
fn a_node_that_never_talked_finds_the_sender_among_a_thousand_peers() {
    let mut world = World::new(2);
    let mut map = world.map_of(1);
    for i in 0..1000u32 {
        let mut other = map.peers[0].clone();
        other.id = warren_proto::DeviceId(u64::from(i) + 1000);
        other.key = warren_proto::PublicKey(x25519(i));
        other.ipv4 = (0x6450_0100 + i).into();
        other.ipv6 = (0xFD12_3456_789A_0000_0000_0000_0001_0000 + u128::from(i)).into();
        map.peers.push(other);
    }
    map.version.sequence += 1;
    world.nodes[1].mesh.handle_netmap(map, warren_mesh::MapSource::Broker, world.now);
    world.drain(1);
    world.broker = false;
    world.send(0, 1, b"hello");
    let took = world.run_until(secs(1), |world| !world.nodes[1].received.is_empty());
    assert!(took <= ms(700), "{took:?}");
}

fn x25519(i: u32) -> [u8; 32] {
    let mut secret = [3; 32];
    secret[..4].copy_from_slice(&i.to_be_bytes());
    let mesh = warren_mesh::Mesh::new(
        warren_mesh::Config { private_key: secret, ..common::config(0, None, 0) },
        epoch(),
    );
    mesh.public_key()
}

#[test]
fn endpoints_in_the_mesh_on_loopback_or_multicast_are_never_probed() {
    let mut world = World::new(2);
    let bad = ["127.0.0.1:1", "100.80.3.3:1", "224.0.0.1:1", "[fd12:3456:789a::5]:1", "[::1]:1"];
    let endpoints: Vec<Endpoint> = bad
        .iter()
        .map(|addr| Endpoint { addr: addr.parse().unwrap(), kind: EndpointKind::Host })
        .collect();
    world.log.clear();
    let signal = ConnectSignal { from: id(1), endpoints, nat: Default::default(), relay: None };
    world.nodes[0].mesh.handle_connect(&signal, world.now);
    world.drain(0);
    world.run(secs(6));
    let bad: Vec<SocketAddr> = bad.iter().map(|addr| addr.parse().unwrap()).collect();
    assert!(world.log.iter().all(|(_, _, to, _)| !bad.contains(to)));
}

#[test]
fn endpoints_aimed_at_a_victim_get_a_bounded_number_of_probes() {
    let mut world = World::new(2);
    let victim = |port: u16| Endpoint {
        addr: SocketAddr::new("203.0.113.200".parse().unwrap(), port),
        kind: EndpointKind::Reflexive,
    };
    world.log.clear();
    for second in 0..60u16 {
        let endpoints = (0..100).map(|port| victim(1000 + second * 100 + port)).collect();
        let signal = ConnectSignal { from: id(1), endpoints, nat: Default::default(), relay: None };
        world.nodes[0].mesh.handle_connect(&signal, world.now);
        world.drain(0);
        world.run(secs(1));
    }
    let ip: std::net::IpAddr = "203.0.113.200".parse().unwrap();
    let probes = world.log.iter().filter(|(_, _, to, _)| to.ip() == ip).count();
    assert!(probes <= 64 + 60 * 10 + 10, "{probes}");
    assert!(world.nodes[0].mesh.counters().probes_withheld > 0);
}

#[test]
fn a_removed_peer_is_cut_off_at_once() {
    let mut world = World::new(2);
    world.join(0, 1);
    let probe = captured(&world);
    world.nodes[1].received.clear();
    world.send(0, 1, b"in flight");
    world.change(|_| Change::Removed { id: id(0) }, 0);
    world.run(secs(1));
    assert!(world.nodes[1].received.is_empty());
    assert!(world.nodes[1].mesh.peer(id(0)).is_none());
    assert!(world.send(1, 0, b"x").is_some());
    let unknown = Inbound::Dropped(InboundDrop::UnknownTag);
    assert_eq!(inject(&mut world, "192.0.2.1:4000", &probe), unknown);
    assert!(world.nodes[1].drops.contains(&InboundDrop::WireGuard));
}

#[test]
fn a_removed_peer_loses_its_queue() {
    let mut world = World::new(2);
    world.nodes[0].alive = false;
    world.send(1, 0, b"waits");
    let map = world.map_of(1);
    world.change(|_| Change::Removed { id: id(0) }, 0);
    let dropped = world.nodes[1].mesh.counters().outbound(warren_mesh::OutboundDrop::QueueFull);
    assert_eq!(dropped, 1);
    // It comes back, as another peer: nothing of before is sent.
    world.nodes[0].alive = true;
    let peer = map.peers[0].clone();
    world.change(|_| Change::Peer { peer: peer.clone() }, 0);
    world.join(1, 0);
    assert_eq!(world.payloads(0), [b"hello".to_vec()]);
    assert!(matches!(world.path(1, 0), PathState::Direct { .. }));
}
