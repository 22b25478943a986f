//! The broker is gone, and its STUN server with it: what goes on without them.

use std::time::Duration;

use warren_mesh::PathState;
use warren_sim::replay::for_seeds;
use warren_sim::{Nat, NodeId, SiteConfig, World};

const INDEPENDENT: [Nat; 5] = [Nat::Public, Nat::EimEif, Nat::EimAdf, Nat::EimApdf, Nat::Cgnat];
const MINUTE: Duration = Duration::from_secs(60);

fn pair(seed: u64, left: Nat, right: Nat) -> (World, NodeId, NodeId) {
    let mut world = World::new(seed);
    let left = world.add_home("left", left);
    let right = world.add_home("right", right);
    world.run_for(Duration::from_secs(40));
    (world, left, right)
}

#[test]
fn running_tunnels_are_unaffected() {
    for_seeds("running_tunnels", 0..4, |seed| {
        for right in [Nat::Public, Nat::EimApdf, Nat::Cgnat] {
            let (mut world, left, right) = pair(seed, Nat::EimApdf, right);
            assert!(world.ping_until_answered(left, right, MINUTE).is_some());
            let pace = Duration::from_millis(100);
            let stream = world.stream(left, right, pace, 20 * MINUTE);
            world.run_for(Duration::from_secs(5));
            world.kill_broker();
            world.run_for(15 * MINUTE);
            world.restart_broker();
            world.run_for(6 * MINUTE);
            let report = world.stream_report(stream);
            assert_eq!(report.sent, report.received, "{report:?}");
            assert!(report.longest_gap < 2 * pace, "{report:?}");
        }
    });
}

#[test]
fn a_cold_start_from_the_cache_reaches_every_independent_mapping_within_25_seconds() {
    let mut slowest = Duration::ZERO;
    for_seeds("a_cold_start", 0..3, |seed| {
        for left in INDEPENDENT {
            for right in INDEPENDENT {
                let (mut world, left_node, right_node) = pair(seed, left, right);
                world.stop_node(left_node);
                let pause = Duration::from_secs(10 + world.chance(600));
                world.run_for(pause);
                world.kill_broker();
                let pause = Duration::from_secs(70 + world.chance(600));
                world.run_for(pause);
                world.start_node(left_node);
                let time = world.ping_repeatedly(left_node, right_node, MINUTE);
                let time = time.unwrap_or_else(|| panic!("seed {seed}: {left} to {right}: never"));
                slowest = slowest.max(time);
                assert!(
                    time <= Duration::from_secs(25),
                    "seed {seed}: {left} to {right}: {time:?}"
                );
            }
        }
    });
    println!("slowest: {slowest:?}");
}

#[test]
fn a_one_sided_roam_heals_where_the_peer_is_public_or_filters_nothing() {
    for_seeds("a_one_sided_roam", 0..4, |seed| {
        for right in [Nat::Public, Nat::EimEif] {
            for to in [Nat::EimApdf, Nat::Apdm, Nat::Public] {
                let (mut world, left, right) = pair(seed, Nat::EimApdf, right);
                assert!(world.ping_until_answered(left, right, MINUTE).is_some());
                world.kill_broker();
                world.run_for(3 * MINUTE);
                let pace = Duration::from_millis(100);
                let there = world.transfer(left, right, pace, 5 * MINUTE);
                let back = world.transfer(right, left, pace, 5 * MINUTE);
                world.run_for(Duration::from_secs(10));
                let site = world.add_site(SiteConfig::new(to));
                world.roam(left, site);
                world.run_for(MINUTE);
                for transfer in [there, back] {
                    let stall = world.transfer_report(transfer).stall;
                    assert!(stall <= Duration::from_secs(4), "seed {seed}, {to}: {stall:?}");
                }
            }
        }
    });
}

#[test]
fn after_an_hour_without_the_broker_everything_is_as_before() {
    for_seeds("after_an_hour", 0..2, |seed| {
        let (mut world, left, right) = pair(seed, Nat::EimApdf, Nat::EimApdf);
        world.kill_broker();
        world.run_for(60 * MINUTE);
        world.restart_broker();
        let back = world.run_until(2 * MINUTE, |world| world.sessions() == 2);
        assert!(back.is_some(), "both come back");
        world.run_for(Duration::from_secs(5));
        let time = world.ping_until_answered(left, right, MINUTE).expect("an answer");
        assert!(time <= Duration::from_secs(1), "{time:?}");
        let third = world.add_home("third", Nat::EimApdf);
        world.run_for(Duration::from_secs(10));
        let time = world.ping_until_answered(third, left, MINUTE).expect("an answer");
        assert!(time <= Duration::from_secs(1), "{time:?}");
    });
}

#[test]
fn a_killed_broker_is_rejoined_with_jitter_and_knows_everybody_again() {
    for_seeds("a_killed_broker", 0..3, |seed| {
        let mut world = World::new(seed);
        let nodes: Vec<NodeId> =
            (0..20).map(|n| world.add_home(&format!("node {n}"), Nat::ALL[n % 6])).collect();
        world.run_for(MINUTE);
        for _ in 0..5 {
            world.kill_broker();
            let pause = Duration::from_millis(100 + world.chance(5_000));
            world.run_for(pause);
            world.restart_broker();
            let back = world.run_until(2 * MINUTE, |world| world.sessions() == nodes.len());
            assert!(back.is_some(), "{} are back", world.sessions());
            world.run_for(Duration::from_secs(5));
            let maps = nodes.iter().map(|node| world.node(*node).mesh().netmap());
            for map in maps {
                let map = map.expect("a map");
                assert_eq!(map.version.epoch, world.broker.disk.lease);
                assert_eq!(map.peers.len(), nodes.len() - 1);
                assert!(map.peers.iter().all(|p| p.online && !p.endpoints.is_empty()));
            }
        }
    });
}

#[test]
fn a_removed_device_is_cut_off_everywhere_within_a_second() {
    for_seeds("a_removed_device", 0..5, |seed| {
        let (mut world, left, right) = pair(seed, Nat::EimApdf, Nat::EimApdf);
        assert!(world.ping_until_answered(left, right, MINUTE).is_some());
        let stream = world.stream(left, right, Duration::from_millis(10), MINUTE);
        world.run_for(Duration::from_secs(5));
        let device = world.node(left).device();
        world.remove_device(device);
        world.run_for(Duration::from_secs(1));
        let received = world.stream_report(stream).received;
        world.run_for(Duration::from_secs(30));
        assert_eq!(world.stream_report(stream).received, received);
        assert_eq!(world.node(right).mesh().peer(device).map(|p| p.path), None::<PathState>);
    });
}

#[test]
fn a_one_sided_roam_heals_where_the_peer_has_a_mapped_port() {
    for_seeds("a_one_sided_roam_mapped", 0..4, |seed| {
        for to in [Nat::EimApdf, Nat::Apdm] {
            let mut world = World::new(seed);
            let site = world.add_site(SiteConfig::new(Nat::EimApdf));
            let right = world.add_node("right", site);
            world.start_node(right);
            world.map_port(right, site, 7777);
            let left = world.add_home("left", Nat::EimApdf);
            world.run_for(Duration::from_secs(40));
            assert!(world.ping_until_answered(left, right, MINUTE).is_some());
            world.kill_broker();
            world.run_for(3 * MINUTE);
            let pace = Duration::from_millis(100);
            let transfer = world.transfer(left, right, pace, 5 * MINUTE);
            world.run_for(Duration::from_secs(10));
            let there = world.add_site(SiteConfig::new(to));
            world.roam(left, there);
            world.run_for(MINUTE);
            let stall = world.transfer_report(transfer).stall;
            assert!(stall <= Duration::from_secs(4), "seed {seed}, {to}: {stall:?}");
        }
    });
}
