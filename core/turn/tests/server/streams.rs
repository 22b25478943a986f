use std::time::Duration;

use warren_turn::codec::ChangeRequest;
use warren_turn::server::{
    ClientAddr, Config, Delivery, Dropped, Handled, Heading, Quotas, Route, Run, Settings, StreamId,
};
use warren_turn::{Message, Method, virtual_relayed};

use crate::world::{Who, World, addr, client, config, number, settings};

fn stream(world: &mut World, n: u64) -> ClientAddr {
    let remote = addr(&format!("198.51.100.{n}:50000"));
    assert!(world.server.handle_stream(StreamId(n), remote, world.now));
    ClientAddr::Stream(StreamId(n))
}

#[test]
fn a_client_over_a_stream_is_as_good_as_another() {
    let mut world = World::new(config());
    let (a, b) = (stream(&mut world, 1), client(2));
    let (mut a, mut b) = (Who::rest("a", a), Who::rest("b", b));
    world.allocated_virtual(&mut a);
    world.allocated_virtual(&mut b);
    world.bind(&mut a, number(1), virtual_relayed("b")).unwrap();
    world.bind(&mut b, number(2), virtual_relayed("a")).unwrap();
    let run = Run::one(5);
    let route = world.server.route_channel(b.at, number(2), run, world.now);
    let heading = Heading::Channel(number(1));
    assert_eq!(route, Ok(Route::Client(Delivery { to: a.at, heading })));
    world.pass(Duration::from_secs(300));
    assert!(world.closed.is_empty());
}

#[test]
fn the_mapped_address_is_the_connections() {
    let mut world = World::new(config());
    let at = stream(&mut world, 1);
    let request = world.bare(Method::BINDING, |_| {});
    let answer = world.ask(at, &request);
    let mapped = Message::parse(&answer).unwrap().xor_mapped_address();
    assert_eq!(mapped, Some(addr("198.51.100.1:50000")));
    let request = world.bare(Method::BINDING, |b| {
        b.change_request(ChangeRequest { ip: false, port: true });
    });
    let answer = world.ask(at, &request);
    assert_eq!(Message::parse(&answer).unwrap().error_code(), Some(420));
    let mut who = Who::alice(at);
    let answer = world.allocate(&mut who, |_| {}).unwrap();
    let mapped = Message::parse(&answer).unwrap().xor_mapped_address();
    assert_eq!(mapped, Some(addr("198.51.100.1:50000")));
}

#[test]
fn a_connection_without_an_allocation_is_closed_after_a_while() {
    let mut world = World::new(config());
    let (idle, used) = (stream(&mut world, 1), stream(&mut world, 2));
    let mut who = Who::alice(used);
    world.allocated(&mut who);
    world.pass(Duration::from_secs(21));
    assert_eq!(world.closed, [StreamId(1)]);
    let request = world.bare(Method::BINDING, |_| {});
    assert_eq!(world.send(idle, &request), Handled::Dropped(Dropped::Source));
    assert_eq!(world.refresh(&mut who, Some(0)), Ok(0));
    world.pass(Duration::from_secs(21));
    assert_eq!(world.closed, [StreamId(1), StreamId(2)]);
    assert_eq!(world.server.gauges().streams, 0);
}

#[test]
fn an_allocation_ends_with_its_connection() {
    let mut world = World::new(config());
    let mut who = Who::alice(stream(&mut world, 1));
    world.allocated(&mut who);
    world.server.handle_stream_closed(StreamId(1), world.now);
    world.drain();
    assert!(world.open.is_empty() && world.closed.is_empty());
    assert_eq!(world.server.gauges().streams, 0);
    assert_eq!(world.server.poll_timeout(), None);
}

#[test]
fn connections_that_wait_are_limited() {
    let quotas = Quotas { waiting_streams: 2, ..Quotas::default() };
    let mut world = World::new(Config { quotas, ..config() });
    let first = stream(&mut world, 1);
    stream(&mut world, 2);
    assert!(!world.server.handle_stream(StreamId(3), addr("198.51.100.3:1"), world.now));
    world.allocated(&mut Who::alice(first));
    stream(&mut world, 3);
    world.server.handle_stream_closed(StreamId(2), world.now);
    stream(&mut world, 4);
    assert!(!world.server.handle_stream(StreamId(5), addr("198.51.100.5:1"), world.now));
}

#[test]
fn connections_of_one_prefix_keep_nobody_else_out() {
    let quotas = Quotas { waiting_streams_per_prefix: 2, ..Quotas::default() };
    let mut world = World::new(Config { quotas, ..config() });
    let first = stream(&mut world, 1);
    stream(&mut world, 2);
    let is_taken =
        |world: &mut World, n, from| world.server.handle_stream(StreamId(n), addr(from), world.now);
    assert!(!is_taken(&mut world, 3, "198.51.100.3:1"));
    assert!(is_taken(&mut world, 4, "198.51.101.3:1"));
    assert!(is_taken(&mut world, 5, "[2001:db8:1::1]:1"));
    assert!(is_taken(&mut world, 6, "[2001:db8:1:0:1::]:1"));
    assert!(!is_taken(&mut world, 7, "[2001:db8:1:ff::1]:1"));
    assert!(is_taken(&mut world, 8, "[2001:db8:1:100::1]:1"));
    // Who has an allocation doesn't wait any more, nor does who is gone.
    world.allocated(&mut Who::alice(first));
    stream(&mut world, 9);
    assert!(!is_taken(&mut world, 10, "198.51.100.3:1"));
    world.server.handle_stream_closed(StreamId(9), world.now);
    stream(&mut world, 11);
    world.pass(Duration::from_secs(21));
    stream(&mut world, 12);
    stream(&mut world, 13);
    assert!(!is_taken(&mut world, 14, "198.51.100.3:1"));
}

#[test]
fn connections_of_many_prefixes_keep_nobody_else_out() {
    let quotas = Quotas { waiting_streams: 8, waiting_streams_per_prefix: 4, ..Quotas::default() };
    let mut world = World::new(Config { quotas, ..config() });
    let come = |world: &mut World, n, from: String| {
        let is_taken = world.server.handle_stream(StreamId(n), addr(&from), world.now);
        world.drain();
        world.pass(Duration::from_millis(10));
        is_taken
    };
    for n in 0..8 {
        assert!(come(&mut world, n, format!("[2001:db8:0:{}00::1]:1", n % 4)));
    }
    assert!(world.closed.is_empty());
    // Each who comes takes the place of the oldest of those who have most.
    assert!(come(&mut world, 100, "198.51.100.1:1".to_owned()));
    assert_eq!(world.closed, [StreamId(0)]);
    for n in 8..200 {
        come(&mut world, 1000 + n, format!("[2001:db8:0:{}00::1]:1", n % 4));
    }
    assert!(!world.closed.contains(&StreamId(100)), "who has one is closed before who has several");
    assert_eq!(world.server.gauges().streams, 8);
    world.allocated(&mut Who::alice(ClientAddr::Stream(StreamId(100))));
    // Where all have one, the oldest goes.
    for n in 0..8 {
        assert!(come(&mut world, 2000 + n, format!("203.0.{n}.1:1")));
    }
    for n in 0..8 {
        assert!(come(&mut world, 3000 + n, format!("192.0.{n}.1:1")));
        assert_eq!(world.closed.last(), Some(&StreamId(2000 + n)));
    }
    world.pass(Duration::from_secs(21));
    assert_eq!(world.server.gauges().streams, 1);
}

#[test]
fn the_connection_of_a_revoked_id_is_closed() {
    let mut world = World::new(config());
    let mut who = Who::rest("a", stream(&mut world, 1));
    world.allocated(&mut who);
    let revoked = Settings { revoked: vec!["a".to_owned()], ..settings() };
    world.server.set_settings(revoked, world.now);
    world.drain();
    assert_eq!(world.closed, [StreamId(1)]);
    assert!(world.open.is_empty());
}
