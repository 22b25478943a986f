//! Who is in the mesh: approval, expiry and suspension, seen from the nodes.

use std::time::Duration;

use warren_coord::SettingsEdit;
use warren_proto::Admission;
use warren_sim::replay::for_seeds;
use warren_sim::{Nat, NodeId, SiteConfig, World};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn set(world: &mut World, edit: SettingsEdit) {
    world.decide(|account, ctx| account.prepare_settings(edit, ctx));
}

/// How many peers a node has, and what it knows of its own place.
fn place(world: &World, node: NodeId) -> (usize, Admission) {
    let map = world.node(node).daemon.as_ref().and_then(|daemon| daemon.mesh.netmap());
    let map = map.expect("it has a map");
    (map.peers.len(), map.this.admission)
}

fn assert_cut(world: &mut World, from: NodeId, to: NodeId) {
    let pings = [world.ping(from, to), world.ping(to, from)];
    world.run_for(5 * SECOND);
    assert!(pings.iter().all(|ping| world.ping_time(*ping).is_none()));
}

#[test]
fn a_device_that_waits_reaches_nobody_and_is_in_within_a_second_of_its_approval() {
    for_seeds("a_device_that_waits", 0..10, |seed| {
        let mut world = World::new(seed);
        let left = world.add_home("left", Nat::EimApdf);
        world.run_for(5 * SECOND);
        set(&mut world, SettingsEdit { device_approval: Some(true), ..Default::default() });
        let site = world.add_site(SiteConfig::new(Nat::EimApdf));
        let waiting = world.add_node("waiting", site);
        world.start_node(waiting);
        world.run_for(20 * SECOND);
        assert_eq!(place(&world, waiting), (0, Admission::Waiting));
        assert_eq!(place(&world, left), (0, Admission::Member));
        // A restart of either side changes nothing of that.
        world.kill_broker();
        world.run_for(5 * SECOND);
        world.restart_broker();
        world.run_for(70 * SECOND);
        assert_eq!(place(&world, waiting), (0, Admission::Waiting));

        let device = world.node(waiting).device();
        world.decide(|account, ctx| account.prepare_approve(device, ctx));
        world.run_for(SECOND);
        assert_eq!(place(&world, waiting), (1, Admission::Member));
        assert_eq!(place(&world, left), (1, Admission::Member));
        assert!(world.ping_until_answered(waiting, left, 5 * SECOND).is_some());
    });
}

#[test]
fn an_expired_device_is_out_at_once_and_back_when_it_is_renewed() {
    for_seeds("an_expired_device", 0..3, |seed| {
        let mut world = World::new(seed);
        set(&mut world, SettingsEdit { key_expiry_days: Some(Some(1)), ..Default::default() });
        let left = world.add_home("left", Nat::EimApdf);
        world.run_for(60 * SECOND);
        let right = world.add_home("right", Nat::EimApdf);
        world.run_for(5 * SECOND);
        assert!(world.ping_until_answered(left, right, 10 * SECOND).is_some());
        let end = |world: &World, node: NodeId| {
            let daemon = world.node(node).daemon.as_ref();
            let map = daemon.and_then(|daemon| daemon.mesh.netmap());
            Duration::from_secs(map.and_then(|map| map.this.expires_unix).expect("it will expire"))
        };
        let now = |world: &World| warren_sim::UNIX_START + world.elapsed();
        let rest = end(&world, left) - now(&world);
        assert!(rest < DAY);
        world.run_for(rest - SECOND);
        assert_eq!(place(&world, left), (1, Admission::Member));
        world.run_for(2 * SECOND);
        assert_eq!(place(&world, left), (0, Admission::Expired));
        assert_eq!(place(&world, right), (0, Admission::Member));
        assert_cut(&mut world, left, right);

        let (device, before) = (world.node(left).device(), world.node(left).registered.clone());
        world.decide(|account, ctx| account.prepare_renew(device, ctx));
        world.run_for(SECOND);
        assert_eq!(place(&world, left), (1, Admission::Member));
        assert!(world.ping_until_answered(left, right, 5 * SECOND).is_some());
        assert_eq!(world.node(left).registered, before, "it did not have to join again");
    });
}

#[test]
fn a_suspended_account_has_no_mesh_and_resumes_as_it_was() {
    for_seeds("a_suspended_account", 0..5, |seed| {
        let mut world = World::new(seed);
        let [left, right] = ["left", "right"].map(|name| world.add_home(name, Nat::EimApdf));
        world.run_for(5 * SECOND);
        assert!(world.ping_until_answered(left, right, 10 * SECOND).is_some());
        set(&mut world, SettingsEdit { suspended: Some(true), ..Default::default() });
        world.run_for(SECOND);
        for node in [left, right] {
            assert_eq!(place(&world, node), (0, Admission::Suspended));
        }
        assert_cut(&mut world, left, right);
        set(&mut world, SettingsEdit { suspended: Some(false), ..Default::default() });
        world.run_for(SECOND);
        assert!(world.ping_until_answered(left, right, 5 * SECOND).is_some());
    });
}
