//! Clients and server over a link that loses, repeats and reorders.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use warren_turn::client::{Client, Config, Event, Failure, Inbound};
use warren_turn::server::{ClientAddr, Delivery, Handled, Heading, Route};
use warren_turn::virtual_relayed;

use crate::client::{credential, virtual_config};
use crate::world::{World, client as at, config};

/// A small generator, so that a case is one number.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

struct Link {
    dice: Dice,
    /// Per cent.
    loss: u64,
    /// What is under way: to the server (of a client), or to a client.
    flying: BTreeMap<(Instant, u64), (ClientAddr, bool, Vec<u8>)>,
    count: u64,
}

impl Link {
    fn send(&mut self, client: ClientAddr, to_server: bool, datagram: &[u8], now: Instant) {
        let copies = if self.dice.roll(20) == 0 { 2 } else { 1 };
        for _ in 0..copies {
            if self.dice.roll(100) < self.loss {
                continue;
            }
            let delay = Duration::from_millis(5 + self.dice.roll(60));
            self.count += 1;
            self.flying.insert((now + delay, self.count), (client, to_server, datagram.to_vec()));
        }
    }
}

struct Party {
    name: String,
    at: ClientAddr,
    client: Client,
    ready: bool,
    failed: Option<Failure>,
    heard: u32,
}

/// Two who bind channels to each other, and say hello each second for the time given.
fn talk(seed: u64, loss: u64, duration: Duration, with_nonce: bool) -> (World, Vec<Party>) {
    let mut world = World::new(config());
    let mut link = Link { dice: Dice(seed), loss, flying: BTreeMap::new(), count: 0 };
    let start = world.now;
    let mut parties: Vec<Party> = (1..=2)
        .map(|n: u8| {
            let name = n.to_string();
            let config = if with_nonce {
                virtual_config(&name)
            } else {
                Config { virtual_address: true, ..Config::new(credential(&name)) }
            };
            let mut client = Client::new(config, [n; 32], start);
            let peer = (3 - n).to_string();
            client.bind(virtual_relayed(&peer), start).unwrap();
            Party { name, at: at(n), client, ready: false, failed: None, heard: 0 }
        })
        .collect();
    let mut next_word = start;
    while world.now < start + duration {
        step(&mut world, &mut link, &mut parties);
        if world.now >= next_word {
            next_word += Duration::from_secs(1);
            for party in &mut parties {
                let peer = virtual_relayed(if party.name == "1" { "2" } else { "1" });
                if let Some(number) = party.client.channel(peer) {
                    let datagram = [&number.header(5)[..], b"hello"].concat();
                    link.send(party.at, true, &datagram, world.now);
                }
            }
        }
        let mut next = next_word;
        if let Some(((at, _), _)) = link.flying.first_key_value() {
            next = next.min(*at);
        }
        for at in parties.iter().filter_map(|party| party.client.poll_timeout()) {
            next = next.min(at.0);
        }
        if let Some((at, _)) = world.server.poll_timeout() {
            next = next.min(at);
        }
        world.now = next.max(world.now);
    }
    (world, parties)
}

fn step(world: &mut World, link: &mut Link, parties: &mut [Party]) {
    let now = world.now;
    world.server.handle_timeout(now);
    world.drain();
    while let Some(entry) = link.flying.first_entry().filter(|entry| entry.key().0 <= now) {
        let (who, to_server, mut datagram) = entry.remove();
        if to_server {
            let handled = world.send(who, &datagram);
            if let Handled::Relay { route: Route::Client(Delivery { to, heading }), range } =
                handled
            {
                let Heading::Channel(number) = heading else { continue };
                datagram[..2].copy_from_slice(&number.number().to_be_bytes());
                link.send(to, false, &datagram[..range.end], now);
            }
        } else if let Some(party) = parties.iter_mut().find(|party| party.at == who) {
            let inbound = party.client.handle_datagram(&datagram, now);
            assert!(inbound != Inbound::Refused || party.client.is_ended(), "{datagram:?}");
            if let Inbound::Data { peer, range } = inbound {
                let other = if party.name == "1" { "2" } else { "1" };
                assert_eq!((peer, &datagram[range]), (virtual_relayed(other), &b"hello"[..]));
                party.heard += 1;
            }
        }
    }
    while let Some(transmit) = world.out.pop_front() {
        link.send(transmit.to, false, &transmit.contents, now);
    }
    for party in parties {
        party.client.handle_timeout(now);
        while let Some(datagram) = party.client.poll_transmit() {
            link.send(party.at, true, &datagram, now);
        }
        while let Some(event) = party.client.poll_event() {
            match event {
                Event::ChannelReady { .. } => party.ready = true,
                Event::Failed { reason } => party.failed = Some(reason),
                Event::ChannelFailed { .. }
                | Event::Allocated { .. }
                | Event::Permitted(_)
                | Event::PermissionFailed { .. }
                | Event::Rtt(_)
                | Event::Closed => {}
            }
        }
    }
}

/// Longer than a client may try: a first Allocate for want of a nonce, the one with it, and the
/// channel, 39.5 s each (RFC 8489 §6.2.1), and a keepalive whose answer is lost as often.
const UNTIL_SETTLED: Duration = Duration::from_secs(160);

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn two_clients_find_each_other_over_a_bad_link(seed: u64, loss in 0..35_u64, with_nonce: bool) {
        let (world, parties) = talk(seed, loss, UNTIL_SETTLED, with_nonce);
        for party in &parties {
            if let Some(reason) = party.failed {
                prop_assert!(loss > 5 && reason == Failure::Timeout, "{reason:?}");
                prop_assert!(party.client.is_ended() && party.client.poll_timeout().is_none());
            } else {
                prop_assert!(party.client.relayed().is_some());
            }
        }
        if parties.iter().all(|party| party.failed.is_none()) {
            prop_assert!(parties.iter().all(|party| party.ready && party.heard > 0));
            prop_assert_eq!(world.server.gauges().allocations, 2);
        }
    }

    #[test]
    fn a_long_talk_over_a_fair_link_is_never_interrupted(seed: u64) {
        let (world, parties) = talk(seed, 3, Duration::from_secs(2500), true);
        for party in &parties {
            prop_assert!(party.failed.is_none(), "{:?}", party.failed);
            prop_assert!(party.heard > 2200, "{}", party.heard);
        }
        prop_assert_eq!(world.server.gauges().allocations, 2);
    }
}
