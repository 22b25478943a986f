//! What happens to a mesh in the course of its days.

use std::time::Duration;

use warren_sim::replay::for_seeds;
use warren_sim::{Nat, NodeId, PingId, World};

const MINUTE: Duration = Duration::from_secs(60);

fn pair(seed: u64) -> (World, NodeId, NodeId) {
    let mut world = World::new(seed);
    let left = world.add_home("left", Nat::EimApdf);
    let right = world.add_home("right", Nat::EimApdf);
    world.run_for(Duration::from_secs(10));
    (world, left, right)
}

#[test]
fn for_three_days_each_ping_is_answered_within_a_second() {
    for_seeds("for_three_days", 0..3, |seed| {
        let (mut world, left, right) = pair(seed);
        world.counts_control_bytes = false;
        while world.elapsed() < 3 * 24 * 60 * MINUTE {
            let pause = Duration::from_secs(world.chance(3600));
            world.run_for(pause);
            let time = world.ping_until_answered(left, right, MINUTE);
            assert!(
                time.is_some_and(|time| time <= Duration::from_secs(1)),
                "at {:?}: {time:?}",
                world.elapsed()
            );
        }
    });
}

#[test]
fn a_stream_over_midnight_and_many_rekeys_loses_nothing() {
    for_seeds("a_stream_over_midnight", 0..2, |seed| {
        let (mut world, left, right) = pair(seed);
        let day = 24 * 60 * MINUTE;
        let unix = warren_sim::UNIX_START + world.elapsed();
        let midnight = day - Duration::from_secs(unix.as_secs() % day.as_secs());
        world.run_for(midnight - 20 * MINUTE);
        assert!(world.ping_until_answered(left, right, MINUTE).is_some());
        let pace = Duration::from_millis(200);
        let streams = [(left, right), (right, left)]
            .map(|(from, to)| world.stream(from, to, pace, 40 * MINUTE));
        world.run_for(41 * MINUTE);
        for stream in streams {
            let report = world.stream_report(stream);
            assert_eq!(report.sent, report.received, "{report:?}");
            assert!(report.longest_gap < 2 * pace, "{report:?}");
        }
    });
}

#[test]
fn both_pinging_at_the_same_instant_is_as_quick_as_one() {
    for_seeds("both_pinging", 0..10, |seed| {
        for nat in [Nat::Public, Nat::EimApdf, Nat::Cgnat] {
            let mut world = World::new(seed);
            let nodes = ["left", "right"].map(|name| world.add_home(name, nat));
            world.run_for(Duration::from_secs(10));
            let pings = [world.ping(nodes[0], nodes[1]), world.ping(nodes[1], nodes[0])];
            world.run_for(Duration::from_secs(1));
            for ping in pings {
                assert!(world.ping_time(ping).is_some(), "seed {seed}, {nat}");
            }
        }
    });
}

#[test]
fn a_restarted_daemon_is_reached_again_within_three_seconds() {
    for_seeds("a_restarted_daemon", 0..8, |seed| {
        for away in [1, 10, 400] {
            let (mut world, left, right) = pair(seed);
            assert!(world.ping_until_answered(left, right, MINUTE).is_some());
            let pace = Duration::from_millis(100);
            let stream = world.stream(left, right, pace, 30 * MINUTE);
            world.run_for(Duration::from_secs(5));
            world.stop_node(right);
            world.run_for(Duration::from_secs(away));
            let received = world.stream_report(stream).received;
            world.start_node(right);
            let healed = world
                .run_until(MINUTE, |world| world.stream_report(stream).received > received)
                .unwrap_or_else(|| panic!("seed {seed}, away for {away} s: never"));
            assert!(healed <= Duration::from_secs(3), "seed {seed}, away for {away} s: {healed:?}");
        }
    });
}

#[test]
fn a_daemon_that_crashed_just_after_a_handshake_answers_at_once_when_it_is_back() {
    for_seeds("a_daemon_that_crashed", 0..12, |seed| {
        let (mut world, left, right) = pair(seed);
        assert!(world.ping_until_answered(left, right, MINUTE).is_some());
        let pause = Duration::from_millis(world.chance(300));
        world.run_for(pause);
        world.stop_node(right);
        let away = Duration::from_millis(100 + world.chance(500));
        world.run_for(away);
        world.start_node(right);
        let begin = world.now();
        let mut pings = Vec::new();
        while pings.iter().all(|ping| world.ping_time(*ping).is_none()) {
            pings.push(world.ping(left, right));
            world.run_for(Duration::from_millis(50));
            let time = world.now() - begin;
            assert!(time <= Duration::from_millis(700), "seed {seed}, away for {away:?}: {time:?}");
        }
    });
}

#[test]
fn another_listen_port_stalls_a_connection_for_at_most_three_seconds() {
    for_seeds("another_listen_port", 0..8, |seed| {
        let (mut world, left, right) = pair(seed);
        assert!(world.ping_until_answered(left, right, MINUTE).is_some());
        let pace = Duration::from_millis(20);
        let transfers = [(left, right), (right, left)]
            .map(|(from, to)| world.transfer(from, to, pace, 5 * MINUTE));
        world.run_for(Duration::from_secs(10));
        world.change_port(right, 51820);
        world.run_for(Duration::from_secs(30));
        for transfer in transfers {
            let report = world.transfer_report(transfer);
            assert!(report.stall <= Duration::from_secs(3), "seed {seed}: {report:?}");
        }
    });
}

#[test]
fn a_server_that_talks_to_sixty_peers_at_once_reaches_all_of_them() {
    let mut world = World::new(1);
    let server = world.add_home("server", Nat::EimApdf);
    let others: Vec<NodeId> =
        (0..60).map(|n| world.add_home(&format!("node {n}"), Nat::ALL[n % 4])).collect();
    world.run_for(Duration::from_secs(20));
    let pings: Vec<PingId> = others.iter().map(|other| world.ping(server, *other)).collect();
    world.run_for(Duration::from_secs(5));
    let mut times: Vec<_> = pings.iter().filter_map(|ping| world.ping_time(*ping)).collect();
    times.sort_unstable();
    assert_eq!(times.len(), others.len(), "{times:?}");
    println!("sixty at once: {:?} to {:?}", times[0], times.last().unwrap());
    assert!(*times.last().unwrap() <= Duration::from_secs(3), "{times:?}");
    // And all of them to it.
    world.run_for(20 * MINUTE);
    let pings: Vec<PingId> = others.iter().map(|other| world.ping(*other, server)).collect();
    world.run_for(Duration::from_secs(5));
    let answered = pings.iter().filter(|ping| world.ping_time(**ping).is_some()).count();
    assert_eq!(answered, others.len());
}
