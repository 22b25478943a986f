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
        for sought in [Duration::ZERO, 10 * SECOND] {
            world.run_for(sought);
            let reason = status(&world, left, right).reason.unwrap().to_string();
            assert_eq!(reason, "both NATs map per destination");
        }
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
fn when_the_preferred_relay_is_back_the_pair_returns_to_it_without_losing_a_packet() {
    for_seeds("relay_is_back", 0..4, |seed| {
        let (mut world, left, right) = hard_pair(seed, [Nat::Apdm, Nat::Apdm]);
        assert!(world.ping_until_answered(left, right, 10 * SECOND).is_some());
        let transfer = world.transfer(left, right, Duration::from_millis(20), 15 * MINUTE);
        world.run_for(10 * SECOND);
        let first = warren_sim::RelayIndex(0);
        world.kill_relay(first);
        let away = Duration::from_secs(10 + world.chance(60));
        world.run_for(away);
        let both = |world: &World, name: &str| {
            [(left, right), (right, left)]
                .into_iter()
                .all(|(from, to)| relay_of(world, from, to).as_deref() == Some(name))
        };
        assert!(both(&world, "second"), "seed {seed}");
        let pace = Duration::from_millis(20);
        let streams = [(left, right), (right, left)]
            .map(|(from, to)| world.stream(from, to, pace, 8 * MINUTE));
        world.restart_relay(first);
        world.reset_stall(transfer);
        let time = world.run_until(10 * MINUTE, |world| both(world, "first"));
        assert!(time.is_some_and(|time| time <= 4 * MINUTE), "seed {seed}: {time:?}");
        world.run_for(9 * MINUTE);
        assert!(both(&world, "first"), "seed {seed}: it stays there");
        for stream in streams {
            let report = world.stream_report(stream);
            assert_eq!(report.sent, report.received, "seed {seed}: {report:?}");
        }
        let report = world.transfer_report(transfer);
        assert!(report.stall <= Duration::from_millis(500), "seed {seed}: {report:?}");
        let idle = world.relays[1].server().gauges();
        assert_eq!(idle.allocations, 0, "seed {seed}: the other one is let go");
    });
}

#[test]
fn a_relay_that_comes_and_goes_does_not_drag_the_traffic_with_it() {
    for_seeds("relay_comes_and_goes", 0..2, |seed| {
        let (mut world, left, right) = hard_pair(seed, [Nat::Apdm, Nat::Apdm]);
        world.counts_control_bytes = false;
        assert!(world.ping_until_answered(left, right, 10 * SECOND).is_some());
        let transfer = world.transfer(left, right, Duration::from_millis(50), 4 * 60 * MINUTE);
        let first = warren_sim::RelayIndex(0);
        let mut moves = 0;
        let mut present = relay_of(&world, left, right);
        for _ in 0..24 {
            for _ in 0..10 {
                world.run_for(20 * SECOND);
                let relay = relay_of(&world, left, right);
                moves += u32::from(relay != present);
                present = relay;
            }
            world.kill_relay(first);
            world.run_for(30 * SECOND);
            world.restart_relay(first);
        }
        // Each return is twice as far from the one before: 1, 2, 4 … 64 minutes.
        assert!(moves <= 16, "seed {seed}: {moves} moves in 92 minutes");
        let report = world.transfer_report(transfer);
        assert!(report.stall <= 3 * SECOND, "seed {seed}: {report:?}");
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
fn a_relay_that_was_away_for_long_is_found_when_it_is_wanted() {
    for_seeds("relay_returns", 0..6, |seed| {
        let mut world = World::new(seed);
        let relay = world.add_relay("only", RelayKind::Ours, Link::ACCESS);
        let left = world.add_home("left", Nat::Apdm);
        let right = world.add_home("right", Nat::Apdm);
        world.run_for(15 * SECOND);
        world.kill_relay(relay);
        // So long that both have asked it in vain, and ask but seldom.
        assert_eq!(world.ping_repeatedly(left, right, 10 * SECOND), None);
        world.run_for(100 * MINUTE);
        assert_eq!(world.ping_repeatedly(left, right, 10 * SECOND), None);
        world.restart_relay(relay);
        world.run_for(MINUTE);
        let time = world.ping_repeatedly(left, right, 30 * SECOND);
        println!("seed {seed}: {time:?}");
        assert!(time.is_some_and(|time| time <= 3 * SECOND), "seed {seed}: {time:?}");
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
            let stream = world.stream(left, right, Duration::from_millis(50), MINUTE);
            world.run_for(2 * MINUTE);
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

/// Two homes whose routers can be told to let nothing directly from one to the other.
fn fenced_pair(seed: u64) -> (World, [NodeId; 2], [warren_sim::net::RouterId; 2]) {
    let mut world = World::new(seed);
    world.add_relay("first", RelayKind::Ours, Link::ACCESS);
    world.add_relay("second", RelayKind::Ours, Link::ACCESS);
    let sites = [(); 2].map(|()| world.add_site(warren_sim::SiteConfig::new(Nat::EimApdf)));
    let nodes = [("left", sites[0]), ("right", sites[1])].map(|(name, site)| {
        let node = world.add_node(name, site);
        world.start_node(node);
        node
    });
    let routers = sites.map(|site| world.sites.router(site).unwrap());
    (world, nodes, routers)
}

fn fence(world: &mut World, routers: [warren_sim::net::RouterId; 2], up: bool) {
    let [left, right] = routers;
    world.network.set_fence(left, up.then_some(right));
    world.network.set_fence(right, up.then_some(left));
}

#[test]
fn when_the_rule_is_removed_a_relayed_pair_with_traffic_is_direct_within_a_minute() {
    for_seeds("direct_again", 0..6, |seed| {
        let (mut world, [left, right], routers) = fenced_pair(seed);
        fence(&mut world, routers, true);
        world.run_for(15 * SECOND);
        let time = world.ping_until_answered(left, right, 10 * SECOND).unwrap();
        assert!(time <= Duration::from_millis(1500), "{time:?}");
        let pace = Duration::from_millis(20);
        let streams = [(left, right), (right, left)]
            .map(|(from, to)| world.stream(from, to, pace, 4 * MINUTE));
        let transfer = world.transfer(left, right, pace, 4 * MINUTE);
        let wait = Duration::from_millis(20_000 + world.chance(60_000));
        world.run_for(wait);
        assert!(is_relayed(&world, left, right) && is_relayed(&world, right, left));
        fence(&mut world, routers, false);
        let time = world.run_until(2 * MINUTE, |world| {
            is_direct(world, left, right) && is_direct(world, right, left)
        });
        assert!(time.is_some_and(|time| time <= MINUTE), "seed {seed}: {time:?}");
        world.run_for(6 * MINUTE);
        for stream in streams {
            let report = world.stream_report(stream);
            assert_eq!(report.sent, report.received, "seed {seed}: packets lost to the switch");
        }
        assert!(world.transfer_report(transfer).stall <= 3 * SECOND);
        let held: usize = world.relays.iter().map(|it| it.server().gauges().allocations).sum();
        assert_eq!(held, 0, "the allocations are let go");
    });
}

#[test]
fn when_direct_paths_are_cut_traffic_flows_through_a_relay_within_three_seconds() {
    for_seeds("direct_cut", 0..10, |seed| {
        let (mut world, [left, right], routers) = fenced_pair(seed);
        world.run_for(15 * SECOND);
        assert!(world.ping_until_answered(left, right, 10 * SECOND).is_some());
        assert!(is_direct(&world, left, right));
        let transfers = [(left, right), (right, left)]
            .map(|(from, to)| world.transfer(from, to, Duration::from_millis(20), 10 * MINUTE));
        let wait = Duration::from_millis(5000 + world.chance(30_000));
        world.run_for(wait);
        fence(&mut world, routers, true);
        world.run_for(MINUTE);
        for transfer in transfers {
            let report = world.transfer_report(transfer);
            assert!(report.stall <= 3 * SECOND, "seed {seed}: {report:?}");
        }
        assert!(is_relayed(&world, left, right) && is_relayed(&world, right, left));
    });
}

#[test]
fn an_idle_relayed_pair_sends_no_direct_probes() {
    let (mut world, left, right) = hard_pair(1, [Nat::Apdm, Nat::Apdm]);
    assert!(world.ping_until_answered(left, right, 10 * SECOND).is_some());
    world.run_for(MINUTE);
    let probes = |world: &World| world.node(left).mesh().counters().probes_sent;
    let before = probes(&world);
    world.run_for(2 * MINUTE);
    // Its own path is kept, each 20 s from either end.
    assert!(probes(&world) - before <= 8, "{}", probes(&world) - before);
    assert!(is_relayed(&world, left, right));
    // With traffic, at most two packets go to each of the peer's endpoints in 25 s, and one along
    // the path.
    world.transfer(left, right, Duration::from_millis(100), 10 * MINUTE);
    world.run_for(30 * SECOND);
    let before = probes(&world);
    world.run_for(5 * MINUTE);
    let device = world.node(right).device();
    let map = world.node(left).mesh().netmap().unwrap();
    let endpoints = map.peers.iter().find(|peer| peer.id == device).unwrap().endpoints.len();
    let sent = probes(&world) - before;
    let (retests, refreshes) = (12 + 1, 15 + 2);
    let most = retests * (2 * endpoints as u64 + 1) + refreshes * 2;
    assert!(sent >= 12 && sent <= most, "{sent} of {most}");
}

#[test]
fn somebody_elses_turn_server_needs_but_one_allocation() {
    for (nats, limit) in [
        ([Nat::Apdm, Nat::Apdm], 1500),
        ([Nat::EimApdf, Nat::Apdm], 2500),
        ([Nat::UdpBlocked, Nat::EimApdf], 2000),
        ([Nat::EimApdf, Nat::UdpBlocked], 2000),
    ] {
        for_seeds("third_party", 0..3, |seed| {
            let mut world = World::new(seed);
            world.add_relay("elsewhere", RelayKind::ThirdParty, Link::ACCESS);
            let left = world.add_home("left", nats[0]);
            let right = world.add_home("right", nats[1]);
            world.run_for(15 * SECOND);
            let time = world.ping_until_answered(left, right, 10 * SECOND);
            let time = time.unwrap_or_else(|| panic!("{nats:?}, seed {seed}: never"));
            assert!(time <= Duration::from_millis(limit), "{nats:?}, seed {seed}: {time:?}");
            assert_eq!(world.allocated(), 1, "{nats:?}, seed {seed}");
            let stream = world.stream(left, right, Duration::from_millis(100), 12 * MINUTE);
            world.run_for(13 * MINUTE);
            let report = world.stream_report(stream);
            assert_eq!(report.sent, report.received, "{nats:?}, seed {seed}");
            assert_eq!(relay_of(&world, left, right).as_deref(), Some("elsewhere"));
            assert_eq!(relay_of(&world, right, left).as_deref(), Some("elsewhere"));
        });
    }
}

#[test]
fn a_relayed_stream_of_an_hour_loses_nothing() {
    for_seeds("relayed_hour", 0..2, |seed| {
        let (mut world, left, right) = hard_pair(seed, [Nat::Apdm, Nat::Apdm]);
        world.counts_control_bytes = false;
        assert!(world.ping_until_answered(left, right, 10 * SECOND).is_some());
        let pace = Duration::from_millis(200);
        let stream = world.stream(left, right, pace, 60 * MINUTE);
        world.run_for(61 * MINUTE);
        let report = world.stream_report(stream);
        assert_eq!(report.sent, report.received, "seed {seed}: {report:?}");
        assert!(report.longest_gap < 2 * pace, "{report:?}");
        assert_eq!(world.allocated(), 2);
    });
}

#[test]
fn over_bad_legs_a_relay_is_found_and_a_dead_one_replaced() {
    for_seeds("relays_bad_legs", 0..12, |seed| {
        let leg = warren_sim::matrix::BAD_LEG;
        let mut world = World::with_leg(seed, leg);
        world.add_relay("first", RelayKind::Ours, leg);
        world.add_relay("second", RelayKind::Ours, leg);
        let nats = [Nat::Apdm, if seed % 2 == 0 { Nat::Apdm } else { Nat::UdpBlocked }];
        let nodes = ["left", "right"].map(|name| {
            let config = warren_sim::SiteConfig::new(nats[usize::from(name == "right")]);
            let site = world.add_site(warren_sim::SiteConfig { leg, ..config });
            let node = world.add_node(name, site);
            world.start_node(node);
            node
        });
        let [left, right] = nodes;
        world.run_for(20 * SECOND);
        let time = world.ping_repeatedly(left, right, 20 * SECOND);
        assert!(time.is_some_and(|time| time <= 4 * SECOND), "seed {seed}: {time:?}");
        let transfer = world.transfer(left, right, Duration::from_millis(20), 5 * MINUTE);
        world.run_for(10 * SECOND);
        world.reset_stall(transfer);
        world.kill_relay(warren_sim::RelayIndex(0));
        world.run_for(MINUTE);
        let report = world.transfer_report(transfer);
        assert!(report.stall <= 6 * SECOND, "seed {seed}: {report:?}");
    });
}

#[test]
fn a_restarted_daemon_is_reached_through_the_relay_again() {
    for_seeds("relayed_restart", 0..8, |seed| {
        for away in [1, 30] {
            let (mut world, left, right) = hard_pair(seed, [Nat::Apdm, Nat::Apdm]);
            assert!(world.ping_until_answered(left, right, 10 * SECOND).is_some());
            let stream = world.stream(left, right, Duration::from_millis(100), 10 * MINUTE);
            world.run_for(5 * SECOND);
            world.stop_node(right);
            world.run_for(away * SECOND);
            let received = world.stream_report(stream).received;
            world.start_node(right);
            let healed = world
                .run_until(MINUTE, |world| world.stream_report(stream).received > received)
                .unwrap_or_else(|| panic!("seed {seed}, away for {away} s: never"));
            assert!(healed <= 4 * SECOND, "seed {seed}, away for {away} s: {healed:?}");
        }
    });
}

#[test]
fn a_relay_that_damages_repeats_and_misdirects_delivers_nothing_twice_and_nothing_wrong() {
    for_seeds("hostile_relay", 0..6, |seed| {
        let mut world = World::new(seed);
        let relay = world.add_relay("hostile", RelayKind::Ours, Link::ACCESS);
        let nodes = ["left", "right", "third"].map(|name| world.add_home(name, Nat::Apdm));
        world.run_for(15 * SECOND);
        world.relays[relay.0].is_hostile = true;
        let [left, right, third] = nodes;
        assert!(world.ping_until_answered(left, right, 10 * SECOND).is_some(), "seed {seed}");
        assert!(world.ping_until_answered(third, right, 10 * SECOND).is_some(), "seed {seed}");
        let pace = Duration::from_millis(50);
        let streams = [(left, right), (right, third), (third, left)]
            .map(|(from, to)| world.stream(from, to, pace, MINUTE));
        world.run_for(2 * MINUTE);
        for stream in streams {
            let report = world.stream_report(stream);
            // What is lost to it would be lost to any relay; nothing comes twice.
            assert_eq!(report.sent, report.received, "seed {seed}: {report:?}");
        }
        for node in nodes {
            use warren_mesh::InboundDrop;
            let counters = world.node(node).mesh().counters();
            assert!(counters.inbound(InboundDrop::Nested) > 0);
            assert!(counters.inbound(InboundDrop::WireGuard) > 0);
        }
    });
}

#[test]
fn without_the_broker_a_relayed_pair_goes_on_and_starts_cold() {
    for_seeds("relayed_without_broker", 0..6, |seed| {
        let (mut world, left, right) = hard_pair(seed, [Nat::Apdm, Nat::Apdm]);
        assert!(world.ping_until_answered(left, right, 10 * SECOND).is_some());
        let transfer = world.transfer(left, right, Duration::from_millis(50), 30 * MINUTE);
        world.run_for(20 * SECOND);
        world.kill_broker();
        world.run_for(10 * MINUTE);
        let report = world.transfer_report(transfer);
        assert!(report.stall <= 3 * SECOND, "seed {seed}: {report:?}");
        // One restarts, with nothing but its cached map.
        world.stop_node(left);
        world.run_for(5 * MINUTE);
        world.start_node(left);
        let time = world.ping_repeatedly(left, right, MINUTE);
        assert!(time.is_some_and(|time| time <= 25 * SECOND), "seed {seed}: {time:?}");
        world.stop_node(right);
        world.run_for(MINUTE);
        world.start_node(right);
        let time = world.ping_repeatedly(left, right, MINUTE);
        assert!(time.is_some_and(|time| time <= 25 * SECOND), "seed {seed}: {time:?}");
        // With the broker back, nobody waits at relays for nothing.
        world.restart_broker();
        world.run_for(25 * MINUTE);
        let held = world.relays.iter().map(|it| it.server().gauges().allocations).max();
        assert_eq!(held, Some(0), "seed {seed}");
    });
}

#[test]
fn the_admins_order_is_kept_and_equal_relays_are_chosen_by_their_round_trips() {
    for_seeds("relay_choice", 0..4, |seed| {
        let mut world = World::new(seed);
        let far = Link::with_latency(Duration::from_millis(80));
        let near = Link::with_latency(Duration::from_millis(5));
        world.add_relay("far", RelayKind::Ours, far);
        world.add_relay("near", RelayKind::Ours, near);
        let left = world.add_home("left", Nat::Apdm);
        let right = world.add_home("right", Nat::Apdm);
        world.run_for(15 * SECOND);
        assert!(world.ping_until_answered(left, right, 10 * SECOND).is_some());
        assert_eq!(relay_of(&world, left, right).as_deref(), Some("far"), "the first of the list");
        world.list_relays(&[vec!["far".to_owned(), "near".to_owned()]]);
        world.run_for(8 * MINUTE);
        assert!(world.ping_until_answered(left, right, 10 * SECOND).is_some());
        assert_eq!(relay_of(&world, left, right).as_deref(), Some("near"), "the quicker of equals");
        assert_eq!(relay_of(&world, right, left).as_deref(), Some("near"));
    });
}

#[test]
fn a_relayed_device_that_roams_or_changes_its_port_stalls_for_at_most_three_seconds() {
    for_seeds("relayed_roam", 0..8, |seed| {
        let (mut world, left, right) = hard_pair(seed, [Nat::Apdm, Nat::Apdm]);
        assert!(world.ping_until_answered(left, right, 10 * SECOND).is_some());
        let transfers = [(left, right), (right, left)]
            .map(|(from, to)| world.transfer(from, to, Duration::from_millis(20), 10 * MINUTE));
        world.run_for(10 * SECOND);
        let site = world.add_site(warren_sim::SiteConfig::new(Nat::Apdm));
        world.roam(left, site);
        world.run_for(MINUTE);
        for transfer in transfers {
            let report = world.transfer_report(transfer);
            assert!(report.stall <= 3 * SECOND, "seed {seed}, roamed: {report:?}");
            world.reset_stall(transfer);
        }
        world.change_port(right, 51_820);
        world.run_for(MINUTE);
        for transfer in transfers {
            let report = world.transfer_report(transfer);
            assert!(report.stall <= 3 * SECOND, "seed {seed}, another port: {report:?}");
            world.reset_stall(transfer);
        }
        // To where no UDP passes, and back.
        let blocked = world.add_site(warren_sim::SiteConfig::new(Nat::UdpBlocked));
        world.roam(left, blocked);
        world.run_for(MINUTE);
        for transfer in transfers {
            let report = world.transfer_report(transfer);
            assert!(report.stall <= 4 * SECOND, "seed {seed}, blocked: {report:?}");
            world.reset_stall(transfer);
        }
        world.roam(left, site);
        world.run_for(2 * MINUTE);
        for transfer in transfers {
            let report = world.transfer_report(transfer);
            assert!(report.stall <= 4 * SECOND, "seed {seed}, back: {report:?}");
        }
    });
}
