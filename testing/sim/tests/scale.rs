//! A thousand nodes of one account.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::time::Duration;

use warren_sim::{Nat, NodeId, SiteConfig, World};

const NODES: usize = 1000;

/// Every node's map is the broker's, entry by entry.
fn assert_converged(world: &World, nodes: &[NodeId]) {
    let account = world.broker.account().unwrap();
    for node in nodes {
        let node = world.node(*node);
        let truth = account.netmap(node.device()).unwrap();
        let known = node.mesh().netmap().unwrap();
        assert_eq!(known.this, truth.this);
        assert!(known.peers == truth.peers, "{} has another map", node.name);
        assert_eq!(known.version.epoch, truth.version.epoch);
        assert_eq!(node.mismatches, 0);
    }
}

#[test]
fn a_thousand_maps_converge_and_a_roam_costs_each_peer_one_delta() {
    let mut world = World::new(1);
    world.counts_control_bytes = false;
    let nodes: Vec<NodeId> =
        (0..NODES).map(|n| world.add_home(&format!("node {n}"), Nat::ALL[n % 6])).collect();
    world.run_for(Duration::from_secs(20));
    assert_eq!(world.sessions(), NODES);
    assert_converged(&world, &nodes);

    for roaming in [0, 1, 500] {
        let before: Vec<u64> = nodes.iter().map(|node| world.node(*node).deltas).collect();
        let site = world.add_site(SiteConfig::new(Nat::EimApdf));
        world.roam(nodes[roaming], site);
        world.run_for(Duration::from_secs(10));
        for (n, node) in nodes.iter().enumerate().filter(|(n, _)| *n != roaming) {
            assert_eq!(world.node(*node).deltas - before[n], 1, "node {n}");
        }
    }
    assert_converged(&world, &nodes);

    // A hundred at once: few deltas, because they are coalesced.
    let before: Vec<u64> = nodes.iter().map(|node| world.node(*node).deltas).collect();
    for node in &nodes[..100] {
        let site = world.add_site(SiteConfig::new(Nat::EimApdf));
        world.unplug(*node);
        world.plug(*node, site);
    }
    world.run_for(Duration::from_secs(10));
    let most = nodes.iter().zip(before).map(|(n, before)| world.node(*n).deltas - before).max();
    assert!(most.unwrap() <= 10, "{most:?} deltas for a hundred roams at once");
    assert_converged(&world, &nodes);
}
