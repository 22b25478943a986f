//! Pairs beyond the matrix: IPv6 behind firewalls, one family against two, neighbours behind one
//! NAT, one carrier.

use std::time::Duration;

use warren_mesh::{PathState, Rank};
use warren_sim::net::{Behaviour, Link, NatConfig};
use warren_sim::replay::for_seeds;
use warren_sim::{Families, Nat, NodeId, SiteConfig, World};

const EIM_APDF: NatConfig =
    NatConfig::new(Behaviour::EndpointIndependent, Behaviour::AddressAndPortDependent);

fn path(world: &World, node: NodeId, peer: NodeId) -> PathState {
    let device = world.node(peer).device();
    world.node(node).mesh().peer(device).expect("it is in the netmap").path
}

/// The paths of both ends after the first ping, and how long it took.
fn connect(world: &mut World, left: NodeId, right: NodeId) -> (Option<Duration>, [PathState; 2]) {
    world.run_for(Duration::from_secs(10));
    let time = world.ping_until_answered(left, right, Duration::from_secs(15));
    world.run_for(Duration::from_secs(2));
    (time, [path(world, left, right), path(world, right, left)])
}

fn two(world: &mut World, left: SiteConfig, right: SiteConfig) -> [NodeId; 2] {
    [("left", left), ("right", right)].map(|(name, config)| {
        let site = world.add_site(config);
        let node = world.add_node(name, site);
        world.start_node(node);
        node
    })
}

fn assert_direct(paths: [PathState; 2], mut fits: impl FnMut(std::net::SocketAddr, Rank) -> bool) {
    for path in paths {
        let PathState::Direct { path, rank } = path else { panic!("{path:?}") };
        assert!(fits(path.remote, rank), "{path:?} {rank:?}");
    }
}

#[test]
fn ipv6_behind_firewalls_on_both_sides_connects_where_ipv4_cannot() {
    for_seeds("ipv6_behind_firewalls", 0..5, |seed| {
        for families in [Families::V6, Families::Dual] {
            let mut world = World::new(seed);
            let config = SiteConfig { families, ..SiteConfig::new(Nat::Apdm) };
            let [left, right] = two(&mut world, config, config);
            let (time, paths) = connect(&mut world, left, right);
            assert!(time.expect("an answer") <= Duration::from_secs(1));
            assert_direct(paths, |remote, _| remote.is_ipv6());
        }
    });
}

#[test]
fn ipv4_alone_connects_with_dual_stack() {
    for_seeds("ipv4_alone", 0..5, |seed| {
        let mut world = World::new(seed);
        let v4 = SiteConfig::new(Nat::EimApdf);
        let dual = SiteConfig { families: Families::Dual, ..v4 };
        let [left, right] = two(&mut world, v4, dual);
        let (time, paths) = connect(&mut world, right, left);
        assert!(time.expect("an answer") <= Duration::from_secs(1));
        assert_direct(paths, |remote, _| remote.is_ipv4());
    });
}

#[test]
fn one_family_each_without_a_common_one_is_told_as_such() {
    let mut world = World::new(1);
    let v4 = SiteConfig::new(Nat::EimApdf);
    let v6 = SiteConfig { families: Families::V6, ..v4 };
    let [left, right] = two(&mut world, v4, v6);
    let (time, paths) = connect(&mut world, left, right);
    assert_eq!(time, None);
    assert!(paths.iter().all(|path| !matches!(path, PathState::Direct { .. })));
    let device = world.node(right).device();
    assert!(world.node(left).mesh().peer(device).expect("known").reason.is_some());
}

#[test]
fn two_devices_in_one_home_use_the_lan_with_and_without_hairpinning() {
    for_seeds("two_devices_in_one_home", 0..5, |seed| {
        for nat in [Nat::EimApdf, Nat::Apdm, Nat::Cgnat, Nat::UdpBlocked] {
            for hairpin in [false, true] {
                let mut world = World::new(seed);
                let config = NatConfig { hairpin, ..EIM_APDF };
                let site = SiteConfig { config: Some(config), ..SiteConfig::new(nat) };
                let site = world.add_site(site);
                let nodes = ["left", "right"].map(|name| world.add_node(name, site));
                nodes.iter().for_each(|node| world.start_node(*node));
                let (time, paths) = connect(&mut world, nodes[0], nodes[1]);
                assert!(time.expect("an answer") <= Duration::from_millis(700), "{nat} {time:?}");
                assert_direct(paths, |_, rank| rank == Rank::Lan);
            }
        }
    });
}

#[test]
fn two_homes_behind_one_carrier_connect_where_its_nat_hairpins() {
    for_seeds("two_homes_behind_one_carrier", 0..5, |seed| {
        for hairpin in [true, false] {
            let mut world = World::new(seed);
            let carrier_nat = NatConfig { hairpin, ..EIM_APDF };
            let carrier = world.sites.add_carrier(&mut world.network, carrier_nat, Link::LAN);
            let home = SiteConfig { carrier: Some(carrier), ..SiteConfig::new(Nat::EimApdf) };
            let [left, right] = two(&mut world, home, home);
            let (time, paths) = connect(&mut world, left, right);
            assert_eq!(time.is_some(), hairpin, "{paths:?}");
            if hairpin {
                assert_direct(paths, |_, _| true);
            }
        }
    });
}

#[test]
fn homes_with_the_same_addresses_do_not_mistake_each_other() {
    // Both devices are 192.168.1.10, and a third one at one home is 192.168.1.11 as well.
    for_seeds("homes_with_the_same_addresses", 0..5, |seed| {
        let mut world = World::new(seed);
        let homes = [(); 2].map(|()| world.add_site(SiteConfig::new(Nat::EimApdf)));
        let nodes = [0, 1, 1].map(|home: usize| {
            let node = world.add_node("twin", homes[home]);
            world.start_node(node);
            node
        });
        let (time, paths) = connect(&mut world, nodes[0], nodes[1]);
        assert!(time.expect("an answer") <= Duration::from_secs(1));
        assert_direct(paths, |_, rank| rank != Rank::Lan);
        let (time, paths) = connect(&mut world, nodes[1], nodes[2]);
        assert!(time.expect("an answer") <= Duration::from_secs(1));
        assert_direct(paths, |_, rank| rank == Rank::Lan);
    });
}

#[test]
fn a_phone_whose_carrier_uses_the_accounts_own_range_connects_all_the_same() {
    // The account has 100.90.0.0/16.
    for_seeds("a_phone_whose_carrier", 0..5, |seed| {
        for prefix in [[100, 64], [100, 90], [10, 0]] {
            let mut world = World::new(seed);
            let carrier = world.sites.add_carrier(&mut world.network, EIM_APDF, Link::ACCESS);
            let site = world.sites.add_in_carrier(carrier, prefix);
            let phone = world.add_node("phone", site);
            world.start_node(phone);
            let home = world.add_home("home", Nat::EimApdf);
            let (time, paths) = connect(&mut world, phone, home);
            let time = time.unwrap_or_else(|| panic!("{prefix:?}: never, {paths:?}"));
            assert!(time <= Duration::from_secs(1), "{prefix:?}: {time:?}");
            assert_direct(paths, |_, _| true);
        }
    });
}

#[test]
fn two_phones_in_one_carriers_network_use_it_where_it_lets_them() {
    for_seeds("two_phones", 0..5, |seed| {
        let mut world = World::new(seed);
        let carrier = world.sites.add_carrier(&mut world.network, EIM_APDF, Link::ACCESS);
        let site = world.sites.add_in_carrier(carrier, [100, 64]);
        let nodes = ["one", "two"].map(|name| world.add_node(name, site));
        nodes.iter().for_each(|node| world.start_node(*node));
        let (time, paths) = connect(&mut world, nodes[0], nodes[1]);
        assert!(time.expect("an answer") <= Duration::from_secs(1));
        assert_direct(paths, |remote, _| remote.to_string().starts_with("100.64."));
    });
}

#[test]
fn a_mapped_port_lets_those_in_who_map_per_destination() {
    for_seeds("a_mapped_port", 0..5, |seed| {
        for mapped in [false, true] {
            let mut world = World::new(seed);
            let site = world.add_site(SiteConfig::new(Nat::EimApdf));
            let left = world.add_node("left", site);
            world.start_node(left);
            let right = world.add_home("right", Nat::Apdm);
            if mapped {
                world.map_port(left, site, 7777);
            }
            for (from, to) in [(left, right), (right, left)] {
                let (time, paths) = connect(&mut world, from, to);
                assert_eq!(time.is_some_and(|t| t <= Duration::from_secs(1)), mapped, "{paths:?}");
            }
        }
    });
}
