//! Who may reach whom, and how quickly a change of it is in force.

use std::collections::BTreeSet;
use std::time::Duration;

use warren_sim::replay::for_seeds;
use warren_sim::{Nat, NodeId, SiteConfig, World};

const SECOND: Duration = Duration::from_secs(1);

const EVERYBODY: &str = "[[rules]]\nfrom = '*'\nto = '*'\n";
const LEFT_TO_RIGHT: &str = "[[rules]]\nfrom = 'device:left'\nto = 'device:right'\n";
const NOBODY: &str = "";

fn world(seed: u64) -> (World, [NodeId; 3]) {
    let mut world = World::new(seed);
    let nodes = ["left", "right", "third"].map(|name| world.add_home(name, Nat::EimApdf));
    world.run_for(10 * SECOND);
    (world, nodes)
}

/// The nodes whose keys a node has.
fn known(world: &World, node: NodeId, nodes: &[NodeId]) -> BTreeSet<NodeId> {
    let map = world.node(node).daemon.as_ref().and_then(|daemon| daemon.mesh.netmap());
    let has = |other: &&NodeId| {
        let device = world.node(**other).device();
        map.is_some_and(|map| map.peers.iter().any(|peer| peer.id == device))
    };
    nodes.iter().filter(has).copied().collect()
}

#[test]
fn a_change_is_in_force_everywhere_within_a_second() {
    for_seeds("a_change_of_policy", 0..10, |seed| {
        let (mut world, nodes) = world(seed);
        let [left, right, third] = nodes;
        assert!(world.ping_until_answered(left, right, 10 * SECOND).is_some());
        assert!(world.ping_until_answered(left, third, 10 * SECOND).is_some());
        assert!(world.ping_until_answered(third, right, 10 * SECOND).is_some());

        world.set_policy(LEFT_TO_RIGHT);
        world.run_for(SECOND);
        assert_eq!(known(&world, left, &nodes), BTreeSet::from([right]));
        assert_eq!(known(&world, right, &nodes), BTreeSet::from([left]));
        assert!(known(&world, third, &nodes).is_empty());
        let cut = [(third, right), (left, third), (right, left)];
        let cut = cut.map(|(from, to)| world.ping(from, to));
        let allowed = world.ping(left, right);
        world.run_for(5 * SECOND);
        assert!(cut.iter().all(|ping| world.ping_time(*ping).is_none()));
        assert!(world.ping_time(allowed).is_some());

        world.set_policy(NOBODY);
        world.run_for(SECOND);
        assert!(nodes.iter().all(|node| known(&world, *node, &nodes).is_empty()));

        world.set_policy(EVERYBODY);
        world.run_for(SECOND);
        assert!(nodes.iter().all(|node| known(&world, *node, &nodes).len() == 2));
        assert!(world.ping_until_answered(right, left, 2 * SECOND).is_some());
    });
}

#[test]
fn a_pair_that_may_not_talk_never_gets_the_others_key() {
    for_seeds("a_pair_that_may_not_talk", 0..10, |seed| {
        let mut world = World::new(seed);
        let nodes = ["left", "right", "third"].map(|name| {
            let site = world.add_site(SiteConfig::new(Nat::EimApdf));
            world.add_node(name, site)
        });
        let [left, right, third] = nodes;
        world.set_policy(LEFT_TO_RIGHT);
        nodes.iter().for_each(|node| world.start_node(*node));
        for step in 0..300 {
            world.run_for(Duration::from_millis(200));
            assert!(known(&world, third, &nodes).is_empty());
            for node in [left, right] {
                assert!(!known(&world, node, &nodes).contains(&third));
            }
            match step {
                50 => {
                    let _ = world.ping(left, right);
                }
                60 => {
                    let _ = world.ping(third, left);
                }
                100 => world.kill_broker(),
                120 => world.restart_broker(),
                150 => world.stop_node(third),
                160 => world.start_node(third),
                _ => {}
            }
        }
        assert!(world.ping_until_answered(left, right, 5 * SECOND).is_some());
    });
}
