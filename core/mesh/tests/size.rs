//! MTU discovery.

mod common;

use common::*;
use warren_mesh::{Event, OutboundDrop};

/// Datagrams with Don't Fragment that are longer than this (as UDP payload) are lost.
fn narrow(world: &mut World, payload: usize) {
    world.filter = Box::new(move |mail| match mail {
        Mail::Datagram(_, _, contents, dont_fragment) => {
            !dont_fragment || contents.len() <= payload
        }
        Mail::Signal(..) | Mail::Presence(_) => true,
    });
}

#[test]
fn the_interface_gets_what_the_path_carries() {
    let mut world = World::with_mtu(2, None);
    assert_eq!(world.nodes[0].mesh.mtu(), 1280);
    world.nodes[0].events.clear();
    world.join(0, 1);
    assert_eq!(world.nodes[0].mesh.mtu(), 1440);
    let mtu = world.nodes[0].events.iter().filter(|(_, event)| matches!(event, Event::Mtu(_)));
    assert_eq!(mtu.map(|(_, event)| event.clone()).collect::<Vec<_>>(), [Event::Mtu(1440)]);
}

#[test]
fn a_path_that_becomes_narrower_lowers_it_and_a_wider_one_raises_it_again() {
    let mut world = World::with_mtu(2, None);
    world.join(0, 1);
    narrow(&mut world, 1400);
    for _ in 0..60 {
        world.send(0, 1, b"x");
        world.send(1, 0, b"x");
        world.run(secs(1));
    }
    assert_eq!(world.nodes[0].mesh.mtu(), (1400 - 32) & !15);
    assert_eq!(world.nodes[1].mesh.mtu(), (1400 - 32) & !15);
    world.filter = Box::new(|_| true);
    for _ in 0..700 {
        world.send(0, 1, b"x");
        world.send(1, 0, b"x");
        world.run(secs(1));
    }
    assert_eq!(world.nodes[0].mesh.mtu(), 1440);
}

#[test]
fn a_packet_too_long_for_its_peer_gets_an_error_with_the_mtu() {
    let mut world = World::with_mtu(2, None);
    narrow(&mut world, 1400);
    world.join(0, 1);
    world.run(secs(10));
    let limit = (1400 - 32) & !15;
    assert_eq!(world.nodes[0].mesh.mtu(), limit);
    let dropped = world.send(0, 1, &vec![0; usize::from(limit)]);
    assert_eq!(dropped, Some(OutboundDrop::TooBig));
    let error = world.nodes[0].icmp.last().unwrap();
    assert_eq!(error[20..22], [3, 4]);
    assert_eq!(u16::from_be_bytes([error[26], error[27]]), limit);
}

#[test]
fn a_fixed_mtu_is_never_probed() {
    let mut world = World::with_mtu(2, Some(1420));
    world.join(0, 1);
    world.run(secs(60));
    assert_eq!(world.nodes[0].mesh.mtu(), 1420);
    assert!(world.log.iter().all(|(_, _, _, contents)| contents.len() < 200));
}

#[test]
fn one_narrow_peer_lowers_the_interface_for_all() {
    let mut world = World::with_mtu(3, None);
    let narrow_one = world.nodes[2].addr;
    world.filter = Box::new(move |mail| match mail {
        Mail::Datagram(from, to, contents, dont_fragment) => {
            !dont_fragment || contents.len() <= 1400 || (*from != narrow_one && *to != narrow_one)
        }
        Mail::Signal(..) | Mail::Presence(_) => true,
    });
    world.join(0, 1);
    assert_eq!(world.nodes[0].mesh.mtu(), 1440);
    world.join(0, 2);
    world.run(secs(10));
    assert_eq!(world.nodes[0].mesh.mtu(), 1360);
}

#[test]
fn over_ipv6_the_datagram_still_fits_1500_bytes() {
    let mut world = World::at(&["[2001:db8:1::1]:4000", "[2001:db8:2::1]:4000"], None);
    world.join(0, 1);
    assert_eq!(world.nodes[0].mesh.mtu(), 1408);
    let longest = world.log.iter().map(|(_, _, _, contents)| contents.len()).max();
    assert!(longest.is_some_and(|longest| longest + 48 <= 1500), "{longest:?}");
}

#[test]
fn the_interface_keeps_its_mtu_while_nobody_talks() {
    let mut world = World::with_mtu(2, None);
    world.join(0, 1);
    world.run(secs(3600));
    assert_eq!(world.nodes[0].mesh.mtu(), 1440);
}
