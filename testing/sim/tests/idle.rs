//! What silence costs.

use std::time::Duration;

use warren_sim::replay::for_seeds;
use warren_sim::{Families, Nat, NodeId, SiteConfig, World};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// UDP bytes (IP and UDP headers included) and control bytes of a node, both ways.
fn bytes(world: &World, node: NodeId) -> (u64, u64) {
    let counters = world.network.counters(world.node(node).host);
    (counters.tx_bytes + counters.rx_bytes, world.node(node).control_bytes)
}

#[test]
fn an_idle_pair_sends_nothing() {
    for_seeds("an_idle_pair", 0..5, |seed| {
        for nat in [Nat::Public, Nat::EimApdf, Nat::Cgnat] {
            let mut world = World::new(seed);
            let left = world.add_home("left", Nat::EimApdf);
            let right = world.add_home("right", nat);
            world.run_for(MINUTE);
            assert!(world.ping_until_answered(left, right, MINUTE).is_some());
            world.run_for(8 * MINUTE);
            let before = [left, right].map(|n| world.network.counters(world.node(n).host));
            world.run_for(50 * MINUTE);
            for (node, before) in [left, right].into_iter().zip(before) {
                let after = world.network.counters(world.node(node).host);
                let sent = after.tx_packets - before.tx_packets;
                // STUN each 25 s (100 s without a NAT) is all that there is.
                let stun = if node == right && nat == Nat::Public { 30 } else { 120 };
                assert!((stun - 1..=stun + 1).contains(&sent), "{nat}: {sent} datagrams");
            }
            let peer = world.node(right).device();
            let status = world.node(left).mesh().peer(peer).expect("known");
            assert_eq!(status.path, warren_mesh::PathState::Idle);
        }
    });
}

#[test]
fn nodes_that_never_talk_send_only_stun() {
    let mut world = World::new(1);
    let nodes: Vec<NodeId> =
        (0..10).map(|n| world.add_home(&format!("node {n}"), Nat::EimApdf)).collect();
    world.run_for(2 * MINUTE);
    let before: u64 =
        nodes.iter().map(|n| world.network.counters(world.node(*n).host).tx_packets).sum();
    world.run_for(10 * MINUTE);
    let after: u64 =
        nodes.iter().map(|n| world.network.counters(world.node(*n).host).tx_packets).sum();
    assert!(after - before <= 25 * nodes.len() as u64, "{} datagrams", after - before);
}

#[test]
fn an_idle_device_in_an_account_of_100_costs_at_most_3_megabytes_a_day() {
    for (families, budget) in [(Families::V4, 3.0 + 0.4), (Families::Dual, 3.0 + 0.8)] {
        let mut world = World::new(1);
        let nodes: Vec<NodeId> = (0..100)
            .map(|n| {
                let config = SiteConfig { families, ..SiteConfig::new(Nat::EimApdf) };
                let site = world.add_site(config);
                let node = world.add_node(&format!("node {n}"), site);
                world.start_node(node);
                node
            })
            .collect();
        world.run_for(10 * MINUTE);
        let before: Vec<_> = nodes.iter().map(|node| bytes(&world, *node)).collect();
        world.run_for(HOUR);
        let mut most = (0.0, 0.0, 0.0);
        for (node, before) in nodes.iter().zip(before) {
            let after = bytes(&world, *node);
            let a_day = |bytes: u64| bytes as f64 * 24.0 / 1e6;
            let (udp, control) = (a_day(after.0 - before.0), a_day(after.1 - before.1));
            if udp + control > most.0 {
                most = (udp + control, udp, control);
            }
        }
        let (total, udp, control) = most;
        println!("{families:?}: {total:.2} MB a day: UDP {udp:.2}, control {control:.2}");
        assert!(total <= budget, "{families:?}: {total:.2} MB a day");
    }
}
