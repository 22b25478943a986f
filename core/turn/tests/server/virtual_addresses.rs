use std::time::Duration;

use warren_turn::server::{Config, Delivery, Dropped, Heading, Route, Run};
use warren_turn::{Family, rest, virtual_relayed};

use crate::world::{SECRET, UNIX, Who, World, addr, client, config, number, settings};

const RUN: Run = Run { packets: 1, bytes: 100 };

fn send(world: &mut World, from: &Who, channel: u16) -> Result<Route, Dropped> {
    world.server.route_channel(from.at, number(channel), RUN, world.now)
}

fn channel_to(to: &Who, channel: u16) -> Result<Route, Dropped> {
    Ok(Route::Client(Delivery { to: to.at, heading: Heading::Channel(number(channel)) }))
}

#[test]
fn the_address_comes_from_the_id_and_needs_no_port() {
    let mut world = World::new(Config::private(settings()));
    let mut who = Who::rest("device-a", client(1));
    assert_eq!(world.allocated_virtual(&mut who), virtual_relayed("device-a"));
    assert!(world.open.is_empty());
    assert_eq!(world.server.gauges().virtual_allocations, 1);
}

#[test]
fn two_clients_reach_each_other_once_both_want() {
    let mut world = World::new(Config::private(settings()));
    let (mut a, mut b) = (Who::rest("a", client(1)), Who::rest("b", client(2)));
    world.allocated_virtual(&mut a);
    world.bind(&mut a, number(1), virtual_relayed("b")).unwrap();
    assert_eq!(send(&mut world, &a, 1), Err(Dropped::NoAllocation));
    world.allocated_virtual(&mut b);
    assert_eq!(send(&mut world, &a, 1), Err(Dropped::NoPermission));
    world.permit(&mut b, &[virtual_relayed("a")]).unwrap();
    let heading = Heading::Indication(virtual_relayed("a"));
    assert_eq!(send(&mut world, &a, 1), Ok(Route::Client(Delivery { to: b.at, heading })));
    world.bind(&mut b, number(2), virtual_relayed("a")).unwrap();
    assert_eq!(send(&mut world, &a, 1), channel_to(&b, 2));
    assert_eq!(send(&mut world, &b, 2), channel_to(&a, 1));
    world.pass(Duration::from_secs(302));
    assert_eq!(send(&mut world, &a, 1), Err(Dropped::NoPermission), "it expired at b");
}

#[test]
fn virtual_talks_only_to_virtual() {
    let mut world = World::new(config());
    let (mut a, mut b) = (Who::rest("a", client(1)), Who::rest("b", client(2)));
    world.allocated_virtual(&mut a);
    let relayed_b = world.allocated(&mut b);
    for peer in ["8.8.8.8:1", "192.0.2.10:50000"] {
        assert_eq!(world.bind(&mut a, number(1), addr(peer)), Err(443));
    }
    for peer in ["[2606:4700::1]:1", "[2001:db8:10::1]:50000"] {
        assert_eq!(world.bind(&mut a, number(1), addr(peer)), Err(403));
        assert_eq!(world.permit(&mut a, &[addr(peer)]), Err(403));
    }
    assert_eq!(world.bind(&mut b, number(1), virtual_relayed("a")), Err(443));
    let mut six = Who::rest("c", client(3));
    let answer = world.allocate(&mut six, |b| {
        b.requested_address_family(Family::V6);
    });
    assert!(answer.is_ok());
    assert_eq!(world.bind(&mut six, number(1), virtual_relayed("a")), Err(403));
    assert!(relayed_b.is_ipv4());
    let mut other_port = virtual_relayed("b");
    other_port.set_port(10);
    world.bind(&mut a, number(7), other_port).unwrap();
    assert_eq!(send(&mut world, &a, 7), Err(Dropped::NoAllocation));
}

#[test]
fn an_id_that_comes_from_elsewhere_replaces_itself() {
    let mut world = World::new(Config::private(settings()));
    let (mut a, mut b) = (Who::rest("a", client(1)), Who::rest("b", client(2)));
    for who in [&mut a, &mut b] {
        world.allocated_virtual(who);
    }
    world.bind(&mut a, number(1), virtual_relayed("b")).unwrap();
    world.bind(&mut b, number(2), virtual_relayed("a")).unwrap();
    let mut roamed = Who::rest("a", client(9));
    world.allocated_virtual(&mut roamed);
    assert_eq!(world.server.gauges().allocations, 2);
    assert_eq!(send(&mut world, &a, 1), Err(Dropped::NoAllocation));
    assert_eq!(send(&mut world, &b, 2), Err(Dropped::NoPermission), "nothing is inherited");
    world.bind(&mut roamed, number(3), virtual_relayed("b")).unwrap();
    assert_eq!(send(&mut world, &b, 2), channel_to(&roamed, 3));
    assert_eq!(send(&mut world, &roamed, 3), channel_to(&b, 2));
}

#[test]
fn a_restarted_client_on_its_old_port_begins_afresh() {
    let mut world = World::new(Config::private(settings()));
    let mut who = Who::rest("a", client(1));
    world.allocated_virtual(&mut who);
    world.bind(&mut who, number(1), virtual_relayed("b")).unwrap();
    world.allocated_virtual(&mut who);
    assert_eq!(send(&mut world, &who, 1), Err(Dropped::NoChannel));
    let mut other = Who::rest("other", client(1));
    assert_eq!(world.allocated_virtual(&mut other), virtual_relayed("other"));
    assert_eq!(world.server.gauges().allocations, 1);
    assert_eq!(world.refresh(&mut who, None), Err(441));
}

#[test]
fn a_request_that_was_overheard_takes_nobodys_place() {
    let mut world = World::new(Config::private(settings()));
    let nonce = Some(rest::nonce(SECRET, UNIX).into_bytes());
    let mut who = Who { nonce: nonce.clone(), ..Who::rest("a", client(1)) };
    let request = world.signed(&mut who, warren_turn::Method::ALLOCATE, |b| {
        b.requested_transport(17).requested_address_family(Family::V6).virtual_address();
    });
    assert!(world.exchange(&who, &request).is_ok());
    let spy = Who { at: client(66), ..who.clone() };
    assert_eq!(world.exchange(&spy, &request), Err(438));
    assert!(world.server.has_allocation(who.at) && !world.server.has_allocation(spy.at));
    let mut roamed = Who { nonce, ..Who::rest("a", client(2)) };
    let virtual_again = |world: &mut World, who: &mut Who| {
        world.allocate(who, |b| {
            b.requested_address_family(Family::V6).virtual_address();
        })
    };
    assert_eq!(virtual_again(&mut world, &mut roamed), Err(438));
    roamed.nonce = None;
    assert!(virtual_again(&mut world, &mut roamed).is_ok());
    assert!(!world.server.has_allocation(who.at));
}

#[test]
fn a_user_and_an_id_of_one_name_do_not_share_an_address() {
    let mut world = World::new(Config::private(settings()));
    world.allocated_virtual(&mut Who::alice(client(1)));
    let mut impostor = Who::rest("alice", client(2));
    let answer = world.allocate(&mut impostor, |b| {
        b.requested_address_family(Family::V6).virtual_address();
    });
    assert_eq!(answer, Err(508));
}

#[test]
fn an_id_with_a_line_feed_gets_nobody_elses_address() {
    let mut world = World::new(config());
    let victim = world.allocated_virtual(&mut Who::rest("a", client(1)));
    // At a relay where the victim isn't at the moment.
    let mut elsewhere = World::new(config());
    let squatter = elsewhere.allocated_virtual(&mut Who::rest("a\nb", client(2)));
    assert_ne!(victim, squatter);
}
