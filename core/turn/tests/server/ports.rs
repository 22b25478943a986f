use std::time::Duration;

use warren_turn::server::{Config, RelayedPort};
use warren_turn::{AttributeType, Family, Message};

use crate::world::{Who, World, client, config, relayed};

fn v4(port: u16) -> RelayedPort {
    RelayedPort { family: Family::V4, port }
}

fn few_ports(ports: std::ops::RangeInclusive<u16>) -> World {
    World::new(Config { ports, ..config() })
}

#[test]
fn a_port_that_somebody_else_has_is_passed_over() {
    let mut world = few_ports(50_000..=50_009);
    world.taken = (50_000..=50_008).map(v4).collect();
    let mut who = Who::alice(client(1));
    assert_eq!(world.allocated(&mut who).port(), 50_009);
    assert!(world.server.counters().ports_taken > 0);
    assert_eq!(world.allocate(&mut Who::alice(client(2)), |_| {}), Err(508));
    assert_eq!(world.server.gauges().allocations, 1);
    assert_eq!(world.open.len(), 1);
}

#[test]
fn a_family_that_cannot_be_opened_is_said_so() {
    let mut world = World::new(config());
    world.unavailable = Some(Family::V6);
    let mut who = Who::alice(client(1));
    let six = world.allocate(&mut who, |b| {
        b.requested_address_family(Family::V6);
    });
    assert_eq!(six, Err(508));
    let both = world
        .allocate(&mut who, |b| {
            b.additional_address_family(Family::V6);
        })
        .unwrap();
    let message = Message::parse(&both).unwrap();
    assert_eq!(message.attribute(AttributeType::ADDRESS_ERROR_CODE), Some(&[2, 0, 5, 8][..]));
    assert_eq!(world.open.len(), 1);
}

#[test]
fn an_even_port_is_even() {
    let mut world = few_ports(50_000..=50_099);
    for n in 1..=20 {
        let mut who = Who::alice(client(n));
        let answer = world
            .allocate(&mut who, |b| {
                b.even_port(false);
            })
            .unwrap();
        assert_eq!(relayed(&answer).port() % 2, 0);
        assert_eq!(Message::parse(&answer).unwrap().reservation_token(), None);
    }
    assert_eq!(world.open.len(), 20);
}

#[test]
fn the_next_port_is_reserved_and_fetched_by_its_token() {
    let mut world = World::new(config());
    let mut first = Who::alice(client(1));
    let request = world.signed(&mut first, warren_turn::Method::ALLOCATE, |b| {
        b.requested_transport(17).even_port(true);
    });
    let answer = world.exchange(&first, &request).unwrap();
    assert_eq!(world.exchange(&first, &request).unwrap(), answer, "repeated with its token");
    let even = relayed(&answer).port();
    let token = Message::parse(&answer).unwrap().reservation_token().unwrap();
    assert_eq!(world.open.iter().map(|port| port.port).collect::<Vec<_>>(), [even, even + 1]);
    let fetch = |world: &mut World, mut who: Who| {
        world.allocate(&mut who, |b| {
            b.reservation_token(token);
        })
    };
    assert_eq!(fetch(&mut world, Who::rest("mallory", client(3))), Err(508));
    let fetched = fetch(&mut world, Who::alice(client(2))).unwrap();
    assert_eq!(relayed(&fetched).port(), even + 1);
    assert_eq!(fetch(&mut world, Who::alice(client(4))), Err(508), "only once");
    world.pass(Duration::from_secs(60));
    assert_eq!(world.open.len(), 2);
    world.pass(Duration::from_secs(600));
    assert!(world.open.is_empty());
}

#[test]
fn a_reserved_port_that_nobody_fetches_is_closed() {
    let mut world = World::new(config());
    let mut who = Who::alice(client(1));
    let answer = world
        .allocate(&mut who, |b| {
            b.even_port(true);
        })
        .unwrap();
    let token = Message::parse(&answer).unwrap().reservation_token().unwrap();
    world.pass(Duration::from_secs(30));
    assert_eq!(world.open.len(), 1);
    let late = world.allocate(&mut Who::alice(client(2)), |b| {
        b.reservation_token(token);
    });
    assert_eq!(late, Err(508));
}

#[test]
fn a_pair_of_which_one_is_taken_is_passed_over_whole() {
    for taken in [50_000, 50_001] {
        let mut world = few_ports(50_000..=50_003);
        world.taken.insert(v4(taken));
        for _ in 0..3 {
            let mut who = Who::alice(client(1));
            let answer = world
                .allocate(&mut who, |b| {
                    b.even_port(true);
                })
                .unwrap();
            assert_eq!(relayed(&answer).port(), 50_002);
            assert_eq!(world.open.len(), 2);
            world.pass(Duration::from_secs(800));
            assert!(world.open.is_empty());
        }
    }
}

#[test]
fn without_a_pair_there_is_no_allocation_and_nothing_stays_open() {
    let mut world = few_ports(50_000..=50_003);
    world.taken = [50_001, 50_002].map(v4).into();
    let answer = world.allocate(&mut Who::alice(client(1)), |b| {
        b.even_port(true);
    });
    assert_eq!(answer, Err(508));
    assert!(world.open.is_empty());
    assert_eq!(world.server.gauges().allocations, 0);
}
