//! Packets: what is let through, what waits, and what the own host is told.

mod common;

use std::net::Ipv4Addr;

use common::*;
use warren_mesh::{InboundDrop, OutboundDrop, QUEUE_PER_PEER};

#[test]
fn a_full_wake_queue_keeps_the_newest_in_order() {
    let mut world = World::new(2);
    for i in 0..QUEUE_PER_PEER as u8 + 10 {
        world.send(0, 1, &[i]);
    }
    world.run(secs(1));
    let expected: Vec<Vec<u8>> = (10..QUEUE_PER_PEER as u8 + 10).map(|i| vec![i]).collect();
    assert_eq!(world.payloads(1), expected);
    assert_eq!(world.nodes[0].mesh.counters().outbound(OutboundDrop::QueueFull), 10);
}

#[test]
fn a_packet_with_a_foreign_source_does_not_leave() {
    let mut world = World::new(2);
    let packet = ip_packet(Ipv4Addr::new(10, 0, 0, 1), mesh_v4(1), b"x");
    assert_eq!(world.send_packet(0, &packet), Some(OutboundDrop::ForeignSource));
}

#[test]
fn a_spoofed_source_or_destination_inside_the_tunnel_is_dropped() {
    let mut world = World::new(3);
    world.join(0, 1);
    world.join(2, 1);
    world.nodes[1].received.clear();
    // A peer that lies has another idea of its own address.
    let mut map = world.map_of(0);
    map.this.ipv4 = mesh_v4(2);
    map.peers.retain(|peer| peer.id == id(1));
    map.version.sequence += 1;
    let now = world.now;
    world.nodes[0].mesh.handle_netmap(map, warren_mesh::MapSource::Broker, now);
    assert_eq!(world.send_packet(0, &ip_packet(mesh_v4(2), mesh_v4(1), b"I am 2")), None);
    world.run(DELAY);
    assert_eq!(world.nodes[1].drops, [InboundDrop::ForeignSource]);

    let mut map = world.map_of(0);
    map.peers[0].ipv4 = Ipv4Addr::new(10, 9, 9, 9);
    map.version.sequence += 2;
    map.this.ipv4 = mesh_v4(0);
    world.nodes[0].mesh.handle_netmap(map, warren_mesh::MapSource::Broker, now);
    world.drain(0);
    let packet = ip_packet(mesh_v4(0), Ipv4Addr::new(10, 9, 9, 9), b"through you");
    world.send_packet(0, &packet);
    world.run(secs(2));
    assert_eq!(world.nodes[1].drops.last(), Some(&InboundDrop::ForeignDestination));
    assert!(world.nodes[1].received.is_empty());
}

#[test]
fn multicast_and_broadcast_wake_nobody_and_get_no_error() {
    let mut world = World::new(2);
    let sent = world.nodes[0].sent;
    for to in ["224.0.0.251", "255.255.255.255", "100.80.255.255", "100.80.0.0"] {
        let packet = ip_packet(mesh_v4(0), to.parse().unwrap(), b"x");
        assert_eq!(world.send_packet(0, &packet), Some(OutboundDrop::Multicast));
    }
    assert_eq!(world.nodes[0].sent, sent);
    assert!(world.nodes[0].icmp.is_empty());
}

#[test]
fn an_unknown_destination_is_unreachable_at_once_and_errors_are_limited() {
    let mut world = World::new(2);
    let packet = ip_packet(mesh_v4(0), Ipv4Addr::new(100, 80, 9, 9), b"x");
    for _ in 0..1000 {
        assert_eq!(world.send_packet(0, &packet), Some(OutboundDrop::UnknownDestination));
    }
    assert_eq!(world.nodes[0].icmp.len(), 50);
    let error = &world.nodes[0].icmp[0];
    assert_eq!(error[9], 1, "ICMP");
    assert_eq!(error[16..20], mesh_v4(0).octets());
    assert_eq!(error[20], 3, "unreachable");
    assert_eq!(error[28..], packet);
}

#[test]
fn garbage_is_dropped_and_counted_by_reason() {
    let mut world = World::new(2);
    let from = "198.51.100.66:666".parse().unwrap();
    let mut binding = vec![0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42];
    binding.extend_from_slice(&[0; 12]);
    let mut bad_length = binding.clone();
    bad_length[3] = 4;
    let mut response = binding.clone();
    response[..2].copy_from_slice(&[1, 1]);
    for (mut datagram, reason) in [
        (vec![0xFF; 40], InboundDrop::Unknown),
        (vec![], InboundDrop::Unknown),
        (bad_length, InboundDrop::MalformedStun),
        (binding, InboundDrop::NotAProbe),
        (response, InboundDrop::UnknownTransaction),
        (vec![0x40, 0, 0, 1, 9], InboundDrop::NoRelay),
        (vec![4, 0, 0, 0, 1, 2, 3], InboundDrop::WireGuard),
        (vec![1, 0, 0, 0, 1, 2, 3], InboundDrop::WireGuard),
    ] {
        let before = world.nodes[0].mesh.counters().inbound(reason);
        world.receive(0, from, &mut datagram);
        assert_eq!(world.nodes[0].mesh.counters().inbound(reason), before + 1, "{reason:?}");
    }
    assert!(world.log.iter().all(|(_, _, to, _)| *to != from), "garbage gets no answer");
}

#[test]
fn ipv6_packets_go_through_too() {
    let mut world = World::new(2);
    let mut packet = vec![0x60, 0, 0, 0, 0, 5, 17, 64];
    packet.extend_from_slice(&mesh_v6(0).octets());
    packet.extend_from_slice(&mesh_v6(1).octets());
    packet.extend_from_slice(b"hello");
    world.send_packet(0, &packet);
    world.run(secs(1));
    assert_eq!(world.nodes[1].received[0].1, packet);
}

#[test]
fn an_ipv6_pair_uses_ipv6() {
    let mut world = World::at(&["[2001:db8:1::1]:4000", "[2001:db8:2::1]:4000"], Some(1280));
    world.join(0, 1);
    assert!(world.remote(0, 1).unwrap().is_ipv6());
}

#[test]
fn ten_minutes_of_traffic_lose_nothing_at_any_rekey() {
    let mut world = World::new(2);
    world.join(0, 1);
    for node in &mut world.nodes {
        node.received.clear();
    }
    for i in 0..6000u32 {
        world.send(0, 1, &i.to_be_bytes());
        world.send(1, 0, &i.to_be_bytes());
        world.run(ms(100));
    }
    world.run(secs(1));
    let expected: Vec<Vec<u8>> = (0..6000u32).map(|i| i.to_be_bytes().to_vec()).collect();
    for node in 0..2 {
        assert_eq!(world.payloads(node), expected);
    }
}
