use std::time::Duration;

use warren_turn::server::{Config, Dropped, Quotas, RelayedPort, Run};
use warren_turn::{AttributeType, Family, Method};

use crate::world::{Who, World, addr, client, config, number};

fn world() -> (World, Who) {
    let mut world = World::new(config());
    let mut who = Who::alice(client(1));
    world.allocated(&mut who);
    (world, who)
}

#[test]
fn without_an_allocation_there_is_nothing_to_permit() {
    let mut world = World::new(config());
    let mut who = Who::alice(client(1));
    assert_eq!(world.permit(&mut who, &[addr("8.8.8.8:1")]), Err(437));
    assert_eq!(world.bind(&mut who, number(0), addr("8.8.8.8:1")), Err(437));
}

#[test]
fn peers_of_denied_ranges_are_forbidden() {
    let (mut world, mut who) = world();
    for denied in ["127.0.0.1:1", "10.0.0.1:1", "169.254.1.1:1", "224.0.0.1:1", "100.64.0.1:1"] {
        assert_eq!(world.permit(&mut who, &[addr(denied)]), Err(403), "{denied}");
        assert_eq!(world.bind(&mut who, number(0), addr(denied)), Err(403), "{denied}");
    }
    let both = [addr("8.8.8.8:1"), addr("10.0.0.1:1")];
    assert_eq!(world.permit(&mut who, &both), Err(403), "all or none");
    assert_eq!(world.permit(&mut who, &[addr("[2606:4700::1]:1")]), Err(443));
    assert_eq!(world.bind(&mut who, number(0), addr("[2606:4700::1]:1")), Err(443));
    assert_eq!(world.permit(&mut who, &[addr("[::ffff:10.0.0.1]:1")]), Err(403));
    assert_eq!(world.permit(&mut who, &[addr("8.8.8.8:0")]), Ok(()));
}

#[test]
fn an_allow_list_opens_a_range() {
    let allow_peers = vec!["10.0.0.0/8".parse().unwrap()];
    let mut world = World::new(Config { allow_peers, ..config() });
    let mut who = Who::alice(client(1));
    world.allocated(&mut who);
    assert_eq!(world.permit(&mut who, &[addr("10.0.0.1:1")]), Ok(()));
    assert_eq!(world.permit(&mut who, &[addr("192.168.0.1:1")]), Err(403));
}

#[test]
fn an_address_that_becomes_the_hosts_own_is_no_peer_any_more() {
    let allow_peers = vec!["9.9.9.9/32".parse().unwrap()];
    let mut world = World::new(Config { allow_peers, ..config() });
    let mut who = Who::alice(client(1));
    let relayed = world.allocated(&mut who);
    let [own, named, other] = [addr("8.8.8.8:1"), addr("9.9.9.9:1"), addr("1.1.1.1:1")];
    for (n, peer) in [(1, own), (2, named), (3, other), (4, relayed)] {
        assert_eq!(world.bind(&mut who, number(n), peer), Ok(()));
    }
    world.server.set_own(&[own.ip(), named.ip()]);
    assert_eq!(world.server.gauges().channels, 3);
    let route = |world: &mut World, n| {
        world.server.route_channel(who.at, number(n), Run::one(9), world.now).err()
    };
    assert_eq!(route(&mut world, 1), Some(Dropped::NoChannel));
    assert_eq!([2, 3, 4].map(|n| route(&mut world, n)), [None; 3]);
    let port = RelayedPort { family: Family::V4, port: relayed.port() };
    let from_there = world.server.route_peer(port, own, Run::one(9), world.now);
    assert_eq!(from_there, Err(Dropped::NoPermission));
    assert_eq!(world.permit(&mut who, &[own]), Err(403));
    assert_eq!(world.bind(&mut who, number(1), own), Err(403));
    // It is somebody else's again.
    world.server.set_own(&[named.ip()]);
    assert_eq!(world.bind(&mut who, number(1), own), Ok(()));
}

#[test]
fn a_request_without_a_peer_is_bad() {
    let (mut world, mut who) = world();
    assert_eq!(world.permit(&mut who, &[]), Err(400));
    let malformed = world.request(&mut who, Method::CREATE_PERMISSION, |b| {
        b.attribute(AttributeType::XOR_PEER_ADDRESS, &[0, 1, 2]);
    });
    assert_eq!(malformed.unwrap_err(), 400);
    let without_number = world.request(&mut who, Method::CHANNEL_BIND, |b| {
        b.xor_peer_address(addr("8.8.8.8:1"));
    });
    assert_eq!(without_number.unwrap_err(), 400);
    let without_peer = world.request(&mut who, Method::CHANNEL_BIND, |b| {
        b.channel_number(number(0));
    });
    assert_eq!(without_peer.unwrap_err(), 400);
    assert_eq!(world.bind(&mut who, number(0), addr("8.8.8.8:0")), Err(400));
}

#[test]
fn channel_numbers_out_of_range_are_bad() {
    let (mut world, mut who) = world();
    for number in [0, 0x3FFF, 0x8000, 0xC000, 0xFFFF_u16] {
        let [high, low] = number.to_be_bytes();
        let answer = world.request(&mut who, Method::CHANNEL_BIND, |b| {
            b.attribute(AttributeType::CHANNEL_NUMBER, &[high, low, 0, 0]);
            b.xor_peer_address(addr("8.8.8.8:1"));
        });
        assert_eq!(answer.unwrap_err(), 400, "{number:#x}");
    }
    assert_eq!(world.bind(&mut who, number(0xFFF), addr("8.8.8.8:1")), Ok(()));
    let old = number(0x3FFF);
    assert_eq!(world.bind(&mut who, old, addr("8.8.8.8:2")), Ok(()), "RFC 5766's");
}

#[test]
fn a_channel_belongs_to_one_peer_and_a_peer_to_one_channel() {
    let (mut world, mut who) = world();
    assert_eq!(world.bind(&mut who, number(1), addr("8.8.8.8:1")), Ok(()));
    assert_eq!(world.bind(&mut who, number(1), addr("8.8.8.8:1")), Ok(()), "refreshed");
    assert_eq!(world.bind(&mut who, number(1), addr("8.8.8.8:2")), Err(400));
    assert_eq!(world.bind(&mut who, number(2), addr("8.8.8.8:1")), Err(400));
    assert_eq!(world.server.gauges().channels, 1);
    world.pass(Duration::from_secs(500));
    assert_eq!(world.refresh(&mut who, None), Ok(600));
    world.pass(Duration::from_secs(102));
    assert_eq!(world.bind(&mut who, number(2), addr("8.8.8.8:1")), Ok(()), "it expired");
    assert_eq!(world.server.gauges().channels, 1);
    assert_eq!(world.refresh(&mut who, Some(0)), Ok(0));
    assert_eq!(world.server.gauges().channels, 0);
}

#[test]
fn peers_of_one_allocation_are_limited() {
    let quotas = Quotas { peers: 3, ..Quotas::default() };
    let mut world = World::new(Config { quotas, ..config() });
    let mut who = Who::alice(client(1));
    world.allocated(&mut who);
    let peers = [1, 2, 3, 4].map(|n| addr(&format!("8.8.8.{n}:{n}")));
    assert_eq!(world.permit(&mut who, &peers), Err(508));
    assert_eq!(world.permit(&mut who, &peers[..3]), Ok(()));
    assert_eq!(world.permit(&mut who, &peers[3..]), Err(508));
    assert_eq!(world.bind(&mut who, number(4), peers[3]), Err(508));
    for port in 1..=3 {
        assert_eq!(world.bind(&mut who, number(port), addr(&format!("8.8.8.1:{port}"))), Ok(()));
    }
    assert_eq!(world.bind(&mut who, number(4), addr("8.8.8.1:4")), Err(508));
}
