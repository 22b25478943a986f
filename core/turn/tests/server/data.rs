use std::net::SocketAddr;
use std::time::Duration;

use warren_turn::server::{
    ClientAddr, Delivery, Dropped, Handled, Heading, RelayedPort, Route, Run,
};
use warren_turn::{AttributeType, Class, Family, IndicationHeader, Message, Method, TransactionId};

use crate::world::{Who, World, addr, client, config, number};

fn run() -> Run {
    Run { packets: 3, bytes: 300 }
}

fn port(relayed: SocketAddr) -> RelayedPort {
    RelayedPort { family: Family::of(&relayed.ip()), port: relayed.port() }
}

fn send_indication(peer: SocketAddr, data: &[u8], dont_fragment: bool) -> Vec<u8> {
    let id = TransactionId([9; 12]);
    let head = IndicationHeader::send(peer, data.len(), dont_fragment, id).unwrap();
    [head.bytes(), data, &[0; 3][..head.padding()]].concat()
}

#[test]
fn channel_data_leaves_from_the_relayed_port() {
    let mut world = World::new(config());
    let mut who = Who::alice(client(1));
    let relayed = world.allocated(&mut who);
    let peer = addr("8.8.8.8:99");
    let now = world.now;
    let missing = world.server.route_channel(who.at, number(0), run(), now);
    assert_eq!(missing, Err(Dropped::NoChannel));
    world.bind(&mut who, number(0), peer).unwrap();
    let route = world.server.route_channel(who.at, number(0), run(), now).unwrap();
    assert_eq!(route, Route::Peer { from: port(relayed), to: peer, dont_fragment: false });
    let mapped = ClientAddr::Udp {
        listener: warren_turn::server::Listener(0),
        addr: addr("[::ffff:198.51.100.1]:40001"),
    };
    assert_eq!(world.server.route_channel(mapped, number(0), run(), now), Ok(route));
    let handled = world.send(who.at, &[0x40, 0, 0, 2, 7, 7, 0, 0]);
    assert_eq!(handled, Handled::Relay { route, range: 4..6 });
    let stranger = world.server.route_channel(client(2), number(0), run(), now);
    assert_eq!(stranger, Err(Dropped::NoAllocation));
    assert_eq!(world.server.counters().to_peers.packets, 7);
    assert_eq!(world.server.counters().to_peers.bytes, 602);
}

#[test]
fn what_a_peer_sends_arrives_by_its_channel_or_as_an_indication() {
    let mut world = World::new(config());
    let mut who = Who::alice(client(1));
    let relayed = world.allocated(&mut who);
    let (peer, other_port) = (addr("8.8.8.8:99"), addr("8.8.8.8:100"));
    let from =
        |world: &mut World, peer| world.server.route_peer(port(relayed), peer, run(), world.now);
    assert_eq!(from(&mut world, peer), Err(Dropped::NoPermission));
    world.permit(&mut who, &[peer]).unwrap();
    let at = who.at;
    let indication = |peer| Delivery { to: at, heading: Heading::Indication(peer) };
    assert_eq!(from(&mut world, peer), Ok(indication(peer)));
    world.bind(&mut who, number(5), peer).unwrap();
    let channel = Delivery { to: who.at, heading: Heading::Channel(number(5)) };
    assert_eq!(from(&mut world, peer), Ok(channel));
    assert_eq!(from(&mut world, other_port), Ok(indication(other_port)));
    assert_eq!(from(&mut world, addr("8.8.4.4:99")), Err(Dropped::NoPermission));
    world.pass(Duration::from_secs(302));
    assert_eq!(from(&mut world, peer), Err(Dropped::NoPermission));
    let outwards = world.server.route_channel(who.at, number(5), run(), world.now);
    assert!(outwards.is_ok(), "the channel lasts longer than the permission");
    world.bind(&mut who, number(5), peer).unwrap();
    assert_eq!(from(&mut world, peer), Ok(channel), "binding again permits again");
}

#[test]
fn an_indication_names_its_peer() {
    let mut world = World::new(config());
    let peer = addr("8.8.8.8:99");
    let head = world.server.indication(peer, 5).unwrap();
    let datagram = [head.bytes(), b"hello", &[0; 3]].concat();
    let message = Message::parse(&datagram).unwrap();
    assert_eq!((message.class(), message.method()), (Class::Indication, Method::DATA));
    assert_eq!(message.xor_peer_address(), Some(peer));
    assert_eq!(message.attribute(AttributeType::DATA), Some(&b"hello"[..]));
    assert!(world.server.indication(peer, 65_536).is_none());
}

#[test]
fn send_indications_need_a_permission() {
    let mut world = World::new(config());
    let mut who = Who::alice(client(1));
    let peer = addr("8.8.8.8:99");
    let datagram = send_indication(peer, b"hello", false);
    assert_eq!(world.send(who.at, &datagram), Handled::Dropped(Dropped::NoAllocation));
    let relayed = world.allocated(&mut who);
    assert_eq!(world.send(who.at, &datagram), Handled::Dropped(Dropped::NoPermission));
    world.permit(&mut who, &[addr("8.8.8.8:1")]).unwrap();
    for dont_fragment in [false, true] {
        let datagram = send_indication(peer, b"hello", dont_fragment);
        let Handled::Relay { route, range } = world.send(who.at, &datagram) else {
            panic!("not relayed")
        };
        assert_eq!(route, Route::Peer { from: port(relayed), to: peer, dont_fragment });
        assert_eq!(&datagram[range], b"hello");
    }
    let to_port_zero = send_indication(addr("8.8.8.8:0"), b"hello", false);
    assert_eq!(world.send(who.at, &to_port_zero), Handled::Dropped(Dropped::Peer));
}

#[test]
fn data_across_families_takes_the_relayed_address_of_the_peers_family() {
    let mut world = World::new(config());
    let mut who = Who::alice(crate::world::udp("[2001:db8::7]:5000"));
    let _ = world
        .allocate(&mut who, |b| {
            b.additional_address_family(Family::V6);
        })
        .unwrap();
    for (n, peer) in [(0, "8.8.8.8:1"), (1, "[2606:4700::1]:1")] {
        world.bind(&mut who, number(n), addr(peer)).unwrap();
        let route = world.server.route_channel(who.at, number(n), run(), world.now).unwrap();
        let Route::Peer { from, to, .. } = route else { panic!("{route:?}") };
        assert_eq!(from.family, Family::of(&to.ip()));
        assert_eq!(to, addr(peer));
        let back = world.server.route_peer(from, to, run(), world.now).unwrap();
        assert_eq!(back, Delivery { to: who.at, heading: Heading::Channel(number(n)) });
    }
}

#[test]
fn two_allocations_of_one_server_meet_inside_whatever_is_denied() {
    let mut world = World::new(config());
    let mut a = Who::alice(client(1));
    let mut b = Who::rest("bob", client(2));
    let (relayed_a, relayed_b) = (world.allocated(&mut a), world.allocated(&mut b));
    world.bind(&mut a, number(1), relayed_b).unwrap();
    let send = |world: &mut World, from: &Who, channel| {
        world.server.route_channel(from.at, number(channel), run(), world.now)
    };
    assert_eq!(send(&mut world, &a, 1), Err(Dropped::NoPermission));
    world.permit(&mut b, &[relayed_a]).unwrap();
    let indication = Delivery { to: b.at, heading: Heading::Indication(relayed_a) };
    assert_eq!(send(&mut world, &a, 1), Ok(Route::Client(indication)));
    world.bind(&mut b, number(2), relayed_a).unwrap();
    let channel = Delivery { to: b.at, heading: Heading::Channel(number(2)) };
    assert_eq!(send(&mut world, &a, 1), Ok(Route::Client(channel)));
    let back = Delivery { to: a.at, heading: Heading::Channel(number(1)) };
    assert_eq!(send(&mut world, &b, 2), Ok(Route::Client(back)));
    assert_eq!(world.server.counters().between_clients.packets, 9);
    assert_eq!(world.refresh(&mut b, Some(0)), Ok(0));
    assert_eq!(send(&mut world, &a, 1), Err(Dropped::NoAllocation));
    let closed = SocketAddr::new(relayed_b.ip(), 22);
    world.bind(&mut a, number(3), closed).unwrap();
    assert_eq!(send(&mut world, &a, 3), Err(Dropped::NoAllocation), "never to a service of ours");
}

#[test]
fn a_forged_source_of_our_own_is_refused() {
    let mut world = World::new(config());
    let mut a = Who::alice(client(1));
    let mut b = Who::rest("bob", client(2));
    let (relayed_a, relayed_b) = (world.allocated(&mut a), world.allocated(&mut b));
    world.bind(&mut b, number(2), relayed_a).unwrap();
    let forged = world.server.route_peer(port(relayed_b), relayed_a, run(), world.now);
    assert_eq!(forged, Err(Dropped::Peer));
}

#[test]
fn what_is_no_message_of_ours_is_counted_and_dropped() {
    let mut world = World::new(config());
    for (datagram, reason) in [
        (&b""[..], Dropped::Malformed),
        (b"hello world, how are you?", Dropped::Malformed),
        (&[0x40, 0, 0, 9, 1], Dropped::Malformed),
        (&[0x40, 0, 0, 0], Dropped::NoAllocation),
    ] {
        assert_eq!(world.send(client(1), datagram), Handled::Dropped(reason));
    }
    let unknown = world.bare(Method::new(0x00A).unwrap(), |_| {});
    assert_eq!(world.send(client(1), &unknown), Handled::Dropped(Dropped::Unexpected));
    let counted: u64 = world.server.counters().drops().map(|(_, count)| count).sum();
    assert_eq!(counted, 5);
    assert!(world.out.is_empty());
}
