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
fn debug_trace() {
    let (mut world, left, right) = hard_pair(0, [Nat::Apdm, Nat::Apdm]);
    let t0 = world.now();
    world.network.start_capture();
    let ping = world.ping(left, right);
    for _ in 0..200 {
        world.run_for(Duration::from_millis(10));
        for d in world.network.end_capture() {
            println!("{:?} to {:?} from {:?} len {} first {:02x?}", world.now() - t0, d.to, d.from, d.payload.len(), &d.payload[..8.min(d.payload.len())]);
        }
        world.network.start_capture();
        if world.ping_time(ping).is_some() { break; }
    }
    for (r, i) in world.relays.iter().zip(0..) { println!("{i} {:?}", r.server().counters()); }
    panic!();
}
