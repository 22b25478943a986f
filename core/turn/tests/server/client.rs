//! The client of this crate against the server, over a link that loses nothing but what it is told.

use std::net::SocketAddr;
use std::time::Duration;

use warren_turn::client::{Client, Config, Credential, Event, Failure, Inbound, Transport};
use warren_turn::server::{self, ClientAddr, Delivery, Handled, Heading, Route, Settings};
use warren_turn::{ChannelNumber, Message, Method, rest, virtual_relayed};

use crate::world::{SECRET, UNIX, World, addr, client as at, config, settings};

pub(crate) fn credential(id: &str) -> Credential {
    let (username, password) = rest::mint(SECRET, UNIX + 7 * 24 * 3600, id);
    Credential { username, password, realm: None, nonce: None }
}

pub(crate) fn with_nonce(id: &str) -> Credential {
    Credential {
        realm: Some(crate::world::REALM.to_owned()),
        nonce: Some(rest::nonce(SECRET, UNIX)),
        ..credential(id)
    }
}

pub(crate) fn virtual_config(id: &str) -> Config {
    Config { virtual_address: true, ..Config::new(with_nonce(id)) }
}

/// A client at its place.
struct Seat {
    at: ClientAddr,
    client: Client,
    sent: Vec<Method>,
    events: Vec<Event>,
    received: Vec<(SocketAddr, Vec<u8>)>,
}

impl Seat {
    fn new(world: &World, at: ClientAddr, config: Config, seed: u8) -> Self {
        let client = Client::new(config, [seed; 32], world.now);
        Self { at, client, sent: Vec::new(), events: Vec::new(), received: Vec::new() }
    }

    fn event(&mut self) -> Option<Event> {
        (!self.events.is_empty()).then(|| self.events.remove(0))
    }
}

/// Carries everything until nobody has anything to say.
fn settle(world: &mut World, seats: &mut [&mut Seat]) {
    loop {
        let mut is_quiet = true;
        for seat in seats.iter_mut() {
            while let Some(datagram) = seat.client.poll_transmit() {
                is_quiet = false;
                if let Ok(message) = Message::parse(&datagram) {
                    seat.sent.push(message.method());
                }
                let _ = world.send(seat.at, &datagram);
            }
        }
        while let Some(transmit) = world.out.pop_front() {
            is_quiet = false;
            if let Some(seat) = seats.iter_mut().find(|seat| seat.at == transmit.to) {
                let handled = seat.client.handle_datagram(&transmit.contents, world.now);
                assert!(matches!(handled, Inbound::Consumed | Inbound::NotOurs));
            }
        }
        for seat in seats.iter_mut() {
            while let Some(event) = seat.client.poll_event() {
                seat.events.push(event);
            }
        }
        if is_quiet {
            break;
        }
    }
}

fn pass(world: &mut World, seats: &mut [&mut Seat], duration: Duration) {
    let end = world.now + duration;
    settle(world, seats);
    loop {
        let mut next = world.server.poll_timeout().map(|(at, _)| at);
        for seat in seats.iter() {
            let at = seat.client.poll_timeout().map(|(at, _)| at);
            next = next.into_iter().chain(at).min();
        }
        let Some(at) = next.filter(|at| *at <= end) else { break };
        world.now = world.now.max(at);
        let now = world.now;
        world.server.handle_timeout(now);
        world.drain();
        for seat in seats.iter_mut() {
            seat.client.handle_timeout(now);
            let next = seat.client.poll_timeout();
            assert!(next.is_none_or(|(next, _)| next > now), "busy: {next:?}");
        }
        settle(world, seats);
    }
    world.now = end;
}

/// Sends data by a channel, to another seat.
fn say(world: &mut World, from: &mut Seat, to: &mut Seat, peer: SocketAddr, data: &[u8]) -> bool {
    let Some(number) = from.client.channel(peer) else { return false };
    let datagram = [&number.header(data.len() as u16)[..], data].concat();
    let Handled::Relay { route, range } = world.send(from.at, &datagram) else { return false };
    let Route::Client(Delivery { to: target, heading }) = route else { return false };
    assert_eq!(target, to.at);
    let data = &datagram[range];
    let arrives = match heading {
        Heading::Channel(number) => [&number.header(data.len() as u16)[..], data].concat(),
        Heading::Indication(peer) => {
            let head = world.server.indication(peer, data.len()).unwrap();
            [head.bytes(), data, &[0; 3][..head.padding()]].concat()
        }
    };
    let Inbound::Data { peer, range } = to.client.handle_datagram(&arrives, world.now) else {
        return false;
    };
    to.received.push((peer, arrives[range].to_vec()));
    true
}

#[test]
fn with_a_known_nonce_allocation_and_channel_take_one_round() {
    let mut world = World::new(config());
    let mut seat = Seat::new(&world, at(1), virtual_config("a"), 1);
    let number = seat.client.bind(virtual_relayed("b"), world.now).unwrap();
    settle(&mut world, &mut [&mut seat]);
    // The Refresh proves the address, which a broker's nonce doesn't.
    assert_eq!(seat.sent, [Method::ALLOCATE, Method::CHANNEL_BIND, Method::REFRESH]);
    let Some(Event::Allocated { relayed, mapped, lifetime, virtual_address }) = seat.event() else {
        panic!("not allocated")
    };
    assert_eq!(relayed, virtual_relayed("a"));
    assert_eq!(mapped, addr("198.51.100.1:40001"));
    assert_eq!(lifetime, Duration::from_secs(600));
    assert!(virtual_address);
    let ready = Event::ChannelReady { peer: virtual_relayed("b"), number };
    assert_eq!(seat.event(), Some(ready));
    assert_eq!(seat.event(), None);
}

#[test]
fn without_a_nonce_the_server_is_asked_for_one() {
    let mut world = World::new(config());
    let mut seat = Seat::new(&world, at(1), Config::new(credential("a")), 1);
    seat.client.bind(addr("8.8.8.8:1"), world.now).unwrap();
    settle(&mut world, &mut [&mut seat]);
    assert_eq!(seat.sent, [Method::ALLOCATE, Method::ALLOCATE, Method::CHANNEL_BIND]);
    assert!(matches!(seat.event(), Some(Event::Allocated { virtual_address: false, .. })));
    assert!(matches!(seat.event(), Some(Event::ChannelReady { .. })));
    assert_eq!(seat.client.channel(addr("8.8.8.8:1")), Some(ChannelNumber::MIN));
}

#[test]
fn two_clients_talk_through_the_server() {
    let mut world = World::new(config());
    let mut a = Seat::new(&world, at(1), virtual_config("a"), 1);
    let mut b = Seat::new(&world, at(2), virtual_config("b"), 2);
    a.client.bind(virtual_relayed("b"), world.now).unwrap();
    b.client.permit(virtual_relayed("a").ip(), world.now);
    settle(&mut world, &mut [&mut a, &mut b]);
    assert!(say(&mut world, &mut a, &mut b, virtual_relayed("b"), b"by indication"));
    b.client.bind(virtual_relayed("a"), world.now).unwrap();
    settle(&mut world, &mut [&mut a, &mut b]);
    assert!(say(&mut world, &mut a, &mut b, virtual_relayed("b"), b"by channel"));
    assert!(say(&mut world, &mut b, &mut a, virtual_relayed("a"), b"and back"));
    let heard = |data: &[u8]| (virtual_relayed("a"), data.to_vec());
    assert_eq!(b.received, [heard(b"by indication"), heard(b"by channel")]);
    assert_eq!(a.received, [(virtual_relayed("b"), b"and back".to_vec())]);
}

#[test]
fn a_client_with_a_brokers_nonce_soon_hears_everything() {
    let mut world = World::new(config());
    let mut a = Seat::new(&world, at(1), virtual_config("a"), 1);
    let mut b = Seat::new(&world, at(2), virtual_config("b"), 2);
    for (seat, peer) in [(&mut a, "b"), (&mut b, "a")] {
        seat.client.bind(virtual_relayed(peer), world.now).unwrap();
    }
    settle(&mut world, &mut [&mut a, &mut b]);
    for _ in 0..100 {
        assert!(say(&mut world, &mut a, &mut b, virtual_relayed("b"), &[7; 1000]));
    }
}

#[test]
fn an_hour_later_everything_still_stands() {
    let mut world = World::new(config());
    let mut a = Seat::new(&world, at(1), virtual_config("a"), 1);
    let mut b = Seat::new(&world, at(2), virtual_config("b"), 2);
    for (seat, peer) in [(&mut a, "b"), (&mut b, "a")] {
        seat.client.bind(virtual_relayed(peer), world.now).unwrap();
    }
    for _ in 0..200 {
        pass(&mut world, &mut [&mut a, &mut b], Duration::from_secs(37));
        assert!(say(&mut world, &mut a, &mut b, virtual_relayed("b"), b"hello"));
        assert!(say(&mut world, &mut b, &mut a, virtual_relayed("a"), b"hello"));
    }
    let failed = |event: &Event| matches!(event, Event::Failed { .. } | Event::Closed);
    assert!(!a.events.iter().chain(&b.events).any(failed));
    assert_eq!(world.server.counters().allocated, 2, "never lost");
}

#[test]
fn a_wrong_credential_fails_and_is_not_tried_for_ever() {
    let mut world = World::new(config());
    let wrong = Credential { password: "guess".to_owned(), ..credential("a") };
    let mut seat = Seat::new(&world, at(1), Config::new(wrong), 1);
    settle(&mut world, &mut [&mut seat]);
    assert_eq!(seat.event(), Some(Event::Failed { reason: Failure::Unauthorized }));
    assert!(seat.client.is_ended() && seat.sent.len() <= 6);
    assert_eq!(seat.client.poll_timeout(), None);
}

#[test]
fn a_realm_that_was_told_wrong_is_put_right() {
    let mut world = World::new(config());
    let credential = Credential { realm: Some("elsewhere".to_owned()), ..with_nonce("a") };
    let mut seat = Seat::new(&world, at(1), Config::new(credential), 1);
    settle(&mut world, &mut [&mut seat]);
    assert!(matches!(seat.event(), Some(Event::Allocated { .. })));
}

#[test]
fn a_stale_nonce_is_replaced_in_passing() {
    let mut world = World::new(config());
    let mut seat = Seat::new(&world, at(1), Config::new(credential("a")), 1);
    seat.client.bind(addr("8.8.8.8:1"), world.now).unwrap();
    pass(&mut world, &mut [&mut seat], Duration::from_secs(3 * 3600));
    assert!(*world.server.counters().refused.get(&438).unwrap() >= 2);
    assert_eq!(world.server.counters().allocated, 1);
    assert!(seat.client.channel(addr("8.8.8.8:1")).is_some());
}

#[test]
fn a_server_that_lost_everything_is_asked_again() {
    let mut world = World::new(config());
    let mut seat = Seat::new(&world, at(1), virtual_config("a"), 1);
    seat.client.bind(virtual_relayed("b"), world.now).unwrap();
    seat.client.permit(virtual_relayed("c").ip(), world.now);
    settle(&mut world, &mut [&mut seat]);
    seat.events.clear();
    let unix = Duration::from_secs(world.unix());
    world.server = server::Server::new(config(), [99; 32], world.now, unix);
    pass(&mut world, &mut [&mut seat], Duration::from_secs(300));
    let rest: Vec<_> = std::mem::take(&mut seat.events);
    assert!(rest.iter().any(|event| matches!(event, Event::Allocated { .. })));
    assert!(rest.iter().any(|event| matches!(event, Event::ChannelReady { .. })));
    assert!(rest.iter().any(|event| matches!(event, Event::Permitted(_))));
    assert!(seat.client.channel(virtual_relayed("b")).is_some());
}

#[test]
fn a_client_that_restarts_at_the_same_address_is_heard_again() {
    let mut world = World::new(config());
    let mut a = Seat::new(&world, at(1), virtual_config("a"), 1);
    let mut b = Seat::new(&world, at(2), virtual_config("b"), 2);
    a.client.bind(virtual_relayed("b"), world.now).unwrap();
    b.client.bind(virtual_relayed("a"), world.now).unwrap();
    settle(&mut world, &mut [&mut a, &mut b]);
    // Its memory is gone, its allocation isn't: what it sends behind its Allocate meets that.
    let mut again = Seat::new(&world, at(1), virtual_config("a"), 3);
    again.client.bind(virtual_relayed("b"), world.now).unwrap();
    settle(&mut world, &mut [&mut again, &mut b]);
    assert!(say(&mut world, &mut again, &mut b, virtual_relayed("b"), b"I am back"));
    assert!(say(&mut world, &mut b, &mut again, virtual_relayed("a"), b"welcome"));
}

#[test]
fn a_channel_that_is_asked_after_by_verify_survives_and_a_lost_allocation_is_noticed() {
    let mut world = World::new(config());
    let mut a = Seat::new(&world, at(1), virtual_config("a"), 1);
    a.client.bind(virtual_relayed("b"), world.now).unwrap();
    settle(&mut world, &mut [&mut a]);
    a.client.verify(world.now);
    a.client.verify(world.now);
    settle(&mut world, &mut [&mut a]);
    let refreshes = a.sent.iter().filter(|method| **method == Method::REFRESH).count();
    assert_eq!(refreshes, 2, "the one that proves the address, then one at a time");
    assert!(a.client.channel(virtual_relayed("b")).is_some());
    let unix = Duration::from_secs(world.unix());
    world.server = server::Server::new(config(), [99; 32], world.now, unix);
    a.client.verify(world.now);
    settle(&mut world, &mut [&mut a]);
    assert_eq!(world.server.counters().allocated, 1);
    assert!(a.client.channel(virtual_relayed("b")).is_some());
}

#[test]
fn an_allocation_of_before_is_removed_first() {
    let mut world = World::new(config());
    let mut before = Seat::new(&world, at(1), Config::new(credential("a")), 1);
    settle(&mut world, &mut [&mut before]);
    let mut seat = Seat::new(&world, at(1), Config::new(credential("a")), 2);
    settle(&mut world, &mut [&mut seat]);
    assert!(matches!(seat.event(), Some(Event::Allocated { .. })));
    assert!(seat.sent.contains(&Method::REFRESH));
    assert_eq!(world.server.gauges().allocations, 1);
    let mut other = Seat::new(&world, at(1), Config::new(credential("b")), 3);
    settle(&mut world, &mut [&mut other]);
    assert_eq!(other.event(), Some(Event::Failed { reason: Failure::Mismatch }));
}

#[test]
fn refusals_are_told_apart() {
    let mut config = config();
    config.quotas.allocations = 1;
    config.quotas.total_allocations = 2;
    let mut world = World::new(config);
    let mut first = Seat::new(&world, at(1), Config::new(credential("a")), 1);
    settle(&mut world, &mut [&mut first]);
    let mut fails = |id: &str, n: u8, config: Config, reason| {
        let mut seat = Seat::new(&world, at(n), config, n);
        settle(&mut world, &mut [&mut seat]);
        assert_eq!(seat.event(), Some(Event::Failed { reason }), "{id}");
    };
    fails("quota", 2, Config::new(credential("a")), Failure::Quota);
    let mut second = Seat::new(&world, at(3), Config::new(credential("b")), 3);
    settle(&mut world, &mut [&mut second]);
    let mut seat = Seat::new(&world, at(4), Config::new(credential("c")), 4);
    settle(&mut world, &mut [&mut seat]);
    assert_eq!(seat.event(), Some(Event::Failed { reason: Failure::Capacity }));
    first.events.clear();
    first.client.bind(addr("10.0.0.1:1"), world.now).unwrap();
    first.client.permit("127.0.0.1".parse().unwrap(), world.now);
    settle(&mut world, &mut [&mut first]);
    let reason = Failure::Forbidden;
    let peer = addr("10.0.0.1:1");
    assert_eq!(first.event(), Some(Event::ChannelFailed { peer, reason }));
    let ip = "127.0.0.1".parse().unwrap();
    assert_eq!(first.event(), Some(Event::PermissionFailed { ip, reason }));
    assert!(first.client.relayed().is_some());
}

#[test]
fn a_renewed_credential_is_taken_when_the_old_one_is_refused() {
    let mut world = World::new(config());
    let mut seat = Seat::new(&world, at(1), virtual_config("a"), 1);
    settle(&mut world, &mut [&mut seat]);
    let secret = b"next".to_vec();
    let (username, password) = rest::mint(&secret, UNIX + 8 * 24 * 3600, "a");
    let realm = Some(crate::world::REALM.to_owned());
    let nonce = Some(rest::nonce(&secret, UNIX));
    seat.client.set_credential(Credential { username, password, realm, nonce });
    let rotated = Settings { secrets: vec![secret], ..settings() };
    world.server.set_settings(rotated, world.now);
    seat.events.clear();
    pass(&mut world, &mut [&mut seat], Duration::from_secs(1000));
    let failed = |event: &Event| matches!(event, Event::Failed { .. });
    assert!(!seat.events.iter().any(failed), "{:?}", seat.events);
    assert!(seat.client.relayed().is_some());
    assert_eq!(world.server.counters().allocated, 1);
}

#[test]
fn closing_lets_go_at_the_server() {
    let mut world = World::new(config());
    let mut seat = Seat::new(&world, at(1), virtual_config("a"), 1);
    settle(&mut world, &mut [&mut seat]);
    seat.events.clear();
    seat.client.close(world.now);
    settle(&mut world, &mut [&mut seat]);
    assert_eq!(seat.event(), Some(Event::Closed));
    assert_eq!(world.server.gauges().allocations, 0);
    assert!(seat.client.bind(virtual_relayed("b"), world.now).is_none());
    assert_eq!(seat.client.poll_timeout(), None);
}

#[test]
fn a_silent_server_is_given_up_as_the_rfc_says() {
    let world = World::new(config());
    let mut client = Client::new(virtual_config("a"), [1; 32], world.now);
    let mut sent = vec![0];
    let mut now = world.now;
    assert!(client.poll_transmit().is_some());
    while let Some((at, _)) = client.poll_timeout() {
        now = at;
        client.handle_timeout(now);
        while client.poll_transmit().is_some() {
            sent.push((now - world.now).as_millis());
        }
    }
    assert_eq!(sent, [0, 500, 1500, 3500, 7500, 15_500, 31_500]);
    assert_eq!((now - world.now).as_millis(), 39_500);
    assert_eq!(client.poll_event(), Some(Event::Failed { reason: Failure::Timeout }));
}

#[test]
fn on_a_stream_nothing_is_repeated() {
    let world = World::new(config());
    let config = Config { transport: Transport::Stream, ..virtual_config("a") };
    let mut client = Client::new(config, [1; 32], world.now);
    assert!(client.poll_transmit().is_some());
    assert_eq!(client.unanswered_for(world.now + Duration::from_secs(3)).unwrap().as_secs(), 3);
    let (at, _) = client.poll_timeout().unwrap();
    client.handle_timeout(at);
    assert_eq!(client.poll_transmit(), None);
    assert_eq!(client.poll_event(), Some(Event::Failed { reason: Failure::Timeout }));
}

#[test]
fn a_ping_tells_the_round_trip() {
    let mut world = World::new(config());
    let mut seat = Seat::new(&world, at(1), virtual_config("a"), 1);
    settle(&mut world, &mut [&mut seat]);
    seat.events.clear();
    seat.client.ping(world.now);
    seat.client.ping(world.now);
    let request = seat.client.poll_transmit().unwrap();
    assert_eq!(seat.client.poll_transmit(), None);
    let answer = world.ask(seat.at, &request);
    world.now += Duration::from_millis(30);
    assert_eq!(seat.client.handle_datagram(&answer, world.now), Inbound::Consumed);
    assert_eq!(seat.client.poll_event(), Some(Event::Rtt(Duration::from_millis(30))));
    assert_eq!(seat.client.rtt(), Some(Duration::from_millis(30)));
    assert_eq!(seat.client.handle_datagram(&answer, world.now), Inbound::NotOurs, "once");
}

#[test]
fn an_answer_that_nobody_signed_moves_nothing() {
    let mut world = World::new(config());
    let mut seat = Seat::new(&world, at(1), virtual_config("a"), 1);
    let request = seat.client.poll_transmit().unwrap();
    let id = Message::parse(&request).unwrap().transaction_id();
    let mut forged = Vec::new();
    warren_turn::Builder::new(&mut forged, warren_turn::Class::Success, Method::ALLOCATE, id)
        .xor_relayed_address(addr("6.6.6.6:6"))
        .xor_mapped_address(addr("6.6.6.6:6"))
        .lifetime(600);
    assert_eq!(seat.client.handle_datagram(&forged, world.now), Inbound::Refused);
    let answer = world.ask(seat.at, &request);
    assert_eq!(seat.client.handle_datagram(&answer, world.now), Inbound::Consumed);
    assert_eq!(seat.client.relayed(), Some(virtual_relayed("a")));
}

#[test]
fn data_of_no_channel_of_ours_is_refused() {
    let mut world = World::new(config());
    let mut seat = Seat::new(&world, at(1), virtual_config("a"), 1);
    settle(&mut world, &mut [&mut seat]);
    assert_eq!(seat.client.handle_datagram(&[0x40, 0, 0, 1, 7], world.now), Inbound::NotOurs);
    let number = seat.client.bind(virtual_relayed("b"), world.now).unwrap();
    settle(&mut world, &mut [&mut seat]);
    let datagram = [&number.header(2)[..], &[7, 8]].concat();
    let data = Inbound::Data { peer: virtual_relayed("b"), range: 4..6 };
    assert_eq!(seat.client.handle_datagram(&datagram, world.now), data);
    assert_eq!(seat.client.handle_datagram(b"something else", world.now), Inbound::Refused);
}

#[test]
fn an_unbound_channel_rests_before_its_number_is_used_again() {
    let mut world = World::new(config());
    let mut seat = Seat::new(&world, at(1), virtual_config("a"), 1);
    let first = seat.client.bind(virtual_relayed("b"), world.now).unwrap();
    settle(&mut world, &mut [&mut seat]);
    seat.client.unbind(virtual_relayed("b"));
    assert_eq!(seat.client.channel(virtual_relayed("b")), None);
    let second = seat.client.bind(virtual_relayed("c"), world.now).unwrap();
    assert_ne!(first, second);
    pass(&mut world, &mut [&mut seat], Duration::from_secs(1000));
    assert_eq!(seat.client.bind(virtual_relayed("b"), world.now), Some(first), "its own again");
    settle(&mut world, &mut [&mut seat]);
    assert_eq!(seat.client.channel(virtual_relayed("b")), Some(first));
    seat.client.unbind(virtual_relayed("b"));
    pass(&mut world, &mut [&mut seat], Duration::from_secs(1300));
    assert!(seat.client.bind(virtual_relayed("b"), world.now).unwrap() > second);
}

#[test]
fn a_channel_that_was_bound_at_the_allocation_of_before_is_bound_again() {
    let mut world = World::new(config());
    let mut before = Seat::new(&world, at(1), virtual_config("a"), 1);
    settle(&mut world, &mut [&mut before]);
    world.now += Duration::from_secs(5);
    let mut seat = Seat::new(&world, at(1), virtual_config("a"), 2);
    let number = seat.client.bind(virtual_relayed("b"), world.now).unwrap();
    let (allocate, bind) =
        (seat.client.poll_transmit().unwrap(), seat.client.poll_transmit().unwrap());
    let refused = world.ask(seat.at, &allocate);
    assert_eq!(Message::parse(&refused).unwrap().error_code(), Some(438));
    let late = world.ask(seat.at, &bind);
    world.now += Duration::from_millis(30);
    assert_eq!(seat.client.handle_datagram(&refused, world.now), Inbound::Consumed);
    let again = seat.client.poll_transmit().unwrap();
    let granted = world.ask(seat.at, &again);
    assert_eq!(seat.client.handle_datagram(&granted, world.now), Inbound::Consumed);
    assert!(seat.client.relayed().is_some());
    assert_eq!(seat.client.handle_datagram(&late, world.now), Inbound::Consumed);
    assert_eq!(seat.client.channel(virtual_relayed("b")), None, "it is gone with the old one");
    settle(&mut world, &mut [&mut seat]);
    assert_eq!(seat.client.channel(virtual_relayed("b")), Some(number));
    let run = warren_turn::server::Run::one(9);
    let route = world.server.route_channel(seat.at, number, run, world.now);
    assert_eq!(route, Err(warren_turn::server::Dropped::NoAllocation), "bound, b isn't there");
}
