//! What nobody has proved to have sent: at most one small answer, and no state.

use std::time::Duration;

use proptest::prelude::*;
use warren_turn::server::{ClientAddr, Config, Handled, Listener, Settings};
use warren_turn::{Limits, Message, Method};

use crate::world::{Who, World, client, config, settings};

fn check(world: &mut World, from: ClientAddr, datagram: &[u8]) {
    let handled = world.send(from, datagram);
    assert!(!matches!(handled, Handled::Relay { .. }));
    assert!(world.out.len() <= 1);
    if let Some(answer) = world.out.pop_front() {
        assert_eq!(answer.to, from);
        assert!(answer.contents.len() <= 4 * datagram.len(), "amplified");
        assert!(Message::parse(&answer.contents).is_ok());
    }
    assert_eq!(world.server.gauges().allocations, 0);
    assert!(world.open.is_empty());
    assert_eq!(world.server.poll_timeout(), None, "state");
}

/// Any method, any of the attributes that matter, any length; sometimes with an integrity.
fn requests() -> impl Strategy<Value = Vec<u8>> {
    let kinds = prop::sample::select(vec![
        0x0006_u16, 0x0008, 0x000C, 0x000D, 0x0012, 0x0013, 0x0014, 0x0015, 0x0016, 0x0017, 0x0018,
        0x0019, 0x001A, 0x001C, 0x001D, 0x001E, 0x0022, 0x7FFF, 0x8000, 0x8002, 0x8022, 0x8028,
        0xCA57,
    ]);
    let attribute = (kinds, prop::collection::vec(any::<u8>(), 0..40));
    let attributes = prop::collection::vec(attribute, 0..8);
    let method = prop::sample::select(vec![1_u16, 3, 4, 6, 7, 8, 9, 10]);
    let class = prop::sample::select(vec![0x000_u16, 0x010, 0x100, 0x110]);
    (method, class, attributes, any::<[u8; 12]>()).prop_map(|(method, class, attributes, id)| {
        let mut datagram = Vec::new();
        datagram.extend_from_slice(&(method | class).to_be_bytes());
        datagram.extend_from_slice(&[0, 0, 0x21, 0x12, 0xA4, 0x42]);
        datagram.extend_from_slice(&id);
        for (kind, mut value) in attributes {
            match kind {
                0x0008 => value.resize(20, 1),
                0x001C => value.resize(32, 1),
                0x8028 => continue,
                _ => {}
            }
            datagram.extend_from_slice(&kind.to_be_bytes());
            datagram.extend_from_slice(&(value.len() as u16).to_be_bytes());
            value.resize(value.len().next_multiple_of(4), 0);
            datagram.extend_from_slice(&value);
        }
        let length = (datagram.len() - 20) as u16;
        datagram[2..4].copy_from_slice(&length.to_be_bytes());
        datagram
    })
}

fn worlds() -> impl Iterator<Item = World> {
    ["", "warren.test", "a realm that is as long as somebody has thought fit to make it, alas"]
        .into_iter()
        .map(|realm| {
            let settings = Settings { realm: realm.to_owned(), ..settings() };
            World::new(Config { settings, ..config() })
        })
}

proptest! {
    #[test]
    fn any_datagram_gets_at_most_one_small_answer(
        datagram in prop::collection::vec(any::<u8>(), 0..200)
    ) {
        worlds().for_each(|mut world| check(&mut world, client(1), &datagram));
    }

    #[test]
    fn any_message_gets_at_most_one_small_answer(datagram in requests()) {
        worlds().for_each(|mut world| check(&mut world, client(1), &datagram));
    }
}

#[test]
fn the_shortest_requests_are_answered_with_what_has_room() {
    for (realm, has_algorithms, has_nonce) in [
        ("warren.test", true, true),
        (&"r".repeat(33), false, true),
        (&"r".repeat(60), false, false),
    ] {
        let settings = Settings { realm: realm.to_owned(), ..settings() };
        let mut world = World::new(Config { settings, ..config() });
        let request = world.bare(Method::ALLOCATE, |b| {
            b.requested_transport(17);
        });
        let answer = world.ask(client(1), &request);
        assert!(answer.len() <= 4 * request.len());
        let message = Message::parse(&answer).unwrap();
        assert_eq!(message.error_code(), Some(401));
        assert_eq!(message.nonce().is_some(), has_nonce);
        let algorithms = warren_turn::AttributeType::PASSWORD_ALGORITHMS;
        assert_eq!(message.attribute(algorithms).is_some(), has_algorithms);
        if has_nonce {
            // The short nonce, without the promise of algorithms, works too.
            let mut who = Who { realm: realm.to_owned(), ..Who::alice(client(1)) };
            who.nonce = message.nonce().map(<[u8]>::to_vec);
            world.allocated(&mut who);
        }
    }
}

#[test]
fn a_flood_from_one_prefix_is_answered_at_its_rate_and_others_still_are() {
    let limits = Limits { prefix_rate: 10, prefix_burst: 20, total_rate: 1000, total_burst: 1000 };
    let mut world = World::new(Config { limits, ..config() });
    let mut answered = 0;
    for n in 0..5000_u32 {
        let [.., high, low] = n.to_be_bytes();
        let addr = ([198, 51, 100, low], 1024 + u16::from(high)).into();
        let request = world.bare(Method::ALLOCATE, |b| {
            b.requested_transport(17);
        });
        let _ = world.send(ClientAddr::Udp { listener: Listener(0), addr }, &request);
        answered += world.out.drain(..).count();
    }
    assert!((20..=40).contains(&answered), "{answered}");
    world.allocated(&mut Who::alice(crate::world::udp("203.0.113.9:1000")));
}

#[test]
fn a_flood_of_forged_sources_is_answered_at_the_total_rate_and_leaves_nothing() {
    let limits = Limits { prefix_rate: 10, prefix_burst: 20, total_rate: 100, total_burst: 200 };
    let mut world = World::new(Config { limits, ..config() });
    let request = world.bare(Method::ALLOCATE, |b| {
        b.requested_transport(17);
    });
    let mut answers = Vec::new();
    for n in 0..20_000_u16 {
        let [high, low] = n.to_be_bytes();
        let addr = ([45, high, low, 7], 5000).into();
        let _ = world.send(ClientAddr::Udp { listener: Listener(0), addr }, &request);
        answers.extend(world.out.drain(..).map(|answer| answer.contents.len()));
    }
    assert!((200..=210).contains(&answers.len()), "{}", answers.len());
    assert!(answers.iter().sum::<usize>() <= 4 * request.len() * answers.len());
    let gauges = world.server.gauges();
    assert_eq!((gauges.allocations, gauges.credentials), (0, 0));
    assert_eq!(world.server.poll_timeout(), None, "state");
    world.pass(Duration::from_secs(1));
    world.allocated(&mut Who::alice(client(1)));
}

#[test]
fn a_client_whose_nonce_is_old_gets_a_new_one_in_the_middle_of_a_flood() {
    let limits = Limits { prefix_rate: 10, prefix_burst: 20, total_rate: 100, total_burst: 200 };
    let mut world = World::new(Config { limits, ..config() });
    let mut who = Who::alice(client(1));
    world.allocated(&mut who);
    let mut forged = Who { password: "guess".to_owned(), ..who.clone() };
    // A nonce is good for an hour.
    assert_eq!(world.refresh(&mut who, Some(3600)), Ok(3600));
    world.pass(Duration::from_secs(3000));
    assert_eq!(world.refresh(&mut who, Some(3600)), Ok(3600));
    world.pass(Duration::from_secs(700));
    let flood = world.bare(Method::ALLOCATE, |b| {
        b.requested_transport(17);
    });
    for n in 0..20_000_u16 {
        let [high, low] = n.to_be_bytes();
        let addr = ([45, high, low, 7], 5000).into();
        let _ = world.send(ClientAddr::Udp { listener: Listener(0), addr }, &flood);
        // From the client's own prefix too.
        let addr = ([198, 51, 100, low], 1024 + u16::from(high)).into();
        let _ = world.send(ClientAddr::Udp { listener: Listener(0), addr }, &flood);
    }
    world.out.clear();
    // Whoever has no password draws on what strangers have.
    let request = world.signed(&mut forged, Method::REFRESH, |_| {});
    assert!(matches!(world.send(who.at, &request), Handled::Dropped(_)));
    let request = world.signed(&mut who, Method::REFRESH, |_| {});
    let answer = world.ask(who.at, &request);
    let challenge = Message::parse(&answer).unwrap();
    assert_eq!(challenge.error_code(), Some(438));
    who.learn(&challenge);
    assert_eq!(world.refresh(&mut who, None), Ok(600));
}

#[test]
fn a_flood_of_wrong_signatures_is_answered_at_the_same_rate() {
    let limits = Limits { prefix_rate: 10, prefix_burst: 20, total_rate: 1000, total_burst: 1000 };
    let mut world = World::new(Config { limits, ..config() });
    let mut who = Who { password: "guess".to_owned(), ..Who::alice(client(1)) };
    let request = world.signed(&mut who, Method::ALLOCATE, |b| {
        b.requested_transport(17);
    });
    for _ in 0..1000 {
        let _ = world.send(who.at, &request);
    }
    let answered = world.out.drain(..).count();
    assert!((19..=40).contains(&answered), "{answered}");
    assert_eq!(world.server.counters().auth_failures, 1000);
    assert_eq!(world.server.gauges().credentials, 0);
}

#[test]
fn impossible_sources_get_nothing() {
    let mut world = World::new(config());
    let request = world.bare(Method::ALLOCATE, |b| {
        b.requested_transport(17);
    });
    for from in ["198.51.100.1:0", "0.0.0.0:5", "224.0.0.1:5", "[ff02::1]:5"] {
        let _ = world.send(crate::world::udp(from), &request);
        assert!(world.out.is_empty());
    }
}
