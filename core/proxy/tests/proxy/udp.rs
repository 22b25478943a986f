use std::net::Ipv4Addr;
use std::time::Duration;

use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr};
use warren_proxy::{Dropped, Limits};

use crate::world::{EDGE, PEER, World};

const SECOND: Duration = Duration::from_secs(1);

fn datagram(peer: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let udp = UdpRepr { src_port: port, dst_port: 8080 };
    let ip = Ipv4Repr {
        src_addr: peer,
        dst_addr: EDGE,
        next_header: IpProtocol::Udp,
        payload_len: 8 + payload.len(),
        hop_limit: 64,
    };
    let checksums = ChecksumCapabilities::default();
    let mut packet = vec![0; 28 + payload.len()];
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut packet[..]), &checksums);
    let mut inside = UdpPacket::new_unchecked(&mut packet[20..]);
    let fill = |room: &mut [u8]| room.copy_from_slice(payload);
    udp.emit(&mut inside, &peer.into(), &EDGE.into(), payload.len(), fill, &checksums);
    packet
}

#[test]
fn a_datagram_goes_to_the_lan_and_its_answer_comes_back() {
    let mut world = World::new(Limits::default());
    world.packet(&datagram(PEER, 40_000, b"ping")).unwrap();
    let (flow, payload) = world.datagrams.pop().unwrap();
    assert_eq!(payload, b"ping");
    world.proxy.handle_datagram(flow, b"pong", world.now);
    world.drain();
    world.pass(SECOND);
    let answer = Ipv4Packet::new_checked(&world.heard[0][..]).unwrap();
    let inside = UdpPacket::new_checked(answer.payload()).unwrap();
    assert_eq!((answer.src_addr(), answer.dst_addr()), (EDGE, PEER));
    assert_eq!(
        (inside.src_port(), inside.dst_port(), inside.payload()),
        (8080, 40_000, &b"pong"[..])
    );
    assert_eq!(world.proxy.uses()[&1].packets, 2);
    assert_eq!(world.proxy.uses()[&1].bytes, 64);
}

#[test]
fn a_flow_that_is_idle_goes_and_one_that_is_used_stays() {
    let mut world = World::new(Limits::default());
    world.packet(&datagram(PEER, 1, b"?")).unwrap();
    world.packet(&datagram(PEER, 2, b"?")).unwrap();
    let answered = world.datagrams[1].0;
    world.proxy.handle_datagram(answered, b"!", world.now);
    world.pass(SECOND * 61);
    assert_eq!(world.proxy.flows(), 1);
    world.packet(&datagram(PEER, 2, b"?")).unwrap();
    world.pass(SECOND * 179);
    assert_eq!(world.proxy.flows(), 1);
    world.pass(SECOND * 2);
    assert_eq!((world.proxy.flows(), world.closed.len()), (0, 2));
}

#[test]
fn one_flow_too_many_takes_the_place_of_the_idlest() {
    let limits = Limits { flows_per_peer: 8, flows: 12, ..Limits::default() };
    let mut world = World::new(limits);
    for port in 1..=8 {
        world.packet(&datagram(PEER, port, b"?")).unwrap();
        world.pass(Duration::from_millis(1));
    }
    world.packet(&datagram(PEER, 1, b"still here")).unwrap();
    let second = world.datagrams[1].0;
    world.packet(&datagram(PEER, 9, b"?")).unwrap();
    assert_eq!((world.proxy.flows(), &world.closed[..]), (8, &[second][..]));
    // Others have their part, up to what all may have.
    let other = Ipv4Addr::new(100, 80, 0, 6);
    for port in 1..=4 {
        world.packet(&datagram(other, port, b"?")).unwrap();
    }
    assert_eq!(world.packet(&datagram(other, 5, b"?")), Err(Dropped::TooMany));
}

#[test]
fn a_refusal_is_told_by_icmp_and_ends_the_flow() {
    let mut world = World::new(Limits::default());
    world.packet(&datagram(PEER, 40_000, b"?")).unwrap();
    world.proxy.handle_refused(world.datagrams[0].0, world.now);
    world.drain();
    world.pass(SECOND);
    assert_eq!(world.proxy.flows(), 0);
    assert_eq!(world.heard[0][9], 1, "ICMP");
    assert_eq!(world.heard[0][20..22], [3, 3], "port unreachable");
}

#[test]
fn a_flow_that_leads_elsewhere_now_is_begun_anew() {
    let mut world = World::new(Limits::default());
    world.packet(&datagram(PEER, 1, b"?")).unwrap();
    world.retarget(Some("192.168.1.77:80".parse().unwrap()));
    world.packet(&datagram(PEER, 1, b"?")).unwrap();
    assert_ne!(world.datagrams[0].0, world.datagrams[1].0);
    world.retarget(None);
    assert_eq!(world.proxy.flows(), 0);
    assert_eq!(world.packet(&datagram(PEER, 1, b"?")), Err(Dropped::Closed));
}

#[test]
fn more_than_the_queue_holds_is_lost_and_counted() {
    let mut world = World::new(Limits { queue: 4, ..Limits::default() });
    world.packet(&datagram(PEER, 1, b"?")).unwrap();
    for _ in 0..10 {
        world.proxy.handle_datagram(world.datagrams[0].0, b"!", world.now);
    }
    assert_eq!(world.proxy.drops()[&Dropped::QueueFull], 6);
}

#[test]
fn a_flood_of_answers_silences_no_connection() {
    let mut world = World::new(Limits::default());
    world.packet(&datagram(PEER, 1, b"?")).unwrap();
    for _ in 0..100 {
        world.proxy.handle_datagram(world.datagrams[0].0, b"!", world.now);
    }
    world.packet(&crate::tcp::syn(PEER, 2)).unwrap();
    let sent = world.take_sent_to_peer();
    let first = sent.iter().position(|packet| packet[9] == 6);
    assert!(first.is_some_and(|first| first < 2), "{first:?} of {}", sent.len());
}

proptest! {
    #[test]
    fn whatever_comes_nothing_panics_and_little_is_held(
        packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..120), 0..60),
        damage in proptest::collection::vec((0_usize..60, any::<u8>()), 0..20),
    ) {
        let mut world = World::new(Limits::default());
        for packet in &packets {
            let _ = world.packet(packet);
        }
        for (at, bits) in damage {
            let mut packet = datagram(PEER, 7, b"some words that may be damaged");
            if let Some(byte) = packet.get_mut(at) {
                *byte ^= bits;
            }
            let _ = world.packet(&packet);
        }
        prop_assert!(world.proxy.flows() <= 1);
    }
}
