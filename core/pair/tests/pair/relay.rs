//! The relay through its public API: what clients of the original see.

use std::time::Duration;

use crate::world::{World, client, dropped, guid, to};
use warren_pair::{ClientSocket, Config, Drop, Event, NotHandshake, Verdict};

#[test]
fn the_first_waits_the_second_completes_and_then_everything_goes_across() {
    let mut world = World::new();
    assert_eq!(world.data(1), dropped(Drop::Unpaired));
    assert_eq!(world.hello(1, 7), Verdict::Waits);
    assert_eq!(world.data(1), dropped(Drop::Unpaired));
    assert_eq!(world.hello(1, 7), Verdict::Waits);
    assert_eq!(world.hello(2, 7), to(1));
    assert_eq!(world.hello(1, 7), to(2));
    world.assert_paired(1, 2);
    assert_eq!((world.relay.pairs(), world.relay.waiting()), (1, 0));
    let expected = [
        Event::Waits { guid: guid(7), client: client(1) },
        Event::Paired { guid: guid(7), clients: [client(1), client(2)] },
    ];
    assert_eq!(world.events(), expected);
}

#[test]
fn a_third_socket_never_joins() {
    let mut world = World::new();
    world.pair(1, 2, 7);
    for _ in 0..3 {
        assert_eq!(world.hello(3, 7), dropped(Drop::Full));
        assert_eq!(world.data(3), dropped(Drop::Unpaired));
    }
    world.assert_paired(1, 2);
}

#[test]
fn a_handshake_that_is_not_genuine_takes_no_seat_but_a_partner_gets_it() {
    let mut world = World::new();
    let mut wrong = world.authenticator.write(guid(7), &[]);
    wrong[50] ^= 1;
    assert_eq!(world.send(1, &wrong), dropped(Drop::WrongMac));
    assert_eq!(world.send(1, &wrong[..30]), dropped(Drop::Short));
    wrong[8..24].fill(0);
    assert_eq!(world.send(1, &wrong), dropped(Drop::ZeroGuid));
    assert_eq!(world.relay.waiting(), 0);
    world.pair(1, 2, 7);
    assert_eq!(world.send(1, &wrong), to(2));
    assert_eq!(world.authenticator.read(&wrong), Err(NotHandshake::ZeroGuid));
}

#[test]
fn a_pair_ends_at_the_first_sweep_after_thirty_idle_seconds() {
    let mut world = World::new();
    world.pass_ms(500);
    world.pair(1, 2, 7);
    world.pass_ms(29_000);
    assert_eq!(world.data(2), to(1));
    // The last packet was at 29.5 s; sweeps are at 58.… and 59.4, 61.2 s.
    world.pass_ms(31_600);
    assert_eq!(world.relay.pairs(), 1);
    world.pass_ms(200);
    assert_eq!(world.relay.pairs(), 0);
    assert_eq!(world.data(1), dropped(Drop::Unpaired));
    let ended = Event::Ended { guid: guid(7), datagrams: 4, bytes: 3 * 4 + 56 };
    assert_eq!(world.events().pop(), Some(ended));
    assert_eq!(world.relay.poll_timeout(), None);
    world.pair(3, 4, 7);
}

#[test]
fn traffic_of_either_keeps_both() {
    let mut world = World::new();
    world.pair(1, 2, 7);
    for _ in 0..20 {
        world.pass_ms(20_000);
        assert_eq!(world.data(1), to(2));
    }
}

#[test]
fn repeats_do_not_make_a_first_socket_wait_longer() {
    let mut world = World::new();
    assert_eq!(world.hello(1, 7), Verdict::Waits);
    for _ in 0..31 {
        world.pass_ms(1000);
        assert_eq!(world.hello(1, 7), Verdict::Waits);
    }
    // It was let go at 30.6 s and waits again since 31 s.
    assert_eq!(world.relay.counters().waited, 1);
    world.pass_ms(29_000);
    assert_eq!(world.hello(2, 7), to(1));
}

#[test]
fn a_paired_socket_moves_when_its_new_pair_completes_and_not_before() {
    let mut world = World::new();
    world.pair(1, 2, 7);
    // Its handshake for another pair goes to its partner like everything else.
    assert_eq!(world.hello(1, 8), to(2));
    world.assert_paired(1, 2);
    assert_eq!(world.hello(3, 8), to(1));
    world.assert_paired(1, 3);
    // The partner that was left still sends there until idleness ends the old pair.
    assert_eq!(world.data(2), to(1));
    world.pass_ms(29_000);
    world.assert_paired(1, 3);
    world.pass_ms(3_000);
    assert_eq!(world.data(2), dropped(Drop::Unpaired));
    world.assert_paired(1, 3);
}

#[test]
fn a_paired_socket_moves_at_once_to_a_pair_where_somebody_waits() {
    let mut world = World::new();
    world.pair(1, 2, 7);
    assert_eq!(world.hello(3, 8), Verdict::Waits);
    assert_eq!(world.hello(1, 8), to(3));
    world.assert_paired(1, 3);
    // Saying the old GUID again doesn't move it back.
    assert_eq!(world.hello(1, 7), to(3));
    world.assert_paired(1, 3);
}

#[test]
fn while_draining_pairs_go_on_and_nothing_new_begins() {
    let mut world = World::new();
    world.pair(1, 2, 7);
    assert_eq!(world.hello(3, 8), Verdict::Waits);
    world.relay.handle_drain();
    assert_eq!(world.relay.waiting(), 0);
    assert_eq!(world.hello(4, 8), dropped(Drop::Draining));
    assert_eq!(world.hello(5, 9), dropped(Drop::Draining));
    assert_eq!(world.hello(1, 9), to(2));
    world.assert_paired(1, 2);
    assert!(!world.events().contains(&Event::Drained));
    world.pass_ms(60_000);
    assert_eq!(world.events().pop(), Some(Event::Drained));
}

#[test]
fn draining_without_pairs_ends_at_once() {
    let mut world = World::new();
    assert_eq!(world.hello(1, 7), Verdict::Waits);
    world.relay.handle_drain();
    assert_eq!(world.events().pop(), Some(Event::Drained));
}

#[test]
fn limits_hold_in_total_and_per_source() {
    let limits = Config { max_pairs: 3, max_seats_per_source: 2, ..Config::default() };
    let mut world = World::with(limits);
    let port = |port: u16| ClientSocket::new(([192, 0, 2, 1], port).into());
    let hello = |world: &mut World, from, pair| {
        let datagram = world.authenticator.write(guid(pair), &[]);
        let authenticator = world.authenticator.clone();
        let part = authenticator.parts(&datagram, datagram.len()).next().unwrap();
        world.relay.handle_part(from, &part, world.now)
    };
    assert_eq!(hello(&mut world, port(1), 1), Verdict::Waits);
    assert_eq!(hello(&mut world, port(2), 2), Verdict::Waits);
    assert_eq!(hello(&mut world, port(3), 3), dropped(Drop::SourceLimit));
    assert_eq!(hello(&mut world, port(2), 1), dropped(Drop::SourceLimit));
    assert_eq!(world.hello(9, 3), Verdict::Waits);
    assert_eq!(world.hello(8, 4), dropped(Drop::TotalLimit));
    assert_eq!(world.hello(8, 1), Verdict::Forward(port(1)));
    // What is let go makes room again.
    world.pass_ms(32_000);
    assert_eq!(hello(&mut world, port(3), 3), Verdict::Waits);
    assert_eq!(hello(&mut world, port(4), 4), Verdict::Waits);
}

#[test]
fn an_ipv6_source_is_its_64_and_ipv4_in_ipv6_is_ipv4() {
    let limits = Config { max_seats_per_source: 1, ..Config::default() };
    let mut world = World::with(limits);
    let datagrams: Vec<_> = (1..4).map(|pair| world.authenticator.write(guid(pair), &[])).collect();
    let authenticator = world.authenticator.clone();
    let mut hello = |from: &str, pair: usize| {
        let part = authenticator.parts(&datagrams[pair], 56).next().unwrap();
        let from = ClientSocket::new(from.parse().unwrap());
        world.relay.handle_part(from, &part, world.now)
    };
    assert_eq!(hello("[2001:db8::1]:5", 0), Verdict::Waits);
    assert_eq!(hello("[2001:db8::ffff]:5", 1), dropped(Drop::SourceLimit));
    assert_eq!(hello("[2001:db8:0:1::1]:5", 1), Verdict::Waits);
    assert_eq!(hello("192.0.2.1:5", 2), Verdict::Waits);
    assert_eq!(hello("[::ffff:192.0.2.1]:5", 2), Verdict::Waits);
    assert_eq!(hello("192.0.2.1:0", 2), dropped(Drop::Source));
    assert_eq!(hello("239.0.0.1:5", 2), dropped(Drop::Source));
    assert_eq!(hello("255.255.255.255:5", 2), dropped(Drop::Source));
}

#[test]
fn a_socket_that_said_one_thing_gets_no_stream_after_the_grace() {
    let mut world = World::new();
    assert_eq!(world.hello(1, 7), Verdict::Waits);
    // This may be somebody's replay from an address that isn't his.
    assert_eq!(world.hello(2, 7), to(1));
    let megabyte = |world: &mut World| {
        let passed = |world: &mut World| world.send(1, &[1; 1000]) == to(2);
        (0..1000).filter(|_| passed(world)).count()
    };
    assert_eq!(megabyte(&mut world), 1000);
    world.pass_ms(10_100);
    assert_eq!(megabyte(&mut world), 125);
    world.pass_ms(2_000);
    assert_eq!(megabyte(&mut world), 125);
    assert_eq!(world.relay.counters().dropped(Drop::Silent), 2 * 875);
    // A client of the original that only listens had to say more than that to get here.
    assert_eq!(world.hello(2, 7), to(1));
    assert_eq!(megabyte(&mut world), 1000);
}

#[test]
fn a_run_is_one_look_up_and_one_verdict() {
    let mut world = World::new();
    world.pair(1, 2, 7);
    let authenticator = world.authenticator.clone();
    let run = [3; 16 * 300 - 10];
    let parts: Vec<_> = authenticator.parts(&run, 300).collect();
    assert_eq!(parts.len(), 1);
    let before = *world.relay.counters();
    assert_eq!(world.relay.handle_part(client(1), &parts[0], world.now), to(2));
    let after = world.relay.counters();
    assert_eq!(after.forwarded - before.forwarded, 16);
    assert_eq!(after.forwarded_bytes - before.forwarded_bytes, run.len() as u64);
}

#[test]
fn a_client_gets_its_handshake_through_amid_a_run_of_data() {
    let mut world = World::new();
    world.pair(1, 2, 7);
    assert_eq!(world.hello(3, 8), Verdict::Waits);
    let hello = world.authenticator.write(guid(8), &[]);
    let run = [&[0; 56][..], &hello, &[0; 56]].concat();
    let authenticator = world.authenticator.clone();
    let verdicts: Vec<_> = authenticator
        .parts(&run, 56)
        .map(|part| world.relay.handle_part(client(1), &part, world.now))
        .collect();
    assert_eq!(verdicts, [to(2), to(3), to(3)]);
}

#[test]
fn what_is_longer_than_a_frame_is_not_relayed() {
    let mut world = World::new();
    world.pair(1, 2, 7);
    assert_eq!(world.send(1, &[0; 1472]), to(2));
    assert_eq!(world.send(1, &[0; 1473]), dropped(Drop::TooLong));
    assert_eq!(world.send(1, &[]), to(2));
}

#[test]
fn sweeps_keep_to_their_interval() {
    let sweep_interval = Duration::from_millis(700);
    let config =
        Config { sweep_interval, idle_timeout: Duration::from_secs(1), ..Config::default() };
    let mut world = World::with(config);
    assert_eq!(world.relay.poll_timeout(), None);
    assert_eq!(world.hello(1, 7), Verdict::Waits);
    let (at, _) = world.relay.poll_timeout().unwrap();
    assert_eq!(at, world.start + 2 * sweep_interval);
}
