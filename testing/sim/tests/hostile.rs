//! Attackers on and off the path: garbage, replays, spoofed sources.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::net::SocketAddr;
use std::time::Duration;

use warren_mesh::PathState;
use warren_sim::net::{HostId, Link};
use warren_sim::replay::for_seeds;
use warren_sim::{Nat, NodeId, World};

const MINUTE: Duration = Duration::from_secs(60);

struct Scene {
    world: World,
    left: NodeId,
    right: NodeId,
    attacker: HostId,
}

/// Two public nodes that talk, so that everything reaches them, and an attacker.
fn scene(seed: u64) -> Scene {
    let mut world = World::new(seed);
    let left = world.add_home("left", Nat::Public);
    let right = world.add_home("right", Nat::Public);
    let attacker = world.network.add_host();
    let internet = world.sites.internet;
    let addr = "198.51.100.66/32".parse().unwrap();
    world.network.attach(attacker, internet, &[addr], Link::ACCESS);
    world.run_for(Duration::from_secs(10));
    Scene { world, left, right, attacker }
}

fn path(world: &World, node: NodeId, peer: NodeId) -> PathState {
    let device = world.node(peer).device();
    world.node(node).mesh().peer(device).unwrap().path
}

fn endpoint(world: &World, node: NodeId) -> SocketAddr {
    let ip = world.network.addresses(world.node(node).host).next().unwrap().addr();
    SocketAddr::new(ip, world.node(node).port)
}

#[test]
fn replayed_datagrams_move_no_path_and_gain_nothing() {
    for_seeds("replayed_datagrams", 0..5, |seed| {
        let Scene { mut world, left, right, attacker } = scene(seed);
        world.network.start_capture();
        assert!(world.ping_until_answered(left, right, MINUTE).is_some());
        world.transfer(left, right, Duration::from_millis(50), 10 * MINUTE);
        world.run_for(MINUTE);
        let captured = world.network.end_capture();
        let paths = [path(&world, left, right), path(&world, right, left)];
        let before = world.network.counters(attacker);
        for (n, delivery) in captured.iter().enumerate() {
            let now = world.now();
            // From the attacker's own address, and with the true source, late.
            let payload = delivery.payload.clone();
            world.network.send(attacker, 6666, delivery.to, payload.clone(), now);
            world.network.send_spoofed(attacker, delivery.from, delivery.to, payload, now);
            if n % 10 == 0 {
                world.run_for(Duration::from_millis(50));
            }
        }
        world.run_for(MINUTE);
        let after = world.network.counters(attacker);
        assert_eq!([path(&world, left, right), path(&world, right, left)], paths);
        let (sent, got) = (after.tx_bytes - before.tx_bytes, after.rx_bytes - before.rx_bytes);
        println!("{} datagrams replayed: {sent} bytes sent, {got} came back", captured.len());
        assert!(captured.len() > 500 && got < sent / 4, "{got} bytes for {sent}");
    });
}

#[test]
fn garbage_from_anywhere_disturbs_nobody_and_gets_no_answer() {
    for_seeds("garbage_from_anywhere", 0..5, |seed| {
        let Scene { mut world, left, right, attacker } = scene(seed);
        assert!(world.ping_until_answered(left, right, MINUTE).is_some());
        let pace = Duration::from_millis(50);
        let stream = world.stream(left, right, pace, MINUTE);
        let before = world.network.counters(attacker).rx_packets;
        let (left_at, right_at) = (endpoint(&world, left), endpoint(&world, right));
        for _ in 0..3000 {
            let len = world.chance(200);
            let mut payload: Vec<u8> = (0..len).map(|_| world.chance(256) as u8).collect();
            // Often something that begins like WireGuard, STUN or ChannelData.
            match (world.chance(4), payload.as_mut_slice()) {
                (0, [kind, a, b, c, ..]) => {
                    (*kind, *a, *b, *c) = (1 + (*kind % 4), 0, 0, 0);
                }
                (1, [kind, _, high, low, cookie @ ..]) if cookie.len() >= 16 => {
                    *kind &= 1;
                    cookie[..4].copy_from_slice(&[0x21, 0x12, 0xA4, 0x42]);
                    (*high, *low) = (0, (len as u8).wrapping_sub(20));
                }
                (2, [kind, ..]) => *kind = 0x40,
                _ => {}
            }
            let now = world.now();
            match world.chance(2) {
                0 => world.network.send(attacker, 6666, right_at, payload, now),
                _ => world.network.send_spoofed(attacker, left_at, right_at, payload, now),
            }
            world.run_for(Duration::from_millis(5));
        }
        world.run_for(MINUTE);
        let report = world.stream_report(stream);
        assert_eq!(report.received, report.sent, "{report:?}");
        assert!(report.longest_gap < 2 * pace, "{report:?}");
        assert_eq!(world.network.counters(attacker).rx_packets, before);
    });
}
