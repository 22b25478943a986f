//! Pairs that need a relay: how fast, through which, and what becomes of it.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::time::Duration;

use warren_mesh::PathState;
use warren_proto::RelayTransport;
use warren_sim::net::Link;
use warren_sim::replay::for_seeds;
use warren_sim::{Nat, NodeId, RelayKind, World};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn status(world: &World, from: NodeId, to: NodeId) -> warren_mesh::PeerStatus {
    world.node(from).mesh().peer(world.node(to).device()).unwrap()
}

fn relay_of(world: &World, from: NodeId, to: NodeId) -> Option<String> {
    status(world, from, to).relay.map(|relay| relay.name)
}

fn is_relayed(world: &World, from: NodeId, to: NodeId) -> bool {
    matches!(status(world, from, to).path, PathState::Relayed { .. })
}

fn is_direct(world: &World, from: NodeId, to: NodeId) -> bool {
    matches!(status(world, from, to).path, PathState::Direct { .. })
}

/// Two relays of ours, and two devices whose NATs map per destination.
fn hard_pair(seed: u64, nats: [Nat; 2]) -> (World, NodeId, NodeId) {
    let mut world = World::new(seed);
    world.add_relay("first", RelayKind::Ours, Link::ACCESS);
    world.add_relay("second", RelayKind::Ours, Link::ACCESS);
    let left = world.add_home("left", nats[0]);
    let right = world.add_home("right", nats[1]);
    world.run_for(Duration::from_secs(15));
    (world, left, right)
}

#[test]
fn a_pair_without_a_direct_path_is_relayed_at_once_where_both_know() {
    for_seeds("relayed_at_once", 0..8, |seed| {
        let (mut world, left, right) = hard_pair(seed, [Nat::Apdm, Nat::Apdm]);
        let time = world.ping_until_answered(left, right, 10 * SECOND).unwrap();
        assert!(time <= Duration::from_millis(700), "{time:?}");
        assert!(is_relayed(&world, left, right) && is_relayed(&world, right, left));
        assert_eq!(relay_of(&world, left, right).as_deref(), Some("first"));
        assert_eq!(relay_of(&world, right, left).as_deref(), Some("first"));
        world.run_for(10 * SECOND);
        let reason = status(&world, left, right).reason.unwrap().to_string();
        assert_eq!(reason, "both NATs map per destination");
    });
}

#[test]
fn a_pair_that_does_not_know_is_relayed_after_the_head_start_and_at_once_the_next_time() {
    for_seeds("relayed_after_the_head_start", 0..8, |seed| {
        let (mut world, left, right) = hard_pair(seed, [Nat::EimApdf, Nat::Apdm]);
        let time = world.ping_until_answered(left, right, 10 * SECOND).unwrap();
        assert!(time >= Duration::from_millis(750), "direct paths have a head start: {time:?}");
        assert!(time <= Duration::from_millis(1500), "{time:?}");
        assert!(is_relayed(&world, left, right) && is_relayed(&world, right, left));
        // Idle for long enough, it is let go, and so is the allocation.
        world.run_for(8 * MINUTE);
        assert_eq!(status(&world, left, right).path, PathState::Idle);
        let gauges = world.relays[0].server().gauges();
        assert_eq!(gauges.allocations, 0, "seed {seed}");
        let time = world.ping_until_answered(left, right, 10 * SECOND).unwrap();
        assert!(time <= Duration::from_millis(750), "it was learned: {time:?}");
    });
}

#[test]
fn a_pair_that_can_go_direct_makes_no_allocation() {
    for nats in [
        [Nat::Public, Nat::Public],
        [Nat::EimApdf, Nat::EimApdf],
        [Nat::EimAdf, Nat::Apdm],
        [Nat::Cgnat, Nat::Cgnat],
    ] {
        for_seeds("no_allocation", 0..6, |seed| {
            let (mut world, left, right) = hard_pair(seed, nats);
            assert!(world.ping_until_answered(left, right, 10 * SECOND).is_some());
            let stream = world.stream(left, right, Duration::from_millis(100), 5 * MINUTE);
            world.run_for(6 * MINUTE);
            assert!(is_direct(&world, left, right));
            let report = world.stream_report(stream);
            assert_eq!(report.sent, report.received);
            assert_eq!(world.allocated(), 0, "{nats:?}, seed {seed}");
            for node in [left, right] {
                assert_eq!(world.node(node).mesh().counters().allocations, 0);
            }
        });
    }
}

#[test]
fn when_the_relay_is_killed_traffic_flows_through_the_next_one_within_three_seconds() {
    for_seeds("relay_killed", 0..10, |seed| {
        let (mut world, left, right) = hard_pair(seed, [Nat::Apdm, Nat::Apdm]);
        assert!(world.ping_until_answered(left, right, 10 * SECOND).is_some());
        let transfers = [(left, right), (right, left)]
            .map(|(from, to)| world.transfer(from, to, Duration::from_millis(20), 5 * MINUTE));
        let wait = Duration::from_millis(5000 + world.chance(30_000));
        world.run_for(wait);
        let first = warren_sim::RelayIndex(0);
        world.kill_relay(first);
        world.run_for(30 * SECOND);
        for transfer in transfers {
            let report = world.transfer_report(transfer);
            assert!(report.stall <= 3 * SECOND, "seed {seed}: {report:?}");
        }
        assert_eq!(relay_of(&world, left, right).as_deref(), Some("second"));
        assert_eq!(relay_of(&world, right, left).as_deref(), Some("second"));
        // And back, when the second one dies too and the first one lives again.
        world.restart_relay(first);
        world.run_for(2 * MINUTE);
        for transfer in transfers {
            world.reset_stall(transfer);
        }
        world.kill_relay(warren_sim::RelayIndex(1));
        world.run_for(30 * SECOND);
        for transfer in transfers {
            let report = world.transfer_report(transfer);
            assert!(report.stall <= 3 * SECOND, "seed {seed}: {report:?}");
        }
        assert_eq!(relay_of(&world, left, right).as_deref(), Some("first"));
    });
}

#[test]
fn a_relay_that_forgets_everything_is_used_again() {
    for_seeds("relay_restarts", 0..6, |seed| {
        let mut world = World::new(seed);
        let relay = world.add_relay("only", RelayKind::Ours, Link::ACCESS);
        let left = world.add_home("left", Nat::Apdm);
        let right = world.add_home("right", Nat::Apdm);
        world.run_for(15 * SECOND);
        assert!(world.ping_until_answered(left, right, 10 * SECOND).is_some());
        let transfer = world.transfer(left, right, Duration::from_millis(20), 5 * MINUTE);
        world.run_for(20 * SECOND);
        world.kill_relay(relay);
        world.restart_relay(relay);
        world.run_for(30 * SECOND);
        let report = world.transfer_report(transfer);
        assert!(report.stall <= 3 * SECOND, "seed {seed}: {report:?}");
        assert!(is_relayed(&world, left, right));
    });
}

#[test]
fn where_udp_is_blocked_a_stream_carries_it_within_three_seconds() {
    for (nats, blocked) in [
        ([Nat::UdpBlocked, Nat::EimApdf], [true, false]),
        ([Nat::EimApdf, Nat::UdpBlocked], [false, true]),
        ([Nat::Public, Nat::UdpBlocked], [false, true]),
        ([Nat::UdpBlocked, Nat::UdpBlocked], [true, true]),
    ] {
        for_seeds("udp_blocked", 0..6, |seed| {
            let (mut world, left, right) = hard_pair(seed, nats);
            let time = world.ping_until_answered(left, right, 10 * SECOND).unwrap();
            assert!(time <= 3 * SECOND, "{nats:?}, seed {seed}: {time:?}");
            assert!(time <= Duration::from_millis(1500), "{nats:?}, seed {seed}: {time:?}");
            for (from, to, blocked) in [(left, right, blocked[0]), (right, left, blocked[1])] {
                let relay = status(&world, from, to).relay.unwrap();
                let expected = if blocked { RelayTransport::Tls } else { RelayTransport::Udp };
                assert_eq!(relay.transport, expected);
            }
            let stream = world.stream(left, right, Duration::from_millis(20), 2 * MINUTE);
            world.run_for(3 * MINUTE);
            let report = world.stream_report(stream);
            assert_eq!(report.sent, report.received, "{nats:?}, seed {seed}");
        });
    }
}

#[test]
fn a_relay_killed_under_a_stream_is_replaced_within_three_seconds() {
    for_seeds("stream_killed", 0..6, |seed| {
        let (mut world, left, right) = hard_pair(seed, [Nat::UdpBlocked, Nat::EimApdf]);
        assert!(world.ping_until_answered(left, right, 10 * SECOND).is_some());
        let transfer = world.transfer(left, right, Duration::from_millis(20), 5 * MINUTE);
        world.run_for(20 * SECOND);
        world.kill_relay(warren_sim::RelayIndex(0));
        world.run_for(30 * SECOND);
        let report = world.transfer_report(transfer);
        assert!(report.stall <= 3 * SECOND, "seed {seed}: {report:?}");
        assert_eq!(relay_of(&world, right, left).as_deref(), Some("second"));
    });
}

#[test]
fn when_udp_is_blocked_on_the_way_traffic_flows_by_a_stream_within_three_seconds() {
    for nats in [[Nat::EimApdf, Nat::EimApdf], [Nat::Apdm, Nat::Apdm]] {
        for_seeds("udp_blocked_on_the_way", 0..8, |seed| {
            let mut world = World::new(seed);
            world.add_relay("first", RelayKind::Ours, Link::ACCESS);
            world.add_relay("second", RelayKind::Ours, Link::ACCESS);
            let sites = nats.map(|nat| world.add_site(warren_sim::SiteConfig::new(nat)));
            let [left, right] = ["left", "right"].map(|name| {
                let node = world.add_node(name, sites[usize::from(name == "right")]);
                world.start_node(node);
                node
            });
            world.run_for(15 * SECOND);
            assert!(world.ping_until_answered(left, right, 10 * SECOND).is_some());
            let transfer = world.transfer(left, right, Duration::from_millis(20), 5 * MINUTE);
            let wait = Duration::from_millis(5000 + world.chance(30_000));
            world.run_for(wait);
            let router = world.sites.router(sites[0]).unwrap();
            world.network.set_udp_blocked(router, true);
            world.run_for(30 * SECOND);
            let report = world.transfer_report(transfer);
            assert!(report.stall <= 3 * SECOND, "{nats:?}, seed {seed}: {report:?}");
            let relay = status(&world, left, right).relay.unwrap();
            assert_eq!(relay.transport, RelayTransport::Tls);
            // And when it isn't any more, it is found out.
            world.network.set_udp_blocked(router, false);
            world.run_for(2 * MINUTE);
            if nats[0] == Nat::EimApdf {
                assert!(is_direct(&world, left, right), "seed {seed}");
            }
        });
    }
}
