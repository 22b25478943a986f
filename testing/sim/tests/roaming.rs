//! A changed address: connections keep running, peers know soon.

use std::time::Duration;

use warren_mesh::Event;
use warren_sim::replay::for_seeds;
use warren_sim::{Nat, NodeId, SiteConfig, World};

const MAPPED: [Nat; 5] = [Nat::Public, Nat::EimEif, Nat::EimAdf, Nat::EimApdf, Nat::Cgnat];

/// A transfer between two homes, both ways, well under way.
fn transfers(world: &mut World, left: NodeId, right: NodeId) -> [warren_sim::TransferId; 2] {
    world.run_for(Duration::from_secs(8));
    assert!(world.ping_until_answered(left, right, Duration::from_secs(5)).is_some());
    let pace = Duration::from_millis(20);
    let length = Duration::from_secs(600);
    let both =
        [world.transfer(left, right, pace, length), world.transfer(right, left, pace, length)];
    let while_it_runs = Duration::from_millis(2000 + world.chance(30_000));
    world.run_for(while_it_runs);
    for transfer in both {
        let report = world.transfer_report(transfer);
        assert!(report.stall < Duration::from_millis(500), "before the roam: {report:?}");
    }
    both
}

fn stall(world: &World, transfers: [warren_sim::TransferId; 2]) -> Duration {
    transfers.map(|t| world.transfer_report(t).stall).into_iter().max().unwrap_or_default()
}

#[test]
fn a_roam_to_another_nat_stalls_a_connection_for_at_most_three_seconds() {
    let mut stalls = Vec::new();
    for_seeds("a_roam_to_another_nat", 0..6, |seed| {
        for peer in MAPPED {
            for to in [Nat::EimApdf, Nat::Cgnat, Nat::EimEif, Nat::Public] {
                let mut world = World::new(seed);
                let left = world.add_home("left", Nat::EimApdf);
                let right = world.add_home("right", peer);
                let transfers = transfers(&mut world, left, right);
                let site = world.add_site(SiteConfig::new(to));
                world.roam(left, site);
                world.run_for(Duration::from_secs(20));
                let stall = stall(&world, transfers);
                stalls.push(stall);
                assert!(
                    stall <= Duration::from_secs(3),
                    "seed {seed}: from eim-apdf to {to}, peer {peer}: {stall:?}"
                );
            }
        }
    });
    stalls.sort_unstable();
    println!("stalls: median {:?}, longest {:?}", stalls[stalls.len() / 2], stalls.last());
}

#[test]
fn peers_know_a_new_endpoint_within_a_second_of_the_check_in() {
    for_seeds("peers_know_a_new_endpoint", 0..10, |seed| {
        let mut world = World::new(seed);
        let left = world.add_home("left", Nat::EimApdf);
        let others: Vec<NodeId> =
            (0..5).map(|n| world.add_home(&format!("other {n}"), Nat::EimApdf)).collect();
        world.run_for(Duration::from_secs(30));
        let site = world.add_site(SiteConfig::new(Nat::EimApdf));
        let roamed = world.now();
        world.roam(left, site);
        world.run_for(Duration::from_secs(10));
        // The last state that the node reported, when it did, and what it says.
        let reported = world.node(left).events.iter().rev().find_map(|(at, event)| {
            let Event::CheckIn(state) = event else { return None };
            (*at >= roamed).then(|| (*at, state.clone()))
        });
        let (at, state) = reported.expect("it reports its new endpoints");
        assert!(at - roamed < Duration::from_secs(1), "reported after {:?}", at - roamed);
        // Once more, watching the peers.
        let site = world.add_site(SiteConfig::new(Nat::EimApdf));
        let before = state.endpoints;
        world.roam(left, site);
        let device = world.node(left).device();
        let mut checked_in = None;
        let known = world.run_until(Duration::from_secs(10), |world| {
            let state = world.node(left).mesh().check_in_state();
            let fresh = state
                .endpoints
                .iter()
                .any(|e| e.kind == warren_proto::EndpointKind::Reflexive && !before.contains(e));
            if fresh {
                checked_in.get_or_insert(world.now());
            }
            fresh
                && others.iter().all(|other| {
                    let netmap = world.node(*other).mesh().netmap().expect("a map");
                    let peer = netmap.peers.iter().find(|peer| peer.id == device);
                    peer.is_some_and(|peer| peer.endpoints == state.endpoints)
                })
        });
        let known = known.expect("they learn it");
        let after = world.now() - checked_in.expect("it was fresh first");
        assert!(after <= Duration::from_secs(1), "{after:?} after the state, {known:?} in all");
    });
}

#[test]
fn a_rebooted_nat_stalls_a_connection_for_at_most_three_seconds() {
    for_seeds("a_rebooted_nat", 0..10, |seed| {
        for nat in [Nat::EimAdf, Nat::EimApdf, Nat::Apdm] {
            let mut world = World::new(seed);
            let site = world.add_site(SiteConfig::new(nat));
            let left = world.add_node("left", site);
            world.start_node(left);
            let right = world.add_home("right", Nat::EimAdf);
            let transfers = transfers(&mut world, left, right);
            let router = world.sites.router(site).expect("a NAT");
            world.network.reboot_router(router);
            world.run_for(Duration::from_secs(20));
            let stall = stall(&world, transfers);
            assert!(stall <= Duration::from_secs(3), "seed {seed}, {nat}: {stall:?}");
        }
    });
}

#[test]
fn both_roaming_at_once_heals_too() {
    for_seeds("both_roaming_at_once", 0..6, |seed| {
        let mut world = World::new(seed);
        let left = world.add_home("left", Nat::EimApdf);
        let right = world.add_home("right", Nat::EimApdf);
        let transfers = transfers(&mut world, left, right);
        for node in [left, right] {
            let site = world.add_site(SiteConfig::new(Nat::EimApdf));
            world.roam(node, site);
        }
        world.run_for(Duration::from_secs(20));
        let stall = stall(&world, transfers);
        assert!(stall <= Duration::from_secs(5), "seed {seed}: {stall:?}");
    });
}

#[test]
fn coming_home_to_the_lan_moves_the_path_there() {
    for_seeds("coming_home", 0..5, |seed| {
        let mut world = World::new(seed);
        let home = world.add_site(SiteConfig::new(Nat::EimApdf));
        let right = world.add_node("right", home);
        world.start_node(right);
        let left = world.add_home("left", Nat::Cgnat);
        let transfers = transfers(&mut world, left, right);
        world.roam(left, home);
        world.run_for(Duration::from_secs(20));
        let stall = stall(&world, transfers);
        assert!(stall <= Duration::from_secs(3), "seed {seed}: {stall:?}");
        let device = world.node(right).device();
        let path = world.node(left).mesh().peer(device).expect("known").path;
        assert!(
            matches!(path, warren_mesh::PathState::Direct { rank: warren_mesh::Rank::Lan, .. }),
            "{path:?}"
        );
    });
}
