//! Impatient NATs, lossy lines, cut lines, a copied state folder.

use std::time::Duration;

use warren_sim::matrix::{BAD_LEG, percentile};
use warren_sim::net::{Behaviour, Link, NatConfig};
use warren_sim::replay::for_seeds;
use warren_sim::{Nat, NodeId, SiteConfig, UNIX_START, World};

const MINUTE: Duration = Duration::from_secs(60);

fn home(world: &mut World, name: &str, config: SiteConfig) -> NodeId {
    let site = world.add_site(config);
    let node = world.add_node(name, site);
    world.start_node(node);
    node
}

#[test]
fn a_one_way_stream_survives_nats_that_forget_after_30_seconds() {
    // Inbound traffic keeps no mapping alive, so the receiver's must be kept by its own probes.
    let impatient = NatConfig {
        timeout: Duration::from_secs(30),
        ..NatConfig::new(Behaviour::EndpointIndependent, Behaviour::AddressAndPortDependent)
    };
    for_seeds("a_one_way_stream", 0..5, |seed| {
        let mut world = World::new(seed);
        let config = SiteConfig { config: Some(impatient), ..SiteConfig::new(Nat::EimApdf) };
        let nodes = ["left", "right"].map(|name| home(&mut world, name, config));
        world.run_for(Duration::from_secs(10));
        assert!(world.ping_until_answered(nodes[0], nodes[1], MINUTE).is_some());
        let pace = Duration::from_millis(200);
        let stream = world.stream(nodes[0], nodes[1], pace, 10 * MINUTE);
        world.run_for(9 * MINUTE);
        let report = world.stream_report(stream);
        assert!(report.longest_gap < 2 * pace, "{report:?}");
    });
}

#[test]
fn a_packet_now_and_then_keeps_finding_its_way() {
    // Longer than a NAT remembers, shorter than an idle tunnel is kept.
    for_seeds("a_packet_now_and_then", 0..5, |seed| {
        let mut world = World::new(seed);
        let nodes = ["left", "right"].map(|name| world.add_home(name, Nat::EimApdf));
        world.run_for(Duration::from_secs(10));
        assert!(world.ping_until_answered(nodes[0], nodes[1], MINUTE).is_some());
        for _ in 0..30 {
            let pause = Duration::from_secs(100 + world.chance(400));
            world.run_for(pause);
            let time = world.ping_until_answered(nodes[0], nodes[1], MINUTE).unwrap();
            assert!(time <= Duration::from_secs(1), "after {pause:?}: {time:?}");
        }
    });
}

#[test]
fn a_roam_over_bad_legs_costs_at_most_one_more_retransmission_timeout() {
    let mut stalls = Vec::new();
    for_seeds("a_roam_over_bad_legs", 0..30, |seed| {
        let mut world = World::with_leg(seed, BAD_LEG);
        let config = SiteConfig { leg: BAD_LEG, ..SiteConfig::new(Nat::EimApdf) };
        let nodes = ["left", "right"].map(|name| home(&mut world, name, config));
        world.run_for(Duration::from_secs(10));
        world.ping_repeatedly(nodes[0], nodes[1], MINUTE).unwrap();
        let transfer = world.transfer(nodes[0], nodes[1], Duration::from_millis(20), 5 * MINUTE);
        world.run_for(Duration::from_secs(20));
        world.reset_stall(transfer);
        let site = world.add_site(config);
        world.roam(nodes[0], site);
        world.run_for(Duration::from_secs(30));
        stalls.push(world.transfer_report(transfer).stall);
    });
    stalls.sort_unstable();
    let (p50, p95) = (percentile(&stalls, 0.5).unwrap(), percentile(&stalls, 0.95).unwrap());
    println!("stall over bad legs: p50 {p50:?}, p95 {p95:?}, longest {:?}", stalls.last());
    // Retransmissions come 0.2, 0.6, 1.4 and 3 s after the last segment that got through.
    assert!(p50 <= Duration::from_secs(2), "p50 {p50:?}");
    assert!(p95 <= Duration::from_millis(3500), "p95 {p95:?}");
    assert!(*stalls.last().unwrap() <= Duration::from_secs(7), "{:?}", stalls.last());
}

#[test]
fn a_line_that_was_cut_is_used_again_as_soon_as_it_is_whole() {
    for_seeds("a_line_that_was_cut", (0..8).chain([2031]), |seed| {
        for cut in [2, 20, 200] {
            let mut world = World::new(seed);
            let site = world.add_site(SiteConfig::new(Nat::EimApdf));
            let left = world.add_node("left", site);
            world.start_node(left);
            let right = world.add_home("right", Nat::EimApdf);
            world.run_for(Duration::from_secs(10));
            assert!(world.ping_until_answered(left, right, MINUTE).is_some());
            // A datagram each 100 ms, whatever happens: no back-off of TCP's in between.
            let pace = Duration::from_millis(100);
            let stream = world.stream(left, right, pace, 30 * MINUTE);
            world.run_for(Duration::from_secs(5));
            let router = world.sites.router(site).unwrap();
            world.network.set_line(router, Link::ACCESS.cut());
            world.run_for(Duration::from_secs(cut));
            world.network.set_line(router, Link::ACCESS);
            let received = world.stream_report(stream).received;
            let healed = world
                .run_until(MINUTE, |world| world.stream_report(stream).received > received)
                .unwrap_or_else(|| panic!("seed {seed}, cut for {cut} s: never"));

            let limit = Duration::from_secs(if cut <= 20 { 5 } else { 10 });
            assert!(healed <= limit, "seed {seed}, cut for {cut} s: healed after {healed:?}");
        }
    });
}

#[test]
fn a_copied_state_folder_is_noticed_and_wears_nothing_out() {
    for_seeds("a_copied_state_folder", 0..3, |seed| {
        let mut world = World::new(seed);
        let left = world.add_home("left", Nat::EimApdf);
        let right = world.add_home("right", Nat::EimApdf);
        world.run_for(MINUTE);
        let site = world.add_site(SiteConfig::new(Nat::EimApdf));
        let clone = world.clone_node(left, site);
        world.run_for(5 * MINUTE);
        let device = world.node(left).device();
        let unix = UNIX_START + world.elapsed();
        let view = world.broker.account().unwrap().device(device, world.now(), unix).unwrap();
        assert!(view.cloned, "the broker notices");
        // Each takes the other's session away; both back off.
        let count = |world: &World| {
            [left, clone].map(|node| world.node(node).netmaps + world.node(node).deltas)
        };
        let before = (count(&world), world.node(right).deltas);
        world.run_for(10 * MINUTE);
        let after = (count(&world), world.node(right).deltas);
        assert!(after.1 - before.1 < 120, "{} deltas for the others", after.1 - before.1);
        for n in 0..2 {
            assert!(after.0[n] - before.0[n] < 240, "{:?} {:?}", before.0, after.0);
        }
    });
}

#[test]
fn wrong_clocks_keep_nobody_apart() {
    const DAY: u64 = 86_400;
    let now = UNIX_START.as_secs();
    for_seeds("wrong_clocks", 0..3, |seed| {
        for (left, right) in [
            (now - DAY, now),
            (now + DAY, now),
            (now - DAY / 2, now + DAY / 2),
            // A Raspberry Pi at boot, alone or two of them.
            (0, now),
            (0, 60),
            (now + 40 * DAY, now),
            (now + 40 * DAY, now + 400 * DAY),
        ] {
            let mut world = World::new(seed);
            let site = [(); 2].map(|()| world.add_site(SiteConfig::new(Nat::EimApdf)));
            let nodes = [0, 1].map(|n| world.add_node("device", site[n]));
            for (node, unix) in nodes.into_iter().zip([left, right]) {
                world.nodes[node.0].unix_start = Duration::from_secs(unix);
                world.start_node(node);
            }
            world.run_for(Duration::from_secs(20));
            let time = world.ping_until_answered(nodes[0], nodes[1], MINUTE);
            assert!(
                time.is_some_and(|time| time <= Duration::from_secs(1)),
                "clocks {left} and {right}, it is {now}: {time:?}"
            );
        }
    });
}
