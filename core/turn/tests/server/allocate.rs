use std::time::Duration;

use warren_turn::codec::UDP_TRANSPORT;
use warren_turn::server::{Config, RelayedPort};
use warren_turn::{AttributeType, Family, Message, Method};

use crate::world::{Who, World, addr, client, config, relayed, settings};

#[test]
fn an_allocation_has_a_port_of_the_servers_address() {
    let mut world = World::new(config());
    let mut who = Who::alice(client(1));
    let answer = world.allocate(&mut who, |_| {}).unwrap();
    let message = Message::parse(&answer).unwrap();
    let relayed = relayed(&answer);
    assert_eq!(relayed.ip().to_string(), "192.0.2.10");
    assert!(relayed.port() >= 49_152);
    assert_eq!(message.xor_mapped_address(), Some(addr("198.51.100.1:40001")));
    assert_eq!(message.lifetime(), Some(600));
    assert!(!message.has_virtual_address());
    assert!(world.open.contains(&RelayedPort { family: Family::V4, port: relayed.port() }));
}

#[test]
fn a_lifetime_is_granted_between_ten_minutes_and_the_most() {
    for (asked, granted) in [(0, 600), (60, 600), (1200, 1200), (3600, 3600), (u32::MAX, 3600)] {
        let mut world = World::new(config());
        let mut who = Who::alice(client(1));
        let answer = world
            .allocate(&mut who, |b| {
                b.lifetime(asked);
            })
            .unwrap();
        assert_eq!(Message::parse(&answer).unwrap().lifetime(), Some(granted));
        world.pass(Duration::from_secs(u64::from(granted) - 1));
        assert_eq!(world.server.gauges().allocations, 1);
        world.pass(Duration::from_secs(1));
        assert_eq!(world.server.gauges().allocations, 0);
        assert!(world.open.is_empty());
    }
}

#[test]
fn a_repeated_request_gets_the_same_answer_and_another_one_437() {
    let mut world = World::new(config());
    let mut who = Who::alice(client(1));
    let request = world.signed(&mut who, Method::ALLOCATE, |b| {
        b.requested_transport(UDP_TRANSPORT);
    });
    let first = world.exchange(&who, &request).unwrap();
    assert_eq!(world.exchange(&who, &request).unwrap(), first);
    assert_eq!(world.open.len(), 1);
    assert_eq!(world.allocate(&mut who, |_| {}), Err(437));
    let mut another = Who::rest("device", client(1));
    assert_eq!(world.allocate(&mut another, |_| {}), Err(437));
}

#[test]
fn the_transport_must_be_udp() {
    let mut world = World::new(config());
    let mut who = Who::alice(client(1));
    assert_eq!(world.request(&mut who, Method::ALLOCATE, |_| {}).unwrap_err(), 400);
    let answer = world.request(&mut who, Method::ALLOCATE, |b| {
        b.requested_transport(6);
    });
    assert_eq!(answer.unwrap_err(), 442);
}

#[test]
fn families_are_given_as_asked() {
    let mut world = World::new(config());
    let mut six = Who::alice(client(1));
    let answer = world
        .allocate(&mut six, |b| {
            b.requested_address_family(Family::V6);
        })
        .unwrap();
    assert_eq!(relayed(&answer).ip().to_string(), "2001:db8:10::1");
    let mut both = Who::alice(client(2));
    let answer = world
        .allocate(&mut both, |b| {
            b.additional_address_family(Family::V6);
        })
        .unwrap();
    let message = Message::parse(&answer).unwrap();
    let all: Vec<_> = message.xor_relayed_addresses().map(|addr| addr.is_ipv4()).collect();
    assert_eq!(all, [true, false]);
    assert_eq!(message.attribute(AttributeType::ADDRESS_ERROR_CODE), None);
    assert_eq!(world.open.len(), 3);
}

#[test]
fn a_family_that_is_missing_is_a_440_or_an_address_error() {
    let mut world = World::new(Config { relayed_ipv6: None, virtual_addresses: false, ..config() });
    let mut who = Who::alice(client(1));
    let answer = world.allocate(&mut who, |b| {
        b.requested_address_family(Family::V6);
    });
    assert_eq!(answer.unwrap_err(), 440);
    let answer = world.allocate(&mut who, |b| {
        b.attribute(AttributeType::REQUESTED_ADDRESS_FAMILY, &[9, 0, 0, 0]);
    });
    assert_eq!(answer.unwrap_err(), 440);
    let answer = world
        .allocate(&mut who, |b| {
            b.additional_address_family(Family::V6);
        })
        .unwrap();
    let message = Message::parse(&answer).unwrap();
    assert_eq!(message.xor_relayed_addresses().count(), 1);
    assert_eq!(message.attribute(AttributeType::ADDRESS_ERROR_CODE), Some(&[2, 0, 4, 40][..]));
}

#[test]
fn attributes_that_contradict_each_other_are_a_400() {
    let mut world = World::new(config());
    let mut who = Who::alice(client(1));
    let mut refused = |fill: &dyn Fn(&mut warren_turn::Builder<'_>)| {
        assert_eq!(world.allocate(&mut who, |b| fill(b)).unwrap_err(), 400);
    };
    refused(&|b| _ = b.reservation_token([1; 8]).even_port(false));
    refused(&|b| _ = b.reservation_token([1; 8]).requested_address_family(Family::V4));
    refused(&|b| _ = b.reservation_token([1; 8]).additional_address_family(Family::V6));
    refused(&|b| {
        _ = b.requested_address_family(Family::V4).additional_address_family(Family::V6);
    });
    refused(&|b| _ = b.additional_address_family(Family::V4));
    refused(&|b| _ = b.additional_address_family(Family::V6).even_port(true));
    refused(&|b| _ = b.attribute(AttributeType::RESERVATION_TOKEN, &[1; 7]));
    refused(&|b| _ = b.attribute(AttributeType::EVEN_PORT, &[]));
}

#[test]
fn a_draining_server_keeps_what_there_is_and_takes_nothing_new() {
    let mut world = World::new(config());
    let mut old = Who::alice(client(1));
    world.allocated(&mut old);
    world.server.drain();
    assert_eq!(world.allocate(&mut Who::alice(client(2)), |_| {}), Err(508));
    assert_eq!(world.refresh(&mut old, None), Ok(600));
}

#[test]
fn a_private_relay_has_no_ports() {
    let mut world = World::new(Config::private(settings()));
    let mut who = Who::rest("device", client(1));
    assert_eq!(world.allocate(&mut who, |_| {}), Err(440));
    let ordinary_six = world.allocate(&mut who, |b| {
        b.requested_address_family(Family::V6);
    });
    assert_eq!(ordinary_six, Err(508));
    let without_family = world.allocate(&mut who, |b| {
        b.virtual_address();
    });
    assert_eq!(without_family, Err(440));
    world.allocated_virtual(&mut who);
}
