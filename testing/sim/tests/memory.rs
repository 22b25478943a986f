//! What nodes hold in memory, counted by the allocator. One test to a process: the counter is
//! global.

use std::alloc::System;
use std::time::Duration;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use warren_sim::{Nat, NodeId, World};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const MINUTE: Duration = Duration::from_secs(60);

/// Bytes that are allocated at this moment.
fn held() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// The bytes that ten nodes hold after so many minutes without the broker, each of which another
/// one pings all others in, reachable or not: what is freed when their daemons go.
fn bytes_of_nodes(minutes_without_broker: usize) -> usize {
    let mut world = World::new(1);
    world.counts_control_bytes = false;
    let nodes: Vec<NodeId> =
        (0..10).map(|n| world.add_home(&format!("node {n}"), Nat::ALL[n % 7])).collect();
    world.run_for(2 * MINUTE);
    for minute in 0..10 + minutes_without_broker {
        if minute == 10 {
            world.kill_broker();
        }
        let from = nodes[minute % nodes.len()];
        for to in nodes.iter().filter(|to| **to != from) {
            world.ping(from, *to);
        }
        world.run_for(MINUTE);
    }
    let before = held();
    for node in &mut world.nodes {
        node.daemon = None;
    }
    before - held()
}

#[test]
fn no_nodes_memory_grows_while_the_broker_is_away_for_an_hour() {
    let (early, late) = (bytes_of_nodes(15), bytes_of_nodes(75));
    println!("ten nodes hold {early} bytes after 15 min, {late} after 75");
    assert!(late <= early + early / 50, "{early} bytes after 15 min, {late} after 75");
}
